//! Named places in the life of a deployment at which a test can park the server, to kill it there.

/// A place where a test parks the server, to kill it there: it says that it is reached, and goes no further.
#[cfg(debug_assertions)]
pub(super) fn checkpoint(name: &str) {
    let Ok(asked) = std::env::var("GANGPLANK_TEST_CHECKPOINT") else {
        return;
    };
    if let Some(file) = asked
        .strip_prefix(name)
        .and_then(|rest| rest.strip_prefix('='))
    {
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
