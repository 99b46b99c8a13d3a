//! Writes one gzip member that mixes deflated and stored blocks, so that what does not shrink costs a copy and a checksum
//! instead of deflate's 10 ms a megabyte. One member, because many readers ignore a second one.
//!
//! Between the two: a sync flush ends deflate's output on a byte boundary, where a stored block may begin; afterwards the
//! compressor starts afresh, since it has not seen what was stored and must not refer across it.

use std::io::{self, Write};

use flate2::{Compress, Compression, Crc, FlushCompress, Status};

/// The most that one stored block holds: its length has 16 bits.
const BLOCK: usize = 65_535;

/// A stored block's head: the type, the length and its complement.
const HEAD: usize = 5;

/// What is collected before it is written out: four stored blocks.
const BUFFER: usize = 4 * (BLOCK + HEAD);

/// The compressor must have room for a whole flush marker, or it writes a second one.
const ROOM: usize = 64;

/// Below this no choice is made: a header or a tiny file goes with whatever is on, since changing costs as much.
const TINY: usize = 512;

/// How much of a chunk is counted. Enough to tell text from noise, and 3 us.
const COUNTED: usize = 4096;

/// How much of a chunk is deflated for a try, once counting has found noise: enough for deflate to find what repeats.
const TRIED: usize = 64 * 1024;

/// Deflate is worth it if it saves one byte of 16. It does about 100 MB/s, so below that it only wins time where the
/// network is slower than 100 / 16 MB/s, 50 Mbit/s.
const WORTH: usize = 16;

/// Writes gzip.
pub(super) struct Gzip<W: Write> {
    out: W,
    /// How much was written to `out`.
    written: usize,
    buffer: Vec<u8>,
    /// Whether stored blocks are on; with level 0 always, but for the rest of what was deflated before.
    storing: bool,
    /// Where in the buffer the head of the open stored block is.
    open: Option<usize>,
    level: u32,
    compress: Compress,
    /// The level that it was made for.
    made_for: u32,
    trial: Compress,
    tried: Vec<u8>,
    sum: Crc,
}

