//! The client's socket, and the one way to wait for it and the server's together.
//!
//! [`Socket`] is what any thread may shut; [`ClientSocket`] is what the connection's own thread reads and writes, through TLS or
//! not. What TLS holds back is told by [`ClientSocket::pending`] and [`ClientSocket::unsent`], which are asked before every wait.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use crate::server::gate::tls::TlsSession;
use crate::system::poll::PollFlags;

/// A connected socket.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// Ends reading, writing or both, whoever holds the socket too. One that is gone already needs no ending.
    pub(crate) fn shut(&self, how: Shutdown) {
        let _ = match self {
            Socket::Tcp(stream) => stream.shutdown(how),
            Socket::Unix(stream) => stream.shutdown(how),
        };
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Tcp(stream) => stream.as_fd(),
            Socket::Unix(stream) => stream.as_fd(),
        }
    }
}

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
        let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK;
        match rustix::net::recv(&*self.socket, &mut first, flags) {
            Ok((0, _)) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(Some(first[0])),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Adds what there is to a buffer, up to its capacity: nothing yet is `None`, the end is 0.
    pub(crate) fn read(&mut self, into: &mut Vec<u8>) -> io::Result<Option<usize>> {
        match &mut self.tls {
            Some(session) => session.read(&self.socket, into),
            None => receive(&*self.socket, into),
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

    /// Whether [`ClientSocket::read`] has something even if the socket has nothing.
    pub(crate) fn pending(&mut self) -> bool {
        self.tls.as_mut().is_some_and(TlsSession::pending)
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

/// Reads from a socket without waiting, into the spare capacity of a buffer, of which there must be some.
pub(crate) fn receive(fd: impl AsFd, into: &mut Vec<u8>) -> io::Result<Option<usize>> {
    debug_assert!(into.len() < into.capacity());
    loop {
        match rustix::net::recv(&fd, spare_capacity(into), RecvFlags::DONTWAIT) {
            Ok((_, read)) => return Ok(Some(read)),
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Reads from a socket without waiting, into a slice.
pub(crate) fn receive_into(fd: impl AsFd, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    loop {
        match rustix::net::recv(&fd, &mut *buffer, RecvFlags::DONTWAIT) {
            Ok((read, _)) => return Ok(Some(read)),
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Writes to a socket without waiting.
pub(crate) fn send(fd: impl AsFd, bytes: &[u8]) -> io::Result<Option<usize>> {
    loop {
        match rustix::net::send(&fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(sent) => return Ok(Some(sent)),
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
