//! The operations that change what is live: deploying a payload, going back to an earlier release, stopping a deployment,
//! removing a component.

use std::fs::File;

use serde_json::{Value, json};

use crate::api::error::{Code, Doing, Refusal};
use crate::api::event::Status;
use crate::api::name::{DeploymentId, Project};
use crate::api::operation::{Deploy, Restart, Rollback};
use crate::api::record::Record;
use crate::engine::deployer::{DeploySpec, Started, not_found};
use crate::engine::stages::{Intake, Ready, Then, Work};
use crate::server::form::{Bytes, PayloadSource, RequestBody};
use crate::server::operations::RequestOptions;
use crate::server::router::{Outcome, ServerState};
use crate::server::stream::{self, Events};
use crate::store::journal::Follower;

/// Performs `deploy_component`.
pub(super) fn deploy(
    state: &ServerState,
    deploy: &Deploy,
    request: RequestBody<'_>,
    options: RequestOptions,
    user: Option<String>,
) -> Result<Outcome, Refusal> {
    let project = &deploy.project;
    if let Some(earlier) = state.workers.earlier(project, options.key.as_deref())? {
        return outcome(earlier, &options);
    }
    if deploy.replicated && !state.workers.has_peers() {
        let why = format!("deploying {project}: this server has no peers to replicate to");
        return Err(Refusal::new(Code::ReplicateFailed, why));
    }
    match (request.payload, deploy.release) {
        (Some(_), Some(_)) => {
            let why =
                format!("deploying {project}: a payload and a 'deployment_id' cannot go together");
            Err(Refusal::new(Code::BadRequest, why))
        }
        (None, None) => {
            let why = format!(
                "deploying {project}: a payload is required, as the last part of a form or as base64"
            );
            Err(Refusal::new(Code::BadRequest, why))
        }
        (None, Some(id)) => {
            let what = format!("activating deployment {id} of {project}");
            let release = release_of(state, project, id, &what)?;
            let spec = DeploySpec {
                restart: deploy.restart,
                ..spec(project, &options, user)
            };
            activate(state, release, spec, &options, &what)
        }
        (Some(payload), None) => {
            has_room(state, project, request.payload_least)?;
            let then = match (deploy.activate, deploy.replicated) {
                (false, _) => Then::Keep,
                (true, false) => Then::Activate,
                (true, true) => Then::Replicate {
                    ignores: deploy.ignore_replication_errors,
                },
            };
            let spec = DeploySpec {
                then: Some(then),
                options: deploy.options.clone(),
                restart: deploy.restart,
                ..spec(project, &options, user)
            };
            receive(
                state,
                spec,
                payload,
                deploy.payload_sha256.as_deref(),
                &options,
            )
        }
    }
}

/// What is wished for by whoever asks.
fn spec(project: &Project, options: &RequestOptions, user: Option<String>) -> DeploySpec {
    DeploySpec {
        key: options.key.clone(),
        connection: options.connection,
        ..DeploySpec::live(project.clone(), user)
    }
}

/// Refuses a payload for which there is no room, by what is known of its size.
fn has_room(state: &ServerState, project: &Project, least: u64) -> Result<(), Refusal> {
    let (free, kept) = (state.known.store.disk_free()?, state.limits.min_free_disk);
    if least <= free.saturating_sub(kept) {
        return Ok(());
    }
    let why = format!(
        "receiving the payload of {project}: it has {least} bytes or more, and of the disk {free} are free, of which \
         {kept} stay so"
    );
    Err(Refusal::new(Code::NoSpace, why))
}

pub(super) fn intake(state: &ServerState) -> Intake<'_> {
    Intake {
        store: &state.known.store,
        limits: &state.limits,
        owner: state.account.as_deref(),
    }
}

