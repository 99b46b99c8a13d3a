//! The root on disk: its lock, the releases, what is live, payloads and records.
//!
//! `components/X` is a symbolic link to the live release and the only truth about it. It changes by one rename, after
//! everything that it leads to is on disk ([`Store::switch`]), so that a reader, and a start after a power loss, sees the old
//! release or the new one, whole.

pub mod index;
pub mod journal;
mod records;
mod remove;
pub mod tokens;

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use crate::api::error::{Doing, Error};
use crate::api::name::{DeploymentId, Project};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, statvfs, syncfs};

/// The longest path that a unix socket may have on Linux, in bytes.
const SOCKET_PATH_MAX: usize = 107;

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

/// The root; one server at a time holds it.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    /// The lock ends with the descriptor, however the process ends.
    _lock: File,
}

impl Store {
    /// Makes or opens a root and locks it.
    ///
    /// # Errors
    /// When it cannot be made or written, when another server holds it, or when its socket's path would be too long.
    pub fn open(root: &Path) -> Result<Store, Error> {
        let what = || format!("opening the root {}", root.display());
        fs::create_dir_all(root).doing(what)?;
        let root = root.canonicalize().doing(what)?;
        // Not to be written to: a descriptor for writing would keep the file system from being made read-only.
        let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::CLOEXEC;
        let lock = rustix::fs::open(root.join("lock"), flags, Mode::RUSR | Mode::WUSR);
        let lock = File::from(lock.doing(what)?);
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(Error::new(what(), "another server is using it"));
            }
            Err(error) => return Err(error).doing(what),
        }
        // Payloads and records are nobody else's business; releases are read by whoever runs them.
        for (name, mode) in [
            ("components", 0o755),
            ("releases", 0o755),
            ("deployments", 0o700),
            // The operator puts the components' environments here, secrets among them.
            ("env", 0o700),
            ("run", 0o700),
        ] {
            let path = root.join(name);
            match DirBuilder::new().mode(mode).create(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).doing(|| format!("making {}", path.display())),
            }
        }
        fs::set_permissions(root.join("run"), Permissions::from_mode(0o700)).doing(what)?;
        let store = Store { root, _lock: lock };
        check_socket_path(&store.socket())?;
        Ok(store)
    }

    /// The root's canonical path.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the releases of all components are.
    pub fn releases_dir(&self) -> PathBuf {
        self.root.join("releases")
    }

    /// The socket that is always there.
    pub fn socket(&self) -> PathBuf {
        self.root.join("run/gangplank.sock")
    }

    /// The private socket between the gate and the server behind it. Its path is shorter than the other one's.
    pub fn door(&self) -> PathBuf {
        self.root.join("run/door.sock")
    }

    /// Bytes that an unprivileged user may still write to the root's disk.
    ///
    /// # Errors
    /// When the file system does not say.
    pub fn disk_free(&self) -> Result<u64, Error> {
        let stat = statvfs(&self.root)
            .doing(|| format!("asking for the free space of {}", self.root.display()))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Which deployment's release is live; none if none is.
    pub fn live(&self, project: &Project) -> Option<DeploymentId> {
        let target = fs::read_link(self.component(project)).ok()?;
        target.file_name()?.to_str()?.parse().ok()
    }

    /// What is live, by name.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn components(&self) -> Result<Vec<Component>, Error> {
        let path = self.root.join("components");
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
            let since = since
                .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
                .unwrap_or_default();
            let since = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
            let releases = self.releases(&project)?;
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

    /// The releases of a component on disk, oldest first.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn releases(&self, project: &Project) -> Result<Vec<DeploymentId>, Error> {
        ids(&self.releases_of(project))
    }

    /// All deployments on disk, oldest first.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn deployments(&self) -> Result<Vec<DeploymentId>, Error> {
        ids(&self.root.join("deployments"))
    }

    /// The directory of a deployment.
    pub fn deployment(&self, id: DeploymentId) -> PathBuf {
        self.root.join("deployments").join(id.to_string())
    }

    /// Makes the directory of a new deployment.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn create_deployment(&self, id: DeploymentId) -> Result<PathBuf, Error> {
        let dir = self.deployment(id);
        DirBuilder::new()
            .mode(0o700)
            .create(&dir)
            .doing(|| format!("making {}", dir.display()))?;
        Ok(dir)
    }

    /// Removes all that is known of a deployment.
    ///
    /// # Errors
    /// When something of it stays.
    pub fn remove_deployment(&self, id: DeploymentId) -> Result<(), Error> {
        set_aside(&self.deployment(id))?.remove()
    }

    /// Marks a deployment as running, on disk: it is ended by the next start if the mark is still there then.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn mark(&self, id: DeploymentId) -> Result<(), Error> {
        let path = self.root.join("run").join(id.to_string());
        let made = File::create(&path).map(drop);
        made.doing(|| format!("making {}", path.display()))
    }

    /// Takes the mark of a deployment away.
    ///
    /// # Errors
    /// When it stays.
    pub fn unmark(&self, id: DeploymentId) -> Result<(), Error> {
        let path = self.root.join("run").join(id.to_string());
        gone(fs::remove_file(&path)).doing(|| format!("removing {}", path.display()))
    }

    /// The deployments that are marked.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn marked(&self) -> Result<Vec<DeploymentId>, Error> {
        ids(&self.root.join("run"))
    }

    /// Removes what an earlier server was about to remove or to put in place, and had not done so when it ended.
    ///
    /// # Errors
    /// When a directory cannot be read, or something of it stays.
    pub fn sweep(&self) -> Result<(), Error> {
        let releases = self.releases_dir();
        let mut dirs = vec![self.root.join("components"), self.root.join("deployments")];
        dirs.extend(names(&releases)?.iter().map(|name| releases.join(name)));
        for dir in dirs {
            // Nothing else of ours begins with a dot.
            for name in names(&dir)?.iter().filter(|name| name.starts_with('.')) {
                let path = dir.join(name);
                let removed = match fs::symlink_metadata(&path) {
                    Ok(meta) if meta.is_dir() => remove::remove_tree(&path),
                    _ => fs::remove_file(&path),
                };
                gone(removed).doing(|| format!("removing {}", path.display()))?;
            }
            if dir.parent() == Some(&*releases) {
                // Only if it is empty.
                let _ = fs::remove_dir(&dir);
            }
        }
        Ok(())
    }

    /// The file of a deployment's payload.
    pub fn payload(&self, id: DeploymentId) -> PathBuf {
        self.deployment(id).join("payload")
    }

    /// Makes the file of a new payload.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn create_payload(&self, id: DeploymentId) -> Result<File, Error> {
        let path = self.payload(id);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        options
            .open(&path)
            .doing(|| format!("making {}", path.display()))
    }

    /// Removes a payload, if it is there.
    ///
    /// # Errors
    /// When it stays.
    pub fn remove_payload(&self, id: DeploymentId) -> Result<(), Error> {
        let path = self.payload(id);
        gone(fs::remove_file(&path)).doing(|| format!("removing {}", path.display()))
    }

    /// The directory of a release.
    pub fn release(&self, project: &Project, id: DeploymentId) -> PathBuf {
        self.releases_of(project).join(id.to_string())
    }

    fn releases_of(&self, project: &Project) -> PathBuf {
        self.releases_dir().join(project.as_str())
    }

    /// Makes the directory of a new release.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn create_release(&self, project: &Project, id: DeploymentId) -> Result<PathBuf, Error> {
        let path = self.release(project, id);
        let releases = self.releases_of(project);
        let make = || fs::create_dir_all(&releases).and_then(|()| fs::create_dir(&path));
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
        set_aside(&self.release(project, id))?.remove()?;
        // The system removes it only if it is empty: a component that never went live leaves nothing behind.
        let _ = fs::remove_dir(self.releases_of(project));
        Ok(())
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

    /// Writes everything of the root's file system to disk.
    ///
    /// # Errors
    /// When the disk reports an error: what was written since the last call may be lost then.
    pub fn sync(&self) -> Result<(), Error> {
        let what = || format!("writing {} to disk", self.root.display());
        let root = File::open(&self.root).doing(what)?;
        syncfs(&root).doing(what)
    }

    /// Makes a release the live one, by one rename that survives a power loss. What the release holds must be on disk by
    /// then ([`Store::sync`]).
    ///
    /// # Errors
    /// When the link cannot be changed: the old one is live then.
    pub fn switch(&self, project: &Project, id: DeploymentId) -> Result<(), Error> {
        let link = self.component(project);
        let what = || format!("making release {id} of {project} the live one");
        // No project begins with a dot, so this name is nobody's.
        let fresh = self.root.join("components").join(format!(".{project}"));
        gone(fs::remove_file(&fresh)).doing(what)?;
        symlink(
            Path::new("../releases")
                .join(project.as_str())
                .join(id.to_string()),
            &fresh,
        )
        .doing(what)?;
        fs::rename(&fresh, &link).doing(what)?;
        sync_dir(&self.root.join("components")).doing(what)
    }

    /// Removes all releases of a component, and the link to the live one first.
    ///
    /// # Errors
    /// When something of it stays; the link does not if it could be removed.
    pub fn drop_component(&self, project: &Project) -> Result<(), Error> {
        self.switch_back(project, None)?;
        for id in self.releases(project)? {
            self.remove_release(project, id)?;
        }
        Ok(())
    }

    /// Puts back what was live before: a release, or nothing.
    ///
    /// # Errors
    /// When the link cannot be changed.
    pub fn switch_back(
        &self,
        project: &Project,
        previous: Option<DeploymentId>,
    ) -> Result<(), Error> {
        match previous {
            Some(id) => self.switch(project, id),
            None => {
                let link = self.component(project);
                let what = || format!("removing {}", link.display());
                gone(fs::remove_file(&link)).doing(what)?;
                sync_dir(&self.root.join("components")).doing(what)
            }
        }
    }

    fn component(&self, project: &Project) -> PathBuf {
        self.root.join("components").join(project.as_str())
    }
}

