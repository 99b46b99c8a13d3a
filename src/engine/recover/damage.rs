//! What can still be read of a deployment, whatever became of its files: its journal, else its record, else what a release
//! of its name tells.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::api::error::{Doing, Error};
use crate::api::event::{Entry, Event, Opening};
use crate::api::name::{DeploymentId, Project};
use crate::api::operation::Options;
use crate::api::record::Record;
use crate::engine::recover::is_end;
use crate::store::Store;
use crate::store::journal::{Follower, Journal, Step};
use crate::system::time::now_ms;
use crate::system::{files, kernel, log};

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
///
/// # Errors
/// What the system lacks at the moment, and a directory that cannot be read: neither says that anything is damaged.
pub(super) fn read(store: &Store, id: DeploymentId) -> Result<Remains, Error> {
    let damage = match entries(store, id) {
        Ok(entries) if opens(&entries) => return Ok(Remains::Entries(entries)),
        Ok(_) => "it has no beginning".to_owned(),
        Err(error) if is_of_system(&error) => return Err(error),
        Err(error) => error.to_string(),
    };
    match store.read_record(id) {
        Ok(Some(record)) => {
            log::error(&format!(
                "deployment {id}: its journal is damaged: {damage}; what its record knows is kept"
            ));
            let entries = record.event_log.entries();
            return Ok(Remains::Entries(entries.cloned().collect()));
        }
        Err(error) if is_of_system(&error) => return Err(error),
        Ok(None) | Err(_) => {}
    }
    if let Some(project) = project(store, id)? {
        log::error(&format!(
            "deployment {id} of {project}: its journal and its record are damaged: {damage}"
        ));
        return Ok(Remains::Entries(vec![opening(id, project)]));
    }
    Ok(if has_begun(&store.deployment(id))? {
        Remains::Unknown
    } else {
        Remains::Nothing
    })
}

/// Whether anything was written into the directory of a deployment.
fn has_begun(dir: &Path) -> Result<bool, Error> {
    let doing = || format!("reading {}", dir.display());
    let Some(files) = files::if_there(fs::read_dir(dir)).doing(doing)? else {
        return Ok(false);
    };
    for file in files {
        let meta = file.and_then(|file| file.metadata());
        if files::if_there(meta)
            .doing(doing)?
            .is_some_and(|meta| meta.len() > 0)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The journal of a deployment, ready for its next entry; made again from the record if it is damaged.
pub(super) fn journal(store: &Store, record: &Record) -> Result<Journal, Error> {
    let id = record.deployment_id;
    let dir = store.deployment(id);
    match entries(store, id) {
        Ok(entries) if opens(&entries) => return Journal::reopen(&dir),
        Err(error) if is_of_system(&error) => return Err(error),
        Ok(_) | Err(_) => {}
    }
    let known = record.event_log.entries();
    Journal::rebuild(&dir, known.filter(|entry| !is_end(&entry.meaning())))
}

/// Whether something failed for what the system lacks at the moment, descriptors or memory, and not for what it was done to.
fn is_of_system(error: &Error) -> bool {
    error.io().is_some_and(kernel::is_exhausted)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployment_has_begun_once_something_of_it_is_written() {
        let dir = std::env::temp_dir().join(format!("gangplank-begun-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        assert!(!has_begun(&dir).unwrap());
        fs::create_dir(&dir).unwrap();
        assert!(!has_begun(&dir).unwrap());
        let file = dir.join("events.ndjson");
        fs::write(&file, "").unwrap();
        assert!(!has_begun(&dir).unwrap());
        assert!(has_begun(&file).is_err());
        fs::write(&file, "{").unwrap();
        assert!(has_begun(&dir).unwrap());
        fs::remove_dir_all(&dir).unwrap();
    }
}
