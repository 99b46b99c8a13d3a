//! The client's half of the wire: one request, its upload if it has one, and the answer as it comes.
//!
//! Each request has a thread and a connection of its own and tells what happens as [`Notice`]s, in order; the last one is
//! [`Notice::Answer`], [`Notice::Ended`] or [`Notice::Broken`]. Guarantees:
//! - an answer that comes during the upload ends the upload, and is read, even if the server reads no further;
//! - a payload that cannot be read to its end is never sent as if it were whole;
//! - a stream that was cut is [`Notice::Broken`] or [`Notice::Ended`], and what follows from it is decided in [`answer`];
//! - credentials are in no error and no `Debug`.
//!
//! Proxies named by the environment are not used: targets are hosts of one's own, and a proxy between would see, and might
//! time out, a stream that lasts as long as the installation. Redirects are not followed: a streamed payload cannot be
//! sent twice, and credentials belong to the host that was named.

mod agent;
pub(crate) mod answer;
pub(crate) mod cache;
pub(crate) mod download;
pub(crate) mod etcd;
pub(crate) mod follow;
pub(crate) mod harper;
pub(crate) mod kind;
pub(crate) mod kv;
pub(crate) mod notice;
mod probe;
mod request;
pub(crate) mod speed;
mod state;
mod target;
mod tls;
mod which;
mod wire;

use std::fmt;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crossbeam_channel::Receiver;
use rustls::ClientConfig;
use serde_json::Value;
use ureq::Agent;
use ureq::config::RedirectAuthHeaders;
use ureq::tls::TlsConfig;
use ureq::unversioned::transport::{Connector as _, RustlsConnector};

use crate::api::error::{Doing, Error};
use crate::api::name::{DeploymentId, Secret};
use crate::api::operation::{Operation, OperationCall};
use crate::client::harper::find::PayloadHash;
use crate::client::harper::hash::HashingReader;
use crate::client::harper::legacy::LegacyBody;
use crate::client::kind::ServerKind;
use crate::client::request::{Content, PreparedRequest};
use crate::client::state::Transfer;
use crate::client::tls::TlsConnector;
pub(crate) use crate::client::which::DeploymentRef;
use crate::client::wire::{AddressResolver, LookConnector, NoResolver, SocketConnector};
use crate::formats::multipart::Form;
use crate::formats::sse::SseRecord;

pub(crate) use crate::client::answer::{NoResult, PlainAnswer};
pub(crate) use crate::client::probe::probe;
pub(crate) use crate::client::target::{Target, TargetCredentials};

/// For the connection, TLS included, and for the name's resolution.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// Three heartbeats, which a server sends after 15 s of silence.
const SILENCE_MAX: Duration = Duration::from_secs(45);

/// A server that takes no byte for so long has stopped reading; ours ends a silent upload after 60 s itself.
const WRITE_MAX: Duration = Duration::from_secs(60);

/// A burst of events does not wait for the screen; a longer one is held back at the server's socket. Each is what one read
/// brought, some hundred events or 16 KiB of a download.
const NOTICES_MAX: usize = 32;

/// How far a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestStage {
    /// There was no connection.
    Connecting,
    /// The payload could not be read; the server was told nothing that looks whole.
    Payload,
    /// The request was not sent to its end.
    Sending,
    /// The request was sent, and no answer came.
    Waiting,
    /// The answer had begun.
    Reading,
}

/// What happens to a request.
#[derive(Debug)]
pub(crate) enum Notice {
    /// The payload was read to its end and handed to the connection.
    Sent,
    /// The answer begins, with this status.
    Head(u16),
    /// The records of the answer's event stream that were complete with one read: one or more.
    Records(Vec<SseRecord>),
    /// A piece of the bytes that a download brings.
    Bytes(Vec<u8>),
    /// The whole answer; it was neither an event stream nor a download.
    Answer(PlainAnswer),
    /// The event stream or the download came to its end.
    Ended,
    /// It went wrong.
    Broken(RequestStage, Error),
}

/// Sends requests to one server.
pub(crate) struct Client {
    target: Target,
    authorization: Option<Secret>,
    /// Who asks, where a name was given.
    user: Option<String>,
    tls: TlsConfig,
    /// The certificates that are trusted, if they were named.
    trust: Option<Arc<ClientConfig>>,
    /// What answers there, once it is known. Until then it is spoken to as to our own server.
    kind: OnceLock<ServerKind>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({})", self.target)
    }
}

