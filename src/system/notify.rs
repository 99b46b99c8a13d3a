//! Telling whoever supervises the server how it stands, by the convention of systemd: a datagram to `NOTIFY_SOCKET`. It can
//! also keep sockets for the next server there.

use std::io;
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::system::{log, passing};

/// Tells it; without a supervisor there is nobody to tell.
pub fn tell(state: &str) {
    with_supervisor(state, |socket| socket.send(state.as_bytes()).map(drop));
}

/// Gives it a listening socket to keep: the next server gets it by `LISTEN_FDS`. One that keeps none drops it.
pub fn keep(name: &str, socket: impl AsFd) {
    let message = format!("FDSTORE=1\nFDNAME={name}");
    with_supervisor(&message, |to| {
        passing::send(to, message.as_bytes(), &socket)
    });
}

/// Lets go what it keeps under a name.
pub fn let_go(name: &str) {
    tell(&format!("FDSTOREREMOVE=1\nFDNAME={name}"));
}

/// Whether it is known to keep sockets, if `passed` says that it has passed some.
pub fn keeps(passed: bool) -> bool {
    let room = std::env::var("FDSTORE").ok();
    let room = room.and_then(|room| room.parse::<u64>().ok());
    std::env::var_os("NOTIFY_SOCKET").is_some() && (passed || room.is_some_and(|room| room > 0))
}

fn with_supervisor(what: &str, send: impl FnOnce(&UnixDatagram) -> io::Result<()>) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let name = name.to_string_lossy();
    if let Err(error) = connect(&name).and_then(|socket| send(&socket)) {
        log::warn(&format!(
            "telling {name} that {}: {error}",
            what.replace('\n', " ")
        ));
    }
}

fn connect(name: &str) -> io::Result<UnixDatagram> {
    let address = match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    Ok(socket)
}
