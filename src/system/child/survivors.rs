//! Processes that outlived who started them, found by what their environment says.
//!
//! A process group cannot be trusted with this: its id is not on disk when the server is killed, and `setsid` leaves it.
//! The environment that a child was started with is inherited by all that it starts, unless one of them clears it.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::api::error::{Doing, Error};
use crate::api::name::DeploymentId;
use crate::system::child::{GRACE, MARK};
use crate::system::poll::{PollFd, PollFlags, wait_until};

/// The environment variable with the deployment that a child belongs to.
pub const DEPLOYMENT: &str = "GANGPLANK_DEPLOYMENT_ID";
/// The environment variable with the name of the process, kept running, that a child descends from.
pub const PROCESS: &str = "GANGPLANK_PROCESS";
/// A process may start another one while it is being looked for. Each round finds those of the one before.
const ROUNDS_MAX: usize = 5;

/// Whose processes are meant.
#[derive(Debug, Clone, Copy)]
pub enum SurvivorScope<'a> {
    /// The whole server's.
    All,
    /// Those of one deployment.
    Deployment(DeploymentId),
    /// Those of one process that is kept running, by the value of its [`PROCESS`] variable.
    Process(&'a str),
}

/// Ends every process that was started for a server with this canonical root, or only some of them, and says how many there
/// were: SIGTERM, a second, SIGKILL. Never this process, nor one that it descends from.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn end_survivors(root: &Path, whose: SurvivorScope<'_>) -> Result<usize, Error> {
    let what = || format!("looking for processes that {} left running", root.display());
    let mut marks = vec![[MARK.as_bytes(), b"=", root.as_os_str().as_bytes()].concat()];
    match whose {
        SurvivorScope::All => {}
        SurvivorScope::Deployment(id) => marks.push(format!("{DEPLOYMENT}={id}").into_bytes()),
        SurvivorScope::Process(name) => marks.push(format!("{PROCESS}={name}").into_bytes()),
    }
    let mut ended = 0;
    for _ in 0..ROUNDS_MAX {
        let found = find(&marks).doing(what)?;
        if found.is_empty() {
            break;
        }
        ended += found.len();
        for (signal, grace) in [(Signal::TERM, GRACE), (Signal::KILL, GRACE)] {
            for process in &found {
                // Who is gone already needs no signal.
                let _ = pidfd_send_signal(process, signal);
            }
            if all_gone(&found, grace).doing(what)? {
                break;
            }
        }
    }
    Ok(ended)
}

/// The processes that carry all marks, held by descriptors that no other process can come to stand behind.
fn find(marks: &[Vec<u8>]) -> io::Result<Vec<OwnedFd>> {
    let spared = ancestors();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if spared.contains(&pid) || !carries(pid, marks) {
            continue;
        }
        let Some(process) = Pid::from_raw(pid) else {
            continue;
        };
        match pidfd_open(process, PidfdFlags::empty()) {
            // Looked at again: the id may have gone to somebody else before the descriptor was there.
            Ok(process) if carries(pid, marks) => found.push(process),
            Ok(_) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

/// Whether a process was started with all of these. Another user's process, a zombie or none at all was not.
fn carries(pid: i32, marks: &[Vec<u8>]) -> bool {
    std::fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environment| {
        let has = |mark: &Vec<u8>| {
            environment
                .split(|byte| *byte == 0)
                .any(|entry| entry == mark)
        };
        marks.iter().all(has)
    })
}

/// This process and those that it descends from.
fn ancestors() -> Vec<i32> {
    let mut pids = Vec::new();
    let mut pid = i32::try_from(std::process::id()).ok();
    while let Some(at) = pid.filter(|pid| *pid > 0 && !pids.contains(pid)) {
        pids.push(at);
        pid = std::fs::read_to_string(format!("/proc/{at}/stat"))
            .ok()
            // The name, in brackets, may hold anything. Behind it come the state and the parent.
            .and_then(|stat| {
                stat.rsplit_once(')')?
                    .1
                    .split_whitespace()
                    .nth(1)?
                    .parse()
                    .ok()
            });
    }
    pids
}

/// Waits until all have ended, or the time is over.
fn all_gone(processes: &[OwnedFd], time: Duration) -> io::Result<bool> {
    let until = Instant::now() + time;
    let mut left = processes.iter().collect::<Vec<_>>();
    while !left.is_empty() {
        let mut polled = left
            .iter()
            .map(|process| PollFd::new(*process, PollFlags::IN))
            .collect::<Vec<_>>();
        if !wait_until(&mut polled, Some(until))? {
            return Ok(false);
        }
        let alive = polled
            .iter()
            .map(|polled| polled.revents().is_empty())
            .collect::<Vec<_>>();
        let mut alive = alive.into_iter();
        left.retain(|_| alive.next().unwrap_or(false));
    }
    Ok(true)
}
