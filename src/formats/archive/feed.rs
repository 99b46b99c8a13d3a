//! The bytes of a payload on their way from the thread that receives them to the one that unpacks them: a few buffers that
//! go round, so that the memory is constant and each side waits for the other; then, if need be, out of gzip.

use std::fmt;
use std::io::{self, BufRead, Read};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use flate2::bufread::GzDecoder;

/// The size of a buffer: large enough that handing it over costs nothing beside writing it.
pub(super) const BUFFER: usize = 256 * 1024;

/// How many buffers go round: one being filled, one being unpacked, and two for when one side stumbles.
const BUFFERS: usize = 4;

/// What is handed over.
enum Piece {
    Bytes(Vec<u8>),
    /// The payload is complete. Without this, a vanished sender could not be told from the end.
    End,
}

/// The receiving thread's end.
pub(super) struct Filler {
    pieces: Sender<Piece>,
    empties: Receiver<Vec<u8>>,
    made: usize,
}

/// The unpacking thread's end.
pub(super) struct Feed {
    pieces: Receiver<Piece>,
    empties: Sender<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
    ended: bool,
}

/// The other side is gone.
#[derive(Debug)]
pub(super) struct Disconnected;

impl fmt::Display for Disconnected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the payload is not complete")
    }
}

impl std::error::Error for Disconnected {}

/// A new pair.
pub(super) fn pair() -> (Filler, Feed) {
    // Neither side ever waits to hand over: there are not more buffers than places, and one place more for the end.
    let (pieces, filled) = bounded(BUFFERS + 1);
    let (empties, emptied) = bounded(BUFFERS);
    let filler = Filler {
        pieces,
        empties: emptied,
        made: 0,
    };
    let feed = Feed {
        pieces: filled,
        empties,
        piece: Vec::new(),
        at: 0,
        ended: false,
    };
    (filler, feed)
}

impl Filler {
    /// An empty buffer of [`BUFFER`] bytes, as soon as there is one.
    pub(super) fn empty(&mut self) -> Result<Vec<u8>, Disconnected> {
        match self.empties.try_recv() {
            Ok(mut buffer) => {
                // Its length was cut when it was handed over; the bytes do not matter.
                buffer.resize(BUFFER, 0);
                Ok(buffer)
            }
            Err(TryRecvError::Disconnected) => Err(Disconnected),
            Err(TryRecvError::Empty) if self.made < BUFFERS => {
                self.made += 1;
                Ok(vec![0; BUFFER])
            }
            Err(TryRecvError::Empty) => {
                let mut buffer = self.empties.recv().map_err(|_| Disconnected)?;
                buffer.resize(BUFFER, 0);
                Ok(buffer)
            }
        }
    }

    /// Whether the other side has nothing more to do.
    pub(super) fn starving(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Hands over the first `len` bytes of a buffer.
    pub(super) fn send(&self, mut buffer: Vec<u8>, len: usize) -> Result<(), Disconnected> {
        buffer.truncate(len);
        self.pieces
            .send(Piece::Bytes(buffer))
            .map_err(|_| Disconnected)
    }

    /// Says that the payload is complete.
    pub(super) fn end(self) -> Result<(), Disconnected> {
        self.pieces.send(Piece::End).map_err(|_| Disconnected)
    }
}

impl BufRead for Feed {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.at == self.piece.len() && !self.ended {
            let done = std::mem::take(&mut self.piece);
            self.at = 0;
            if done.capacity() > 0 {
                // If the other side is gone, the next line says so.
                let _ = self.empties.try_send(done);
            }
            match self.pieces.recv() {
                Ok(Piece::Bytes(piece)) => self.piece = piece,
                Ok(Piece::End) => self.ended = true,
                Err(_) => return Err(io::Error::other(Disconnected)),
            }
        }
        Ok(&self.piece[self.at..])
    }

    fn consume(&mut self, amount: usize) {
        self.at += amount;
    }
}

impl Read for Feed {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut available = self.fill_buf()?;
        let read = available.read(into)?;
        self.consume(read);
        Ok(read)
    }
}

/// The plain bytes of a gzip file of any number of members. Behind the last one there may be zeros (tapes and block devices
/// pad with them) and nothing else. Checksums are checked, so it must be read to its end.
pub(super) struct GzipMembers<R: BufRead> {
    // `None` only after the last member, or after an error.
    member: Option<GzDecoder<R>>,
}

impl<R: BufRead> GzipMembers<R> {
    pub(super) fn new(compressed: R) -> GzipMembers<R> {
        GzipMembers {
            member: Some(GzDecoder::new(compressed)),
        }
    }
}

impl<R: BufRead> Read for GzipMembers<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        while let Some(member) = &mut self.member {
            let read = member.read(into)?;
            if read > 0 {
                return Ok(read);
            }
            let Some(ended) = self.member.take() else {
                break;
            };
            let mut rest = ended.into_inner();
            match rest.fill_buf()?.first() {
                // The first byte of a gzip header.
                Some(0x1f) => self.member = Some(GzDecoder::new(rest)),
                Some(_) => only_zeros(&mut rest)?,
                None => {}
            }
        }
        Ok(0)
    }
}

fn only_zeros(rest: &mut impl BufRead) -> io::Result<()> {
    loop {
        let piece = rest.fill_buf()?;
        let len = piece.len();
        if len == 0 {
            return Ok(());
        }
        if piece.iter().any(|&byte| byte != 0) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "something that is not gzip follows it",
            ));
        }
        rest.consume(len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;

    fn member(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn plain(compressed: &[u8]) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        GzipMembers::new(compressed).read_to_end(&mut text)?;
        Ok(text)
    }

    #[test]
    fn gzip_members_are_read_to_the_last() {
        let one = member(b"one");
        let two = [member(b"one"), member(b""), member(b" two")].concat();
        let padded = [one.clone(), vec![0; 700]].concat();
        let table = [(&one, "one"), (&two, "one two"), (&padded, "one")];
        for (compressed, text) in table {
            assert_eq!(plain(compressed).unwrap(), text.as_bytes());
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
        for compressed in table {
            assert!(plain(compressed).is_err(), "{compressed:?}");
        }
    }

    #[test]
    fn a_vanished_sender_is_no_end() {
        let (mut filler, mut feed) = pair();
        let buffer = filler.empty().unwrap();
        filler.send(buffer, 3).unwrap();
        drop(filler);
        let mut text = Vec::new();
        let error = feed.read_to_end(&mut text).unwrap_err();
        assert!(
            error
                .get_ref()
                .is_some_and(|inner| inner.is::<Disconnected>())
        );
        assert_eq!(text.len(), 3);

        let (filler, mut feed) = pair();
        filler.end().unwrap();
        assert_eq!(feed.read_to_end(&mut text).unwrap(), 0);

        let (mut filler, feed) = pair();
        drop(feed);
        assert!(filler.empty().is_err());
    }

    #[test]
    fn buffers_go_round() {
        let (mut filler, mut feed) = pair();
        for _ in 0..3 * BUFFERS {
            let buffer = filler.empty().unwrap();
            filler.send(buffer, BUFFER).unwrap();
            let len = feed.fill_buf().unwrap().len();
            feed.consume(len);
        }
        assert!(filler.made <= 2, "{}", filler.made);
    }
}
