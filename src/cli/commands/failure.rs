//! A failure as a document on stdout, for who asked for JSON or YAML there: what the server said of it, and how the program
//! ends. People read it on stderr as ever.

use serde_json::{Map, Value};

use crate::api::error::Exit;
use crate::cli::screen::{OutputFormat, Screen, is_stdout_used, print_result};
use crate::client::NoResult;

/// Prints it, if it was asked for by name, and if stdout has nothing of a result yet: a half and a document are neither.
pub(super) fn print(failed: &NoResult, output: OutputFormat, screen: &mut Screen) {
    let is_asked = matches!(output, OutputFormat::Json | OutputFormat::Yaml);
    if !is_asked || is_stdout_used() {
        return;
    }
    if let Err(error) = print_result(&document(failed), output) {
        screen.error(&error.to_string(), None);
    }
}

fn document(failed: &NoResult) -> Value {
    let mut all = Map::new();
    let code = failed.code.as_deref().unwrap_or_else(|| word(failed.exit));
    all.insert("error".into(), failed.message.as_str().into());
    all.insert("code".into(), code.into());
    all.insert("exit_code".into(), (failed.exit as u8).into());
    if let Some(id) = &failed.deployment_id {
        all.insert("deployment_id".into(), id.as_str().into());
    }
    for (name, value) in &*failed.more {
        all.entry(name.as_str()).or_insert_with(|| value.clone());
    }
    all.into()
}

/// The word for a failure to which no server gave one.
fn word(exit: Exit) -> &'static str {
    match exit {
        Exit::Success => "success",
        Exit::Refused => "refused",
        Exit::Usage => "usage",
        Exit::Unreachable => "unreachable",
        Exit::Unauthorized => "unauthorized",
        Exit::Unknown => "outcome_unknown",
        Exit::Busy => "busy",
        Exit::Interrupted => "client_interrupted",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_document_has_what_the_server_said_and_how_the_program_ends() {
        let own = NoResult::new(Exit::Unknown, "the stream ended");
        assert_eq!(
            document(&own),
            json!({"error": "the stream ended", "code": "outcome_unknown", "exit_code": 5})
        );
        let more = json!({"phase": "install", "code": "x", "error": "y", "failed_peers": ["two"]});
        let told = NoResult {
            code: Some("install_failed".into()),
            deployment_id: Some("d".into()),
            more: Box::new(more.as_object().unwrap().clone()),
            ..NoResult::new(Exit::Refused, "no")
        };
        assert_eq!(
            document(&told),
            json!({"error": "no", "code": "install_failed", "exit_code": 1, "deployment_id": "d", "phase": "install",
                "failed_peers": ["two"]})
        );
    }
}
