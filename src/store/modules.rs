//! What was installed for a component, `store/X/modules`: a private copy of a release's `node_modules`.
//!
//! | file | what |
//! | --- | --- |
//! | `store/X/modules/` | the copy |
//! | `store/X/modules.index` | what decided it, its stamp, and the deployment that installed it; without it the rest is of no use |
//!
//! The index comes last and goes first, as that of a spare.

use std::fs;
use std::path::{Path, PathBuf};

use crate::api::error::{Doing, Error};
use crate::api::name::{DeploymentId, Project};
use crate::formats::delta::hash::ContentHash;
use crate::store::remove::{discard, set_aside};
use crate::store::{DetachedTree, Store, names};
use crate::system::files::{self, Durability, gone};
use crate::system::{log, trees};

/// The first word of an index; another format has another one.
const FORMAT: &str = "gangplank-modules-1";

/// Where a copy and its index are.
pub struct ModulesPlace {
    pub dir: PathBuf,
    pub index: PathBuf,
}

/// What an index says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModulesIndex {
    /// What decided what was installed.
    pub key: ContentHash,
    /// What the file system says of the copy.
    pub stamp: ContentHash,
    /// The deployment that installed it.
    pub from: DeploymentId,
}

impl ModulesIndex {
    fn parse(text: &str) -> Option<ModulesIndex> {
        let mut words = text.strip_suffix('\n')?.split(' ');
        if words.next()? != FORMAT {
            return None;
        }
        let index = ModulesIndex {
            key: words.next()?.parse().ok()?,
            stamp: words.next()?.parse().ok()?,
            from: words.next()?.parse().ok()?,
        };
        words.next().is_none().then_some(index)
    }

    fn text(&self) -> String {
        format!("{FORMAT} {} {} {}\n", self.key, self.stamp, self.from)
    }
}

fn place_in(dir: &Path) -> ModulesPlace {
    ModulesPlace {
        dir: dir.join("modules"),
        index: dir.join("modules.index"),
    }
}

impl Store {
    /// Where what was installed for a component is.
    pub fn modules(&self, project: &Project) -> ModulesPlace {
        place_in(&self.component_store_path(project))
    }

    /// What is known of it; none if there is none, or if it is not whole.
    pub fn modules_index(&self, project: &Project) -> Option<ModulesIndex> {
        let text = fs::read_to_string(self.modules(project).index).ok()?;
        ModulesIndex::parse(&text)
    }

    /// Begins a copy: an empty directory. One at a time is made.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn begin_modules(&self, project: &Project) -> Result<PathBuf, Error> {
        let dir = self.component_store(project)?.join(".modules-new");
        let what = || format!("making {}", dir.display());
        trees::remove(&dir).doing(what)?;
        files::make_dir(&dir, 0o700).doing(what)?;
        Ok(dir)
    }

    /// Takes the copy of a component away from its place, at once; the rest of the work is the answer's.
    ///
    /// # Errors
    /// When it is still in its place.
    pub fn detach_modules(&self, project: &Project) -> Result<DetachedTree, Error> {
        self.disown_modules(project)?;
        set_aside(&self.modules(project).dir)
    }

    /// Puts a copy that is on disk in its place, which is empty.
    ///
    /// # Errors
    /// When there is none then.
    pub fn place_modules(
        &self,
        project: &Project,
        fresh: &Path,
        index: &ModulesIndex,
    ) -> Result<(), Error> {
        let place = self.modules(project);
        let what = || format!("making {}", place.dir.display());
        fs::rename(fresh, &place.dir).doing(what)?;
        let text = index.text();
        files::replace(&place.index, text.as_bytes(), 0o600, Durability::PowerLoss).doing(what)
    }

    /// Makes a copy the `node_modules` of a release, where there is none yet.
    ///
    /// # Errors
    /// When it is not there then.
    pub fn take_modules(&self, project: &Project, release: &Path) -> Result<(), Error> {
        let (place, to) = (self.modules(project), release.join("node_modules"));
        let what = || format!("making {} of what was installed before", to.display());
        self.disown_modules(project)?;
        files::sync(&self.component_store_path(project)).doing(what)?;
        fs::rename(&place.dir, &to).doing(what)
    }

    /// Makes sure that a copy that is of no use is not taken for one.
    ///
    /// # Errors
    /// When it still looks like one.
    pub fn disown_modules(&self, project: &Project) -> Result<(), Error> {
        let index = self.modules(project).index;
        gone(fs::remove_file(&index)).doing(|| format!("removing {}", index.display()))
    }

    /// Removes the copy of a component, if there is one.
    ///
    /// # Errors
    /// When something of it stays.
    pub fn drop_modules(&self, project: &Project) -> Result<(), Error> {
        self.disown_modules(project)?;
        match self.modules(project).dir.exists() {
            true => discard(&self.modules(project).dir),
            false => Ok(()),
        }
    }

    /// Removes the copies that are not whole.
    pub(super) fn sweep_modules(&self) {
        let kept = self.root().join("store");
        for name in names(&kept).unwrap_or_default() {
            let place = place_in(&kept.join(name));
            if place.dir.exists() == place.index.exists() {
                continue;
            }
            let removed =
                gone(fs::remove_file(&place.index)).and_then(|()| trees::remove(&place.dir));
            if let Err(error) = removed {
                log::warn(&format!("removing {}: {error}", place.dir.display()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_read_as_it_was_written_or_not_at_all() {
        let index = ModulesIndex {
            key: ContentHash::of(b"key"),
            stamp: ContentHash::of(b"stamp"),
            from: DeploymentId::after(None, 1, [7; 10]),
        };
        let text = index.text();
        assert_eq!(ModulesIndex::parse(&text), Some(index));
        for end in 0..text.len() {
            assert_eq!(ModulesIndex::parse(&text[..end]), None, "{end}");
        }
        for other in [
            format!(" {text}"),
            text.replace("-1 ", "-2 "),
            text.replace('\n', " more\n"),
        ] {
            assert_eq!(ModulesIndex::parse(&other), None, "{other}");
        }
    }
}