impl<W: Write> Gzip<W> {
    /// Begins a member, with this level: 0 stores, 9 deflates the most.
    pub(super) fn new(out: W, level: u32) -> Gzip<W> {
        let level = level.min(9);
        let mut buffer = Vec::with_capacity(BUFFER);
        // Deflate, no flags, no time, no extra flags, made on an unknown system: the same bytes everywhere.
        buffer.extend_from_slice(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]);
        Gzip {
            out,
            written: 0,
            buffer,
            storing: level == 0,
            open: None,
            level,
            compress: Compress::new(Compression::new(level), false),
            made_for: level,
            trial: Compress::new(Compression::fast(), false),
            // The quickest level takes at most nine bits for a byte.
            tried: vec![0; TRIED + TRIED / 8 + 64],
            sum: Crc::new(),
        }
    }

    /// Looks at the next chunk of a file, and chooses how it, and what follows, will be written. `start` says that the file
    /// begins with it.
    pub(super) fn choose(&mut self, level: u32, chunk: &[u8], start: bool) -> io::Result<()> {
        self.level = level.min(9);
        if self.level == 0 {
            return self.store();
        }
        if chunk.len() < TINY {
            return Ok(());
        }
        if !noise(middle(chunk, COUNTED)) {
            return self.deflate();
        }
        // Noise that is too little to try goes with what is on; noise behind noise is not tried again.
        if chunk.len() < COUNTED || (self.storing && !start) {
            return Ok(());
        }
        if self.shrinks(middle(chunk, TRIED)) {
            self.deflate()
        } else {
            self.store()
        }
    }

    /// Ends the member, flushes, and gives the writer back.
    pub(super) fn finish(mut self) -> io::Result<W> {
        if self.storing {
            self.close();
            // An empty stored block that is the last one.
            self.write_out(HEAD)?;
            self.buffer.extend_from_slice(&[1, 0, 0, 0xff, 0xff]);
        } else {
            self.compress(&[], FlushCompress::Finish)?;
        }
        self.write_out(8)?;
        self.buffer.extend_from_slice(&self.sum.sum().to_le_bytes());
        self.buffer
            .extend_from_slice(&self.sum.amount().to_le_bytes());
        self.write_out(BUFFER)?;
        self.out.flush()?;
        Ok(self.out)
    }

    /// Whether what comes next is stored.
    pub(super) fn is_storing(&self) -> bool {
        self.storing
    }

    pub(super) fn get_mut(&mut self) -> &mut W {
        &mut self.out
    }

    /// How much there is of the member by now.
    pub(super) fn made(&self) -> usize {
        self.written.wrapping_add(self.buffer.len())
    }

    fn shrinks(&mut self, sample: &[u8]) -> bool {
        self.trial.reset();
        // The output always has room for all of it: zlib-rs 0.6 panics later on if it is reset while some is pending.
        let status = self
            .trial
            .compress(sample, &mut self.tried, FlushCompress::Finish);
        let most = sample.len() - sample.len() / WORTH;
        matches!(status, Ok(Status::StreamEnd)) && self.trial.total_out() <= most as u64
    }

    fn deflate(&mut self) -> io::Result<()> {
        if self.made_for != self.level {
            // A new one begins as one does behind stored blocks.
            self.store()?;
            self.compress = Compress::new(Compression::new(self.level), false);
            self.made_for = self.level;
        } else if self.storing {
            self.compress.reset();
        }
        if self.storing {
            self.close();
            self.storing = false;
        }
        Ok(())
    }

    fn store(&mut self) -> io::Result<()> {
        if !self.storing {
            if self.compress.total_in() > 0 {
                self.compress(&[], FlushCompress::Sync)?;
            }
            self.storing = true;
        }
        Ok(())
    }

    /// Fills in the open stored block's head.
    fn close(&mut self) {
        let Some(at) = self.open.take() else { return };
        // `append` keeps a block within 16 bits.
        let len = (self.buffer.len() - at - HEAD) as u16;
        let [low, high] = len.to_le_bytes();
        self.buffer[at..at + HEAD].copy_from_slice(&[0, low, high, !low, !high]);
    }

    /// Adds to the stored blocks.
    fn append(&mut self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let at = match self.open {
                Some(at) if self.buffer.len() - at - HEAD < BLOCK => at,
                _ => {
                    self.close();
                    self.write_out(HEAD + BLOCK)?;
                    let at = self.buffer.len();
                    self.buffer.extend_from_slice(&[0; HEAD]);
                    self.open = Some(at);
                    at
                }
            };
            let room = BLOCK - (self.buffer.len() - at - HEAD);
            let (now, later) = data.split_at(room.min(data.len()));
            self.buffer.extend_from_slice(now);
            data = later;
        }
        Ok(())
    }

    fn compress(&mut self, mut data: &[u8], flush: FlushCompress) -> io::Result<()> {
        loop {
            self.write_out(ROOM)?;
            let before = self.compress.total_in();
            let status = self
                .compress
                .compress_vec(data, &mut self.buffer, flush)
                .map_err(io::Error::other)?;
            // No more is taken than there is.
            data = &data[(self.compress.total_in() - before) as usize..];
            let room = self.buffer.len() < self.buffer.capacity();
            let done = match flush {
                FlushCompress::None => data.is_empty(),
                FlushCompress::Finish => status == Status::StreamEnd,
                // Room left over says that the flush is complete.
                _ => room,
            };
            if done {
                return Ok(());
            }
        }
    }

    /// Makes room for `bytes` more by writing out what there is. No stored block may be open then.
    fn write_out(&mut self, bytes: usize) -> io::Result<()> {
        if self.buffer.len() + bytes > BUFFER {
            self.out.write_all(&self.buffer)?;
            self.written = self.made();
            self.buffer.clear();
        }
        Ok(())
    }
}

impl<W: Write> Write for Gzip<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.sum.update(data);
        if self.storing {
            self.append(data)?;
        } else {
            self.compress(data, FlushCompress::None)?;
        }
        Ok(data.len())
    }

    /// Does nothing: only the end of the member is worth a flush.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// At most `most` bytes from the middle: the start is often a header that says little about the rest.
fn middle(chunk: &[u8], most: usize) -> &[u8] {
    let len = chunk.len().min(most);
    let from = (chunk.len() - len) / 2;
    &chunk[from..from + len]
}

