//! What a deployment is to be, as a value.

use crate::api::event::Phase;
use crate::api::fleet::FleetGeneration;
use crate::api::name::{DeploymentId, Project};
use crate::api::operation::{Options, Restart};
use crate::api::package::PackageSpec;
use crate::api::source::Provenance;
use crate::engine::rollout::ticket::FleetTicket;

/// What a deployment is to be.
#[derive(Debug, Clone)]
pub struct DeploySpec {
    /// The component.
    pub project: Project,
    /// Where its release comes from, and what becomes of it.
    pub plan: Plan,
    /// What is fetched in place of a payload that arrives.
    pub package: Option<PackageSpec>,
    /// Whether its processes are restarted.
    pub restart: Restart,
    /// How it is built.
    pub options: Options,
    /// The server whose deployment this is a part of, if it is that of another one.
    pub origin: Option<String>,
    /// What is said of it.
    pub provenance: Provenance,
    /// Who asks.
    pub caller: DeployCaller,
    /// What it takes to publish it.
    pub fleet: Option<FleetTicket>,
}

/// Where a deployment's release comes from, and what becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// It is built from a payload that arrives.
    Build(Then),
    /// It was built by an earlier deployment and removed since; it is built again from the stored payload and becomes live.
    Rebuild(Earlier),
    /// It was built by an earlier deployment and becomes live.
    Activate(Earlier),
    /// It was built by an earlier deployment, and what it wants to be run before it goes live is run, and nothing else.
    Release(DeploymentId),
    /// It is live, and its processes are restarted.
    /// They are so at every peer, too, if there is something after it.
    Restart(DeploymentId, Option<Replication>),
}

/// What becomes of a release that was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It is kept, and is not live.
    Stage,
    /// It becomes live.
    Activate,
    /// It becomes live here and on every peer.
    Replicate(Replication),
    /// It is kept, and what the fleet wants from then on; it becomes live here as on every host of the fleet.
    Publish,
}

/// A release of an earlier deployment that becomes live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Earlier {
    /// The deployment that built it.
    pub release: DeploymentId,
    /// The deployment that a rollback undoes.
    pub rollback_of: Option<DeploymentId>,
    /// It becomes live on every peer, too; none if it does not.
    pub replicate: Option<Replication>,
}

/// What a deployment for the peers, too, does about those that fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replication {
    /// They are left behind.
    pub ignores: bool,
}

/// Who asks for a deployment, and by which request.
#[derive(Debug, Clone, Default)]
pub struct DeployCaller {
    /// The name of the token; none on the unix socket.
    pub user: Option<String>,
    /// The SHA-256 of the idempotency key, in hex.
    pub key: Option<String>,
    /// The gate's number of the connection that uploads.
    pub connection: Option<u64>,
    /// What the fleet wants by it, if it is the fleet that asks.
    pub fleet: Option<FleetGeneration>,
}

impl Plan {
    /// The existing release that it needs; none if it builds its own.
    pub fn release(&self) -> Option<DeploymentId> {
        match self {
            Plan::Build(_) => None,
            Plan::Rebuild(earlier) | Plan::Activate(earlier) => Some(earlier.release),
            Plan::Release(release) | Plan::Restart(release, _) => Some(*release),
        }
    }

    /// Whether the peers get it, too, and how.
    pub fn replication(&self) -> Option<Replication> {
        match self {
            Plan::Build(Then::Replicate(how)) => Some(*how),
            Plan::Rebuild(earlier) | Plan::Activate(earlier) => earlier.replicate,
            Plan::Restart(_, how) => *how,
            Plan::Build(_) | Plan::Release(_) => None,
        }
    }

    /// The deployment that it undoes.
    pub fn rollback_of(&self) -> Option<DeploymentId> {
        match self {
            Plan::Rebuild(earlier) | Plan::Activate(earlier) => earlier.rollback_of,
            Plan::Build(_) | Plan::Release(_) | Plan::Restart(..) => None,
        }
    }
}

impl DeploySpec {
    /// Whether what the release wants to be run before it goes live is run. A rollback goes back to what was released once,
    /// and the server that lets a peer switch has had it run there before, in a deployment of its own.
    pub fn releases(&self) -> bool {
        match self.plan {
            Plan::Build(Then::Stage | Then::Publish) | Plan::Restart(..) => false,
            Plan::Build(_) | Plan::Release(_) => true,
            Plan::Rebuild(earlier) | Plan::Activate(earlier) => {
                earlier.rollback_of.is_none() && self.origin.is_none()
            }
        }
    }

