//! The directories of deployments, `deployments/ID`, and the marks of those that run, `run/ID`.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use crate::api::error::{Doing, Error};
use crate::api::name::DeploymentId;
use crate::store::remove::discard;
use crate::store::{Store, ids, journal};
use crate::system::files::{self, gone};

impl Store {
    /// All deployments on disk, oldest first.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn deployments(&self) -> Result<Vec<DeploymentId>, Error> {
        ids(&self.root().join("deployments"))
    }

    /// The directory of a deployment.
    pub fn deployment(&self, id: DeploymentId) -> PathBuf {
        self.root().join("deployments").join(id.to_string())
    }

    /// Makes the directory of a new deployment.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn create_deployment(&self, id: DeploymentId) -> Result<PathBuf, Error> {
        let dir = self.deployment(id);
        files::make_dir(&dir, 0o700).doing(|| format!("making {}", dir.display()))?;
        Ok(dir)
    }

    /// Removes all that is known of a deployment.
    ///
    /// # Errors
    /// When something of it stays.
    pub fn remove_deployment(&self, id: DeploymentId) -> Result<(), Error> {
        self.forget_unwritten(id);
        discard(&self.deployment(id))
    }

    /// Removes a deployment of which not more than the beginning of a journal was made. That takes no descriptor: a server
    /// that has none left begins nothing, and leaves nothing of it.
    ///
    /// # Errors
    /// When something of it stays.
    pub fn remove_unbegun(&self, id: DeploymentId) -> Result<(), Error> {
        self.forget_unwritten(id);
        let dir = self.deployment(id);
        let emptied = gone(fs::remove_file(journal::head(&dir)));
        match emptied.and_then(|()| gone(fs::remove_dir(&dir))) {
            Ok(()) => Ok(()),
            Err(_) => discard(&dir),
        }
    }

    /// Keeps what is left of a deployment that cannot be read under another name, and gives that.
    ///
    /// # Errors
    /// When it is still in its place.
    pub fn keep_damaged(&self, id: DeploymentId) -> Result<PathBuf, Error> {
        let dir = self.deployment(id);
        let aside = dir.with_extension("damaged");
        fs::rename(&dir, &aside).doing(|| format!("renaming {}", dir.display()))?;
        Ok(aside)
    }

    /// Marks a deployment as running, on disk: it is ended by the next start if the mark is still there then.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn mark(&self, id: DeploymentId) -> Result<(), Error> {
        let path = self.mark_of(id);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let made = options.open(&path).map(drop);
        made.doing(|| format!("making {}", path.display()))
    }

    /// Takes the mark of a deployment away.
    ///
    /// # Errors
    /// When it stays.
    pub fn unmark(&self, id: DeploymentId) -> Result<(), Error> {
        let path = self.mark_of(id);
        let removed = match gone(fs::remove_file(&path)) {
            // Nobody knows who made it so.
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => fs::remove_dir(&path),
            removed => removed,
        };
        removed.doing(|| format!("removing {}", path.display()))
    }

    /// The deployments that are marked.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn marked(&self) -> Result<Vec<DeploymentId>, Error> {
        ids(&self.root().join("run"))
    }

    fn mark_of(&self, id: DeploymentId) -> PathBuf {
        self.root().join("run").join(id.to_string())
    }
}
