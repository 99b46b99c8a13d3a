//! The list of a directory that is to be sent, and of its content what the server lacks.
//!
//! What was kept of the directory as it was deployed last ([`DeployedTree`]) says which files need not be read, and what has
//! changed since.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::api::error::{Doing, Error};
use crate::formats::archive::list::LIST_LEVEL;
use crate::formats::archive::pack::PackPlan;
use crate::formats::archive::rescan::{DifferenceSoFar, PassResult, ScanPass, short};
use crate::formats::archive::spool::Spool;
use crate::formats::archive::stamped::{self, DeployedTree};
use crate::formats::delta::chunk_line::ChunkRef;
use crate::formats::delta::hash::ContentHash;
use crate::formats::delta::listing::{ListedKind, ListingWriter};
use crate::formats::delta::ranges::Ranges;
use crate::formats::delta::records::{DeltaHead, RecordWriter};

/// A directory whose list is made.
pub struct ScannedTree {
    plan: Arc<PackPlan>,
    body: Spool,
    seed: u64,
    tree: ContentHash,
    files: u64,
    bytes: u64,
    difference: Option<TreeDifference>,
}

/// What a tree has that the one which was kept has not.
pub struct TreeDifference {
    pub base: ContentHash,
    /// Their lists' difference, as gzip.
    pub lines: Vec<u8>,
    pub wanted: Selection,
}

/// Some of the objects of a tree.
#[derive(Default)]
pub struct Selection {
    pub objects: Ranges,
    /// How many files they are of.
    pub files: u64,
    pub bytes: u64,
}

impl ScannedTree {
    /// Reads everything that is planned, unless it is told to stop. What was kept says what need not be read, if it is
    /// `trusted`, and in any case what has changed.
    ///
    /// # Errors
    /// A file that cannot be read or is not what it was when the plan was made.
    pub fn read(
        plan: Arc<PackPlan>,
        kept: Option<&DeployedTree>,
        trusted: bool,
        stop: &AtomicBool,
    ) -> Result<ScannedTree, Error> {
        let what = || "listing the directory".to_owned();
        let seed = match kept {
            Some(kept) => kept.seed,
            None => getrandom::u64().doing(what)?,
        };
        let pass = ScanPass::new(&plan, (kept, trusted), seed, stop)?;
        let PassResult {
            tree,
            body,
            difference,
        } = pass.run()?;
        let mut scanned = ScannedTree {
            files: plan.files() as u64,
            bytes: plan.total(),
            plan,
            body,
            seed,
            tree,
            difference: None,
        };
        if let (Some(difference), Some(kept)) = (difference, kept) {
            // It is only a shorter way.
            scanned.difference = scanned.compared(difference, kept).ok();
        }
        Ok(scanned)
    }

    fn compared(
        &self,
        difference: DifferenceSoFar,
        kept: &DeployedTree,
    ) -> io::Result<TreeDifference> {
        let (lines, mut wanted) = difference.end()?;
        if !wanted.is_empty() {
            // What was moved or copied is there under another name.
            let mut old = kept.entries()?;
            while let (Some(old), false) = (old.next()?, wanted.is_empty()) {
                if let ListedKind::File(file) = &old.entry.kind {
                    for object in file.objects() {
                        wanted.remove(&short(object.hash));
                    }
                }
            }
        }
        let wanted = match wanted.is_empty() {
            true => Selection::default(),
            // It is sent once, however often it is used.
            false => self.choose(&mut |_, object| wanted.remove(&short(object.hash)))?,
        };
        Ok(TreeDifference {
            base: kept.tree,
            lines,
            wanted,
        })
    }

    /// The list, as gzip.
    ///
    /// # Errors
    /// The disk's own.
    pub fn list(&self) -> io::Result<Spool> {
        let gzip = GzEncoder::new(Spool::default(), Compression::new(LIST_LEVEL));
        let mut writer = ListingWriter::new(gzip)?;
        let mut entries = stamped::entries(&self.body)?;
        while let Some(one) = entries.next()? {
            writer.entry(&one.entry)?;
        }
        let (_, gzip) = writer.end();
        gzip.finish()
    }

