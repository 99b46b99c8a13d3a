//! `watch`: follows a deployment to its end.

use crate::api::name::Project;
use crate::cli::arguments::value::{DeploymentWord, LATEST, beginning};
use crate::cli::arguments::{ClientOptions, CommandLine, Usage, value};
use crate::cli::commands::{CommandSpec, Job, Parse, word_or_here};
use crate::cli::session::find::Purpose;
use crate::cli::session::follow::FollowedRequest;
use crate::client::DeploymentRef;

pub(super) const COMMAND: CommandSpec = CommandSpec {
    words: &["watch"],
    usage: "watch ID|PROJECT",
    summary: "follow a deployment to its end",
    help: "\
usage: gangplank watch [ID|PROJECT] [FLAGS]

Shows a deployment's events from the first one, follows it to its end, and exits
as `deploy` would have. PROJECT is its newest deployment.
",
    example: "gangplank watch my-app",
    parse: Parse::Client(parse),
};

fn parse(line: CommandLine, _: &mut ClientOptions) -> Result<Job, Usage> {
    let word = value::at_most_one("ID or PROJECT", line, value::deployment)?;
    Ok(Job::run(move |context| {
        let word = word_or_here(word)?;
        let mut session = context.session()?;
        session.server()?;
        let which = match latest_of(&word) {
            Some(project) => DeploymentRef::Latest(project),
            None => DeploymentRef::Deployment(session.find(&word, None, Purpose::Look)?),
        };
        session.follow(FollowedRequest::Watch(which)).map(Some)
    }))
}

/// The component whose newest deployment is meant without a doubt: the server knows that one best.
fn latest_of(word: &DeploymentWord) -> Option<Project> {
    match word {
        DeploymentWord::Other(word) if word != LATEST && beginning(word).is_none() => {
            word.parse().ok()
        }
        _ => None,
    }
}
