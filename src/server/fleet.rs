//! `GET /fleet/payload/SHA256`: a payload for another host of the fleet, which knows it by its SHA-256 alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::api::error::{Code, Refusal};
use crate::server::answers::{self, Outcome};
use crate::server::auth::Caller;
use crate::server::http::{Exchange, FileAnswer};
use crate::server::range::{self, Wanted};
use crate::server::state::ServerState;

/// Payloads that are sent to other hosts at once. With two, each round doubles those who have it, and a host's line is shared
/// by few; who finds no place asks somebody else, so that a fleet spreads by itself.
const UPLOADS_MAX: usize = 2;

/// How many payloads are being sent.
#[derive(Debug, Default)]
pub(super) struct PayloadUploads(AtomicUsize);

/// The right to send one; dropping it gives it back.
struct PayloadUpload(Arc<PayloadUploads>);

impl PayloadUploads {
    fn begin(self: &Arc<Self>) -> Option<PayloadUpload> {
        let more = |now: usize| (now < UPLOADS_MAX).then_some(now + 1);
        let taken = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        taken.ok().map(|_| PayloadUpload(Arc::clone(self)))
    }
}

impl Drop for PayloadUpload {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Answers with a payload, or the part of it that is asked for. It is there as soon as its SHA-256 has been checked, while
/// its deployment still runs.
pub(super) fn payload(
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
    let Some((file, length)) = state.deployer.payload_by_hash(&sha256, &may)? else {
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
