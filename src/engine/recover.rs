//! What a start does before anything else: it ends what an earlier server left running.
//!
//! A deployment whose journal has no end is a `success` exactly if its release is the live one; else it is `failed` with
//! code `interrupted`, and what it had built is removed. Processes that an installation left are found by their environment
//! and ended first, so that nothing writes into a tree that is being removed.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::api::error::{Code, Doing, Error};
use crate::api::event::{Entry, Event, Failure, Phase};
use crate::api::name::DeploymentId;
use crate::api::record::{Record, Summary};
use crate::engine::attempt::Registry;
use crate::store::Store;
use crate::store::index::Index;
use crate::store::journal::{Follower, Journal, Step};
use crate::system::child::{self, SurvivorScope};
use crate::system::files;
use crate::system::log;
use crate::system::time::now_ms;

/// Ends every deployment that an earlier server marked as running and did not end, and removes what it left half removed.
///
/// # Errors
/// When the root cannot be read or written: a server that cannot say what happened must not start.
pub fn recover(store: &Store) -> Result<(), Error> {
    let ended = child::end_survivors(store.root(), SurvivorScope::All)?;
    if ended > 0 {
        log::warn(&format!(
            "ended {ended} processes that an earlier server left running"
        ));
    }
    for id in store.marked()? {
        if store.deployment(id).exists() {
            end(store, id)?;
        }
        store.unmark(id)?;
    }
    store.sweep();
    Ok(())
}

/// Puts all deployments on disk into the index, and ends those that have no end and no mark either, as a power loss may
/// leave them. What cannot be read is said in the log and left as it is.
pub fn fill(registry: &Registry, is_running: &dyn Fn(DeploymentId) -> bool) {
    let Registry { store, index } = registry;
    let _complete = Complete(index);
    let ids = match store.deployments() {
        Ok(ids) => ids,
        Err(error) => return log::error(&error.to_string()),
    };
    for id in ids {
        let mut known = store.read_summary(id).ok().flatten();
        if !known.as_ref().is_some_and(|one| one.status.ended()) && !is_running(id) {
            known = match end(store, id) {
                Ok(record) => record.as_ref().map(Summary::from),
                Err(error) => {
                    log::error(&error.to_string());
                    continue;
                }
            };
        }
        if let Some(summary) = known {
            index.put_old(id, summary);
        }
    }
}

/// However the filling ends, nobody waits for it any more.
struct Complete<'a>(&'a Index);

impl Drop for Complete<'_> {
    fn drop(&mut self) {
        self.0.complete();
    }
}

/// Ends a deployment that has no end yet. None if it had not begun.
fn end(store: &Store, id: DeploymentId) -> Result<Option<Record>, Error> {
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
            let mut result = record.result(false, now_ms());
            if let Some(peers) = peers(&entries, &record) {
                log::warn(&format!(
                    "deployment {id} of {} was on its way to its peers: what is live there is to be looked at",
                    record.project
                ));
                result["peer_results"] = peers;
            }
            Event::Done(result)
        } else {
            let mut failure = interrupted(&record);
            failure
                .more
                .extend(peers(&entries, &record).map(|peers| ("peer_results".to_owned(), peers)));
            Event::Error(Box::new(failure))
        };
        if !live {
            if builds(&entries) {
                store.remove_release(&record.project, record.release_id)?;
            }
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
    files::gone(fs::remove_file(files::fresh(&dir.join("record.json"))))
        .doing(|| format!("cleaning up {}", dir.display()))?;
    store.write_record(&record, true)?;
    Ok(Some(record))
}

/// Whether a deployment builds the release that it makes live, or finds it built.
fn builds(entries: &[Entry]) -> bool {
    match entries.first().map(Entry::meaning) {
        Some(Event::Deployment(opening)) => opening.phases.contains(&Phase::Extract),
        _ => false,
    }
}

/// How the peers of a replicated deployment did, as far as they were heard: live there is what said so, and of the others
/// it is not known.
fn peers(entries: &[Entry], record: &Record) -> Option<Value> {
    match entries.first().map(Entry::meaning) {
        Some(Event::Deployment(opening)) if opening.phases.contains(&Phase::Replicate) => {}
        _ => return None,
    }
    let mut heard: BTreeMap<String, bool> = BTreeMap::new();
    for entry in entries.iter().filter(|entry| entry.event == "peer") {
        if let Event::Peer(one) = entry.meaning() {
            let live = one.event == "done" && one.data["result"].get("staged").is_none();
            *heard.entry(one.peer).or_default() |= live;
        }
    }
    let results = heard.into_iter().map(|(name, live)| {
        let error = (!live).then_some("not known: the origin ended before it was told");
        json!({
            "node": name,
            "status": if live { "success" } else { "failed" },
            "error": error,
            "started_at": record.started_at,
            "completed_at": now_ms(),
        })
    });
    Some(results.collect())
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
