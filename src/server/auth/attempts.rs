//! Wrong credentials, counted by address, so that guessing is slow. Right ones are never counted and always pass: whoever
//! shares an address with a guesser, behind a proxy perhaps, is not locked out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Wrong credentials that one address may show in a minute: more than a person mistypes.
const MOST: u32 = 10;
/// How long a count lasts, from its first one on: as long as `Retry-After` says.
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses that are counted at once, about 40 bytes each. Beyond it the count that began first is forgotten.
const ADDRESSES_MAX: usize = 1024;

/// The counts.
#[derive(Debug, Default)]
pub(super) struct WrongAttempts(Mutex<HashMap<IpAddr, Count>>);

#[derive(Debug)]
struct Count {
    begun: Instant,
    wrong: u32,
}

impl WrongAttempts {
    /// Counts one wrong attempt, and says whether it is one too many.
    pub(super) fn wrong(&self, address: IpAddr, now: Instant) -> bool {
        // A count more or less does not stop the counting.
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let address = network(address);
        if !counts.contains_key(&address) && counts.len() >= ADDRESSES_MAX {
            counts.retain(|_, count| now.duration_since(count.begun) < WINDOW);
            let oldest = counts.iter().min_by_key(|(_, count)| count.begun);
            if let (true, Some((&oldest, _))) = (counts.len() >= ADDRESSES_MAX, oldest) {
                counts.remove(&oldest);
            }
        }
        let fresh = || Count {
            begun: now,
            wrong: 0,
        };
        let count = counts.entry(address).or_insert_with(fresh);
        if now.duration_since(count.begun) >= WINDOW {
            *count = fresh();
        }
        count.wrong = count.wrong.saturating_add(1);
        count.wrong > MOST
    }
}

/// Whoever has one address of IPv6 has the 2^64 beside it.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() >> 64 << 64).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_eleventh_in_a_minute_is_one_too_many() {
        let attempts = WrongAttempts::default();
        let begin = Instant::now();
        let wrong = |from: &str, seconds| {
            attempts.wrong(address(from), begin + Duration::from_secs(seconds))
        };
        assert!((0..10).all(|n| !wrong("10.0.0.1", n)));
        assert!(wrong("10.0.0.1", 10) && wrong("10.0.0.1", 59));
        assert!(!wrong("10.0.0.2", 59), "another address has its own count");
        assert!(!wrong("10.0.0.1", 60), "a minute later it begins anew");

        assert!((0..10).all(|n| !wrong(&format!("2001:db8::{n}"), 0)));
        assert!(wrong("2001:db8::ffff:1", 0), "one network");
        assert!(!wrong("2001:db8:0:1::1", 0), "another one");
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_oldest() {
        let attempts = WrongAttempts::default();
        let begin = Instant::now();
        let first = address("10.255.0.1");
        assert!((0..11).any(|_| attempts.wrong(first, begin)));
        for n in 0..5000_u32 {
            let later = begin + Duration::from_millis(1 + u64::from(n));
            attempts.wrong(IpAddr::V4(n.into()), later);
        }
        assert_eq!(attempts.0.lock().unwrap().len(), ADDRESSES_MAX);
        assert!(!attempts.wrong(first, begin + Duration::from_secs(10)));
    }
}
