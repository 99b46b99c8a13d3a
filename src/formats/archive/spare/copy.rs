//! The making of a spare: each file is compared with the tree's list while it is copied, since others may have written to
//! it.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, Gid, Mode, Timespec, Timestamps, Uid, chownat, futimens, mkdirat, symlinkat,
};

use crate::api::error::Refusal;
use crate::formats::archive::assemble::{Rooms, read_object};
use crate::formats::archive::free_space::{FreeSpace, unwritten};
use crate::formats::archive::limits::{Limits, Owner};
use crate::formats::archive::making::{new_file, set_mode, unmade};
use crate::formats::archive::path::Name;
use crate::formats::archive::supply::{BaseTree, open_dir, open_in, open_list};
use crate::formats::delta::listing::{ListedFile, ListedKind, ListingLimits};

/// Whether to go on; asked often.
pub type GoesOn<'a> = &'a dyn Fn() -> bool;

/// How the making of a spare ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyEnd {
    /// It is whole.
    Copied,
    /// Somebody has written to the tree: it is not what its list says any longer.
    Differs,
    /// It was told to stop.
    Stopped,
}

/// Copies a tree into an empty directory.
///
/// # Errors
/// When the disk does not take it.
pub fn copy_tree(
    from: &BaseTree,
    to: &Path,
    limits: &Limits,
    owner: Option<Owner>,
    goes_on: GoesOn<'_>,
) -> Result<CopyEnd, Refusal> {
    let root = open_dir(to)?;
    let mut copier = Copier {
        from: open_dir(&from.dir)?,
        room: FreeSpace::new(&root, limits.min_free_disk)?,
        root,
        owner,
        rooms: Rooms::default(),
        goes_on,
    };
    let mut list = open_list(&from.list, ListingLimits::NONE)?;
    while let Some(entry) = list.next()? {
        let name = match entry.path.is_empty() {
            true => Name::root(),
            false => Name::parse(&entry.path)?,
        };
        let end = match entry.kind {
            ListedKind::Directory { mode } => copier.directory(&name, mode, to)?,
            ListedKind::Symlink { target } => copier.symlink(&name, &target)?,
            ListedKind::File(file) => copier.file(&name, &file)?,
        };
        match end {
            CopyEnd::Copied if goes_on() => {}
            CopyEnd::Copied => return Ok(CopyEnd::Stopped),
            other => return Ok(other),
        }
    }
    Ok(CopyEnd::Copied)
}

struct Copier<'a> {
    from: OwnedFd,
    root: OwnedFd,
    owner: Option<Owner>,
    room: FreeSpace,
    rooms: Rooms,
    goes_on: GoesOn<'a>,
}

impl Copier<'_> {
    fn give(&self, name: &Name) -> Result<(), Refusal> {
        give(&self.root, &name.path, self.owner)
            .map_err(|error| unwritten(format!("setting the owner of '{}'", name.shown), error))
    }

    /// Nobody else reaches what is in here, so that each directory has its mode and its owner at once.
    fn directory(&mut self, name: &Name, mode: u32, to: &Path) -> Result<CopyEnd, Refusal> {
        let failed = |error| unwritten(format!("making the directory '{}'", name.shown), error);
        if name.path.is_empty() {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
            fs::set_permissions(to, mode).map_err(failed)?;
        } else {
            self.room.take(1)?;
            let made = mkdirat(&self.root, &name.path, Mode::RWXU)
                .and_then(|()| chmod(&self.root, &name.path, mode));
            made.map_err(|errno| failed(errno.into()))?;
        }
        self.give(name)?;
        Ok(CopyEnd::Copied)
    }

    fn symlink(&mut self, name: &Name, target: &[u8]) -> Result<CopyEnd, Refusal> {
        self.room.take(1)?;
        symlinkat(target, &self.root, &name.path)
            .map_err(|errno| unmade(name, "making the link", errno))?;
        self.give(name)?;
        Ok(CopyEnd::Copied)
    }

    fn file(&mut self, name: &Name, listed: &ListedFile) -> Result<CopyEnd, Refusal> {
        let writing = |error| unwritten(format!("writing '{}'", name.shown), error);
        let Some(from) = open_in(&self.from, &name.path) else {
            return Ok(CopyEnd::Differs);
        };
        let before = from.metadata().map_err(writing)?;
        if before.len() != listed.size {
            return Ok(CopyEnd::Differs);
        }
        self.room.take(1)?;
        let mut file = new_file(&self.root, name, listed.mode)?;
        let mut at = 0;
        for object in listed.objects() {
            if !read_object(&from, at, object, &mut self.rooms) {
                return Ok(CopyEnd::Differs);
            }
            let room = &mut self.room;
            file.write(&self.rooms.plain, &mut |bytes| room.take(bytes), &writing)?;
            at += u64::from(object.len);
            if !(self.goes_on)() {
                return Ok(CopyEnd::Stopped);
            }
        }
        let file = file.end().map_err(writing)?;
        set_mode(&file, name, listed.mode)?;
        same_time(&file, &before).map_err(writing)?;
        self.give(name)?;
        Ok(CopyEnd::Copied)
    }
}

/// What did not change has the same time of change from release to release, so that who serves it says the same of it.
pub(super) fn same_time(file: &File, source: &fs::Metadata) -> std::io::Result<()> {
    let time = |seconds, nanos| Timespec {
        tv_sec: seconds,
        tv_nsec: nanos,
    };
    let times = Timestamps {
        last_access: time(source.atime(), source.atime_nsec() as _),
        last_modification: time(source.mtime(), source.mtime_nsec() as _),
    };
    Ok(futimens(file, &times)?)
}

/// Gives an entry to its owner; the root has an empty path.
pub(super) fn give(root: &OwnedFd, path: &[u8], owner: Option<Owner>) -> std::io::Result<()> {
    let Some((user, group)) = owner else {
        return Ok(());
    };
    let path = if path.is_empty() { b"." } else { path };
    let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    Ok(chownat(root, path, Some(user), Some(group), flags)?)
}

/// Sets the mode of a directory in a tree.
pub(super) fn chmod(root: &OwnedFd, path: &[u8], mode: u32) -> rustix::io::Result<()> {
    let path = if path.is_empty() { b"." } else { path };
    rustix::fs::chmodat(root, path, Mode::from_raw_mode(mode), AtFlags::empty())
}
