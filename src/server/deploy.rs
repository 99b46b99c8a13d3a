//! `deploy_component`: a payload is received and built, or a release that is there is made live.

use crate::api::error::{Code, Refusal};
use crate::api::event::Status;
use crate::api::name::{DeploymentId, Project};
use crate::api::operation::Deploy;
use crate::api::record::Record;
use crate::engine::deployer::{DeploySpec, Started, not_found};
use crate::engine::stages::{Intake, Ready, Then, Work};
use crate::server::answers::Outcome;
use crate::server::form::{Bytes, PayloadSource, RequestBody};
use crate::server::options::RequestOptions;
use crate::server::payload;
use crate::server::state::ServerState;
use crate::server::watch;

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
        return watch::outcome(earlier, &options);
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
pub(super) fn spec(
    project: &Project,
    options: &RequestOptions,
    user: Option<String>,
) -> DeploySpec {
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
        Started::Earlier(follower) => return watch::outcome(follower, options),
    };
    let mut bytes = Bytes::new(payload, attempt.stop().clone());
    let arrived = |id| state.workers.arrived(id);
    let staged = intake(state).receive(&mut attempt, &mut bytes, sha256, &arrived);
    let work = staged.map(|staged| Work::Build(staged, then));
    watch::outcome(state.workers.carry_on(attempt, work)?, options)
}

/// The record of the deployment that built a release: of that deployment itself, or of the one whose release it made live.
pub(super) fn release_of(
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

/// Makes a release live that an earlier deployment built, or builds it again first if only its payload is left.
pub(super) fn activate(
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
            Some(payload::open(state, release).map_err(gone)?.0)
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
        Started::Earlier(follower) => return watch::outcome(follower, options),
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
    watch::outcome(state.workers.carry_on(attempt, work)?, options)
}
