//! Directories of rows that are over. Removing many files keeps the disk busy for seconds after the call, and the next row would
//! measure that; so they stay until the end where there is room.

use std::fs;
use std::path::{Path, PathBuf};

use crate::machine;

/// So many bytes must be free for what is over to stay: more than any row takes.
const ROOM: u64 = 20 << 30;

/// Gives each row a directory of its own, below this one.
pub(crate) struct Attic {
    below: PathBuf,
    given: u32,
}

impl Attic {
    pub(crate) fn below(work: &Path) -> Attic {
        Attic {
            below: work.to_owned(),
            given: 0,
        }
    }

    /// A new directory.
    pub(crate) fn new_dir(&mut self) -> PathBuf {
        self.given += 1;
        let dir = self.below.join(format!("row-{}", self.given));
        fs::create_dir(&dir).unwrap();
        dir
    }

    /// A row is over.
    pub(crate) fn retire(&self, dir: PathBuf, few_files: bool) {
        if few_files || machine::free(&self.below) < ROOM {
            fs::remove_dir_all(dir).unwrap();
            rustix::fs::sync();
        }
    }
}
