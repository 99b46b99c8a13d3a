//! Files and directories as a server needs them: with the modes that it means, whatever the umask is, replaced whole, read
//! up to a bound, and locked.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{
    CWD, FlockOperation, Mode, OFlags, RenameFlags, ResolveFlags, flock, openat, openat2,
    renameat_with,
};
use rustix::io::Errno;

use crate::system::kernel;

/// What is to survive a power loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Nothing, not even the old content: it can be made again.
    None,
    /// The old content or the new one, where the file system sees to that by itself, as ext4 does.
    Either,
    /// The file's content and its name.
    PowerLoss,
}

/// Makes a directory that has exactly this mode.
///
/// # Errors
/// When it is there already, or cannot be made.
pub fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().mode(mode).create(path)?;
    // The umask may have taken bits away, and somebody else is to get in by them.
    if fs::symlink_metadata(path)?.permissions().mode() & 0o777 != mode {
        fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// Makes a directory and those above it, as far as they are missing; each that is made has exactly this mode.
///
/// # Errors
/// When something else is in the way, or one cannot be made.
pub fn make_dirs(path: &Path, mode: u32) -> io::Result<()> {
    match make_dir(path, mode) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let above = path.parent().filter(|above| !above.as_os_str().is_empty());
            make_dirs(above.ok_or(error)?, mode)?;
            match make_dir(path, mode) {
                // Somebody else was faster.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {
                    Ok(())
                }
                // Where nothing can be made, as in /proc, it is missing as before.
                made => made,
            }
        }
        made => made,
    }
}

/// Replaces a file, whole or not at all. The new one has exactly this mode.
///
/// # Errors
/// When the disk does not take it: the old file stays, and nothing of the new one.
pub fn replace(path: &Path, content: &[u8], mode: u32, durability: Durability) -> io::Result<()> {
    replace_through(&fresh(path), path, content, mode, durability)
}

/// As [`replace`], and the new content is written under a name of the caller's before it takes its place.
///
/// # Errors
/// As [`replace`].
pub fn replace_through(
    fresh: &Path,
    path: &Path,
    content: &[u8],
    mode: u32,
    durability: Durability,
) -> io::Result<()> {
    let replaced =
        write(fresh, content, mode, durability).and_then(|()| take_place(fresh, path, durability));
    if let Err(error) = replaced {
        // What is left of it takes the room that it lacked.
        let _ = fs::remove_file(fresh);
        return Err(error);
    }
    match (durability, path.parent()) {
        (Durability::PowerLoss, Some(dir)) => sync(dir),
        _ => Ok(()),
    }
}

/// Puts a file in the place of another one, or where there is none.
fn take_place(fresh: &Path, path: &Path, durability: Durability) -> io::Result<()> {
    // That the new content is there when its name is, ext4 sees to in a plain rename: it writes the file at once. That takes
    // three times as long on a disk that has nothing to do, and a hundred times on a busy one.
    if durability == Durability::None && matches!(exchange(fresh, path), Ok(true)) {
        match fs::remove_file(fresh) {
            // It may be a directory. A plain rename says what is wrong, or goes well.
            Err(_) => exchange(fresh, path)?,
            Ok(()) => return Ok(()),
        };
    }
    fs::rename(fresh, path)
}

/// Where the new content of a file is written before it takes its place.
pub fn fresh(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

fn write(path: &Path, content: &[u8], mode: u32, durability: Durability) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(mode);
    let mut file = options.open(path)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(content)?;
    match durability {
        Durability::PowerLoss => file.sync_all(),
        Durability::None | Durability::Either => Ok(()),
    }
}

/// Makes the names in a directory survive a power loss, or the content of a file.
///
/// # Errors
/// When it cannot be opened, or the disk reports an error.
pub fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Writes everything of the file system that an open file is on to the disk.
///
/// # Errors
/// When the disk reports an error: what was written since the last call may be lost then.
pub fn sync_file_system(on: impl AsFd) -> io::Result<()> {
    Ok(rustix::fs::syncfs(on)?)
}

/// Bytes that an unprivileged user may still write to the disk that an open file is on.
///
/// # Errors
/// When the file system does not say.
pub fn free_space(on: impl AsFd) -> io::Result<u64> {
    let stat = rustix::fs::fstatvfs(on)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Lets two names change places by one rename; false where the kernel or the file system cannot do that.
///
/// # Errors
/// When the rename fails: nothing has changed then.
pub fn exchange(one: &Path, other: &Path) -> io::Result<bool> {
    match renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(true),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(false),
        Err(error) if kernel::lacks(error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether a file's mode lets others than its owner at it.
pub fn is_open_to_others(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o077 != 0)
}

/// What is not there need not be removed.
///
/// # Errors
/// Every other one.
pub fn gone(removed: io::Result<()>) -> io::Result<()> {
    if_there(removed).map(drop)
}

/// Turns "it is not there" into nothing.
///
/// # Errors
/// Every other one.
pub fn if_there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads a file that has at most `most` bytes; `None` if it has more.
///
/// # Errors
/// When it cannot be read.
pub fn read_up_to(file: impl Read, most: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= most).then_some(bytes))
}

