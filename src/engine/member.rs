//! A host of a fleet: it joins, says that it is there, makes of each component what is wanted of it when its turn has come,
//! and tells how that went.
//!
//! It compares what is wanted with what was done here, whenever something changes, after each interruption, and every five
//! minutes in any case: news only wake it. What runs here never depends on etcd. Without it nothing new begins, what has begun
//! goes on, and what came of it is told later.
//!
//! | file | what for |
//! | --- | --- |
//! | `memory` | what it remembers on disk |
//! | `decide` | what to do about a component |
//! | `session` | the time from one list to the next interruption |
//! | `join` | its place in the fleet, and the lease of that |
//! | `work` | a component that is being changed |
//! | `holdings` | which payloads it says that it has |
//! | `local` | the same with a real deployer |
//!
//! # How many hosts
//! `make fleet N=1000` measures it, all hosts in one process. With a release build and etcd 3.4, its data in memory, on two cores
//! on which other work ran as well, a thousand hosts had joined after 11 s. All were live 11 s after a publication for all of them,
//! of which 10 s are the spread of a hundred hosts a second; 16 to 18 s after one in four waves; and 300 that came back at once
//! after 14.5 s. To etcd a host is 13 requests when it joins, 8 or 9 a deployment (5 or 6 of them writes), 5 to 9 ms of CPU for
//! that, and 0.3 to 0.48 MB of memory for its two watches and its other connections. The host itself is 1.0 to 1.4 MB, and 40 ms of
//! CPU for joining and three deployments. In the busiest second etcd answered 1,900 requests, and 500 to 700 on average. From that,
//! by arithmetic:
//!
//! | hosts | etcd's memory | renewals a second | silence, requests a second | a rollout |
//! | --- | --- | --- | --- | --- |
//! | 1,000 | 0.48 GB | 50 | 130 | 8,000 requests, 11 s |
//! | 10,000 | 4.8 GB | 500 | 1,300 | 80,000 requests, 30 s at 2,700 a second |
//! | 100,000 | 48 GB | 5,000 | 13,000 | 800,000 requests |
//!
//! A thousand hosts do with one etcd. Silence means that both watches of a host, of which nothing comes for a minute, are begun
//! anew: eight requests, since lists come before them; etcd with `--experimental-watch-progress-notify-interval=30s` is never
//! silent, and ten thousand hosts need that. They need several nodes, over which they spread by their names, and waves of a
//! tenth or less, since writes all go to one node: those of ten thousand hosts within 30 s are 1,800 a second, about all that
//! it takes. A hundred thousand need relays, which are not built: one host in 300 that watches for the others, passes on what
//! is wanted, and tells their states as one count. To etcd these would be 334 hosts, a third of what was measured.

mod decide;
mod holdings;
mod join;
mod local;
mod memory;
mod session;
#[cfg(test)]
mod tests;
mod work;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};

use crate::api::error::{Code, Error, Refusal};
use crate::api::fleet::{Desired, FleetKeys, HostName, HostState};
use crate::api::name::{DeploymentId, Project};
use crate::client::kv::KvStore;
use crate::engine::holders::PayloadHolders;
pub use crate::engine::member::holdings::FleetHoldings;
pub use crate::engine::member::local::FleetLocal;
pub use crate::engine::member::memory::FleetMemory;
use crate::engine::member::session::MemberSession;
use crate::engine::member::work::WorkNews;
use crate::engine::rollout::publish::SETTLE_MAX;
use crate::system::jitter;
use crate::system::log;
use crate::system::stop::Stop;

/// Trouble is tried again after this time; it doubles.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// How often a host does what it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FleetTimes {
    /// How long its lease lasts without it.
    pub lease: Duration,
    /// How often it renews the lease.
    pub renew: Duration,
    /// How often it lists what is wanted, whatever it hears.
    pub list: Duration,
    /// After what time it tries again what failed for a reason that passes.
    pub retries: [Duration; 5],
    /// A watch that is silent for so long is begun anew.
    pub silence: Duration,
    /// The longest wait before it goes when its turn has come.
    pub spread: Duration,
    /// How long it is looked whether something was published.
    pub settle: Duration,
}

impl Default for FleetTimes {
    fn default() -> FleetTimes {
        let minutes = |n: u64| Duration::from_secs(60 * n);
        FleetTimes {
            lease: minutes(1),
            renew: Duration::from_secs(20),
            list: minutes(5),
            retries: [1, 5, 25, 25, 25].map(minutes),
            silence: minutes(1),
            spread: Duration::from_secs(30),
            settle: SETTLE_MAX,
        }
    }
}

impl FleetTimes {
    /// The times of a server: a debug build takes a test's word for going quicker.
    pub fn of_server() -> FleetTimes {
        let mut times = FleetTimes::default();
        let quicker = std::env::var("GANGPLANK_TEST_FLEET_QUICKER").ok();
        if let Some(by) = quicker
            .filter(|_| cfg!(debug_assertions))
            .and_then(|by| by.parse::<u32>().ok())
        {
            for time in [
                &mut times.renew,
                &mut times.list,
                &mut times.silence,
                &mut times.spread,
                &mut times.settle,
            ] {
                *time /= by;
            }
            times.retries = times.retries.map(|time| time / by);
            // etcd grants no lease that is shorter than its election.
            times.lease = (times.lease / by).max(Duration::from_secs(2));
        }
        times
    }
}

/// Whether what is wanted of a component is believed; why not, if it is not.
pub type TrustCheck = Arc<dyn Fn(&Project, &[u8]) -> Result<(), String> + Send + Sync>;

