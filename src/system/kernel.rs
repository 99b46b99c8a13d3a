//! System calls that the kernel below may not have.

use rustix::io::Errno;

/// Whether an error says that the kernel does not know a call. Older container runtimes refuse every call that they do not
/// know with EPERM, so that is asked only of calls which give it for no other reason, or where the way around fails likewise.
pub fn lacks(error: Errno) -> bool {
    matches!(error, Errno::NOSYS | Errno::PERM)
}
