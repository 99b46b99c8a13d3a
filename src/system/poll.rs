//! Waiting for several descriptors at once.

use std::io;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, poll};

pub use rustix::event::{PollFd, PollFlags};

/// Waits until one of the descriptors is ready, or until the time is over. Returns whether one is.
///
/// # Errors
/// When the system has no memory for it.
pub fn wait(fds: &mut [PollFd<'_>], time: Option<Duration>) -> io::Result<bool> {
    // A time that no clock reaches is none.
    wait_until(fds, time.and_then(|time| Instant::now().checked_add(time)))
}

/// As [`wait`], until a point in time.
///
/// # Errors
/// When the system has no memory for it.
pub fn wait_until(fds: &mut [PollFd<'_>], until: Option<Instant>) -> io::Result<bool> {
    loop {
        let left = until.map(|until| {
            let left = until.saturating_duration_since(Instant::now());
            Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            }
        });
        match poll(fds, left.as_ref()) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether a poll says that nobody is at the other end any longer. The end of what a client sends does not say so: it may
/// still wait for its answer.
pub fn hung_up(events: PollFlags) -> bool {
    events.intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_with_news_or_with_its_time() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let ask = |time| {
            let mut fds = [PollFd::new(&reader, PollFlags::IN)];
            let ready = wait(&mut fds, Some(time)).unwrap();
            (ready, hung_up(fds[0].revents()))
        };
        let begun = Instant::now();
        assert_eq!(ask(Duration::from_millis(20)), (false, false));
        assert!(begun.elapsed() >= Duration::from_millis(20));
        drop(writer);
        assert_eq!(ask(Duration::MAX), (true, true));
    }
}
