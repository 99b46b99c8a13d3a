//! Times that differ from host to host, so that a thousand of them do not ask at the same moment.

use std::time::Duration;

/// A random part of a time.
pub fn up_to(longest: Duration) -> Duration {
    let mut random = [0; 4];
    // Without randomness the longest time is as good as any, but for many hosts at once.
    match getrandom::fill(&mut random) {
        Ok(()) => longest.mul_f64(f64::from(u32::from_ne_bytes(random)) / f64::from(u32::MAX)),
        Err(_) => longest,
    }
}

/// A time that is up to a fifth shorter or longer.
pub fn around(time: Duration) -> Duration {
    time * 4 / 5 + up_to(time * 2 / 5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_stays_near() {
        let minute = Duration::from_secs(60);
        let all: Vec<Duration> = (0..100).map(|_| around(minute)).collect();
        assert!(
            all.iter()
                .all(|one| (48_000..=72_000).contains(&one.as_millis()))
        );
        assert!(all.iter().any(|one| one != &all[0]));
        assert!((0..100).all(|_| up_to(minute) <= minute));
        assert_eq!(up_to(Duration::ZERO), Duration::ZERO);
    }
}
