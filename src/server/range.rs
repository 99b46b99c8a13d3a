//! The part of a file that a request's `Range` asks for.

use std::ops::Range;

/// What a request wants of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All of it: no part is asked for, or in a way that need not be understood, such as several parts at once.
    All,
    /// These bytes, at least one.
    Part(Range<u64>),
    /// A part that the file does not have.
    Outside,
}

/// Reads the value of `Range` for a file of so many bytes.
pub(super) fn wanted(value: Option<&str>, length: u64) -> Wanted {
    let Some((first, last)) = value
        .and_then(|value| value.trim().strip_prefix("bytes="))
        .and_then(|range| range.split_once('-'))
    else {
        return Wanted::All;
    };
    let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse::<u64>().ok(),
        false => None,
    };
    let part = match (first, last, number(first), number(last)) {
        // The last bytes, as many of them as there are.
        ("", _, _, Some(count)) => length.saturating_sub(count)..length,
        (_, "", Some(first), _) => first..length,
        (_, _, Some(first), Some(last)) if first <= last => {
            first..length.min(last.saturating_add(1))
        }
        _ => return Wanted::All,
    };
    match part.is_empty() {
        true => Wanted::Outside,
        false => Wanted::Part(part),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_part_that_a_range_asks_for() {
        use Wanted::{All, Outside, Part};
        let table = [
            ("bytes=0-", Part(0..10)),
            ("bytes=4-", Part(4..10)),
            ("bytes=9-", Part(9..10)),
            ("bytes=0-0", Part(0..1)),
            ("bytes=2-5", Part(2..6)),
            ("bytes=2-500", Part(2..10)),
            ("bytes=2-18446744073709551615", Part(2..10)),
            ("bytes=-3", Part(7..10)),
            ("bytes=-30", Part(0..10)),
            ("bytes=10-", Outside),
            ("bytes=10-12", Outside),
            ("bytes=-0", Outside),
            // Not understood, and therefore as if it had not been there.
            ("", All),
            ("bytes", All),
            ("bytes=", All),
            ("bytes=-", All),
            ("bytes=5-2", All),
            ("bytes=+1-2", All),
            ("bytes=1-2,4-5", All),
            ("bytes=a-", All),
            ("bytes=99999999999999999999-", All),
            ("lines=1-2", All),
        ];
        for (value, expected) in table {
            assert_eq!(wanted(Some(value), 10), expected, "{value}");
        }
        assert_eq!(wanted(None, 10), All);
    }
}
