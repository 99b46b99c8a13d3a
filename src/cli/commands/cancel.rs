//! `cancel`: stops a running deployment.

use crate::api::operation::Operation;
use crate::cli::arguments::{ClientOptions, CommandLine, Usage, value};
use crate::cli::commands::{CommandSpec, Job, Parse};
use crate::cli::session::find::Purpose;

pub(super) const COMMAND: CommandSpec = CommandSpec {
    words: &["cancel"],
    usage: "cancel ID",
    summary: "stop a running deployment",
    help: "\
usage: gangplank cancel [ID] [FLAGS]

Stops a running deployment. What is live stays. ID: see `gangplank help show`.
",
    example: "gangplank cancel 01976e6c-1c2b",
    parse: Parse::Client(parse),
};

fn parse(line: CommandLine, _: &mut ClientOptions) -> Result<Job, Usage> {
    let word = value::at_most_one("ID", line, value::deployment)?;
    Ok(Job::on_deployment(word, Purpose::Change, Operation::Cancel))
}
