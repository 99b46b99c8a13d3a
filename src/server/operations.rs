//! One function for each operation.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use crate::api::error::{Code, Refusal};
use crate::api::event::Status;
use crate::api::name::{DeploymentId, Project};
use crate::api::operation::{Logs, Operation, Rollback};
use crate::api::record::{Summary, hash_key};
use crate::engine::deployer::not_found;
use crate::server::form::RequestBody;
use crate::server::http::{Answer, Exchange};
use crate::server::router::{self, Caller, Outcome, ServerState};
use crate::server::stream::Events;
use crate::server::syncing::Sync;
use crate::server::{deploying, listing, logs};
use crate::store::index::All;
use crate::store::journal::Follower;
use crate::store::tokens::Role;

/// A Harper CLI reads this as 5.1 or newer and then sends multipart and reads events.
const REGISTRATION: &str = concat!("5.1.14+gangplank.", env!("CARGO_PKG_VERSION"));
/// The longest idempotency key.
const KEY_LEN_MAX: usize = 128;

/// What a request's head says.
pub(super) struct RequestOptions {
    /// Events instead of a plain answer.
    pub(super) events: bool,
    /// After which event to go on.
    pub(super) resume: Option<u64>,
    /// The hash of the key by which a second request is known.
    pub(super) key: Option<String>,
    /// The gate's number of the connection.
    pub(super) connection: Option<u64>,
}

impl RequestOptions {
    pub(super) fn of(exchange: &Exchange) -> Result<RequestOptions, Refusal> {
        let events = exchange
            .header("Accept")
            .is_some_and(|accept| accept.contains("text/event-stream"));
        let key = exchange.header("Idempotency-Key").map(|key| {
            let fits = (1..=KEY_LEN_MAX).contains(&key.len());
            if fits && key.bytes().all(|byte| byte.is_ascii_graphic()) {
                Ok(hash_key(key))
            } else {
                let why =
                    format!("'Idempotency-Key' must have 1 to {KEY_LEN_MAX} visible characters");
                Err(Refusal::new(Code::BadRequest, why))
            }
        });
        Ok(RequestOptions {
            events,
            resume: resume(exchange)?,
            key: key.transpose()?,
            connection: exchange.connection(),
        })
    }
}

/// Performs the operation of a `POST /`.
pub(super) fn perform(
    state: &ServerState,
    request: RequestBody<'_>,
    options: RequestOptions,
    caller: &Caller,
) -> Result<Outcome, Refusal> {
    let name = request.operation().to_owned();
    let operation = Operation::parse(&request.fields)?;
    caller.needs(role(&operation), &name)?;
    match &operation {
        Operation::Deploy(deploy) => caller.may_touch(&deploy.project, &name)?,
        Operation::Rollback(Rollback { project, .. })
        | Operation::Drop(project)
        | Operation::Sync(_, Some(project))
        | Operation::Restart(project, _)
        | Operation::GetLogs(Logs { project, .. }) => caller.may_touch(project, &name)?,
        Operation::GetDeployment(id)
        | Operation::GetPayload(id)
        | Operation::DeletePayload(id)
        | Operation::Cancel(id) => visible(state, *id, caller, &name)?,
        // All components are somebody else's business, too.
        Operation::Sync(_, None) => caller.is_unlimited(&name)?,
        _ => {}
    }
    let value = match operation {
        Operation::Deploy(deploy) => {
            return deploying::deploy(state, &deploy, request, options, caller.name());
        }
        Operation::Rollback(rollback) => {
            return deploying::rollback(state, &rollback, options, caller.name());
        }
        Operation::GetDeployment(id) if options.events => {
            return replay(state, id, options.resume.unwrap_or(0));
        }
        Operation::Restart(project, restart) => {
            return deploying::restart(state, &project, restart, &options, caller.name());
        }
        Operation::Sync(from, project) => {
            let (user, events) = (caller.name(), options.events);
            let sync = Sync {
                from,
                project,
                user,
                events,
            };
            sync.check(state)?;
            return Ok(Outcome::Sync(sync));
        }
        Operation::GetLogs(request) => return logs::get_logs(state, &request, &options),
        Operation::GetPayload(id) => return get_payload(state, id),
        Operation::GetDeployment(id) => get_deployment(state, id)?,
        Operation::DeletePayload(id) => delete_payload(state, id)?,
        Operation::Cancel(id) => deploying::cancel(state, id)?,
        Operation::Drop(project) => deploying::drop_component(state, &project)?,
        Operation::ListDeployments(list) => {
            return listing::list_deployments(state, &list, caller).map(Outcome::Answer);
        }
        Operation::GetComponents => get_components(state, caller)?,
        Operation::RegistrationInfo => json!({ "version": REGISTRATION }),
        Operation::SystemInformation => system_information(state)?,
    };
    Ok(Outcome::Answer(router::json(200, &value)))
}

/// The least role that may ask for an operation.
fn role(operation: &Operation) -> Role {
    match operation {
        Operation::Deploy(_)
        | Operation::Rollback(_)
        | Operation::Drop(_)
        | Operation::Restart(..)
        | Operation::Sync(..)
        | Operation::Cancel(_)
        | Operation::DeletePayload(_) => Role::Deploy,
        // It is the component's source, secrets included if there are any.
        Operation::GetPayload(_) => Role::Admin,
        Operation::GetDeployment(_)
        | Operation::ListDeployments(_)
        | Operation::GetLogs(_)
        | Operation::GetComponents
        | Operation::RegistrationInfo
        | Operation::SystemInformation => Role::Read,
    }
}

