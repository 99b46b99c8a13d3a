//! Signals as something to wait for: those that end a command of the client, and those that a server obeys.

use crossbeam_channel::{Receiver, bounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals as SignalSet};

use crate::api::error::{Doing, Error};
use crate::system::threads;

/// For a thread that only passes a word on.
const STACK_BYTES: usize = 128 << 10;

/// Catches the signals until it is dropped; from then on they do nothing, as the program is about to end.
#[derive(Debug)]
pub struct Signals {
    channel: Receiver<()>,
    handle: Handle,
}

impl Signals {
    /// Begins to catch them.
    ///
    /// # Errors
    /// When the system gives neither a pipe nor a thread for it.
    pub fn new() -> Result<Signals, Error> {
        let doing = || "catching signals".to_owned();
        let mut caught = SignalSet::new([SIGINT, SIGTERM, SIGHUP]).doing(doing)?;
        let handle = caught.handle();
        // One is enough: the first one ends the command.
        let (sender, channel) = bounded(1);
        let wait = move || {
            for _ in caught.forever() {
                let _ = sender.try_send(());
            }
        };
        threads::spawn("signals", STACK_BYTES, wait).doing(doing)?;
        Ok(Signals { channel, handle })
    }

    /// For `select!`.
    pub fn channel(&self) -> &Receiver<()> {
        &self.channel
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.handle.close();
    }
}

/// What a server is told by a signal.
#[derive(Debug)]
pub enum Signal {
    /// To end.
    Stop,
    /// To read its files again.
    Reload,
}

/// The signals arrive here, until the second one to stop, which ends the process at once. SIGHUP never ends it: what runs
/// must not depend on the terminal that somebody started it from.
///
/// # Errors
/// When the system gives neither a pipe nor a thread for it.
pub fn of_server() -> Result<Receiver<Signal>, Error> {
    let mut signals =
        SignalSet::new([SIGTERM, SIGINT, SIGHUP]).doing(|| "catching signals".into())?;
    // One to stop, and one to reload that is not done yet: a further one would do the same.
    let (sender, receiver) = bounded(2);
    let wait = move || {
        let mut stopping = false;
        for signal in signals.forever() {
            match signal {
                SIGHUP if sender.is_empty() => drop(sender.send(Signal::Reload)),
                SIGHUP => {}
                _ if stopping || sender.send(Signal::Stop).is_err() => std::process::exit(1),
                _ => stopping = true,
            }
        }
    };
    threads::spawn("signals", STACK_BYTES, wait).doing(|| "catching signals".into())?;
    Ok(receiver)
}
