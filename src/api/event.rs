//! What happens to a deployment, as it stands on the wire and in the journal: [`Event`], [`Entry`] and the phases.
//!
//! An [`Entry`] carries its data as the JSON text that was first written, so that the journal and every watcher, now and
//! later, see the same bytes. [`Event`] is what the text means; a reader keeps what it does not know as
//! [`Event::Unknown`] instead of failing on it.

use std::borrow::Cow;
use std::io::Write as _;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::api::fleet::FleetGeneration;
use crate::api::json;
use crate::api::name::{DeploymentId, Project};
use crate::api::operation::Options;
use crate::api::source::SourceRevision;

/// One step of the pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The server fetches a package.
    Fetch,
    /// The payload arrives and is unpacked.
    Extract,
    /// The deployment waits for one of the places of `--max-deploys`.
    Queue,
    /// The dependencies are installed.
    Install,
    /// It is made sure that the release can run.
    Load,
    /// The peers stage the payload.
    Replicate,
    /// The `release:` line of its Procfile is run, if it has one.
    Release,
    /// The release becomes the live one.
    Activate,
    /// The processes start again.
    Restart,
}

impl Phase {
    /// All phases, in the order in which they come.
    pub const ALL: [Phase; 9] = [
        Phase::Fetch,
        Phase::Extract,
        Phase::Queue,
        Phase::Install,
        Phase::Load,
        Phase::Replicate,
        Phase::Release,
        Phase::Activate,
        Phase::Restart,
    ];

    /// The word on the wire.
    pub const fn word(self) -> &'static str {
        match self {
            Phase::Fetch => "fetch",
            Phase::Extract => "extract",
            Phase::Queue => "queue",
            Phase::Install => "install",
            Phase::Load => "load",
            Phase::Replicate => "replicate",
            Phase::Release => "release",
            Phase::Activate => "activate",
            Phase::Restart => "restart",
        }
    }

    /// The phase of a word from the wire.
    pub fn parse(word: &str) -> Option<Phase> {
        Phase::ALL.into_iter().find(|phase| phase.word() == word)
    }

    /// The status of a record while this phase runs.
    pub const fn status(self) -> Status {
        match self {
            Phase::Fetch => Status::Fetching,
            Phase::Extract => Status::Extracting,
            // A deployment in the queue has been unpacked and not begun anything else.
            Phase::Queue => Status::Queued,
            Phase::Install => Status::Installing,
            Phase::Load => Status::Loading,
            Phase::Replicate => Status::Replicating,
            Phase::Release => Status::Releasing,
            Phase::Activate => Status::Activating,
            Phase::Restart => Status::Restarting,
        }
    }
}

/// Where a deployment stands, or how it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Begun, and nothing done yet.
    Pending,
    /// In phase `fetch`.
    Fetching,
    /// In phase `extract`.
    Extracting,
    /// In phase `queue`.
    Queued,
    /// In phase `install`.
    Installing,
    /// In phase `load`.
    Loading,
    /// In phase `replicate`.
    Replicating,
    /// In phase `release`.
    Releasing,
    /// In phase `activate`.
    Activating,
    /// In phase `restart`.
    Restarting,
    /// Ended: live.
    Success,
    /// Ended: not live.
    Failed,
    /// Ended: somebody cancelled it.
    Cancelled,
    /// Ended: was live, failed its health check, and the previous release was put back.
    RolledBack,
    /// Ended: built and kept, but not live.
    Staged,
}

impl Status {
    /// How a deployment may end.
    pub const ENDS: [Status; 5] = [
        Status::Success,
        Status::Failed,
        Status::Cancelled,
        Status::RolledBack,
        Status::Staged,
    ];

    /// Whether the deployment has ended.
    pub fn ended(self) -> bool {
        Status::ENDS.contains(&self)
    }
}

/// What a `phase` event says of its phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PhaseStatus {
    /// It begins.
    Start,
    /// It ended well.
    Done,
    /// It failed, and so does the deployment.
    Error,
    /// There was nothing to do; such a phase has no `start`.
    Skipped,
    /// A word of a newer or another server.
    #[serde(other)]
    Unknown,
}

