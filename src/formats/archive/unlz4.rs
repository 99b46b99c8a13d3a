//! Out of lz4's frames, the format of the program `lz4`: frames that follow each other, and checksums that are checked.
//!
//! The blocks are read here and not by lz4_flex, which makes them. It takes a frame that is cut between two blocks for its end, and
//! needs a whole block in memory, twice, of which many programs make 4 MiB. What a block refers to is at most 64 KiB away, so that
//! this here takes 128 KiB whatever the size of the blocks.

use std::io::{self, BufRead, BufReader, Read, Seek};

use xxhash_rust::xxh32::{Xxh32, xxh32};

use crate::formats::archive::gunzip::{invalid, only_zeros, truncated};
use crate::formats::archive::magic;
use crate::formats::archive::sequences::{SequenceStep, Sequences};
use crate::system::memory::Pages;

/// How far a block may refer back.
const WINDOW: usize = 64 << 10;

/// The window, and as much of what comes behind it: each byte is moved once.
const ROOM: usize = 2 * WINDOW;

/// The optional parts of a frame's head, by their bits.
const INDEPENDENT: u8 = 0x20;
const BLOCK_SUMS: u8 = 0x10;
const SIZE: u8 = 0x08;
const SUM: u8 = 0x04;
const DICTIONARY: u8 = 0x01;

/// A block that is stored has this bit in its length.
const STORED: u32 = 1 << 31;

/// What a frame's head says.
#[derive(Default, Clone, Copy)]
struct FrameHead {
    flags: u8,
    block_max: usize,
    size: Option<u64>,
}

impl FrameHead {
    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FramePlace {
    Head,
    /// Before a block, or the mark of the end.
    Block,
    /// In a stored block: what is left of it.
    Stored(usize),
    /// In a compressed one: what is left of it, and where in it.
    Compressed(usize, SequenceStep),
    BlockEnd,
    FrameEnd,
    End,
}

/// The plain bytes of an lz4 file of any number of frames. Behind the last one there may be zeros, as behind gzip, or a gzip member.
/// Checksums are checked, so it must be read to its end.
pub(super) struct Lz4Frames<R: BufRead> {
    packed: R,
    at: FramePlace,
    head: FrameHead,
    sum: Xxh32,
    block_sum: Xxh32,
    /// The plain bytes of the frame, and of its block.
    made: u64,
    block_made: usize,
    /// None before it is needed.
    room: Option<Pages>,
    /// What was made last in the room, up to `until`, and has been read up to `from`.
    from: usize,
    until: usize,
    /// How many bytes before `until` may be referred to.
    known: usize,
}

impl<R: BufRead> Lz4Frames<R> {
    pub(super) fn new(packed: R) -> Lz4Frames<R> {
        Lz4Frames {
            packed,
            at: FramePlace::Head,
            head: FrameHead::default(),
            sum: Xxh32::new(0),
            block_sum: Xxh32::new(0),
            made: 0,
            block_made: 0,
            room: None,
            from: 0,
            until: 0,
            known: 0,
        }
    }

    /// What follows the last frame.
    pub(super) fn into_inner(self) -> R {
        self.packed
    }

    /// Goes on until there are plain bytes, or the end.
    fn advance(&mut self) -> io::Result<()> {
        while self.from == self.until {
            match self.at {
                FramePlace::Head => self.frame()?,
                FramePlace::Block => self.block()?,
                FramePlace::Stored(left) => self.stored(left)?,
                FramePlace::Compressed(left, step) => self.compressed(left, step)?,
                FramePlace::BlockEnd => {
                    if self.head.has(BLOCK_SUMS) {
                        let told = self.number()?;
                        if told != self.block_sum.digest() {
                            return Err(invalid("the checksum of a block is wrong"));
                        }
                    }
                    self.at = FramePlace::Block;
                }
                FramePlace::FrameEnd => self.end()?,
                FramePlace::End => return Ok(()),
            }
        }
        Ok(())
    }