/// Whether all byte values are about as frequent, as in what is compressed or encrypted already. Two bytes picked at
/// random are equal once in 256 times there; twice as often is enough to call it something else (base64 has once in 64,
/// text once in 15).
fn noise(sample: &[u8]) -> bool {
    let mut counts = [0_u64; 256];
    for &byte in sample {
        counts[usize::from(byte)] += 1;
    }
    let equal: u64 = counts.iter().map(|count| count * count).sum();
    let len = sample.len() as u64;
    // Each byte equals itself: that is the second term.
    equal < len * len / 128 + len
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::archive::gunzip::GzipMembers;
    use crate::formats::archive::testing::{random, text};
    use flate2::read::GzDecoder;
    use std::io::Read;

    fn gzip(level: u32, parts: &[Vec<u8>]) -> Vec<u8> {
        let mut gzip = Gzip::new(Vec::new(), level);
        for part in parts {
            gzip.write_all(&[0; 512]).unwrap();
            for (index, chunk) in part.chunks(BUFFER - 1).enumerate() {
                gzip.choose(level, chunk, index == 0).unwrap();
                gzip.write_all(chunk).unwrap();
            }
        }
        gzip.finish().unwrap()
    }

    #[test]
    fn a_level_that_changes_on_the_way_reads_back() {
        let mut gzip = Gzip::new(Vec::new(), 1);
        let mut expected = Vec::new();
        // With noise between.
        for level in [0, 1, 2, 6, 0, 6, 6, 0] {
            for part in [text(300_000), random(70_000), text(100), text(5000)] {
                gzip.choose(level, &part, true).unwrap();
                gzip.write_all(&part).unwrap();
                expected.extend(part);
            }
        }
        let bytes = gzip.finish().unwrap();
        assert!(bytes.len() < expected.len() * 4 / 5, "{}", bytes.len());
        let mut plain = Vec::new();
        GzDecoder::new(&bytes[..]).read_to_end(&mut plain).unwrap();
        assert!(plain == expected);
        let mut ours = Vec::new();
        GzipMembers::new(&bytes[..]).read_to_end(&mut ours).unwrap();
        assert!(ours == expected);
    }

    #[test]
    fn every_mix_reads_back() {
        let long = [random(300_000), text(300_000), random(1_000_000)].concat();
        let table: Vec<Vec<Vec<u8>>> = vec![
            vec![],
            vec![vec![]],
            vec![text(1)],
            vec![random(1)],
            vec![random(BLOCK)],
            vec![random(BLOCK - 512)],
            vec![random(4 * BLOCK)],
            vec![random(700_000), text(700_000), random(700_000)],
            vec![
                text(100_000),
                random(5_000),
                text(100),
                random(600),
                text(5_000),
            ],
            vec![
                random(5_000),
                text(5_000),
                random(5_000),
                text(5_000),
                random(9),
            ],
            vec![long],
            (0..300)
                .map(|number| {
                    if number % 2 == 0 {
                        random(number * 97)
                    } else {
                        text(number * 89)
                    }
                })
                .collect(),
        ];
        for parts in &table {
            for level in [0, 1, 3, 6, 9] {
                let bytes = gzip(level, parts);
                let mut plain = Vec::new();
                GzDecoder::new(&bytes[..]).read_to_end(&mut plain).unwrap();
                let expected: Vec<u8> = parts
                    .iter()
                    .flat_map(|part| [vec![0; 512], part.clone()].concat())
                    .collect();
                assert!(plain == expected, "level {level}, {} parts", parts.len());
                assert!(bytes == gzip(level, parts), "the same bytes each time");
            }
        }
    }

    #[test]
    fn what_does_not_shrink_is_stored_and_what_does_is_deflated() {
        let noise = random(1_000_000);
        let size = gzip(6, std::slice::from_ref(&noise)).len();
        // 512 bytes of zeros, 16 heads, the start and the end of the member.
        assert!(size < noise.len() + 512 + 200, "{size}");
        let size = gzip(6, &[text(1_000_000)]).len();
        assert!(size < 200_000, "{size}");
        // Noise that repeats: every byte as frequent as any other, and yet it shrinks.
        let repeated = random(5_000).repeat(100);
        let size = gzip(6, &[repeated]).len();
        assert!(size < 50_000, "{size}");
        // Text behind stored noise in the same file is found.
        let size = gzip(6, &[[random(600_000), text(1_000_000)].concat()]).len();
        assert!(size < 1_000_000, "{size}");
        // Small texts behind a picture are not stored with it.
        let small: Vec<_> = [random(50_000)]
            .into_iter()
            .chain((0..100).map(|_| text(5_000)))
            .collect();
        let size = gzip(6, &small).len();
        assert!(size < 150_000, "{size}");
        let size = gzip(0, &[text(100_000)]).len();
        assert!(size > 100_000, "{size}");
    }

    #[test]
    fn noise_is_told_from_data() {
        let base64: Vec<u8> = random(4096).iter().map(|byte| byte % 64 + 32).collect();
        let table = [
            (random(4096), true),
            (random(512), true),
            (text(4096), false),
            (vec![0; 4096], false),
            (base64, false),
        ];
        for (sample, expected) in table {
            assert_eq!(super::noise(&sample), expected);
        }
    }

    #[test]
    fn a_writer_that_fails_is_told() {
        struct BrokenSource;
        impl Write for BrokenSource {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        assert!(Gzip::new(BrokenSource, 3).finish().is_err());
    }
}
