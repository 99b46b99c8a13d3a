//! One request's thread: sends, reads the answer, tells.

use std::error::Error as StdError;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use crossbeam_channel::Sender;
use ureq::http::{HeaderMap, Response};
use ureq::{Agent, Body, SendBody, Timeout};

use crate::api::error::Error;
use crate::api::name::Secret;
use crate::client::answer::PlainAnswer;
use crate::client::state::Transfer;
use crate::client::target::Target;
use crate::client::{CONNECT_MAX, Notice, RequestStage, SILENCE_MAX, WRITE_MAX};
use crate::formats::sse::Parser;
use crate::system::time::http_date;
use crate::system::{account, paths};

/// No answer that is not a stream is longer; a listing of thousands of deployments with their logs is some MiB.
const ANSWER_MAX: u64 = 64 << 20;

/// What one read takes of an answer: some hundred events. All notices full of bytes are half a MiB.
const READ_SIZE: usize = 16 * 1024;

/// A request's body.
pub(crate) enum Content {
    None,
    Whole(Vec<u8>),
    Streamed(Box<dyn Read + Send>),
}

/// A request, ready to be sent.
pub(crate) struct PreparedRequest {
    pub(crate) agent: Agent,
    pub(crate) state: Arc<Transfer>,
    pub(crate) target: Target,
    pub(crate) url: String,
    /// Bytes are passed on as they come.
    pub(crate) download: bool,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) authorization: Option<Secret>,
    pub(crate) content: Content,
    pub(crate) notices: Sender<Notice>,
}

impl PreparedRequest {
    /// Sends it and tells everything. A receiver that is gone ends it at the next notice.
    pub(crate) fn run(mut self) {
        let last = match self.send() {
            Ok(response) => self.read(response),
            Err((stage, error)) => Notice::Broken(stage, self.explain(stage, error)),
        };
        let _ = self.notices.send(last);
    }

    fn send(&mut self) -> Result<Response<Body>, (RequestStage, ureq::Error)> {
        let mut headers = std::mem::take(&mut self.headers);
        if let Some(authorization) = &self.authorization {
            headers.push(("Authorization", authorization.reveal().to_owned()));
        }
        let (result, then) = match std::mem::replace(&mut self.content, Content::None) {
            Content::None => {
                let mut request = self.agent.get(&self.url);
                for (name, value) in &headers {
                    request = request.header(*name, value);
                }
                (request.call(), RequestStage::Waiting)
            }
            content => {
                let mut request = self.agent.post(&self.url);
                for (name, value) in &headers {
                    request = request.header(*name, value);
                }
                match content {
                    Content::Streamed(payload) => {
                        let mut payload = PayloadReader {
                            inner: payload,
                            stage: RequestStage::Sending,
                            state: &self.state,
                            notices: &self.notices,
                        };
                        let result = request.send(SendBody::from_reader(&mut payload));
                        (result, payload.stage)
                    }
                    Content::Whole(body) => (request.send(&body), RequestStage::Waiting),
                    Content::None => (request.send_empty(), RequestStage::Waiting),
                }
            }
        };
        result.map_err(|error| match self.state.connected() {
            false => (RequestStage::Connecting, error),
            true => (then, error),
        })
    }

    fn read(&self, response: Response<Body>) -> Notice {
        let (parts, body) = response.into_parts();
        let status = parts.status.as_u16();
        if self.notices.send(Notice::Head(status)).is_err() {
            return Notice::Ended;
        }
        let content_type = header(&parts.headers, "content-type").unwrap_or_default();
        let content_type = content_type.split(';').next().unwrap_or_default();
        let content_type = content_type.trim().to_ascii_lowercase();
        let location = header(&parts.headers, "location");
        let date = header(&parts.headers, "date").and_then(|date| http_date(&date));
        let mut reader = body.into_reader();
        // A refusal is one record of a stream at most, and is judged as a whole.
        let streams = content_type == "text/event-stream" && (200..300).contains(&status);
        let result = if streams {
            self.stream(&mut reader).map(|()| Notice::Ended)
        } else if self.download && is_payload(status, &content_type, &parts.headers) {
            match has_end(&parts.headers) {
                true => self.bytes(&mut reader).map(|()| Notice::Ended),
                false => Err(io::Error::other(
                    "neither its length nor its end is marked, so that a cut one would look whole",
                )),
            }
        } else {
            let mut body = Vec::new();
            let result = (&mut reader).take(ANSWER_MAX + 1).read_to_end(&mut body);
            match result {
                Ok(n) if n as u64 > ANSWER_MAX => Err(io::Error::other(format!(
                    "it is over {} MiB",
                    ANSWER_MAX >> 20
                ))),
                // A refusal counts even if the connection breaks behind it: its status is known.
                Err(error) if status < 400 => Err(error),
                _ => Ok(Notice::Answer(PlainAnswer {
                    status,
                    content_type,
                    location,
                    date,
                    body,
                })),
            }
        };
        result.unwrap_or_else(|error| {
            Notice::Broken(
                RequestStage::Reading,
                self.explain(RequestStage::Reading, error.into()),
            )
        })
    }

    /// Gives each record as soon as it is complete, with those that came with it.
    fn stream(&self, reader: &mut impl Read) -> io::Result<()> {
        let mut parser = Parser::new();
        let mut buffer = vec![0; READ_SIZE];
        loop {
            let n = match reader.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            parser.push(&buffer[..n]);
            let (mut records, mut whole) = (Vec::new(), Ok(()));
            for record in parser.by_ref() {
                match record {
                    Ok(record) => records.push(record),
                    Err(error) => {
                        whole = Err(io::Error::other(error));
                        break;
                    }
                }
            }
            if !records.is_empty() && self.notices.send(Notice::Records(records)).is_err() {
                return Ok(());
            }
            whole?;
        }
    }

