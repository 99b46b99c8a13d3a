//! How hard to compress: as hard as the link is slow. Where it is quicker than deflate, nothing is compressed; the slower it is,
//! the more it pays. It is measured while the payload is sent: how long the sender was busy for how many bytes, against how
//! long the codec was.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What a sender reports: how much it has sent, and how long that took. What it waits for is not counted.
#[derive(Debug, Default)]
pub struct Outflow {
    bytes: AtomicU64,
    nanoseconds: AtomicU64,
}

impl Outflow {
    /// So many bytes more were sent, and kept the sender busy so long.
    pub fn sent(&self, bytes: usize, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    fn so_far(&self) -> Transferred {
        Transferred {
            bytes: self.bytes.load(Ordering::Relaxed),
            nanoseconds: self.nanoseconds.load(Ordering::Relaxed),
        }
    }
}

/// How hard to compress.
pub enum Effort<'a> {
    /// Always with this level: 0 stores, 9 deflates the most.
    Level(u32),
    /// As the link allows.
    Link {
        outflow: &'a Outflow,
        /// The other end is on this machine, as far as its address says. Both share its processors then, so that only a link
        /// that is much slower, a tunnel perhaps, is worth compressing for.
        local: bool,
    },
}

/// A level, as far as nothing is measured: how quick it is, in bytes a microsecond, and how much it shrinks, both as of sources
/// and texts on one core. What one level shows of a payload is taken for the others too, in proportion.
struct Expected {
    level: u32,
    speed: f64,
    ratio: f64,
}

const EXPECTED: [Expected; 4] = [
    Expected {
        level: 1,
        speed: 170.0,
        ratio: 2.9,
    },
    Expected {
        level: 2,
        speed: 105.0,
        ratio: 3.6,
    },
    Expected {
        level: 4,
        speed: 75.0,
        ratio: 3.9,
    },
    Expected {
        level: 6,
        speed: 50.0,
        ratio: 4.2,
    },
];

/// After so many bytes, or so much time, a link is judged anew: what was sent before says little about now.
const JUDGED_BYTES: u64 = 1 << 20;
const JUDGED_NANOSECONDS: u64 = 50_000_000;

/// The first judgement comes sooner: until then nobody knows anything, and what is packed ahead goes by the first guess too.
/// It is more than what goes at once into the buffers of a connection within this machine.
const FIRST_JUDGED_BYTES: u64 = 512 << 10;

/// Another level must promise so much more: each change costs deflate's memory of what came before.
const BETTER: f64 = 1.15;

/// The codec must be so much quicker than a link to this machine.
const LOCAL: f64 = 4.0;

/// Bytes and the time that they took.
#[derive(Debug, Clone, Copy, Default)]
struct Transferred {
    bytes: u64,
    nanoseconds: u64,
}

impl Transferred {
    /// Bytes a microsecond, or megabytes a second.
    fn speed(self) -> f64 {
        self.bytes as f64 * 1000.0 / self.nanoseconds.max(1) as f64
    }
}

/// Follows the link.
pub(super) struct Throttle<'a> {
    effort: Effort<'a>,
    level: u32,
    /// What was sent up to the last judgement.
    before: Transferred,
    /// What the codec took of the present level, and what it made of that.
    taken: Transferred,
    made: u64,
    /// How this payload compares to what is expected, once something of it was compressed.
    speed: f64,
    ratio: f64,
}

