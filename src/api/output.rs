//! What a command prints, on its way to whoever runs it: text for people, and the bytes where it is not text.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::api::event::Stream;

/// The name of the event.
pub const OUTPUT: &str = "output";

/// An `output` event: a line, or a piece of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandOutput {
    /// Which output.
    pub stream: Stream,
    /// The line without its newline; what is not UTF-8 is replaced by U+FFFD.
    line: String,
    /// There was no newline: the line goes on in the next event of this output, or that ended here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    continued: bool,
    /// The bytes, where they are not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
}

impl CommandOutput {
    /// What was printed, as an event.
    pub fn new(stream: Stream, bytes: Vec<u8>, continued: bool) -> CommandOutput {
        let (line, base64) = match String::from_utf8(bytes) {
            Ok(line) => (line, None),
            Err(error) => {
                let bytes = error.as_bytes();
                let line = String::from_utf8_lossy(bytes).into_owned();
                (line, Some(STANDARD.encode(bytes)))
            }
        };
        CommandOutput {
            stream,
            line,
            continued,
            base64,
        }
    }

    /// What was printed, the newline too.
    pub fn bytes(&self) -> Vec<u8> {
        let exact = self.base64.as_deref().map(|text| STANDARD.decode(text));
        let mut bytes = match exact {
            Some(Ok(bytes)) => bytes,
            _ => self.line.clone().into_bytes(),
        };
        if !self.continued {
            bytes.push(b'\n');
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_as_they_went() {
        let table: [(&[u8], bool, &str); 4] = [
            (b"a", false, r#"{"stream":"stdout","line":"a"}"#),
            (
                b"a\r",
                true,
                r#"{"stream":"stdout","line":"a\r","continued":true}"#,
            ),
            (b"", false, r#"{"stream":"stdout","line":""}"#),
            (
                b"\xff\0",
                false,
                "{\"stream\":\"stdout\",\"line\":\"\u{fffd}\\u0000\",\"base64\":\"/wA=\"}",
            ),
        ];
        for (bytes, continued, text) in table {
            let event = CommandOutput::new(Stream::Stdout, bytes.to_vec(), continued);
            assert_eq!(serde_json::to_string(&event).unwrap(), text);
            let read: CommandOutput = serde_json::from_str(text).unwrap();
            let newline: &[u8] = if continued { b"" } else { b"\n" };
            assert_eq!(read.bytes(), [bytes, newline].concat());
        }
        // What another server sends is shown as it can be.
        let odd = r#"{"stream":"stderr","line":"a","base64":"!","more":1}"#;
        let read: CommandOutput = serde_json::from_str(odd).unwrap();
        assert_eq!(read.bytes(), b"a\n");
    }
}
