//! One request and its answer, over two sockets at once.
//!
//! First the request goes on until its end, or until an answer comes early; then the answer goes back. Neither socket is
//! ever waited for alone while the other one may have news.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::server::gate::answer::{Final, RelayedAnswer};
use crate::server::gate::body::IncomingBody;
use crate::server::gate::clock::Clock;
use crate::server::gate::head::RequestHead;
use crate::server::gate::pending::{Drain, Pending, write_client};
use crate::server::gate::permits::Ticket;
use crate::server::gate::refused::Refused;
use crate::server::gate::socket::ClientSocket;
use crate::server::gate::{BUFFER, WRITE_TIME};
use crate::system::poll::{PollFd, PollFlags, hung_up, wait};
use crate::system::socket::{receive, send};
use crate::system::stop::Stop;

/// For the client's own ears: the server's has fields in it, which some clients take for the answer.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// How it ended.
pub(crate) enum RelayEnd {
    /// The client has its answer, as far as that shows, and all that it sent was `read`, or not.
    Answered { read: bool },
    /// The gate answers instead.
    Refused(Refused),
    /// Nobody is there any more.
    Gone,
}

/// A request that is to go on.
pub(crate) struct ForwardedRequest {
    pub(crate) head: RequestHead,
    /// The head as the server gets it.
    pub(crate) forwarded: Vec<u8>,
    /// What came behind the head.
    pub(crate) rest: Vec<u8>,
}

/// Relays one request and its answer.
pub(crate) fn run(
    request: ForwardedRequest,
    inner: UnixStream,
    peer: &mut ClientSocket,
    ticket: &Ticket,
) -> RelayEnd {
    relay(request, inner, peer, ticket).run()
}

fn relay<'a>(
    request: ForwardedRequest,
    inner: UnixStream,
    peer: &'a mut ClientSocket,
    ticket: &'a Ticket,
) -> Relay<'a> {
    let ForwardedRequest {
        head,
        forwarded,
        rest,
    } = request;
    let body = IncomingBody::new(head.framing);
    let extra = body.done() && !rest.is_empty();
    Relay {
        inner,
        peer,
        ticket,
        open: !body.done(),
        body,
        raw: rest,
        out: Pending::of(forwarded),
        answer: Vec::new(),
        to_continue: head.expects,
        clock: Clock::default(),
        half_closed: false,
        extra,
        wake: ticket.wake(),
        write_time: WRITE_TIME,
    }
}

struct Relay<'a> {
    inner: UnixStream,
    peer: &'a mut ClientSocket,
    ticket: &'a Ticket,
    body: IncomingBody,
    /// More of the body is to be read: it is not complete, was not cut off, and the server takes it.
    open: bool,
    /// What came from the client and is not framed yet.
    raw: Vec<u8>,
    /// What is to go to the server.
    out: Pending,
    /// What came from the server.
    answer: Vec<u8>,
    /// The client waits for word before it sends the body.
    to_continue: bool,
    clock: Clock,
    half_closed: bool,
    /// More came than the request.
    extra: bool,
    /// Ready when somebody's body is to be cut off, perhaps this one's.
    wake: Stop,
    /// For a client that takes nothing of its answer.
    write_time: Duration,
}

