//! A client's connection as the thread that answers it has it: first the body of the request, then the answer.
//!
//! A [`Connection`] reads the body within its bounds; a [`ResponseWriter`] writes the answer and closes the connection so that
//! the answer arrives. Whatever becomes of the thread, a client gets one answer or sees that it was cut off.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::server::gate::body::IncomingBody;
use crate::server::gate::client::ClientSocket;
use crate::server::gate::clock::Clock;
use crate::server::gate::head::RequestHead;
use crate::server::gate::permits::Ticket;
use crate::server::gate::refused::Refused;
use crate::server::gate::{BUFFER, ClientAddress, GateState, LINGER_BYTES, WRITE_TIME};
use crate::system::poll::{PollFd, PollFlags, hung_up, wait};
use crate::system::socket::receive;
use crate::system::stop::Stop;

/// Bare, for some clients take one with fields for the answer.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A connection with a request whose answer has not begun.
pub struct Connection {
    /// Nothing once its answer has begun.
    link: Option<Link>,
    number: u64,
    client: ClientAddress,
    declared: Option<u64>,
    body: BodyReader,
    refused: Option<Refused>,
}

/// What is known of a body that is being read.
struct BodyReader {
    framing: IncomingBody,
    /// The data that came with the head and has not been read yet.
    rest: Vec<u8>,
    /// The client waits for word before it sends the body.
    to_continue: bool,
    clock: Clock,
    /// More came than the request.
    extra: bool,
    /// How much data has come.
    read: u64,
    /// Ready when somebody's body is to be cut off, perhaps this one; there from the first wait on.
    wake: Option<Stop>,
}

impl Connection {
    /// Waits for the rest of the body no longer than this in all. False if the client sends it only when it is asked to.
    pub fn hurry(&mut self, budget: Duration) -> bool {
        self.body.clock.hurry(budget);
        !self.body.to_continue
    }

    /// A connection that has asked for something. `rest` is what came behind the head. Nothing if that is malformed, for
    /// then it is refused.
    pub(super) fn new(
        link: Link,
        client: ClientAddress,
        head: &RequestHead,
        mut rest: Vec<u8>,
    ) -> Option<Connection> {
        let mut framing = IncomingBody::new(head.framing);
        let extra = match framing.decode(&mut rest) {
            Ok(decoded) => {
                let extra = decoded.taken < rest.len();
                rest.truncate(decoded.data);
                extra
            }
            Err(refused) => {
                link.refuse(client, &refused);
                return None;
            }
        };
        Some(Connection {
            number: link.ticket.number(),
            link: Some(link),
            client,
            declared: head.declared,
            body: BodyReader {
                to_continue: head.expects && rest.is_empty(),
                read: rest.len() as u64,
                framing,
                rest,
                clock: Clock::default(),
                extra,
                wake: None,
            },
            refused: None,
        })
    }

    /// The number by which its upload can be cut off.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Who asks.
    pub fn client(&self) -> ClientAddress {
        self.client
    }

    /// The length that the client declared for the body.
    pub fn declared_length(&self) -> Option<u64> {
        self.declared
    }

    /// Answers in the place of the server.
    pub(super) fn refuse(mut self, refused: &Refused) {
        if let Some(link) = self.link.take() {
            link.refuse(self.client, refused);
        }
    }

    /// Begins the answer.
    ///
    /// # Errors
    /// When the body was such that the gate has answered instead.
    pub fn respond(mut self) -> io::Result<ResponseWriter> {
        if let Some(refused) = self.refused.take() {
            self.refuse(&refused);
            return Err(io::Error::other(refused.why.clone()));
        }
        self.writer()
    }

    /// Begins an answer that somebody only watches: such connections are at most half of all.
    ///
    /// # Errors
    /// As [`Connection::respond`], and when half of all are watchers already.
    pub fn respond_to_watcher(self) -> io::Result<ResponseWriter> {
        if self
            .link
            .as_ref()
            .is_some_and(|link| !link.ticket.watches())
        {
            let why = "half of all connections are watchers already; try again later";
            self.refuse(&Refused::full(why));
            return Err(io::Error::other(why));
        }
        self.respond()
    }

