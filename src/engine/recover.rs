//! What a start does before anything else: it ends what an earlier server left running.
//!
//! A deployment whose journal has no end is a `success` exactly if its release is the live one; else it is `failed` with
//! code `interrupted`, and what it had built is removed. One whose release is live and whose processes were not judged yet
//! is not ended here: the deployer goes on with it. Processes that an installation left are found by their environment
//! and ended first, so that nothing writes into a tree that is being removed.
//!
//! One component's damage, or a disk that is full, does not keep the server from starting. What cannot be ended on disk is
//! said in the log, answered from memory, and tried again: [`catch_up`].

mod damage;
mod verdict;

use std::fs;
use std::time::Duration;

use serde_json::Value;

use crate::api::error::{Doing, Error};
use crate::api::event::{Event, Phase};
use crate::api::name::DeploymentId;
use crate::api::record::{Record, Summary};
use crate::engine::fetch;
use crate::engine::recover::damage::Remains;
use crate::engine::recover::verdict::Verdict;
use crate::engine::registry::Registry;
use crate::store::Store;
use crate::store::index::Index;
use crate::store::journal::Journal;
use crate::system::child::{self, SurvivorScope};
use crate::system::files::{self, gone};
use crate::system::log;

/// The first pause before what could not be ended is tried again; each further one is twice as long, up to the last. A
/// disk is seldom full for less, and a try costs a few system calls.
const PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// A deployment whose release is live, and whose processes were not judged yet.
pub struct UnjudgedDeployment {
    /// Its journal, after its last entry.
    pub journal: Journal,
    /// Its record so far.
    pub record: Record,
    /// What is known of the peers of a replicated one.
    pub peer_results: Vec<Value>,
}

/// Ends every deployment that an earlier server marked as running and did not end, and removes what it left half removed.
/// Gives those with whose restart the deployer has to go on.
///
/// # Errors
/// When the root's directories cannot be read, or `/proc` cannot.
pub fn recover(store: &Store) -> Result<Vec<UnjudgedDeployment>, Error> {
    let ended = child::end_survivors(store.server_mark(), SurvivorScope::All)?;
    if ended > 0 {
        log::warn(&format!(
            "ended {ended} processes that an earlier server left running"
        ));
    }
    let mut unjudged = Vec::new();
    for id in store.marked()? {
        match end_marked(store, id) {
            Ok(FoundEnd::Unjudged(one)) => unjudged.push(*one),
            Ok(FoundEnd::Ended(_) | FoundEnd::Nothing) => {}
            Err(error) => log::error(&format!(
                "ending deployment {id}, which ran when the server ended: {error}; it is tried again later"
            )),
        }
    }
    store.sweep();
    Ok(unjudged)
}

/// Puts all deployments on disk into the index, and ends those that have no end and no mark either, as a power loss may
/// leave them. What cannot be read is said in the log and left as it is.
pub fn fill(registry: &Registry, is_running: &dyn Fn(DeploymentId) -> bool) {
    let Registry { store, index, .. } = registry;
    let _complete = Complete(index);
    let ids = match store.deployments() {
        Ok(ids) => ids,
        Err(error) => return log::error(&error.to_string()),
    };
    for id in ids {
        let mut known = store.read_summary(id).ok().flatten();
        if !known.as_ref().is_some_and(|one| one.status.ended()) && !is_running(id) {
            match end(store, id) {
                Ok(FoundEnd::Ended(record)) => known = Some(Summary::from(&*record)),
                Ok(FoundEnd::Nothing) => {}
                Ok(FoundEnd::Unjudged(one)) => {
                    end_live(store, *one);
                    known = store.read_summary(id).ok().flatten();
                }
                Err(error) => {
                    log::error(&format!("ending deployment {id}: {error}"));
                    known = store.read_summary(id).ok().flatten();
                }
            }
        }
        if let Some(summary) = known {
            index.put_old(id, summary);
        }
    }
}

/// However the filling ends, nobody waits for it any longer.
struct Complete<'a>(&'a Index);

impl Drop for Complete<'_> {
    fn drop(&mut self) {
        self.0.complete();
    }
}

/// Writes down the ends that the disk did not take, whenever there are any, and never returns. The end of each deployment
/// is a reason to try again ([`Store::ring`]), and so is time.
pub fn catch_up(registry: &Registry, is_running: &dyn Fn(DeploymentId) -> bool) -> ! {
    let mut pause = PAUSE.0;
    loop {
        let wait = if try_again(registry, is_running) {
            pause = PAUSE.0;
            None
        } else {
            let wait = pause;
            pause = (pause * 2).min(PAUSE.1);
            Some(wait)
        };
        registry.store.wait_for_ring(wait);
    }
}

/// Tries to end what is not ended on disk, and says whether nothing is left.
fn try_again(registry: &Registry, is_running: &dyn Fn(DeploymentId) -> bool) -> bool {
    let Registry { store, index, .. } = registry;
    let mut all = true;
    for record in store.unwritten_records() {
        let id = record.deployment_id;
        // One that runs writes its next record itself, and the deployer writes the ends of those that ran here.
        if is_running(id) || !record.status.ended() || registry.unwritten_end(id).is_some() {
            continue;
        }
        match write_end(store, &record, true) {
            Ok(()) => log::info(&format!("deployment {id} is ended on disk now")),
            Err(_) => all = false,
        }
    }
    for id in store.marked().unwrap_or_default() {
        if is_running(id) || registry.unwritten_end(id).is_some() {
            continue;
        }
        match end_marked(store, id) {
            Ok(FoundEnd::Ended(record)) => index.put(id, Summary::from(&*record)),
            Ok(FoundEnd::Nothing) => {}
            Ok(FoundEnd::Unjudged(one)) => {
                end_live(store, *one);
                if let Ok(Some(summary)) = store.read_summary(id) {
                    index.put(id, summary);
                }
            }
            Err(_) => all = false,
        }
    }
    all
}

