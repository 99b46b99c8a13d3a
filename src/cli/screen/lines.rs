//! Relayed text made harmless: control characters become visible, and nothing reads as a command to a CI system.
//!
//! What a package manager or a server says is somebody else's text. On a terminal it could move the cursor, rewrite what
//! stands above or change the title; bidirectional controls could show a line in another order than it has; in the log of
//! a GitHub runner it could set variables or paths of later steps. Colours are dropped, since they only
//! act on how it looks; every other character can still be read.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Whether a character would act instead of being shown. A tab only makes space, so it may stay.
fn acts(character: char) -> bool {
    matches!(character,
        '\0'..='\x08' | '\n'..='\x1f' | '\x7f'..='\u{9f}'
        // Line and paragraph separator end a line for some readers.
        | '\u{2028}' | '\u{2029}'
        // They order what follows from right to left or left to right, past the end of the line on some terminals.
        | '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Whether [`visible`] would change the text.
pub(crate) fn has_controls(text: &str) -> bool {
    !is_printable_ascii(text) && text.chars().any(acts)
}

/// Most lines are, and looking at bytes is several times faster than at characters.
fn is_printable_ascii(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

/// The text without colours, with `^[` for any other escape character, `^?` for delete, and `<U+202E>` for controls beyond
/// ASCII.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    if !has_controls(text) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    let mut rest = text.chars();
    while let Some(character) = rest.next() {
        if let Some(after) = after_colour(character, rest.as_str()) {
            rest = after.chars();
            continue;
        }
        match character {
            '\x7f' => out.push_str("^?"),
            control if acts(control) && control.is_ascii() => {
                out.push('^');
                // ASCII's control characters lie 64 below the characters that name them.
                out.push(char::from(control as u8 + 64));
            }
            control if acts(control) => {
                // Writing into a string cannot fail.
                let _ = write!(out, "<U+{:04X}>", u32::from(control));
            }
            harmless => out.push(harmless),
        }
    }
    Cow::Owned(out)
}

/// What stands behind the sequence that sets a colour or an emphasis, if this character begins one.
fn after_colour(first: char, rest: &str) -> Option<&str> {
    let parameters = rest.strip_prefix('[').filter(|_| first == '\x1b')?;
    parameters
        .trim_start_matches(|sign: char| sign.is_ascii_digit() || matches!(sign, ';' | ':'))
        .strip_prefix('m')
}

/// JSON without the controls that JSON itself does not mind, written as its escapes, which mean the same. They can only
/// stand in strings; line feeds between the parts stay.
fn escaped(json: &str) -> Cow<'_, str> {
    if !json.split('\n').any(has_controls) {
        return Cow::Borrowed(json);
    }
    let mut out = String::with_capacity(json.len() + 16);
    for character in json.chars() {
        if character != '\n' && acts(character) {
            // They are all in the basic plane. Writing into a string cannot fail.
            let _ = write!(out, "\\u{:04x}", u32::from(character));
        } else {
            out.push(character);
        }
    }
    Cow::Owned(out)
}

/// The lines of a message from a server or of an error, each made visible, without white space at its end. Blank lines at
/// the end are dropped; there is always one line.
pub(crate) fn message(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = text
        .trim_end()
        .split('\n')
        .map(|line| visible(line.trim_end()).into_owned())
        .collect();
    if lines.is_empty() {
        lines.push(String::new());
    }
    lines
}

/// A message with its code, each line made visible.
pub(crate) fn sentence(message: &str, code: Option<&str>) -> String {
    let mut text = self::message(message).join("\n");
    if let Some(code) = code {
        text.push_str(" (");
        text.push_str(&visible(code));
        text.push(')');
    }
    text
}

/// A line's end for some reader or other: whatever a runner splits at, it must not find one within a line of ours.
fn ends_line(character: char) -> bool {
    matches!(
        character,
        '\n' | '\r' | '\x0b' | '\x0c' | '\u{85}' | '\u{2028}' | '\u{2029}'
    )
}

/// What the runners of CI systems obey wherever it stands in a line, before the bracket and in any case: GitHub's and
/// Azure's, Azure's, TeamCity's.
const COMMANDS: [&str; 3] = ["##", "##vso", "##teamcity"];

/// What begins a group for Buildkite's agent, or opens one, where a line begins with it.
const GROUPS: [&str; 4] = ["--- ", "+++ ", "~~~ ", "^^^ +++"];

/// The places of the brackets that make a command of what stands before them.
fn command_brackets(text: &str) -> impl Iterator<Item = usize> {
    let bytes = text.as_bytes();
    memchr::memchr_iter(b'[', bytes).filter(move |at| {
        COMMANDS.iter().any(|command| {
            let start = at.checked_sub(command.len());
            start.is_some_and(|start| bytes[start..*at].eq_ignore_ascii_case(command.as_bytes()))
        })
    })
}

/// The text with something put in the place of each of these brackets.
fn without_commands<'a>(text: &'a str, bracket: &str) -> Cow<'a, str> {
    let mut from = 0;
    let mut out = String::new();
    for at in command_brackets(text) {
        out.extend([&text[from..at], bracket]);
        from = at + 1;
    }
    match from {
        0 => Cow::Borrowed(text),
        _ => Cow::Owned(out + &text[from..]),
    }
}

