//! What a request's head says beside who asks.

use crate::api::error::{Code, Refusal};
use crate::api::record::hash_key;
use crate::engine::spec::DeployCaller;
use crate::server::http::Exchange;

/// The longest idempotency key.
const KEY_LEN_MAX: usize = 128;

/// What a request's head says.
pub(super) struct RequestOptions {
    /// Events instead of a plain answer.
    pub(super) events: bool,
    /// After which event to go on.
    pub(super) resume: Option<u64>,
    /// The hash of the key by which a second request is known.
    pub(super) key: Option<String>,
    /// The gate's number of the connection.
    pub(super) connection: Option<u64>,
}

impl RequestOptions {
    pub(super) fn of(exchange: &Exchange) -> Result<RequestOptions, Refusal> {
        let events = exchange
            .header("Accept")
            .is_some_and(|accept| accept.contains("text/event-stream"));
        let key = exchange.header("Idempotency-Key").map(|key| {
            let fits = (1..=KEY_LEN_MAX).contains(&key.len());
            if fits && key.bytes().all(|byte| byte.is_ascii_graphic()) {
                Ok(hash_key(key))
            } else {
                let why =
                    format!("'Idempotency-Key' must have 1 to {KEY_LEN_MAX} visible characters");
                Err(Refusal::new(Code::BadRequest, why))
            }
        });
        Ok(RequestOptions {
            events,
            resume: resume(exchange)?,
            key: key.transpose()?,
            connection: Some(exchange.connection()),
        })
    }

    /// Who asks for a deployment.
    pub(super) fn caller(&self, user: Option<String>) -> DeployCaller {
        DeployCaller {
            user,
            key: self.key.clone(),
            connection: self.connection,
            fleet: None,
        }
    }
}

/// After which event to go on: `?from=N`, else the header that an EventSource sends.
pub(super) fn resume(exchange: &Exchange) -> Result<Option<u64>, Refusal> {
    let (name, text) = match (exchange.query("from"), exchange.header("Last-Event-ID")) {
        (Some(text), _) => ("from", text),
        (None, Some(text)) => ("Last-Event-ID", text),
        (None, None) => return Ok(None),
    };
    match text.trim().parse::<u64>() {
        Ok(after) if text.trim().bytes().all(|byte| byte.is_ascii_digit()) => Ok(Some(after)),
        _ => Err(Refusal::new(
            Code::BadRequest,
            format!("'{name}' must be a whole number from 0 up"),
        )),
    }
}
