//! What is done here and then at all peers at once, and ends with how each of them did.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::api::error::{Code, Refusal};
use crate::api::event::Event;
use crate::api::name::Project;
use crate::api::operation::{ForPeers, Operation};
use crate::client::follow::Subject;
use crate::engine::peers::all::{PeerReply, ask_all};
use crate::server::answers::{self, Outcome};
use crate::server::state::ServerState;
use crate::server::{start, stop, sync};

/// A peer kills what does not stop within 10 s, and a busy one takes a while to come to it.
const TIMEOUT: Duration = Duration::from_secs(120);

/// A stop or a start on all hosts.
pub(super) struct Everywhere {
    project: Project,
    /// Failed peers are left behind.
    ignores: bool,
    doing: &'static str,
    here: fn(&ServerState, &Project) -> Result<Value, Refusal>,
    operation: fn(Project, ForPeers) -> Operation,
}

impl Everywhere {
    pub(super) fn stop(project: Project, peers: ForPeers) -> Everywhere {
        Everywhere {
            project,
            ignores: peers.ignores,
            doing: "stopping",
            here: stop::stop_component,
            operation: Operation::Stop,
        }
    }

    pub(super) fn start(project: Project, peers: ForPeers) -> Everywhere {
        Everywhere {
            doing: "starting",
            here: start::start_component,
            operation: Operation::Start,
            ..Everywhere::stop(project, peers)
        }
    }

    /// Does it, and answers at the end, by an event if that is asked for.
    pub(super) fn begin(self, state: &Arc<ServerState>, events: bool) -> Result<Outcome, Refusal> {
        if state.deployer.peers().is_empty() {
            let (doing, project) = (self.doing, &self.project);
            let why = format!("{doing} {project}: this server has no peers to replicate to");
            return Err(Refusal::new(Code::ReplicateFailed, why));
        }
        // What cannot be done here is asked of nobody.
        let here = (self.here)(state, &self.project)?;
        if !events {
            return answers::ended(Some(self.at_peers(state, here))).map(Outcome::Answer);
        }
        let state = Arc::clone(state);
        sync::told(self.doing, move |_| self.at_peers(&state, here))
    }

    /// Asks the peers, and tells how all hosts did.
    fn at_peers(&self, state: &ServerState, here: Value) -> Event {
        let operation = (self.operation)(self.project.clone(), ForPeers::default());
        let asked = (Subject::Operation, &operation);
        self.end(
            state.deployer.node(),
            here,
            &ask_all(state.deployer.peers(), asked, TIMEOUT),
        )
    }

    fn end(&self, node: &str, mut here: Value, replies: &[PeerReply<'_>]) -> Event {
        let results: Vec<Value> = replies.iter().map(PeerReply::result).collect();
        let own = json!({"node": node, "status": "success"});
        let failed = replies.iter().filter_map(|reply| {
            let why = reply.answer.as_ref().err()?;
            Some((reply.peer, format!("{}: {why}", reply.peer)))
        });
        let (names, reasons): (Vec<&str>, Vec<String>) = failed.unzip();
        if names.is_empty() || self.ignores && names.len() < replies.len() {
            here["origin_result"] = own;
            here["peer_results"] = results.into();
            return Event::Done(here);
        }
        let more = Map::from_iter([
            ("origin_result".to_owned(), own),
            ("failed_peers".to_owned(), json!(names)),
            ("peer_results".to_owned(), results.into()),
        ]);
        let why = format!("{} {}: {}", self.doing, self.project, reasons.join("; "));
        sync::failed(Code::ReplicateFailed, why, more)
    }
}
