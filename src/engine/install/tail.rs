//! The last lines of a run, for the error that may follow.

use std::collections::VecDeque;

use crate::api::event::{InstallLine, InstallOutput};

/// As many lines as an error carries.
const LINES_MAX: usize = 200;
/// And as many bytes of text.
const BYTES_MAX: usize = 16 << 10;

/// Keeps the last lines and counts all.
#[derive(Default)]
pub struct Tail {
    kept: VecDeque<InstallLine>,
    bytes: usize,
    lines: u64,
}

impl Tail {
    /// Keeps the last of several lines.
    pub fn keep_all(&mut self, lines: &[InstallLine]) {
        // What so many others follow is not kept, and not copied either.
        let passed = lines.len().saturating_sub(LINES_MAX);
        if passed > 0 {
            self.kept.clear();
            self.bytes = 0;
            self.lines += passed as u64;
        }
        lines[passed..].iter().for_each(|line| self.keep(line));
    }

    pub fn keep(&mut self, line: &InstallLine) {
        self.lines += 1;
        let mut line = line.clone();
        // A piece whose bytes were not text grows threefold, and is shown only in part.
        let mut end = line.line.len().min(BYTES_MAX);
        while !line.line.is_char_boundary(end) {
            end -= 1;
        }
        line.line.truncate(end);
        self.bytes += line.line.len();
        self.kept.push_back(line);
        while self.kept.len() > LINES_MAX || self.bytes > BYTES_MAX {
            let dropped = self.kept.pop_front().map_or(0, |line| line.line.len());
            self.bytes -= dropped;
        }
    }

    pub fn lines(&self) -> u64 {
        self.lines
    }

    pub fn output(self) -> InstallOutput {
        InstallOutput {
            dropped_lines: self.lines - self.kept.len() as u64,
            lines: self.kept.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::event::Stream;

    /// The numbers of lines kept and dropped of so many lines of one length.
    fn kept(count: usize, text: &str) -> (usize, u64) {
        let lines: Vec<InstallLine> = (0..count)
            .map(|n| InstallLine {
                manager: "npm".into(),
                stream: Stream::Stdout,
                line: format!("{n:04}{text}"),
                continued: false,
            })
            .collect();
        let mut tail = Tail::default();
        lines.iter().for_each(|line| tail.keep(line));
        let output = tail.output();
        // It does not matter how many come at once.
        for at_once in [1, 7, LINES_MAX, LINES_MAX + 1, 1000] {
            let mut tail = Tail::default();
            lines.chunks(at_once).for_each(|some| tail.keep_all(some));
            assert_eq!(tail.output(), output, "{at_once}");
        }
        if let Some(last) = output.lines.last() {
            assert!(last.line.starts_with(&format!("{:04}", count - 1)));
        }
        assert!(
            output
                .lines
                .iter()
                .map(|line| line.line.len())
                .sum::<usize>()
                <= BYTES_MAX
        );
        (output.lines.len(), output.dropped_lines)
    }

    #[test]
    fn the_last_lines_are_kept() {
        let (small, large, huge) = ("x".repeat(1020), "x".repeat(8188), "\u{fffd}".repeat(8192));
        let table = [
            (0, "", (0, 0)),
            (200, "", (200, 0)),
            (1000, "", (200, 800)),
            (16, &small, (16, 0)),
            (20, &small, (16, 4)),
            (3, &large, (2, 1)),
            (3, &huge, (1, 2)),
        ];
        for (count, text, expected) in table {
            assert_eq!(kept(count, text), expected, "{count} of {}", text.len() + 4);
        }
    }
}
