//! `drop`: stops a component and removes it with its releases.

use crate::api::operation::Operation;
use crate::cli::arguments::{ClientOptions, CommandLine, Usage, value};
use crate::cli::commands::{CommandSpec, Job, Parse};

pub(super) const COMMAND: CommandSpec = CommandSpec {
    words: &["drop"],
    usage: "drop PROJECT",
    summary: "remove a component",
    help: "\
usage: gangplank drop PROJECT [FLAGS]

Stops a component and removes it with its releases; the records of its deployments
stay.
",
    example: "gangplank drop my-app",
    parse: Parse::Client(parse),
};

fn parse(line: CommandLine, _: &mut ClientOptions) -> Result<Job, Usage> {
    let project = value::one("PROJECT", line, value::project)?;
    Ok(Job::Operation(Operation::Drop(project, None).into()))
}
