//! Reads files for their list, by two threads: a core hashes some GB a second, and a disk that is asked by two is seldom
//! slower for it.
//!
//! Of a large file that was read before, the pieces are looked at where they were, by their quick hashes. Where they are
//! what they were, the boundaries stay; between them the file is cut and hashed anew. So a change in a file of a GiB costs
//! a tenth of what it costs to hash all of it. What is inserted moves all that follows, which is then read anew.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::api::error::{Doing, Error};
use crate::formats::archive::pack::PackPlan;
use crate::formats::archive::planned::PackItem;
use crate::formats::archive::stamped::quick_hash;
use crate::formats::delta::chunk::{CUT_FROM, ROOM, SEGMENT, cut_segment};
use crate::formats::delta::chunk_line::ChunkRef;
use crate::formats::delta::content;
use crate::formats::delta::hash::ContentHash;
use crate::formats::delta::listing::{ListedEntry, ListedFile};
use crate::system::memory::Pages;

/// How many threads read.
const READERS: usize = 2;

/// Less than this one thread has read before another one has begun.
const ALONE: u64 = 256 << 10;

/// A file whose pieces are smaller than this on the average is cut anew: many small changes have left their boundaries.
const PIECE_MEAN: u64 = 24 << 10;

/// A file that is to be read.
pub(super) struct FileToRead<'a> {
    pub(super) item: &'a PackItem,
    pub(super) size: u64,
    /// Its chunks when it was read last, and their quick hashes.
    pub(super) old: Option<(&'a [ChunkRef], &'a [u128])>,
}

/// What a thread does at once.
enum ScanPart {
    /// A file that has no chunks.
    Whole(usize),
    /// Looks at old chunks, the first of which begins there.
    Look(usize, Range<usize>, u64),
    /// Cuts what is from there on, so many bytes.
    Cut(usize, u64, u64),
    /// Old chunks that are as they were.
    Kept(usize, Range<usize>),
}

/// What came of it.
enum PartContent {
    Whole(ListedFile),
    Looked(Vec<bool>),
    Chunks(Vec<ChunkRef>, Vec<u128>),
}

