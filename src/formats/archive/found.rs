//! What is found in a directory that is packed: its names, and what the file system says of each.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::rc::Rc;

use rustix::fs::{Dir, FileType, Mode, OFlags, Stat, openat};

use crate::formats::archive::planned::FileStamp;

/// The names in a directory, in order, as compactly as a directory of a hundred thousand files needs it.
#[derive(Default)]
pub(super) struct Names {
    text: Vec<u8>,
    /// Where they are in the text, the next one last.
    places: Vec<(u32, u16)>,
}

impl Names {
    /// The names in an open directory.
    pub(super) fn read(directory: &OwnedFd) -> io::Result<Names> {
        let mut names = Names::default();
        for entry in Dir::read_from(directory)? {
            match entry?.file_name().to_bytes() {
                b"." | b".." => {}
                name => names.push(name),
            }
        }
        names.sort();
        Ok(names)
    }

    fn push(&mut self, name: &[u8]) {
        // No name has more than 255 bytes, so that some 16 million of them fit.
        let place = (self.text.len() as u32, name.len() as u16);
        self.places.push(place);
        self.text.extend_from_slice(name);
    }

    fn name(&self, (at, len): (u32, u16)) -> &[u8] {
        &self.text[at as usize..][..usize::from(len)]
    }

    fn sort(&mut self) {
        let mut places = std::mem::take(&mut self.places);
        places.sort_unstable_by(|one, other| self.name(*other).cmp(self.name(*one)));
        self.places = places;
    }

    pub(super) fn has(&self, name: &[u8]) -> bool {
        let found = self
            .places
            .binary_search_by(|place| name.cmp(self.name(*place)));
        found.is_ok()
    }

    pub(super) fn next(&mut self) -> Option<OsString> {
        let place = self.places.pop()?;
        Some(OsString::from_vec(self.name(place).to_vec()))
    }
}

pub(super) fn open_directory(at: impl AsFd, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(at, name, flags, Mode::empty())?)
}

/// A name in a directory, and what it is of.
pub(super) struct FoundEntry {
    pub(super) path: PathBuf,
    pub(super) directory: Rc<OwnedFd>,
    pub(super) name: OsString,
    pub(super) stat: rustix::io::Result<Stat>,
}

impl FoundEntry {
    /// Opens it to read it, and does not wait for a writer if it is a FIFO.
    pub(super) fn open(&self) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(&*self.directory, &self.name, flags, Mode::empty())?;
        Ok(file.into())
    }
}

/// What of an entry is asked for.
#[derive(Clone, Copy)]
pub(super) struct EntryStat {
    pub(super) kind: FileType,
    pub(super) mode: u32,
    pub(super) size: u64,
    /// What the disk has of it.
    pub(super) on_disk: u64,
    pub(super) stamp: FileStamp,
}

// The types of the fields are others on other machines.
#[allow(clippy::unnecessary_cast)]
impl EntryStat {
    pub(super) fn of(stat: &Stat) -> EntryStat {
        // Until the year 2262.
        let time =
            |seconds: i64, nanos: i64| seconds.saturating_mul(1_000_000_000).saturating_add(nanos);
        EntryStat {
            kind: FileType::from_raw_mode(stat.st_mode as _),
            mode: stat.st_mode as u32 & 0o777,
            size: stat.st_size as u64,
            on_disk: (stat.st_blocks as u64).saturating_mul(512),
            stamp: FileStamp {
                changed: time(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
                inode_changed: time(stat.st_ctime as i64, stat.st_ctime_nsec as i64),
                inode: stat.st_ino as u64,
                device: stat.st_dev as u64,
            },
        }
    }
}

pub(super) fn strange(kind: FileType) -> &'static str {
    match kind {
        FileType::Socket => "socket",
        FileType::Fifo => "FIFO",
        _ => "device",
    }
}