/// Makes a file in a directory that has no name there, so that it is gone as soon as nobody has it open.
///
/// # Errors
/// When the directory takes none.
pub fn nameless(dir: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    if let Ok(file) = openat(CWD, dir, flags, Mode::RUSR | Mode::WUSR) {
        return Ok(file.into());
    }
    // Not every file system can do that.
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let path = dir.join(format!(".gangplank-{:032x}", u128::from_be_bytes(random)));
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

/// Opens a file to read it, and does not wait for a writer if it is a FIFO.
///
/// # Errors
/// When it cannot be opened.
pub fn open_at_once(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK.bits() as i32;
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// As [`open_at_once`], for what is beneath a directory and stays there: links may lead to something else in it.
///
/// # Errors
/// When it cannot be opened, or `CrossesDevices` if it leads out of the directory.
pub fn open_beneath(dir: &Path, name: &str) -> io::Result<File> {
    let dir = File::open(dir)?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    match openat2(&dir, name, flags, Mode::empty(), beneath) {
        // Before Linux 5.6 no link is followed at all.
        Err(error) if kernel::lacks(error) => {
            let file = openat(&dir, name, flags | OFlags::NOFOLLOW, Mode::empty())?;
            Ok(file.into())
        }
        opened => Ok(opened?.into()),
    }
}

/// Opens a file of a tree to read it, and goes through no link on the way.
///
/// # Errors
/// When it cannot be opened, or a link is on the way.
pub fn open_file_in(dir: &OwnedFd, path: &[u8]) -> io::Result<File> {
    open_plain(dir, path, OFlags::RDONLY)
}

/// As [`open_file_in`], to change it where it is.
///
/// # Errors
/// As [`open_file_in`].
pub fn change_file_in(dir: &OwnedFd, path: &[u8]) -> io::Result<File> {
    open_plain(dir, path, OFlags::RDWR)
}

/// As [`open_file_in`], for a directory; the tree's own has an empty path.
///
/// # Errors
/// As [`open_file_in`].
pub fn open_dir_in(dir: &OwnedFd, path: &[u8]) -> io::Result<File> {
    match path.is_empty() {
        true => Ok(dir.try_clone()?.into()),
        false => open_plain(dir, path, OFlags::RDONLY | OFlags::DIRECTORY),
    }
}

fn open_plain(dir: &OwnedFd, path: &[u8], access: OFlags) -> io::Result<File> {
    let flags = access | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let plain = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match openat2(dir, path, flags, Mode::empty(), plain) {
        // Before Linux 5.6 it is gone step by step.
        Err(error) if kernel::lacks(error) => {
            let mut at = dir.try_clone()?;
            let mut steps = path.split(|byte| *byte == b'/').peekable();
            while let Some(step) = steps.next() {
                let through = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
                let kind = match steps.peek() {
                    Some(_) => through | OFlags::CLOEXEC,
                    None => flags,
                };
                at = openat(&at, step, kind, Mode::empty())?;
            }
            Ok(at.into())
        }
        opened => Ok(opened?.into()),
    }
}

/// Takes the lock of a file, which is made if it is missing, or `None` if another process has it. The lock ends with the
/// descriptor, however the process ends.
///
/// # Errors
/// When the file cannot be opened, or the file system knows no locks.
pub fn try_lock(path: &Path) -> io::Result<Option<File>> {
    let file = lock_file(path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// As [`try_lock`], and waits while another process has it.
///
/// # Errors
/// When the file cannot be opened, or the file system knows no locks.
pub fn lock(path: &Path) -> io::Result<File> {
    let file = lock_file(path)?;
    flock(&file, FlockOperation::LockExclusive)?;
    Ok(file)
}

fn lock_file(path: &Path) -> io::Result<File> {
    // Not for writing: such a descriptor would keep the file system from being made read-only.
    let flags = OFlags::CREATE.bits() as i32;
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(flags).mode(0o600);
    options.open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_has_its_mode() {
        let dir = std::env::temp_dir().join(format!("gangplank-files-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        make_dirs(&dir.join("a/b"), 0o700).unwrap();
        make_dirs(&dir.join("a/b"), 0o755).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(
            (mode(&dir.join("a")), mode(&dir.join("a/b"))),
            (0o700, 0o700)
        );
        let path = dir.join("file");
        fs::write(&path, "old").unwrap();
        for (content, mode, durability) in [
            ("one", 0o600, Durability::None),
            ("two", 0o640, Durability::Either),
            ("three", 0o644, Durability::PowerLoss),
        ] {
            replace(&path, content.as_bytes(), mode, durability).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
            let found = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            assert_eq!(found, mode, "{content}");
        }
        for durability in [Durability::None, Durability::Either] {
            assert!(replace(&dir.join("a"), b"no", 0o600, durability).is_err());
            assert!(dir.join("a/b").is_dir() && !fresh(&dir.join("a")).exists());
        }
        assert!(!fresh(&path).exists());
        assert!(make_dirs(Path::new("/proc/none/none"), 0o700).is_err());
        assert!(make_dirs(&path, 0o700).is_err() && make_dirs(&path.join("x"), 0o700).is_err());
        gone(fs::remove_file(&path)).unwrap();
        gone(fs::remove_file(&path)).unwrap();
        assert_eq!(if_there(Ok(1)).unwrap(), Some(1));
        let lock = dir.join("lock");
        let first = super::lock(&lock).unwrap();
        assert!(try_lock(&lock).unwrap().is_none());
        drop(first);
        assert!(try_lock(&lock).unwrap().is_some());
        assert!(free_space(File::open(&dir).unwrap()).unwrap() > 0);
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_file_that_others_may_read_is_told() {
        let name = format!("gangplank-open-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        for (mode, open) in [(0o600, false), (0o640, true), (0o604, true)] {
            replace(&path, b"", mode, Durability::None).unwrap();
            assert_eq!(is_open_to_others(&path), open, "{mode:o}");
        }
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn reading_has_a_bound() {
        for (most, whole) in [(2, false), (3, true), (u64::MAX, true)] {
            let read = read_up_to(&b"abc"[..], most).unwrap();
            assert_eq!(read, whole.then(|| b"abc".to_vec()), "{most}");
        }
    }
}
