//! The list of a tree: every entry below its root, as text, in the order of [`order`]. Its SHA-256 is the
//! tree's identity: who has the list can make the tree, and prove that it is the one.
//!
//! The first line names the format. Then come, a line each, with hashes in base64 and sizes in bytes:
//!
//! | line | entry |
//! | --- | --- |
//! | `d 755 PATH` | a directory; the root is the first one, `.` |
//! | `l TARGET NUL PATH` | a symbolic link |
//! | `f 644 SIZE HASH PATH` | a file below 1 MiB |
//! | `F 644 SIZE HASH PATH`, then `LEN HASH LEN HASH ...` | a larger file, and its chunks, which the first hash is of |
//!
//! Modes are as they are unpacked: the owner may always read and write. Names hold anything but NUL and newline.

use std::io::{self, BufRead, Write};

use sha2::{Digest, Sha256};

use crate::api::error::{Code, Refusal};
use crate::formats::archive::path::{Name, bad_text, is_plain};
use crate::formats::delta::chunk::CUT_FROM;
use crate::formats::delta::chunk_line::{ChunkRef, chunk_groups, number, put_group, read_chunks};
use crate::formats::delta::hash::ContentHash;
use crate::formats::delta::order::{self, Way};

/// Another way to list, to hash or to cut has another first line, so that its trees are others.
const FIRST_LINE: &[u8] = b"gangplank-tree 1 sha256 fastcdc-16-64-256-64M\n";

/// The longest line but for that of chunks: a path, a target, and some 70 bytes of numbers and a hash.
pub(super) const LINE_MAX: u64 = 2 * 1024 + 128;

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedFile {
    pub mode: u32,
    pub size: u64,
    /// Of the content; of the list of its chunks if there is one.
    pub hash: ContentHash,
    /// Those of a large file; none of a smaller one.
    pub chunks: Vec<ChunkRef>,
}

impl ListedFile {
    /// A large file.
    pub fn of_chunks(mode: u32, size: u64, chunks: Vec<ChunkRef>) -> ListedFile {
        let (mut hash, mut line) = (Sha256::new(), Vec::new());
        for group in chunk_groups(&chunks) {
            put_group(group, &mut line);
            hash.update(&line);
            line.clear();
        }
        ListedFile {
            mode,
            size,
            hash: hash.finalize().into(),
            chunks,
        }
    }

    /// Whether it has the same content.
    pub fn same_content(&self, other: &ListedFile) -> bool {
        self.size == other.size && self.hash == other.hash
    }

    /// What is sent of it: nothing of an empty file, the whole of a small one, the chunks of a large one.
    pub fn objects(&self) -> impl Iterator<Item = ChunkRef> + '_ {
        let whole = (self.chunks.is_empty() && self.size > 0).then_some(ChunkRef {
            // Below `CUT_FROM`.
            len: self.size as u32,
            hash: self.hash,
        });
        self.chunks.iter().copied().chain(whole)
    }
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListedKind {
    Directory { mode: u32 },
    Symlink { target: Vec<u8> },
    File(ListedFile),
}

/// An entry; the root has an empty path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedEntry {
    pub path: Vec<u8>,
    pub kind: ListedKind,
}

impl ListedEntry {
    /// The mode that a file is listed and unpacked with.
    pub const fn file_mode(mode: u32) -> u32 {
        mode & 0o777 | 0o600
    }

    /// The mode that a directory is listed and unpacked with.
    pub const fn directory_mode(mode: u32) -> u32 {
        mode & 0o777 | 0o700
    }
}

/// The line of an entry, without the one that has the chunks of a large file.
pub(super) fn entry_line(entry: &ListedEntry, line: &mut Vec<u8>) {
    match &entry.kind {
        ListedKind::Directory { mode } => line.extend_from_slice(format!("d {mode:o} ").as_bytes()),
        ListedKind::Symlink { target } => {
            line.extend_from_slice(b"l ");
            line.extend_from_slice(target);
            line.push(0);
        }
        ListedKind::File(file) => {
            let kind = if file.chunks.is_empty() { 'f' } else { 'F' };
            let start = format!("{kind} {:o} {} ", file.mode, file.size);
            line.extend_from_slice(start.as_bytes());
            file.hash.write_to(line);
            line.push(b' ');
        }
    }
    match entry.path.is_empty() {
        true => line.push(b'.'),
        false => line.extend_from_slice(&entry.path),
    }
    line.push(b'\n');
}

