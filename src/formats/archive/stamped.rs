//! The list of a directory as it was read last, with what tells whether its files are still the same: what a client keeps
//! of what it has deployed, so that it reads only what was changed, and sends only that.
//!
//! It is the list as [`listing`](crate::formats::delta::listing) has it, and behind each file a line more: `=` and the
//! file's [`FileStamp`] if it was looked into and holds no secret, `~` and the stamp if it was not, or `?` where a stamp
//! would prove nothing. Behind the chunks of a large file there are their quick hashes,
//! 16 bytes each. In front of all that stands one line: the format, the seed of the quick hashes, the tree, and the quick
//! hash of everything that follows. It is never sent to anybody.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};

use xxhash_rust::xxh3::{Xxh3, xxh3_128_with_seed};

use crate::formats::archive::planned::FileStamp;
use crate::formats::archive::spool::{Spool, SpoolReader};
use crate::formats::delta::hash::ContentHash;
use crate::formats::delta::listing::{ListedEntry, ListedKind, ListingWriter, read_entry};
use crate::system::memory::Pages;

/// What a file of another release begins otherwise with, and is passed over.
const FORMAT: &str = "gangplank-read 2";
const FIRST_LINE_MAX: u64 = 200;
const READ_AT_ONCE: usize = 64 << 10;
/// How many bytes a quick hash has.
const QUICK: usize = 16;

/// Tells quickly whether a piece of a file is what it was. It decides whether to look more closely, and proves nothing: the
/// seed is drawn anew for each file that is kept, and whoever can choose what is in the piece can do so anyway.
pub(super) fn quick_hash(seed: u64, piece: &[u8]) -> u128 {
    xxh3_128_with_seed(piece, seed)
}

/// An entry, and what tells whether it is the same.
pub(super) struct StampedEntry {
    pub(super) entry: ListedEntry,
    /// A file's, unless it would prove nothing.
    pub(super) stamp: Option<FileStamp>,
    /// Those of a large file's chunks.
    pub(super) quick: Vec<u128>,
    /// It was looked into, and holds no secret.
    pub(super) harmless: bool,
}

impl StampedEntry {
    /// Writes what a list does not have of it.
    fn write_more(&self, out: &mut impl Write) -> io::Result<()> {
        if !matches!(self.entry.kind, ListedKind::File(_)) {
            return Ok(());
        }
        match &self.stamp {
            None => out.write_all(b"?\n")?,
            Some(stamp) => writeln!(
                out,
                "{}{:x} {:x} {:x} {:x}",
                if self.harmless { '=' } else { '~' },
                stamp.changed,
                stamp.inode_changed,
                stamp.inode,
                stamp.device
            )?,
        }
        for quick in &self.quick {
            out.write_all(&quick.to_be_bytes())?;
        }
        Ok(())
    }
}

/// The list of a directory on its way into a [`Spool`].
pub(super) struct StampedWriter(ListingWriter<Spool>);

impl StampedWriter {
    pub(super) fn new() -> io::Result<StampedWriter> {
        ListingWriter::new(Spool::default()).map(StampedWriter)
    }

    pub(super) fn entry(&mut self, entry: &StampedEntry) -> io::Result<()> {
        self.0.entry(&entry.entry)?;
        entry.write_more(self.0.aside())
    }

    pub(super) fn end(self) -> (ContentHash, Spool) {
        self.0.end()
    }
}

/// Reads what was written.
pub(super) struct StampedReader<R> {
    from: R,
    line: Vec<u8>,
}

impl<R: BufRead> StampedReader<R> {
    /// # Errors
    /// When it does not begin as a list.
    pub(super) fn new(mut from: R) -> io::Result<StampedReader<R>> {
        let mut line = Vec::new();
        from.read_until(b'\n', &mut line)?;
        Ok(StampedReader { from, line })
    }

    /// # Errors
    /// When it is not what was written.
    pub(super) fn next(&mut self) -> io::Result<Option<StampedEntry>> {
        let damaged = || io::Error::from(io::ErrorKind::InvalidData);
        let Some(entry) = read_entry(&mut self.from, &mut self.line)? else {
            return Ok(None);
        };
        let (mut stamp, mut quick, mut harmless) = (None, Vec::new(), false);
        if let ListedKind::File(file) = &entry.kind {
            self.line.clear();
            self.from.read_until(b'\n', &mut self.line)?;
            stamp = read_stamp(&self.line).ok_or_else(damaged)?;
            harmless = self.line.starts_with(b"=");
            quick.reserve_exact(file.chunks.len());
            for _ in &file.chunks {
                let mut bytes = [0; QUICK];
                self.from.read_exact(&mut bytes)?;
                quick.push(u128::from_be_bytes(bytes));
            }
        }
        Ok(Some(StampedEntry {
            entry,
            stamp,
            quick,
            harmless,
        }))
    }
}

/// The stamp of a line, which may have none; none of what is not such a line.
fn read_stamp(line: &[u8]) -> Option<Option<FileStamp>> {
    let line = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
    if line == "?" {
        return Some(None);
    }
    let mut words = line.strip_prefix(['=', '~'])?.split(' ');
    // As they are written, negative ones have their two's complement.
    let mut number = || u64::from_str_radix(words.next()?, 16).ok();
    Some(Some(FileStamp {
        changed: number()? as i64,
        inode_changed: number()? as i64,
        inode: number()?,
        device: number()?,
    }))
}

/// Reads the body of what is kept.
type KeptReader<'a> = StampedReader<BufReader<&'a File>>;
type SpooledReader<'a> = StampedReader<BufReader<SpoolReader<&'a Spool>>>;

