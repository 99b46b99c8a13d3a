//! What becomes of a request, and the JSON of every answer.

use std::fmt::Write;
use std::io;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::api::error::{self, Code, Error, Refusal};
use crate::api::event::{Event, Failure};
use crate::server::http::{Answer, Exchange, FileAnswer};
use crate::server::pump::LiveStream;

/// Makes bytes, and gives each part of them to be sent.
pub(super) type WriteParts =
    Box<dyn FnOnce(&mut dyn FnMut(&[u8]) -> io::Result<()>) -> Result<(), Refusal>>;

/// What becomes of a request.
pub(super) enum Outcome {
    /// An answer that is known.
    Answer(Answer),
    /// Events, as they come.
    Stream(LiveStream),
    /// JSON that is made while it is sent.
    Pieces(Box<dyn Iterator<Item = Result<Vec<u8>, Error>>>),
    /// Bytes that are made while they are sent.
    Parts(WriteParts),
    /// A file, or a part of one.
    File(Box<FileAnswer>),
}

impl Outcome {
    /// The status of the answer, where it is known before the answer is made.
    pub(super) fn status(&self) -> Option<u16> {
        match self {
            Outcome::Answer(answer) => Some(answer.status),
            Outcome::File(file) => Some(file.status()),
            Outcome::Stream(_) | Outcome::Parts(_) => Some(200),
            Outcome::Pieces(_) => None,
        }
    }
}

/// A JSON answer.
pub(super) fn json(status: u16, value: &Value) -> Answer {
    json_text(status, format!("{value}\n").into_bytes())
}

/// An answer that is JSON already.
pub(super) fn json_text(status: u16, body: Vec<u8>) -> Answer {
    Answer {
        status,
        content_type: "application/json",
        headers: Vec::new(),
        body,
    }
}

/// A text that is a part of the program. Who has it already is told so, and not sent it again.
pub(super) fn tagged(exchange: &Exchange, content_type: &'static str, text: &[u8]) -> Answer {
    let mut tag = String::from("\"");
    for byte in &Sha256::digest(text)[..8] {
        let _ = write!(tag, "{byte:02x}");
    }
    tag.push('"');
    let known = exchange.header("If-None-Match");
    // A proxy that compresses makes a weak one of it, and that is compared as weakly.
    let is_it = |one: &str| matches!(one.trim(), "*") || one.trim().trim_start_matches("W/") == tag;
    let is_known = known.is_some_and(|known| known.split(',').any(is_it));
    Answer {
        status: if is_known { 304 } else { 200 },
        content_type,
        headers: vec![
            ("ETag", tag),
            ("Cache-Control", "no-cache".to_owned()),
            ("X-Content-Type-Options", "nosniff".to_owned()),
        ],
        body: if is_known { Vec::new() } else { text.to_vec() },
    }
}

/// The answer that tells a refusal. A browser would keep a password that it was asked for, so it is not asked.
pub(super) fn refused(refusal: &Refusal, browser: bool) -> Answer {
    let mut answer = json(refusal.code.status(), &Value::Object(refusal.body()));
    if refusal.code == Code::Unauthorized {
        let ways = match browser {
            false => "Bearer realm=\"gangplank\", Basic realm=\"gangplank\"",
            true => "Bearer realm=\"gangplank\"",
        };
        answer.headers.push(("WWW-Authenticate", ways.into()));
    }
    if let Some(after) = refusal.code.retry_after() {
        answer
            .headers
            .push(("Retry-After", after.as_secs().to_string()));
    }
    answer
}

/// The plain answer for the last event of a stream.
pub(super) fn ended(last: Option<Event>) -> Result<Answer, Refusal> {
    match last {
        Some(Event::Done(result)) => Ok(json(200, &result)),
        Some(Event::Error(failure)) => Ok(failed(*failure)),
        _ => Err(Refusal::new(
            Code::Internal,
            "reading the end of a deployment: its journal has none",
        )),
    }
}

fn failed(failure: Failure) -> Answer {
    let status = Code::parse(&failure.code)
        .unwrap_or(Code::Internal)
        .status();
    let mut more: Map<String, Value> = failure.more;
    let texts = [
        ("deployment_id", failure.deployment_id),
        ("phase", failure.phase),
    ];
    for (name, text) in texts {
        if let Some(text) = text {
            more.insert(name.into(), text.into());
        }
    }
    if let Some(Ok(output)) = failure.install_output.map(serde_json::to_value) {
        more.insert("install_output".into(), output);
    }
    let body = error::body(&failure.message, &failure.code, more);
    json(status, &Value::Object(body))
}
