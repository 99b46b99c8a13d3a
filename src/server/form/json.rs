//! A body of JSON: it costs the bytes that it has and little more, whatever is in them.
//!
//! First its depth is looked at, then it is cut into the members of its one object, and only those that an operation knows
//! are read. A payload stays where it is in the body.

use std::cell::RefCell;
use std::fmt;
use std::io::Read;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::api::error::{Code, Refusal};
use crate::api::json;
use crate::api::operation::{self, Fields};
use crate::server::form::{Base64Text, RequestBody, bad, check_name, with_base64};
use crate::server::members::ObjectMembers;

/// How much is read before the operation's name is looked for, and all that a request without a payload needs.
const SMALL_BYTES: u64 = 64 << 10;
/// More fields than any operation has; as many as a form may have.
const FIELDS_MAX: usize = 64;
/// The longest text of a field but the payload; as long as in a form.
const FIELD_LEN_MAX: usize = 1 << 20;
/// The longest list or object of a field: in memory it has ten times as many bytes.
const NESTED_LEN_MAX: usize = 256 << 10;
/// The deepest list or object; no field has more than two.
const DEPTH_MAX: usize = 16;

/// How a body is to be read.
pub(super) struct JsonBody {
    pub(super) max: u64,
    pub(super) declared: Option<u64>,
    /// It comes from somebody who may ask for nothing that is large.
    pub(super) small: bool,
}

pub(super) fn too_large(max: u64) -> Refusal {
    let why = format!(
        "reading the body: JSON over {max} bytes; send the payload as multipart/form-data instead"
    );
    Refusal::new(Code::TooLarge, why)
}

impl JsonBody {
    pub(super) fn read<'a>(
        &self,
        body: &mut dyn Read,
        admit: &mut dyn FnMut(&str) -> Result<(), Refusal>,
    ) -> Result<RequestBody<'a>, Refusal> {
        let mut text = Vec::new();
        let mut read = |text: &mut Vec<u8>, most: u64| {
            let read = body.take(most).read_to_end(text);
            read.map(drop).map_err(|error| {
                Refusal::new(Code::UploadBroken, format!("reading the body: {error}"))
            })
        };
        read(&mut text, SMALL_BYTES.min(self.max) + 1)?;
        if text.len() as u64 > SMALL_BYTES.min(self.max) {
            if let Some(name) = peek(&text) {
                admit(&name)?;
            }
            if self.small {
                let why = format!(
                    "reading the body: JSON over {SMALL_BYTES} bytes, by a token that may only look"
                );
                return Err(Refusal::new(Code::TooLarge, why));
            }
            // At once where it is known, since a vector that grows has twice as much for a moment.
            let rest = self.declared.unwrap_or(0).saturating_sub(text.len() as u64);
            text.reserve_exact(usize::try_from(rest.min(self.max)).unwrap_or(0));
            let most = self.max.saturating_add(1).saturating_sub(text.len() as u64);
            read(&mut text, most)?;
        }
        if text.len() as u64 > self.max {
            return Err(too_large(self.max));
        }
        parse(text, admit)
    }
}

