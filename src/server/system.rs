//! `system_information`, `registration_info` and `GET /health`: how the server is, and which version answers.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use crate::api::error::Refusal;
use crate::server::auth::Caller;
use crate::server::http::Answer;
use crate::server::state::ServerState;
use crate::store::index::All;

/// A Harper CLI reads this as 5.1 or newer and then sends multipart and reads events.
const REGISTRATION: &str = concat!("5.1.14+gangplank.", env!("CARGO_PKG_VERSION"));

/// Performs `registration_info`.
pub(super) fn registration_info(state: &ServerState) -> Value {
    json!({ "version": REGISTRATION, "accepts": state.accepts() })
}

/// Performs `system_information`. Who is limited to some components is told of their deployments alone.
pub(super) fn system_information(state: &ServerState, caller: &Caller) -> Result<Value, Refusal> {
    let (running, stored) = match caller.is_limited() {
        false => (state.deployer.running(), state.known.index.look(All::len)),
        true => state.known.index.look(|all| {
            let own = || {
                all.values()
                    .filter(|one| !caller.is_barred_from(&one.project))
            };
            (
                own().filter(|one| !one.status.ended()).count(),
                own().count(),
            )
        }),
    };
    let uptime = state.started.elapsed().as_millis();
    Ok(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_ms": u64::try_from(uptime).unwrap_or(u64::MAX),
        "disk_free": state.known.store.disk_free()?,
        "requests": state.requests.load(Ordering::Relaxed),
        "deployments_running": running,
        "deployments_stored": stored,
        "caller": caller.describe(),
        "peers": state.deployer.peers().len(),
        "fleet": state.fleet.get().is_some(),
    }))
}

/// Answers `GET /health`.
pub(super) fn health() -> Answer {
    let body = b"gangplank is running.".to_vec();
    Answer {
        status: 200,
        content_type: "text/plain; charset=utf-8",
        headers: Vec::new(),
        body,
    }
}
