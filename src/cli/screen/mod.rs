//! The user's edge for output: the only room of the client that prints.
//!
//! A [`Screen`] tells on stderr what happens, in one of seven ways; [`print_result`] puts the result on stdout, where
//! nothing else goes. What others said never acts on the terminal or on a CI runner. That nobody reads, or that stderr is
//! closed, is not a failure.
//!
//! Two things make it fast without making it late: lines are gathered, and whoever feeds the screen calls
//! [`Screen::flush`] when there is nothing more at hand, and [`Screen::tick`] about every 100 ms whatever happens.

mod bar;
mod hosts;
mod layout;
mod lines;
mod live_hosts;
mod narrator;
mod ndjson;
mod page;
mod plain;
mod quiet;
mod result;
mod sending;
mod sink;
mod table;
pub(crate) mod units;
mod yaml;

use std::env;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::str::FromStr;
use std::time::Instant;

use crate::system::host;

pub(crate) use result::{
    OutputFormat, is_stdout_used, is_unread, print_bytes, print_error_bytes, print_line,
    print_result, stdout_is_terminal,
};

use page::RelayStyle;
use sink::Sink;

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Progress {
    /// `bar` on a terminal, on a runner of a CI system what that reads, else `plain`.
    #[default]
    Auto,
    /// A live line, above which the others scroll.
    Bar,
    /// One fact a line.
    Plain,
    /// One event a line, as JSON.
    Ndjson,
    /// As plain, with groups and annotations for GitHub's runner.
    Github,
    /// As plain, with sections that GitLab's page folds.
    Gitlab,
    /// As plain, with groups for Buildkite's page.
    Buildkite,
    /// Errors only.
    Quiet,
}

impl FromStr for Progress {
    type Err = String;

    fn from_str(word: &str) -> Result<Progress, String> {
        Ok(match word {
            "auto" => Progress::Auto,
            "bar" => Progress::Bar,
            "plain" => Progress::Plain,
            "ndjson" => Progress::Ndjson,
            "github" => Progress::Github,
            "gitlab" => Progress::Gitlab,
            "buildkite" => Progress::Buildkite,
            "quiet" => Progress::Quiet,
            _ => {
                return Err(String::from(
                    "expected one of auto, bar, plain, ndjson, github, gitlab, buildkite, quiet",
                ));
            }
        })
    }
}

/// What the runner of a CI system sets to `true`, and what it reads.
const RUNNERS: [(&str, Progress); 3] = [
    ("GITHUB_ACTIONS", Progress::Github),
    ("GITLAB_CI", Progress::Gitlab),
    ("BUILDKITE", Progress::Buildkite),
];

/// What the screen knows of where it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Surroundings {
    /// Stderr is a terminal.
    pub(crate) terminal: bool,
    /// `CI` is set: what is printed is kept as a log.
    pub(crate) ci: bool,
    /// `TERM=dumb`: the terminal knows no escape codes.
    pub(crate) dumb: bool,
    /// How the CI system that reads what is printed wants it, if there is one that says who it is.
    pub(crate) runner: Option<Progress>,
    /// `NO_COLOR` is set.
    pub(crate) no_color: bool,
    /// The locale's characters are UTF-8.
    pub(crate) utf8: bool,
    /// Asks for the terminal's columns; they change when its window does.
    pub(crate) columns: fn() -> u16,
}

impl Surroundings {
    /// Looks around.
    pub(crate) fn look() -> Surroundings {
        let text = |name: &str| {
            env::var_os(name)
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned()
        };
        let set = |name: &str| !text(name).is_empty();
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].map(text);
        Surroundings {
            terminal: io::stderr().is_terminal(),
            ci: set("CI"),
            dumb: text("TERM") == "dumb",
            runner: RUNNERS
                .iter()
                .find(|(variable, _)| text(variable) == "true")
                .map(|(_, progress)| *progress),
            no_color: set("NO_COLOR"),
            utf8: is_utf8([&locale[0], &locale[1], &locale[2]]),
            // 80 where nobody knows, as everywhere.
            columns: || host::terminal_columns(io::stderr()).unwrap_or(80),
        }
    }

    /// What `auto` means here.
    fn choose(&self, progress: Progress) -> Progress {
        match progress {
            Progress::Auto if self.terminal && !self.ci && !self.dumb => Progress::Bar,
            Progress::Auto => self.runner.unwrap_or(Progress::Plain),
            asked => asked,
        }
    }
}

/// Whether a locale, given as `LC_ALL`, `LC_CTYPE` and `LANG`, is UTF-8: the first that is set decides.
fn is_utf8(locale: [&str; 3]) -> bool {
    let first = locale
        .into_iter()
        .find(|text| !text.is_empty())
        .unwrap_or_default();
    let first = first.to_ascii_lowercase();
    first.contains("utf-8") || first.contains("utf8")
}

/// A remark of the client's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Remark<'a> {
    Note,
    Warning,
    Error(Option<&'a str>),
}

