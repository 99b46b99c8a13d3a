//! What the system says of this host and of this process.

use std::io;
use std::os::fd::AsFd;
use std::sync::OnceLock;

use rustix::process::{Pid, Resource, Rlimit, geteuid, getrlimit, prlimit, setrlimit};

/// The host's name.
pub fn name() -> String {
    let names = rustix::system::uname();
    names.nodename().to_string_lossy().into_owned()
}

/// The id of the user that this process acts as.
pub fn user_id() -> u32 {
    geteuid().as_raw()
}

/// Whether this process acts as root.
pub fn is_root() -> bool {
    geteuid().is_root()
}

/// How many bytes a page of memory has.
pub fn page_size() -> u64 {
    rustix::param::page_size() as u64
}

/// The limit of open files that this process was started with. The limit is the process' own, so there is one of these.
static FIRST_OPEN_FILES: OnceLock<Rlimit> = OnceLock::new();

/// Raises the limit of open files as far as it may be, and returns it; `None`: any number.
pub fn raise_open_files() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    FIRST_OPEN_FILES.get_or_init(|| limit);
    // Where it may not be raised, what there is has to do.
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    }
}

/// Gives a child the limit of open files that this process was started with.
///
/// # Errors
/// When the system refuses that.
pub fn give_first_open_files(child: Pid) -> io::Result<()> {
    if let Some(limit) = FIRST_OPEN_FILES.get() {
        prlimit(Some(child), Resource::Nofile, *limit)?;
    }
    Ok(())
}

/// How many characters fit in a line of a terminal; `None` if it does not say.
pub fn terminal_columns(terminal: impl AsFd) -> Option<u16> {
    let size = rustix::termios::tcgetwinsize(terminal).ok()?;
    Some(size.ws_col).filter(|columns| *columns > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says() {
        assert!(!name().is_empty());
        assert_eq!(is_root(), user_id() == 0);
        assert!(raise_open_files().is_none_or(|files| files > 0));
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(terminal_columns(file), None);
    }
}
