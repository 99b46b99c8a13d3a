//! One command: its lines as they are printed, a deadline, a stop, and the end of its whole family.
//!
//! The command leads a process group of its own. [`run`] needs no thread but the caller's: it polls both pipes, the
//! command and the [`Stop`] at once. Whatever happens, when it returns the group has been killed, the command has been
//! waited for, and nothing that the command itself wrote is missing. Nobody who keeps a pipe open can hold it up.
//!
//! What is *not* guaranteed: a descendant that made a group of its own (`setsid`) outlives the group. Its environment
//! still has the [`MARK`], by which [`end_survivors`] finds it.

mod held;
mod identity;
mod lines;
mod orphans;
mod pieces;
mod survivors;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::api::error::{Doing, Error};
use crate::api::event::Stream;
use crate::system::account::Account;
pub use crate::system::child::identity::{act_as, can_enter, can_write};
pub use crate::system::child::lines::Line;
use crate::system::child::lines::Splitter;
pub use crate::system::child::orphans::reap_orphans;
pub use crate::system::child::pieces::{OutputPiece, OutputSplitter};
pub use crate::system::child::survivors::{
    COMMAND, DEPLOYMENT, PROCESS, PROJECT, ServerMark, SurvivorScope, end_survivors, random,
};
use crate::system::memory::Pages;
use crate::system::poll::{PollFd, PollFlags, wait_until};
use crate::system::stop::Stop;

/// The environment variable that marks every child, and its children, with the id of the server's root, so that a later
/// server can find what this one left running. It is never an input, so nobody's shell has it.
const MARK: &str = "GANGPLANK_CHILD";

/// How long a family may tidy up between SIGTERM and SIGKILL. A package manager removes its locks within a tenth of it,
/// and a server that ends within ten seconds still has time for the rest.
const GRACE: Duration = Duration::from_secs(1);
/// How long a silent pipe stays open after the command has ended. Its killed family is gone within milliseconds, so who
/// still holds it does not belong to it any longer.
const LINGER: Duration = Duration::from_millis(300);
/// The bound of all lingering, for a stranger that goes on printing.
const LINGER_MAX: Duration = Duration::from_secs(2);
/// A pipe's own capacity: one read empties it.
const BUFFER_LEN: usize = 64 << 10;
/// So many lines of a read are given out together: enough that what is done once for all of them costs nothing, and few
/// enough that a pipe full of blank lines takes little memory.
const LINES_AT_ONCE: usize = 256;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By itself, or by a signal that was not ours.
    Exited(ExitStatus),
    /// Its time was over.
    TimedOut,
    /// The [`Stop`] was pulled.
    Stopped,
}

/// How a command is run, but for what it is.
pub struct RunOptions<'a> {
    /// The user that it runs as, if not the server's own.
    pub account: Option<&'a Account>,
    /// How long it may take.
    pub limit: Option<Duration>,
    /// How long its family may tidy up between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// Its standard input.
    pub stdin: Stdio,
    /// What it leaves behind when it ends by itself is its own affair.
    pub spares_family: bool,
    /// Is told the process id.
    pub started: Option<&'a dyn Fn(u32)>,
}

