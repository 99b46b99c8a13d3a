//! A deployment's events: to whoever began it, to whoever watches, and as the plain answer at its end.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::api::error::{Code, Error, Refusal};
use crate::api::name::{DeploymentId, Project};
use crate::api::record::Summary;
use crate::engine::deployer::Deployer;
use crate::server::answers::{self, Outcome};
use crate::server::auth::Caller;
use crate::server::broadcast::{Broadcasts, DeploymentEvents};
use crate::server::http::{Answer, Exchange};
use crate::server::options::{self, RequestOptions};
use crate::server::pump::{Batch, LiveStream, OpenStream, StreamSource};
use crate::server::state::ServerState;
use crate::store::journal::Follower;

/// Answers `GET /deployments/WHICH/events`.
pub(super) fn watch(
    state: &ServerState,
    exchange: &Exchange,
    which: &str,
    caller: &Caller,
) -> Result<Outcome, Refusal> {
    if which == "latest" {
        return latest(state, exchange, caller);
    }
    if which == "next" {
        return next(state, exchange, caller);
    }
    let Ok(id) = which.parse::<DeploymentId>() else {
        return Err(Refusal::new(
            Code::NotFound,
            format!("No deployment found with id '{}'", which.escape_debug()),
        ));
    };
    caller.may_see(&state.known.store, id)?;
    let after = options::resume(exchange)?.unwrap_or(0);
    let follower = state.deployer.follow(id, after)?;
    if after > 0 && follower.at_end()? {
        // An EventSource stops at this instead of asking again and again.
        let nothing = Answer {
            status: 204,
            content_type: "text/event-stream",
            headers: Vec::new(),
            body: Vec::new(),
        };
        return Ok(Outcome::Answer(nothing));
    }
    Ok(watched(state, follower))
}

/// The events of the first deployment of a component that begins after another one: after the newest that there is, unless
/// it is said after which. Until then the stream is silent.
fn next(state: &ServerState, exchange: &Exchange, caller: &Caller) -> Result<Outcome, Refusal> {
    let bad = |why: String| Refusal::new(Code::BadRequest, why);
    let name = exchange
        .query("project")
        .ok_or_else(|| bad("'project' is required".into()))?;
    let project = name
        .parse::<Project>()
        .map_err(|error| bad(error.to_string()))?;
    if caller.is_barred_from(&project) {
        return Err(Refusal::new(
            Code::NotFound,
            format!("No deployment of '{project}' found"),
        ));
    }
    let after = match exchange.query("after") {
        None => state.deployer.newest(&project),
        Some("0") => None,
        Some(text) => Some(
            text.parse::<DeploymentId>()
                .map_err(|_| bad("'after' must be a deployment id, or 0".into()))?,
        ),
    };
    Ok(Outcome::Stream(LiveStream::watched(NextDeployment {
        deployer: Arc::clone(&state.deployer),
        broadcasts: Arc::clone(&state.broadcasts),
        project,
        after,
        begun: None,
    })))
}

/// The events of a deployment that may be still to come.
struct NextDeployment {
    deployer: Arc<Deployer>,
    broadcasts: Arc<Broadcasts>,
    project: Project,
    after: Option<DeploymentId>,
    begun: Option<DeploymentEvents>,
}

impl StreamSource for NextDeployment {
    fn next(&mut self, records: &mut Vec<u8>, wait: Duration) -> Result<Batch, Error> {
        if let Some(begun) = &mut self.begun {
            return begun.next(records, wait);
        }
        match self.deployer.next(&self.project, self.after, wait) {
            Ok(None) => Ok(Batch::Nothing),
            Ok(Some(follower)) => {
                let events = DeploymentEvents::shared(follower, &self.broadcasts);
                let begun = self.begun.insert(events);
                begun.next(records, Duration::ZERO)
            }
            // Without a last event: it goes on with the next server.
            Err(refusal) if refusal.code == Code::Stopping => Ok(Batch::End),
            Err(refusal) => Err(Error::new("waiting for a deployment", refusal.message)),
        }
    }

    fn is_shared(&self) -> bool {
        self.begun.is_some()
    }

    fn take_over(&mut self, stream: Box<OpenStream>) -> Result<(), Box<OpenStream>> {
        match &mut self.begun {
            Some(begun) => begun.take_over(stream),
            None => Err(stream),
        }
    }
}

/// Points to the newest deployment, of a component or of all that are the caller's business, so that an EventSource that
/// comes back comes back to the same one.
fn latest(state: &ServerState, exchange: &Exchange, caller: &Caller) -> Result<Outcome, Refusal> {
    let project = exchange.query("project");
    let is_it = |one: &Summary| {
        project.is_none_or(|project| one.project.as_str() == project)
            && !caller.is_barred_from(&one.project)
    };
    let found = state.known.index.look(|all| {
        let newest = all.iter().rev().find(|(_, one)| is_it(one));
        newest.map(|(id, _)| *id)
    });
    let id = found.ok_or_else(|| {
        let of = project
            .map(|project| format!(" of '{}'", project.escape_debug()))
            .unwrap_or_default();
        Refusal::new(Code::NotFound, format!("No deployment{of} found"))
    })?;
    // Relative, since a proxy may have put something before the path.
    let up = match exchange.path().ends_with('/') {
        false => "..",
        true => "../..",
    };
    let mut location = format!("{up}/{id}/events");
    if let Some(from) = options::resume(exchange)?.filter(|_| exchange.query("from").is_some()) {
        location += &format!("?from={from}");
    }
    let mut answer = answers::json(307, &json!({ "deployment_id": id }));
    answer.headers.push(("Location", location));
    Ok(Outcome::Answer(answer))
}

/// Replays and follows; if nothing comes after the event that was asked for, the terminal one is sent again.
pub(super) fn replay(
    state: &ServerState,
    id: DeploymentId,
    after: u64,
) -> Result<Outcome, Refusal> {
    let follower = state.deployer.follow(id, after)?;
    if after == 0 || !follower.at_end()? {
        return Ok(watched(state, follower));
    }
    let last = state.deployer.follow(id, 0)?.last()?;
    let follower = state.deployer.follow(id, last.saturating_sub(1))?;
    Ok(watched(state, follower))
}

/// Events to somebody who began nothing.
fn watched(state: &ServerState, follower: Follower) -> Outcome {
    let events = DeploymentEvents::shared(follower, &state.broadcasts);
    Outcome::Stream(LiveStream::watched(events))
}

/// What whoever began a deployment gets: its events, or the plain answer at its end.
pub(super) fn outcome(
    state: &ServerState,
    follower: Follower,
    options: &RequestOptions,
) -> Result<Outcome, Refusal> {
    if options.events {
        return Ok(Outcome::Stream(LiveStream {
            source: Box::new(DeploymentEvents::alone(follower)),
            watching: false,
        }));
    }
    let id = follower.deployment();
    // Where its end cannot be read, the answer names at least the deployment, which goes on.
    let named = |refusal: Refusal| match id {
        Some(id) => refusal.about(id),
        None => refusal,
    };
    let end = state.deployer.wait(follower).map_err(named)?;
    Ok(Outcome::Answer(answers::ended(Some(end))?))
}