/// Which host this is, of which fleet.
#[derive(Clone)]
pub struct MemberSeat {
    pub(crate) store: Arc<dyn KvStore>,
    pub(crate) keys: FleetKeys,
    pub(crate) host: HostName,
    /// Where the others reach this host.
    pub(crate) url: String,
    pub(crate) labels: BTreeMap<String, String>,
    /// The id of its root, which a second host of the same name does not have.
    pub(crate) root: String,
    /// Whether it takes the name of a host that is not there.
    pub(crate) takes_over: bool,
    /// Whose word it takes; anybody's if it is not said.
    pub(crate) trust: Option<TrustCheck>,
    pub(crate) times: FleetTimes,
}

/// What the host's own side can do: a server with its root, or what a simulation has in memory.
pub trait LocalHost: Send + Sync {
    /// What it remembers.
    ///
    /// # Errors
    /// When that cannot be read.
    fn load(&self) -> Result<FleetMemory, Error>;

    /// Remembers.
    ///
    /// # Errors
    /// When that is not on disk.
    fn save(&self, memory: &FleetMemory) -> Result<(), Error>;

    /// The release that is live.
    fn live(&self, project: &Project) -> Option<DeploymentId>;

    /// Whether a payload is stored here.
    fn has_payload(&self, sha256: &str) -> bool;

    /// Makes it so, or goes on making it so. `tell` hears of what it is doing.
    ///
    /// # Errors
    /// Why it is not so; what was live before is live then.
    fn make(
        &self,
        order: &FleetOrder,
        tell: &mut dyn FnMut(HostState),
        stop: &Stop,
    ) -> Result<(), FleetFailure>;
}

/// What is to be made so.
pub struct FleetOrder {
    pub(crate) project: Project,
    pub(crate) desired: Desired,
    /// The how manieth try it is.
    pub(crate) attempt: u64,
    /// Whether it is live here already, as after a rollback of what never came so far.
    pub(crate) is_here: bool,
    /// Asks who has the payload.
    pub(crate) holders: Box<dyn Fn() -> PayloadHolders + Send>,
    /// Hears that the payload is here.
    pub(crate) has_payload: Box<dyn Fn() + Send>,
}

/// Why something was not made so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetFailure {
    pub(crate) refusal_code: String,
    pub(crate) message: String,
    pub(crate) phase: Option<String>,
    /// Whether it was live for a moment, and what was live before is live again.
    pub(crate) rolled_back: bool,
}

impl From<Refusal> for FleetFailure {
    fn from(refusal: Refusal) -> FleetFailure {
        let code = match refusal.code {
            // Nobody has it any longer.
            Code::NotFound => "payload_gone",
            code => code.word(),
        };
        FleetFailure {
            refusal_code: code.to_owned(),
            message: refusal.message,
            phase: None,
            rolled_back: false,
        }
    }
}

/// Pins components of a host, from elsewhere.
#[derive(Clone)]
pub struct FleetPins(Sender<WorkNews>);

impl FleetPins {
    /// Lets the fleet leave a component of this host alone, or no longer.
    pub fn set(&self, project: &Project, is_pinned: bool) {
        // The host listens as long as the server runs.
        let _ = self.0.send(WorkNews::Pin(project.clone(), is_pinned));
    }
}

/// A host of a fleet.
pub struct FleetMember {
    seat: MemberSeat,
    local: Arc<dyn LocalHost>,
    /// This run of the server.
    boot: String,
    memory: FleetMemory,
    works: BTreeMap<Project, work::ComponentWork>,
    holdings: FleetHoldings,
    news: (Sender<WorkNews>, Receiver<WorkNews>),
}

impl FleetMember {
    /// A host; nothing is asked yet.
    ///
    /// # Errors
    /// When what it remembers cannot be read.
    pub fn new(seat: MemberSeat, local: Arc<dyn LocalHost>) -> Result<FleetMember, Error> {
        let memory = local.load()?;
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| Error::new("making an id", error))?;
        Ok(FleetMember {
            boot: crate::system::hex::encode(random),
            // Each piece of work tells three or four things, and is one of a component.
            news: crossbeam_channel::bounded(64),
            works: BTreeMap::new(),
            holdings: FleetHoldings::new(seat.clone()),
            memory,
            seat,
            local,
        })
    }

    /// The way to pin components of this host.
    pub fn pins(&self) -> FleetPins {
        FleetPins(self.news.0.clone())
    }

    /// What hears of payloads that are to be removed.
    pub fn holdings(&self) -> FleetHoldings {
        self.holdings.clone()
    }

    /// Belongs to the fleet until the stop.
    pub fn run(mut self, stop: &Stop) {
        let mut pause = PAUSE;
        let mut said = String::new();
        while !stop.stopped() {
            let mut session = MemberSession::new(&mut self, stop);
            let ended = session.run();
            let was_well = session.was_well();
            if was_well {
                pause = PAUSE;
                said.clear();
            }
            let Err(error) = ended else {
                continue;
            };
            // Once for each reason: it may last for hours.
            if said != error.message {
                log::warn(&format!("fleet: {error}; what runs here goes on"));
                said.clone_from(&error.message);
            }
            if !self.wait(jitter::up_to(pause), stop) {
                return;
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Waits without the store; what ends meanwhile is remembered.
    fn wait(&mut self, time: Duration, stop: &Stop) -> bool {
        let over = crossbeam_channel::after(time);
        loop {
            crossbeam_channel::select_biased! {
                recv(stop.channel()) -> _ => return false,
                recv(self.news.1) -> news => if let Ok(news) = news {
                    self.take(news);
                },
                recv(over) -> _ => return true,
            }
        }
    }
}
