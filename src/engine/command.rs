//! One command in a release, for as long as somebody waits for it: a thread that runs it and passes on what it prints.
//!
//! Whoever waits goes by dropping the [`RunningCommand`], and the command's group is ended then, as it is when its time is over.
//! The command writes only as fast as its output is taken.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, at, bounded, never, select_biased};

use crate::api::error::{Code, Doing, Error, Refusal};
use crate::api::event::Stream;
use crate::api::operation::CommandWords;
use crate::api::output::CommandOutput;
use crate::engine::child_env::Variables;
use crate::system::account::Account;
use crate::system::child::{
    self, COMMAND, Ended, OutputPiece, OutputSplitter, RunOptions, ServerMark, SurvivorScope,
    random,
};
use crate::system::log;
use crate::system::stop::{SharedStopper, Stop};
use crate::system::threads;

/// The thread copies output and waits; its buffers are on the heap.
const STACK_BYTES: usize = 256 << 10;
/// How much of the output waits for whoever takes it, in pieces of at most 8 KiB: enough for a burst.
const PIECES_MAX: usize = 32;

/// What is run, and how.
pub(super) struct CommandLaunch {
    /// What it is called in a message.
    pub(super) what: String,
    pub(super) words: CommandWords,
    /// The release that it runs in.
    pub(super) dir: std::path::PathBuf,
    pub(super) environment: Variables,
    /// What is said before it starts.
    pub(super) warnings: Vec<String>,
    pub(super) mark: ServerMark,
    pub(super) account: Option<Arc<Account>>,
    pub(super) limit: Option<Duration>,
    pub(super) stops: (SharedStopper, Stop),
    /// Why it was stopped, if somebody else did that than who waits for it.
    pub(super) why: Arc<OnceLock<Code>>,
    /// Held until nothing of it runs any longer.
    pub(super) hold: Box<dyn Send>,
}

/// What becomes of a command.
#[derive(Debug)]
pub enum CommandNews {
    /// It printed something.
    Output(CommandOutput),
    /// Something is not as it should be.
    Warning(String),
    /// It has ended: its exit code, or 128 and the number of the signal that ended it.
    Exited(i32),
    /// It was not started, or did not come to its end.
    Failed(Refusal),
}

/// A command that runs. Dropping it ends the command.
pub struct RunningCommand {
    stopper: SharedStopper,
    news: Receiver<CommandNews>,
}

impl RunningCommand {
    /// What comes next within a time. Nothing comes after the command's end.
    pub fn next(&self, wait: Duration) -> Option<CommandNews> {
        match self.news.recv_timeout(wait) {
            Ok(news) => Some(news),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                let why = "running a command: it ended unexpectedly, which is a bug; the server's log has more";
                Some(CommandNews::Failed(Refusal::new(Code::Internal, why)))
            }
        }
    }
}

impl Drop for RunningCommand {
    fn drop(&mut self) {
        self.stopper.stop();
    }
}

/// Starts a command.
///
/// # Errors
/// When there is no thread for it. That there is no such program is told as its end.
pub(super) fn start(launch: CommandLaunch) -> Result<RunningCommand, Error> {
    let (sender, news) = bounded(PIECES_MAX);
    let stopper = launch.stops.0.clone();
    let what = launch.what.clone();
    threads::spawn("run", STACK_BYTES, move || launch.keep(&sender))
        .doing(|| format!("{what}: making a thread for it"))?;
    Ok(RunningCommand { stopper, news })
}

impl CommandLaunch {
    fn keep(self, news: &Sender<CommandNews>) {
        let end = self.run(news);
        // Whoever hears of the end finds its place free.
        drop(self.hold);
        // Nobody may be listening any longer.
        let _ = news.send(end);
    }

