//! Where the content of a tree is: what its list asks for, what of it another tree has, and what comes.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use flate2::bufread::GzDecoder;
use rustix::fs::{CWD, Mode, OFlags};

use crate::api::error::{Code, Doing, Error, Refusal};
use crate::formats::archive::magic;
use crate::formats::delta::chunk::ROOM;
use crate::formats::delta::content;
use crate::formats::delta::hash::ContentHash;
use crate::formats::delta::listing::{
    ListedEntry, ListedFile, ListedKind, ListingLimits, ListingReader,
};
use crate::formats::delta::order;
use crate::formats::delta::ranges::Ranges;
use crate::formats::delta::records::StoredObject;
use crate::system::files;
use crate::system::memory::Pages;

/// A list on disk.
pub(super) type ListFile = ListingReader<Box<dyn BufRead + Send>>;

/// What is read of a list at once.
const LIST_BUFFER: usize = 32 << 10;

/// Opens a list, as it lies on disk: as gzip, or as it is.
///
/// # Errors
/// When it cannot be opened.
pub fn open_list(path: &Path, limits: ListingLimits) -> Result<ListFile, Error> {
    let doing = || format!("reading {}", path.display());
    let mut file = BufReader::with_capacity(LIST_BUFFER, File::open(path).doing(doing)?);
    let plain = !file.fill_buf().doing(doing)?.starts_with(&magic::GZIP);
    let lines: Box<dyn BufRead + Send> = match plain {
        true => Box::new(file),
        false => Box::new(BufReader::with_capacity(LIST_BUFFER, GzDecoder::new(file))),
    };
    Ok(ListingReader::new(lines, limits))
}

/// As [`open_list`], for one of which the tree is known, or is not asked for.
///
/// # Errors
/// When it cannot be opened.
pub(super) fn open_known_list(path: &Path, limits: ListingLimits) -> Result<ListFile, Error> {
    Ok(open_list(path, limits)?.of_known())
}

/// Writes a list that lies on disk as gzip as the text that it is, which is read more quickly.
///
/// # Errors
/// When it cannot be read, or the disk does not take it.
pub fn unzip_list(list: &Path, plain: &Path) -> io::Result<()> {
    let mut from = GzDecoder::new(BufReader::new(File::open(list)?));
    let mut to = File::create(plain)?;
    io::copy(&mut from, &mut to)?;
    to.sync_all()
}

/// A tree whose content is used again. Others may have written to it.
#[derive(Debug, Clone)]
pub struct BaseTree {
    /// Where it is.
    pub dir: PathBuf,
    /// Its list.
    pub list: PathBuf,
}

/// Where an object is.
#[derive(Debug, Clone, Copy)]
pub(super) enum ObjectPlace {
    /// It is to come.
    Wanted,
    /// In a tree that was looked in: the number of a path, and where in that file.
    Base(u32, u64),
    /// In a file of records.
    Records(usize, StoredObject),
}

#[derive(Default)]
struct SupplyState {
    places: HashMap<ContentHash, ObjectPlace>,
    /// Nothing comes any longer.
    ended: bool,
    /// Why all is in vain.
    failed: Option<Refusal>,
}

impl SupplyState {
    /// Whether something is still to come.
    fn wants(&self) -> bool {
        let mut places = self.places.values();
        places.any(|place| matches!(place, ObjectPlace::Wanted))
    }
}

/// Where objects are that the base does not have at the same place. It is told as they come.
#[derive(Default)]
pub struct Supply {
    state: Mutex<SupplyState>,
    changed: Condvar,
    paths: Vec<Vec<u8>>,
    /// How many of the paths are those of the first tree that was looked in.
    of_first: usize,
}

impl Supply {
    fn lock(&self) -> MutexGuard<'_, SupplyState> {
        // Each change is one insertion.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where these are is to be found.
    pub(super) fn wanting(wanted: HashSet<ContentHash>) -> Supply {
        let places = wanted.into_iter().map(|hash| (hash, ObjectPlace::Wanted));
        let supply = Supply::default();
        supply.lock().places = places.collect();
        supply
    }

