//! Tells a deployment's events as lines of text: what the kinds of screen for people have in common.
//!
//! The narrator decides what is said and in which words; where the lines go, and how a kind of line is set off from
//! others, is the screen's affair. All that others said is made visible first, so that a line is one line.

mod fleet;
mod foreign;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::api::event::{
    Event, Failure, InstallLine, PeerEvent, PhaseEvent, PhaseStatus, ProcessEvent, Stream,
};
use crate::cli::screen::hosts;
use crate::cli::screen::lines;
use crate::cli::screen::page::{LineKind, Page, RelayStyle};
use crate::cli::screen::units;

/// A line that comes in pieces is put together up to this length, eight pieces of 8 KiB; a longer one is told in parts.
const JOINED: usize = 64 * 1024;

/// More peers than anybody has; a server that invents more cannot make us grow.
const PEERS: usize = 256;

/// The phase that runs.
#[derive(Debug, Clone)]
pub(crate) struct Current {
    /// Its word, made visible.
    pub(crate) name: String,
    /// When we heard of its start.
    pub(crate) since: Instant,
}

/// The story so far, of one deployment.
#[derive(Debug)]
pub(crate) struct Narrator {
    manner: RelayStyle,
    peer: Option<String>,
    current: Option<Current>,
    /// The deployment has had its last event.
    ended: bool,
    /// The manager that was named last.
    manager: String,
    log_lines: u64,
    /// Whether any phase's installation has printed something.
    installed: bool,
    /// Whether the deployment's id was told.
    named: bool,
    process_lines: u64,
    /// Pieces of lines that go on: of stdout and of stderr.
    pieces: [String; 2],
    received: units::Steps,
    received_sizes: units::Doublings,
    /// What was told last of an upload that somebody else sends.
    upload: Option<(u64, Option<u64>)>,
    /// What the server calls itself.
    origin: Option<String>,
    peers: BTreeMap<String, Narrator>,
}

impl Narrator {
    /// At the beginning of a deployment.
    pub(crate) fn new(manner: RelayStyle) -> Narrator {
        Narrator {
            manner,
            peer: None,
            current: None,
            ended: false,
            manager: String::new(),
            log_lines: 0,
            installed: false,
            named: false,
            process_lines: 0,
            pieces: [String::new(), String::new()],
            received: units::Steps::default(),
            received_sizes: units::Doublings::default(),
            upload: None,
            origin: None,
            peers: BTreeMap::new(),
        }
    }

    /// The phase that runs.
    pub(crate) fn current(&self) -> Option<&Current> {
        self.current.as_ref()
    }

    /// How many lines the installation has printed.
    pub(crate) fn log_lines(&self) -> u64 {
        self.log_lines
    }

    /// Whether the deployment has had its last event.
    pub(crate) fn ended(&self) -> bool {
        self.ended
    }

    /// Another deployment begins, if one has ended.
    pub(crate) fn begin(&mut self) {
        if std::mem::take(&mut self.ended) {
            self.current = None;
            self.upload = None;
            (self.installed, self.named) = (false, false);
            (self.log_lines, self.process_lines) = (0, 0);
        }
    }

    /// Tells an event.
    pub(crate) fn record(&mut self, name: &str, data: &str, now: Instant, page: &mut dyn Page) {
        self.event(Event::parse(name, data), now, page);
    }

    /// Tells what is left of lines whose end has not come.
    pub(crate) fn finish(&mut self, page: &mut dyn Page) {
        self.end_pieces(page);
        for peer in self.peers.values_mut() {
            peer.end_pieces(page);
        }
    }

    fn say(&self, kind: LineKind, text: &str, page: &mut dyn Page) {
        page.line(kind, self.peer.as_deref(), text);
    }

