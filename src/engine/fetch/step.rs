//! One command of a fetch: its lines as events, its time, and an eye on the disk that it fills.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded, select_biased};

use crate::api::error::{Error, Refusal};
use crate::api::event::{Event, InstallLine, Stream};
use crate::engine::attempt::Attempt;
use crate::engine::child_env::{self, DEFAULT_PATH};
use crate::engine::fetch::FetchRequest;
use crate::engine::fetch::redact::Redactor;
use crate::engine::install::{self, InstallFailure, Tail};
use crate::engine::outcome::Failed;
use crate::system::child::{self, Ended, Line, RunOptions, SurvivorScope};
use crate::system::stop::{self, Stop, Stopper};
use crate::system::{files, log, threads};

/// How often the disk is looked at: at a gigabyte a second it has lost a quarter of one by then.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The stack of the thread that looks.
const STACK_BYTES: usize = 64 << 10;
/// How many lines of an answer are kept: it names a commit or a file.
const ANSWER_LINES_MAX: usize = 100;
/// What git says when ssh has said why.
const OF_SSH: &str = "Could not read from remote repository.";
/// What programs print when the disk, or the user's share of it, is used up.
const FULL: [&str; 4] = [
    "No space left on device",
    "Disk quota exceeded",
    "ENOSPC",
    "EDQUOT",
];
/// What npm begins its errors with: from version 10 on, and before, as Debian 13 has it.
const NPM_ERRORS: [&str; 2] = ["npm error ", "npm ERR! "];
/// A progress bar is told as a line at most so often.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// A program, found, with what it is started with.
pub(super) struct FetchProgram<'a> {
    request: &'a FetchRequest<'a>,
    manager: &'static str,
    path: std::path::PathBuf,
    variables: Vec<(OsString, OsString)>,
    redactor: Redactor,
    tail: Tail,
    progress: Option<Instant>,
    /// The line in which it says why it gives up.
    fatal: Option<String>,
    /// What it said last.
    last: Option<String>,
    /// It said that the disk is full.
    full: bool,
}

/// What a command is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Says {
    /// Its lines are for who watches.
    Progress,
    /// Those of its standard output are the answer.
    Answer,
}

impl<'a> FetchProgram<'a> {
    /// A program by its name, with the component's environment as far as `keeps` says, and with its own variables.
    pub(super) fn find(
        request: &'a FetchRequest<'a>,
        name: &'static str,
        keeps: fn(&[u8]) -> bool,
        own: Vec<(OsString, OsString)>,
    ) -> Result<FetchProgram<'a>, Refusal> {
        let path = child_env::find(request.environment, name)
            .ok_or_else(|| request.failed(format!("{name} is not installed on the server")))?;
        let mut variables = vec![(OsString::from("PATH"), OsString::from(DEFAULT_PATH))];
        let kept = request.environment.iter();
        variables.extend(
            kept.filter(|(name, _)| keeps(name.as_encoded_bytes()))
                .cloned(),
        );
        variables.extend(own);
        Ok(FetchProgram {
            request,
            manager: name,
            path,
            variables,
            redactor: Redactor::new(request.package, request.environment),
            tail: Tail::default(),
            progress: None,
            fatal: None,
            last: None,
            full: false,
        })
    }

    /// Runs it in a directory. Gives the lines of its answer.
    pub(super) fn run<S: AsRef<OsStr>>(
        &mut self,
        dir: &Path,
        words: &[S],
        says: Says,
        attempt: &mut Attempt,
    ) -> Result<Vec<String>, Box<Failed>> {
        match self.try_run(dir, words, says, attempt) {
            Ok(answer) => Ok(answer),
            Err(StepError::Ended(why)) => Err(self.failed(self.request.failed(why))),
            Err(StepError::Refused(refusal)) => Err(self.failed(refusal)),
        }
    }

    /// As [`FetchProgram::run`]; that it does not end well is told apart from all else.
    pub(super) fn try_run<S: AsRef<OsStr>>(
        &mut self,
        dir: &Path,
        words: &[S],
        says: Says,
        attempt: &mut Attempt,
    ) -> Result<Vec<String>, StepError> {
        let request = self.request;
        let name = format!("fetch-{}", child::random()?);
        let command = self.command(dir, words, &name);
        let mut answer = Vec::new();
        (self.fatal, self.last, self.full) = (None, None, false);
        let left = request.deadline.saturating_duration_since(Instant::now());
        let options = RunOptions::within(left, request.account);
        let (ended, low) = watched(request, dir, |stop| {
            child::run(command, options, stop, &mut |line| {
                self.line(line, says, &mut answer, attempt)
            })
        })?;
        // Who left the group goes too, however it ended.
        let scope = SurvivorScope::Process(&name);
        if let Err(error) = child::end_survivors(request.store.server_mark(), scope) {
            log::warn(&error.to_string());
        }
        match ended? {
            Ended::Exited(status) if status.success() => Ok(answer),
            Ended::Exited(_) if self.full => Err(request.no_space("the disk is full").into()),
            Ended::Exited(status) => {
                let why = self.fatal.take().unwrap_or_else(|| install::exit(status));
                Err(StepError::Ended(format!("{}: {why}", self.manager)))
            }
            Ended::TimedOut => Err(request.timed_out().into()),
            Ended::Stopped if low => Err(request.gets_full().into()),
            Ended::Stopped => Err(request.stopped().into()),
        }
    }

    /// The failure with what was printed last.
    pub(super) fn failed(&mut self, refusal: Refusal) -> Box<Failed> {
        let output = std::mem::take(&mut self.tail).output();
        InstallFailure { refusal, output }.into()
    }

    fn command<S: AsRef<OsStr>>(&self, dir: &Path, words: &[S], name: &str) -> Command {
        let mut command = Command::new(&self.path);
        command
            .args(words)
            .current_dir(dir)
            .env_clear()
            .envs(self.variables.iter().map(|(key, value)| (key, value)))
            .envs([self.request.store.server_mark().variable()])
            .env(child::DEPLOYMENT, self.request.id.to_string())
            .env(child::PROJECT, self.request.project.as_str())
            .env(child::PROCESS, name);
        command
    }

    fn line(
        &mut self,
        line: Line,
        says: Says,
        answer: &mut Vec<String>,
        attempt: &mut Attempt,
    ) -> Result<(), Error> {
        if says == Says::Answer && line.stream == Stream::Stdout {
            if answer.len() < ANSWER_LINES_MAX {
                answer.push(line.text);
            }
            return Ok(());
        }
        if line.text.trim().is_empty() || self.is_progress_again(&line.text) {
            return Ok(());
        }
        let line = InstallLine {
            manager: self.manager.to_owned(),
            stream: line.stream,
            line: self.redactor.line(line.text),
            continued: line.continued,
        };
        self.full |= FULL.iter().any(|word| line.line.contains(word));
        if let Some(why) = fatal(&line.line) {
            let before = self.last.take().filter(|_| why == OF_SSH);
            self.fatal
                .get_or_insert(before.unwrap_or_else(|| why.to_owned()));
        }
        self.last = Some(line.line.clone());
        self.tail.keep(&line);
        attempt.emit(&Event::Install(line))
    }

    /// Whether a line is one of a progress bar, and comes soon after another one.
    fn is_progress_again(&mut self, text: &str) -> bool {
        let is_bar = text.contains("% (") && !text.ends_with("done.");
        if !is_bar {
            return false;
        }
        let soon = self
            .progress
            .is_some_and(|told| told.elapsed() < PROGRESS_EVERY);
        if !soon {
            self.progress = Some(Instant::now());
        }
        soon
    }
}

