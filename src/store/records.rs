//! The record of a deployment on disk: replaced whole, and read whole.
//!
//! A record is a fold over its journal. One that the disk does not take is kept in memory, and everybody who reads is
//! answered from there, until it can be written.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use crate::api::error::{Doing, Error};
use crate::api::name::DeploymentId;
use crate::api::record::{Record, Summary};
use crate::store::Store;
use crate::system::files::{self, Durability, if_there};

/// So many records that the disk did not take are kept, of at most some 64 KiB each. A disk that takes none lets no
/// deployment begin, so these are those that ran when it filled up.
const UNWRITTEN_MAX: usize = 64;

/// Records that are newer than what is on disk.
#[derive(Debug, Default)]
pub(super) struct UnwrittenRecords {
    records: Mutex<BTreeMap<DeploymentId, Record>>,
    /// Whether somebody rang since it was last looked.
    rung: Mutex<bool>,
    ringing: Condvar,
}

impl UnwrittenRecords {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<DeploymentId, Record>> {
        // Each change is one insertion or removal.
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// Replaces a record, whole or not at all. It can be made again from its journal, so only a `durable` one is forced
    /// to disk.
    ///
    /// # Errors
    /// When the disk does not take it: the old one stays there, and whoever reads gets this one.
    pub fn write_record(&self, record: &Record, durable: bool) -> Result<(), Error> {
        let id = record.deployment_id;
        let path = self.deployment(id).join("record.json");
        let what = || format!("writing {}", path.display());
        let mut text = serde_json::to_vec_pretty(record).doing(what)?;
        text.push(b'\n');
        let durability = if durable {
            Durability::PowerLoss
        } else {
            Durability::None
        };
        let written = files::replace(&path, &text, 0o600, durability).doing(what);
        match &written {
            Ok(()) => drop(self.unwritten.lock().remove(&id)),
            Err(_) => self.keep_unwritten(record),
        }
        written
    }

    /// Forces to disk the record of a deployment that has ended. Until then a power loss may leave an older one, or none; its
    /// journal has the end, and the next start makes the record from that.
    ///
    /// # Errors
    /// When the disk reports an error.
    pub fn sync_record(&self, id: DeploymentId) -> Result<(), Error> {
        let dir = self.deployment(id);
        let synced = files::sync(&dir.join("record.json")).and_then(|()| files::sync(&dir));
        // It may have been removed meanwhile, with all of its deployment.
        if_there(synced)
            .map(drop)
            .doing(|| format!("writing the record in {} to disk", dir.display()))
    }

    /// Keeps a record in memory until it can be written.
    pub fn keep_unwritten(&self, record: &Record) {
        let mut unwritten = self.unwritten.lock();
        unwritten.insert(record.deployment_id, record.clone());
        if unwritten.len() > UNWRITTEN_MAX {
            unwritten.pop_first();
        }
        drop(unwritten);
        self.ring();
    }

    /// Says that it is time to write what the disk did not take.
    pub fn ring(&self) {
        let bell = &self.unwritten;
        *bell.rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        bell.ringing.notify_one();
    }

    /// Waits until it is time to write what the disk did not take, or for so long.
    pub fn wait_for_ring(&self, limit: Option<Duration>) {
        let until = limit.map(|limit| Instant::now() + limit);
        let bell = &self.unwritten;
        let mut rung = bell.rung.lock().unwrap_or_else(PoisonError::into_inner);
        while !*rung {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            rung = match left {
                None => bell
                    .ringing
                    .wait(rung)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => break,
                Some(left) => {
                    let waited = bell.ringing.wait_timeout(rung, left);
                    waited.map_or_else(|poisoned| poisoned.into_inner().0, |(rung, _)| rung)
                }
            };
        }
        *rung = false;
    }

    /// The records that the disk did not take yet.
    pub fn unwritten_records(&self) -> Vec<Record> {
        self.unwritten.lock().values().cloned().collect()
    }

    /// Forgets a record that the disk did not take.
    pub(super) fn forget_unwritten(&self, id: DeploymentId) {
        self.unwritten.lock().remove(&id);
    }

    /// The record of a deployment; none if there is no such deployment.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read_record(&self, id: DeploymentId) -> Result<Option<Record>, Error> {
        let mut record: Option<Record> = self.read_record_as(id)?;
        if let Some(record) = &mut record {
            record.payload_present = self.payload(id).exists();
            record.payload_blob_present = record.payload_present;
        }
        Ok(record)
    }

    /// What a listing needs of a record; none if there is no such deployment.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read_summary(&self, id: DeploymentId) -> Result<Option<Summary>, Error> {
        self.read_record_as(id)
    }

    /// A record as it was written, where `payload_present` may be out of date.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read_record_text(&self, id: DeploymentId) -> Result<Option<Vec<u8>>, Error> {
        let what = || format!("reading the record of deployment {id}");
        if let Some(record) = self.unwritten.lock().get(&id) {
            return serde_json::to_vec_pretty(record).map(Some).doing(what);
        }
        match fs::read(self.deployment(id).join("record.json")) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).doing(what),
        }
    }

    fn read_record_as<T: DeserializeOwned>(&self, id: DeploymentId) -> Result<Option<T>, Error> {
        match self.read_record_text(id)? {
            Some(text) => serde_json::from_slice(&text)
                .map(Some)
                .doing(|| format!("reading the record of deployment {id}")),
            None => Ok(None),
        }
    }
}
