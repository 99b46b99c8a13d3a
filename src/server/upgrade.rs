//! From one server of a root to the next without refusing anybody: the listening sockets change hands, and what waits in them
//! to be accepted waits on.
//!
//! A server listens on `ROOT/run/next.sock` for the next one, which connects there before it takes the lock of the root. It
//! says whether it is to replace a server that serves or only one that ends already, gets the sockets, makes those that are
//! new, and says `go`. Up to then it may go away or fail, and nothing has happened. Then the old server lets end what is being
//! deployed, takes no more connections, answers those that it has, stops what it runs and ends. With that the connection
//! between the two ends and the lock is free, so that two never run the components at the same time.
//!
//! A supervisor can do the same: it is given the sockets to keep, and passes them to the next server it starts.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, ToSocketAddrs};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::api::error::{Doing, Error};
use crate::engine::processes::HELD;
use crate::engine::settings::{Listen, ServeOptions};
use crate::server::gate::{Certificate, Listener};
use crate::server::sockets;
use crate::system::log;
use crate::system::notify;
use crate::system::passing::{self, ListeningSocket, PassedSocket};
use crate::system::stop::SharedStopper;
use crate::system::threads;

/// The name of a socket of the gate.
const LISTEN: &str = "listen";
/// What a next server asks for.
const REPLACE: &str = "replace";
const REPLACE_STOPPING: &str = "replace if stopping";
/// What it says when it has all it needs.
const GO: &str = "go";
/// A server answers at once, and the next one binds its other addresses in no time; then nobody is there any longer.
const PATIENCE: Duration = Duration::from_secs(30);
/// A signal has arrived within this, on a busy machine too.
const HEARS_WITHIN: Duration = Duration::from_millis(300);
const ASK_AGAIN: Duration = Duration::from_millis(10);
/// The longest word of the next server.
const WORD_MAX: u64 = 64;
/// The thread passes descriptors on.
const STACK_BYTES: usize = 128 << 10;
/// Where a server listens that was told nothing of it.
const DEFAULT: &str = "127.0.0.1:9925";

/// Sockets that were passed to this server.
#[derive(Default)]
pub(super) struct Passed {
    sockets: Vec<PassedSocket>,
    /// Some of them come from a supervisor, which keeps them.
    supervisor: bool,
}

impl Passed {
    /// Those of a supervisor. It must be asked before there is a second thread.
    pub(super) fn by_supervisor() -> Passed {
        let sockets = passing::inherited();
        Passed {
            supervisor: !sockets.is_empty(),
            sockets,
        }
    }

    /// Whether a supervisor keeps this server's sockets for the next one.
    pub(super) fn is_kept(&self) -> bool {
        notify::keeps(self.supervisor)
    }

    /// Those of components.
    pub(super) fn take_held(&mut self) -> Vec<PassedSocket> {
        let all = std::mem::take(&mut self.sockets).into_iter();
        let (held, others) = all.partition(|one| one.name.starts_with(HELD));
        self.sockets = others;
        held
    }

    fn position(&self, fits: impl Fn(&ListeningSocket) -> bool) -> Option<usize> {
        self.sockets
            .iter()
            .position(|one| !one.name.starts_with(HELD) && fits(&one.socket))
    }

    /// The one that listens on an address; one on any port for port 0.
    fn tcp(&mut self, address: &str) -> Option<TcpListener> {
        let wanted: Vec<_> = address.to_socket_addrs().ok()?.collect();
        let found = self.position(|socket| {
            let is = socket.address();
            wanted.iter().any(|one| {
                is.is_some_and(|is| is.ip() == one.ip() && [0, is.port()].contains(&one.port()))
            })
        })?;
        match self.sockets.remove(found).socket {
            ListeningSocket::Tcp(listener) => Some(listener),
            ListeningSocket::Unix(_) => None,
        }
    }

    /// The one that listens on a path, if clients can still find it there.
    fn unix(&mut self, path: &Path) -> Option<UnixListener> {
        let found = self.position(|socket| socket.path().as_deref() == Some(path))?;
        let passed = self.sockets.remove(found).socket;
        let is_there =
            std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
        match passed {
            ListeningSocket::Unix(listener) if is_there => Some(listener),
            _ => None,
        }
    }

    /// Makes the sockets of TCP that are wanted and were not passed, while the server before still serves.
    ///
    /// # Errors
    /// When an address is in use or not ours.
    fn bind_others(&mut self, options: &ServeOptions) -> Result<(), Error> {
        for listen in wanted(options, self) {
            let Listen::Tcp(address) = listen else {
                continue;
            };
            let listener = match self.tcp(&address) {
                Some(listener) => listener,
                None => TcpListener::bind(&address).doing(|| format!("listening on {address}"))?,
            };
            // At the end, so that two of port 0 do not find the same one.
            self.sockets.push(PassedSocket {
                name: LISTEN.to_owned(),
                socket: ListeningSocket::Tcp(listener),
            });
        }
        Ok(())
    }
}

