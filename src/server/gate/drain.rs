//! What clients still send although they have their answer: it is read and dropped, so that the answer reaches them.
//!
//! Closing a socket on unread bytes resets the connection, and takes the answer back from a client that reads only when it
//! has written. One thread does this for all of them. A client that is done with keeps no other thread, and its permit only
//! until somebody else needs it.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::api::error::{Doing, Error};
use crate::server::gate::permits::Ticket;
use crate::server::gate::socket::Socket;
use crate::server::gate::{BUFFER, LINGER_BYTES, LINGER_TIME, STACK_BYTES};
use crate::system::poll::{PollFd, PollFlags, wait};
use crate::system::socket::{receive, send};
use crate::system::threads;

/// Connections without a permit that are read a little, so that their refusal reaches them. They have few of the
/// descriptors that are kept.
const WITHOUT_PERMIT_MAX: usize = 16;
/// After a poll that failed for want of memory.
const PAUSE: Duration = Duration::from_millis(20);

/// One connection whose input is dropped.
struct Draining {
    socket: Arc<Socket>,
    /// Held until the connection is closed.
    ticket: Option<Ticket>,
    /// When it is closed; never, while its answer goes on.
    until: Option<Instant>,
    /// How many bytes are read at most.
    left: u64,
}

impl Draining {
    /// Reads and drops what came; false when it may be closed.
    fn read(&mut self, buffer: &mut [u8]) -> bool {
        match receive(&*self.socket, buffer) {
            Ok(None) => true,
            Ok(Some(0)) | Err(_) => false,
            Ok(Some(read)) => {
                self.left = self.left.saturating_sub(read as u64);
                self.left > 0
            }
        }
    }
}

impl Drop for Draining {
    fn drop(&mut self) {
        // Its input may be here a second time, from when its answer still went on.
        if self.until.is_some() {
            self.socket.shut(Shutdown::Both);
        }
    }
}

type Arrivals = Mutex<Vec<Draining>>;

fn lock(arrivals: &Arrivals) -> MutexGuard<'_, Vec<Draining>> {
    // A vector is whole after each of its changes.
    arrivals.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The way to the thread that drops input. It ends when this is dropped and the last connection is closed.
pub(crate) struct Drain {
    /// At most two entries for each permit, and a few without one.
    arrivals: Arc<Arrivals>,
    wake: UnixStream,
}

impl Drain {
    pub(crate) fn start() -> Result<Drain, Error> {
        let what = || "making the thread that drops input".to_owned();
        let (woken, wake) = UnixStream::pair().doing(what)?;
        let arrivals = Arc::new(Arrivals::default());
        let of_thread = Arc::clone(&arrivals);
        let work = move || run(&of_thread, &woken);
        threads::spawn("gate-drain", STACK_BYTES, work).doing(what)?;
        Ok(Drain { arrivals, wake })
    }

    /// Closes a connection whose answer is written and ended, once the client has closed it or had its time.
    pub(crate) fn close(&self, socket: Arc<Socket>, ticket: Option<Ticket>) {
        if let Some(ticket) = &ticket {
            ticket.drains();
        }
        self.add(Draining {
            socket,
            ticket,
            until: Some(Instant::now() + LINGER_TIME),
            left: LINGER_BYTES,
        });
    }

    /// Drops what comes by a connection whose answer goes on.
    pub(crate) fn drop_input(&self, socket: Arc<Socket>) {
        self.add(Draining {
            socket,
            ticket: None,
            until: None,
            left: LINGER_BYTES,
        });
    }

    fn add(&self, one: Draining) {
        lock(&self.arrivals).push(one);
        // One that is full wakes the thread as well.
        let _ = send(&self.wake, &[0]);
    }
}

fn run(arrivals: &Arrivals, woken: &UnixStream) {
    let mut all: Vec<Draining> = Vec::new();
    let (mut buffer, mut open) = (Vec::new(), true);
    while open || !all.is_empty() {
        let ready = ready(&all, open.then_some(woken));
        if open {
            open = wakes(woken);
        }
        let now = Instant::now();
        buffer.resize(BUFFER, 0);
        let mut ready = ready.into_iter();
        all.retain_mut(|one| {
            let ready = ready.next().unwrap_or(true);
            one.until.is_none_or(|until| now < until) && (!ready || one.read(&mut buffer))
        });
        all.append(&mut lock(arrivals));
        limit_those_without_permit(&mut all);
        if all.is_empty() {
            buffer = Vec::new();
        }
    }
}

/// Takes the bytes that wake it; false when nobody can send any longer.
fn wakes(woken: &UnixStream) -> bool {
    let mut bytes = [0; 64];
    loop {
        match receive(woken, &mut bytes) {
            Ok(Some(0)) => return false,
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return true,
        }
    }
}

/// Waits, and returns which connections have something to read.
fn ready(all: &[Draining], woken: Option<&UnixStream>) -> Vec<bool> {
    let mut fds: Vec<PollFd> = all
        .iter()
        .map(|one| PollFd::new(&*one.socket, PollFlags::IN))
        .collect();
    fds.extend(woken.map(|woken| PollFd::new(woken, PollFlags::IN)));
    let now = Instant::now();
    let time = all
        .iter()
        .filter_map(|one| one.until)
        .map(|until| until.saturating_duration_since(now))
        .min();
    if wait(&mut fds, time).is_err() {
        thread::sleep(PAUSE);
        return vec![true; all.len()];
    }
    let connections = fds.iter().take(all.len());
    connections.map(|fd| !fd.revents().is_empty()).collect()
}

fn limit_those_without_permit(all: &mut Vec<Draining>) {
    let without = |one: &Draining| one.until.is_some() && one.ticket.is_none();
    let mut too_many = all
        .iter()
        .filter(|one| without(one))
        .count()
        .saturating_sub(WITHOUT_PERMIT_MAX);
    // The oldest first.
    all.retain(|one| {
        let goes = too_many > 0 && without(one);
        too_many -= usize::from(goes);
        !goes
    });
}
