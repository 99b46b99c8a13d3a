//! Who asks, and what they may do.

mod attempts;

use std::time::Instant;

use crate::api::error::{Code, Refusal};
use crate::api::name::{DeploymentId, Project};
use crate::api::operation::Operation;
use crate::engine::deployer::not_found;
use crate::server::auth::attempts::WrongAttempts;
use crate::server::http::{ClientAddress, Exchange};
use crate::store::Store;
use crate::store::tokens::{Credentials, Identity, Role, Tokens};

/// The tokens, and who showed wrong ones.
pub(super) struct Authenticator {
    tokens: Tokens,
    attempts: WrongAttempts,
}

impl Authenticator {
    pub(super) fn new(tokens: Tokens) -> Authenticator {
        Authenticator {
            tokens,
            attempts: WrongAttempts::default(),
        }
    }

    /// Who asks, by what they show.
    pub(super) fn caller(&self, exchange: &Exchange) -> Result<Caller, Refusal> {
        let address = match exchange.client() {
            ClientAddress::Local => return Ok(Caller(None)),
            ClientAddress::Remote(address) => address,
        };
        let Some(header) = exchange.header("Authorization") else {
            return Err(Refusal::new(Code::Unauthorized, "Must login"));
        };
        let identity = match Credentials::parse(header) {
            Some(credentials) => self.tokens.check(&credentials)?,
            None => None,
        };
        match identity {
            Some(identity) => return Ok(Caller(Some(identity))),
            None if address.is_some_and(|from| self.attempts.wrong(from, Instant::now())) => {}
            None => return Err(Refusal::new(Code::Unauthorized, "Login failed")),
        }
        Err(Refusal::new(
            Code::TooManyAttempts,
            "Login failed too often from this address; try again in a minute",
        ))
    }
}

/// Who asks: the holder of a token, or somebody on this machine, who may do everything.
pub(super) struct Caller(Option<Identity>);

impl Caller {
    /// The token's name.
    pub(super) fn name(&self) -> Option<String> {
        self.0.as_ref().map(|identity| identity.name.clone())
    }

    /// Refuses an operation that needs another role.
    pub(super) fn needs(&self, role: Role, operation: &str) -> Result<(), Refusal> {
        match &self.0 {
            Some(identity) if identity.role < role => Err(forbidden(format!(
                "{operation} needs the role '{}', and the token '{}' has '{}'",
                role.word(),
                identity.name,
                identity.role.word()
            ))),
            _ => Ok(()),
        }
    }

    /// Whether a component is none of the caller's business.
    pub(super) fn is_barred_from(&self, project: &Project) -> bool {
        self.0
            .as_ref()
            .is_some_and(|identity| !identity.covers(project))
    }

    /// Refuses an operation on all components to somebody who is limited to some.
    pub(super) fn is_unlimited(&self, operation: &str) -> Result<(), Refusal> {
        match &self.0 {
            Some(identity) if !identity.projects.is_empty() => Err(forbidden(format!(
                "{operation}: the token '{}' is limited to some components; name one",
                identity.name
            ))),
            _ => Ok(()),
        }
    }

    /// Refuses an operation on a component that is none of the caller's business.
    pub(super) fn may_touch(&self, project: &Project, operation: &str) -> Result<(), Refusal> {
        if !self.is_barred_from(project) {
            return Ok(());
        }
        let name = self.name().unwrap_or_default();
        Err(forbidden(format!(
            "{operation}: the token '{name}' is limited to other components than {project}"
        )))
    }
}

fn forbidden(message: String) -> Refusal {
    Refusal::new(Code::Forbidden, message)
}

/// The least role that may ask for an operation.
pub(super) fn role(operation: &Operation) -> Role {
    match operation {
        Operation::Deploy(_)
        | Operation::Rollback(_)
        | Operation::Drop(..)
        | Operation::Restart(..)
        | Operation::Sync(..)
        | Operation::Cancel(_)
        | Operation::DeletePayload(_) => Role::Deploy,
        // It is the component's source, secrets included if there are any.
        Operation::GetPayload(_) => Role::Admin,
        Operation::GetDeployment(_)
        | Operation::ListDeployments(_)
        | Operation::GetLogs(_)
        | Operation::GetComponents
        | Operation::RegistrationInfo
        | Operation::SystemInformation => Role::Read,
    }
}

/// Refuses to show a deployment of a component that is none of the caller's business.
pub(super) fn visible(
    store: &Store,
    id: DeploymentId,
    caller: &Caller,
    name: &str,
) -> Result<(), Refusal> {
    match store.read_summary(id)? {
        Some(one) => caller.may_touch(&one.project, name),
        None => Err(not_found(id)),
    }
}
