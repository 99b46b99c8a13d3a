//! One function for each operation.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use crate::attempt::Attempt;
use crate::deploy::{self, Staged};
use crate::error::{Code, Refusal};
use crate::http::{Answer, Exchange};
use crate::journal::Follower;
use crate::name::DeploymentId;
use crate::operation::{Deploy, List, Operation, Restart};
use crate::record::Record;
use crate::serve::desk::{self, Caller, Desk, Outcome};
use crate::serve::form::{Bytes, Payload, Request};
use crate::serve::stream::{self, Events};
use crate::tokens::Role;
use crate::worker::{not_found, stopped_as};

/// A Harper CLI reads this as 5.1 or newer and then sends multipart and reads events.
const REGISTRATION: &str = concat!("5.1.14+gangplank.", env!("CARGO_PKG_VERSION"));
/// How many deployments a listing has if nobody says.
const LIST_LIMIT: u64 = 100;

/// What a request's head says of the answer.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    /// Events instead of a plain answer.
    pub(super) events: bool,
}

impl Wanted {
    pub(super) fn of(exchange: &Exchange) -> Wanted {
        Wanted {
            events: exchange
                .header("Accept")
                .is_some_and(|accept| accept.contains("text/event-stream")),
        }
    }
}

/// Performs the operation of a `POST /`.
pub(super) fn perform(
    desk: &Desk,
    request: Request<'_>,
    wanted: Wanted,
    resume: Option<u64>,
    caller: &Caller,
) -> Result<Outcome, Refusal> {
    let name = request.operation().to_owned();
    let operation = Operation::parse(&request.fields)?;
    let role = match &operation {
        Operation::Deploy(_) => Role::Deploy,
        _ => Role::Read,
    };
    caller.needs(role, &name)?;
    let value = match operation {
        Operation::Deploy(deploy) => {
            caller.may_touch(&deploy.project, &name)?;
            return deploy_component(desk, &deploy, request, wanted, caller.name());
        }
        Operation::GetDeployment(id) if wanted.events => {
            visible(desk, id, caller, &name)?;
            return replay(desk, id, resume.unwrap_or(0));
        }
        Operation::GetDeployment(id) => {
            visible(desk, id, caller, &name)?;
            get_deployment(desk, id)?
        }
        Operation::ListDeployments(list) => list_deployments(desk, &list, caller)?,
        Operation::GetComponents => get_components(desk, caller)?,
        Operation::RegistrationInfo => json!({ "version": REGISTRATION }),
        Operation::SystemInformation => system_information(desk)?,
    };
    Ok(Outcome::Answer(desk::json(200, &value)))
}

