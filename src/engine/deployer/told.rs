//! What is left to be written of the end of a deployment once it was told: nobody waits for that.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::api::name::DeploymentId;
use crate::engine::deployer::running::DeploymentsState;
use crate::engine::deployer::{Deployer, STACK_BYTES};
use crate::engine::ending::Ending;
use crate::system::{log, threads};

/// How often an end that the disk did not take is tried to be written again.
const WRITE_AGAIN_EVERY: Duration = Duration::from_secs(1);

impl Deployer {
    /// Writes what is left of an end, at once if the disk takes it.
    pub(super) fn write_rest(self: &Arc<Self>, id: DeploymentId, mut ending: Ending) {
        match ending.write() {
            Ok(()) => self.known.forget_feed(id),
            Err(error) => {
                log::warn(&format!(
                    "writing the rest of deployment {id}: {error}; it is tried again"
                ));
                self.write_later(id, ending);
            }
        }
    }

    /// Writes an end that the disk did not take once it does, until the server stops; then the next start does it.
    fn write_later(self: &Arc<Self>, id: DeploymentId, mut ending: Ending) {
        let deployer = Arc::clone(self);
        let write = move || {
            let is_stopping = |state: &DeploymentsState| state.stopping;
            while !deployer
                .running
                .wait(Instant::now() + WRITE_AGAIN_EVERY, is_stopping)
            {
                if ending.write().is_ok() {
                    deployer.known.forget_feed(id);
                    log::info(&format!("the end of deployment {id} is on disk now"));
                    return;
                }
            }
        };
        if let Err(error) = threads::spawn(format!("ending-{id}"), STACK_BYTES, write) {
            log::error(&format!(
                "making a thread that ends deployment {id}: {error}"
            ));
        }
    }
}