/// Writes a list.
pub struct ListingWriter<W: Write> {
    out: W,
    hash: Sha256,
    line: Vec<u8>,
}

impl<W: Write> ListingWriter<W> {
    /// # Errors
    /// `out`'s own.
    pub fn new(out: W) -> io::Result<ListingWriter<W>> {
        let mut writer = ListingWriter {
            out,
            hash: Sha256::new(),
            line: FIRST_LINE.to_vec(),
        };
        writer.put()?;
        Ok(writer)
    }

    fn put(&mut self) -> io::Result<()> {
        self.hash.update(&self.line);
        self.out.write_all(&self.line)?;
        self.line.clear();
        Ok(())
    }

    /// Writes the next entry.
    ///
    /// # Errors
    /// `out`'s own.
    pub fn entry(&mut self, entry: &ListedEntry) -> io::Result<()> {
        let line = &mut self.line;
        entry_line(entry, line);
        match &entry.kind {
            ListedKind::File(file) if !file.chunks.is_empty() => {
                for group in chunk_groups(&file.chunks) {
                    put_group(group, &mut self.line);
                    self.put()?;
                }
                self.line.push(b'\n');
            }
            _ => {}
        }
        self.put()
    }

    /// Takes what is not of the list.
    pub fn aside(&mut self) -> &mut W {
        &mut self.out
    }

    /// The tree, and what was written to.
    pub fn end(self) -> (ContentHash, W) {
        (self.hash.finalize().into(), self.out)
    }
}

/// What a list may say.
#[derive(Debug, Clone, Copy)]
pub struct ListingLimits {
    /// So many entries.
    pub max_entries: u64,
    /// So many bytes in all files together.
    pub max_bytes: u64,
}

impl ListingLimits {
    /// For a list that was judged before.
    pub const NONE: ListingLimits = ListingLimits {
        max_entries: u64::MAX,
        max_bytes: u64::MAX,
    };
}

/// Reads a list, entry by entry, and judges it: what it gives can be made, and nothing of it lies outside of the tree.
pub struct ListingReader<R> {
    lines: R,
    limits: ListingLimits,
    /// None if nobody asks for the tree.
    hash: Option<Sha256>,
    line: Vec<u8>,
    last: Vec<u8>,
    way: Way,
    entries: u64,
    /// The bytes of the files so far.
    pub bytes: u64,
    /// Nothing comes any longer.
    ended: bool,
}

impl<R: BufRead> ListingReader<R> {
    pub fn new(lines: R, limits: ListingLimits) -> ListingReader<R> {
        ListingReader {
            lines,
            limits,
            hash: Some(Sha256::new()),
            line: Vec::new(),
            last: Vec::new(),
            way: Way::default(),
            entries: 0,
            bytes: 0,
            ended: false,
        }
    }

    /// Its tree is known: it is judged, and not hashed.
    pub fn of_known(mut self) -> ListingReader<R> {
        self.hash = None;
        self
    }

    /// The tree, once all was read.
    pub fn tree(&self) -> Option<ContentHash> {
        let hash = self.hash.as_ref().filter(|_| self.ended)?;
        Some(hash.clone().finalize().into())
    }

    /// A line without its end; false at the end of the list.
    fn line(&mut self, most: u64) -> Result<bool, Refusal> {
        self.line.clear();
        let mut lines = io::Read::take(&mut self.lines, most);
        let read = lines.read_until(b'\n', &mut self.line);
        read.map_err(|error| self.bad(format!("it cannot be read: {error}")))?;
        if let Some(hash) = &mut self.hash {
            hash.update(&self.line);
        }
        match self.line.pop() {
            None => Ok(false),
            Some(b'\n') => Ok(true),
            Some(_) => Err(self.bad("a line is too long, or has no end")),
        }
    }

    fn bad(&self, why: impl AsRef<str>) -> Refusal {
        let after = String::from_utf8_lossy(&self.last);
        let after = after.escape_debug();
        let why = format!(
            "the list of the tree is damaged behind '{after}': {}",
            why.as_ref()
        );
        Refusal::new(Code::BadArchive, why)
    }

