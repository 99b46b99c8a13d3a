//! The record of a deployment: a fold over its journal, so it can always be made again from it.

mod log;

use std::borrow::Cow;
use std::sync::Arc;

use serde::de::Deserializer;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::api::error::Code;
use crate::api::event::{Entry, Event, Opening, Phase, PhaseEvent, PhaseStatus, Status};
use crate::api::fleet::FleetGeneration;
use crate::api::name::{DeploymentId, Project};
use crate::api::operation::Options;
pub use crate::api::record::log::EventLog;
use crate::api::source::{Provenance, SourceRevision};

/// What is known of a deployment. Times are in milliseconds since the epoch, sizes in bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// The deployment.
    pub deployment_id: DeploymentId,
    /// The deployment whose release it makes live: itself, but for a rollback or an activation.
    pub release_id: DeploymentId,
    /// The component.
    pub project: Project,
    /// What it was asked to do.
    #[serde(default)]
    pub kind: DeploymentKind,
    /// Why it was made.
    #[serde(default)]
    pub message: Option<String>,
    /// What its release was made of.
    #[serde(default)]
    pub source: Option<SourceRevision>,
    /// What the fleet wants by it; none if it is not the fleet's.
    #[serde(default)]
    pub fleet: Option<FleetGeneration>,
    /// The package that the server fetched, without credentials.
    pub package_identifier: Option<String>,
    /// The payload's SHA-256, in hex.
    pub payload_hash: Option<String>,
    /// The payload's size.
    pub payload_size: Option<u64>,
    /// Whether the payload is still stored.
    pub payload_present: bool,
    /// The same, by the name that Harper's clients know.
    #[serde(default)]
    pub payload_blob_present: bool,
    /// The size of the release's files as they were unpacked.
    pub unpacked_size: Option<u64>,
    /// How many entries were unpacked.
    pub files: Option<u64>,
    /// The identity of the tree that the payload holds, in hex; none until it is known.
    #[serde(default)]
    pub tree: Option<String>,
    /// Whether the payload came as a `tar` or as a `delta`.
    #[serde(default)]
    pub payload_kind: Option<String>,
    /// How many files a delta did not bring, since they were here.
    #[serde(default)]
    pub reused_files: Option<u64>,
    /// Their bytes.
    #[serde(default)]
    pub reused_bytes: Option<u64>,
    /// Where it stands, or how it ended.
    pub status: Status,
    /// The phase it is in, or was in last.
    pub phase: Option<String>,
    /// The host name of the server.
    pub origin_node: String,
    /// `immediate`, `rolling`, or none.
    pub restart_mode: Option<String>,
    /// What the build needs to be done again.
    pub options: Options,
    /// When it began.
    pub started_at: u64,
    /// When it ended.
    pub completed_at: Option<u64>,
    /// How long it took.
    pub elapsed_ms: Option<u64>,
    /// The name of the token that asked for it.
    pub user: Option<String>,
    /// The deployment that it undoes.
    pub rollback_of: Option<DeploymentId>,
    /// The deployment whose release was live before.
    pub previous: Option<DeploymentId>,
    /// The SHA-256 of the key by which a second request is known, in hex.
    #[serde(default)]
    pub idempotency_key: Option<String>,
    /// Why it failed.
    pub error: Option<RecordError>,
    /// How the peers did.
    pub peer_results: Vec<Value>,
    /// What happened, bounded.
    #[serde(default)]
    pub event_log: EventLog,
}

/// What a deployment was asked to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeploymentKind {
    /// Build a payload.
    #[default]
    Deploy,
    /// Make an earlier release live again.
    Rollback,
    /// Restart what is live.
    Restart,
    /// Make a release live that an earlier deployment built.
    Activate,
}

impl DeploymentKind {
    /// All kinds.
    pub const ALL: [DeploymentKind; 4] = [
        DeploymentKind::Deploy,
        DeploymentKind::Rollback,
        DeploymentKind::Restart,
        DeploymentKind::Activate,
    ];
}

impl From<&Opening> for DeploymentKind {
    fn from(opening: &Opening) -> DeploymentKind {
        if opening.rollback_of.is_some() {
            DeploymentKind::Rollback
        } else if opening.release_id == opening.deployment_id {
            DeploymentKind::Deploy
        } else if opening.phases.first() == Some(&Phase::Restart) {
            DeploymentKind::Restart
        } else {
            DeploymentKind::Activate
        }
    }
}

