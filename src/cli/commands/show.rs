//! `show`: one deployment's record.

use crate::api::operation::Operation;
use crate::cli::arguments::{ClientOptions, CommandLine, Usage, value};
use crate::cli::commands::{CommandSpec, Job, Parse};

pub(super) const COMMAND: CommandSpec = CommandSpec {
    words: &["show"],
    usage: "show ID",
    summary: "one deployment's record",
    help: "\
usage: gangplank show ID [FLAGS]

Prints one deployment's record.
",
    example: "gangplank show 01976e6c-1c2b-7000-8000-000000000000 --output json",
    parse: Parse::Client(parse),
};

fn parse(line: CommandLine, _: &mut ClientOptions) -> Result<Job, Usage> {
    let id = value::one("ID", line, value::deployment)?;
    Ok(Job::Operation(Operation::GetDeployment(id).into()))
}
