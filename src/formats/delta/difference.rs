//! What of a list is another than in an older one, so that who has the older one need not be sent all of it.
//!
//! The lines are those of [`listing`](super::listing), in its order:
//!
//! | line | what |
//! | --- | --- |
//! | `- PATH` | it is gone, and with a directory everything below it |
//! | `+ ENTRY` | it is new, or another one; what was below a directory that is none any longer is gone |
//!
//! In the line of a large file's chunks `@FIRST COUNT` stands for chunks that the older list has at this path.
//!
//! A difference proves nothing: what comes of it is a list, which is judged as any other, and whose hash tells whether it
//! is the one that was meant.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::io::{self, BufRead, Write};

use crate::api::error::{Code, Refusal};
use crate::formats::delta::chunk::chunk_line_max;
use crate::formats::delta::chunk_line::{ChunkRef, parse_chunks, put_chunk};
use crate::formats::delta::hash::ContentHash;
use crate::formats::delta::listing::{
    LINE_MAX, ListedEntry, ListedFile, ListedKind, ListingLimits, ListingReader, ListingWriter,
    ParsedKind, entry_line, parse_line,
};
use crate::formats::delta::order;

/// So many chunks in a row are worth a reference.
const RUN_MIN: usize = 2;

/// Writes a difference.
pub struct DifferenceWriter<W: Write> {
    out: W,
    line: Vec<u8>,
    dropped: Dropped,
}

/// The directory whose content goes with it.
#[derive(Default)]
struct Dropped(Option<Vec<u8>>);

impl Dropped {
    fn drop(&mut self, entry: &ListedEntry) {
        if matches!(entry.kind, ListedKind::Directory { .. }) {
            self.0 = Some(entry.path.clone());
        }
    }

    fn holds(&self, path: &[u8]) -> bool {
        self.0.as_ref().is_some_and(|dir| {
            let below = path.strip_prefix(&dir[..]);
            below.is_some_and(|rest| rest.starts_with(b"/"))
        })
    }
}

fn is_directory(entry: &ListedEntry) -> bool {
    matches!(entry.kind, ListedKind::Directory { .. })
}

impl<W: Write> DifferenceWriter<W> {
    pub fn new(out: W) -> DifferenceWriter<W> {
        DifferenceWriter {
            out,
            line: Vec::new(),
            dropped: Dropped::default(),
        }
    }

    /// The next entry of the older list is not in the new one.
    ///
    /// # Errors
    /// `out`'s own.
    pub fn gone(&mut self, old: &ListedEntry) -> io::Result<()> {
        if self.dropped.holds(&old.path) {
            return Ok(());
        }
        self.dropped.drop(old);
        self.line.extend_from_slice(b"- ");
        self.line.extend_from_slice(&old.path);
        self.line.push(b'\n');
        self.put()
    }

    /// The next entry of the new list, and what the older one has at its path.
    ///
    /// # Errors
    /// `out`'s own.
    pub fn entry(&mut self, new: &ListedEntry, old: Option<&ListedEntry>) -> io::Result<()> {
        if old == Some(new) {
            return Ok(());
        }
        if let Some(old) = old.filter(|_| !is_directory(new)) {
            self.dropped.drop(old);
        }
        self.line.extend_from_slice(b"+ ");
        entry_line(new, &mut self.line);
        if let ListedKind::File(file) = &new.kind {
            if !file.chunks.is_empty() {
                let old = match old.map(|old| &old.kind) {
                    Some(ListedKind::File(old)) => &old.chunks[..],
                    _ => &[],
                };
                chunk_references(&file.chunks, old, &mut self.line);
                self.line.push(b'\n');
            }
        }
        self.put()
    }

    fn put(&mut self) -> io::Result<()> {
        self.out.write_all(&self.line)?;
        self.line.clear();
        Ok(())
    }

    /// What is written to.
    pub fn out(&self) -> &W {
        &self.out
    }

    /// What was written to.
    pub fn end(self) -> W {
        self.out
    }
}

