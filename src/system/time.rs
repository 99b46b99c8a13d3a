//! The time of day, and dates and durations as everybody writes them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The longest time that somebody may write. Milliseconds go over the wire in 64 bits; a thousand years are enough, and fit.
const DURATION_MAX: u64 = 1000 * 366 * 24 * 3600;

/// Milliseconds since the epoch; 0 on a host whose clock stands before it.
pub fn now_ms() -> u64 {
    ms_of(SystemTime::now())
}

/// A time in milliseconds since the epoch; 0 for one before it.
pub fn ms_of(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A time in milliseconds since the epoch as `2026-11-24T08:16:11.042Z`, RFC 3339 in UTC.
pub fn rfc3339(ms: u64) -> String {
    let (date, clock) = date_and_clock(ms);
    format!("{date}T{clock}.{:03}Z", ms % 1000)
}

/// As [`rfc3339`] for people: `2026-11-24 08:16:11`, in UTC as well, so that it does not depend on where it is read.
pub fn plain(ms: u64) -> String {
    let (date, clock) = date_and_clock(ms);
    format!("{date} {clock}")
}

/// A time as people write it: whole seconds, or with a unit, `"30"`, `"30s"`, `"5m"`, `"2h"`. Nothing else.
pub fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = match text.as_bytes().last()? {
        b's' => (&text[..text.len() - 1], 1),
        b'm' => (&text[..text.len() - 1], 60),
        b'h' => (&text[..text.len() - 1], 3600),
        _ => (text, 1),
    };
    // `parse` would take a sign.
    if !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let seconds = number.parse::<u64>().ok()?.checked_mul(unit)?;
    (seconds <= DURATION_MAX).then(|| Duration::from_secs(seconds))
}

/// The time in milliseconds since the epoch that a `Date` header says, `Tue, 24 Nov 2026 08:16:11 GMT`.
pub fn http_date(text: &str) -> Option<u64> {
    let mut words = text.split_ascii_whitespace().skip(1);
    let day: u64 = words.next()?.parse().ok()?;
    let name = words.next()?;
    let month = MONTHS.iter().position(|month| *month == name)? as u64 + 1;
    let year: u64 = words.next()?.parse().ok()?;
    let mut clock = words.next()?.splitn(3, ':').map(str::parse::<u64>);
    let mut part = || clock.next()?.ok();
    let (hour, minute, second) = (part()?, part()?, part()?);
    let known = (1970..=9999).contains(&year)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    if !known || words.next() != Some("GMT") {
        return None;
    }
    let seconds = hour * 3600 + minute * 60 + second;
    Some((days(year, month, day) * 86_400 + seconds) * 1000)
}

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// The day of a Gregorian date from 1970 on, counted from 1970-01-01: what [`civil`] does, the other way round.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = year - u64::from(month <= 2);
    let shifted = (month + 9) % 12;
    let day_of_year = (153 * shifted + 2) / 5 + day - 1;
    year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 719_468
}

fn date_and_clock(ms: u64) -> (String, String) {
    let (days, rest) = (ms / 86_400_000, ms % 86_400_000);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (rest / 3_600_000, rest / 60_000 % 60, rest / 1000 % 60);
    (
        format!("{year:04}-{month:02}-{day:02}"),
        format!("{hour:02}:{minute:02}:{second:02}"),
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
    // From March on, five months have 153 days.
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
    fn dates() {
        let table = [
            (0, "1970-01-01", "00:00:00.000"),
            (951_782_400_000, "2000-02-29", "00:00:00.000"),
            (1_709_251_199_999, "2024-02-29", "23:59:59.999"),
            (1_795_508_171_042, "2026-11-24", "08:16:11.042"),
            (4_102_444_800_000, "2100-01-01", "00:00:00.000"),
        ];
        for (ms, date, clock) in table {
            assert_eq!(rfc3339(ms), format!("{date}T{clock}Z"));
            assert_eq!(plain(ms), format!("{date} {}", &clock[..8]));
        }
        for (text, ms) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("Tue, 29 Feb 2000 00:00:00 GMT", Some(951_782_400_000)),
            ("Thu, 29 Feb 2024 23:59:59 GMT", Some(1_709_251_199_000)),
            ("Tue, 24 Nov 2026 08:16:11 GMT", Some(1_795_508_171_000)),
            ("Fri, 01 Jan 2100 00:00:00 GMT", Some(4_102_444_800_000)),
            ("Tue, 24 Nov 2026 08:16:11 CET", None),
            ("Tue, 24 Nov 2026 24:16:11 GMT", None),
            ("Tue, 24 Nov 2026 08:16 GMT", None),
            ("Tue, 24 nov 2026 08:16:11 GMT", None),
            ("Tue, 00 Nov 2026 08:16:11 GMT", None),
            ("Tue, 24 Nov 99999999999999999999 08:16:11 GMT", None),
            ("", None),
        ] {
            assert_eq!(http_date(text), ms, "{text}");
        }
        assert!(now_ms() > 1_700_000_000_000);
        assert_eq!(ms_of(UNIX_EPOCH - std::time::Duration::from_secs(1)), 0);
    }

    #[test]
    fn durations() {
        let table = [
            ("30", Some(30)),
            ("30s", Some(30)),
            ("5m", Some(300)),
            ("2h", Some(7200)),
            ("", None),
            ("s", None),
            ("0", Some(0)),
            ("0s", Some(0)),
            ("-1", None),
            ("+1", None),
            ("1.5", None),
            ("1 s", None),
            ("5d", None),
            ("5ä", None),
            ("18446744073709551615h", None),
        ];
        for (text, seconds) in table {
            assert_eq!(duration(text), seconds.map(Duration::from_secs), "{text:?}");
        }
    }
}
