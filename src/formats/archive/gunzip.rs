//! Out of gzip: members that follow each other, and checksums that are checked.
//!
//! Stored blocks at the start of a member pass by as they are, without inflating: what does not shrink, or is sent over a link
//! that is quicker than any compressor, costs a checksum and nothing else. From the first other block on, all is inflated.

use std::io::{self, BufRead, Read};

use flate2::{Crc, Decompress, FlushDecompress, Status};

use crate::formats::archive::magic;
use crate::system::memory::Pages;

/// What is inflated at once.
const PLAIN: usize = 32 << 10;

/// How far deflate may refer back.
const WINDOW: usize = 32 << 10;

/// The most that the optional fields of a header may hold: a name and a comment, and nobody's novel.
const FIELDS_MAX: usize = 128 << 10;

/// The plain bytes of a gzip file of any number of members. Behind the last one there may be zeros (tapes and block devices
/// pad with them), a frame of lz4, and nothing else. Checksums are checked, so it must be read to its end.
pub(super) struct GzipMembers<R: BufRead> {
    packed: R,
    at: MemberPlace,
    sum: Crc,
    /// None before it is needed: its window is the largest part of it.
    inflate: Option<Decompress>,
    /// What was inflated last, up to `until`, and has been read up to `from`.
    plain: Option<Pages>,
    from: usize,
    until: usize,
    window: Window,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum MemberPlace {
    /// Before a member.
    Head,
    /// Before a block, of a member of which none was inflated yet.
    Block,
    /// In a stored block: what is left of it, and whether it is the last one.
    Stored(usize, bool),
    Inflating,
    Trailer,
    End,
}

impl<R: BufRead> GzipMembers<R> {
    pub(super) fn new(packed: R) -> GzipMembers<R> {
        GzipMembers {
            packed,
            at: MemberPlace::Head,
            sum: Crc::new(),
            inflate: None,
            plain: None,
            from: 0,
            until: 0,
            window: Window::default(),
        }
    }

    /// What follows the last member.
    pub(super) fn into_inner(self) -> R {
        self.packed
    }

    /// Goes on until there are plain bytes, or the end. Those of a stored block are at most so many of the packed ones.
    fn advance(&mut self) -> io::Result<usize> {
        loop {
            match self.at {
                MemberPlace::Head => {
                    head(&mut self.packed)?;
                    self.sum.reset();
                    self.window.len = 0;
                    self.at = MemberPlace::Block;
                }
                MemberPlace::Block => self.block()?,
                MemberPlace::Stored(0, last) => {
                    self.at = if last {
                        MemberPlace::Trailer
                    } else {
                        MemberPlace::Block
                    };
                }
                MemberPlace::Stored(left, _) => {
                    return match self.packed.fill_buf()?.len() {
                        0 => Err(truncated()),
                        len => Ok(len.min(left)),
                    };
                }
                MemberPlace::Inflating => {
                    self.inflate()?;
                    if self.until > 0 {
                        return Ok(0);
                    }
                }
                MemberPlace::Trailer => self.trailer()?,
                MemberPlace::End => return Ok(0),
            }
        }
    }

    /// Looks at the first byte of a block, and takes the head of a stored one.
    fn block(&mut self) -> io::Result<()> {
        let first = *self.packed.fill_buf()?.first().ok_or_else(truncated)?;
        // The block begins on a whole byte: bit 0 says whether it is the last one, and a type of two zeros that it is stored.
        if first & 0b110 != 0 {
            let inflate = self.inflate.get_or_insert_with(|| Decompress::new(false));
            inflate.reset(false);
            let near = self.window.bytes();
            if !near.is_empty() {
                let set = inflate.set_dictionary(near);
                set.map_err(|error| invalid(&error.to_string()))?;
            }
            self.at = MemberPlace::Inflating;
            return Ok(());
        }
        let mut head = [0; 5];
        self.packed.read_exact(&mut head)?;
        let [_, low, high, not_low, not_high] = head;
        if [low, high] != [!not_low, !not_high] {
            return Err(invalid("a stored block's length is wrong"));
        }
        let len = usize::from(u16::from_le_bytes([low, high]));
        self.at = MemberPlace::Stored(len, first & 1 == 1);
        Ok(())
    }