impl<'a> RunOptions<'a> {
    /// For something that is to end by itself within a time, and leaves nothing behind.
    pub fn within(limit: Duration, account: Option<&'a Account>) -> RunOptions<'a> {
        RunOptions {
            account,
            limit: Some(limit),
            grace: GRACE,
            stdin: no_input(),
            spares_family: false,
            started: None,
        }
    }
}

/// An input that has ended.
pub fn no_input() -> Stdio {
    if let Ok(null) = File::open("/dev/null") {
        return Stdio::from(null);
    }
    // In a root without devices. Nobody holds the other end.
    match pipe_with(PipeFlags::CLOEXEC) {
        Ok((reader, _)) => Stdio::from(reader),
        Err(_) => Stdio::null(),
    }
}

/// Runs a command to its end and gives its lines to `on_line`, each as soon as it is complete. A child is read only as
/// fast as `on_line` returns. Its environment is the caller's business.
///
/// # Errors
/// When the command cannot be started; [`Error::io`] tells a missing program. When `on_line` fails: its error, after the
/// family was killed.
pub fn run(
    command: Command,
    how: RunOptions<'_>,
    stop: &Stop,
    on_line: &mut dyn FnMut(Line) -> Result<(), Error>,
) -> Result<Ended, Error> {
    run_by_reads(command, how, stop, &mut |lines| {
        lines.into_iter().try_for_each(&mut *on_line)
    })
}

/// Takes the lines that one read of an output has completed: one or more, and at most [`LINES_AT_ONCE`].
pub type OnRead<'a> = &'a mut dyn FnMut(Vec<Line>) -> Result<(), Error>;

/// As [`run`], with the lines of each read together, for whoever can do more with many than with one. None of them waits
/// for what is still to be printed.
///
/// # Errors
/// As [`run`], with `on_lines` for `on_line`.
pub fn run_by_reads(
    command: Command,
    how: RunOptions<'_>,
    stop: &Stop,
    on_lines: OnRead<'_>,
) -> Result<Ended, Error> {
    let mut splitters = [Stream::Stdout, Stream::Stderr].map(Splitter::new);
    run_raw(command, how, stop, &mut |stream, bytes| {
        let splitter = &mut splitters[usize::from(stream == Stream::Stderr)];
        let mut lines = Vec::new();
        let mut gather = |line| {
            lines.push(line);
            match lines.len() {
                LINES_AT_ONCE => on_lines(std::mem::take(&mut lines)),
                _ => Ok(()),
            }
        };
        match bytes.is_empty() {
            true => splitter.finish(&mut gather)?,
            false => splitter.push(bytes, &mut gather)?,
        }
        match lines.is_empty() {
            true => Ok(()),
            false => on_lines(lines),
        }
    })
}

/// Takes what a command prints to one of its outputs; nothing of it is the end of that output, and may come again.
pub type OnOutput<'a> = &'a mut dyn FnMut(Stream, &[u8]) -> Result<(), Error>;

/// As [`run`], with the output as it comes.
///
/// # Errors
/// As [`run`].
pub fn run_raw(
    mut command: Command,
    how: RunOptions<'_>,
    stop: &Stop,
    on_output: OnOutput<'_>,
) -> Result<Ended, Error> {
    if stop.stopped() {
        return Ok(Ended::Stopped);
    }
    command
        .stdin(how.stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let begin = Instant::now();
    let child = identity::spawn(&mut command, how.account)
        .doing(|| format!("starting {}", Path::new(command.get_program()).display()))?;
    let what = format!("watching {}", Path::new(command.get_program()).display());
    let what = || what.clone();
    let mut family = Family {
        leader: child,
        collected: false,
        spared: false,
    };
    // Our copies of what it was given, a listening socket perhaps, are not to outlive this.
    drop(command);
    if let Some(started) = how.started {
        started(family.leader.id());
    }
    let leader = held::exit_of(family.id()).doing(what)?;
    let mut outputs = [
        ChildOutput::new(family.leader.stdout.take().map(Into::into), Stream::Stdout)
            .doing(what)?,
        ChildOutput::new(family.leader.stderr.take().map(Into::into), Stream::Stderr)
            .doing(what)?,
    ];
    let mut buffer = Pages::new(BUFFER_LEN);
    let until = EndCondition {
        deadline: how.limit.and_then(|limit| begin.checked_add(limit)),
        grace: how.grace,
        stop,
    };
    let ended = attend(
        &mut family,
        &leader,
        &mut outputs,
        &mut buffer,
        &until,
        on_output,
    )?;
    family.spared = how.spares_family && ended.is_none();
    let status = family.end().doing(what)?;
    linger(&mut outputs, &mut buffer, on_output)?;
    Ok(ended.unwrap_or(Ended::Exited(status)))
}

/// When a command is told to end.
struct EndCondition<'a> {
    deadline: Option<Instant>,
    grace: Duration,
    stop: &'a Stop,
}

/// Reads until the command has ended, or has been told to and its grace is over. Gives the reason if it was told to.
fn attend(
    family: &mut Family,
    leader: &OwnedFd,
    outputs: &mut [ChildOutput; 2],
    buffer: &mut [u8],
    until: &EndCondition<'_>,
    on_output: OnOutput<'_>,
) -> Result<Option<Ended>, Error> {
    let mut told: Option<(Ended, Instant)> = None;
    let mut exited = false;
    loop {
        // The rest of the family has the grace too; with both pipes closed there is none left, or none that speaks.
        match told {
            Some((why, _)) if exited && outputs.iter().all(ChildOutput::closed) => {
                return Ok(Some(why));
            }
            _ => {}
        }
        let end = told.map_or(until.deadline, |(_, end)| Some(end));
        // A descriptor that has nothing new to say would be ready for ever.
        let others = [
            (!exited).then(|| leader.as_fd()),
            told.is_none().then(|| until.stop.fd()).flatten(),
        ];
        let ready = wait(outputs, others, end).doing(|| "waiting for a command".into())?;
        exited |= ready[2];
        let stopped = ready[3];
        let over = end.is_some_and(|end| Instant::now() >= end);
        match told {
            None if exited => return Ok(None),
            None if stopped || over => {
                let why = if stopped {
                    Ended::Stopped
                } else {
                    Ended::TimedOut
                };
                family.signal(Signal::TERM);
                told = Some((why, Instant::now() + until.grace));
            }
            Some((why, _)) if over => return Ok(Some(why)),
            _ => {}
        }
        for (output, _) in outputs.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
            output.read(buffer, on_output)?;
        }
    }
}

