//! Who watches a deployment and has all that there is of it: one thread a deployment writes to all of them.
//!
//! What comes is made once into the bytes that go over the wire, and offered to each client without waiting for any. Who
//! does not take all of it gets a thread of its own until it has caught up: it reads the journal from where it stands, as
//! everybody does who comes, and joins the others when there is nothing left to read. So a thousand watchers cost a thread
//! and a few hundred bytes each, and none of them waits for another one.
//!
//! Nobody misses an event, and nobody sees one twice: a watcher joins only where the thread has not gathered yet what the
//! watcher needs next, and both are looked at under one lock.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::api::error::Error;
use crate::api::event::Event;
use crate::api::name::DeploymentId;
use crate::engine::deployer::Deployer;
use crate::formats::sse;
use crate::server::http::{Frame, KEPT_BUFFER, PULSE};
use crate::server::pump::{BURST_BYTES, Batch, LiveStream, OpenStream, StreamSource};
use crate::store::journal::{Follower, Step};
use crate::system::{log, threads};

/// What gathers and writes keeps its buffers on the heap.
const STACK_BYTES: usize = 256 << 10;
/// For a watcher alone, the same as for a request.
const BEHIND_STACK_BYTES: usize = 512 << 10;

/// The events of a deployment, up to its terminal one.
pub(super) struct DeploymentEvents {
    follower: Follower,
    /// Where those who only watch meet.
    broadcasts: Option<Arc<Broadcasts>>,
}

impl DeploymentEvents {
    /// To one client, by the thread that has it.
    pub(super) fn alone(follower: Follower) -> DeploymentEvents {
        DeploymentEvents {
            follower,
            broadcasts: None,
        }
    }

    /// To somebody who may join the others.
    pub(super) fn shared(follower: Follower, broadcasts: &Arc<Broadcasts>) -> DeploymentEvents {
        DeploymentEvents {
            follower,
            broadcasts: Some(Arc::clone(broadcasts)),
        }
    }
}

impl StreamSource for DeploymentEvents {
    fn next(&mut self, records: &mut Vec<u8>, wait: Duration) -> Result<Batch, Error> {
        Ok(match self.follower.next(wait)? {
            Step::Entry(entry) => {
                sse::frame(records, Some(entry.id), &entry.event, entry.data.get());
                Batch::Records
            }
            Step::Upload(upload) => {
                let event = Event::Upload(upload);
                sse::frame(records, None, event.name(), event.data().get());
                Batch::Records
            }
            Step::Idle => Batch::Nothing,
            Step::End => Batch::End,
        })
    }

    fn is_shared(&self) -> bool {
        self.broadcasts.is_some()
    }

    fn take_over(&mut self, stream: Box<OpenStream>) -> Result<(), Box<OpenStream>> {
        match (&self.broadcasts, self.follower.deployment()) {
            // Who asked for what comes after an entry that is still to come is shown the end, whatever its number.
            (Some(broadcasts), Some(id)) if !self.follower.is_ahead() => {
                broadcasts.join(id, self.follower.next_id(), stream)
            }
            _ => Err(stream),
        }
    }
}

/// One who watches.
struct Watcher {
    stream: Box<OpenStream>,
    /// The entry that it needs next.
    next: u64,
}

/// Those who have come to a deployment since its thread last looked.
struct Arrivals {
    /// What the thread gathers next; whoever needs an earlier entry is too late to join.
    next: u64,
    watchers: Vec<Watcher>,
}

/// The deployments that are watched.
pub(super) struct Broadcasts {
    deployer: Arc<Deployer>,
    running: Mutex<HashMap<DeploymentId, Arrivals>>,
    /// How many watchers were left to a thread of their own.
    behind: AtomicU64,
}

impl Broadcasts {
    pub(super) fn new(deployer: &Arc<Deployer>) -> Broadcasts {
        Broadcasts {
            deployer: Arc::clone(deployer),
            running: Mutex::default(),
            behind: AtomicU64::new(0),
        }
    }

