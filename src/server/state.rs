//! What all requests share.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use crate::engine::attempt::Registry;
use crate::engine::deployer::Deployer;
use crate::engine::processes::Processes;
use crate::formats::archive::Limits;
use crate::server::auth::Authenticator;
use crate::system::account::Account;

/// What all requests share.
pub(crate) struct ServerState {
    pub(super) known: Registry,
    pub(super) workers: Arc<Deployer>,
    pub(super) limits: Limits,
    pub(super) processes: Arc<Processes>,
    /// Who components run as, if not as the server's own user.
    pub(super) account: Option<Arc<Account>>,
    pub(super) max_json_body: u64,
    pub(super) started: Instant,
    pub(super) requests: AtomicU64,
    pub(super) auth: Authenticator,
}

impl ServerState {
    pub(super) fn new(
        known: Registry,
        workers: Arc<Deployer>,
        auth: Authenticator,
        processes: Arc<Processes>,
        limits: Limits,
        account: Option<Arc<Account>>,
        max_json_body: u64,
    ) -> ServerState {
        let (started, requests) = (Instant::now(), AtomicU64::new(0));
        ServerState {
            known,
            workers,
            limits,
            account,
            max_json_body,
            started,
            requests,
            processes,
            auth,
        }
    }

    pub(super) fn workers(&self) -> &Deployer {
        &self.workers
    }

    pub(super) fn root(&self) -> &Path {
        self.known.store.root()
    }
}
