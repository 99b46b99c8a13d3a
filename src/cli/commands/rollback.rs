//! `rollback`: makes the release live again that was live before, or a named one.

use crate::api::operation::{FleetChange, Operation, Restart, Rollback};
use crate::cli::arguments::value::DeploymentWord;
use crate::cli::arguments::{ClientOptions, CommandLine, Usage, value};
use crate::cli::commands::{CommandSpec, Job, Parse, fleet, here};
use crate::cli::session::find::Purpose;

pub(super) const COMMAND: CommandSpec = CommandSpec {
    words: &["rollback"],
    usage: "rollback PROJECT",
    summary: "make the previous release live again",
    help: "\
usage: gangplank rollback [PROJECT] [FLAGS]

Makes the release live again that was live before, restarts the processes that
it has, and follows that to its end.

  --to ID               the release of this deployment instead
  --message TEXT        why; it is kept in the record
  --restart[=rolling]   and warn if it has none; one after the other
  --no-restart          leave the processes that run as they are
  --fleet, --detach     on every host what was wanted before; do not wait
  --replicated, --ignore-replication-errors
                        on the peers too, and even if one of them fails
",
    example: "gangplank rollback my-app",
    parse: Parse::Client(parse),
};

fn parse(mut line: CommandLine, _: &mut ClientOptions) -> Result<Job, Usage> {
    let to = value::parsed(&mut line, "--to", value::deployment)?;
    let restart = value::restart(&mut line)?.unwrap_or(Restart::Auto);
    let message = value::message(&mut line)?;
    let replicated = line.contains("--replicated");
    let ignore_replication_errors = line.contains("--ignore-replication-errors");
    let is_fleet = line.contains("--fleet");
    let detach = line.contains("--detach");
    let project = value::at_most_one("PROJECT", line, value::project)?;
    if is_fleet {
        if to.is_some() || replicated || ignore_replication_errors {
            return Err(Usage::new(
                "--fleet goes with neither --to nor --replicated: it is what the fleet wanted before",
            ));
        }
        return Ok(Job::run(move |context| {
            let project = project.map_or_else(here, Ok)?;
            let mut session = context.session()?;
            let change = FleetChange::RollBack(project.clone(), message);
            let published = session.call(&Operation::ChangeFleet(change).into())?;
            if detach {
                return Ok(Some(published));
            }
            let id = published["deployment_id"].as_str();
            let id = id.and_then(|id| id.parse().ok());
            fleet::follow_rollout(&mut session, project, id).map(Some)
        }));
    }
    if detach {
        return Err(Usage::new("--detach goes with --fleet alone"));
    }
    let rollback = move |project, to| {
        Operation::Rollback(Rollback {
            project,
            to,
            restart,
            message,
            replicated,
            ignore_replication_errors,
        })
    };
    let to = match to {
        None => None,
        Some(DeploymentWord::Id(id)) => Some(id),
        Some(word) => {
            return Ok(Job::run(move |context| {
                let project = project.map_or_else(here, Ok)?;
                let mut session = context.session()?;
                let to = session.find(&word, Some(&project), Purpose::Change)?;
                session.call(&rollback(project, Some(to)).into()).map(Some)
            }));
        }
    };
    Ok(Job::about(project, move |project| rollback(project, to)))
}
