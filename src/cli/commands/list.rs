//! `list`: deployments, newest first.

use serde_json::Value;

use crate::api::event::Status;
use crate::api::operation::{List, Operation};
use crate::cli::arguments::{ClientOptions, CommandLine, Usage, finish, value};
use crate::cli::commands::{CommandSpec, Job, Parse};

pub(super) const COMMAND: CommandSpec = CommandSpec {
    words: &["list"],
    usage: "list",
    summary: "deployments, newest first",
    help: "\
usage: gangplank list [FLAGS]

Lists deployments, newest first.

  --project NAME        only this component's
  --status S            only those in this status: success, failed, cancelled,
                        rolled_back, staged, or the one of a phase that runs
  --limit N             at most so many (100)
",
    example: "gangplank list --project my-app --status failed --limit 5",
    parse: Parse::Client(parse),
};

fn parse(mut line: CommandLine, _: &mut ClientOptions) -> Result<Job, Usage> {
    let list = List {
        project: value::text(&mut line, "--project")?,
        status: value::parsed(&mut line, "--status", status)?,
        limit: value::parsed(&mut line, "--limit", value::number)?,
        ..List::default()
    };
    finish(line)?;
    Ok(Job::Operation(Operation::ListDeployments(list).into()))
}

/// A word that is the status of no deployment would find nothing, which looks like an answer.
fn status(text: &str) -> Result<String, String> {
    match serde_json::from_value::<Status>(Value::from(text)) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => {
            // Behind this word it names those that there are.
            let error = error.to_string().replace('`', "");
            let known = error.split_once("expected ").map_or("", |(_, known)| known);
            Err(format!("not a status of a deployment; expected {known}"))
        }
    }
}
