//! How much may still be written: the disk's free space never goes below the limit that the operator set.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::api::error::{Code, Error, Refusal, is_full};
use crate::system::files;

/// At most so much is written without another look at the disk, so that others who write are noticed early enough.
const STEP: u64 = 4 << 20;

/// What a file system hands out at once: a file of one byte takes a whole block.
const BLOCK: u64 = 4096;

/// One writer's view of the free space of a file system.
pub(super) struct FreeSpace {
    disk: OwnedFd,
    least: u64,
    allowed: u64,
}

impl FreeSpace {
    /// The room on the file system of `disk`, of which `least` bytes must stay free.
    pub(super) fn new(disk: impl AsFd, least: u64) -> Result<FreeSpace, Refusal> {
        let disk = disk
            .as_fd()
            .try_clone_to_owned()
            .map_err(|error| Error::new("opening the release's file system", error))?;
        let mut room = FreeSpace {
            disk,
            least,
            allowed: 0,
        };
        room.take(1)?;
        Ok(room)
    }

    /// Asks for room for `bytes` before they are written.
    pub(super) fn take(&mut self, bytes: u64) -> Result<(), Refusal> {
        let bytes = bytes.next_multiple_of(BLOCK);
        if bytes > self.allowed {
            let free = free(&self.disk)?;
            // Payload and tree grow at the same time on the same disk: each may use half of what is left until its next
            // look, so both together stay above the limit.
            self.allowed = (free.saturating_sub(self.least) / 2).min(STEP);
        }
        match self.allowed.checked_sub(bytes) {
            Some(left) => {
                self.allowed = left;
                Ok(())
            }
            None => Err(Refusal::new(
                Code::NoSpace,
                format!(
                    "unpacking the payload: the disk would have less than {} bytes left",
                    self.least.max(BLOCK)
                ),
            )),
        }
    }
}

fn free(disk: &OwnedFd) -> Result<u64, Refusal> {
    let what = "looking at the free space of the disk";
    Ok(files::free_space(disk).map_err(|error| Error::new(what, error))?)
}

/// The refusal for something that could not be written: a full disk is told as one.
pub(super) fn unwritten(what: impl Into<String>, error: io::Error) -> Refusal {
    let code = if is_full(&error) {
        Code::NoSpace
    } else {
        Code::Internal
    };
    Refusal::new(code, Error::new(what, error).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn the_limit_is_kept() {
        let disk = File::open(std::env::temp_dir()).unwrap();
        let free = free(&OwnedFd::from(disk.try_clone().unwrap())).unwrap();
        assert!(FreeSpace::new(&disk, 0).unwrap().take(STEP / 4).is_ok());
        for least in [u64::MAX, free + (1 << 30)] {
            let refusal = FreeSpace::new(&disk, least)
                .err()
                .map(|refusal| refusal.code);
            assert_eq!(refusal, Some(Code::NoSpace), "{least}");
        }
        // Close to the limit the steps get small instead of crossing it.
        let mut room = FreeSpace::new(&disk, 0).unwrap();
        room.least = u64::MAX;
        while room.take(BLOCK).is_ok() {}
        assert_eq!(room.take(BLOCK).unwrap_err().code, Code::NoSpace);
    }

    #[test]
    fn a_full_disk_is_told_as_one() {
        let table = [
            (io::ErrorKind::StorageFull, Code::NoSpace),
            (io::ErrorKind::QuotaExceeded, Code::NoSpace),
            (io::ErrorKind::ReadOnlyFilesystem, Code::Internal),
        ];
        for (kind, code) in table {
            assert_eq!(unwritten("writing x", kind.into()).code, code);
        }
    }
}
