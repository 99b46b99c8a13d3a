//! HTTP as the server's rooms see it: an [`Exchange`] is one request and the way to its one answer.
//!
//! The only room that knows tiny_http, which no client reaches but through the gate: who asks, by which kind of listener and
//! with how long a body is the gate's word, in private fields. Three of its habits are worked around here and nowhere else: a body must be read
//! before the writer is taken, or the taking blocks; what it buffers is sent only on an explicit flush, so an event stream
//! writes one chunk with one call and flushes it; and it swallows a client that is gone, so an answer that "was sent" says
//! nothing about its arrival.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use tiny_http::{HTTPVersion, Header, Request, Response, Server, StatusCode};

use crate::api::error::{Doing, Error};
use crate::server::gate::headers;

/// The socket that requests come in by: a private one, which only the gate connects to.
pub struct HttpListener(Arc<Server>);

/// Ends the waiting of a [`HttpListener`].
pub struct Unblock(Arc<Server>);

impl Unblock {
    /// Makes [`HttpListener::next`] return nothing.
    pub fn unblock(&self) {
        self.0.unblock();
    }
}

impl HttpListener {
    /// Serves a unix socket. What comes by it is believed about who asks.
    ///
    /// # Errors
    /// When the server cannot be started on it.
    pub fn open(listener: UnixListener) -> Result<HttpListener, Error> {
        let server = Server::from_listener(listener, None)
            .doing(|| "starting the server behind the gate".into())?;
        Ok(HttpListener(Arc::new(server)))
    }

    /// The way to end its waiting from another thread.
    pub fn unblock(&self) -> Unblock {
        Unblock(Arc::clone(&self.0))
    }

    /// The next request; nothing once it was unblocked.
    ///
    /// # Errors
    /// When the socket takes no more connections. Requests that came before may still follow.
    pub fn next(&self) -> io::Result<Option<Exchange>> {
        match self.0.recv() {
            Ok(request) => Ok(Some(Exchange::new(request))),
            Err(error) if error.kind() == io::ErrorKind::Other => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAddress {
    /// Somebody on this machine who may open the unix socket.
    Local,
    /// A TCP client, by the socket's word.
    Remote(Option<IpAddr>),
}

impl fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientAddress::Local => f.write_str("unix"),
            ClientAddress::Remote(Some(address)) => address.fmt(f),
            ClientAddress::Remote(None) => f.write_str("-"),
        }
    }
}

/// One request, and the way to its answer.
pub struct Exchange {
    request: Request,
    client: ClientAddress,
    path: String,
    query: Vec<(String, String)>,
}

