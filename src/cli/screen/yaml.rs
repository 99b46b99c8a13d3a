//! Block YAML of JSON values, such that every reader of YAML 1.1 or 1.2 gets the same values back, and that nothing in a
//! text acts on a terminal.

use std::fmt::Write as _;

use serde_json::{Map, Number, Value};

use crate::cli::screen::lines;

/// Longer keys need the form with a question mark: a reader looks no further than 1,024 characters for a colon. An
/// escaped character takes up to ten.
const KEY: usize = 100;

/// The value as YAML, with a line end. The keys come in the map's order, but for a `message`, which people want first.
pub(crate) fn yaml(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => object(&mut out, map, 0, false),
        Value::Array(items) if !items.is_empty() => array(&mut out, items, 0, false),
        other => {
            out.push_str(&scalar(other));
            out.push('\n');
        }
    }
    out
}

fn indent(out: &mut String, depth: usize) {
    out.extend(std::iter::repeat_n("  ", depth));
}

/// The pairs of a map, each on lines of its own. `within` says that the first one stands behind a dash.
fn object(out: &mut String, map: &Map<String, Value>, depth: usize, mut within: bool) {
    let message = map.get_key_value("message").filter(|_| depth == 0);
    let others = map
        .iter()
        .filter(|(key, _)| message.is_none() || *key != "message");
    for (key, value) in message.into_iter().chain(others) {
        if !std::mem::take(&mut within) {
            indent(out, depth);
        }
        let name = text(key);
        if key.chars().count() > KEY {
            out.push_str("? ");
            out.push_str(&name);
            out.push('\n');
            indent(out, depth);
        } else {
            out.push_str(&name);
        }
        out.push(':');
        behind(out, value, depth);
    }
}

fn array(out: &mut String, items: &[Value], depth: usize, mut within: bool) {
    for item in items {
        if !std::mem::take(&mut within) {
            indent(out, depth);
        }
        out.push('-');
        match item {
            Value::Object(map) if !map.is_empty() => {
                out.push(' ');
                object(out, map, depth + 1, true);
            }
            Value::Array(items) if !items.is_empty() => {
                out.push(' ');
                array(out, items, depth + 1, true);
            }
            other => behind(out, other, depth),
        }
    }
}

/// A value behind a colon or a dash.
fn behind(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push('\n');
            object(out, map, depth + 1, false);
        }
        Value::Array(items) if !items.is_empty() => {
            out.push('\n');
            array(out, items, depth + 1, false);
        }
        Value::String(text) if is_block(text) => block(out, text, depth + 1),
        other => {
            out.push(' ');
            out.push_str(&scalar(other));
            out.push('\n');
        }
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(value) => text(value),
        Value::Number(value) => number(value),
        // `null`, `true`, `false`, `[]` and `{}` are the same in YAML.
        other => other.to_string(),
    }
}

/// YAML 1.1 takes a number with an exponent for one only if it has a point and the exponent a sign.
fn number(number: &Number) -> String {
    let text = number.to_string();
    let Some((mantissa, exponent)) = text.split_once(['e', 'E']) else {
        return text;
    };
    let point = if mantissa.contains('.') { "" } else { ".0" };
    let sign = if exponent.starts_with(['+', '-']) {
        ""
    } else {
        "+"
    };
    format!("{mantissa}{point}e{sign}{exponent}")
}

/// A text as it stands if no reader can take it for something else, and in double quotes if one could.
fn text(text: &str) -> String {
    if is_plain(text) {
        text.to_owned()
    } else {
        quoted(text)
    }
}

/// Characters that some reader or terminal does not take as they are.
fn is_special(character: char) -> bool {
    // The byte order mark and what follows the last valid character of the basic plane are not printable for YAML.
    character == '\t'
        || matches!(character, '\u{feff}' | '\u{fffe}' | '\u{ffff}')
        || lines::has_controls(character.encode_utf8(&mut [0; 4]))
}

fn is_plain(text: &str) -> bool {
    let (Some(first), Some(last)) = (text.chars().next(), text.chars().last()) else {
        return false;
    };
    let bad_start = "-?:,[]{}#&*!|>'\"%@`=<~ ".contains(first) || text.starts_with("...");
    let bad_inside = text.contains(": ") || text.contains(" #") || text.chars().any(is_special);
    !bad_start && !bad_inside && last != ' ' && last != ':' && !is_word(text) && !is_number(text)
}

