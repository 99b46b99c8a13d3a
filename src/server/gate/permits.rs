//! Who is connected: a limited number, each by a [`Ticket`] that is given back when its connection ends.
//!
//! When all are taken, somebody gives way to the new connection: first the oldest that has its answer and only goes on
//! sending, then the oldest that has no complete head yet. So a flood of clients that are silent, or that were refused,
//! displaces itself, and a client that asks for something is served. Those who only watch hold at most half. A few permits are
//! for the unix sockets alone: an operator on the machine gets in, whatever the network does.

use std::collections::BTreeMap;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::api::error::Error;
use crate::server::gate::ClientAddress;
use crate::server::gate::socket::Socket;
use crate::system::stop::{self, Stop, Stopper};

/// However few descriptors there are: one who deploys, one who watches, and two who ask.
const CONNECTIONS_MIN: usize = 4;
/// Descriptors that are not for connections: listeners, deployments, their children and their files.
const DESCRIPTORS_KEPT: u64 = 64;
/// Descriptors of a connection: the client's, and at most four more. While it is handed over they are ours to the server
/// behind and its two of that; after that they are the journal, the payload, and what is being unpacked.
const DESCRIPTORS_EACH: u64 = 5;
/// Permits beyond the others, for unix sockets: one who looks, one who stops something, and two to spare. Their descriptors
/// are among those that are kept.
const LOCAL_MORE: usize = 4;
/// For the thread of a connection that gives way to end. It has only to wake up.
const GIVE_WAY: Duration = Duration::from_secs(1);

/// How many of the wished connections the descriptors allow, when others have some of them.
pub(crate) fn affordable(wished: usize, descriptors: Option<u64>, others: usize) -> usize {
    // Without a limit all of them.
    let Some(descriptors) = descriptors else {
        return wished.max(CONNECTIONS_MIN);
    };
    let kept = DESCRIPTORS_KEPT.saturating_add(others as u64);
    let room = descriptors.saturating_sub(kept) / DESCRIPTORS_EACH;
    wished
        .min(usize::try_from(room).unwrap_or(usize::MAX))
        .max(CONNECTIONS_MIN)
}

/// Returns how many descriptors others have at the moment.
pub type OtherDescriptors = dyn Fn() -> usize + Send + Sync;

/// Who is connected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Occupancy {
    /// All that are connected.
    pub connections: usize,
    /// Those that only watch.
    pub watchers: usize,
    /// How many there may be.
    pub limit: usize,
}

/// All permits, and who holds them.
pub(crate) struct Permits {
    state: Mutex<PermitsState>,
    freed: Condvar,
    wished: usize,
    descriptors: Option<u64>,
    others: Box<OtherDescriptors>,
}

struct PermitsState {
    /// In the order of their numbers, which is the order in which they came.
    open: BTreeMap<u64, Holder>,
    last: u64,
    watchers: usize,
    /// Wakes up the readers of bodies, to look whether they are cut off. Each is for one time.
    wake: (Stopper, Stop),
}

struct Holder {
    socket: Arc<Socket>,
    cut: Arc<AtomicBool>,
    stage: ConnectionStage,
    watches: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ConnectionStage {
    /// No complete head yet.
    Head,
    /// It was told to go.
    GivesWay,
    /// It has asked for something.
    Asked,
    /// It has its answer; what it still sends is read and dropped.
    Drains,
}

impl PermitsState {
    /// Takes the permit of a connection that has its answer; false if there is none. Its end need not be waited for: the
    /// thread that reads from it finds it.
    fn close_oldest_that_drains(&mut self) -> bool {
        let mut all = self.open.iter();
        let oldest = all.find(|(_, holder)| holder.stage == ConnectionStage::Drains);
        let Some(number) = oldest.map(|(number, _)| *number) else {
            return false;
        };
        if let Some(holder) = self.open.remove(&number) {
            holder.socket.shut(Shutdown::Both);
            self.watchers -= usize::from(holder.watches);
        }
        true
    }
}

impl Permits {
    /// At most `wished` permits, and fewer when the `descriptors` do not suffice for them and for `others`.
    pub(crate) fn new(
        wished: usize,
        descriptors: Option<u64>,
        others: Box<OtherDescriptors>,
    ) -> Result<Permits, Error> {
        let state = PermitsState {
            open: BTreeMap::new(),
            last: 0,
            watchers: 0,
            wake: stop::pair()?,
        };
        Ok(Permits {
            state: Mutex::new(state),
            freed: Condvar::new(),
            wished,
            descriptors,
            others,
        })
    }

