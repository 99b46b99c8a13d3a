//! What a server collects that is the first process of its container: the dead whose parents are gone.
//!
//! The system makes process 1 the parent of every orphan, and an orphan that nobody waits for stays as a zombie. Our own
//! children are waited for by who started them, so they are left alone: their ids are known from before they can end.

use std::collections::BTreeSet;
use std::io;
use std::process::Child;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, WaitOptions, waitpid};

use crate::system::threads;

/// How long a zombie stays at most. It holds nothing but its number.
const EVERY: Duration = Duration::from_secs(1);
/// The thread reads small files and waits.
const STACK_BYTES: usize = 128 << 10;

/// The ids of the children that somebody here waits for.
static OWN: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

fn own() -> MutexGuard<'static, BTreeSet<u32>> {
    // Each change is one insertion or removal.
    OWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a child that is waited for by its id. Nobody else collects it, however soon it ends.
pub(super) fn spawn_own(spawn: impl FnOnce() -> io::Result<Child>) -> io::Result<Child> {
    if !is_first() {
        return spawn();
    }
    // Held while it starts: who looks for orphans must not see it before its id is known.
    let mut own = own();
    let child = spawn()?;
    own.insert(child.id());
    Ok(child)
}

/// The child was waited for.
pub(super) fn forget(id: u32) {
    if is_first() {
        own().remove(&id);
    }
}

fn is_first() -> bool {
    std::process::id() == 1
}

/// Collects orphans for as long as the process lives, if it is the first of its container.
///
/// # Errors
/// When there is no thread for it.
pub fn reap_orphans() -> io::Result<()> {
    if !is_first() {
        return Ok(());
    }
    let reap = || {
        loop {
            thread::sleep(EVERY);
            reap();
        }
    };
    threads::spawn("orphans", STACK_BYTES, reap).map(drop)
}

fn reap() {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return;
    };
    let own = own();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        if own.contains(&pid.unsigned_abs()) || !is_orphan(pid) {
            continue;
        }
        if let Some(pid) = Pid::from_raw(pid) {
            // It is dead and ours. What it was is nobody's business.
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        }
    }
}

/// Whether a process is dead, and process 1 is its parent.
fn is_orphan(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in brackets, may hold anything. Behind it come the state and the parent.
    let behind = stat.rsplit_once(')').map_or("", |(_, behind)| behind);
    let mut fields = behind.split_whitespace();
    (fields.next(), fields.next()) == (Some("Z"), Some("1"))
}
