//! Which release of a component is live: the link `components/X`.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use crate::api::error::{Code, Error, Refusal};
use crate::api::name::{DeploymentId, Project};
use crate::store::{Store, names};
use crate::system::time::ms_of;

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
    /// Which deployment's release is live; none if none is.
    pub fn live(&self, project: &Project) -> Option<DeploymentId> {
        let target = fs::read_link(self.component(project)).ok()?;
        target.file_name()?.to_str()?.parse().ok()
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
