//! The line of a list that has the chunks of a large file, `LEN HASH LEN HASH ...`. Of a file of 1 GiB it has nearly a megabyte,
//! so that it is written and read by parts.

use std::io::{self, BufRead};

use crate::formats::delta::chunk::{CHUNK_MAX, chunks_max};
use crate::formats::delta::hash::ContentHash;

/// A piece of a large file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkRef {
    pub len: u32,
    pub hash: ContentHash,
}

/// The chunks of a file, so many at once: those of a large file would be a line of megabytes.
pub(super) fn chunk_groups(chunks: &[ChunkRef]) -> impl Iterator<Item = (bool, &[ChunkRef])> {
    let groups = chunks.chunks(256).enumerate();
    groups.map(|(n, group)| (n > 0, group))
}

/// A part of the line of chunks; the first one has no blank before it.
pub(super) fn put_group((follows, group): (bool, &[ChunkRef]), line: &mut Vec<u8>) {
    for (n, chunk) in group.iter().enumerate() {
        if follows || n > 0 {
            line.push(b' ');
        }
        put_chunk(chunk, line);
    }
}

pub(super) fn put_chunk(chunk: &ChunkRef, line: &mut Vec<u8>) {
    line.extend_from_slice(format!("{} ", chunk.len).as_bytes());
    chunk.hash.write_to(line);
}

/// Takes the words of the line of chunks of a file of a known size. `@FIRST COUNT` in it stands for chunks of an older file.
struct ChunkWords<'a> {
    size: u64,
    old: &'a [ChunkRef],
    chunks: Vec<ChunkRef>,
    /// The bytes of those.
    sum: u64,
    half: Option<HalfChunk>,
}

/// What a first word says.
enum HalfChunk {
    Len(u32),
    First(usize),
}

impl<'a> ChunkWords<'a> {
    /// A length, or a hash, and a blank: who sends longer words sends no chunks.
    const LONGEST: usize = 64;

    fn new(size: u64, old: &'a [ChunkRef]) -> ChunkWords<'a> {
        ChunkWords {
            size,
            old,
            chunks: Vec::new(),
            sum: 0,
            half: None,
        }
    }

    /// The next word; none if it cannot stand there.
    fn word(&mut self, word: &[u8]) -> Option<()> {
        match self.half.take() {
            None => {
                self.half = Some(match word.strip_prefix(b"@") {
                    Some(first) => HalfChunk::First(usize::try_from(number(first, 10)?).ok()?),
                    None => HalfChunk::Len(u32::try_from(number(word, 10)?).ok()?),
                });
                return Some(());
            }
            Some(HalfChunk::First(first)) => {
                let count = usize::try_from(number(word, 10)?).ok()?;
                let same = self.old.get(first..first.checked_add(count)?)?;
                self.chunks.extend_from_slice(same);
                self.sum += same.iter().map(|chunk| u64::from(chunk.len)).sum::<u64>();
            }
            Some(HalfChunk::Len(len)) => {
                let hash = ContentHash::from_text(word)?;
                if len == 0 || len as usize > CHUNK_MAX {
                    return None;
                }
                self.chunks.push(ChunkRef { len, hash });
                self.sum += u64::from(len);
            }
        }
        let fits = self.sum <= self.size && self.chunks.len() as u64 <= chunks_max(self.size);
        fits.then_some(())
    }

    fn end(self) -> Option<Vec<ChunkRef>> {
        (self.half.is_none() && self.sum == self.size).then_some(self.chunks)
    }
}

/// The chunks of a file of this size, by their line; none if that is damaged.
pub(super) fn parse_chunks(line: &[u8], size: u64, old: &[ChunkRef]) -> Option<Vec<ChunkRef>> {
    let mut chunks = ChunkWords::new(size, old);
    for word in line.split(|byte| *byte == b' ') {
        chunks.word(word)?;
    }
    chunks.end()
}

/// Reads a line of chunks without ever having all of it, and shows its bytes; none if it is damaged or has no end.
pub(super) fn read_chunks(
    lines: &mut impl BufRead,
    size: u64,
    seen: &mut dyn FnMut(&[u8]),
) -> io::Result<Option<Vec<ChunkRef>>> {
    let (mut chunks, mut word) = (ChunkWords::new(size, &[]), Vec::new());
    loop {
        let read = match lines.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        if read.is_empty() {
            return Ok(None);
        }
        let end = memchr::memchr(b'\n', read);
        let part = &read[..end.unwrap_or(read.len())];
        seen(part);
        for (n, piece) in part.split(|byte| *byte == b' ').enumerate() {
            if n > 0 {
                if chunks.word(&word).is_none() {
                    return Ok(None);
                }
                word.clear();
            }
            if word.len() + piece.len() > ChunkWords::LONGEST {
                return Ok(None);
            }
            word.extend_from_slice(piece);
        }
        let used = part.len() + usize::from(end.is_some());
        lines.consume(used);
        if end.is_some() {
            return Ok(chunks.word(&word).and_then(|()| chunks.end()));
        }
    }
}

/// A number without a sign, and without zeros before it.
pub(super) fn number(text: &[u8], radix: u32) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    let plain = text == "0" || !text.starts_with(['0', '+']);
    u64::from_str_radix(text, radix).ok().filter(|_| plain)
}
