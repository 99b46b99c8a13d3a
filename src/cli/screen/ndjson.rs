//! One event a line, as JSON, for programs. Every line parses, whatever the server sent.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::api::json;
use crate::cli::screen::lines;
use crate::cli::screen::sink::Sink;
use crate::cli::screen::{Remark, Renderer};

/// At most ten reports of the upload a second.
const BETWEEN: Duration = Duration::from_millis(100);

/// Deeper data is given as a string: many readers refuse more than 128 levels, and the line has some of its own.
const DEPTH: usize = 100;

#[derive(Serialize)]
struct JsonLine<'a, T> {
    event: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    data: T,
}

#[derive(Serialize)]
struct UploadData {
    bytes: u64,
    total: u64,
}

/// What the client says; a mere remark has a message alone.
#[derive(Serialize)]
struct ClientRemark<'a> {
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    level: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'a str>,
}

/// A screen of JSON lines.
pub(crate) struct Ndjson {
    sink: Sink,
    /// When the upload was reported last.
    reported: Option<Instant>,
    /// The newest state of the upload that was not reported yet.
    waiting: Option<(u64, u64)>,
}

impl Ndjson {
    pub(crate) fn new(sink: Sink) -> Ndjson {
        Ndjson {
            sink,
            reported: None,
            waiting: None,
        }
    }

    fn print<T: Serialize>(&mut self, event: &str, id: Option<&str>, data: T) {
        // Plain data cannot fail to be written.
        let Ok(line) = serde_json::to_string(&JsonLine { event, id, data }) else {
            return;
        };
        self.sink.push(&lines::json(&line));
        self.sink.push("\n");
    }

    fn report(&mut self, now: Instant, at_once: bool) {
        let due = self
            .reported
            .is_none_or(|reported| now.saturating_duration_since(reported) >= BETWEEN);
        if !due && !at_once {
            return;
        }
        if let Some((bytes, total)) = self.waiting.take() {
            self.reported = Some(now);
            self.print("upload", None, UploadData { bytes, total });
        }
    }
}

/// The data as JSON, if it is some that every reader takes.
fn json(data: &str) -> Option<Cow<'_, RawValue>> {
    let raw: &RawValue = json::from_text(data).ok()?;
    // A lone surrogate is valid in form, but no text, and strict readers refuse it.
    let escapes = data.contains("\\u");
    if escapes && json::from_text::<Value>(data).is_err() {
        return None;
    }
    let compact = compacted(raw.get())?;
    match compact {
        Cow::Borrowed(_) => Some(Cow::Borrowed(raw)),
        Cow::Owned(text) => RawValue::from_string(text).ok().map(Cow::Owned),
    }
}

/// The JSON without white space between its parts, and all else as it is; nothing if it is nested too deep.
fn compacted(json: &str) -> Option<Cow<'_, str>> {
    let mut out: Option<Vec<u8>> = None;
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for (place, byte) in json.bytes().enumerate() {
        let mut space = false;
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'{' | b'[' => {
                depth += 1;
                if depth > DEPTH {
                    return None;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b' ' | b'\t' | b'\r' | b'\n' => space = true,
            _ => {}
        }
        match &mut out {
            Some(out) if !space => out.push(byte),
            None if space => out = Some(json.as_bytes()[..place].to_vec()),
            _ => {}
        }
    }
    match out {
        // Only single bytes of ASCII were left out, so that it is still UTF-8.
        Some(out) => String::from_utf8(out).ok().map(Cow::Owned),
        None => Some(Cow::Borrowed(json)),
    }
}

impl Renderer for Ndjson {
    fn upload(&mut self, bytes: u64, total: u64, now: Instant) {
        self.waiting = Some((bytes, total));
        self.report(now, false);
    }

    fn uploaded(&mut self, bytes: u64, now: Instant) {
        self.waiting = Some((bytes, bytes));
        self.report(now, true);
    }

    fn record(&mut self, id: Option<&str>, event: &str, data: &str, now: Instant) {
        self.report(now, true);
        match json(data) {
            Some(raw) => self.print(event, id, &*raw),
            None => self.print(event, id, data),
        }
    }

    fn say(&mut self, said: Remark<'_>, message: &str, now: Instant) {
        self.report(now, true);
        let (level, code) = match said {
            Remark::Note => (None, None),
            Remark::Warning => (Some("warning"), None),
            Remark::Error(code) => (Some("error"), code),
        };
        self.print(
            "client",
            None,
            ClientRemark {
                message,
                level,
                code,
            },
        );
    }

    fn tick(&mut self, now: Instant) {
        self.report(now, false);
        self.sink.flush();
    }

    fn flush(&mut self, _now: Instant) {
        self.sink.flush();
    }

    fn finish(&mut self, now: Instant) {
        self.report(now, true);
        self.sink.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_passed_as_it_is_or_refused() {
        let deep = |levels| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        let (fits, too_deep) = (deep(DEPTH), deep(DEPTH + 1));
        let table = [
            (
                r#"{"b":1,"a":12345678901234567890123,"b":1e999}"#,
                Some(r#"{"b":1,"a":12345678901234567890123,"b":1e999}"#),
            ),
            (
                " {\n \"a b\" :\t[1, \"x \\\" y\"]\r}\n",
                Some(r#"{"a b":[1,"x \" y"]}"#),
            ),
            (r#""\\" "#, Some(r#""\\""#)),
            ("{\n\"gr\u{fc}n\": 1}", Some("{\"gr\u{fc}n\":1}")),
            ("null", Some("null")),
            (r#""\u00e4\ud83d\ude00""#, Some(r#""\u00e4\ud83d\ude00""#)),
            (r#""\ud83d""#, None),
            ("", None),
            ("text", None),
            ("{} {}", None),
            ("\"\x1b\"", None),
            (&fits, Some(&fits)),
            (&too_deep, None),
        ];
        for (data, expected) in table {
            assert_eq!(
                json(data).as_deref().map(RawValue::get),
                expected,
                "{data:?}"
            );
        }
    }
}
