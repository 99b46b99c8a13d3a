//! What all requests share.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use crate::engine::deployer::Deployer;
use crate::engine::processes::Processes;
use crate::engine::registry::Registry;
use crate::server::auth::Authenticator;

/// What all requests share.
pub(crate) struct ServerState {
    pub(super) known: Registry,
    pub(super) deployer: Arc<Deployer>,
    pub(super) processes: Arc<Processes>,
    pub(super) max_payload: Option<u64>,
    pub(super) max_json_body: u64,
    pub(super) started: Instant,
    pub(super) requests: AtomicU64,
    pub(super) auth: Authenticator,
}

impl ServerState {
    pub(super) fn new(
        known: Registry,
        deployer: Arc<Deployer>,
        auth: Authenticator,
        processes: Arc<Processes>,
        max_payload: Option<u64>,
        max_json_body: u64,
    ) -> ServerState {
        let (started, requests) = (Instant::now(), AtomicU64::new(0));
        ServerState {
            known,
            deployer,
            max_payload,
            max_json_body,
            started,
            requests,
            processes,
            auth,
        }
    }

    pub(super) fn deployer(&self) -> &Deployer {
        &self.deployer
    }

    pub(super) fn root(&self) -> &Path {
        self.known.store.root()
    }
}
