//! What becomes of a request, and the JSON of every answer.

use std::fs::File;

use serde_json::{Map, Value};

use crate::api::error::{Code, Refusal};
use crate::api::event::Failure;
use crate::server::http::Answer;
use crate::server::{auth, logs, sync, watch};

/// What becomes of a request.
pub(super) enum Outcome {
    /// An answer that is known.
    Answer(Answer),
    /// The events of a deployment.
    Events(watch::Events),
    /// Deployments from a peer.
    Sync(sync::Sync),
    /// What a component prints.
    Logs(logs::LogStream),
    /// A file of so many bytes, and the name that it is saved under.
    File(File, u64, String),
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

/// The answer that tells a refusal.
pub(super) fn refused(refusal: &Refusal) -> Answer {
    let mut body = Map::new();
    body.insert("error".into(), refusal.message.clone().into());
    body.insert("code".into(), refusal.code.word().into());
    if let Some(id) = refusal.deployment_id {
        body.insert("deployment_id".into(), id.to_string().into());
    }
    let mut answer = json(refusal.code.status(), &Value::Object(body));
    match refusal.code {
        Code::Unauthorized => {
            answer.headers.push((
                "WWW-Authenticate",
                "Bearer realm=\"gangplank\", Basic realm=\"gangplank\"".into(),
            ));
        }
        // Soon enough for a restart, and not so often that it hurts.
        Code::Full | Code::Stopping => answer.headers.push(("Retry-After", "5".into())),
        Code::TooManyAttempts => {
            let seconds = auth::WINDOW.as_secs().to_string();
            answer.headers.push(("Retry-After", seconds));
        }
        _ => {}
    }
    answer
}

/// The plain answer of a deployment that failed.
pub(super) fn failed(failure: Failure) -> Answer {
    let status = Code::parse(&failure.code)
        .unwrap_or(Code::Internal)
        .status();
    let mut body = failure.more;
    body.insert("error".into(), failure.message.into());
    body.insert("code".into(), failure.code.into());
    let texts = [
        ("deployment_id", failure.deployment_id),
        ("phase", failure.phase),
    ];
    for (name, text) in texts {
        if let Some(text) = text {
            body.insert(name.into(), text.into());
        }
    }
    if let Some(Ok(output)) = failure.install_output.map(serde_json::to_value) {
        body.insert("install_output".into(), output);
    }
    json(status, &Value::Object(body))
}