/// A way to show progress. All that happens comes with the time at which it does.
trait Renderer: Send {
    /// The upload is so far.
    fn upload(&mut self, bytes: u64, total: u64, now: Instant);
    /// The upload is complete.
    fn uploaded(&mut self, bytes: u64, now: Instant);
    /// The upload is complete, and was only a part: what is said of it.
    fn uploaded_some(&mut self, bytes: u64, line: &str, now: Instant) {
        self.uploaded(bytes, now);
        self.say(Remark::Note, line, now);
    }
    /// A record of the event stream.
    fn record(&mut self, id: Option<&str>, event: &str, data: &str, now: Instant);
    /// Something that the client itself says.
    fn say(&mut self, said: Remark<'_>, message: &str, now: Instant);
    /// What it is waited for until the next record.
    fn waits_for(&mut self, _what: &'static str, _now: Instant) {}
    /// Something else is about to be printed on the same terminal, and goes on to be.
    fn gives_way(&mut self) {}
    /// Some time has passed.
    fn tick(&mut self, now: Instant);
    /// There is nothing more at hand.
    fn flush(&mut self, now: Instant);
    /// Nothing more will come. May be called again, and changes nothing then.
    fn finish(&mut self, now: Instant);
}

/// Shows on stderr what happens. Dropping it finishes it.
pub(crate) struct Screen {
    show: Box<dyn Renderer>,
    clock: Box<dyn Fn() -> Instant + Send>,
}

impl fmt::Debug for Screen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Screen")
    }
}

impl Screen {
    /// A screen on stderr. With `raw_output` the output of programs is shown as it is, terminal sequences included.
    pub(crate) fn new(progress: Progress, raw_output: bool) -> Screen {
        let around = Surroundings::look();
        Screen::with(
            progress,
            raw_output,
            around,
            Box::new(io::stderr()),
            Box::new(Instant::now),
        )
    }

    /// A screen that writes elsewhere, with another clock, somewhere else.
    pub(crate) fn with(
        progress: Progress,
        raw_output: bool,
        around: Surroundings,
        writer: Box<dyn Write + Send + Sync>,
        clock: Box<dyn Fn() -> Instant + Send>,
    ) -> Screen {
        let sink = Sink::new(writer);
        let manner = RelayStyle {
            raw: raw_output,
            utf8: around.utf8,
        };
        let now = clock();
        let show: Box<dyn Renderer> = match around.choose(progress) {
            Progress::Bar => Box::new(bar::Bar::new(sink, manner, around, now)),
            Progress::Ndjson => Box::new(ndjson::Ndjson::new(sink)),
            Progress::Quiet => Box::new(quiet::Quiet::new(sink)),
            asked => {
                let log = match asked {
                    Progress::Github => plain::Log::Github,
                    Progress::Gitlab => plain::Log::Gitlab,
                    Progress::Buildkite => plain::Log::Buildkite,
                    _ => plain::Log::Text,
                };
                Box::new(plain::Plain::new(sink, manner, log, now))
            }
        };
        Screen { show, clock }
    }

    fn now(&self) -> Instant {
        (self.clock)()
    }

    /// The upload has sent so many of so many bytes, both uncompressed. Fewer than before are a new attempt.
    pub(crate) fn upload(&mut self, bytes: u64, total: u64) {
        self.show.upload(bytes, total, self.now());
    }

    /// The upload is complete: call it once all was sent, before the first record, and not if it broke.
    pub(crate) fn uploaded(&mut self, bytes: u64) {
        self.show.uploaded(bytes, self.now());
    }

    /// As [`Screen::uploaded`], with how many bytes of payload were sent, and what need not be.
    pub(crate) fn uploaded_some(&mut self, bytes: u64, reused: &str) {
        let line = format!("Uploaded {}, {reused}", units::size(bytes));
        self.show.uploaded_some(bytes, &line, self.now());
    }

    /// Shows a record of the event stream, an `error` at its end included.
    pub(crate) fn record(&mut self, id: Option<&str>, event: &str, data: &str) {
        self.show.record(id, event, data, self.now());
    }

    /// Something that the client itself has to say, such as that it connects again.
    pub(crate) fn remark(&mut self, message: &str) {
        self.show.say(Remark::Note, message, self.now());
    }

    /// Something that may be wrong.
    pub(crate) fn warning(&mut self, message: &str) {
        self.show.say(Remark::Warning, message, self.now());
    }

    /// Something that went wrong, with the word of its code. Not for the `error` of a stream, which [`Screen::record`] shows.
    pub(crate) fn error(&mut self, message: &str, code: Option<&str>) {
        self.show.say(Remark::Error(code), message, self.now());
    }

    /// Asks something that a person at a terminal answers with `y` or `yes`; all else is no. Where nobody sits at one, there
    /// is nobody to ask, and nothing is said.
    pub(crate) fn ask(&mut self, question: &str) -> Option<bool> {
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return None;
        }
        self.flush();
        // Whether it can be seen or not, what is read decides.
        let _ = write!(io::stderr(), "{question} (y/N) ");
        let mut answer = String::new();
        let read = io::stdin().read_line(&mut answer);
        let answer = answer.trim().to_ascii_lowercase();
        Some(read.is_ok() && ["y", "yes"].contains(&answer.as_str()))
    }

    /// What it is waited for until the next record comes; the server, if nothing is said.
    pub(crate) fn waits_for(&mut self, what: &'static str) {
        self.show.waits_for(what, self.now());
    }

    /// To be called before something goes to stdout while it is waited on: no live line stands in its way from now on, and
    /// that nothing comes is not worth a word.
    pub(crate) fn gives_way(&mut self) {
        self.show.gives_way();
    }

    /// To be called every 100 to 200 ms while waiting, and while busy too: it moves the live line and says what is waited for.
    pub(crate) fn tick(&mut self) {
        self.show.tick(self.now());
    }

    /// To be called whenever there is nothing more at hand: what was gathered is written. Without it, lines wait for the
    /// next [`Screen::tick`].
    pub(crate) fn flush(&mut self) {
        self.show.flush(self.now());
    }

    /// Writes what is left and gives the terminal back. To be called before the result goes to stdout.
    pub(crate) fn finish(&mut self) {
        self.show.finish(self.now());
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.finish();
    }
}

#[cfg(test)]
mod tests;
