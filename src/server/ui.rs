//! Signing a browser in: `create_page_code` makes a code that is good once and for a minute, `create_page_session` makes a session
//! of it, and `end_page_sessions` ends sessions.

use serde_json::{Value, json};

use crate::api::error::Refusal;
use crate::server::auth::{CODE_TIME, Caller};
use crate::server::http::Exchange;
use crate::server::state::ServerState;

/// Performs `create_page_code`.
pub(super) fn create_page_code(state: &ServerState, caller: &Caller) -> Result<Value, Refusal> {
    let code = state.auth.create_code(caller)?;
    Ok(json!({
        "code": code,
        "expires_in": CODE_TIME.as_secs(),
        "addresses": state.addresses.get(),
    }))
}

/// Performs `create_page_session`. A wrong code counts as wrong credentials do.
pub(super) fn create_page_session(
    state: &ServerState,
    exchange: &Exchange,
    code: &str,
) -> Result<Value, Refusal> {
    let (secret, session) = state.auth.open_session(exchange, code)?;
    Ok(json!({ "token": secret.reveal(), "expires_at": session.expires_at }))
}

/// Performs `end_page_sessions`: the session that is shown, else all that the token began, else all there are.
pub(super) fn end_page_sessions(state: &ServerState, caller: &Caller) -> Result<Value, Refusal> {
    let ended = state.auth.end_sessions(caller)?;
    let message = match ended {
        1 => "Ended 1 session".to_owned(),
        n => format!("Ended {n} sessions"),
    };
    Ok(json!({ "message": message, "ended": ended }))
}
