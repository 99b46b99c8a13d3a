//! What is asked for without credentials in the head; they are in the body, which is small and has to come at once.
//!
//! `create_authentication_tokens`: whoever has a token's name and the token gets the token, so that `harper login` works.
//! `create_page_session`: whoever has a code of `create_page_code` gets a session.

use std::io::Read;
use std::time::Duration;

use serde_json::{Value, json};

use crate::api::error::Refusal;
use crate::server::answers::{Outcome, json};
use crate::server::http::Exchange;
use crate::server::state::ServerState;
use crate::server::ui;

const TOKENS: &str = "create_authentication_tokens";
const SESSION: &str = "create_page_session";
/// The longest body: a name, a token, and what else a client may say.
const BODY_LEN_MAX: u64 = 4 << 10;
/// How long a stranger's body is waited for: a stalled one must not hold a place.
const PATIENCE: Duration = Duration::from_secs(2);

/// Answers a login; none if that is not what is asked for.
pub(super) fn login(
    state: &ServerState,
    exchange: &mut Exchange,
    operation: &mut String,
) -> Option<Result<Outcome, Refusal>> {
    let is_small = exchange
        .declared_length()
        .is_some_and(|n| n <= BODY_LEN_MAX);
    let media = exchange.header("Content-Type").unwrap_or_default();
    let is_json = media
        .trim()
        .to_ascii_lowercase()
        .starts_with("application/json");
    if exchange.header("Authorization").is_some() || !is_small || !is_json {
        return None;
    }
    let mut text = Vec::new();
    let mut body = exchange.hurried_body(PATIENCE)?.take(BODY_LEN_MAX);
    body.read_to_end(&mut text).ok()?;
    let fields: Value = serde_json::from_slice(&text).ok()?;
    let text = |name: &str| fields[name].as_str().unwrap_or_default();
    let answer = match text("operation") {
        TOKENS => {
            let token = text("password");
            let checked = state.auth.login(exchange, text("username"), token);
            // No refresh token: a client would take it for one that expires.
            checked.map(|()| json!({ "operation_token": token }))
        }
        SESSION => ui::create_page_session(state, exchange, text("code")),
        _ => return None,
    };
    operation.push_str(text("operation"));
    Some(answer.map(|value| Outcome::Answer(json(200, &value))))
}
