//! `cancel`: stops a running deployment.

use crate::api::operation::Operation;
use crate::cli::arguments::{ClientOptions, CommandLine, Usage, value};
use crate::cli::commands::{CommandSpec, Job, Parse};

pub(super) const COMMAND: CommandSpec = CommandSpec {
    words: &["cancel"],
    usage: "cancel ID",
    summary: "stop a running deployment",
    help: "\
usage: gangplank cancel ID [FLAGS]

Stops a running deployment. What is live stays.
",
    example: "gangplank cancel 01976e6c-1c2b-7000-8000-000000000000",
    parse: Parse::Client(parse),
};

fn parse(line: CommandLine, _: &mut ClientOptions) -> Result<Job, Usage> {
    let id = value::one("ID", line, value::deployment)?;
    Ok(Job::Operation(Operation::Cancel(id).into()))
}
