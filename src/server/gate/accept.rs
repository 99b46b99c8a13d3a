//! The listeners, and the loop that takes connections: it ends when it is told to, and for no other reason.

use std::io;
use std::net::{Shutdown, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::api::error::{Doing, Error};
use crate::server::gate::refused::Refused;
use crate::server::gate::socket::Socket;
use crate::server::gate::tls::Certificate;
use crate::server::gate::{ClientAddress, GateState, STACK_BYTES, attend};
use crate::system::log;
use crate::system::passing::ListeningSocket;
use crate::system::poll::{PollFd, PollFlags, hung_up, wait};
use crate::system::socket::{Patience, send, set_backlog, set_options};
use crate::system::stop::Stop;
use crate::system::threads;

/// After a failed accept: what is missing may be there again, and nothing is busy meanwhile.
const PAUSE: Duration = Duration::from_millis(20);
/// A client that has gone without a word is noticed after a minute, and after half of one if something is on its way to it.
const PATIENCE: Patience = Patience {
    idle: Duration::from_secs(30),
    interval: Duration::from_secs(10),
    probes: 3,
    unacknowledged_ms: 30_000,
};
/// Clients of TLS that are refused at the same time without a permit.
const TURNED_AWAY_MAX: usize = 4;

/// Connections that wait to be accepted. The standard library asks for 128; whoever comes when that many wait is not refused
/// but ignored, and a TCP client tries again only after a second. The system has its own limit, 4,096 by default.
const BACKLOG: i32 = 4096;

/// A socket that clients reach.
#[derive(Debug)]
pub struct Listener {
    kind: ListenerKind,
    address: String,
}

#[derive(Debug)]
enum ListenerKind {
    Tcp(TcpListener, Option<Arc<Certificate>>),
    Unix(UnixListener),
}

impl Listener {
    /// Listens on TCP, for TLS alone if there is a certificate; port 0 takes a free one. One that was `passed` listens
    /// already.
    ///
    /// # Errors
    /// When the address is in use or not ours.
    pub fn tcp(
        address: &str,
        passed: Option<TcpListener>,
        certificate: Option<Arc<Certificate>>,
    ) -> Result<Listener, Error> {
        let what = || format!("listening on {address}");
        let listener = match passed {
            Some(listener) => listener,
            None => TcpListener::bind(address).doing(what)?,
        };
        let real = listener.local_addr().doing(what)?;
        set_backlog(&listener, BACKLOG).doing(what)?;
        listener.set_nonblocking(true).doing(what)?;
        set_options(&listener, PATIENCE).doing(what)?;
        let scheme = if certificate.is_some() {
            "https"
        } else {
            "http"
        };
        Ok(Listener {
            kind: ListenerKind::Tcp(listener, certificate),
            address: format!("{scheme}://{real}"),
        })
    }

    /// Serves a unix socket, whose clients need no credentials.
    ///
    /// # Errors
    /// When the socket is not usable.
    pub fn unix(listener: UnixListener, path: &Path) -> Result<Listener, Error> {
        let address = format!("unix:{}", path.display());
        let what = || format!("listening on {address}");
        set_backlog(&listener, BACKLOG).doing(what)?;
        listener.set_nonblocking(true).doing(what)?;
        Ok(Listener {
            kind: ListenerKind::Unix(listener),
            address,
        })
    }

    /// Where it listens, as a target of the CLI.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Another descriptor of its socket.
    ///
    /// # Errors
    /// When none is left.
    pub fn socket(&self) -> io::Result<ListeningSocket> {
        Ok(match &self.kind {
            ListenerKind::Tcp(listener, _) => ListeningSocket::Tcp(listener.try_clone()?),
            ListenerKind::Unix(listener) => ListeningSocket::Unix(listener.try_clone()?),
        })
    }

    fn accept(&self) -> io::Result<(Socket, ClientAddress)> {
        match &self.kind {
            ListenerKind::Tcp(listener, _) => {
                let (stream, address) = listener.accept()?;
                let client = ClientAddress::Remote(address.ip().to_canonical());
                Ok((Socket::Tcp(stream), client))
            }
            ListenerKind::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                Ok((Socket::Unix(stream), ClientAddress::Local))
            }
        }
    }

    fn certificate(&self) -> Option<&Arc<Certificate>> {
        match &self.kind {
            ListenerKind::Tcp(_, certificate) => certificate.as_ref(),
            ListenerKind::Unix(_) => None,
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match &self.kind {
            ListenerKind::Tcp(listener, _) => listener.as_fd(),
            ListenerKind::Unix(listener) => listener.as_fd(),
        }
    }
}

/// Takes connections until it is told to stop.
pub(crate) fn run(listener: &Listener, shared: &Arc<GateState>, stop: &Stop) {
    let failed = log::RateLimitedLog::default();
    loop {
        let ready = match ready(listener, stop) {
            Ok(ready) => ready,
            // Without memory for a poll there is still the time to pass.
            Err(_) => ReadyListener {
                stop: stop.stopped(),
                accept: true,
            },
        };
        if ready.stop {
            return;
        }
        if !ready.accept {
            continue;
        }
        match listener.accept() {
            Ok((socket, client)) => take(Arc::new(socket), client, listener, shared),
            // Somebody came and went again, or another thread was quicker.
            Err(error) if is_passing(&error) => {}
            Err(error) => {
                failed.warn(|| format!("taking a connection on {}: {error}", listener.address));
                pause(stop);
            }
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted
    )
}

fn pause(stop: &Stop) {
    if wait(&mut stop_alone(stop), Some(PAUSE)).is_err() {
        thread::sleep(PAUSE);
    }
}

fn stop_alone(stop: &Stop) -> Vec<PollFd<'_>> {
    let fd = stop.fd().into_iter();
    fd.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
        .collect()
}

struct ReadyListener {
    stop: bool,
    accept: bool,
}

fn ready(listener: &Listener, stop: &Stop) -> io::Result<ReadyListener> {
    let fd = listener.fd();
    let mut fds = vec![PollFd::new(&fd, PollFlags::IN)];
    fds.extend(stop_alone(stop));
    wait(&mut fds, None)?;
    Ok(ReadyListener {
        stop: stop.stopped(),
        accept: fds[0].revents().contains(PollFlags::IN) || hung_up(fds[0].revents()),
    })
}

/// Gives a connection its thread, or its refusal.
fn take(socket: Arc<Socket>, client: ClientAddress, listener: &Listener, shared: &Arc<GateState>) {
    let certificate = listener.certificate();
    let why = match shared.permits.admit(&socket, client) {
        Some(ticket) => {
            let shared = Arc::clone(shared);
            let (number, certificate) = (ticket.number(), certificate.cloned());
            let attend = move || attend::attend(&shared, ticket, client, certificate.as_deref());
            match spawn(format!("gate-{number}"), attend) {
                Ok(()) => return,
                Err(error) => format!("making a thread for the connection: {error}"),
            }
        }
        None => "all connections are taken; try again later".to_owned(),
    };
    let refused = Refused::full(why);
    shared.log_refusal(client, &refused);
    if let Some(certificate) = certificate {
        return turn_away(socket, certificate, refused, shared);
    }
    // An empty socket takes so little at once; a client that has gone needs no answer.
    let _ = send(&*socket, &refused.answer());
    socket.shut(Shutdown::Write);
    shared.drain.close(socket, None);
}

/// A refusal through TLS takes a handshake, and that a thread: a few at a time, beyond which the connection just ends.
fn turn_away(
    socket: Arc<Socket>,
    certificate: &Arc<Certificate>,
    refused: Refused,
    shared: &Arc<GateState>,
) {
    // Never sent on: each holder of a clone counts as one.
    let place = Arc::clone(&shared.turned_away);
    if Arc::strong_count(&place) > TURNED_AWAY_MAX + 1 {
        return;
    }
    let (certificate, shared) = (Arc::clone(certificate), Arc::clone(shared));
    let turn_away = move || {
        attend::turn_away(&shared, socket, &certificate, &refused);
        drop(place);
    };
    // Without a thread there is no answer.
    let _ = spawn("gate-full".into(), turn_away);
}

fn spawn(name: String, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    threads::spawn(name, STACK_BYTES, work).map(|_detached| ())
}
