//! A store in memory, for the tests of what uses one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, unbounded};

use crate::client::kv::{
    CasOutcome, KvChange, KvCondition, KvEntry, KvError, KvListing, KvNews, KvRange, KvStore,
    KvTransaction, KvTrouble, KvWatch, KvWrite, LeaseId,
};

/// A store in memory that behaves as etcd does. Its leases end when they are looked at.
#[derive(Clone, Default)]
pub(crate) struct MemoryStore(Arc<Mutex<MemoryState>>);

#[derive(Default)]
struct MemoryState {
    revision: i64,
    entries: BTreeMap<String, KvEntry>,
    leases: BTreeMap<LeaseId, Instant>,
    granted: u64,
    history: Vec<(i64, KvChange)>,
    compacted: i64,
    watches: Vec<MemoryWatch>,
    trouble: Option<KvError>,
}

struct MemoryWatch {
    ranges: Vec<KvRange>,
    news: Sender<Result<KvNews, KvError>>,
}

impl MemoryStore {
    /// From now on every call fails so, and every watch ends; none mends it.
    pub(crate) fn fail(&self, trouble: Option<KvTrouble>) {
        let mut state = self.0.lock().unwrap();
        state.trouble = trouble.map(|kind| KvError::new(kind, "as the test wants it"));
        if let Some(error) = state.trouble.clone() {
            for watch in state.watches.drain(..) {
                let _ = watch.news.send(Err(error.clone()));
            }
        }
    }

    /// Forgets what changed before this revision.
    pub(crate) fn compact(&self, revision: i64) {
        let mut state = self.0.lock().unwrap();
        state.compacted = revision;
        state.history.retain(|(at, _)| *at > revision);
    }

    /// Ends every lease.
    pub(crate) fn end_leases(&self) {
        let mut state = self.0.lock().unwrap();
        let all: Vec<LeaseId> = std::mem::take(&mut state.leases).into_keys().collect();
        all.iter().for_each(|lease| state.end(lease));
    }

    fn state(&self) -> Result<MutexGuard<'_, MemoryState>, KvError> {
        let mut state = self.0.lock().unwrap();
        if let Some(error) = &state.trouble {
            return Err(error.clone());
        }
        let now = Instant::now();
        let over: Vec<LeaseId> = state
            .leases
            .iter()
            .filter(|(_, end)| **end <= now)
            .map(|(lease, _)| lease.clone())
            .collect();
        for lease in over {
            state.leases.remove(&lease);
            state.end(&lease);
        }
        Ok(state)
    }
}

impl MemoryState {
    fn tell(&mut self, changes: Vec<KvChange>) {
        for change in &changes {
            self.history.push((self.revision, change.clone()));
        }
        self.watches.retain(|watch| {
            let mine = of(&changes, &watch.ranges);
            mine.is_empty() || watch.news.send(Ok(KvNews::Changes(mine))).is_ok()
        });
    }

    fn end(&mut self, lease: &LeaseId) {
        let keys: Vec<String> = self
            .entries
            .values()
            .filter(|entry| entry.lease.as_ref() == Some(lease))
            .map(|entry| entry.key.clone())
            .collect();
        if !keys.is_empty() {
            self.write(keys.into_iter().map(KvWrite::Delete));
        }
    }

    fn write(&mut self, writes: impl IntoIterator<Item = KvWrite>) -> i64 {
        let revision = self.revision + 1;
        let mut changes = Vec::new();
        for write in writes {
            match write {
                KvWrite::Put { key, value, lease } => {
                    let created = self.entries.get(&key).map_or(revision, |old| old.created);
                    let entry = KvEntry {
                        key: key.clone(),
                        value,
                        created,
                        modified: revision,
                        lease,
                    };
                    changes.push(KvChange::Put(entry.clone()));
                    self.entries.insert(key, entry);
                }
                KvWrite::Delete(key) => {
                    if self.entries.remove(&key).is_some() {
                        changes.push(KvChange::Deleted { key, revision });
                    }
                }
            }
        }
        if !changes.is_empty() {
            self.revision = revision;
            self.tell(changes);
        }
        self.revision
    }

    fn has_lease(&self, lease: Option<&LeaseId>) -> Result<(), KvError> {
        match lease.is_none_or(|lease| self.leases.contains_key(lease)) {
            true => Ok(()),
            false => Err(KvError::new(KvTrouble::Gone, "the lease has ended")),
        }
    }
}

fn of(changes: &[KvChange], ranges: &[KvRange]) -> Vec<KvChange> {
    let changes = changes.iter().filter(|change| {
        let key = match change {
            KvChange::Put(entry) => &entry.key,
            KvChange::Deleted { key, .. } => key,
        };
        ranges.iter().any(|range| range.holds(key))
    });
    changes.cloned().collect()
}

impl KvStore for MemoryStore {
    fn list(&self, range: &KvRange) -> Result<KvListing, KvError> {
        let state = self.state()?;
        let limit = match range.limit {
            0 => usize::MAX,
            limit => usize::try_from(limit).unwrap(),
        };
        let found = state
            .entries
            .values()
            .filter(|entry| range.holds(&entry.key));
        Ok(KvListing {
            revision: state.revision,
            entries: found.take(limit).cloned().collect(),
        })
    }