fn parse<'a>(
    text: Vec<u8>,
    admit: &mut dyn FnMut(&str) -> Result<(), Refusal>,
) -> Result<RequestBody<'a>, Refusal> {
    let start = if text.starts_with(b"\xef\xbb\xbf") {
        3
    } else {
        0
    };
    let plain = &text[start..];
    if is_deep(plain) {
        let why = format!("reading the body: JSON with more than {DEPTH_MAX} levels");
        return Err(bad(why));
    }
    let broken = |error: serde_json::Error| {
        bad(format!(
            "Body is not valid JSON but content-type is set to 'application/json': {error}"
        ))
    };
    if plain.trim_ascii_start().first() != Some(&b'{') {
        // A list or a number is JSON, and no request.
        serde_json::from_slice::<IgnoredAny>(plain).map_err(broken)?;
        return Err(bad("Invalid JSON."));
    }
    let ObjectMembers(members) = serde_json::from_slice(plain).map_err(broken)?;
    if members.is_empty() {
        return Err(bad("Invalid JSON."));
    }
    if members.len() > FIELDS_MAX {
        let why = format!("reading the body: more than {FIELDS_MAX} fields");
        return Err(Refusal::new(Code::TooLarge, why));
    }
    let mut fields = Fields::new();
    let mut payload = None;
    for (name, value) in members {
        check_name(&name)?;
        if name == "payload" {
            payload = Some(value);
        } else if operation::is_known(&name) {
            fields.insert(name.to_string(), field(&name, value)?);
        } else {
            fields.insert(name.chars().take(100).collect(), Value::Null);
        }
    }
    if let Some(Value::String(name)) = fields.get("operation") {
        admit(name)?;
    }
    let place = payload.map(|raw| place(&text, raw)).transpose()?.flatten();
    let payload = place.map(|place| match place {
        Place::Within(begin, end) => Base64Text::part(text, begin, end),
        Place::Apart(plain) => Base64Text::whole(plain.into_bytes()),
    });
    Ok(with_base64(fields, payload))
}

/// A field that an operation knows, within its bounds.
fn field(name: &str, value: &RawValue) -> Result<Value, Refusal> {
    let text = value.get();
    let most = match text.as_bytes().first() {
        Some(b'[' | b'{') => NESTED_LEN_MAX,
        _ => FIELD_LEN_MAX,
    };
    if text.len() > most {
        let why = format!("reading the body: the field '{name}' is over {most} bytes");
        return Err(Refusal::new(Code::TooLarge, why));
    }
    json::from_text(text)
        .map_err(|error| bad(format!("reading the body: the field '{name}': {error}")))
}

/// Where the text of a payload is.
enum Place {
    /// In the body, from here to there.
    Within(usize, usize),
    /// It has escapes, and is here without them.
    Apart(String),
}

/// Where the payload is; nowhere if it is `null`.
fn place(text: &[u8], payload: &RawValue) -> Result<Option<Place>, Refusal> {
    let raw = payload.get();
    let inner = match raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"')) {
        Some(inner) => inner,
        None if raw == "null" => return Ok(None),
        None => return Err(bad("'payload' must be a base64 string")),
    };
    if inner.contains('\\') {
        let plain = json::from_text(raw);
        let plain = plain.map_err(|error| bad(format!("reading the payload: {error}")))?;
        return Ok(Some(Place::Apart(plain)));
    }
    // It was cut out of this very text.
    let begin = inner.as_ptr() as usize - text.as_ptr() as usize;
    Ok(Some(Place::Within(begin, begin + inner.len())))
}

/// Whether there are lists and objects within one another beyond what any request has.
fn is_deep(text: &[u8]) -> bool {
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'[' | b'{' if !quoted => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return true;
                }
            }
            b']' | b'}' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// The operation's name, if it is in the beginning of a body.
