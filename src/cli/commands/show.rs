//! `show`: one deployment's record.

use crate::api::operation::Operation;
use crate::cli::arguments::{ClientOptions, CommandLine, Usage, value};
use crate::cli::commands::{CommandSpec, Job, Parse};
use crate::cli::session::find::Purpose;

pub(super) const COMMAND: CommandSpec = CommandSpec {
    words: &["show"],
    usage: "show ID",
    summary: "one deployment's record",
    help: "\
usage: gangplank show [ID] [FLAGS]

Prints one deployment's record. Wherever an ID is asked for, its first 8
characters or more, `latest`, or a component for its newest deployment will do.
It may be left out where gangplank.json names the component.
",
    example: "gangplank show 01976e6c-1c2b --output json",
    parse: Parse::Client(parse),
};

fn parse(line: CommandLine, _: &mut ClientOptions) -> Result<Job, Usage> {
    let word = value::at_most_one("ID", line, value::deployment)?;
    Ok(Job::on_deployment(
        word,
        Purpose::Look,
        Operation::GetDeployment,
    ))
}
