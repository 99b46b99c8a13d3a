//! The words that only a server or this user's settings know. Whoever presses a key waits for them: so nothing is said, and
//! nobody is waited for longer than a second.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use serde_json::Value;

use crate::api::name::{DeploymentId, Project};
use crate::api::operation::{List, Operation, OperationCall};
use crate::cli::arguments::value::LATEST;
use crate::cli::arguments::{self, ClientOptions, CommandLine};
use crate::cli::commands::completions::complete::{Candidate, Completion, ValueKind};
use crate::cli::commands::{Job, JobEnd, ask};
use crate::cli::config::targets::TargetsFile;
use crate::cli::screen::{Progress, Screen, Surroundings};
use crate::client::Target;

/// As long as a person waits for a key without wondering.
const PATIENCE: Duration = Duration::from_secs(1);

/// A screen or two of deployments: who wants an older one has its beginning from a list.
const DEPLOYMENTS_MAX: u64 = 50;

/// The words of a completion, which may have to be asked for. None is not an error.
pub(super) fn candidates(asked: &Completion) -> Vec<Candidate> {
    match &asked.kind {
        ValueKind::Words(words) => words.clone(),
        ValueKind::Files | ValueKind::Directories => Vec::new(),
        ValueKind::Targets => targets().unwrap_or_default(),
        ValueKind::Projects => {
            let answer = call(&asked.shared, Operation::GetComponents(false).into());
            projects(&answer.unwrap_or_default())
        }
        ValueKind::Deployments => {
            let list = List {
                project: asked.project.clone(),
                limit: Some(DEPLOYMENTS_MAX),
                ..List::default()
            };
            let answer = call(&asked.shared, Operation::ListDeployments(list).into());
            deployments(&answer.unwrap_or_default(), asked.project.is_none())
        }
    }
}

fn targets() -> Option<Vec<Candidate>> {
    let (all, _) = TargetsFile::of_user().ok()?.read().ok()?;
    let rows = all.iter().map(|(name, saved)| {
        let target = Target::parse(saved.url.reveal());
        Candidate::new(
            name,
            target.map_or(String::new(), |target| target.to_string()),
        )
    });
    Some(rows.collect())
}

/// Asks the server that the line names.
fn call(shared: &[OsString], call: OperationCall) -> Option<Value> {
    let mut line = CommandLine::new(shared.to_vec());
    let options = arguments::client(&mut line).ok()?;
    if options.token_file.as_deref() == Some(Path::new("-")) {
        // What is on stdin is for the command.
        return None;
    }
    let options = ClientOptions {
        // Whoever is not there is not there.
        retry_for: Some(Duration::ZERO),
        ..options
    };
    let (done, answer) = bounded(1);
    std::thread::spawn(move || {
        let clock = Box::new(Instant::now);
        let around = Surroundings::look();
        let mut screen = Screen::with(Progress::Quiet, false, around, Box::new(io::sink()), clock);
        if let Ok(JobEnd::Result(Some(answer))) = ask(&options, Job::Operation(call), &mut screen) {
            // Nobody may wait for it any longer.
            let _ = done.send(answer);
        }
    });
    answer.recv_timeout(PATIENCE).ok()
}

/// The name of a component, which a shell takes as it is. Another server could send anything.
fn project(row: &Value, key: &str) -> Option<String> {
    let name: Project = row[key].as_str()?.parse().ok()?;
    Some(name.as_str().to_owned())
}

fn rows<'a>(answer: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    answer[key].as_array().into_iter().flatten()
}

fn projects(answer: &Value) -> Vec<Candidate> {
    // A Harper server answers with a tree of files, a directory for each component.
    let ours = rows(answer, "components").filter_map(|row| project(row, "project"));
    let theirs = rows(answer, "entries").filter_map(|row| project(row, "name"));
    let all = ours.chain(theirs);
    all.map(|name| Candidate::new(name, "component")).collect()
}

/// The deployments, newest first, and the words that mean the newest ones.
fn deployments(answer: &Value, with_projects: bool) -> Vec<Candidate> {
    let (mut all, mut names) = (Vec::new(), Vec::new());
    for row in rows(answer, "deployments") {
        let text = |key: &str| row[key].as_str().unwrap_or_default();
        let Ok(id) = text("deployment_id").parse::<DeploymentId>() else {
            continue;
        };
        let said = [
            text("project"),
            text("kind"),
            text("status"),
            text("message"),
        ];
        let said: Vec<&str> = said.into_iter().filter(|text| !text.is_empty()).collect();
        all.push(Candidate::new(id.to_string(), said.join(" ")));
        names.extend(project(row, "project").filter(|name| !names.contains(name)));
    }
    if !all.is_empty() {
        all.push(Candidate::new(LATEST, "the newest deployment"));
    }
    if with_projects {
        let newest = |name| Candidate::new(name, "its newest deployment");
        all.extend(names.into_iter().map(newest));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn words(all: Vec<Candidate>) -> Vec<String> {
        all.into_iter().map(|one| one.word).collect()
    }

    #[test]
    fn what_a_shell_could_run_is_no_word() {
        let id = "01976e6c-1c2b-7000-8000-000000000000";
        let answer = json!({ "deployments": [
            { "deployment_id": "$(id)", "project": "a" },
            { "deployment_id": id, "project": "$(id)", "status": "success" },
            { "deployment_id": id, "project": "b", "message": "m\nn\to" },
        ] });
        assert_eq!(words(deployments(&answer, true)), [id, id, LATEST, "b"]);
        assert_eq!(words(deployments(&answer, false)), [id, id, LATEST]);
        let answer = json!({ "components": [{ "project": "a;b" }, { "project": "a" }, 1] });
        assert_eq!(words(projects(&answer)), ["a"]);
        let answer = json!({ "entries": [{ "name": "c", "entries": [] }, { "name": "`x`" }] });
        assert_eq!(words(projects(&answer)), ["c"]);
        assert_eq!(projects(&json!([])), []);
    }
}
