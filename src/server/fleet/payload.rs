//! `GET /fleet/payload/SHA256`: a payload for another host of the fleet, which knows it by its SHA-256 alone.

use crate::api::error::{Code, Refusal};
use crate::server::answers::{self, Outcome};
use crate::server::auth::Caller;
use crate::server::http::{Exchange, FileAnswer};
use crate::server::range::{self, Wanted};
use crate::server::state::ServerState;
use crate::server::uploads::UPLOADS_MAX;

/// Answers with a payload, or the part of it that is asked for. It is there as soon as its SHA-256 has been checked, while
/// its deployment still runs.
pub(in crate::server) fn payload(
    state: &ServerState,
    exchange: &Exchange,
    sha256: &str,
    caller: &Caller,
) -> Result<Outcome, Refusal> {
    caller.may_fetch()?;
    let is_hash = sha256.len() == 64 && sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_hash {
        let why = "fetching a payload: its SHA-256 must be 64 hex digits";
        return Err(Refusal::new(Code::BadRequest, why));
    }
    let sha256 = sha256.to_ascii_lowercase();
    let may = |project: &_| !caller.is_barred_from(project);
    let mut found = state.deployer.payload_by_hash(&sha256, &may)?;
    if found.is_none() && !caller.is_limited() {
        found = state.deployer.fetched_payload(&sha256)?;
    }
    let Some((file, length)) = found else {
        let why = format!("fetching a payload: none with the SHA-256 {sha256} is stored here");
        return Err(Refusal::new(Code::NotFound, why));
    };
    let part = match range::wanted(exchange.header("Range"), length) {
        Wanted::All => None,
        Wanted::Part(part) => Some(part),
        Wanted::Outside => {
            let why =
                format!("fetching a payload: it has {length} bytes, and none of those asked for");
            let mut answer = answers::refused(&Refusal::new(Code::BadRequest, why), false);
            answer.status = 416;
            let range = format!("bytes */{length}");
            answer.headers.push(("Content-Range", range));
            return Ok(Outcome::Answer(answer));
        }
    };
    let Some(upload) = state.uploads.begin() else {
        let why = format!("fetching a payload: {UPLOADS_MAX} are being sent already");
        return Err(Refusal::new(Code::Full, why));
    };
    Ok(Outcome::File(Box::new(FileAnswer {
        file,
        length,
        part,
        name: format!("{sha256}.payload"),
        hold: Some(Box::new(upload)),
    })))
}
