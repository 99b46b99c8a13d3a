//! One connection, from its first byte to its close: a head in time, one request, one answer, and a close that does not
//! take the answer back.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::server::gate::head::{From, RequestHead, Search};
use crate::server::gate::permits::Ticket;
use crate::server::gate::refused::Refused;
use crate::server::gate::relay::{self, RelayEnd};
use crate::server::gate::socket::{ClientSocket, Socket};
use crate::server::gate::tls::{Certificate, HELLO};
use crate::server::gate::{
    BUFFER, GateState, HEAD_MAX, HEAD_TIME, LINGER_BYTES, LINGER_TIME, WRITE_TIME,
};
use crate::system::log;
use crate::system::poll::{PollFd, PollFlags, wait};

/// Who is at the other end, and by which kind of listener.
#[derive(Debug, Clone)]
pub(crate) struct ClientOrigin {
    listener: &'static str,
    address: Option<String>,
}

impl ClientOrigin {
    pub(crate) fn new(listener: &'static str, address: Option<IpAddr>) -> ClientOrigin {
        ClientOrigin {
            listener,
            address: address.map(|address| address.to_string()),
        }
    }
}

impl fmt::Display for ClientOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.address.as_deref().unwrap_or("unix"))
    }
}

/// A head, and what came with it.
struct ReceivedHead {
    head: RequestHead,
    rest: Vec<u8>,
}

/// Attends to one connection.
pub(crate) fn attend(
    shared: &GateState,
    ticket: &Ticket,
    caller: &ClientOrigin,
    certificate: Option<&Certificate>,
) {
    let mut peer = ClientSocket::new(ticket.socket().clone());
    let deadline = Instant::now() + HEAD_TIME;
    let end = match greet(&mut peer, certificate, deadline) {
        // From here on it does not give way; one that has to already is gone.
        Ok(Some(asked)) if ticket.asked() => pass_on(shared, ticket, caller, asked, &mut peer),
        Ok(_) => RelayEnd::Gone,
        Err(refused) => RelayEnd::Refused(refused),
    };
    match end {
        RelayEnd::Gone => {}
        RelayEnd::Answered { read } => finish(&mut peer, read),
        RelayEnd::Refused(refused) => {
            let text = format!("{caller} refused {}: {}", refused.status, refused.why);
            match refused.code {
                crate::api::error::Code::Full => shared.full.warn(|| text),
                _ => log::info(&text),
            }
            refuse(&mut peer, &refused);
        }
    }
}

/// Tells a client of TLS that there is no place for it, which only the session can carry.
pub(crate) fn turn_away(socket: Arc<Socket>, certificate: &Certificate, refused: &Refused) {
    let mut peer = ClientSocket::new(socket);
    // Whoever has not asked by then gets no answer.
    let deadline = Instant::now() + LINGER_TIME;
    if let Ok(Some(_)) = greet(&mut peer, Some(certificate), deadline) {
        refuse(&mut peer, refused);
    }
}

fn refuse(peer: &mut ClientSocket, refused: &Refused) {
    if write(peer, &refused.answer()) {
        finish(peer, false);
    }
}

/// Begins TLS where there is a certificate, and reads the head. Nothing if the client goes before.
fn greet(
    peer: &mut ClientSocket,
    certificate: Option<&Certificate>,
    deadline: Instant,
) -> Result<Option<ReceivedHead>, Refused> {
    if let Some(certificate) = certificate {
        let first = loop {
            match peer.peek() {
                Ok(Some(first)) => break first,
                Ok(None) => {}
                Err(_) => return Ok(None),
            }
            if !wait_to_read(peer, deadline)? {
                return Ok(None);
            }
        };
        if first != HELLO {
            let why = "this listener speaks TLS: use an https URL";
            return Err(Refused::new(400, why));
        }
        match certificate.begin() {
            Ok(session) => peer.secure(session),
            Err(error) => {
                log::error(&format!("beginning a TLS session: {error}"));
                return Ok(None);
            }
        }
    }
    read_head(peer, deadline)
}