fn receive(
    state: &ServerState,
    spec: DeploySpec,
    payload: PayloadSource<'_>,
    sha256: Option<&str>,
    options: &RequestOptions,
) -> Result<Outcome, Refusal> {
    let then = spec.then.unwrap_or(Then::Activate);
    let mut attempt = match state.workers.begin_once(spec)? {
        Started::New(attempt) => *attempt,
        Started::Earlier(follower) => return outcome(follower, options),
    };
    let mut bytes = Bytes::new(payload, attempt.stop().clone());
    let arrived = |id| state.workers.arrived(id);
    let staged = intake(state).receive(&mut attempt, &mut bytes, sha256, &arrived);
    let work = staged.map(|staged| Work::Build(staged, then));
    outcome(state.workers.carry_on(attempt, work)?, options)
}

/// Performs `rollback_component`.
pub(super) fn rollback(
    state: &ServerState,
    rollback: &Rollback,
    options: RequestOptions,
    user: Option<String>,
) -> Result<Outcome, Refusal> {
    let project = &rollback.project;
    let what = format!("rolling back {project}");
    if let Some(earlier) = state.workers.earlier(project, options.key.as_deref())? {
        return outcome(earlier, &options);
    }
    let Some(live) = state.known.store.live(project) else {
        return Err(Refusal::new(
            Code::NotFound,
            format!("{what}: nothing of it is live"),
        ));
    };
    let release = match rollback.to {
        Some(id) => release_of(state, project, id, &what)?,
        None => before(state, project, live, &what)?,
    };
    let spec = DeploySpec {
        rollback_of: Some(live),
        restart: rollback.restart,
        ..spec(project, &options, user)
    };
    activate(state, release, spec, &options, &what)
}

/// The record of the deployment that built a release: of that deployment itself, or of the one whose release it made live.
fn release_of(
    state: &ServerState,
    project: &Project,
    id: DeploymentId,
    what: &str,
) -> Result<Record, Refusal> {
    let store = &state.known.store;
    let found = store.read_record(id)?.ok_or_else(|| not_found(id))?;
    if found.project != *project {
        let why = format!("{what}: that is a deployment of {}", found.project);
        return Err(Refusal::new(Code::Conflict, why));
    }
    let record = match found.release_id {
        release if release == id => found,
        release => store
            .read_record(release)?
            .ok_or_else(|| not_found(release))?,
    };
    match record.status {
        Status::Success | Status::Staged | Status::RolledBack => Ok(record),
        status if status.ended() => {
            let why = format!("{what}: it has no release, since it did not end well");
            Err(Refusal::new(Code::Conflict, why))
        }
        _ => {
            let why = format!("{what}: it is still running");
            Err(Refusal::new(Code::Conflict, why))
        }
    }
}

/// The newest release before the live one that was live, and is still there or can be built again.
fn before(
    state: &ServerState,
    project: &Project,
    live: DeploymentId,
    what: &str,
) -> Result<Record, Refusal> {
    let store = &state.known.store;
    let mut releases: Vec<DeploymentId> = state.known.index.look(|all| {
        let of = all.values().filter(|one| {
            one.project == *project && one.status == Status::Success && one.release_id < live
        });
        of.map(|one| one.release_id).collect()
    });
    releases.sort_unstable();
    releases.dedup();
    let none = releases.is_empty();
    for id in releases.into_iter().rev() {
        if store.release(project, id).exists() || store.payload(id).exists() {
            return release_of(state, project, id, what);
        }
    }
    let why = if none {
        "no earlier release was ever live"
    } else {
        "of the earlier releases neither a tree nor a payload is left"
    };
    Err(Refusal::new(Code::NotFound, format!("{what}: {why}")))
}

