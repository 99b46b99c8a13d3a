//! All deployments that there are, in memory: about 150 bytes each, so that ten thousand are found without reading ten
//! thousand files.
//!
//! It is filled from the records on disk after the server has begun to listen ([`Index::put_old`]), and who wants to know
//! waits until that is done. Deployments that begin meanwhile put themselves in ([`Index::put`]) and stay as they are.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::api::name::{DeploymentId, Project};
use crate::api::record::Summary;

/// The deployments, in the order of their ids, which is the order in which they began.
pub type All = BTreeMap<DeploymentId, Summary>;

/// What is known of all deployments.
#[derive(Debug, Default)]
pub struct Index {
    state: Mutex<IndexState>,
    complete: Condvar,
}

#[derive(Debug, Default)]
struct IndexState {
    all: All,
    complete: bool,
}

impl Index {
    /// Puts in a deployment as it is now.
    pub fn put(&self, id: DeploymentId, summary: Summary) {
        self.lock().all.insert(id, summary);
    }

    /// Puts in a deployment from the disk, unless it is there already: what put itself in is newer.
    pub fn put_old(&self, id: DeploymentId, summary: Summary) {
        self.lock().all.entry(id).or_insert(summary);
    }

    /// Says which tree a deployment's payload holds, if the deployment is still known.
    pub fn put_tree(&self, id: DeploymentId, tree: &str) {
        if let Some(summary) = self.lock().all.get_mut(&id) {
            summary.tree = Some(tree.into());
        }
    }

    /// Takes out deployments that were removed.
    pub fn forget(&self, ids: &[DeploymentId]) {
        let mut state = self.lock();
        for id in ids {
            state.all.remove(id);
        }
    }

    /// Says that everything from the disk is in.
    pub fn complete(&self) {
        self.lock().complete = true;
        self.complete.notify_all();
    }

    /// Looks at all deployments, once all are in.
    pub fn look<T>(&self, look: impl FnOnce(&All) -> T) -> T {
        let mut state = self.lock();
        while !state.complete {
            state = self
                .complete
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        look(&state.all)
    }

    /// The deployments of a component that have ended, in ascending order.
    pub fn ended(&self, project: &Project) -> Vec<DeploymentId> {
        self.look(|all| {
            let of = all
                .iter()
                .filter(|(_, one)| one.project == *project && one.status.ended());
            of.map(|(id, _)| *id).collect()
        })
    }

    fn lock(&self) -> MutexGuard<'_, IndexState> {
        // Each change is one insertion or removal, whole even after a panic elsewhere.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::event::Status;
    use std::sync::Arc;

    fn id(n: u64) -> DeploymentId {
        DeploymentId::after(None, n, [0; 10])
    }

    fn summary(project: &str, status: Status) -> Summary {
        Summary {
            project: project.parse().unwrap(),
            status,
            started_at: 1,
            release_id: id(1),
            previous: None,
            payload: None,
            tree: None,
            key: None,
        }
    }

    #[test]
    fn who_looks_waits_and_what_is_newer_stays() {
        let index = Arc::new(Index::default());
        index.put(id(2), summary("a", Status::Installing));
        let (looking, a) = (Arc::clone(&index), "a".parse().unwrap());
        let looker = std::thread::spawn(move || looking.ended(&a));
        index.put_old(id(1), summary("a", Status::Success));
        index.put_old(id(2), summary("a", Status::Failed));
        index.put_old(id(3), summary("b", Status::Failed));
        index.put_old(id(4), summary("a", Status::Failed));
        index.forget(&[id(4)]);
        index.complete();
        assert_eq!(looker.join().unwrap(), [id(1)]);
        assert_eq!(index.look(All::len), 3);
    }
}
