//! `sync`: lets a server deploy what is live at one of its peers.

use crate::api::operation::Operation;
use crate::cli::arguments::{ClientOptions, CommandLine, Usage, value};
use crate::cli::commands::{CommandSpec, Job, Parse};

pub(super) const COMMAND: CommandSpec = CommandSpec {
    words: &["sync"],
    usage: "sync --from NAME",
    summary: "deploy here what is live at a peer",
    help: "\
usage: gangplank sync --from NAME [PROJECT] [FLAGS]

Deploys at this server what is live at its peer NAME: everything, or PROJECT.

  --from NAME           the peer
",
    example: "gangplank sync --from berlin my-app",
    parse: Parse::Client(parse),
};

fn parse(mut line: CommandLine, _: &mut ClientOptions) -> Result<Job, Usage> {
    let from = value::text(&mut line, "--from")?
        .ok_or_else(|| Usage::new("`sync` needs --from NAME, a peer of the server's"))?;
    let project = value::at_most_one("PROJECT", line, value::project)?;
    Ok(Job::Operation(Operation::Sync(from, project).into()))
}
