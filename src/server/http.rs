//! HTTP as the rest of the server sees it: an [`Exchange`] is one request and the way to its one answer.
//!
//! The only file that knows tiny_http, which no client reaches but through the gate. tiny_http accepts, reads the head and
//! hands out requests; the client's connection comes from the gate, in the same process, by the number in that head. So the
//! body is read from the client's socket and the answer written to it, and nothing in tiny_http ever waits for a client.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tiny_http::{HTTPVersion, Header, Request, Response, Server, StatusCode};

use crate::api::error::{Doing, Error};
use crate::formats::sse;
use crate::server::gate::{ClientAddress, Connection, PendingConnections, ResponseWriter, headers};
use crate::system::memory::Pages;

/// The media type of what is only bytes.
pub(super) const BYTES: &str = "application/octet-stream";

/// A comment goes out after this much silence: below the 30 s and 60 s after which proxies give up.
const HEARTBEAT_AFTER: Duration = Duration::from_secs(15);
/// How long whoever sends a stream waits for something to send before it looks for its client with [`EventStream::idle`].
/// It is a part of the time between heartbeats, and seldom enough to cost nothing with a thousand watchers.
pub const PULSE: Duration = Duration::from_secs(5);
/// What a stream keeps of a buffer between two events: room for a few ordinary ones.
pub const KEPT_BUFFER: usize = 1 << 10;
/// An answer up to this size is written together with its head.
const SMALL_ANSWER: usize = 64 << 10;
/// How much of a file is read at once.
const FILE_BUFFER: usize = 64 << 10;

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

/// A request that nobody answers yet. Dropped unanswered, it makes the gate answer.
pub struct HttpRequest(Request);