    fn event(&mut self, event: Event, now: Instant, page: &mut dyn Page) {
        match event {
            Event::Install(line) => self.install(&line, page),
            Event::Deployment(opening) => {
                self.begin();
                self.origin = Some(opening.origin_node.clone()).filter(|name| !name.is_empty());
                self.named = true;
                self.say(
                    LineKind::Fact,
                    &format!("deployment {}", opening.deployment_id),
                    page,
                );
            }
            Event::Phase(phase) => self.phase(&phase, now, page),
            Event::Process(process) => self.process(&process, page),
            Event::Upload(upload) => self.upload(upload.bytes, upload.total, page),
            Event::Peer(peer) => self.peer(peer, now, page),
            Event::Warning(message) => self.message(LineKind::Warning, &message, None, page),
            Event::Truncated(dropped) => {
                let noun = if dropped == 1 {
                    "event was"
                } else {
                    "events were"
                };
                self.say(
                    LineKind::Fact,
                    &format!("truncated: {dropped} {noun} not kept"),
                    page,
                );
            }
            Event::Done(result) => {
                self.end(page);
                self.hosts(&result, "success", "", page);
                self.name(result.get("deployment_id").and_then(Value::as_str), page);
            }
            Event::Error(failure) => self.failure(&failure, page),
            Event::Unknown { name, data } => self.unknown(&name, &data, page),
        }
    }

    fn phase(&mut self, event: &PhaseEvent, now: Instant, page: &mut dyn Page) {
        self.end_pieces(page);
        // At a Harper server the end is a phase too, which was never begun.
        if event.phase == "success" && event.status == PhaseStatus::Done {
            return;
        }
        let name = lines::visible(&event.phase);
        let reason = event
            .message
            .as_deref()
            .map(|text| lines::message(text).join(" "));
        if event.status == PhaseStatus::Start {
            let dots = if self.manner.utf8 { "\u{2026}" } else { "..." };
            self.say(LineKind::Begin, &format!("{name}{dots}"), page);
            self.current = Some(Current {
                name: name.into_owned(),
                since: now,
            });
            (self.log_lines, self.process_lines) = (0, 0);
            self.manager.clear();
            return;
        }
        self.received(event, page);
        let (kind, text) = match event.status {
            PhaseStatus::Done => (
                LineKind::Done,
                format!("{name} done{}", self.facts(event, now)),
            ),
            PhaseStatus::Error => (
                LineKind::Failed,
                format!("{name} ERROR: {}", reason.as_deref().unwrap_or("failed")),
            ),
            PhaseStatus::Skipped => match reason {
                Some(reason) => (LineKind::Fact, format!("{name} skipped: {reason}")),
                None => (LineKind::Fact, format!("{name} skipped")),
            },
            PhaseStatus::Start | PhaseStatus::Unknown => return,
        };
        self.say(kind, &text, page);
        self.current = None;
    }

    /// What is said in brackets of a phase that is done.
    fn facts(&self, event: &PhaseEvent, now: Instant) -> String {
        let mut facts = Vec::new();
        if ["fetch", "install", "release"].contains(&&*event.phase) && self.log_lines > 0 {
            facts.push(units::log_lines(self.log_lines));
        }
        let own = self
            .current
            .as_ref()
            .filter(|current| current.name == event.phase);
        let elapsed = event
            .elapsed_ms
            .map(Duration::from_millis)
            .or_else(|| own.map(|current| now.saturating_duration_since(current.since)));
        facts.extend(elapsed.map(units::duration));
        if facts.is_empty() {
            String::new()
        } else {
            format!(" ({})", facts.join(", "))
        }
    }

    fn install(&mut self, event: &InstallLine, page: &mut dyn Page) {
        if event.manager != self.manager {
            self.manager.clone_from(&event.manager);
            if !event.manager.is_empty() {
                let current = self.current.as_ref().map(|current| &*current.name);
                // Harper's servers install in phases of other names.
                let phase = current.filter(|name| ["fetch", "load", "release"].contains(name));
                let phase = phase.unwrap_or("install");
                let using = lines::visible(&event.manager);
                self.say(LineKind::Fact, &format!("{phase}: using {using}"), page);
            }
        }
        let index = usize::from(event.stream == Stream::Stderr);
        if event.continued || !self.pieces[index].is_empty() {
            self.pieces[index].push_str(&event.line);
            if !event.continued || self.pieces[index].len() >= JOINED {
                self.end_piece(index, page);
            }
        } else {
            self.log_line(event.stream, &event.line, page);
        }
    }

    fn end_pieces(&mut self, page: &mut dyn Page) {
        self.end_piece(0, page);
        self.end_piece(1, page);
    }

