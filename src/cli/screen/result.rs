//! The result, on stdout, where nothing else goes.

use std::borrow::Cow;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::api::error::{Doing, Error};
use crate::cli::screen::lines;
use crate::cli::screen::sink;
use crate::cli::screen::table::table;
use crate::cli::screen::yaml::yaml;
use crate::system::host;

/// In which form the result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum OutputFormat {
    /// On a terminal `yaml`, a list a table; elsewhere `json`.
    #[default]
    Auto,
    /// The message, or a table.
    Text,
    /// JSON, indented by two spaces.
    Json,
    /// Block YAML.
    Yaml,
}

impl FromStr for OutputFormat {
    type Err = String;

    fn from_str(word: &str) -> Result<OutputFormat, String> {
        Ok(match word {
            "auto" => OutputFormat::Auto,
            "text" => OutputFormat::Text,
            "json" => OutputFormat::Json,
            "yaml" => OutputFormat::Yaml,
            _ => {
                return Err("expected one of auto, text, json, yaml".to_owned());
            }
        })
    }
}

/// Something stands on stdout.
static STDOUT_USED: AtomicBool = AtomicBool::new(false);

/// Whether anything was printed there in this run.
pub(crate) fn is_stdout_used() -> bool {
    STDOUT_USED.load(Ordering::Relaxed)
}

/// Prints the result. Nothing in it acts on a terminal.
///
/// # Errors
/// When it cannot be written; that nobody reads it any longer is none.
pub(crate) fn print_result(value: &Value, output: OutputFormat) -> Result<(), Error> {
    let width = io::stdout().is_terminal().then(|| {
        // 80 where nobody knows, as everywhere.
        host::terminal_columns(io::stdout()).map_or(80, usize::from)
    });
    let text = rendered(value, output, width);
    STDOUT_USED.store(true, Ordering::Relaxed);
    printed(&mut io::stdout(), &text)
}

/// Prints one line of text from a server, such as one of a process' log, as it is where `raw` says so or where stdout is
/// not a terminal, but never as a command to a CI system.
///
/// # Errors
/// When it cannot be written. Here it is one that nobody reads any longer, as [`Error::io`] tells, since whoever follows a
/// log has to end then.
pub(crate) fn print_line(line: &str, raw: bool) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    let shown = match raw || !io::stdout().is_terminal() {
        true => Cow::Borrowed(line),
        false => lines::visible(line),
    };
    let text = lines::defused(&shown).into_owned() + "\n";
    STDOUT_USED.store(true, Ordering::Relaxed);
    sink::write_all(&mut out, text.as_bytes())
        .and_then(|()| out.flush())
        .doing(|| "writing to stdout".into())
}

/// Prints bytes as they are.
///
/// # Errors
/// When they cannot be written; that nobody reads them any longer is one here, as of [`print_line`].
pub(crate) fn print_bytes(bytes: &[u8]) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    STDOUT_USED.store(true, Ordering::Relaxed);
    sink::write_all(&mut out, bytes)
        .and_then(|()| out.flush())
        .doing(|| "writing to stdout".into())
}

/// As [`print_bytes`], on stderr: where a command elsewhere has printed them there.
///
/// # Errors
/// As of [`print_bytes`].
pub(crate) fn print_error_bytes(bytes: &[u8]) -> Result<(), Error> {
    sink::write_all(&mut io::stderr().lock(), bytes).doing(|| "writing to stderr".into())
}

/// Whether it failed because nobody reads stdout.
pub(crate) fn is_unread(error: &io::Error) -> bool {
    error.kind() == ErrorKind::BrokenPipe
}

/// Whether what is printed is read on a terminal.
pub(crate) fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

fn printed(out: &mut dyn Write, text: &str) -> Result<(), Error> {
    match sink::write_all(out, text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        done => done.doing(|| "writing the result to stdout".into()),
    }
}

/// With the width of the terminal, if it is one that reads it.
fn rendered(value: &Value, output: OutputFormat, width: Option<usize>) -> String {
    match output {
        OutputFormat::Json => json(value),
        OutputFormat::Auto if width.is_none() => json(value),
        OutputFormat::Auto => shown_table(value, width).unwrap_or_else(|| yaml(value)),
        OutputFormat::Yaml => yaml(value),
        OutputFormat::Text => text(value, width),
    }
}

