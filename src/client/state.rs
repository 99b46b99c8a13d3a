//! How one request stands, as far as its two ends have to know of each other.

use std::sync::atomic::{AtomicBool, Ordering};

/// What the transport and the request's body tell each other about one request.
#[derive(Debug, Default)]
pub(crate) struct Transfer {
    /// The connection stands, TLS included.
    connected: AtomicBool,
    /// There is an answer, or at least no hope for the rest of the request.
    answered: AtomicBool,
    /// The answer has begun, and well: the request goes on to its end.
    accepted: AtomicBool,
    /// Nothing further that the answer holds can end the request.
    settled: AtomicBool,
    /// The next read takes what is there and does not wait.
    pub(crate) hasty: AtomicBool,
}

impl Transfer {
    pub(crate) fn set_connected(&self) {
        self.connected.store(true, Ordering::Release);
    }

    pub(crate) fn connected(&self) -> bool {
        self.connected.load(Ordering::Acquire)
    }

    pub(crate) fn answered(&self) -> bool {
        self.answered.load(Ordering::Acquire)
    }

    pub(crate) fn accepted(&self) -> bool {
        self.accepted.load(Ordering::Acquire)
    }

    pub(crate) fn settled(&self) -> bool {
        self.settled.load(Ordering::Acquire)
    }

    /// Judges an answer by what is there of it.
    pub(crate) fn judge(&self, bytes: &[u8]) {
        let good = [&b"HTTP/1.1 2"[..], b"HTTP/1.0 2"];
        if good.iter().any(|good| bytes.starts_with(good)) {
            self.accepted.store(true, Ordering::Release);
            if bytes.len() >= LOOKED_AT {
                self.settle();
            }
            if ENDING.iter().any(|known| holds(bytes, known)) {
                self.set_answered();
            }
        } else {
            self.set_answered();
        }
    }

    /// Nothing further that comes is looked at.
    pub(crate) fn settle(&self) {
        self.settled.store(true, Ordering::Release);
    }

    pub(crate) fn set_answered(&self) {
        self.answered.store(true, Ordering::Release);
    }
}

/// The events that end an upload: the first one of a deployment, which nobody sends before the payload is complete but for
/// one that is known already, and the last ones. A Harper server refuses a deployment by its events, and then reads nothing
/// more of the payload.
const ENDING: [&[u8]; 3] = [b"event: deployment\n", b"event: error\n", b"event: done\n"];

/// Whether a line of an answer is this one. In a chunked body it follows a line end, or the head of its chunk.
fn holds(bytes: &[u8], line: &[u8]) -> bool {
    memchr::memmem::find_iter(bytes, line).any(|at| at > 0 && bytes[at - 1] == b'\n')
}

/// What is looked at of an answer during the upload: its head, and the first events.
pub(crate) const LOOKED_AT: usize = 16 * 1024;
