//! What is kept of the past: releases, payloads and whole deployments, so many of each for a component.
//!
//! The live release, the one before it and the live one's payload and record are always kept, and so is the record of the
//! deployment that ended just now, which somebody may still be reading. Order goes by id, never by
//! time, so a clock that was set back removes nothing that is new.

use std::collections::BTreeSet;

use crate::api::error::Error;
use crate::api::event::Status;
use crate::api::name::{DeploymentId, Project};
use crate::api::record::Summary;
use crate::engine::registry::Registry;
use crate::store::DetachedTree;
use crate::system::log;

/// How many of each are kept for a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionLimits {
    /// Release directories.
    pub releases: usize,
    /// Payloads, those of failed deployments too; the live release's is one of them.
    pub payloads: usize,
    /// Ended deployments.
    pub deployments: usize,
    /// Whether a copy of the newest payload's tree is kept, of which the next release is made.
    pub spare: bool,
}

/// What there is of a component, each in ascending order.
#[derive(Debug, Default)]
struct Inventory {
    live: Option<DeploymentId>,
    before: Option<DeploymentId>,
    releases: Vec<DeploymentId>,
    payloads: Vec<DeploymentId>,
    deployments: Vec<DeploymentId>,
}

/// What is to go.
#[derive(Debug, Default, PartialEq, Eq)]
struct Excess {
    releases: Vec<DeploymentId>,
    payloads: Vec<DeploymentId>,
    deployments: Vec<DeploymentId>,
}

impl Inventory {
    fn excess(&self, keep: RetentionLimits) -> Excess {
        let live = [self.live].into_iter().flatten();
        let both = [self.live, self.before].into_iter().flatten();
        Excess {
            releases: without(&self.releases, both.clone().collect(), keep.releases),
            payloads: without(&self.payloads, live.collect(), keep.payloads),
            deployments: without(
                &self.deployments,
                both.chain(self.deployments.last().copied()).collect(),
                keep.deployments,
            ),
        }
    }
}

/// All but the ones that stay anyway and the newest others, `keep` together.
fn without(
    all: &[DeploymentId],
    mut stay: BTreeSet<DeploymentId>,
    keep: usize,
) -> Vec<DeploymentId> {
    stay.retain(|id| all.contains(id));
    for id in all.iter().rev() {
        if stay.len() >= keep {
            break;
        }
        stay.insert(*id);
    }
    all.iter()
        .filter(|id| !stay.contains(id))
        .copied()
        .collect()
}

/// Takes a release away from its place, unless a running deployment needs it.
pub type Detach<'a> = &'a dyn Fn(DeploymentId) -> Result<Option<DetachedTree>, Error>;

/// Makes what stays independent of the payloads that are to go, and of all releases, and gives those that have to stay yet.
pub type LetGo<'a> = &'a dyn Fn(&BTreeSet<DeploymentId>) -> BTreeSet<DeploymentId>;

/// Whether a deployment's release is live by now, or about to be.
pub type IsNeeded<'a> = &'a dyn Fn(DeploymentId) -> bool;

/// Removes what is too much of a component. Nothing of a deployment that runs is touched.
///
/// # Errors
/// When the root cannot be read, or something cannot be removed: the next time tries again.
pub fn retain(
    registry: &Registry,
    project: &Project,
    keep: RetentionLimits,
    (set_aside, let_go, is_needed): (Detach<'_>, LetGo<'_>, IsNeeded<'_>),
) -> Result<(), Error> {
    let Registry { store, index, .. } = registry;
    store.sweep_removed(project);
    // What removes old things makes room for what was not written.
    store.ring();
    let ended = index.ended(project);
    let Some(newest) = ended.last() else {
        return Ok(());
    };
    let live = store.read_live(project)?;
    let made_live = |(_, one): &(&DeploymentId, &Summary)| {
        one.project == *project && one.status == Status::Success && Some(one.release_id) == live
    };
    let before = index.look(|all| all.iter().rev().find(made_live)?.1.previous);
    let mut releases = store.releases(project)?;
    releases.retain(|id| id <= newest);
    let payloads = ended
        .iter()
        .copied()
        .filter(|id| store.payload(*id).exists())
        .collect();
    let past = Inventory {
        live,
        before,
        releases,
        payloads,
        deployments: ended,
    };
    let excess = past.excess(keep);
    let going: BTreeSet<DeploymentId> = excess
        .payloads
        .iter()
        .chain(&excess.deployments)
        .copied()
        .filter(|id| store.payload(*id).exists())
        .collect();
    // Before the releases go: a delta may be one to a tree of which only the release is left.
    let needed = match going.is_empty() && excess.releases.is_empty() {
        true => BTreeSet::new(),
        false => let_go(&going),
    };
    for id in &excess.releases {
        if let Some(aside) = set_aside(*id)? {
            aside.remove()?;
        }
    }
    let goes = |id: &&DeploymentId| !needed.contains(id) && !is_needed(**id);
    for id in excess.payloads.iter().filter(goes) {
        store.remove_payload(*id)?;
    }
    for id in excess.deployments.iter().filter(goes) {
        store.remove_deployment(*id)?;
        index.forget(&[*id]);
        log::info(&format!(
            "deployment {id} of {project} is forgotten, as --keep-deployments says"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> DeploymentId {
        DeploymentId::after(None, n, [0; 10])
    }

    /// All, what stays anyway, how many are kept, what goes.
    type Row = (&'static [u64], &'static [u64], usize, &'static [u64]);

    #[test]
    fn the_newest_stay_and_what_is_live() {
        let table: [Row; 9] = [
            (&[], &[], 2, &[]),
            (&[1, 2, 3], &[3], 5, &[]),
            (&[1, 2, 3, 4], &[4, 3], 2, &[1, 2]),
            (&[1, 2, 3, 4], &[1, 2], 2, &[3, 4]),
            (&[1, 2, 3, 4], &[1], 2, &[2, 3]),
            (&[1, 2, 3, 4], &[2, 1], 1, &[3, 4]),
            (&[1, 2, 3, 4], &[], 1, &[1, 2, 3]),
            (&[1, 2, 3, 4], &[9], 3, &[1]),
            (&[1, 2, 3], &[3], 0, &[1, 2]),
        ];
        for (all, stay, keep, gone) in table {
            let ids = |of: &[u64]| of.iter().map(|n| id(*n)).collect::<Vec<_>>();
            let stay = ids(stay).into_iter().collect();
            assert_eq!(
                without(&ids(all), stay, keep),
                ids(gone),
                "{all:?} keep {keep}"
            );
        }
    }

    #[test]
    fn releases_keep_the_one_before_and_payloads_do_not() {
        let all: Vec<_> = (1..=4).map(id).collect();
        let past = Inventory {
            live: Some(id(2)),
            before: Some(id(1)),
            releases: all.clone(),
            payloads: all.clone(),
            deployments: all,
        };
        let excess = past.excess(RetentionLimits {
            releases: 2,
            payloads: 2,
            deployments: 1,
            spare: false,
        });
        assert_eq!(excess.releases, [id(3), id(4)]);
        assert_eq!(excess.payloads, [id(1), id(3)]);
        assert_eq!(excess.deployments, [id(3)]);
    }
}
