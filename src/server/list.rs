//! `list_deployments`: found in the index, and copied from the records one by one while it is sent, so that a listing costs a
//! few records of memory.

use std::sync::Arc;

use crate::api::error::{Doing, Error};
use crate::api::json;
use crate::api::name::DeploymentId;
use crate::api::operation::List;
use crate::api::record::{EventLog, Summary};
use crate::server::answers::Outcome;
use crate::server::auth::Caller;
use crate::server::members::ObjectMembers;
use crate::server::state::ServerState;
use crate::store::Store;
use crate::system::log;

/// How many deployments a listing has if nobody says.
const LIMIT: u64 = 100;
/// How many it has at most.
const LIMIT_MAX: u64 = 1000;
/// What is sent at once is so much, and a record more.
const PIECE_BYTES: usize = 32 << 10;
/// A record of an earlier version may have a longer log of events, which is bounded as it is copied.
const EVENT_LOG_BYTES: usize = 64 << 10;

/// Performs `list_deployments`.
pub(super) fn list_deployments(state: &ServerState, list: &List, caller: &Caller) -> Outcome {
    let (first, limit) = (list.offset, list.limit.unwrap_or(LIMIT).min(LIMIT_MAX));
    let (total, ids) = state.known.index.look(|all| {
        let (mut total, mut ids) = (0_u64, Vec::new());
        for (id, one) in all.iter().rev() {
            if !matches(one, list) || caller.is_barred_from(&one.project) {
                continue;
            }
            if total >= first && total - first < limit {
                ids.push(*id);
            }
            total += 1;
        }
        (total, ids)
    });
    Outcome::Pieces(Box::new(Listing {
        store: Arc::clone(&state.known.store),
        ids: ids.into_iter(),
        total,
        events: list.include_events,
        begun: false,
        ended: false,
    }))
}

/// A listing, piece by piece.
struct Listing {
    store: Arc<Store>,
    ids: std::vec::IntoIter<DeploymentId>,
    total: u64,
    events: bool,
    /// A record was sent.
    begun: bool,
    ended: bool,
}

impl Iterator for Listing {
    type Item = Result<Vec<u8>, Error>;

    fn next(&mut self) -> Option<Result<Vec<u8>, Error>> {
        if self.ended {
            return None;
        }
        let mut piece = Vec::new();
        if !self.begun {
            piece.extend_from_slice(b"{\"deployments\":[");
        }
        while piece.len() < PIECE_BYTES {
            let Some(id) = self.ids.next() else {
                self.ended = true;
                piece.extend_from_slice(format!("],\"total\":{}}}\n", self.total).as_bytes());
                break;
            };
            match self.store.read_record_text(id) {
                Ok(Some(text)) => self.add(&mut piece, id, &text),
                // It was removed meanwhile.
                Ok(None) => {}
                Err(error) => return Some(Err(error)),
            }
        }
        Some(Ok(piece))
    }
}

impl Listing {
    /// Adds a record. One that is damaged is left out, since the others are not.
    fn add(&mut self, piece: &mut Vec<u8>, id: DeploymentId, text: &[u8]) {
        let before = piece.len();
        if self.begun {
            piece.push(b',');
        }
        let present = self.store.payload(id).exists();
        match copy(piece, text, present, self.events) {
            Ok(()) => self.begun = true,
            Err(error) => {
                piece.truncate(before);
                log::error(&format!("listing: the record of deployment {id}: {error}"));
            }
        }
    }
}

fn matches(one: &Summary, list: &List) -> bool {
    let status = || serde_json::to_value(one.status).ok();
    list.project
        .as_ref()
        .is_none_or(|project| project == one.project.as_str())
        && list
            .status
            .as_ref()
            .is_none_or(|wanted| status().is_some_and(|status| status == wanted.as_str()))
        && list.since.is_none_or(|since| one.started_at >= since)
        && list.until.is_none_or(|until| one.started_at <= until)
}

/// Copies a record, with what the disk says of its payload, and with its events only if they are wanted.
fn copy(body: &mut Vec<u8>, text: &[u8], present: bool, events: bool) -> Result<(), Error> {
    let what = || "copying it".to_owned();
    let ObjectMembers(members) = serde_json::from_slice(text).doing(what)?;
    let mut separator = b'{';
    for (name, value) in members {
        if name == "event_log" && !events {
            continue;
        }
        body.push(separator);
        separator = b',';
        serde_json::to_writer(&mut *body, &name).doing(what)?;
        body.push(b':');
        match &*name {
            "payload_present" | "payload_blob_present" => {
                body.extend_from_slice(present.to_string().as_bytes())
            }
            "event_log" if value.get().len() > EVENT_LOG_BYTES => {
                let bounded: EventLog = json::from_text(value.get()).doing(what)?;
                serde_json::to_writer(&mut *body, &bounded).doing(what)?;
            }
            _ => body.extend_from_slice(value.get().as_bytes()),
        }
    }
    body.push(b'}');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_copied_in_its_order() {
        let text = br#"{ "b": [1,
 2], "payload_present": true, "a\"": {"x":null}, "event_log": [{"id":1}] }"#;
        let table = [
            (
                false,
                r#"{"b":[1,
 2],"payload_present":false,"a\"":{"x":null}}"#,
            ),
            (
                true,
                r#"{"b":[1,
 2],"payload_present":false,"a\"":{"x":null},"event_log":[{"id":1}]}"#,
            ),
        ];
        for (events, expected) in table {
            let mut body = Vec::new();
            copy(&mut body, text, false, events).unwrap();
            assert_eq!(String::from_utf8(body).unwrap(), expected);
        }
        assert!(copy(&mut Vec::new(), b"[]", true, true).is_err());
    }
}