    fn inflate(&mut self) -> io::Result<()> {
        (self.from, self.until) = (0, 0);
        let plain = self.plain.get_or_insert_with(|| Pages::new(PLAIN));
        let inflate = self.inflate.get_or_insert_with(|| Decompress::new(false));
        loop {
            let packed = self.packed.fill_buf()?;
            let (ended, before) = (packed.is_empty(), inflate.total_in());
            let made_before = inflate.total_out();
            let status = inflate.decompress(packed, plain, FlushDecompress::None);
            let status = status.map_err(|error| invalid(&error.to_string()))?;
            // No more is taken than there is.
            let taken = (inflate.total_in() - before) as usize;
            self.packed.consume(taken);
            // Nor is more made than there is room for.
            self.until = (inflate.total_out() - made_before) as usize;
            match status {
                Status::StreamEnd => self.at = MemberPlace::Trailer,
                _ if self.until > 0 => {}
                _ if ended => return Err(truncated()),
                _ => continue,
            }
            self.sum.update(&plain[..self.until]);
            return Ok(());
        }
    }

    /// Checks what stands behind a member, and looks for another one.
    fn trailer(&mut self) -> io::Result<()> {
        let mut trailer = [0; 8];
        self.packed.read_exact(&mut trailer)?;
        let (sum, len) = (
            self.sum.sum().to_le_bytes(),
            self.sum.amount().to_le_bytes(),
        );
        if trailer != *[sum, len].concat() {
            return Err(invalid("its checksum is wrong"));
        }
        self.at = match self.packed.fill_buf()?.first() {
            Some(first) if *first == magic::GZIP[0] => MemberPlace::Head,
            Some(first) if *first == magic::LZ4[0] => MemberPlace::End,
            Some(_) => {
                only_zeros(&mut self.packed, "something that is not gzip follows it")?;
                MemberPlace::End
            }
            None => MemberPlace::End,
        };
        Ok(())
    }

    /// What was inflated and has not been read.
    fn inflated(&self) -> &[u8] {
        match &self.plain {
            Some(plain) => &plain[self.from..self.until],
            None => &[],
        }
    }
}

/// The last plain bytes, which what is deflated may refer to.
#[derive(Default)]
struct Window {
    /// Room for two windows, so that not each few bytes more move all of one.
    room: Option<Pages>,
    len: usize,
}

impl Window {
    fn remember(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(WINDOW)..];
        let room = self.room.get_or_insert_with(|| Pages::new(2 * WINDOW));
        if self.len + bytes.len() > room.len() {
            let kept = self.len.min(WINDOW);
            room.copy_within(self.len - kept..self.len, 0);
            self.len = kept;
        }
        room[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    fn bytes(&self) -> &[u8] {
        match &self.room {
            Some(room) => &room[self.len.saturating_sub(WINDOW)..self.len],
            None => &[],
        }
    }
}

impl<R: BufRead> BufRead for GzipMembers<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        // What was inflated last of a member comes before its trailer.
        if self.from < self.until {
            return Ok(self.inflated());
        }
        let stored = self.advance()?;
        if self.from < self.until {
            return Ok(self.inflated());
        }
        match self.at {
            MemberPlace::Stored(..) => Ok(&self.packed.fill_buf()?[..stored]),
            _ => Ok(&[]),
        }
    }

    fn consume(&mut self, amount: usize) {
        match self.at {
            MemberPlace::Stored(left, last) if self.from == self.until => {
                if let Ok(bytes) = self.packed.fill_buf() {
                    self.sum.update(&bytes[..amount]);
                    self.window.remember(&bytes[..amount]);
                }
                self.packed.consume(amount);
                self.at = MemberPlace::Stored(left - amount, last);
            }
            _ => self.from += amount,
        }
    }
}

impl<R: BufRead> Read for GzipMembers<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut available = self.fill_buf()?;
        let read = available.read(into)?;
        self.consume(read);
        Ok(read)
    }
}

