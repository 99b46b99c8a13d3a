//! The copy of what was installed for a component, which is made when nobody waits.

use std::path::Path;
use std::sync::PoisonError;

use crate::api::error::{Doing, Refusal};
use crate::api::name::{DeploymentId, Project};
use crate::engine::checkpoint::checkpoint;
use crate::engine::deployer::Deployer;
use crate::engine::reuse::{InstalledModules, MODULES, not_kept, stamp_of};
use crate::formats::archive::{self, CopyEnd, LooseCopy};
use crate::store::ModulesIndex;
use crate::system::{files, log, trees};

impl Deployer {
    /// Copies what a deployment installed, if nobody has written into it since. What cannot be copied is installed again
    /// the next time.
    pub(super) fn keep_modules(&self, id: DeploymentId) {
        let Some(installed) = self.builder.installed.take(id) else {
            return;
        };
        let kept = self.try_to_keep_modules(id, &installed);
        if let Err(refusal) = kept {
            log::warn(&format!(
                "keeping what deployment {id} installed: {refusal}"
            ));
        }
    }

    fn try_to_keep_modules(
        &self,
        id: DeploymentId,
        installed: &InstalledModules,
    ) -> Result<(), Refusal> {
        let store = &self.known.store;
        let Some(record) = store.read_record(id)? else {
            return Ok(());
        };
        let (project, release) = (
            &record.project,
            store.release(&record.project, installed.release),
        );
        // One after the other: each takes the disk's time.
        let _turn = self.sparing.lock().unwrap_or_else(PoisonError::into_inner);
        let is_there = release.join(MODULES).is_dir();
        if !is_there || !self.is_last(project, id) || !store.spare_can_move(project)? {
            return Ok(());
        }
        let fresh = store.begin_modules(project)?;
        let made = self.copy_modules(id, (project, &release), installed, &fresh);
        if !matches!(made, Ok(true)) {
            trees::remove(&fresh).doing(|| format!("removing {}", fresh.display()))?;
        }
        made.map(drop)
    }

    /// Says whether there is a copy now.
    fn copy_modules(
        &self,
        id: DeploymentId,
        (project, release): (&Project, &Path),
        installed: &InstalledModules,
        fresh: &Path,
    ) -> Result<bool, Refusal> {
        let store = &self.known.store;
        let goes_on = || {
            checkpoint("modules-copying");
            self.is_last(project, id)
        };
        let account = self.builder.account.as_ref();
        let copy = LooseCopy {
            from: &release.join(MODULES),
            to: fresh,
            // What names the place of this release is wrong in every other one.
            place: &installed.release.to_string(),
            limits: &self.limits,
            owner: account.map(|account| (account.uid, account.gid)),
            goes_on: &goes_on,
        };
        match copy.run()? {
            CopyEnd::Copied => {}
            CopyEnd::Stopped => return Ok(false),
            CopyEnd::Differs => {
                not_kept(project, "something in it is of use in this release alone");
                return Ok(false);
            }
        }
        checkpoint("modules-copied");
        let what = || format!("writing {} to disk", fresh.display());
        let dir = std::fs::File::open(fresh).doing(what)?;
        files::sync_file_system(&dir).doing(what)?;
        // What runs may have written into it, before the copy was made or while it was.
        if stamp_of(release) != Some(installed.stamp) {
            not_kept(project, "somebody has written into it since");
            return Ok(false);
        }
        let index = ModulesIndex {
            key: installed.key,
            stamp: archive::stamp_entries(fresh, None)?,
            from: installed.from,
        };
        // Under the lock, so that no deployment begins to use the one before in between.
        let state = self.running.lock();
        if !self.stays_last(&state, project, id) {
            return Ok(false);
        }
        let before = store.detach_modules(project)?;
        store.place_modules(project, fresh, &index)?;
        drop(state);
        checkpoint("modules-placed");
        before.remove()?;
        Ok(true)
    }
}
