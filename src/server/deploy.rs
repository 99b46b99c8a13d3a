//! `deploy_component`: a payload is received and built, or a release that is there is made live.

use crate::api::error::{Code, Refusal};
use crate::api::operation::Deploy;
use crate::engine::deployer::Incoming;
use crate::engine::spec::{DeploySpec, Plan, Then};
use crate::server::answers::Outcome;
use crate::server::auth::Caller;
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
    let follower = match (request.payload, deploy.release) {
        (Some(_), Some(_)) => return bad("a payload and a 'deployment_id' cannot go together"),
        (None, None) => {
            return bad("a payload is required, as the last part of a form or as base64");
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
            let then = match (deploy.activate, deploy.replicated) {
                (false, _) => Then::Stage,
                (true, false) => Then::Activate,
                (true, true) => Then::Replicate {
                    ignores: deploy.ignore_replication_errors,
                },
            };
            let spec = DeploySpec {
                project: project.clone(),
                plan: Plan::Build(then),
                restart: deploy.restart,
                options: deploy.options.clone(),
                origin: deploy.origin.clone(),
                provenance: deploy.provenance.clone(),
                caller: by,
            };
            let incoming = Incoming {
                open: Box::new(|stop| Ok(Box::new(Bytes::new(payload, stop)))),
                sha256: deploy.payload_sha256.as_deref(),
                least: request.payload_least,
            };
            state.deployer.build(spec, incoming)?
        }
    };
    watch::outcome(state, follower, options)
}