/// Why a deployment failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordError {
    /// What was being done and why it failed.
    pub message: String,
    /// The code's word.
    pub code: String,
    /// In which phase.
    pub phase: Option<String>,
}

impl Record {
    /// The record of a deployment of which nothing but its opening is known.
    pub fn open(opening: &Opening) -> Record {
        Record {
            deployment_id: opening.deployment_id,
            release_id: opening.release_id,
            project: opening.project.clone(),
            kind: opening.into(),
            message: opening.message.clone(),
            source: opening.source.clone(),
            fleet: opening.fleet,
            package_identifier: opening.package_identifier.clone(),
            payload_hash: None,
            payload_size: None,
            payload_present: false,
            payload_blob_present: false,
            unpacked_size: None,
            files: None,
            tree: None,
            payload_kind: None,
            reused_files: None,
            reused_bytes: None,
            status: Status::Pending,
            phase: None,
            origin_node: opening.origin_node.clone(),
            restart_mode: opening.restart_mode.clone(),
            options: opening.options.clone(),
            started_at: opening.at,
            completed_at: None,
            elapsed_ms: None,
            user: opening.user.clone(),
            rollback_of: opening.rollback_of,
            previous: opening.previous,
            idempotency_key: opening.idempotency_key.clone(),
            error: None,
            peer_results: Vec::new(),
            event_log: EventLog::default(),
        }
    }

    /// The record that a whole journal makes; none if it does not begin with a `deployment` event.
    pub fn fold<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Option<Record> {
        let mut entries = entries.into_iter();
        let first = entries.next()?;
        let Event::Deployment(opening) = first.meaning() else {
            return None;
        };
        let mut record = Record::open(&opening);
        record.event_log.push(first);
        for entry in entries {
            record.apply(entry);
        }
        Some(record)
    }

    /// What was said of it.
    pub fn provenance(&self) -> Provenance {
        Provenance {
            message: self.message.clone(),
            source: self.source.clone(),
        }
    }

    /// The phases that were to come; none if its first event is not known.
    pub fn phases(&self) -> Option<Vec<Phase>> {
        let first = self.event_log.entries().next()?;
        match first.meaning() {
            Event::Deployment(opening) => Some(opening.phases),
            _ => None,
        }
    }

    /// What the answer to a deployment that ends well is; a `staged` one is not live.
    pub fn result(&self, staged: bool, now_ms: u64) -> Value {
        let done = if staged { "staged" } else { "deployed" };
        let mut result = json!({
            "message": format!("Successfully {done}: {}", self.project),
            "deployment_id": self.deployment_id,
            "project": self.project,
            "kind": self.kind,
            "previous": self.previous,
            "tree": self.tree,
            "elapsed_ms": now_ms.saturating_sub(self.started_at),
        });
        if staged {
            result["staged"] = true.into();
        }
        if self.release_id != self.deployment_id {
            result["release_id"] = self.release_id.to_string().into();
        }
        if let Some(source) = &self.source {
            result["source"] = json!(source);
        }
        if let Some(undone) = self.rollback_of {
            result["rollback_of"] = undone.to_string().into();
        }
        result
    }

    /// Takes the next entry of the journal into account. Only `phase` and the terminal events are read again from
    /// their text; a line of an install costs a copy for the log and no more.
    pub fn apply(&mut self, entry: &Entry) {
        self.event_log.push(entry);
        if !matches!(&*entry.event, "phase" | "done" | "error") {
            return;
        }
        match entry.meaning() {
            Event::Phase(phase) => self.apply_phase(&phase),
            Event::Done(result) => {
                self.keep_peers(result.get("peer_results"));
                let staged = result
                    .get("staged")
                    .and_then(Value::as_bool)
                    .unwrap_or(false);
                self.end(
                    if staged {
                        Status::Staged
                    } else {
                        Status::Success
                    },
                    entry.t,
                );
            }
            Event::Error(failure) => {
                self.keep_peers(failure.more.get("peer_results"));
                let cancelled = Code::parse(&failure.code) == Some(Code::Cancelled);
                self.error = Some(RecordError {
                    message: failure.message,
                    code: failure.code,
                    phase: failure.phase,
                });
                let status = if cancelled {
                    Status::Cancelled
                } else if failure.more.contains_key("rolled_back_to") {
                    Status::RolledBack
                } else {
                    Status::Failed
                };
                self.end(status, entry.t);
            }
            _ => {}
        }
    }

    /// As [`Record::apply`] for each of these lines of an install, in their order.
    pub fn apply_lines(&mut self, entries: &[Arc<Entry>]) {
        self.event_log.push_lines(entries);
    }