/// Which of a program's two outputs a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// The word for it, as it is written.
    pub const fn word(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// The first event of a deployment: what is known of it from the start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Opening {
    /// The deployment.
    pub deployment_id: DeploymentId,
    /// Its component.
    pub project: Project,
    /// The phases that are to come, in order. `queue` is not among them, nor `release` where a payload is still to say whether
    /// it has one: they may or may not come.
    pub phases: Vec<Phase>,
    /// The deployment whose release was live when this one began.
    pub previous: Option<DeploymentId>,
    /// When, in milliseconds since the epoch.
    pub at: u64,
    /// The deployment whose release this one makes live: itself, but for a rollback or an activation.
    pub release_id: DeploymentId,
    /// The deployment that a rollback undoes.
    pub rollback_of: Option<DeploymentId>,
    /// The host name of this server.
    pub origin_node: String,
    /// `immediate`, `rolling`, or none.
    pub restart_mode: Option<String>,
    /// The name of the token that asked for it; none on the unix socket.
    pub user: Option<String>,
    /// What the build needs to be done again.
    pub options: Options,
    /// The package that the server fetches, without credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package_identifier: Option<String>,
    /// The SHA-256 of the key by which a second request is known, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// Why it is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What its release was made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceRevision>,
    /// What the fleet wants by it, if it is the fleet's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fleet: Option<FleetGeneration>,
}

/// A `phase` event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PhaseEvent {
    /// The phase's word: another server may have phases that we do not.
    pub phase: Cow<'static, str>,
    /// Begin or end.
    pub status: PhaseStatus,
    /// When, in milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<u64>,
    /// How long the phase took, in milliseconds, at its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elapsed_ms: Option<u64>,
    /// Why it failed or was skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The phase's own facts, such as `payload_hash` of `extract`.
    #[serde(flatten)]
    pub facts: Map<String, Value>,
}

/// A line that an installation printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstallLine {
    /// The package manager, or the first word of the command.
    pub manager: String,
    /// Which output.
    pub stream: Stream,
    /// The line, without its end.
    pub line: String,
    /// Whether the line goes on in the next event.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub continued: bool,
}

/// The last lines of an installation, for an error: at most 200 and at most 16 KiB.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct InstallOutput {
    /// The lines.
    pub lines: Vec<InstallLine>,
    /// How many earlier ones there were.
    #[serde(default)]
    pub dropped_lines: u64,
}

/// How far an upload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upload {
    /// Bytes received so far.
    pub bytes: u64,
    /// Bytes in all, where the sender said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
}

/// A fact about a process that is being restarted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessEvent {
    /// The process type, such as `web`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its process id, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// What it does or waits for.
    pub status: String,
    /// A line of output, where the event is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<String>,
}

/// An event of a peer's own deployment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerEvent {
    /// The peer's name.
    pub peer: String,
    /// The name of its event.
    pub event: String,
    /// The data of its event.
    pub data: Value,
}

/// The failure that ends a deployment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// What was being done and why it failed.
    pub message: String,
    /// The code's word. Another server may send a number, which is kept as its digits.
    #[serde(
        default,
        deserialize_with = "word_or_number",
        skip_serializing_if = "String::is_empty"
    )]
    pub code: String,
    /// In which phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// Which deployment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment_id: Option<String>,
    /// What the installation printed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub install_output: Option<InstallOutput>,
    /// Anything more, such as `failed_peers`.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

fn word_or_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::String(word) => word,
        Value::Null => String::new(),
        other => other.to_string(),
    })
}

