//! One pass through what is planned of a directory, beside what was kept of it: which files need not be read, and what
//! has changed. All goes by in the order of the list, a window at a time, so that memory does not grow with the tree.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, UNIX_EPOCH};

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::api::error::{Doing, Error};
use crate::formats::archive::pack::PackPlan;
use crate::formats::archive::planned::{FileStamp, PackItem, PackKind};
use crate::formats::archive::reading::{FileToRead, read_files};
use crate::formats::archive::spool::Spool;
use crate::formats::archive::stamped::{DeployedTree, StampedEntry, StampedWriter};
use crate::formats::delta::difference::DifferenceWriter;
use crate::formats::delta::hash::ContentHash;
use crate::formats::delta::listing::{ListedEntry, ListedFile, ListedKind};
use crate::formats::delta::order;

/// So many entries are looked at together, and so many bytes are read: two threads share them.
const WINDOW: usize = 1024;
const WINDOW_BYTES: u64 = 256 << 20;

/// A longer difference is not worth it: the list itself is hardly longer.
const DIFFERENCE_MAX: usize = 1 << 20;

/// A file that was written so shortly before it was looked at may be written again without another time: kernels count
/// time in steps of at most 10 ms, and file systems without fractions of a second in steps of two seconds.
const STEP: Duration = Duration::from_millis(20);
const COARSE_STEP: Duration = Duration::from_secs(2);

/// As much of a hash as tells some million objects of one directory apart. Two that are taken for one are not sent both,
/// and the server says so.
pub(super) fn short(hash: ContentHash) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = hash.0;
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

/// Until the year 2262.
fn nanos(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

/// Whether nothing can have been written since a file was looked at without another stamp.
fn settled(stamp: &FileStamp, begun: i64) -> bool {
    const SECOND: i64 = 1_000_000_000;
    let coarse = stamp.changed % SECOND == 0 && stamp.inode_changed % SECOND == 0;
    let limit = begun.saturating_sub(nanos(if coarse { COARSE_STEP } else { STEP }));
    stamp.changed < limit && stamp.inode_changed < limit
}

/// The tree that was kept, beside the one that is read.
pub(super) struct OldEntries<'a> {
    entries: Box<dyn FnMut() -> io::Result<Option<StampedEntry>> + 'a>,
    next: Option<StampedEntry>,
    /// It could not be read to its end.
    broken: bool,
}

impl<'a> OldEntries<'a> {
    pub(super) fn new(kept: Option<&'a DeployedTree>) -> OldEntries<'a> {
        let entries = kept.map(DeployedTree::entries);
        let broken = matches!(entries, Some(Err(_)));
        let entries: Box<dyn FnMut() -> _> = match entries {
            Some(Ok(mut entries)) => Box::new(move || entries.next()),
            _ => Box::new(|| Ok(None)),
        };
        let mut old = OldEntries {
            entries,
            next: None,
            broken,
        };
        old.step();
        old
    }

    fn step(&mut self) -> Option<StampedEntry> {
        let next = (self.entries)().unwrap_or_else(|_| {
            self.broken = true;
            None
        });
        std::mem::replace(&mut self.next, next)
    }

    /// The next one, if it comes before a path.
    fn before(&mut self, path: Option<&[u8]>) -> Option<StampedEntry> {
        let next = self.next.as_ref()?;
        let before = path.is_none_or(|path| order::compare(&next.entry.path, path).is_lt());
        before.then(|| self.step()).flatten()
    }

    fn at(&mut self, path: &[u8]) -> Option<StampedEntry> {
        let next = self.next.as_ref()?;
        (next.entry.path == path).then(|| self.step()).flatten()
    }

    /// Whether a file looks as it did when it was looked into, and held no secret. Asked for in the order of the list.
    pub(super) fn harmless_at(&mut self, path: &[u8], size: u64, stamp: &FileStamp) -> bool {
        while self.before(Some(path)).is_some() {}
        self.at(path).is_some_and(|old| {
            let same_size = matches!(&old.entry.kind, ListedKind::File(file) if file.size == size);
            old.harmless && same_size && old.stamp.as_ref() == Some(stamp)
        })
    }
}

/// What the new list has that the old one has not, as long as it is short.
pub(super) struct DifferenceSoFar {
    lines: DifferenceWriter<GzEncoder<Vec<u8>>>,
    wanted: HashSet<u64>,
}

impl DifferenceSoFar {
    fn new() -> DifferenceSoFar {
        // It is short.
        let gzip = GzEncoder::new(Vec::new(), Compression::best());
        DifferenceSoFar {
            lines: DifferenceWriter::new(gzip),
            wanted: HashSet::new(),
        }
    }