    /// Looks in a tree for what has not come, and in another one for what the first one lacks.
    ///
    /// # Errors
    /// When a list cannot be read.
    pub(super) fn look_in(
        &mut self,
        first: &BaseTree,
        second: Option<&BaseTree>,
    ) -> Result<(), Refusal> {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if state.wants() {
            find_in(first, state, &mut self.paths, &|_| false)?;
        }
        self.of_first = self.paths.len();
        match second.filter(|_| state.wants()) {
            Some(second) => find_in(second, state, &mut self.paths, &|_| false),
            None => Ok(()),
        }
    }

    /// Whether a path is that of the second tree that was looked in.
    pub(super) fn is_of_second(&self, number: u32) -> bool {
        number as usize >= self.of_first
    }

    /// An object is in the records with this number.
    pub fn add(&self, records: usize, object: StoredObject) {
        let mut state = self.lock();
        let place = state
            .places
            .entry(object.hash)
            .or_insert(ObjectPlace::Wanted);
        // What was sent counts for more than what the base should have.
        if !matches!(place, ObjectPlace::Records(..)) {
            *place = ObjectPlace::Records(records, object);
            drop(state);
            self.changed.notify_all();
        }
    }

    /// As [`Supply::add`], if it is wanted; says whether it is.
    pub fn add_wanted(&self, records: usize, object: StoredObject) -> bool {
        let mut state = self.lock();
        match state.places.get_mut(&object.hash) {
            Some(place @ ObjectPlace::Wanted) => {
                *place = ObjectPlace::Records(records, object);
                true
            }
            _ => false,
        }
    }

    /// The path that a place names.
    pub(super) fn path(&self, number: u32) -> &[u8] {
        &self.paths[number as usize]
    }

    /// Why all is in vain, if that is so.
    pub(super) fn failure(&self) -> Option<Refusal> {
        self.lock().failed.clone()
    }

    /// Nothing comes any longer, and why all is in vain, if that is so.
    pub fn end(&self, failed: Option<Refusal>) {
        let mut state = self.lock();
        state.ended = true;
        state.failed = state.failed.take().or(failed);
        drop(state);
        self.changed.notify_all();
    }

    /// Whether the tree cannot be made any longer.
    pub fn is_in_vain(&self) -> bool {
        self.lock().failed.is_some()
    }

