//! `gangplank serve`: puts the house together, serves, and takes it apart again.
//!
//! | file | what for |
//! | --- | --- |
//! | `desk` | who may ask, which path and operation it is, and the one line of log |
//! | `form` | a request's body: its fields, and the payload behind them |
//! | `operations` | one function for each operation |
//! | `stream` | events to a watcher, and the plain answer at a deployment's end |
//! | `sockets` | the unix sockets |

mod desk;
mod form;
mod operations;
mod sockets;
mod stream;

use std::convert::Infallible;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::archive::Limits;
use crate::child;
use crate::cli::{Listen, ServeOptions};
use crate::deploy::Builder;
use crate::error::{Doing, Error};
use crate::http::{Door, Exchange, Unblock};
use crate::install;
use crate::log;
use crate::place;
use crate::recover::{History, recover};
use crate::retain::Keep;
use crate::serve::desk::Desk;
use crate::store::Store;
use crate::tokens::Tokens;
use crate::worker::Workers;

/// The stack of a thread that answers a request: it reads, copies and waits, and keeps its buffers on the heap.
const STACK_BYTES: usize = 512 << 10;
/// How long before the end of `--grace` what still runs is killed.
const KILL_BEFORE_END: Duration = Duration::from_secs(1);

/// Runs the server until a signal ends it.
///
/// # Errors
/// When it cannot start, saying which part and why.
pub fn serve(options: &ServeOptions) -> Result<(), Error> {
    // First of all, so that a signal during the start is not lost.
    let signals = signals()?;
    let root = match &options.root {
        Some(root) => root.clone(),
        None => place::default_root()?,
    };
    let store = Arc::new(Store::open(&root)?);
    let tokens = Tokens::of(store.root());
    if let Some(file) = tokens.ensure_admin()? {
        log::info(&format!(
            "made the token of 'admin'; it is in {}",
            file.display()
        ));
    }
    let history = recover(&store)?;
    let house = House::build(options, store, tokens, history)?;
    house.announce();
    // The channel is never closed: its thread lives as long as the process.
    let _ = signals.recv();
    log::info("stopping");
    house.take_apart(options.grace);
    log::info("stopped");
    Ok(())
}

/// The first signal arrives here; the second one ends the process at once.
fn signals() -> Result<Receiver<()>, Error> {
    let mut signals = Signals::new([SIGTERM, SIGINT]).doing(|| "catching signals".into())?;
    // One signal is received; the next one does not come this way.
    let (sender, receiver) = bounded(1);
    let wait = move || {
        for (count, _) in signals.forever().enumerate() {
            if count > 0 || sender.send(()).is_err() {
                std::process::exit(1);
            }
        }
    };
    thread::Builder::new()
        .name("signals".into())
        .spawn(wait)
        .doing(|| "catching signals".into())?;
    Ok(receiver)
}

/// All that runs.
struct House {
    desk: Arc<Desk>,
    addresses: Vec<String>,
    doors: Vec<Unblock>,
    /// Ends when the last request is answered: each holds the other side.
    answering: Receiver<Infallible>,
    sockets: Vec<PathBuf>,
}

impl House {
    fn build(
        options: &ServeOptions,
        store: Arc<Store>,
        tokens: Tokens,
        history: History,
    ) -> Result<House, Error> {
        let environment = install::environment(std::env::vars_os());
        let install_timeout = options.install_timeout;
        let builder = Builder {
            store: Arc::clone(&store),
            install_timeout,
            environment,
        };
        let keep = Keep {
            releases: options.keep_releases,
            payloads: options.keep_payloads,
            deployments: options.keep_deployments,
        };
        let workers = Arc::new(Workers::new(options.max_deploys, builder, keep, history)?);
        let limits = Limits {
            max_payload: options.max_payload,
            max_entries: options.max_entries,
            min_free_disk: options.min_free_disk,
        };
        let local = store.socket();
        let desk = Arc::new(Desk::new(
            store,
            workers,
            tokens,
            limits,
            options.max_json_body,
        ));

        let mut doors = Vec::new();
        let mut sockets = vec![local];
        for listen in &options.listen {
            match listen {
                Listen::Tcp(address) => doors.push(Door::tcp(address)?),
                Listen::Unix(path) => sockets.push(path.clone()),
            }
        }
        for path in &sockets {
            doors.push(Door::unix(sockets::bind(path)?, path)?);
        }
        // Nothing is ever sent: the channel only tells when its last sender is gone.
        let (answering, answered) = bounded(0);
        let addresses = doors.iter().map(|door| door.address().to_owned()).collect();
        let unblocks = doors.iter().map(Door::unblock).collect();
        for door in doors {
            let (desk, answering) = (Arc::clone(&desk), answering.clone());
            thread::Builder::new()
                .name("door".into())
                .spawn(move || attend(&door, &desk, &answering))
                .doing(|| "making a thread for a listener".into())?;
        }
        Ok(House {
            desk,
            addresses,
            doors: unblocks,
            answering: answered,
            sockets,
        })
    }

    /// One write, so that a reader who takes the first line and goes away is no reason to end; nor is any other trouble
    /// with an output that nobody may be reading.
    fn announce(&self) {
        let lines: String = self
            .addresses
            .iter()
            .map(|address| format!("listening on {address}\n"))
            .collect();
        let mut out = std::io::stdout().lock();
        if let Err(error) = out.write_all(lines.as_bytes()).and_then(|()| out.flush()) {
            log::warn(&format!("saying where it listens: {error}"));
        }
    }

    /// No new deployment begins, what runs is stopped or goes on to its end if it is live already, and requests are
    /// answered, all within `grace`.
    fn take_apart(self, grace: Duration) {
        let end = Instant::now() + grace;
        let workers = self.desk.workers();
        workers.stop();
        if !workers.wait_idle(
            end.checked_sub(KILL_BEFORE_END)
                .unwrap_or_else(Instant::now),
        ) {
            match child::end_survivors(self.desk.root(), None) {
                Ok(0) => {}
                Ok(killed) => log::warn(&format!("killed {killed} processes that did not stop")),
                Err(error) => log::warn(&error.to_string()),
            }
            if !workers.wait_idle(end) {
                log::warn("a deployment is still running; the next start ends it");
            }
        }
        for door in self.doors {
            door.unblock();
        }
        if self.answering.recv_deadline(end) == Err(RecvTimeoutError::Timeout) {
            log::warn("some requests were not answered to their end");
        }
        for path in self.sockets {
            // The next start removes it too.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Takes requests from one door, each to a thread of its own.
fn attend(door: &Door, desk: &Arc<Desk>, answering: &Sender<Infallible>) {
    for number in 0_u64.. {
        let exchange = match door.next() {
            Ok(Some(exchange)) => exchange,
            Ok(None) => return,
            Err(error) => {
                log::error(&format!(
                    "{} takes no more connections: {error}",
                    door.address()
                ));
                return;
            }
        };
        if let Err(error) = answer(number, exchange, desk, answering) {
            // The exchange is gone with the thread that was not made; its client gets a 500.
            log::error(&format!("making a thread for a request: {error}"));
        }
    }
}

fn answer(
    number: u64,
    exchange: Exchange,
    desk: &Arc<Desk>,
    answering: &Sender<Infallible>,
) -> std::io::Result<()> {
    let (desk, answering) = (Arc::clone(desk), answering.clone());
    let thread = thread::Builder::new()
        .name(format!("http-{number}"))
        .stack_size(STACK_BYTES);
    thread.spawn(move || {
        desk.answer(exchange);
        drop(answering);
    })?;
    Ok(())
}
