//! Writes one frame of lz4, whose blocks are compressed or stored: several times as quick as the quickest deflate, for links that
//! are quicker than deflate.

use std::io::{self, Write};

use lz4_flex::block::{CompressTable, compress_into_with_table, get_maximum_output_size};
use xxhash_rust::xxh32::Xxh32;

use crate::formats::archive::magic;
use crate::formats::archive::unlz4::header_sum;

/// What a block holds. The compressor begins each of them with nothing that it knows; with 64 KiB it makes a twentieth more.
const BLOCK: usize = 256 << 10;

/// Version 1, blocks that do not refer to others, a checksum at the end; blocks of 256 KiB.
const DESCRIPTION: [u8; 2] = [0x64, 0x50];

/// A block that is stored has this bit in its length.
const STORED: u32 = 1 << 31;

/// A block is compressed if that saves one byte of 16: what hardly shrinks is read more quickly as it is.
const WORTH: usize = 16;

/// Writes lz4.
pub(super) struct Lz4<W: Write> {
    out: W,
    storing: bool,
    plain: Vec<u8>,
    /// The length of a block, and what it was compressed to.
    packed: Vec<u8>,
    table: CompressTable,
    sum: Xxh32,
}

impl<W: Write> Lz4<W> {
    /// Begins a frame.
    pub(super) fn new(mut out: W) -> io::Result<Lz4<W>> {
        out.write_all(&magic::LZ4)?;
        out.write_all(&DESCRIPTION)?;
        out.write_all(&[header_sum(&DESCRIPTION)])?;
        Ok(Lz4 {
            out,
            storing: false,
            plain: Vec::with_capacity(BLOCK),
            packed: vec![0; 4 + get_maximum_output_size(BLOCK)],
            table: CompressTable::large(),
            sum: Xxh32::new(0),
        })
    }

    /// Whether what comes next is stored.
    pub(super) fn store(&mut self, storing: bool) {
        self.storing = storing;
    }

    pub(super) fn get_mut(&mut self) -> &mut W {
        &mut self.out
    }

    /// Ends the frame, and gives the writer back.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.block()?;
        self.out.write_all(&[0; 4])?;
        self.out.write_all(&self.sum.digest().to_le_bytes())?;
        Ok(self.out)
    }

    fn block(&mut self) -> io::Result<()> {
        let len = self.plain.len();
        if len == 0 {
            return Ok(());
        }
        self.sum.update(&self.plain);
        let packed = match self.storing {
            true => len,
            false => {
                let room = &mut self.packed[4..];
                let packed = compress_into_with_table(&self.plain, room, &mut self.table);
                packed.map_err(io::Error::other)?
            }
        };
        // A block has less than 2 GiB.
        if packed <= len - len / WORTH && !self.storing {
            self.packed[..4].copy_from_slice(&(packed as u32).to_le_bytes());
            self.out.write_all(&self.packed[..4 + packed])?;
        } else {
            self.out.write_all(&(len as u32 | STORED).to_le_bytes())?;
            self.out.write_all(&self.plain)?;
        }
        self.plain.clear();
        Ok(())
    }
}

impl<W: Write> Write for Lz4<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let len = data.len().min(BLOCK - self.plain.len());
        self.plain.extend_from_slice(&data[..len]);
        if self.plain.len() == BLOCK {
            self.block()?;
        }
        Ok(len)
    }

    /// Does nothing, as with gzip.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
