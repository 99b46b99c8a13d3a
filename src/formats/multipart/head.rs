//! The small texts of a multipart body: the Content-Type that names the boundary, and the heads of parts.

use crate::api::error::{Code, Refusal};

/// The longest boundary that RFC 2046 allows.
pub(super) const BOUNDARY_LEN_MAX: usize = 70;

/// The boundary that a Content-Type names.
///
/// # Errors
/// `unsupported_media` if it is not a multipart form, `bad_request` if its boundary is missing or not valid.
pub fn boundary(content_type: &str) -> Result<String, Refusal> {
    let refused = |why: &str| {
        Refusal::new(
            Code::BadRequest,
            format!("reading the form: its Content-Type {why}"),
        )
    };
    let (media, rest) = content_type.split_once(';').unwrap_or((content_type, ""));
    if !media.trim().eq_ignore_ascii_case("multipart/form-data") {
        return Err(Refusal::new(
            Code::UnsupportedMedia,
            "reading the form: its Content-Type is not multipart/form-data",
        ));
    }
    let parameters = parameters(rest.as_bytes()).ok_or_else(|| refused("is malformed"))?;
    let boundary = single(&parameters, "boundary")
        .map_err(|_| refused("names two boundaries"))?
        .ok_or_else(|| refused("has no boundary"))?;
    if boundary.is_empty() {
        return Err(refused("has an empty boundary"));
    }
    if boundary.len() > BOUNDARY_LEN_MAX {
        return Err(refused(&format!(
            "has a boundary longer than {BOUNDARY_LEN_MAX} characters"
        )));
    }
    match std::str::from_utf8(boundary) {
        Ok(text) if boundary.iter().all(in_boundary) && !text.ends_with(' ') => Ok(text.to_owned()),
        _ => Err(refused(
            "has a boundary with characters that RFC 2046 forbids",
        )),
    }
}

fn in_boundary(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(byte)
}

/// What the head of a part says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PartHead {
    /// The field's name.
    pub(crate) name: String,
    /// Whether there is a filename, which makes it a file.
    pub(crate) is_file: bool,
}

impl PartHead {
    /// Reads the lines of a head. Whatever leaves a doubt about what the part is gets refused.
    pub(crate) fn parse(head: &[u8]) -> Result<PartHead, Refusal> {
        let refused = |why: String| {
            Refusal::new(
                Code::BadRequest,
                format!("reading the form: a broken part head: {why}"),
            )
        };
        let mut disposition = None;
        for line in lines(head) {
            let line_shown = || shown(&String::from_utf8_lossy(line));
            let colon = line.iter().position(|byte| *byte == b':');
            let Some((name, value)) = colon.map(|at| (&line[..at], &line[at + 1..])) else {
                return Err(refused(format!("no colon in {}", line_shown())));
            };
            // A folded line begins with a blank and is refused here too.
            if name.is_empty() || !name.iter().all(u8::is_ascii_graphic) {
                return Err(refused(format!("no field name in {}", line_shown())));
            }
            if line
                .iter()
                .any(|byte| byte.is_ascii_control() && *byte != b'\t')
            {
                return Err(refused(format!("a control character in {}", line_shown())));
            }
            if name.eq_ignore_ascii_case(b"content-disposition")
                && disposition.replace(value.trim_ascii()).is_some()
            {
                return Err(refused("two Content-Dispositions".into()));
            }
            if name.eq_ignore_ascii_case(b"content-transfer-encoding")
                && !["binary", "8bit", "7bit"]
                    .iter()
                    .any(|known| value.trim_ascii().eq_ignore_ascii_case(known.as_bytes()))
            {
                return Err(refused(format!(
                    "a part must come unencoded, not with {}",
                    line_shown()
                )));
            }
        }
        let disposition = disposition.ok_or_else(|| refused("no Content-Disposition".into()))?;
        let semicolon = disposition.iter().position(|byte| *byte == b';');
        let (kind, rest) = disposition.split_at(semicolon.unwrap_or(disposition.len()));
        if !kind.trim_ascii().eq_ignore_ascii_case(b"form-data") {
            return Err(refused("its Content-Disposition is not form-data".into()));
        }
        let parameters = parameters(rest.strip_prefix(b";").unwrap_or(rest))
            .ok_or_else(|| refused("its Content-Disposition cannot be parsed".into()))?;
        let name = match single(&parameters, "name") {
            Ok(Some(name)) if !name.is_empty() => name,
            Ok(_) => return Err(refused("a part without a name".into())),
            Err(()) => return Err(refused("a part with two names".into())),
        };
        let name = String::from_utf8(decoded(name))
            .map_err(|_| refused("a name that is not UTF-8".into()))?;
        let is_file = parameters
            .iter()
            .any(|(name, _)| name == "filename" || name == "filename*");
        Ok(PartHead { name, is_file })
    }
}

/// A text of the client as it may stand in a message: quoted, escaped and short.
pub(crate) fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(80).collect::<String>())
}

