//! Bytes into lines.

use crate::api::error::Error;
use crate::api::event::Stream;

/// The longest piece of a line, in bytes as they were printed: some screens of text, and little memory.
pub const LINE_LEN_MAX: usize = 8 << 10;

/// A line, or a piece of a long one, that a command printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Which output.
    pub stream: Stream,
    /// The text without its end; what is not UTF-8 is replaced by U+FFFD.
    pub text: String,
    /// Whether the line goes on in the next piece.
    pub continued: bool,
}

/// Cuts one output into lines, at `\n`, `\r\n` and a lone `\r` (progress bars), and lines into pieces.
pub(crate) struct Splitter {
    stream: Stream,
    /// The beginning of a line whose end has not come yet; at most [`LINE_LEN_MAX`].
    pending: Vec<u8>,
    /// The last byte was a `\r`: a `\n` that follows belongs to it.
    after_return: bool,
}

impl Splitter {
    pub(crate) fn new(stream: Stream) -> Splitter {
        Splitter {
            stream,
            pending: Vec::new(),
            after_return: false,
        }
    }

    /// Takes what was printed next, and gives out every line that it completes.
    pub(crate) fn push(
        &mut self,
        mut bytes: &[u8],
        on_line: &mut dyn FnMut(Line) -> Result<(), Error>,
    ) -> Result<(), Error> {
        while !bytes.is_empty() {
            if std::mem::take(&mut self.after_return) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let Some(end) = memchr::memchr2(b'\n', b'\r', bytes) else {
                return self.hold(bytes, on_line);
            };
            if self.pending.is_empty() && end <= LINE_LEN_MAX {
                self.give(&bytes[..end], false, on_line)?;
            } else {
                self.hold(&bytes[..end], on_line)?;
                self.give_pending(on_line)?;
            }
            self.after_return = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
        }
        Ok(())
    }

    /// Gives out a last line without an end.
    pub(crate) fn finish(
        &mut self,
        on_line: &mut dyn FnMut(Line) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if self.pending.is_empty() {
            Ok(())
        } else {
            self.give_pending(on_line)
        }
    }

    /// Keeps bytes without a line end, and gives out the pieces that are certain to go on.
    fn hold(
        &mut self,
        mut bytes: &[u8],
        on_line: &mut dyn FnMut(Line) -> Result<(), Error>,
    ) -> Result<(), Error> {
        loop {
            let room = LINE_LEN_MAX - self.pending.len();
            let (now, rest) = bytes.split_at(room.min(bytes.len()));
            self.pending.extend_from_slice(now);
            let Some(next) = rest.first() else {
                return Ok(());
            };
            let cut = character_boundary(&self.pending, *next);
            let pending = std::mem::take(&mut self.pending);
            self.give(&pending[..cut], true, on_line)?;
            self.pending = pending;
            self.pending.drain(..cut);
            bytes = rest;
        }
    }

    fn give_pending(
        &mut self,
        on_line: &mut dyn FnMut(Line) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut pending = std::mem::take(&mut self.pending);
        self.give(&pending, false, on_line)?;
        // The allocation is used again.
        pending.clear();
        self.pending = pending;
        Ok(())
    }

    fn give(
        &self,
        text: &[u8],
        continued: bool,
        on_line: &mut dyn FnMut(Line) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let text = match std::str::from_utf8(text) {
            Ok(text) => text.to_owned(),
            Err(_) => String::from_utf8_lossy(text).into_owned(),
        };
        on_line(Line {
            stream: self.stream,
            text,
            continued,
        })
    }
}

/// Where to cut a full piece that is followed by `next`: before a character that the cut would tear apart.
pub(crate) fn character_boundary(piece: &[u8], next: u8) -> usize {
    let continues = |byte: u8| byte & 0b1100_0000 == 0b1000_0000;
    if !continues(next) {
        return piece.len();
    }
    // A character has at most three bytes after its first.
    let first = piece
        .iter()
        .rposition(|byte| !continues(*byte))
        .filter(|at| piece.len() - at <= 3 && piece[*at] >= 0b1100_0000);
    // Bytes without a first one are not a character anyway.
    first.filter(|at| *at > 0).unwrap_or(piece.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pieces of a text that comes in chunks of so many bytes; `+` marks those that go on.
    fn split(text: &[u8], len: usize) -> Vec<String> {
        let mut pieces = Vec::new();
        let mut splitter = Splitter::new(Stream::Stdout);
        let mut keep = |line: Line| {
            pieces.push(line.text + if line.continued { "+" } else { "" });
            Ok(())
        };
        for chunk in text.chunks(len) {
            splitter.push(chunk, &mut keep).unwrap();
        }
        splitter.finish(&mut keep).unwrap();
        pieces
    }

    #[test]
    fn lines() {
        let x = "x".repeat(LINE_LEN_MAX);
        let (whole, longer) = (format!("{x}\n"), format!("{x}y\n"));
        let (two, tail) = (format!("{x}{x}\n"), format!("{x}{x}"));
        let torn = format!("{}ä\n", &x[1..]);
        let torn_4 = format!("{}😀é\n", &x[3..]);
        let table: &[(&[u8], &[&str])] = &[
            (b"", &[]),
            (b"a", &["a"]),
            (b"a\n", &["a"]),
            (b"a\nb", &["a", "b"]),
            (b"\n\n", &["", ""]),
            (b"a\r\nb\r\n", &["a", "b"]),
            (b"10%\r20%\rdone\n", &["10%", "20%", "done"]),
            (b"a\r\r\n", &["a", ""]),
            (b"a\r\n\n", &["a", ""]),
            ("größe\n😀\n".as_bytes(), &["größe", "😀"]),
            (b"\xff\xc3\n\xe2\x82", &["\u{fffd}\u{fffd}", "\u{fffd}"]),
            (b"\0\x1b[31m\n", &["\0\x1b[31m"]),
            (whole.as_bytes(), &[&x]),
            (x.as_bytes(), &[&x]),
            (longer.as_bytes(), &[&format!("{x}+"), "y"]),
            (two.as_bytes(), &[&format!("{x}+"), &x]),
            (tail.as_bytes(), &[&format!("{x}+"), &x]),
            (torn.as_bytes(), &[&format!("{}+", &x[1..]), "ä"]),
            (torn_4.as_bytes(), &[&format!("{}+", &x[3..]), "😀é"]),
        ];
        for (text, expected) in table {
            for len in [1, 2, 3, 7, 4096, 1 << 20] {
                assert_eq!(
                    split(text, len),
                    *expected,
                    "{:.40} by {len}",
                    text.escape_ascii()
                );
            }
        }
    }

    #[test]
    fn bytes_that_are_no_characters_are_cut_too() {
        for byte in [0x80u8, 0xbf, 0xf0, 0xff] {
            let text = vec![byte; 3 * LINE_LEN_MAX + 1];
            let pieces = split(&text, 1000);
            let last = pieces.len() - 1;
            assert!(
                pieces[..last].iter().all(|piece| piece.ends_with('+')),
                "{byte}"
            );
            let count = pieces
                .iter()
                .flat_map(|piece| piece.chars())
                .filter(|c| *c == '\u{fffd}')
                .count();
            assert_eq!(count, text.len(), "{byte}");
        }
    }
}