/// Answers `GET /deployments/WHICH/events`.
pub(super) fn watch(
    state: &ServerState,
    exchange: &Exchange,
    which: &str,
    caller: &Caller,
) -> Result<Outcome, Refusal> {
    if which == "latest" {
        // It does not resume: the newest deployment may be another one by then.
        let id = listing::latest(state, exchange.query("project"))?;
        visible(state, id, caller, "watching")?;
        return Ok(watched(state.workers.follow(id, 0)?));
    }
    let Ok(id) = which.parse::<DeploymentId>() else {
        return Err(Refusal::new(
            Code::NotFound,
            format!("No deployment found with id '{}'", which.escape_debug()),
        ));
    };
    visible(state, id, caller, "watching")?;
    let after = resume(exchange)?.unwrap_or(0);
    let follower = state.workers.follow(id, after)?;
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
    Ok(watched(follower))
}

/// Refuses to show a deployment of a component that is none of the caller's business.
fn visible(
    state: &ServerState,
    id: DeploymentId,
    caller: &Caller,
    name: &str,
) -> Result<(), Refusal> {
    match state.known.store.read_summary(id)? {
        Some(one) => caller.may_touch(&one.project, name),
        None => Err(not_found(id)),
    }
}

/// Events to somebody who began nothing.
fn watched(follower: Follower) -> Outcome {
    Outcome::Events(Events {
        follower,
        watching: true,
    })
}

/// After which event to go on: `?from=N`, else the header that an EventSource sends.
pub(super) fn resume(exchange: &Exchange) -> Result<Option<u64>, Refusal> {
    let (name, text) = match (exchange.query("from"), exchange.header("Last-Event-ID")) {
        (Some(text), _) => ("from", text),
        (None, Some(text)) => ("Last-Event-ID", text),
        (None, None) => return Ok(None),
    };
    match text.trim().parse::<u64>() {
        Ok(after) if text.trim().bytes().all(|byte| byte.is_ascii_digit()) => Ok(Some(after)),
        _ => Err(Refusal::new(
            Code::BadRequest,
            format!("'{name}' must be a whole number from 0 up"),
        )),
    }
}

/// Replays and follows; if nothing comes after the event that was asked for, the terminal one is sent again.
fn replay(state: &ServerState, id: DeploymentId, after: u64) -> Result<Outcome, Refusal> {
    let follower = state.workers.follow(id, after)?;
    if after == 0 || !follower.at_end()? {
        return Ok(watched(follower));
    }
    let last = state.workers.follow(id, 0)?.last()?;
    Ok(watched(state.workers.follow(id, last.saturating_sub(1))?))
}

fn get_deployment(state: &ServerState, id: DeploymentId) -> Result<Value, Refusal> {
    let record = state.known.store.read_record(id)?;
    let record = record.ok_or_else(|| not_found(id))?;
    serde_json::to_value(record)
        .map_err(|error| Refusal::new(Code::Internal, format!("writing down a record: {error}")))
}

fn get_payload(state: &ServerState, id: DeploymentId) -> Result<Outcome, Refusal> {
    if state.workers.is_running(id) {
        let why = format!("reading the payload of deployment {id}: it is still running");
        return Err(Refusal::new(Code::Conflict, why));
    }
    let (file, length) = deploying::payload(state, id)?;
    let name = format!("deployment-{id}.tar.gz");
    Ok(Outcome::File(file, length, name))
}

fn delete_payload(state: &ServerState, id: DeploymentId) -> Result<Value, Refusal> {
    if state.workers.is_running(id) {
        let why = format!("deleting the payload of deployment {id}: it is still running");
        return Err(Refusal::new(Code::Conflict, why).about(id));
    }
    let size = std::fs::metadata(state.known.store.payload(id)).map_or(0, |meta| meta.len());
    state.known.store.remove_payload(id)?;
    Ok(json!({
        "message": format!("Successfully deleted the payload of deployment {id}"),
        "deployment_id": id,
        "freed_bytes": size,
    }))
}

fn get_components(state: &ServerState, caller: &Caller) -> Result<Value, Refusal> {
    let mut components = state.known.store.components()?;
    components.retain(|component| !caller.is_barred_from(&component.project));
    let components = components.into_iter().map(|component| {
        json!({
            "project": component.project,
            "deployment_id": made_live(state, &component.project, component.release_id),
            "release_id": component.release_id,
            "since": component.since,
            "processes": state.processes.status(&component.project),
            "releases": component.releases,
        })
    });
    Ok(json!({ "components": components.collect::<Vec<_>>() }))
}

/// The deployment that made a release the live one; the one that built it if that is not known any more.
fn made_live(state: &ServerState, project: &Project, release: DeploymentId) -> DeploymentId {
    let is_it = |(_, one): &(&DeploymentId, &Summary)| {
        one.project == *project && one.release_id == release && one.status == Status::Success
    };
    let found = state.known.index.look(|all| {
        let newest = all.iter().rev().find(is_it);
        newest.map(|(id, _)| *id)
    });
    found.unwrap_or(release)
}

fn system_information(state: &ServerState) -> Result<Value, Refusal> {
    let uptime = state.started.elapsed().as_millis();
    Ok(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_ms": u64::try_from(uptime).unwrap_or(u64::MAX),
        "disk_free": state.known.store.disk_free()?,
        "requests": state.requests.load(Ordering::Relaxed),
        "deployments_running": state.workers.running(),
        "deployments_stored": state.known.index.look(All::len),
    }))
}
