//! `deploy_component`: a payload is received and built, or a release that is there is made live.

use crate::api::error::{Code, Refusal};
use crate::api::operation::{Deploy, Restart};
use crate::api::package::PackageSpec;
use crate::engine::deployer::Incoming;
use crate::engine::rollout::ticket::FleetTicket;
use crate::engine::spec::{DeployCaller, DeploySpec, Plan, Replication, Then};
use crate::server::answers::Outcome;
use crate::server::auth::Caller;
use crate::server::fleet;
use crate::server::form::{Bytes, RequestBody};
use crate::server::options::RequestOptions;
use crate::server::state::ServerState;
use crate::server::watch;

/// Performs `deploy_component`.
pub(super) fn deploy(
    state: &ServerState,
    deploy: &Deploy,
    request: RequestBody<'_>,
    options: &RequestOptions,
    caller: &Caller,
) -> Result<Outcome, Refusal> {
    let project = &deploy.project;
    let bad = |why: &str| {
        let why = format!("deploying {project}: {why}");
        Err(Refusal::new(Code::BadRequest, why))
    };
    let by = options.caller(caller.name());
    let package = deploy.package.as_ref();
    let follower = match (request.payload, deploy.release) {
        (Some(_), _) if package.is_some() => {
            return bad("a payload and a 'package' cannot go together");
        }
        (Some(_), Some(_)) => return bad("a payload and a 'deployment_id' cannot go together"),
        (None, None) if package.is_some() => {
            if package.is_some_and(PackageSpec::is_local) {
                caller.is_local("deploying a file of the server's own")?;
            }
            let spec = spec(deploy, by);
            state
                .deployer
                .build_package(spec, deploy.payload_sha256.clone())?
        }
        (None, None) => {
            return bad(
                "a payload is required, as the last part of a form or as base64, or a 'package'",
            );
        }
        (None, Some(id)) => {
            caller.may_see(&state.known.store, id)?;
            let (origin, said) = (deploy.origin.clone(), deploy.provenance.clone());
            match (deploy.activate, origin) {
                (false, Some(origin)) => state.deployer.release(project, id, (origin, said), by)?,
                (_, origin) => {
                    let how = (deploy.restart, origin, said);
                    state.deployer.activate(project, id, how, by)?
                }
            }
        }
        (Some(payload), None) => {
            has_base(state, deploy)?;
            let incoming = Incoming {
                open: Box::new(|stop| Ok(Box::new(Bytes::new(payload, stop)))),
                sha256: deploy.payload_sha256.as_deref(),
                least: request.payload_least,
            };
            let mut spec = spec(deploy, by);
            if let Some(options) = &deploy.fleet {
                let publisher = fleet::of(state, &format!("deploying {project} to the fleet"))?;
                let ticket = FleetTicket::new(publisher, options.clone(), deploy.restart);
                spec = DeploySpec {
                    plan: Plan::Build(Then::Publish),
                    // The hosts restart it, this one among them.
                    restart: Restart::No,
                    fleet: Some(ticket),
                    ..spec
                };
            }
            state.deployer.build(spec, incoming)?
        }
    };
    watch::outcome(state, follower, options)
}

/// Whether a delta can be taken, if it is one. Its refusal says to whoever sends deltas to send all of it.
fn has_base(state: &ServerState, deploy: &Deploy) -> Result<(), Refusal> {
    let project = &deploy.project;
    let Some(base) = &deploy.base else {
        return Ok(());
    };
    if deploy.fleet.is_none() {
        return state.deployer.has_base(project, base);
    }
    let why = format!(
        "deploying {project} to the fleet: its hosts take a payload by its SHA-256 and may lack what a delta begins from, so \
         it has to be whole"
    );
    Err(Refusal::new(Code::StaleBase, why))
}

/// What is to be built.
fn spec(deploy: &Deploy, by: DeployCaller) -> DeploySpec {
    let then = match (deploy.activate, deploy.replicated) {
        (false, _) => Then::Stage,
        (true, false) => Then::Activate,
        (true, true) => Then::Replicate(Replication {
            ignores: deploy.ignore_replication_errors,
        }),
    };
    DeploySpec {
        project: deploy.project.clone(),
        plan: Plan::Build(then),
        package: deploy.package.clone(),
        restart: deploy.restart,
        options: deploy.options.clone(),
        origin: deploy.origin.clone(),
        provenance: deploy.provenance.clone(),
        caller: by,
        fleet: None,
    }
}