    fn keep_peers(&mut self, results: Option<&Value>) {
        if let Some(results) = results.and_then(Value::as_array) {
            self.peer_results.clone_from(results);
        }
    }

    fn apply_phase(&mut self, event: &PhaseEvent) {
        self.phase = Some(event.phase.to_string());
        let Some(phase) = Phase::parse(&event.phase) else {
            return;
        };
        if event.status == PhaseStatus::Start {
            self.status = phase.status();
        }
        if phase == Phase::Fetch && event.status == PhaseStatus::Done {
            // What came is stronger than what was said of it.
            let source = event.facts.get("source").and_then(Value::as_object);
            let source = source.map(SourceRevision::read);
            self.source = source.and_then(Result::ok).flatten().or(self.source.take());
        }
        if phase == Phase::Replicate && event.status == PhaseStatus::Done {
            // Which generation it is was not known before it was published.
            let generation = event.facts.get("generation").and_then(Value::as_u64);
            let published = generation.map(|generation| FleetGeneration {
                generation,
                deployment_id: self.deployment_id,
            });
            self.fleet = published.or(self.fleet);
        }
        if phase == Phase::Extract && event.status == PhaseStatus::Done {
            let number = |name| event.facts.get(name).and_then(Value::as_u64);
            let text = |name| event.facts.get(name).and_then(Value::as_str);
            let text = |name| text(name).map(str::to_owned);
            self.payload_hash = text("payload_hash");
            self.tree = text("tree");
            self.payload_kind = text("payload_kind");
            self.reused_files = number("reused_files");
            self.reused_bytes = number("reused_bytes");
            self.payload_size = number("payload_size");
            self.unpacked_size = number("unpacked_size");
            self.files = number("files");
            self.payload_present = true;
            self.payload_blob_present = true;
        }
    }

    fn end(&mut self, status: Status, at: u64) {
        self.status = status;
        self.completed_at = Some(at);
        // A clock that was set back during the deployment must not make a huge number of it.
        self.elapsed_ms = Some(at.saturating_sub(self.started_at));
    }
}

/// What a listing needs to know of a record that it does not show: small, so that tens of thousands stay in memory.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Summary {
    /// The component.
    pub project: Project,
    /// Where it stands, or how it ended.
    pub status: Status,
    /// When it began, in milliseconds since the epoch.
    pub started_at: u64,
    /// The deployment whose release it makes live.
    pub release_id: DeploymentId,
    /// The deployment whose release was live before.
    pub previous: Option<DeploymentId>,
    /// The beginning of its payload's SHA-256, if the payload arrived whole.
    #[serde(rename = "payload_hash", deserialize_with = "key")]
    pub payload: Option<u128>,
    /// The identity of the tree that its payload holds, in hex.
    #[serde(default)]
    pub tree: Option<Box<str>>,
    /// The beginning of the hash of its idempotency key.
    #[serde(default, rename = "idempotency_key", deserialize_with = "key")]
    pub key: Option<u128>,
}

impl From<&Record> for Summary {
    fn from(record: &Record) -> Summary {
        Summary {
            project: record.project.clone(),
            status: record.status,
            started_at: record.started_at,
            release_id: record.release_id,
            previous: record.previous,
            payload: record.payload_hash.as_deref().and_then(key_of),
            tree: record.tree.as_deref().map(Into::into),
            key: record.idempotency_key.as_deref().and_then(key_of),
        }
    }
}