/// Why a program gives up, if a line of it says that.
fn fatal(line: &str) -> Option<&str> {
    let why = line.strip_prefix("fatal: ").or_else(|| {
        let mut marks = NPM_ERRORS.iter();
        let why = marks.find_map(|mark| line.strip_prefix(mark))?;
        // These say less than the line behind them: `code E404`, `syscall open`.
        let details = ["code ", "syscall ", "path ", "errno "];
        let is_detail = details.iter().any(|detail| why.starts_with(detail));
        (!is_detail).then_some(why)
    });
    why.map(str::trim).filter(|why| !why.is_empty())
}

/// Why a command gave nothing.
pub(super) enum StepError {
    /// It did not end well, which may have been expected.
    Ended(String),
    Refused(Refusal),
}

impl From<Refusal> for StepError {
    fn from(refusal: Refusal) -> StepError {
        StepError::Refused(refusal)
    }
}

impl From<Error> for StepError {
    fn from(error: Error) -> StepError {
        StepError::Refused(error.into())
    }
}

/// Does something that ends by the stop that it is given: the request's, or a disk that gets full. Says whether it was that.
fn watched<T>(
    request: &FetchRequest<'_>,
    dir: &Path,
    work: impl FnOnce(&Stop) -> T,
) -> Result<(T, bool), Error> {
    let (stopper, stop) = stop::pair()?;
    let (done, ended) = bounded::<()>(0);
    std::thread::scope(|scope| {
        let look = || look(request, dir, stopper, &ended);
        let looking = threads::spawn_scoped(scope, "fetch-disk", STACK_BYTES, look)
            .map_err(|error| Error::new("starting a thread that watches the disk", error))?;
        let result = work(&stop);
        drop(done);
        // It panics only if it cannot drop something.
        Ok((result, looking.join().unwrap_or(false)))
    })
}

/// Looks at the disk until the work has ended; true if the disk has too little left.
fn look(request: &FetchRequest<'_>, dir: &Path, stopper: Stopper, ended: &Receiver<()>) -> bool {
    let disk = std::fs::File::open(dir);
    loop {
        select_biased! {
            recv(ended) -> _ => return false,
            recv(request.stop.channel()) -> _ => {
                drop(stopper);
                return false;
            }
            default(LOOK_EVERY) => {}
        }
        let free = disk
            .as_ref()
            .ok()
            .and_then(|disk| files::free_space(disk).ok());
        if free.is_some_and(|free| free < request.limits.min_free_disk) {
            drop(stopper);
            return true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_says_why_is_known() {
        let table = [
            (
                "fatal: couldn't find remote ref x",
                Some("couldn't find remote ref x"),
            ),
            ("npm error code E404", None),
            (
                "npm error 404 Not Found - GET http://h/x",
                Some("404 Not Found - GET http://h/x"),
            ),
            ("npm error", None),
            ("npm error syscall open", None),
            ("npm ERR! code ENOENT", None),
            ("npm ERR! path /x", None),
            ("npm ERR! errno -2", None),
            (
                "npm ERR! enoent ENOENT: no such file or directory, open '/x'",
                Some("enoent ENOENT: no such file or directory, open '/x'"),
            ),
            ("npm http fetch GET 404 http://h/x", None),
            ("error: fatal: x", None),
        ];
        for (line, expected) in table {
            assert_eq!(fatal(line), expected, "{line}");
        }
    }
}