/// What a client has kept of what it deployed last.
pub struct DeployedTree {
    file: File,
    /// Where the list begins.
    start: u64,
    /// The tree that was deployed.
    pub tree: ContentHash,
    pub(super) seed: u64,
}

impl DeployedTree {
    /// None if it is damaged, or another release's.
    pub fn read(mut file: File) -> Option<DeployedTree> {
        let mut from = BufReader::with_capacity(READ_AT_ONCE, &file);
        let mut line = Vec::new();
        from.by_ref()
            .take(FIRST_LINE_MAX)
            .read_until(b'\n', &mut line)
            .ok()?;
        let start = line.len() as u64;
        let line = String::from_utf8(line).ok()?;
        let mut words = line
            .strip_suffix('\n')?
            .strip_prefix(FORMAT)?
            .split(' ')
            .skip(1);
        let seed = u64::from_str_radix(words.next()?, 16).ok()?;
        let tree = words.next()?.parse().ok()?;
        let check = u128::from_str_radix(words.next()?, 16).ok()?;
        let (mut hash, mut room) = (Xxh3::with_seed(seed), Pages::new(READ_AT_ONCE));
        loop {
            match from.read(&mut room).ok()? {
                0 => break,
                read => hash.update(&room[..read]),
            }
        }
        if hash.digest128() != check {
            return None;
        }
        file.rewind().ok()?;
        Some(DeployedTree {
            file,
            start,
            tree,
            seed,
        })
    }

    pub(super) fn entries(&self) -> io::Result<KeptReader<'_>> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(self.start))?;
        StampedReader::new(BufReader::with_capacity(READ_AT_ONCE, file))
    }
}

/// Writes what is kept of a tree.
pub(super) fn keep(
    body: &Spool,
    seed: u64,
    tree: ContentHash,
    out: &mut impl Write,
) -> io::Result<()> {
    let (mut hash, mut room) = (Xxh3::with_seed(seed), Pages::new(READ_AT_ONCE));
    let mut from = body.reader();
    loop {
        match from.read(&mut room)? {
            0 => break,
            read => hash.update(&room[..read]),
        }
    }
    writeln!(out, "{FORMAT} {seed:x} {tree} {:x}", hash.digest128())?;
    io::copy(&mut body.reader(), out)?;
    Ok(())
}

/// Reads a spool that was written by a [`StampedWriter`].
pub(super) fn entries(body: &Spool) -> io::Result<SpooledReader<'_>> {
    StampedReader::new(body.reader())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::delta::chunk_line::ChunkRef;
    use crate::formats::delta::listing::ListedFile;

    fn sample() -> (ContentHash, Spool) {
        let mut writer = StampedWriter::new().unwrap();
        let hash = ContentHash::of(b"x");
        let chunk = ChunkRef { len: 1 << 18, hash };
        let stamp = FileStamp {
            changed: -5,
            inode_changed: 7,
            inode: u64::MAX,
            device: 0,
        };
        let small = ListedFile {
            mode: 0o644,
            size: 1,
            hash,
            chunks: Vec::new(),
        };
        let large = ListedFile::of_chunks(0o600, 5 << 18, vec![chunk; 5]);
        // The quick hashes are bytes as any, line ends among them.
        let quick = vec![u128::from_be_bytes(*b"\n\n\n\n\n\n\n\n=?\n\n\n\n\n\n"); 5];
        for (path, kind, stamp, quick) in [
            ("", ListedKind::Directory { mode: 0o755 }, None, Vec::new()),
            (
                "a",
                ListedKind::File(small.clone()),
                Some(stamp),
                Vec::new(),
            ),
            ("b", ListedKind::File(large), Some(stamp), quick),
            (
                "c",
                ListedKind::Symlink {
                    target: b"a".to_vec(),
                },
                None,
                Vec::new(),
            ),
            ("d", ListedKind::File(small), None, Vec::new()),
        ] {
            let harmless = path == "a";
            let path = path.into();
            let entry = ListedEntry { path, kind };
            let entry = StampedEntry {
                entry,
                stamp,
                quick,
                harmless,
            };
            writer.entry(&entry).unwrap();
        }
        writer.end()
    }

    type Entry = (ListedEntry, Option<FileStamp>, Vec<u128>, bool);

    fn all<R: BufRead>(mut reader: StampedReader<R>) -> Vec<Entry> {
        let next = || reader.next().unwrap();
        std::iter::from_fn(next)
            .map(|one| (one.entry, one.stamp, one.quick, one.harmless))
            .collect()
    }

    fn kept(bytes: &[u8]) -> Option<DeployedTree> {
        let mut file = crate::system::files::nameless(&std::env::temp_dir()).unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        DeployedTree::read(file)
    }

    #[test]
    fn what_is_kept_is_read_again_and_what_is_damaged_is_nothing() {
        let (tree, body) = sample();
        let mut bytes = Vec::new();
        keep(&body, 0xabc, tree, &mut bytes).unwrap();
        let found = kept(&bytes).unwrap();
        assert_eq!((found.tree, found.seed), (tree, 0xabc));
        let wanted = all(entries(&body).unwrap());
        assert_eq!(wanted.len(), 5);
        assert!(wanted[1].1.is_some() && wanted[4].1.is_none());
        assert!(wanted[1].3 && !wanted[2].3);
        for _ in 0..2 {
            assert!(all(found.entries().unwrap()) == wanted);
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            // Another tree's name is found out by the server, and another letter of the seed by the hash.
            let named = damaged.starts_with(FORMAT.as_bytes()) && at < FORMAT.len() + 70;
            assert!(named || kept(&damaged).is_none(), "{at}");
            assert!(kept(&bytes[..at]).is_none());
        }
        assert!(kept(b"").is_none() && kept(&[b'x'; 300]).is_none());
    }
}
