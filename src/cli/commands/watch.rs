//! `watch`: follows a deployment to its end.

use serde_json::Value;

use crate::api::error::Exit;
use crate::api::name::{DeploymentId, Project};
use crate::api::operation::{List, Operation};
use crate::cli::arguments::value::{DeploymentWord, LATEST, beginning};
use crate::cli::arguments::{ClientOptions, CommandLine, Usage, value};
use crate::cli::commands::{CommandSpec, Context, Job, Parse, here, word_or_here};
use crate::cli::session::CommandError;
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

  --next                wait for the next deployment of PROJECT to begin, also
                        for its first one
",
    example: "gangplank watch my-app",
    parse: Parse::Client(parse),
};

fn parse(mut line: CommandLine, _: &mut ClientOptions) -> Result<Job, Usage> {
    if line.contains("--next") {
        let project = value::at_most_one("PROJECT", line, value::project)?;
        return Ok(Job::run(move |context| {
            next(context, project.map_or_else(here, Ok)?).map(Some)
        }));
    }
    let word = value::at_most_one("ID or PROJECT", line, value::deployment)?;
    Ok(Job::run(move |context| {
        let word = word_or_here(word)?;
        let mut session = context.session()?;
        session.may_watch()?;
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

/// Waits for a deployment that has not begun yet.
fn next(context: Context<'_>, project: Project) -> Result<Value, CommandError> {
    let mut session = context.session()?;
    session.may_wait_for_next()?;
    // After this one, whatever breaks meanwhile.
    let list = List {
        project: Some(project.to_string()),
        limit: Some(1),
        ..List::default()
    };
    let newest = session.call(&Operation::ListDeployments(list).into())?;
    let newest = newest.pointer("/deployments/0/deployment_id");
    let newest = newest.and_then(Value::as_str);
    let newest = newest.and_then(|id| id.parse::<DeploymentId>().ok());
    let after = newest.map_or_else(String::new, |id| format!(", after {id}"));
    session.screen.remark(&format!(
        "waiting for the next deployment of {project}{after}"
    ));
    session.screen.waits_for("waiting for the next deployment");
    session.screen.flush();
    let what = project.clone();
    let watched = FollowedRequest::Watch(DeploymentRef::Next(project, newest));
    session.follow(watched).map_err(|mut trouble| {
        let failed = &mut trouble.failed;
        if failed.exit == Exit::Interrupted && failed.deployment_id.is_none() {
            failed.message = format!("interrupted: no deployment of {what} has begun");
            trouble.watch = false;
        }
        trouble
    })
}
