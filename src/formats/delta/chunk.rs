//! Where a large file is cut: FastCDC with a gear hash, so that the cuts follow the content. What is inserted somewhere
//! moves the cuts near it and leaves all others as they are.
//!
//! The two masks are the "normalization" of FastCDC: below the mean size a cut is half as likely as it would be, above it
//! twice as likely. So most chunks have a size near the mean one.

use std::io::{self, Read};

use crate::formats::delta::hash::HASH_TEXT_LEN;

/// Files from this size on are cut; smaller ones are sent whole. Cuts in small files save little and their hashes cost more.
pub const CUT_FROM: u64 = 1 << 20;

/// The sizes of chunks, but for the last one of a segment, which may be smaller.
const CHUNK_MIN: usize = 16 << 10;
const CHUNK_MEAN: usize = 64 << 10;
pub const CHUNK_MAX: usize = 256 << 10;

/// The room for [`cut_segment`], which also holds a file that is not cut.
pub const ROOM: usize = 4 * CHUNK_MAX;

/// Each segment of a file is cut for itself, so that several threads can cut one file.
pub const SEGMENT: u64 = 64 << 20;

/// A cut below the mean size: one in 2^17. Above it: one in 2^15.
const RARE: u32 = 64 - 17;
const OFTEN: u32 = 64 - 15;

/// What one byte adds to the gear hash: the sequence of splitmix64, which is fixed for all time. Another table would cut
/// the same files elsewhere, and nothing of them would be found again.
const GEAR: [u64; 256] = gear();

const fn gear() -> [u64; 256] {
    let (mut table, mut state, mut at) = ([0; 256], 0_u64, 0);
    while at < table.len() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        table[at] = mixed ^ (mixed >> 31);
        at += 1;
    }
    table
}

/// The length of the first chunk of `bytes`, which are all that is left or at least [`CHUNK_MAX`].
fn cut(bytes: &[u8]) -> usize {
    let most = bytes.len().min(CHUNK_MAX);
    if most <= CHUNK_MIN {
        return most;
    }
    let mean = most.min(CHUNK_MEAN);
    // Each byte is shifted out of the hash after 64 further ones, so what is before does not matter.
    let mut hash = 0;
    for byte in &bytes[CHUNK_MIN - 64..CHUNK_MIN] {
        hash = roll(hash, *byte);
    }
    if let Some(at) = find(&mut hash, &bytes[CHUNK_MIN..mean], RARE) {
        return CHUNK_MIN + at;
    }
    find(&mut hash, &bytes[mean..most], OFTEN).map_or(most, |at| mean + at)
}

/// Where the hash has zeros in front for the first time, all but `bits` of them. Every byte of a large file comes by here:
/// a plain loop over indices is quick without any inlining, which iterators need.
fn find(hash: &mut u64, bytes: &[u8], bits: u32) -> Option<usize> {
    let mut at = 0;
    while at < bytes.len() {
        *hash = roll(*hash, bytes[at]);
        if *hash >> bits == 0 {
            return Some(at);
        }
        at += 1;
    }
    None
}

#[inline(always)]
fn roll(hash: u64, byte: u8) -> u64 {
    (hash << 1).wrapping_add(GEAR[usize::from(byte)])
}

/// Cuts what is left of one segment, in a buffer of [`ROOM`] bytes, and gives each chunk. Says how many bytes there were.
///
/// # Errors
/// When the segment cannot be read, or `each` fails.
pub fn cut_segment(
    mut segment: impl Read,
    buffer: &mut [u8],
    each: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<u64> {
    let (mut start, mut end, mut total, mut ended) = (0, 0, 0, false);
    loop {
        while !ended && end - start < CHUNK_MAX {
            if start > 0 {
                buffer.copy_within(start..end, 0);
                (start, end) = (0, end - start);
            }
            match segment.read(&mut buffer[end..]) {
                Ok(0) => ended = true,
                Ok(read) => (end, total) = (end + read, total + read as u64),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if start == end {
            return Ok(total);
        }
        let length = cut(&buffer[start..end]);
        each(&buffer[start..start + length])?;
        start += length;
    }
}

/// What a chunk takes in its line: a length of up to six digits, a hash, two blanks.
const CHUNK_TEXT: u64 = 6 + HASH_TEXT_LEN as u64 + 2;

/// How many chunks a file of this size has at most: all of the smallest that a cut makes, and one more for each segment.
pub(super) const fn chunks_max(size: u64) -> u64 {
    size / (8 << 10) + 2
}

/// The longest line of chunks that a file of this size has.
pub(super) const fn chunk_line_max(size: u64) -> u64 {
    chunks_max(size).saturating_mul(CHUNK_TEXT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize) -> Vec<u8> {
        let mut state = 7_u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        };
        (0..len).map(|_| next()).collect()
    }

    fn cuts(bytes: &[u8]) -> Vec<usize> {
        let mut lengths = Vec::new();
        let mut each = |chunk: &[u8]| {
            lengths.push(chunk.len());
            Ok(())
        };
        let total = cut_segment(bytes, &mut vec![0; ROOM], &mut each).unwrap();
        assert_eq!(total, bytes.len() as u64);
        assert_eq!(lengths.iter().sum::<usize>(), bytes.len());
        lengths
    }

    #[test]
    fn the_cuts_never_change() {
        // Golden: with other ones nothing that a server has would be found again.
        assert_eq!(GEAR[0], 0xe220_a839_7b1d_cdaf);
        let found = cuts(&noise(600_000));
        assert_eq!(
            found,
            [
                35158, 38076, 66202, 66016, 58948, 97393, 76627, 80546, 81034
            ]
        );
    }

    #[test]
    fn chunks_have_their_sizes_and_an_insertion_moves_few() {
        let bytes = noise(8 << 20);
        let lengths = cuts(&bytes);
        let (last, others) = lengths.split_last().unwrap();
        assert!(
            others
                .iter()
                .all(|len| (CHUNK_MIN..=CHUNK_MAX).contains(len))
        );
        assert!(*last <= CHUNK_MAX);
        let mean = bytes.len() / lengths.len();
        assert!((40 << 10..96 << 10).contains(&mean), "{mean}");
        let mut other = bytes.clone();
        other.splice(4_000_000..4_000_000, *b"inserted");
        let other = cuts(&other);
        let same = lengths
            .iter()
            .zip(&other)
            .take_while(|(a, b)| a == b)
            .count();
        let back = lengths.iter().rev().zip(other.iter().rev());
        let same = same + back.take_while(|(a, b)| a == b).count();
        assert!(same + 3 >= lengths.len(), "{same} of {}", lengths.len());
        assert_eq!(cuts(&vec![0; 1 << 20]), [CHUNK_MAX; 4]);
        assert_eq!(cuts(b""), [0; 0]);
        assert_eq!(cuts(b"x"), [1]);
    }
}
