//! The root itself: its directories, its lock, its sockets' places and its disk.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::api::error::{Doing, Error};
use crate::store::notices::Notices;
use crate::store::records::UnwrittenRecords;
use crate::store::{identity, names};
use crate::system::child::ServerMark;
use crate::system::trees::remove_tree;
use crate::system::{account, files, log};

/// The longest path that a unix socket may have on Linux, in bytes.
const SOCKET_PATH_MAX: usize = 107;
/// How often the lock is tried while another server ends.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
const IN_USE: &str =
    "another server is using it, and goes on to; with --take-over this one replaces it";

/// The root; one server at a time holds it.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    /// The lock ends with the descriptor, however the process ends.
    _lock: File,
    mark: ServerMark,
    pub(super) unwritten: UnwrittenRecords,
    pub(super) notices: Notices,
}

impl Store {
    /// Makes or opens a root and locks it, at most `wait` later.
    ///
    /// # Errors
    /// When it cannot be made or written, when another server holds it, or when its socket's path would be too long.
    pub fn open(root: &Path, wait: Duration) -> Result<Store, Error> {
        let what = || format!("opening the root {}", root.display());
        // Releases are read by whoever runs them, and lie below it.
        let refused = |error: io::Error| Error::new(what(), advised(error, root));
        files::make_dirs(root, 0o755).map_err(refused)?;
        let root = root.canonicalize().doing(what)?;
        let refused = |error: io::Error| Error::new(what(), advised(error, &root));
        let until = Instant::now() + wait;
        let lock = loop {
            match files::try_lock(&root.join("lock")).map_err(refused)? {
                Some(lock) => break lock,
                None if Instant::now() < until => thread::sleep(LOOK_AGAIN),
                None => return Err(Error::new(what(), IN_USE)),
            }
        };
        // Payloads and records are nobody else's business.
        for (name, mode) in [
            ("components", 0o755),
            ("releases", 0o755),
            ("deployments", 0o700),
            // The operator puts the components' environments here, secrets among them.
            ("env", 0o700),
            ("run", 0o700),
            ("store", 0o700),
        ] {
            let path = root.join(name);
            files::make_dirs(&path, mode).doing(|| format!("making {}", path.display()))?;
            if mode == 0o700 {
                close(&path);
            }
        }
        fs::set_permissions(root.join("run"), Permissions::from_mode(0o700)).doing(what)?;
        let mark = ServerMark::new(identity::of(&root), &root);
        let store = Store {
            root,
            mark,
            _lock: lock,
            unwritten: UnwrittenRecords::default(),
            notices: Notices::default(),
        };
        check_socket_path(&store.socket())?;
        Ok(store)
    }

    /// The root's canonical path.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// How the children of this root's server are known.
    pub fn server_mark(&self) -> &ServerMark {
        &self.mark
    }

    /// The socket that is always there.
    pub fn socket(&self) -> PathBuf {
        self.root.join("run/gangplank.sock")
    }

    /// The private socket between the gate and the server behind it. Its path is shorter than the other one's.
    pub fn door(&self) -> PathBuf {
        self.root.join("run/door.sock")
    }

    /// Where the next server of this root asks this one for its sockets.
    pub fn next_socket(&self) -> PathBuf {
        self.root.join("run/next.sock")
    }

    /// Bytes that an unprivileged user may still write to the root's disk.
    ///
    /// # Errors
    /// When the file system does not say.
    pub fn disk_free(&self) -> Result<u64, Error> {
        let free = File::open(&self.root).and_then(files::free_space);
        free.doing(|| format!("asking for the free space of {}", self.root.display()))
    }

    /// A file that is gone with its descriptor, on the root's disk and for the server alone.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn nameless_file(&self) -> io::Result<File> {
        // Where it has a name for a moment, what a kill leaves of it is swept by the next start, as all names with a dot there.
        files::nameless(&self.root.join("deployments"))
    }

    /// Removes what an earlier server was about to remove or to put in place, and had not done so when it ended. What
    /// cannot be removed is said in the log and stays for the next start.
    pub fn sweep(&self) {
        let releases = self.releases_dir();
        self.sweep_dir(&self.root.join("components"));
        self.sweep_dir(&self.root.join("deployments"));
        let kept = self.root.join("store");
        for name in names(&kept).unwrap_or_default() {
            self.sweep_dir(&kept.join(name));
        }
        self.sweep_spares();
        self.sweep_modules();
        let components = names(&releases).unwrap_or_else(|error| {
            log::warn(&error.to_string());
            Vec::new()
        });
        for dir in components.iter().map(|name| releases.join(name)) {
            // Whatever else somebody put there is theirs.
            if fs::symlink_metadata(&dir).is_ok_and(|meta| meta.is_dir()) {
                self.sweep_dir(&dir);
                // Only if it is empty.
                let _ = fs::remove_dir(&dir);
            }
        }
    }

    /// Two may do so at once: what is gone is gone.
    pub(super) fn sweep_dir(&self, dir: &Path) {
        let found = names(dir).unwrap_or_else(|error| {
            log::warn(&error.to_string());
            Vec::new()
        });
        // Nothing else of ours begins with a dot.
        for name in found.iter().filter(|name| name.starts_with('.')) {
            let path = dir.join(name);
            let removed = match fs::symlink_metadata(&path) {
                Ok(meta) if meta.is_dir() => remove_tree(&path),
                _ => fs::remove_file(&path),
            };
            if let Err(error) = files::gone(removed) {
                log::warn(&format!("removing {}: {error}", path.display()));
            }
        }
    }
}

/// Why there is no root, and what to do.
fn advised(error: io::Error, root: &Path) -> String {
    let other = "name another place with --root or GANGPLANK_ROOT";
    match error.kind() {
        io::ErrorKind::AlreadyExists => format!("it is not a directory; {other}"),
        io::ErrorKind::PermissionDenied => {
            let at = root.ancestors().find(|at| at.exists()).unwrap_or(root);
            let owner = account::owner(at).unwrap_or_else(|| "another user".to_owned());
            let at = at.display();
            format!("{error}: {at} is {owner}'s; run the server as that user, or {other}")
        }
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::NotFound => {
            format!("{error}: nothing can be made there; {other}")
        }
        _ => error.to_string(),
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

/// Takes a directory from all others that somebody has made before the server did, such as the one of the environments.
fn close(path: &Path) {
    let mode = |found: fs::Metadata| found.permissions().mode() & 0o777;
    let closed = fs::metadata(path)
        .map(mode)
        .and_then(|mode| match mode & 0o077 {
            0 => Ok(()),
            _ => fs::set_permissions(path, Permissions::from_mode(mode & 0o700)),
        });
    if let Err(error) = closed {
        // It may belong to somebody else, who lets the server read it.
        log::warn(&format!("others may read {}: {error}", path.display()));
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The path of a root that is gone with its owner.
    pub(in crate::store) struct Root(pub(in crate::store) PathBuf);

    impl Root {
        pub(in crate::store) fn new(name: &str) -> Root {
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
        let store = Store::open(&root.0, Duration::ZERO).unwrap();
        let refused = Store::open(&root.0, Duration::ZERO)
            .unwrap_err()
            .to_string();
        assert!(refused.contains("another server"), "{refused}");
        drop(store);
        assert!(Store::open(&root.0, Duration::ZERO).is_ok());
    }

    #[test]
    fn a_socket_path_that_is_too_long_is_refused() {
        let root = Root::new(&"x".repeat(120));
        let refused = Store::open(&root.0, Duration::ZERO)
            .unwrap_err()
            .to_string();
        assert!(refused.contains("107"), "{refused}");
    }
}