    fn end_piece(&mut self, index: usize, page: &mut dyn Page) {
        if self.pieces[index].is_empty() {
            return;
        }
        let stream = if index == 0 {
            Stream::Stdout
        } else {
            Stream::Stderr
        };
        let line = std::mem::take(&mut self.pieces[index]);
        self.log_line(stream, &line, page);
    }

    /// A line of the installation; blank ones say nothing.
    fn log_line(&mut self, stream: Stream, line: &str, page: &mut dyn Page) {
        if !line.trim_end().is_empty() {
            self.log_lines += 1;
            self.installed = true;
            self.output(stream, "", line, page);
        }
    }

    fn output(&self, stream: Stream, source: &str, line: &str, page: &mut dyn Page) {
        let sign = if stream == Stream::Stdout {
            "  | "
        } else {
            "  ! "
        };
        let line = line.trim_end();
        let line = if self.manner.raw {
            Cow::Borrowed(line)
        } else {
            lines::visible(line)
        };
        let mut text = String::with_capacity(sign.len() + source.len() + line.len());
        text.push_str(sign);
        text.push_str(source);
        text.push_str(&line);
        self.say(LineKind::Output, &text, page);
    }

    fn process(&mut self, event: &ProcessEvent, page: &mut dyn Page) {
        let kind = lines::visible(&event.kind);
        if let Some(line) = &event.line {
            if !line.trim_end().is_empty() {
                self.process_lines += 1;
                self.output(Stream::Stdout, &format!("{kind}: "), line, page);
            }
            return;
        }
        let status = lines::visible(&event.status);
        let pid = event
            .pid
            .map(|pid| format!(" (pid {pid})"))
            .unwrap_or_default();
        self.say(LineKind::Fact, &format!("{kind}: {status}{pid}"), page);
    }

    /// What the server says of an upload that somebody else sends.
    fn upload(&mut self, bytes: u64, total: Option<u64>, page: &mut dyn Page) {
        self.upload = Some((bytes, total));
        let Some(total) = total else {
            if self.received_sizes.reached(bytes) {
                let text = format!("Uploaded {}", units::size(bytes));
                self.say(LineKind::Fact, &text, page);
            }
            return;
        };
        if let Some(percent) = self.received.reached(bytes, total) {
            self.say(
                LineKind::Fact,
                &units::uploaded(bytes, total, percent),
                page,
            );
        }
    }

    /// The upload that somebody else has sent is there as soon as its phase is over.
    fn received(&mut self, event: &PhaseEvent, page: &mut dyn Page) {
        let Some((bytes, total)) = self.upload.take() else {
            return;
        };
        if event.status == PhaseStatus::Done {
            let bytes = event
                .facts
                .get("payload_size")
                .and_then(Value::as_u64)
                .unwrap_or(bytes);
            let text = units::uploaded(bytes, total.unwrap_or(bytes).max(bytes), 100);
            self.say(LineKind::Fact, &text, page);
        }
    }

    /// An event of a peer's own deployment, told by a narrator of its own. A peer's peers are not spoken of: a peer
    /// replicates no further.
    fn peer(&mut self, event: PeerEvent, now: Instant, page: &mut dyn Page) {
        if self.peer.is_some()
            || (self.peers.len() >= PEERS && !self.peers.contains_key(&event.peer))
        {
            return;
        }
        let manner = self.manner;
        let name = lines::visible(&event.peer).into_owned();
        let narrator = self.peers.entry(event.peer).or_insert_with(|| Narrator {
            peer: Some(name),
            ..Narrator::new(manner)
        });
        narrator.record(&event.event, &event.data.to_string(), now, page);
    }

    fn failure(&mut self, failure: &Failure, page: &mut dyn Page) {
        self.end(page);
        // Whoever came late, or has a server that says it at the end alone, has not seen why.
        if let Some(output) = failure.install_output.as_ref().filter(|_| !self.installed) {
            for line in &output.lines {
                self.log_line(line.stream, &line.line, page);
            }
        }
        if self.process_lines == 0 {
            self.process_output(failure, page);
        }
        let more = Value::Object(failure.more.clone());
        self.hosts(&more, "failed", &failure.code, page);
        self.name(failure.deployment_id.as_deref(), page);
        let code = Some(failure.code.as_str()).filter(|code| !code.is_empty());
        self.message(LineKind::Error, &failure.message, code, page);
    }

