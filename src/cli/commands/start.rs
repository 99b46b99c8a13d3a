//! `start`: starts the processes of a component that do not run.

use crate::api::operation::Operation;
use crate::cli::arguments::{ClientOptions, CommandLine, Usage, value};
use crate::cli::commands::{CommandSpec, Job, Parse};

pub(super) const COMMAND: CommandSpec = CommandSpec {
    words: &["start"],
    usage: "start PROJECT",
    summary: "start what was stopped",
    help: "\
usage: gangplank start [PROJECT] [FLAGS]

Starts the processes of a component's live release that do not run, and does not
wait until they are healthy; `gangplank status PROJECT` says how they are.

  --replicated, --ignore-replication-errors
                        on the peers too, and even if one of them fails
",
    example: "gangplank start my-app",
    parse: Parse::Client(parse),
};

fn parse(mut line: CommandLine, _: &mut ClientOptions) -> Result<Job, Usage> {
    let peers = value::for_peers(&mut line);
    let project = value::at_most_one("PROJECT", line, value::project)?;
    Ok(Job::about(project, move |project| {
        Operation::Start(project, peers)
    }))
}
