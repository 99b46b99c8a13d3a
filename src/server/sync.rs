//! `sync`: what is live at a peer and not here is deployed here, from the payloads that the peer has stored.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use serde_json::{Map, Value, json};

use crate::api::error::{Code, Doing, Error, Refusal};
use crate::api::event::{Event, Failure, Status};
use crate::api::name::Project;
use crate::api::operation::Restart;
use crate::engine::deployer::DeploySpec;
use crate::engine::peers::{Peer, PeerRelease};
use crate::engine::stages::{Then, Work};
use crate::formats::sse;
use crate::server::answers::{self, Outcome};
use crate::server::deploy::intake;
use crate::server::pump::{Batch, LiveStream, StreamSource};
use crate::server::state::ServerState;
use crate::server::watch;
use crate::system::log;
use crate::system::stop::Stop;
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

/// What came of one component.
struct SyncResult {
    project: Project,
    id: Option<String>,
    status: &'static str,
    error: Option<String>,
}

impl SyncResult {
    fn json(&self) -> Value {
        let mut value = json!({
            "project": self.project,
            "deployment_id": self.id,
            "status": self.status,
        });
        if let Some(error) = &self.error {
            value["error"] = error.as_str().into();
        }
        value
    }
}

impl Sync {
    fn peer<'a>(&self, state: &'a ServerState) -> Result<&'a Peer, Refusal> {
        state.workers.peer(&self.from).ok_or_else(|| {
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
        let (sender, told) = bounded(EVENTS_MAX);
        let state = Arc::clone(state);
        let work = move || {
            let last = end(self.run(&state, Some(&sender)));
            // Nobody may be listening any more.
            let _ = sender.send(last);
        };
        threads::spawn("sync", STACK_BYTES, work)
            .doing(|| "catching up: making a thread for it".into())?;
        Ok(Outcome::Stream(LiveStream {
            source: Box::new(SyncEvents(told)),
            watching: false,
        }))
    }

    /// Deploys what differs, one component after the other.
    fn run(
        &self,
        state: &ServerState,
        tell: Option<&Sender<Event>>,
    ) -> Result<Vec<SyncResult>, Refusal> {
        let peer = self.peer(state)?;
        let stop = Stop::never();
        let live = peer.live(self.project.as_ref(), &stop).map_err(|why| {
            let why = format!("catching up from {}: {why}", self.from);
            Refusal::new(Code::ReplicateFailed, why)
        })?;
        let mut results = Vec::new();
        for one in live {
            if is_here(state, &one)? {
                continue;
            }
            let project = one.project.clone();
            let done = self
                .deploy(state, peer, one)
                .unwrap_or_else(|refusal| SyncResult {
                    project,
                    id: refusal.deployment_id.map(|id| id.to_string()),
                    status: "failed",
                    error: Some(refusal.message),
                });
            if let Some(tell) = tell {
                let one = Event::Unknown {
                    name: "sync".into(),
                    data: done.json().to_string(),
                };
                // It goes on to its end, even if nobody listens any more.
                let _ = tell.send(one);
            }
            results.push(done);
        }
        Ok(results)
    }

    fn deploy(
        &self,
        state: &ServerState,
        peer: &Peer,
        one: PeerRelease,
    ) -> Result<SyncResult, Refusal> {
        let restart = if one.runs {
            Restart::Immediate
        } else {
            Restart::No
        };
        let mut attempt = state.workers.begin(DeploySpec {
            options: one.options,
            restart,
            ..DeploySpec::live(one.project.clone(), self.user.clone())
        })?;
        let id = attempt.record().deployment_id;
        let payload = peer.payload(one.release, attempt.stop());
        let received = payload
            .map_err(|why| Refusal::new(Code::UploadBroken, why))
            .and_then(|mut payload| {
                let hash = one.payload_hash.as_deref();
                let arrived = |id| state.workers.arrived(id);
                intake(state).receive(&mut attempt, &mut payload, hash, &arrived)
            });
        let work = received.map(|staged| Work::Build(staged, Then::Activate));
        watch::plain(state.workers.carry_on(attempt, work)?)?;
        let record = state.known.store.read_record(id)?;
        let failed = record.filter(|record| record.status != Status::Success);
        Ok(SyncResult {
            project: one.project,
            id: Some(id.to_string()),
            status: if failed.is_none() {
                "success"
            } else {
                "failed"
            },
            error: failed
                .and_then(|record| record.error)
                .map(|error| error.message),
        })
    }
}

/// Whether what is live at the peer is live here: built from the same payload.
fn is_here(state: &ServerState, one: &PeerRelease) -> Result<bool, Refusal> {
    let store = &state.known.store;
    let Some(live) = store.live(&one.project) else {
        return Ok(false);
    };
    let ours = store
        .read_record(live)?
        .and_then(|record| record.payload_hash);
    Ok(ours.is_some() && ours == one.payload_hash)
}

/// The last event.
fn end(result: Result<Vec<SyncResult>, Refusal>) -> Event {
    let results = match result {
        Ok(results) => results,
        Err(refusal) => return failed(refusal.code, refusal.message, Map::new()),
    };
    let deployments: Vec<Value> = results.iter().map(SyncResult::json).collect();
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

fn failed(code: Code, message: String, more: Map<String, Value>) -> Event {
    Event::Error(Box::new(Failure {
        message,
        code: code.word().to_owned(),
        more,
        ..Failure::default()
    }))
}

/// What the thread that catches up tells.
struct SyncEvents(Receiver<Event>);

impl StreamSource for SyncEvents {
    fn next(&mut self, records: &mut Vec<u8>, wait: Duration) -> Result<Batch, Error> {
        let event = match self.0.recv_timeout(wait) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) => return Ok(Batch::Nothing),
            Err(RecvTimeoutError::Disconnected) => failed(
                Code::Internal,
                "catching up: it ended unexpectedly, which is a bug; the server's log has more"
                    .into(),
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