/// Refuses a path that the system would not take for a unix socket.
///
/// # Errors
/// When it is longer than the system's 107 bytes.
pub fn check_socket_path(path: &Path) -> Result<(), Error> {
    let length = path.as_os_str().len();
    if length > SOCKET_PATH_MAX {
        let why =
            format!("its path has {length} bytes and the system takes at most {SOCKET_PATH_MAX}");
        return Err(Error::new(
            format!("listening on unix:{}", path.display()),
            why,
        ));
    }
    Ok(())
}

fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// What is not there need not be removed.
fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// A tree that is not in its place any more, under a name that [`Store::sweep`] knows too.
#[must_use]
#[derive(Debug)]
pub struct DetachedTree(PathBuf);

impl DetachedTree {
    /// Removes it.
    ///
    /// # Errors
    /// When something of it stays, which the next start removes.
    pub fn remove(self) -> Result<(), Error> {
        gone(remove::remove_tree(&self.0)).doing(|| format!("removing {}", self.0.display()))
    }
}

/// Renames a tree that is to be removed, so that nobody ever sees half of it.
fn set_aside(path: &Path) -> Result<DetachedTree, Error> {
    let what = || format!("removing {}", path.display());
    let Some(name) = path.file_name() else {
        return Err(Error::new(what(), "it has no name"));
    };
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    let aside = path.with_file_name(hidden);
    // One that is there already is what an earlier attempt left.
    gone(remove::remove_tree(&aside)).doing(what)?;
    gone(fs::rename(path, &aside)).doing(what)?;
    Ok(DetachedTree(aside))
}

