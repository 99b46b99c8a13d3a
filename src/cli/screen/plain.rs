//! One fact a line, for logs: no escape codes, no carriage returns. The runners of CI systems get groups
//! with it, and GitHub's annotations.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use crate::cli::screen::lines;
use crate::cli::screen::lines::sentence;
use crate::cli::screen::narrator::Narrator;
use crate::cli::screen::page::{LineKind, Page, RelayStyle};
use crate::cli::screen::sink::Sink;
use crate::cli::screen::units::{self, Steps};
use crate::cli::screen::{Remark, Renderer};
use crate::system::time::now_ms;

/// After so long without an event it is said what is waited for; then each [`AGAIN`].
const SILENCE: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_secs(30);

/// Erases the rest of the line: GitLab's marks begin and end with it.
const ERASE: &str = "\x1b[0K";

/// What it is waited for unless something else is said.
const SERVER: &str = "the server";

/// Who reads the lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Log {
    /// People.
    Text,
    /// People and GitHub's runner, which finds commands of ours in it.
    Github,
    /// People and GitLab's page, which folds the sections that we mark.
    Gitlab,
    /// People and Buildkite's page, which folds what stands below a line of ours.
    Buildkite,
}

/// Lines to a sink.
struct LinePrinter {
    sink: Sink,
    log: Log,
    /// The group that is open, by a name of letters, digits and `_` alone.
    group: Option<String>,
}

impl LinePrinter {
    fn print(&mut self, text: &str) {
        self.sink.push(&lines::defused(text));
        self.sink.push("\n");
    }

    /// A workflow command of ours; what it says cannot be another one.
    fn command(&mut self, name: &str, text: &str) {
        self.sink
            .push(&format!("::{name}::{}\n", lines::command_data(text)));
    }

    /// Opens a group. What it is called cannot be a command of another kind.
    fn begin_group(&mut self, title: &str) {
        self.end_group();
        let is_plain = |sign: char| sign.is_ascii_alphanumeric();
        let name: String = title
            .chars()
            .map(|sign| if is_plain(sign) { sign } else { '_' })
            .collect();
        match self.log {
            Log::Text => return,
            Log::Github => self.command("group", title),
            Log::Gitlab => {
                let title = lines::defused(title);
                let at = now_ms() / 1000;
                let mark = format!("{ERASE}section_start:{at}:gangplank_{name}\r{ERASE}");
                self.sink.push(&format!("{mark}{title}\n"));
            }
            Log::Buildkite => self.sink.push(&format!("--- {}\n", lines::defused(title))),
        }
        self.group = Some(name);
    }

    fn end_group(&mut self) {
        let Some(name) = self.group.take() else {
            return;
        };
        match self.log {
            Log::Github => self.sink.push("::endgroup::\n"),
            Log::Gitlab => {
                let at = now_ms() / 1000;
                let mark = format!("{ERASE}section_end:{at}:gangplank_{name}\r{ERASE}");
                self.sink.push(&format!("{mark}\n"));
            }
            // Its groups end where the next one begins.
            Log::Text | Log::Buildkite => {}
        }
    }

    /// What comes now concerns no phase any longer, and is to be seen.
    fn end_groups(&mut self) {
        if self.group.is_some() && self.log == Log::Buildkite {
            self.sink.push("+++ end\n");
        }
        self.end_group();
    }

    /// A warning or an error: one or several lines behind the word, or an annotation.
    fn alarm(&mut self, word: &str, text: &str) {
        if self.log == Log::Github {
            // Within a group it would be folded away.
            if word == "error" {
                self.end_group();
            }
            self.command(word, text);
            return;
        }
        if self.log == Log::Buildkite && word == "error" && self.group.is_some() {
            // It opens the group in which it stands, with what led to it.
            self.sink.push("^^^ +++\n");
        }
        for (number, line) in text.split('\n').enumerate() {
            if number == 0 {
                self.print(&format!("{word}: {line}"));
            } else {
                self.print(&format!("  {line}"));
            }
        }
    }
}

impl Page for LinePrinter {
    fn line(&mut self, kind: LineKind, peer: Option<&str>, text: &str) {
        // A peer's phases lie within one of ours, and groups cannot.
        let grouped = self.log != Log::Text && peer.is_none();
        let told = match peer {
            Some(peer) => Cow::Owned(format!("[{peer}] {text}")),
            None => Cow::Borrowed(text),
        };
        match kind {
            LineKind::Begin if grouped => {
                self.begin_group(told.trim_end_matches(['.', '\u{2026}']));
            }
            LineKind::Warning => self.alarm("warning", &told),
            LineKind::Error => self.alarm("error", &told),
            LineKind::Done | LineKind::Failed => {
                self.print(&told);
                // For Buildkite it ends only with the next, so that an error can open it.
                if grouped && self.log != Log::Buildkite {
                    self.end_group();
                }
            }
            LineKind::Begin | LineKind::Output | LineKind::Fact => self.print(&told),
        }
    }
}

