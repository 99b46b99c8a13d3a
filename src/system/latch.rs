//! A latch: threads wait until it is opened, once and for good.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Closed at first.
#[derive(Debug, Default)]
pub struct Latch {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Latch {
    /// Lets go on all that wait, and all that come later.
    pub fn open(&self) {
        *self.lock() = true;
        self.opened.notify_all();
    }

    pub fn is_open(&self) -> bool {
        *self.lock()
    }

    /// Waits until it is open.
    pub fn wait(&self) {
        let closed = |open: &mut bool| !*open;
        let open = self.opened.wait_while(self.lock(), closed);
        drop(open.unwrap_or_else(PoisonError::into_inner));
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn all_wait_until_it_is_open_and_nobody_after() {
        let latch = Arc::new(Latch::default());
        let (sender, passed) = crossbeam_channel::bounded(2);
        for name in ["latch-1", "latch-2"] {
            let (latch, sender) = (Arc::clone(&latch), sender.clone());
            crate::system::threads::spawn(name, 64 << 10, move || {
                latch.wait();
                sender.send(()).unwrap();
            })
            .unwrap();
        }
        assert!(!latch.is_open());
        assert!(passed.is_empty());
        latch.open();
        passed.recv().unwrap();
        passed.recv().unwrap();
        assert!(latch.is_open());
        latch.wait();
    }
}
