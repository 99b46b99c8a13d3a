//! What kind of server answers, and what an operation becomes there.

use crate::api::error::Exit;
use crate::api::operation::{List, Operation, OperationCall, OperationName};
use crate::cli::session::follow::FollowedRequest;
use crate::cli::session::{CommandError, Session};
use crate::client::harper;
use crate::client::harper::find::Sought;
use crate::client::kind::ServerKind;
use crate::client::{Client, DeploymentRef, InFlight, NoResult};
use crate::system::time::now_ms;

/// A server tells its time in whole seconds.
const CLOCK_STEP: u64 = 1000;

/// Asks what kind of server answers, while something else is done. None where that is known, or no thread can be started.
pub(crate) fn ask_early(client: &Client) -> Option<InFlight> {
    let call = OperationCall::from(Operation::RegistrationInfo);
    let asks = client.kind().is_none();
    asks.then(|| client.call_briefly(&call).ok()).flatten()
}

impl<'a> Session<'a> {
    /// As the session was begun, with the question asked already.
    pub(crate) fn having_asked(mut self, asked: Option<InFlight>) -> Session<'a> {
        self.asked = asked;
        self
    }

    /// What answers at the target; it is asked once. The socket that every root has is not asked at all.
    ///
    /// # Errors
    /// When nothing answers, or nobody is let in, or it is not an answer.
    pub(crate) fn server(&mut self) -> Result<&'a ServerKind, CommandError> {
        let kind = self.server_for_upload()?;
        match &self.foreign {
            Some(failed) => Err(failed.clone().into()),
            None => Ok(kind),
        }
    }

    /// As [`Session::server`], but whoever answers without being understood is taken for a Harper server, as Harper's own
    /// CLI does: the upload will show what it is.
    fn server_for_upload(&mut self) -> Result<&'a ServerKind, CommandError> {
        if self.client.kind().is_none() {
            let call = OperationCall::from(Operation::RegistrationInfo);
            let result = self.follow(FollowedRequest::Probe(&call));
            // Without a time of its own, ours: a record from before is never taken for that of this deployment.
            self.begun = self.date.or_else(|| Some(now_ms()));
            self.client.know(match result {
                Ok(answer) => ServerKind::of(Some(&answer)),
                Err(error) if self.is_useless(&error) => return Err(error),
                Err(error) => {
                    let foreign = error.failed.exit == Exit::Unreachable;
                    self.foreign = foreign.then_some(error.failed);
                    ServerKind::of(None)
                }
            });
        }
        // It has just been set, if it was not.
        Ok(self.client.kind().unwrap_or(&ServerKind::Gangplank))
    }

    /// Whether who answered, if anybody did, will not do anything else either.
    fn is_useless(&self, error: &CommandError) -> bool {
        match self.status {
            None | Some(401 | 429) => true,
            // Some roles may deploy and not ask for the version.
            Some(403) => false,
            Some(status) => {
                matches!(error.failed.exit, Exit::Busy | Exit::Interrupted)
                    || (status >= 500 && error.failed.exit == Exit::Unreachable)
            }
        }
    }

    /// The operation as the server takes it; what its user should know of that is said.
    ///
    /// # Errors
    /// When the server cannot do it. Nothing has been sent then.
    pub(crate) fn fit(&mut self, call: &OperationCall) -> Result<OperationCall, CommandError> {
        if !harper::differs(call) {
            return Ok(call.clone());
        }
        let kind = match call.name() {
            Some(OperationName::DeployComponent) => self.server_for_upload()?,
            _ => self.server()?,
        };
        let fitted = harper::fit(kind, call)?;
        for warning in &fitted.warnings {
            self.screen.warning(warning);
        }
        for remark in &fitted.remarks {
            self.screen.remark(remark);
        }
        Ok(fitted.call)
    }

    /// Whether what it deploys can be watched there.
    ///
    /// # Errors
    /// When it keeps no deployments.
    pub(crate) fn may_watch(&mut self) -> Result<(), CommandError> {
        let kind = self.server()?;
        harper::fit(kind, &Operation::ListDeployments(List::default()).into())?;
        Ok(())
    }

    /// Whether a deployment that has not begun yet can be waited for there.
    ///
    /// # Errors
    /// When it cannot.
    pub(crate) fn may_wait_for_next(&mut self) -> Result<(), CommandError> {
        match self.server()? {
            ServerKind::Gangplank => Ok(()),
            kind => {
                let message =
                    format!("{kind} cannot do that: it does not tell when a deployment begins");
                Err(NoResult::new(Exit::Refused, message).into())
            }
        }
    }

    /// By what a Harper server's record of the deployment is found that a request begins or watches.
    pub(super) fn sought(&self, request: &FollowedRequest) -> Option<Sought> {
        if !matches!(self.client.kind(), Some(ServerKind::Harper(_))) {
            return None;
        }
        let call = match request {
            FollowedRequest::Watch(which) => {
                let project = match which {
                    DeploymentRef::Latest(project) => Some(project.to_string()),
                    DeploymentRef::Deployment(_) | DeploymentRef::Next(..) => None,
                };
                return Some(Sought {
                    project,
                    newest: true,
                    ..Sought::default()
                });
            }
            FollowedRequest::Operation(call)
            | FollowedRequest::Keyed { call, .. }
            | FollowedRequest::Upload { call, .. } => call,
            FollowedRequest::Probe(_)
            | FollowedRequest::Prepare { .. }
            | FollowedRequest::Lines { .. } => return None,
        };
        let text = |field: &str| Some(call.fields().get(field)?.as_str()?.to_owned());
        Some(Sought {
            project: text("project"),
            since: self.begun.map(|begun| begun.saturating_sub(CLOCK_STEP)),
            package: text("package"),
            user: self.client.user().map(str::to_owned),
            newest: false,
        })
    }

    /// Says that a key that was given is for nothing, where that is so.
    pub(crate) fn warn_of_key(&mut self) {
        if self.client.kind() != Some(&ServerKind::Gangplank) {
            self.screen
                .warning("--idempotency-key has no effect: Harper does not know it");
        }
    }

    /// Says what a failed deployment leaves, where that is not what was live before.
    pub(crate) fn warn_of_live(&mut self, error: &CommandError) {
        let begun = match self.client.kind() {
            Some(ServerKind::Harper(_)) => error.failed.deployment_id.is_some(),
            Some(ServerKind::Legacy(_)) => self.status == Some(500),
            _ => false,
        };
        if begun && error.failed.exit == Exit::Refused {
            self.screen.warning(
                "Harper puts the new files in place before it installs them: what is there may be the release that failed",
            );
        }
    }

    /// A failure, with the server's name where it does not know what was asked.
    pub(crate) fn named(&mut self, mut error: CommandError) -> CommandError {
        let failed = &error.failed;
        // Ours has a code as well.
        let unknown = failed.exit == Exit::Refused
            && failed.code.is_none()
            && failed.message.starts_with("Operation '")
            && failed.message.ends_with("' not found");
        if !unknown {
            return error;
        }
        if let Ok(kind) = self.server() {
            error.failed.message = format!("{kind} cannot do that: {}", error.failed.message);
        }
        error
    }
}