/// The lines of a head, which begins with the line end of the boundary.
fn lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = head.strip_prefix(b"\r\n").unwrap_or(head);
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = memchr::memmem::find(rest, b"\r\n");
        let line = &rest[..end.unwrap_or(rest.len())];
        rest = &rest[end.map_or(rest.len(), |end| end + 2)..];
        Some(line)
    })
}

/// `name=value; name="quoted value"`, the names in lower case. None if it cannot be parsed.
fn parameters(mut rest: &[u8]) -> Option<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    loop {
        rest = rest.trim_ascii_start();
        if rest.is_empty() {
            return Some(found);
        }
        if let Some(behind) = rest.strip_prefix(b";") {
            rest = behind;
            continue;
        }
        let equals = rest.iter().position(|byte| matches!(byte, b'=' | b';'))?;
        let name = rest[..equals].trim_ascii_end();
        if rest[equals] != b'=' || name.is_empty() || !name.iter().all(u8::is_ascii_graphic) {
            return None;
        }
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        rest = rest[equals + 1..].trim_ascii_start();
        let value;
        if let Some(quoted) = rest.strip_prefix(b"\"") {
            (value, rest) = unquoted(quoted)?;
            rest = rest.trim_ascii_start();
            if !rest.is_empty() && !rest.starts_with(b";") {
                return None;
            }
        } else {
            // Many clients leave the quotes away where they should not, so everything up to the semicolon counts.
            let end = rest.iter().position(|byte| *byte == b';');
            let (text, behind) = rest.split_at(end.unwrap_or(rest.len()));
            value = text.trim_ascii_end().to_vec();
            rest = behind;
        }
        found.push((name, value));
    }
}

/// Reads a quoted text behind its opening quote: what it says, and what follows its closing quote. A backslash escapes
/// a quote and itself, as curl writes it, and is a backslash elsewhere, as browsers write it.
fn unquoted(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut value = Vec::new();
    let mut at = 0;
    loop {
        match text[at..] {
            [b'"', ..] => return Some((value, &text[at + 1..])),
            [b'\\', escaped @ (b'"' | b'\\'), ..] => {
                value.push(escaped);
                at += 2;
            }
            [byte, ..] => {
                value.push(byte);
                at += 1;
            }
            [] => return None,
        }
    }
}

/// The one value of a parameter. A second one would be read by others.
fn single<'a>(parameters: &'a [(String, Vec<u8>)], name: &str) -> Result<Option<&'a [u8]>, ()> {
    let mut values = parameters.iter().filter(|(found, _)| found == name);
    let value = values.next().map(|(_, value)| value.as_slice());
    match values.next() {
        Some(_) => Err(()),
        None => Ok(value),
    }
}

