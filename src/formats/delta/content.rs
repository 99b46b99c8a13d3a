//! What a list says of a file, out of its content.

use std::io::{self, Read};

use crate::formats::delta::chunk::{CUT_FROM, SEGMENT, cut_segment};
use crate::formats::delta::chunk_line::ChunkRef;
use crate::formats::delta::hash::ContentHash;
use crate::formats::delta::listing::ListedFile;

/// Reads the content of a file of this size. `room` is [`ROOM`](crate::formats::delta::chunk::ROOM) bytes.
///
/// # Errors
/// When it cannot be read, or is shorter.
pub fn listed(
    mode: u32,
    size: u64,
    content: &mut dyn Read,
    room: &mut [u8],
) -> io::Result<ListedFile> {
    if size < CUT_FROM {
        // Below 1 MiB.
        let room = &mut room[..size as usize];
        content.read_exact(room)?;
        return Ok(ListedFile {
            mode,
            size,
            hash: ContentHash::of(room),
            chunks: Vec::new(),
        });
    }
    let (mut chunks, mut at) = (Vec::new(), 0);
    while at < size {
        chunks.extend(segment(content, SEGMENT.min(size - at), room)?);
        at += SEGMENT;
    }
    Ok(ListedFile::of_chunks(mode, size, chunks))
}

/// The chunks of one segment of a large file.
///
/// # Errors
/// When it cannot be read, or is shorter.
pub fn segment(content: &mut dyn Read, len: u64, room: &mut [u8]) -> io::Result<Vec<ChunkRef>> {
    let mut chunks = Vec::new();
    let read = cut_segment(content.take(len), room, &mut |chunk| {
        chunks.push(ChunkRef {
            // At most `CHUNK_MAX`.
            len: chunk.len() as u32,
            hash: ContentHash::of(chunk),
        });
        Ok(())
    })?;
    match read == len {
        true => Ok(chunks),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
