//! Where every request arrives: who asks, what for, and the line of log.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde_json::{Map, Value};

use crate::api::error::{Code, Refusal};
use crate::api::event::Failure;
use crate::api::name::Project;
use crate::engine::attempt::Registry;
use crate::engine::deployer::{Deployer, stopping};
use crate::engine::processes::Processes;
use crate::formats::archive::Limits;
use crate::server::attempts::{self, WrongAttempts};
use crate::server::http::{Answer, ClientAddress, Exchange};
use crate::server::operations::RequestOptions;
use crate::server::{form, logs, operations, stream, syncing};
use crate::store::tokens::{Credentials, Identity, Role, Tokens};
use crate::system::account::Account;
use crate::system::log;

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
    tokens: Tokens,
    attempts: WrongAttempts,
}

/// What becomes of a request.
pub(super) enum Outcome {
    /// An answer that is known.
    Answer(Answer),
    /// The events of a deployment.
    Events(stream::Events),
    /// Deployments from a peer.
    Sync(syncing::Sync),
    /// What a component prints.
    Logs(logs::LogStream),
    /// A file of so many bytes, and the name that it is saved under.
    File(File, u64, String),
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

impl ServerState {
    pub(super) fn new(
        known: Registry,
        workers: Arc<Deployer>,
        tokens: Tokens,
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
            tokens,
            attempts: WrongAttempts::default(),
        }
    }

    pub(super) fn workers(&self) -> &Deployer {
        &self.workers
    }

    pub(super) fn root(&self) -> &Path {
        self.known.store.root()
    }

    /// Answers one request, and says so in the log.
    pub(super) fn answer(&self, mut exchange: Exchange) {
        let begun = Instant::now();
        self.requests.fetch_add(1, Ordering::Relaxed);
        let asked = format!(
            "{} {} {}",
            exchange.client(),
            exchange.method(),
            exchange.path()
        );
        let mut operation = String::new();
        let outcome = self
            .decide(&mut exchange, &mut operation)
            .unwrap_or_else(|refusal| {
                if refusal.code == Code::Internal {
                    log::error(&format!("{asked}: {}", refusal.message));
                }
                Outcome::Answer(refused(&refusal))
            });
        let (status, sent) = match outcome {
            Outcome::Answer(answer) => (answer.status, exchange.answer(answer)),
            Outcome::Events(events) => events.answer(exchange),
            Outcome::Sync(sync) => sync.answer(self, exchange),
            Outcome::Logs(logs) => logs.answer(exchange),
            Outcome::File(file, length, name) => (200, exchange.send_file(file, length, &name)),
        };
        let ms = begun.elapsed().as_millis();
        let gone = if sent.is_err() {
            ", the client had gone"
        } else {
            ""
        };
        let operation = if operation.is_empty() {
            operation
        } else {
            format!(" {operation}")
        };
        log::info(&format!("{asked}{operation} {status} {ms} ms{gone}"));
    }

    fn decide(&self, exchange: &mut Exchange, operation: &mut String) -> Result<Outcome, Refusal> {
        if self.workers.is_stopping() {
            return Err(stopping());
        }
        let (method, path) = (exchange.method(), exchange.path().to_owned());
        let events = path
            .strip_prefix("/deployments/")
            .and_then(|rest| rest.strip_suffix("/events"));
        match (path.as_str(), method.as_str(), events) {
            ("/health", "GET" | "HEAD", _) => Ok(Outcome::Answer(health())),
            ("/health", ..) => Ok(bad_method(&path, "GET, HEAD")),
            ("/", "POST", _) => {
                let caller = self.authenticate(exchange)?;
                let wanted = RequestOptions::of(exchange)?;
                let max_payload = self.limits.max_payload;
                let request = form::read(exchange, self.max_json_body, max_payload)?;
                operation.push_str(&request.operation().chars().take(40).collect::<String>());
                operations::perform(self, request, wanted, &caller)
            }
            ("/", ..) => Ok(bad_method(&path, "POST")),
            (_, "GET", Some(which)) => {
                let caller = self.authenticate(exchange)?;
                operations::watch(self, exchange, which, &caller)
            }
            (_, _, Some(_)) => Ok(bad_method(&path, "GET")),
            _ => Err(Refusal::new(
                Code::NotFound,
                format!("There is nothing at {path}"),
            )),
        }
    }

    /// Who asks, by what they show.
    fn authenticate(&self, exchange: &Exchange) -> Result<Caller, Refusal> {
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

fn health() -> Answer {
    let body = b"gangplank is running.".to_vec();
    Answer {
        status: 200,
        content_type: "text/plain; charset=utf-8",
        headers: Vec::new(),
        body,
    }
}

/// The answer to a method that the path does not know; it says which ones it does.
fn bad_method(path: &str, allowed: &str) -> Outcome {
    let why = format!("{path} takes {allowed}");
    let mut answer = refused(&Refusal::new(Code::BadMethod, why));
    answer.headers.push(("Allow", allowed.to_owned()));
    Outcome::Answer(answer)
}

/// A JSON answer.
pub(super) fn json(status: u16, value: &Value) -> Answer {
    json_text(status, format!("{value}\n").into_bytes())
}

/// An answer that is JSON already.
pub(super) fn json_text(status: u16, body: Vec<u8>) -> Answer {
    Answer {
        status,
        content_type: "application/json",
        headers: Vec::new(),
        body,
    }
}

/// The answer that tells a refusal.
pub(super) fn refused(refusal: &Refusal) -> Answer {
    let mut body = Map::new();
    body.insert("error".into(), refusal.message.clone().into());
    body.insert("code".into(), refusal.code.word().into());
    if let Some(id) = refusal.deployment_id {
        body.insert("deployment_id".into(), id.to_string().into());
    }
    let mut answer = json(refusal.code.status(), &Value::Object(body));
    match refusal.code {
        Code::Unauthorized => {
            answer.headers.push((
                "WWW-Authenticate",
                "Bearer realm=\"gangplank\", Basic realm=\"gangplank\"".into(),
            ));
        }
        // Soon enough for a restart, and not so often that it hurts.
        Code::Full | Code::Stopping => answer.headers.push(("Retry-After", "5".into())),
        Code::TooManyAttempts => {
            let seconds = attempts::WINDOW.as_secs().to_string();
            answer.headers.push(("Retry-After", seconds));
        }
        _ => {}
    }
    answer
}

/// The plain answer of a deployment that failed.
pub(super) fn failed(failure: Failure) -> Answer {
    let status = Code::parse(&failure.code)
        .unwrap_or(Code::Internal)
        .status();
    let mut body = failure.more;
    body.insert("error".into(), failure.message.into());
    body.insert("code".into(), failure.code.into());
    let texts = [
        ("deployment_id", failure.deployment_id),
        ("phase", failure.phase),
    ];
    for (name, text) in texts {
        if let Some(text) = text {
            body.insert(name.into(), text.into());
        }
    }
    if let Some(Ok(output)) = failure.install_output.map(serde_json::to_value) {
        body.insert("install_output".into(), output);
    }
    json(status, &Value::Object(body))
}
