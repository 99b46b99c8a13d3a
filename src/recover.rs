//! What a start does before anything else: it ends what an earlier server left running.
//!
//! A deployment whose journal has no end is a `success` exactly if its release is the live one; else it is `failed` with
//! code `interrupted`, and what it had built is removed. Processes that an installation left are found by their environment
//! and ended first, so that nothing writes into a tree that is being removed.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::time::Duration;

use serde_json::Map;

use crate::child;
use crate::error::{Code, Doing, Error};
use crate::event::{Entry, Event, Failure, now_ms};
use crate::journal::{Follower, Journal, Step};
use crate::log;
use crate::name::{DeploymentId, Project};
use crate::record::Record;
use crate::store::Store;

/// The ended deployments of each component, in ascending order.
pub type History = HashMap<Project, Vec<DeploymentId>>;

/// Ends every deployment that is not ended, and gives all that there are of each component, in ascending order.
///
/// # Errors
/// When the root cannot be read or written: a server that cannot say what happened must not start.
pub fn recover(store: &Store) -> Result<History, Error> {
    let ended = child::end_survivors(store.root(), None)?;
    if ended > 0 {
        log::warn(&format!(
            "ended {ended} processes that an earlier server left running"
        ));
    }
    let mut history = History::new();
    for id in store.deployments()? {
        // A record that cannot be read is made again from the journal, as one that is missing.
        let known = store.read_record(id).ok().flatten();
        let project = match known.filter(|record| record.status.ended()) {
            Some(record) => Some(record.project),
            None => end(store, id)?,
        };
        if let Some(project) = project {
            history.entry(project).or_default().push(id);
        }
    }
    Ok(history)
}

fn end(store: &Store, id: DeploymentId) -> Result<Option<Project>, Error> {
    let dir = store.deployment(id);
    let mut journal = Journal::reopen(&dir)?;
    let entries = entries(Follower::new(&dir, 0, None))?;
    let Some(mut record) = Record::fold(&entries) else {
        // Not even its opening was written, so nobody was ever told of it.
        log::warn(&format!("deployment {id} had not begun; removing it"));
        store.remove_deployment(id)?;
        return Ok(None);
    };
    if !record.status.ended() {
        let live = store.live(&record.project) == Some(record.release_id);
        let event = if live {
            Event::Done(record.result(now_ms()))
        } else {
            Event::Error(Box::new(interrupted(&record)))
        };
        if !live {
            store.remove_release(&record.project, id)?;
            if record.payload_hash.is_none() {
                store.remove_payload(id)?;
            }
        }
        let entry = journal.append(&event)?;
        record.apply(&entry);
        journal.sync()?;
        let how = if live {
            "done: it is live"
        } else {
            "failed: it was interrupted"
        };
        log::warn(&format!(
            "deployment {id} of {} was running when the server ended; it is {how}",
            record.project
        ));
    }
    gone(fs::remove_file(dir.join("record.json.new")))
        .doing(|| format!("cleaning up {}", dir.display()))?;
    store.write_record(&record, true)?;
    Ok(Some(record.project))
}

fn interrupted(record: &Record) -> Failure {
    Failure {
        message: "interrupted by the end of the server".to_owned(),
        code: Code::Interrupted.word().to_owned(),
        phase: record.phase.clone(),
        deployment_id: Some(record.deployment_id.to_string()),
        install_output: None,
        more: Map::new(),
    }
}

fn entries(mut follower: Follower) -> Result<Vec<Entry>, Error> {
    let mut entries = Vec::new();
    while let Step::Entry(entry) = follower.next(Duration::ZERO)? {
        entries.push((*entry).clone());
    }
    Ok(entries)
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