/// The words that mean something in YAML 1.1 or 1.2, in whatever letters.
fn is_word(text: &str) -> bool {
    const WORDS: [&str; 9] = ["null", "true", "false", "yes", "no", "on", "off", "y", "n"];
    WORDS.iter().any(|word| text.eq_ignore_ascii_case(word))
}

/// Whether some reader takes the text for a number or a date. A few texts that no reader does are quoted too.
fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let all = |part: &str, allowed: fn(char) -> bool| !part.is_empty() && part.chars().all(allowed);
    let decimal =
        |character: char| character.is_ascii_digit() || matches!(character, '_' | '.' | ':');
    let lower = digits.to_ascii_lowercase();
    if lower == ".inf" || lower == ".nan" || all(&lower, decimal) {
        return true;
    }
    let based = ["0x", "0o", "0b"]
        .iter()
        .find_map(|base| lower.strip_prefix(base));
    if based.is_some_and(|rest| {
        all(rest, |character| {
            character.is_ascii_hexdigit() || character == '_'
        })
    }) {
        return true;
    }
    if let Some((mantissa, exponent)) = lower.split_once('e') {
        let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        if all(mantissa, decimal)
            && all(exponent, |character| {
                character.is_ascii_digit() || character == '_'
            })
        {
            return true;
        }
    }
    is_date(text)
}

/// `2001-12-14`, `2001-1-4`, `2001-12-14t21:59:43`, and all that begins like them.
fn is_date(text: &str) -> bool {
    let mut parts = text.splitn(3, '-');
    let digits = |part: Option<&str>, most: usize| {
        part.is_some_and(|part| {
            (1..=most).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
        })
    };
    let (year, month) = (digits(parts.next(), 4), digits(parts.next(), 2));
    year && month
        && parts
            .next()
            .is_some_and(|day| day.starts_with(|first: char| first.is_ascii_digit()))
}

fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        let code = u32::from(character);
        // Writing into a string cannot fail.
        let _ = match character {
            '"' => write!(out, "\\\""),
            '\\' => write!(out, "\\\\"),
            '\n' => write!(out, "\\n"),
            '\r' => write!(out, "\\r"),
            '\t' => write!(out, "\\t"),
            special if is_special(special) && code <= 0xff => write!(out, "\\x{code:02X}"),
            special if is_special(special) => write!(out, "\\u{code:04X}"),
            other => out.write_char(other),
        };
    }
    out.push('"');
    out
}

/// Whether a text of several lines can stand as it is, in a block: nothing in it needs an escape, no line begins or ends
/// the block with white space that a reader would take for indentation, and it ends with at most one line end.
fn is_block(text: &str) -> bool {
    let body = text.strip_suffix('\n').unwrap_or(text);
    text.contains('\n')
        && !body.is_empty()
        && !body.starts_with([' ', '\n'])
        && !body.ends_with('\n')
        && body
            .split('\n')
            .all(|line| line.is_empty() || !line.trim_matches(' ').is_empty())
        && !body
            .chars()
            .any(|character| character != '\n' && is_special(character))
}

