//! The terminal as indicatif draws on it, with a switch that makes it draw nothing.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use indicatif::TermLike;

use crate::cli::screen::sink::Sink;

/// Takes the cursor to the beginning of the line and empties it.
pub(crate) const CLEAR: &str = "\r\x1b[2K";

/// The terminal as indicatif sees it: one column narrower, and deaf while it is muted.
#[derive(Debug, Clone)]
pub(crate) struct Terminal {
    inner: Arc<Mutex<TerminalState>>,
    columns: fn() -> u16,
}

/// Its state.
#[derive(Debug)]
pub(crate) struct TerminalState {
    /// Where it goes.
    pub(crate) sink: Sink,
    /// What indicatif draws now goes nowhere.
    pub(crate) muted: bool,
    /// A live line is on the terminal.
    pub(crate) drawn: bool,
}

impl Terminal {
    /// A terminal behind a sink.
    pub(crate) fn new(sink: Sink, columns: fn() -> u16) -> Terminal {
        let inner = TerminalState {
            sink,
            muted: false,
            drawn: false,
        };
        Terminal {
            inner: Arc::new(Mutex::new(inner)),
            columns,
        }
    }

    /// What stands behind it. It is a leaf among locks: nothing is called while it is held but the sink.
    pub(crate) fn lock(&self) -> MutexGuard<'_, TerminalState> {
        // What a panicking holder left is still the state of the terminal.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, text: &str) -> io::Result<()> {
        let mut inner = self.lock();
        if !inner.muted {
            inner.sink.push(text);
        }
        Ok(())
    }

    fn moved(&self, count: usize, direction: char) -> io::Result<()> {
        if count == 0 {
            Ok(())
        } else {
            self.put(&format!("\x1b[{count}{direction}"))
        }
    }
}

impl TermLike for Terminal {
    fn width(&self) -> u16 {
        // A line that fills the last column wraps on some terminals and not on others.
        (self.columns)().saturating_sub(1).max(1)
    }

    fn move_cursor_up(&self, count: usize) -> io::Result<()> {
        self.moved(count, 'A')
    }

    fn move_cursor_down(&self, count: usize) -> io::Result<()> {
        self.moved(count, 'B')
    }

    fn move_cursor_right(&self, count: usize) -> io::Result<()> {
        self.moved(count, 'C')
    }

    fn move_cursor_left(&self, count: usize) -> io::Result<()> {
        self.moved(count, 'D')
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.put(text)?;
        self.put("\n")
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        // The spaces with which indicatif fills a line are of no use behind a line that was emptied.
        self.put(text.trim_end_matches(' '))
    }

    fn clear_line(&self) -> io::Result<()> {
        self.put(CLEAR)
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}