/// How the upload stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UploadLine {
    /// Nothing was sent, or it is over.
    No,
    /// So many of so many bytes.
    Since(u64, u64),
    /// All is sent, and no answer has come yet.
    Sent,
}

/// A screen of lines.
pub(crate) struct Plain {
    paper: LinePrinter,
    narrator: Narrator,
    steps: Steps,
    sending: UploadLine,
    /// What it is waited for where no phase runs.
    awaited: &'static str,
    /// When something happened last, and when it is to be said that nothing did.
    last: Instant,
    next: Instant,
    /// What comes goes elsewhere, and silence is not told.
    way_given: bool,
    finished: bool,
}

impl Plain {
    /// A screen that begins now.
    pub(crate) fn new(sink: Sink, manner: RelayStyle, log: Log, now: Instant) -> Plain {
        Plain {
            paper: LinePrinter {
                sink,
                log,
                group: None,
            },
            narrator: Narrator::new(manner),
            steps: Steps::default(),
            sending: UploadLine::No,
            awaited: SERVER,
            last: now,
            next: now + SILENCE,
            way_given: false,
            finished: false,
        }
    }

    fn happened(&mut self, now: Instant) {
        self.last = now;
        self.next = now + SILENCE;
    }

    fn awaited(&self) -> &str {
        match (self.sending, self.narrator.current()) {
            (UploadLine::Since(..), _) => "the upload",
            (UploadLine::Sent, None) => "the answer of the server",
            (_, Some(current)) => &current.name,
            (UploadLine::No, None) => self.awaited,
        }
    }
}

impl Renderer for Plain {
    fn upload(&mut self, bytes: u64, total: u64, now: Instant) {
        if self.sending != UploadLine::Since(bytes, total) {
            self.sending = UploadLine::Since(bytes, total);
            self.narrator.begin();
            self.happened(now);
        }
        if let Some(percent) = self.steps.reached(bytes, total) {
            self.paper.print(&units::uploaded(bytes, total, percent));
        }
    }

    fn uploaded(&mut self, bytes: u64, now: Instant) {
        if self.sending != UploadLine::Sent {
            let total = match self.sending {
                UploadLine::Since(_, total) => total,
                _ => bytes,
            };
            self.paper.print(&units::uploaded(bytes, total, 100));
            self.sending = UploadLine::Sent;
            self.happened(now);
        }
    }

    fn uploaded_some(&mut self, _bytes: u64, line: &str, now: Instant) {
        if self.sending != UploadLine::Sent {
            self.paper.print(line);
            self.sending = UploadLine::Sent;
            self.happened(now);
        }
    }

    fn record(&mut self, _id: Option<&str>, event: &str, data: &str, now: Instant) {
        match self.sending {
            // The server has begun to answer, so it has it all, even if we were not told.
            UploadLine::Since(bytes, total) if bytes >= total => self.uploaded(bytes, now),
            _ => {}
        }
        self.sending = UploadLine::No;
        self.awaited = SERVER;
        self.happened(now);
        self.narrator.record(event, data, now, &mut self.paper);
        if self.narrator.ended() {
            self.paper.end_groups();
        }
    }

    fn say(&mut self, said: Remark<'_>, message: &str, _now: Instant) {
        match said {
            Remark::Note => {
                for line in lines::message(message) {
                    self.paper.print(&line);
                }
            }
            Remark::Warning => self.paper.alarm("warning", &sentence(message, None)),
            Remark::Error(code) => self.paper.alarm("error", &sentence(message, code)),
        }
    }

    fn waits_for(&mut self, what: &'static str, now: Instant) {
        self.awaited = what.trim_start_matches("waiting for ");
        self.happened(now);
    }

    fn gives_way(&mut self) {
        self.way_given = true;
    }

    fn tick(&mut self, now: Instant) {
        let waits = !self.narrator.ended() && !self.way_given && !self.finished;
        if now >= self.next && waits {
            let silent = units::whole(now.saturating_duration_since(self.last));
            self.paper
                .print(&format!("still waiting for {} ({silent})", self.awaited()));
            self.next = now + AGAIN;
        }
        self.paper.sink.flush();
    }

    fn flush(&mut self, _now: Instant) {
        self.paper.sink.flush();
    }

    fn finish(&mut self, _now: Instant) {
        self.finished = true;
        self.narrator.finish(&mut self.paper);
        self.paper.end_groups();
        self.paper.sink.flush();
    }
}
