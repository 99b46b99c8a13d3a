//! Compresses an archive with what the link is worth: lz4 or gzip, and stored where it is quicker than both. What it begins with
//! is decided before anything is sent, by what is known of the link. From lz4 it goes over to gzip where a link shows itself to be
//! slow; then that follows the frame as a member of its own.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use crate::formats::archive::effort::{Effort, Method, Throttle};
use crate::formats::archive::gzip::Gzip;
use crate::formats::archive::lz4::Lz4;

/// Writes an archive, compressed.
pub(super) struct Compressor<'a, W: Write> {
    throttle: Throttle<'a>,
    format: PackedFormat<Counted<W>>,
}

enum PackedFormat<W: Write> {
    Gzip(Box<Gzip<W>>),
    Lz4(Box<Lz4<W>>),
    /// Writing has failed.
    Failed,
}

/// Counts what is written, and how long that takes: whoever waits for the sender is not busy.
struct Counted<W> {
    out: W,
    bytes: usize,
    time: Duration,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let begun = Instant::now();
        let written = self.out.write(data)?;
        self.time += begun.elapsed();
        self.bytes += written;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl<'a, W: Write> Compressor<'a, W> {
    pub(super) fn new(out: W, effort: Effort<'a>) -> io::Result<Compressor<'a, W>> {
        let throttle = Throttle::new(effort);
        let out = Counted {
            out,
            bytes: 0,
            time: Duration::ZERO,
        };
        let format = match throttle.method() {
            Method::Lz4 => PackedFormat::Lz4(Box::new(Lz4::new(out)?)),
            Method::Deflate(level) => PackedFormat::Gzip(Box::new(Gzip::new(out, level))),
        };
        Ok(Compressor { throttle, format })
    }

    /// Looks at the link and at the next chunk of a file, and chooses how it, and what follows, will be written. `start` says
    /// that the file begins with it.
    pub(super) fn choose(&mut self, chunk: &[u8], start: bool) -> io::Result<()> {
        let method = self.throttle.judge();
        if let (PackedFormat::Lz4(_), Method::Deflate(level @ 1..)) = (&self.format, method) {
            let format = std::mem::replace(&mut self.format, PackedFormat::Failed);
            if let PackedFormat::Lz4(lz4) = format {
                self.format = PackedFormat::Gzip(Box::new(Gzip::new(lz4.finish()?, level)));
                self.throttle.without_lz4();
            }
        }
        match (&mut self.format, method) {
            (PackedFormat::Gzip(gzip), Method::Deflate(level)) => gzip.choose(level, chunk, start),
            (PackedFormat::Lz4(lz4), method) => {
                lz4.store(method != Method::Lz4);
                Ok(())
            }
            (PackedFormat::Gzip(_), Method::Lz4) | (PackedFormat::Failed, _) => Err(failed()),
        }
    }

    /// Writes what is left, and flushes.
    pub(super) fn finish(self) -> io::Result<W> {
        let mut out = match self.format {
            PackedFormat::Gzip(gzip) => gzip.finish()?,
            PackedFormat::Lz4(lz4) => lz4.finish()?,
            PackedFormat::Failed => return Err(failed()),
        };
        out.flush()?;
        Ok(out.out)
    }
}

fn failed() -> io::Error {
    io::Error::other("what was written before is not whole")
}

impl<W: Write> Write for Compressor<'_, W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let begun = Instant::now();
        let (made, time, written) = match &mut self.format {
            PackedFormat::Gzip(gzip) => {
                let (made, time) = (gzip.made(), gzip.get_mut().time);
                let written = gzip.write(data)?;
                let waited = gzip.get_mut().time - time;
                if gzip.is_storing() {
                    return Ok(written);
                }
                (gzip.made().wrapping_sub(made), waited, written)
            }
            PackedFormat::Lz4(lz4) => {
                let out = lz4.get_mut();
                let (made, time) = (out.bytes, out.time);
                let written = lz4.write(data)?;
                let out = lz4.get_mut();
                (out.bytes - made, out.time - time, written)
            }
            PackedFormat::Failed => return Err(failed()),
        };
        let busy = begun.elapsed().saturating_sub(time);
        self.throttle.compressed(written, made, busy);
        Ok(written)
    }

    /// Does nothing: only the end is worth a flush.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufReader, Read};

    use crate::formats::archive::decoded::decoded;
    use crate::formats::archive::effort::Outflow;
    use crate::formats::archive::magic;
    use crate::formats::archive::testing::{random, text};

    /// What is made for a link that took so many MB/s last time, and takes so many kB/s then, piece by piece.
    fn packed(known: Option<u64>, lz4: bool, speeds: &[u64]) -> (Vec<u8>, Vec<u8>) {
        let outflow = Outflow::default();
        let effort = Effort::Link {
            outflow: &outflow,
            local: false,
            known: known.map(|known| known * 1_000_000),
            lz4,
        };
        let mut compressor = Compressor::new(Vec::new(), effort).unwrap();
        let mut plain = Vec::new();
        for kilobytes in speeds {
            for part in [text(300_000), random(70_000), text(100), text(5000)] {
                compressor.choose(&part, true).unwrap();
                compressor.write_all(&part).unwrap();
                plain.extend(part);
            }
            let time = Duration::from_millis((1 << 20) / kilobytes);
            outflow.sent(1 << 20, time);
        }
        (compressor.finish().unwrap(), plain)
    }

    #[test]
    fn what_a_link_is_worth_reads_back_whatever_it_turns_into() {
        let (gzip, lz4) = (&magic::GZIP[..], &magic::LZ4[..]);
        let table = [
            (None, true, gzip, false),
            (Some(312), false, gzip, false),
            (Some(2000), true, gzip, false),
            (Some(12), true, gzip, false),
            (Some(312), true, lz4, true),
        ];
        // A slow one takes minutes for what the slowest machine packs in seconds, so that it is what is waited for.
        let quick = 1_000_000;
        for (known, takes, magic, turns) in table {
            for speeds in [
                &[quick, 100_000, 30_000, 1, quick, 10, 10, 10, 10, quick][..],
                &[10; 6],
                &[],
            ] {
                let (packed, expected) = packed(known, takes, speeds);
                assert!(packed.starts_with(magic), "{known:?}");
                for piece in [7, 4096, 1 << 20] {
                    let mut plain = Vec::new();
                    let bytes = BufReader::with_capacity(piece, &packed[..]);
                    decoded(bytes).unwrap().read_to_end(&mut plain).unwrap();
                    assert!(plain == expected, "{known:?} {speeds:?} {piece}");
                }
                assert!(packed.len() <= expected.len() * 9 / 10 + 40);
                let second = packed.windows(10).any(|part| {
                    part == [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255] && packed[..10] != *part
                });
                assert_eq!(second, turns && !speeds.is_empty(), "{known:?} {speeds:?}");
            }
        }
    }
}