impl Exchange {
    fn new(request: Request) -> Exchange {
        // Nobody is taken for local who was not said to be.
        let client = match field(&request, headers::LISTENER) {
            Some(headers::LOCAL) => ClientAddress::Local,
            _ => ClientAddress::Remote(
                field(&request, headers::PEER).and_then(|text| text.parse().ok()),
            ),
        };
        let (path, query) = request.url().split_once('?').unwrap_or((request.url(), ""));
        let query = query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                (unescape(name), unescape(value))
            });
        let (path, query) = (unescape(path), query.collect());
        Exchange {
            request,
            client,
            path,
            query,
        }
    }

    /// Who asks.
    pub fn client(&self) -> ClientAddress {
        self.client
    }

    /// The method, as it came.
    pub fn method(&self) -> String {
        self.request.method().to_string()
    }

    /// The path, without query and percent signs.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The first value of a query parameter.
    pub fn query(&self, name: &str) -> Option<&str> {
        self.query
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// The first header of a name, in any case.
    pub fn header(&self, name: &'static str) -> Option<&str> {
        field(&self.request, name)
    }

    /// The length that the client declared for the body.
    pub fn declared_length(&self) -> Option<u64> {
        self.header(headers::LENGTH)
            .and_then(|text| text.parse().ok())
    }

    /// The number of the connection at the gate, which can cut its upload off.
    pub fn connection(&self) -> Option<u64> {
        self.header(headers::CONNECTION)
            .and_then(|text| text.parse().ok())
    }

    /// The body, as it arrives.
    pub fn body(&mut self) -> &mut dyn Read {
        self.request.as_reader()
    }

    /// Gives the one answer.
    ///
    /// # Errors
    /// When the client is gone, where that shows.
    pub fn answer(self, answer: Answer) -> io::Result<()> {
        let mut response =
            Response::from_data(answer.body).with_status_code(StatusCode(answer.status));
        let headers = [
            ("Content-Type", answer.content_type.to_owned()),
            ("Connection", "close".to_owned()),
        ];
        for (name, value) in headers.into_iter().chain(answer.headers) {
            // A value of ours that is no header would be a bug; the answer is worth more than the header.
            if let Ok(header) = Header::from_bytes(name, value) {
                response.add_header(header);
            }
        }
        self.request.respond(response)
    }

    /// Gives a file as the one answer: all of its `length` bytes, to be saved under a name.
    ///
    /// # Errors
    /// When the client is gone, where that shows.
    pub fn send_file(self, file: File, length: u64, name: &str) -> io::Result<()> {
        let mut headers = Vec::new();
        let disposition = format!("attachment; filename=\"{name}\"");
        for (name, value) in [
            ("Content-Type", "application/octet-stream"),
            ("Content-Disposition", &disposition),
            ("Connection", "close"),
        ] {
            // As above, the answer is worth more than a header.
            headers.extend(Header::from_bytes(name, value));
        }
        // A length that this machine's own numbers do not hold goes without one, in chunks.
        let length = usize::try_from(length).ok();
        let response = Response::new(StatusCode(200), headers, file, length, None);
        self.request
            .respond(response.with_chunked_threshold(usize::MAX))
    }

    /// Begins an answer that goes on, to somebody who only watches events or to whoever began what they tell of. The body
    /// must have been read.
    ///
    /// # Errors
    /// When the client is gone.
    pub fn stream(self, content_type: &str, watching: bool) -> io::Result<EventStream> {
        // A client of HTTP/1.0 knows no chunks: its stream ends with the connection.
        let chunked = *self.request.http_version() >= HTTPVersion(1, 1);
        let mut head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nCache-Control: no-cache\r\nX-Accel-Buffering: no\r\n\
             Connection: close\r\n",
        );
        if chunked {
            head.push_str("Transfer-Encoding: chunked\r\n");
        }
        if watching {
            head.push_str(headers::WATCHER);
            head.push_str(": yes\r\n");
        }
        head.push_str("\r\n");
        let mut stream = EventStream {
            writer: self.request.into_writer(),
            chunked,
            buffer: Vec::new(),
        };
        stream.writer.write_all(head.as_bytes())?;
        stream.writer.flush()?;
        Ok(stream)
    }
}

/// An answer that is known whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body's type.
    pub content_type: &'static str,
    /// Further headers.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// An answer that goes on.
pub struct EventStream {
    writer: Box<dyn Write + Send>,
    chunked: bool,
    buffer: Vec<u8>,
}

impl EventStream {
    /// Sends something now: one chunk, one write, one flush.
    ///
    /// # Errors
    /// When the client is gone. The stream is of no use after that.
    pub fn send(&mut self, records: &[u8]) -> io::Result<()> {
        if !self.chunked {
            self.writer.write_all(records)?;
            return self.writer.flush();
        }
        self.buffer.clear();
        write!(self.buffer, "{:x}\r\n", records.len())?;
        self.buffer.extend_from_slice(records);
        self.buffer.extend_from_slice(b"\r\n");
        self.writer.write_all(&self.buffer)?;
        self.writer.flush()
    }

    /// Ends the stream well.
    ///
    /// # Errors
    /// When the client is gone.
    pub fn end(mut self) -> io::Result<()> {
        if self.chunked {
            self.writer.write_all(b"0\r\n\r\n")?;
        }
        self.writer.flush()
    }
}

/// The first field of a name, in any case.
fn field<'a>(request: &'a Request, name: &'static str) -> Option<&'a str> {
    let mut headers = request.headers().iter();
    headers
        .find(|header| header.field.equiv(name))
        .map(|header| header.value.as_str())
}

/// Takes percent signs out of a part of a URL; what is no escape stays as it is, and what is no UTF-8 becomes U+FFFD.
fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = text
            .get(at + 1..at + 3)
            .filter(|hex| bytes[at] == b'%' && !hex.starts_with('+'));
        match escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                plain.push(byte);
                at += 3;
            }
            None => {
                plain.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes() {
        let table = [
            ("", ""),
            ("/a%20b", "/a b"),
            ("%2e%2E/", "../"),
            ("100%", "100%"),
            ("%4", "%4"),
            ("%+1", "%+1"),
            ("%zz%41", "%zzA"),
            ("%c3%a4", "ä"),
            ("ä%41", "äA"),
            ("%ff", "\u{fffd}"),
        ];
        for (text, plain) in table {
            assert_eq!(unescape(text), plain, "{text}");
        }
    }
}
