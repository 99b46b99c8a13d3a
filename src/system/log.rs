//! The server's log: one line a fact on stderr, with time and level.
//!
//! What a line quotes may come from a stranger, so control characters are made visible: nobody writes a second line, or
//! moves the cursor of whoever reads.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::api::event::now_ms;

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
    let mut line = format!("{} {level} ", timestamp(ms));
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

/// A time in milliseconds since the epoch as RFC 3339 in UTC, with milliseconds.
pub fn timestamp(ms: u64) -> String {
    let (days, rest) = (ms / 86_400_000, ms % 86_400_000);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (rest / 3_600_000, rest / 60_000 % 60, rest / 1000 % 60);
    format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z",
        rest % 1000
    )
}

/// The Gregorian date of a day counted from 1970-01-01, by counting in eras of 400 years that begin in March, so that the
/// leap day is the last one of a year.
fn civil(days: u64) -> (u64, u64, u64) {
    // 719,468 days lie between 0000-03-01 and 1970-01-01; an era has 146,097.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
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
        let table = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_999, "2024-02-29T23:59:59.999Z"),
            (1_795_508_171_042, "2026-11-24T08:16:11.042Z"),
            (4_102_444_800_000, "2100-01-01T00:00:00.000Z"),
        ];
        for (ms, time) in table {
            assert_eq!(
                line(ms, Level::Info, "a\nb\x1b[31m"),
                format!("{time} INFO a\\nb\\u{{1b}}[31m\n")
            );
        }
    }
}
