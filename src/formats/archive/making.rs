//! Making one file of a tree, and the refusals for what could not be made.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::api::error::Refusal;
use crate::formats::archive::free_space::unwritten;
use crate::formats::archive::path::Name;
use crate::formats::archive::sparse::SparseFile;

/// A file that is not there yet.
pub(super) fn new_file(root: &OwnedFd, name: &Name, mode: u32) -> Result<SparseFile, Refusal> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(root, &name.path, flags, Mode::from_raw_mode(mode))
        .map_err(|errno| unmade(name, "making the file", errno))?;
    Ok(SparseFile::new(File::from(file)))
}

pub(super) fn set_mode(file: &File, name: &Name, mode: u32) -> Result<(), Refusal> {
    rustix::fs::fchmod(file, Mode::from_raw_mode(mode))
        .map_err(|errno| unmade(name, "setting the mode", errno))
}

/// The refusal for an entry that could not be made: some errors are the name's fault and not the server's.
pub(super) fn unmade(name: &Name, what: &str, errno: Errno) -> Refusal {
    match errno {
        // `EXIST`: the file system takes two names for one that the archive tells apart. `ILSEQ`, `INVAL`: it does not take
        // the name at all. `MLINK`: a file has no more than some ten thousand links.
        Errno::EXIST | Errno::NAMETOOLONG | Errno::ILSEQ | Errno::INVAL | Errno::MLINK => {
            name.refuse(format!("{what}: {}", io::Error::from(errno)))
        }
        _ => unwritten(format!("{what} '{}'", name.shown), errno.into()),
    }
}
