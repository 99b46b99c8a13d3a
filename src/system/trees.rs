//! Removing a tree, however deep: what an installation made has no bound, and the stack and the descriptors have one. Who
//! made it may have taken the right to change a directory from himself, as Go does with what it downloads: it is given back.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, chmod, fchmod, openat, renameat, unlinkat};
use rustix::io::Errno;

use crate::system::files;

/// So many levels are removed by recursion, each with a descriptor; what is deeper is moved up first.
const LEVELS_MAX: u32 = 64;
/// Each round takes off that many levels of everything. Nobody makes so deep a tree who does not go on making it.
const ROUNDS_MAX: u32 = 100_000;

/// Removes a directory and everything in it. No link is followed.
///
/// # Errors
/// When something of it stays, or it is not there.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let top = open(rustix::fs::CWD, path)?;
    let mut moved = 0;
    for _ in 0..ROUNDS_MAX {
        let before = moved;
        clear(top.as_fd(), top.as_fd(), LEVELS_MAX, &mut moved)?;
        if moved == before {
            return std::fs::remove_dir(path);
        }
    }
    Err(io::Error::other("it is too deep, or still grows"))
}

/// Removes something, and all that is in it, if it is there.
///
/// # Errors
/// When something of it stays.
pub fn remove(path: &Path) -> io::Result<()> {
    files::gone(match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => remove_tree(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    })
}

fn open(at: BorrowedFd<'_>, name: impl rustix::path::Arg + Copy) -> io::Result<File> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = |access| openat(at, name, flags | access, Mode::empty());
    let dir = match allowed(at, || opened(OFlags::RDONLY)) {
        Err(Errno::ACCESS) => {
            // Its own mode is in the way. By this path it is that directory, whatever has its name by now.
            let place = allowed(at, || opened(OFlags::PATH))?;
            chmod(format!("/proc/self/fd/{}", place.as_raw_fd()), Mode::RWXU)?;
            opened(OFlags::RDONLY)?
        }
        dir => dir?,
    };
    Ok(dir.into())
}

/// Does something in a directory, if need be after giving its owner all rights to it.
fn allowed<T>(
    dir: BorrowedFd<'_>,
    act: impl Fn() -> rustix::io::Result<T>,
) -> rustix::io::Result<T> {
    match act() {
        Err(Errno::ACCESS) if fchmod(dir, Mode::RWXU).is_ok() => act(),
        done => done,
    }
}

/// Empties a directory, but for what is `levels` below it, which is moved to the `top`.
fn clear(dir: BorrowedFd<'_>, top: BorrowedFd<'_>, levels: u32, moved: &mut u64) -> io::Result<()> {
    let remove = |name: &CStr, flags| allowed(dir, || unlinkat(dir, name, flags));
    for entry in allowed(dir, || Dir::read_from(dir))? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if !matches!(entry.file_type(), FileType::Directory | FileType::Unknown) {
            gone(remove(name, AtFlags::empty()))?;
            continue;
        }
        match remove(name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) if levels == 0 => {
                // A name of its own is not that of anything in there, so nothing is put in another's place.
                let fresh = format!(".gangplank-{}-{moved}", std::process::id());
                *moved += 1;
                renameat(dir, name, top, fresh)?;
            }
            Err(Errno::NOTEMPTY | Errno::EXIST) => {
                clear(open(dir, name)?.as_fd(), top, levels - 1, moved)?;
                gone(remove(name, AtFlags::REMOVEDIR))?;
            }
            // The file system did not say what it is.
            Err(Errno::NOTDIR) => gone(remove(name, AtFlags::empty()))?,
            removed => gone(removed)?,
        }
    }
    Ok(())
}

/// What is not there need not be removed.
fn gone(removed: rustix::io::Result<()>) -> io::Result<()> {
    files::gone(removed.map_err(io::Error::from))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_tree_is_removed_however_deep_and_nothing_that_it_leads_to() {
        let dir = std::env::temp_dir().join(format!("gangplank-remove-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let (kept, tree) = (dir.join("kept"), dir.join("tree"));
        fs::create_dir_all(&kept).unwrap();
        fs::write(kept.join("file"), "").unwrap();
        fs::create_dir_all(tree.join("wide/empty")).unwrap();
        fs::write(tree.join("wide/file"), "").unwrap();
        symlink(&kept, tree.join("wide/link")).unwrap();
        symlink("nowhere", tree.join("link")).unwrap();
        let mut at = open(rustix::fs::CWD, &tree).unwrap();
        for _ in 0..5000 {
            rustix::fs::mkdirat(&at, "a", Mode::RWXU).unwrap();
            rustix::fs::mkdirat(&at, "b", Mode::RWXU).unwrap();
            rustix::fs::symlinkat(&kept, &at, "c").unwrap();
            at = open(at.as_fd(), "a").unwrap();
        }
        // On the stack that the threads have which remove.
        let path = tree.clone();
        let small = std::thread::Builder::new().stack_size(512 << 10);
        let removing = small.spawn(move || remove_tree(&path)).unwrap();
        removing.join().unwrap().unwrap();
        assert!(!tree.exists() && kept.join("file").exists());
        let missing = remove_tree(&tree).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        fs::remove_dir_all(&dir).unwrap();
    }
}
