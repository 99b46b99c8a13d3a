//! Rows of a table, side by side: as wide as what stands in them, or as a terminal is.

/// What may be done to a column so that a table fits; the steps are tried in the order in which they stand.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fit {
    /// Leave it out.
    Drop(&'static str),
    /// Show of a date and a time the date without its year, and the time without its seconds.
    ShortTime(&'static str),
    /// Cut its texts, at most down to so many characters.
    Cut(&'static str, usize),
    /// Go on in further lines, in at least so many characters; for the last column.
    Wrap(&'static str, usize),
}

/// Between columns, so that a cell with one space in it stays one.
const GAP: usize = 2;
/// Stands where the end of a text was cut off.
const CUT: &str = "..";

/// Rows with their head first. A cell may have several lines in the last column.
pub(super) struct Rows(pub(super) Vec<Vec<String>>);

impl Rows {
    /// The lines, each with its end; with a width, fitted into it as far as the steps can.
    pub(super) fn lines(mut self, steps: &[Fit], width: Option<usize>) -> String {
        if width.is_none() {
            // What reads it reads a line a row.
            for cell in self.0.iter_mut().flatten() {
                *cell = cell.replace('\n', ", ");
            }
        }
        for step in steps {
            let Some(over) = width.and_then(|width| self.width().checked_sub(width)) else {
                break;
            };
            if over > 0 {
                self.apply(*step, over);
            }
        }
        self.aligned()
    }

    fn column(&self, title: &str) -> Option<usize> {
        self.0.first()?.iter().position(|head| head == title)
    }

    fn apply(&mut self, step: Fit, over: usize) {
        let (Fit::Drop(title) | Fit::ShortTime(title) | Fit::Cut(title, _) | Fit::Wrap(title, _)) =
            step;
        let Some(column) = self.column(title) else {
            return;
        };
        let is = self.widths()[column];
        for row in &mut self.0 {
            match step {
                Fit::Drop(_) => drop(row.remove(column)),
                Fit::ShortTime(_) => row[column] = short_time(&row[column]),
                Fit::Cut(_, least) => row[column] = cut(&row[column], room(is, over, least)),
                Fit::Wrap(_, least) => row[column] = wrap(&row[column], room(is, over, least)),
            }
        }
    }

    fn widths(&self) -> Vec<usize> {
        let columns = self.0.first().map_or(0, Vec::len);
        let of = |column: usize| {
            let lines = self.0.iter().flat_map(|row| row[column].lines());
            lines.map(columns_of).max().unwrap_or(0)
        };
        (0..columns).map(of).collect()
    }

    fn width(&self) -> usize {
        let widths = self.widths();
        widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1)
    }

    fn aligned(&self) -> String {
        let widths = self.widths();
        let before: usize = widths.iter().rev().skip(1).map(|width| width + GAP).sum();
        let mut out = String::new();
        for row in &self.0 {
            let mut line = String::new();
            for (text, column) in row.iter().zip(&widths) {
                let mut parts = text.lines();
                let first = parts.next().unwrap_or_default();
                line.push_str(first);
                line.extend(std::iter::repeat_n(' ', column - columns_of(first) + GAP));
                for more in parts {
                    line.truncate(line.trim_end().len());
                    line.push('\n');
                    line.extend(std::iter::repeat_n(' ', before));
                    line.push_str(more);
                }
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

/// What a column may have that is so wide where the table is so much too wide.
fn room(is: usize, over: usize, least: usize) -> usize {
    is.saturating_sub(over).max(least)
}

/// How many columns of a terminal a text takes, at most: characters of East Asia and pictures take two.
fn columns_of(text: &str) -> usize {
    let columns = |sign: char| if sign < '\u{1100}' { 1 } else { 2 };
    text.chars().map(columns).sum()
}

/// `2026-11-24 08:16:11` as `11-24 08:16`; anything else as it is.
fn short_time(text: &str) -> String {
    match text.len() == 19 && text.is_ascii() {
        true => text[5..16].to_owned(),
        false => text.to_owned(),
    }
}

fn cut(text: &str, room: usize) -> String {
    if columns_of(text) <= room {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut left = room.saturating_sub(CUT.len());
    for sign in text.chars() {
        let sign_columns = columns_of(sign.encode_utf8(&mut [0; 4]));
        if sign_columns > left {
            break;
        }
        left -= sign_columns;
        out.push(sign);
    }
    out.truncate(out.trim_end().len());
    out + CUT
}

/// A word that is wider than a whole line, such as a path, in pieces that are not.
fn pieces(word: &str, room: usize) -> Vec<String> {
    // A line that goes on is set in by two columns, and the widest character takes two.
    let room = room.saturating_sub(2).max(2);
    if columns_of(word) <= room {
        return vec![word.to_owned()];
    }
    let mut out = vec![String::new()];
    let mut left = room;
    for sign in word.chars() {
        let sign_columns = columns_of(sign.encode_utf8(&mut [0; 4]));
        if sign_columns > left {
            out.push(String::new());
            left = room;
        }
        left -= sign_columns;
        if let Some(last) = out.last_mut() {
            last.push(sign);
        }
    }
    out
}

/// Each line of a text broken between words; what goes on is set in.
fn wrap(text: &str, room: usize) -> String {
    let mut out: Vec<String> = Vec::new();
    for line in text.lines() {
        let mut current = String::new();
        for word in line.split(' ').flat_map(|word| pieces(word, room)) {
            let fits = columns_of(&current) + 1 + columns_of(&word) <= room;
            if !current.is_empty() && !fits {
                out.push(std::mem::replace(&mut current, " ".to_owned()));
            }
            if !current.is_empty() {
                current.push(' ');
            }
            current.push_str(&word);
        }
        out.push(current);
    }
    out.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(all: &[&[&str]]) -> Rows {
        let row = |row: &&[&str]| row.iter().map(|text| (*text).to_owned()).collect();
        Rows(all.iter().map(row).collect())
    }

    #[test]
    fn steps_are_taken_until_it_fits() {
        const STEPS: &[Fit] = &[
            Fit::Drop("BY"),
            Fit::ShortTime("AT"),
            Fit::Cut("NAME", 4),
            Fit::Wrap("WHAT", 8),
        ];
        let table: &[(Option<usize>, &str)] = &[
            (
                None,
                "NAME    AT                   BY   WHAT\na-name  2026-11-24 08:16:11  bob  one two three\n",
            ),
            (
                Some(45),
                "NAME    AT                   WHAT\na-name  2026-11-24 08:16:11  one two three\n",
            ),
            (
                Some(40),
                "NAME    AT           WHAT\na-name  11-24 08:16  one two three\n",
            ),
            (
                Some(33),
                "NAME   AT           WHAT\na-n..  11-24 08:16  one two three\n",
            ),
            (
                Some(28),
                "NAME  AT           WHAT\na-..  11-24 08:16  one two\n                     three\n",
            ),
            // As narrow as it gets.
            (
                Some(5),
                "NAME  AT           WHAT\na-..  11-24 08:16  one two\n                     three\n",
            ),
        ];
        let all: &[&[&str]] = &[
            &["NAME", "AT", "BY", "WHAT"],
            &["a-name", "2026-11-24 08:16:11", "bob", "one two three"],
        ];
        for (width, expected) in table {
            assert_eq!(rows(all).lines(STEPS, *width), *expected, "{width:?}");
        }
    }

    #[test]
    fn texts_are_cut_by_the_columns_that_they_take() {
        let table = [
            ("short", 5, "short"),
            ("longer", 5, "lon.."),
            ("a b cde", 4, "a.."),
            ("\u{6f22}\u{5b57}\u{6f22}", 5, "\u{6f22}.."),
            ("abc", 1, ".."),
        ];
        for (text, room, expected) in table {
            assert_eq!(cut(text, room), expected, "{text} {room}");
        }
    }

    #[test]
    fn a_word_wider_than_the_column_goes_on_in_the_next_line() {
        let table = [
            (
                "at /a/path/of/some/length now",
                12,
                "at\n  /a/path/of\n  /some/leng\n  th now",
            ),
            ("abcdef", 4, "ab\n  cd\n  ef"),
            ("\u{6f22}\u{5b57}", 1, "\u{6f22}\n  \u{5b57}"),
        ];
        for (text, room, expected) in table {
            assert_eq!(wrap(text, room), expected, "{text} {room}");
        }
    }

    #[test]
    fn a_cell_of_several_lines_stands_below_itself() {
        let all: &[&[&str]] = &[&["A", "B"], &["x", "one\ntwo"], &["y", "-"]];
        assert_eq!(
            rows(all).lines(&[], Some(80)),
            "A  B\nx  one\n   two\ny  -\n"
        );
    }
}
