//! `watch`: follows a deployment to its end.

use crate::api::name::{DeploymentId, Project};
use crate::cli::arguments::{ClientOptions, CommandLine, Usage, value};
use crate::cli::commands::{CommandSpec, Job, Parse};
use crate::cli::session::follow::FollowedRequest;
use crate::client::DeploymentRef;

pub(super) const COMMAND: CommandSpec = CommandSpec {
    words: &["watch"],
    usage: "watch ID|PROJECT",
    summary: "follow a deployment to its end",
    help: "\
usage: gangplank watch ID|PROJECT [FLAGS]

Shows a deployment's events from the first one, follows it to its end, and exits
as `deploy` would have. PROJECT is its newest deployment.
",
    example: "gangplank watch my-app",
    parse: Parse::Client(parse),
};

fn parse(line: CommandLine, _: &mut ClientOptions) -> Result<Job, Usage> {
    let which = value::one("ID or PROJECT", line, which)?;
    Ok(Job::run(move |context| {
        let mut session = context.session()?;
        session.follow(FollowedRequest::Watch(which)).map(Some)
    }))
}

fn which(word: &str) -> Result<DeploymentRef, String> {
    // An id is hardly the name of a component.
    if let Ok(id) = word.parse::<DeploymentId>() {
        return Ok(DeploymentRef::Deployment(id));
    }
    let project = word.parse::<Project>().map(DeploymentRef::Latest);
    project.map_err(|_| "neither a deployment's id nor a component's name".into())
}
