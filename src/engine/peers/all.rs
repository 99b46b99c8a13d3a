//! One operation asked of all peers at once, with an answer or a reason from each.

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::api::operation::Operation;
use crate::client::follow::Subject;
use crate::engine::peers::Peer;
use crate::system::stop::Stop;
use crate::system::threads;
use crate::system::time::now_ms;

/// The stack of a thread that talks to a peer.
const STACK_BYTES: usize = 256 << 10;

/// What came of asking one peer.
pub struct PeerReply<'a> {
    pub peer: &'a str,
    /// Its answer, or why there is none.
    pub answer: Result<Value, String>,
    started_at: u64,
    completed_at: u64,
}

impl PeerReply<'_> {
    /// As it stands in `peer_results`.
    pub fn result(&self) -> Value {
        json!({
            "node": self.peer,
            "status": if self.answer.is_ok() { "success" } else { "failed" },
            "error": self.answer.as_ref().err(),
            "started_at": self.started_at,
            "completed_at": self.completed_at,
        })
    }
}

/// Asks all of them for the same, which ends in the same state if it is done twice. One that is off holds up nobody for
/// longer than `timeout`.
pub fn ask_all<'a>(
    peers: &'a [Peer],
    (subject, operation): (Subject, &Operation),
    timeout: Duration,
) -> Vec<PeerReply<'a>> {
    let ask = |peer: &'a Peer| {
        let started_at = now_ms();
        let stop = Stop::never();
        let mut talk = peer.talk(timeout, &stop, &|_| ());
        let answer = peer.run(&mut talk, subject, operation.clone(), |client, call| {
            client.call(call, false)
        });
        PeerReply {
            peer: peer.name(),
            answer,
            started_at,
            completed_at: now_ms(),
        }
    };
    thread::scope(|scope| {
        let asked: Vec<_> = peers
            .iter()
            .map(|peer| {
                let name = format!("peer-{}", peer.name());
                let asked = threads::spawn_scoped(scope, name, STACK_BYTES, move || ask(peer));
                (peer, asked)
            })
            .collect();
        let ended = asked.into_iter().map(|(peer, thread)| {
            match thread.map(thread::ScopedJoinHandle::join) {
                Ok(Ok(reply)) => reply,
                Ok(Err(panic)) => std::panic::resume_unwind(panic),
                // Without a thread it is asked here, in turn.
                Err(_) => ask(peer),
            }
        });
        ended.collect()
    })
}