    fn writer(&mut self) -> io::Result<ResponseWriter> {
        let link = self.link.take().ok_or(io::ErrorKind::NotConnected)?;
        let read_all = self.body.framing.done() && !self.body.extra;
        Ok(ResponseWriter::new(link, read_all))
    }
}

impl Read for Connection {
    /// Reads what the client sends of the body, and waits for it. The end is the body's own end: whatever else ends it is an
    /// error.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(refused) = &self.refused {
            return Err(io::Error::other(refused.why.clone()));
        }
        let Some(link) = &mut self.link else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        self.body.read(link, buffer).map_err(|end| match end {
            BodyError::Io(error) => error,
            BodyError::Refused(refused) => {
                let error = io::Error::other(refused.why.clone());
                self.refused = Some(refused);
                error
            }
        })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(link) = self.link.take() {
            // The thread that was to answer panicked, which is in the log.
            link.refuse(self.client, &Refused::internal());
        }
    }
}

/// Why a body could not be read.
enum BodyError {
    Io(io::Error),
    /// The gate answers, and not the reader.
    Refused(Refused),
}

impl From<io::Error> for BodyError {
    fn from(error: io::Error) -> BodyError {
        BodyError::Io(error)
    }
}

impl From<Refused> for BodyError {
    fn from(refused: Refused) -> BodyError {
        BodyError::Refused(refused)
    }
}

impl BodyReader {
    fn read(&mut self, link: &mut Link, buffer: &mut [u8]) -> Result<usize, BodyError> {
        if !self.rest.is_empty() {
            let part = self.rest.len().min(buffer.len());
            buffer[..part].copy_from_slice(&self.rest[..part]);
            self.rest.drain(..part);
            return Ok(part);
        }
        // A body in chunks brings bytes that are not data.
        while !self.framing.done() && !buffer.is_empty() {
            let came = self.receive(link, buffer)?;
            let decoded = self.framing.decode(&mut buffer[..came])?;
            if self.framing.done() {
                self.extra = decoded.taken < came;
                self.wake = None;
            }
            if decoded.data > 0 {
                self.read += decoded.data as u64;
                return Ok(decoded.data);
            }
        }
        Ok(0)
    }

    /// Waits for bytes. Only a wait counts against the client.
    fn receive(&mut self, link: &mut Link, buffer: &mut [u8]) -> Result<usize, BodyError> {
        if std::mem::take(&mut self.to_continue) {
            link.write(CONTINUE)?;
        }
        let fits = usize::try_from(self.framing.left()).unwrap_or(usize::MAX);
        let fits = fits.min(buffer.len());
        loop {
            if link.ticket.is_cut() {
                return Err(self.ended_early("it was cut off here").into());
            }
            match link.peer.read(&mut buffer[..fits]) {
                Ok(None) => {}
                Ok(Some(0)) => return Err(self.ended_early("the connection ended").into()),
                Err(error) => return Err(self.ended_early(&error.to_string()).into()),
                Ok(Some(came)) => {
                    self.clock.came(came);
                    return Ok(came);
                }
            }
            let Some(wake) = &self.wake else {
                // It must be there before the cut is looked for.
                self.wake = Some(link.ticket.wake());
                continue;
            };
            let begun = Instant::now();
            let client = link.peer.fd();
            let mut fds = vec![PollFd::new(&client, link.peer.readable())];
            let of_wake = wake.fd();
            fds.extend(of_wake.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
            wait(&mut fds, Some(self.clock.left()))?;
            if wake.stopped() {
                self.wake = None;
            }
            self.clock.waited(begun.elapsed())?;
        }
    }

    fn ended_early(&self, why: &str) -> io::Error {
        let read = self.read;
        let text = match self.framing.left() {
            u64::MAX => format!("the body ended before its last chunk, after {read} bytes: {why}"),
            left => format!("the body ended {left} bytes before its Content-Length: {why}"),
        };
        io::Error::new(io::ErrorKind::UnexpectedEof, text)
    }
}

/// The way to a client, and its permit.
pub(super) struct Link {
    pub(super) peer: ClientSocket,
    pub(super) ticket: Ticket,
    pub(super) shared: Arc<GateState>,
}

impl Link {
    /// Answers with a refusal, and closes.
    pub(super) fn refuse(mut self, client: ClientAddress, refused: &Refused) {
        self.shared.log_refusal(client, refused);
        // A client that does not take it has its answer all the same.
        if self.write(&refused.answer()).is_ok() {
            self.close(false);
        }
    }