/// Reads files: what each holds, and the quick hashes of its chunks.
///
/// # Errors
/// One that cannot be read or is not what it was when the plan was made.
pub(super) fn read_files(
    plan: &PackPlan,
    directory: &File,
    files: &[FileToRead<'_>],
    seed: u64,
    stop: &AtomicBool,
) -> Result<Vec<(ListedFile, Vec<u128>)>, Error> {
    let readers = Readers {
        plan,
        directory,
        files,
        seed,
        stop,
    };
    let mut looks = Vec::new();
    for (n, file) in files.iter().enumerate() {
        looks.extend(looks_at(n, file));
    }
    let looked = readers.all(&looks)?;
    let mut kept: Vec<Vec<Range<usize>>> = files.iter().map(|_| Vec::new()).collect();
    for (part, done) in looks.iter().zip(looked) {
        if let (ScanPart::Look(n, range, _), PartContent::Looked(same)) = (part, done) {
            for (chunk, _) in range.clone().zip(same).filter(|(_, same)| *same) {
                match kept[*n].last_mut() {
                    Some(last) if last.end == chunk => last.end += 1,
                    _ => kept[*n].push(chunk..chunk + 1),
                }
            }
        }
    }
    let mut parts = Vec::new();
    for (n, (file, kept)) in files.iter().zip(kept).enumerate() {
        parts_of(n, file, &kept, &mut parts);
    }
    let done = readers.all(&parts)?;
    let mut read = readers.joined(&parts, done);
    for (n, file) in files.iter().enumerate() {
        let pieces = read[n].0.chunks.len() as u64;
        if file.old.is_some() && pieces > 2 && pieces > file.size / PIECE_MEAN {
            let mut parts = Vec::new();
            parts_of(n, file, &[], &mut parts);
            let done = readers.all(&parts)?;
            if let Some(anew) = readers.joined(&parts, done).into_iter().nth(n) {
                read[n] = anew;
            }
        }
    }
    Ok(read)
}

/// What is looked at of a file before it is read.
fn looks_at(n: usize, file: &FileToRead<'_>) -> Vec<ScanPart> {
    let mut looks = Vec::new();
    let Some((chunks, quick)) = file.old.filter(|_| file.size >= CUT_FROM) else {
        return looks;
    };
    let (mut first, mut start, mut end, mut fit) = (0, 0, 0, 0);
    for (number, chunk) in chunks.iter().enumerate().take(quick.len()) {
        if end + u64::from(chunk.len) > file.size {
            break;
        }
        end += u64::from(chunk.len);
        if end - start >= SEGMENT {
            looks.push(ScanPart::Look(n, first..number + 1, start));
            (first, start) = (number + 1, end);
        }
        fit = number + 1;
    }
    if first < fit {
        looks.push(ScanPart::Look(n, first..fit, start));
    }
    looks
}

/// What is read of a file of which these chunks are as they were.
fn parts_of(n: usize, file: &FileToRead<'_>, kept: &[Range<usize>], parts: &mut Vec<ScanPart>) {
    if file.size < CUT_FROM {
        parts.push(ScanPart::Whole(n));
        return;
    }
    let chunks = file.old.map_or(&[][..], |(chunks, _)| chunks);
    let (mut at, mut next, mut begin) = (0, 0, 0);
    let cut = |from: u64, to: u64, parts: &mut Vec<ScanPart>| {
        let mut from = from;
        while from < to {
            let end = (from / SEGMENT + 1) * SEGMENT;
            let len = end.min(to) - from;
            parts.push(ScanPart::Cut(n, from, len));
            from += len;
        }
    };
    for range in kept {
        let lens = |range: Range<usize>| -> u64 {
            chunks[range].iter().map(|chunk| u64::from(chunk.len)).sum()
        };
        at += lens(next..range.start);
        cut(begin, at, parts);
        parts.push(ScanPart::Kept(n, range.clone()));
        at += lens(range.clone());
        (next, begin) = (range.end, at);
    }
    cut(begin, file.size, parts);
}

/// What the reading threads share.
struct Readers<'a> {
    plan: &'a PackPlan,
    directory: &'a File,
    files: &'a [FileToRead<'a>],
    seed: u64,
    stop: &'a AtomicBool,
}

