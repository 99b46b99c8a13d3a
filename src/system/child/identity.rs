//! Starting a command as another user.
//!
//! The standard library can set a command's user, but not its groups. So a thread of its own becomes that user, on Linux
//! a matter of the thread alone, starts the command, which inherits it, and ends. It never comes back to being the server.

use std::io;
use std::path::Path;
use std::process::{Child, Command};
use std::thread;

use rustix::fs::{Access, access};
use rustix::process::{Gid, Pid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::api::error::{Doing, Error};
use crate::system::account::Account;
use crate::system::child::orphans;
use crate::system::host;
use crate::system::threads;

/// The stack of a thread that only starts something.
const STACK_BYTES: usize = 128 << 10;
/// The stack of a thread that works as a user: as much as a thread that deploys has.
const WORK_STACK_BYTES: usize = 512 << 10;

/// Starts a command as `account`, or as the server's own user.
pub(super) fn spawn(command: &mut Command, account: Option<&Account>) -> io::Result<Child> {
    let mut spawn = || {
        let child = command.spawn()?;
        // What a program makes of a limit that it cannot have expected, such as closing a million descriptors one by one, is
        // slow. Where it cannot be lowered, it has to do.
        let _ = host::give_first_open_files(Pid::from_child(&child));
        Ok(child)
    };
    orphans::spawn_own(|| match account {
        None => spawn(),
        Some(account) => become_and(account, spawn),
    })
}

/// Whether a user, or the server's own, may make something in a directory.
pub fn can_write(account: Option<&Account>, dir: &Path) -> bool {
    let look = || {
        // A relative one would be looked for in the server's own directory.
        let dir = dir.is_absolute().then(|| dir.join("."));
        let dir = dir.ok_or(io::ErrorKind::NotFound)?;
        Ok(access(dir, Access::WRITE_OK | Access::EXEC_OK)?)
    };
    let may = match account {
        None => look(),
        Some(account) => become_and(account, look),
    };
    may.is_ok()
}

/// Makes sure that a user may go into a directory.
///
/// # Errors
/// When it may not, or when this process may not become that user.
pub fn can_enter(account: &Account, dir: &Path) -> Result<(), Error> {
    let what = || format!("entering {} as {}", dir.display(), account.name);
    become_and(account, || std::fs::metadata(dir.join(".")).map(drop)).doing(what)
}

/// Does something as a user, or as the server's own: what that user may not read or write, it may not either.
///
/// # Errors
/// Those of the work, or when this process may not become that user.
pub fn act_as<T: Send>(
    account: Option<&Account>,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    match account {
        None => work(),
        Some(account) => become_with(account, WORK_STACK_BYTES, work),
    }
}

/// Does something small on a thread that is that user.
fn become_and<T: Send>(
    account: &Account,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    become_with(account, STACK_BYTES, work)
}

fn become_with<T: Send>(
    account: &Account,
    stack_bytes: usize,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let mut done = None;
    let keep = || {
        done = Some(work()?);
        Ok(())
    };
    work_as(account, stack_bytes, Box::new(keep))?;
    done.ok_or_else(|| io::Error::other("the work has no result"))
}

/// The same of any work: once in the program, and not once for each.
fn work_as(
    account: &Account,
    stack_bytes: usize,
    work: Box<dyn FnOnce() -> io::Result<()> + Send + '_>,
) -> io::Result<()> {
    thread::scope(|scope| {
        let thread = threads::spawn_scoped(scope, "run-as", stack_bytes, || {
            let groups: Vec<Gid> = account
                .groups
                .iter()
                .map(|group| Gid::from_raw(*group))
                .collect();
            let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
            // The user last: nobody but root may set the others.
            set_thread_groups(&groups)?;
            set_thread_res_gid(gid, gid, gid)?;
            set_thread_res_uid(uid, uid, uid)?;
            work()
        })?;
        match thread.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