fn peek(text: &[u8]) -> Option<String> {
    struct PeekedName<'a>(&'a RefCell<Option<String>>);

    impl<'de> DeserializeSeed<'de> for PeekedName<'_> {
        type Value = ();

        fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
            deserializer.deserialize_map(self)
        }
    }

    impl<'de> Visitor<'de> for PeekedName<'_> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
            while let Some(name) = map.next_key::<String>()? {
                if name == "operation" {
                    *self.0.borrow_mut() = Some(map.next_value()?);
                    // The rest is of no use here.
                    return Err(A::Error::custom("found"));
                }
                map.next_value::<IgnoredAny>()?;
            }
            Ok(())
        }
    }

    let found = RefCell::new(None);
    // It ends in the middle, which is an error.
    let _ = PeekedName(&found).deserialize(&mut serde_json::Deserializer::from_slice(text));
    found.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, max: u64, small: bool) -> Result<(Fields, Option<Vec<u8>>), Refusal> {
        let body = JsonBody {
            max,
            declared: None,
            small,
        };
        let mut admit = |name: &str| match name {
            "forbidden" => Err(Refusal::new(Code::Forbidden, "not you")),
            _ => Ok(()),
        };
        let read = body.read(&mut text.as_bytes(), &mut admit)?;
        let payload = read.payload.map(|source| {
            let mut bytes = Vec::new();
            let (_stopper, stop) = crate::system::stop::pair().unwrap();
            let mut source = crate::server::form::Bytes::new(source, stop);
            source.read_to_end(&mut bytes).unwrap();
            bytes
        });
        Ok((read.fields, payload))
    }

    #[test]
    fn fields_and_payload_are_read() {
        let table = [
            (r#"{"operation":"x","payload":"aGVsbG8="}"#, Some("hello")),
            (
                r#"{"payload":"aGVs\nbG8=\n","operation":"x"}"#,
                Some("hello"),
            ),
            (
                r#"{"payload":"aGVsbG8\u003d","operation":"x"}"#,
                Some("hello"),
            ),
            (r#"{"operation":"x","payload":null}"#, None),
            (r#"{"operation":"x","unknown":{"a":[1,{}]}}"#, None),
            ("\u{feff} {\"operation\":\"x\"}", None),
        ];
        for (text, payload) in table {
            let (fields, found) = read(text, 1000, false).unwrap();
            assert_eq!(fields["operation"], "x", "{text}");
            assert!(fields.get("unknown").is_none_or(Value::is_null), "{text}");
            assert_eq!(found.as_deref(), payload.map(str::as_bytes), "{text}");
        }
    }

    #[test]
    fn what_is_out_of_bounds_is_refused() {
        let deep = format!(r#"{{"a":{}{}}}"#, "[".repeat(16), "]".repeat(16));
        let wide: String = (0..65).map(|n| format!(r#""f{n}":1,"#)).collect();
        let wide = format!("{{{wide}\"operation\":\"x\"}}");
        let long = format!(r#"{{"install_command":"{}"}}"#, "x".repeat(2 << 20));
        let nested = format!(r#"{{"project":[{}1]}}"#, "1,".repeat(200 << 10));
        let early = format!(
            r#"{{"operation":"forbidden","payload":"{}"#,
            "A".repeat(100 << 10)
        );
        let large = format!(r#"{{"payload":"{}"}}"#, "A".repeat(100 << 10));
        let table = [
            ("{", false, Code::BadRequest, "not valid JSON"),
            ("[]", false, Code::BadRequest, "Invalid JSON."),
            ("7", false, Code::BadRequest, "Invalid JSON."),
            ("{}", false, Code::BadRequest, "Invalid JSON."),
            (
                r#"{"__proto__":1}"#,
                false,
                Code::BadRequest,
                "'__proto__' is not allowed",
            ),
            (r#"{"payload":7}"#, false, Code::BadRequest, "'payload'"),
            (
                r#"{"operation":"forbidden"}"#,
                false,
                Code::Forbidden,
                "not you",
            ),
            (&deep, false, Code::BadRequest, "16 levels"),
            (&wide, false, Code::TooLarge, "64 fields"),
            (&long, false, Code::TooLarge, "'install_command'"),
            (&nested, false, Code::TooLarge, "'project'"),
            // Before the rest is read, which is broken.
            (&early, false, Code::Forbidden, "not you"),
            (&large, true, Code::TooLarge, "may only look"),
        ];
        for (text, small, code, part) in table {
            let start: String = text.chars().take(60).collect();
            let refusal = read(text, 8 << 20, small).expect_err(&start);
            assert_eq!(refusal.code, code, "{start}: {}", refusal.message);
            assert!(
                refusal.message.contains(part),
                "{start}: {}",
                refusal.message
            );
        }
        let over = read(&large, 1000, false).unwrap_err();
        assert!(over.message.contains("multipart"), "{}", over.message);
        assert!(read(&large, 8 << 20, false).is_ok());
    }

    #[test]
    fn brackets_in_texts_are_no_depth() {
        let text = format!(
            r#"{{"a":"{}\\","b":"\"{}"}}"#,
            "[".repeat(40),
            "{".repeat(40)
        );
        assert!(!is_deep(text.as_bytes()));
    }
}
