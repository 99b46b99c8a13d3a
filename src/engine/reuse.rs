//! What was installed once, and is not installed again as long as all that decides it is the same.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::api::name::{DeploymentId, Project};
use crate::engine::checkpoint::checkpoint;
use crate::formats::archive;
use crate::formats::delta::hash::ContentHash;
use crate::store::Store;
use crate::system::log;

/// The directory that package managers make.
pub(super) const MODULES: &str = "node_modules";

/// What a deployment installed, or took over, until a copy is made of it.
pub(super) struct InstalledModules {
    /// What decided it.
    pub(super) key: ContentHash,
    /// The deployment that installed it.
    pub(super) from: DeploymentId,
    /// The release that it is in.
    pub(super) release: DeploymentId,
    /// What the file system said of it right after.
    pub(super) stamp: ContentHash,
}

/// What running deployments installed, by their id.
#[derive(Default)]
pub struct InstalledByDeployment(Mutex<HashMap<DeploymentId, InstalledModules>>);

impl InstalledByDeployment {
    fn lock(&self) -> MutexGuard<'_, HashMap<DeploymentId, InstalledModules>> {
        // Every change is a single insertion or removal, so it is whole even after a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn remember(&self, id: DeploymentId, installed: InstalledModules) {
        self.lock().insert(id, installed);
    }

    pub(super) fn take(&self, id: DeploymentId) -> Option<InstalledModules> {
        self.lock().remove(&id)
    }
}

/// What the file system says of a release without what is installed in it; none if it cannot be looked at.
pub(super) fn stamp_beside(release: &Path) -> Option<ContentHash> {
    archive::stamp_entries(release, Some(MODULES)).ok()
}

/// What it says of what is installed in it.
pub(super) fn stamp_of(release: &Path) -> Option<ContentHash> {
    archive::stamp_entries(&release.join(MODULES), None).ok()
}

/// Says why the next deployment installs again.
pub(super) fn not_kept(project: &Project, why: &str) {
    log::info(&format!(
        "what was installed for {project} is not kept for the next release: {why}"
    ));
}

/// Moves what was installed into a release, if what decided it is the same and nobody has touched it. Gives the deployment
/// that installed it.
pub(super) fn take_over(
    store: &Store,
    project: &Project,
    release: &Path,
    key: ContentHash,
) -> Option<DeploymentId> {
    let index = store.modules_index(project)?;
    if index.key != key {
        return None;
    }
    let is_whole = match archive::stamp_entries(&store.modules(project).dir, None) {
        Ok(stamp) if stamp == index.stamp => Ok(()),
        Ok(_) => Err("somebody has changed it".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    checkpoint("modules-checked");
    let taken = is_whole.and_then(|()| {
        let taken = store.take_modules(project, release);
        taken.map_err(|error| error.to_string())
    });
    checkpoint("modules-taken");
    match taken {
        Ok(()) => Some(index.from),
        Err(why) => {
            log::warn(&format!(
                "what was installed for {project} is not used again: {why}"
            ));
            if let Err(error) = store.disown_modules(project) {
                log::warn(&error.to_string());
            }
            None
        }
    }
}
