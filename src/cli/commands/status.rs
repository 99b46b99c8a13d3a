//! `status`: what is live, of all components or of one.

use serde_json::Value;

use crate::api::error::Exit;
use crate::api::operation::Operation;
use crate::cli::arguments::{ClientOptions, CommandLine, Usage, value};
use crate::cli::commands::{CommandSpec, Job, Parse};
use crate::cli::screen::print_result;
use crate::cli::session::CommandError;
use crate::client::NoResult;

pub(super) const COMMAND: CommandSpec = CommandSpec {
    words: &["status"],
    usage: "status [PROJECT]",
    summary: "what is live",
    help: "\
usage: gangplank status [PROJECT] [FLAGS]

Shows what is live, since when, and which processes run. With PROJECT the exit
code is 1 if something does not run that should; what was stopped should not.
",
    example: "gangplank status my-app --output text",
    parse: Parse::Client(parse),
};

fn parse(line: CommandLine, _: &mut ClientOptions) -> Result<Job, Usage> {
    let project = value::at_most_one("PROJECT", line, value::project)?;
    Ok(Job::run(move |context| {
        let output = context.options.output;
        let value = context.session()?.call(&Operation::GetComponents.into())?;
        let value = only(value, project.as_ref().map(|project| project.as_str()))?;
        match project.and_then(|project| down(&value, project.as_str())) {
            None => Ok(Some(value)),
            Some(message) => {
                print_result(&value, output).map_err(CommandError::usage)?;
                Err(NoResult::new(Exit::Refused, message).into())
            }
        }
    }))
}

/// What of a component does not run and should, in words.
fn down(value: &Value, project: &str) -> Option<String> {
    let processes = value.pointer("/components/0/processes")?.as_array()?;
    let down = processes.iter().filter(|one| one["pid"].is_null());
    let text = |one: &Value, key: &str| one[key].as_str().map(str::to_owned);
    let words = down.filter_map(|one| {
        let how = text(one, "ended").map_or(String::new(), |how| format!(" ({how})"));
        Some(format!("{}{how}", text(one, "type")?))
    });
    let words: Vec<String> = words.collect();
    let verb = if words.len() == 1 { "does" } else { "do" };
    (!words.is_empty()).then(|| format!("{project}: {} {verb} not run", words.join(", ")))
}

/// The components; if one is named, it alone.
fn only(mut value: Value, project: Option<&str>) -> Result<Value, CommandError> {
    let Some(project) = project else {
        return Ok(value);
    };
    // A Harper server answers with a tree of files, a directory for each component.
    if let Some(entries) = value.get("entries").and_then(Value::as_array) {
        let name = |entry: &&Value| entry.get("name").and_then(Value::as_str) == Some(project);
        if let Some(entry) = entries.iter().find(name) {
            return Ok(entry.clone());
        }
    }
    let all = value.get_mut("components").and_then(Value::as_array_mut);
    let found = all.is_some_and(|all| {
        all.retain(|component| component.get("project").and_then(Value::as_str) == Some(project));
        !all.is_empty()
    });
    if !found {
        let message = format!("no component {project} is deployed");
        return Err(NoResult::new(Exit::Refused, message).into());
    }
    Ok(value)
}