    /// The identity of the list.
    pub fn tree(&self) -> ContentHash {
        self.tree
    }

    /// What it has that the tree which was kept has not.
    pub fn difference(&self) -> Option<&TreeDifference> {
        self.difference.as_ref()
    }

    /// How many files there are.
    pub fn files(&self) -> u64 {
        self.files
    }

    /// The bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes what is to be kept of it once it is deployed.
    ///
    /// # Errors
    /// `out`'s own.
    pub fn keep(&self, out: &mut impl Write) -> io::Result<()> {
        stamped::keep(&self.body, self.seed, self.tree, out)
    }

    /// What these objects are.
    ///
    /// # Errors
    /// The disk's own.
    pub fn select(&self, wanted: &Ranges) -> io::Result<Selection> {
        let mut asks = wanted.asker();
        self.choose(&mut |number, _| asks(number))
    }

    fn choose(&self, asks: &mut dyn FnMut(u64, ChunkRef) -> bool) -> io::Result<Selection> {
        let (mut chosen, mut number) = (Selection::default(), 0);
        let mut entries = stamped::entries(&self.body)?;
        while let Some(one) = entries.next()? {
            let ListedKind::File(file) = &one.entry.kind else {
                continue;
            };
            let mut any = false;
            for object in file.objects() {
                if asks(number, object) {
                    chosen.objects.push(number);
                    chosen.bytes += u64::from(object.len);
                    any = true;
                }
                number += 1;
            }
            chosen.files += u64::from(any);
        }
        Ok(chosen)
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
        if let Some(difference) = self.difference.as_ref().filter(|_| head.difference) {
            out.write_all(&difference.lines).doing(unwritten)?;
        }
        let mut records = RecordWriter::new(out, level);
        let (mut asks, mut number, mut sent) = (wanted.asker(), 0, 0);
        let last = wanted.last();
        let mut room = Vec::new();
        let mut entries = stamped::entries(&self.body).doing(unwritten)?;
        while last.is_some_and(|last| number <= last) {
            let Some(one) = entries.next().doing(unwritten)? else {
                break;
            };
            let (path, ListedKind::File(listed)) = (&one.entry.path, &one.entry.kind) else {
                continue;
            };
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
fn read_again(file: &File, at: u64, object: ChunkRef, room: &mut Vec<u8>) -> io::Result<()> {
    room.resize(object.len as usize, 0);
    let read = file.read_exact_at(room, at);
    let same = read.is_ok() && ContentHash::of(room) == object.hash;
    match (read, same) {
        (Err(error), _) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error),
        (_, true) => Ok(()),
        _ => Err(io::Error::other("it was changed while it was packed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::{Read, Seek};
    use std::path::Path;
    use std::time::Duration;

    use crate::formats::archive::stamped::StampedWriter;
    use crate::formats::archive::testing::Temporary;
    use crate::formats::archive::{PackOptions, plan, plan_again};
    use crate::formats::delta::difference;
    use crate::formats::delta::listing::{ListingLimits, ListingReader};
    use crate::system::files;

    /// More than a file's last change is to be older than a scan.
    const STEPS: Duration = Duration::from_millis(40);

    fn scan(dir: &Path, kept: Option<&DeployedTree>, trusted: bool) -> ScannedTree {
        let plan = Arc::new(plan(dir, &PackOptions::default()).unwrap());
        ScannedTree::read(plan, kept, trusted, &AtomicBool::new(false)).unwrap()
    }

    fn kept(scanned: &ScannedTree) -> DeployedTree {
        let mut file = files::nameless(&std::env::temp_dir()).unwrap();
        scanned.keep(&mut file).unwrap();
        file.rewind().unwrap();
        DeployedTree::read(file).unwrap()
    }

    fn list(scanned: &ScannedTree) -> Vec<u8> {
        let (list, mut text) = (scanned.list().unwrap(), Vec::new());
        let mut gzip = flate2::read::GzDecoder::new(list.reader());
        gzip.read_to_end(&mut text).unwrap();
        text
    }

    /// What a server makes of the list that it has.
    fn made(old: &ScannedTree, new: &ScannedTree) -> ContentHash {
        let difference = new.difference().unwrap();
        assert_eq!(difference.base, old.tree());
        let lines = flate2::read::GzDecoder::new(&difference.lines[..]);
        let old = list(old);
        let mut base = ListingReader::new(&old[..], ListingLimits::NONE);
        let lines = std::io::BufReader::new(lines);
        difference::apply(&mut base, lines, ListingLimits::NONE, std::io::sink()).unwrap()
    }

    /// Lets the files of a directory be older than what could still be written at the same time.
    fn settle(dir: &Path) {
        let newest = || {
            let times = fs::read_dir(dir).unwrap().map(|entry| {
                let meta = entry.unwrap().metadata().unwrap();
                meta.modified().unwrap()
            });
            times.max().unwrap()
        };
        while newest().elapsed().is_ok_and(|age| age < STEPS) {
            std::thread::yield_now();
        }
    }

    fn noise(len: usize, seed: u64) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        };
        let words = (0..len.div_ceil(8)).flat_map(|_| next());
        words.take(len).collect()
    }

    #[test]
    fn what_is_written_at_once_after_a_scan_is_seen_though_its_size_is_the_same() {
        let dir = Temporary::new();
        let path = dir.0.join("file");
        fs::write(dir.0.join("other"), "x").unwrap();
        for round in 0..1000 {
            fs::write(&path, format!("{round:04} one")).unwrap();
            let before = scan(&dir.0, None, true);
            fs::write(&path, format!("{round:04} two")).unwrap();
            if round % 2 == 0 {
                // The time of the content can be put back; that of the inode cannot.
                let time = fs::metadata(dir.0.join("other"))
                    .unwrap()
                    .modified()
                    .unwrap();
                let file = File::options().write(true).open(&path).unwrap();
                file.set_modified(time).unwrap();
            }
            let after = scan(&dir.0, Some(&kept(&before)), true);
            assert_ne!(before.tree(), after.tree(), "{round}");
            assert_eq!(made(&before, &after), after.tree());
            assert_eq!(after.difference().unwrap().wanted.bytes, 8);
        }
    }

    #[test]
    fn a_file_that_looks_the_same_is_not_read_unless_it_is_asked_for() {
        let dir = Temporary::new();
        fs::write(dir.0.join("file"), "one").unwrap();
        settle(&dir.0);
        let first = scan(&dir.0, None, true);
        // What is kept says another content: only who does not read the file can believe it.
        let mut bytes = Vec::new();
        let body = {
            let mut writer = StampedWriter::new().unwrap();
            let mut entries = stamped::entries(&first.body).unwrap();
            while let Some(mut one) = entries.next().unwrap() {
                if let ListedKind::File(file) = &mut one.entry.kind {
                    assert!(one.stamp.is_some());
                    file.hash = ContentHash::of(b"two");
                }
                writer.entry(&one).unwrap();
            }
            writer.end()
        };
        stamped::keep(&body.1, first.seed, body.0, &mut bytes).unwrap();
        let mut file = files::nameless(&std::env::temp_dir()).unwrap();
        file.write_all(&bytes).unwrap();
        file.rewind().unwrap();
        let lie = DeployedTree::read(file).unwrap();
        assert_eq!(scan(&dir.0, Some(&lie), true).tree(), body.0);
        assert_eq!(scan(&dir.0, Some(&lie), false).tree(), first.tree());
    }

    #[test]
    fn a_change_is_a_short_difference_and_what_was_moved_is_not_wanted() {
        let dir = Temporary::new();
        for n in 0..3000 {
            let at = dir.0.join(format!("d{}", n % 7));
            fs::create_dir_all(&at).unwrap();
            fs::write(at.join(format!("f{n}")), format!("content {n}")).unwrap();
        }
        let mut last = scan(&dir.0, None, true);
        assert_eq!(last.files(), 3000);
        let path = |name: &str| dir.0.join(name);
        type Change<'a> = (&'a dyn Fn(), u64, usize);
        let changes: [Change<'_>; 8] = [
            (&|| (), 0, 30),
            (&|| fs::write(path("d1/f1"), "other").unwrap(), 5, 120),
            (
                &|| fs::rename(path("d2/f2"), path("d3/moved")).unwrap(),
                0,
                130,
            ),
            (
                &|| fs::copy(path("d4/f4"), path("copied")).map(drop).unwrap(),
                0,
                120,
            ),
            (&|| fs::remove_dir_all(path("d5")).unwrap(), 0, 40),
            (&|| fs::rename(path("d6/f6"), path("d5")).unwrap(), 0, 130),
            (
                &|| {
                    fs::remove_dir_all(path("d0")).unwrap();
                    fs::write(path("d0"), "new").unwrap();
                },
                3,
                120,
            ),
            (
                &|| (0..3).for_each(|n| fs::write(path(&format!("n{n}")), "thrice").unwrap()),
                6,
                170,
            ),
        ];
        for (n, (change, wanted, most)) in changes.into_iter().enumerate() {
            change();
            let next = scan(&dir.0, Some(&kept(&last)), true);
            let difference = next.difference().unwrap();
            assert_eq!(difference.wanted.bytes, wanted, "{n}");
            let len = difference.lines.len();
            assert!(len <= most, "{n}: {len}");
            assert_eq!(made(&last, &next), next.tree(), "{n}");
            assert_eq!(next.tree(), scan(&dir.0, None, true).tree(), "{n}");
            last = next;
        }
    }

    #[test]
    fn a_large_file_keeps_its_boundaries_where_it_is_the_same() {
        let dir = Temporary::new();
        let path = dir.0.join("large");
        let mut bytes = noise(4 << 20, 7);
        fs::write(&path, &bytes).unwrap();
        let mut last = scan(&dir.0, None, true);
        let mut random = 99_u64;
        let mut below = |most: usize| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (random >> 33) as usize % most
        };
        for n in 0..24_usize {
            let (at, len) = (below(bytes.len()), 1 + below(100_000));
            let piece = noise(len, n as u64);
            match n % 6 {
                0 | 1 => {
                    let end = (at + len).min(bytes.len());
                    bytes[at..end].copy_from_slice(&piece[..end - at]);
                }
                2 => drop(bytes.splice(at..at, piece)),
                3 => bytes.truncate(bytes.len() - len),
                4 => bytes.extend(piece),
                _ => drop(bytes.drain(at..(at + len).min(bytes.len()))),
            }
            fs::write(&path, &bytes).unwrap();
            let next = scan(&dir.0, Some(&kept(&last)), true);
            let difference = next.difference().unwrap();
            assert!(
                difference.wanted.bytes < 1 << 20,
                "{n}: {}",
                difference.wanted.bytes
            );
            assert!(
                difference.lines.len() < 3000,
                "{n}: {}",
                difference.lines.len()
            );
            assert_eq!(made(&last, &next), next.tree());
            // Each chunk is what it says, and all of them are the file.
            let mut entries = stamped::entries(&next.body).unwrap();
            let file = std::iter::from_fn(|| entries.next().unwrap())
                .nth(1)
                .unwrap();
            let ListedKind::File(listed) = &file.entry.kind else {
                panic!("not a file");
            };
            assert_eq!(
                (listed.size, file.quick.len()),
                (bytes.len() as u64, listed.chunks.len())
            );
            let mut rest = &bytes[..];
            for chunk in &listed.chunks {
                let (piece, more) = rest.split_at(chunk.len as usize);
                assert_eq!(ContentHash::of(piece), chunk.hash);
                rest = more;
            }
            assert!(rest.is_empty());
            last = next;
        }
        // Who has changed everything begins anew.
        fs::write(&path, noise(2 << 20, 8)).unwrap();
        let anew = scan(&dir.0, Some(&kept(&last)), true);
        assert!(anew.difference().unwrap().wanted.bytes == 2 << 20);
        // A file of many small changes has as few boundaries as a new one, by and by.
        for n in 0..30 {
            bytes = fs::read(&path).unwrap();
            for at in (n * 700..bytes.len()).step_by(40_000) {
                bytes[at] ^= 1;
            }
            fs::write(&path, &bytes).unwrap();
            last = scan(&dir.0, Some(&kept(&last)), true);
        }
        let mut entries = stamped::entries(&last.body).unwrap();
        let file = std::iter::from_fn(|| entries.next().unwrap())
            .nth(1)
            .unwrap();
        assert!(
            (file.quick.len() as u64) <= (2 << 20) / (20 << 10),
            "{}",
            file.quick.len()
        );
    }

    #[test]
    fn what_was_sent_on_purpose_is_judged_again_and_what_is_harmless_is_known() {
        let dir = Temporary::new();
        let key = "-----BEGIN PRIVATE KEY-----\n";
        fs::write(dir.0.join("key"), key).unwrap();
        fs::write(dir.0.join("plain"), "a".repeat(key.len())).unwrap();
        std::thread::sleep(STEPS);
        let again = |options: &PackOptions, last: Option<&ScannedTree>| {
            let kept = last.map(kept);
            let plan = Arc::new(plan_again(&dir.0, options, kept.as_ref()).unwrap());
            let stop = AtomicBool::new(false);
            let read = ScannedTree::read(Arc::clone(&plan), kept.as_ref(), true, &stop);
            (plan.secrets().to_vec(), read.unwrap())
        };
        let harmless = |scanned: &ScannedTree| {
            let mut entries = stamped::entries(&scanned.body).unwrap();
            let mut names = Vec::new();
            while let Some(one) = entries.next().unwrap() {
                names.extend(one.harmless.then_some(one.entry.path));
            }
            names
        };
        let all = PackOptions {
            include_secrets: true,
            ..PackOptions::default()
        };
        let (secrets, sent) = again(&all, None);
        assert!(secrets.is_empty() && harmless(&sent).is_empty());
        let (secrets, mut sent) = again(&PackOptions::default(), Some(&sent));
        assert_eq!(secrets, ["key"]);
        for _ in 0..2 {
            assert_eq!(harmless(&sent), [b"plain"]);
            sent = again(&PackOptions::default(), Some(&sent)).1;
        }
        // Another content of the same size.
        fs::write(dir.0.join("plain"), key).unwrap();
        fs::write(dir.0.join("other"), "b").unwrap();
        let (secrets, _) = again(&PackOptions::default(), Some(&sent));
        assert_eq!(secrets, ["key", "plain"]);
    }

    #[test]
    fn a_file_that_changes_before_it_is_sent_is_an_error() {
        let dir = Temporary::new();
        let head = |scanned: &ScannedTree| DeltaHead {
            base: None,
            tree: scanned.tree().to_string(),
            list: 0,
            difference: false,
        };
        for (name, old, new) in [
            ("small", noise(100, 1), noise(100, 2)),
            ("short", noise(100, 1), noise(50, 1)),
            ("large", noise(2 << 20, 1), noise(2 << 20, 2)),
        ] {
            let path = dir.0.join(name);
            fs::write(&path, old).unwrap();
            let scanned = scan(&dir.0, None, true);
            let send = || {
                scanned.write_delta(
                    &head(&scanned),
                    &Ranges::all(),
                    (std::io::sink(), 1),
                    &mut |_| (),
                )
            };
            send().unwrap();
            fs::write(&path, new).unwrap();
            let failed = send().unwrap_err().to_string();
            assert!(
                failed.contains(name) && failed.contains("changed while it was packed"),
                "{failed}"
            );
            fs::remove_file(&path).unwrap();
            assert!(send().is_err());
        }
    }
}