    fn entry(&mut self, new: &ListedEntry, old: Option<&ListedEntry>) -> io::Result<()> {
        self.lines.entry(new, old)?;
        let ListedKind::File(file) = &new.kind else {
            return Ok(());
        };
        let known: HashSet<u64> = match old.map(|old| &old.kind) {
            Some(ListedKind::File(old)) if old.same_content(file) => return Ok(()),
            Some(ListedKind::File(old)) => old.chunks.iter().map(|one| short(one.hash)).collect(),
            _ => HashSet::new(),
        };
        let new = file.objects().map(|object| short(object.hash));
        self.wanted.extend(new.filter(|hash| !known.contains(hash)));
        Ok(())
    }

    /// Its lines, as gzip, and the objects that the old list has not at the same path.
    pub(super) fn end(self) -> io::Result<(Vec<u8>, HashSet<u64>)> {
        Ok((self.lines.end().finish()?, self.wanted))
    }
}

/// What comes next in the order of the list.
enum PassStep {
    /// What was kept has it, and the directory has not.
    Gone(ListedEntry),
    Entry {
        item: PackItem,
        old: Option<StampedEntry>,
    },
}

impl PassStep {
    /// What is to be read of it.
    fn to_read(&self, trusted: bool) -> Option<FileToRead<'_>> {
        let PassStep::Entry { item, old } = self else {
            return None;
        };
        let PackKind::File(size) = item.what else {
            return None;
        };
        let old = old.as_ref().filter(|_| trusted);
        let file = old.and_then(|old| match &old.entry.kind {
            ListedKind::File(file) => Some((file, old)),
            _ => None,
        });
        let same = file.is_some_and(|(file, old)| {
            file.size == size && old.stamp.is_some_and(|stamp| stamp == item.stamp)
        });
        let old = file.map(|(file, old)| (&file.chunks[..], &old.quick[..]));
        (!same).then_some(FileToRead { item, size, old })
    }
}

/// A directory on its way into its list.
pub(super) struct ScanPass<'a> {
    plan: &'a PackPlan,
    directory: File,
    stop: &'a AtomicBool,
    seed: u64,
    trusted: bool,
    begun: i64,
    old: OldEntries<'a>,
    steps: Vec<PassStep>,
    /// How many bytes of them are to be read, or about that many.
    bytes: u64,
    out: StampedWriter,
    difference: Option<DifferenceSoFar>,
}

/// What came of a pass.
pub(super) struct PassResult {
    pub(super) tree: ContentHash,
    pub(super) body: Spool,
    /// None if it is long, or nothing was kept.
    pub(super) difference: Option<DifferenceSoFar>,
}

impl<'a> ScanPass<'a> {
    /// A pass in which the files that look as they did are not read, if what was kept is `trusted`.
    ///
    /// # Errors
    /// When the directory cannot be opened.
    pub(super) fn new(
        plan: &'a PackPlan,
        (kept, trusted): (Option<&'a DeployedTree>, bool),
        seed: u64,
        stop: &'a AtomicBool,
    ) -> Result<ScanPass<'a>, Error> {
        let begun = plan.begun.duration_since(UNIX_EPOCH);
        Ok(ScanPass {
            directory: File::open(&plan.root).doing(|| plan.doing(&[]))?,
            plan,
            stop,
            seed,
            trusted,
            begun: nanos(begun.unwrap_or_default()),
            old: OldEntries::new(kept),
            steps: Vec::new(),
            bytes: 0,
            out: StampedWriter::new().doing(|| "listing the directory".into())?,
            difference: kept.map(|_| DifferenceSoFar::new()),
        })
    }

    /// Goes through everything.
    ///
    /// # Errors
    /// A file that cannot be read or is not what it was when the plan was made.
    pub(super) fn run(mut self) -> Result<PassResult, Error> {
        self.all()?;
        let (tree, body) = self.out.end();
        let whole = !self.old.broken;
        Ok(PassResult {
            tree,
            body,
            difference: self.difference.filter(|_| whole),
        })
    }