/// Ends a deployment whose release is live, and whose processes nobody judges any longer.
pub fn end_live(store: &Store, one: UnjudgedDeployment) {
    let mut record = one.record;
    let id = record.deployment_id;
    let peers = (!one.peer_results.is_empty()).then(|| one.peer_results.into());
    record.apply(&Verdict::Live { peers }.entry(&record));
    store.keep_unwritten(&record);
    if let Err(error) = write_end(store, &record, true) {
        log::error(&format!(
            "ending deployment {id}: {error}; it is tried again later"
        ));
    }
}

/// What became of a deployment that had no end.
enum FoundEnd {
    /// It had not begun, or nothing is left of it.
    Nothing,
    Ended(Box<Record>),
    Unjudged(Box<UnjudgedDeployment>),
}

fn end_marked(store: &Store, id: DeploymentId) -> Result<FoundEnd, Error> {
    let recovered = if store.deployment(id).is_dir() {
        end(store, id)?
    } else {
        FoundEnd::Nothing
    };
    if !matches!(recovered, FoundEnd::Unjudged(_)) {
        store.unmark(id)?;
    }
    Ok(recovered)
}

/// Ends a deployment that has no end yet.
fn end(store: &Store, id: DeploymentId) -> Result<FoundEnd, Error> {
    let mut record = match damage::read(store, id)? {
        Remains::Nothing => {
            // Not even its opening was written, so nobody was ever told of it.
            log::warn(&format!("deployment {id} had not begun; removing it"));
            store.remove_deployment(id)?;
            return Ok(FoundEnd::Nothing);
        }
        Remains::Unknown => {
            log::error(&format!(
                "deployment {id}: neither its journal nor its record can be read, and no release is of it; it is kept as {}",
                store.keep_damaged(id)?.display()
            ));
            return Ok(FoundEnd::Nothing);
        }
        Remains::Entries(entries) => {
            let Some(mut record) = Record::fold(&entries) else {
                return Err(Error::new("reading its journal", "it has no beginning"));
            };
            if !record.status.ended() {
                let verdict = verdict::of(store, &entries, &record)?;
                if let Verdict::Unjudged { peers } = verdict {
                    let one = UnjudgedDeployment {
                        journal: damage::journal(store, &record)?,
                        record,
                        peer_results: peers.as_array().cloned().unwrap_or_default(),
                    };
                    return Ok(FoundEnd::Unjudged(Box::new(one)));
                }
                undo(store, &record, &verdict);
                record.apply(&verdict.entry(&record));
                log::warn(&format!(
                    "deployment {id} of {} was running when the server ended; it is {}",
                    record.project,
                    verdict.words()
                ));
            }
            Box::new(record)
        }
    };
    record.payload_present = store.payload(id).exists();
    record.payload_blob_present = record.payload_present;
    // Whoever wrote that has put the notice before.
    let known = store.read_summary(id).ok().flatten();
    let notifies = !known.is_some_and(|known| known.status.ended());
    // From here on everybody is told so, whatever the disk says.
    store.keep_unwritten(&record);
    write_end(store, &record, notifies)?;
    Ok(FoundEnd::Ended(record))
}

/// Removes what a deployment made that did not become live.
fn undo(store: &Store, record: &Record, verdict: &Verdict) {
    let Verdict::Failed { builds, .. } = verdict else {
        return;
    };
    let mut removed = Ok(());
    if *builds {
        removed = store.remove_release(&record.project, record.release_id);
    }
    if record.payload_hash.is_none() {
        // Whoever tries again need not send once more what has arrived.
        let (project, id) = (&record.project, record.deployment_id);
        let kept = match store.keep_partial(project, id) {
            // What was fetched is not an upload.
            Ok(false) if !opens_with_fetch(record) => store.keep_archive(project, id),
            kept => kept.map(drop),
        };
        removed = removed.and(kept);
        removed = removed.and(store.remove_payload(record.deployment_id));
        removed = removed.and(fetch::remove_leftovers(store, &record.project));
    }
    if let Err(error) = removed {
        // It takes space, and changes nothing of what is live.
        log::warn(&format!("deployment {}: {error}", record.deployment_id));
    }
}

/// Writes the end of a deployment, as its record has it, into its journal, and then the record; and what others are to be
/// told of it, unless that was done.
fn write_end(store: &Store, record: &Record, notifies: bool) -> Result<(), Error> {
    let dir = store.deployment(record.deployment_id);
    let mut journal = damage::journal(store, record)?;
    let end = record
        .event_log
        .entries()
        .last()
        .filter(|last| last.is_terminal() && journal.last_id() < last.id);
    if let Some(end) = end {
        journal.restore(&std::sync::Arc::new(end.clone()))?;
    }
    journal.sync()?;
    gone(fs::remove_file(files::fresh(&dir.join("record.json"))))
        .doing(|| format!("cleaning up {}", dir.display()))?;
    if notifies {
        store.put_notice(record);
    }
    store.write_record(record, true)?;
    store.unmark(record.deployment_id)
}

/// Whether the payload of a deployment is that of a package.
fn opens_with_fetch(record: &Record) -> bool {
    let phases = record.phases().unwrap_or_default();
    phases.contains(&Phase::Fetch)
}

/// Whether an event ends a deployment.
fn is_end(event: &Event) -> bool {
    matches!(event, Event::Done(_) | Event::Error(_))
}
