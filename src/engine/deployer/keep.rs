//! Payloads that come before the name of their component.

use std::fs::File;
use std::io::{Read, Seek, Write};

use crate::api::error::{Doing, Refusal};
use crate::engine::deployer::Deployer;
use crate::formats::archive;
use crate::system::memory::Pages;

/// What is read and written at once.
const BUFFER_LEN: usize = 256 << 10;

impl Deployer {
    /// Keeps a payload in a file without a name until it is known whose it is, and says how long it is. The file is gone with
    /// its descriptor.
    ///
    /// # Errors
    /// When it is larger than a payload may be, when there is no room for it, or when it cannot be read or written.
    pub fn keep_for_later(
        &self,
        payload: &mut dyn Read,
        least: u64,
    ) -> Result<(File, u64), Refusal> {
        let what = || "receiving a payload whose component comes after it".to_owned();
        self.has_room("a component that is named after it", least)?;
        let mut file = self.known.store.nameless_file().doing(what)?;
        let mut buffer = Pages::new(BUFFER_LEN);
        let mut len = 0;
        loop {
            let read = match payload.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) => return Err(Refusal::of_reading("receiving the payload", &error)),
            };
            len += read as u64;
            archive::fits(self.limits.max_payload, len)?;
            self.has_room("a component that is named after it", read as u64)?;
            file.write_all(&buffer[..read]).doing(what)?;
        }
        file.rewind().doing(what)?;
        Ok((file, len))
    }
}
