//! `drop`: stops a component and removes it with its releases.

use crate::api::error::Exit;
use crate::api::operation::{DropComponent, Operation};
use crate::cli::arguments::{ClientOptions, CommandLine, Usage, value};
use crate::cli::commands::{CommandSpec, Job, Parse, here};
use crate::client::NoResult;

pub(super) const COMMAND: CommandSpec = CommandSpec {
    words: &["drop"],
    usage: "drop PROJECT",
    summary: "remove a component",
    help: "\
usage: gangplank drop [PROJECT] [FLAGS]

Stops a component and removes it with its releases. The records of its
deployments stay, and so do its shared data, its environment and its hooks, and
the result names them. On a terminal it asks before.

  --purge               remove those, too
  --yes                 do not ask
",
    example: "gangplank drop my-app",
    parse: Parse::Client(parse),
};

fn parse(mut line: CommandLine, _: &mut ClientOptions) -> Result<Job, Usage> {
    let (purge, yes) = (line.contains("--purge"), line.contains("--yes"));
    let project = value::at_most_one("PROJECT", line, value::project)?;
    Ok(Job::run(move |context| {
        let named = project.is_some();
        let project = project.map_or_else(here, Ok)?;
        let whose = if named {
            ""
        } else {
            ", the component of gangplank.json"
        };
        let what = if purge { " and all its data" } else { "" };
        let question = format!("Drop {project}{whose}{what}?");
        let answer = if yes {
            Some(true)
        } else {
            context.screen.ask(&question)
        };
        let refused = match answer {
            Some(true) => None,
            Some(false) => Some("nothing was dropped".to_owned()),
            // Who names it means it; what gangplank.json names, somebody else may have written.
            None => (!named).then(|| {
                format!("nothing was dropped: gangplank.json names {project}; name it yourself, or give --yes")
            }),
        };
        if let Some(why) = refused {
            return Err(NoResult::new(Exit::Usage, why).into());
        }
        let drop = DropComponent {
            project,
            first: None,
            purge,
        };
        let call = Operation::Drop(drop).into();
        context.session()?.call(&call).map(Some)
    }))
}
