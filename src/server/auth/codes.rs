//! Codes with which a browser signs in, until somebody uses them.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a code is good: it is opened in a browser at once.
pub(in crate::server) const CODE_TIME: Duration = Duration::from_secs(60);
/// How many codes there may be at once; the oldest give way.
const CODES_MAX: usize = 16;

/// Codes that nobody has used yet. They are in memory alone: a restart ends them.
#[derive(Default)]
pub(super) struct PageCodes(Mutex<Vec<PageCode>>);

struct PageCode {
    code: String,
    /// The token that asked for it; none: somebody on this machine.
    name: Option<String>,
    made: Instant,
}

impl PageCodes {
    pub(super) fn add(&self, code: String, name: Option<String>, now: Instant) {
        let mut codes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if codes.len() >= CODES_MAX {
            codes.remove(0);
        }
        codes.push(PageCode {
            code,
            name,
            made: now,
        });
    }

    /// Takes a code out, and says who asked for it. A code has 256 random bits: how long a comparison takes helps nobody.
    pub(super) fn take(&self, code: &str, now: Instant) -> Option<Option<String>> {
        let mut codes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        codes.retain(|one| now.duration_since(one.made) < CODE_TIME);
        let at = codes.iter().position(|one| one.code == code)?;
        Some(codes.remove(at).name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_good_once_and_for_a_minute() {
        let codes = PageCodes::default();
        let begin = Instant::now();
        codes.add("a".into(), Some("ci".into()), begin);
        codes.add("b".into(), None, begin);
        assert_eq!(codes.take("c", begin), None);
        assert_eq!(codes.take("", begin), None);
        assert_eq!(codes.take("a", begin), Some(Some("ci".into())));
        assert_eq!(codes.take("a", begin), None);
        assert_eq!(codes.take("b", begin + CODE_TIME), None);
        for n in 0..=CODES_MAX {
            codes.add(n.to_string(), None, begin);
        }
        assert_eq!(codes.take("0", begin), None);
        assert_eq!(codes.take("1", begin), Some(None));
    }
}
