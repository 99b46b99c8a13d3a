//! The listeners, and the loop that takes connections: it ends when it is told to, and for no other reason.

use std::io;
use std::net::{IpAddr, Shutdown, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::api::error::{Doing, Error};
use crate::server::gate::connection::{self, ClientOrigin};
use crate::server::gate::headers;
use crate::server::gate::refused::Refused;
use crate::server::gate::socket::Socket;
use crate::server::gate::tls::Certificate;
use crate::server::gate::{BUFFER, GateState, LINGER_BYTES, LINGER_TIME, STACK_BYTES};
use crate::system::log;
use crate::system::poll::{PollFd, PollFlags, hung_up, wait};
use crate::system::socket::{Patience, receive, send, set_backlog, set_options};
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
/// Connections that got their refusal without a permit and are read a little, so that it reaches them.
const PARKED_MAX: usize = 4;

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
    /// Listens on TCP, for TLS alone if there is a certificate; port 0 takes a free one.
    ///
    /// # Errors
    /// When the address is in use or not ours.
    pub fn tcp(address: &str, certificate: Option<Arc<Certificate>>) -> Result<Listener, Error> {
        let what = || format!("listening on {address}");
        let listener = TcpListener::bind(address).doing(what)?;
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

    fn accept(&self) -> io::Result<(Socket, ClientOrigin)> {
        match &self.kind {
            ListenerKind::Tcp(listener, _) => {
                let (stream, address) = listener.accept()?;
                let peer: IpAddr = address.ip().to_canonical();
                Ok((
                    Socket::Tcp(stream),
                    ClientOrigin::new(headers::REMOTE, Some(peer)),
                ))
            }
            ListenerKind::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                Ok((
                    Socket::Unix(stream),
                    ClientOrigin::new(headers::LOCAL, None),
                ))
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

/// A connection that has its refusal.
struct Parked {
    socket: Arc<Socket>,
    until: Instant,
    left: u64,
}

impl Parked {
    /// Reads and drops what came; false when it may be closed.
    fn stays(&mut self, now: Instant) -> bool {
        let mut dropped = Vec::with_capacity(BUFFER);
        while now < self.until && self.left > 0 {
            dropped.clear();
            match receive(&*self.socket, &mut dropped) {
                Ok(Some(0)) | Err(_) => return false,
                Ok(Some(read)) => self.left = self.left.saturating_sub(read as u64),
                Ok(None) => return true,
            }
        }
        false
    }
}

/// Takes connections until it is told to stop.
pub(crate) fn run(listener: &Listener, shared: &Arc<GateState>, stop: &Stop) {
    let mut parked: Vec<Parked> = Vec::new();
    let failed = log::RateLimitedLog::default();
    loop {
        let ready = match ready(listener, stop, &parked) {
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
        let now = Instant::now();
        parked.retain_mut(|one| one.stays(now));
        if !ready.accept {
            continue;
        }
        match listener.accept() {
            Ok((socket, caller)) => {
                if let Some(refused) = take(Arc::new(socket), caller, listener, shared) {
                    if parked.len() == PARKED_MAX {
                        parked.remove(0);
                    }
                    parked.push(refused);
                }
            }
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

fn ready(listener: &Listener, stop: &Stop, parked: &[Parked]) -> io::Result<ReadyListener> {
    let fd = listener.fd();
    let mut fds = vec![PollFd::new(&fd, PollFlags::IN)];
    fds.extend(stop_alone(stop));
    fds.extend(
        parked
            .iter()
            .map(|one| PollFd::new(&*one.socket, PollFlags::IN)),
    );
    let now = Instant::now();
    let time = parked
        .iter()
        .map(|one| one.until.saturating_duration_since(now))
        .min();
    wait(&mut fds, time)?;
    Ok(ReadyListener {
        stop: stop.stopped(),
        accept: fds[0].revents().contains(PollFlags::IN) || hung_up(fds[0].revents()),
    })
}

/// Gives a connection its thread; or its refusal, and gives it back.
fn take(
    socket: Arc<Socket>,
    caller: ClientOrigin,
    listener: &Listener,
    shared: &Arc<GateState>,
) -> Option<Parked> {
    let certificate = listener.certificate();
    let why = match shared.permits.admit(&socket) {
        Some(ticket) => {
            let (shared, caller) = (Arc::clone(shared), caller.clone());
            let (number, certificate) = (ticket.number(), certificate.cloned());
            let attend =
                move || connection::attend(&shared, &ticket, &caller, certificate.as_deref());
            match spawn(format!("gate-{number}"), attend) {
                Ok(()) => return None,
                Err(error) => format!("there is no thread for a further connection: {error}"),
            }
        }
        None => "all connections are taken; try again later".to_owned(),
    };
    shared.full.warn(|| format!("{caller} refused: {why}"));
    let refused = Refused::full(why);
    if let Some(certificate) = certificate {
        turn_away(socket, certificate, refused, shared);
        return None;
    }
    // An empty socket takes so little at once; a client that has gone needs no answer.
    let _ = send(&*socket, &refused.answer());
    socket.shut(Shutdown::Write);
    Some(Parked {
        socket,
        until: Instant::now() + LINGER_TIME,
        left: LINGER_BYTES,
    })
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
    if Arc::strong_count(&place) > PARKED_MAX + 1 {
        return;
    }
    let certificate = Arc::clone(certificate);
    let turn_away = move || {
        connection::turn_away(socket, &certificate, &refused);
        drop(place);
    };
    // Without a thread there is no answer.
    let _ = spawn("gate-full".into(), turn_away);
}

fn spawn(name: String, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    threads::spawn(name, STACK_BYTES, work).map(|_detached| ())
}
