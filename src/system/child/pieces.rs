//! Bytes into pieces from which they can be made again.

use crate::api::error::Error;
use crate::api::event::Stream;
use crate::system::child::lines::{LINE_LEN_MAX, character_boundary};

/// A line that a command printed, or a piece of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputPiece {
    /// Which output.
    pub stream: Stream,
    /// What was printed, without the newline at its end.
    pub bytes: Vec<u8>,
    /// There was no newline at its end: the line goes on in the next piece, or the output ended there.
    pub continued: bool,
}

/// Takes pieces, one by one.
type OnPiece<'a> = &'a mut dyn FnMut(OutputPiece) -> Result<(), Error>;

/// Cuts one output into lines, and long ones into pieces. The pieces of a progress bar, which end with a carriage return, go
/// out as they come.
pub struct OutputSplitter {
    stream: Stream,
    /// The beginning of a line; at most [`LINE_LEN_MAX`].
    pending: Vec<u8>,
}

impl OutputSplitter {
    /// For one output.
    pub fn new(stream: Stream) -> OutputSplitter {
        OutputSplitter {
            stream,
            pending: Vec::new(),
        }
    }

    /// Takes what was printed next.
    ///
    /// # Errors
    /// Those of `on_piece`.
    pub fn push(&mut self, mut bytes: &[u8], on_piece: OnPiece<'_>) -> Result<(), Error> {
        while let Some(end) = memchr::memchr2(b'\n', b'\r', bytes) {
            let newline = bytes[end] == b'\n';
            let (line, rest) = bytes.split_at(end + 1);
            bytes = rest;
            self.hold(line.strip_suffix(b"\n").unwrap_or(line), on_piece)?;
            if newline {
                self.give(false, on_piece)?;
            } else if bytes.first() != Some(&b'\n') {
                self.give(true, on_piece)?;
            }
        }
        self.hold(bytes, on_piece)
    }

    /// Gives out what is left without an end.
    ///
    /// # Errors
    /// Those of `on_piece`.
    pub fn finish(&mut self, on_piece: OnPiece<'_>) -> Result<(), Error> {
        match self.pending.is_empty() {
            true => Ok(()),
            false => self.give(true, on_piece),
        }
    }

    /// Keeps bytes without a line end, and gives out the pieces that are certain to go on.
    fn hold(&mut self, mut bytes: &[u8], on_piece: OnPiece<'_>) -> Result<(), Error> {
        loop {
            let room = LINE_LEN_MAX - self.pending.len();
            let (now, rest) = bytes.split_at(room.min(bytes.len()));
            self.pending.extend_from_slice(now);
            let Some(next) = rest.first() else {
                return Ok(());
            };
            let cut = character_boundary(&self.pending, *next);
            let left = self.pending.split_off(cut);
            self.give(true, on_piece)?;
            self.pending = left;
            bytes = rest;
        }
    }

    fn give(&mut self, continued: bool, on_piece: OnPiece<'_>) -> Result<(), Error> {
        on_piece(OutputPiece {
            stream: self.stream,
            bytes: std::mem::take(&mut self.pending),
            continued,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pieces of a text that comes in chunks of so many bytes.
    fn split(text: &[u8], len: usize) -> Vec<OutputPiece> {
        let mut pieces = Vec::new();
        let mut splitter = OutputSplitter::new(Stream::Stdout);
        let mut keep = |piece| {
            pieces.push(piece);
            Ok(())
        };
        for chunk in text.chunks(len) {
            splitter.push(chunk, &mut keep).unwrap();
        }
        splitter.finish(&mut keep).unwrap();
        splitter.finish(&mut keep).unwrap();
        pieces
    }

    #[test]
    fn the_pieces_make_what_was_printed() {
        let every: Vec<u8> = (0..=255).cycle().take(3000).collect();
        let long = [vec![b'x'; 3 * LINE_LEN_MAX + 1], b"\n".to_vec()].concat();
        let wide = "\u{1f600}\u{e4}".repeat(LINE_LEN_MAX);
        let table: [&[u8]; 12] = [
            b"",
            b"a",
            b"a\n",
            b"\n\n",
            b"a\r\nb\r\n",
            b"10%\r20%\rdone\n",
            b"a\r\r\n\r",
            b"\xff\xc3\n\xe2\x82",
            b"\0\x1b[31m",
            &every,
            &long,
            wide.as_bytes(),
        ];
        for text in table {
            for len in [1, 2, 3, 7, 4096, 1 << 20] {
                let pieces = split(text, len);
                let made: Vec<u8> = pieces
                    .iter()
                    .flat_map(|piece| {
                        let newline = (!piece.continued).then_some(b'\n');
                        piece.bytes.iter().copied().chain(newline)
                    })
                    .collect();
                assert!(made == text, "{:.40} by {len}", text.escape_ascii());
                assert!(pieces.iter().all(|one| one.bytes.len() <= LINE_LEN_MAX));
            }
        }
        // No character is torn.
        let pieces = split(wide.as_bytes(), 1000);
        assert!(
            pieces
                .iter()
                .all(|one| std::str::from_utf8(&one.bytes).is_ok())
        );
    }

    #[test]
    fn lines_stay_lines_and_a_progress_bar_is_seen_at_once() {
        let texts = |text: &[u8], len| {
            let pieces = split(text, len).into_iter();
            let texts = pieces.map(|one| (String::from_utf8(one.bytes).unwrap(), one.continued));
            texts.collect::<Vec<_>>()
        };
        let is = |text: &str, continued| (text.to_owned(), continued);
        assert_eq!(
            texts(b"a\nb\r\nc", 100),
            [is("a", false), is("b\r", false), is("c", true)]
        );
        assert_eq!(texts(b"1%\r2%\r", 1), [is("1%\r", true), is("2%\r", true)]);
    }
}
