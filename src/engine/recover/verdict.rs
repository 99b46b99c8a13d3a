//! How a deployment ends that a server left without an end: what its journal and the live link say together.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::api::error::{Code, Error};
use crate::api::event::{Entry, Event, Failure, Phase, PhaseStatus};
use crate::api::name::DeploymentId;
use crate::api::record::Record;
use crate::store::Store;
use crate::system::log;
use crate::system::time::now_ms;

/// How it ends.
pub(super) enum Verdict {
    /// Its release is live.
    Live { peers: Option<Value> },
    /// Its release is live, and nobody knows yet whether its processes are healthy.
    Unjudged { peers: Value },
    /// Its release is not live, or its processes were not healthy.
    Failed {
        /// Whether the release that was to be live is its own, and goes with it.
        builds: bool,
        failure: Box<Failure>,
    },
}

/// Judges a deployment by its entries.
///
/// # Errors
/// When it cannot be read what is live.
pub(super) fn of(store: &Store, entries: &[Entry], record: &Record) -> Result<Verdict, Error> {
    let opening = match entries.first().map(Entry::meaning) {
        Some(Event::Deployment(opening)) => opening,
        _ => return Ok(Verdict::Live { peers: None }),
    };
    let live = store.read_live(&record.project)?;
    let peers = opening
        .phases
        .contains(&Phase::Replicate)
        .then(|| peers(entries, record));
    let restart = restart(entries);
    if let Some((PhaseStatus::Error, message)) = restart {
        return Ok(Verdict::Failed {
            builds: false,
            failure: Box::new(unhealthy(record, message, live, peers)),
        });
    }
    if live != Some(record.release_id) {
        return Ok(Verdict::Failed {
            builds: opening.phases.contains(&Phase::Extract),
            failure: Box::new(interrupted(record, peers)),
        });
    }
    if peers.is_some() {
        log::warn(&format!(
            "deployment {} of {} was on its way to its peers: what is live there is to be looked at",
            record.deployment_id, record.project
        ));
    }
    let judged = matches!(restart, Some((PhaseStatus::Done | PhaseStatus::Skipped, _)));
    if opening.phases.contains(&Phase::Restart) && !judged {
        return Ok(Verdict::Unjudged {
            peers: peers.unwrap_or_default(),
        });
    }
    Ok(Verdict::Live { peers })
}

impl Verdict {
    /// The terminal entry that says so.
    pub(super) fn entry(&self, record: &Record) -> Entry {
        let event = match self {
            Verdict::Live { peers } => {
                let mut result = record.result(false, now_ms());
                if let Some(peers) = peers {
                    result["peer_results"] = peers.clone();
                }
                Event::Done(result)
            }
            Verdict::Unjudged { peers } => {
                Event::Error(Box::new(interrupted(record, Some(peers.clone()))))
            }
            Verdict::Failed { failure, .. } => Event::Error(failure.clone()),
        };
        let last = record.event_log.entries().last();
        Entry::new(last.map_or(1, |last| last.id + 1), now_ms(), &event)
    }

    /// For the log.
    pub(super) fn words(&self) -> String {
        match self {
            Verdict::Live { .. } => "done: it is live".to_owned(),
            Verdict::Unjudged { .. } => "not judged yet".to_owned(),
            Verdict::Failed { failure, .. } => format!("failed: {}", failure.message),
        }
    }
}

/// How the phase `restart` stands, and what it said.
fn restart(entries: &[Entry]) -> Option<(PhaseStatus, Option<String>)> {
    let phases = entries.iter().rev().filter(|entry| entry.event == "phase");
    phases
        .filter_map(|entry| match entry.meaning() {
            Event::Phase(phase) if phase.phase == Phase::Restart.word() => {
                Some((phase.status, phase.message))
            }
            _ => None,
        })
        .next()
}

/// The processes were not healthy, and all that was left to do was to say so.
fn unhealthy(
    record: &Record,
    message: Option<String>,
    live: Option<DeploymentId>,
    peers: Option<Value>,
) -> Failure {
    let mut failure = interrupted(record, peers);
    failure.code = Code::Unhealthy.word().to_owned();
    failure.phase = Some(Phase::Restart.word().to_owned());
    if let Some(message) = message {
        failure.message = message;
    }
    if live.is_some() && live == record.previous && live != Some(record.release_id) {
        failure
            .more
            .insert("rolled_back_to".to_owned(), json!(live));
    }
    failure
}

fn interrupted(record: &Record, peers: Option<Value>) -> Failure {
    let mut more = Map::new();
    more.extend(peers.map(|peers| ("peer_results".to_owned(), peers)));
    Failure {
        message: "interrupted by the end of the server".to_owned(),
        code: Code::Interrupted.word().to_owned(),
        phase: record.phase.clone(),
        deployment_id: Some(record.deployment_id.to_string()),
        install_output: None,
        more,
    }
}

/// How the peers of a replicated deployment did, as far as they were heard: live there is what said so, and of the others
/// it is not known.
fn peers(entries: &[Entry], record: &Record) -> Value {
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
    results.collect()
}