fn names(path: &Path) -> Result<Vec<String>, Error> {
    let what = || format!("reading the directory {}", path.display());
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).doing(what),
    };
    let mut found = Vec::new();
    for entry in entries {
        found.extend(entry.doing(what)?.file_name().into_string());
    }
    Ok(found)
}

fn ids(path: &Path) -> Result<Vec<DeploymentId>, Error> {
    let mut found: Vec<DeploymentId> = names(path)?
        .iter()
        .filter_map(|name| name.parse().ok())
        .collect();
    found.sort_unstable();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Root(PathBuf);

    impl Root {
        fn new(name: &str) -> Root {
            let path =
                std::env::temp_dir().join(format!("gangplank-store-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            Root(path)
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_root_has_one_server() {
        let root = Root::new("lock");
        let store = Store::open(&root.0).unwrap();
        let refused = Store::open(&root.0).unwrap_err().to_string();
        assert!(refused.contains("another server"), "{refused}");
        drop(store);
        assert!(Store::open(&root.0).is_ok());
    }

    #[test]
    fn a_socket_path_that_is_too_long_is_refused() {
        let root = Root::new(&"x".repeat(120));
        let refused = Store::open(&root.0).unwrap_err().to_string();
        assert!(refused.contains("107"), "{refused}");
    }

    #[test]
    fn switching_is_seen_and_undone() {
        let root = Root::new("switch");
        let store = Store::open(&root.0).unwrap();
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
            store.sync().unwrap();
            store.switch(&project, id).unwrap();
            assert_eq!(store.live(&project), Some(id));
            assert_eq!(
                fs::read_to_string(store.root().join("components/demo/id")).unwrap(),
                id.to_string()
            );
        }
        assert_eq!(store.releases(&project).unwrap(), [first, second]);
        assert_eq!(store.components().unwrap().len(), 1);
        store.switch_back(&project, Some(first)).unwrap();
        assert_eq!(store.live(&project), Some(first));
        store.switch_back(&project, None).unwrap();
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
