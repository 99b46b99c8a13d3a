//! `stop`: stops the processes of a component.

use crate::api::operation::Operation;
use crate::cli::arguments::{ClientOptions, CommandLine, Usage, value};
use crate::cli::commands::{CommandSpec, Job, Parse};

pub(super) const COMMAND: CommandSpec = CommandSpec {
    words: &["stop"],
    usage: "stop PROJECT",
    summary: "stop a component's processes",
    help: "\
usage: gangplank stop [PROJECT] [FLAGS]

Stops the processes of a component. They stay stopped, also when the server
starts again, until `gangplank start`, or until a deployment, rollback or
restart starts them.

  --replicated, --ignore-replication-errors
                        on the peers too, and even if one of them fails
",
    example: "gangplank stop my-app",
    parse: Parse::Client(parse),
};

fn parse(mut line: CommandLine, _: &mut ClientOptions) -> Result<Job, Usage> {
    let peers = value::for_peers(&mut line);
    let project = value::at_most_one("PROJECT", line, value::project)?;
    Ok(Job::about(project, move |project| {
        Operation::Stop(project, peers)
    }))
}
