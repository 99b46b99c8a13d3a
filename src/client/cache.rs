//! What this user's client keeps from one command to the next, in `$XDG_CACHE_HOME/gangplank`: of each directory that it has
//! deployed to a component of a server the list as it was then. Nothing depends on it: what is missing, damaged or cannot be
//! written is done without, and nobody is told.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use crate::client::Client;
use crate::system::files::{self, make_dirs};
use crate::system::{hex, host, paths};

/// What was not deployed for so long is forgotten.
const KEPT_FOR: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// All lists together; the oldest go first. One of 100,000 files has some 15 MB.
const KEPT_BYTES: u64 = 256 << 20;
/// What a command that was killed has left; and so long a server keeps what a cut upload has brought.
const LEFT_FOR: Duration = Duration::from_secs(24 * 60 * 60);

const PREFIX: &str = "tree-";
const UNFINISHED: &str = ".tree-";

/// Where the list of one directory is kept, for one component of one server.
#[derive(Debug)]
pub(crate) struct TreeCache {
    dir: PathBuf,
    name: String,
}

impl TreeCache {
    /// None where this user has no such directory.
    pub(crate) fn of(client: &Client, project: &str, source: &Path) -> Option<TreeCache> {
        let source = source.canonicalize().ok()?;
        let mut hash = Sha256::new();
        for part in [
            client.target.to_string().as_bytes(),
            project.as_bytes(),
            source.as_os_str().as_bytes(),
        ] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let name = hex::encode(hash.finalize());
        Some(TreeCache {
            dir: paths::cache_dir().ok()?,
            name: format!("{PREFIX}{}", &name[..32]),
        })
    }

    /// What was kept last. What somebody else could have put there is not read, and no link is followed.
    pub(crate) fn open(&self) -> Option<File> {
        if !self.is_ours() {
            return None;
        }
        let dir = File::open(&self.dir).ok()?.into();
        let file = files::open_file_in(&dir, self.name.as_bytes()).ok()?;
        let meta = file.metadata().ok()?;
        (meta.is_file() && is_private(&meta)).then_some(file)
    }

    /// Whether the directory is this user's, and nobody else can write into it: what is in it says which files need not be
    /// read.
    fn is_ours(&self) -> bool {
        let meta = fs::symlink_metadata(&self.dir);
        meta.is_ok_and(|meta| meta.is_dir() && is_private(&meta))
    }

    fn make_dir(&self) -> io::Result<()> {
        make_dirs(&self.dir, 0o700)?;
        match self.is_ours() {
            true => Ok(()),
            false => Err(io::ErrorKind::PermissionDenied.into()),
        }
    }

    /// Whether an upload was begun that is worth to be gone on with, and did not come to its end.
    pub(crate) fn is_begun(&self) -> bool {
        self.begun_path().exists()
    }

    /// Such an upload begins.
    pub(crate) fn begin(&self) {
        // Without it a cut upload is sent once more.
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let _ = self
            .make_dir()
            .and_then(|()| options.open(self.begun_path()));
    }

    fn begun_path(&self) -> PathBuf {
        self.dir.join(format!(".{}-begun", self.name))
    }

    /// Forgets it.
    pub(crate) fn forget(&self) {
        // Whoever cannot remove it finds it out by the server each time.
        let _ = fs::remove_file(self.dir.join(&self.name));
    }

    /// Keeps something else, whole or not at all.
    pub(crate) fn replace(&self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) {
        // Without it the next command takes the longer way.
        let _ = self.try_replace(write);
        let _ = fs::remove_file(self.begun_path());
        self.sweep(SystemTime::now(), KEPT_BYTES);
    }

