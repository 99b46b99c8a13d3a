//! `sync`: what is live at a peer and not here is deployed here, from the payloads that the peer has stored.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use serde_json::{Map, Value, json};

use crate::api::error::{Code, Doing, Error, Refusal};
use crate::api::event::{Event, Failure};
use crate::api::name::Project;
use crate::engine::converge::Converged;
use crate::engine::peers::Peer;
use crate::formats::sse;
use crate::server::answers::{self, Outcome};
use crate::server::pump::{Batch, LiveStream, StreamSource};
use crate::server::state::ServerState;
use crate::system::log;
use crate::system::threads;

/// The stack of the thread that deploys one component after the other.
const STACK_BYTES: usize = 512 << 10;
/// How many events may wait for a client that reads slowly, before the next component waits for it, too.
const EVENTS_MAX: usize = 256;

/// A host that is to catch up.
pub(super) struct Sync {
    /// The peer's name.
    pub(super) from: String,
    /// One component alone.
    pub(super) project: Option<Project>,
    /// The name of the token that asks.
    pub(super) user: Option<String>,
    /// Events instead of a plain answer.
    pub(super) events: bool,
}

fn json_of(one: &Converged) -> Value {
    let mut value = json!({
        "project": one.project,
        "deployment_id": one.deployment_id,
        "status": if one.error.is_none() { "success" } else { "failed" },
    });
    if let Some(error) = &one.error {
        value["error"] = error.as_str().into();
    }
    value
}

impl Sync {
    fn peer<'a>(&self, state: &'a ServerState) -> Result<&'a Peer, Refusal> {
        state.deployer.peer(&self.from).ok_or_else(|| {
            let from = self.from.escape_debug();
            Refusal::new(
                Code::NotFound,
                format!("catching up from '{from}': there is no peer of that name"),
            )
        })
    }

    /// Does it, and answers at the end; a stream tells of each component before.
    pub(super) fn begin(self, state: &Arc<ServerState>) -> Result<Outcome, Refusal> {
        self.peer(state)?;
        if !self.events {
            return answers::ended(Some(end(self.run(state, None)))).map(Outcome::Answer);
        }
        let state = Arc::clone(state);
        told("catching up", move |sender| {
            end(self.run(&state, Some(sender)))
        })
    }

    /// Deploys what differs, one component after the other.
    fn run(
        &self,
        state: &ServerState,
        tell: Option<&Sender<Event>>,
    ) -> Result<Vec<Converged>, Refusal> {
        let peer = self.peer(state)?;
        let (only, user) = (self.project.as_ref(), self.user.as_deref());
        state.deployer.converge(peer, only, user, &mut |one| {
            if let Some(tell) = tell {
                let one = Event::Unknown {
                    name: "sync".into(),
                    data: json_of(one).to_string(),
                };
                // It goes on to its end, even if nobody listens any longer.
                let _ = tell.send(one);
            }
        })
    }
}

/// The last event.
fn end(result: Result<Vec<Converged>, Refusal>) -> Event {
    let results = match result {
        Ok(results) => results,
        Err(refusal) => return failed(refusal.code, refusal.message, Map::new()),
    };
    let deployments: Vec<Value> = results.iter().map(json_of).collect();
    let broken: Vec<&str> = results
        .iter()
        .filter(|one| one.error.is_some())
        .map(|one| one.project.as_str())
        .collect();
    if broken.is_empty() {
        let message = match results.len() {
            0 => "Nothing to catch up with".to_owned(),
            n => format!("Successfully caught up with {n} components"),
        };
        return Event::Done(json!({ "message": message, "deployments": deployments }));
    }
    let why = format!("catching up: {} failed", broken.join(", "));
    let more = Map::from_iter([("deployments".to_owned(), deployments.into())]);
    failed(Code::ReplicateFailed, why, more)
}

/// Does what takes a while in a thread of its own, while what it tells goes to the client, and last what it ends with.
pub(super) fn told(
    doing: &'static str,
    work: impl FnOnce(&Sender<Event>) -> Event + Send + 'static,
) -> Result<Outcome, Refusal> {
    let (sender, receiver) = bounded(EVENTS_MAX);
    let work = move || {
        let last = work(&sender);
        // Nobody may be listening any longer.
        let _ = sender.send(last);
    };
    threads::spawn("sync", STACK_BYTES, work)
        .doing(|| format!("{doing}: making a thread for it"))?;
    Ok(Outcome::Stream(LiveStream {
        source: Box::new(ToldEvents(receiver, doing)),
        watching: false,
    }))
}

pub(super) fn failed(code: Code, message: String, more: Map<String, Value>) -> Event {
    Event::Error(Box::new(Failure {
        message,
        code: code.word().to_owned(),
        more,
        ..Failure::default()
    }))
}

/// What such a thread tells, and what it does.
struct ToldEvents(Receiver<Event>, &'static str);

impl StreamSource for ToldEvents {
    fn next(&mut self, records: &mut Vec<u8>, wait: Duration) -> Result<Batch, Error> {
        let event = match self.0.recv_timeout(wait) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) => return Ok(Batch::Nothing),
            Err(RecvTimeoutError::Disconnected) => failed(
                Code::Internal,
                format!(
                    "{}: it ended unexpectedly, which is a bug; the server's log has more",
                    self.1
                ),
                Map::new(),
            ),
        };
        sse::frame(records, None, event.name(), event.data().get());
        Ok(match event {
            Event::Done(_) | Event::Error(_) => Batch::End,
            _ => Batch::Records,
        })
    }
}

/// Catches up at the start, and says in the log what came of it.
pub(super) fn at_start(state: &ServerState, from: &str) {
    let sync = Sync {
        from: from.to_owned(),
        project: None,
        user: None,
        events: false,
    };
    match end(sync.run(state, None)) {
        Event::Done(result) => {
            log::info(&format!("catching up from {from}: {}", result["message"]))
        }
        other => log::error(other.data().get()),
    }
}