/// Undoes what browsers escape in names: quote, CR and LF, and nothing else.
fn decoded(name: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(name.len());
    let mut at = 0;
    while at < name.len() {
        let escaped = match name.get(at..at + 3) {
            Some(b"%22") => Some(b'"'),
            Some(b"%0D" | b"%0d") => Some(b'\r'),
            Some(b"%0A" | b"%0a") => Some(b'\n'),
            _ => None,
        };
        text.push(escaped.unwrap_or(name[at]));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boundaries() {
        let longest = "x".repeat(70);
        let longest_type = format!("multipart/form-data; boundary={longest}");
        let table = [
            ("multipart/form-data; boundary=abc", "abc"),
            ("Multipart/Form-Data;BOUNDARY=abc", "abc"),
            (
                "multipart/form-data; charset=utf-8; Boundary=\"a b:c\" ; x=y",
                "a b:c",
            ),
            (
                "multipart/form-data; boundary=----HarperMultipart7f3a",
                "----HarperMultipart7f3a",
            ),
            ("multipart/form-data; boundary=a/b=c", "a/b=c"),
            (&longest_type, &longest),
        ];
        for (content_type, expected) in table {
            assert_eq!(
                boundary(content_type).as_deref(),
                Ok(expected),
                "{content_type}"
            );
        }
    }

    #[test]
    fn refused_content_types() {
        let too_long = format!("multipart/form-data; boundary={}", "x".repeat(71));
        let table = [
            (
                "application/json",
                Code::UnsupportedMedia,
                "not multipart/form-data",
            ),
            (
                "multipart/mixed; boundary=x",
                Code::UnsupportedMedia,
                "not multipart/form-data",
            ),
            ("multipart/form-data", Code::BadRequest, "no boundary"),
            (
                "multipart/form-data; charset=utf-8",
                Code::BadRequest,
                "no boundary",
            ),
            (
                "multipart/form-data; boundary=",
                Code::BadRequest,
                "empty boundary",
            ),
            (
                "multipart/form-data; boundary=\"\"",
                Code::BadRequest,
                "empty boundary",
            ),
            (
                "multipart/form-data; boundary=a; boundary=b",
                Code::BadRequest,
                "two boundaries",
            ),
            (
                "multipart/form-data; boundary=\"a",
                Code::BadRequest,
                "malformed",
            ),
            (
                "multipart/form-data; boundary=\"a\"b",
                Code::BadRequest,
                "malformed",
            ),
            (
                "multipart/form-data; boundary",
                Code::BadRequest,
                "malformed",
            ),
            (
                "multipart/form-data; boundary=a{b",
                Code::BadRequest,
                "forbids",
            ),
            (
                "multipart/form-data; boundary=\"a \"",
                Code::BadRequest,
                "forbids",
            ),
            (
                "multipart/form-data; boundary=\"a\r\n\"",
                Code::BadRequest,
                "forbids",
            ),
            (
                "multipart/form-data; boundary=ä",
                Code::BadRequest,
                "forbids",
            ),
            (&too_long, Code::BadRequest, "longer than 70"),
        ];
        for (content_type, code, part) in table {
            let refusal = boundary(content_type).unwrap_err();
            assert_eq!(refusal.code, code, "{content_type}");
            assert!(refusal.message.contains(part), "{content_type}: {refusal}");
        }
    }

    #[test]
    fn heads() {
        let table: &[(&[u8], &str, bool)] = &[
            (b"Content-Disposition: form-data; name=\"a\"", "a", false),
            (b"content-disposition:FORM-DATA;NAME=a", "a", false),
            (
                b"\r\nContent-Disposition: form-data; name=\"a;b=c\"",
                "a;b=c",
                false,
            ),
            (
                b"Content-Type: x/y\r\nContent-Disposition: form-data; name=a; filename=\"\"",
                "a",
                true,
            ),
            (
                b"Content-Disposition: form-data; name=a; filename*=UTF-8''x",
                "a",
                true,
            ),
            (
                b"Content-Disposition: form-data; filename=\"\xff\"; name=a",
                "a",
                true,
            ),
            (
                b"Content-Disposition: form-data; name=\"say %22hi%22%0d%0A 100%25\"",
                "say \"hi\"\r\n 100%25",
                false,
            ),
            (
                b"Content-Disposition: form-data; name=\"say \\\"hi\\\" \\\\ \\x\"",
                "say \"hi\" \\ \\x",
                false,
            ),
            (
                "Content-Disposition: form-data; name=\"größe\"".as_bytes(),
                "größe",
                false,
            ),
            (
                b"Content-Disposition: form-data; name=a\r\nContent-Transfer-Encoding: BINARY",
                "a",
                false,
            ),
        ];
        for (head, name, is_file) in table {
            let expected = PartHead {
                name: (*name).into(),
                is_file: *is_file,
            };
            assert_eq!(
                PartHead::parse(head),
                Ok(expected),
                "{}",
                head.escape_ascii()
            );
        }
    }

    #[test]
    fn refused_heads() {
        let table: &[(&[u8], &str)] = &[
            (b"", "no Content-Disposition"),
            (b"\r\n", "no Content-Disposition"),
            (b"Content-Type: text/plain", "no Content-Disposition"),
            (
                b"Content-Disposition: form-data; name=a\r\nnonsense",
                "no colon in \"nonsense\"",
            ),
            (
                b"Content-Disposition: form-data;\r\n name=a: b",
                "no field name",
            ),
            (b": x", "no field name"),
            (b"Content-Disposition : form-data; name=a", "no field name"),
            (
                b"Content-Disposition: form-data; name=\"a\nb\"",
                "control character",
            ),
            (
                b"Content-Disposition: form-data; name=\"a\0\"",
                "control character",
            ),
            (
                b"Content-Disposition: form-data; name=a\r\nContent-Disposition: form-data; name=b",
                "two Content-Disp",
            ),
            (b"Content-Disposition: attachment; name=a", "not form-data"),
            (b"Content-Disposition: form-data", "without a name"),
            (
                b"Content-Disposition: form-data; name=\"\"",
                "without a name",
            ),
            (
                b"Content-Disposition: form-data; filename=x",
                "without a name",
            ),
            (
                b"Content-Disposition: form-data; name=a; name=b",
                "two names",
            ),
            (
                b"Content-Disposition: form-data; name=\"a",
                "cannot be parsed",
            ),
            (b"Content-Disposition: form-data; name", "cannot be parsed"),
            (
                b"Content-Disposition: form-data; name=\"a\"b",
                "cannot be parsed",
            ),
            (
                b"Content-Disposition: form-data; name=\"\xff\"",
                "not UTF-8",
            ),
            (
                b"Content-Disposition: form-data; name=a\r\nContent-Transfer-Encoding: base64",
                "unencoded",
            ),
        ];
        for (head, part) in table {
            let refusal = PartHead::parse(head).unwrap_err();
            assert_eq!(refusal.code, Code::BadRequest);
            assert!(
                refusal.message.contains(part),
                "{}: {refusal}",
                head.escape_ascii()
            );
        }
    }
}