    /// The next entry.
    ///
    /// # Errors
    /// What is wrong with the list.
    pub fn next(&mut self) -> Result<Option<ListedEntry>, Refusal> {
        let begins = self.entries == 0 && !self.ended;
        if begins && !self.first_line()? {
            return Err(self.bad("its first line names another format"));
        }
        if self.ended || !self.line(LINE_MAX)? {
            self.ended = true;
            return match self.entries {
                0 => Err(self.bad("it has no root")),
                _ => Ok(None),
            };
        }
        let entry = self.parse()?;
        self.judge(&entry)?;
        self.last.clone_from(&entry.path);
        Ok(Some(entry))
    }

    fn first_line(&mut self) -> Result<bool, Refusal> {
        let begun = self.line(FIRST_LINE.len() as u64)?;
        Ok(begun && self.line == FIRST_LINE[..FIRST_LINE.len() - 1])
    }

    fn parse(&mut self) -> Result<ListedEntry, Refusal> {
        let line = std::mem::take(&mut self.line);
        let parsed = parse_line(&line);
        let (kind, path) = parsed.ok_or_else(|| self.bad("a line cannot be read"))?;
        let kind = match kind {
            ParsedKind::Directory(mode) => ListedKind::Directory { mode },
            ParsedKind::Symlink(target) => ListedKind::Symlink {
                target: target.to_vec(),
            },
            ParsedKind::File(file, large) => self.file(file, large)?,
        };
        let path = path.to_vec();
        self.line = line;
        Ok(ListedEntry { path, kind })
    }

    fn file(&mut self, mut file: ListedFile, large: bool) -> Result<ListedKind, Refusal> {
        self.bytes = self.bytes.saturating_add(file.size);
        if self.bytes > self.limits.max_bytes {
            let why = format!(
                "the files of the tree have {} bytes or more, and there is no room for them",
                self.bytes
            );
            return Err(Refusal::new(Code::NoSpace, why));
        }
        if large != (file.size >= CUT_FROM) {
            return Err(self.bad("a file of this size is listed otherwise"));
        }
        if large {
            file.chunks = self.chunks(&file)?;
        }
        Ok(ListedKind::File(file))
    }

    fn chunks(&mut self, file: &ListedFile) -> Result<Vec<ChunkRef>, Refusal> {
        let (mut sum, tree) = (Sha256::new(), &mut self.hash);
        let chunks = read_chunks(&mut self.lines, file.size, &mut |bytes| {
            sum.update(bytes);
            if let Some(tree) = tree {
                tree.update(bytes);
            }
        });
        if let Some(tree) = &mut self.hash {
            tree.update(b"\n");
        }
        let chunks = chunks.map_err(|error| self.bad(format!("it cannot be read: {error}")))?;
        chunks
            .filter(|_| ContentHash::from(sum.finalize()) == file.hash)
            .ok_or_else(|| self.bad("the chunks of a file are not what they should be"))
    }

    fn judge(&mut self, entry: &ListedEntry) -> Result<(), Refusal> {
        let path = &entry.path;
        let is_directory = matches!(entry.kind, ListedKind::Directory { .. });
        self.entries += 1;
        if self.entries == 1 {
            return match path.is_empty() && is_directory {
                true => Ok(()),
                false => Err(self.bad("it does not begin with the root")),
            };
        }
        if self.entries > self.limits.max_entries.saturating_add(1) {
            let most = self.limits.max_entries;
            return Err(self.bad(format!("it has more than {most} entries")));
        }
        let Ok(plain) = is_plain(path) else {
            // Why is told there.
            return Name::parse(path).map(drop);
        };
        if !plain || !order::compare(&self.last, path).is_lt() {
            return Err(self.bad("its paths are not in order"));
        }
        if !self.way.leads_to(path) {
            let name = Name::parse(path)?;
            return Err(self.bad(format!("'{}' has no directory", name.shown)));
        }
        match &entry.kind {
            ListedKind::Directory { .. } => self.way.enter(path),
            ListedKind::Symlink { target } => {
                if let Some(why) = bad_text(target) {
                    return Err(Name::parse(path)?.refuse(format!("its target: {why}")));
                }
            }
            ListedKind::File(_) => {}
        }
        Ok(())
    }
}

