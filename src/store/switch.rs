//! The switch from one release to another: by one rename, and back by one.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::api::error::{Doing, Error};
use crate::api::name::{DeploymentId, Project};
use crate::store::Store;
use crate::system::files::{self, gone};
use crate::system::log;

/// The waits before another try to go back: a rename that fails once must not leave live what failed.
const BACK_AGAIN: [Duration; 3] = [
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(250),
];

/// A switch that was made and is not settled yet: dropping it switches back.
///
/// Until then the link to what was live stands beside the live one under a hidden name, so that going back is one rename: it
/// needs no space on the disk and no descriptor. The directory to sync is open from before the switch, too. If even the rename
/// back fails, the new release stays live; the log says so, and the next start decides by the journal.
#[must_use]
#[derive(Debug)]
pub struct Switch {
    project: Project,
    link: PathBuf,
    /// The link to what was live before; none if nothing was.
    beside: Option<PathBuf>,
    dir: File,
    settled: bool,
}

impl Store {
    /// Makes a release the live one, or nothing, by one rename. What the release holds must be on disk by then
    /// ([`Store::sync`]), and [`Switch::sync`] makes the switch itself survive a power loss.
    ///
    /// # Errors
    /// When the link cannot be changed: what was live is live then.
    pub fn switch(&self, project: &Project, to: Option<DeploymentId>) -> Result<Switch, Error> {
        let link = self.component(project);
        let what = || match to {
            Some(id) => format!("making release {id} of {project} the live one"),
            None => format!("making nothing of {project} live"),
        };
        let components = self.components_dir();
        let was_live = match fs::symlink_metadata(&link) {
            Ok(found) if found.is_dir() => {
                let why = format!(
                    "{} is a directory and not a link; move it away and deploy again",
                    link.display()
                );
                return Err(Error::new(what(), why));
            }
            Ok(_) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(error).doing(what),
        };
        let dir = File::open(&components).doing(what)?;
        // No project begins with a dot, so this name is nobody's.
        let beside = components.join(format!(".{project}"));
        gone(fs::remove_file(&beside)).doing(what)?;
        let beside = match to {
            Some(id) => {
                let target = Path::new("../releases").join(project.as_str());
                symlink(target.join(id.to_string()), &beside).doing(what)?;
                replace(&beside, &link, was_live).doing(what)?
            }
            None if was_live => {
                fs::rename(&link, &beside).doing(what)?;
                beside
            }
            None => beside,
        };
        Ok(Switch {
            project: project.clone(),
            link,
            beside: was_live.then_some(beside),
            dir,
            settled: false,
        })
    }
}

impl Store {
    /// The switch that an earlier server made and did not settle: its release is live, and `from` was before.
    ///
    /// # Errors
    /// When the way back cannot be prepared.
    pub fn unsettled(
        &self,
        project: &Project,
        from: Option<DeploymentId>,
    ) -> Result<Switch, Error> {
        let components = self.components_dir();
        let what = || format!("preparing the way back of {project}");
        let dir = File::open(&components).doing(what)?;
        let beside = components.join(format!(".{project}"));
        gone(fs::remove_file(&beside)).doing(what)?;
        let from = from.filter(|id| self.release(project, *id).is_dir());
        if let Some(id) = from {
            let target = Path::new("../releases").join(project.as_str());
            symlink(target.join(id.to_string()), &beside).doing(what)?;
        }
        Ok(Switch {
            project: project.clone(),
            link: self.component(project),
            beside: from.map(|_| beside),
            dir,
            settled: false,
        })
    }
}

/// Puts a link in the place of the live one and returns where the link to what was live stands now.
fn replace(fresh: &Path, link: &Path, was_live: bool) -> io::Result<PathBuf> {
    if !was_live {
        return fs::rename(fresh, link).map(|()| fresh.to_owned());
    }
    if files::exchange(fresh, link)? {
        return Ok(fresh.to_owned());
    }
    // A second link to what is live does the same.
    let mut back = fresh.as_os_str().to_owned();
    back.push(".back");
    let back = PathBuf::from(back);
    gone(fs::remove_file(&back))?;
    symlink(fs::read_link(link)?, &back)?;
    fs::rename(fresh, link).map(|()| back)
}

impl Switch {
    /// Makes the switch survive a power loss.
    ///
    /// # Errors
    /// When the disk reports an error: whether the switch is on it is not known then.
    pub fn sync(&self) -> Result<(), Error> {
        let project = &self.project;
        let synced = self.dir.sync_all();
        synced.doing(|| format!("writing to disk what is live of {project}"))
    }

    /// Leaves the switch as it is.
    pub fn settle(mut self) {
        self.settled = true;
        let Some(beside) = &self.beside else {
            return;
        };
        if let Err(error) = gone(fs::remove_file(beside)) {
            // The next switch or the next start removes it.
            log::warn(&format!("removing {}: {error}", beside.display()));
        }
    }

    /// Makes live again what was live before.
    ///
    /// # Errors
    /// When the rename fails: the new release is live then, and dropping the switch tries once more.
    pub fn back(&mut self) -> Result<(), Error> {
        if self.settled {
            return Ok(());
        }
        let project = &self.project;
        let go_back = || match &self.beside {
            Some(beside) => fs::rename(beside, &self.link),
            None => gone(fs::remove_file(&self.link)),
        };
        let mut back = go_back();
        for wait in BACK_AGAIN {
            if back.is_ok() {
                break;
            }
            thread::sleep(wait);
            back = go_back();
        }
        back.doing(|| format!("making live again what was live of {project}"))?;
        self.settled = true;
        if let Err(error) = self.sync() {
            // It is as it was for everybody who looks; only after a power loss it may not be.
            log::error(&error.to_string());
        }
        Ok(())
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        if let Err(error) = self.back() {
            log::error(&error.to_string());
        }
    }
}
