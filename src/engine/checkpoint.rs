//! Named places in the life of a deployment at which a test can park the server, to kill it there.

/// A place where a test parks the server, to kill it there: it says that it is reached, and goes no further.
/// `NAME:N=FILE` parks it at the N-th time that the place is reached, `NAME=FILE` at the first.
#[cfg(debug_assertions)]
pub(super) fn checkpoint(name: &str) {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static REACHED: AtomicUsize = AtomicUsize::new(0);
    let Ok(asked) = std::env::var("GANGPLANK_TEST_CHECKPOINT") else {
        return;
    };
    let Some((place, file)) = asked.split_once('=') else {
        return;
    };
    let (place, times) = place.split_once(':').unwrap_or((place, "1"));
    if place != name {
        return;
    }
    let reached = REACHED.fetch_add(1, Ordering::Relaxed) + 1;
    if times.parse().is_ok_and(|times: usize| reached >= times) {
        // The test waits for this file; what goes wrong here is for it to notice.
        let _ = std::fs::write(file, name);
        loop {
            std::thread::park();
        }
    }
}

/// Nothing, in a program that is not a test's.
#[cfg(not(debug_assertions))]
pub(super) const fn checkpoint(_name: &str) {}