    fn try_replace(&self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
        self.make_dir()?;
        let unique = getrandom::u64().map_err(io::Error::other)?;
        let fresh = self.dir.join(format!(".{}-{unique:016x}", self.name));
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&fresh)?;
        let mut out = BufWriter::with_capacity(64 << 10, file);
        let replaced = write(&mut out)
            .and_then(|()| out.flush())
            .and_then(|()| fs::rename(&fresh, self.dir.join(&self.name)));
        if replaced.is_err() {
            let _ = fs::remove_file(&fresh);
        }
        replaced
    }

    /// Removes what is too old or too much.
    fn sweep(&self, now: SystemTime, most: u64) {
        let entries = fs::read_dir(&self.dir);
        let (Ok(entries), true) = (entries, self.is_ours()) else {
            return;
        };
        let mut kept = Vec::new();
        for entry in entries.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let lasts = match () {
                () if name.starts_with(PREFIX) => KEPT_FOR,
                () if name.starts_with(UNFINISHED) => LEFT_FOR,
                () => continue,
            };
            let Ok(meta) = entry.metadata() else { continue };
            let Ok(written) = meta.modified() else {
                continue;
            };
            let age = now.duration_since(written).unwrap_or_default();
            if age > lasts {
                let _ = fs::remove_file(entry.path());
            } else if name.starts_with(PREFIX) {
                kept.push((age, meta.len(), entry.path()));
            }
        }
        kept.sort_unstable();
        let mut total = 0_u64;
        for (_, len, path) in kept {
            total = total.saturating_add(len);
            if total > most {
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// Whether something is this user's, and nobody else can write to it.
fn is_private(meta: &fs::Metadata) -> bool {
    meta.uid() == host::user_id() && meta.mode() & 0o022 == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn cache(dir: &Path, name: &str) -> TreeCache {
        let (dir, name) = (dir.join("a/b"), format!("{PREFIX}{name}"));
        TreeCache { dir, name }
    }

    #[test]
    fn what_somebody_else_could_have_put_there_is_neither_read_nor_followed() {
        let dir = std::env::temp_dir().join(format!("gangplank-foreign-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let one = cache(&dir, "one");
        one.replace(|out| out.write_all(b"kept"));
        let path = one.dir.join(&one.name);
        assert!(one.open().is_some());
        let open_to = |mode| fs::set_permissions(&one.dir, fs::Permissions::from_mode(mode));
        open_to(0o770).unwrap();
        assert!(one.open().is_none());
        one.begin();
        one.replace(|out| out.write_all(b"other"));
        assert!(!one.is_begun());
        assert_eq!(fs::read_to_string(&path).unwrap(), "kept");
        open_to(0o755).unwrap();
        // A file that somebody else can write to, or has written.
        let file_open_to = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode));
        file_open_to(0o660).unwrap();
        assert!(one.open().is_none());
        file_open_to(0o600).unwrap();
        assert!(one.open().is_some());
        if host::user_id() == 0 {
            std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
            assert!(one.open().is_none());
            std::os::unix::fs::chown(&path, Some(0), None).unwrap();
        }
        // A link is not written through.
        let victim = dir.join("victim");
        fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, one.begun_path()).unwrap();
        one.begin();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        assert!(one.open().is_none());
        // Nobody waits for the other end of a pipe.
        fs::remove_file(&path).unwrap();
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        assert!(one.open().is_none());
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn what_is_kept_is_this_users_alone_and_is_swept() {
        let dir = std::env::temp_dir().join(format!("gangplank-cache-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let one = cache(&dir, "one");
        assert!(one.open().is_none());
        one.replace(|out| out.write_all(b"kept"));
        let path = one.dir.join(&one.name);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&one.dir)), (0o600, 0o700));
        one.replace(|_| Err(io::Error::other("the disk is full")));
        assert_eq!(fs::read_to_string(&path).unwrap(), "kept");
        assert_eq!(fs::read_dir(&one.dir).unwrap().count(), 1);
        assert!(!one.is_begun());
        one.begin();
        assert!(one.is_begun());
        one.replace(|out| out.write_all(b"kept"));
        assert!(!one.is_begun());
        let (two, left) = (cache(&dir, "two"), one.dir.join(".tree-left-1"));
        two.replace(|out| out.write_all(b"kept too"));
        fs::write(&left, "half").unwrap();
        fs::write(one.dir.join("other"), "another kind of thing").unwrap();
        let past = SystemTime::now() - Duration::from_secs(100);
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(past)
            .unwrap();
        let there = || {
            let mut names: Vec<_> = fs::read_dir(&one.dir)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        let after = |days: u64| SystemTime::now() + Duration::from_secs(days * 86_400 + 60);
        one.sweep(after(0), KEPT_BYTES);
        assert_eq!(there(), [".tree-left-1", "other", "tree-one", "tree-two"]);
        one.sweep(after(2), 10);
        assert_eq!(there(), ["other", "tree-two"]);
        one.sweep(after(31), KEPT_BYTES);
        assert_eq!(there(), ["other"]);
        // A file in the way of the directory is no trouble.
        fs::remove_dir_all(&one.dir).unwrap();
        fs::write(&one.dir, "").unwrap();
        one.replace(|out| out.write_all(b"kept"));
        assert!(one.open().is_none());
        fs::remove_dir_all(&dir).unwrap();
    }
}