    fn number(&mut self) -> io::Result<u32> {
        let mut bytes = [0; 4];
        self.packed.read_exact(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn frame(&mut self) -> io::Result<()> {
        self.head = head(&mut self.packed)?;
        self.sum.reset(0);
        (self.made, self.known) = (0, 0);
        self.at = FramePlace::Block;
        Ok(())
    }

    fn block(&mut self) -> io::Result<()> {
        let number = self.number()?;
        // Below 2 GiB.
        let len = (number & !STORED) as usize;
        if number == 0 {
            self.at = FramePlace::FrameEnd;
            return Ok(());
        }
        if len > self.head.block_max {
            return Err(invalid("a block is larger than its head says"));
        }
        self.block_made = 0;
        self.block_sum.reset(0);
        if self.head.has(INDEPENDENT) {
            self.known = 0;
        }
        self.at = match number & STORED {
            0 => FramePlace::Compressed(len, SequenceStep::Token),
            _ => FramePlace::Stored(len),
        };
        Ok(())
    }

    /// Makes room for at least a window behind what was read.
    fn room(&mut self) {
        let room = self.room.get_or_insert_with(|| Pages::new(ROOM));
        if self.until == room.len() {
            let kept = self.known.min(WINDOW);
            room.copy_within(self.until - kept..self.until, 0);
            (self.from, self.until) = (kept, kept);
        }
    }

    fn stored(&mut self, left: usize) -> io::Result<()> {
        if left == 0 {
            self.at = FramePlace::BlockEnd;
            return Ok(());
        }
        self.room();
        let Some(room) = &mut self.room else {
            return Ok(());
        };
        let packed = self.packed.fill_buf()?;
        let len = packed.len().min(left).min(room.len() - self.until);
        if packed.is_empty() {
            return Err(truncated());
        }
        room[self.until..self.until + len].copy_from_slice(&packed[..len]);
        if self.head.has(BLOCK_SUMS) {
            self.block_sum.update(&packed[..len]);
        }
        self.packed.consume(len);
        self.at = FramePlace::Stored(left - len);
        self.has_made(len);
        Ok(())
    }

    fn compressed(&mut self, left: usize, mut step: SequenceStep) -> io::Result<()> {
        match (left, step) {
            // The last sequence has no match.
            (0, SequenceStep::Offset(_)) => {
                self.at = FramePlace::BlockEnd;
                return Ok(());
            }
            // There was no room for all of it.
            (0, SequenceStep::Match(..)) | (1.., _) => {}
            (0, _) => return Err(invalid("a block ends too early")),
        }
        self.room();
        let Some(room) = &mut self.room else {
            return Ok(());
        };
        let packed = match left {
            0 => &[][..],
            _ => self.packed.fill_buf()?,
        };
        if left > 0 && packed.is_empty() {
            return Err(truncated());
        }
        let packed = &packed[..packed.len().min(left)];
        let most = self.head.block_max - self.block_made;
        let end = room.len().min(self.until + most);
        let mut sequences = Sequences {
            packed,
            taken: 0,
            room: &mut room[..end],
            until: self.until,
            known: self.known,
        };
        sequences.run(&mut step)?;
        let (taken, made) = (sequences.taken, sequences.until - self.until);
        if self.head.has(BLOCK_SUMS) {
            self.block_sum.update(&packed[..taken]);
        }
        self.packed.consume(taken);
        self.at = FramePlace::Compressed(left - taken, step);
        if taken == 0 && made == 0 {
            // There is always more room than nothing, but for a block that is full.
            return Err(invalid("a block holds more than its head says"));
        }
        self.has_made(made);
        Ok(())
    }

    fn has_made(&mut self, len: usize) {
        let until = self.until + len;
        if let (true, Some(room)) = (self.head.has(SUM), &self.room) {
            self.sum.update(&room[self.until..until]);
        }
        self.from = self.until;
        self.until = until;
        self.known += len;
        self.block_made += len;
        self.made += len as u64;
    }

    /// Checks what stands behind a frame, and looks for another one.
    fn end(&mut self) -> io::Result<()> {
        if self.head.has(SUM) && self.number()? != self.sum.digest() {
            return Err(invalid("its checksum is wrong"));
        }
        if self.head.size.is_some_and(|size| size != self.made) {
            return Err(invalid("it does not hold as many bytes as its head says"));
        }
        self.at = match self.packed.fill_buf()?.first() {
            Some(first) if *first == magic::LZ4[0] => FramePlace::Head,
            Some(first) if *first == magic::GZIP[0] => FramePlace::End,
            Some(_) => {
                only_zeros(&mut self.packed, "something that is not lz4 follows it")?;
                FramePlace::End
            }
            None => FramePlace::End,
        };
        Ok(())
    }
}

impl<R: BufRead> BufRead for Lz4Frames<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.advance()?;
        Ok(match &self.room {
            Some(room) => &room[self.from..self.until],
            None => &[],
        })
    }