impl Relay<'_> {
    fn run(mut self) -> RelayEnd {
        match self.request() {
            Ok(head) => self.reply(head),
            Err(end) => end,
        }
    }

    /// Passes the request on, until there is an answer.
    fn request(&mut self) -> Result<Final, RelayEnd> {
        if !self.raw.is_empty() && self.open {
            self.frame()?;
        }
        loop {
            self.write_inner();
            // The wake was got before.
            if self.ticket.is_cut() {
                self.open = false;
            }
            let read = self.read_body()?;
            if let Some(head) = self.read_answer()? {
                return Ok(head);
            }
            if read || !self.out.is_empty() && self.write_inner() {
                continue;
            }
            if self.out.is_empty() && !self.open && !self.half_closed {
                self.end_request();
            }
            self.wait_for_request()?;
        }
    }

    /// Nothing more will come: a body that is not complete ends without its end chunk.
    fn end_request(&mut self) {
        self.half_closed = true;
        if !self.body.done() {
            // If it is gone, reading will say so.
            let _ = self.inner.shutdown(Shutdown::Write);
        }
        self.out.free();
        self.raw = Vec::new();
    }

    /// Writes to the server what it takes now, and says whether it took anything.
    fn write_inner(&mut self) -> bool {
        let mut wrote = false;
        while !self.out.is_empty() {
            match send(&self.inner, self.out.rest()) {
                Ok(Some(sent)) => {
                    self.out.wrote(sent);
                    wrote = true;
                }
                Ok(None) => break,
                Err(_) => {
                    // It has answered and closed, or died: either way there is something to read.
                    self.out.clear();
                    self.open = false;
                }
            }
        }
        wrote
    }

    /// Reads some of the body if there is room for it, and says whether anything came.
    fn read_body(&mut self) -> Result<bool, RelayEnd> {
        if !self.open || !self.out.is_empty() {
            return Ok(false);
        }
        self.raw.clear();
        self.raw.reserve_exact(BUFFER);
        match self.peer.read(&mut self.raw) {
            Ok(None) => Ok(false),
            // The end before the body's end; the client may still read.
            Ok(Some(0)) | Err(_) => {
                self.open = false;
                Ok(true)
            }
            Ok(Some(read)) => {
                self.clock.came(read);
                self.to_continue = false;
                self.frame()?;
                Ok(true)
            }
        }
    }

    /// Frames what came.
    fn frame(&mut self) -> Result<(), RelayEnd> {
        let taken = self
            .body
            .take(&self.raw, &mut self.out.bytes)
            .map_err(RelayEnd::Refused)?;
        self.extra |= taken < self.raw.len();
        self.open = !self.body.done();
        Ok(())
    }

    /// Reads what the server says, if it does.
    fn read_answer(&mut self) -> Result<Option<Final>, RelayEnd> {
        let died = || {
            let why = "the server ended the request without an answer; try again";
            Err(RelayEnd::Refused(Refused::full(why)))
        };
        self.answer.reserve(2 << 10);
        match receive(&self.inner, &mut self.answer) {
            Ok(None) => return Ok(None),
            Ok(Some(0)) | Err(_) => return died(),
            Ok(Some(_)) => {}
        }
        loop {
            match RelayedAnswer::read(&self.answer) {
                RelayedAnswer::Partial => return Ok(None),
                RelayedAnswer::Broken => return died(),
                RelayedAnswer::Final(head) => {
                    self.answer.drain(..head.taken);
                    return Ok(Some(head));
                }
                RelayedAnswer::Continue(taken) => {
                    self.answer.drain(..taken);
                    if std::mem::take(&mut self.to_continue) {
                        // Nothing else was written to it, so this fits; if it does not, nobody is there.
                        match self.peer.write(CONTINUE) {
                            Ok(Some(sent)) if sent == CONTINUE.len() => {}
                            _ => return Err(RelayEnd::Gone),
                        }
                    }
                }
            }
        }
    }

    /// Waits for news of either side. Only a wait for nothing but the client counts against it.
    fn wait_for_request(&mut self) -> Result<(), RelayEnd> {
        let from_client = self.open && self.out.is_empty();
        if from_client && self.peer.pending() {
            return Ok(());
        }
        let counts = from_client && !self.to_continue;
        let to_inner = if self.out.is_empty() {
            PollFlags::empty()
        } else {
            PollFlags::OUT
        };
        let of_client = if from_client {
            self.peer.readable()
        } else {
            PollFlags::empty()
        };
        let client = self.peer.fd();
        // Whoever cuts bodies off wakes us up by this one; without it the socket itself is shut.
        let wake = self.wake.fd().unwrap_or(client);
        let of_wake = match self.wake.fd() {
            Some(_) => PollFlags::IN,
            None => PollFlags::empty(),
        };
        let mut fds = [
            PollFd::new(&self.inner, PollFlags::IN | to_inner),
            PollFd::new(&wake, of_wake),
            PollFd::new(&client, of_client),
        ];
        // What was framed must reach the server whole, even if the client is gone meanwhile.
        let watched = if self.out.is_empty() { 3 } else { 2 };
        let begun = Instant::now();
        let time = counts.then(|| self.clock.left());
        wait(&mut fds[..watched], time).map_err(|_| RelayEnd::Gone)?;
        let [inner, _, client] = fds.map(|fd| fd.revents());
        if self.wake.stopped() {
            self.wake = self.ticket.wake();
        }
        if counts {
            self.clock
                .waited(begun.elapsed())
                .map_err(RelayEnd::Refused)?;
        }
        // While the body is read, reading says so.
        let client_gone = watched == 3 && !from_client && hung_up(client);
        if client_gone && inner.is_empty() {
            return Err(RelayEnd::Gone);
        }
        Ok(())
    }

    /// Passes the answer back.
    fn reply(mut self, head: Final) -> RelayEnd {
        if head.watcher && !self.ticket.watches() {
            let why = "half of all connections are watchers already; try again later";
            return RelayEnd::Refused(Refused::full(why));
        }
        // What was cut off by the answer is not to be read as the request any more.
        self.out.free();
        self.raw = Vec::new();
        let mut to_client = Pending::of(head.head);
        to_client.bytes.append(&mut self.answer);
        let mut drain = Drain::new(!self.body.done());
        let mut stalled = Duration::ZERO;
        loop {
            match write_client(self.peer, &mut to_client) {
                Ok(true) => stalled = Duration::ZERO,
                Ok(false) => {}
                Err(_) => return RelayEnd::Gone,
            }
            if self.is_sent(&to_client) {
                to_client.bytes.reserve_exact(BUFFER);
                match receive(&self.inner, &mut to_client.bytes) {
                    Ok(None) => {}
                    // A reset is the end too: the server closed with some of the request unread.
                    Ok(Some(0)) | Err(_) => {
                        let read = self.body.done() && !self.extra;
                        return RelayEnd::Answered { read };
                    }
                    Ok(Some(_)) => continue,
                }
            }
            drain.read(self.peer);
            if stalled >= self.write_time {
                return RelayEnd::Gone;
            }
            if drain.open && self.peer.pending() {
                continue;
            }
            let begun = Instant::now();
            let client_gone = self.wait_for_answer(&to_client, &drain, self.write_time - stalled);
            match client_gone {
                Ok(false) => {}
                Ok(true) | Err(_) => return RelayEnd::Gone,
            }
            if !self.is_sent(&to_client) {
                stalled += begun.elapsed();
            }
        }
    }

    /// Whether the client's socket has all of the answer that is there so far.
    fn is_sent(&self, to_client: &Pending) -> bool {
        to_client.is_empty() && !self.peer.unsent()
    }

    /// Waits for more of the answer, or for room at the client. Says whether the client is gone.
    fn wait_for_answer(
        &self,
        to_client: &Pending,
        drain: &Drain,
        time: Duration,
    ) -> io::Result<bool> {
        let sent = self.is_sent(to_client);
        let mut of_client = PollFlags::empty();
        of_client.set(PollFlags::OUT, !sent);
        of_client.set(PollFlags::IN, drain.open);
        let client = self.peer.fd();
        let mut fds = [
            PollFd::new(&client, of_client),
            PollFd::new(&self.inner, PollFlags::IN),
        ];
        // While the client does not take what is there, more of it is not asked for.
        let (watched, time) = if sent { (2, None) } else { (1, Some(time)) };
        wait(&mut fds[..watched], time)?;
        Ok(hung_up(fds[0].revents()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::gate::head::{RequestHead, Search};
    use crate::server::gate::permits::Permits;
    use crate::server::gate::socket::Socket;
    use std::io::{Read, Write};
    use std::sync::Arc;
    use std::thread;

    /// A client, a server, and a relay between them on a thread of its own.
    struct RelayFixture {
        client: UnixStream,
        server: UnixStream,
        permits: Arc<Permits>,
        relay: thread::JoinHandle<RelayEnd>,
    }

    fn world(head: &str, rest: &str) -> RelayFixture {
        world_with(head, rest, WRITE_TIME)
    }

    fn world_with(head: &str, rest: &str, write_time: Duration) -> RelayFixture {
        let head = format!("{head}\r\n\r\n");
        assert!(Search::default().find(head.as_bytes()).unwrap().is_some());
        let head = RequestHead::parse(head.as_bytes()).unwrap();
        let (ours, client) = UnixStream::pair().unwrap();
        let (inner, mut server) = UnixStream::pair().unwrap();
        let permits = Arc::new(Permits::new(4).unwrap());
        let socket = Arc::new(Socket::Unix(ours));
        let ticket = permits.admit(&socket).unwrap();
        assert!(ticket.asked());
        let rest = rest.as_bytes().to_vec();
        let relay = thread::spawn(move || {
            let mut peer = ClientSocket::new(ticket.socket().clone());
            let forwarded = b"HEAD\r\n".to_vec();
            let request = ForwardedRequest {
                head,
                forwarded,
                rest,
            };
            let mut relay = relay(request, inner, &mut peer, &ticket);
            relay.write_time = write_time;
            relay.run()
        });
        let mut head = [0; 6];
        server.read_exact(&mut head).unwrap();
        RelayFixture {
            client,
            server,
            permits,
            relay,
        }
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

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\n\r\nanswer";
    const ANSWERED: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nanswer";

    #[test]
    fn a_request_and_its_answer() {
        let table = [("", true), ("GET /smuggled", false)];
        for (behind, read) in table {
            let mut world = world(
                "POST / HTTP/1.1\r\nContent-Length: 6",
                &format!("abcdef{behind}"),
            );
            assert_eq!(
                text(&mut world.server, 23),
                "00000006\r\nabcdef\r\n0\r\n\r\n"
            );
            world.server.write_all(ANSWER).unwrap();
            drop(world.server);
            assert!(
                matches!(world.relay.join().unwrap(), RelayEnd::Answered { read: was } if was == read)
            );
            assert_eq!(rest(world.client), ANSWERED);
        }
    }

    #[test]
    fn a_body_that_ends_early_has_no_end_chunk_and_an_answer() {
        let mut world = world("POST / HTTP/1.1\r\nContent-Length: 6", "abc");
        world.client.shutdown(Shutdown::Write).unwrap();
        let mut body = String::new();
        world.server.read_to_string(&mut body).unwrap();
        assert_eq!(body, "00000003\r\nabc\r\n");
        world.server.write_all(ANSWER).unwrap();
        drop(world.server);
        assert!(matches!(
            world.relay.join().unwrap(),
            RelayEnd::Answered { read: false }
        ));
        assert_eq!(rest(world.client), ANSWERED);
    }

    #[test]
    fn a_cut_ends_a_body_whose_client_is_silent() {
        let mut world = world("POST / HTTP/1.1\r\nContent-Length: 6", "abc");
        assert_eq!(text(&mut world.server, 15), "00000003\r\nabc\r\n");
        // Another one's is no matter.
        world.permits.cut(Some(7));
        world.permits.cut(Some(1));
        assert_eq!(rest(world.server.try_clone().unwrap()), "");
        world.server.write_all(ANSWER).unwrap();
        drop(world.server);
        assert!(matches!(
            world.relay.join().unwrap(),
            RelayEnd::Answered { read: false }
        ));
        assert_eq!(rest(world.client), ANSWERED);
    }

    #[test]
    fn an_answer_comes_through_while_nobody_reads_the_body() {
        let mut world = world("POST / HTTP/1.1\r\nContent-Length: 1000000000", "");
        let mut sending = world.client.try_clone().unwrap();
        let sender = thread::spawn(move || {
            // More than all buffers between the two hold, so that it can be sent only if somebody reads it over.
            (0..64).try_for_each(|_| sending.write_all(&[b'x'; 64 << 10]))
        });
        assert_eq!(text(&mut world.server, 2), "00");
        world.server.write_all(ANSWER).unwrap();
        assert_eq!(text(&mut world.client, ANSWERED.len()), ANSWERED);
        sender.join().unwrap().unwrap();
        drop(world.server);
        assert!(matches!(
            world.relay.join().unwrap(),
            RelayEnd::Answered { read: false }
        ));
    }

    #[test]
    fn a_server_that_dies_is_a_refusal() {
        for said in ["", "HTTP/1.1 200 OK\r\n", "nonsense\r\n\r\n"] {
            let mut world = world("GET / HTTP/1.1", "");
            world.server.write_all(said.as_bytes()).unwrap();
            drop(world.server);
            assert!(
                matches!(
                    world.relay.join().unwrap(),
                    RelayEnd::Refused(Refused { status: 503, .. })
                ),
                "{said:?}"
            );
        }
    }

    #[test]
    fn a_client_that_goes_ends_the_server_s_side() {
        // While the answer is awaited, and while it goes on.
        for said in [&b""[..], ANSWER] {
            let mut world = world("GET / HTTP/1.1", "");
            world.server.write_all(said).unwrap();
            if !said.is_empty() {
                assert_eq!(text(&mut world.client, ANSWERED.len()), ANSWERED);
            }
            drop(world.client);
            assert!(matches!(world.relay.join().unwrap(), RelayEnd::Gone));
            assert!(matches!(world.server.read(&mut [0]), Ok(0) | Err(_)));
        }
    }

    #[test]
    fn a_client_that_does_not_read_is_dropped() {
        let mut world = world_with("GET / HTTP/1.1", "", Duration::from_millis(50));
        let sender = thread::spawn(move || {
            world.server.write_all(ANSWER)?;
            // More than all buffers between the two hold.
            (0..64).try_for_each(|_| world.server.write_all(&[b'x'; 64 << 10]))
        });
        assert!(matches!(world.relay.join().unwrap(), RelayEnd::Gone));
        assert!(sender.join().unwrap().is_err());
        drop(world.client);
    }

    #[test]
    fn word_to_go_on_is_bare_and_comes_once() {
        let mut world = world(
            "POST / HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue",
            "",
        );
        world
            .server
            .write_all(b"HTTP/1.1 100 Continue\r\nServer: x\r\n\r\n")
            .unwrap();
        assert_eq!(text(&mut world.client, CONTINUE.len()).as_bytes(), CONTINUE);
        world.client.write_all(b"ab").unwrap();
        assert_eq!(text(&mut world.server, 19), "00000002\r\nab\r\n0\r\n\r\n");
        world.server.write_all(ANSWER).unwrap();
        drop(world.server);
        assert!(matches!(
            world.relay.join().unwrap(),
            RelayEnd::Answered { read: true }
        ));
        assert_eq!(rest(world.client), ANSWERED);
    }
}