    /// Writes all of it, as long as the client takes some of it now and then.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        write(&mut self.peer, bytes)
    }

    /// Closes so that the client sees the answer: unless all that it sent was read, what it still sends is read and dropped
    /// for a while.
    fn close(mut self, read_all: bool) {
        self.peer.end();
        if read_all && matches!(self.peer.read(&mut [0]), Ok(None | Some(0)) | Err(_)) {
            return;
        }
        let socket = Arc::clone(self.ticket.socket());
        self.shared.drain.close(socket, Some(self.ticket));
    }
}

/// Writes a small answer.
pub(super) fn write(peer: &mut ClientSocket, bytes: &[u8]) -> io::Result<()> {
    write_all(peer, bytes, WRITE_TIME, &mut 0)
}

/// Writes to a client that takes some of it within each `time`. While it does not, what it sends is read and dropped, at
/// most `dropped` bytes: it may read only when it has written.
fn write_all(
    peer: &mut ClientSocket,
    mut bytes: &[u8],
    time: Duration,
    dropped: &mut u64,
) -> io::Result<()> {
    let mut deadline = Instant::now() + time;
    let mut buffer = Vec::new();
    while !bytes.is_empty() || peer.unsent() {
        if let Some(sent) = peer.write(bytes)? {
            bytes = &bytes[sent..];
            deadline = Instant::now() + time;
            continue;
        }
        let mut wanted = PollFlags::OUT;
        wanted.set(PollFlags::IN, *dropped > 0);
        let left = deadline.saturating_duration_since(Instant::now());
        let fd = peer.fd();
        let mut fds = [PollFd::new(&fd, wanted)];
        if left.is_zero() || !wait(&mut fds, Some(left))? {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if fds[0].revents().contains(PollFlags::IN) {
            buffer.resize(BUFFER, 0);
            *dropped = match receive(fd, &mut buffer) {
                Ok(Some(0)) | Err(_) => 0,
                Ok(read) => dropped.saturating_sub(read.unwrap_or_default() as u64),
            };
        }
    }
    Ok(())
}

/// The way of an answer. Dropped before its end, it cuts the answer off, which a client can tell from an end.
pub struct ResponseWriter {
    /// Nothing once the answer has ended.
    link: Option<Link>,
    /// All that the client sent was read.
    read_all: bool,
    /// How much of the rest is dropped at most while the answer is written.
    dropped: u64,
    /// For a client that takes nothing of its answer.
    write_time: Duration,
}

impl ResponseWriter {
    fn new(link: Link, read_all: bool) -> ResponseWriter {
        ResponseWriter {
            link: Some(link),
            read_all,
            dropped: if read_all { 0 } else { LINGER_BYTES },
            write_time: WRITE_TIME,
        }
    }

    /// Says that the answer goes on for long, with silence between: what the client still sends is dropped meanwhile.
    pub fn goes_on(&mut self) {
        if let (Some(link), false) = (&self.link, self.read_all) {
            self.dropped = 0;
            link.shared
                .drain
                .drop_input(Arc::clone(link.ticket.socket()));
        }
    }

    /// Whether nobody is at the other end, as far as that shows without writing.
    pub fn is_gone(&self) -> bool {
        self.link.is_none() || hung_up(self.events(PollFlags::empty()))
    }

    /// Whether the client sends nothing more: it only waits for the rest of its answer, or is gone.
    pub fn only_listens(&self) -> bool {
        self.events(PollFlags::RDHUP).contains(PollFlags::RDHUP)
    }

    /// What the client's socket says at once.
    fn events(&self, asked: PollFlags) -> PollFlags {
        let Some(link) = &self.link else {
            return PollFlags::empty();
        };
        let fd = link.peer.fd();
        let mut fds = [PollFd::new(&fd, asked)];
        match wait(&mut fds, Some(Duration::ZERO)) {
            Ok(false) => PollFlags::empty(),
            _ => fds[0].revents(),
        }
    }

    /// Writes what the client takes at once. What is left is given back, none if nothing is; it may be empty, for TLS holds
    /// back some. It is to be written before anything else.
    ///
    /// # Errors
    /// When the client is gone.
    pub fn offer<'a>(&mut self, mut bytes: &'a [u8]) -> io::Result<Option<&'a [u8]>> {
        let Some(link) = &mut self.link else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        while !bytes.is_empty() {
            match link.peer.write(bytes)? {
                Some(sent) => bytes = &bytes[sent..],
                None => break,
            }
        }
        Ok((!bytes.is_empty() || link.peer.unsent()).then_some(bytes))
    }

    /// Ends the answer, and closes the connection so that it arrives.
    pub fn end(mut self) {
        if let Some(link) = self.link.take() {
            link.close(self.read_all);
        }
    }
}