    fn watch(&self, ranges: &[KvRange], after: i64) -> Result<KvWatch, KvError> {
        let mut state = self.state()?;
        let (sender, news) = unbounded();
        if after < state.compacted {
            let error = KvError::new(KvTrouble::Compacted, "compacted");
            sender.send(Err(error)).unwrap();
        } else if after > state.revision {
            let error = KvError::new(KvTrouble::Behind, "behind");
            sender.send(Err(error)).unwrap();
        } else {
            sender.send(Ok(KvNews::Watching)).unwrap();
            let missed = state.history.iter().filter(|(at, _)| *at > after);
            let missed: Vec<KvChange> = missed.map(|(_, change)| change.clone()).collect();
            let missed = of(&missed, ranges);
            if !missed.is_empty() {
                sender.send(Ok(KvNews::Changes(missed))).unwrap();
            }
            state.watches.push(MemoryWatch {
                ranges: ranges.to_vec(),
                news: sender,
            });
        }
        Ok(KvWatch {
            news,
            _guard: Box::new(()),
        })
    }

    fn cas(&self, transaction: &KvTransaction) -> Result<CasOutcome, KvError> {
        let mut state = self.state()?;
        let entry = |key: &str| state.entries.get(key);
        let holds = |condition: &KvCondition| match condition {
            KvCondition::Absent(key) => entry(key).is_none(),
            KvCondition::Modified(key, at) => entry(key).map_or(0, |one| one.modified) == *at,
            KvCondition::Created(key, at) => entry(key).map_or(0, |one| one.created) == *at,
        };
        if !transaction.conditions.iter().all(holds) {
            let keys = transaction.conditions.iter().map(KvCondition::key);
            return Ok(CasOutcome::Lost(keys.filter_map(entry).cloned().collect()));
        }
        for write in &transaction.writes {
            if let KvWrite::Put { lease, .. } = write {
                state.has_lease(lease.as_ref())?;
            }
        }
        Ok(CasOutcome::Won(
            state.write(transaction.writes.iter().cloned()),
        ))
    }

    fn put(&self, key: &str, value: &[u8], lease: Option<&LeaseId>) -> Result<i64, KvError> {
        let mut state = self.state()?;
        state.has_lease(lease)?;
        Ok(state.write([KvWrite::Put {
            key: key.to_owned(),
            value: value.to_vec(),
            lease: lease.cloned(),
        }]))
    }

    fn alive(&self, lease: Option<&LeaseId>, ttl: Duration) -> Result<LeaseId, KvError> {
        let mut state = self.state()?;
        state.has_lease(lease)?;
        let lease = lease.cloned().unwrap_or_else(|| {
            state.granted += 1;
            LeaseId(state.granted.to_string())
        });
        state.leases.insert(lease.clone(), Instant::now() + ttl);
        Ok(lease)
    }

    fn delete(&self, range: &KvRange) -> Result<i64, KvError> {
        let mut state = self.state()?;
        let keys: Vec<String> = state
            .entries
            .keys()
            .filter(|key| range.holds(key))
            .cloned()
            .collect();
        Ok(state.write(keys.into_iter().map(KvWrite::Delete)))
    }
}

mod tests {
    use super::*;

    const KEY: &str = "a/b";

    fn put(key: &str) -> KvWrite {
        KvWrite::Put {
            key: key.to_owned(),
            value: b"x".to_vec(),
            lease: None,
        }
    }

    #[test]
    fn one_of_two_wins() {
        let store = MemoryStore::default();
        let transaction = KvTransaction {
            conditions: vec![KvCondition::Absent(KEY.to_owned())],
            writes: vec![put(KEY)],
        };
        assert_eq!(store.cas(&transaction).unwrap(), CasOutcome::Won(1));
        match store.cas(&transaction).unwrap() {
            CasOutcome::Lost(there) => assert_eq!(there[0].modified, 1),
            won => panic!("{won:?}"),
        }
    }

    #[test]
    fn a_watch_tells_what_came_after() {
        let store = MemoryStore::default();
        let first = store.put(KEY, b"1", None).unwrap();
        store.put(KEY, b"2", None).unwrap();
        let ranges = [KvRange::prefix("a/")];
        let watch = store.watch(&ranges, first).unwrap();
        store.delete(&KvRange::key(KEY)).unwrap();
        let news: Vec<_> = watch.news.try_iter().map(Result::unwrap).collect();
        assert!(
            matches!(&news[..], [KvNews::Watching, KvNews::Changes(two), KvNews::Changes(three)]
            if matches!(&two[..], [KvChange::Put(entry)] if entry.value == b"2")
            && *three == [KvChange::Deleted { key: KEY.to_owned(), revision: 3 }])
        );
        let trouble = |after| {
            let watch = store.watch(&ranges, after).unwrap();
            watch.news.recv().unwrap().unwrap_err().trouble
        };
        store.compact(2);
        assert_eq!(
            (trouble(1), trouble(9)),
            (KvTrouble::Compacted, KvTrouble::Behind)
        );
    }

    #[test]
    fn a_key_goes_with_its_lease() {
        let store = MemoryStore::default();
        let minute = Duration::from_secs(60);
        let lease = store.alive(None, minute).unwrap();
        store.put(KEY, b"1", Some(&lease)).unwrap();
        assert_eq!(store.alive(Some(&lease), minute).unwrap(), lease);
        store.end_leases();
        assert_eq!(store.list(&KvRange::key(KEY)).unwrap().entries, []);
        let gone = store.alive(Some(&lease), minute).unwrap_err();
        assert_eq!(gone.trouble, KvTrouble::Gone);
        store.fail(Some(KvTrouble::Unavailable));
        assert!(store.list(&KvRange::key(KEY)).is_err());
        store.fail(None);
        assert!(store.list(&KvRange::key(KEY)).is_ok());
    }
}