    /// How many there are at the moment: components that begin to run take descriptors.
    pub(crate) fn max(&self) -> usize {
        affordable(self.wished, self.descriptors, (self.others)())
    }

    /// Who is connected now.
    pub(crate) fn occupancy(&self) -> Occupancy {
        let limit = self.max();
        let state = self.lock();
        Occupancy {
            connections: state.open.len(),
            watchers: state.watchers,
            limit,
        }
    }

    /// Lets a connection in; if it must stay out, its socket is as it was.
    pub(crate) fn admit(
        self: &Arc<Self>,
        socket: &Arc<Socket>,
        client: ClientAddress,
    ) -> Option<Ticket> {
        let max = match client {
            ClientAddress::Local => self.max().saturating_add(LOCAL_MORE),
            ClientAddress::Remote(_) => self.max(),
        };
        let deadline = Instant::now() + GIVE_WAY;
        let mut state = self.lock();
        while state.open.len() >= max {
            if state.close_oldest_that_drains() {
                continue;
            }
            let leaving = state
                .open
                .values()
                .any(|holder| holder.stage == ConnectionStage::GivesWay);
            if !leaving {
                let oldest = state
                    .open
                    .values_mut()
                    .find(|holder| holder.stage == ConnectionStage::Head)?;
                oldest.stage = ConnectionStage::GivesWay;
                // Its thread wakes up, finds the end, and goes.
                oldest.socket.shut(Shutdown::Both);
            }
            state = self.wait(state, deadline)?;
        }
        state.last += 1;
        let number = state.last;
        let cut = Arc::new(AtomicBool::new(false));
        let holder = Holder {
            socket: Arc::clone(socket),
            cut: Arc::clone(&cut),
            stage: ConnectionStage::Head,
            watches: false,
        };
        state.open.insert(number, holder);
        Some(Ticket {
            permits: Arc::clone(self),
            socket: Arc::clone(socket),
            number,
            cut,
        })
    }

    /// Cuts off the bodies of one connection or of all.
    pub(crate) fn cut(&self, number: Option<u64>) {
        let mut state = self.lock();
        let next = stop::pair();
        for (of_holder, holder) in &state.open {
            if number.is_none_or(|number| number == *of_holder)
                && holder.stage == ConnectionStage::Asked
            {
                holder.cut.store(true, Ordering::Release);
                if next.is_err() {
                    // Without a descriptor there is only the rude way to wake it up.
                    holder.socket.shut(Shutdown::Read);
                }
            }
        }
        if let Ok(next) = next {
            state.wake = next;
        }
    }

    /// Waits until all have gone, those without a request at once.
    pub(crate) fn close(&self, deadline: Instant) -> bool {
        let mut state = self.lock();
        for holder in state
            .open
            .values_mut()
            .filter(|holder| holder.stage == ConnectionStage::Head)
        {
            holder.stage = ConnectionStage::GivesWay;
            holder.socket.shut(Shutdown::Both);
        }
        while !state.open.is_empty() {
            match self.wait(state, deadline) {
                Some(next) => state = next,
                None => return false,
            }
        }
        true
    }