/// The line of chunks, with those that `old` has in a row by their numbers.
fn chunk_references(chunks: &[ChunkRef], old: &[ChunkRef], line: &mut Vec<u8>) {
    let numbers: HashMap<ContentHash, usize> = old
        .iter()
        .enumerate()
        .map(|(n, chunk)| (chunk.hash, n))
        .collect();
    let (mut rest, mut expected) = (chunks, 0);
    while !rest.is_empty() {
        let run = |first: usize| {
            let pairs = rest.iter().zip(&old[first.min(old.len())..]);
            pairs.take_while(|(one, other)| one == other).count()
        };
        // Chunks that come often, such as those of zeros, are most likely where they were.
        let mut first = expected;
        if run(first) == 0 {
            first = numbers.get(&rest[0].hash).copied().unwrap_or(old.len());
        }
        let same = run(first);
        let taken = if same >= RUN_MIN {
            line.extend_from_slice(format!("@{first} {same}").as_bytes());
            same
        } else {
            put_chunk(&rest[0], line);
            1
        };
        expected = if same > 0 {
            first + taken
        } else {
            expected + 1
        };
        rest = &rest[taken..];
        if !rest.is_empty() {
            line.push(b' ');
        }
    }
}

/// Makes a list of an older one and a difference.
///
/// # Errors
/// What is wrong with the difference, or `out`'s own.
pub fn apply(
    base: &mut ListingReader<impl BufRead>,
    difference: impl BufRead,
    limits: ListingLimits,
    out: impl Write,
) -> Result<ContentHash, Refusal> {
    let unwritten = |error| Refusal::new(Code::Internal, format!("writing a list: {error}"));
    let mut merge = Merge {
        out: ListingWriter::new(out).map_err(unwritten)?,
        old: base.next()?,
        dropped: Dropped::default(),
    };
    let mut lines = DifferenceLines {
        lines: difference,
        line: Vec::new(),
        limits,
        left: limits.max_entries.saturating_add(1),
    };
    while lines.next(LINE_MAX + 2)? {
        match lines.line.strip_prefix(b"- ") {
            Some(path) => {
                let path = path.to_vec();
                match merge.up_to(base, &path)? {
                    Some(gone) => merge.dropped.drop(&gone),
                    None => return Err(bad("what is gone was not there")),
                }
            }
            None => {
                let (mut entry, large) = lines.entry()?;
                let old = merge.up_to(base, &entry.path)?;
                if let (ListedKind::File(file), true) = (&mut entry.kind, large) {
                    file.chunks = lines.chunks(file, old.as_ref())?;
                }
                if let Some(old) = old.filter(|_| !is_directory(&entry)) {
                    merge.dropped.drop(&old);
                }
                merge.out.entry(&entry).map_err(unwritten)?;
            }
        }
    }
    merge.rest(base)?;
    let (tree, mut out) = merge.out.end();
    out.flush().map_err(unwritten)?;
    Ok(tree)
}

fn bad(why: &str) -> Refusal {
    let why = format!("the difference of two lists is damaged: {why}");
    Refusal::new(Code::BadArchive, why)
}

/// The older list on its way into the new one.
struct Merge<W: Write> {
    out: ListingWriter<W>,
    old: Option<ListedEntry>,
    dropped: Dropped,
}

impl<W: Write> Merge<W> {
    /// Takes over what is before a path, and gives what is at it.
    fn up_to(
        &mut self,
        base: &mut ListingReader<impl BufRead>,
        path: &[u8],
    ) -> Result<Option<ListedEntry>, Refusal> {
        while let Some(old) = self.old.take() {
            match order::compare(&old.path, path) {
                Ordering::Less => self.take_over(&old)?,
                Ordering::Equal => {
                    self.old = base.next()?;
                    return Ok(Some(old).filter(|old| !self.dropped.holds(&old.path)));
                }
                Ordering::Greater => {
                    self.old = Some(old);
                    return Ok(None);
                }
            }
            self.old = base.next()?;
        }
        Ok(None)
    }

    fn rest(&mut self, base: &mut ListingReader<impl BufRead>) -> Result<(), Refusal> {
        while let Some(old) = self.old.take() {
            self.take_over(&old)?;
            self.old = base.next()?;
        }
        Ok(())
    }

    fn take_over(&mut self, old: &ListedEntry) -> Result<(), Refusal> {
        if self.dropped.holds(&old.path) {
            return Ok(());
        }
        let written = self.out.entry(old);
        written.map_err(|error| Refusal::new(Code::Internal, format!("writing a list: {error}")))
    }
}

/// The lines of a difference.
struct DifferenceLines<R> {
    lines: R,
    line: Vec<u8>,
    limits: ListingLimits,
    /// So many entries may still come.
    left: u64,
}

