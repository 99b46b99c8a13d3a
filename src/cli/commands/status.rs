//! `status`: what is live, of all components or of one.

use serde_json::Value;

use crate::api::error::Exit;
use crate::api::operation::Operation;
use crate::cli::arguments::{ClientOptions, CommandLine, Usage, value};
use crate::cli::commands::{CommandSpec, Job, Parse};
use crate::cli::session::CommandError;
use crate::client::NoResult;

pub(super) const COMMAND: CommandSpec = CommandSpec {
    words: &["status"],
    usage: "status [PROJECT]",
    summary: "what is live",
    help: "\
usage: gangplank status [PROJECT] [FLAGS]

Shows what is live, since when, and which processes run.
",
    example: "gangplank status my-app --output text",
    parse: Parse::Client(parse),
};

fn parse(line: CommandLine, _: &mut ClientOptions) -> Result<Job, Usage> {
    let project = value::at_most_one("PROJECT", line, value::project)?;
    Ok(Job::run(move |context| {
        let value = context.session()?.call(&Operation::GetComponents.into())?;
        only(value, project.as_ref().map(|project| project.as_str())).map(Some)
    }))
}

/// The components; if one is named, it alone.
fn only(mut value: Value, project: Option<&str>) -> Result<Value, CommandError> {
    let Some(project) = project else {
        return Ok(value);
    };
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
