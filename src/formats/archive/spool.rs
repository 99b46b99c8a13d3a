//! Bytes that are written once and read several times, so many of them as a large tree has entries: the first ones stay in
//! memory, all others go into a file that has no name.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::system::files;

/// What stays in memory, and what is written at once: a directory of a few thousand files needs no file.
const IN_MEMORY: usize = 512 << 10;
/// What a reader reads at once.
const READ_AT_ONCE: usize = 64 << 10;

#[derive(Default)]
pub struct Spool {
    file: Option<File>,
    /// How many bytes are in it.
    filed: u64,
    /// Those behind them.
    rest: Vec<u8>,
    /// No file could be made, so that all stays in memory.
    nowhere: bool,
}

impl Spool {
    /// How many bytes were written.
    pub fn len(&self) -> u64 {
        self.filed + self.rest.len() as u64
    }

    /// Reads all of them from the first one on.
    pub fn reader(&self) -> BufReader<SpoolReader<&Spool>> {
        let spool = SpoolReader { spool: self, at: 0 };
        BufReader::with_capacity(READ_AT_ONCE, spool)
    }

    /// As [`Spool::reader`], for another thread.
    pub fn shared(self: &Arc<Spool>) -> SpoolReader<Arc<Spool>> {
        let spool = Arc::clone(self);
        SpoolReader { spool, at: 0 }
    }

    fn read_at(&self, at: u64, out: &mut [u8]) -> io::Result<usize> {
        match (&self.file, at.checked_sub(self.filed)) {
            (Some(file), None) => {
                // What is left of the file; it fits, since it is at most as long as `out`.
                let most = (self.filed - at).min(out.len() as u64) as usize;
                file.read_at(&mut out[..most], at)
            }
            (_, at) => {
                let at = at.and_then(|at| usize::try_from(at).ok());
                let mut rest = at.and_then(|at| self.rest.get(at..)).unwrap_or_default();
                rest.read(out)
            }
        }
    }
}

impl Write for Spool {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.rest.extend_from_slice(bytes);
        if self.rest.len() >= IN_MEMORY && !self.nowhere {
            if self.file.is_none() {
                self.file = files::nameless(&std::env::temp_dir()).ok();
                self.nowhere = self.file.is_none();
            }
            if let Some(file) = &self.file {
                file.write_all_at(&self.rest, self.filed)?;
                self.filed += self.rest.len() as u64;
                self.rest.clear();
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a spool.
pub struct SpoolReader<S> {
    spool: S,
    at: u64,
}

impl Read for SpoolReader<&Spool> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.spool.read_at(self.at, out)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Read for SpoolReader<Arc<Spool>> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.spool.read_at(self.at, out)?;
        self.at += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_however_much_it_is() {
        for nowhere in [false, true] {
            let mut spool = Spool {
                nowhere,
                ..Spool::default()
            };
            let mut wanted = Vec::new();
            for n in 0..9000_u32 {
                let piece = vec![n as u8; (n % 400) as usize];
                spool.write_all(&piece).unwrap();
                wanted.extend(piece);
            }
            assert_eq!(spool.len(), wanted.len() as u64);
            assert_eq!(spool.file.is_some(), !nowhere);
            let mut read = Vec::new();
            spool.reader().read_to_end(&mut read).unwrap();
            assert!(read == wanted);
            read.clear();
            Arc::new(spool).shared().read_to_end(&mut read).unwrap();
            assert!(read == wanted);
        }
    }
}
