//! What all requests of one command share: the server, the screen, the signals, and the patience.

use std::time::{Duration, Instant};

use crossbeam_channel::select;

use crate::cli::commands::CommandError;
use crate::cli::screen::Screen;
use crate::client::{Client, InFlight, Notice};
use crate::system::signals::Signals;

/// How often time passes on the screen.
const TICK: Duration = Duration::from_millis(100);

/// One command's requests.
pub(crate) struct Session<'a> {
    pub(crate) client: &'a Client,
    pub(crate) screen: &'a mut Screen,
    /// `--retry-for`, if it was given.
    pub(crate) retry_for: Option<Duration>,
    /// The server has been connected to in this run.
    pub(crate) reached: bool,
    signals: Signals,
    ticked: Instant,
}

/// What is next.
pub(crate) enum NextNotice {
    Notice(Notice),
    /// Only a panic ends a request's thread without its last notice.
    Gone,
    /// SIGINT, SIGTERM or SIGHUP.
    Signal,
    /// Some time passed.
    Tick,
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
            signals: Signals::new().map_err(CommandError::usage)?,
            ticked: Instant::now(),
        })
    }

    /// Waits for what is next, at most one tick.
    pub(crate) fn next(&self, running: &InFlight) -> NextNotice {
        select! {
            recv(running.notices()) -> notice => notice.map_or(NextNotice::Gone, NextNotice::Notice),
            recv(self.signals.channel()) -> _ => NextNotice::Signal,
            default(TICK) => NextNotice::Tick,
        }
    }

    /// Whether it is time to call [`Session::tick`], however busy it is.
    pub(crate) fn due(&self) -> bool {
        self.ticked.elapsed() >= TICK
    }

    pub(crate) fn tick(&mut self) {
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
