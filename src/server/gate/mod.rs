//! The gate: it owns the sockets that clients reach, and hands clean requests to the HTTP server behind it.
//!
//! tiny_http trusts its clients. So no client reaches it: it gets the head of a request alone, whole, small and unambiguous
//! (`head`), on a connection of its own. The thread that answers the request that tiny_http makes of it takes the
//! client's connection from here (`handover`), reads the body strictly and in time (`body`, `clock`), and writes the answer (`connection`). What
//! the gate guarantees:
//!
//! - The accept loop never ends before [`Gate::close`], whatever the system runs out of.
//! - The number of open connections is limited, and one without a complete head, or one that has its answer, gives way to a
//!   new one (`permits`).
//! - A client gets exactly one answer: the server's, or a refusal in the same shape (`refused`).
//! - An answer reaches a client that is still sending (`drain`).
//! - A body that was cut off never looks complete.
//! - Every wait for a client has a bound; the wait for the server's answer ends only with the answer.
//!
//! | file | what for |
//! | --- | --- |
//! | `accept` | listeners, and the loop that takes connections |
//! | `permits` | who is connected, who gives way, who is cut off |
//! | `attend` | one connection from its first byte to its head |
//! | `head`, `body` | the strict reading |
//! | `handover` | one connection from its head until somebody answers it |
//! | `connection` | one connection while it is answered |
//! | `drain` | one connection after its answer, until its close |
//! | `clock` | how long a client may take over its body |
//! | `socket`, `client`, `tls` | the client's socket, how its own thread reads and writes it, and what may lie between |
//! | `refused` | the gate's own answers |
//! | `fuzz` | the way in for `make fuzz`; compiled for nothing else |

mod accept;
mod attend;
mod body;
mod client;
mod clock;
mod connection;
mod drain;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzz;
mod handover;
mod head;
pub mod headers;
mod permits;
mod refused;
mod socket;
mod tls;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::api::error::{Code, Doing, Error};
use crate::server::counters::AnswerCounters;
use crate::server::gate::drain::Drain;
use crate::server::gate::permits::Permits;
use crate::server::gate::refused::Refused;
use crate::system::host;
use crate::system::log;
use crate::system::stop::{self, SharedStopper};
use crate::system::threads;

pub use crate::server::gate::accept::Listener;
pub use crate::server::gate::connection::{Connection, ResponseWriter};
pub use crate::server::gate::handover::PendingConnections;
pub use crate::server::gate::permits::{Occupancy, OtherDescriptors};
pub use crate::server::gate::tls::Certificate;

/// A head's size: twice what common clients and proxies send at most, and little to hold for each connection.
const HEAD_MAX: usize = 16 << 10;
/// A request line's size, which RFC 9112 asks to be at least 8,000.
const LINE_MAX: usize = 8 << 10;
/// Fields of a head: a browser behind two proxies sends about 30.
const FIELDS_MAX: usize = 64;
/// From the connection to its complete head.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// For a client that takes nothing of its answer.
const WRITE_TIME: Duration = Duration::from_secs(15);
/// How much, and for how long, is read and dropped after the answer, so that the client sees it instead of a reset.
const LINGER_BYTES: u64 = 64 << 20;
const LINGER_TIME: Duration = Duration::from_secs(2);
/// What is read at once: from here on a larger buffer makes an upload no faster.
const BUFFER: usize = 64 << 10;
/// A thread of the gate copies and waits; its buffers are on the heap.
const STACK_BYTES: usize = 256 << 10;
/// Descriptors that must be free before the server behind is asked: one for our side, two for its, one to spare. It does not
/// survive finding none.
const DESCRIPTORS_FREE: usize = 4;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAddress {
    /// Somebody on this machine who may open the unix socket.
    Local,
    /// A TCP client, by the socket's word.
    Remote(IpAddr),
}

impl fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientAddress::Local => f.write_str("unix"),
            ClientAddress::Remote(address) => address.fmt(f),
        }
    }
}

/// The server behind the gate.
pub trait Upstream: Send + Sync {
    /// A new connection to it. If it has died, it is started again for this.
    ///
    /// # Errors
    /// When it cannot be reached nor started.
    fn connect(&self) -> io::Result<UnixStream>;
}

/// What the gate's threads share.
struct GateState {
    permits: Arc<Permits>,
    inner: Arc<dyn Upstream>,
    pending: Arc<PendingConnections>,
    drain: Drain,
    /// One connection at a time is made to the server behind, so that each finds the descriptors that it saw free.
    connecting: Mutex<()>,
    /// What may happen a thousand times a second is logged once.
    full: log::RateLimitedLog,
    /// Each thread that turns a client of TLS away holds a clone.
    turned_away: Arc<()>,
    answers: Arc<AnswerCounters>,
}