impl<'a> Throttle<'a> {
    pub(super) fn new(effort: Effort<'a>) -> Throttle<'a> {
        let level = match &effort {
            Effort::Level(level) => *level,
            Effort::Link { local: true, .. } => 0,
            // What is stored on a slow link costs more than what is deflated on a quick one.
            Effort::Link { .. } => 1,
        };
        Throttle {
            effort,
            level,
            before: Transferred::default(),
            taken: Transferred::default(),
            made: 0,
            speed: 1.0,
            ratio: 1.0,
        }
    }

    /// The codec took so many bytes, made so many of them, and was busy so long.
    pub(super) fn compressed(&mut self, taken: usize, made: usize, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.taken.bytes += taken as u64;
        self.taken.nanoseconds += nanoseconds;
        self.made += made as u64;
    }

    /// The level for what comes next.
    pub(super) fn level(&mut self) -> u32 {
        let Effort::Link { outflow, local } = &self.effort else {
            return self.level;
        };
        let sent = outflow.so_far();
        let last = Transferred {
            bytes: sent.bytes - self.before.bytes,
            nanoseconds: sent.nanoseconds - self.before.nanoseconds,
        };
        let enough = match self.before.bytes {
            0 => FIRST_JUDGED_BYTES,
            _ => JUDGED_BYTES,
        };
        if last.bytes < enough && last.nanoseconds < JUDGED_NANOSECONDS {
            return self.level;
        }
        let (link, local) = (last.speed(), *local);
        self.before = sent;
        self.learn();
        let quickest = EXPECTED[0].speed * self.speed;
        self.level = match local && link * LOCAL > quickest {
            true => 0,
            false => self.best(link),
        };
        self.level
    }

    /// Compares what the present level did with what was expected of it.
    fn learn(&mut self) {
        let of_level = EXPECTED.iter().find(|one| one.level == self.level);
        let is_enough = self.taken.bytes >= JUDGED_BYTES / 2;
        if let Some(expected) = of_level.filter(|_| is_enough) {
            self.speed = self.taken.speed() / expected.speed;
            self.ratio = self.taken.bytes as f64 / self.made.max(1) as f64 / expected.ratio;
            self.taken = Transferred::default();
            self.made = 0;
        }
    }

    /// The level by which most of the payload comes through a link of this speed.
    fn best(&self, link: f64) -> u32 {
        let through = |expected: &Expected| {
            let shrinks = (expected.ratio * self.ratio).max(1.0);
            (expected.speed * self.speed).min(link * shrinks)
        };
        let now = EXPECTED.iter().find(|one| one.level == self.level);
        let mut best = (self.level, now.map_or(link, through) * BETTER);
        for (level, promised) in EXPECTED
            .iter()
            .map(|one| (one.level, through(one)))
            .chain([(0, link)])
        {
            if promised > best.1 {
                best = (level, promised);
            }
        }
        best.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The level after a link of so many MB/s has shown itself.
    fn level(throttle: &mut Throttle, outflow: &Outflow, megabytes: u64) -> u32 {
        let bytes = 2 * JUDGED_BYTES;
        let time = Duration::from_nanos(bytes * 1000 / megabytes);
        outflow.sent(usize::try_from(bytes).unwrap(), time);
        throttle.level()
    }

    #[test]
    fn the_slower_the_link_the_harder_it_is_compressed() {
        let outflow = Outflow::default();
        let table = [
            // A unix socket, 10 Gbit/s, 1 Gbit/s, 200, 100, and 10 Mbit/s.
            (
                false,
                [(2000, 0), (1200, 0), (118, 1), (25, 2), (12, 6), (1, 6)],
            ),
            // The same for an address of this machine, behind which there may be a tunnel.
            (
                true,
                [(2000, 0), (300, 0), (118, 0), (60, 0), (12, 6), (1, 6)],
            ),
        ];
        for (local, steps) in table {
            let outflow_of = &outflow;
            let mut throttle = Throttle::new(Effort::Link {
                outflow: outflow_of,
                local,
            });
            throttle.before = outflow.so_far();
            assert_eq!(throttle.level(), u32::from(!local));
            for (megabytes, expected) in steps {
                let found = level(&mut throttle, &outflow, megabytes);
                assert_eq!(found, expected, "{megabytes} MB/s, local: {local}");
            }
            // And back.
            assert_eq!(level(&mut throttle, &outflow, 2000), 0);
        }
    }

    #[test]
    fn what_the_codec_shows_counts_more_than_what_is_expected() {
        let outflow = Outflow::default();
        let link = || Effort::Link {
            outflow: &outflow,
            local: false,
        };
        // A slow processor: half of what 1 Gbit/s takes.
        let mut throttle = Throttle::new(link());
        let mebibyte = 1 << 20;
        throttle.compressed(mebibyte, mebibyte / 3, Duration::from_millis(17));
        assert_eq!(level(&mut throttle, &outflow, 118), 0);
        // What hardly shrinks is not worth it either.
        let mut throttle = Throttle::new(link());
        throttle.before = outflow.so_far();
        throttle.compressed(mebibyte, mebibyte - 100, Duration::from_millis(20));
        assert_eq!(level(&mut throttle, &outflow, 118), 0);
    }

    #[test]
    fn the_first_judgement_comes_sooner() {
        let outflow = Outflow::default();
        let mut throttle = Throttle::new(Effort::Link {
            outflow: &outflow,
            local: true,
        });
        assert_eq!(throttle.level(), 0);
        let half = usize::try_from(FIRST_JUDGED_BYTES / 2).unwrap();
        // The buffers on the way take the beginning at once, and then a tunnel shows how slow it is.
        outflow.sent(half, Duration::from_micros(100));
        assert_eq!(throttle.level(), 0);
        outflow.sent(half, Duration::from_millis(21));
        let first = throttle.level();
        assert!(first > 0, "{first}");
        outflow.sent(half, Duration::from_millis(21));
        assert_eq!(throttle.level(), first);
    }

    #[test]
    fn a_level_that_was_asked_for_stays() {
        let mut throttle = Throttle::new(Effort::Level(3));
        throttle.compressed(1 << 30, 1, Duration::from_secs(1000));
        assert_eq!(throttle.level(), 3);
    }
}
