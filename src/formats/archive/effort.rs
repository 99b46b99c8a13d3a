//! How hard to compress: as hard as the link is slow. Where it is quicker than any codec, nothing is compressed; the slower it is,
//! the more it pays. It is measured while the payload is sent: how long the sender was busy for how many bytes, against how
//! long the codec was. What the link was like the last time decides until then.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What a sender reports: how much it has sent, and how long that took. What it waits for is not counted.
#[derive(Debug, Default)]
pub struct Outflow {
    bytes: AtomicU64,
    nanoseconds: AtomicU64,
    /// Bytes a second, once they are known.
    link: AtomicU64,
}

impl Outflow {
    /// How many bytes a second the link took, if it was what everything waited for.
    pub fn link(&self) -> Option<u64> {
        Some(self.link.load(Ordering::Relaxed)).filter(|speed| *speed > 0)
    }

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
        /// How many bytes a second it took the last time, if that is known.
        known: Option<u64>,
        /// The other end takes lz4, too.
        lz4: bool,
    },
}

/// What something is compressed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Lz4,
    /// With this level; 0 stores.
    Deflate(u32),
}

const STORED: Method = Method::Deflate(0);

/// A method, as far as nothing is measured: how quick it is, in bytes a microsecond, and how much it shrinks, both as of sources
/// and texts on one core. What one shows of a payload is taken for the others too.
struct Expected {
    method: Method,
    speed: f64,
    ratio: f64,
}

const DEFLATE_1: Expected = Expected {
    method: Method::Deflate(1),
    speed: 370.0,
    ratio: 3.2,
};

/// Of sources in Rust, npm's own and shared libraries, in processor time. Of the three lz4 brings 15 to 98 % more than deflate 1
/// through 2.5 Gbit/s, and as much through 1 Gbit/s; from 5 Gbit/s on nothing is quicker than none. Level 6 makes hundredths less
/// than 5 and takes a third longer, and 4 lies between 3 and 5 in both.
const EXPECTED: [Expected; 5] = [
    Expected {
        method: Method::Lz4,
        speed: 500.0,
        ratio: 2.9,
    },
    DEFLATE_1,
    Expected {
        method: Method::Deflate(2),
        speed: 205.0,
        ratio: 4.0,
    },
    Expected {
        method: Method::Deflate(3),
        speed: 160.0,
        ratio: 4.35,
    },
    Expected {
        method: Method::Deflate(5),
        speed: 115.0,
        ratio: 4.7,
    },
];

/// After so many bytes, or so much time, a link is judged anew: what was sent before says little about now.
const JUDGED_BYTES: u64 = 1 << 20;
const JUDGED_NANOSECONDS: u64 = 50_000_000;

/// The first judgement comes sooner: until then nobody knows anything, and what is packed ahead goes by the first guess too.
/// It is more than what goes at once into the buffers of a connection within this machine.
const FIRST_JUDGED_BYTES: u64 = 512 << 10;

/// Without waiting, so much may go into the buffers on the way before anybody can tell how quick the link is: Linux lets a
/// connection have 4 MiB of them. Only who had to wait knows it sooner.
const BUFFERED_BYTES: u64 = 4 << 20;

/// How quick the codec is shows itself in so much of its time. In less, a processor that something else was busy with for a
/// moment would look like a slow one.
const LEARNT_NANOSECONDS: u64 = 50_000_000;

/// A link is as quick as in the best of so many judgements. Whoever sends may have had to wait for something else than the link:
/// for a processor, or for a disk at the other end, for which nothing is won by compressing.
const JUDGEMENTS: usize = 3;

/// What the codec showed last counts so much more than what it showed before, or than what was expected of it.
const NEWEST: f64 = 2.0;

/// Another level must promise so much more: each change costs deflate's memory of what came before.
const BETTER: f64 = 1.15;

/// Less than that is not worth a processor.
const WORTH: f64 = 1.02;

/// The codec must be so much quicker than a link to this machine.
const LOCAL: f64 = 8.0;

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