/// Reads the next entry of a list that nobody else has written, and does not judge it.
///
/// # Errors
/// The reader's own, or `InvalidData`.
pub fn read_entry(lines: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<Option<ListedEntry>> {
    let damaged = || io::Error::from(io::ErrorKind::InvalidData);
    line.clear();
    lines.read_until(b'\n', line)?;
    if line.pop().is_none() {
        return Ok(None);
    }
    let (kind, path) = parse_line(line).ok_or_else(damaged)?;
    let path = match path {
        b"." => Vec::new(),
        path => path.to_vec(),
    };
    let kind = match kind {
        ParsedKind::Directory(mode) => ListedKind::Directory { mode },
        ParsedKind::Symlink(target) => ListedKind::Symlink {
            target: target.to_vec(),
        },
        ParsedKind::File(mut file, large) => {
            if large {
                let chunks = read_chunks(lines, file.size, &mut |_| {})?;
                file.chunks = chunks.ok_or_else(damaged)?;
            }
            ListedKind::File(file)
        }
    };
    Ok(Some(ListedEntry { path, kind }))
}

pub(super) enum ParsedKind<'a> {
    Directory(u32),
    Symlink(&'a [u8]),
    File(ListedFile, bool),
}

pub(super) fn parse_line(line: &[u8]) -> Option<(ParsedKind<'_>, &[u8])> {
    let (kind, rest) = line.split_at_checked(2)?;
    if kind == b"l " {
        let nul = rest.iter().position(|byte| *byte == 0)?;
        return Some((ParsedKind::Symlink(&rest[..nul]), &rest[nul + 1..]));
    }
    let (mode, rest) = word(rest)?;
    // As it is written, so that each tree has one list.
    let mode = number(mode, 8).and_then(|mode| u32::try_from(mode).ok())?;
    if kind == b"d " && ListedEntry::directory_mode(mode) == mode {
        let path = if rest == b"." { b"" } else { rest };
        return Some((ParsedKind::Directory(mode), path));
    }
    let large = match kind {
        b"f " => false,
        b"F " => true,
        _ => return None,
    };
    let ((size, rest), mode) = (
        word(rest)?,
        Some(mode).filter(|mode| ListedEntry::file_mode(*mode) == *mode)?,
    );
    let (hash, path) = word(rest)?;
    let file = ListedFile {
        mode,
        size: number(size, 10)?,
        hash: ContentHash::from_text(hash)?,
        chunks: Vec::new(),
    };
    Some((ParsedKind::File(file, large), path))
}

fn word(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let blank = text.iter().position(|byte| *byte == b' ')?;
    Some((&text[..blank], &text[blank + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ListingLimits = ListingLimits {
        max_entries: 100,
        max_bytes: 1 << 40,
    };

    fn entry(path: &str, kind: ListedKind) -> ListedEntry {
        let path = path.into();
        ListedEntry { path, kind }
    }

    fn file(size: u64) -> ListedKind {
        let hash = ContentHash::of(b"x");
        ListedKind::File(ListedFile {
            mode: 0o644,
            size,
            hash,
            chunks: Vec::new(),
        })
    }

    fn large(sizes: &[u32]) -> ListedKind {
        let chunks: Vec<ChunkRef> = sizes
            .iter()
            .map(|len| ChunkRef {
                len: *len,
                hash: ContentHash::of(b"y"),
            })
            .collect();
        let size = sizes.iter().map(|len| u64::from(*len)).sum();
        ListedKind::File(ListedFile::of_chunks(0o755, size, chunks))
    }

    fn directory() -> ListedKind {
        ListedKind::Directory { mode: 0o755 }
    }

    fn link(target: &str) -> ListedKind {
        let target = target.into();
        ListedKind::Symlink { target }
    }

    fn written(entries: &[ListedEntry]) -> (ContentHash, Vec<u8>) {
        let mut writer = ListingWriter::new(Vec::new()).unwrap();
        entries
            .iter()
            .for_each(|entry| writer.entry(entry).unwrap());
        writer.end()
    }

    type Read = Result<(ContentHash, Vec<ListedEntry>), Refusal>;

    fn read(text: impl BufRead, limits: ListingLimits) -> Read {
        let mut reader = ListingReader::new(text, limits);
        let mut entries = Vec::new();
        while let Some(entry) = reader.next()? {
            assert_eq!(reader.tree(), None);
            entries.push(entry);
        }
        Ok((reader.tree().unwrap(), entries))
    }

    #[test]
    fn a_list_is_read_as_it_was_written() {
        let entries = [
            entry("", directory()),
            entry("a", directory()),
            entry("a/b c", file(0)),
            entry("a/d", large(&[1 << 18; 5])),
            entry("a-b", link("a/b c")),
            entry(&"n".repeat(255), file((1 << 20) - 1)),
        ];
        let (tree, text) = written(&entries);
        for piece in [1, 7, 4096] {
            let pieces = io::BufReader::with_capacity(piece, &text[..]);
            assert_eq!(read(pieces, LIMITS).unwrap(), (tree, entries.to_vec()));
        }
        assert_eq!(ContentHash::of(&text), tree);
    }

    #[test]
    fn what_could_not_be_made_is_refused() {
        let root = || entry("", directory());
        let lie = |entries: &[ListedEntry], from: &str, to: &str| {
            let text = String::from_utf8(written(entries).1).unwrap();
            assert!(text.contains(from), "{text}");
            text.replacen(from, to, 1).into_bytes()
        };
        let plain = |entries: &[ListedEntry]| written(entries).1;
        let big = || vec![root(), entry("b", large(&[1 << 18; 5]))];
        let table: Vec<(Vec<u8>, &str)> = vec![
            (Vec::new(), "first line"),
            (lie(&[root()], "tree 1", "tree 2"), "first line"),
            (plain(&[]), "no root"),
            (plain(&[entry("a", directory())]), "begin with the root"),
            (plain(&[root(), root()]), "no name"),
            (
                plain(&[root(), entry("b", file(1)), entry("a", file(1))]),
                "in order",
            ),
            (
                plain(&[root(), entry("a", file(1)), entry("a", link("x"))]),
                "in order",
            ),
            (
                plain(&[root(), entry("a", file(1)), entry("a/b", file(1))]),
                "no directory",
            ),
            (
                plain(&[root(), entry("a", link("x")), entry("a/b", file(1))]),
                "no directory",
            ),
            (plain(&[root(), entry("a/b", file(1))]), "no directory"),
            (plain(&[root(), entry("../a", file(1))]), "'..'"),
            (plain(&[root(), entry("/a", file(1))]), "absolute"),
            (plain(&[root(), entry("a//b", file(1))]), "in order"),
            (plain(&[root(), entry("./a", file(1))]), "in order"),
            (plain(&[root(), entry("a", link("/etc"))]), "absolute"),
            (
                plain(&[root(), entry("a", file(1 << 20))]),
                "listed otherwise",
            ),
            (
                plain(&[root(), entry("a", large(&[1 << 18]))]),
                "listed otherwise",
            ),
            (plain(&[root(), entry("a", large(&[1 << 19; 3]))]), "chunks"),
            (lie(&big(), "1310720", "1310721"), "chunks"),
            (lie(&big(), "\n262144 ", "\n262145 "), "chunks"),
            (lie(&big(), "\n262144 ", "\n"), "chunks"),
            (lie(&big(), "\n262144 ", "\n@0 5 262144 "), "chunks"),
            (
                lie(&big(), "\n262144 ", &format!("\n{} ", "1".repeat(99))),
                "chunks",
            ),
            (
                lie(&[root(), entry("a", file(7))], " 7 ", " 07 "),
                "cannot be read",
            ),
            (
                lie(&[root(), entry("a", file(7))], "644", "444"),
                "cannot be read",
            ),
            (
                lie(&[root(), entry("a", file(7))], "644", "4644"),
                "cannot be read",
            ),
            (lie(&[root(), entry("a", file(7))], "a\n", "a"), "no end"),
            (
                lie(&[root(), entry("a", file(7))], "f 644", "x 644"),
                "cannot be read",
            ),
        ];
        for (text, part) in table {
            let refused = read(&text[..], LIMITS).unwrap_err().message;
            assert!(refused.contains(part), "{part} in {refused}");
        }
    }

    #[test]
    fn limits_hold_as_soon_as_they_are_reached() {
        let entries: Vec<_> = (0..9).map(|n| entry(&n.to_string(), file(100))).collect();
        let (_, text) = written(&[vec![entry("", directory())], entries].concat());
        let with = |max_entries, max_bytes| {
            let limits = ListingLimits {
                max_entries,
                max_bytes,
            };
            read(&text[..], limits)
                .map(drop)
                .map_err(|refusal| refusal.code)
        };
        assert_eq!(with(9, 900), Ok(()));
        assert_eq!(with(8, 900), Err(Code::BadArchive));
        assert_eq!(with(9, 899), Err(Code::NoSpace));
        let endless = [FIRST_LINE, &vec![b'd'; 1 << 20]].concat();
        assert!(
            read(&endless[..], LIMITS)
                .unwrap_err()
                .message
                .contains("too long")
        );
    }
}
