//! The stamps of a tree's entries: what the file system says of each of them that changes when somebody changes it.
//!
//! An index is a line with a format and a tree, and then a stamp for each entry of the tree's list, in its order.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, statat};

use crate::api::error::{Doing, Error, Refusal};
use crate::formats::archive::spare::copy::GoesOn;
use crate::formats::archive::supply::{open_dir, open_list};
use crate::formats::delta::listing::ListingLimits;

/// The first word of an index; another format has another one.
const FORMAT: &str = "gangplank-spare-1";
/// The bytes of a stamp on disk.
const STAMP_LEN: usize = 48;
/// The longest first line: the format and the digits of a tree.
const HEAD_MAX: u64 = 128;

/// What the file system says of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp([u64; 6]);

impl Stamp {
    /// Of an entry of a tree; its root has an empty path, and its name may change.
    pub(super) fn of(root: &OwnedFd, path: &[u8]) -> io::Result<Stamp> {
        let at = if path.is_empty() { b"." } else { path };
        let stat = statat(root, at, AtFlags::SYMLINK_NOFOLLOW)?;
        let nanos = |seconds: i64, nanos: u64| (seconds as u64).wrapping_mul(1 << 30) ^ nanos;
        let changed = match path.is_empty() {
            true => 0,
            false => nanos(stat.st_ctime as i64, stat.st_ctime_nsec as u64),
        };
        Ok(Stamp([
            stat.st_ino as u64,
            stat.st_size as u64,
            u64::from(stat.st_mode),
            u64::from(stat.st_uid) << 32 | u64::from(stat.st_gid),
            nanos(stat.st_mtime as i64, stat.st_mtime_nsec as u64),
            changed,
        ]))
    }

    /// What it is made of.
    pub(super) fn words(&self) -> [u64; 6] {
        self.0
    }

    /// What kind of entry it is of.
    pub(super) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.0[2] as _)
    }
}

/// Writes the index of a tree that has this list.
///
/// # Errors
/// When something of the tree is missing, or the disk does not take the index. `Ok(false)` if it was told to stop.
pub fn stamp_tree(
    dir: &Path,
    list: &Path,
    index: &Path,
    goes_on: GoesOn<'_>,
) -> Result<bool, Refusal> {
    let root = open_dir(dir)?;
    let mut list = open_list(list, ListingLimits::NONE)?;
    let what = || format!("writing {}", index.display());
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut out = BufWriter::new(options.open(index).doing(what)?);
    // The tree is known at the end of its list, and its digits have a place here.
    let digits = "0".repeat(2 * crate::formats::delta::hash::HASH_LEN);
    writeln!(out, "{FORMAT} {digits}").doing(what)?;
    while let Some(entry) = list.next()? {
        if !goes_on() {
            return Ok(false);
        }
        let stamp = Stamp::of(&root, &entry.path);
        let stamp = stamp.doing(|| format!("looking at the spare {}", dir.display()))?;
        for word in stamp.0 {
            out.write_all(&word.to_le_bytes()).doing(what)?;
        }
    }
    let tree = list.tree().map(|tree| tree.to_string());
    let mut file = out
        .into_inner()
        .map_err(|error| error.into_error())
        .doing(what)?;
    io::Seek::seek(&mut file, io::SeekFrom::Start(FORMAT.len() as u64 + 1)).doing(what)?;
    file.write_all(tree.unwrap_or_default().as_bytes())
        .doing(what)?;
    file.sync_all().doing(what)?;
    Ok(true)
}

/// The tree that an index is of; none if it cannot be read.
pub fn stamped_tree(index: &Path) -> Option<String> {
    StampReader::open(index).ok().map(|reader| reader.tree)
}

/// Whether an index is that of a tree.
pub fn has_tree(index: &Path, tree: &str) -> bool {
    stamped_tree(index).is_some_and(|stamped| stamped == tree)
}

/// Reads an index.
pub(super) struct StampReader {
    file: BufReader<File>,
    pub(super) tree: String,
}

impl StampReader {
    /// # Errors
    /// When it cannot be read, or is none.
    pub(super) fn open(index: &Path) -> Result<StampReader, Error> {
        let what = || format!("reading {}", index.display());
        let mut file = BufReader::with_capacity(64 << 10, File::open(index).doing(what)?);
        let mut head = String::new();
        file.by_ref()
            .take(HEAD_MAX)
            .read_line(&mut head)
            .doing(what)?;
        let tree = head
            .strip_prefix(FORMAT)
            .and_then(|rest| rest.strip_suffix('\n'));
        let tree = tree.ok_or_else(|| Error::new(what(), "it is of another format"))?;
        let tree = tree.trim_start().to_owned();
        Ok(StampReader { file, tree })
    }

    /// The stamp of the next entry; none if the index ends too early.
    pub(super) fn next(&mut self) -> Option<Stamp> {
        let mut bytes = [0; STAMP_LEN];
        self.file.read_exact(&mut bytes).ok()?;
        let mut words = [0; 6];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().ok()?);
        }
        Some(Stamp(words))
    }

    /// Whether all of it was read.
    pub(super) fn ended(&mut self) -> bool {
        self.file.fill_buf().is_ok_and(<[u8]>::is_empty)
    }
}
