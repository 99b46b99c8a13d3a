//! Block YAML of JSON values. Only what no reader of YAML 1.1 or 1.2 can take for anything but a text stands plain; every
//! other text is quoted as JSON, which is YAML too.

use serde_json::{Map, Number, Value};

use crate::cli::screen::lines;

/// Longer keys need the form with a question mark: a reader looks no further than 1,024 characters for a colon.
const KEY: usize = 1000;

/// The value as YAML, with a line end. The keys come in the map's order, but for a `message`, which people want first.
pub(crate) fn yaml(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => object(&mut out, map, 0, false),
        Value::Array(items) if !items.is_empty() => array(&mut out, items, 0, false),
        other => out.extend([&*scalar(other), "\n"]),
    }
    out
}

/// The pairs of a map, each on lines of its own. `within` says that the first one stands after a dash.
fn object(out: &mut String, map: &Map<String, Value>, depth: usize, mut within: bool) {
    let message = map.get_key_value("message").filter(|_| depth == 0);
    let others = map
        .iter()
        .filter(|(key, _)| message.is_none() || *key != "message");
    for (key, value) in message.into_iter().chain(others) {
        let indent = "  ".repeat(depth);
        if !std::mem::take(&mut within) {
            out.push_str(&indent);
        }
        let name = text(key);
        match name.len() > KEY {
            true => out.extend(["? ", &name, "\n", &indent, ":"]),
            false => out.extend([&name, ":"]),
        }
        match value {
            Value::Object(map) if !map.is_empty() => {
                out.push('\n');
                object(out, map, depth + 1, false);
            }
            Value::Array(items) if !items.is_empty() => {
                out.push('\n');
                array(out, items, depth + 1, false);
            }
            other => out.extend([" ", &*scalar(other), "\n"]),
        }
    }
}

fn array(out: &mut String, items: &[Value], depth: usize, mut within: bool) {
    for item in items {
        if !std::mem::take(&mut within) {
            out.push_str(&"  ".repeat(depth));
        }
        out.push_str("- ");
        match item {
            Value::Object(map) if !map.is_empty() => object(out, map, depth + 1, true),
            Value::Array(items) if !items.is_empty() => array(out, items, depth + 1, true),
            other => out.extend([&*scalar(other), "\n"]),
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

/// YAML 1.1 takes a number with an exponent for one only if it has a point.
fn number(number: &Number) -> String {
    let text = number.to_string();
    match text.split_once('e') {
        Some((mantissa, exponent)) if !mantissa.contains('.') => format!("{mantissa}.0e{exponent}"),
        _ => text,
    }
}

fn text(text: &str) -> String {
    if is_plain(text) {
        return text.to_owned();
    }
    // What YAML does not print stands between the characters that JSON escapes and those that act.
    let quoted = lines::json(&Value::from(text).to_string()).into_owned();
    quoted
        .replace('\u{feff}', "\\ufeff")
        .replace('\u{fffe}', "\\ufffe")
        .replace('\u{ffff}', "\\uffff")
}

/// Words, paths, versions and ids.
fn is_plain(text: &str) -> bool {
    const WORDS: [&str; 9] = ["null", "true", "false", "yes", "no", "on", "off", "y", "n"];
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./+".contains(&byte);
    let hex = |byte: u8| byte.is_ascii_hexdigit() || byte == b'-';
    // A deployment's id may begin with a digit, and its five parts are neither a number nor a date.
    let is_id = text.len() == 36 && text.bytes().all(hex) && text.split('-').count() == 5;
    let is_word = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '/')
        && text.bytes().all(fits)
        && !WORDS.iter().any(|word| text.eq_ignore_ascii_case(word));
    is_id || is_word
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn texts_are_quoted_where_they_could_be_misread() {
        let plain = [
            "demo",
            "deployment_id",
            "0198c0de-0000-7000-8000-000000000000",
            "12345678-1234-7234-8234-123456789012",
            "/srv/apps/x",
            "a-b",
            "v5.1.14+gangplank.0.1.0",
            "yesterday",
        ];
        for value in plain {
            assert_eq!(text(value), value);
        }
        let quoted = [
            "",
            " ",
            "a b",
            "a:",
            "a: b",
            "#a",
            "- a",
            "-",
            "---",
            "...",
            ".x",
            "? a",
            "[a",
            "{a",
            "&a",
            "*a",
            "!a",
            "|",
            ">",
            "'a'",
            "%a",
            "@a",
            "`a",
            "~",
            "null",
            "Null",
            "TRUE",
            "yes",
            "No",
            "on",
            "OFF",
            "y",
            "N",
            "1",
            "-1",
            "+1",
            "007",
            "1_000",
            "1.5",
            ".5",
            "1e5",
            "0x1F",
            "0o17",
            "12:30:45",
            ".inf",
            ".NaN",
            "2001-12-14",
            "=",
            "<<",
            "1.2.3",
            "gr\u{fc}n",
            "3fa9c0",
        ];
        for value in quoted {
            assert_eq!(text(value), format!("\"{value}\""));
        }
    }

    #[test]
    fn nothing_acts_on_a_terminal() {
        let table = [
            ("\x1b[2J", r#""\u001b[2J""#),
            ("a\tb\r", r#""a\tb\r""#),
            ("\u{9b}1m\u{85}\x7f\0", r#""\u009b1m\u0085\u007f\u0000""#),
            ("\u{202e}x\u{2028}\u{feff}", r#""\u202ex\u2028\ufeff""#),
            ("\\\"\n", r#""\\\"\n""#),
            ("##[x]", r###""##\u005bx]""###),
        ];
        for (value, expected) in table {
            assert_eq!(text(value), expected, "{value:?}");
        }
    }

    #[test]
    fn values_are_blocks() {
        let table = [
            (
                json!({"id": "a", "message": "Successfully deployed: demo"}),
                "message: \"Successfully deployed: demo\"\nid: a\n",
            ),
            (
                json!({"a": {"b": {"c": 1}}, "d": [], "e": {}, "f": null, "g": true, "h": -1.5}),
                "a:\n  b:\n    c: 1\nd: []\ne: {}\nf: null\ng: true\nh: -1.5\n",
            ),
            (
                json!({"a": [1, "x", [2, [3]], {"b": 1, "c": [4]}, {}, [], [{"d": 5}]]}),
                "a:\n  - 1\n  - x\n  - - 2\n    - - 3\n  - b: 1\n    c:\n      - 4\n  - {}\n  - []\n  - - d: 5\n",
            ),
            (json!("a\nb"), "\"a\\nb\"\n"),
            (json!([]), "[]\n"),
            (
                json!({"": 1, "a: b": 2, "true": 3}),
                "\"\": 1\n\"a: b\": 2\n\"true\": 3\n",
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
