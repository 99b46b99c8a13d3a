//! `sync`: what is live at a peer and not here is deployed here, from the payloads that the peer has stored.

use std::io;
use std::thread;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use serde_json::{Map, Value, json};

use crate::api::error::{Code, Refusal};
use crate::api::event::Status;
use crate::api::name::Project;
use crate::api::operation::Restart;
use crate::engine::deployer::DeploySpec;
use crate::engine::peers::{Peer, PeerRelease};
use crate::engine::stages::{Then, Work};
use crate::formats::sse;
use crate::server::answers::json;
use crate::server::deploy::intake;
use crate::server::http::Exchange;
use crate::server::state::ServerState;
use crate::server::watch::{self, HEARTBEAT_AFTER};
use crate::system::log;
use crate::system::stop::Stop;
use crate::system::threads;

/// The stack of the thread that deploys one component after the other.
const STACK_BYTES: usize = 512 << 10;

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
    /// Refuses a peer that nobody knows.
    ///
    /// # Errors
    /// `not_found`.
    pub(super) fn check(&self, state: &ServerState) -> Result<(), Refusal> {
        self.peer(state).map(drop)
    }

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
    pub(super) fn answer(&self, state: &ServerState, exchange: Exchange) -> (u16, io::Result<()>) {
        if !self.events {
            let (status, value) = end(&self.run(state, None));
            return (status, exchange.answer(json(status, &value)));
        }
        (200, self.stream(state, exchange))
    }

    fn stream(&self, state: &ServerState, exchange: Exchange) -> io::Result<()> {
        let mut stream = exchange.stream(false)?;
        stream.send(sse::OPEN)?;
        thread::scope(|scope| {
            // The next one is told when this one was sent.
            let (sender, told) = bounded(1);
            let work = move || self.run(state, Some(sender));
            let thread = threads::spawn_scoped(scope, "sync", STACK_BYTES, work)?;
            loop {
                let mut record = Vec::new();
                match told.recv_timeout(HEARTBEAT_AFTER) {
                    Ok(one) => sse::frame(&mut record, None, "sync", &format!("{one}")),
                    Err(RecvTimeoutError::Timeout) => record.extend_from_slice(sse::HEARTBEAT),
                    Err(RecvTimeoutError::Disconnected) => break,
                }
                stream.send(&record)?;
            }
            let result = match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            let mut record = Vec::new();
            match end(&result) {
                (200, value) => {
                    sse::frame(
                        &mut record,
                        None,
                        "done",
                        &json!({ "result": value }).to_string(),
                    );
                }
                (_, mut value) => {
                    if let Some(map) = value.as_object_mut() {
                        let why = map.remove("error").unwrap_or_default();
                        map.insert("message".into(), why);
                    }
                    sse::frame(&mut record, None, "error", &value.to_string());
                }
            }
            stream.send(&record)?;
            stream.end()
        })
    }

    /// Deploys what differs, one component after the other.
    fn run(
        &self,
        state: &ServerState,
        tell: Option<Sender<Value>>,
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
            if let Some(tell) = &tell {
                // Nobody who listens is no reason to stop in the middle.
                let _ = tell.send(done.json());
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

/// The status of the answer, and the answer.
fn end(result: &Result<Vec<SyncResult>, Refusal>) -> (u16, Value) {
    let results = match result {
        Ok(results) => results,
        Err(refusal) => {
            let mut body = Map::new();
            body.insert("error".into(), refusal.message.as_str().into());
            body.insert("code".into(), refusal.code.word().into());
            return (refusal.code.status(), Value::Object(body));
        }
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
        return (
            200,
            json!({ "message": message, "deployments": deployments }),
        );
    }
    let code = Code::ReplicateFailed;
    let why = format!("catching up: {} failed", broken.join(", "));
    let body = json!({ "error": why, "code": code.word(), "deployments": deployments });
    (code.status(), body)
}

/// Catches up at the start, and says in the log what came of it.
pub(super) fn at_start(state: &ServerState, from: &str) {
    let sync = Sync {
        from: from.to_owned(),
        project: None,
        user: None,
        events: false,
    };
    let (status, value) = end(&sync.run(state, None));
    match status {
        200 => log::info(&format!("catching up from {from}: {}", value["message"])),
        _ => log::error(&value.to_string()),
    }
}
