//! Who asks, and what they may do.

mod attempts;
pub(super) mod browser;
mod codes;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};

use crate::api::error::{Code, Doing, Error, Refusal};
use crate::api::name::{DeploymentId, Project, Secret};
use crate::api::operation::OperationName;
use crate::engine::deployer::not_found;
use crate::server::auth::attempts::WrongAttempts;
pub(super) use crate::server::auth::codes::CODE_TIME;
use crate::server::auth::codes::PageCodes;
use crate::server::gate::ClientAddress;
use crate::server::http::Exchange;
use crate::store::Store;
use crate::store::tokens::{
    Credentials, FileStamps, Identity, PageSession, Role, TokenWatch, Tokens,
};
use crate::system::hex;

/// The tokens, and who showed wrong ones.
pub(super) struct Authenticator {
    tokens: Arc<Tokens>,
    attempts: WrongAttempts,
    codes: PageCodes,
}

impl Authenticator {
    pub(super) fn new(tokens: Arc<Tokens>) -> Authenticator {
        Authenticator {
            tokens,
            attempts: WrongAttempts::default(),
            codes: PageCodes::default(),
        }
    }

    /// Whether who asks may go on, as long as they show what they show.
    pub(super) fn access(&self, exchange: &Exchange) -> Access {
        let shown = match exchange.client() {
            ClientAddress::Local => None,
            ClientAddress::Remote(_) => exchange.header("Authorization"),
        };
        let credentials = shown.and_then(Credentials::parse);
        Access(credentials.map(|credentials| self.tokens.watch(credentials)))
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
            Some(identity) => Ok(Caller(Some(identity))),
            None => Err(self.wrong(address, "Login failed")),
        }
    }

    /// Whether a name and a token belong together. A wrong pair counts as any wrong credentials do.
    pub(super) fn login(
        &self,
        exchange: &Exchange,
        name: &str,
        token: &str,
    ) -> Result<(), Refusal> {
        let credentials = Credentials::Basic(name.to_owned(), Secret::new(token));
        match self.tokens.check(&credentials)? {
            Some(_) => Ok(()),
            None => Err(self.wrong_from(exchange.client(), "invalid credentials")),
        }
    }

    /// Makes a code with which a browser begins a session of the caller's. A session begins none, or it would have no end.
    pub(super) fn create_code(&self, caller: &Caller) -> Result<String, Refusal> {
        if caller.0.as_ref().is_some_and(|one| one.session.is_some()) {
            let why = "create_page_code needs a token: a session of the page begins no other one";
            return Err(forbidden(why.to_owned()));
        }
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).doing(|| "making a code for the page".into())?;
        let code = hex::encode(bytes);
        self.codes
            .add(code.clone(), caller.0.clone(), Instant::now());
        Ok(code)
    }

    /// Begins a session for whoever a code was made for. A wrong code counts as wrong credentials do.
    pub(super) fn open_session(
        &self,
        exchange: &Exchange,
        code: &str,
    ) -> Result<(Secret, PageSession), Refusal> {
        let Some(of) = self.codes.take(code, Instant::now()) else {
            let why = "The code was used already, or is older than a minute; `gangplank ui` makes another one";
            return Err(self.wrong_from(exchange.client(), why));
        };
        Ok(self.tokens.open_session(of.as_ref())?)
    }

    /// Ends the session that the caller shows, else all that its token began, else all.
    pub(super) fn end_sessions(&self, caller: &Caller) -> Result<usize, Error> {
        self.tokens.end_sessions(caller.0.as_ref())
    }

    /// What to say to who showed something else in the place of credentials: it counts as wrong ones do.
    fn wrong_from(&self, client: ClientAddress, why: &str) -> Refusal {
        match client {
            ClientAddress::Remote(address) => self.wrong(address, why),
            ClientAddress::Local => Refusal::new(Code::Unauthorized, why),
        }
    }

    fn wrong(&self, address: IpAddr, why: &str) -> Refusal {
        if self.attempts.wrong(address, Instant::now()) {
            let why = "Login failed too often from this address; try again in a minute";
            return Refusal::new(Code::TooManyAttempts, why);
        }
        Refusal::new(Code::Unauthorized, why)
    }
}

/// Whether who asked still may, while an answer goes on for long. Nothing is watched of somebody on this machine.
pub(super) struct Access(Option<TokenWatch>);

impl Access {
    /// Looks again. That costs no more than a look at the files' times, unless the files are others.
    pub(super) fn holds(&mut self) -> bool {
        self.0
            .as_mut()
            .is_none_or(|watch| watch.holds(watch.stamps()))
    }

    /// As [`Access::holds`], for many at once, of whom the first one looks for all.
    pub(super) fn holds_in(&mut self, looked: &mut Option<FileStamps>) -> bool {
        self.0.as_mut().is_none_or(|watch| {
            let stamps = *looked.get_or_insert_with(|| watch.stamps());
            watch.holds(stamps)
        })
    }
}

/// Who asks: the holder of a token, or somebody on this machine, who may do everything.
pub(super) struct Caller(Option<Identity>);

