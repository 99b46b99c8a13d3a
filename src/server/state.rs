//! What all requests share.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crate::engine::deployer::Deployer;
use crate::engine::env::EnvFiles;
use crate::engine::member::FleetPins;
use crate::engine::processes::Processes;
use crate::engine::registry::Registry;
use crate::engine::rollout::publish::FleetPublisher;
use crate::formats::archive::accepts;
use crate::server::auth::Authenticator;
use crate::server::broadcast::Broadcasts;
use crate::server::counters::AnswerCounters;
use crate::server::gate::Occupancy;
use crate::server::uploads::PayloadUploads;
use crate::system::child::ServerMark;

/// Asks the gate who is connected.
pub(super) type AskOccupancy = Box<dyn Fn() -> Occupancy + Send + Sync>;

/// What all requests share.
pub(crate) struct ServerState {
    pub(super) known: Registry,
    pub(super) deployer: Arc<Deployer>,
    pub(super) processes: Arc<Processes>,
    pub(super) env: EnvFiles,
    pub(super) max_payload: Option<u64>,
    pub(super) max_json_body: u64,
    /// The TCP listeners speak TLS.
    pub(super) tls: bool,
    pub(super) started: Instant,
    pub(super) requests: AtomicU64,
    pub(super) answers: Arc<AnswerCounters>,
    /// Who is connected, from when the gate is open.
    pub(super) occupancy: OnceLock<AskOccupancy>,
    pub(super) uploads: Arc<PayloadUploads>,
    pub(super) auth: Authenticator,
    /// Those who watch deployments.
    pub(super) broadcasts: Arc<Broadcasts>,
    /// Where it listens, from when it does.
    pub(super) addresses: OnceLock<Vec<String>>,
    /// The fleet that this server belongs to, if it belongs to one.
    pub(super) fleet: OnceLock<Arc<FleetPublisher>>,
    /// Keeps the fleet's hands off a component of this host, or lets it go on.
    pub(super) pins: OnceLock<FleetPins>,
}

impl ServerState {
    /// Tells once where it listens.
    pub(super) fn listens_on(&self, addresses: impl Iterator<Item = String>) {
        let _ = self.addresses.set(addresses.collect());
    }

    pub(super) fn deployer(&self) -> &Deployer {
        &self.deployer
    }

    /// What it takes as a payload, for whoever sends one. What its peers and the hosts of its fleet get of that they need not be
    /// able to read if they are older.
    pub(super) fn accepts(&self) -> &'static [&'static str] {
        let passes_on = !self.deployer.peers().is_empty() || self.fleet.get().is_some();
        accepts(passes_on)
    }

    pub(super) fn server_mark(&self) -> &ServerMark {
        self.known.store.server_mark()
    }
}
