//! The hash of a payload while it is sent, by which a Harper server's record of it is known.

use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

use crate::client::harper::find::PayloadHash;
use crate::system::hex;

/// Passes on what it reads, and leaves the hash of it when it came to its end.
pub(crate) struct HashingReader<R> {
    inner: R,
    sum: Sha256,
    hash: PayloadHash,
}

impl<R: Read> HashingReader<R> {
    pub(crate) fn new(inner: R, hash: PayloadHash) -> HashingReader<R> {
        HashingReader {
            inner,
            sum: Sha256::new(),
            hash,
        }
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.sum.update(&buffer[..n]);
        if n == 0 && !buffer.is_empty() {
            // A second end changes nothing.
            let _ = self.hash.set(hex::encode(self.sum.clone().finalize()));
        }
        Ok(n)
    }
}
