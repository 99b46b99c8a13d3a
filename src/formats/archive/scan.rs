//! The list of a directory that is to be sent, and of its content what the server lacks.
//!
//! Two threads read and hash: a core does some GB a second, and a disk that is asked by two is seldom slower for it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::api::error::{Doing, Error};
use crate::formats::archive::pack::{PackItem, PackKind, PackPlan};
use crate::formats::delta::chunk::{CUT_FROM, ROOM, SEGMENT};
use crate::formats::delta::content;
use crate::formats::delta::hash::ContentHash;
use crate::formats::delta::listing::{
    ChunkRef, ListedEntry, ListedFile, ListedKind, ListingWriter,
};
use crate::formats::delta::order;
use crate::formats::delta::ranges::Ranges;
use crate::formats::delta::records::{DeltaHead, RecordWriter};
use crate::system::memory::Pages;

/// How many threads read.
const READERS: usize = 2;

/// Hashes do not shrink, and paths do so at any level.
const LIST_LEVEL: u32 = 3;

/// A directory whose list is made.
pub struct ScannedTree {
    plan: Arc<PackPlan>,
    /// What each file of the plan holds.
    files: Vec<Option<ListedFile>>,
    /// The numbers of the plan's items, in the order of the list.
    order: Vec<usize>,
    /// The list, as gzip.
    list: Vec<u8>,
    tree: ContentHash,
}

/// What one thread reads at once: an item, and where in a large file.
#[derive(Clone, Copy)]
struct ScanPart {
    item: usize,
    at: u64,
}

/// What was read of it.
enum PartContent {
    Whole(ListedFile),
    Segment(Vec<ChunkRef>),
}

impl ScannedTree {
    /// Reads everything that is planned, unless it is told to stop.
    ///
    /// # Errors
    /// A file that cannot be read or is not what it was when the plan was made.
    pub fn read(plan: Arc<PackPlan>, stop: &AtomicBool) -> Result<ScannedTree, Error> {
        let files = read_all(&plan, stop)?;
        let mut order: Vec<usize> = (0..plan.items.len()).collect();
        order.sort_unstable_by(|a, b| order::compare(&plan.items[*a].path, &plan.items[*b].path));
        let mut scanned = ScannedTree {
            plan,
            files,
            order,
            list: Vec::new(),
            tree: ContentHash([0; 32]),
        };
        (scanned.tree, scanned.list) = scanned
            .write_list()
            .doing(|| "listing the directory".into())?;
        Ok(scanned)
    }

    /// The list, as gzip.
    pub fn list(&self) -> &[u8] {
        &self.list
    }

    /// The identity of the list.
    pub fn tree(&self) -> ContentHash {
        self.tree
    }

    /// How many files there are.
    pub fn files(&self) -> u64 {
        self.files.iter().flatten().count() as u64
    }

    /// The bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().flatten().map(|file| file.size).sum()
    }

    /// How many files these objects are of, and their bytes.
    pub fn sent(&self, wanted: &Ranges) -> (u64, u64) {
        let (mut asks, mut number, mut files, mut bytes) = (wanted.asker(), 0, 0, 0);
        for file in self.order.iter().filter_map(|n| self.files[*n].as_ref()) {
            let mut any = false;
            for object in file.objects() {
                if asks(number) {
                    (any, bytes) = (true, bytes + u64::from(object.len));
                }
                number += 1;
            }
            files += u64::from(any);
        }
        (files, bytes)
    }

    fn write_list(&self) -> io::Result<(ContentHash, Vec<u8>)> {
        let gzip = GzEncoder::new(Vec::new(), Compression::new(LIST_LEVEL));
        let mut writer = ListingWriter::new(gzip)?;
        let mode = ListedEntry::directory_mode(self.plan.mode);
        writer.entry(&ListedEntry {
            path: Vec::new(),
            kind: ListedKind::Directory { mode },
        })?;
        for &n in &self.order {
            let PackItem { path, mode, what } = &self.plan.items[n];
            let kind = match (what, &self.files[n]) {
                (PackKind::Symlink(target), _) => ListedKind::Symlink {
                    target: target.to_vec(),
                },
                (PackKind::File(_), Some(file)) => ListedKind::File(file.clone()),
                _ => ListedKind::Directory {
                    mode: ListedEntry::directory_mode(*mode),
                },
            };
            let path = path.to_vec();
            writer.entry(&ListedEntry { path, kind })?;
        }
        let (tree, gzip) = writer.end();
        Ok((tree, gzip.finish()?))
    }

    /// Writes a delta that brings these objects. `progress` is told how many of their bytes have been read so far. What is
    /// sent is hashed once more: a file that has changed since is an error, and what was written until then is not a
    /// complete delta.
    ///
    /// # Errors
    /// What cannot be read or has changed, or `out`'s own error.
    pub fn write_delta(
        &self,
        head: &DeltaHead,
        wanted: &Ranges,
        (mut out, level): (impl Write, u32),
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), Error> {
        let unwritten = || "writing the delta".to_owned();
        let directory = File::open(&self.plan.root).doing(|| self.plan.doing(&[]))?;
        head.write(&mut out).doing(unwritten)?;
        if head.list > 0 {
            out.write_all(&self.list).doing(unwritten)?;
        }
        let mut records = RecordWriter::new(out, level);
        let (mut asks, mut number, mut sent) = (wanted.asker(), 0, 0);
        let mut room = Vec::new();
        for &n in &self.order {
            let Some(listed) = &self.files[n] else {
                continue;
            };
            let path = &self.plan.items[n].path;
            let (mut file, mut at) = (None, 0);
            for object in listed.objects() {
                if asks(number) {
                    let file = match &mut file {
                        Some(file) => file,
                        None => file.insert(self.plan.open(&directory, path)?),
                    };
                    read_again(file, at, object, &mut room).doing(|| self.plan.doing(path))?;
                    records.object(object.hash, &room).doing(unwritten)?;
                    sent += u64::from(object.len);
                    progress(sent);
                }
                number += 1;
                at += u64::from(object.len);
            }
        }
        records
            .end()
            .and_then(|mut out| out.flush())
            .doing(unwritten)
    }
}

