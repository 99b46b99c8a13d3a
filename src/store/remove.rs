//! Trees that are to be removed leave their place first, so that nobody ever sees half of one.

use std::fs;
use std::path::{Path, PathBuf};

use crate::api::error::{Doing, Error};
use crate::system::files;
use crate::system::trees::remove_tree;

/// A tree that is not in its place any longer, under a name that [`Store::sweep`](super::Store::sweep) knows too.
#[must_use]
#[derive(Debug)]
pub struct DetachedTree(PathBuf);

impl DetachedTree {
    /// Removes it.
    ///
    /// # Errors
    /// When something of it stays, which the next start removes.
    pub fn remove(self) -> Result<(), Error> {
        files::gone(remove_tree(&self.0)).doing(|| format!("removing {}", self.0.display()))
    }
}

/// Removes a tree of which half does as little harm as all of it. Where it cannot have another name first, on a full
/// disk for one, it is removed in its place.
pub(super) fn discard(path: &Path) -> Result<(), Error> {
    match set_aside(path) {
        Ok(aside) => aside.remove(),
        Err(_) => files::gone(remove_tree(path)).doing(|| format!("removing {}", path.display())),
    }
}

/// Renames a tree that is to be removed.
pub(super) fn set_aside(path: &Path) -> Result<DetachedTree, Error> {
    let what = || format!("removing {}", path.display());
    let Some(name) = path.file_name() else {
        return Err(Error::new(what(), "it has no name"));
    };
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    let aside = path.with_file_name(hidden);
    // One that is there already is what an earlier attempt left.
    files::gone(remove_tree(&aside)).doing(what)?;
    files::gone(fs::rename(path, &aside)).doing(what)?;
    Ok(DetachedTree(aside))
}
