//! What an answer means: a result, or a failure with the exit code that it gives the CLI.
//!
//! Our own refusals are JSON with `error` and `code`; Harper's have an `error` alone, or a number as the code. What is
//! neither comes from something that answered in the server's place, and is shown as it is.

use serde_json::{Map, Value};

use crate::api::error::{Code, Exit};
use crate::api::operation::AnswerShape;
use crate::formats::sse::Parser;

/// A whole answer that is not an event stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PlainAnswer {
    /// The HTTP status.
    pub(crate) status: u16,
    /// The content type in lower case, without its parameters; empty if there is none.
    pub(crate) content_type: String,
    /// Where a redirect points.
    pub(crate) location: Option<String>,
    /// The server's clock when it answered, in milliseconds since the epoch.
    pub(crate) date: Option<u64>,
    /// The body.
    pub(crate) body: Vec<u8>,
}

/// Why there is no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NoResult {
    /// The reason, for people.
    pub(crate) message: String,
    /// The reason, for machines.
    pub(crate) code: Option<String>,
    /// How the CLI ends.
    pub(crate) exit: Exit,
    /// The deployment that it is about.
    pub(crate) deployment_id: Option<String>,
    /// What else the server said of it, by its names.
    pub(crate) more: Box<Map<String, Value>>,
}

impl NoResult {
    /// A failure that only this side knows of.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> NoResult {
        NoResult {
            message: message.into(),
            code: None,
            exit,
            deployment_id: None,
            more: Box::default(),
        }
    }
}

/// How much of a foreign answer is shown, in characters: a title and the first sentence.
const SHOWN_MAX: usize = 200;

impl PlainAnswer {
    /// The result, if the answer is a success of this shape; without a shape none is.
    ///
    /// # Errors
    /// A refusal by the server, or an answer of something else.
    pub(crate) fn judge(&self, shape: Option<AnswerShape>) -> Result<Value, NoResult> {
        let success = (200..300).contains(&self.status);
        match (success, shape) {
            (true, Some(AnswerShape::Lines)) => self.lines().ok_or_else(|| self.foreign()),
            (true, Some(AnswerShape::Bytes)) if self.content_type == BYTES => {
                let length = self.body.len();
                let message = format!(
                    "the answer is a payload of {length} bytes; `gangplank payload` downloads it"
                );
                Err(NoResult::new(Exit::Usage, message))
            }
            (true, shape) => match json(&self.body)? {
                Some(value) if shape.is_some_and(|shape| shape.fits(&value)) => Ok(value),
                _ => Err(self.foreign()),
            },
            (false, _) => match self.reason() {
                Some(map) => Err(self.refused(&map)),
                None => Err(self.foreign()),
            },
        }
    }

    /// The object that says why it is refused. Harper writes it as a record of an event stream where one was asked for,
    /// and names no content type then, or this one.
    fn reason(&self) -> Option<serde_json::Map<String, Value>> {
        let refuses = |map: &serde_json::Map<String, Value>| map.contains_key("error");
        if let Ok(Some(Value::Object(map))) = json(&self.body) {
            return Some(map).filter(refuses);
        }
        let mut parser = Parser::new();
        parser.push(&self.body);
        // The body's end is the record's.
        parser.push(b"\n\n");
        let record = parser.next()?.ok()?;
        match json(record.data.as_bytes()) {
            Ok(Some(Value::Object(mut map))) => {
                if record.event == "error" && !map.contains_key("error") {
                    let message = map.remove("message")?;
                    map.insert("error".into(), message);
                }
                Some(map).filter(refuses)
            }
            _ => None,
        }
    }

    /// The text, if each of its lines is one of a process: time, type, stream, and what was printed.
    fn lines(&self) -> Option<Value> {
        let text = std::str::from_utf8(&self.body).ok()?;
        let is_line = |line: &str| {
            matches!(
                line.split(' ').nth(2),
                Some("stdout" | "stderr" | "gangplank")
            )
        };
        let fits = self.content_type == "text/plain" && text.lines().all(is_line);
        (fits && !text.is_empty()).then(|| text.into())
    }

