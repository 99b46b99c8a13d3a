//! Reads JSON.

use serde::Deserialize;

/// Reads a text as the rest of gangplank reads bytes: `serde_json::from_str` is a parser of its own, and all that is read by
/// it would be in the program twice.
///
/// # Errors
/// Those of the parser.
pub fn from_text<'a, T: Deserialize<'a>>(text: &'a str) -> serde_json::Result<T> {
    serde_json::from_slice(text.as_bytes())
}