/// Reads an object once more.
fn read_again(file: &mut File, at: u64, object: ChunkRef, room: &mut Vec<u8>) -> io::Result<()> {
    room.resize(object.len as usize, 0);
    file.seek(SeekFrom::Start(at))?;
    let read = file.read_exact(room);
    let same = read.is_ok() && ContentHash::of(room) == object.hash;
    match (read, same) {
        (Err(error), _) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error),
        (_, true) => Ok(()),
        _ => Err(io::Error::other("it was changed while it was packed")),
    }
}

/// Reads the files of a plan, by several threads.
fn read_all(plan: &PackPlan, stop: &AtomicBool) -> Result<Vec<Option<ListedFile>>, Error> {
    let directory = File::open(&plan.root).doing(|| plan.doing(&[]))?;
    let mut parts = Vec::new();
    for (item, one) in plan.items.iter().enumerate() {
        let PackKind::File(size) = one.what else {
            continue;
        };
        // A small file is one part, a large one has one for each segment.
        let segments = if size < CUT_FROM {
            1
        } else {
            size.div_ceil(SEGMENT)
        };
        parts.extend((0..segments).map(|n| ScanPart {
            item,
            at: n * SEGMENT,
        }));
    }
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<(usize, PartContent)>, Error> {
        let (mut read, mut room) = (Vec::new(), Pages::new(ROOM));
        loop {
            if stop.load(Ordering::Relaxed) {
                return Err(Error::new(plan.doing(&[]), "stopped"));
            }
            let n = next.fetch_add(1, Ordering::Relaxed);
            let Some(part) = parts.get(n) else {
                return Ok(read);
            };
            read.push((n, read_part(plan, &directory, *part, &mut room)?));
        }
    };
    let all = thread::scope(|scope| {
        let readers: Vec<_> = (1..READERS).map(|_| scope.spawn(work)).collect();
        let mut all = work()?;
        for reader in readers {
            match reader.join() {
                Ok(read) => all.extend(read?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(all)
    });
    let mut all: Vec<(usize, PartContent)> = all?;
    all.sort_unstable_by_key(|(n, _)| *n);
    Ok(joined(plan, &parts, all))
}

fn read_part(
    plan: &PackPlan,
    directory: &File,
    part: ScanPart,
    room: &mut [u8],
) -> Result<PartContent, Error> {
    let PackItem { path, mode, what } = &plan.items[part.item];
    let doing = || plan.doing(path);
    let PackKind::File(size) = what else {
        return Err(Error::new(doing(), "it is not a file"));
    };
    let mut file = plan.open(directory, path)?;
    let metadata = file.metadata().doing(doing)?;
    if !metadata.is_file() || metadata.len() != *size {
        return Err(Error::new(doing(), "it was changed while it was packed"));
    }
    if *size < CUT_FROM {
        let mode = ListedEntry::file_mode(*mode);
        let file = content::listed(mode, *size, &mut file, room).doing(doing)?;
        return Ok(PartContent::Whole(file));
    }
    file.seek(SeekFrom::Start(part.at)).doing(doing)?;
    let len = SEGMENT.min(size - part.at);
    let chunks = content::segment(&mut file, len, room).doing(doing)?;
    Ok(PartContent::Segment(chunks))
}

/// Puts the segments of each large file together.
fn joined(
    plan: &PackPlan,
    parts: &[ScanPart],
    all: Vec<(usize, PartContent)>,
) -> Vec<Option<ListedFile>> {
    let mut files: Vec<Option<ListedFile>> = vec![None; plan.items.len()];
    let mut chunks = Vec::new();
    for (n, read) in all {
        let item = parts[n].item;
        match read {
            PartContent::Whole(file) => files[item] = Some(file),
            PartContent::Segment(more) => {
                chunks.extend(more);
                let is_last = parts.get(n + 1).is_none_or(|next| next.item != item);
                if let (true, PackKind::File(size)) = (is_last, &plan.items[item].what) {
                    let mode = ListedEntry::file_mode(plan.items[item].mode);
                    let chunks = std::mem::take(&mut chunks);
                    files[item] = Some(ListedFile::of_chunks(mode, *size, chunks));
                }
            }
        }
    }
    files
}
