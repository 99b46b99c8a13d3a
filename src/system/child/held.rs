//! Processes that are waited for and signalled without their number coming to mean another one.

use std::io;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process, pidfd_open, pidfd_send_signal,
    waitid,
};

use crate::system::kernel;
use crate::system::poll::{PollFd, PollFlags, wait_until};
use crate::system::threads;

/// The thread below only waits.
const STACK_BYTES: usize = 32 << 10;
/// How often a process without a descriptor is looked at, before Linux 5.3.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// A descriptor that can be read, or is hung up, once a child of this process has exited. The child is not collected.
///
/// # Errors
/// When the system has no descriptor, or no thread, left.
pub(super) fn exit_of(child: Pid) -> io::Result<OwnedFd> {
    match pidfd_open(child, PidfdFlags::empty()) {
        Err(error) if kernel::lacks(error) => exit_by_thread(child),
        opened => Ok(opened?),
    }
}

/// As [`exit_of`], before Linux 5.3: a thread waits, and then closes its end of a pipe.
fn exit_by_thread(child: Pid) -> io::Result<OwnedFd> {
    let (exit, held) = pipe_with(PipeFlags::CLOEXEC)?;
    threads::spawn("exit", STACK_BYTES, move || {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        // Ends with an error where somebody has collected the child already, which has exited then.
        while matches!(waitid(WaitId::Pid(child), options), Err(Errno::INTR)) {}
        drop(held);
    })?;
    Ok(exit)
}

/// A process that need not be a child of this one.
pub(super) enum Held {
    Descriptor(OwnedFd),
    /// Before Linux 5.3, only the number. It may come to mean another process between a look at it and a signal.
    Number(Pid),
}

impl Held {
    /// `None` if it is gone.
    pub(super) fn new(process: Pid) -> io::Result<Option<Held>> {
        match pidfd_open(process, PidfdFlags::empty()) {
            Ok(descriptor) => Ok(Some(Held::Descriptor(descriptor))),
            Err(Errno::SRCH) => Ok(None),
            Err(error) if kernel::lacks(error) => Ok(Some(Held::Number(process))),
            Err(error) => Err(error.into()),
        }
    }

    /// Signals it, if `is_it` says of the number that it is still the one that was meant.
    pub(super) fn signal(&self, signal: Signal, is_it: impl Fn(Pid) -> bool) {
        // Who is gone already needs no signal.
        let _ = match self {
            Held::Descriptor(descriptor) => pidfd_send_signal(descriptor, signal),
            Held::Number(process) if is_it(*process) => kill_process(*process, signal),
            Held::Number(_) => Ok(()),
        };
    }
}

/// Waits until all have ended, or the time is over.
pub(super) fn all_gone(
    processes: &[Held],
    time: Duration,
    is_it: impl Fn(Pid) -> bool,
) -> io::Result<bool> {
    let until = Instant::now() + time;
    let mut left = processes.iter().collect::<Vec<_>>();
    loop {
        left.retain(|held| match held {
            Held::Descriptor(_) => true,
            Held::Number(process) => is_it(*process),
        });
        if left.is_empty() {
            return Ok(true);
        }
        let mut polled = Vec::with_capacity(left.len());
        polled.extend(left.iter().filter_map(|held| match held {
            Held::Descriptor(descriptor) => Some(PollFd::new(descriptor, PollFlags::IN)),
            Held::Number(_) => None,
        }));
        if polled.is_empty() {
            if Instant::now() >= until {
                return Ok(false);
            }
            thread::sleep(LOOK_AGAIN);
            continue;
        }
        if !wait_until(&mut polled, Some(until))? {
            return Ok(false);
        }
        let alive = polled.iter().map(|polled| polled.revents().is_empty());
        let alive = alive.collect::<Vec<_>>();
        let mut alive = alive.into_iter();
        left.retain(|held| match held {
            Held::Descriptor(_) => alive.next().unwrap_or(false),
            Held::Number(_) => true,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn an_exit_is_told_with_and_without_descriptors_of_processes() {
        for exit_of in [exit_of, exit_by_thread] {
            let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
            let exit = exit_of(Pid::from_child(&child)).unwrap();
            let ready = |time| {
                let mut polled = [PollFd::new(&exit, PollFlags::IN)];
                wait_until(&mut polled, Some(Instant::now() + time)).unwrap()
            };
            assert!(!ready(Duration::from_millis(20)));
            drop(child.stdin.take());
            assert!(ready(Duration::from_secs(60)));
            assert!(child.wait().unwrap().success());
        }
    }

    #[test]
    fn a_process_is_ended_with_and_without_a_descriptor() {
        let is_it = |_| true;
        for number_alone in [false, true] {
            let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
            let pid = Pid::from_child(&child);
            let held = match number_alone {
                true => Held::Number(pid),
                false => Held::new(pid).unwrap().unwrap(),
            };
            let held = [held];
            assert!(!all_gone(&held, Duration::from_millis(20), is_it).unwrap());
            held[0].signal(Signal::KILL, |_| !number_alone);
            if number_alone {
                // Another one has the number by now.
                assert!(child.try_wait().unwrap().is_none());
                held[0].signal(Signal::KILL, is_it);
            }
            assert!(!child.wait().unwrap().success());
            assert!(all_gone(&held, Duration::from_secs(60), |_| false).unwrap());
        }
    }
}