    /// Takes a stream over that has all entries before `next`. Gives it back if there are more by now, or no thread.
    fn join(
        self: &Arc<Self>,
        id: DeploymentId,
        next: u64,
        stream: Box<OpenStream>,
    ) -> Result<(), Box<OpenStream>> {
        let mut running = self.lock();
        if let Some(arrivals) = running.get_mut(&id) {
            if next < arrivals.next {
                return Err(stream);
            }
            arrivals.watchers.push(Watcher { stream, next });
            return Ok(());
        }
        let watchers = vec![Watcher { stream, next }];
        running.insert(id, Arrivals { next, watchers });
        drop(running);
        let broadcasts = Arc::clone(self);
        let work = move || Broadcast::run(broadcasts, id, next);
        let Err(error) = threads::spawn(format!("watch-{id}"), STACK_BYTES, work) else {
            return Ok(());
        };
        log::error(&format!("making a thread for who watches: {error}"));
        // The first is given back; who has joined it meanwhile is cut off, and may come again.
        let left = self.lock().remove(&id);
        let mut left = left.into_iter().flat_map(|one| one.watchers);
        left.next().map_or(Ok(()), |first| Err(first.stream))
    }

    fn follow(&self, id: DeploymentId, next: u64) -> Result<Follower, Error> {
        let followed = self.deployer.follow(id, next.saturating_sub(1));
        followed.map_err(|refusal| Error::new("watching a deployment", refusal.message))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<DeploymentId, Arrivals>> {
        // A map is whole after each of its changes.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is sent at once.
#[derive(Default)]
struct Burst {
    records: Vec<u8>,
    /// Where each entry begins, by its number.
    begins: Vec<(u64, usize)>,
}

impl Burst {
    fn clear(&mut self) {
        self.records.clear();
        self.records.shrink_to(KEPT_BUFFER);
        self.begins.clear();
        self.begins.shrink_to(KEPT_BUFFER / 64);
    }

    /// What of it somebody gets who needs this entry next.
    fn from(&self, next: u64) -> &[u8] {
        let begin = self.begins.partition_point(|(id, _)| *id < next);
        // Before its first entry may be what has no number.
        let at = match begin {
            0 => 0,
            at => self.begins.get(at).map_or(self.records.len(), |one| one.1),
        };
        &self.records[at..]
    }
}

/// The thread of one deployment that is watched.
struct Broadcast {
    broadcasts: Arc<Broadcasts>,
    id: DeploymentId,
    source: DeploymentEvents,
    watchers: Vec<Watcher>,
}

impl Broadcast {
    fn run(broadcasts: Arc<Broadcasts>, id: DeploymentId, next: u64) {
        let source = match broadcasts.follow(id, next) {
            Ok(follower) => DeploymentEvents::alone(follower),
            Err(error) => {
                log::error(&error.to_string());
                broadcasts.lock().remove(&id);
                return;
            }
        };
        let mut broadcast = Broadcast {
            broadcasts,
            id,
            source,
            watchers: Vec::new(),
        };
        let mut burst = Burst::default();
        while broadcast.turn(&mut burst) {}
    }

    /// Gathers what comes and sends it to all; false when that was the end, or nobody is left.
    fn turn(&mut self, burst: &mut Burst) -> bool {
        burst.clear();
        let gathered = self.gather(burst);
        let ended = *gathered.as_ref().unwrap_or(&true);
        let goes_on = self.welcome(ended);
        if let Err(error) = gathered {
            // Cut off, so that nobody takes it for the end.
            log::error(&error.to_string());
            let cut = self.watchers.drain(..);
            cut.for_each(|watcher| watcher.stream.cut_off());
            self.broadcasts.lock().remove(&self.id);
            return false;
        }
        self.send(burst, ended);
        goes_on
    }

    /// Waits for the first record, and takes those that are there behind it. Says whether that was the end.
    fn gather(&mut self, burst: &mut Burst) -> Result<bool, Error> {
        let mut wait = PULSE;
        while burst.records.len() < BURST_BYTES {
            let (id, at) = (self.source.follower.next_id(), burst.records.len());
            match self.source.next(&mut burst.records, wait)? {
                Batch::Records => wait = Duration::ZERO,
                Batch::Nothing => break,
                Batch::End => return Ok(true),
            }
            if self.source.follower.next_id() > id {
                burst.begins.push((id, at));
            }
        }
        Ok(false)
    }

    /// Takes those who came meanwhile, and says from where on others may. False when there will be no other turn.
    fn welcome(&mut self, ended: bool) -> bool {
        let mut running = self.broadcasts.lock();
        let Some(arrivals) = running.get_mut(&self.id) else {
            return false;
        };
        arrivals.next = self.source.follower.next_id();
        self.watchers.append(&mut arrivals.watchers);
        let goes_on = !ended && !self.watchers.is_empty();
        if !goes_on {
            running.remove(&self.id);
        }
        goes_on
    }

    /// Offers to each what it has not had yet, and waits for nobody.
    fn send(&mut self, burst: &Burst, ended: bool) {
        let next = self.source.follower.next_id();
        let first = burst.begins.first().map_or(next, |one| one.0);
        let whole = Frame::new(&burst.records, ended);
        let silent = burst.records.is_empty() && !ended;
        let heartbeat = Frame::new(sse::HEARTBEAT, false);
        let mut looked = None;
        let all = std::mem::take(&mut self.watchers);
        self.watchers.reserve(all.len());
        for mut watcher in all {
            let needs = watcher.next;
            watcher.next = needs.max(next);
            let mut part = None;
            let frame = match needs <= first {
                _ if silent => &heartbeat,
                true => &whole,
                false => &*part.insert(Frame::new(burst.from(needs), ended)),
            };
            let OpenStream { events, access, .. } = &mut *watcher.stream;
            let offered = match access.holds_in(&mut looked) {
                false => Err(io::Error::other("the token was revoked")),
                true if silent => events.is_due().and_then(|due| match due {
                    true => events.offer(frame),
                    false => Ok(None),
                }),
                true => events.offer(frame),
            };
            match offered {
                Err(_) => watcher.stream.cut_off(),
                Ok(Some(rest)) => self.leave(watcher, rest, ended),
                Ok(None) if ended => watcher.stream.end(),
                Ok(None) => self.watchers.push(watcher),
            }
        }
    }

    /// Leaves a watcher that does not take what comes to a thread of its own. `rest` is what it did not take.
    fn leave(&self, watcher: Watcher, rest: Vec<u8>, ended: bool) {
        let (broadcasts, id) = (Arc::clone(&self.broadcasts), self.id);
        let number = broadcasts.behind.fetch_add(1, Ordering::Relaxed);
        let work = move |(watcher, rest): (Watcher, Vec<u8>)| {
            let Watcher { mut stream, next } = watcher;
            if stream.events.send_rest(&rest).is_err() {
                return stream.cut_off();
            }
            if ended {
                return stream.end();
            }
            match broadcasts.follow(id, next) {
                Ok(follower) => {
                    LiveStream::watched(DeploymentEvents::shared(follower, &broadcasts))
                        .go_on(stream);
                }
                Err(error) => {
                    log::error(&error.to_string());
                    stream.cut_off();
                }
            }
        };
        let name = format!("behind-{number}");
        let handed = threads::hand_over(name, BEHIND_STACK_BYTES, (watcher, rest), work);
        if let Err((error, (watcher, _))) = handed {
            log::error(&format!("making a thread for who is behind: {error}"));
            watcher.stream.cut_off();
        }
    }
}

impl Drop for Broadcast {
    /// After a panic nobody may join what writes no longer.
    fn drop(&mut self) {
        if thread::panicking() {
            self.broadcasts.lock().remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_gets_of_a_burst_what_they_had_before() {
        // A line of an upload, then entries 4 and 5, and an upload again behind them.
        let burst = Burst {
            records: b"u45v".to_vec(),
            begins: vec![(4, 1), (5, 2)],
        };
        let table: [(u64, &[u8]); 5] = [(1, b"u45v"), (4, b"u45v"), (5, b"5v"), (6, b""), (9, b"")];
        for (next, expected) in table {
            assert_eq!(burst.from(next), expected, "{next}");
        }
        let uploads = Burst {
            records: b"uv".to_vec(),
            begins: Vec::new(),
        };
        assert_eq!(uploads.from(4), b"uv");
    }
}
