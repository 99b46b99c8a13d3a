//! Env files: a variable a line, `KEY=VALUE`. One dialect for all of them, in which what is written reads back the same.
//!
//! As where such files come from (shells, systemd): `export ` before the key is skipped, blanks around the value too, and `#`
//! begins a comment at a line's start. A value may stand in single quotes, in which every character is itself, or in double
//! ones, in which a backslash takes the meaning from `"`, `\`, `$` and `` ` `` and is itself before all others. Nothing is
//! expanded, and a value is one line. The last of several lines with one key counts. In a value without quotes a `#` is a
//! character as any other; who reads the file warns of one after a blank, which elsewhere begins a comment.

use crate::api::name::VariableName;

/// A file that was understood.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct EnvText<'a> {
    lines: Vec<EnvLine<'a>>,
}

/// A line of the file, with the variable that it has.
#[derive(Debug, PartialEq, Eq)]
struct EnvLine<'a> {
    text: &'a str,
    variable: Option<(VariableName, String)>,
    /// Its value has no quotes and a ` #`.
    has_note: bool,
}

/// Why a text is not an env file, and in which line, from 1. It has nothing of the line: any part of it may be a secret.
#[derive(Debug, PartialEq, Eq)]
pub struct BadEnvLine {
    /// The line.
    pub line: usize,
    /// What is wrong with it.
    pub why: &'static str,
}

impl<'a> EnvText<'a> {
    /// Reads a text.
    ///
    /// # Errors
    /// For the first line that is none of the dialect's.
    pub fn read(text: &'a str) -> Result<EnvText<'a>, BadEnvLine> {
        // Some editors begin a file with a byte order mark.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let read = |(index, text)| {
            let line = index + 1;
            EnvLine::read(text).map_err(|why| BadEnvLine { line, why })
        };
        let lines = text.lines().enumerate().map(read);
        Ok(EnvText {
            lines: lines.collect::<Result<_, _>>()?,
        })
    }

    /// The variables, each once, with the value that counts.
    pub fn variables(&self) -> Vec<(&VariableName, &str)> {
        let all = self.lines.iter().filter_map(|line| line.variable.as_ref());
        let mut variables: Vec<(&VariableName, &str)> = Vec::new();
        for (name, value) in all {
            variables.retain(|(known, _)| *known != name);
            variables.push((name, value));
        }
        variables
    }

    /// The lines, from 1, with a ` #` in a value without quotes.
    pub fn notes(&self) -> impl Iterator<Item = usize> {
        let lines = self.lines.iter().enumerate();
        lines.filter_map(|(index, line)| line.has_note.then_some(index + 1))
    }

    /// The file with one variable changed, or without it where there is no value. All other lines stay as they are, and what
    /// is new comes last.
    pub fn with<'b>(
        &self,
        changes: impl Iterator<Item = (&'b VariableName, Option<&'b str>)> + Clone,
    ) -> String {
        let mut text = String::new();
        for line in &self.lines {
            let name = line.variable.as_ref().map(|(name, _)| name);
            if !changes.clone().any(|(changed, _)| Some(changed) == name) {
                text.push_str(line.text);
                text.push('\n');
            }
        }
        for (name, value) in changes {
            if let Some(value) = value {
                text.push_str(&written(name, value));
                text.push('\n');
            }
        }
        text
    }
}

impl<'a> EnvLine<'a> {
    fn read(text: &'a str) -> Result<EnvLine<'a>, &'static str> {
        let statement = text.trim();
        if statement.is_empty() || statement.starts_with('#') {
            return Ok(EnvLine {
                text,
                variable: None,
                has_note: false,
            });
        }
        let statement = match statement.split_once([' ', '\t']) {
            Some(("export", rest)) => rest.trim_start(),
            _ => statement,
        };
        let (name, value) = statement.split_once('=').ok_or("expected KEY=value")?;
        let name = name.parse::<VariableName>()?;
        let quoted = value.trim().starts_with(['"', '\'']);
        Ok(EnvLine {
            text,
            has_note: !quoted && (value.contains(" #") || value.contains("\t#")),
            variable: Some((name, unquoted(value.trim())?)),
        })
    }
}

/// A value without the quotes around it. What a shell would read as more than that is refused instead of misread.
fn unquoted(value: &str) -> Result<String, &'static str> {
    let Some(quote) = value.chars().next().filter(|c| matches!(c, '"' | '\'')) else {
        return Ok(value.to_owned());
    };
    let mut inner = String::new();
    let mut rest = value[1..].chars();
    while let Some(c) = rest.next() {
        match c {
            '\\' if quote == '"' => match rest.next() {
                Some(next @ ('"' | '\\' | '$' | '`')) => inner.push(next),
                Some(next) => inner.extend(['\\', next]),
                None => break,
            },
            _ if c == quote && rest.as_str().is_empty() => return Ok(inner),
            _ if c == quote => {
                return Err(
                    "there is text after the quote that ends the value; a comment has a line of its own",
                );
            }
            _ => inner.push(c),
        }
    }
    Err("a quote that is not closed at the end of the line; a value is one line")
}