    fn consume(&mut self, amount: usize) {
        self.from += amount;
    }
}

impl<R: BufRead> Read for Lz4Frames<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut available = self.fill_buf()?;
        let read = available.read(into)?;
        self.consume(read);
        Ok(read)
    }
}

/// Reads a frame's head.
fn head(packed: &mut impl BufRead) -> io::Result<FrameHead> {
    let mut fixed = [0; 6];
    packed.read_exact(&mut fixed)?;
    let [_, _, _, _, flags, block] = fixed;
    if fixed[..4] != magic::LZ4 {
        return Err(invalid("something that is not lz4 follows it"));
    }
    // A version of 1, and no bits that mean nothing.
    if flags & 0xc2 != 0x40 || block & 0x8f != 0 || block < 0x40 {
        return Err(invalid("its lz4 header is invalid"));
    }
    let mut described = vec![flags, block];
    let mut size = None;
    if flags & SIZE != 0 {
        let mut told = [0; 8];
        packed.read_exact(&mut told)?;
        described.extend(told);
        size = Some(u64::from_le_bytes(told));
    }
    if flags & DICTIONARY != 0 {
        return Err(invalid("it takes a dictionary to read it"));
    }
    let mut sum = [0];
    packed.read_exact(&mut sum)?;
    if sum[0] != header_sum(&described) {
        return Err(invalid("the checksum of its lz4 header is wrong"));
    }
    Ok(FrameHead {
        flags,
        // 64 KiB, 256 KiB, 1 MiB or 4 MiB.
        block_max: 1 << (8 + 2 * (block >> 4)),
        size,
    })
}

/// Goes behind a frame, without looking into it.
pub(super) fn skip_frame(packed: &mut BufReader<impl Read + Seek>) -> io::Result<()> {
    let head = head(packed)?;
    let mut number = [0; 4];
    loop {
        packed.read_exact(&mut number)?;
        let number = u32::from_le_bytes(number);
        let sum = match number {
            0 => head.has(SUM),
            _ => head.has(BLOCK_SUMS),
        };
        let len = i64::from(number & !STORED);
        packed.seek_relative(len + if sum { 4 } else { 0 })?;
        if number == 0 {
            return Ok(());
        }
    }
}