impl GateState {
    fn log_refusal(&self, client: ClientAddress, refused: &Refused) {
        let text = || {
            format!(
                "{client} refused {}: {}",
                refused.status,
                refused.why.clone()
            )
        };
        self.answers.answer(refused.status);
        self.answers.refusal(refused.code);
        match refused.code {
            Code::Full => self.full.warn(text),
            _ => log::info(&text()),
        }
    }

    fn connect(&self) -> io::Result<UnixStream> {
        let _one = self
            .connecting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut free = Vec::with_capacity(DESCRIPTORS_FREE);
        for _ in 0..DESCRIPTORS_FREE {
            free.push(std::io::stderr().as_fd().try_clone_to_owned()?);
        }
        drop(free);
        self.inner.connect()
    }
}

/// The open gate.
pub struct Gate {
    shared: Arc<GateState>,
    addresses: Vec<String>,
    accepting: SharedStopper,
    threads: Vec<JoinHandle<()>>,
}

impl Gate {
    /// Begins to take connections, at most `max_connections` at once, or fewer while descriptors do not suffice for them and
    /// for what `others` have. Those whose head is complete wait in `pending` for the thread that answers them. What the gate
    /// refuses is counted in `answers`.
    ///
    /// # Errors
    /// When there is no thread for a listener.
    pub fn open(
        listeners: Vec<Listener>,
        max_connections: usize,
        inner: Arc<dyn Upstream>,
        pending: Arc<PendingConnections>,
        (others, answers): (Box<OtherDescriptors>, Arc<AnswerCounters>),
    ) -> Result<Gate, Error> {
        let descriptors = host::raise_open_files();
        let max = permits::affordable(max_connections, descriptors, 0);
        if max < max_connections {
            log::warn(&format!(
                "--max-connections {max_connections} is lowered to {max}: more would need more file descriptors"
            ));
        }
        let shared = Arc::new(GateState {
            permits: Arc::new(Permits::new(max, descriptors, others)?),
            inner,
            pending,
            drain: Drain::start()?,
            connecting: Mutex::new(()),
            full: log::RateLimitedLog::default(),
            turned_away: Arc::new(()),
            answers,
        });
        let (stopper, stop) = stop::pair()?;
        let addresses = listeners
            .iter()
            .map(|listener| listener.address().to_owned())
            .collect();
        let mut threads = Vec::new();
        for listener in listeners {
            let (shared, stop) = (Arc::clone(&shared), stop.clone());
            let work = move || accept::run(&listener, &shared, &stop);
            let thread = threads::spawn("gate-accept", STACK_BYTES, work)
                .doing(|| "making a thread for a listener".into())?;
            threads.push(thread);
        }
        Ok(Gate {
            shared,
            addresses,
            accepting: SharedStopper::new(stopper),
            threads,
        })
    }

    /// Where it listens, as targets of the CLI.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Cuts off every body that is still arriving, as if its client had gone in the middle. The answers still get through.
    pub fn cut_uploads(&self) {
        self.shared.permits.cut(None);
    }

    /// What cuts off the body of one connection, by the number that the server was told.
    pub fn cutter(&self) -> impl Fn(u64) + Send + Sync + 'static {
        let permits = Arc::clone(&self.shared.permits);
        move |connection| permits.cut(Some(connection))
    }

    /// What says who is connected.
    pub fn occupancy(&self) -> impl Fn() -> Occupancy + Send + Sync + 'static {
        let permits = Arc::clone(&self.shared.permits);
        move || permits.occupancy()
    }

    /// What makes it take no more connections.
    pub fn accepting(&self) -> &SharedStopper {
        &self.accepting
    }

    /// Takes no more connections, and lets requests end that are short: those without a complete head have `head` for it, and
    /// all have `time`. Who watches is not waited for.
    pub fn rest(&mut self, head: Duration, time: Duration) {
        let now = Instant::now();
        self.stop_accepting();
        self.shared.permits.rest(now + head, now + time);
    }

    fn stop_accepting(&mut self) {
        self.accepting.stop();
        for thread in self.threads.drain(..) {
            // A loop that panicked has said so in the log and takes no connections either.
            let _ = thread.join();
        }
    }

    /// Takes no more connections, waits until those that are open have their answers, at most until `deadline`, and says
    /// whether that is so.
    pub fn close(mut self, deadline: Instant) -> bool {
        self.stop_accepting();
        self.shared.permits.close(deadline)
    }
}
