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
            let body = body(bytes);
            if ENDING.iter().any(|known| holds(&body, known)) {
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

/// Whether a line of these is this one.
fn holds(bytes: &[u8], line: &[u8]) -> bool {
    memchr::memmem::find_iter(bytes, line).any(|at| at == 0 || bytes[at - 1] == b'\n')
}

/// What has come of an answer's body, without the sizes of its chunks: a line may be cut by them anywhere.
fn body(answer: &[u8]) -> Vec<u8> {
    let Some(end) = memchr::memmem::find(answer, b"\r\n\r\n") else {
        return Vec::new();
    };
    let head = answer[..end].to_ascii_lowercase();
    let mut rest = &answer[end + 4..];
    if memchr::memmem::find(&head, b"\r\ntransfer-encoding: chunked").is_none() {
        return rest.to_vec();
    }
    let mut body = Vec::new();
    while let Some(end) = memchr::memmem::find(rest, b"\r\n") {
        let size = std::str::from_utf8(&rest[..end]).unwrap_or_default();
        let size = size.split(';').next().unwrap_or_default().trim();
        let Ok(size @ 1..) = usize::from_str_radix(size, 16) else {
            break;
        };
        rest = &rest[end + 2..];
        body.extend_from_slice(&rest[..size.min(rest.len())]);
        let Some(next) = size.checked_add(2).and_then(|size| rest.get(size..)) else {
            break;
        };
        rest = next;
    }
    body
}

/// What is looked at of an answer during the upload: its head, and the first events.
pub(crate) const LOOKED_AT: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_last_event_is_seen_however_it_is_cut() {
        const PLAIN: &str = "HTTP/1.1 200 OK\r\n\r\n";
        const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let table = [
            (PLAIN, ": stream open\n\n", false),
            (PLAIN, ": stream open\n\nevent: error\n", true),
            (PLAIN, "event: done\n", true),
            (PLAIN, "event: deployment\ndata", true),
            (PLAIN, "data: event: error\n", false),
            (PLAIN, "event: phase\n", false),
            (
                CHUNKED,
                "f\r\n: stream open\n\n\r\nd\r\nevent: error\n",
                true,
            ),
            (
                CHUNKED,
                "f\r\n: stream open\n\n\r\n9\r\nevent: er\r\n4\r\nror\n\r\n",
                true,
            ),
            (
                CHUNKED,
                "f;x=y\r\n: stream open\n\n\r\n1\r\ne\r\nC\r\nvent: error\n",
                true,
            ),
            (
                CHUNKED,
                "f\r\n: stream open\n\n\r\n9\r\nevent: er\r\n4",
                false,
            ),
            (CHUNKED, "ffffffffffffffff\r\nevent: error\n", true),
            (CHUNKED, "event: error\n\r\n", false),
        ];
        for (head, body, ends) in table {
            let transfer = Transfer::default();
            transfer.judge(format!("{head}{body}").as_bytes());
            assert!(transfer.accepted());
            assert_eq!(transfer.answered(), ends, "{body:?}");
        }
        let refused = Transfer::default();
        refused.judge(b"HTTP/1.1 401 X\r\n");
        assert!(refused.answered() && !refused.accepted());
    }
}