/// One event of a deployment.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// `deployment`: always the first.
    Deployment(Box<Opening>),
    /// `phase`
    Phase(PhaseEvent),
    /// `upload`: for live watchers only, never numbered, never stored.
    Upload(Upload),
    /// `install`
    Install(InstallLine),
    /// `process`
    Process(ProcessEvent),
    /// `peer`
    Peer(PeerEvent),
    /// `warning`
    Warning(String),
    /// `truncated`: so many events were dropped here.
    Truncated(u64),
    /// `done`: the end, and what a plain answer would be.
    Done(Value),
    /// `error`: the end, and why.
    Error(Box<Failure>),
    /// An event that this version does not know, or whose data it cannot read.
    Unknown {
        /// Its name.
        name: String,
        /// Its data as it came.
        data: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Warning {
    message: String,
}

#[derive(Serialize, Deserialize)]
struct Truncated {
    dropped_events: u64,
}

#[derive(Serialize, Deserialize)]
struct Done {
    result: Value,
}

impl Event {
    /// The name on the wire.
    pub fn name(&self) -> &str {
        match self {
            Event::Unknown { name, .. } => name,
            known => known.word(),
        }
    }

    /// The name of an event that we know; nothing for another one.
    fn word(&self) -> &'static str {
        match self {
            Event::Deployment(_) => "deployment",
            Event::Phase(_) => "phase",
            Event::Upload(_) => "upload",
            Event::Install(_) => "install",
            Event::Process(_) => "process",
            Event::Peer(_) => "peer",
            Event::Warning(_) => "warning",
            Event::Truncated(_) => "truncated",
            Event::Done(_) => "done",
            Event::Error(_) => "error",
            Event::Unknown { .. } => "",
        }
    }

    /// The data on the wire: compact JSON, one line.
    pub fn data(&self) -> Box<RawValue> {
        let made = match self {
            Event::Deployment(opening) => serde_json::value::to_raw_value(opening),
            Event::Phase(phase) => serde_json::value::to_raw_value(phase),
            Event::Upload(upload) => serde_json::value::to_raw_value(upload),
            Event::Install(line) => serde_json::value::to_raw_value(line),
            Event::Process(process) => serde_json::value::to_raw_value(process),
            Event::Peer(peer) => serde_json::value::to_raw_value(peer),
            Event::Warning(message) => serde_json::value::to_raw_value(&Warning {
                message: message.clone(),
            }),
            Event::Truncated(dropped_events) => serde_json::value::to_raw_value(&Truncated {
                dropped_events: *dropped_events,
            }),
            Event::Done(result) => serde_json::value::to_raw_value(&Done {
                result: result.clone(),
            }),
            Event::Error(failure) => serde_json::value::to_raw_value(failure),
            Event::Unknown { data, .. } => serde_json::value::to_raw_value(data),
        };
        // None of these types has a map with other keys than text, nor a serialisation of its own that could fail.
        made.expect("events are plain data")
    }

    /// What an event from the wire means. Data that cannot be read makes it [`Event::Unknown`], never an error.
    pub fn parse(name: &str, data: &str) -> Event {
        fn read<'a, T: Deserialize<'a>>(
            data: &'a str,
            make: impl FnOnce(T) -> Event,
        ) -> Option<Event> {
            json::from_text(data).ok().map(make)
        }
        let known = match name {
            "deployment" => read(data, |opening| Event::Deployment(Box::new(opening))),
            "phase" => read(data, Event::Phase),
            "upload" => read(data, Event::Upload),
            "install" => read(data, Event::Install),
            "process" => read(data, Event::Process),
            "peer" => read(data, Event::Peer),
            "warning" => read(data, |warning: Warning| Event::Warning(warning.message)),
            "truncated" => read(data, |truncated: Truncated| {
                Event::Truncated(truncated.dropped_events)
            }),
            "done" => read(data, |done: Done| Event::Done(done.result)),
            "error" => read(data, |failure| Event::Error(Box::new(failure))),
            _ => None,
        };
        known.unwrap_or_else(|| Event::Unknown {
            name: name.to_owned(),
            data: data.to_owned(),
        })
    }
}

/// Whether events of this name end a stream.
pub fn is_terminal(name: &str) -> bool {
    matches!(name, "done" | "error")
}

/// One line of a journal: a numbered event.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entry {
    /// 1, 2, 3... within the deployment.
    pub id: u64,
    /// When it was written, in milliseconds since the epoch.
    pub t: u64,
    /// The event's name.
    pub event: Cow<'static, str>,
    /// The event's data, as it was first written.
    pub data: Box<RawValue>,
}

impl Entry {
    /// Numbers an event.
    pub fn new(id: u64, t: u64, event: &Event) -> Entry {
        let name = match event {
            Event::Unknown { name, .. } => Cow::Owned(name.clone()),
            known => Cow::Borrowed(known.word()),
        };
        Entry {
            id,
            t,
            event: name,
            data: event.data(),
        }
    }

