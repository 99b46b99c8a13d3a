//! Codes with which a browser signs in, until somebody uses them.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::store::tokens::Identity;

/// How long a code is good: it is opened in a browser at once.
pub(in crate::server) const CODE_TIME: Duration = Duration::from_secs(60);
/// How many codes of a token there may be at once; its oldest give way, and nobody else's.
const CODES_MAX: usize = 16;

/// Codes that nobody has used yet. They are in memory alone: a restart ends them.
#[derive(Default)]
pub(super) struct PageCodes(Mutex<Vec<PageCode>>);

struct PageCode {
    code: String,
    /// The token that asked for it; none: somebody on this machine.
    of: Option<Identity>,
    made: Instant,
}

impl PageCodes {
    pub(super) fn add(&self, code: String, of: Option<Identity>, now: Instant) {
        let mut codes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        codes.retain(|one| now.duration_since(one.made) < CODE_TIME);
        let mut same = codes.iter().enumerate().filter(|(_, one)| one.of == of);
        let oldest = same.next().map(|(at, _)| at);
        if let (Some(oldest), true) = (oldest, same.count() + 1 >= CODES_MAX) {
            codes.remove(oldest);
        }
        codes.push(PageCode {
            code,
            of,
            made: now,
        });
    }

    /// Takes a code out, and says who asked for it. A code has 256 random bits: how long a comparison takes helps nobody.
    pub(super) fn take(&self, code: &str, now: Instant) -> Option<Option<Identity>> {
        let mut codes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        codes.retain(|one| now.duration_since(one.made) < CODE_TIME);
        let at = codes.iter().position(|one| one.code == code)?;
        Some(codes.remove(at).of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_good_once_and_for_a_minute() {
        let codes = PageCodes::default();
        let ci = || Some(Identity::of_this_machine());
        let begin = Instant::now();
        codes.add("a".into(), ci(), begin);
        codes.add("b".into(), None, begin);
        assert_eq!(codes.take("c", begin), None);
        assert_eq!(codes.take("", begin), None);
        assert_eq!(codes.take("a", begin), Some(ci()));
        assert_eq!(codes.take("a", begin), None);
        assert_eq!(codes.take("b", begin + CODE_TIME), None);
        codes.add("c".into(), ci(), begin);
        for n in 0..=CODES_MAX {
            codes.add(n.to_string(), None, begin);
        }
        assert_eq!(codes.take("0", begin), None);
        assert_eq!(codes.take("1", begin), Some(None));
        assert_eq!(codes.take("c", begin), Some(ci()));
    }
}
