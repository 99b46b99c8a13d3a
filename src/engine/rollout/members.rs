//! Who and what belongs to the fleet.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::api::error::{Code, Refusal};
use crate::api::fleet::{
    Alive, FleetDocument, FleetKeys, HostEntry, HostName, HostState, HostStatus,
};
use crate::api::name::Project;
use crate::client::kv::{KvEntry, KvRange};
use crate::engine::rollout::publish::FleetPublisher;
use crate::engine::rollout::seat::unavailable;

impl FleetPublisher {
    fn listed(&self, range: KvRange) -> Result<Vec<KvEntry>, Refusal> {
        let listing = self.seat.store.list(&range);
        let listing = listing.map_err(|error| unavailable("reading the fleet", &error))?;
        Ok(listing.entries)
    }

    /// The components of which something is wanted.
    ///
    /// # Errors
    /// `fleet_unavailable`
    pub fn projects(&self) -> Result<Vec<Project>, Refusal> {
        let prefix = self.seat.keys.all_desired();
        let entries = self.listed(KvRange::prefix(&*prefix))?;
        let names = entries.iter();
        Ok(names
            .filter_map(|entry| FleetKeys::name_below(&prefix, &entry.key))
            .collect())
    }

    /// A row for each host that is expected, and for each that was removed and still has a status.
    ///
    /// # Errors
    /// `fleet_unavailable`
    pub fn hosts(&self) -> Result<Vec<Value>, Refusal> {
        let keys = &self.seat.keys;
        let alive = self.listed(KvRange::prefix(keys.alive_hosts()))?;
        let row = |entry: &KvEntry| {
            let name: HostName = FleetKeys::name_below(&keys.hosts(), &entry.key)?;
            let host = HostEntry::read(&entry.value).ok()?;
            let key = keys.alive(&name);
            let here = alive.iter().find(|one| one.key == key);
            let version = here.and_then(|one| Alive::read(&one.value).ok());
            Some(json!({
                "host": name,
                "alive": here.is_some(),
                "version": version.map(|alive| alive.version),
                "url": host.url,
                "site": host.site,
                "labels": host.labels,
            }))
        };
        let hosts = self.listed(KvRange::prefix(keys.hosts()))?;
        let mut rows: Vec<Value> = hosts.iter().filter_map(row).collect();
        let mut removed = BTreeSet::new();
        for entry in self.listed(KvRange::prefix(keys.statuses()))? {
            let status = HostStatus::read(&entry.value);
            let is_removed = status.is_ok_and(|one| one.state == HostState::Removed);
            if let (true, Some((host, _))) = (is_removed, keys.of_status(&entry.key)) {
                removed.insert(host);
            }
        }
        removed.retain(|host| !hosts.iter().any(|one| one.key == keys.host(host)));
        let gone = |host| json!({"host": host, "alive": false, "state": "removed"});
        rows.extend(removed.into_iter().map(gone));
        Ok(rows)
    }

    /// Takes a host out of the fleet: nobody expects it any longer, and it finds that it was taken out. Its statuses say so from
    /// then on; done a second time, they go.
    ///
    /// # Errors
    /// `not_found` if there is nothing of that name, or `fleet_unavailable`.
    pub fn remove_host(&self, host: &HostName) -> Result<HostRemoval, Refusal> {
        let what = format!("removing {host} from the fleet");
        let keys = &self.seat.keys;
        let is_expected = !self.listed(KvRange::key(keys.host(host)))?.is_empty();
        let statuses = self.listed(KvRange::prefix(keys.statuses_of(host)))?;
        if !is_expected && statuses.is_empty() {
            let why = format!("{what}: there is no host of that name");
            return Err(Refusal::new(Code::NotFound, why));
        }
        let refuse = |error| unavailable(&what, &error);
        let delete = |range: &KvRange| self.seat.store.delete(range).map_err(refuse);
        if !is_expected {
            delete(&KvRange::prefix(keys.statuses_of(host)))?;
            return Ok(HostRemoval::Forgotten);
        }
        // The host itself first: with that alone done it is out already.
        delete(&KvRange::key(keys.host(host)))?;
        delete(&KvRange::key(keys.alive(host)))?;
        for entry in statuses {
            // What cannot be read says nothing of how it stands.
            let removed = HostStatus::read(&entry.value).map(|status| status.of_removed());
            let Some(value) = removed.ok().and_then(|one| one.write().ok()) else {
                delete(&KvRange::key(&*entry.key))?;
                continue;
            };
            self.seat
                .store
                .put(&entry.key, &value, None)
                .map_err(refuse)?;
        }
        Ok(HostRemoval::Removed)
    }
}

/// What was done with a host that is not wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostRemoval {
    /// It is expected no longer, and its statuses say that it was removed.
    Removed,
    /// It was removed before, and nothing says so any longer.
    Forgotten,
}
