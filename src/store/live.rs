//! Which release of a component is live: the link `components/X`.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;
use std::{fs, io, thread};

use crate::api::error::{Code, Doing, Error, Refusal};
use crate::api::name::{DeploymentId, Project};
use crate::store::{Store, names};
use crate::system::log;
use crate::system::time::ms_of;

/// How often a link that cannot be read is tried again, and the wait before: what fails once does not say that nothing is
/// live.
const READ_AGAIN: u32 = 3;
const READ_AGAIN_WAIT: Duration = Duration::from_millis(10);

/// A component that is live.
#[derive(Debug, Clone)]
pub struct Component {
    /// Its name.
    pub project: Project,
    /// The deployment whose release is live.
    pub release_id: DeploymentId,
    /// Since when, in milliseconds since the epoch.
    pub since: u64,
    /// The releases on disk, oldest first.
    pub releases: Vec<DeploymentId>,
}

impl Store {
    /// Which deployment's release is live; none if none is. Where the link cannot be read the log says so, and none is.
    pub fn live(&self, project: &Project) -> Option<DeploymentId> {
        self.read_live(project).unwrap_or_else(|error| {
            log::warn(&error.to_string());
            None
        })
    }

    /// Which deployment's release is live, for whoever would harm it by taking it for one that is not.
    ///
    /// # Errors
    /// When the link cannot be read, also if it is tried again.
    pub fn read_live(&self, project: &Project) -> Result<Option<DeploymentId>, Error> {
        let path = self.component(project);
        let mut read = fs::read_link(&path);
        for _ in 0..READ_AGAIN {
            match read.as_ref().map_err(io::Error::kind) {
                Ok(_) => break,
                // Nothing is there, or something else than a link.
                Err(io::ErrorKind::NotFound | io::ErrorKind::InvalidInput) => return Ok(None),
                Err(_) => {
                    thread::sleep(READ_AGAIN_WAIT);
                    read = fs::read_link(&path);
                }
            }
        }
        let target = read.doing(|| format!("reading the link {}", path.display()))?;
        let name = target.file_name().and_then(OsStr::to_str);
        Ok(name.and_then(|name| name.parse().ok()))
    }

    /// Refuses to deploy where something else stands than the link to what is live, as a copy of a root may have it that
    /// followed links.
    ///
    /// # Errors
    /// `conflict`, which says what to do.
    pub fn check_component(&self, project: &Project) -> Result<(), Refusal> {
        let path = self.component(project);
        match fs::symlink_metadata(&path) {
            Ok(found) if !found.is_symlink() => {
                let why = format!(
                    "deploying {project}: {} is not a link to a release; was the root copied without its links? \
                     Move it out of there, and deploy again",
                    path.display()
                );
                Err(Refusal::new(Code::Conflict, why))
            }
            _ => Ok(()),
        }
    }

    /// The components that are live or have releases, by name.
    ///
    /// # Errors
    /// When a directory cannot be read.
    pub fn projects(&self) -> Result<BTreeSet<Project>, Error> {
        let mut found = names(&self.components_dir())?;
        found.extend(names(&self.releases_dir())?);
        Ok(found.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// What is live, by name.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn components(&self) -> Result<Vec<Component>, Error> {
        let path = self.components_dir();
        let mut found = Vec::new();
        for name in names(&path)? {
            let Ok(project) = name.parse::<Project>() else {
                continue;
            };
            let Some(release_id) = self.live(&project) else {
                continue;
            };
            let since = fs::symlink_metadata(path.join(&name))
                .ok()
                .and_then(|link| link.modified().ok());
            let since = since.map_or(0, ms_of);
            // One component whose releases cannot be read does not hide the others.
            let releases = self.releases(&project).unwrap_or_default();
            found.push(Component {
                project,
                release_id,
                since,
                releases,
            });
        }
        found.sort_by(|a, b| a.project.cmp(&b.project));
        Ok(found)
    }

    /// How many components are live. Their links are not read.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn count_live(&self) -> Result<usize, Error> {
        let names = names(&self.components_dir())?;
        let live = |name: &&String| name.parse::<Project>().is_ok();
        Ok(names.iter().filter(live).count())
    }

    pub(super) fn component(&self, project: &Project) -> PathBuf {
        self.components_dir().join(project.as_str())
    }

    pub(super) fn components_dir(&self) -> PathBuf {
        self.root().join("components")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::root::tests::Root;

    #[test]
    fn a_link_that_cannot_be_read_is_not_one_that_is_missing() {
        let root = Root::new("unread");
        let store = Store::open(&root.0, Duration::ZERO).unwrap();
        let project: Project = "demo".parse().unwrap();
        assert_eq!(store.read_live(&project).unwrap(), None);
        fs::write(store.component(&project), "no link").unwrap();
        assert_eq!(store.read_live(&project).unwrap(), None);
        // What should have the link is a file, below which nothing can be read.
        let dir = store.root().join("components");
        fs::remove_dir_all(&dir).unwrap();
        fs::write(&dir, "").unwrap();
        assert!(store.read_live(&project).is_err());
        assert_eq!(store.live(&project), None);
    }

    #[test]
    fn switching_is_seen_and_undone() {
        let root = Root::new("switch");
        let store = Store::open(&root.0, std::time::Duration::ZERO).unwrap();
        let project: Project = "demo".parse().unwrap();
        assert_eq!(store.live(&project), None);
        let first = DeploymentId::after(None, 1, [0; 10]);
        let second = DeploymentId::after(Some(first), 1, [0; 10]);
        for id in [first, second] {
            fs::write(
                store.create_release(&project, id).unwrap().join("id"),
                id.to_string(),
            )
            .unwrap();
            store.create_deployment(id).unwrap();
            store.sync(&project, id, id).unwrap();
            store.switch(&project, Some(id)).unwrap().settle();
            assert_eq!(store.live(&project), Some(id));
            assert_eq!(
                fs::read_to_string(store.root().join("components/demo/id")).unwrap(),
                id.to_string()
            );
        }
        assert_eq!(store.releases(&project).unwrap(), [first, second]);
        assert_eq!(store.components().unwrap().len(), 1);
        let switch = store.switch(&project, Some(first)).unwrap();
        assert_eq!(store.live(&project), Some(first));
        drop(switch);
        assert_eq!(store.live(&project), Some(second));
        store.switch(&project, None).unwrap().settle();
        assert_eq!(store.live(&project), None);
        let beside = names(&store.root().join("components")).unwrap();
        assert!(beside.is_empty(), "{beside:?}");
        drop(store.switch(&project, Some(second)).unwrap());
        assert_eq!(store.live(&project), None);
        store.remove_release(&project, second).unwrap();
        store.remove_release(&project, second).unwrap();
        assert_eq!(store.releases(&project).unwrap(), [first]);
        store.remove_release(&project, first).unwrap();
        assert_eq!(names(&store.root().join("releases")).unwrap().len(), 0);
        store.create_release(&project, first).unwrap();
        assert_eq!(store.releases(&project).unwrap(), [first]);
    }
}
