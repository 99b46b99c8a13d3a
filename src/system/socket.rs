//! Sockets, where the standard library lacks a way: reading and writing without waiting, looking at what has come, the
//! options of a listener, and datagrams whose sender the system names.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recv, recvmsg, sockopt,
};

/// Reads without waiting: `None` if nothing has come, 0 at the end.
///
/// # Errors
/// When the connection is broken.
pub fn receive(fd: impl AsFd, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    without_waiting(|| Ok(recv(&fd, &mut *buffer, RecvFlags::DONTWAIT)?.0))
}

/// As [`receive`], and leaves what has come where it is.
///
/// # Errors
/// When the connection is broken.
pub fn peek(fd: impl AsFd, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK;
    without_waiting(|| Ok(recv(&fd, &mut *buffer, flags)?.0))
}

/// Writes without waiting: how much, or `None` if there is no room. No signal comes when nobody reads any longer.
///
/// # Errors
/// When the connection is broken.
pub fn send(fd: impl AsFd, bytes: &[u8]) -> io::Result<Option<usize>> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    without_waiting(|| rustix::net::send(&fd, bytes, flags))
}

fn without_waiting(
    mut call: impl FnMut() -> rustix::io::Result<usize>,
) -> io::Result<Option<usize>> {
    loop {
        match call() {
            Ok(len) => return Ok(Some(len)),
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Sets how many connections may wait to be accepted.
///
/// # Errors
/// When it is not a socket that listens.
pub fn set_backlog(listener: impl AsFd, connections: i32) -> io::Result<()> {
    Ok(rustix::net::listen(listener, connections)?)
}

/// When a silent peer is given up.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// It is asked for a sign of life after so long a silence.
    pub idle: Duration,
    /// It is asked again after this.
    pub interval: Duration,
    /// After so many questions without an answer it has gone.
    pub probes: u32,
    /// It has gone if it acknowledges nothing for so long.
    pub unacknowledged_ms: u32,
}

/// Sets what each accepted connection inherits: small writes go out at once, and peers that have gone are noticed.
///
/// # Errors
/// When the system does not know an option.
pub fn set_options(listener: &TcpListener, patience: Patience) -> io::Result<()> {
    sockopt::set_tcp_nodelay(listener, true)?;
    sockopt::set_tcp_user_timeout(listener, patience.unacknowledged_ms)?;
    sockopt::set_socket_keepalive(listener, true)?;
    sockopt::set_tcp_keepidle(listener, patience.idle)?;
    sockopt::set_tcp_keepintvl(listener, patience.interval)?;
    sockopt::set_tcp_keepcnt(listener, patience.probes)?;
    Ok(())
}

/// Sets how much may wait in a socket to be sent, about. The system does not change it any longer.
///
/// # Errors
/// When it is not a socket.
pub fn set_send_buffer(socket: impl AsFd, bytes: usize) -> io::Result<()> {
    Ok(sockopt::set_socket_send_buffer_size(socket, bytes)?)
}

/// Lets the system name the sender of each datagram that comes from here on.
///
/// # Errors
/// When the system does not know the option.
pub fn name_senders(socket: &UnixDatagram) -> io::Result<()> {
    Ok(sockopt::set_socket_passcred(socket, true)?)
}

/// The next datagram, without waiting: its length, and the id of the user that sent it, if the system named one.
pub fn receive_named(socket: &UnixDatagram, message: &mut [u8]) -> Option<(usize, Option<u32>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut into = [IoSliceMut::new(message)];
    let received = recvmsg(socket, &mut into, &mut control, RecvFlags::DONTWAIT).ok()?;
    let sender = control.drain().find_map(|part| match part {
        RecvAncillaryMessage::ScmCredentials(from) => Some(from.uid.as_raw()),
        _ => None,
    });
    Some((received.bytes, sender))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn what_comes_is_read_without_waiting() {
        let (here, there) = UnixStream::pair().unwrap();
        let mut buffer = [0; 4];
        assert_eq!(receive(&here, &mut buffer).unwrap(), None);
        assert_eq!(send(&there, b"abcdef").unwrap(), Some(6));
        assert_eq!(peek(&here, &mut buffer).unwrap(), Some(4));
        assert_eq!(receive(&here, &mut buffer).unwrap(), Some(4));
        assert_eq!(&buffer, b"abcd");
        assert_eq!(receive(&here, &mut buffer).unwrap(), Some(2));
        assert_eq!(&buffer[..2], b"ef");
        while send(&there, &[0; 1 << 16]).unwrap().is_some() {}
        drop(here);
        assert!(send(&there, b"x").is_err());
        let (here, there) = UnixStream::pair().unwrap();
        drop(there);
        assert_eq!(peek(&here, &mut buffer).unwrap(), Some(0));
    }

    #[test]
    fn the_system_names_who_sends() {
        let (here, there) = UnixDatagram::pair().unwrap();
        name_senders(&here).unwrap();
        let mut message = [0; 8];
        assert_eq!(receive_named(&here, &mut message), None);
        there.send(b"READY=1").unwrap();
        let user = crate::system::host::user_id();
        assert_eq!(receive_named(&here, &mut message), Some((7, Some(user))));
    }
}