    fn all(&mut self) -> Result<(), Error> {
        let root = PackItem {
            path: Vec::new(),
            mode: self.plan.mode,
            what: PackKind::Directory,
            stamp: FileStamp::default(),
            harmless: false,
        };
        let plan = self.plan;
        for item in std::iter::once(Ok(root)).chain(plan.items.items()) {
            let item = item.doing(|| plan.doing(&[]))?;
            while let Some(gone) = self.old.before(Some(&item.path)) {
                self.steps.push(PassStep::Gone(gone.entry));
            }
            let old = self.old.at(&item.path);
            let step = PassStep::Entry { item, old };
            self.bytes += step.to_read(self.trusted).map_or(0, |file| file.size);
            self.steps.push(step);
            if self.steps.len() >= WINDOW || self.bytes >= WINDOW_BYTES {
                self.window()?;
            }
        }
        while let Some(gone) = self.old.before(None) {
            self.steps.push(PassStep::Gone(gone.entry));
        }
        self.window()
    }

    /// Reads what is to be read, and passes everything on.
    fn window(&mut self) -> Result<(), Error> {
        let steps = std::mem::take(&mut self.steps);
        self.bytes = 0;
        let files: Vec<FileToRead<'_>> = steps
            .iter()
            .filter_map(|step| step.to_read(self.trusted))
            .collect();
        let read = read_files(self.plan, &self.directory, &files, self.seed, self.stop)?;
        let unread: Vec<bool> = steps
            .iter()
            .map(|step| step.to_read(self.trusted).is_some())
            .collect();
        drop(files);
        let mut read = read.into_iter();
        for (step, unread) in steps.into_iter().zip(unread) {
            let read = if unread { read.next() } else { None };
            let passed = match step {
                PassStep::Gone(gone) => self.gone(&gone),
                PassStep::Entry { item, old } => self.entry(item, old, read),
            };
            passed.doing(|| "listing the directory".into())?;
        }
        Ok(())
    }

    fn gone(&mut self, gone: &ListedEntry) -> io::Result<()> {
        match &mut self.difference {
            Some(difference) => difference.lines.gone(gone),
            None => Ok(()),
        }
    }

    fn entry(
        &mut self,
        item: PackItem,
        old: Option<StampedEntry>,
        read: Option<(ListedFile, Vec<u128>)>,
    ) -> io::Result<()> {
        let PackItem {
            path,
            mode,
            what,
            stamp,
            harmless,
        } = item;
        let (kind, quick) = match (what, read, &old) {
            (PackKind::Directory, ..) => {
                let mode = ListedEntry::directory_mode(mode);
                (ListedKind::Directory { mode }, Vec::new())
            }
            (PackKind::Symlink(target), ..) => {
                let target = target.into();
                (ListedKind::Symlink { target }, Vec::new())
            }
            (PackKind::File(_), Some((file, quick)), _) => (ListedKind::File(file), quick),
            (PackKind::File(_), None, Some(old)) => {
                let mut kind = old.entry.kind.clone();
                if let ListedKind::File(file) = &mut kind {
                    file.mode = ListedEntry::file_mode(mode);
                }
                (kind, old.quick.clone())
            }
            (PackKind::File(_), None, None) => {
                return Err(io::Error::other("a file was passed over"));
            }
        };
        let new = StampedEntry {
            entry: ListedEntry { path, kind },
            stamp: Some(stamp).filter(|stamp| settled(stamp, self.begun)),
            quick,
            harmless,
        };
        self.out.entry(&new)?;
        if let Some(difference) = &mut self.difference {
            difference.entry(&new.entry, old.as_ref().map(|old| &old.entry))?;
            if difference.lines.out().get_ref().len() > DIFFERENCE_MAX {
                self.difference = None;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_still_be_written_in_the_same_step_of_time_is_not_settled() {
        let stamp = |changed, inode_changed| FileStamp {
            changed,
            inode_changed,
            ..FileStamp::default()
        };
        const MS: i64 = 1_000_000;
        let table = [
            (stamp(MS, MS), 100 * MS, true),
            (stamp(90 * MS, MS), 100 * MS, false),
            (stamp(MS, 90 * MS), 100 * MS, false),
            (stamp(200 * MS, MS), 100 * MS, false),
            (stamp(1000 * MS, 1000 * MS), 2900 * MS, false),
            (stamp(1000 * MS, 1000 * MS), 3100 * MS, true),
            (stamp(1000 * MS, 1001 * MS), 2900 * MS, true),
        ];
        for (stamp, begun, expected) in table {
            assert_eq!(settled(&stamp, begun), expected, "{stamp:?} {begun}");
        }
    }
}
