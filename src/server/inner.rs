//! The HTTP server behind the gate: on a private socket in the root, and started again if it dies.
//!
//! tiny_http's accept thread ends for good when it finds no descriptor or no thread. That shows as a connection that is
//! refused, and whoever sees it first builds a new server in the old one's place. Requests that the old one has taken go on.

use std::convert::Infallible;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::api::error::{Doing, Error};
use crate::server::gate::{self, PendingConnections};
use crate::server::http::{Exchange, HttpListener, HttpRequest, Unblock};
use crate::server::sockets;
use crate::system::log;
use crate::system::threads;

/// The stack of a thread that answers a request: it reads, copies and waits, and keeps its buffers on the heap. Half would do,
/// but glibc keeps the stacks of ended threads, with 24 KiB of each in memory, up to 40 MiB in all: the larger, the fewer.
const STACK_BYTES: usize = 1 << 20;

/// Answers one request.
pub(super) type Handler = dyn Fn(Exchange) + Send + Sync;

/// What becomes of a request that comes in.
#[derive(Clone)]
struct Answering {
    answer: Arc<Handler>,
    /// Where the clients' connections are.
    pending: Arc<PendingConnections>,
}

/// The server, whichever of its lives it is in.
pub(super) struct InnerServer {
    path: PathBuf,
    requests: Answering,
    state: Mutex<InnerState>,
}

struct InnerState {
    life: Option<ServerInstance>,
    /// Each thread that answers holds one; none once the server has stopped for good.
    answering: Option<Sender<Infallible>>,
}

struct ServerInstance {
    unblock: Unblock,
    thread: JoinHandle<()>,
}

impl InnerServer {
    /// Starts it. The receiver ends when it was stopped and its last request is answered.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub(super) fn start(
        path: &Path,
        answer: Arc<Handler>,
        pending: Arc<PendingConnections>,
    ) -> Result<(InnerServer, Receiver<Infallible>), Error> {
        // Nothing is ever sent: the channel only tells when its last sender is gone.
        let (answering, answered) = bounded(0);
        let requests = Answering { answer, pending };
        let life = begin(path, &requests, &answering)?;
        let state = InnerState {
            life: Some(life),
            answering: Some(answering),
        };
        let inner = InnerServer {
            path: path.to_owned(),
            requests,
            state: Mutex::new(state),
        };
        Ok((inner, answered))
    }

    /// Takes no more requests.
    pub(super) fn stop(&self) {
        let mut state = self.lock();
        state.answering = None;
        if let Some(life) = state.life.take() {
            end(life);
        }
    }

    fn is_dead(&self, error: &io::Error) -> bool {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => true,
            // If the whole root is gone, the server waits at its socket there, and may come back with it.
            io::ErrorKind::NotFound => self.path.parent().is_some_and(Path::exists),
            _ => false,
        }
    }

    fn lock(&self) -> MutexGuard<'_, InnerState> {
        // At worst a life is missing from it, which the next connection makes good.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl gate::Upstream for InnerServer {
    fn connect(&self) -> io::Result<UnixStream> {
        match UnixStream::connect(&self.path) {
            Err(error) if self.is_dead(&error) => {}
            other => return other,
        }
        let mut state = self.lock();
        // Somebody else may have been here.
        match UnixStream::connect(&self.path) {
            Err(error) if self.is_dead(&error) => {}
            other => return other,
        }
        let Some(answering) = state.answering.clone() else {
            return Err(io::Error::other("it was stopped"));
        };
        log::error("the server behind the gate has died; starting it again");
        // The old one removes the socket's file when it goes, so it must be gone before.
        if let Some(life) = state.life.take() {
            end(life);
        }
        state.life = Some(begin(&self.path, &self.requests, &answering).map_err(io::Error::other)?);
        UnixStream::connect(&self.path)
    }
}

fn begin(
    path: &Path,
    requests: &Answering,
    answering: &Sender<Infallible>,
) -> Result<ServerInstance, Error> {
    let door = HttpListener::open(sockets::bind(path)?)?;
    let unblock = door.unblock();
    let (requests, answering) = (requests.clone(), answering.clone());
    let work = move || attend(&door, &requests, &answering);
    let thread = threads::spawn("door", STACK_BYTES, work)
        .doing(|| "making a thread for the server behind the gate".into())?;
    Ok(ServerInstance { unblock, thread })
}

fn end(life: ServerInstance) {
    life.unblock.unblock();
    // A thread that panicked has said so in the log and is gone as well.
    let _ = life.thread.join();
}

/// Takes requests, each to a thread of its own.
fn attend(door: &HttpListener, requests: &Answering, answering: &Sender<Infallible>) {
    for number in 0_u64.. {
        match door.next() {
            Ok(Some(request)) => hand_over(number, request, requests, answering),
            Ok(None) => return,
            // What it took before still comes; the next connection finds out and starts it again.
            Err(error) => log::error(&format!(
                "the server behind the gate takes no more connections: {error}"
            )),
        }
    }
}

/// Without a thread the request is dropped, and the gate, which has the client's connection still, refuses it.
fn hand_over(
    number: u64,
    request: HttpRequest,
    requests: &Answering,
    answering: &Sender<Infallible>,
) {
    let (requests, answering) = (requests.clone(), answering.clone());
    let work = move || {
        if let Some(exchange) = Exchange::take(request, &requests.pending) {
            (requests.answer)(exchange);
        }
        drop(answering);
    };
    let spawned = threads::spawn(format!("http-{number}"), STACK_BYTES, work);
    if let Err(error) = spawned {
        log::error(&format!("making a thread for a request: {error}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::gate::Upstream as _;
    use std::io::Read;

    /// Whether somebody takes requests: whoever does closes the connection of one that nobody waits for.
    fn serves(inner: &InnerServer) -> bool {
        let mut stream = inner.connect().unwrap();
        io::Write::write_all(
            &mut stream,
            b"GET / HTTP/1.1\r\nConnection: close\r\nGangplank-Gate-Connection: 7\r\n\r\n",
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.starts_with("HTTP/1.1 500 ")
    }

    #[test]
    fn a_server_that_died_lives_again_until_it_is_stopped() {
        let dir = std::env::temp_dir().join(format!("gangplank-inner-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let answer = |_: Exchange| panic!("there is no connection to answer");
        let pending = Arc::<PendingConnections>::default();
        let (inner, answered) =
            InnerServer::start(&dir.join("door.sock"), Arc::new(answer), pending).unwrap();
        assert!(serves(&inner));

        // What a dead one leaves: nobody listens, with the socket's file or without.
        for leaves_file in [false, true] {
            end(inner.lock().life.take().unwrap());
            if leaves_file {
                drop(std::os::unix::net::UnixListener::bind(dir.join("door.sock")).unwrap());
            }
            assert!(serves(&inner));
        }

        inner.stop();
        assert!(answered.recv().is_err());
        assert!(inner.connect().is_err());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
