//! Listening sockets that outlive a server: passed to it by a supervisor (`LISTEN_FDS`), kept by one for the next server
//! (`FDSTORE=1`), or passed from one server to the next over a unix socket.
//!
//! What waits in a listening socket to be accepted waits for whoever has the socket. So nobody is refused while it changes hands.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use listenfd::ListenFd;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use crate::system::log;

/// Descriptors in one message. The sender sends one with each name; the system may give two messages at once.
const AT_ONCE: usize = 16;
/// The names of all sockets of a server, many times over.
const NAMES_MAX: usize = 1 << 20;

/// A socket that listens.
#[derive(Debug)]
pub enum ListeningSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl ListeningSocket {
    /// Its TCP address.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            ListeningSocket::Tcp(listener) => listener.local_addr().ok(),
            ListeningSocket::Unix(_) => None,
        }
    }

    /// Its path.
    pub fn path(&self) -> Option<PathBuf> {
        match self {
            ListeningSocket::Tcp(_) => None,
            ListeningSocket::Unix(listener) => {
                let address = listener.local_addr().ok()?;
                address.as_pathname().map(PathBuf::from)
            }
        }
    }

    /// Another descriptor of it.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn try_clone(&self) -> io::Result<ListeningSocket> {
        Ok(match self {
            ListeningSocket::Tcp(listener) => ListeningSocket::Tcp(listener.try_clone()?),
            ListeningSocket::Unix(listener) => ListeningSocket::Unix(listener.try_clone()?),
        })
    }
}

impl AsFd for ListeningSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            ListeningSocket::Tcp(listener) => listener.as_fd(),
            ListeningSocket::Unix(listener) => listener.as_fd(),
        }
    }
}

impl From<OwnedFd> for ListeningSocket {
    fn from(socket: OwnedFd) -> ListeningSocket {
        let listener = TcpListener::from(socket);
        match listener.local_addr() {
            Ok(_) => ListeningSocket::Tcp(listener),
            // The standard library takes no other addresses for those of TCP.
            Err(_) => ListeningSocket::Unix(UnixListener::from(OwnedFd::from(listener))),
        }
    }
}

/// A listening socket and what it is for.
#[derive(Debug)]
pub struct PassedSocket {
    pub name: String,
    pub socket: ListeningSocket,
}

/// The sockets that a supervisor has passed to this process. It must be asked before there is a second thread: the variables
/// that tell of them are removed.
pub fn inherited() -> Vec<PassedSocket> {
    let own = std::env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string());
    if !own {
        return Vec::new();
    }
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut found = ListenFd::from_env();
    let mut sockets = Vec::new();
    for number in 0..found.len() {
        let name = names.next().unwrap_or_default().to_owned();
        let socket = match found.take_tcp_listener(number) {
            Ok(socket) => socket.map(ListeningSocket::Tcp),
            Err(_) => match found.take_unix_listener(number) {
                Ok(socket) => socket.map(ListeningSocket::Unix),
                Err(error) => {
                    log::warn(&format!("a descriptor of LISTEN_FDS, {name:?}: {error}"));
                    continue;
                }
            },
        };
        sockets.extend(socket.map(|socket| PassedSocket { name, socket }));
    }
    sockets
}

/// Sends some bytes with one descriptor.
///
/// # Errors
/// When the other side is gone.
pub fn send(to: impl AsFd, bytes: &[u8], descriptor: impl AsFd) -> io::Result<()> {
    let descriptors = [descriptor.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("there is no room for a descriptor"));
    }
    let sent = sendmsg(
        to,
        &[IoSlice::new(bytes)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    match sent == bytes.len() {
        true => Ok(()),
        false => Err(io::ErrorKind::WriteZero.into()),
    }
}

/// Passes a socket on. Its name has no line end.
///
/// # Errors
/// When the other side is gone.
pub fn pass(to: &UnixStream, name: &str, socket: impl AsFd) -> io::Result<()> {
    send(to, format!("{name}\n").as_bytes(), socket)
}

/// What was passed, up to an empty line. Nothing if the other side ends without one.
///
/// # Errors
/// When it takes longer than the stream's timeout, or something else comes.
pub fn receive(from: &UnixStream) -> io::Result<Option<Vec<PassedSocket>>> {
    let (mut text, mut sockets) = (Vec::new(), Vec::new());
    while !text.ends_with(b"\n\n") && text != b"\n" {
        let mut buffer = [0; 1024];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut into = [IoSliceMut::new(&mut buffer)];
        let received = recvmsg(from, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                sockets.extend(descriptors);
            }
        }
        if received.bytes == 0 || text.len() > NAMES_MAX {
            return Ok(None);
        }
        text.extend_from_slice(&buffer[..received.bytes]);
    }
    let text = String::from_utf8_lossy(&text);
    let names: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    if names.len() != sockets.len() {
        let why = format!("{} sockets came with {} names", sockets.len(), names.len());
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    let passed = names
        .into_iter()
        .zip(sockets)
        .map(|(name, socket)| PassedSocket {
            name: name.to_owned(),
            socket: socket.into(),
        });
    Ok(Some(passed.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn sockets_are_passed_with_their_names() {
        let (mut old, new) = UnixStream::pair().unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let path = std::env::temp_dir().join(format!("gangplank-pass-{}", std::process::id()));
        let unix = UnixListener::bind(&path).unwrap();
        for number in 0..40 {
            pass(&old, &format!("tcp.{number}"), &tcp).unwrap();
        }
        pass(&old, "unix", &unix).unwrap();
        old.write_all(b"\n").unwrap();
        let passed = receive(&new).unwrap().unwrap();
        assert_eq!(passed.len(), 41);
        assert_eq!(passed[39].name, "tcp.39");
        assert_eq!(passed[39].socket.address(), tcp.local_addr().ok());
        assert_eq!(passed[40].socket.path().as_deref(), Some(&*path));
        drop(tcp);
        // It still listens.
        std::net::TcpStream::connect(passed[0].socket.address().unwrap()).unwrap();
        std::fs::remove_file(&path).unwrap();

        pass(&old, "cut", &unix).unwrap();
        drop(old);
        assert!(receive(&new).unwrap().is_none());
    }
}
