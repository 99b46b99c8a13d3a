//! What a request with an idempotency key asks for: a second one with its key has to ask for the same.

use crate::api::error::{Code, Refusal};
use crate::api::event::Phase;
use crate::api::name::{DeploymentId, Project};
use crate::api::operation::{Options, Restart};
use crate::api::package::PackageSpec;
use crate::api::record::{DeploymentKind, Record};
use crate::engine::deployer::Deployer;
use crate::engine::spec::{DeployCaller, DeploySpec, Plan, Then};

/// A request, as far as two with one key are compared.
pub(super) struct KeyedRequest<'a> {
    pub(super) project: &'a Project,
    /// The SHA-256 of the key, in hex; none if there is no key.
    pub(super) key: Option<&'a str>,
    pub(super) kind: DeploymentKind,
    /// The deployment whose release is asked for by its id.
    pub(super) of: Option<DeploymentId>,
    /// What is to become of what is built.
    pub(super) then: Option<Then>,
    /// Whether it is for the peers, too, where that does not say it.
    pub(super) replicates: Option<bool>,
    pub(super) restart: Restart,
    /// How it is built, if the request says so.
    pub(super) options: Option<&'a Options>,
    /// What the payload must be, if the request says so.
    pub(super) sha256: Option<&'a str>,
    /// What is fetched in place of a payload, as it is shown.
    pub(super) package: Option<&'a str>,
}

impl<'a> KeyedRequest<'a> {
    /// A request for a release that is there.
    pub(super) fn new(
        project: &'a Project,
        caller: &'a DeployCaller,
        kind: DeploymentKind,
        restart: Restart,
    ) -> KeyedRequest<'a> {
        KeyedRequest {
            project,
            key: caller.key.as_deref(),
            kind,
            of: None,
            then: None,
            replicates: None,
            restart,
            options: None,
            sha256: None,
            package: None,
        }
    }

    /// A request with a payload.
    pub(super) fn build(spec: &'a DeploySpec, sha256: Option<&'a str>) -> KeyedRequest<'a> {
        let then = match spec.plan {
            Plan::Build(then) => Some(then),
            _ => None,
        };
        KeyedRequest {
            then,
            options: Some(&spec.options),
            sha256,
            package: spec.package.as_ref().map(PackageSpec::identifier),
            ..KeyedRequest::new(
                &spec.project,
                &spec.caller,
                DeploymentKind::Deploy,
                spec.restart,
            )
        }
    }

    /// What of it differs from what an earlier deployment was asked to be: the fields, by their names.
    fn differences(&self, earlier: &Record, release: Option<DeploymentId>) -> Vec<&'static str> {
        if self.kind != earlier.kind {
            return vec!["operation"];
        }
        let phases = earlier.phases();
        let has = |phase| phases.as_ref().map(|phases| phases.contains(&phase));
        let (activates, replicates) = match self.then {
            Some(Then::Stage) => (Some(false), Some(false)),
            Some(Then::Activate) => (Some(true), Some(false)),
            Some(Then::Replicate(_)) => (Some(true), Some(true)),
            Some(Then::Publish) => (Some(false), Some(true)),
            None => (None, self.replicates),
        };
        // What one of the two does not say does not count as a difference.
        let differs =
            |one: Option<bool>, other: Option<bool>| one.zip(other).is_some_and(|(a, b)| a != b);
        let table = [
            (
                "deployment_id",
                release.is_some_and(|release| release != earlier.release_id),
            ),
            ("activate", differs(activates, has(Phase::Activate))),
            ("replicated", differs(replicates, has(Phase::Replicate))),
            (
                "restart",
                self.restart.mode() != earlier.restart_mode.as_deref(),
            ),
            (
                "options",
                self.options
                    .is_some_and(|options| *options != earlier.options),
            ),
            (
                "package",
                self.package != earlier.package_identifier.as_deref(),
            ),
            (
                "payload_sha256",
                self.sha256
                    .zip(earlier.payload_hash.as_deref())
                    .is_some_and(|(asked, found)| asked != found),
            ),
        ];
        let differing = table.into_iter().filter(|(_, differs)| *differs);
        differing.map(|(name, _)| name).collect()
    }
}

impl Deployer {
    /// Refuses a request that has the key of an earlier one and asks for something else.
    pub(super) fn same_as(
        &self,
        id: DeploymentId,
        request: &KeyedRequest<'_>,
    ) -> Result<(), Refusal> {
        let store = &self.known.store;
        let Some(earlier) = store.read_record(id)? else {
            return Ok(());
        };
        // The deployment that is named may itself have made the release of another one live.
        let release = match request.of {
            Some(of) => Some(
                store
                    .read_record(of)?
                    .map_or(of, |record| record.release_id),
            ),
            None => None,
        };
        let differing = request.differences(&earlier, release);
        if differing.is_empty() {
            return Ok(());
        }
        let why = format!(
            "deploying {}: deployment {id} has the same idempotency key and was asked for with another {}",
            request.project,
            differing.join(", ")
        );
        Err(Refusal::new(Code::Conflict, why).about(id))
    }
}