    fn run(&self, news: &Sender<CommandNews>) -> CommandNews {
        for warning in &self.warnings {
            let _ = news.send(CommandNews::Warning(warning.clone()));
        }
        let name = match random() {
            Ok(name) => format!("{COMMAND}{name}"),
            Err(error) => return CommandNews::Failed(error.into()),
        };
        let mut command = match &self.words {
            CommandWords::Line(line) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", line]);
                shell
            }
            CommandWords::Words(words) => {
                let (program, arguments) = words
                    .split_first()
                    .map_or(("", &[][..]), |(first, rest)| (first.as_str(), rest));
                let mut command = Command::new(program);
                command.args(arguments);
                command
            }
        };
        let environment = self.environment.iter();
        command
            .current_dir(&self.dir)
            .env_clear()
            .envs(environment.map(|(key, value)| (key, value)))
            .env(child::PROCESS, &name);
        let how = RunOptions {
            limit: self.limit,
            ..RunOptions::within(Duration::ZERO, self.account.as_deref())
        };
        let ended = self.attend(command, how, news);
        // What left the group goes too: nothing of it is to run when nobody waits for it any longer.
        let left = child::end_survivors(&self.mark, SurvivorScope::Process(&name));
        if let Err(error) = left {
            log::warn(&error.to_string());
        }
        match ended {
            Ok(Ended::Exited(status)) => CommandNews::Exited(exit_code(status)),
            Ok(Ended::TimedOut) => {
                let seconds = self.limit.unwrap_or_default().as_secs_f64();
                self.failed(Code::Cancelled, &format!("timed out after {seconds}s"))
            }
            Ok(Ended::Stopped) => match self.why.get() {
                Some(Code::Interrupted) => {
                    self.failed(Code::Interrupted, "interrupted by the end of the server")
                }
                _ => self.failed(Code::Cancelled, "cut off, since the component is dropped"),
            },
            Err(error) => self.not_run(error),
        }
    }

    fn attend(
        &self,
        command: Command,
        how: RunOptions<'_>,
        news: &Sender<CommandNews>,
    ) -> Result<Ended, Error> {
        let stop = &self.stops.1;
        let deadline = self
            .limit
            .and_then(|limit| Instant::now().checked_add(limit));
        let over = deadline.map_or_else(never, at);
        let mut on_piece = |piece: OutputPiece| {
            let OutputPiece {
                stream,
                bytes,
                continued,
            } = piece;
            let output = CommandNews::Output(CommandOutput::new(stream, bytes, continued));
            // A client that takes nothing does not keep a command alive whose end has come.
            select_biased! {
                send(news, output) -> _ => {}
                recv(stop.channel()) -> _ => {}
                recv(over) -> _ => {}
            }
            Ok(())
        };
        let mut splitters = [Stream::Stdout, Stream::Stderr].map(OutputSplitter::new);
        child::run_raw(command, how, stop, &mut |stream, bytes| {
            let splitter = &mut splitters[usize::from(stream == Stream::Stderr)];
            match bytes.is_empty() {
                true => splitter.finish(&mut on_piece),
                false => splitter.push(bytes, &mut on_piece),
            }
        })
    }

    fn failed(&self, code: Code, why: &str) -> CommandNews {
        CommandNews::Failed(Refusal::new(code, format!("{}: {why}", self.what)))
    }

    /// A program that is not there, or cannot be started, is the fault of who asks for it.
    fn not_run(&self, error: Error) -> CommandNews {
        let theirs = error.io().map(io::Error::kind).is_some_and(|kind| {
            matches!(
                kind,
                io::ErrorKind::NotFound
                    | io::ErrorKind::PermissionDenied
                    | io::ErrorKind::NotADirectory
                    | io::ErrorKind::ArgumentListTooLong
            )
        });
        match theirs {
            true => self.failed(Code::BadRequest, &error.to_string()),
            false => CommandNews::Failed(error.into()),
        }
    }
}

/// As a shell says it.
fn exit_code(status: ExitStatus) -> i32 {
    let by_signal = status.signal().map(|signal| 128 + signal);
    status.code().or(by_signal).unwrap_or(1)
}
