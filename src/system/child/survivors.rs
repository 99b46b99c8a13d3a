//! Processes that outlived who started them, found by what their environment says.
//!
//! A process group cannot be trusted with this: its id is not on disk when the server is killed, and `setsid` leaves it.
//! The environment that a child was started with is inherited by all that it starts, unless one of them clears it.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal};

use crate::api::error::{Doing, Error};
use crate::api::name::Project;
use crate::system::child::held::{Held, all_gone};
use crate::system::child::{GRACE, MARK};
use crate::system::hex;

/// The environment variable with the deployment that a child belongs to.
pub const DEPLOYMENT: &str = "GANGPLANK_DEPLOYMENT_ID";
/// The environment variable with the component that a child belongs to.
pub const PROJECT: &str = "GANGPLANK_PROJECT";
/// The environment variable with the name of the process, kept running, or of the command that a child descends from.
pub const PROCESS: &str = "GANGPLANK_PROCESS";
/// How the name of a command begins that somebody runs and waits for. No process type has a colon.
pub const COMMAND: &str = "command:";
/// A process may start another one while it is being looked for. Each round finds those of the one before.
const ROUNDS_MAX: usize = 5;

/// How the children of a server are known: what the variable [`MARK`] says in their environment.
#[derive(Debug, Clone)]
pub struct ServerMark {
    /// The id of the server's root, which stays when the root is moved or mounted elsewhere.
    id: OsString,
    /// The root's path, which the children of earlier versions carry.
    path: PathBuf,
}

impl ServerMark {
    /// The mark of the server of a root.
    pub fn new(id: impl Into<OsString>, path: &Path) -> ServerMark {
        ServerMark {
            id: id.into(),
            path: path.to_owned(),
        }
    }

    /// The variable that each child gets.
    pub fn variable(&self) -> (&'static str, &OsStr) {
        (MARK, &self.id)
    }

    fn entries(&self) -> [Vec<u8>; 2] {
        let entry = |value: &OsStr| [MARK.as_bytes(), b"=", value.as_bytes()].concat();
        [entry(&self.id), entry(self.path.as_os_str())]
    }
}

/// 128 random bits, in hex: a value of [`PROCESS`] that nobody else has.
///
/// # Errors
/// When the system gives none.
pub fn random() -> Result<String, Error> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).doing(|| "making a name for a process".into())?;
    Ok(hex::encode(random))
}

/// Whose processes are meant.
#[derive(Debug, Clone, Copy)]
pub enum SurvivorScope<'a> {
    /// The whole server's.
    All,
    /// Those of one component, but for the commands that somebody runs in it.
    Project(&'a Project),
    /// Those of one process that is kept running or of one command, by the value of its [`PROCESS`] variable.
    Process(&'a str),
}

/// What is looked for in an environment.
struct MarkSearch {
    /// One of these.
    server: [Vec<u8>; 2],
    /// And this one, if there is any.
    scope: Option<Vec<u8>>,
    /// And none that begins like this.
    spared: Option<Vec<u8>>,
}

/// Ends every process that was started for a server, or only some of them, and says how many there were: SIGTERM, a
/// second, SIGKILL. Never this process, nor one that it descends from.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn end_survivors(mark: &ServerMark, whose: SurvivorScope<'_>) -> Result<usize, Error> {
    let root = mark.path.display();
    let what = || format!("looking for processes that {root} left running");
    let search = MarkSearch {
        server: mark.entries(),
        scope: match whose {
            SurvivorScope::All => None,
            SurvivorScope::Project(project) => Some(format!("{PROJECT}={project}").into_bytes()),
            SurvivorScope::Process(name) => Some(format!("{PROCESS}={name}").into_bytes()),
        },
        spared: match whose {
            SurvivorScope::Project(_) => Some(format!("{PROCESS}={COMMAND}").into_bytes()),
            SurvivorScope::All | SurvivorScope::Process(_) => None,
        },
    };
    let is_meant = |pid: Pid| carries(pid, &search);
    let mut ended = 0;
    for _ in 0..ROUNDS_MAX {
        let found = find(&search).doing(what)?;
        if found.is_empty() {
            break;
        }
        ended += found.len();
        for (signal, grace) in [(Signal::TERM, GRACE), (Signal::KILL, GRACE)] {
            for process in &found {
                process.signal(signal, is_meant);
            }
            if all_gone(&found, grace, is_meant).doing(what)? {
                break;
            }
        }
    }
    Ok(ended)
}

/// The processes that carry what is looked for, held by descriptors that no other process can come to stand behind.
fn find(search: &MarkSearch) -> io::Result<Vec<Held>> {
    let spared = ancestors();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Some(process) = Pid::from_raw(pid) else {
            continue;
        };
        if spared.contains(&pid) || !carries(process, search) {
            continue;
        }
        match Held::new(process)? {
            // Looked at again: the id may have gone to somebody else before the descriptor was there.
            Some(held) if carries(process, search) => found.push(held),
            _ => {}
        }
    }
    Ok(found)
}

/// Whether a process was started with what is looked for. Another user's process, a zombie or none at all was not.
fn carries(process: Pid, search: &MarkSearch) -> bool {
    let pid = process.as_raw_pid();
    std::fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environment| {
        let has = |wanted: &Vec<u8>| {
            let mut entries = environment.split(|byte| *byte == 0);
            entries.any(|entry| entry == wanted)
        };
        let is_spared = search.spared.as_ref().is_some_and(|start| {
            let mut entries = environment.split(|byte| *byte == 0);
            entries.any(|entry| entry.starts_with(start))
        });
        search.server.iter().any(has) && search.scope.iter().all(has) && !is_spared
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
