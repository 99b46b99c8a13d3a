//! The head of the server's answer: found, and written for the client.

use crate::server::gate::headers;

/// Our own server's heads are a few hundred bytes; past this it is no head.
const ANSWER_HEAD_MAX: usize = 64 << 10;

/// What the server sent so far.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RelayedAnswer {
    /// Not a whole head.
    Partial,
    /// It begins to read the body, and the client may send it. So many bytes of it are over.
    Continue(usize),
    /// The one answer.
    Final(Final),
    /// Nothing that could be passed on.
    Broken,
}

/// The head of the one answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Final {
    /// As the client gets it.
    pub(crate) head: Vec<u8>,
    /// So many bytes of what was sent are over.
    pub(crate) taken: usize,
    /// It is for somebody who only watches.
    pub(crate) watcher: bool,
}

impl RelayedAnswer {
    pub(crate) fn read(bytes: &[u8]) -> RelayedAnswer {
        let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else {
            return if bytes.len() < ANSWER_HEAD_MAX {
                RelayedAnswer::Partial
            } else {
                RelayedAnswer::Broken
            };
        };
        let taken = end + 4;
        let Ok(text) = std::str::from_utf8(&bytes[..end]) else {
            return RelayedAnswer::Broken;
        };
        let mut lines = text.split("\r\n");
        let status = lines.next().unwrap_or_default();
        match status
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse::<u16>().ok())
        {
            Some(100..=199) => return RelayedAnswer::Continue(taken),
            Some(200..=599) if status.starts_with("HTTP/1.") => {}
            _ => return RelayedAnswer::Broken,
        }
        let (mut head, mut watcher) = (format!("{status}\r\n"), false);
        for line in lines {
            let name = line.split(':').next().unwrap_or_default();
            watcher |= name.eq_ignore_ascii_case(headers::WATCHER);
            if !headers::is_private(name) && !name.eq_ignore_ascii_case("Connection") {
                head.push_str(line);
                head.push_str("\r\n");
            }
        }
        head.push_str("Connection: close\r\n\r\n");
        RelayedAnswer::Final(Final {
            head: head.into_bytes(),
            taken,
            watcher,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let answer = |head: &str, taken, watcher| {
            RelayedAnswer::Final(Final {
                head: head.as_bytes().to_vec(),
                taken,
                watcher,
            })
        };
        let table = [
            ("", RelayedAnswer::Partial),
            ("HTTP/1.1 200 OK\r\nA: b\r\n", RelayedAnswer::Partial),
            (
                "HTTP/1.1 100 Continue\r\nServer: x\r\n\r\nHTTP",
                RelayedAnswer::Continue(36),
            ),
            (
                "HTTP/1.1 200 OK\r\n\r\nbody",
                answer("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", 19, false),
            ),
            (
                "HTTP/1.0 401 Unauthorized\r\nA: b\r\nconnection: keep-alive\r\n\r\n",
                answer(
                    "HTTP/1.0 401 Unauthorized\r\nA: b\r\nConnection: close\r\n\r\n",
                    59,
                    false,
                ),
            ),
            (
                "HTTP/1.1 200 OK\r\ngangplank-gate-watcher: yes\r\nGangplank-Gate-X: y\r\nA: b\r\n\r\n",
                answer(
                    "HTTP/1.1 200 OK\r\nA: b\r\nConnection: close\r\n\r\n",
                    75,
                    true,
                ),
            ),
            ("GET / HTTP/1.1\r\n\r\n", RelayedAnswer::Broken),
            ("HTTP/1.1 \r\n\r\n", RelayedAnswer::Broken),
            ("HTTP/1.1 \u{e4}\r\n\r\n", RelayedAnswer::Broken),
        ];
        for (text, expected) in table {
            assert_eq!(RelayedAnswer::read(text.as_bytes()), expected, "{text:?}");
        }
        assert_eq!(
            RelayedAnswer::read(&vec![b'x'; ANSWER_HEAD_MAX]),
            RelayedAnswer::Broken
        );
    }
}