/// The SHA-256 of an idempotency key, in hex: keys may hold what is nobody else's business.
pub fn hash_key(key: &str) -> String {
    let digest = Sha256::digest(key.as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The part of a SHA-256 that a [`Summary`] has: 128 bits, which nothing else shares by chance.
pub fn key_of(hash: &str) -> Option<u128> {
    u128::from_str_radix(hash.get(..32)?, 16).ok()
}

fn key<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u128>, D::Error> {
    let hash = Option::<Cow<'_, str>>::deserialize(deserializer)?;
    Ok(hash.as_deref().and_then(key_of))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opening() -> Entry {
        let id = DeploymentId::after(None, 1000, [1; 10]);
        let opening = Opening {
            deployment_id: id,
            project: "demo".parse().unwrap(),
            phases: vec![Phase::Extract],
            previous: None,
            at: 1000,
            release_id: id,
            rollback_of: None,
            origin_node: "host".into(),
            restart_mode: None,
            user: Some("admin".into()),
            options: Options::default(),
            package_identifier: None,
            idempotency_key: Some("0123456789abcdef0123456789abcdef".repeat(2)),
            message: Some("why".into()),
            source: SourceRevision::found(Some("a1".into()), None, Some(false)),
            fleet: None,
        };
        Entry::new(1, 1000, &Event::Deployment(Box::new(opening)))
    }

    fn entry(id: u64, t: u64, name: &str, data: &Value) -> Entry {
        serde_json::from_value(json!({"id": id, "t": t, "event": name, "data": data})).unwrap()
    }

    #[test]
    fn a_journal_folds_into_its_record() {
        let extract = json!({"phase":"extract","status":"done","payload_hash":"ab","payload_size":5,"files":2,"unpacked_size":9});
        let steps = [
            (
                entry(
                    2,
                    1001,
                    "phase",
                    &json!({"phase":"extract","status":"start"}),
                ),
                Status::Extracting,
            ),
            (entry(3, 1002, "phase", &extract), Status::Extracting),
            (
                entry(4, 1003, "phase", &json!({"phase":"queue","status":"start"})),
                Status::Queued,
            ),
            (
                entry(
                    5,
                    1004,
                    "phase",
                    &json!({"phase":"install","status":"start"}),
                ),
                Status::Installing,
            ),
            (
                entry(
                    6,
                    1005,
                    "install",
                    &json!({"manager":"npm","stream":"stdout","line":"x"}),
                ),
                Status::Installing,
            ),
            (
                entry(
                    7,
                    1010,
                    "error",
                    &json!({"message":"m","code":"install_failed","phase":"install"}),
                ),
                Status::Failed,
            ),
        ];
        let mut record = Record::fold([&opening()]).unwrap();
        assert_eq!(record.status, Status::Pending);
        for (entry, status) in &steps {
            record.apply(entry);
            assert_eq!(record.status, *status, "after {}", entry.id);
        }
        assert_eq!(
            (
                record.payload_hash.as_deref(),
                record.payload_size,
                record.files
            ),
            (Some("ab"), Some(5), Some(2))
        );
        assert_eq!(
            (record.completed_at, record.elapsed_ms),
            (Some(1010), Some(10))
        );
        assert_eq!(
            record.error.as_ref().map(|error| error.code.as_str()),
            Some("install_failed")
        );
        let text = serde_json::to_string(&record).unwrap();
        let again: Record = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&again).unwrap(), text);
        let entries: Vec<Entry> = std::iter::once(opening())
            .chain(steps.into_iter().map(|(entry, _)| entry))
            .collect();
        assert_eq!(
            serde_json::to_string(&Record::fold(&entries).unwrap()).unwrap(),
            text
        );
    }

    #[test]
    fn endings() {
        let table = [
            ("done", json!({"result":{"message":"m"}}), Status::Success),
            ("done", json!({"result":{"staged":true}}), Status::Staged),
            (
                "error",
                json!({"message":"m","code":"cancelled"}),
                Status::Cancelled,
            ),
            (
                "error",
                json!({"message":"m","code":"interrupted"}),
                Status::Failed,
            ),
        ];
        for (name, data, status) in table {
            let mut record = Record::fold([&opening()]).unwrap();
            record.apply(&entry(2, 500, name, &data));
            assert_eq!(
                (record.status, record.elapsed_ms),
                (status, Some(0)),
                "{data}"
            );
        }
    }

    #[test]
    fn the_log_keeps_both_ends_and_counts_the_rest() {
        for total in [1_u64, 20, 21, 199, 200, 201, 202, 1000] {
            let mut log = EventLog::default();
            for id in 1..=total {
                log.push(&entry(id, id, "warning", &json!({"message":"w"})));
            }
            let shown: Vec<Entry> =
                serde_json::from_str(&serde_json::to_string(&log).unwrap()).unwrap();
            assert_eq!(shown.len() as u64, total.min(200), "{total}");
            assert_eq!(shown.last().map(|entry| entry.id), Some(total));
            if total > 200 {
                let dropped = total - 20 - 179;
                assert_eq!(shown[20].meaning(), Event::Truncated(dropped), "{total}");
                assert_eq!(
                    (shown[19].id, shown[20].id, shown[21].id),
                    (20, 20 + dropped, 21 + dropped)
                );
            } else {
                assert!(shown.iter().zip(1..).all(|(entry, id)| entry.id == id));
            }
        }
    }

    #[test]
    fn lines_that_come_at_once_are_logged_as_if_they_came_one_by_one() {
        // Lines of one byte, and some of which a few fill the log.
        for long in [1, 1000, 40 << 10] {
            let line = |id: u64| json!({"manager": "sh", "line": "x".repeat(if id % 9 == 0 { long } else { 1 })});
            let lines: Vec<_> = (1..1000)
                .map(|id| Arc::new(entry(id, id, "install", &line(id))))
                .collect();
            for before in [0, 1, 19, 20, 21, 199, 200, 201] {
                let mut singly = EventLog::default();
                lines.iter().for_each(|line| singly.push(line));
                let expected = serde_json::to_string(&singly).unwrap();
                for at_once in [1, 2, 178, 179, 180, 181, 200, 201, 512, 1000] {
                    let mut log = EventLog::default();
                    lines[..before].iter().for_each(|line| log.push(line));
                    let rest = lines[before..].chunks(at_once);
                    rest.for_each(|some| log.push_lines(some));
                    let text = serde_json::to_string(&log).unwrap();
                    assert!(text == expected, "{before} before {at_once} of {long}");
                }
            }
        }
    }

    #[test]
    fn the_log_is_bounded_in_bytes() {
        let error = |output: usize| json!({"message": "m", "code": "install_failed", "install_output": "\u{1}".repeat(output)});
        // How many events there are, how long each one's line is, the last one's data, and how many of the first stay.
        let table = [
            (150, 10, error(0), 20),
            (150, 1000, error(0), 20),
            (1000, 200, error(0), 20),
            (150, 8 << 10, error(0), 1),
            (1000, 8 << 10, error(2000), 1),
            (1000, 10, error(16 << 10), 20),
            (3, 4 << 20, json!({"result": {}}), 1),
            (
                30,
                10,
                json!({"result": {"peer_results": "x".repeat(1 << 20)}}),
                20,
            ),
        ];
        for (total, len, last, first) in table {
            let case = format!("{total} events of {len} bytes");
            let mut entries = vec![opening()];
            let line = json!({"manager": "sh", "line": "\u{1}".repeat(len / 6)});
            entries.extend((2..total).map(|id| entry(id, id, "install", &line)));
            let name = if last.get("code").is_some() {
                "error"
            } else {
                "done"
            };
            entries.push(entry(total, total, name, &last));
            let record = Record::fold(&entries).unwrap();
            let text = serde_json::to_string(&record.event_log).unwrap();
            // Indented as on disk, one level deeper than alone.
            let disk = serde_json::to_string_pretty(&[&record.event_log]).unwrap();
            assert!(disk.len() <= 64 << 10, "{case}: {}", disk.len());
            let shown: Vec<Entry> = serde_json::from_str(&text).unwrap();
            let count = shown.iter().map(|entry| match entry.meaning() {
                Event::Truncated(count) => count,
                _ => 1,
            });
            assert_eq!(count.sum::<u64>(), total, "{case}: the count is true");
            let begin = shown
                .iter()
                .zip(1..)
                .take_while(|(entry, id)| entry.id == *id);
            assert!(begin.count() >= first, "{case}");
            let end = shown.last().unwrap();
            assert_eq!((end.id, &*end.event), (total, name), "{case}");
            let again: Record =
                serde_json::from_str(&serde_json::to_string(&record).unwrap()).unwrap();
            assert_eq!(
                serde_json::to_string(&again.event_log).unwrap(),
                text,
                "{case}"
            );
        }
    }

    #[test]
    fn an_entry_that_is_too_large_says_what_it_left_out() {
        let mut log = EventLog::default();
        let data = json!({"message": "m", "code": "install_failed", "install_output": "x".repeat(40 << 10)});
        log.push(&entry(1, 1, "error", &data));
        let shown = serde_json::to_value(&log).unwrap();
        let expected =
            json!({"message": "m", "code": "install_failed", "left_out": ["install_output"]});
        assert_eq!(shown[0]["data"], expected);
    }

    #[test]
    fn what_the_journal_lost_is_counted_in_the_log() {
        let mut log = EventLog::default();
        for id in 1..=30 {
            log.push(&entry(id, id, "warning", &json!({"message":"w"})));
        }
        log.push(&entry(
            1030,
            7,
            "truncated",
            &json!({"dropped_events":1000}),
        ));
        log.push(&entry(1031, 8, "warning", &json!({"message":"w"})));
        let shown: Vec<Entry> =
            serde_json::from_str(&serde_json::to_string(&log).unwrap()).unwrap();
        assert_eq!(shown.len(), 22);
        assert_eq!(
            (shown[20].id, shown[20].meaning()),
            (1030, Event::Truncated(1010))
        );
    }
}