impl HttpListener {
    /// Serves a unix socket.
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
    pub fn next(&self) -> io::Result<Option<HttpRequest>> {
        match self.0.recv() {
            Ok(request) => Ok(Some(HttpRequest(request))),
            Err(error) if error.kind() == io::ErrorKind::Other => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// One request, and the way to its answer.
pub struct Exchange {
    connection: Connection,
    method: String,
    version: HTTPVersion,
    headers: Vec<Header>,
    path: String,
    query: Vec<(String, String)>,
}

impl Exchange {
    /// Takes the client's connection; nothing if it is not there, for then the gate has answered.
    pub fn take(request: HttpRequest, pending: &PendingConnections) -> Option<Exchange> {
        let request = request.0;
        let number = field(request.headers(), headers::CONNECTION)?;
        let connection = pending.take(number.parse().ok()?)?;
        let (path, query) = request.url().split_once('?').unwrap_or((request.url(), ""));
        let query = query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                (unescape(name), unescape(value))
            });
        let exchange = Exchange {
            connection,
            method: request.method().to_string(),
            version: request.http_version().clone(),
            headers: request.headers().to_vec(),
            path: unescape(path),
            query: query.collect(),
        };
        // Dropped unused, it closes the private connection, which tells the gate that the client's is taken.
        drop(request.into_writer());
        Some(exchange)
    }

    /// Who asks.
    pub fn client(&self) -> ClientAddress {
        self.connection.client()
    }

    /// The method, as it came.
    pub fn method(&self) -> String {
        self.method.clone()
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
        field(&self.headers, name)
    }

    /// The length that the client declared for the body.
    pub fn declared_length(&self) -> Option<u64> {
        self.connection.declared_length()
    }

    /// The number of the connection at the gate, which can cut its upload off.
    pub fn connection(&self) -> u64 {
        self.connection.number()
    }

    /// The body of somebody who has shown nothing yet: it is waited for no longer than this in all. None if it is still to be
    /// asked for.
    pub fn hurried_body(&mut self, budget: Duration) -> Option<&mut dyn Read> {
        self.connection.hurry(budget).then(|| self.body())
    }

    /// The body, as it arrives.
    pub fn body(&mut self) -> &mut dyn Read {
        &mut self.connection
    }

    /// Gives the one answer.
    ///
    /// # Errors
    /// When the client is gone, or the gate has refused the body.
    pub fn answer(self, answer: Answer) -> io::Result<()> {
        let mut bytes = head(&answer, answer.body.len(), self.version);
        let mut writer = self.connection.respond()?;
        let body = if self.method == "HEAD" {
            &[][..]
        } else {
            &answer.body[..]
        };
        if body.len() <= SMALL_ANSWER {
            bytes.extend_from_slice(body);
            writer.write_all(&bytes)?;
        } else {
            writer.write_all(&bytes)?;
            writer.write_all(body)?;
        }
        writer.end();
        Ok(())
    }

    /// Gives a file, or a part of one, as the one answer.
    ///
    /// # Errors
    /// When the client is gone, or the file cannot be read; then the answer is cut off.
    pub fn send_file(self, mut answer: FileAnswer) -> io::Result<()> {
        let part = answer.part.clone().unwrap_or(0..answer.length);
        let length = usize::try_from(part.end - part.start).map_err(io::Error::other)?;
        let mut writer = self.connection.respond()?;
        writer.write_all(&head(&answer.head(), length, self.version))?;
        let mut left = if self.method == "HEAD" { 0 } else { length };
        let mut buffer = Pages::new(FILE_BUFFER.min(left));
        if part.start > 0 {
            answer.file.seek(SeekFrom::Start(part.start))?;
        }
        while left > 0 {
            let piece = left.min(FILE_BUFFER);
            answer.file.read_exact(&mut buffer[..piece])?;
            writer.write_all(&buffer[..piece])?;
            left -= piece;
        }
        writer.end();
        drop(answer.hold.take());
        Ok(())
    }

    /// Begins an answer that goes on, to somebody who only watches events or to whoever began what they tell of.
    ///
    /// # Errors
    /// When the client is gone, or the gate has refused the body, or one watcher more.
    pub fn stream(self, content_type: &str, watching: bool) -> io::Result<EventStream> {
        // A client of HTTP/1.0 does not know chunks: its stream ends with the connection.
        let chunked = self.version >= HTTPVersion(1, 1);
        let mut head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nCache-Control: no-cache\r\nX-Accel-Buffering: no\r\n\
             Connection: close\r\n",
        );
        if chunked {
            head.push_str("Transfer-Encoding: chunked\r\n");
        }
        if content_type == BYTES {
            // Without it a client takes bytes for the text of a proxy.
            head.push_str("Content-Disposition: attachment\r\n");
        }
        head.push_str("\r\n");
        let mut writer = if watching {
            self.connection.respond_to_watcher()?
        } else {
            self.connection.respond()?
        };
        writer.write_all(head.as_bytes())?;
        writer.goes_on();
        Ok(EventStream {
            writer,
            chunked,
            chunk: Vec::new(),
            sent: Instant::now(),
        })
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

/// A file that is the answer, to be saved under a name.
pub struct FileAnswer {
    /// The file.
    pub file: File,
    /// How long it is.
    pub length: u64,
    /// The part that is asked for; none for all of it.
    pub part: Option<Range<u64>>,
    /// The name that it is saved under.
    pub name: String,
    /// Dropped when all of it is sent, or the client has gone.
    pub hold: Option<Box<dyn Send>>,
}

impl FileAnswer {
    /// The HTTP status.
    pub fn status(&self) -> u16 {
        if self.part.is_some() { 206 } else { 200 }
    }

    fn head(&self) -> Answer {
        let disposition = format!("attachment; filename=\"{}\"", self.name);
        let mut headers = vec![("Content-Disposition", disposition)];
        if let Some(Range { start, end }) = self.part {
            let range = format!("bytes {start}-{}/{}", end - 1, self.length);
            headers.push(("Content-Range", range));
        }
        Answer {
            status: self.status(),
            content_type: BYTES,
            headers,
            body: Vec::new(),
        }
    }
}

/// The head of an answer whose body has `length` bytes.
fn head(answer: &Answer, length: usize, version: HTTPVersion) -> Vec<u8> {
    let mut response = Response::new(
        StatusCode(answer.status),
        Vec::new(),
        io::empty(),
        Some(length),
        None,
    )
    .with_chunked_threshold(usize::MAX);
    let content_type = ("Content-Type", answer.content_type);
    let more = answer.headers.iter();
    let more = more.map(|(name, value)| (*name, value.as_str()));
    for (name, value) in [content_type].into_iter().chain(more) {
        // A value of ours that is not a header would be a bug; the answer is worth more than the header.
        if let Ok(header) = Header::from_bytes(name, value) {
            response.add_header(header);
        }
    }
    let mut head = Vec::with_capacity(256);
    // Writing to a vector cannot fail.
    let _ = response.raw_print(&mut head, version, &[], true, None);
    // tiny_http has an opinion of its own about this field, and does not let it be set.
    head.truncate(head.len().saturating_sub(2));
    head.extend_from_slice(b"Connection: close\r\n\r\n");
    head
}

/// Records as they go over the wire, made once for all who get them.
pub struct Frame {
    bytes: Vec<u8>,
    /// Where in it the records are, which is all that a client gets who does not know chunks.
    records: Range<usize>,
}

impl Frame {
    /// Of records, and perhaps of the end behind them.
    pub fn new(records: &[u8], is_last: bool) -> Frame {
        let mut bytes = Vec::with_capacity(records.len() + 32);
        let mut place = 0..0;
        // A chunk of nothing would be the end.
        if !records.is_empty() {
            add_chunk(&mut bytes, records);
            let end = bytes.len() - CHUNK_END.len();
            place = end - records.len()..end;
        }
        if is_last {
            bytes.extend_from_slice(LAST_CHUNK);
        }
        Frame {
            bytes,
            records: place,
        }
    }
}

const CHUNK_END: &[u8] = b"\r\n";
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

fn add_chunk(to: &mut Vec<u8>, records: &[u8]) {
    // Writing to a vector cannot fail.
    let _ = write!(to, "{:x}\r\n", records.len());
    to.extend_from_slice(records);
    to.extend_from_slice(CHUNK_END);
}

/// An answer that goes on.
pub struct EventStream {
    writer: ResponseWriter,
    chunked: bool,
    chunk: Vec<u8>,
    /// When something was sent last.
    sent: Instant,
}

impl EventStream {
    /// Sends something now: one chunk, one write.
    ///
    /// # Errors
    /// When the client is gone. The stream is of no use after that.
    pub fn send(&mut self, records: &[u8]) -> io::Result<()> {
        self.sent = Instant::now();
        if !self.chunked {
            return self.writer.write_all(records);
        }
        add_chunk(&mut self.chunk, records);
        let sent = self.writer.write_all(&self.chunk);
        // A thousand watchers do not allocate for each event, and hold little between two of them.
        self.chunk.clear();
        self.chunk.shrink_to(KEPT_BUFFER);
        sent
    }

    /// Sends what the client takes of a frame without being waited for. Gives back the rest if there is one, which is to be
    /// sent before anything else ([`EventStream::send_rest`]).
    ///
    /// # Errors
    /// When the client is gone.
    pub fn offer(&mut self, frame: &Frame) -> io::Result<Option<Vec<u8>>> {
        let bytes = match self.chunked {
            true => &frame.bytes[..],
            false => &frame.bytes[frame.records.clone()],
        };
        if bytes.is_empty() {
            return Ok(None);
        }
        self.sent = Instant::now();
        let rest = self.writer.offer(bytes)?;
        Ok(rest.map(<[u8]>::to_vec))
    }

    /// Sends what [`EventStream::offer`] gave back, and waits for the client.
    ///
    /// # Errors
    /// When the client is gone.
    pub fn send_rest(&mut self, rest: &[u8]) -> io::Result<()> {
        self.sent = Instant::now();
        self.writer.write(rest).map(drop)
    }

    /// To be asked when there was nothing to send for a [`PULSE`]: whether it is time for a heartbeat.
    ///
    /// # Errors
    /// When the client is gone.
    pub fn is_due(&self) -> io::Result<bool> {
        if self.writer.is_gone() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        // One that sends nothing more may be gone, too, which only shows in writing to it.
        Ok(self.sent.elapsed() >= HEARTBEAT_AFTER || self.writer.only_listens())
    }

    /// To be called when there was nothing to send for a [`PULSE`]: sends a heartbeat when it is time.
    ///
    /// # Errors
    /// When the client is gone.
    pub fn idle(&mut self) -> io::Result<()> {
        match self.is_due()? {
            true => self.send(sse::HEARTBEAT),
            false => Ok(()),
        }
    }

    /// Says that this was all.
    ///
    /// # Errors
    /// When the client is gone.
    pub fn finish(&mut self) -> io::Result<()> {
        match self.chunked {
            true => self.writer.write_all(LAST_CHUNK),
            false => Ok(()),
        }
    }

    /// Closes a stream that is finished.
    pub fn close(self) {
        self.writer.end();
    }

    /// Ends the stream well.
    ///
    /// # Errors
    /// When the client is gone.
    pub fn end(mut self) -> io::Result<()> {
        self.finish()?;
        self.close();
        Ok(())
    }
}

/// The first field of a name, in any case.
fn field<'a>(headers: &'a [Header], name: &'static str) -> Option<&'a str> {
    headers
        .iter()
        .find(|header| header.field.equiv(name))
        .map(|header| header.value.as_str())
}

/// Takes percent signs out of a part of a URL; what is not an escape stays as it is, and what is not UTF-8 becomes U+FFFD.
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
    fn a_frame_is_for_clients_that_know_chunks_and_for_others() {
        let table: [(&[u8], bool, &[u8]); 4] = [
            (b"", false, b""),
            (b"", true, b"0\r\n\r\n"),
            (
                b"records of 20 bytes.",
                false,
                b"14\r\nrecords of 20 bytes.\r\n",
            ),
            (b"a", true, b"1\r\na\r\n0\r\n\r\n"),
        ];
        for (records, is_last, chunked) in table {
            let frame = Frame::new(records, is_last);
            assert_eq!(frame.bytes, chunked);
            assert_eq!(&frame.bytes[frame.records.clone()], records);
        }
    }

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
