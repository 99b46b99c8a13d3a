//! Ending deployments before their time: by a cancel, by the end of the server, or because their client is here again.

use std::time::{Duration, Instant};

use crate::api::error::{Code, Refusal};
use crate::api::event::Status;
use crate::api::name::DeploymentId;
use crate::engine::deployer::running::DeploymentsState;
use crate::engine::deployer::{Deployer, not_found};

/// How long a deployment that is told to stop may take: a second for its children to tidy up, and the removal of its tree.
const STOP_MAX: Duration = Duration::from_secs(60);

impl Deployer {
    /// Why a deployment was told to stop, if it was.
    pub(super) fn why_stopped(&self, id: DeploymentId) -> Option<Code> {
        let state = self.running.lock();
        state.running.get(&id)?.why.get().copied()
    }

    /// Cancels a deployment, and waits until it has ended and its component is free.
    ///
    /// # Errors
    /// `not_found`, `conflict` if it has ended or is past the point where it could be stopped, and `conflict` if it ended by itself at the same time.
    pub fn cancel(&self, id: DeploymentId) -> Result<(), Refusal> {
        self.stop_one(id, Code::Cancelled)?;
        let summary = self.known.store.read_summary(id)?;
        if summary.is_some_and(|one| one.status == Status::Cancelled) {
            return Ok(());
        }
        let why = format!("cancelling deployment {id}: it ended by itself at the same time");
        Err(Refusal::new(Code::Conflict, why).about(id))
    }

    /// Stops a deployment that has not become live, for a reason, and waits until it has ended and its component is free.
    ///
    /// # Errors
    /// `not_found`, or `conflict` if it has ended or is past the point where it could be stopped.
    pub(super) fn stop_one(&self, id: DeploymentId, why: Code) -> Result<(), Refusal> {
        let conflict = |what: &str| {
            let why = format!("stopping deployment {id}: it {what}");
            Refusal::new(Code::Conflict, why).about(id)
        };
        self.await_opening(id)?;
        let state = self.running.lock();
        let Some(one) = state.running.get(&id) else {
            drop(state);
            return match self.known.store.read_summary(id)? {
                Some(_) => Err(conflict("has ended already")),
                None => Err(not_found(id)),
            };
        };
        if why == Code::UploadBroken && !one.uploads {
            return Err(conflict("has its payload already"));
        }
        if !one.stop(why) {
            return Err(conflict("is past the point where it could be stopped"));
        }
        let connection = one.connection;
        drop(state);
        if let (Some(connection), Some(cut)) = (connection, self.running.cut.get()) {
            cut(connection);
        }
        let ended = |state: &DeploymentsState| !state.running.contains_key(&id);
        if self.running.wait(Instant::now() + STOP_MAX, ended) {
            return Ok(());
        }
        let why = format!("stopping deployment {id}: it was told to stop and has not ended yet");
        Err(Refusal::new(Code::Internal, why).about(id))
    }

    /// A payload arrived whole: from here on its upload cannot break. False if the deployment was stopped before.
    pub(super) fn arrived(&self, id: DeploymentId) -> bool {
        let mut state = self.running.lock();
        let Some(one) = state.running.get_mut(&id) else {
            return true;
        };
        one.uploads = false;
        let goes_on = one.why.get().is_none();
        drop(state);
        self.running.changed.notify_all();
        goes_on
    }

    /// Begins no further deployment or command and stops those that run; a deployment that is live already goes on to its end.
    pub fn stop(&self) {
        let mut state = self.running.lock();
        state.stopping = true;
        self.stopper.stop();
        for one in state.running.values() {
            one.stop(Code::Interrupted);
        }
        for command in state.commands.values() {
            command.stop(Code::Interrupted);
        }
    }

    /// Waits until no deployment and no command runs, at most until `deadline`, and says whether that is so.
    pub fn wait_idle(&self, deadline: Instant) -> bool {
        self.running.wait(deadline, |state| {
            state.busy.is_empty() && state.commands.is_empty()
        })
    }
}

/// A deployment that was told to stop ends with the reason for that, whatever its step made of it.
pub(super) fn stopped_as(refusal: Refusal, why: Option<Code>) -> Refusal {
    match why {
        Some(Code::Interrupted) => Refusal::new(
            Code::Interrupted,
            format!("interrupted by the end of the server ({})", refusal.message),
        ),
        Some(code) => Refusal::new(code, refusal.message),
        None => refusal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopped_deployment_says_why() {
        let refusal = || Refusal::new(Code::InstallFailed, "m");
        let table = [
            (None, Code::InstallFailed),
            (Some(Code::Cancelled), Code::Cancelled),
            (Some(Code::Interrupted), Code::Interrupted),
        ];
        for (why, code) in table {
            assert_eq!(stopped_as(refusal(), why).code, code);
        }
    }
}
