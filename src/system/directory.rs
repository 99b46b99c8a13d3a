//! Names in a directory, looked up there and nowhere else: no link is followed, whoever may have put it there meanwhile.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, fchmod, fchown, mkdirat, openat, renameat,
    statat, symlinkat,
};
use rustix::io::Errno;

use crate::system::trees::remove;

/// A directory that is open.
#[derive(Debug)]
pub struct Directory(OwnedFd);

/// The user and the group that something is made for.
pub type Owner = (u32, u32);

impl Directory {
    /// Opens a directory.
    ///
    /// # Errors
    /// When it cannot be opened, or is something else.
    pub fn open(path: &Path) -> io::Result<Directory> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Directory(openat(CWD, path, flags, Mode::empty())?))
    }

    /// Opens a directory in it.
    ///
    /// # Errors
    /// When it cannot be opened, or is something else, such as a link.
    pub fn enter(&self, name: &str) -> io::Result<Directory> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Directory(openat(&self.0, name, flags, Mode::empty())?))
    }

    /// Opens a directory in it, which is made with this mode and for this owner if it is missing.
    ///
    /// # Errors
    /// When it cannot be made or opened, or is something else, such as a link.
    pub fn enter_or_make(
        &self,
        name: &str,
        mode: u32,
        owner: Option<Owner>,
    ) -> io::Result<Directory> {
        match mkdirat(&self.0, name, Mode::from_raw_mode(mode)) {
            Ok(()) => {}
            Err(Errno::EXIST) => return self.enter(name),
            Err(error) => return Err(error.into()),
        }
        let made = self.enter(name)?;
        // The umask may have taken bits away.
        fchmod(&made.0, Mode::from_raw_mode(mode))?;
        if let Some((user, group)) = owner {
            fchown(
                &made.0,
                Some(Uid::from_raw(user)),
                Some(Gid::from_raw(group)),
            )?;
        }
        Ok(made)
    }

    /// Whether there is something of a name, and whether that is a directory.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn is_dir(&self, name: &str) -> io::Result<Option<bool>> {
        match statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(Some(
                FileType::from_raw_mode(found.st_mode) == FileType::Directory,
            )),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes a symbolic link in it.
    ///
    /// # Errors
    /// When there is something of that name, or the disk does not take it.
    pub fn link(&self, target: &Path, name: &str) -> io::Result<()> {
        Ok(symlinkat(target, &self.0, name)?)
    }

    /// Moves something from here to another directory, where there is nothing of that name. On another file system it is
    /// copied first, and appears there whole.
    ///
    /// # Errors
    /// When the disk does not take it: nothing of it is there then.
    pub fn move_to(&self, name: &str, to: &Directory) -> io::Result<()> {
        match renameat(&self.0, name, &to.0, name) {
            Ok(()) => return Ok(()),
            Err(Errno::XDEV) => {}
            Err(error) => return Err(error.into()),
        }
        // No name of ours begins like this.
        let fresh = format!(".gangplank-{name}");
        let (from, copy) = (self.path(name), to.path(&fresh));
        remove(&copy)?;
        if let Err(error) = copy_tree(&from, &copy) {
            let _ = remove(&copy);
            return Err(error);
        }
        renameat(&to.0, &*fresh, &to.0, name)?;
        remove(&from)
    }

    /// Removes something and all that is in it.
    ///
    /// # Errors
    /// When something of it stays.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        remove(&self.path(name))
    }

    /// A path by which something in it is found, as long as this is open.
    pub fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd())).join(name)
    }
}

/// Copies files, directories and links with their modes and owners.
fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(from)?;
    if found.is_symlink() {
        std::os::unix::fs::symlink(fs::read_link(from)?, to)?;
    } else if found.is_dir() {
        fs::create_dir(to)?;
        for entry in fs::read_dir(from)? {
            let name = entry?.file_name();
            copy_tree(&from.join(&name), &to.join(&name))?;
        }
    } else {
        io::copy(&mut File::open(from)?, &mut File::create(to)?)?;
    }
    let (user, group) = (Some(found.uid()), Some(found.gid()));
    match std::os::unix::fs::lchown(to, user, group) {
        // Only root may give something away; for others it is theirs.
        Err(error) if error.kind() != io::ErrorKind::PermissionDenied => return Err(error),
        _ => {}
    }
    if !found.is_symlink() {
        fs::set_permissions(to, fs::Permissions::from_mode(found.mode() & 0o7777))?;
    }
    Ok(())
}

/// Whether two trees hold the same: names, kinds and contents.
///
/// # Errors
/// When one of them cannot be read.
pub fn same(one: &Path, other: &Path) -> io::Result<bool> {
    let (a, b) = (fs::symlink_metadata(one)?, fs::symlink_metadata(other)?);
    if a.is_symlink() && b.is_symlink() {
        return Ok(fs::read_link(one)? == fs::read_link(other)?);
    }
    if a.is_dir() && b.is_dir() {
        let names = |path: &Path| -> io::Result<Vec<_>> {
            let mut names = Vec::new();
            for entry in fs::read_dir(path)? {
                names.push(entry?.file_name());
            }
            names.sort();
            Ok(names)
        };
        let all = names(one)?;
        if all != names(other)? {
            return Ok(false);
        }
        for name in all {
            if !same(&one.join(&name), &other.join(&name))? {
                return Ok(false);
            }
        }
        return Ok(true);
    }
    if !(a.is_file() && b.is_file()) || a.len() != b.len() {
        return Ok(false);
    }
    same_bytes(File::open(one)?, File::open(other)?)
}

fn same_bytes(mut one: impl io::Read, mut other: impl io::Read) -> io::Result<bool> {
    let (mut a, mut b) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let read = one.read(&mut a)?;
        if read == 0 {
            return Ok(other.read(&mut b)? == 0);
        }
        match other.read_exact(&mut b[..read]) {
            Ok(()) if a[..read] == b[..read] => {}
            Ok(()) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}
