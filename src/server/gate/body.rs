//! The body of a request: read strictly in the client's framing, so that its reader can tell a body that was cut off from
//! one that ended.

use crate::server::gate::head::Framing;
use crate::server::gate::refused::Refused;

/// A chunk's size with its extensions: more than anybody sends, and little to hold.
const SIZE_LINE_MAX: usize = 256;
/// All trailers of a body. They are read over, since nothing here asks for one.
const TRAILERS_MAX: usize = 8 << 10;

/// A body that arrives.
#[derive(Debug)]
pub(crate) struct IncomingBody(BodyState);

#[derive(Debug)]
enum BodyState {
    /// This many bytes are to come.
    Length(u64),
    Chunks(Chunks),
    Done,
}

/// What was found in some bytes that arrived.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Decoded {
    /// How many bytes of data now stand at the front.
    pub(crate) data: usize,
    /// How many of the bytes belonged to the body; more came only if it ended.
    pub(crate) taken: usize,
}

impl IncomingBody {
    pub(crate) fn new(framing: Framing) -> IncomingBody {
        IncomingBody(match framing {
            Framing::Empty => BodyState::Done,
            Framing::Length(length) => BodyState::Length(length),
            Framing::Chunked => BodyState::Chunks(Chunks::default()),
        })
    }

    /// Whether all of it was taken.
    pub(crate) fn done(&self) -> bool {
        matches!(self.0, BodyState::Done)
    }

    /// How many bytes are still to come at most, as far as that is known.
    pub(crate) fn left(&self) -> u64 {
        match self.0 {
            BodyState::Length(left) => left,
            BodyState::Chunks(_) => u64::MAX,
            BodyState::Done => 0,
        }
    }

    /// Moves the data among bytes that arrived to their front.
    pub(crate) fn decode(&mut self, bytes: &mut [u8]) -> Result<Decoded, Refused> {
        let (data, taken, ended) = match &mut self.0 {
            BodyState::Done => (0, 0, false),
            BodyState::Length(left) => {
                let taken = bytes
                    .len()
                    .min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= taken as u64;
                (taken, taken, *left == 0)
            }
            BodyState::Chunks(chunks) => chunks.decode(bytes)?,
        };
        if ended {
            self.0 = BodyState::Done;
        }
        Ok(Decoded { data, taken })
    }
}

/// A client's chunks, read strictly.
#[derive(Debug, Default)]
struct Chunks {
    at: ChunkState,
    /// Of the chunk: first its size as it is read, then what is left of it.
    size: u64,
    /// Bytes of the present line, or of all trailers.
    line: usize,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum ChunkState {
    #[default]
    Size,
    Extension,
    SizeEnd,
    Data,
    DataReturn,
    DataEnd,
    /// At the start of a trailer, or of the empty line that ends all.
    Trailers,
    Trailer,
    TrailerEnd,
    LastEnd,
}

impl Chunks {
    /// How much data is at the front now, how many bytes were taken, and whether the body has ended.
    fn decode(&mut self, bytes: &mut [u8]) -> Result<(usize, usize, bool), Refused> {
        let (mut data, mut taken) = (0, 0);
        while let Some(&byte) = bytes.get(taken) {
            if self.at == ChunkState::Data {
                let fits = usize::try_from(self.size).unwrap_or(usize::MAX);
                let part = (bytes.len() - taken).min(fits);
                bytes.copy_within(taken..taken + part, data);
                data += part;
                taken += part;
                self.size -= part as u64;
                if self.size == 0 {
                    self.at = ChunkState::DataReturn;
                }
                continue;
            }
            taken += 1;
            if self.step(byte)? {
                return Ok((data, taken, true));
            }
        }
        Ok((data, taken, false))
    }