impl<R: BufRead> DifferenceLines<R> {
    /// Reads a line, without its end; false at the end of all.
    fn next(&mut self, most: u64) -> Result<bool, Refusal> {
        self.line.clear();
        let mut lines = io::Read::take(&mut self.lines, most);
        let read = lines.read_until(b'\n', &mut self.line);
        read.map_err(|error| match error.kind() {
            // It is not gzip.
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => {
                bad(&format!("it cannot be read: {error}"))
            }
            _ => Refusal::of_reading("receiving the payload", &error),
        })?;
        match self.line.pop() {
            None => Ok(false),
            Some(b'\n') => Ok(true),
            Some(_) => Err(bad("a line is too long, or has no end")),
        }
    }

    /// The entry of this line, and whether its chunks are in the next one.
    fn entry(&mut self) -> Result<(ListedEntry, bool), Refusal> {
        let parsed = self.line.strip_prefix(b"+ ").and_then(parse_line);
        let (kind, path) = parsed.ok_or_else(|| bad("a line cannot be read"))?;
        let path = if path == b"." { &[][..] } else { path };
        let (kind, large) = match kind {
            ParsedKind::Directory(mode) => (ListedKind::Directory { mode }, false),
            ParsedKind::Symlink(target) => {
                let target = target.to_vec();
                (ListedKind::Symlink { target }, false)
            }
            ParsedKind::File(file, large) => (ListedKind::File(file), large),
        };
        let path = path.to_vec();
        let left = self.left.checked_sub(1);
        self.left = left.ok_or_else(|| bad("it has too many entries"))?;
        Ok((ListedEntry { path, kind }, large))
    }

