//! Where a screen's bytes go: gathered, and written in few large pieces.
//!
//! A failure to write is nothing: a deployment does not fail because nobody reads what is said of it.

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::thread;
use std::time::Duration;

/// So much is gathered at most before it is written; larger pieces are not faster.
const FULL: usize = 32 * 1024;

/// A writer may be not ready, because a terminal or a pipe was made non-blocking by another program that shares it (as
/// node does). It is tried again after [`PAUSE`], [`TRIES`] times in a row, which is ten seconds.
const TRIES: u32 = 1000;
const PAUSE: Duration = Duration::from_millis(10);

/// Writes all, also to a writer that is not always ready.
pub(crate) fn write_all(writer: &mut dyn Write, mut bytes: &[u8]) -> io::Result<()> {
    let mut tries = 0;
    while !bytes.is_empty() {
        match writer.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = &bytes[written..];
                tries = 0;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock && tries < TRIES => {
                tries += 1;
                thread::sleep(PAUSE);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A gathering writer.
pub(crate) struct Sink {
    writer: Box<dyn Write + Send + Sync>,
    buffer: Vec<u8>,
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sink({} bytes)", self.buffer.len())
    }
}

impl Sink {
    /// A sink in front of a writer that does not gather.
    pub(crate) fn new(writer: Box<dyn Write + Send + Sync>) -> Sink {
        Sink {
            writer,
            buffer: Vec::new(),
        }
    }

    /// Adds text.
    pub(crate) fn push(&mut self, text: &str) {
        self.buffer.extend_from_slice(text.as_bytes());
        if self.buffer.len() >= FULL {
            self.flush();
        }
    }

    /// Writes what was gathered.
    pub(crate) fn flush(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        // Not written is not said: see above.
        let _ = write_all(&mut *self.writer, &self.buffer).and_then(|()| self.writer.flush());
        self.buffer.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// Answers as it was told, then takes three bytes at a time.
    struct FlakyWriter(VecDeque<io::Result<usize>>, Vec<u8>);

    impl Write for FlakyWriter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = self.0.pop_front().unwrap_or(Ok(3))?.min(bytes.len());
            self.1.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_writer_that_is_not_ready_gets_all_in_the_end() {
        let answers = [
            Err(ErrorKind::Interrupted.into()),
            Ok(1),
            Err(ErrorKind::WouldBlock.into()),
        ];
        let mut writer = FlakyWriter(answers.into(), Vec::new());
        write_all(&mut writer, b"all of it").unwrap();
        assert_eq!(writer.1, b"all of it");
    }

    #[test]
    fn a_writer_that_fails_is_an_error_once_and_nothing_for_a_sink() {
        for answer in [Err(ErrorKind::BrokenPipe.into()), Ok(0)] {
            let mut writer = FlakyWriter([answer].into(), Vec::new());
            assert!(write_all(&mut writer, b"x").is_err());
        }
        let mut sink = Sink::new(Box::new(FlakyWriter(
            [Err(ErrorKind::BrokenPipe.into())].into(),
            Vec::new(),
        )));
        sink.push("x");
        sink.flush();
        assert!(sink.buffer.is_empty());
        sink.push(&"x".repeat(FULL));
        assert!(sink.buffer.is_empty());
    }
}