    /// Gives the bytes as they come. That they end too early is an error of the reader's, which counts them.
    fn bytes(&self, reader: &mut impl Read) -> io::Result<()> {
        loop {
            let mut buffer = vec![0; READ_SIZE];
            let n = match reader.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            buffer.truncate(n);
            if self.notices.send(Notice::Bytes(buffer)).is_err() {
                return Ok(());
            }
        }
    }

    fn explain(&self, stage: RequestStage, error: ureq::Error) -> Error {
        let target = &self.target;
        let doing = match stage {
            RequestStage::Connecting => format!("connecting to {target}"),
            RequestStage::Payload => "reading the payload".into(),
            RequestStage::Sending => format!("sending to {target}"),
            RequestStage::Waiting => format!("waiting for an answer of {target}"),
            RequestStage::Reading => format!("reading the answer of {target}"),
        };
        let error = match error {
            // What the body's reader and TLS wrap into an I/O error comes out again.
            ureq::Error::Io(error) => ureq::Error::from(error),
            error => error,
        };
        let socket = target
            .socket()
            .filter(|_| stage == RequestStage::Connecting);
        let reason: Box<dyn StdError + Send + Sync> = match (error, socket) {
            (ureq::Error::Io(error), Some(socket)) => closed(error, socket),
            (error, _) => match error {
                ureq::Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    "the connection was closed".into()
                }
                ureq::Error::Io(error) if is_not_tls(&error) => NOT_TLS.into(),
                ureq::Error::Io(error) => Box::new(error),
                ureq::Error::HostNotFound => "no such host".into(),
                ureq::Error::Timeout(timeout) => format!("timed out: {}", waited(timeout)).into(),
                ureq::Error::Rustls(rustls::Error::InvalidMessage(_)) => NOT_TLS.into(),
                ureq::Error::Rustls(error) => format!("TLS: {error}").into(),
                error => Box::new(error),
            },
        };
        let proxy = PROXIES.iter().find(|name| std::env::var_os(name).is_some());
        match proxy.filter(|_| stage == RequestStage::Connecting && target.socket().is_none()) {
            Some(name) => Error::new(
                doing,
                format!("{reason} ({name} is set, but gangplank does not use proxies)"),
            ),
            None => Error::new(doing, reason),
        }
    }
}

/// Why a unix socket lets nobody in, and what to do.
fn closed(error: io::Error, socket: &Path) -> Box<dyn StdError + Send + Sync> {
    let root = socket
        .ancestors()
        .nth(2)
        .filter(|root| paths::socket(root) == socket);
    let is_default = root.is_some() && paths::default_root().ok().as_deref() == root;
    let serve = match root {
        Some(root) if !is_default => format!("gangplank serve --root {}", root.display()),
        _ => "gangplank serve".to_owned(),
    };
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => format!(
            "{error}; no server listens there: start one with `{serve}`, or name one with --target"
        )
        .into(),
        io::ErrorKind::PermissionDenied => {
            let owner = account::owner(socket).unwrap_or_else(|| "another user".to_owned());
            format!(
                "{error}; it is {owner}'s: ask as that user, or ask with a token, by --target http://HOST:PORT"
            )
            .into()
        }
        _ => Box::new(error),
    }
}

const NOT_TLS: &str = "what answers there does not speak TLS; does it have an http:// address?";

fn is_not_tls(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    matches!(inner, Some(rustls::Error::InvalidMessage(_)))
}

/// The variables by which other programs know a proxy. Who relies on one wonders why a connection fails.
const PROXIES: [&str; 6] = [
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "ALL_PROXY",
    "all_proxy",
];

fn waited(timeout: Timeout) -> String {
    match timeout {
        Timeout::Resolve => format!("no name resolution in {} s", CONNECT_MAX.as_secs()),
        Timeout::Connect => format!("no connection in {} s", CONNECT_MAX.as_secs()),
        Timeout::PerRead => format!("nothing came for {} s", SILENCE_MAX.as_secs()),
        Timeout::PerWrite => format!("nothing was taken for {} s", WRITE_MAX.as_secs()),
        other => other.to_string(),
    }
}

/// A payload comes as an attachment. Bytes alone are what a proxy gives that knows no type for its own text.
fn is_payload(status: u16, content_type: &str, headers: &HeaderMap) -> bool {
    let disposition = header(headers, "content-disposition").unwrap_or_default();
    matches!(status, 200 | 206)
        && content_type == "application/octet-stream"
        && disposition.trim_start().starts_with("attachment")
}

/// Whether an answer that breaks off can be told from one that ends.
fn has_end(headers: &HeaderMap) -> bool {
    let chunked = header(headers, "transfer-encoding").unwrap_or_default();
    headers.contains_key("content-length") || chunked.to_ascii_lowercase().contains("chunked")
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    Some(value.to_owned())
}

/// The payload as ureq reads it: ends early once there is an answer, and knows whether it ended by itself.
struct PayloadReader<'a> {
    inner: Box<dyn Read + Send>,
    /// The stage at which the request is if it fails now.
    stage: RequestStage,
    state: &'a Transfer,
    notices: &'a Sender<Notice>,
}

impl Read for PayloadReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.state.answered() || self.stage == RequestStage::Waiting {
            return Ok(0);
        }
        loop {
            match self.inner.read(buffer) {
                Ok(0) => {
                    self.stage = RequestStage::Waiting;
                    // Nobody listening means that the agent is being shut down.
                    let _ = self.notices.send(Notice::Sent);
                    return Ok(0);
                }
                Ok(n) => {
                    return Ok(n);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.stage = RequestStage::Payload;
                    return Err(error);
                }
            }
        }
    }
}