    fn chunks(
        &mut self,
        file: &ListedFile,
        old: Option<&ListedEntry>,
    ) -> Result<Vec<ChunkRef>, Refusal> {
        // Before there is room for its chunks.
        let left = self.limits.max_bytes.checked_sub(file.size);
        self.limits.max_bytes = left.ok_or_else(|| {
            let why = "the files of the tree have more bytes than there is room for";
            Refusal::new(Code::NoSpace, why)
        })?;
        let old = match old.map(|old| &old.kind) {
            Some(ListedKind::File(old)) => &old.chunks[..],
            _ => &[],
        };
        if !self.next(chunk_line_max(file.size))? {
            return Err(bad("the chunks of a file are missing"));
        }
        let chunks = parse_chunks(&self.line, file.size, old);
        chunks.ok_or_else(|| bad("the chunks of a file are not what they should be"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, kind: ListedKind) -> ListedEntry {
        let path = path.into();
        ListedEntry { path, kind }
    }

    fn directory(path: &str) -> ListedEntry {
        entry(path, ListedKind::Directory { mode: 0o755 })
    }

    fn file(path: &str, content: &str) -> ListedEntry {
        let file = ListedFile {
            mode: 0o644,
            size: content.len() as u64,
            hash: ContentHash::of(content.as_bytes()),
            chunks: Vec::new(),
        };
        entry(path, ListedKind::File(file))
    }

    /// A large file; each number is another chunk.
    fn large(path: &str, contents: impl IntoIterator<Item = u32>) -> ListedEntry {
        let chunk = |n: u32| ChunkRef {
            len: 1 << 18,
            hash: ContentHash::of(&n.to_be_bytes()),
        };
        let chunks: Vec<ChunkRef> = contents.into_iter().map(chunk).collect();
        let size = (chunks.len() as u64) << 18;
        entry(
            path,
            ListedKind::File(ListedFile::of_chunks(0o600, size, chunks)),
        )
    }

    fn link(path: &str) -> ListedEntry {
        let target = b"x".to_vec();
        entry(path, ListedKind::Symlink { target })
    }

    fn listed(entries: &[ListedEntry]) -> (ContentHash, Vec<u8>) {
        let mut writer = ListingWriter::new(Vec::new()).unwrap();
        writer.entry(&directory("")).unwrap();
        entries
            .iter()
            .for_each(|entry| writer.entry(entry).unwrap());
        writer.end()
    }

    fn difference(old: &[ListedEntry], new: &[ListedEntry]) -> Vec<u8> {
        let mut writer = DifferenceWriter::new(Vec::new());
        let mut old = old.iter().peekable();
        for entry in new {
            while let Some(gone) = old.next_if(|old| order::compare(&old.path, &entry.path).is_lt())
            {
                writer.gone(gone).unwrap();
            }
            let same = old.next_if(|old| old.path == entry.path);
            writer.entry(entry, same).unwrap();
        }
        old.for_each(|gone| writer.gone(gone).unwrap());
        writer.end()
    }

    fn applied(old: &[ListedEntry], difference: &[u8]) -> Result<Vec<u8>, Refusal> {
        let (_, text) = listed(old);
        let mut base = ListingReader::new(&text[..], ListingLimits::NONE);
        let limits = ListingLimits {
            max_entries: 100,
            max_bytes: 1 << 30,
        };
        let mut out = Vec::new();
        let tree = apply(&mut base, difference, limits, &mut out)?;
        assert_eq!(tree, ContentHash::of(&out));
        Ok(out)
    }

    #[test]
    fn a_difference_makes_the_new_list_of_the_old_one() {
        let lists = [
            vec![],
            vec![file("a", "1")],
            vec![file("a", "2"), file("b", "")],
            vec![
                directory("a"),
                file("a/x", "1"),
                directory("a/y"),
                file("a/y/z", "2"),
                file("a-b", "3"),
            ],
            vec![link("a"), file("a-b", "3")],
            vec![
                directory("a"),
                link("a/x"),
                file("a-b", "3"),
                large("big", 0..40),
            ],
            vec![large("big", (0..10).chain([77]).chain(11..40))],
            vec![large("big", [9; 20])],
            vec![large("big", [1, 2, 9, 9, 9, 3, 4, 4, 1, 2, 3])],
            vec![large("big", [5, 1, 2, 3, 4])],
        ];
        for old in &lists {
            for new in &lists {
                let difference = difference(old, new);
                assert_eq!(old == new, difference.is_empty());
                let made = applied(old, &difference).unwrap();
                let shown = String::from_utf8_lossy(&difference).into_owned();
                assert_eq!(made, listed(new).1, "{shown}");
            }
        }
        // What is the same costs little: a directory one line, a run of chunks a reference.
        let text = difference(&lists[3], &lists[4]);
        assert_eq!(text, b"+ l x\0a\n");
        assert_eq!(
            difference(&lists[3], &lists[1]),
            b"+ f 644 1 a4ayc/80/OGda4BO/1o/V0etpOqiLx1JwB5S3beHW0s a\n- a-b\n"
        );
        let text = difference(&lists[5], &lists[6]);
        assert!(text.len() < 200, "{}", String::from_utf8_lossy(&text));
    }

    #[test]
    fn what_is_no_difference_is_refused() {
        let old = [directory("a"), file("a/x", "1"), large("big", 0..8)];
        let good = difference(&old, &[file("a", "2")]);
        assert!(applied(&old, &good).is_ok());
        let hash = "a4ayc/80/OGda4BO/1o/V0etpOqiLx1JwB5S3beHW0s";
        let big = |chunks: &str| format!("+ F 644 1310720 {hash} big\n{chunks}\n").into_bytes();
        let five = |chunk: &str| big(&[chunk; 5].join(" "));
        let table: Vec<(Vec<u8>, &str)> = vec![
            (b"- b\n".to_vec(), "was not there"),
            (b"- a\n- a/x\n".to_vec(), "was not there"),
            (b"? a\n".to_vec(), "cannot be read"),
            (b"+ x\n".to_vec(), "cannot be read"),
            (b"- a".to_vec(), "no end"),
            (vec![b'x'; 5000], "too long"),
            (
                format!("+ F 644 1310720 {hash} big\n").into_bytes(),
                "missing",
            ),
            (big("@0 6"), "not what"),
            (big("@7 2"), "not what"),
            (big("@0 18446744073709551615"), "not what"),
            (big("@x 2"), "not what"),
            (big("@0"), "not what"),
            (five("262145 x"), "not what"),
            (
                format!("+ F 644 {} {hash} big\n@0 8\n", u64::MAX).into_bytes(),
                "room",
            ),
            (b"+ d 755 b\n".repeat(102), "too many"),
        ];
        for (text, part) in table {
            let refused = applied(&old, &text).unwrap_err().message;
            let shown = String::from_utf8_lossy(&text).into_owned();
            assert!(refused.contains(part), "{part} in {refused}: {shown}");
        }
        // What is out of order makes no list that could be read.
        let made = applied(&old, b"+ d 755 b\n+ d 755 a\n").unwrap();
        let mut list = ListingReader::new(&made[..], ListingLimits::NONE);
        assert!(std::iter::from_fn(|| list.next().transpose()).any(|entry| entry.is_err()));
        // One chunk a million times in a few bytes is refused before it takes memory.
        let many = format!(
            "+ F 644 {} {hash} big\n{}\n",
            1 << 22,
            ["@0 8"; 40].join(" ")
        );
        assert!(applied(&old, many.as_bytes()).is_err());
    }
}