    /// The table with which a deployment for several hosts ends.
    fn hosts(&self, end: &Value, result: &str, reason: &str, page: &mut dyn Page) {
        let origin = self.origin.as_deref().map(|name| (name, result, reason));
        for line in hosts::table(origin, end, page.columns()).lines() {
            self.say(LineKind::Fact, line, page);
        }
    }

    fn process_output(&self, failure: &Failure, page: &mut dyn Page) {
        let output = failure
            .more
            .get("process_output")
            .and_then(|output| output.as_array());
        for entry in output
            .into_iter()
            .flatten()
            .filter(|entry| entry.is_object())
        {
            let part = |key| entry.get(key).and_then(Value::as_str).unwrap_or_default();
            let stream = if part("stream") == "stderr" {
                Stream::Stderr
            } else {
                Stream::Stdout
            };
            let source = format!("{}: ", lines::visible(part("type")));
            self.output(stream, &source, part("line"), page);
        }
    }

    /// A warning or an error, with its code behind it.
    fn message(&mut self, kind: LineKind, text: &str, code: Option<&str>, page: &mut dyn Page) {
        let text = lines::sentence(text, code);
        self.say(kind, &text, page);
    }

    fn end(&mut self, page: &mut dyn Page) {
        self.end_pieces(page);
        self.current = None;
        self.ended = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Notes(Vec<String>);

    impl Page for Notes {
        fn line(&mut self, kind: LineKind, peer: Option<&str>, text: &str) {
            let peer = peer.map(|peer| format!("[{peer}] ")).unwrap_or_default();
            match kind {
                LineKind::Warning | LineKind::Error => {
                    self.0.push(format!("{kind:?}: {peer}{text}"))
                }
                _ => self.0.push(format!("{peer}{text}")),
            }
        }
    }

    fn told(manner: RelayStyle, records: &[(&str, &str)]) -> Vec<String> {
        let mut narrator = Narrator::new(manner);
        let mut notes = Notes::default();
        let begun = Instant::now();
        for (second, (name, data)) in (0..).zip(records) {
            narrator.record(name, data, begun + Duration::from_secs(second), &mut notes);
        }
        narrator.finish(&mut notes);
        notes.0
    }

    const ASCII: RelayStyle = RelayStyle {
        raw: false,
        utf8: false,
    };

    /// Records, and what is said of them.
    type NarratorCase = (
        &'static [(&'static str, &'static str)],
        &'static [&'static str],
    );

