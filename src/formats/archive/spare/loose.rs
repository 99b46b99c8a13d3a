//! A tree without a list: what somebody else made in a release, such as what was installed.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use memchr::memmem::Finder;
use rustix::fs::{Dir, FileType, Mode, OFlags, mkdirat, openat, readlinkat, symlinkat};
use sha2::{Digest, Sha256};

use crate::api::error::{Doing, Error, Refusal};
use crate::formats::archive::free_space::{FreeSpace, unwritten};
use crate::formats::archive::limits::{Limits, Owner};
use crate::formats::archive::spare::copy::{CopyEnd, GoesOn, chmod, give, same_time};
use crate::formats::archive::spare::stamps::Stamp;
use crate::formats::archive::supply::open_dir;
use crate::formats::delta::hash::ContentHash;
use crate::system::memory::Pages;

/// Package managers nest a dozen levels. Each takes a descriptor and a part of the stack.
const LEVELS_MAX: u32 = 64;
/// What is read of a file at once.
const READ_AT_ONCE: usize = 128 << 10;
/// The bits of a mode that a copy has. What has others is not copied.
const MODE_BITS: u32 = 0o777;
const OTHER_BITS: u32 = 0o7000;

fn in_dir(dir: &OwnedFd, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(openat(dir, name, flags, Mode::empty())?)
}

/// The names in a directory, in an order that is always the same.
fn names(dir: &OwnedFd) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn one_below(levels: u32) -> io::Result<u32> {
    let below = levels.checked_sub(1);
    below.ok_or_else(|| io::Error::other("it is too deep"))
}

/// What the file system says of all entries of a tree, but for its top and for the entry `without` in that. It is another
/// one as soon as somebody changes one of them.
///
/// # Errors
/// When something of it cannot be looked at.
pub fn stamp_entries(dir: &Path, without: Option<&str>) -> Result<ContentHash, Error> {
    let what = || format!("looking at {}", dir.display());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let root = openat(rustix::fs::CWD, dir, flags, Mode::empty());
    let root = root.map_err(io::Error::from).doing(what)?;
    let mut hash = Sha256::new();
    let without = without.map(str::as_bytes);
    stamp_level(&root, without, LEVELS_MAX, &mut hash).doing(what)?;
    Ok(hash.finalize().into())
}

fn stamp_level(
    dir: &OwnedFd,
    without: Option<&[u8]>,
    levels: u32,
    hash: &mut Sha256,
) -> io::Result<()> {
    let names = names(dir)?;
    for name in names.iter().filter(|name| Some(&name[..]) != without) {
        let stamp = Stamp::of(dir, name)?;
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name);
        for word in stamp.words() {
            hash.update(word.to_le_bytes());
        }
        if stamp.kind() == FileType::Directory {
            stamp_level(&in_dir(dir, name)?, None, one_below(levels)?, hash)?;
        }
    }
    // No name is as long.
    hash.update(u64::MAX.to_le_bytes());
    Ok(())
}

/// What is copied, and what must not be in it.
pub struct LooseCopy<'a> {
    pub from: &'a Path,
    /// An empty directory.
    pub to: &'a Path,
    /// Whoever finds this in a file or a link cannot use it elsewhere.
    pub place: &'a str,
    pub limits: &'a Limits,
    pub owner: Option<Owner>,
    pub goes_on: GoesOn<'a>,
}

impl LooseCopy<'_> {
    /// Copies a tree. [`CopyEnd::Differs`] says that something in it cannot be copied, or belongs to one place.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn run(&self) -> Result<CopyEnd, Refusal> {
        let (from, to) = (open_dir(self.from)?, open_dir(self.to)?);
        let room = FreeSpace::new(&to, self.limits.min_free_disk)?;
        let mut copier = LooseCopier {
            copy: self,
            finder: Finder::new(self.place.as_bytes()),
            room,
            buffer: Pages::new(READ_AT_ONCE),
        };
        copier.level(&from, &to, LEVELS_MAX)
    }
}

struct LooseCopier<'a> {
    copy: &'a LooseCopy<'a>,
    finder: Finder<'a>,
    room: FreeSpace,
    buffer: Pages,
}

