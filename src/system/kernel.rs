//! What the kernel below may not have: a system call, or anything left to give.

use std::io;

use rustix::io::Errno;

/// Whether an error says that the kernel does not know a call. Older container runtimes refuse every call that they do not
/// know with EPERM, so that is asked only of calls which give it for no other reason, or where the way around fails likewise.
pub fn lacks(error: Errno) -> bool {
    matches!(error, Errno::NOSYS | Errno::PERM)
}

/// Whether an error says that there are no descriptors or no memory left: it says nothing of what was asked for.
pub fn is_exhausted(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_exhausted_is_told_from_what_is_damaged() {
        let table = [
            (Errno::MFILE, true),
            (Errno::NFILE, true),
            (Errno::NOMEM, true),
            (Errno::IO, false),
            (Errno::ISDIR, false),
            (Errno::NOSPC, false),
        ];
        for (errno, expected) in table {
            assert_eq!(is_exhausted(&errno.into()), expected, "{errno}");
        }
        assert!(!is_exhausted(&io::Error::other("damaged")));
    }
}
