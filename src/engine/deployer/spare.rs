//! The spare of a component, which is made when nobody waits.

use std::ops::Bound;
use std::sync::{Arc, PoisonError};

use crate::api::error::{Doing, Error, Refusal};
use crate::api::event::Status;
use crate::api::name::{DeploymentId, Project};
use crate::api::record::Record;
use crate::engine::checkpoint::checkpoint;
use crate::engine::deployer::running::DeploymentsState;
use crate::engine::deployer::{Deployer, STACK_BYTES};
use crate::engine::trees::{TreeMaker, kept};
use crate::formats::archive::{self, CopyEnd, SpareTree};
use crate::system::{files, log, threads};

/// A tree with fewer files and bytes is copied in a few milliseconds, which nobody has to be spared.
const FILES_MIN: u64 = 500;
const BYTES_MIN: u64 = 8 << 20;
/// What an entry takes of the disk beside its content: a block.
const ENTRY_BYTES: u64 = 4096;

/// Whether a tree is not worth a spare. A test's program makes one of each tree, if it is asked for.
fn is_small(files: u64, bytes: u64) -> bool {
    let asked = cfg!(debug_assertions) && std::env::var_os("GANGPLANK_TEST_SPARE").is_some();
    files < FILES_MIN && bytes < BYTES_MIN && !asked
}

impl Deployer {
    /// Makes what nobody waits for after the end of a deployment: the list of its tree, and a spare. One at a time, on a
    /// thread of its own; both give way to the next deployment of the component.
    pub(super) fn prepare_next(self: &Arc<Self>, id: DeploymentId) {
        let deployer = Arc::clone(self);
        let work = move || {
            deployer.list_tree(id);
            if let Err(refusal) = deployer.try_to_spare(id) {
                log::warn(&format!("making a spare after deployment {id}: {refusal}"));
            }
            deployer.keep_modules(id);
        };
        if let Err(error) = threads::spawn(format!("spare-{id}"), STACK_BYTES, work) {
            log::warn(&format!(
                "making a thread for the spare after deployment {id}: {error}"
            ));
        }
    }

    /// Whether no deployment of a component goes on.
    pub(super) fn is_idle(&self, project: &Project) -> bool {
        self.running.lock().is_idle(project)
    }

    /// Whether nothing of a component has begun since this deployment. What has, prepares the next one by itself, and may have
    /// done so already.
    pub(super) fn is_last(&self, project: &Project, id: DeploymentId) -> bool {
        // In this order, for the index may be waited for after a start, and nobody else is to wait then.
        !self.has_later(project, id) && self.is_idle(project)
    }

    /// As [`Deployer::is_last`], under the lock, so that it stays so.
    pub(super) fn stays_last(
        &self,
        state: &DeploymentsState,
        project: &Project,
        id: DeploymentId,
    ) -> bool {
        state.is_idle(project) && !self.has_later(project, id)
    }

    fn has_later(&self, project: &Project, id: DeploymentId) -> bool {
        let later = (Bound::Excluded(id), Bound::Unbounded);
        let index = &self.known.index;
        index.look(|all| all.range(later).any(|(_, one)| one.project == *project))
    }

    /// The deployment whose tree the next one begins from, most likely: the one that ended just now, or what is live.
    fn spare_source(&self, id: DeploymentId) -> Result<Option<Record>, Error> {
        let store = &self.known.store;
        let Some(ended) = store.read_record(id)? else {
            return Ok(None);
        };
        let well = matches!(ended.status, Status::Success | Status::Staged);
        if well && ended.release_id == id {
            return Ok(Some(ended));
        }
        match store.live(&ended.project) {
            Some(live) => store.read_record(live),
            None => Ok(None),
        }
    }

    fn try_to_spare(&self, id: DeploymentId) -> Result<(), Refusal> {
        let store = &self.known.store;
        let Some(source) = self.spare_source(id)? else {
            return Ok(());
        };
        let (Some(tree), Some(bytes)) = (&source.tree, source.unpacked_size) else {
            return Ok(());
        };
        let (project, files) = (&source.project, source.files.unwrap_or(0));
        checkpoint("spare-turn");
        // One after the other: each takes the disk's time.
        let _turn = self.sparing.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.is_last(project, id) || archive::has_tree(&store.spare(project).index, tree) {
            return Ok(());
        }
        if is_small(files, bytes) || !self.keep.spare {
            store.drop_spare(project)?;
            return Ok(());
        }
        // One of another tree is of no use, and takes the room. Under the lock, so that no deployment begins to use it.
        let state = self.running.lock();
        if !self.stays_last(&state, project, id) {
            return Ok(());
        }
        let before = store.detach_spare(project)?;
        drop(state);
        before.remove()?;
        let needed = bytes.saturating_add(files.saturating_mul(ENTRY_BYTES));
        let room = store.disk_free()?.saturating_sub(self.limits.min_free_disk);
        if needed > room || !store.spare_can_move(project)? {
            return Ok(());
        }
        let fresh = store.begin_spare(project, source.deployment_id)?;
        let made = self.make_spare(id, &source, &fresh);
        if !matches!(made, Ok(true)) {
            store.drop_spare_at(&fresh)?;
        }
        made.map(drop)
    }

    /// Copies the tree, and puts it in its place unless a deployment has begun meanwhile.
    fn make_spare(
        &self,
        id: DeploymentId,
        source: &Record,
        fresh: &SpareTree,
    ) -> Result<bool, Refusal> {
        let (store, project) = (&self.known.store, &source.project);
        let goes_on = || {
            checkpoint("spare-copying");
            self.is_last(project, id)
        };
        let owner = self.builder.account.as_ref();
        let owner = owner.map(|account| (account.uid, account.gid));
        let Some(base) = kept(store, project, source.deployment_id) else {
            return Ok(false);
        };
        match archive::copy_tree(&base, &fresh.dir, &self.limits, owner, &goes_on)? {
            CopyEnd::Copied => {}
            CopyEnd::Stopped => return Ok(false),
            CopyEnd::Differs => {
                // Its processes write into it: what came is in the payload.
                crate::system::trees::remove(&fresh.dir)
                    .and_then(|()| files::make_dir(&fresh.dir, 0o755))
                    .doing(|| format!("making {}", fresh.dir.display()))?;
                let maker = TreeMaker {
                    known: &self.known,
                    limits: &self.limits,
                    owner,
                    project,
                    id: source.deployment_id,
                };
                maker.again(&fresh.dir)?;
            }
        }
        checkpoint("spare-copied");
        let what = || format!("writing {} to disk", fresh.dir.display());
        let dir = std::fs::File::open(&fresh.dir).doing(what)?;
        files::sync_file_system(&dir).doing(what)?;
        if !archive::stamp_tree(&fresh.dir, &fresh.list, &fresh.index, &goes_on)? {
            return Ok(false);
        }
        checkpoint("spare-stamped");
        // Under the lock, so that no deployment begins to use it in between.
        let state = self.running.lock();
        if !self.stays_last(&state, project, id) {
            return Ok(false);
        }
        store.place_spare(project, fresh)?;
        drop(state);
        checkpoint("spare-placed");
        Ok(true)
    }
}
