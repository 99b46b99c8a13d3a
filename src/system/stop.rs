//! Stop by disconnect: whoever owns the [`Stopper`] stops every holder of its [`Stop`] by dropping it, so nobody can
//! forget to say stop, and an owner that panics stops its children too.
//!
//! A holder may wait for it in a crossbeam `select!` ([`Stop::channel`]), in `poll` ([`Stop::fd`]), or look at it between
//! two steps of its work ([`Stop::stopped`]).

use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};

use crate::api::error::{Doing, Error};

/// Stops all holders of the matching [`Stop`] when it is dropped.
#[derive(Debug)]
pub struct Stopper {
    _sender: Sender<Infallible>,
    _pipe: OwnedFd,
}

/// The receiving side: is ready, for ever, once the [`Stopper`] is gone.
#[derive(Debug, Clone)]
pub struct Stop {
    channel: Receiver<Infallible>,
    /// None if nobody can ever stop it.
    pipe: Option<Arc<OwnedFd>>,
}

/// A new pair.
///
/// # Errors
/// When the process has no file descriptor left for the pipe that makes it pollable.
pub fn pair() -> Result<(Stopper, Stop), Error> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .doing(|| "making a stop signal".into())?;
    // Nothing is ever sent, so the smallest capacity does.
    let (sender, channel) = bounded(0);
    Ok((
        Stopper {
            _sender: sender,
            _pipe: writer,
        },
        Stop {
            channel,
            pipe: Some(Arc::new(reader)),
        },
    ))
}

impl Stop {
    /// For work that nobody stops. Needs no descriptor, so that it is there when something has to be undone.
    pub fn never() -> Stop {
        Stop {
            channel: crossbeam_channel::never(),
            pipe: None,
        }
    }

    /// Whether the owner is gone.
    pub fn stopped(&self) -> bool {
        matches!(self.channel.try_recv(), Err(TryRecvError::Disconnected))
    }

    /// For `select!`: this channel never yields anything but its disconnection.
    pub fn channel(&self) -> &Receiver<Infallible> {
        &self.channel
    }

    /// For `poll`: this descriptor reports a hang-up once the owner is gone, and nothing before. [`Stop::never`] has none.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }
}

/// A [`Stopper`] that several may pull: the first one stops, the others change nothing. Once it was disarmed nobody can.
#[derive(Debug, Clone)]
pub struct SharedStopper(Arc<Mutex<Pull>>);

#[derive(Debug)]
enum Pull {
    Armed(Stopper),
    Stopped,
    /// Held so that the holders of the [`Stop`] are not told.
    Disarmed {
        _stopper: Stopper,
    },
}

impl SharedStopper {
    /// Shares a stopper.
    pub fn new(stopper: Stopper) -> SharedStopper {
        SharedStopper(Arc::new(Mutex::new(Pull::Armed(stopper))))
    }

    /// Stops all holders, at once. False if it is too late for that.
    pub fn stop(&self) -> bool {
        self.stop_after(|| ())
    }

    /// As [`SharedStopper::stop`]; what is to be true by the time that they see it is done before, and only if they do.
    pub fn stop_after(&self, before: impl FnOnce()) -> bool {
        let mut pull = self.lock();
        if matches!(*pull, Pull::Armed(_)) {
            before();
            *pull = Pull::Stopped;
        }
        matches!(*pull, Pull::Stopped)
    }

    /// From here on nobody stops them. False if that has been done already.
    pub fn disarm(&self) -> bool {
        let mut pull = self.lock();
        match std::mem::replace(&mut *pull, Pull::Stopped) {
            Pull::Armed(stopper) => *pull = Pull::Disarmed { _stopper: stopper },
            other => *pull = other,
        }
        matches!(*pull, Pull::Disarmed { .. })
    }

    fn lock(&self) -> MutexGuard<'_, Pull> {
        // Between its statements it is at worst stopped, which is right after a panic too.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::poll::{PollFd, PollFlags, wait};
    use std::time::Duration;

    fn polls(stop: &Stop) -> bool {
        let mut fds: Vec<PollFd> = stop
            .fd()
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .into_iter()
            .collect();
        wait(&mut fds, Some(Duration::ZERO)).unwrap()
    }

    #[test]
    fn dropping_the_owner_stops_every_holder() {
        let (stopper, stop) = pair().unwrap();
        let other = stop.clone();
        assert!(!stop.stopped() && !polls(&stop));
        drop(stopper);
        for stop in [stop, other] {
            assert!(stop.stopped() && polls(&stop));
            assert!(stop.channel().recv().is_err());
        }
    }

    #[test]
    fn what_nobody_stops_needs_no_owner() {
        let never = Stop::never();
        assert!(!never.stopped() && !polls(&never) && never.fd().is_none());
        let waited = never.channel().recv_timeout(Duration::from_millis(1));
        assert!(waited.unwrap_err().is_timeout());
    }

    #[test]
    fn a_shared_stopper_stops_once() {
        let (stopper, stop) = pair().unwrap();
        let shared = SharedStopper::new(stopper);
        let second = shared.clone();
        assert!(shared.stop() && second.stop());
        assert!(stop.stopped() && !shared.disarm());
    }

    #[test]
    fn a_disarmed_one_stops_nobody() {
        let (stopper, stop) = pair().unwrap();
        let shared = SharedStopper::new(stopper);
        assert!(shared.disarm() && shared.disarm());
        assert!(!shared.stop() && !stop.stopped());
        drop(shared);
        assert!(stop.stopped(), "with its last owner it goes all the same");
    }
}
