//! What all requests of one command share: the server, the screen, the signals, and the patience.

pub(crate) mod connect;
pub(crate) mod delta;
pub(crate) mod find;
pub(crate) mod follow;
pub(crate) mod missing;
pub(crate) mod pack;
pub(crate) mod reading;
pub(crate) mod server;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, bounded, select};

use crate::api::error::Exit;
use crate::cli::screen::Screen;
use crate::client::follow::{FollowError, NextNotice};
use crate::client::{Client, InFlight, NoResult};
use crate::system::signals::Signals;

/// How often time passes on the screen.
const TICK: Duration = Duration::from_millis(100);

/// A failure, and whether the screen has shown its reason already, as it does for an `error` event.
#[derive(Debug)]
pub(crate) struct CommandError {
    pub(crate) failed: NoResult,
    pub(crate) shown: bool,
    /// Whether the deployment may go on and can be watched.
    pub(crate) watch: bool,
    /// Whether the server can stop it, as ours does.
    pub(crate) cancel: bool,
}

impl From<FollowError> for CommandError {
    fn from(error: FollowError) -> CommandError {
        CommandError {
            failed: error.failed,
            shown: error.shown,
            watch: error.watch,
            cancel: true,
        }
    }
}

impl From<NoResult> for CommandError {
    fn from(failed: NoResult) -> CommandError {
        FollowError::from(failed).into()
    }
}

impl CommandError {
    pub(crate) fn usage(message: impl ToString) -> CommandError {
        NoResult::new(Exit::Usage, message.to_string()).into()
    }
}

/// One command's requests.
pub(crate) struct Session<'a> {
    pub(crate) client: &'a Client,
    pub(crate) screen: &'a mut Screen,
    /// `--retry-for`, if it was given.
    retry_for: Option<Duration>,
    /// The server has been connected to in this run.
    reached: bool,
    /// The status of the last answer, and the server's clock at it.
    status: Option<u16>,
    date: Option<u64>,
    /// The server's clock when it said what it is, from which on our deployment is looked for.
    begun: Option<u64>,
    /// What was answered instead of that.
    foreign: Option<NoResult>,
    /// The question what kind of server it is, where it was asked before.
    asked: Option<InFlight>,
    signals: Signals,
    /// A signal came while something was done that nobody could be asked for.
    interrupted: bool,
    ticked: Instant,
}

impl<'a> Session<'a> {
    pub(crate) fn new(
        client: &'a Client,
        screen: &'a mut Screen,
        retry_for: Option<Duration>,
    ) -> Result<Session<'a>, CommandError> {
        Ok(Session {
            client,
            screen,
            retry_for,
            reached: false,
            status: None,
            date: None,
            begun: None,
            foreign: None,
            asked: None,
            signals: Signals::new().map_err(CommandError::usage)?,
            interrupted: false,
            ticked: Instant::now(),
        })
    }

    /// Waits for what is next, at most one tick. Time passes on the screen however busy it is.
    pub(crate) fn next(&mut self, running: &InFlight) -> NextNotice {
        if self.ticked.elapsed() >= TICK {
            self.tick();
        }
        if self.interrupted {
            return NextNotice::Stop;
        }
        if running.notices().is_empty() {
            self.screen.flush();
        }
        select! {
            recv(running.notices()) -> notice => notice.map_or(NextNotice::Gone, NextNotice::Notice),
            recv(self.signals.channel()) -> _ => NextNotice::Stop,
            default(TICK) => NextNotice::Tick,
        }
    }

    /// Does some work in a thread while time passes on the screen. None if a signal came, and told it to stop: whatever is
    /// followed next ends.
    pub(crate) fn meanwhile<T: Send>(
        &mut self,
        stop: &AtomicBool,
        work: impl FnOnce() -> T + Send,
    ) -> Option<T> {
        let (done, result) = bounded(1);
        std::thread::scope(|scope| {
            scope.spawn(move || drop(done.send(work())));
            loop {
                match result.recv_timeout(TICK) {
                    Ok(result) => return Some(result).filter(|_| !self.interrupted),
                    Err(RecvTimeoutError::Timeout) => self.tick(),
                    Err(RecvTimeoutError::Disconnected) => return None,
                }
                if self.signals.channel().try_recv().is_ok() {
                    self.interrupted = true;
                    stop.store(true, Ordering::Relaxed);
                }
            }
        })
    }

    fn tick(&mut self) {
        self.ticked = Instant::now();
        self.screen.tick();
    }

    /// Lets time pass; false if a signal ended it.
    pub(crate) fn pause(&mut self, time: Duration) -> bool {
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            if self.signals.channel().recv_timeout(left.min(TICK)).is_ok() {
                return false;
            }
            self.tick();
        }
    }
}