impl Client {
    /// A client without credentials but those of the target itself.
    ///
    /// # Errors
    /// When the credentials fit into no header.
    pub(crate) fn new(target: Target) -> Result<Client, Error> {
        let credentials = target.credentials().cloned();
        let client = Client {
            target,
            authorization: None,
            user: None,
            tls: TlsConfig::default(),
            trust: None,
            kind: OnceLock::new(),
        };
        if client.target.is_own_socket() {
            client.know(ServerKind::Gangplank);
        }
        match credentials {
            Some(credentials) => client.with_credentials(&credentials),
            None => Ok(client),
        }
    }

    /// The address by which a browser reaches the server; none where a unix socket leads there.
    pub(crate) fn web_address(&self) -> Option<String> {
        let is_web = self.target.socket().is_none();
        is_web.then(|| self.target.url(""))
    }

    /// Who asks, where a name was given.
    pub(crate) fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// What answers at the target, if that is known.
    pub(crate) fn kind(&self) -> Option<&ServerKind> {
        self.kind.get()
    }

    /// From now on it is spoken to as to one of this kind. What was said first counts.
    pub(crate) fn know(&self, kind: ServerKind) {
        let _ = self.kind.set(kind);
    }

    /// A Harper server answers.
    pub(crate) fn is_harper(&self) -> bool {
        !matches!(self.kind(), None | Some(ServerKind::Gangplank))
    }

    /// A Harper server answers that streams no events.
    fn is_legacy(&self) -> bool {
        matches!(self.kind(), Some(ServerKind::Legacy(_)))
    }

