//! `GET /openapi.json`: the description of the API. Whoever asks gets it, for it says nothing of this server.

use crate::api::openapi;
use crate::server::answers::tagged;
use crate::server::http::{Answer, Exchange};

/// Where the document is.
pub(super) const PATH: &str = "/openapi.json";

/// Answers with the document; none if another path is asked for.
pub(super) fn openapi(exchange: &Exchange, path: &str) -> Option<Answer> {
    let text = (path == PATH).then(|| format!("{}\n", openapi::document()))?;
    Some(tagged(exchange, "application/json", text.as_bytes()))
}
