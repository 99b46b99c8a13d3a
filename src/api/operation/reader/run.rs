//! The fields of `run_component`.

use serde_json::Value;

use crate::api::json;
use crate::api::operation::reader::{COMMAND_LEN_MAX, FieldReader};
use crate::api::operation::{CommandWords, RunCommand};

impl FieldReader<'_> {
    pub(in crate::api::operation) fn run(&mut self) -> Option<RunCommand> {
        let (project, command) = (self.project(), self.command());
        let release = self.id("deployment_id", false);
        let timeout = self.number("timeout");
        if timeout == Some(0) {
            self.faults
                .push("'timeout' must be above 0 milliseconds".into());
        }
        Some(RunCommand {
            project: project?,
            command: command?,
            release,
            timeout,
        })
    }

    /// A line, or a list of words; a form carries a list as its JSON.
    fn command(&mut self) -> Option<CommandWords> {
        let words = match self.get("command") {
            None => return self.fault("'command' is required".into()),
            Some(Value::String(text)) => match json::from_text::<Vec<String>>(text) {
                Ok(words) => words,
                Err(_) => {
                    let line = text.clone();
                    self.is_runnable(std::slice::from_ref(&line))?;
                    return Some(CommandWords::Line(line));
                }
            },
            Some(list) => match serde_json::from_value::<Vec<String>>(list.clone()) {
                Ok(words) => words,
                Err(_) => {
                    let why = "'command' must be a string, or a list of strings";
                    return self.fault(why.into());
                }
            },
        };
        self.is_runnable(&words)?;
        Some(CommandWords::Words(words))
    }

    fn is_runnable(&mut self, words: &[String]) -> Option<()> {
        if words.first().is_none_or(|first| first.trim().is_empty()) {
            return self.fault("'command' is not allowed to be empty".into());
        }
        if words.iter().any(|word| word.contains('\0')) {
            return self.fault("'command' must not have a NUL in it".into());
        }
        if words.iter().any(|word| word.len() > COMMAND_LEN_MAX) {
            return self.fault(format!(
                "'command' must not have a word longer than {COMMAND_LEN_MAX} bytes"
            ));
        }
        Some(())
    }
}