/// Reads what is still in the pipes when the command has ended. What was in them at that time is read whatever it
/// takes; what a stranger adds is read for a bounded time.
fn linger(
    outputs: &mut [ChildOutput; 2],
    buffer: &mut [u8],
    on_output: OnOutput<'_>,
) -> Result<(), Error> {
    let what = || "reading the rest of a command's output".to_owned();
    let mut owed = [0, 0];
    for (owed, output) in owed.iter_mut().zip(outputs.iter()) {
        *owed = output.waiting().doing(what)?;
    }
    let end = Instant::now() + LINGER_MAX;
    let mut silent_until = Instant::now() + LINGER;
    while !outputs.iter().all(ChildOutput::closed) {
        let ready = wait(outputs, [None, None], Some(silent_until.min(end))).doing(what)?;
        let mut any = false;
        for (n, output) in outputs.iter_mut().enumerate().filter(|(n, _)| ready[*n]) {
            let len = output.read(buffer, on_output)?;
            owed[n] = owed[n].saturating_sub(len);
            any = true;
        }
        if any {
            silent_until = Instant::now() + LINGER;
        }
        if owed == [0, 0] && (!any || Instant::now() >= end) {
            break;
        }
    }
    outputs
        .iter_mut()
        .try_for_each(|output| on_output(output.stream, &[]))
}

/// Waits for the open pipes and the others until a time, and says which are ready.
fn wait(
    outputs: &[ChildOutput; 2],
    others: [Option<BorrowedFd<'_>>; 2],
    until: Option<Instant>,
) -> io::Result<[bool; 4]> {
    let all = [outputs[0].fd(), outputs[1].fd(), others[0], others[1]];
    let mut polled = Vec::with_capacity(all.len());
    polled.extend(
        all.iter()
            .flatten()
            .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)),
    );
    wait_until(&mut polled, until)?;
    let mut polled = polled.iter().map(|polled| !polled.revents().is_empty());
    Ok(all.map(|fd| fd.is_some() && polled.next().unwrap_or(false)))
}

/// One of the command's two outputs.
struct ChildOutput {
    pipe: Option<std::fs::File>,
    stream: Stream,
}

impl ChildOutput {
    fn new(pipe: Option<OwnedFd>, stream: Stream) -> io::Result<ChildOutput> {
        if let Some(pipe) = &pipe {
            // Only our end: the child's own writes block as it expects.
            rustix::io::ioctl_fionbio(pipe, true)?;
        }
        Ok(ChildOutput {
            pipe: pipe.map(Into::into),
            stream,
        })
    }

    fn closed(&self) -> bool {
        self.pipe.is_none()
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// How many bytes are in the pipe.
    fn waiting(&self) -> io::Result<usize> {
        let len = self.pipe.as_ref().map(rustix::io::ioctl_fionread);
        Ok(usize::try_from(len.transpose()?.unwrap_or(0)).unwrap_or(usize::MAX))
    }

    /// Reads once, and closes the pipe at its end.
    fn read(&mut self, buffer: &mut [u8], on_output: OnOutput<'_>) -> Result<usize, Error> {
        let Some(pipe) = &mut self.pipe else {
            return Ok(0);
        };
        match pipe.read(buffer) {
            Ok(0) => {
                self.pipe = None;
                on_output(self.stream, &[])?;
                Ok(0)
            }
            Ok(len) => {
                on_output(self.stream, &buffer[..len])?;
                Ok(len)
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                Ok(0)
            }
            Err(error) => Err(Error::new("reading a command's output", error)),
        }
    }
}

/// The process group of a command. However it is left, it is killed and its leader waited for.
struct Family {
    leader: Child,
    collected: bool,
    /// Only the leader is ours to end.
    spared: bool,
}

impl Family {
    fn id(&self) -> Pid {
        Pid::from_child(&self.leader)
    }

    /// Signals the group. Only while the leader has not been waited for: after that, its id may be another group's.
    fn signal(&self, signal: Signal) {
        // It can only fail if nobody is left in the group, which is what is wanted.
        let _ = kill_process_group(self.id(), signal);
    }

    /// Kills whoever is left, and collects the leader.
    fn end(&mut self) -> io::Result<ExitStatus> {
        // In this order: until it is waited for, even a dead leader keeps the group's id ours.
        if !self.spared {
            self.signal(Signal::KILL);
        }
        self.collected = true;
        let status = self.leader.wait();
        orphans::forget(self.leader.id());
        status
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        if !self.collected {
            // There is nobody to tell, and a process that cannot be waited for is not ours.
            let _ = self.end();
        }
    }
}

#[cfg(test)]
mod tests;
