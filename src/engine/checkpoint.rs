//! Named places in the life of a deployment at which a test can park the server, to kill it there.

/// A place where a test parks the server, to kill it there: it says that it is reached, and goes no further.
/// `NAME:N=FILE` parks it at the N-th time that the place is reached, `NAME=FILE` at the first. `NAME@N=FILE` holds up who
/// comes at the N-th time alone, until FILE is removed.
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
    let (place, times) = match place.find([':', '@']) {
        Some(at) => (&place[..at], &place[at..]),
        None => (place, ":1"),
    };
    if place != name {
        return;
    }
    let reached = REACHED.fetch_add(1, Ordering::Relaxed) + 1;
    let is_alone = times.starts_with('@');
    let is_meant = |times: usize| reached == times || (reached > times && !is_alone);
    if times[1..].parse().is_ok_and(is_meant) {
        // The test waits for this file; what goes wrong here is for it to notice.
        let _ = std::fs::write(file, name);
        while !is_alone || std::path::Path::new(file).exists() {
            std::thread::park_timeout(std::time::Duration::from_millis(10));
        }
    }
}

/// Nothing, in a program that is not a test's.
#[cfg(not(debug_assertions))]
pub(super) const fn checkpoint(_name: &str) {}
