//! Which of the objects of a tree, by their numbers: `0-11,417,2000-2100`.

use std::fmt;

/// Numbers in ascending order, those that follow each other together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// Adds a number that is above all others.
    pub fn push(&mut self, number: u64) {
        match self.0.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => self.0.push((number, number)),
        }
    }

    /// The largest one.
    pub fn last(&self) -> Option<u64> {
        self.0.last().map(|(_, last)| *last)
    }

    /// All numbers.
    pub fn all() -> Ranges {
        Ranges(vec![(0, u64::MAX)])
    }

    /// Reads them.
    pub fn parse(text: &str) -> Option<Ranges> {
        if text == "all" {
            return Some(Ranges::all());
        }
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (first.parse().ok()?, last.parse().ok()?);
            let ascends = ranges.last().is_none_or(|(_, before)| *before < first);
            if first > last || !ascends {
                return None;
            }
            ranges.push((first, last));
        }
        Some(Ranges(ranges))
    }

    /// Asks for ascending numbers, one after the other.
    pub fn asker(&self) -> impl FnMut(u64) -> bool + '_ {
        let mut ranges = self.0.iter().peekable();
        move |number| {
            while ranges.next_if(|(_, last)| *last < number).is_some() {}
            ranges.peek().is_some_and(|(first, _)| *first <= number)
        }
    }
}

impl fmt::Display for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (first, last)) in self.0.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            match first == last {
                true => write!(f, "{comma}{first}")?,
                false => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_written_and_read() {
        for numbers in [&[][..], &[0], &[0, 1, 2, 7, 9, 10], &[5, 6]] {
            let mut ranges = Ranges::default();
            numbers.iter().for_each(|number| ranges.push(*number));
            let read = Ranges::parse(&ranges.to_string()).unwrap();
            assert_eq!(read, ranges);
            let mut asks = read.asker();
            for number in 0..12 {
                assert_eq!(asks(number), numbers.contains(&number), "{ranges} {number}");
            }
        }
        assert!((Ranges::parse("all").unwrap().asker())(17));
        for bad in ["x", "2-1", "3,2", "1,1", "-", "1-", "1-2-3"] {
            assert_eq!(Ranges::parse(bad), None, "{bad}");
        }
    }
}