impl Readers<'_> {
    /// How many bytes are read for a part.
    fn cost(&self, part: &ScanPart) -> u64 {
        match part {
            ScanPart::Whole(n) => self.files[*n].size,
            ScanPart::Look(..) => SEGMENT,
            ScanPart::Cut(_, _, len) => *len,
            ScanPart::Kept(..) => 0,
        }
    }

    /// Does all parts, and gives what came of each.
    fn all(&self, parts: &[ScanPart]) -> Result<Vec<PartContent>, Error> {
        let next = AtomicUsize::new(0);
        let work = || -> Result<Vec<(usize, PartContent)>, Error> {
            let (mut done, mut room) = (Vec::new(), Pages::new(ROOM));
            loop {
                if self.stop.load(Ordering::Relaxed) {
                    return Err(Error::new(self.plan.doing(&[]), "stopped"));
                }
                let n = next.fetch_add(1, Ordering::Relaxed);
                let Some(part) = parts.get(n) else {
                    return Ok(done);
                };
                done.push((n, self.part(part, &mut room)?));
            }
        };
        let alone =
            parts.len() < 2 || parts.iter().map(|part| self.cost(part)).sum::<u64>() < ALONE;
        let mut all = if alone {
            work()?
        } else {
            thread::scope(|scope| {
                let readers: Vec<_> = (1..READERS).map(|_| scope.spawn(work)).collect();
                let mut all = work()?;
                for reader in readers {
                    match reader.join() {
                        Ok(read) => all.extend(read?),
                        Err(panic) => std::panic::resume_unwind(panic),
                    }
                }
                Ok::<_, Error>(all)
            })?
        };
        all.sort_unstable_by_key(|(n, _)| *n);
        Ok(all.into_iter().map(|(_, done)| done).collect())
    }

    /// Opens a file, which is still as it was planned.
    fn open(&self, n: usize) -> Result<File, Error> {
        let FileToRead { item, size, .. } = &self.files[n];
        let doing = || self.plan.doing(&item.path);
        let file = self.plan.open(self.directory, &item.path)?;
        let metadata = file.metadata().doing(doing)?;
        if !metadata.is_file() || metadata.len() != *size {
            return Err(Error::new(doing(), "it was changed while it was packed"));
        }
        Ok(file)
    }

    fn part(&self, part: &ScanPart, room: &mut [u8]) -> Result<PartContent, Error> {
        let doing = |n: usize| self.plan.doing(&self.files[n].item.path);
        match part {
            ScanPart::Whole(n) => {
                let FileToRead { item, size, .. } = &self.files[*n];
                let mode = ListedEntry::file_mode(item.mode);
                let mut file = self.open(*n)?;
                let listed = content::listed(mode, *size, &mut file, room);
                listed.doing(|| doing(*n)).map(PartContent::Whole)
            }
            ScanPart::Look(n, range, at) => {
                let (chunks, quick) = self.files[*n].old.unwrap_or_default();
                let (file, mut at) = (self.open(*n)?, *at);
                let mut same = Vec::with_capacity(range.len());
                for number in range.clone() {
                    // No chunk is larger.
                    let piece = &mut room[..chunks[number].len as usize];
                    file.read_exact_at(piece, at).doing(|| doing(*n))?;
                    same.push(quick_hash(self.seed, piece) == quick[number]);
                    at += u64::from(chunks[number].len);
                }
                Ok(PartContent::Looked(same))
            }
            ScanPart::Cut(n, at, len) => {
                let mut file = self.open(*n)?;
                file.seek(SeekFrom::Start(*at)).doing(|| doing(*n))?;
                let (mut chunks, mut quick) = (Vec::new(), Vec::new());
                let read = cut_segment(file.take(*len), room, &mut |chunk| {
                    // At most `CHUNK_MAX`.
                    let (len, hash) = (chunk.len() as u32, ContentHash::of(chunk));
                    chunks.push(ChunkRef { len, hash });
                    quick.push(quick_hash(self.seed, chunk));
                    Ok(())
                });
                match read.doing(|| doing(*n))? == *len {
                    true => Ok(PartContent::Chunks(chunks, quick)),
                    false => Err(Error::new(doing(*n), "it was changed while it was packed")),
                }
            }
            ScanPart::Kept(n, range) => {
                let (chunks, quick) = self.files[*n].old.unwrap_or_default();
                let (chunks, quick) = (&chunks[range.clone()], &quick[range.clone()]);
                Ok(PartContent::Chunks(chunks.to_vec(), quick.to_vec()))
            }
        }
    }

    /// Puts the parts of each large file together.
    fn joined(&self, parts: &[ScanPart], done: Vec<PartContent>) -> Vec<(ListedFile, Vec<u128>)> {
        type Joined = (Option<ListedFile>, Vec<ChunkRef>, Vec<u128>);
        let mut joined: Vec<Joined> = self.files.iter().map(|_| Joined::default()).collect();
        for (part, done) in parts.iter().zip(done) {
            let (ScanPart::Whole(n)
            | ScanPart::Look(n, ..)
            | ScanPart::Cut(n, ..)
            | ScanPart::Kept(n, _)) = part;
            let (whole, chunks, quick) = &mut joined[*n];
            match done {
                PartContent::Whole(file) => *whole = Some(file),
                PartContent::Chunks(more, hashes) => {
                    chunks.extend(more);
                    quick.extend(hashes);
                }
                PartContent::Looked(_) => {}
            }
        }
        let of = |(file, (whole, chunks, quick)): (&FileToRead<'_>, Joined)| {
            let mode = ListedEntry::file_mode(file.item.mode);
            let listed = whole.unwrap_or_else(|| ListedFile::of_chunks(mode, file.size, chunks));
            (listed, quick)
        };
        self.files.iter().zip(joined).map(of).collect()
    }
}