fn text(value: &Value, width: Option<usize>) -> String {
    let message = value.get("message").or(Some(value)).and_then(Value::as_str);
    match message {
        Some(message) => harmless(&lines::message(message).join("\n")),
        None => shown_table(value, width).unwrap_or_else(|| yaml(value)),
    }
}

fn shown_table(value: &Value, width: Option<usize>) -> Option<String> {
    table(value, width).map(|table| harmless(&table))
}

/// Lines that no CI system obeys.
fn harmless(text: &str) -> String {
    let lines = text.lines().map(|line| lines::defused(line) + "\n");
    lines.collect()
}

/// JSON, in which the controls beyond ASCII are escaped too: it may be a terminal that reads it.
fn json(value: &Value) -> String {
    lines::json(&format!("{value:#}")).into_owned() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn forms() {
        let done = json!({"message": "Successfully deployed: demo", "n": [1]});
        let list = json!({"deployments": []});
        let (pretty, block) = (
            "{\n  \"message\": \"Successfully deployed: demo\",\n  \"n\": [\n    1\n  ]\n}\n",
            "message: \"Successfully deployed: demo\"\n\"n\":\n  - 1\n",
        );
        let table = [
            (&done, OutputFormat::Json, true, pretty),
            (&done, OutputFormat::Auto, false, pretty),
            (&done, OutputFormat::Auto, true, block),
            (&done, OutputFormat::Yaml, false, block),
            (
                &done,
                OutputFormat::Text,
                false,
                "Successfully deployed: demo\n",
            ),
            (&list, OutputFormat::Auto, true, "no deployments\n"),
            (&list, OutputFormat::Text, false, "no deployments\n"),
            (&list, OutputFormat::Yaml, true, "deployments: []\n"),
            (
                &list,
                OutputFormat::Auto,
                false,
                "{\n  \"deployments\": []\n}\n",
            ),
        ];
        for (value, output, terminal, expected) in table {
            assert_eq!(
                rendered(value, output, terminal.then_some(80)),
                expected,
                "{output:?} {terminal}"
            );
        }
        assert_eq!(text(&json!("a\x1b\nb"), None), "a^[\nb\n");
        assert_eq!(
            text(&json!("a\n ::error::b\n##vso[x"), None),
            "a\n : :error::b\n##vso [x\n"
        );
        let hostile = json!({"rows": [{"name": "::x ##[y]"}]});
        assert_eq!(text(&hostile, None), "NAME\n: :x ## [y]\n");
        assert!(json(&hostile).contains(r"::x ##\u005by]"));
        assert!(
            yaml(&json!({"a": "##[y]", "b": "x\n::y"}))
                .contains("a: \"##\\u005by]\"\nb: \"x\\n::y\"\n")
        );
        assert_eq!(text(&json!({"a": 1}), None), "a: 1\n");
    }

    #[test]
    fn json_does_not_act_and_means_the_same() {
        let value = json!({"a\u{9b}": "\x1b\x7f\u{202e}\u{2028}\t\u{fc}"});
        let text = json(&value);
        assert_eq!(
            text,
            "{\n  \"a\\u009b\": \"\\u001b\\u007f\\u202e\\u2028\\t\u{fc}\"\n}\n"
        );
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }

    #[test]
    fn words_are_read() {
        assert_eq!("yaml".parse(), Ok(OutputFormat::Yaml));
        let error = "xml".parse::<OutputFormat>().unwrap_err();
        for word in ["auto", "text", "json", "yaml"] {
            assert!(word.parse::<OutputFormat>().is_ok() && error.contains(word));
        }
    }

    struct BrokenWriter(ErrorKind);

    impl Write for BrokenWriter {
        fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nobody_reading_is_no_failure_but_a_full_disk_is() {
        assert!(printed(&mut BrokenWriter(ErrorKind::BrokenPipe), "x").is_ok());
        assert!(printed(&mut BrokenWriter(ErrorKind::StorageFull), "x").is_err());
    }
}
