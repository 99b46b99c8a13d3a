//! The trees of releases, `releases/X/ID`.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::api::error::{Doing, Error};
use crate::api::name::{DeploymentId, Project};
use crate::store::remove::{discard, set_aside};
use crate::store::{DetachedTree, Store, ids};
use crate::system::files;

impl Store {
    /// Where the releases of all components are.
    pub fn releases_dir(&self) -> PathBuf {
        self.root().join("releases")
    }

    /// The releases of a component on disk, oldest first.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn releases(&self, project: &Project) -> Result<Vec<DeploymentId>, Error> {
        ids(&self.releases_of(project))
    }

    /// The directory of a release.
    pub fn release(&self, project: &Project, id: DeploymentId) -> PathBuf {
        self.releases_of(project).join(id.to_string())
    }

    pub(super) fn releases_of(&self, project: &Project) -> PathBuf {
        self.releases_dir().join(project.as_str())
    }

    /// Makes the directory of a new release.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn create_release(&self, project: &Project, id: DeploymentId) -> Result<PathBuf, Error> {
        let path = self.release(project, id);
        let releases = self.releases_of(project);
        // Whoever serves a release, or runs it by `--run-as`, must get in.
        let make =
            || files::make_dirs(&releases, 0o755).and_then(|()| files::make_dir(&path, 0o755));
        let made = match make() {
            // Who removed the last of the other releases just now took the directory along.
            Err(error) if error.kind() == io::ErrorKind::NotFound => make(),
            made => made,
        };
        made.doing(|| format!("making {}", path.display()))?;
        Ok(path)
    }

    /// Removes a release, if it is there.
    ///
    /// # Errors
    /// When something of it stays.
    pub fn remove_release(&self, project: &Project, id: DeploymentId) -> Result<(), Error> {
        discard(&self.release(project, id))?;
        // The system removes it only if it is empty: a component that never went live leaves nothing behind.
        let _ = std::fs::remove_dir(self.releases_of(project));
        Ok(())
    }

    /// Removes what an earlier removal of a release has left, or of a deployment.
    pub fn sweep_removed(&self, project: &Project) {
        self.sweep_dir(&self.releases_of(project));
        self.sweep_dir(&self.root().join("deployments"));
    }

    /// Takes a release away from its place, at once; the rest of the work is the answer's.
    ///
    /// # Errors
    /// When it is still in its place.
    pub fn set_release_aside(
        &self,
        project: &Project,
        id: DeploymentId,
    ) -> Result<DetachedTree, Error> {
        set_aside(&self.release(project, id))
    }

    /// As [`Store::sync`], for a release that is on disk already: nothing that others write is waited for.
    ///
    /// # Errors
    /// As [`Store::sync`].
    pub fn sync_deployment(&self, deployment: DeploymentId) -> Result<(), Error> {
        let dir = self.deployment(deployment);
        let what = || format!("writing {} to disk", dir.display());
        for entry in std::fs::read_dir(&dir).doing(what)? {
            let entry = entry.doing(what)?;
            // The record can be made from the journal.
            let is_record = entry.file_name() == "record.json";
            if !is_record && entry.file_type().doing(what)?.is_file() {
                files::sync(&entry.path()).doing(what)?;
            }
        }
        // The names of all of it, and the mark that says that it runs.
        let names = [
            dir.clone(),
            self.root().join("deployments"),
            self.root().join("run"),
        ];
        for dir in names {
            files::sync(&dir).doing(what)?;
        }
        Ok(())
    }

    /// Writes to disk what has to be there before a release is made live: the release itself, and the directory of the
    /// deployment that does so. Each may be on a file system of its own, so each is asked where it is.
    ///
    /// # Errors
    /// When a disk reports an error: what was written since the last call may be lost then.
    pub fn sync(
        &self,
        project: &Project,
        release: DeploymentId,
        deployment: DeploymentId,
    ) -> Result<(), Error> {
        let mut synced = Vec::new();
        let places = [
            self.root().to_owned(),
            self.release(project, release),
            self.deployment(deployment),
        ];
        for place in places {
            let what = || format!("writing {} to disk", place.display());
            let dir = File::open(&place).doing(what)?;
            let device = dir.metadata().doing(what)?.dev();
            if !synced.contains(&device) {
                files::sync_file_system(&dir).doing(what)?;
                synced.push(device);
            }
        }
        Ok(())
    }
}
