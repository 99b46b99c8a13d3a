//! The client's socket, as its connection's own thread reads and writes it, through TLS or not. What TLS holds back of what was
//! written is told by [`ClientSocket::unsent`], which is asked before every wait.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use crate::server::gate::socket::Socket;
use crate::server::gate::tls::TlsSession;
use crate::system::poll::PollFlags;
use crate::system::socket::{peek, receive, send};

/// The client, as its connection's thread knows it.
#[derive(Debug)]
pub(crate) struct ClientSocket {
    socket: Arc<Socket>,
    tls: Option<TlsSession>,
}

impl ClientSocket {
    pub(crate) fn new(socket: Arc<Socket>) -> ClientSocket {
        ClientSocket { socket, tls: None }
    }

    /// From here on everything goes through TLS.
    pub(crate) fn secure(&mut self, session: TlsSession) {
        self.tls = Some(session);
    }

    /// The first byte that came, left where it is: nothing yet is `None`, the end is an error.
    pub(crate) fn peek(&self) -> io::Result<Option<u8>> {
        let mut first = [0];
        match peek(&*self.socket, &mut first)? {
            Some(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Some(_) => Ok(Some(first[0])),
            None => Ok(None),
        }
    }

    /// Reads what there is: nothing yet is `None`, the end is 0.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match &mut self.tls {
            Some(session) => session.read(&self.socket, buffer),
            None => receive(&*self.socket, buffer),
        }
    }

    /// Writes what fits; `None` if nothing does now.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<Option<usize>> {
        match &mut self.tls {
            Some(session) => session.write(&self.socket, bytes),
            None if bytes.is_empty() => Ok(Some(0)),
            None => send(&*self.socket, bytes),
        }
    }

    /// Whether something that was written waits for room in the socket: writing nothing sends it on.
    pub(crate) fn unsent(&self) -> bool {
        self.tls.as_ref().is_some_and(TlsSession::unsent)
    }

    /// What to wait for before reading: under TLS that may need to write first.
    pub(crate) fn readable(&self) -> PollFlags {
        if self.unsent() {
            PollFlags::IN | PollFlags::OUT
        } else {
            PollFlags::IN
        }
    }

    /// Says that nothing more will be written.
    pub(crate) fn end(&mut self) {
        if let Some(session) = &mut self.tls {
            session.end(&self.socket);
        }
        self.socket.shut(Shutdown::Write);
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
