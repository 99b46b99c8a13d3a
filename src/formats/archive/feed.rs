//! The bytes of a payload on their way from the thread that receives them to those that need them: a few buffers that go
//! round, each read by all, so that the memory is constant and each side waits for the others.

use std::fmt;
use std::io::{self, BufRead, Read};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::formats::archive::buffers::Buffer;

/// How many large buffers go round: one being filled, one being unpacked, and two for when one side stumbles.
const BUFFERS: usize = 4;

/// How many do if they are small ones: one being filled, and one being read.
const SMALL_BUFFERS: usize = 2;

/// A part of the payload. The last one who reads it gives the buffer back.
struct Piece {
    buffer: Option<Buffer>,
    len: usize,
    home: Sender<Buffer>,
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        match &self.buffer {
            Some(buffer) => &buffer[..self.len],
            None => &[],
        }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            // There is a place for each. If nobody fills any more, it is not needed.
            let _ = self.home.try_send(buffer);
        }
    }
}

/// What is handed over.
#[derive(Clone)]
enum HandedOver {
    Bytes(Arc<Piece>),
    /// The payload is complete. Without this, a vanished sender could not be told from the end.
    End,
}

/// The receiving thread's end.
pub(super) struct Filler {
    parts: Vec<Sender<HandedOver>>,
    home: Sender<Buffer>,
    empties: Receiver<Buffer>,
    made: usize,
    most: usize,
}

/// A reading thread's end.
pub(super) struct Feed {
    parts: Receiver<HandedOver>,
    piece: Option<Arc<Piece>>,
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

/// One that fills, and several that each read all of it.
pub(super) fn split<const READERS: usize>() -> (Filler, [Feed; READERS]) {
    let mut senders = Vec::with_capacity(READERS);
    let feeds = std::array::from_fn(|_| {
        // Nobody ever waits to hand over: there are not more buffers than places, and one place more for the end.
        let (sender, parts) = bounded(BUFFERS + 1);
        senders.push(sender);
        Feed {
            parts,
            piece: None,
            at: 0,
            ended: false,
        }
    });
    let (home, empties) = bounded(BUFFERS);
    let filler = Filler {
        parts: senders,
        home,
        empties,
        made: 0,
        most: BUFFERS,
    };
    (filler, feeds)
}

impl Filler {
    /// A buffer to fill, as soon as there is one.
    pub(super) fn empty(&mut self) -> Result<Buffer, Disconnected> {
        if let Ok(buffer) = self.empties.try_recv() {
            return Ok(buffer);
        }
        if self.made < self.most {
            let buffer = Buffer::take();
            if !buffer.is_large() {
                // Those that are there already stay.
                self.most = SMALL_BUFFERS.max(self.made + 1);
            }
            self.made += 1;
            return Ok(buffer);
        }
        // The readers let go of what they have not read when they end, so that this never waits for ever.
        self.empties.recv().map_err(|_| Disconnected)
    }

    /// Whether the first reader has nothing more to do.
    pub(super) fn starving(&self) -> bool {
        self.parts.first().is_none_or(Sender::is_empty)
    }

    /// Hands over the first `len` bytes of a buffer.
    pub(super) fn send(&self, buffer: Buffer, len: usize) -> Result<(), Disconnected> {
        let piece = Arc::new(Piece {
            buffer: Some(buffer),
            len,
            home: self.home.clone(),
        });
        self.tell(&HandedOver::Bytes(piece))
    }

    /// Says that the payload is complete.
    pub(super) fn end(self) -> Result<(), Disconnected> {
        self.tell(&HandedOver::End)
    }

    fn tell(&self, part: &HandedOver) -> Result<(), Disconnected> {
        let mut told = Ok(());
        // All are told, even if one of them is gone.
        for reader in &self.parts {
            told = told.and(reader.send(part.clone()).map_err(|_| Disconnected));
        }
        told
    }
}

impl BufRead for Feed {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let spent = |piece: &Option<Arc<Piece>>, at| {
            piece.as_ref().is_none_or(|piece| piece.bytes().len() == at)
        };
        while !self.ended && spent(&self.piece, self.at) {
            // Before the wait, so that it goes round.
            self.piece = None;
            self.at = 0;
            match self.parts.recv() {
                Ok(HandedOver::Bytes(piece)) => self.piece = Some(piece),
                Ok(HandedOver::End) => self.ended = true,
                Err(_) => return Err(io::Error::other(Disconnected)),
            }
        }
        Ok(self
            .piece
            .as_ref()
            .map_or(&[], |piece| &piece.bytes()[self.at..]))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vanished_sender_is_no_end() {
        let (mut filler, [mut feed]) = split();
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

        let (filler, [mut feed]) = split();
        filler.end().unwrap();
        assert_eq!(feed.read_to_end(&mut text).unwrap(), 0);

        let (mut filler, [feed]) = split();
        drop(feed);
        let buffer = filler.empty().unwrap();
        assert!(filler.send(buffer, 1).is_err());
    }

    #[test]
    fn buffers_go_round() {
        let (mut filler, [mut one, mut other]) = split();
        for byte in 0..3 * BUFFERS {
            let byte = u8::try_from(byte).unwrap();
            let mut buffer = filler.empty().unwrap();
            buffer[0] = byte;
            let len = buffer.len();
            filler.send(buffer, len).unwrap();
            for feed in [&mut one, &mut other] {
                let bytes = feed.fill_buf().unwrap();
                assert_eq!((bytes[0], bytes.len()), (byte, len));
                feed.consume(len);
            }
        }
        assert!(filler.made <= 3, "{}", filler.made);
    }

    #[test]
    fn one_reader_that_ends_holds_up_nobody() {
        let (mut filler, [one, mut other]) = split();
        let reading = std::thread::spawn(move || other.read_to_end(&mut Vec::new()));
        let buffer = filler.empty().unwrap();
        filler.send(buffer, 1).unwrap();
        drop(one);
        for _ in 0..3 * BUFFERS {
            let buffer = filler.empty().unwrap();
            assert!(filler.send(buffer, 1).is_err());
        }
        filler.end().unwrap_err();
        assert_eq!(reading.join().unwrap().unwrap(), 3 * BUFFERS + 1);
    }
}
