//! Sizes, durations, times and steps as people read them: the same words in every kind of output.

use std::time::Duration;

/// `n B`, `x.x KiB`, `x.x MiB`, `x.xx GiB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNIT: f64 = 1024.0;
    // A size is shown with at most four digits, far within what f64 holds exactly.
    let value = bytes as f64;
    // 1023.95 of a unit would be shown as 1024.0 of it, which is 1.0 of the next one.
    let next = UNIT - 0.05;
    if bytes < 1024 {
        format!("{bytes} B")
    } else if value / UNIT < next {
        format!("{:.1} KiB", value / UNIT)
    } else if value / UNIT.powi(2) < next {
        format!("{:.1} MiB", value / UNIT.powi(2))
    } else {
        format!("{:.2} GiB", value / UNIT.powi(3))
    }
}

/// `0.4s`, `12.3s`, `2m05s`, `1h02m`.
pub(crate) fn duration(time: Duration) -> String {
    let tenths = time.as_millis().saturating_add(50) / 100;
    if tenths < 600 {
        format!("{}.{}s", tenths / 10, tenths % 10)
    } else {
        whole(time)
    }
}

/// As [`duration`], in whole seconds: for what still goes on.
pub(crate) fn whole(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

/// `1 log line`, `42 log lines`.
pub(crate) fn log_lines(count: u64) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} log line{plural}")
}

/// How much of a whole, from 0 to 100, rounded down; a whole of nothing is all there.
pub(crate) fn percent(bytes: u64, total: u64) -> u8 {
    let share = (u128::from(bytes) * 100)
        .checked_div(u128::from(total))
        .unwrap_or(100);
    // The `min` makes it fit.
    share.min(100) as u8
}

/// The steps of 10% that an upload has passed, each said once.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    bytes: u64,
    step: u8,
}

impl Steps {
    /// The percentage to say now, if a new step was reached. A jump over several steps says the last one. The step to
    /// 100% is never said here: that it is complete is another fact. Fewer bytes than before are a new attempt.
    pub(crate) fn reached(&mut self, bytes: u64, total: u64) -> Option<u8> {
        if bytes < self.bytes {
            self.step = 0;
        }
        self.bytes = bytes;
        let step = percent(bytes, total) / 10;
        if step <= self.step || step >= 10 {
            return None;
        }
        self.step = step;
        Some(step * 10)
    }
}

/// The sizes that an upload without a known end has passed: each twice the one before, so that there are few.
#[derive(Debug, Default)]
pub(crate) struct Doublings {
    bytes: u64,
    next: u64,
}

impl Doublings {
    /// Smaller uploads are over before they are told.
    const FIRST: u64 = 1 << 20;

    /// Whether a new size was passed. Fewer bytes than before are a new attempt.
    pub(crate) fn reached(&mut self, bytes: u64) -> bool {
        if bytes < self.bytes {
            self.next = 0;
        }
        self.bytes = bytes;
        self.next = self.next.max(Self::FIRST);
        let is_reached = bytes >= self.next;
        while self.next <= bytes {
            self.next = self.next.saturating_mul(2).max(self.next + 1);
        }
        is_reached
    }
}

/// An upload's line.
pub(crate) fn uploaded(bytes: u64, total: u64, percent: u8) -> String {
    format!("Uploaded {} / ~{} ({percent}%)", size(bytes), size(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let table = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (4_404_020, "4.2 MiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            ((1 << 20) - 51, "1.0 MiB"),
            ((1 << 20) - 52, "1023.9 KiB"),
            ((1 << 20) - 1024, "1023.0 KiB"),
            (10 << 20, "10.0 MiB"),
            ((1 << 30) - 1, "1.00 GiB"),
            (3 << 29, "1.50 GiB"),
            (5 << 40, "5120.00 GiB"),
            (u64::MAX, "17179869184.00 GiB"),
        ];
        for (bytes, expected) in table {
            assert_eq!(size(bytes), expected, "{bytes}");
        }
    }

    #[test]
    fn an_upload_without_a_known_end_is_told_at_few_sizes() {
        let mut steps = Doublings::default();
        let mib = 1 << 20;
        let reached: Vec<u64> = [
            0,
            mib - 1,
            mib,
            mib + 1,
            2 * mib,
            9 * mib,
            10 * mib,
            16 * mib,
            mib,
        ]
        .into_iter()
        .filter(|bytes| steps.reached(*bytes))
        .collect();
        assert_eq!(reached, [mib, 2 * mib, 9 * mib, 16 * mib, mib]);
    }

    #[test]
    fn durations() {
        let table = [
            (0, "0.0s", "0s"),
            (420, "0.4s", "0s"),
            (12_345, "12.3s", "12s"),
            (59_949, "59.9s", "59s"),
            (59_950, "59s", "59s"),
            (125_000, "2m05s", "2m05s"),
            (3_720_000, "1h02m", "1h02m"),
        ];
        for (ms, exact, rough) in table {
            let time = Duration::from_millis(ms);
            assert_eq!(
                (duration(time).as_str(), whole(time).as_str()),
                (exact, rough),
                "{ms}"
            );
        }
    }

    #[test]
    fn percentages() {
        let table = [
            (0, 0, 100),
            (0, 7, 0),
            (42, 100, 42),
            (999, 1000, 99),
            (9, 7, 100),
            (u64::MAX, u64::MAX, 100),
            (5, 0, 100),
        ];
        for (bytes, total, expected) in table {
            assert_eq!(percent(bytes, total), expected, "{bytes} of {total}");
        }
    }

    #[test]
    fn each_step_is_said_once() {
        let said = |reports: &[(u64, u64)]| -> Vec<u8> {
            let mut steps = Steps::default();
            reports
                .iter()
                .filter_map(|(bytes, total)| steps.reached(*bytes, *total))
                .collect()
        };
        let every: Vec<(u64, u64)> = (0..=1000).map(|bytes| (bytes, 1000)).collect();
        assert_eq!(said(&every), [10, 20, 30, 40, 50, 60, 70, 80, 90]);
        assert_eq!(said(&[(3, 100), (57, 100), (57, 100), (59, 100)]), [50]);
        assert_eq!(said(&[(0, 0), (100, 100)]), [0; 0]);
        assert_eq!(said(&[(55, 100), (1, 100), (55, 100)]), [50, 50]);
    }
}
