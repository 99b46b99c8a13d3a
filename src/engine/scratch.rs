//! A place for trees that are not kept.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::api::error::{Doing, Error};
use crate::api::name::Project;
use crate::store::Store;
use crate::system::{files, log, trees};

/// A directory for a tree that is only needed for a while.
pub struct Scratch(pub PathBuf);

impl Scratch {
    /// # Errors
    /// When it cannot be made.
    pub fn new(store: &Store, project: &Project) -> Result<Scratch, Error> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = store
            .component_store(project)?
            .join(format!(".tree-{number}"));
        let what = || format!("making {}", path.display());
        trees::remove(&path).doing(what)?;
        files::make_dir(&path, 0o700).doing(what)?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays is removed by the next start; one fault of the disk is not to leave it until then.
        if let Err(error) = trees::remove(&self.0).or_else(|_| trees::remove(&self.0)) {
            log::warn(&format!("removing {}: {error}", self.0.display()));
        }
    }
}

/// Removes what an attempt has left in a directory.
///
/// # Errors
/// When something of it stays.
pub fn empty(dir: &Path) -> Result<(), Error> {
    let what = || format!("emptying {}", dir.display());
    for entry in fs::read_dir(dir).doing(what)? {
        trees::remove(&entry.doing(what)?.path()).doing(what)?;
    }
    Ok(())
}