/// So much is sent by what was measured before, while the codec is what the link waits for: how quick that is does not show then.
/// Then something is stored, for a look. Each time that it was not worth that, the next look comes after twice as much.
const BELIEVED_BYTES: u64 = 16 << 20;

/// What the codec did, and what of that was expected, each since it was compared last.
#[derive(Debug, Default)]
struct SinceLearnt {
    taken: u64,
    made: f64,
    /// How often it was expected to be halved, times how much it was.
    halved_expected: f64,
    nanoseconds: f64,
    nanoseconds_expected: f64,
}

/// Follows the link.
pub(super) struct Throttle<'a> {
    effort: Effort<'a>,
    method: Method,
    lz4: bool,
    /// What was sent up to the last judgement, and when that was.
    before: Transferred,
    judged: Instant,
    /// The link as it was in the last judgements.
    recent: [f64; JUDGEMENTS],
    /// How much was sent when everything waited for the link the last time.
    measured: Option<u64>,
    /// How much is sent by that.
    believed: u64,
    since_learnt: SinceLearnt,
    /// How this payload compares to what is expected, once something of it was compressed: the speeds, and the logarithms of
    /// the ratios. What no method shrinks by much, a slower one does not shrink by much more.
    speed: f64,
    shrinks: f64,
}

impl<'a> Throttle<'a> {
    pub(super) fn new(effort: Effort<'a>) -> Throttle<'a> {
        let method = match &effort {
            Effort::Level(level) => Method::Deflate(*level),
            Effort::Link { local: true, .. } => STORED,
            // What is stored on a slow link costs more than what is deflated on a quick one.
            Effort::Link { .. } => Method::Deflate(1),
        };
        let mut throttle = Throttle {
            method,
            lz4: matches!(
                effort,
                Effort::Link {
                    lz4: true,
                    local: false,
                    ..
                }
            ),
            before: Transferred::default(),
            judged: Instant::now(),
            recent: match method {
                // Until it has been slow for as long as anything else may last.
                STORED => [f64::INFINITY; JUDGEMENTS],
                _ => [0.0; JUDGEMENTS],
            },
            measured: None,
            believed: BELIEVED_BYTES,
            since_learnt: SinceLearnt::default(),
            speed: 1.0,
            shrinks: 1.0,
            effort,
        };
        if let Effort::Link {
            known: Some(known), ..
        } = throttle.effort
        {
            let known = known as f64 / 1_000_000.0;
            throttle.method = throttle.best(known);
            throttle.recent = [known, 0.0, 0.0];
            throttle.measured = Some(0);
        }
        // From gzip nothing goes over to lz4.
        throttle.lz4 &= throttle.method == Method::Lz4;
        throttle
    }

    /// The method for what comes next, as it was judged last.
    pub(super) fn method(&self) -> Method {
        self.method
    }

    /// From here on it is not chosen.
    pub(super) fn without_lz4(&mut self) {
        self.lz4 = false;
    }

    /// The codec took so many bytes, made so many of them, and was busy so long.
    pub(super) fn compressed(&mut self, taken: usize, made: usize, time: Duration) {
        let of_method = EXPECTED.iter().find(|one| one.method == self.method);
        // What of the last method is still to be written when there is another one is too little to matter.
        let Some(expected) = of_method else { return };
        let so_far = &mut self.since_learnt;
        so_far.taken += taken as u64;
        so_far.made += made as f64;
        so_far.halved_expected += taken as f64 * expected.ratio.log2();
        so_far.nanoseconds += time.as_nanos() as f64;
        so_far.nanoseconds_expected += taken as f64 * 1000.0 / expected.speed;
    }

    /// The method for what comes next.
    pub(super) fn judge(&mut self) -> Method {
        let wall = self.judged.elapsed();
        self.judge_after(wall)
    }

    fn judge_after(&mut self, wall: Duration) -> Method {
        let Effort::Link { outflow, .. } = &self.effort else {
            return self.method;
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
            return self.method;
        }
        // Whoever mostly waits for bytes to send does not find out how many could be sent.
        let waited_for = u128::from(last.nanoseconds) * 2 >= wall.as_nanos();
        let looked_again = waited_for && self.method == STORED && self.measured.is_some();
        let believes = |at| self.method != STORED && sent.bytes - at < self.believed;
        let is_measured = waited_for
            || (!self.measured.is_some_and(believes)
                // No buffer takes so long.
                && (last.speed() < DEFLATE_1.speed || sent.bytes > BUFFERED_BYTES));
        if is_measured {
            self.recent.rotate_right(1);
            self.recent[0] = last.speed();
        }
        let link = self.recent.iter().copied().fold(0.0, f64::max);
        if waited_for && link.is_finite() {
            self.measured = Some(sent.bytes);
            outflow
                .link
                .store((link * 1_000_000.0) as u64, Ordering::Relaxed);
        }
        self.before = sent;
        self.judged = Instant::now();
        self.learn();
        if link > 0.0 {
            self.method = self.best(link);
        }
        if looked_again && self.method != STORED {
            self.believed = self.believed.saturating_mul(2);
        }
        self.method
    }

    /// Compares what the codec did with what was expected of it.
    fn learn(&mut self) {
        let so_far = &mut self.since_learnt;
        if so_far.taken >= JUDGED_BYTES / 2 {
            let taken = so_far.taken as f64;
            let halved = (taken / so_far.made.max(1.0)).log2().max(0.0);
            self.shrinks = halved * taken / so_far.halved_expected;
            (so_far.taken, so_far.made, so_far.halved_expected) = (0, 0.0, 0.0);
        }
        if so_far.nanoseconds >= LEARNT_NANOSECONDS as f64 {
            let speed = so_far.nanoseconds_expected / so_far.nanoseconds;
            self.speed = (self.speed + NEWEST * speed) / (1.0 + NEWEST);
            (so_far.nanoseconds, so_far.nanoseconds_expected) = (0.0, 0.0);
        }
    }

    /// The method by which most of the payload comes through a link of this speed.
    fn best(&self, link: f64) -> Method {
        let quickest = DEFLATE_1.speed * self.speed;
        let local = matches!(self.effort, Effort::Link { local: true, .. });
        if local && link * LOCAL > quickest {
            return STORED;
        }
        let through = |expected: &Expected| {
            let ratio = expected.ratio.powf(self.shrinks);
            (expected.speed * self.speed).min(link * ratio)
        };
        let methods = || {
            EXPECTED
                .iter()
                .filter(|one| self.lz4 || one.method != Method::Lz4)
        };
        let now = methods().find(|one| one.method == self.method);
        let now = now.map_or(link * WORTH, through);
        let better = if now < link * WORTH { 1.0 } else { BETTER };
        let mut best = (self.method, now * better);
        for (method, promised) in methods()
            .map(|one| (one.method, through(one)))
            .chain([(STORED, link * WORTH)])
        {
            if promised > best.1 {
                best = (method, promised);
            }
        }
        best.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(outflow: &Outflow, local: bool, known: Option<u64>) -> Throttle<'_> {
        Throttle::new(Effort::Link {
            outflow,
            local,
            known,
            lz4: true,
        })
    }

    /// What was found out of the link, in MB/s.
    fn shown(outflow: &Outflow) -> Option<u64> {
        outflow.link().map(|speed| (speed + 500_000) / 1_000_000)
    }

    /// The method after a link of so many MB/s has shown itself, to a sender that was busy for one of so many parts of the time.
    fn after(throttle: &mut Throttle, outflow: &Outflow, megabytes: u64, part: u32) -> Method {
        let bytes = 2 * JUDGED_BYTES;
        let time = Duration::from_nanos(bytes * 1000 / megabytes);
        outflow.sent(usize::try_from(bytes).unwrap(), time);
        throttle.judge_after(time * part)
    }

    /// The same once it has shown itself for long enough to be believed.
    fn settled(throttle: &mut Throttle, outflow: &Outflow, megabytes: u64) -> Method {
        for _ in 1..JUDGEMENTS {
            after(throttle, outflow, megabytes, 1);
        }
        after(throttle, outflow, megabytes, 1)
    }

    #[test]
    fn the_slower_the_link_the_harder_it_is_compressed() {
        let table = [
            // A unix socket, 10 Gbit/s, 1 Gbit/s, 200, 100, and 10 Mbit/s.
            (
                false,
                [(2000, 0), (1200, 0), (118, 1), (25, 5), (12, 5), (1, 5)],
            ),
            // The same for an address of this machine, behind which there may be a tunnel.
            (
                true,
                [(2000, 0), (300, 0), (118, 0), (60, 0), (12, 5), (1, 5)],
            ),
        ];
        for (local, steps) in table {
            let outflow = Outflow::default();
            let mut throttle = link(&outflow, local, None);
            assert_eq!(throttle.method(), Method::Deflate(u32::from(!local)));
            for (megabytes, expected) in steps {
                let found = settled(&mut throttle, &outflow, megabytes);
                let expected = Method::Deflate(expected);
                assert_eq!(found, expected, "{megabytes} MB/s, local: {local}");
                assert_eq!(shown(&outflow), Some(megabytes));
            }
            // And back.
            assert_eq!(after(&mut throttle, &outflow, 2000, 1), STORED);
        }
    }

    #[test]
    fn what_is_known_of_a_link_decides_until_it_shows_itself() {
        let table = [
            // What it was, in MB/s; with what it begins; what it is; with what it goes on.
            (2000, STORED, 12, Method::Deflate(5)),
            (118, Method::Deflate(1), 118, Method::Deflate(1)),
            (312, Method::Lz4, 312, Method::Lz4),
            (312, Method::Lz4, 12, Method::Deflate(5)),
            (312, Method::Lz4, 2000, STORED),
            (12, Method::Deflate(5), 118, Method::Deflate(1)),
            (12, Method::Deflate(5), 12, Method::Deflate(5)),
        ];
        for (known, first, is, then) in table {
            let outflow = Outflow::default();
            let mut throttle = link(&outflow, false, Some(known * 1_000_000));
            assert_eq!(throttle.method(), first, "{known}");
            assert_eq!(throttle.judge(), first, "nothing was sent yet");
            let half = usize::try_from(FIRST_JUDGED_BYTES).unwrap();
            let time = Duration::from_nanos(FIRST_JUDGED_BYTES * 1000 / is);
            outflow.sent(half, time);
            let judged = throttle.judge_after(time);
            // Less than a mebibyte says that it is quicker; that it is slower, only some of them.
            let expected = if is < known { first } else { then };
            assert_eq!(judged, expected, "{known}, then {is}");
            let found = settled(&mut throttle, &outflow, is);
            assert_eq!(found, then, "{known}, then {is}");
        }
        // To this machine nothing goes as lz4, nor to who does not take it.
        let outflow = Outflow::default();
        let known = Some(312_000_000);
        assert_eq!(link(&outflow, true, known).method(), STORED);
        let throttle = Throttle::new(Effort::Link {
            outflow: &outflow,
            local: false,
            known,
            lz4: false,
        });
        assert_eq!(throttle.method(), Method::Deflate(1));
    }

    #[test]
    fn who_waits_for_the_codec_does_not_find_out_how_quick_the_link_is() {
        let outflow = Outflow::default();
        let mut throttle = link(&outflow, false, None);
        let deflate = Method::Deflate(1);
        // Bytes that fill a buffer at once say nothing.
        for n in 0..BUFFERED_BYTES / (2 * JUDGED_BYTES) {
            assert_eq!(after(&mut throttle, &outflow, 2000, 10), deflate, "{n}");
        }
        // Behind all buffers they say that it is quick, as far as anything is known.
        assert_eq!(after(&mut throttle, &outflow, 2000, 10), STORED);
        assert_eq!(outflow.link(), None);
        // It is looked at again, each time later.
        for believed in [2, 4, 8].map(|times| times * BELIEVED_BYTES) {
            assert_eq!(settled(&mut throttle, &outflow, 118), deflate);
            for n in 1..believed / (2 * JUDGED_BYTES) {
                let method = after(&mut throttle, &outflow, 2000, 10);
                assert_eq!(method, deflate, "{n} of {believed}");
            }
            assert_eq!(after(&mut throttle, &outflow, 2000, 10), STORED);
        }
        assert_eq!(shown(&outflow), Some(118));
    }

    #[test]
    fn a_burst_into_the_buffers_of_a_link_does_not_make_it_a_quick_one() {
        // What is known of it, in MB/s; with what it begins and goes on.
        let table = [(None, 1), (Some(118), 1), (Some(12), 5), (Some(1), 5)];
        for (known, level) in table {
            let outflow = Outflow::default();
            let known = known.map(|known: u64| known * 1_000_000);
            let mut throttle = link(&outflow, false, known);
            for n in 0..BUFFERED_BYTES / (2 * JUDGED_BYTES) {
                let method = after(&mut throttle, &outflow, 2000, 10);
                assert_eq!(method, Method::Deflate(level), "{known:?} {n}");
            }
            // Then they are full.
            let method = settled(&mut throttle, &outflow, 12);
            assert_eq!(method, Method::Deflate(5), "{known:?}");
        }
    }

    #[test]
    fn what_the_codec_shows_counts_more_than_what_is_expected() {
        let outflow = Outflow::default();
        // A slow processor: half of what 1 Gbit/s takes.
        let mut throttle = link(&outflow, false, None);
        let mebibyte = 1 << 20;
        let mut methods = Vec::new();
        for _ in 0..5 {
            throttle.compressed(3 * mebibyte, mebibyte, Duration::from_millis(51));
            methods.push(after(&mut throttle, &outflow, 118, 1));
        }
        assert_eq!(methods[0], Method::Deflate(1));
        assert_eq!(methods[4], STORED);
        // A processor that was busy with something else for a moment.
        let mut throttle = link(&outflow, false, None);
        throttle.before = outflow.so_far();
        throttle.compressed(mebibyte, mebibyte / 3, Duration::from_millis(45));
        let method = after(&mut throttle, &outflow, 118, 1);
        assert_eq!(method, Method::Deflate(1));
        // What hardly shrinks is not worth it either.
        let mut throttle = link(&outflow, false, None);
        throttle.before = outflow.so_far();
        throttle.compressed(mebibyte, mebibyte - 100, Duration::from_millis(20));
        assert_eq!(after(&mut throttle, &outflow, 118, 1), STORED);
    }

    #[test]
    fn the_first_judgement_comes_sooner() {
        let outflow = Outflow::default();
        let mut throttle = link(&outflow, true, None);
        assert_eq!(throttle.judge(), STORED);
        let half = usize::try_from(FIRST_JUDGED_BYTES / 2).unwrap();
        // The buffers on the way take the beginning at once, and then a tunnel shows how slow it is.
        outflow.sent(half, Duration::from_micros(100));
        assert_eq!(throttle.judge(), STORED);
        outflow.sent(half, Duration::from_millis(21));
        throttle.judge();
        assert!(throttle.recent[0] < 30.0, "{:?}", throttle.recent);
        outflow.sent(half, Duration::from_millis(21));
        throttle.judge();
        assert!(throttle.recent[1].is_infinite(), "not by so little");
    }

    #[test]
    fn a_pause_is_not_taken_for_a_slow_link() {
        // Of the other end's disk, or of a busy processor: on this machine and elsewhere.
        for local in [true, false] {
            let outflow = Outflow::default();
            let mut throttle = link(&outflow, local, Some(2_000_000_000));
            for megabytes in [1800, 2, 1900, 3, 3, 1800, 1] {
                let method = after(&mut throttle, &outflow, megabytes, 1);
                assert_eq!(method, STORED, "{megabytes} MB/s, local: {local}");
            }
            assert_eq!(shown(&outflow), Some(1800));
            assert_ne!(settled(&mut throttle, &outflow, 2), STORED);
        }
    }

    #[test]
    fn a_level_that_was_asked_for_stays() {
        let mut throttle = Throttle::new(Effort::Level(3));
        throttle.compressed(1 << 30, 1, Duration::from_secs(1000));
        assert_eq!(throttle.judge(), Method::Deflate(3));
    }
}
