//! A host's place in its fleet: `hosts/HOST`, which stays, and `alive/HOST`, which goes with a lease.

use crate::api::fleet::{Alive, FleetDocument, FleetIdentity, HostEntry};
use crate::client::kv::{
    CasOutcome, KvCondition, KvEntry, KvError, KvRange, KvTransaction, KvTrouble, KvWrite, LeaseId,
};
use crate::engine::member::FleetMember;
use crate::engine::member::work::SITE;
use crate::system::hex;
use crate::system::log;
use crate::system::time::now_ms;

fn refused(why: impl Into<String>) -> KvError {
    KvError::new(KvTrouble::Refused, why)
}

/// One key set, if that holds.
fn set(condition: KvCondition, value: Vec<u8>, lease: Option<&LeaseId>) -> KvTransaction {
    KvTransaction {
        writes: vec![KvWrite::Put {
            key: condition.key().to_owned(),
            value,
            lease: lease.cloned(),
        }],
        conditions: vec![condition],
    }
}

impl FleetMember {
    fn entry(&self, key: &str) -> Result<Option<KvEntry>, KvError> {
        let found = self.seat.store.list(&KvRange::key(key))?;
        Ok(found.entries.into_iter().next())
    }

    /// Joins: makes sure of which fleet it is, of the name, and of the lease. None if somebody took this host out.
    pub(super) fn join(&mut self) -> Result<Option<LeaseId>, KvError> {
        let is_new = self.know_fleet()?;
        let key = self.seat.keys.host(&self.seat.host);
        let there = self.entry(&key)?;
        let known = there
            .as_ref()
            .and_then(|entry| HostEntry::read(&entry.value).ok());
        let is_other = |root: &str| !root.is_empty() && root != self.seat.root;
        let alive = self.entry(&self.seat.keys.alive(&self.seat.host))?;
        if let Some(alive) = alive.as_ref().and_then(|one| Alive::read(&one.value).ok()) {
            if is_other(&alive.root) {
                let url = known.map_or_else(String::new, |known| format!(" by {}", known.url));
                return Err(refused(format!(
                    "joining as {}: name in use{url}",
                    self.seat.host
                )));
            }
        }
        match &known {
            Some(known) if is_other(&known.root) && !self.seat.takes_over => {
                return Err(refused(format!(
                    "joining as {}: name in use by {}, which is not there now; --fleet-takeover takes its place",
                    self.seat.host, known.url
                )));
            }
            None if there.is_none() && self.memory.joined && !is_new => return Ok(None),
            _ => {}
        }
        self.enter(&key, there.as_ref(), known.as_ref())?;
        if !self.memory.joined {
            self.memory.joined = true;
            self.remember()?;
            log::info(&format!("fleet: joined as {}", self.seat.host));
        }
        self.be_alive().map(Some)
    }

    /// Learns which fleet it is. True if it is another one than before, as when etcd was emptied.
    fn know_fleet(&mut self) -> Result<bool, KvError> {
        let key = self.seat.keys.identity();
        let mut there = match self.entry(&key) {
            // A host that may not is told of its fleet by the operator, or not at all.
            Err(error) if error.trouble == KvTrouble::Denied => return Ok(false),
            there => there?,
        };
        if there.is_none() {
            let mut random = [0; 16];
            getrandom::fill(&mut random).map_err(|error| refused(error.to_string()))?;
            let fresh = FleetIdentity::new(hex::encode(random))
                .write()
                .map_err(refused)?;
            match self
                .seat
                .store
                .cas(&set(KvCondition::Absent(key.clone()), fresh, None))
            {
                // Whoever was first made it.
                Ok(_) => there = self.entry(&key)?,
                Err(error) if error.trouble == KvTrouble::Denied => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        let Some(identity) = there.and_then(|entry| FleetIdentity::read(&entry.value).ok()) else {
            return Ok(false);
        };
        if self.memory.fleet.as_ref() == Some(&identity.id) {
            return Ok(false);
        }
        let is_new = self.memory.fleet.is_some();
        if is_new {
            log::warn("fleet: etcd holds another fleet than before (emptied?)");
        }
        self.memory.fleet = Some(identity.id);
        self.memory.joined &= !is_new;
        self.remember()?;
        Ok(is_new)
    }

    fn remember(&self) -> Result<(), KvError> {
        self.local
            .save(&self.memory)
            .map_err(|error| refused(error.to_string()))
    }

    /// Writes the entry of this host, if it is not there or not as it is now.
    fn enter(
        &self,
        key: &str,
        there: Option<&KvEntry>,
        known: Option<&HostEntry>,
    ) -> Result<(), KvError> {
        let seat = &self.seat;
        let is_so = known.is_some_and(|known| {
            known.url == seat.url && known.labels == seat.labels && known.root == seat.root
        });
        if is_so {
            return Ok(());
        }
        let site = seat.labels.get(SITE).cloned();
        let since = known.map_or_else(now_ms, |known| known.joined_at);
        let mut entry = HostEntry::new(
            seat.url.clone(),
            site,
            seat.labels.clone(),
            since,
            seat.root.clone(),
        );
        if let Some(known) = known {
            entry.more.clone_from(&known.more);
        }
        let condition = match there {
            Some(there) => KvCondition::Modified(key.to_owned(), there.modified),
            None => KvCondition::Absent(key.to_owned()),
        };
        let value = entry.write().map_err(refused)?;
        match seat.store.cas(&set(condition, value, None)) {
            Ok(CasOutcome::Won(_)) => Ok(()),
            Ok(CasOutcome::Lost(_)) => Err(refused(format!(
                "joining as {}: another host does too",
                seat.host
            ))),
            // An operator who wrote the entry may keep hosts from changing it.
            Err(error) if error.trouble == KvTrouble::Denied && known.is_some() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Takes a lease and says with it that this host is there.
    pub(super) fn be_alive(&self) -> Result<LeaseId, KvError> {
        let seat = &self.seat;
        let lease = seat.store.alive(None, seat.times.lease)?;
        let key = seat.keys.alive(&seat.host);
        let seen = self.memory.projects.iter();
        let seen = seen.map(|(project, one)| (project.clone(), one.generation));
        let alive = Alive::new(
            self.boot.clone(),
            seat.root.clone(),
            env!("CARGO_PKG_VERSION").to_owned(),
            seen.collect(),
        );
        let there = self.entry(&key)?;
        let condition = match &there {
            None => KvCondition::Absent(key),
            Some(there) => {
                // Of an earlier run of this very root, or of this run before its lease ended.
                let of = Alive::read(&there.value).map(|one| one.root);
                if of.is_ok_and(|root| !root.is_empty() && root != seat.root) {
                    return Err(refused(format!("joining as {}: name in use", seat.host)));
                }
                KvCondition::Modified(key, there.modified)
            }
        };
        let value = alive.write().map_err(refused)?;
        match seat.store.cas(&set(condition, value, Some(&lease)))? {
            CasOutcome::Won(_) => Ok(lease),
            CasOutcome::Lost(_) => Err(refused(format!("joining as {}: name in use", seat.host))),
        }
    }
}