impl Caller {
    /// The token's name.
    pub(super) fn name(&self) -> Option<String> {
        self.0.as_ref().map(|identity| identity.name.clone())
    }

    /// Who asks, as the answer of an operation says it.
    pub(super) fn describe(&self) -> Value {
        match &self.0 {
            None => json!({ "name": null, "role": Role::Admin, "projects": [] }),
            Some(one) => json!({
                "name": one.name, "role": one.role, "projects": one.projects,
                "expires_at": one.session.as_ref().map(|session| session.expires_at),
            }),
        }
    }

    /// Refuses an operation that needs another role. One that nobody knows is refused later, by its name.
    pub(super) fn may_ask(&self, operation: &str) -> Result<(), Refusal> {
        let needed = OperationName::parse(operation).map_or(Role::Read, role);
        match &self.0 {
            Some(identity) if identity.role < needed => Err(forbidden(format!(
                "{operation} needs the role '{}', and the token '{}' has '{}'",
                needed.word(),
                identity.name,
                identity.role.word()
            ))),
            _ => Ok(()),
        }
    }

    /// Refuses to let somebody look who may not even do that.
    pub(super) fn may_look(&self, what: &str) -> Result<(), Refusal> {
        match &self.0 {
            Some(identity) if identity.role < Role::Read => Err(forbidden(format!(
                "{what} needs the role 'read', and the token '{}' has '{}'",
                identity.name,
                identity.role.word()
            ))),
            _ => Ok(()),
        }
    }

    /// Refuses payloads to who is neither a host of the fleet nor may do everything: they are the components' source.
    pub(super) fn may_fetch(&self) -> Result<(), Refusal> {
        match &self.0 {
            Some(identity) if !matches!(identity.role, Role::Fleet | Role::Admin) => {
                Err(forbidden(format!(
                    "fetching a payload needs the role 'fleet', and the token '{}' has '{}'",
                    identity.name,
                    identity.role.word()
                )))
            }
            _ => Ok(()),
        }
    }

    /// Whether nothing that the caller may ask for comes with a payload.
    pub(super) fn only_looks(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|identity| identity.role < Role::Deploy)
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
            Some(identity) if self.is_limited() => Err(forbidden(format!(
                "{operation}: the token '{}' is limited to some components; name one",
                identity.name
            ))),
            _ => Ok(()),
        }
    }

    /// Refuses what only somebody on this machine may ask for, who comes over the unix socket.
    pub(super) fn is_local(&self, what: &str) -> Result<(), Refusal> {
        match &self.0 {
            None => Ok(()),
            Some(_) => Err(forbidden(format!(
                "{what} is only for who asks over the server's unix socket"
            ))),
        }
    }

    /// Whether the caller is limited to some components.
    pub(super) fn is_limited(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|identity| !identity.projects.is_empty())
    }

    /// Refuses an operation on a component that is none of the caller's business: it is as if there were none.
    pub(super) fn may_touch(&self, project: &Project, operation: &str) -> Result<(), Refusal> {
        if !self.is_barred_from(project) {
            return Ok(());
        }
        let name = self.name().unwrap_or_default();
        let why = format!("{operation}: there is no component '{project}' for the token '{name}'");
        Err(Refusal::new(Code::NotFound, why))
    }

    /// Refuses to have to do with a deployment of such a component, in the words for one that is not there.
    pub(super) fn may_see(&self, store: &Store, id: DeploymentId) -> Result<(), Refusal> {
        match store.read_summary(id) {
            Ok(Some(one)) if !self.is_barred_from(&one.project) => Ok(()),
            // Whose a damaged one is, nobody can tell.
            Err(error) if !self.is_limited() => Err(error.into()),
            _ => Err(not_found(id)),
        }
    }
}

fn forbidden(message: String) -> Refusal {
    Refusal::new(Code::Forbidden, message)
}

/// The least role that may ask for an operation.
const fn role(operation: OperationName) -> Role {
    match operation {
        OperationName::DeployComponent
        // It says what of a content is here already.
        | OperationName::PrepareDeployment
        | OperationName::RollbackComponent
        | OperationName::DropComponent
        | OperationName::RestartComponent
        | OperationName::StopComponent
        | OperationName::StartComponent
        | OperationName::RunComponent
        // Its values are secrets, which are not for who may only look.
        | OperationName::GetEnv
        | OperationName::SetEnv
        | OperationName::Sync
        | OperationName::ChangeFleet
        | OperationName::CancelDeployment
        | OperationName::DeleteDeploymentPayload => Role::Deploy,
        // It is the component's source, secrets included if there are any.
        OperationName::GetDeploymentPayload
        | OperationName::GetTree
        | OperationName::GetObjects => Role::Admin,
        OperationName::GetDeployment
        | OperationName::ListDeployments
        | OperationName::GetLogs
        | OperationName::GetComponents
        | OperationName::GetFleet
        | OperationName::RegistrationInfo
        // A session may do what its token may.
        | OperationName::CreatePageCode
        | OperationName::EndPageSessions
        | OperationName::SystemInformation => Role::Read,
    }
}