/// JSON in which nothing acts on a terminal or on a CI system, and which means the same: both can stand in strings alone.
pub(crate) fn json(text: &str) -> Cow<'_, str> {
    match escaped(text) {
        Cow::Borrowed(text) => without_commands(text, "\\u005b"),
        Cow::Owned(text) => Cow::Owned(without_commands(&text, "\\u005b").into_owned()),
    }
}

/// Makes a line of text that no CI system obeys: `::` and what makes a group at its beginning and `##[` and its kin anywhere in it are broken with
/// a space, line ends within it are made visible. The beginning is whatever comes after white space, characters that are
/// not seen and terminal sequences, all of which a runner may skip.
pub(crate) fn defused(line: &str) -> Cow<'_, str> {
    let mut line = Cow::Borrowed(line);
    if !is_printable_ascii(&line) && line.contains(ends_line) {
        let mut out = String::with_capacity(line.len() + 8);
        for character in line.chars() {
            if ends_line(character) {
                out.push_str(&visible(character.encode_utf8(&mut [0; 4])));
            } else {
                out.push(character);
            }
        }
        line = Cow::Owned(out);
    }
    if let Cow::Owned(harmless) = without_commands(&line, " [") {
        line = Cow::Owned(harmless);
    }
    let start = line.len() - unseen(&line).len();
    if line[start..].starts_with("::") {
        line.to_mut().insert(start + 1, ' ');
    }
    if GROUPS.iter().any(|group| line.starts_with(group)) {
        line.to_mut().insert(0, ' ');
    }
    line
}

/// The text from its first character that is seen on.
fn unseen(mut text: &str) -> &str {
    loop {
        let rest = text.trim_start_matches(|character: char| {
            character == ' ' || !(character.is_ascii_graphic() || character.is_alphanumeric())
        });
        // `trim` may have eaten an escape character and stand before the rest of its sequence.
        let sequence = rest.strip_prefix('[').filter(|_| rest.len() < text.len());
        let Some(sequence) = sequence else {
            return rest;
        };
        let parameters =
            sequence.trim_start_matches(|character: char| matches!(character, ' '..='?'));
        match parameters.chars().next() {
            Some('@'..='~') => text = &parameters[1..],
            _ => return rest,
        }
    }
}