/// A line of the file, without its end. The value has no newline.
pub fn written(name: &VariableName, value: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-+./:,@%=".contains(&byte);
    if value.bytes().all(plain) {
        return format!("{name}={value}");
    }
    if !value.contains('\'') {
        return format!("{name}='{value}'");
    }
    let mut line = format!("{name}=\"");
    for c in value.chars() {
        if matches!(c, '"' | '\\' | '$' | '`') {
            line.push('\\');
        }
        line.push(c);
    }
    line.push('"');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(String, String)> {
        let read = EnvText::read(text).unwrap();
        let variables = read.variables().into_iter();
        variables
            .map(|(name, value)| (name.to_string(), value.to_owned()))
            .collect()
    }

    #[test]
    fn the_dialect() {
        let table: &[(&str, &[(&str, &str)])] = &[
            ("", &[]),
            ("\u{feff}A=1", &[("A", "1")]),
            (
                "# x\n\n  A=1\r\n_b2= x y # z \n  # y",
                &[("A", "1"), ("_b2", "x y # z")],
            ),
            (
                "export A=1\nexport\t B=2\nexport=3",
                &[("A", "1"), ("B", "2"), ("export", "3")],
            ),
            ("A=\nB==\nC=a=b", &[("A", ""), ("B", "="), ("C", "a=b")]),
            (
                "A=\"a b\"\nB=' c '\nC=\"it's\"\nD=\"\"\r\nE=''",
                &[
                    ("A", "a b"),
                    ("B", " c "),
                    ("C", "it's"),
                    ("D", ""),
                    ("E", ""),
                ],
            ),
            (
                r#"A="say \"x\" \\ \$HOME \`ls\` \n $HOME"
B='a\"$HOME'"#,
                &[
                    ("A", r#"say "x" \ $HOME `ls` \n $HOME"#),
                    ("B", r#"a\"$HOME"#),
                ],
            ),
            (
                "A={\"a\": \"b\"}\nB=it's\nC=a\\nb$HOME",
                &[("A", "{\"a\": \"b\"}"), ("B", "it's"), ("C", "a\\nb$HOME")],
            ),
            ("A=1\nB=2\nA=3", &[("B", "2"), ("A", "3")]),
        ];
        for (text, expected) in table {
            let found = read(text);
            let found: Vec<_> = found.iter().map(|(k, v)| (&**k, &**v)).collect();
            assert_eq!(found, *expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_not_of_the_dialect_is_refused_with_its_line() {
        let table = [
            ("A=1\nsecret", 2, "expected KEY=value"),
            ("secret-secret==", 1, "the key must be"),
            ("=secret", 1, "the key must be"),
            ("2secret=x", 1, "the key must be"),
            ("A = secret", 1, "the key must be"),
            ("A=\"secret\nsecret\"", 1, "not closed"),
            ("A='secret", 1, "not closed"),
            ("A=\"", 1, "not closed"),
            ("A=\"secret\\", 1, "not closed"),
            ("A=\"secret\\\"", 1, "not closed"),
            ("A='a' # b", 1, "after the quote"),
            ("A='it'\\''s'", 1, "after the quote"),
        ];
        for (text, line, part) in table {
            let bad = EnvText::read(text).unwrap_err();
            assert_eq!(bad.line, line, "{text:?}");
            assert!(bad.why.contains(part), "{text:?}: {}", bad.why);
        }
    }

    #[test]
    fn a_hash_after_a_blank_in_a_value_without_quotes_is_found() {
        let text = "# a # b\nA=1 # one\nB='1 # one'\nC=1#one\nD=#\nE=1\t# x\nG= # x\nF=\"a # b\"";
        let read = EnvText::read(text).unwrap();
        assert_eq!(read.notes().collect::<Vec<_>>(), [2, 6, 7]);
    }

    #[test]
    fn what_is_written_reads_back_the_same() {
        let name: VariableName = "KEY".parse().unwrap();
        for value in [
            "",
            "1",
            "a b",
            " a ",
            "a # b",
            "#",
            "it's",
            "\"",
            "'",
            "'\"",
            "\\",
            "'\\",
            "\\\"'",
            "$HOME",
            "'$HOME`ls`",
            "export A=1",
            "=",
            "a=b",
            "\t",
            "\r",
            "x\r",
            "'x\r",
            "\u{a0}",
            "\u{feff}",
            "ä€",
            "\\n",
            "'\\n",
            "{\"a\": [1, 'b']}",
            "a\\",
            "'a\\",
            "\u{2028}",
            "!",
            "~",
            "*",
        ] {
            let line = written(&name, value);
            let expected = [("KEY".to_owned(), value.to_owned())];
            for text in [
                line.clone(),
                format!("{line}\n"),
                format!("export {line}\r\n"),
            ] {
                assert_eq!(read(&text), expected, "{text:?}");
            }
            assert_eq!(EnvText::read(&line).unwrap().notes().count(), 0, "{line}");
        }
    }

    #[test]
    fn a_change_leaves_all_other_lines_as_they_are() {
        let name = |text: &str| text.parse::<VariableName>().unwrap();
        let text = "# who wrote it\nA=1\n\n  export B=\"2\" \nA=3\nC=x # y";
        let read = EnvText::read(text).unwrap();
        let (a, b, d) = (name("A"), name("B"), name("D"));
        let changes = [(&a, Some("it's")), (&d, Some("")), (&b, None)];
        assert_eq!(
            read.with(changes.into_iter()),
            "# who wrote it\n\nC=x # y\nA=\"it's\"\nD=\n"
        );
        assert_eq!(read.with([].into_iter()), format!("{text}\n"));
    }
}
