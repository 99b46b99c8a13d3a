//! A directory that is read beside the sending of its archive, so that what it holds is known when that has been deployed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crate::api::error::Error;
use crate::formats::archive::{PackPlan, ScannedTree};
use crate::system::threads;

/// The stack of the thread: it has a hash on it, and starts another one.
const STACK: usize = 256 << 10;

/// A thread `list`, which gives way to what is sent. It stops when nobody waits for it any longer.
pub(crate) struct TreeReading {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<ScannedTree, Error>>>,
}

impl TreeReading {
    /// Begins to read all that is planned.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn begin(plan: Arc<PackPlan>) -> std::io::Result<TreeReading> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = threads::spawn("list", STACK, move || {
            threads::give_way();
            ScannedTree::read(plan, None, false, &stopped)
        })?;
        Ok(TreeReading {
            stop,
            thread: Some(thread),
        })
    }

    /// What stops it.
    pub(crate) fn stop(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// What was read, once all is.
    ///
    /// # Errors
    /// A file that cannot be read or is not what it was when the plan was made.
    pub(crate) fn end(mut self) -> Result<ScannedTree, Error> {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(read)) => read,
            Some(Err(_)) | None => Err(Error::new("listing the directory", "the thread panicked")),
        }
    }
}

impl Drop for TreeReading {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