    /// Waits until nobody asks any longer: until `head` for those without a complete head, until `deadline` for the others
    /// but for those who watch.
    pub(crate) fn rest(&self, head: Instant, deadline: Instant) {
        let asks = |holder: &Holder| match holder.stage {
            ConnectionStage::Head => Instant::now() < head,
            ConnectionStage::Asked => !holder.watches,
            ConnectionStage::GivesWay | ConnectionStage::Drains => false,
        };
        let mut state = self.lock();
        while state.open.values().any(asks) {
            let heads = state
                .open
                .values()
                .any(|one| one.stage == ConnectionStage::Head);
            let until = if heads && Instant::now() < head {
                head.min(deadline)
            } else {
                deadline
            };
            match self.wait(state, until) {
                Some(next) => state = next,
                None if Instant::now() >= deadline => return,
                None => state = self.lock(),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, PermitsState> {
        // Every change under the lock is whole after each of its statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(
        &self,
        state: MutexGuard<'a, PermitsState>,
        deadline: Instant,
    ) -> Option<MutexGuard<'a, PermitsState>> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        let waited = self.freed.wait_timeout(state, left);
        Some(waited.map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state))
    }
}

/// The right to be connected. Dropping it gives it back.
pub(crate) struct Ticket {
    permits: Arc<Permits>,
    socket: Arc<Socket>,
    number: u64,
    cut: Arc<AtomicBool>,
}

impl Ticket {
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn socket(&self) -> &Arc<Socket> {
        &self.socket
    }

    /// Its head is complete: from here on it gives way to nobody. False if it has to go already.
    pub(crate) fn asked(&self) -> bool {
        match self.permits.lock().open.get_mut(&self.number) {
            Some(holder) if holder.stage == ConnectionStage::Head => {
                holder.stage = ConnectionStage::Asked;
                true
            }
            _ => false,
        }
    }

    /// It has its answer: from here on it gives way to a new connection.
    pub(crate) fn drains(&self) {
        if let Some(holder) = self.permits.lock().open.get_mut(&self.number) {
            holder.stage = ConnectionStage::Drains;
        }
    }

    /// It only watches from now on. False if half of all do that already.
    pub(crate) fn watches(&self) -> bool {
        let max = self.permits.max();
        let mut guard = self.permits.lock();
        let state = &mut *guard;
        let room = state.watchers < max / 2;
        match state.open.get_mut(&self.number) {
            Some(holder) if room && !holder.watches => {
                holder.watches = true;
                state.watchers += 1;
                true
            }
            _ => false,
        }
    }

    /// Ready when [`Ticket::is_cut`] is to be asked again. It must be got before that is asked.
    pub(crate) fn wake(&self) -> Stop {
        self.permits.lock().wake.1.clone()
    }

    /// Whether its body is to end here.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Acquire)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.permits.lock();
        if state
            .open
            .remove(&self.number)
            .is_some_and(|holder| holder.watches)
        {
            state.watchers -= 1;
        }
        drop(state);
        self.permits.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::Ipv4Addr;
    use std::os::unix::net::UnixStream;

    #[test]
    fn descriptors_decide() {
        let table = [
            (256, Some(1_048_576), 0, 256),
            (256, Some(1344), 0, 256),
            (256, Some(1343), 0, 255),
            (256, Some(1024), 0, 192),
            // A hundred processes.
            (256, Some(1024), 500, 92),
            (256, Some(1024), 5000, 4),
            (256, Some(48), 0, 4),
            (256, Some(0), 0, 4),
            (256, None, 5000, 256),
            (1, Some(1024), 0, 4),
            (1_000_000, None, 0, 1_000_000),
        ];
        for (wished, limit, others, expected) in table {
            let max = affordable(wished, limit, others);
            assert_eq!(max, expected, "{wished} {limit:?} {others}");
        }
    }

    fn permits(max: usize) -> Arc<Permits> {
        Arc::new(Permits::new(max, None, Box::new(|| 0)).unwrap())
    }

    struct ConnectedClient {
        other: UnixStream,
        ticket: Option<Ticket>,
    }

    fn connect(permits: &Arc<Permits>) -> ConnectedClient {
        connect_as(permits, ClientAddress::Remote(Ipv4Addr::LOCALHOST.into()))
    }

    fn connect_as(permits: &Arc<Permits>, client: ClientAddress) -> ConnectedClient {
        let (ours, other) = UnixStream::pair().unwrap();
        let ticket = permits.admit(&Arc::new(Socket::Unix(ours)), client);
        ConnectedClient { other, ticket }
    }

    fn was_shut(client: &mut ConnectedClient) -> bool {
        client.other.set_nonblocking(true).unwrap();
        matches!(client.other.read(&mut [0]), Ok(0))
    }

