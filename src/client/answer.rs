//! What an answer means: a result, or a failure with the exit code that it gives the CLI.
//!
//! Our own refusals are JSON with `error` and `code`; Harper's have an `error` alone, or a number as the code. What is
//! neither comes from something that answered in the server's place, and is shown as it is.

use serde_json::Value;

use crate::api::error::{Code, Exit};

/// A whole answer that is no event stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlainAnswer {
    /// The HTTP status.
    pub status: u16,
    /// The content type in lower case, without its parameters; empty if there is none.
    pub content_type: String,
    /// Where a redirect points.
    pub location: Option<String>,
    /// The body.
    pub body: Vec<u8>,
}

/// Why there is no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoResult {
    /// The reason, for people.
    pub message: String,
    /// The reason, for machines.
    pub code: Option<String>,
    /// How the CLI ends.
    pub exit: Exit,
    /// The deployment that it is about.
    pub deployment_id: Option<String>,
}

impl NoResult {
    /// A failure that only this side knows of.
    pub fn new(exit: Exit, message: impl Into<String>) -> NoResult {
        NoResult {
            message: message.into(),
            code: None,
            exit,
            deployment_id: None,
        }
    }
}

/// How much of a foreign answer is shown, in characters: a title and the first sentence.
const SHOWN_MAX: usize = 200;

impl PlainAnswer {
    /// The result, if the answer is a success.
    ///
    /// # Errors
    /// A refusal by the server, or an answer of something else.
    pub fn judge(&self) -> Result<Value, NoResult> {
        let success = (200..300).contains(&self.status);
        if success && self.body.is_empty() {
            return Ok(Value::Null);
        }
        if success && self.content_type == "text/plain" {
            return Ok(Value::from(String::from_utf8_lossy(&self.body)));
        }
        if success && self.content_type == "application/octet-stream" {
            let message = format!("the answer is {} bytes, not text", self.body.len());
            return Err(NoResult::new(Exit::Usage, message));
        }
        match serde_json::from_slice::<Value>(&self.body) {
            Ok(value) if success => Ok(value),
            Ok(Value::Object(map)) if map.contains_key("error") => Err(self.refused(&map)),
            _ => Err(self.foreign()),
        }
    }

    fn refused(&self, map: &serde_json::Map<String, Value>) -> NoResult {
        let code = map.get("code").and_then(Value::as_str);
        NoResult {
            message: text_of(map.get("error")),
            code: code.map(str::to_owned),
            exit: exit_of(map.get("code"), Some(self.status)),
            deployment_id: id_of(map),
        }
    }

    fn foreign(&self) -> NoResult {
        let reason = ureq::http::StatusCode::from_u16(self.status)
            .ok()
            .and_then(|status| status.canonical_reason())
            .unwrap_or_default();
        let mut message = format!("{} {reason}", self.status).trim_end().to_owned();
        if let Some(location) = &self.location {
            message += &format!(", to {}", plain(location));
        }
        let body = plain(&String::from_utf8_lossy(&self.body));
        message += ", which is no answer of a gangplank server";
        if !body.is_empty() {
            message += &format!(": {body}");
        }
        NoResult::new(Exit::Unreachable, message)
    }
}

/// The result of a `done` event.
pub fn done(data: &str) -> Value {
    match serde_json::from_str(data) {
        Ok(Value::Object(mut map)) => map.remove("result").unwrap_or(Value::Object(map)),
        Ok(value) => value,
        Err(_) => Value::from(data),
    }
}

/// The failure of an `error` event, in a stream whose head had this status.
pub fn failed(data: &str, status: u16) -> NoResult {
    let Ok(Value::Object(map)) = serde_json::from_str(data) else {
        return NoResult::new(exit_of(None, Some(status)), data);
    };
    let code = match map.get("code") {
        Some(Value::String(code)) => Some(code.clone()),
        Some(Value::Number(code)) => Some(code.to_string()),
        _ => None,
    };
    NoResult {
        message: text_of(map.get("message").or(map.get("error"))),
        code,
        exit: exit_of(map.get("code"), Some(status)),
        deployment_id: id_of(&map),
    }
}

/// The failure of a stream that ended without a terminal event.
pub fn cut(status: u16, deployment_id: Option<String>) -> NoResult {
    let mut failed = if (200..300).contains(&status) {
        NoResult::new(Exit::Unknown, "the stream ended without a result")
    } else {
        let message = format!("the server answered {status} and gave no reason");
        NoResult::new(by_status(status), message)
    };
    failed.deployment_id = deployment_id;
    failed
}

/// The id in a `deployment` event.
pub fn deployment_id(data: &str) -> Option<String> {
    match serde_json::from_str(data) {
        Ok(Value::Object(map)) => id_of(&map),
        _ => None,
    }
}

fn id_of(map: &serde_json::Map<String, Value>) -> Option<String> {
    map.get("deployment_id")?.as_str().map(str::to_owned)
}

fn text_of(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => "no reason given".into(),
    }
}

/// A word that we know decides; then a number, which is Harper's; then the status.
fn exit_of(code: Option<&Value>, status: Option<u16>) -> Exit {
    match code {
        Some(Value::String(word)) => match Code::parse(word) {
            Some(code) => code.exit(),
            None => status.map_or(Exit::Refused, by_status),
        },
        Some(Value::Number(number)) => {
            let number = number
                .as_u64()
                .and_then(|number| u16::try_from(number).ok());
            number.map_or(Exit::Refused, by_status)
        }
        _ => status.map_or(Exit::Refused, by_status),
    }
}

