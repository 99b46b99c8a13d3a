//! A payload that is stored and hashed while it is read.

use std::fs::File;
use std::io::{self, Read, Write};

use sha2::{Digest, Sha256};

use crate::api::error::{Code, Refusal};
use crate::formats::archive::free_space::{FreeSpace, unwritten};
use crate::formats::archive::limits::Limits;
use crate::formats::archive::supply::Supply;
use crate::formats::archive::unpack::fits;
use crate::formats::delta::records::RecordScanner;
use crate::system::hex;
use crate::system::memory::Pages;

/// What is read at once: as much as a payload that is unpacked.
const BUFFER: usize = 256 << 10;

/// A payload on its way into its file.
pub struct IncomingPayload<'a> {
    source: &'a mut dyn Read,
    file: Option<(&'a File, FreeSpace)>,
    hash: Sha256,
    total: u64,
    max_payload: Option<u64>,
    progress: &'a mut dyn FnMut(u64),
}

impl<'a> IncomingPayload<'a> {
    /// Without a file it is only read.
    ///
    /// # Errors
    /// When the disk has no room.
    pub fn new(
        source: &'a mut dyn Read,
        file: Option<&'a File>,
        limits: &Limits,
        progress: &'a mut dyn FnMut(u64),
    ) -> Result<IncomingPayload<'a>, Refusal> {
        let file = match file {
            Some(file) => Some((file, FreeSpace::new(file, limits.min_free_disk)?)),
            None => None,
        };
        Ok(IncomingPayload {
            source,
            file,
            hash: Sha256::new(),
            total: 0,
            max_payload: limits.max_payload,
            progress,
        })
    }

    /// Reads records to the end of the payload, and tells the supply what comes.
    ///
    /// # Errors
    /// What is wrong with the payload, or that it is not whole.
    pub fn receive(&mut self, supply: &Supply) -> Result<(), Refusal> {
        let mut scanner = RecordScanner::at(self.total);
        let mut buffer = Pages::new(BUFFER);
        loop {
            let read = self
                .read(&mut buffer)
                .map_err(|error| Refusal::of_reading("receiving the payload", &error))?;
            scanner.push(&buffer[..read], &mut |object| supply.add(0, object))?;
            if read == 0 && scanner.ended() {
                return Ok(());
            }
            if read == 0 {
                return Err(Refusal::new(
                    Code::UploadBroken,
                    "the payload is not complete",
                ));
            }
            if supply.is_in_vain() {
                // Why is told by whoever said so.
                return Err(Refusal::new(
                    Code::Internal,
                    "making the tree: it is in vain",
                ));
            }
        }
    }

    /// The SHA-256 of what came, as lower-case hexadecimal digits, and its size.
    pub fn end(self) -> (String, u64) {
        (hex::encode(self.hash.finalize()), self.total)
    }
}

impl Read for IncomingPayload<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.total += read as u64;
        fits(self.max_payload, self.total).map_err(io::Error::other)?;
        self.hash.update(&buffer[..read]);
        if let Some((file, room)) = &mut self.file {
            room.take(read as u64).map_err(io::Error::other)?;
            let written = file.write_all(&buffer[..read]);
            written.map_err(|error| io::Error::other(unwritten("storing the payload", error)))?;
        }
        (self.progress)(self.total);
        Ok(read)
    }
}
