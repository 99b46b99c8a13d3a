//! The record of a deployment on disk: replaced whole, and read whole.

use std::fs::{self, File};
use std::io::{self, Write};

use serde::de::DeserializeOwned;

use crate::api::error::{Doing, Error};
use crate::api::name::DeploymentId;
use crate::api::record::{Record, Summary};
use crate::store::{Store, sync_dir};

impl Store {
    /// Replaces a record, whole or not at all. It can be made again from its journal, so only a `durable` one is forced
    /// to disk.
    ///
    /// # Errors
    /// When the disk does not take it: the old one stays.
    pub fn write_record(&self, record: &Record, durable: bool) -> Result<(), Error> {
        let dir = self.deployment(record.deployment_id);
        let (fresh, path) = (dir.join("record.json.new"), dir.join("record.json"));
        let what = || format!("writing {}", path.display());
        let mut text = serde_json::to_vec_pretty(record).doing(what)?;
        text.push(b'\n');
        let mut file = File::create(&fresh).doing(what)?;
        file.write_all(&text).doing(what)?;
        if durable {
            file.sync_all().doing(what)?;
        }
        fs::rename(&fresh, &path).doing(what)?;
        if durable {
            sync_dir(&dir).doing(what)?;
        }
        Ok(())
    }

    /// The record of a deployment; none if there is no such deployment.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read_record(&self, id: DeploymentId) -> Result<Option<Record>, Error> {
        let mut record: Option<Record> = self.read_record_as(id)?;
        if let Some(record) = &mut record {
            record.payload_present = self.payload(id).exists();
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

    /// A record as it stands on disk, where `payload_present` may be out of date.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read_record_text(&self, id: DeploymentId) -> Result<Option<Vec<u8>>, Error> {
        let path = self.deployment(id).join("record.json");
        match fs::read(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).doing(|| format!("reading {}", path.display())),
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
