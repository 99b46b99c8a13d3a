//! Putting on disk what was written of an upload while the rest of it arrives. It promises nothing: only the sync before a
//! release goes live does, and finds less to do then.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, TryLockError};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};

use crate::api::error::Refusal;
use crate::formats::archive::free_space::unwritten;
use crate::system::{files, threads};

/// The pause between the beginnings of two syncs. What takes no longer is synced once, at its end.
const EVERY: Duration = Duration::from_millis(200);

/// Less is not worth a sync: an upload that trickles in makes the disk work no more than one that comes at once.
const WORTH: u64 = 8 << 20;

/// It calls the system, and nothing else.
const STACK: usize = 32 << 10;

/// Whoever syncs at the moment syncs what others have written too, so one is enough.
static SYNCING: Mutex<()> = Mutex::new(());

/// A thread `sync` that begins once an upload takes a while.
pub(super) struct EarlySync<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    /// When the last sync was asked for, and how much had come by then.
    asked: Instant,
    by_then: u64,
    /// The file systems of the upload, opened before anything was written: an error since then is told.
    disks: Vec<File>,
    running: Option<RunningSync<'scope>>,
}

/// The thread, and what asks it for a sync, and ends it when it is dropped.
struct RunningSync<'scope> {
    ask: Sender<()>,
    thread: ScopedJoinHandle<'scope, Result<(), Refusal>>,
}

impl<'scope, 'env> EarlySync<'scope, 'env> {
    pub(super) fn new(
        scope: &'scope Scope<'scope, 'env>,
        release: &Path,
        payload: Option<&File>,
    ) -> EarlySync<'scope, 'env> {
        // Without it the upload goes on all the same, and says itself what is wrong with the disk.
        EarlySync {
            scope,
            asked: Instant::now(),
            by_then: 0,
            disks: disks(release, payload).unwrap_or_default(),
            running: None,
        }
    }

    /// Asks for a sync when it is time. `total` bytes have come, or more if several threads tell of them.
    pub(super) fn look(&mut self, total: u64) {
        if total.saturating_sub(self.by_then) < WORTH || self.asked.elapsed() < EVERY {
            return;
        }
        self.by_then = total;
        self.asked = Instant::now();
        if self.running.is_none() {
            self.start();
        }
        if let Some(running) = &self.running {
            // While it syncs, one question more waits; a third would ask the same.
            let _ = running.ask.try_send(());
        }
    }

    fn start(&mut self) {
        let (ask, asked) = bounded(1);
        let disks = std::mem::take(&mut self.disks);
        let work = move || {
            while asked.recv().is_ok() {
                match SYNCING.try_lock() {
                    Err(TryLockError::WouldBlock) => {}
                    // The lock guards nothing that could be broken.
                    Ok(_) | Err(TryLockError::Poisoned(_)) => sync(&disks)?,
                }
            }
            Ok(())
        };
        // Without the thread all is left to the end.
        let thread = threads::spawn_scoped(self.scope, "sync", STACK, work);
        self.running = thread.ok().map(|thread| RunningSync { ask, thread });
    }

    /// Ends it, and tells of what was not put on disk: the system tells an error once, so nobody else would.
    pub(super) fn end(self) -> Result<(), Refusal> {
        let Some(RunningSync { ask, thread }) = self.running else {
            return Ok(());
        };
        drop(ask);
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// A descriptor for each file system on which the upload is.
fn disks(release: &Path, payload: Option<&File>) -> std::io::Result<Vec<File>> {
    let release = File::open(release)?;
    let other = match payload {
        Some(file) if file.metadata()?.dev() != release.metadata()?.dev() => {
            Some(file.try_clone()?)
        }
        _ => None,
    };
    Ok([release].into_iter().chain(other).collect())
}

fn sync(disks: &[File]) -> Result<(), Refusal> {
    for disk in disks {
        files::sync_file_system(disk)
            .map_err(|error| unwritten("writing the upload to disk", error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::archive::testing::Temporary;

    #[test]
    fn it_begins_when_much_has_come_and_takes_a_while() {
        let at = Temporary::new();
        std::thread::scope(|scope| {
            let mut early = EarlySync::new(scope, &at.0, None);
            early.look(WORTH);
            assert!(early.running.is_none(), "it is over at once, perhaps");
            early.asked -= EVERY;
            early.look(WORTH - 1);
            assert!(early.running.is_none(), "it trickles");
            early.look(WORTH);
            assert!(early.running.is_some());
            assert!(early.end().is_ok());
        });
    }
}