const fn by_status(status: u16) -> Exit {
    match status {
        401 | 403 | 429 => Exit::Unauthorized,
        _ => Exit::Refused,
    }
}

/// The beginning of a foreign text on one line.
fn plain(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    let text = words.join(" ");
    text.chars().take(SHOWN_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn answer(status: u16, content_type: &str, body: &str) -> PlainAnswer {
        PlainAnswer {
            status,
            content_type: content_type.into(),
            location: None,
            body: body.into(),
        }
    }

    #[test]
    fn answers_decide_the_exit() {
        let json = "application/json";
        let table = [
            (
                answer(401, json, r#"{"error":"Must login"}"#),
                Exit::Unauthorized,
            ),
            (
                answer(403, json, r#"{"error":"x","code":"forbidden"}"#),
                Exit::Unauthorized,
            ),
            (answer(429, json, r#"{"error":"x"}"#), Exit::Unauthorized),
            (
                answer(409, json, r#"{"error":"x","code":"busy"}"#),
                Exit::Busy,
            ),
            (
                answer(409, json, r#"{"error":"x","code":"conflict"}"#),
                Exit::Refused,
            ),
            (answer(409, json, r#"{"error":"x"}"#), Exit::Refused),
            (
                answer(503, json, r#"{"error":"x","code":"stopping"}"#),
                Exit::Busy,
            ),
            (answer(503, json, r#"{"error":"x"}"#), Exit::Refused),
            (
                answer(500, json, r#"{"error":{"a":1},"code":500}"#),
                Exit::Refused,
            ),
            (
                answer(400, json, r#"{"error":"x","code":"news"}"#),
                Exit::Refused,
            ),
            (
                answer(413, "", r#"{"error":"x","code":"too_large"}"#),
                Exit::Refused,
            ),
            (answer(502, "text/html", "<h1>Bad</h1>"), Exit::Unreachable),
            (answer(502, json, r#"{"message":"x"}"#), Exit::Unreachable),
            (answer(404, json, "[]"), Exit::Unreachable),
            (
                answer(200, "text/html", "<h1>Welcome</h1>"),
                Exit::Unreachable,
            ),
            (answer(301, "", ""), Exit::Unreachable),
            (
                answer(200, "application/octet-stream", "\u{1}"),
                Exit::Usage,
            ),
        ];
        for (answer, exit) in table {
            assert_eq!(answer.judge().unwrap_err().exit, exit, "{answer:?}");
        }
    }

    #[test]
    fn successes_give_their_result() {
        let table = [
            (
                answer(200, "application/json", r#"{"a":1}"#),
                json!({"a": 1}),
            ),
            (answer(201, "", "[1]"), json!([1])),
            (answer(200, "text/plain", "line\n"), json!("line\n")),
            (answer(204, "", ""), Value::Null),
        ];
        for (answer, value) in table {
            assert_eq!(answer.judge(), Ok(value), "{answer:?}");
        }
        assert_eq!(
            done(r#"{"result":{"message":"m"}}"#),
            json!({"message": "m"})
        );
        assert_eq!(done("{\"message\":1}"), json!({"message": 1}));
        assert_eq!(done("text"), json!("text"));
    }

    #[test]
    fn a_foreign_answer_is_shown_with_its_status_and_its_beginning() {
        let mut foreign = answer(
            502,
            "text/html",
            &format!("<h1>\x1b[2J\nBad</h1>{}", "x".repeat(300)),
        );
        let message = foreign.judge().unwrap_err().message;
        assert!(
            message.starts_with("502 Bad Gateway, which is no answer"),
            "{message}"
        );
        assert!(message.contains("<h1> [2J Bad</h1>x"), "{message}");
        assert!(
            message.ends_with(&"x".repeat(200 - 17)) && !message.ends_with(&"x".repeat(200 - 16))
        );
        foreign.location = Some("https://other/".into());
        assert!(
            foreign
                .judge()
                .unwrap_err()
                .message
                .contains("to https://other/")
        );
    }

    #[test]
    fn error_events_decide_the_exit() {
        let table = [
            (
                r#"{"message":"m","code":"install_failed"}"#,
                200,
                Exit::Refused,
            ),
            (
                r#"{"message":"m","code":"busy","deployment_id":"d"}"#,
                200,
                Exit::Busy,
            ),
            (
                r#"{"message":"m","code":"upload_broken"}"#,
                200,
                Exit::Unreachable,
            ),
            (
                r#"{"message":"m","code":"interrupted"}"#,
                200,
                Exit::Refused,
            ),
            (r#"{"message":"m","code":"news"}"#, 200, Exit::Refused),
            (r#"{"message":"m","code":401}"#, 200, Exit::Unauthorized),
            (r#"{"message":"m","code":500}"#, 200, Exit::Refused),
            (r#"{"message":"m"}"#, 200, Exit::Refused),
            (r#"{"message":"m"}"#, 403, Exit::Unauthorized),
            ("m", 200, Exit::Refused),
        ];
        for (data, status, exit) in table {
            let failed = failed(data, status);
            assert_eq!(
                (failed.exit, failed.message.as_str()),
                (exit, "m"),
                "{data}"
            );
        }
        let named = failed(r#"{"message":"m","deployment_id":"d"}"#, 200);
        assert_eq!(named.deployment_id.as_deref(), Some("d"));
    }

    #[test]
    fn a_cut_stream_is_never_a_success() {
        assert_eq!(cut(200, None).exit, Exit::Unknown);
        assert_eq!(cut(401, None).exit, Exit::Unauthorized);
        assert_eq!(cut(500, None).exit, Exit::Refused);
    }
}