    fn refused(&self, map: &Map<String, Value>) -> NoResult {
        let code = map.get("code").and_then(Value::as_str);
        NoResult {
            message: text_of(map.get("error")),
            code: code.map(str::to_owned),
            exit: exit_of(map.get("code"), Some(self.status)),
            deployment_id: id_of(map),
            more: rest_of(map, "error"),
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
        message += ", which is not an answer of a gangplank or a Harper server";
        if !body.is_empty() {
            message += &format!(": {body}");
        }
        NoResult::new(Exit::Unreachable, message)
    }
}

/// The content type of a payload.
const BYTES: &str = "application/octet-stream";

/// More than a thousand records with their events have. Each value takes up to some hundred bytes once it is read, so that
/// an answer of the largest size that holds nothing else would take gigabytes.
const VALUES_MAX: usize = 500_000;

/// The JSON that these bytes are; none if they are not.
///
/// # Errors
/// When it holds too many values.
fn json(bytes: &[u8]) -> Result<Option<Value>, NoResult> {
    // Each value follows a bracket or a comma, but for the first. Those within texts count too, as the price of speed.
    let values = memchr::memchr3_iter(b'{', b'[', b',', bytes).take(VALUES_MAX + 1);
    if values.count() > VALUES_MAX {
        let message = format!("the answer holds more than {VALUES_MAX} values; ask for fewer");
        return Err(NoResult::new(Exit::Unreachable, message));
    }
    Ok(serde_json::from_slice(bytes).ok())
}

/// The result of a `done` event.
pub(crate) fn done(data: &str) -> Value {
    match json(data.as_bytes()) {
        Ok(Some(Value::Object(mut map))) => map.remove("result").unwrap_or(Value::Object(map)),
        Ok(Some(value)) => value,
        _ => Value::from(data),
    }
}

/// The failure of an `error` event, in a stream whose head had this status.
pub(crate) fn failed(data: &str, status: u16) -> NoResult {
    let Ok(Some(Value::Object(map))) = json(data.as_bytes()) else {
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
        more: rest_of(&map, "message"),
    }
}

/// What is not among the fields of a failure that have a place of their own.
fn rest_of(map: &Map<String, Value>, message: &str) -> Box<Map<String, Value>> {
    let mut rest = map.clone();
    rest.retain(|name, _| ![message, "code", "deployment_id"].contains(&name.as_str()));
    Box::new(rest)
}

/// The failure of a stream that ended without a terminal event.
pub(crate) fn cut(status: u16, deployment_id: Option<String>) -> NoResult {
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
pub(crate) fn deployment_id(data: &str) -> Option<String> {
    match json(data.as_bytes()) {
        Ok(Some(Value::Object(map))) => id_of(&map),
        _ => None,
    }
}

fn id_of(map: &Map<String, Value>) -> Option<String> {
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
    use crate::api::operation::FieldKind;
    use serde_json::json;

    const ANY: Option<AnswerShape> = Some(AnswerShape::Json);

    fn answer(status: u16, content_type: &str, body: &str) -> PlainAnswer {
        PlainAnswer {
            status,
            content_type: content_type.into(),
            location: None,
            date: None,
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
        ];
        for (answer, exit) in table {
            assert_eq!(answer.judge(ANY).unwrap_err().exit, exit, "{answer:?}");
        }
    }

    #[test]
    fn a_refusal_written_as_an_event_is_read() {
        let table = [
            (
                401,
                "",
                "data: {\"error\":\"Login failed\"}\n\n",
                Exit::Unauthorized,
                "Login failed",
            ),
            (
                401,
                "text/event-stream",
                "data: {\"error\":\"Must login\"}\n\n",
                Exit::Unauthorized,
                "Must login",
            ),
            (
                403,
                "text/event-stream",
                "data: {\"error\":\"no\",\"unauthorized_access\":[]}\n\n",
                Exit::Unauthorized,
                "no",
            ),
            (
                400,
                "text/event-stream",
                "data: {\"error\":\"Operation 'x' not found\"}",
                Exit::Refused,
                "Operation 'x' not found",
            ),
            (
                415,
                "text/event-stream",
                "data: {\"error\":\"Unsupported Media Type\"}\n\n",
                Exit::Refused,
                "Unsupported Media Type",
            ),
            (
                406,
                "application/json",
                "{\"statusCode\":406,\"error\":\"Not Acceptable\",\"message\":\"m\"}",
                Exit::Refused,
                "Not Acceptable",
            ),
            (
                500,
                "text/event-stream",
                "event: error\ndata: {\"message\":\"m\",\"code\":500}\n\n",
                Exit::Refused,
                "m",
            ),
            (
                404,
                "text/event-stream",
                "data: nothing\n\n",
                Exit::Unreachable,
                "404 Not Found",
            ),
        ];
        for (status, content_type, body, exit, message) in table {
            let failed = answer(status, content_type, body).judge(ANY).unwrap_err();
            assert_eq!(failed.exit, exit, "{body}");
            assert!(failed.message.starts_with(message), "{}", failed.message);
        }
    }

    #[test]
    fn only_what_the_operation_answers_is_a_success() {
        const LIST: Option<AnswerShape> = Some(AnswerShape::Object(&[("a", FieldKind::List)]));
        const LINES: Option<AnswerShape> = Some(AnswerShape::Lines);
        let (json_type, line) = (
            "application/json",
            "2026-11-24T08:16:11.000Z web stdout up\n",
        );
        let table = [
            (
                LIST,
                answer(200, json_type, r#"{"a":[1]}"#),
                Some(json!({"a": [1]})),
            ),
            (LIST, answer(200, json_type, r#"{"a":1}"#), None),
            (LIST, answer(200, json_type, r#"{"status":"ok"}"#), None),
            (LIST, answer(200, json_type, "[]"), None),
            (LIST, answer(200, json_type, "\"ok\""), None),
            (LIST, answer(200, json_type, "null"), None),
            (LIST, answer(200, json_type, ""), None),
            (LIST, answer(204, "", ""), None),
            (
                LIST,
                answer(200, "text/plain", "<html>It works</html>"),
                None,
            ),
            (LIST, answer(200, BYTES, "It works"), None),
            (ANY, answer(201, "", "[1]"), Some(json!([1]))),
            (ANY, answer(200, "text/plain", "1"), None),
            (ANY, answer(204, "", ""), None),
            (LINES, answer(200, "text/plain", line), Some(json!(line))),
            (
                LINES,
                answer(200, "text/plain", "It works for stdout"),
                None,
            ),
            (LINES, answer(200, "text/plain", ""), None),
            (LINES, answer(200, "text/html", line), None),
            (None, answer(200, json_type, r#"{"a":[1]}"#), None),
        ];
        for (shape, answer, expected) in table {
            let judged = answer.judge(shape);
            match expected {
                Some(value) => assert_eq!(judged, Ok(value), "{answer:?}"),
                None => assert_eq!(judged.unwrap_err().exit, Exit::Unreachable, "{answer:?}"),
            }
        }
        let payload = answer(200, BYTES, "x").judge(Some(AnswerShape::Bytes));
        assert_eq!(payload.unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn what_holds_too_many_values_is_not_read() {
        let many = format!("[{}{{}}]", "{},".repeat(VALUES_MAX));
        let refused = answer(200, "", &many).judge(ANY).unwrap_err();
        assert!(
            refused.message.contains("500000 values"),
            "{}",
            refused.message
        );
        assert_eq!(done(&many), Value::from(many.as_str()));
    }

    #[test]
    fn done_gives_its_result() {
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
        let message = foreign.judge(ANY).unwrap_err().message;
        assert!(
            message.starts_with("502 Bad Gateway, which is not an answer"),
            "{message}"
        );
        assert!(message.contains("<h1> [2J Bad</h1>x"), "{message}");
        assert!(
            message.ends_with(&"x".repeat(200 - 17)) && !message.ends_with(&"x".repeat(200 - 16))
        );
        foreign.location = Some("https://other/".into());
        assert!(
            foreign
                .judge(ANY)
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
