//! The making of a release of the component's spare: what differs is changed in it, and it becomes the release by a rename.

use std::fs::File;

use crate::api::error::Refusal;
use crate::api::name::{DeploymentId, Project};
use crate::engine::checkpoint::checkpoint;
use crate::formats::archive::{
    self, Assembled, BaseTree, Limits, Owner, PatchSources, Supply, Unusable,
};
use crate::formats::delta::hash::ContentHash;
use crate::formats::delta::listing::ListingLimits;
use crate::store::Store;
use crate::system::log;

/// What came of a spare.
pub enum SpareUse {
    /// The release.
    Release(Assembled),
    /// Nothing, and nothing was received.
    Unused,
    /// Nothing, but all was received.
    Spent,
}

/// A release that is to be made of the spare.
pub struct SpareRequest<'a> {
    pub store: &'a Store,
    pub project: &'a Project,
    pub id: DeploymentId,
    /// The tree that the delta begins from, and where that is: the spare may be one of another tree.
    pub base: (&'a str, &'a BaseTree),
    /// The tree that it makes.
    pub tree: &'a str,
    /// The tree of the list that came, if whoever wrote that has found it out.
    pub listed: Option<ContentHash>,
    pub list_limits: ListingLimits,
    pub limits: &'a Limits,
    pub owner: Option<Owner>,
}

impl SpareRequest<'_> {
    /// Makes the release, if there is a spare. `receive` is called once it is known that it can be made, and
    /// tells what comes.
    ///
    /// # Errors
    /// What is wrong with the list, or with what comes.
    pub fn run(
        &self,
        records: &[&File],
        receive: &mut dyn FnMut(&Supply) -> Result<(), Refusal>,
    ) -> Result<SpareUse, Refusal> {
        let (spare, list) = (
            self.store.spare(self.project),
            self.store.tree_list(self.id),
        );
        let Some(of) = archive::stamped_tree(&spare.index) else {
            return Ok(SpareUse::Unused);
        };
        let changes = archive::changes(&spare, &of, (&list, self.listed), self.list_limits);
        let mut changes = match changes {
            Ok(changes) if changes.tree.to_string() == self.tree => changes,
            // It is refused by whoever makes the release then.
            Ok(_) => return Ok(SpareUse::Unused),
            Err(Unusable::Tree(refusal)) => return Err(refusal),
            Err(Unusable::Spare(why)) => {
                self.is_unused(&why);
                return Ok(SpareUse::Unused);
            }
        };
        receive(&changes.supply)?;
        checkpoint("spare-checked");
        let made = self.store.take_spare(self.project).map_err(Refusal::from);
        let made = made.and_then(|()| {
            checkpoint("spare-taken");
            let aside = self.store.spare_workshop(self.project)?;
            let sources = PatchSources {
                spare: &spare,
                // What the two trees share need not have come.
                base: Some(self.base.1).filter(|_| of != self.base.0),
                list: &list,
                aside: &aside,
                records,
            };
            let step = || checkpoint("spare-patching");
            let made = changes.apply(&sources, (self.limits, self.owner), &step)?;
            checkpoint("spare-patched");
            self.store.release_spare(self.project, self.id)?;
            Ok(made)
        });
        match made {
            Ok(made) => {
                // From here on the release is not empty, so that it is made in no other way.
                checkpoint("spare-renamed");
                self.store.sync_moved_spare(self.project)?;
                if let Err(error) = self.store.clear_spare_workshop(self.project) {
                    log::warn(&error.to_string());
                }
                log::info(&format!(
                    "release {} of {} is made of the spare",
                    self.id, self.project
                ));
                Ok(SpareUse::Release(made))
            }
            Err(refusal) => {
                self.is_unused(&refusal.message);
                if let Err(error) = self.store.clear_spare_workshop(self.project) {
                    log::warn(&error.to_string());
                }
                Ok(SpareUse::Spent)
            }
        }
    }

    /// Says why, and that there is no spare any longer: it would be of no more use the next time.
    fn is_unused(&self, why: &str) {
        let (project, id) = (self.project, self.id);
        log::warn(&format!(
            "deployment {id}: the spare of {project} is not used: {why}"
        ));
        if let Err(error) = self.store.disown_spare(project) {
            log::warn(&error.to_string());
        }
    }
}