/// Reads over a member's header.
fn head(packed: &mut impl BufRead) -> io::Result<()> {
    let mut sum = Crc::new();
    let mut fixed = [0; 10];
    packed.read_exact(&mut fixed)?;
    sum.update(&fixed);
    let flags = fixed[3];
    if fixed[..2] != magic::GZIP || fixed[2] != 8 || flags & 0xe0 != 0 {
        return Err(invalid("its gzip header is invalid"));
    }
    if flags & 4 != 0 {
        let mut len = [0; 2];
        packed.read_exact(&mut len)?;
        sum.update(&len);
        let mut extra = vec![0; usize::from(u16::from_le_bytes(len))];
        packed.read_exact(&mut extra)?;
        sum.update(&extra);
    }
    for flag in [8, 16] {
        if flags & flag != 0 {
            let mut text = Vec::new();
            let most = FIELDS_MAX as u64;
            packed.take(most).read_until(0, &mut text)?;
            if text.last() != Some(&0) {
                return Err(match text.len() < FIELDS_MAX {
                    true => truncated(),
                    false => invalid("its gzip header is too long"),
                });
            }
            sum.update(&text);
        }
    }
    if flags & 2 != 0 {
        let mut told = [0; 2];
        packed.read_exact(&mut told)?;
        if sum.sum().to_le_bytes()[..2] != told {
            return Err(invalid("the checksum of its gzip header is wrong"));
        }
    }
    Ok(())
}

/// Refuses what follows, unless it is padding.
pub(super) fn only_zeros(rest: &mut impl BufRead, why: &str) -> io::Result<()> {
    loop {
        let piece = rest.fill_buf()?;
        let len = piece.len();
        if len == 0 {
            return Ok(());
        }
        if piece.iter().any(|&byte| byte != 0) {
            return Err(invalid(why));
        }
        rest.consume(len);
    }
}

pub(super) fn truncated() -> io::Error {
    io::ErrorKind::UnexpectedEof.into()
}

pub(super) fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    use flate2::write::GzEncoder;
    use flate2::{Compression, GzBuilder};

    use crate::formats::archive::testing::{by_pieces, whole_and_by_pieces};

    fn member(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn plain(packed: &[u8]) -> io::Result<Vec<u8>> {
        whole_and_by_pieces(packed, [1, 7, 700], GzipMembers::new)
    }

    #[test]
    fn gzip_members_are_read_to_the_last() {
        let one = member(b"one");
        let two = [member(b"one"), member(b""), member(b" two")].concat();
        let padded = [one.clone(), vec![0; 700]].concat();
        let table = [(&one, "one"), (&two, "one two"), (&padded, "one")];
        for (packed, text) in table {
            assert_eq!(plain(packed).unwrap(), text.as_bytes());
        }
        let mut corrupt = one.clone();
        let crc = corrupt.len() - 6;
        corrupt[crc] ^= 1;
        let table = [
            &one[..one.len() - 1],
            &corrupt,
            &[one.clone(), b"x".to_vec()].concat(),
            &[one.clone(), vec![0; 512], b"x".to_vec()].concat(),
            &[one.clone(), vec![0x1f]].concat(),
        ];
        for packed in table {
            assert!(plain(packed).is_err(), "{packed:?}");
        }
    }

    #[test]
    fn stored_blocks_may_be_followed_by_others_that_refer_to_them() {
        // Not to be shrunk, and then the same again, which is: deflate refers across.
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let noise: Vec<u8> = (0..30_000).map(|_| next()).collect();
        let text = [&noise[..], &noise, b" and a text", &noise[..9000]].concat();
        for level in [0, 1, 6, 9] {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
            encoder.write_all(&text).unwrap();
            let packed = encoder.finish().unwrap();
            assert!(plain(&packed).unwrap() == text, "level {level}");
            assert!(by_pieces(&packed[..packed.len() - 9], 100, GzipMembers::new).is_err());
        }
    }

    #[test]
    fn a_header_may_have_everything() {
        let builder = GzBuilder::new()
            .filename("name")
            .comment("what")
            .extra(vec![7; 300]);
        let mut encoder = builder.write(Vec::new(), Compression::fast());
        encoder.write_all(b"text").unwrap();
        let packed = encoder.finish().unwrap();
        assert_eq!(plain(&packed).unwrap(), b"text");
        for cut in [5, 11, 200, 315, 320] {
            assert!(plain(&packed[..cut]).is_err(), "{cut}");
        }
        // With the checksum of the header, and with a wrong one.
        let mut summed = member(b"text");
        summed[3] |= 2;
        let mut sum = Crc::new();
        sum.update(&summed[..10]);
        let sum = sum.sum().to_le_bytes();
        summed.splice(10..10, [sum[0], sum[1]]);
        assert_eq!(plain(&summed).unwrap(), b"text");
        summed[10] ^= 1;
        assert!(plain(&summed).is_err());
        for (at, byte) in [(1, 0), (2, 7), (3, 0x80)] {
            let mut wrong = member(b"text");
            wrong[at] = byte;
            assert!(plain(&wrong).is_err(), "{at}");
        }
    }
}