/// Makes a release live that an earlier deployment built, or builds it again first if only its payload is left.
fn activate(
    state: &ServerState,
    of: Record,
    spec: DeploySpec,
    options: &RequestOptions,
    what: &str,
) -> Result<Outcome, Refusal> {
    let store = &state.known.store;
    let (project, release) = (spec.project.clone(), of.deployment_id);
    if store.live(&project) == Some(release) {
        let why = format!("{what}: release {release} is live already");
        return Err(Refusal::new(Code::Conflict, why).about(release));
    }
    let there = || store.release(&project, release).exists();
    let rebuilds = !there();
    let payload = match rebuilds {
        false => None,
        true => {
            let gone = |refusal: Refusal| {
                let why = format!(
                    "{what}: release {release} was removed, and {}",
                    refusal.message
                );
                Refusal::new(Code::NotFound, why)
            };
            Some(self::payload(state, release).map_err(gone)?.0)
        }
    };
    let spec = DeploySpec {
        release: Some(release),
        rebuilds,
        options: of.options,
        ..spec
    };
    let mut attempt = match state.workers.begin_once(spec)? {
        Started::New(attempt) => *attempt,
        Started::Earlier(follower) => return outcome(follower, options),
    };
    let work = match payload {
        Some(mut payload) => intake(state)
            .rebuild(&mut attempt, &mut payload, of.payload_hash.as_deref())
            .map(|staged| Work::Build(staged, Then::Activate)),
        // From the beginning on nobody removes it, but somebody may have before.
        None if there() => Ok(Work::Activate(Ready::built(store, &project, release))),
        None => Err(Refusal::new(
            Code::NotFound,
            format!("{what}: release {release} was removed just now; try again"),
        )),
    };
    outcome(state.workers.carry_on(attempt, work)?, options)
}

/// A stored payload and its length.
pub(super) fn payload(state: &ServerState, id: DeploymentId) -> Result<(File, u64), Refusal> {
    let path = state.known.store.payload(id);
    match File::open(&path) {
        Ok(file) => {
            let what = || format!("reading {}", path.display());
            let length = file.metadata().doing(what)?.len();
            Ok((file, length))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let why = format!("the payload of deployment {id} is not stored any more");
            Err(Refusal::new(Code::NotFound, why))
        }
        Err(error) => Err(error).doing(|| format!("reading {}", path.display()))?,
    }
}

/// Performs `cancel_deployment`: the answer comes when it has ended and its component is free.
pub(super) fn cancel(state: &ServerState, id: DeploymentId) -> Result<Value, Refusal> {
    state.workers.stop_one(id, Code::Cancelled)?;
    let record = state.known.store.read_record(id)?;
    if record.is_none_or(|record| record.status != Status::Cancelled) {
        let why = format!("cancelling deployment {id}: it ended by itself at the same time");
        return Err(Refusal::new(Code::Conflict, why).about(id));
    }
    Ok(json!({
        "message": format!("Successfully cancelled: deployment {id}"),
        "deployment_id": id,
        "status": "cancelled",
    }))
}

/// Performs `restart_component`: a deployment with the phase `restart` alone.
pub(super) fn restart(
    state: &ServerState,
    project: &Project,
    restart: Restart,
    options: &RequestOptions,
    user: Option<String>,
) -> Result<Outcome, Refusal> {
    if let Some(earlier) = state.workers.earlier(project, options.key.as_deref())? {
        return outcome(earlier, options);
    }
    let Some(live) = state.known.store.live(project) else {
        let why = format!("restarting {project}: nothing of it is live");
        return Err(Refusal::new(Code::NotFound, why));
    };
    let spec = DeploySpec {
        release: Some(live),
        then: None,
        restart,
        ..spec(project, options, user)
    };
    let attempt = match state.workers.begin_once(spec)? {
        Started::New(attempt) => *attempt,
        Started::Earlier(follower) => return outcome(follower, options),
    };
    outcome(state.workers.carry_on(attempt, Ok(Work::Restart))?, options)
}

/// Performs `drop_component`.
pub(super) fn drop_component(state: &ServerState, project: &Project) -> Result<Value, Refusal> {
    let store = &state.known.store;
    let _hold = state.workers.hold(project)?;
    if store.live(project).is_none() && store.releases(project)?.is_empty() {
        let why = format!("dropping {project}: there is no such component");
        return Err(Refusal::new(Code::NotFound, why));
    }
    state.processes.drop_component(project)?;
    store.drop_component(project)?;
    crate::system::log::info(&format!("{project} is dropped"));
    Ok(json!({ "message": format!("Successfully dropped: {project}"), "project": project }))
}

fn outcome(follower: Follower, options: &RequestOptions) -> Result<Outcome, Refusal> {
    if options.events {
        return Ok(Outcome::Events(Events {
            follower,
            watching: false,
        }));
    }
    Ok(Outcome::Answer(stream::plain(follower)?))
}
