//! Bytes on their way to one side of a relay, and those of a body that nobody wants any more.

use std::io;

use crate::server::gate::socket::ClientSocket;
use crate::server::gate::{BUFFER, LINGER_BYTES};

/// Bytes that are to be written.
pub(super) struct Pending {
    pub(super) bytes: Vec<u8>,
    at: usize,
}

impl Pending {
    pub(super) fn of(bytes: Vec<u8>) -> Pending {
        Pending { bytes, at: 0 }
    }

    pub(super) fn rest(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.at = 0;
    }

    pub(super) fn wrote(&mut self, bytes: usize) {
        self.at += bytes;
        if self.is_empty() {
            self.clear();
        }
    }

    /// Lets go of a buffer that was for a body.
    pub(super) fn free(&mut self) {
        *self = Pending::of(Vec::new());
    }
}

/// Writes to the client what it takes now, and says whether it took anything.
pub(super) fn write_client(peer: &mut ClientSocket, to_client: &mut Pending) -> io::Result<bool> {
    let mut wrote = false;
    while !to_client.is_empty() || peer.unsent() {
        match peer.write(to_client.rest())? {
            Some(sent) => to_client.wrote(sent),
            None => break,
        }
        wrote = true;
    }
    Ok(wrote)
}

/// The rest of a body that got its answer early: read and dropped, so that a client that reads only when it has written
/// comes to it.
pub(super) struct Drain {
    pub(super) open: bool,
    left: u64,
    buffer: Vec<u8>,
}

impl Drain {
    pub(super) fn new(open: bool) -> Drain {
        Drain {
            open,
            left: LINGER_BYTES,
            buffer: Vec::new(),
        }
    }

    pub(super) fn read(&mut self, peer: &mut ClientSocket) {
        if !self.open {
            return;
        }
        self.buffer.reserve_exact(BUFFER);
        self.buffer.clear();
        match peer.read(&mut self.buffer) {
            Ok(None) => {}
            Ok(Some(0)) | Err(_) => self.open = false,
            Ok(Some(read)) => {
                self.left = self.left.saturating_sub(read as u64);
                self.open = self.left > 0;
            }
        }
    }
}