impl Write for ResponseWriter {
    /// Writes all of it, or fails: after that the answer is of no use.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(link) = &mut self.link else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        write_all(&mut link.peer, bytes, self.write_time, &mut self.dropped)?;
        Ok(bytes.len())
    }

    /// Nothing is held back.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for ResponseWriter {
    fn drop(&mut self) {
        if let Some(link) = self.link.take() {
            link.ticket.socket().shut(Shutdown::Both);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::gate::PendingConnections;
    use crate::server::gate::drain::Drain;
    use crate::server::gate::head::Search;
    use crate::server::gate::permits::Permits;
    use crate::server::gate::socket::Socket;
    use crate::server::gate::{Upstream, log};
    use std::os::unix::net::UnixStream;
    use std::sync::Mutex;
    use std::thread;

    struct Nobody;

    impl Upstream for Nobody {
        fn connect(&self) -> io::Result<UnixStream> {
            Err(io::ErrorKind::ConnectionRefused.into())
        }
    }

    fn shared() -> Arc<GateState> {
        Arc::new(GateState {
            permits: Arc::new(Permits::new(4, None, Box::new(|| 0)).unwrap()),
            inner: Arc::new(Nobody),
            pending: Arc::<PendingConnections>::default(),
            drain: Drain::start().unwrap(),
            connecting: Mutex::new(()),
            full: log::RateLimitedLog::default(),
            turned_away: Arc::new(()),
            answers: Arc::default(),
        })
    }

    /// A connection whose head has come, with the bytes behind it, and its client.
    fn connection(head: &str, rest: &str) -> (Connection, UnixStream) {
        connection_of(&shared(), head, rest)
    }

    fn connection_of(shared: &Arc<GateState>, head: &str, rest: &str) -> (Connection, UnixStream) {
        let head = format!("{head}\r\n\r\n");
        assert!(Search::default().find(head.as_bytes()).unwrap().is_some());
        let head = RequestHead::parse(head.as_bytes()).unwrap();
        let (ours, client) = UnixStream::pair().unwrap();
        let socket = Arc::new(Socket::Unix(ours));
        let ticket = shared.permits.admit(&socket, ClientAddress::Local).unwrap();
        assert!(ticket.asked());
        let link = Link {
            peer: ClientSocket::new(socket),
            ticket,
            shared: Arc::clone(shared),
        };
        let rest = rest.as_bytes().to_vec();
        (
            Connection::new(link, ClientAddress::Local, &head, rest).unwrap(),
            client,
        )
    }

    fn text(stream: &mut UnixStream, bytes: usize) -> String {
        let mut text = vec![0; bytes];
        stream.read_exact(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    fn rest(mut stream: UnixStream) -> String {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    fn body(connection: &mut Connection) -> io::Result<String> {
        let mut text = String::new();
        connection.read_to_string(&mut text).map(|_| text)
    }

    fn answer(connection: Connection) {
        let mut writer = connection.respond().unwrap();
        writer.write_all(b"answer").unwrap();
        writer.end();
    }

    const LENGTH_6: &str = "POST / HTTP/1.1\r\nContent-Length: 6";
    const CHUNKED: &str = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked";

    #[test]
    fn bodies_that_come_with_the_head_after_it_and_in_both_ways() {
        let table = [
            ("GET / HTTP/1.1", "", "", ""),
            (LENGTH_6, "abcdef", "", "abcdef"),
            (LENGTH_6, "abc", "def", "abcdef"),
            (LENGTH_6, "", "abcdefGET /smuggled", "abcdef"),
            (CHUNKED, "3\r\nab", "c\r\n3\r\ndef\r\n0\r\n\r\n", "abcdef"),
            (
                CHUNKED,
                "6\r\nabcdef\r\n0\r\n\r\nGET /smuggled",
                "",
                "abcdef",
            ),
        ];
        for (head, with, after, data) in table {
            let (mut connection, mut client) = connection(head, with);
            client.write_all(after.as_bytes()).unwrap();
            assert_eq!(
                body(&mut connection).unwrap(),
                data,
                "{head} {with} {after}"
            );
            answer(connection);
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(rest(client), "answer");
        }
    }

    #[test]
    fn a_body_that_ends_early_is_an_error_that_says_how_and_has_an_answer() {
        let table = [
            (LENGTH_6, "abc", "ended 3 bytes before its Content-Length"),
            (
                CHUNKED,
                "3\r\nabc\r\n",
                "before its last chunk, after 3 bytes",
            ),
        ];
        for (head, with, why) in table {
            let (mut connection, client) = connection(head, with);
            client.shutdown(Shutdown::Write).unwrap();
            let error = body(&mut connection).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
            assert!(error.to_string().contains(why), "{error}");
            answer(connection);
            assert_eq!(rest(client), "answer");
        }
    }

    #[test]
    fn a_body_that_is_malformed_is_refused_whatever_the_answer_would_be() {
        let (mut connection, client) = connection(CHUNKED, "3\r\nabc\r\n");
        (&client).write_all(b"+3\r\n").unwrap();
        for _ in 0..2 {
            assert!(body(&mut connection).is_err());
        }
        assert!(connection.respond().is_err());
        client.shutdown(Shutdown::Write).unwrap();
        let said = rest(client);
        assert!(
            said.starts_with("HTTP/1.1 400 ") && said.contains("bad_http"),
            "{said}"
        );
    }

    #[test]
    fn a_cut_ends_a_body_whose_client_is_silent() {
        let shared = shared();
        let (mut connection, client) = connection_of(&shared, LENGTH_6, "abc");
        let number = connection.number();
        let reader = thread::spawn(move || {
            let error = body(&mut connection).unwrap_err();
            answer(connection);
            error.kind()
        });
        // Another one's is of no concern to it.
        shared.permits.cut(Some(number + 1));
        shared.permits.cut(Some(number));
        assert_eq!(reader.join().unwrap(), io::ErrorKind::UnexpectedEof);
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(rest(client), "answer");
    }

    #[test]
    fn an_answer_comes_through_while_nobody_reads_the_body() {
        // A small one, a long one, and one that goes on.
        for (bytes, goes_on) in [(6, false), (8 << 20, false), (6, true)] {
            let (connection, mut client) =
                connection("POST / HTTP/1.1\r\nContent-Length: 1000000000", "");
            let mut sending = client.try_clone().unwrap();
            let (sent, all_sent) = crossbeam_channel::bounded::<()>(0);
            let sender = thread::spawn(move || {
                // More than all buffers between the two hold, so that it can be sent only if somebody reads it over.
                for _ in 0..64 {
                    sending.write_all(&[b'x'; 64 << 10]).unwrap();
                }
                drop(sent);
            });
            let writer = thread::spawn(move || {
                let mut writer = connection.respond().unwrap();
                writer.write_all(&vec![b'a'; bytes]).unwrap();
                if goes_on {
                    writer.goes_on();
                    assert!(all_sent.recv().is_err());
                }
                writer.end();
            });
            // Only then does the client read.
            sender.join().unwrap();
            assert_eq!(text(&mut client, bytes), "a".repeat(bytes));
            writer.join().unwrap();
        }
    }

    #[test]
    fn a_panic_is_answered_with_an_error() {
        let (connection, client) = connection("GET / HTTP/1.1", "");
        let panicked = thread::spawn(move || {
            let _connection = connection;
            std::panic::resume_unwind(Box::new(()));
        });
        assert!(panicked.join().is_err());
        client.shutdown(Shutdown::Write).unwrap();
        let said = rest(client);
        assert!(
            said.starts_with("HTTP/1.1 500 ") && said.contains("internal"),
            "{said}"
        );
    }

    #[test]
    fn an_answer_that_is_not_ended_is_cut_off() {
        let (connection, client) = connection("GET / HTTP/1.1", "");
        let mut writer = connection.respond().unwrap();
        writer.write_all(b"answ").unwrap();
        assert!(!writer.is_gone());
        drop(writer);
        assert_eq!(rest(client), "answ");
    }

    #[test]
    fn a_client_that_goes_is_noticed() {
        let (connection, client) = connection("GET / HTTP/1.1", "");
        let mut writer = connection.respond().unwrap();
        drop(client);
        assert!(writer.is_gone());
        assert!(writer.write_all(b"answer").is_err());
    }

    #[test]
    fn a_client_that_does_not_read_is_dropped() {
        let (connection, _client) = connection("GET / HTTP/1.1", "");
        let mut writer = connection.respond().unwrap();
        writer.write_time = Duration::from_millis(50);
        // More than all buffers between the two hold.
        let error = writer.write_all(&vec![b'x'; 8 << 20]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn word_to_go_on_is_bare_and_comes_when_the_body_is_read() {
        let head = format!("{LENGTH_6}\r\nExpect: 100-continue");
        let (refused, client) = connection(&head, "");
        answer(refused);
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(rest(client), "answer");

        let (mut connection, mut client) = connection(&head, "");
        let reader = thread::spawn(move || {
            let read = body(&mut connection).unwrap();
            answer(connection);
            read
        });
        assert_eq!(text(&mut client, CONTINUE.len()).as_bytes(), CONTINUE);
        client.write_all(b"abc").unwrap();
        client.write_all(b"def").unwrap();
        assert_eq!(reader.join().unwrap(), "abcdef");
        assert_eq!(rest(client), "answer");
    }

    #[test]
    fn half_of_all_watch() {
        let shared = shared();
        let mut watchers = Vec::new();
        for _ in 0..2 {
            let (connection, client) = connection_of(&shared, "GET / HTTP/1.1", "");
            watchers.push((connection.respond_to_watcher().unwrap(), client));
        }
        let (connection, client) = connection_of(&shared, "GET / HTTP/1.1", "");
        assert!(connection.respond_to_watcher().is_err());
        client.shutdown(Shutdown::Write).unwrap();
        assert!(rest(client).starts_with("HTTP/1.1 503 "));
        watchers.pop();
        let (connection, _client) = connection_of(&shared, "GET / HTTP/1.1", "");
        assert!(connection.respond_to_watcher().is_ok());
    }
}
