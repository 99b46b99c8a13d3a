//! Where deployments are kept and known: on disk, and in memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::api::name::DeploymentId;
use crate::engine::metrics::DeploymentMetrics;
use crate::store::Store;
use crate::store::index::Index;
use crate::store::journal::LiveFeed;

/// Where deployments are kept and known.
#[derive(Clone)]
pub struct Registry {
    /// On disk.
    pub store: Arc<Store>,
    /// In memory.
    pub index: Arc<Index>,
    /// What they add up to.
    pub metrics: Arc<DeploymentMetrics>,
    /// The feeds of those that have ended, but whose end the disk did not take yet.
    unwritten: Arc<Mutex<HashMap<DeploymentId, Arc<LiveFeed>>>>,
}

impl Registry {
    /// The deployments of a store; the index knows none of them yet.
    pub fn new(store: Arc<Store>) -> Registry {
        Registry {
            store,
            index: Arc::default(),
            metrics: Arc::default(),
            unwritten: Arc::default(),
        }
    }

    /// The feed of a deployment that has ended, but whose end is not on disk.
    pub(super) fn unwritten_end(&self, id: DeploymentId) -> Option<Arc<LiveFeed>> {
        self.unwritten().get(&id).cloned()
    }

    /// Keeps a deployment's feed until its end is on disk.
    pub(super) fn keep_feed(&self, id: DeploymentId, live: Arc<LiveFeed>) {
        self.unwritten().insert(id, live);
    }

    /// Lets the feed go: the end is on disk.
    pub(super) fn forget_feed(&self, id: DeploymentId) {
        self.unwritten().remove(&id);
    }

    fn unwritten(&self) -> MutexGuard<'_, HashMap<DeploymentId, Arc<LiveFeed>>> {
        // Each change is one insertion or removal.
        self.unwritten
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