    /// With these credentials instead of any before.
    ///
    /// # Errors
    /// When they fit into no header; they are not shown.
    pub(crate) fn with_credentials(
        mut self,
        credentials: &TargetCredentials,
    ) -> Result<Client, Error> {
        let authorization = match credentials {
            TargetCredentials::Bearer(token) => {
                let token = token.reveal();
                if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                    return Err(Error::new(
                        "reading the token",
                        "it is empty or holds odd characters",
                    ));
                }
                format!("Bearer {token}")
            }
            TargetCredentials::Basic { username, password } => {
                if username.contains(':') {
                    return Err(Error::new(
                        "reading the user name",
                        "it must not hold a colon",
                    ));
                }
                format!(
                    "Basic {}",
                    STANDARD.encode(format!("{username}:{}", password.reveal()))
                )
            }
        };
        self.authorization = Some(Secret::new(authorization));
        self.user = match credentials {
            TargetCredentials::Basic { username, .. } => Some(username.clone()),
            TargetCredentials::Bearer(_) => None,
        };
        Ok(self)
    }

    /// Trusts the certificates of a PEM file, and only these.
    ///
    /// # Errors
    /// When the file cannot be read or holds no certificate.
    pub(crate) fn with_roots(mut self, file: &Path) -> Result<Client, Error> {
        let doing = || format!("reading certificates from {}", file.display());
        let pem = fs::read(file).doing(doing)?;
        let config = tls::trusting_pem(&pem, None).map_err(|why| Error::new(doing(), why))?;
        self.trust = Some(Arc::new(config));
        Ok(self)
    }

    /// Takes any certificate.
    pub(crate) fn without_verification(mut self) -> Client {
        self.tls = TlsConfig::builder().disable_verification(true).build();
        self
    }

    /// Whether the server is on this machine, as far as its address says: there may be a tunnel behind it.
    pub(crate) fn is_local(&self) -> bool {
        self.target.is_local()
    }

    /// An operation whose fields are sent as JSON. With `stream` the answer may be an event stream, as all should be that
    /// can take long: silence ends only a stream, never the wait for a plain answer.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(crate) fn call(&self, call: &OperationCall, stream: bool) -> Result<InFlight, Error> {
        let headers = match stream {
            true => Vec::new(),
            false => vec![("Accept", "application/json".to_owned())],
        };
        self.post("call", call, stream, headers)
    }

    /// As [`Client::call`] without one, for what is answered at once: silence ends it.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(crate) fn call_briefly(&self, call: &OperationCall) -> Result<InFlight, Error> {
        let headers = vec![("Accept", "application/json".to_owned())];
        self.post("brief", call, false, headers)
    }

    /// As [`Client::call`] with a stream. The key lets the server know a second try.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(crate) fn call_once(&self, call: &OperationCall, key: &str) -> Result<InFlight, Error> {
        let headers = match self.is_harper() {
            true => Vec::new(),
            false => vec![("Idempotency-Key", key.to_owned())],
        };
        self.post("call", call, true, headers)
    }

    /// An operation that is answered with bytes: they come as [`Notice::Bytes`], as many at once as the memory allows, and
    /// only all of them are followed by [`Notice::Ended`].
    ///
    /// # Errors
    /// When no thread can be started.
    pub(crate) fn download(&self, call: &OperationCall) -> Result<InFlight, Error> {
        // Harper answers no other type than this one with bytes.
        let headers = vec![("Accept", "*/*".to_owned())];
        self.post("download", call, false, headers)
    }

    /// A payload by its SHA-256, from this byte on: as [`Client::download`], but a server may begin at its beginning, which
    /// [`Notice::Head`] tells: 206 for the part, 200 for all.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(crate) fn payload_by_hash(&self, sha256: &str, from: u64) -> Result<InFlight, Error> {
        let range = (from > 0).then(|| ("Range", format!("bytes={from}-")));
        let headers = range.into_iter().chain([("Accept", "*/*".to_owned())]);
        let (headers, path) = (headers.collect(), format!("/fleet/payload/{sha256}"));
        self.start("download", &path, false, headers, Content::None)
    }

    /// An operation with a payload, streamed as the last part of a form. The key lets the server know a second try.
    ///
    /// # Errors
    /// When no thread can be started, or there is no randomness.
    pub(crate) fn upload<R: Read + Send + 'static>(
        &self,
        call: &OperationCall,
        payload: R,
        key: &str,
    ) -> Result<InFlight, Error> {
        if self.is_legacy() {
            let headers = vec![("Content-Type", "application/cbor".to_owned())];
            let fields = call.fields().clone();
            let fields = fields.into_iter().filter(|(_, value)| !value.is_null());
            let body = Box::new(LegacyBody::new(fields.collect(), payload));
            return self.start("upload", "/", false, headers, Content::Streamed(body));
        }
        let mut form = Form::new()?;
        let harper = self.is_harper();
        for (name, value) in call.fields() {
            match value {
                Value::Null => {}
                value if harper => form.field(name, &harper::form_text(value)),
                Value::String(text) => form.field(name, text),
                value => form.field(name, &value.to_string()),
            }
        }
        let mut headers = vec![("Content-Type", form.content_type())];
        if !harper {
            headers.push(("Idempotency-Key", key.to_owned()));
        }
        let hash = PayloadHash::default();
        let body: Box<dyn Read + Send> = match harper {
            true => {
                let payload = HashingReader::new(payload, PayloadHash::clone(&hash));
                Box::new(form.file("payload", "package.tar.gz", payload))
            }
            false => Box::new(form.file("payload", "package.tar.gz", payload)),
        };
        let mut running = self.start("upload", "/", true, headers, Content::Streamed(body))?;
        running.hash = harper.then_some(hash);
        Ok(running)
    }

    /// The list of a tree, as the file of a form, or a question without one. The key lets the server end an earlier upload.
    ///
    /// # Errors
    /// When no thread can be started, or there is no randomness.
    pub(crate) fn prepare<R: Read + Send + 'static>(
        &self,
        call: &OperationCall,
        list: Option<R>,
        key: &str,
    ) -> Result<InFlight, Error> {
        let Some(list) = list else {
            let headers = vec![("Idempotency-Key", key.to_owned())];
            return self.post("prepare", call, false, headers);
        };
        let mut form = Form::new()?;
        for (name, value) in call.fields() {
            match value {
                Value::String(text) => form.field(name, text),
                value => form.field(name, &value.to_string()),
            }
        }
        let headers = vec![
            ("Accept", "application/json".to_owned()),
            ("Content-Type", form.content_type()),
            ("Idempotency-Key", key.to_owned()),
        ];
        let body = Box::new(form.file("manifest", "manifest.gz", list));
        self.start("prepare", "/", false, headers, Content::Streamed(body))
    }

    /// A deployment's events after the one with the number `from`, as far as they are there and then as they come.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(crate) fn events(&self, which: &DeploymentRef, from: u64) -> Result<InFlight, Error> {
        let path = which.events_path(from);
        self.start("events", &path, true, Vec::new(), Content::None)
    }

    /// A deployment's events after the one with the number `last`, and its terminal event in any case: what is asked when
    /// [`Client::events`] answers that nothing more comes.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(crate) fn end(&self, id: DeploymentId, last: u64) -> Result<InFlight, Error> {
        let call = OperationCall::from(Operation::GetDeployment(id));
        let headers = vec![("Last-Event-ID", last.to_string())];
        self.post("end", &call, true, headers)
    }

    fn post(
        &self,
        thread: &str,
        call: &OperationCall,
        stream: bool,
        mut headers: Vec<(&'static str, String)>,
    ) -> Result<InFlight, Error> {
        let body = serde_json::to_vec(call.fields()).doing(|| "writing the request".into())?;
        headers.push(("Content-Type", "application/json".to_owned()));
        self.start(thread, "/", stream, headers, Content::Whole(body))
    }

    fn start(
        &self,
        thread: &str,
        path: &str,
        stream: bool,
        mut headers: Vec<(&'static str, String)>,
        content: Content,
    ) -> Result<InFlight, Error> {
        let stream = stream && !self.is_legacy();
        if stream {
            headers.push(("Accept", "text/event-stream".into()));
        } else if headers.iter().all(|(name, _)| *name != "Accept") {
            headers.push(("Accept", "application/json".into()));
        }
        let state = Arc::new(Transfer::default());
        // The newest deployment is redirected to itself, and nothing else of ours is.
        let redirects = u32::from(path.starts_with("/deployments/latest/"));
        // A Harper server sends no heartbeats, and an installation may be silent for an hour.
        let silence = thread == "brief" || (stream && !self.is_harper());
        let agent = self.agent(&state, silence, redirects);
        let (sender, notices) = crossbeam_channel::bounded(NOTICES_MAX);
        let job = PreparedRequest {
            agent: agent.clone(),
            state,
            target: self.target.clone(),
            url: self.target.url(path),
            download: thread == "download",
            headers,
            authorization: self.authorization.clone(),
            content,
            notices: sender,
        };
        std::thread::Builder::new()
            .name(thread.into())
            .spawn(move || job.run())
            .doing(|| format!("starting the thread {thread}"))?;
        Ok(InFlight {
            notices,
            agent,
            hash: None,
        })
    }

    /// An agent for one request: its connection is never used again, and stopping it stops nothing else.
    fn agent(&self, state: &Arc<Transfer>, silence: bool, redirects: u32) -> Agent {
        let config = agent::config()
            .max_redirects(redirects)
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .max_idle_connections(0)
            .tls_config(self.tls.clone())
            .timeout_resolve(Some(CONNECT_MAX))
            .timeout_connect(Some(CONNECT_MAX))
            .timeout_per_read(silence.then_some(SILENCE_MAX))
            .timeout_per_write(Some(WRITE_MAX))
            .build();
        let path = self.target.socket().map(Path::to_owned);
        let local = path.is_some();
        let socket = SocketConnector {
            path,
            state: Arc::clone(state),
        };
        let connector = socket
            .chain(TlsConnector(self.trust.clone()))
            .chain(RustlsConnector::default())
            .chain(LookConnector(Arc::clone(state)));
        if local {
            Agent::with_parts(config, connector, NoResolver)
        } else {
            Agent::with_parts(config, connector, AddressResolver::default())
        }
    }
}

/// A request on its way. Dropping it ends the request, wherever it stands.
#[derive(Debug)]
pub(crate) struct InFlight {
    notices: Receiver<Notice>,
    agent: Agent,
    hash: Option<PayloadHash>,
}

impl InFlight {
    /// The hash of the payload that it sends to a Harper server.
    pub(crate) fn payload_hash(&self) -> Option<PayloadHash> {
        self.hash.clone()
    }

    /// What happens, for `select!`. After the last notice it is disconnected.
    pub(crate) fn notices(&self) -> &Receiver<Notice> {
        &self.notices
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        // The thread is not waited for: it may be inside a name's resolution, which nothing interrupts. It notices by
        // its connection, or by the notices that nobody takes any longer.
        self.agent.clone().shutdown();
    }
}

#[cfg(test)]
mod tests;
