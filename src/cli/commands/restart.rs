//! `restart`: restarts the processes of a component.

use crate::api::operation::{Operation, Restart};
use crate::cli::arguments::{ClientOptions, CommandLine, Usage, value};
use crate::cli::commands::{CommandSpec, Job, Parse};

pub(super) const COMMAND: CommandSpec = CommandSpec {
    words: &["restart"],
    usage: "restart PROJECT",
    summary: "restart a component's processes",
    help: "\
usage: gangplank restart [PROJECT] [FLAGS]

Restarts the processes of a component, and follows that to its end.

  --rolling             one after the other
  --message TEXT        why; it is kept in the record
  --replicated, --ignore-replication-errors
                        on the peers too, and even if one of them fails
",
    example: "gangplank restart my-app",
    parse: Parse::Client(parse),
};

fn parse(mut line: CommandLine, _: &mut ClientOptions) -> Result<Job, Usage> {
    let restart = match line.contains("--rolling") {
        true => Restart::Rolling,
        false => Restart::Immediate,
    };
    let message = value::message(&mut line)?;
    let peers = value::for_peers(&mut line);
    let project = value::at_most_one("PROJECT", line, value::project)?;
    Ok(Job::about(project, move |project| {
        Operation::Restart(project, restart, message, peers)
    }))
}