/// Reads up to the end of the head. Nothing if the client goes before.
fn read_head(peer: &mut ClientSocket, deadline: Instant) -> Result<Option<ReceivedHead>, Refused> {
    let mut search = Search::default();
    // Most heads fit; it grows up to the limit.
    let mut buffer = Vec::with_capacity(2 << 10);
    loop {
        if buffer.len() == buffer.capacity() {
            buffer.reserve(buffer.len().min(HEAD_MAX));
        }
        match peer.read(&mut buffer) {
            Ok(Some(0)) if buffer.is_empty() => return Ok(None),
            Ok(Some(0)) => return Err(Refused::new(400, "the head of the request: it ends early")),
            Ok(Some(_)) => {
                if let Some((start, end)) = search.find(&buffer)? {
                    let head = RequestHead::parse(&buffer[start..end])?;
                    let rest = buffer.split_off(end);
                    return Ok(Some(ReceivedHead { head, rest }));
                }
                continue;
            }
            Ok(None) => {}
            // The session has sent its alert; this is for the log.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(Refused::new(400, format!("the TLS session: {error}")));
            }
            Err(_) => return Ok(None),
        }
        if !wait_to_read(peer, deadline)? {
            return Ok(None);
        }
    }
}

/// Waits for more of the head; false if the connection is of no use.
fn wait_to_read(peer: &ClientSocket, deadline: Instant) -> Result<bool, Refused> {
    let left = deadline.saturating_duration_since(Instant::now());
    let fd = peer.fd();
    match wait(&mut [PollFd::new(&fd, peer.readable())], Some(left)) {
        Ok(true) if !left.is_zero() => Ok(true),
        Ok(_) => {
            let why = format!(
                "the head of the request: it did not come within {} seconds",
                HEAD_TIME.as_secs()
            );
            Err(Refused::new(408, why))
        }
        Err(_) => Ok(false),
    }
}

fn pass_on(
    shared: &GateState,
    ticket: &Ticket,
    caller: &ClientOrigin,
    asked: ReceivedHead,
    peer: &mut ClientSocket,
) -> RelayEnd {
    let ReceivedHead { head, rest } = asked;
    match shared.connect() {
        Ok(inner) => {
            let forwarded = head.forward(&From {
                peer: caller.address.as_deref(),
                listener: caller.listener,
                connection: ticket.number(),
            });
            relay::run(
                relay::ForwardedRequest {
                    head,
                    forwarded,
                    rest,
                },
                inner,
                peer,
                ticket,
            )
        }
        Err(error) => {
            log::error(&format!("asking the server behind the gate: {error}"));
            RelayEnd::Refused(Refused::full(
                "the server cannot take a request now; try again",
            ))
        }
    }
}

/// Writes a small answer; false if the client does not take it.
fn write(peer: &mut ClientSocket, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() || peer.unsent() {
        match peer.write(bytes) {
            Ok(Some(sent)) => bytes = &bytes[sent..],
            Ok(None) => {
                let fd = peer.fd();
                if !matches!(
                    wait(&mut [PollFd::new(&fd, PollFlags::OUT)], Some(WRITE_TIME)),
                    Ok(true)
                ) {
                    return false;
                }
            }
            Err(_) => return false,
        }
    }
    true
}

/// Closes so that the client sees the answer: unless all that it sent was `read`, what it still sends is read and dropped
/// for a while, because closing on unread bytes would reset the connection.
fn finish(peer: &mut ClientSocket, read: bool) {
    peer.end();
    let until = Instant::now() + LINGER_TIME;
    let (mut left, mut dropped) = (LINGER_BYTES, Vec::new());
    dropped.reserve_exact(if read { 1 } else { BUFFER });
    while left > 0 {
        dropped.clear();
        match peer.read(&mut dropped) {
            Ok(Some(0)) | Err(_) => return,
            Ok(Some(bytes)) => {
                left = left.saturating_sub(bytes as u64);
                dropped.reserve_exact(BUFFER);
            }
            Ok(None) if read && left == LINGER_BYTES => return,
            Ok(None) => {
                let time = until.saturating_duration_since(Instant::now());
                let fd = peer.fd();
                if !matches!(
                    wait(&mut [PollFd::new(&fd, PollFlags::IN)], Some(time)),
                    Ok(true)
                ) {
                    return;
                }
            }
        }
        if Instant::now() >= until {
            return;
        }
    }
}
