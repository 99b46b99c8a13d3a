//! The payload's file while it is fetched: what it may cost, by what it says beforehand and by what comes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::api::error::{Error, Refusal, is_full};
use crate::api::event::Upload;
use crate::engine::attempt::Attempt;
use crate::engine::fetch::FetchRequest;
use crate::formats::archive;
use crate::system::memory::Pages;
use crate::system::{files, hex};

/// At most so much is written without another look at the disk.
const STEP: u64 = 4 << 20;
/// Watchers are told of the bytes at most so often: ten times a second.
const TELL_EVERY: Duration = Duration::from_millis(100);
/// What is copied at once.
const COPY_LEN: usize = 64 << 10;

/// A payload that is being written.
pub(super) struct FetchedPayload<'a> {
    request: &'a FetchRequest<'a>,
    file: &'a File,
    hash: Sha256,
    bytes: u64,
    /// How much may be written before the next look at the disk.
    allowed: u64,
    total: Option<u64>,
    told: Instant,
}

impl<'a> FetchedPayload<'a> {
    pub(super) fn new(request: &'a FetchRequest<'a>, file: &'a File) -> FetchedPayload<'a> {
        FetchedPayload {
            request,
            file,
            hash: Sha256::new(),
            bytes: 0,
            allowed: 0,
            total: None,
            told: Instant::now(),
        }
    }

    /// Refuses what says beforehand that it is too large.
    pub(super) fn expect(&mut self, total: Option<u64>) -> Result<(), Refusal> {
        self.total = total;
        let total = total.unwrap_or(0);
        archive::fits(self.request.limits.max_payload, total)?;
        let (free, kept) = (self.free()?, self.request.limits.min_free_disk);
        match total <= free.saturating_sub(kept) {
            true => Ok(()),
            false => Err(self.request.no_space(&format!(
                "it has {total} bytes, and of the disk {free} are free, of which {kept} stay so"
            ))),
        }
    }

    /// Writes the next bytes; watchers are told of them.
    pub(super) fn add(&mut self, bytes: &[u8], attempt: &mut Attempt) -> Result<(), Refusal> {
        let request = self.request;
        if request.stop.stopped() {
            return Err(request.stopped());
        }
        if Instant::now() >= request.deadline {
            return Err(request.timed_out());
        }
        let len = bytes.len() as u64;
        self.bytes += len;
        archive::fits(request.limits.max_payload, self.bytes)?;
        if len > self.allowed {
            let kept = request.limits.min_free_disk;
            self.allowed = self.free()?.saturating_sub(kept).min(STEP.max(len));
        }
        let allowed = self.allowed.checked_sub(len);
        self.allowed = allowed.ok_or_else(|| request.gets_full())?;
        self.hash.update(bytes);
        let mut file = self.file;
        file.write_all(bytes)
            .map_err(|error| match is_full(&error) {
                true => request.no_space(&error.to_string()),
                false => Error::new(format!("{}: storing it", request.doing()), error).into(),
            })?;
        if self.told.elapsed() >= TELL_EVERY {
            self.told = Instant::now();
            self.tell(attempt);
        }
        Ok(())
    }

    /// Writes all that a file holds.
    pub(super) fn copy(&mut self, mut from: File, attempt: &mut Attempt) -> Result<(), Refusal> {
        let request = self.request;
        let mut buffer = Pages::new(COPY_LEN);
        loop {
            match from.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(len) => self.add(&buffer[..len], attempt)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(request.failed(error)),
            }
        }
    }

    /// Tells who watches how much has come.
    pub(super) fn tell(&self, attempt: &mut Attempt) {
        let (bytes, total) = (self.bytes, self.total);
        attempt.upload(Upload { bytes, total });
    }

    /// The SHA-256 of what was written, in hex.
    pub(super) fn sha256(&self) -> String {
        hex::encode(self.hash.clone().finalize())
    }

    fn free(&self) -> Result<u64, Refusal> {
        let what = "looking at the free space of the disk";
        Ok(files::free_space(self.file).map_err(|error| Error::new(what, error))?)
    }
}

/// The payload as something to write to. What it refuses is inside the error.
pub(super) struct PayloadWriter<'a, 'b> {
    pub(super) payload: &'a mut FetchedPayload<'b>,
    pub(super) attempt: &'a mut Attempt,
}

impl Write for PayloadWriter<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let added = self.payload.add(bytes, self.attempt);
        added.map(|()| bytes.len()).map_err(io::Error::other)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
