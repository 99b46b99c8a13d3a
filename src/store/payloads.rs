//! What was uploaded, `deployments/ID/payload`.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use crate::api::error::{Doing, Error};
use crate::api::name::DeploymentId;
use crate::store::Store;
use crate::system::files::{gone, if_there};

impl Store {
    /// The file of a deployment's payload.
    pub fn payload(&self, id: DeploymentId) -> PathBuf {
        self.deployment(id).join("payload")
    }

    /// A stored payload and its length; none if it is not stored.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open_payload(&self, id: DeploymentId) -> Result<Option<(File, u64)>, Error> {
        let path = self.payload(id);
        let what = || format!("reading {}", path.display());
        let Some(file) = if_there(File::open(&path)).doing(what)? else {
            return Ok(None);
        };
        let length = file.metadata().doing(what)?.len();
        Ok(Some((file, length)))
    }

    /// Where a payload is, by its SHA-256, that was fetched from another host and not deployed yet.
    pub fn fetched_payload(&self, sha256: &str) -> PathBuf {
        self.fetched_payloads().join(sha256)
    }

    /// Where a payload is of which not all has come.
    pub fn partly_fetched_payload(&self, sha256: &str) -> PathBuf {
        self.fetched_payloads().join(format!("{sha256}.part"))
    }

    /// Where payloads are that were fetched from other hosts.
    pub fn fetched_payloads(&self) -> PathBuf {
        self.root().join("run/fetched")
    }

    /// Makes the file of a new payload.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn create_payload(&self, id: DeploymentId) -> Result<File, Error> {
        let path = self.payload(id);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        options
            .open(&path)
            .doing(|| format!("making {}", path.display()))
    }

    /// Removes a payload, if it is there.
    ///
    /// # Errors
    /// When it stays.
    pub fn remove_payload(&self, id: DeploymentId) -> Result<(), Error> {
        let path = self.payload(id);
        gone(fs::remove_file(&path)).doing(|| format!("removing {}", path.display()))?;
        self.drop_objects(id)
    }
}