    const TOLD: &[NarratorCase] = &[
        (
            &[
                ("phase", r#"{"phase":"extract","status":"start"}"#),
                (
                    "phase",
                    r#"{"phase":"extract","status":"done","elapsed_ms":420}"#,
                ),
            ],
            &["extract...", "extract done (0.4s)"],
        ),
        // Without a time of the server's, our own is better than none.
        (
            &[
                ("phase", r#"{"phase":"prepare","status":"start"}"#),
                ("phase", r#"{"phase":"prepare","status":"done"}"#),
            ],
            &["prepare...", "prepare done (1.0s)"],
        ),
        // A Harper server's end, which is not a phase, its peers, and the id that it tells last.
        (
            &[
                ("phase", r#"{"phase":"success","status":"done"}"#),
                ("peer", r#"{"node":"n2","status":"success"}"#),
                (
                    "peer",
                    r#"{"status":"failed","reason":"Error: gone","node":"n3"}"#,
                ),
                (
                    "peer",
                    r#"{"node":"n4","status":"failed","error":{"message":"no"}}"#,
                ),
                ("_recorder_finished", r#"{"status":"success"}"#),
                (
                    "done",
                    r#"{"result":{"message":"m","deployment_id":"x-1"}}"#,
                ),
            ],
            &[
                "peer n2: success",
                "peer n3: failed: Error: gone",
                "peer n4: failed: no",
                "deployment x-1",
            ],
        ),
        (
            &[(
                "phase",
                r#"{"phase":"load","status":"error","message":"gangplank.json line 3:\nno"}"#,
            )],
            &["load ERROR: gangplank.json line 3: no"],
        ),
        (
            &[("phase", r#"{"phase":"load","status":"error"}"#)],
            &["load ERROR: failed"],
        ),
        (
            &[(
                "phase",
                r#"{"phase":"install","status":"skipped","message":"no package.json"}"#,
            )],
            &["install skipped: no package.json"],
        ),
        (
            &[("phase", r#"{"phase":"install","status":"skipped"}"#)],
            &["install skipped"],
        ),
        (
            &[
                ("phase", r#"{"phase":"install","status":"dancing"}"#),
                ("phase", "[]"),
                ("phase", "x"),
            ],
            &[],
        ),
        (
            &[(
                "phase",
                "{\"phase\":\"\\u001b[2J\\n::x\",\"status\":\"start\"}",
            )],
            &["^[[2J^J::x..."],
        ),
        (
            &[
                ("output", r#"{"stream":"stdout","line":"a\u001b"}"#),
                (
                    "output",
                    r#"{"stream":"stderr","line":"b","continued":true}"#,
                ),
            ],
            &["  | a^[", "  ! b"],
        ),
        (
            &[("warning", r#"{"message":"low\ndisk"}"#), ("warning", "7")],
            &["Warning: low\ndisk", "Warning: 7"],
        ),
        (
            &[("error", r#"{"message":"no\u001b","code":"internal"}"#)],
            &["Error: no^[ (internal)"],
        ),
        (
            &[("error", r#"{"message":"no","code":400}"#)],
            &["Error: no (400)"],
        ),
        (&[("error", r#"{"message":"no"}"#)], &["Error: no"]),
        (&[("error", "it broke")], &["Error: it broke"]),
        (
            &[
                ("done", r#"{"result":{}}"#),
                ("future", "{}"),
                ("log", "x"),
                ("", ""),
            ],
            &[],
        ),
        (
            &[
                ("truncated", r#"{"dropped_events":1}"#),
                ("truncated", r#"{"dropped_events":1234}"#),
            ],
            &[
                "truncated: 1 event was not kept",
                "truncated: 1234 events were not kept",
            ],
        ),
        (
            &[
                ("process", r#"{"type":"web","pid":7,"status":"started"}"#),
                ("process", r#"{"type":"web","status":"healthy"}"#),
                (
                    "process",
                    r#"{"type":"web","status":"output","line":"hello\u0007 "}"#,
                ),
                ("process", r#"{"type":"web","status":"output","line":" "}"#),
            ],
            &["web: started (pid 7)", "web: healthy", "  | web: hello^G"],
        ),
        (
            &[
                ("upload", r#"{"bytes":1}"#),
                ("upload", r#"{"bytes":2097152,"total":4194304}"#),
            ],
            &["Uploaded 2.0 MiB / ~4.0 MiB (50%)"],
        ),
        // Where nobody said how large it is, it is told as it grows, and at its end.
        (
            &[
                ("phase", r#"{"phase":"extract","status":"start"}"#),
                ("upload", r#"{"bytes":1048575}"#),
                ("upload", r#"{"bytes":1048576}"#),
                ("upload", r#"{"bytes":1148576}"#),
                ("upload", r#"{"bytes":4194304}"#),
                (
                    "phase",
                    r#"{"phase":"extract","status":"done","elapsed_ms":420,"payload_size":5242880}"#,
                ),
            ],
            &[
                "extract...",
                "Uploaded 1.0 MiB",
                "Uploaded 4.0 MiB",
                "Uploaded 5.0 MiB / ~5.0 MiB (100%)",
                "extract done (0.4s)",
            ],
        ),
        // One that broke was never there.
        (
            &[
                ("phase", r#"{"phase":"extract","status":"start"}"#),
                ("upload", r#"{"bytes":2097152,"total":4194304}"#),
                (
                    "phase",
                    r#"{"phase":"extract","status":"error","message":"it broke"}"#,
                ),
            ],
            &[
                "extract...",
                "Uploaded 2.0 MiB / ~4.0 MiB (50%)",
                "extract ERROR: it broke",
            ],
        ),
        (
            &[(
                "deployment",
                r#"{"deployment_id":"0198-x","project":"demo"}"#,
            )],
            &["deployment 0198-x"],
        ),
        (
            &[
                (
                    "peer",
                    r#"{"peer":"two","event":"phase","data":{"phase":"extract","status":"done","elapsed_ms":5000}}"#,
                ),
                (
                    "peer",
                    r#"{"peer":"t\u001b","event":"error","data":{"message":"m","code":"c"}}"#,
                ),
                (
                    "peer",
                    r#"{"peer":"two","event":"peer","data":{"peer":"x","event":"warning","data":{"message":"m"}}}"#,
                ),
            ],
            &["[two] extract done (5.0s)", "Error: [t^[] m (c)"],
        ),
    ];

    #[test]
    fn events_are_told() {
        for (records, expected) in TOLD {
            assert_eq!(told(ASCII, records), *expected, "{records:?}");
        }
        let utf8 = RelayStyle {
            raw: false,
            utf8: true,
        };
        assert_eq!(
            told(utf8, &[("phase", r#"{"phase":"load","status":"start"}"#)]),
            ["load\u{2026}"]
        );
    }

    fn line(stream: &str, line: &str, continued: bool) -> (&'static str, String) {
        let mut value = serde_json::json!({"manager": "npm", "stream": stream, "line": line});
        if continued {
            value["continued"] = true.into();
        }
        ("install", value.to_string())
    }

    fn told_lines(manner: RelayStyle, records: &[(&'static str, String)]) -> Vec<String> {
        let records: Vec<(&str, &str)> = records
            .iter()
            .map(|(name, data)| (*name, data.as_str()))
            .collect();
        told(manner, &records)
    }

    #[test]
    fn installations_are_told() {
        let begin = (
            "phase",
            r#"{"phase":"install","status":"start"}"#.to_owned(),
        );
        let done = (
            "phase",
            r#"{"phase":"install","status":"done","elapsed_ms":12345}"#.to_owned(),
        );
        let records = [
            begin,
            line("stdout", "one  ", false),
            line("stdout", "  ", false),
            line("stderr", "\x1b[1mtwo", false),
            line("stdout", "a", true),
            line("stderr", "x", false),
            line("stdout", "b", true),
            line("stdout", "c", false),
            line("stdout", "left", true),
            done.clone(),
        ];
        let expected = [
            "install...",
            "install: using npm",
            "  | one",
            "  ! two",
            "  ! x",
            "  | abc",
            "  | left",
            "install done (5 log lines, 12.3s)",
        ];
        assert_eq!(told_lines(ASCII, &records), expected);
        assert_eq!(
            told_lines(ASCII, &[line("stdout", "a", false), done])
                .last()
                .unwrap(),
            "install done (1 log line, 12.3s)"
        );
        assert_eq!(
            told_lines(
                RelayStyle { raw: true, ..ASCII },
                &[line("stdout", "\x1b[1mtwo", false)]
            )[1],
            "  | \x1b[1mtwo"
        );
        // A line that never ends is told in parts, and what is left of it at the end.
        let piece = "x".repeat(8 * 1024);
        let endless: Vec<_> = (0..20).map(|_| line("stdout", &piece, true)).collect();
        let lengths: Vec<usize> = told_lines(ASCII, &endless)[1..]
            .iter()
            .map(String::len)
            .collect();
        assert_eq!(lengths, [4 + JOINED, 4 + JOINED, 4 + JOINED / 2]);
    }

    #[test]
    fn a_failure_shows_the_output_that_was_not_seen() {
        let error = r#"{"message":"m","code":"install_failed","install_output":{"lines":[{"manager":"npm","stream":"stderr","line":"why\u001b"}]},
            "process_output":[{"type":"web","stream":"stderr","line":"crash\u001b"},7]}"#;
        assert_eq!(
            told(ASCII, &[("error", error)])[..2],
            ["  ! why^[", "  ! web: crash^["]
        );
        let seen = line("stdout", "seen", false);
        let process = ("process", r#"{"type":"web","status":"x","line":"seen"}"#);
        let told = told(ASCII, &[(seen.0, &seen.1), process, ("error", error)]);
        assert_eq!(
            told[1..],
            ["  | seen", "  | web: seen", "Error: m (install_failed)"]
        );
    }

    #[test]
    fn peers_are_bounded() {
        let mut narrator = Narrator::new(ASCII);
        for number in 0..2 * PEERS {
            let data = format!(r#"{{"peer":"{number}","event":"done","data":{{}}}}"#);
            narrator.record("peer", &data, Instant::now(), &mut Notes::default());
        }
        assert_eq!(narrator.peers.len(), PEERS);
        assert!(!narrator.ended());
    }
}
