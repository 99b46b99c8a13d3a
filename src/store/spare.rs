//! The spare of a component, `store/X/spare`: a private copy of a payload's tree, of which the next release is made.
//!
//! | file | what |
//! | --- | --- |
//! | `store/X/spare/` | the tree |
//! | `store/X/spare.list` | its list, as text |
//! | `store/X/spare.index` | what the file system says of each of its entries; without it the rest is of no use |
//!
//! The index comes last and goes first, so that what is half made or half changed is never taken for a spare.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::api::error::{Doing, Error};
use crate::api::name::{DeploymentId, Project};
use crate::formats::archive::{SpareTree, unzip_list};
use crate::store::remove::{discard, set_aside};
use crate::store::{DetachedTree, Store, names};
use crate::system::files::{self, gone};
use crate::system::{log, trees};

fn in_store(dir: &Path, name: &str) -> SpareTree {
    SpareTree {
        dir: dir.join(name),
        list: dir.join(format!("{name}.list")),
        index: dir.join(format!("{name}.index")),
    }
}

impl Store {
    /// Where the spare of a component is.
    pub fn spare(&self, project: &Project) -> SpareTree {
        in_store(&self.component_store_path(project), "spare")
    }

    /// Whether a spare of a component can take the place of a release by a rename.
    pub fn spare_can_move(&self, project: &Project) -> Result<bool, Error> {
        let what = || format!("looking where the spare of {project} would be");
        let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev()).doing(what);
        let here = device(&self.component_store(project)?)?;
        Ok(here == device(&self.releases_of(project))?)
    }

    /// Begins a spare: an empty directory and a list. One at a time is made.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn begin_spare(&self, project: &Project, of: DeploymentId) -> Result<SpareTree, Error> {
        let fresh = in_store(&self.component_store(project)?, ".spare-new");
        let what = || format!("making {}", fresh.dir.display());
        trees::remove(&fresh.dir).doing(what)?;
        self.clear_spare_workshop(project)?;
        files::make_dir(&fresh.dir, 0o700).doing(what)?;
        let list = self.tree_list(of);
        let plain = unzip_list(&list, &fresh.list);
        plain.doing(|| format!("copying {}", list.display()))?;
        Ok(fresh)
    }

    /// Takes the spare of a component away from its place, at once; the rest of the work is the answer's.
    ///
    /// # Errors
    /// When it is still in its place.
    pub fn detach_spare(&self, project: &Project) -> Result<DetachedTree, Error> {
        let spare = self.spare(project);
        self.disown_spare(project)?;
        set_aside(&spare.dir)
    }

    /// Makes sure that a spare that is of no use is not taken for one. Its tree goes before the next one is made.
    ///
    /// # Errors
    /// When it still looks like one.
    pub fn disown_spare(&self, project: &Project) -> Result<(), Error> {
        let spare = self.spare(project);
        for path in [&spare.index, &spare.list] {
            gone(fs::remove_file(path)).doing(|| format!("removing {}", path.display()))?;
        }
        Ok(())
    }

    /// Puts a spare that is on disk in its place, which is empty.
    ///
    /// # Errors
    /// When there is no spare then.
    pub fn place_spare(&self, project: &Project, fresh: &SpareTree) -> Result<(), Error> {
        let spare = self.spare(project);
        let what = || format!("making {}", spare.dir.display());
        fs::rename(&fresh.dir, &spare.dir).doing(what)?;
        fs::rename(&fresh.list, &spare.list).doing(what)?;
        fs::rename(&fresh.index, &spare.index).doing(what)
    }

    /// Says on disk that there is no spare any longer, before it is changed.
    ///
    /// # Errors
    /// When the disk does not take that.
    pub fn take_spare(&self, project: &Project) -> Result<(), Error> {
        let spare = self.spare(project);
        let what = || format!("taking {}", spare.dir.display());
        fs::remove_file(&spare.index).doing(what)?;
        files::sync(&self.component_store_path(project)).doing(what)
    }

    /// Makes a directory for what a spare is changed with.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn spare_workshop(&self, project: &Project) -> Result<PathBuf, Error> {
        self.clear_spare_workshop(project)?;
        let path = self.workshop(project);
        files::make_dir(&path, 0o700).doing(|| format!("making {}", path.display()))?;
        Ok(path)
    }

    /// Removes it.
    ///
    /// # Errors
    /// When something of it stays.
    pub fn clear_spare_workshop(&self, project: &Project) -> Result<(), Error> {
        let path = self.workshop(project);
        trees::remove(&path).doing(|| format!("removing {}", path.display()))
    }

    fn workshop(&self, project: &Project) -> PathBuf {
        self.component_store_path(project).join(".spare-work")
    }

    /// Makes a spare, which has become another tree, a release: its directory is there, and empty.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn release_spare(&self, project: &Project, id: DeploymentId) -> Result<(), Error> {
        let (spare, release) = (self.spare(project), self.release(project, id));
        let what = || format!("making {} of the spare", release.display());
        fs::rename(&spare.dir, &release).doing(what)
    }

    /// Makes the move of a spare to the releases survive a power loss.
    ///
    /// # Errors
    /// When the disk reports an error.
    pub fn sync_moved_spare(&self, project: &Project) -> Result<(), Error> {
        let what = || format!("writing the releases of {project} to disk");
        files::sync(&self.component_store_path(project)).doing(what)?;
        files::sync(&self.releases_of(project)).doing(what)
    }

    /// Removes the spare of a component, if there is one.
    ///
    /// # Errors
    /// When something of it stays.
    pub fn drop_spare(&self, project: &Project) -> Result<(), Error> {
        self.drop_spare_at(&self.spare(project))
    }

    /// Removes a spare, or what was made of one.
    ///
    /// # Errors
    /// When something of it stays.
    pub fn drop_spare_at(&self, spare: &SpareTree) -> Result<(), Error> {
        for path in [&spare.index, &spare.list] {
            gone(fs::remove_file(path)).doing(|| format!("removing {}", path.display()))?;
        }
        match spare.dir.exists() {
            true => discard(&spare.dir),
            false => Ok(()),
        }
    }

    /// Removes the spares that are not whole.
    pub(super) fn sweep_spares(&self) {
        let kept = self.root().join("store");
        for name in names(&kept).unwrap_or_default() {
            let spare = in_store(&kept.join(name), "spare");
            let all = [&spare.index, &spare.list, &spare.dir];
            let there = all.into_iter().filter(|path| path.exists()).count();
            if (1..all.len()).contains(&there) {
                if let Err(error) = self.drop_spare_at(&spare) {
                    log::warn(&error.to_string());
                }
            }
        }
    }
}
