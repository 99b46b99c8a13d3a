//! Waiting for the end of another deployment of the component.

use std::time::Duration;

use crate::api::error::Exit;
use crate::api::name::DeploymentId;
use crate::cli::session::Session;
use crate::cli::session::follow::{FollowedRequest, Shown};
use crate::client::{DeploymentRef, answer};

/// Between two tries where there is nothing to wait for.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// For whom it was waited, and how long it is waited where there is nothing to follow.
#[derive(Default)]
pub(super) struct BusyWait {
    last: Option<DeploymentId>,
    pause: Duration,
}

impl BusyWait {
    /// Waits until the other deployment has ended; false if a signal came.
    pub(super) fn for_other(&mut self, session: &mut Session, id: Option<String>) -> bool {
        let id: Option<DeploymentId> = id.and_then(|id| id.parse().ok());
        let again = id.is_none() || id == self.last;
        // One that has ended and still keeps the component, or cannot be followed, is not asked for without a pause.
        self.pause = match again {
            true => (self.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX),
            false => Duration::ZERO,
        };
        self.last = id;
        let Some(id) = id else {
            session
                .screen
                .remark("waiting for another deployment of this component");
            return session.pause(self.pause);
        };
        if again {
            if !session.pause(self.pause) {
                return false;
            }
        } else {
            session
                .screen
                .remark(&format!("waiting for deployment {id} to end"));
        }
        let watched = FollowedRequest::Watch(DeploymentRef::Deployment(id));
        let ended = session.follow_with(watched, &mut |screen, shown| {
            let Shown::Record(record) = shown else {
                return true;
            };
            if record.event == "error" {
                let failed = answer::failed(&record.data, 200);
                screen.remark(&format!("that deployment failed: {}", failed.message));
            } else {
                screen.record(record.id.as_deref(), &record.event, &record.data);
            }
            true
        });
        // Its failure is not ours.
        !ended.is_err_and(|trouble| trouble.failed.exit == Exit::Interrupted)
    }
}