impl LooseCopier<'_> {
    fn level(&mut self, from: &OwnedFd, to: &OwnedFd, levels: u32) -> Result<CopyEnd, Refusal> {
        let failed = |error| unwritten(format!("copying {}", self.copy.from.display()), error);
        let top: File = from.try_clone().map_err(failed)?.into();
        let mode = top.metadata().map_err(failed)?.mode();
        for name in names(from).map_err(failed)? {
            if !(self.copy.goes_on)() {
                return Ok(CopyEnd::Stopped);
            }
            self.room.take(1)?;
            let end = match Stamp::of(from, &name).map_err(failed)?.kind() {
                FileType::Directory => match one_below(levels) {
                    Ok(levels) => {
                        let made = mkdirat(to, &name, Mode::RWXU).map_err(io::Error::from);
                        made.map_err(failed)?;
                        let dirs = (in_dir(from, &name), in_dir(to, &name));
                        self.level(&dirs.0.map_err(failed)?, &dirs.1.map_err(failed)?, levels)?
                    }
                    Err(_) => CopyEnd::Differs,
                },
                FileType::Symlink => self.link(from, to, &name).map_err(failed)?,
                FileType::RegularFile => self.file(from, to, &name)?,
                _ => CopyEnd::Differs,
            };
            if end != CopyEnd::Copied {
                return Ok(end);
            }
        }
        if mode & OTHER_BITS != 0 {
            return Ok(CopyEnd::Differs);
        }
        chmod(to, b"", mode & MODE_BITS)
            .map_err(io::Error::from)
            .and_then(|()| give(to, b"", self.copy.owner))
            .map_err(failed)?;
        Ok(CopyEnd::Copied)
    }

    fn link(&self, from: &OwnedFd, to: &OwnedFd, name: &[u8]) -> io::Result<CopyEnd> {
        let target = readlinkat(from, name, Vec::new())?;
        let leads = target.as_bytes();
        if leads.starts_with(b"/") || self.finder.find(leads).is_some() {
            return Ok(CopyEnd::Differs);
        }
        symlinkat(&target, to, name)?;
        give(to, name, self.copy.owner)?;
        Ok(CopyEnd::Copied)
    }

    fn file(&mut self, from: &OwnedFd, to: &OwnedFd, name: &[u8]) -> Result<CopyEnd, Refusal> {
        let failed = |error| unwritten(format!("copying {}", self.copy.from.display()), error);
        // Not waiting, for it may be another file by now.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let source = openat(from, name, flags, Mode::empty()).map_err(io::Error::from);
        let mut source: File = source.map_err(failed)?.into();
        let meta = source.metadata().map_err(failed)?;
        // What is another user's is read only by the server, and is given to nobody.
        let foreign = self
            .copy
            .owner
            .is_some_and(|(owner, _)| owner != meta.uid());
        if !meta.is_file() || foreign || meta.mode() & OTHER_BITS != 0 {
            return Ok(CopyEnd::Differs);
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = openat(to, name, flags, Mode::RUSR | Mode::WUSR).map_err(io::Error::from);
        let mut file: File = file.map_err(failed)?.into();
        let mut carried = 0;
        loop {
            let read = source.read(&mut self.buffer[carried..]).map_err(failed)?;
            if read == 0 {
                break;
            }
            self.room.take(read as u64)?;
            let end = carried + read;
            file.write_all(&self.buffer[carried..end]).map_err(failed)?;
            if self.finder.find(&self.buffer[..end]).is_some() {
                return Ok(CopyEnd::Differs);
            }
            if !(self.copy.goes_on)() {
                return Ok(CopyEnd::Stopped);
            }
            // What is looked for may begin in this part and end in the next one.
            let keep = end.min(self.copy.place.len().saturating_sub(1));
            self.buffer.copy_within(end - keep..end, 0);
            carried = keep;
        }
        chmod_file(&file, meta.mode() & MODE_BITS)
            .and_then(|()| same_time(&file, &meta))
            .and_then(|()| give(to, name, self.copy.owner))
            .map_err(failed)?;
        Ok(CopyEnd::Copied)
    }
}

fn chmod_file(file: &File, mode: u32) -> io::Result<()> {
    Ok(rustix::fs::fchmod(file, Mode::from_raw_mode(mode))?)
}