/// What the message of a workflow command of ours may hold, so that it is not another one.
pub(crate) fn command_data(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for character in without_commands(text, " [").chars() {
        match character {
            '%' => out.push_str("%25"),
            '\r' => out.push_str("%0D"),
            '\n' => out.push_str("%0A"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controls_become_visible() {
        let table = [
            ("plain \u{fc} \u{1f600}\tx", "plain \u{fc} \u{1f600}\tx"),
            ("\x1b[31mred\x1b[0m \x1b[1;38:5:9m!\x1b[m", "red !"),
            ("\x1b[2Ja\x1b[3", "^[[2Ja^[[3"),
            ("\x1b\x1b[1m[31m", "^[[31m"),
            ("a\rb\nc", "a^Mb^Jc"),
            ("\0\x07\x08\x7f", "^@^G^H^?"),
            ("\u{9b}31m \u{85}", "<U+009B>31m <U+0085>"),
            ("a\u{202e}b\u{2066}c\u{200f}", "a<U+202E>b<U+2066>c<U+200F>"),
            ("a\u{2028}b", "a<U+2028>b"),
            ("e\u{301} \u{200d}", "e\u{301} \u{200d}"),
        ];
        for (text, expected) in table {
            assert_eq!(visible(text), expected, "{text:?}");
            assert_eq!(has_controls(text), text != expected, "{text:?}");
        }
    }

    #[test]
    fn messages_are_lines() {
        let table: [(&str, &[&str]); 5] = [
            ("", &[""]),
            ("a", &["a"]),
            ("a\r\nb \n\n", &["a", "b"]),
            ("a\n\nb\x1b", &["a", "", "b^["]),
            ("a\rb", &["a^Mb"]),
        ];
        for (text, expected) in table {
            assert_eq!(message(text), expected, "{text:?}");
        }
    }

    #[test]
    fn no_line_is_a_command() {
        let table = [
            ("harmless :: text #[x]", "harmless :: text #[x]"),
            ("::set-output name=x::y", ": :set-output name=x::y"),
            ("  \t::error::x", "  \t: :error::x"),
            (
                "\u{a0}\u{3000}\u{feff}\u{200b}::error::x",
                "\u{a0}\u{3000}\u{feff}\u{200b}: :error::x",
            ),
            ("\x1b[0m ::error::x", "\x1b[0m : :error::x"),
            ("\x1b[1;31m\x1b[K::error::x", "\x1b[1;31m\x1b[K: :error::x"),
            ("\x07::error::x", "\x07: :error::x"),
            ("a ##[command]x ##[y", "a ## [command]x ## [y"),
            ("a ##VSO[task.x]y", "a ##VSO [task.x]y"),
            ("##vso[##teamCity[##vs[", "##vso [##teamCity [##vs["),
            ("###[[", "### [["),
            ("a\n::error::x", "a^J::error::x"),
            ("\r::error::x", "^M::error::x"),
            ("a\x0b\x0c\u{85}\u{2028}b", "a^K^L<U+0085><U+2028>b"),
            ("[0m::x", "[0m::x"),
            ("", ""),
            ("\x1b[", "\x1b["),
            (":::", ": ::"),
            ("--- a group", " --- a group"),
            ("^^^ +++", " ^^^ +++"),
            ("a --- b", "a --- b"),
        ];
        for (text, expected) in table {
            assert_eq!(defused(text), expected, "{text:?}");
        }
    }

    #[test]
    fn json_means_the_same_and_does_not_act() {
        let table = [
            (
                r###"["##[x]", "##Vso[y", "#[z"]"###,
                r###"["##\u005bx]", "##Vso\u005by", "#[z"]"###,
            ),
            ("[\"\u{9b}\u{202e}##[\"]", r###"["\u009b\u202e##\u005b"]"###),
            ("[[1]]", "[[1]]"),
        ];
        for (text, expected) in table {
            assert_eq!(json(text), expected);
            let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
            assert_eq!(value(&json(text)), value(text));
        }
    }

    #[test]
    fn command_data_is_escaped() {
        assert_eq!(command_data("a ##[b"), "a ## [b");
        assert_eq!(command_data("50% a\r\nb"), "50%25 a%0D%0Ab");
    }
}
