//! One connection, from its first byte until it is handed over: TLS, and a head in time.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use crate::server::gate::client::ClientSocket;
use crate::server::gate::connection::{self, Connection, Link};
use crate::server::gate::head::{RequestHead, Search};
use crate::server::gate::permits::Ticket;
use crate::server::gate::refused::Refused;
use crate::server::gate::socket::Socket;
use crate::server::gate::tls::{Certificate, HELLO};
use crate::server::gate::{ClientAddress, GateState, HEAD_MAX, HEAD_TIME, LINGER_TIME, handover};
use crate::system::log;
use crate::system::poll::{PollFd, wait};

/// A head, and what came with it.
struct ReceivedHead {
    head: RequestHead,
    rest: Vec<u8>,
}

/// Attends to one connection until somebody else has it.
pub(crate) fn attend(
    shared: &Arc<GateState>,
    ticket: Ticket,
    client: ClientAddress,
    certificate: Option<&Certificate>,
) {
    let mut peer = ClientSocket::new(Arc::clone(ticket.socket()));
    let greeted = greet(&mut peer, certificate, Instant::now() + HEAD_TIME);
    let link = |ticket| Link {
        peer,
        ticket,
        shared: Arc::clone(shared),
    };
    match greeted {
        // From here on it does not give way; one that has to already is gone.
        Ok(Some(ReceivedHead { head, rest })) if ticket.asked() => {
            let forwarded = head.forward(ticket.number());
            if let Some(connection) = Connection::new(link(ticket), client, &head, rest) {
                handover::run(shared, connection, &forwarded);
            }
        }
        Ok(_) => {}
        Err(refused) => link(ticket).refuse(client, &refused),
    }
}

/// Tells a client of TLS that there is no place for it, which only the session can carry.
pub(crate) fn turn_away(
    shared: &GateState,
    socket: Arc<Socket>,
    certificate: &Certificate,
    refused: &Refused,
) {
    let mut peer = ClientSocket::new(Arc::clone(&socket));
    // Whoever has not asked by then gets no answer.
    let deadline = Instant::now() + LINGER_TIME;
    let asked = matches!(greet(&mut peer, Some(certificate), deadline), Ok(Some(_)));
    if asked && connection::write(&mut peer, &refused.answer()).is_ok() {
        peer.end();
        shared.drain.close(socket, None);
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
    let (mut buffer, mut filled) = (vec![0; 2 << 10], 0);
    loop {
        if filled == buffer.len() {
            buffer.resize(2 * filled.min(HEAD_MAX), 0);
        }
        match peer.read(&mut buffer[filled..]) {
            Ok(Some(0)) if filled == 0 => return Ok(None),
            Ok(Some(0)) => return Err(Refused::new(400, "the head of the request: it ends early")),
            Ok(Some(read)) => {
                filled += read;
                if let Some((start, end)) = search.find(&buffer[..filled])? {
                    let head = RequestHead::parse(&buffer[start..end])?;
                    let rest = buffer[end..filled].to_vec();
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
