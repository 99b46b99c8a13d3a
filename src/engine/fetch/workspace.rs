//! Where git and npm work: `ROOT/cache/X/fetch`, which goes when they have ended, whatever came of it.

use std::io;
use std::path::{Path, PathBuf};

use crate::api::error::{Doing, Error};
use crate::api::name::Project;
use crate::engine::child_env;
use crate::engine::fetch::FetchRequest;
use crate::store::Store;
use crate::system::directory::Directory;
use crate::system::{log, trees};

/// Its name in the component's cache.
const NAME: &str = "fetch";

/// A directory of the user's; dropping it removes it.
pub(super) struct Workspace(PathBuf);

impl Workspace {
    pub(super) fn make(request: &FetchRequest<'_>) -> Result<Workspace, Error> {
        let (store, project) = (request.store, request.project);
        let place = child_env::cache(store, project).join(NAME);
        let what = || format!("making {}", place.display());
        let owner = request.account.map(|account| (account.uid, account.gid));
        let make = || -> io::Result<()> {
            let own = child_env::open_cache(store, project, request.account)?;
            // A server that was killed leaves one.
            own.remove(NAME)?;
            own.enter_or_make(NAME, child_env::PRIVATE, owner).map(drop)
        };
        make().doing(what)?;
        Ok(Workspace(place))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        if let Err(error) = trees::remove(&self.0) {
            // The next fetch of this component removes it.
            log::warn(&format!("removing {}: {error}", self.0.display()));
        }
    }
}

/// Removes what a fetch of a component left that had no end.
///
/// # Errors
/// When something of it stays.
pub fn remove_leftovers(store: &Store, project: &Project) -> Result<(), Error> {
    let place = child_env::cache(store, project);
    let Ok(own) = Directory::open(&place) else {
        return Ok(());
    };
    own.remove(NAME)
        .doing(|| format!("removing {}/{NAME}", place.display()))
}