    /// Where an object is, which is waited for.
    pub(super) fn find(&self, hash: ContentHash) -> Result<Option<ObjectPlace>, Refusal> {
        let mut state = self.lock();
        loop {
            if let Some(failed) = &state.failed {
                return Err(failed.clone());
            }
            match state.places.get(&hash) {
                Some(ObjectPlace::Wanted) | None if state.ended => return Ok(None),
                Some(ObjectPlace::Wanted) | None => {}
                Some(place) => return Ok(Some(*place)),
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(super) fn fail(&self, refusal: Refusal) {
        self.lock().failed.get_or_insert(refusal);
        self.changed.notify_all();
    }

    /// What has to come of a tree: the numbers of the objects in its list, and their bytes.
    ///
    /// # Errors
    /// When the list cannot be read.
    pub fn missing(&self, list: &Path) -> Result<(Ranges, u64), Refusal> {
        let mut list = open_known_list(list, ListingLimits::NONE)?;
        let (mut missing, mut bytes, mut number) = (Ranges::default(), 0, 0);
        let mut state = self.lock();
        while let Some(entry) = list.next()? {
            let ListedKind::File(file) = &entry.kind else {
                continue;
            };
            for object in file.objects() {
                // It is sent once, however often it is used.
                if let Some(ObjectPlace::Wanted) = state.places.get(&object.hash) {
                    state.places.remove(&object.hash);
                    missing.push(number);
                    bytes += u64::from(object.len);
                }
                number += 1;
            }
        }
        Ok((missing, bytes))
    }
}

/// What a list asks for.
pub struct Demand {
    /// The identity of the list.
    pub tree: ContentHash,
    /// The bytes of its files.
    pub bytes: u64,
    /// Where it is found.
    pub supply: Supply,
}

/// Reads a list, judges it, and finds out what of it the base has.
///
/// # Errors
/// What is wrong with the list, or that one cannot be read.
pub fn demand(
    list: &Path,
    limits: ListingLimits,
    base: Option<&BaseTree>,
    bad: &dyn Fn(&[u8]) -> bool,
) -> Result<Demand, Refusal> {
    let mut new = open_list(list, limits)?;
    let mut old = Merged::open(base)?;
    let mut state = SupplyState::default();
    while let Some(entry) = new.next()? {
        let ListedKind::File(file) = &entry.kind else {
            continue;
        };
        if old.has(&entry.path, file)? && !bad(&entry.path) {
            continue;
        }
        for object in file.objects() {
            state.places.insert(object.hash, ObjectPlace::Wanted);
        }
    }
    let tree = new
        .tree()
        .ok_or_else(|| Refusal::new(Code::Internal, "the list of a tree has no end"))?;
    let mut supply = Supply::default();
    if let Some(base) = base.filter(|_| !state.places.is_empty()) {
        find_in(base, &mut state, &mut supply.paths, bad)?;
    }
    supply.state = Mutex::new(state);
    Ok(Demand {
        tree,
        bytes: new.bytes,
        supply,
    })
}

/// The files of a tree that are not what its list says: others have written to them.
///
/// # Errors
/// When the list cannot be read.
pub fn changed(base: &BaseTree) -> Result<HashSet<Vec<u8>>, Refusal> {
    let (dir, mut list) = (
        open_dir(&base.dir)?,
        open_known_list(&base.list, ListingLimits::NONE)?,
    );
    let (mut changed, mut room) = (HashSet::new(), Pages::new(ROOM));
    while let Some(entry) = list.next()? {
        let ListedKind::File(listed) = entry.kind else {
            continue;
        };
        let found = open_in(&dir, &entry.path).and_then(|mut file| {
            content::listed(listed.mode, listed.size, &mut file, &mut room).ok()
        });
        if found.as_ref() != Some(&listed) {
            changed.insert(entry.path);
        }
    }
    Ok(changed)
}

/// Finds by their hashes what the base has at other places.
fn find_in(
    base: &BaseTree,
    state: &mut SupplyState,
    paths: &mut Vec<Vec<u8>>,
    bad: &dyn Fn(&[u8]) -> bool,
) -> Result<(), Refusal> {
    let mut list = open_known_list(&base.list, ListingLimits::NONE)?;
    while let Some(entry) = list.next()? {
        let ListedKind::File(file) = &entry.kind else {
            continue;
        };
        if bad(&entry.path) {
            continue;
        }
        let (mut at, mut known) = (0, None);
        for object in file.objects() {
            if let Some(place @ ObjectPlace::Wanted) = state.places.get_mut(&object.hash) {
                let path = *known.get_or_insert_with(|| {
                    paths.push(entry.path.clone());
                    // A list has fewer entries than that.
                    (paths.len() - 1) as u32
                });
                *place = ObjectPlace::Base(path, at);
            }
            at += u64::from(object.len);
        }
    }
    Ok(())
}

/// The files of the base, beside those of another list.
pub(super) struct Merged {
    list: Option<ListFile>,
    next: Option<ListedEntry>,
}

impl Merged {
    pub(super) fn open(base: Option<&BaseTree>) -> Result<Merged, Refusal> {
        let list = base.map(|base| {
            let list = open_known_list(&base.list, ListingLimits::NONE);
            list.map_err(|error| Refusal::new(Code::StaleBase, error.to_string()))
        });
        let mut merged = Merged {
            list: list.transpose()?,
            next: None,
        };
        merged.step()?;
        Ok(merged)
    }

    fn step(&mut self) -> Result<(), Refusal> {
        self.next = match &mut self.list {
            Some(list) => list.next()?,
            None => None,
        };
        Ok(())
    }

    /// Whether the base has this file at the same place. Asked for in the order of a list.
    pub(super) fn has(&mut self, path: &[u8], file: &ListedFile) -> Result<bool, Refusal> {
        while let Some(next) = &self.next {
            match order::compare(&next.path, path) {
                Ordering::Less => self.step()?,
                Ordering::Equal => {
                    let same =
                        matches!(&next.kind, ListedKind::File(other) if other.same_content(file));
                    return Ok(same);
                }
                Ordering::Greater => return Ok(false),
            }
        }
        Ok(false)
    }
}

pub(super) fn open_dir(path: &Path) -> Result<OwnedFd, Refusal> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(|errno| {
        let why = format!(
            "opening {}: {}",
            path.display(),
            std::io::Error::from(errno)
        );
        Refusal::new(Code::StaleBase, why)
    })
}

/// A file of the base, without going through a link.
pub(super) fn open_in(base: &OwnedFd, path: &[u8]) -> Option<File> {
    files::open_file_in(base, path).ok()
}
