//! Which payloads a host says that it has, so that it takes that back before one goes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::api::fleet::{FleetDocument, Have};
use crate::api::name::Project;
use crate::client::kv::{KvError, KvRange, KvTrouble, LeaseId};
use crate::engine::deployer::PayloadKeeper;
use crate::engine::member::MemberSeat;
use crate::engine::member::work::SITE;
use crate::system::log;

/// What a host says that it has, shared by what says it and what removes payloads.
#[derive(Clone)]
pub struct FleetHoldings(Arc<Mutex<Holdings>>);

struct Holdings {
    seat: MemberSeat,
    /// What was said under the lease that holds now.
    announced: BTreeSet<String>,
    /// What is about to be removed, and is not said of any longer.
    going: BTreeSet<String>,
    /// What the fleet wants of each component.
    wanted: BTreeMap<Project, String>,
    /// What this host published last of each, which it may not have heard of yet.
    published: BTreeMap<Project, String>,
}

impl FleetHoldings {
    pub(super) fn new(seat: MemberSeat) -> FleetHoldings {
        FleetHoldings(Arc::new(Mutex::new(Holdings {
            seat,
            announced: BTreeSet::new(),
            going: BTreeSet::new(),
            wanted: BTreeMap::new(),
            published: BTreeMap::new(),
        })))
    }

    /// Held while etcd is asked, so that nothing is said of what is being taken back.
    fn state(&self) -> MutexGuard<'_, Holdings> {
        // Each change is one insertion or removal.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the others have been told of it.
    pub(super) fn is_announced(&self, sha256: &str) -> bool {
        let state = self.state();
        state.announced.contains(sha256) || state.going.contains(sha256)
    }

    /// What is wanted of a component from now on.
    pub(super) fn wants(&self, project: &Project, sha256: Option<&str>) {
        let mut state = self.state();
        match sha256 {
            Some(sha256) => state.wanted.insert(project.clone(), sha256.to_owned()),
            None => state.wanted.remove(project),
        };
    }

    /// This host is about to publish a payload, and is the only one that has it.
    pub fn publishes(&self, project: &Project, sha256: &str) {
        let mut state = self.state();
        state.published.insert(project.clone(), sha256.to_owned());
    }

    /// A payload has come that may have been removed before.
    pub(super) fn came(&self, sha256: &str) {
        self.state().going.remove(sha256);
    }

    /// Tells the others of a payload, once.
    pub(super) fn announce(&self, sha256: &str, lease: &LeaseId) -> Result<(), KvError> {
        let mut state = self.state();
        if state.going.contains(sha256) || state.announced.contains(sha256) {
            return Ok(());
        }
        let seat = &state.seat;
        let have = Have::new(seat.url.clone(), seat.labels.get(SITE).cloned()).write();
        let have = have.map_err(|why| KvError::new(KvTrouble::Refused, why))?;
        let key = seat.keys.have(sha256, &seat.host);
        seat.store.put(&key, &have, Some(lease))?;
        state.announced.insert(sha256.to_owned());
        Ok(())
    }

    /// Another lease holds: what was said went with the one before, and is given to be said again.
    pub(super) fn lease_ended(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.state().announced)
    }
}

impl PayloadKeeper for FleetHoldings {
    fn keeps(&self, sha256: &str) -> bool {
        let state = self.state();
        let mut kept = state.wanted.values().chain(state.published.values());
        kept.any(|one| one == sha256)
    }

    fn goes(&self, sha256: &str) {
        let mut state = self.state();
        state.going.insert(sha256.to_owned());
        // It may have been said under a lease of before, which lasts for a while.
        state.announced.remove(sha256);
        let seat = &state.seat;
        let key = KvRange::key(seat.keys.have(sha256, &seat.host));
        if let Err(error) = seat.store.delete(&key) {
            // Whoever asks is told that it is not here, and asks the next one.
            log::info(&format!("fleet: {error}"));
        }
    }
}
