//! Who and what belongs to the fleet.

use serde_json::{Value, json};

use crate::api::error::{Code, Refusal};
use crate::api::fleet::{Alive, FleetDocument, FleetKeys, HostEntry, HostName};
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

    /// A row for each host that is expected.
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
        Ok(hosts.iter().filter_map(row).collect())
    }

    /// Takes a host out of the fleet: nobody expects it any longer, and it finds that it was taken out.
    ///
    /// # Errors
    /// `not_found` if there is none of that name, or `fleet_unavailable`.
    pub fn remove_host(&self, host: &HostName) -> Result<(), Refusal> {
        let what = format!("removing {host} from the fleet");
        let keys = &self.seat.keys;
        if self.listed(KvRange::key(keys.host(host)))?.is_empty() {
            let why = format!("{what}: there is no host of that name");
            return Err(Refusal::new(Code::NotFound, why));
        }
        // The host itself first: with that alone done it is out already.
        let ranges = [
            KvRange::key(keys.host(host)),
            KvRange::prefix(keys.statuses_of(host)),
            KvRange::key(keys.alive(host)),
        ];
        for range in ranges {
            let removed = self.seat.store.delete(&range);
            removed.map_err(|error| unavailable(&what, &error))?;
        }
        Ok(())
    }
}
