//! What can still be read of a deployment, whatever became of its files: its journal, else its record, else what a release
//! of its name tells.

use std::fs;
use std::time::Duration;

use crate::api::error::Error;
use crate::api::event::{Entry, Event, Opening};
use crate::api::name::{DeploymentId, Project};
use crate::api::operation::Options;
use crate::api::record::Record;
use crate::engine::recover::is_end;
use crate::store::Store;
use crate::store::journal::{Follower, Journal, Step};
use crate::system::log;
use crate::system::time::now_ms;

/// What is left of a deployment.
pub(super) enum Remains {
    /// It had not begun.
    Nothing,
    /// It had begun, and nothing tells of which component it was.
    Unknown,
    /// Its entries, the first of which opens it.
    Entries(Vec<Entry>),
}

/// Reads what there is.
pub(super) fn read(store: &Store, id: DeploymentId) -> Result<Remains, Error> {
    let damage = match entries(store, id) {
        Ok(entries) if opens(&entries) => return Ok(Remains::Entries(entries)),
        Ok(_) => "it has no beginning".to_owned(),
        Err(error) => error.to_string(),
    };
    if let Ok(Some(record)) = store.read_record(id) {
        log::error(&format!(
            "deployment {id}: its journal is damaged: {damage}; what its record knows is kept"
        ));
        return Ok(Remains::Entries(
            record.event_log.entries().cloned().collect(),
        ));
    }
    if let Some(project) = project(store, id)? {
        log::error(&format!(
            "deployment {id} of {project}: its journal and its record are damaged: {damage}"
        ));
        return Ok(Remains::Entries(vec![opening(id, project)]));
    }
    let begun = fs::read_dir(store.deployment(id)).is_ok_and(|mut files| {
        files.any(|file| file.is_ok_and(|file| file.metadata().is_ok_and(|meta| meta.len() > 0)))
    });
    Ok(if begun {
        Remains::Unknown
    } else {
        Remains::Nothing
    })
}

/// The journal of a deployment, ready for its next entry; made again from the record if it cannot be read.
pub(super) fn journal(store: &Store, record: &Record) -> Result<Journal, Error> {
    let id = record.deployment_id;
    let dir = store.deployment(id);
    if entries(store, id).is_ok_and(|entries| opens(&entries)) {
        return Journal::reopen(&dir);
    }
    let known = record.event_log.entries();
    Journal::rebuild(&dir, known.filter(|entry| !is_end(&entry.meaning())))
}

/// The entries of a journal, in their order.
fn entries(store: &Store, id: DeploymentId) -> Result<Vec<Entry>, Error> {
    let mut follower = Follower::new(&store.deployment(id), 0, None);
    let mut entries = Vec::new();
    while let Step::Entry(entry) = follower.next(Duration::ZERO)? {
        entries.push((*entry).clone());
    }
    // Where the beginning is missing, the gap comes first.
    Ok(entries)
}

fn opens(entries: &[Entry]) -> bool {
    let first = entries.first().map(Entry::meaning);
    matches!(first, Some(Event::Deployment(_)))
}

/// The component that has a release of this deployment.
fn project(store: &Store, id: DeploymentId) -> Result<Option<Project>, Error> {
    let of = |project: &Project| {
        store.live(project) == Some(id) || store.release(project, id).symlink_metadata().is_ok()
    };
    Ok(store.projects()?.into_iter().find(of))
}

/// What opens a deployment of which nothing else is known.
fn opening(id: DeploymentId, project: Project) -> Entry {
    let opening = Opening {
        deployment_id: id,
        project,
        phases: Vec::new(),
        previous: None,
        at: now_ms(),
        release_id: id,
        rollback_of: None,
        origin_node: String::new(),
        restart_mode: None,
        user: None,
        options: Options::default(),
        package_identifier: None,
        idempotency_key: None,
        message: None,
        source: None,
        fleet: None,
    };
    Entry::new(1, now_ms(), &Event::Deployment(Box::new(opening)))
}
