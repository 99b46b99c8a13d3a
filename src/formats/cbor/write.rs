//! Writing one map, as an older Harper server reads it: lengths stand before everything, since its decoder takes no others.

use serde_json::{Map, Value};

use crate::formats::cbor::{BYTES, LIST, MAP, NEGATIVE, TEXT, UNSIGNED};

/// A map of these fields and of one more whose value is so many bytes, which have to follow.
pub fn map_before_bytes(fields: &Map<String, Value>, name: &str, length: u64) -> Vec<u8> {
    let mut out = Vec::new();
    head(&mut out, MAP, fields.len() as u64 + 1);
    for (name, value) in fields {
        text(&mut out, name);
        item(&mut out, value);
    }
    text(&mut out, name);
    head(&mut out, BYTES, length);
    out
}

/// The first bytes of an item: its kind, and its number in as few bytes as it needs.
fn head(out: &mut Vec<u8>, kind: u8, number: u64) {
    let kind = kind << 5;
    // A number below 24 fits beside the kind; else it says how many bytes follow.
    if let Ok(small @ 0..24) = u8::try_from(number) {
        out.push(kind | small);
    } else if let Ok(number) = u8::try_from(number) {
        out.extend([kind | 24, number]);
    } else if let Ok(number) = u16::try_from(number) {
        out.push(kind | 25);
        out.extend(number.to_be_bytes());
    } else if let Ok(number) = u32::try_from(number) {
        out.push(kind | 26);
        out.extend(number.to_be_bytes());
    } else {
        out.push(kind | 27);
        out.extend(number.to_be_bytes());
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    head(out, TEXT, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn item(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.push(0xf6),
        Value::Bool(false) => out.push(0xf4),
        Value::Bool(true) => out.push(0xf5),
        Value::Number(number) => {
            if let Some(number) = number.as_u64() {
                head(out, UNSIGNED, number);
            } else if let Some(number) = number.as_i64() {
                // -1 is written as 0. What is left is negative.
                head(out, NEGATIVE, u64::try_from(!number).unwrap_or_default());
            } else {
                out.push(0xfb);
                out.extend(number.as_f64().unwrap_or(f64::NAN).to_be_bytes());
            }
        }
        Value::String(string) => text(out, string),
        Value::Array(items) => {
            head(out, LIST, items.len() as u64);
            for value in items {
                item(out, value);
            }
        }
        Value::Object(members) => {
            head(out, MAP, members.len() as u64);
            for (name, value) in members {
                text(out, name);
                item(out, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn written(value: &Value) -> String {
        let mut out = Vec::new();
        item(&mut out, value);
        out.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn items_are_written_as_the_standard_has_them() {
        // From RFC 8949, appendix A.
        let table = [
            (json!(0), "00"),
            (json!(23), "17"),
            (json!(24), "1818"),
            (json!(100), "1864"),
            (json!(1000), "1903e8"),
            (json!(1_000_000), "1a000f4240"),
            (json!(1_000_000_000_000_u64), "1b000000e8d4a51000"),
            (json!(u64::MAX), "1bffffffffffffffff"),
            (json!(-1), "20"),
            (json!(-10), "29"),
            (json!(-1000), "3903e7"),
            (json!(1.1), "fb3ff199999999999a"),
            (json!(false), "f4"),
            (json!(true), "f5"),
            (json!(null), "f6"),
            (json!(""), "60"),
            (json!("IETF"), "6449455446"),
            (json!("\u{fc}"), "62c3bc"),
            (json!([]), "80"),
            (json!([1, 2, 3]), "83010203"),
            (json!({"a": "A"}), "a161616141"),
        ];
        for (value, bytes) in table {
            assert_eq!(written(&value), bytes, "{value}");
        }
    }

    #[test]
    fn the_bytes_follow_the_map() {
        let fields = json!({"operation": "x", "restart": true});
        let out = map_before_bytes(fields.as_object().unwrap(), "payload", 300);
        assert!(out.starts_with(b"\xa3\x69operation\x61x\x67restart\xf5"));
        assert!(out.ends_with(b"\x67payload\x59\x01\x2c"));
    }
}