/// Where the server is to listen beside the socket in the root: where it was told, else on what a supervisor has for it.
fn wanted(options: &ServeOptions, passed: &Passed) -> Vec<Listen> {
    let is_activation = |one: &PassedSocket| one.name != LISTEN && !one.name.starts_with(HELD);
    if options.listen.is_empty() && !passed.sockets.iter().any(is_activation) {
        return vec![Listen::Tcp(DEFAULT.to_owned())];
    }
    options.listen.clone()
}

/// All listeners, the root's own socket among them, and the paths of those that are sockets.
///
/// # Errors
/// Which address is not to be had, and why.
pub(super) fn listen(
    options: &ServeOptions,
    local: PathBuf,
    certificate: Option<&Arc<Certificate>>,
    mut passed: Passed,
) -> Result<(Vec<Listener>, Vec<PathBuf>), Error> {
    let (mut listeners, mut paths) = (Vec::new(), vec![local]);
    for listen in wanted(options, &passed) {
        match listen {
            Listen::Tcp(address) => {
                let passed = passed.tcp(&address);
                listeners.push(Listener::tcp(&address, passed, certificate.cloned())?);
            }
            Listen::Unix(path) => paths.push(path),
        }
    }
    for path in &paths {
        let listener = match passed.unix(path) {
            Some(listener) => listener,
            None => sockets::bind(path)?,
        };
        listeners.push(Listener::unix(listener, path)?);
    }
    let supervisor = passed.supervisor;
    // What a supervisor has opened by itself is for us, whatever we were told; of our own, what nobody wants is closed.
    for one in passed.sockets.into_iter().filter(|one| one.name != LISTEN) {
        let path = one.socket.path().unwrap_or_default();
        listeners.push(match one.socket {
            ListeningSocket::Tcp(listener) => Listener::tcp(
                "a socket of LISTEN_FDS",
                Some(listener),
                certificate.cloned(),
            )?,
            ListeningSocket::Unix(listener) => Listener::unix(listener, &path)?,
        });
    }
    if supervisor {
        notify::let_go(LISTEN);
    }
    Ok((listeners, paths))
}

fn next_socket(root: &Path) -> PathBuf {
    root.join("run/next.sock")
}

/// The server before this one, which has passed its sockets.
pub(super) struct Predecessor(UnixStream);

impl Predecessor {
    /// Asks a server of this root for its sockets, and makes those that it does not have; none if there is no such server, or
    /// if it serves and is not to be replaced. Nothing has changed for it yet.
    ///
    /// # Errors
    /// When what it says cannot be understood, or an address is not to be had.
    pub(super) fn ask(
        root: &Path,
        options: &ServeOptions,
        passed: &mut Passed,
    ) -> Result<Option<Predecessor>, Error> {
        // One that was told to stop a moment ago may not know it yet.
        let until = Instant::now() + HEARS_WITHIN;
        loop {
            let found = Predecessor::ask_once(root, options, passed)?;
            let waits = !options.take_over && Instant::now() < until;
            if found.is_some() || !waits || UnixStream::connect(next_socket(root)).is_err() {
                return Ok(found);
            }
            thread::sleep(ASK_AGAIN);
        }
    }

    fn ask_once(
        root: &Path,
        options: &ServeOptions,
        passed: &mut Passed,
    ) -> Result<Option<Predecessor>, Error> {
        let what = || format!("taking over from the server of {}", root.display());
        // Who may not ask, or finds nobody, is told so by the lock.
        let Ok(mut stream) = UnixStream::connect(next_socket(root)) else {
            return Ok(None);
        };
        stream.set_read_timeout(Some(PATIENCE)).doing(what)?;
        let word = match options.take_over {
            true => REPLACE,
            false => REPLACE_STOPPING,
        };
        // One that has just ended is none any longer.
        if writeln!(stream, "{word}").is_err() {
            return Ok(None);
        }
        let sockets = match passing::receive(&stream) {
            Ok(Some(sockets)) => sockets,
            Ok(None) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => return Err(error).doing(what),
        };
        passed.sockets.extend(sockets);
        passed.bind_others(options)?;
        Ok(Some(Predecessor(stream)))
    }

    /// Lets it end, and waits until it has.
    pub(super) fn replace(self) {
        let Predecessor(mut stream) = self;
        log::info("taking over the sockets of the server that runs; waiting for its end");
        if writeln!(stream, "{GO}").is_ok() {
            // It takes as long as it takes; whatever happens, its end ends this.
            let _ = stream.set_read_timeout(None);
            let _ = stream.read_to_end(&mut Vec::new());
        }
    }
}