    #[test]
    fn the_oldest_without_a_head_gives_way() {
        let permits = permits(4);
        let mut clients: Vec<ConnectedClient> = (0..4).map(|_| connect(&permits)).collect();
        assert!(clients[0].ticket.as_ref().unwrap().asked());
        // Its thread ends when its socket does: here, another one that waits for just that.
        let second = clients[1].ticket.take();
        let socket = clients[1].other.try_clone().unwrap();
        let thread = std::thread::spawn(move || {
            let _ = (&socket).read(&mut [0]);
            drop(second);
        });
        let new = connect(&permits);
        assert!(new.ticket.is_some());
        thread.join().unwrap();
        assert!(was_shut(&mut clients[1]));
        assert!(!was_shut(&mut clients[0]) && !was_shut(&mut clients[2]));

        // Where everybody has asked, nobody gives way.
        for client in clients.iter().skip(2).chain([&new]) {
            assert!(client.ticket.as_ref().unwrap().asked());
        }
        assert!(connect(&permits).ticket.is_none());
        drop(new);
        assert!(connect(&permits).ticket.is_some());
    }

    #[test]
    fn who_has_its_answer_gives_way_first_and_at_once() {
        let permits = permits(4);
        let mut clients: Vec<ConnectedClient> = (0..4).map(|_| connect(&permits)).collect();
        for client in &clients[1..3] {
            let ticket = client.ticket.as_ref().unwrap();
            assert!(ticket.asked());
            ticket.drains();
        }
        // Nobody gives a ticket back, and yet there is room, twice.
        let new = [connect(&permits), connect(&permits)];
        assert!(new.iter().all(|client| client.ticket.is_some()));
        let shut: Vec<bool> = clients.iter_mut().map(was_shut).collect();
        assert_eq!(shut, [false, true, true, false]);
        // A ticket that comes back late frees nothing a second time.
        drop(clients.remove(1));
        let all = clients.iter().chain(&new);
        assert_eq!(
            all.filter(|client| client.ticket.as_ref().unwrap().asked())
                .count(),
            4
        );
        assert!(connect(&permits).ticket.is_none());
    }

    #[test]
    fn a_few_permits_are_for_unix_sockets_alone() {
        let permits = permits(4);
        let ask = |client: ConnectedClient| client.ticket.filter(Ticket::asked);
        let remote: Vec<Ticket> = (0..5).filter_map(|_| ask(connect(&permits))).collect();
        assert_eq!(remote.len(), 4);
        let local = |_| ask(connect_as(&permits, ClientAddress::Local));
        let local: Vec<Ticket> = (0..5).filter_map(local).collect();
        assert_eq!(local.len(), LOCAL_MORE);
    }

    #[test]
    fn who_gives_way_cannot_ask_any_more() {
        let permits = permits(4);
        let client = connect(&permits);
        assert!(!permits.close(Instant::now()));
        assert!(!client.ticket.as_ref().unwrap().asked());
        drop(client);
        assert!(permits.close(Instant::now()));
    }

    #[test]
    fn watchers_hold_half() {
        let permits = permits(5);
        let clients: Vec<ConnectedClient> = (0..4).map(|_| connect(&permits)).collect();
        let watch = |client: &ConnectedClient| client.ticket.as_ref().unwrap().watches();
        assert!(watch(&clients[0]) && watch(&clients[1]));
        assert!(!watch(&clients[2]));
        let mut clients = clients.into_iter();
        drop(clients.next());
        let rest: Vec<ConnectedClient> = clients.collect();
        assert!(watch(&rest[1]) && !watch(&rest[2]));
    }

    #[test]
    fn a_cut_wakes_up_and_tells_who_is_meant() {
        let permits = permits(4);
        let clients = [connect(&permits), connect(&permits), connect(&permits)];
        let tickets = clients
            .each_ref()
            .map(|client| client.ticket.as_ref().unwrap());
        assert!(tickets[0].asked() && tickets[1].asked());
        let cut = || tickets.map(Ticket::is_cut);
        let wake = tickets[0].wake();
        assert!(!wake.stopped());
        permits.cut(Some(tickets[1].number()));
        assert!(wake.stopped() && !tickets[0].wake().stopped());
        assert_eq!(cut(), [false, true, false]);
        // One that has asked for nothing has nothing to be cut off.
        permits.cut(None);
        assert_eq!(cut(), [true, true, false]);
    }
}
