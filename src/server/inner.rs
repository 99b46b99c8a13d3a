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

use crate::api::error::{Code, Doing, Error, Refusal};
use crate::server::answers::refused;
use crate::server::gate;
use crate::server::http::{Exchange, HttpListener, Unblock};
use crate::server::sockets;
use crate::system::log;
use crate::system::threads;

/// The stack of a thread that answers a request: it reads, copies and waits, and keeps its buffers on the heap.
const STACK_BYTES: usize = 512 << 10;

/// Answers one request.
pub(super) type Handler = dyn Fn(Exchange) + Send + Sync;

/// The server, whichever of its lives it is in.
pub(super) struct InnerServer {
    path: PathBuf,
    answer: Arc<Handler>,
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
    ) -> Result<(InnerServer, Receiver<Infallible>), Error> {
        // Nothing is ever sent: the channel only tells when its last sender is gone.
        let (answering, answered) = bounded(0);
        let life = begin(path, &answer, &answering)?;
        let state = InnerState {
            life: Some(life),
            answering: Some(answering),
        };
        let inner = InnerServer {
            path: path.to_owned(),
            answer,
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
        state.life = Some(begin(&self.path, &self.answer, &answering).map_err(io::Error::other)?);
        UnixStream::connect(&self.path)
    }
}

fn begin(
    path: &Path,
    answer: &Arc<Handler>,
    answering: &Sender<Infallible>,
) -> Result<ServerInstance, Error> {
    let door = HttpListener::open(sockets::bind(path)?)?;
    let unblock = door.unblock();
    let (answer, answering) = (Arc::clone(answer), answering.clone());
    let work = move || attend(&door, &answer, &answering);
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
fn attend(door: &HttpListener, answer: &Arc<Handler>, answering: &Sender<Infallible>) {
    for number in 0_u64.. {
        match door.next() {
            Ok(Some(exchange)) => hand_over(number, exchange, answer, answering),
            Ok(None) => return,
            // What it took before still comes; the next connection finds out and starts it again.
            Err(error) => log::error(&format!(
                "the server behind the gate takes no more connections: {error}"
            )),
        }
    }
}

fn hand_over(
    number: u64,
    exchange: Exchange,
    answer: &Arc<Handler>,
    answering: &Sender<Infallible>,
) {
    let (answer, answering) = (Arc::clone(answer), answering.clone());
    let work = move |exchange| {
        answer(exchange);
        drop(answering);
    };
    let spawned = threads::hand_over(format!("http-{number}"), STACK_BYTES, exchange, work);
    if let Err((error, exchange)) = spawned {
        log::error(&format!("making a thread for a request: {error}"));
        let refusal = Refusal::new(
            Code::Full,
            "there is no thread for a further request; try again",
        );
        // A client that has gone meanwhile needs no answer.
        let _ = exchange.answer(refused(&refusal, false));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::gate::Upstream as _;
    use crate::server::http::Answer;
    use std::io::{Read, Write};

    fn ask(inner: &InnerServer) -> String {
        let mut stream = inner.connect().unwrap();
        stream
            .write_all(
                b"GET / HTTP/1.1\r\nConnection: close\r\nGangplank-Gate-Listener: local\r\n\r\n",
            )
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn a_server_that_died_lives_again_until_it_is_stopped() {
        let dir = std::env::temp_dir().join(format!("gangplank-inner-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let answer = |exchange: Exchange| {
            let body = exchange.client().to_string().into_bytes();
            let answer = Answer {
                status: 200,
                content_type: "text/plain",
                headers: Vec::new(),
                body,
            };
            exchange.answer(answer).unwrap();
        };
        let (inner, answered) =
            InnerServer::start(&dir.join("door.sock"), Arc::new(answer)).unwrap();
        assert!(ask(&inner).ends_with("\r\n\r\nunix"));

        // What a dead one leaves: nobody listens, with the socket's file or without.
        for leaves_file in [false, true] {
            end(inner.lock().life.take().unwrap());
            if leaves_file {
                drop(std::os::unix::net::UnixListener::bind(dir.join("door.sock")).unwrap());
            }
            assert!(ask(&inner).ends_with("\r\n\r\nunix"));
        }

        inner.stop();
        assert!(answered.recv().is_err());
        assert!(inner.connect().is_err());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