/// What becomes of this server.
enum ServingStage {
    Serves,
    /// It was told to stop, and serves for a moment still.
    Leaves,
    Stops,
    /// The connection ends with this process.
    HandedOver {
        _next: UnixStream,
    },
}

/// What a next server is given.
pub(super) type SocketsToPass =
    dyn Fn() -> io::Result<Vec<(String, ListeningSocket)>> + Send + Sync;

struct PassingState {
    standing: Mutex<ServingStage>,
    sockets: Box<SocketsToPass>,
    accepting: SharedStopper,
    /// Has room for the one word that is ever sent.
    go: Sender<()>,
}

/// The way for the next server of this root to take over.
pub(super) struct Successor {
    state: Arc<PassingState>,
    go: Receiver<()>,
}

impl Successor {
    /// Begins to listen for it. `accepting` makes the gate take no more connections.
    ///
    /// # Errors
    /// When there is no socket or no thread for it.
    pub(super) fn await_one(
        path: &Path,
        sockets: Box<SocketsToPass>,
        accepting: SharedStopper,
    ) -> Result<Successor, Error> {
        let listener = sockets::bind(path)?;
        let (sender, go) = bounded(1);
        let state = Arc::new(PassingState {
            standing: Mutex::new(ServingStage::Serves),
            sockets,
            accepting,
            go: sender,
        });
        let of_thread = Arc::clone(&state);
        let work = move || {
            for next in listener.incoming().flatten() {
                if let Err(error) = of_thread.attend(next) {
                    log::warn(&format!("a new server wanted to take over: {error}"));
                }
            }
        };
        threads::spawn("successor", STACK_BYTES, work)
            .doing(|| "making a thread that waits for the next server".into())?;
        Ok(Successor { state, go })
    }

    /// For `select!`: a next server has the sockets, and waits for the end of this one.
    pub(super) fn channel(&self) -> &Receiver<()> {
        &self.go
    }

    /// From here on any next server may take over, and this one serves until then. Says whether one does within the time.
    pub(super) fn comes_within(&self, time: Duration) -> bool {
        let mut standing = self.state.lock();
        if matches!(*standing, ServingStage::Serves) {
            *standing = ServingStage::Leaves;
        }
        drop(standing);
        self.go.recv_timeout(time).is_ok()
    }

    /// From here on this server serves no longer.
    pub(super) fn stopping(&self) {
        let mut standing = self.state.lock();
        match *standing {
            ServingStage::Serves | ServingStage::Leaves => *standing = ServingStage::Stops,
            // Whoever comes from here on waits for the next server.
            ServingStage::HandedOver { .. } => drop(self.state.accepting.stop()),
            ServingStage::Stops => {}
        }
    }

    /// Whether a next server has the sockets.
    pub(super) fn is_handed_over(&self) -> bool {
        matches!(*self.state.lock(), ServingStage::HandedOver { .. })
    }
}

impl PassingState {
    fn lock(&self) -> MutexGuard<'_, ServingStage> {
        // It is replaced whole.
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A next server that goes away before its last word changes nothing.
    fn attend(&self, next: UnixStream) -> io::Result<()> {
        next.set_read_timeout(Some(PATIENCE))?;
        next.set_write_timeout(Some(PATIENCE))?;
        let mut words = BufReader::new((&next).take(WORD_MAX)).lines();
        let mut word = || words.next().transpose().map(Option::unwrap_or_default);
        let asked = word()?;
        let fits = match *self.lock() {
            ServingStage::Serves => asked == REPLACE,
            ServingStage::Leaves | ServingStage::Stops => {
                asked == REPLACE || asked == REPLACE_STOPPING
            }
            ServingStage::HandedOver { .. } => false,
        };
        if !fits {
            return Ok(());
        }
        for (name, socket) in (self.sockets)()? {
            passing::pass(&next, &name, &socket)?;
        }
        (&next).write_all(b"\n")?;
        if word()? != GO {
            return Ok(());
        }
        let mut standing = self.lock();
        match *standing {
            ServingStage::HandedOver { .. } => return Ok(()),
            // Whoever comes from here on waits for the next server.
            ServingStage::Stops => drop(self.accepting.stop()),
            // There is room for it, as it is sent once.
            ServingStage::Serves | ServingStage::Leaves => drop(self.go.try_send(())),
        }
        *standing = ServingStage::HandedOver { _next: next };
        Ok(())
    }
}

/// The gate's sockets as they are passed on.
pub(super) fn of_gate(sockets: &[ListeningSocket]) -> io::Result<Vec<(String, ListeningSocket)>> {
    let each = sockets.iter();
    each.map(|one| Ok((LISTEN.to_owned(), one.try_clone()?)))
        .collect()
}

/// Gives the gate's sockets to a supervisor to keep.
pub(super) fn keep(sockets: &[ListeningSocket]) {
    sockets.iter().for_each(|one| notify::keep(LISTEN, one));
}