    /// The phases that are to come, in order; whether `queue` and `release` come is not known yet.
    pub fn phases(&self) -> Vec<Phase> {
        let mut phases = match self.plan {
            Plan::Build(_) | Plan::Rebuild(_) => vec![Phase::Extract, Phase::Install, Phase::Load],
            Plan::Release(_) => vec![Phase::Release],
            Plan::Activate(_) | Plan::Restart(..) => Vec::new(),
        };
        if self.package.is_some() {
            phases.insert(0, Phase::Fetch);
        }
        match self.plan {
            Plan::Build(Then::Replicate(_) | Then::Activate)
            | Plan::Rebuild(_)
            | Plan::Activate(_) => {
                phases.extend(self.plan.replication().map(|_| Phase::Replicate));
                phases.push(Phase::Activate);
            }
            Plan::Build(Then::Publish) => phases.push(Phase::Replicate),
            Plan::Build(Then::Stage) | Plan::Release(_) | Plan::Restart(..) => {}
        }
        if self.restart != Restart::No {
            phases.push(Phase::Restart);
        }
        if matches!(self.plan, Plan::Restart(_, Some(_))) {
            phases.push(Phase::Replicate);
        }
        phases
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_phases_of_each_plan() {
        use Phase::{Activate, Extract, Install, Load, Replicate, Restart as Again};
        let id = DeploymentId::after(None, 1, [0; 10]);
        let earlier = Earlier {
            release: id,
            rollback_of: None,
            replicate: None,
        };
        let everywhere = Earlier {
            replicate: Some(Replication { ignores: true }),
            ..earlier
        };
        let replicate = Then::Replicate(Replication { ignores: false });
        let table: &[(Plan, Restart, &[Phase])] = &[
            (
                Plan::Build(Then::Stage),
                Restart::No,
                &[Extract, Install, Load],
            ),
            (
                Plan::Build(Then::Activate),
                Restart::Rolling,
                &[Extract, Install, Load, Activate, Again],
            ),
            (
                Plan::Build(replicate),
                Restart::No,
                &[Extract, Install, Load, Replicate, Activate],
            ),
            (
                Plan::Rebuild(earlier),
                Restart::No,
                &[Extract, Install, Load, Activate],
            ),
            (
                Plan::Activate(earlier),
                Restart::Immediate,
                &[Activate, Again],
            ),
            (
                Plan::Activate(everywhere),
                Restart::No,
                &[Replicate, Activate],
            ),
            (
                Plan::Rebuild(everywhere),
                Restart::No,
                &[Extract, Install, Load, Replicate, Activate],
            ),
            (Plan::Restart(id, None), Restart::Immediate, &[Again]),
            (
                Plan::Restart(id, Some(Replication { ignores: false })),
                Restart::Immediate,
                &[Again, Replicate],
            ),
            (Plan::Release(id), Restart::No, &[Phase::Release]),
        ];
        for (plan, restart, phases) in table {
            let spec = DeploySpec {
                restart: *restart,
                ..spec(*plan, None)
            };
            assert_eq!(spec.phases(), *phases, "{plan:?}");
        }
        let spec = DeploySpec {
            package: PackageSpec::parse("left-pad").ok(),
            ..spec(Plan::Build(Then::Stage), None)
        };
        assert_eq!(spec.phases(), [Phase::Fetch, Extract, Install, Load]);
    }

    fn spec(plan: Plan, origin: Option<&str>) -> DeploySpec {
        DeploySpec {
            project: "demo".parse().unwrap(),
            plan,
            package: None,
            restart: Restart::No,
            options: Options::default(),
            origin: origin.map(str::to_owned),
            provenance: Provenance::default(),
            caller: DeployCaller::default(),
            fleet: None,
        }
    }

    #[test]
    fn what_a_release_wants_is_run_once_for_each_deployment() {
        let release = DeploymentId::after(None, 1, [0; 10]);
        let earlier = |rollback_of| Earlier {
            release,
            rollback_of,
            replicate: None,
        };
        let table = [
            (Plan::Build(Then::Stage), None, false),
            (Plan::Build(Then::Activate), None, true),
            // A host that catches up builds by itself.
            (Plan::Build(Then::Activate), Some("one"), true),
            (
                Plan::Build(Then::Replicate(Replication { ignores: false })),
                None,
                true,
            ),
            (Plan::Activate(earlier(None)), None, true),
            (Plan::Activate(earlier(None)), Some("one"), false),
            (Plan::Activate(earlier(Some(release))), None, false),
            (Plan::Rebuild(earlier(None)), None, true),
            (Plan::Rebuild(earlier(Some(release))), None, false),
            (Plan::Release(release), Some("one"), true),
            (Plan::Restart(release, None), None, false),
        ];
        for (plan, origin, releases) in table {
            let found = spec(plan, origin).releases();
            assert_eq!(found, releases, "{plan:?} {origin:?}");
        }
    }
}