/// The checksum of what a head says.
pub(super) fn header_sum(described: &[u8]) -> u8 {
    // The second byte of the hash.
    xxh32(described, 0).to_le_bytes()[1]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    use crate::formats::archive::lz4::Lz4;
    use crate::formats::archive::testing::{by_pieces, random, text, whole_and_by_pieces};

    fn ours(plain: &[u8]) -> Vec<u8> {
        let mut frame = Lz4::new(Vec::new()).unwrap();
        frame.write_all(plain).unwrap();
        frame.finish().unwrap()
    }

    /// A frame with these flags beside the version's, of these blocks: their plain bytes, how they are packed, and whether they are
    /// stored.
    fn frame(flags: u8, size: u8, told: Option<u64>, blocks: &[(&[u8], Vec<u8>, bool)]) -> Vec<u8> {
        let mut described = vec![0x40 | flags, size << 4];
        described.extend(told.map(u64::to_le_bytes).into_iter().flatten());
        let mut bytes = magic::LZ4.to_vec();
        bytes.extend(&described);
        bytes.push(header_sum(&described));
        let mut plain = Vec::new();
        for (part, packed, stored) in blocks {
            plain.extend(*part);
            let len = packed.len() as u32 | if *stored { STORED } else { 0 };
            bytes.extend(len.to_le_bytes());
            bytes.extend(packed);
            if flags & BLOCK_SUMS != 0 {
                bytes.extend(xxh32(packed, 0).to_le_bytes());
            }
        }
        bytes.extend([0; 4]);
        if flags & SUM != 0 {
            bytes.extend(xxh32(&plain, 0).to_le_bytes());
        }
        bytes
    }

    /// Each of these parts as a block that refers to those before it.
    fn linked(flags: u8, size: u8, told: Option<u64>, parts: &[&[u8]]) -> Vec<u8> {
        let mut before = Vec::new();
        let blocks: Vec<_> = parts
            .iter()
            .map(|part| {
                let near = &before[before.len() - before.len().min(WINDOW)..];
                let packed = lz4_flex::block::compress_with_dict(part, near);
                before.extend(*part);
                (*part, packed, false)
            })
            .collect();
        frame(flags, size, told, &blocks)
    }

    fn plain(packed: &[u8]) -> io::Result<Vec<u8>> {
        let pieces = if packed.len() < 9000 {
            [1, 7, 700]
        } else {
            [7000, 8000, 70_000]
        };
        whole_and_by_pieces(packed, pieces, Lz4Frames::new)
    }

    #[test]
    fn what_is_compressed_reads_back() {
        let contents = [
            vec![],
            text(1),
            text(12),
            text(13),
            text(1000),
            text(300_000),
            vec![7; 300_000],
            [7, 8].repeat(150_000),
            b"ab cd ef gh ij".repeat(20_000),
            random(300_000),
            [random(70_000), text(100_000), random(100_000)].concat(),
            random(40_000).repeat(9),
            // Distances of all sizes.
            (0..400).flat_map(|n| random(n).repeat(3)).collect(),
        ];
        for (n, content) in contents.iter().enumerate() {
            assert!(plain(&ours(content)).unwrap() == *content, "{n}");
            // As other programs make them: blocks of another size, linked, or with all that a head may have.
            let parts: Vec<&[u8]> = content.chunks(60_000).collect();
            let told = Some(content.len() as u64);
            let all = BLOCK_SUMS | SUM | SIZE;
            assert!(
                plain(&linked(0, 4, None, &parts)).unwrap() == *content,
                "{n}"
            );
            assert!(
                plain(&linked(all, 4, told, &parts)).unwrap() == *content,
                "{n}"
            );
            let whole = lz4_flex::block::compress(content);
            let blocks = match content.is_empty() {
                true => vec![],
                false => vec![(&content[..], whole, false)],
            };
            let packed = frame(all | INDEPENDENT, 7, told, &blocks);
            assert!(plain(&packed).unwrap() == *content, "{n}");
        }
    }

    #[test]
    fn frames_are_read_to_the_last() {
        let one = ours(b"one");
        let stored = |text: &'static [u8]| (text, text.to_vec(), true);
        let table = [
            ([one.clone(), ours(b""), ours(b" two")].concat(), "one two"),
            ([one.clone(), vec![0; 700]].concat(), "one"),
            // What follows is for whoever reads that.
            ([one.clone(), vec![0x1f, 0x8b]].concat(), "one"),
            (frame(0, 4, None, &[]), ""),
            (
                frame(0, 4, None, &[stored(b"a"), stored(b""), stored(b"b")]),
                "ab",
            ),
            (
                linked(0, 4, None, &[b"abcdefgh12345678", b"abcdefgh12345678"]),
                "abcdefgh12345678abcdefgh12345678",
            ),
        ];
        for (packed, text) in table {
            assert_eq!(plain(&packed).unwrap(), text.as_bytes());
        }
    }

    #[test]
    fn what_is_wrong_with_a_frame_is_said() {
        let text = text(3000);
        let whole = ours(&text);
        let changed = |at: usize, by: u8| {
            let mut bytes = whole.clone();
            bytes[at] ^= by;
            bytes
        };
        let raw = |packed: &[u8]| frame(INDEPENDENT, 4, None, &[(b"", packed.to_vec(), false)]);
        let with = |more: &[u8]| [&whole[..], more].concat();
        let last = whole.len() - 1;
        let large = lz4_flex::block::compress(&vec![b'x'; 70_000]);
        let mut wrong_block = frame(BLOCK_SUMS, 4, None, &[(b"ab", b"ab".to_vec(), true)]);
        wrong_block[12] ^= 1;
        // A block's last sequence, without what it refers to.
        let literals = |text: &[u8]| [&[(text.len() as u8) << 4], text].concat();
        let table: Vec<(Vec<u8>, &str)> = vec![
            (changed(4, 0x80), "its lz4 header is invalid"),
            (changed(4, 0x02), "its lz4 header is invalid"),
            (changed(5, 0x40), "its lz4 header is invalid"),
            (changed(5, 0x81), "its lz4 header is invalid"),
            (changed(4, DICTIONARY), "it takes a dictionary"),
            (changed(6, 1), "the checksum of its lz4 header is wrong"),
            (changed(last, 1), "its checksum is wrong"),
            (wrong_block, "the checksum of a block is wrong"),
            (
                linked(SIZE, 4, Some(9), &[b"12345678"]),
                "not hold as many bytes",
            ),
            (
                linked(SIZE, 4, Some(u64::MAX), &[b"1234"]),
                "not hold as many bytes",
            ),
            (
                frame(0, 4, None, &[(b"", vec![b'x'; 65_537], true)]),
                "a block is larger than its head",
            ),
            (
                frame(0, 4, None, &[(b"", large.clone(), false)]),
                "a block holds more than its head",
            ),
            (
                raw(&[&[0xff][..], &[255; 60_000]].concat()),
                "a block holds more than its head",
            ),
            (
                raw(&[&[0x1f, b'x', 1, 0][..], &[255; 60_000]].concat()),
                "a block holds more than its head",
            ),
            (
                raw(&[0x10, b'x', 2, 0]),
                "a block refers to what is not there",
            ),
            (
                raw(&[0x10, b'x', 0, 0]),
                "a block refers to what is not there",
            ),
            (raw(&[0x10, b'x', 1, 0]), "a block ends too early"),
            (raw(&[0x50, b'x']), "a block ends too early"),
            (raw(&[0xf0]), "a block ends too early"),
            (raw(&[0x10, b'x', 1]), "a block ends too early"),
            // Blocks that do not refer to each other: this one does.
            (
                frame(
                    INDEPENDENT,
                    4,
                    None,
                    &[
                        (b"", literals(b"abcd"), false),
                        (b"", [&[0x00, 4, 0][..], &literals(b"e")].concat(), false),
                    ],
                ),
                "a block refers to what is not there",
            ),
            (with(b"x"), "something that is not lz4 follows it"),
            (with(&[0, 0, 1]), "something that is not lz4 follows it"),
            (
                with(b"\x04\x22\x4d\x19 what"),
                "something that is not lz4 follows it",
            ),
            // A frame to be skipped, and one of the legacy format.
            (
                with(b"\x50\x2a\x4d\x18\x01\0\0\0x"),
                "something that is not lz4 follows it",
            ),
            (
                with(b"\x02\x21\x4c\x18"),
                "something that is not lz4 follows it",
            ),
        ];
        for (packed, why) in table {
            let error = plain(&packed).expect_err(why);
            assert!(error.to_string().contains(why), "{error} instead of {why}");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{why}");
        }
        // Wherever it is cut, also between two blocks.
        let two = linked(BLOCK_SUMS | SUM, 4, None, &[b"12345678", b"12345678 9"]);
        for packed in [&whole, &two] {
            for cut in 1..packed.len() {
                let error = plain(&packed[..cut]).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{cut}: {error}");
            }
        }
    }

    #[test]
    fn changed_bytes_are_never_more_than_an_error() {
        let plain = [text(3000), random(100), text(900)].concat();
        let packed = linked(BLOCK_SUMS | SUM, 4, None, &[&plain[..2000], &plain[2000..]]);
        let unsummed = linked(0, 4, None, &[&plain[..2000], &plain[2000..]]);
        for at in 0..packed.len().max(unsummed.len()) {
            for by in [1, 0x80] {
                let changed = |bytes: &[u8]| {
                    let mut bytes = bytes.to_vec();
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte ^= by;
                    }
                    by_pieces(&bytes, 4096, Lz4Frames::new)
                };
                if at < packed.len() {
                    assert!(changed(&packed).is_err(), "{at}");
                }
                // Whatever comes of it, it is no more than its blocks may hold.
                let read = changed(&unsummed).unwrap_or_default();
                assert!(read.len() <= 2 * 65_536);
            }
        }
    }
}
