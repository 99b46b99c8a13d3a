//! The server's log: one line a fact on stderr, with time and level.
//!
//! What a line quotes may come from a stranger, so control characters are made visible: nobody writes a second line, or
//! moves the cursor of whoever reads.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::system::time::{now_ms, rfc3339};

/// How grave a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Info,
    Warn,
    Error,
}

/// Logs what happens in the ordinary course of things.
pub fn info(message: &str) {
    write(Level::Info, message);
}

/// Logs what an operator may want to look at.
pub fn warn(message: &str) {
    write(Level::Warn, message);
}

/// Logs what needs an operator, or is a bug.
pub fn error(message: &str) {
    write(Level::Error, message);
}

/// Logs what may happen a thousand times a second at most once in a second, with the number of those left out.
#[derive(Debug, Default)]
pub struct RateLimitedLog(Mutex<(Option<Instant>, u64)>);

impl RateLimitedLog {
    /// Logs it as [`warn`] does, if it is time.
    pub fn warn(&self, message: impl FnOnce() -> String) {
        if let Some(left_out) = self.due(Instant::now()) {
            match left_out {
                0 => warn(&message()),
                _ => warn(&format!("{} (and {left_out} more before)", message())),
            }
        }
    }

    fn due(&self, now: Instant) -> Option<u64> {
        // Two numbers are whole even after a panic.
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, left_out) = &mut *state;
        if last.is_some_and(|last| now.saturating_duration_since(last) < Duration::from_secs(1)) {
            *left_out += 1;
            return None;
        }
        *last = Some(now);
        Some(std::mem::take(left_out))
    }
}

fn write(level: Level, message: &str) {
    let line = line(now_ms(), level, message);
    // One write a line, so that lines of several threads do not mix. A log that cannot be written must not stop a deploy.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

fn line(ms: u64, level: Level, message: &str) -> String {
    let level = match level {
        Level::Info => "INFO",
        Level::Warn => "WARN",
        Level::Error => "ERROR",
    };
    let mut line = format!("{} {level} ", rfc3339(ms));
    for c in message.chars() {
        if c.is_control() {
            // Writing to a String cannot fail.
            let _ = write!(line, "{}", c.escape_default());
        } else {
            line.push(c);
        }
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_often_is_said_seldom() {
        let (seldom, now) = (RateLimitedLog::default(), Instant::now());
        let table = [
            (0, Some(0)),
            (1, None),
            (999, None),
            (1000, Some(2)),
            (1999, None),
            (5000, Some(1)),
        ];
        for (ms, expected) in table {
            assert_eq!(
                seldom.due(now + Duration::from_millis(ms)),
                expected,
                "{ms}"
            );
        }
    }

    #[test]
    fn lines_have_time_level_and_one_line() {
        assert_eq!(
            line(1_795_508_171_042, Level::Info, "a\nb\x1b[31m"),
            "2026-11-24T08:16:11.042Z INFO a\\nb\\u{1b}[31m\n"
        );
    }
}