    /// Adds the line of the journal that the entry is, as serde would write it: there may be millions of them.
    pub fn write_line(&self, to: &mut Vec<u8>) {
        // Writing into memory cannot fail.
        let _ = write!(to, "{{\"id\":{},\"t\":{},\"event\":", self.id, self.t);
        match &self.event {
            Cow::Borrowed(word) => {
                to.push(b'"');
                to.extend_from_slice(word.as_bytes());
                to.push(b'"');
            }
            // Another server's word may have anything in it.
            Cow::Owned(name) => to.extend_from_slice(Value::from(&**name).to_string().as_bytes()),
        }
        to.extend_from_slice(b",\"data\":");
        to.extend_from_slice(self.data.get().as_bytes());
        to.extend_from_slice(b"}\n");
    }

    /// What the entry means.
    pub fn meaning(&self) -> Event {
        Event::parse(&self.event, self.data.get())
    }

    /// Whether this is the last entry of its journal.
    pub fn is_terminal(&self) -> bool {
        is_terminal(&self.event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn events_come_back_as_they_went() {
        let phase = PhaseEvent {
            phase: "extract".into(),
            status: PhaseStatus::Done,
            at: Some(5),
            elapsed_ms: Some(2),
            message: None,
            facts: Map::from_iter([("files".to_owned(), json!(3))]),
        };
        let failure = Failure {
            message: "installing: exit code 1".into(),
            code: "install_failed".into(),
            phase: Some("install".into()),
            deployment_id: None,
            install_output: None,
            more: Map::new(),
        };
        let line = InstallLine {
            manager: "npm".into(),
            stream: Stream::Stderr,
            line: "a\"b\n".into(),
            continued: true,
        };
        let table = [
            Event::Phase(phase),
            Event::Upload(Upload {
                bytes: 1,
                total: None,
            }),
            Event::Install(line),
            Event::Warning("w".into()),
            Event::Truncated(7),
            Event::Done(json!({"message": "ok"})),
            Event::Error(Box::new(failure)),
        ];
        for event in table {
            let data = event.data();
            assert!(!data.get().contains('\n'), "one line: {data}");
            assert_eq!(Event::parse(event.name(), data.get()), event);
        }
    }

    #[test]
    fn what_another_server_says_is_kept_or_read() {
        let table = [
            (
                "phase",
                r#"{"phase":"prepare","status":"start","novel":[1]}"#,
                "phase",
            ),
            ("phase", r#"{"phase":"prepare","status":"half"}"#, "phase"),
            (
                "error",
                r#"{"message":"m","code":500,"install_output":{"lines":[],"truncated":false,"dropped_lines":0}}"#,
                "error",
            ),
            ("error", r#"{"message":"m"}"#, "error"),
            (
                "_recorder_finished",
                r#"{"status":"success"}"#,
                "_recorder_finished",
            ),
        ];
        for (name, data, expected) in table {
            let event = Event::parse(name, data);
            assert_eq!(event.name(), expected);
            assert_eq!(
                matches!(event, Event::Unknown { .. }),
                name.starts_with('_'),
                "{data}"
            );
        }
        assert!(matches!(
            Event::parse("done", "not json"),
            Event::Unknown { .. }
        ));
        let Event::Error(failure) = Event::parse("error", r#"{"message":"m","code":500}"#) else {
            panic!("an error")
        };
        assert_eq!(failure.code, "500");
    }

    #[test]
    fn entries_are_one_line_each() {
        let entry = Entry::new(3, 9, &Event::Warning("two\nlines".into()));
        let line = serde_json::to_string(&entry).unwrap();
        assert_eq!(
            line,
            r#"{"id":3,"t":9,"event":"warning","data":{"message":"two\nlines"}}"#
        );
        let again: Entry = serde_json::from_str(&line).unwrap();
        assert_eq!(again.meaning(), Event::Warning("two\nlines".into()));
        let unknown = Event::Unknown {
            name: "a \"word\"\n".into(),
            data: "1".into(),
        };
        for entry in [entry, again, Entry::new(4, 0, &unknown)] {
            let mut written = Vec::new();
            entry.write_line(&mut written);
            let expected = serde_json::to_string(&entry).unwrap() + "\n";
            assert_eq!(String::from_utf8(written).unwrap(), expected);
        }
    }
}
