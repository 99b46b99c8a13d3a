//! The live line of an upload: how much is there, and how fast it goes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::cli::screen::units;

/// The speed is that of the last seconds.
const WINDOW: Duration = Duration::from_secs(5);

/// Between two samples of it; closer ones say no more.
const BETWEEN: Duration = Duration::from_millis(100);

/// How an upload runs.
pub(crate) struct Sending {
    /// Sent so far.
    pub(crate) bytes: u64,
    /// To be sent in all; 0 where nobody knows.
    pub(crate) total: u64,
    /// Times and bytes of the last seconds.
    samples: VecDeque<(Instant, u64)>,
    begun: Instant,
}

impl Sending {
    /// An upload that begins now.
    pub(crate) fn new(now: Instant) -> Sending {
        Sending {
            bytes: 0,
            total: 0,
            samples: VecDeque::new(),
            begun: now,
        }
    }

    /// It is so far. Fewer bytes than before are a new attempt.
    pub(crate) fn set(&mut self, bytes: u64, total: u64, now: Instant) {
        if bytes < self.bytes {
            *self = Sending::new(now);
        }
        (self.bytes, self.total) = (bytes, total);
        if self
            .samples
            .back()
            .is_none_or(|(last, _)| now.saturating_duration_since(*last) >= BETWEEN)
        {
            self.samples.push_back((now, bytes));
        }
        while self
            .samples
            .front()
            .is_some_and(|(first, _)| now.saturating_duration_since(*first) > WINDOW)
        {
            self.samples.pop_front();
        }
    }

    /// The line, as much of it as fits.
    pub(crate) fn line(&self, width: usize, now: Instant, complete: bool) -> String {
        let (since, before) = match self.samples.front() {
            Some(first) if !complete => *first,
            _ => (self.begun, 0),
        };
        let seconds = now.saturating_duration_since(since).as_secs_f64();
        let speed = if seconds > 0.0 {
            (self.bytes - before.min(self.bytes)) as f64 / seconds
        } else {
            0.0
        };
        // A speed that does not fit is none; `as` saturates.
        let speed = format!("{}/s", units::size(speed as u64));
        if self.total == 0 {
            return cut(
                &format!("Uploading {} | {speed}", units::size(self.bytes)),
                width,
            );
        }
        // As long as not all is known to be there, 99% is the most.
        let percent = if complete {
            100
        } else {
            units::percent(self.bytes, self.total).min(99)
        };
        let sizes = format!("{} / ~{}", units::size(self.bytes), units::size(self.total));
        let ends = [
            format!("{percent}% | {sizes} | {speed}"),
            format!("{percent}% | {sizes}"),
            format!("{percent}%"),
        ];
        for end in &ends {
            let room = width.saturating_sub("Uploading [] ".len() + end.len());
            // A bar of ten signs says the tenths, one of thirty is as long as one looks at.
            if room >= 10 {
                let length = room.min(30);
                let full = length * usize::from(percent) / 100;
                let (full, empty) = ("#".repeat(full), "-".repeat(length - full));
                return format!("Uploading [{full}{empty}] {end}");
            }
        }
        cut(&format!("Uploading {percent}%"), width)
    }
}

/// At most so many characters, of which each takes one column.
pub(crate) fn cut(text: &str, width: usize) -> String {
    text.chars().take(width).collect()
}