/// Answers `GET /deployments/WHICH/events`.
pub(super) fn watch(
    desk: &Desk,
    exchange: &Exchange,
    which: &str,
    caller: &Caller,
) -> Result<Outcome, Refusal> {
    if which == "latest" {
        // It does not resume: the newest deployment may be another one by then.
        let id = latest(desk, exchange.query("project"))?;
        visible(desk, id, caller, "watching")?;
        return Ok(watched(desk.workers.follow(id, 0)?));
    }
    let Ok(id) = which.parse::<DeploymentId>() else {
        return Err(Refusal::new(
            Code::NotFound,
            format!("No deployment found with id '{}'", which.escape_debug()),
        ));
    };
    visible(desk, id, caller, "watching")?;
    let after = resume(exchange)?.unwrap_or(0);
    let follower = desk.workers.follow(id, after)?;
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
fn visible(desk: &Desk, id: DeploymentId, caller: &Caller, name: &str) -> Result<(), Refusal> {
    match desk.store.read_record(id)? {
        Some(record) => caller.may_touch(&record.project, name),
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
fn replay(desk: &Desk, id: DeploymentId, after: u64) -> Result<Outcome, Refusal> {
    let follower = desk.workers.follow(id, after)?;
    if after == 0 || !follower.at_end()? {
        return Ok(watched(follower));
    }
    let last = desk.workers.follow(id, 0)?.last()?;
    Ok(watched(desk.workers.follow(id, last.saturating_sub(1))?))
}

fn deploy_component(
    desk: &Desk,
    deploy: &Deploy,
    request: Request<'_>,
    wanted: Wanted,
    user: Option<String>,
) -> Result<Outcome, Refusal> {
    supported(deploy)?;
    let Some(payload) = request.payload else {
        let why = format!(
            "deploying {}: a payload is required, as the last part of a form or as base64",
            deploy.project
        );
        return Err(Refusal::new(Code::BadRequest, why));
    };
    let free = desk.store.disk_free()?;
    if request.payload_least > free.saturating_sub(desk.limits.min_free_disk) {
        let why = format!(
            "receiving the payload of {}: it has {} bytes or more, and of the disk {free} are free, of which {} stay so",
            deploy.project, request.payload_least, desk.limits.min_free_disk
        );
        return Err(Refusal::new(Code::NoSpace, why));
    }
    let mut attempt = desk.workers.begin(deploy, user)?;
    let id = attempt.record().deployment_id;
    match extract(desk, deploy, payload, &mut attempt) {
        Ok(staged) => {
            let follower = desk.workers.follow(id, 0)?;
            desk.workers.submit(staged, attempt);
            outcome(follower, wanted)
        }
        Err(refusal) => {
            let why = desk.workers.why_stopped(id);
            desk.workers.end(attempt, Err(stopped_as(refusal, why)));
            outcome(desk.workers.follow(id, 0)?, wanted)
        }
    }
}

fn outcome(follower: Follower, wanted: Wanted) -> Result<Outcome, Refusal> {
    if wanted.events {
        return Ok(Outcome::Events(Events {
            follower,
            watching: false,
        }));
    }
    Ok(Outcome::Answer(stream::plain(follower)?))
}

fn extract(
    desk: &Desk,
    deploy: &Deploy,
    payload: Payload<'_>,
    attempt: &mut Attempt,
) -> Result<Staged, Refusal> {
    let mut bytes = Bytes::new(payload, attempt.stop().clone());
    deploy::extract(
        attempt,
        &desk.store,
        &mut bytes,
        deploy.payload_sha256.as_deref(),
        &desk.limits,
        desk.account.as_deref(),
    )
}

/// What a later version will do is refused until then, and not left out in silence.
fn supported(deploy: &Deploy) -> Result<(), Refusal> {
    let faults = [
        (
            deploy.restart != Restart::No,
            "'restart' is not supported yet: deploy without it",
        ),
        (!deploy.activate, "'activate': false is not supported yet"),
        (deploy.replicated, "'replicated' is not supported yet"),
        (
            deploy.release.is_some(),
            "'deployment_id' is not supported yet: send a payload",
        ),
    ];
    let faults: Vec<&str> = faults
        .into_iter()
        .filter_map(|(found, fault)| found.then_some(fault))
        .collect();
    if faults.is_empty() {
        Ok(())
    } else {
        Err(Refusal::new(Code::BadRequest, faults.join(". ")))
    }
}

fn get_deployment(desk: &Desk, id: DeploymentId) -> Result<Value, Refusal> {
    let record = desk.store.read_record(id)?.ok_or_else(|| not_found(id))?;
    shown(&record, true)
}

fn shown(record: &Record, events: bool) -> Result<Value, Refusal> {
    let mut value = serde_json::to_value(record)
        .map_err(|error| Refusal::new(Code::Internal, format!("writing down a record: {error}")))?;
    if !events && let Some(fields) = value.as_object_mut() {
        fields.remove("event_log");
    }
    Ok(value)
}

fn list_deployments(desk: &Desk, list: &List, caller: &Caller) -> Result<Value, Refusal> {
    let (mut total, mut page) = (0_u64, Vec::new());
    for id in desk.store.deployments()?.into_iter().rev() {
        // One that was removed meanwhile is none.
        let Some(record) = desk.store.read_record(id)? else {
            continue;
        };
        if !matches(&record, list) || caller.is_barred_from(&record.project) {
            continue;
        }
        if total >= list.offset && total - list.offset < list.limit.unwrap_or(LIST_LIMIT) {
            page.push(shown(&record, list.include_events)?);
        }
        total += 1;
    }
    Ok(json!({ "deployments": page, "total": total }))
}

fn matches(record: &Record, list: &List) -> bool {
    let status = || serde_json::to_value(record.status).ok();
    list.project
        .as_ref()
        .is_none_or(|project| project == record.project.as_str())
        && list
            .status
            .as_ref()
            .is_none_or(|wanted| status().is_some_and(|status| status == wanted.as_str()))
        && list.since.is_none_or(|since| record.started_at >= since)
        && list.until.is_none_or(|until| record.started_at <= until)
}

fn latest(desk: &Desk, project: Option<&str>) -> Result<DeploymentId, Refusal> {
    for id in desk.store.deployments()?.into_iter().rev() {
        match project {
            None => return Ok(id),
            Some(project) => {
                if desk
                    .store
                    .read_record(id)?
                    .is_some_and(|record| record.project.as_str() == project)
                {
                    return Ok(id);
                }
            }
        }
    }
    let of = project
        .map(|project| format!(" of '{}'", project.escape_debug()))
        .unwrap_or_default();
    Err(Refusal::new(
        Code::NotFound,
        format!("No deployment{of} found"),
    ))
}

fn get_components(desk: &Desk, caller: &Caller) -> Result<Value, Refusal> {
    let mut components = desk.store.components()?;
    components.retain(|component| !caller.is_barred_from(&component.project));
    let components = components.into_iter().map(|component| {
        json!({
            "project": component.project,
            "deployment_id": component.release_id,
            "release_id": component.release_id,
            "since": component.since,
            "processes": [],
            "releases": component.releases,
        })
    });
    Ok(json!({ "components": components.collect::<Vec<_>>() }))
}

fn system_information(desk: &Desk) -> Result<Value, Refusal> {
    let uptime = desk.started.elapsed().as_millis();
    Ok(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_ms": u64::try_from(uptime).unwrap_or(u64::MAX),
        "disk_free": desk.store.disk_free()?,
        "requests": desk.requests.load(Ordering::Relaxed),
        "deployments_running": desk.workers.running(),
        "deployments_stored": desk.store.deployments()?.len(),
    }))
}