fn block(out: &mut String, text: &str, depth: usize) {
    out.push_str(if text.ends_with('\n') {
        " |\n"
    } else {
        " |-\n"
    });
    for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
        if !line.is_empty() {
            indent(out, depth);
            out.push_str(line);
        }
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const PLAIN: &[&str] = &[
        "demo",
        "2f1c1e9a-7d0a-4f55-9d8e-0c2a5a1b3c4d",
        "0198c0de-0000-7000-8000-000000000000",
        "a b",
        "a#b",
        "http://h:1/x",
        "a,b",
        "it's",
        "5.1.14+gangplank.0.1.0",
        "/work",
        "gr\u{fc}n",
        "\u{1f600}",
        "nothing",
        "a-b",
        "./x",
        "yesterday",
        "(x)",
        "^1.0",
        "3fa9c0",
        "12 a",
        "a\\b",
        "a\"b",
        "0xyz",
        "e5",
        ".x",
        "12345678-1234-7234-8234-123456789012",
    ];

    const QUOTED: &[&str] = &[
        "",
        " ",
        " a",
        "a ",
        "a:",
        "a: b",
        "Successfully deployed: demo",
        "a #b",
        "#a",
        "- a",
        "-",
        "--- x",
        "-a",
        "? a",
        ":a",
        "[a",
        "{a",
        "]",
        "}",
        ",",
        "&a",
        "*a",
        "!a",
        "|",
        ">",
        "'a'",
        "\"a\"",
        "%a",
        "@a",
        "`a",
        "~",
        "null",
        "Null",
        "NULL",
        "true",
        "False",
        "YES",
        "no",
        "On",
        "OFF",
        "y",
        "N",
        "1",
        "-1",
        "+1",
        "0",
        "007",
        "1_000",
        "1.5",
        ".5",
        "5.",
        "1e5",
        "1E-5",
        "-1.5e+10",
        "0x1F",
        "0o17",
        "0b1",
        "12:30:45",
        "190:20:30.15",
        ".inf",
        "-.INF",
        ".NaN",
        "2001-12-14",
        "2001-1-4",
        "2001-12-14t21:59:43.10-05:00",
        "2001-12-14 21:59:43",
        "=",
        "<<",
        "...",
        "... x",
        "1.2.3",
    ];

    #[test]
    fn texts_are_quoted_where_they_could_be_misread() {
        for value in PLAIN {
            assert_eq!(text(value), *value);
        }
        for value in QUOTED {
            let expected = format!("\"{}\"", value.replace('"', "\\\""));
            assert_eq!(text(value), expected);
        }
    }

    #[test]
    fn nothing_acts_on_a_terminal() {
        let table = [
            ("\x1b[2J", r#""\x1B[2J""#),
            ("a\tb\r", r#""a\tb\r""#),
            ("\u{9b}1m\u{85}\x7f\0", r#""\x9B1m\x85\x7F\x00""#),
            ("\u{202e}x\u{2028}\u{feff}", r#""\u202Ex\u2028\uFEFF""#),
            ("\\\"", r#"\""#),
            ("\\\"\n", r#""\\\"\n""#),
        ];
        for (value, expected) in table {
            assert_eq!(text(value), expected, "{value:?}");
        }
    }

    #[test]
    fn values_are_blocks() {
        let table = [
            (
                json!({"message": "Successfully deployed: demo", "deployment_id": "2f1c1e9a-7d0a"}),
                "message: \"Successfully deployed: demo\"\ndeployment_id: 2f1c1e9a-7d0a\n",
            ),
            (
                json!({"a": {"b": {"c": 1}}, "d": [], "e": {}, "f": null, "g": true, "h": -1.5}),
                "a:\n  b:\n    c: 1\nd: []\ne: {}\nf: null\ng: true\nh: -1.5\n",
            ),
            (
                json!({"a": [1, "x", [2, [3]], {"b": 1, "c": [4]}, {}, [], [{"d": 5}]]}),
                "a:\n  - 1\n  - x\n  - - 2\n    - - 3\n  - b: 1\n    c:\n      - 4\n  - {}\n  - []\n  - - d: 5\n",
            ),
            (
                json!({"a": "one\n\n  two\n", "b": ["x\ny"], "c": {"d": "x\n\n"}, "e": " x\ny", "f": "x\n \ny"}),
                "a: |\n  one\n\n    two\nb:\n  - |-\n    x\n    y\nc:\n  d: \"x\\n\\n\"\ne: \" x\\ny\"\nf: \"x\\n \\ny\"\n",
            ),
            (json!("a\nb"), "\"a\\nb\"\n"),
            (json!([]), "[]\n"),
            (json!(7), "7\n"),
            (
                json!({"": 1, "a: b": 2, "true": 3, "x\n": 4}),
                "\"\": 1\n\"a: b\": 2\n\"true\": 3\n\"x\\n\": 4\n",
            ),
            (
                json!([1e100, 1.5e-7, 18446744073709551615_u64]),
                "- 1.0e+100\n- 1.5e-7\n- 18446744073709551615\n",
            ),
        ];
        for (value, expected) in table {
            assert_eq!(yaml(&value), expected, "{value}");
        }
        let long = "k".repeat(KEY + 1);
        assert_eq!(
            yaml(&json!({"a": {long.clone(): {"b": 1}}})),
            format!("a:\n  ? {long}\n  :\n    b: 1\n")
        );
    }
}