    /// One byte between the data; true at the end of all.
    fn step(&mut self, byte: u8) -> Result<bool, Refused> {
        self.line += 1;
        self.at = match (self.at, byte) {
            (ChunkState::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                // The pattern lets hex digits through only.
                let digit = char::from(byte).to_digit(16).map_or(0, u64::from);
                // More than 60 bits are nobody's chunk.
                if self.size >> 56 != 0 {
                    return Err(bad("a chunk is too large"));
                }
                self.size = self.size << 4 | digit;
                ChunkState::Size
            }
            // At least one digit must have come.
            (ChunkState::Size, b'\r') if self.line > 1 => ChunkState::SizeEnd,
            (ChunkState::Size, b';') if self.line > 1 => ChunkState::Extension,
            (ChunkState::Size, _) => return Err(bad("the size of a chunk is not a number")),
            (ChunkState::Extension | ChunkState::Trailer, b'\r') => {
                if self.at == ChunkState::Extension {
                    ChunkState::SizeEnd
                } else {
                    ChunkState::TrailerEnd
                }
            }
            (ChunkState::Extension | ChunkState::Trailer, b'\n' | 0..=8 | 0x0b..=0x1f | 0x7f) => {
                return Err(bad("a line between the chunks has a control character"));
            }
            (ChunkState::Extension, _) => ChunkState::Extension,
            (ChunkState::SizeEnd, b'\n') => {
                self.line = 0;
                if self.size == 0 {
                    ChunkState::Trailers
                } else {
                    ChunkState::Data
                }
            }
            (ChunkState::DataReturn, b'\r') => ChunkState::DataEnd,
            (ChunkState::DataEnd, b'\n') => {
                self.line = 0;
                ChunkState::Size
            }
            (ChunkState::Trailers, b'\r') => ChunkState::LastEnd,
            (ChunkState::Trailers, b'\n' | 0..=b' ' | b':' | 0x7f) => {
                return Err(bad("a trailer has no name"));
            }
            (ChunkState::Trailers | ChunkState::Trailer, _) => ChunkState::Trailer,
            (ChunkState::TrailerEnd, b'\n') => ChunkState::Trailers,
            (ChunkState::LastEnd, b'\n') => return Ok(true),
            (ChunkState::DataReturn | ChunkState::DataEnd, _) => {
                return Err(bad("a chunk is longer than its size"));
            }
            (ChunkState::SizeEnd | ChunkState::TrailerEnd | ChunkState::LastEnd, _) => {
                return Err(bad("a line between the chunks has a bare carriage return"));
            }
            (ChunkState::Data, _) => ChunkState::Data,
        };
        let limit = match self.at {
            ChunkState::Size | ChunkState::Extension | ChunkState::SizeEnd => SIZE_LINE_MAX,
            ChunkState::Trailers
            | ChunkState::Trailer
            | ChunkState::TrailerEnd
            | ChunkState::LastEnd => TRAILERS_MAX,
            ChunkState::Data | ChunkState::DataReturn | ChunkState::DataEnd => usize::MAX,
        };
        if self.line > limit {
            return Err(bad("a line between the chunks is too long"));
        }
        Ok(false)
    }
}

fn bad(why: &str) -> Refused {
    Refused::new(400, format!("the body of the request: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The body's data, how much was taken, and whether it is complete: read in pieces of a size.
    fn read(framing: Framing, raw: &[u8], piece: usize) -> Result<(Vec<u8>, usize, bool), Refused> {
        let mut body = IncomingBody::new(framing);
        let (mut data, mut taken) = (Vec::new(), 0);
        for part in raw.chunks(piece) {
            let mut part = part.to_vec();
            let decoded = body.decode(&mut part)?;
            data.extend_from_slice(&part[..decoded.data]);
            taken += decoded.taken;
            if decoded.taken < part.len() {
                break;
            }
        }
        Ok((data, taken, body.done()))
    }

    #[test]
    fn bodies() {
        type BodyCase<'a> = (Framing, &'a [u8], &'a [u8], usize, bool);
        let table: &[BodyCase] = &[
            (Framing::Empty, b"GET /smuggled", b"", 0, true),
            (Framing::Length(5), b"helloGET /", b"hello", 5, true),
            (Framing::Length(5), b"hell", b"hell", 4, false),
            (
                Framing::Chunked,
                b"5\r\nhello\r\n0\r\n\r\nGET /",
                b"hello",
                15,
                true,
            ),
            (
                Framing::Chunked,
                b"05;a=\"b\"\r\nhello\r\n3\r\n a \r\n00\r\n\r\n",
                b"hello a ",
                31,
                true,
            ),
            (
                Framing::Chunked,
                b"A\r\n0123456789\r\n0\r\nX: y\r\nZ: \r\n\r\n",
                b"0123456789",
                31,
                true,
            ),
            (Framing::Chunked, b"5\r\nhel", b"hel", 6, false),
            (Framing::Chunked, b"5\r\nhello\r\n", b"hello", 10, false),
            (
                Framing::Chunked,
                b"5\r\nhello\r\n0\r\n",
                b"hello",
                13,
                false,
            ),
            (Framing::Chunked, b"0\r\n\r\n", b"", 5, true),
        ];
        for (framing, raw, data, taken, done) in table {
            for piece in [1, 2, 3, 7, 100] {
                let expected = (data.to_vec(), *taken, *done);
                let text = String::from_utf8_lossy(raw);
                assert_eq!(
                    read(*framing, raw, piece).unwrap(),
                    expected,
                    "{text:?} by {piece}"
                );
            }
        }
    }

    #[test]
    fn refusals() {
        let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(SIZE_LINE_MAX));
        let trailers = format!("0\r\n{}\r\n", "X: y\r\n".repeat(TRAILERS_MAX / 6 + 1));
        let digits = format!("{}5\r\nhello\r\n0\r\n\r\n", "0".repeat(SIZE_LINE_MAX));
        let table = [
            "\r\n",
            "\r\nhello\r\n0\r\n\r\n",
            ";a\r\n",
            "x\r\n",
            "+5\r\nhello\r\n",
            "-5\r\nhello\r\n",
            " 5\r\nhello\r\n",
            "5 \r\nhello\r\n",
            "0x5\r\nhello\r\n",
            "5\nhello\n",
            "5\rhello",
            "5;a\nhello",
            "5;\0\r\nhello\r\n",
            "5\r\nhello0\r\n\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "5\r\nhello\rx",
            "0\r\n\n",
            "0\r\n: y\r\n\r\n",
            "0\r\n X: y\r\n\r\n",
            "0\r\nX: y\n\r\n",
            "0\r\nX: y\rz\r\n\r\n",
            "0\r\nX: \0\r\n\r\n",
            "0\r\n\rx",
            "1000000000000000\r\n",
            "ffffffffffffffff\r\n",
            "10000000000000005\r\nhello\r\n",
            &long,
            &trailers,
            &digits,
        ];
        for raw in table {
            for piece in [1, 100_000] {
                let refused = read(Framing::Chunked, raw.as_bytes(), piece).expect_err(raw);
                assert_eq!(
                    (refused.status, refused.code.word()),
                    (400, "bad_http"),
                    "{raw:?}"
                );
            }
        }
    }
}
