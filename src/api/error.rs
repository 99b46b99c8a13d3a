//! What can go wrong, in two words: an [`Error`] says what was being done and why it failed; a [`Refusal`] is what a
//! client is told, with the code that decides its HTTP status and the exit code of the CLI.
//!
//! The table of codes is one enum, [`Code`], so that the HTTP edge, the event stream, the record and the CLI cannot
//! disagree about one of them.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::api::name::DeploymentId;

/// Something that could not be done: what was being done, to what, and why it failed.
pub struct Error {
    doing: String,
    source: Box<dyn StdError + Send + Sync>,
}

impl Error {
    /// An error whose reason is a plain sentence or another error.
    pub fn new(
        doing: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Error {
        Error {
            doing: doing.into(),
            source: source.into(),
        }
    }

    /// The first I/O error in the chain of reasons, if there is one.
    pub fn io(&self) -> Option<&io::Error> {
        let mut at: &(dyn StdError + 'static) = &*self.source;
        loop {
            if let Some(found) = at.downcast_ref::<io::Error>() {
                return Some(found);
            }
            at = at.source()?;
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.doing, self.source)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.source)
    }
}

/// Says what was being done where a `?` would lose it.
pub trait Doing<T> {
    /// Turns a failure into an [`Error`] that begins with `what`, for instance `"reading /etc/passwd"`.
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T, E: Into<Box<dyn StdError + Send + Sync>>> Doing<T> for Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|source| Error::new(what(), source))
    }
}

/// How the CLI ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// The server confirmed success.
    Success = 0,
    /// The server said no.
    Refused = 1,
    /// Wrong usage, or something local.
    Usage = 2,
    /// The server was not reached, the upload broke, or a proxy answered in the server's place.
    Unreachable = 3,
    /// Not authorised.
    Unauthorized = 4,
    /// The stream ended without a terminal event, so nobody can say.
    Unknown = 5,
    /// The server or the component is busy.
    Busy = 6,
    /// Interrupted while following; the deployment goes on.
    Interrupted = 130,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        std::process::ExitCode::from(exit as u8)
    }
}

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident $word:literal $status:literal $exit:ident;)+) => {
        /// Every reason for which a request or a deployment is refused, with its word on the wire, its HTTP status and
        /// the exit code that it gives the CLI.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[doc = $doc])+ $name,)+ }

        impl Code {
            /// All codes, for tests and for [`Code::parse`].
            pub const ALL: &'static [Code] = &[$(Code::$name,)+];

            /// The word on the wire.
            pub const fn word(self) -> &'static str { match self { $(Code::$name => $word,)+ } }

            /// When it is told, as a sentence.
            pub fn meaning(self) -> &'static str {
                match self { $(Code::$name => concat!($($doc),+).trim_start(),)+ }
            }

            /// The HTTP status of a plain answer.
            pub const fn status(self) -> u16 { match self { $(Code::$name => $status,)+ } }

            /// The exit code of the CLI.
            pub const fn exit(self) -> Exit { match self { $(Code::$name => Exit::$exit,)+ } }
        }
    };
}

codes! {
    /// Not JSON, broken multipart, bad fields, unknown operation.
    BadRequest "bad_request" 400 Refused;
    /// Refused before it is a request; the status may be another one of its family.
    BadHttp "bad_http" 400 Refused;
    /// No credentials, or wrong ones.
    Unauthorized "unauthorized" 401 Unauthorized;
    /// The role does not allow it.
    Forbidden "forbidden" 403 Unauthorized;
    /// Too many wrong credentials from one address.
    TooManyAttempts "too_many_attempts" 429 Unauthorized;
    /// An unknown path, id or project, or a payload that is gone.
    NotFound "not_found" 404 Refused;
    /// The path knows other methods.
    BadMethod "bad_method" 405 Refused;
    /// This component is being deployed.
    Busy "busy" 409 Busy;
    /// Ended already, past `activate`, or a stage of another component.
    Conflict "conflict" 409 Refused;
    /// The tree that a delta begins from is not here any longer, or is not what it was.
    StaleBase "stale_base" 409 Refused;
    /// The payload, a field or the JSON body is over its limit.
    TooLarge "too_large" 413 Refused;
    /// The body is neither JSON nor multipart.
    UnsupportedMedia "unsupported_media" 415 Refused;
    /// The archive is damaged, or holds what must not be unpacked.
    BadArchive "bad_archive" 422 Refused;
    /// The body ended early.
    UploadBroken "upload_broken" 400 Unreachable;
    /// The installation ended with a failure.
    InstallFailed "install_failed" 422 Refused;
    /// The installation took too long.
    InstallTimeout "install_timeout" 422 Refused;
    /// The package could not be fetched.
    FetchFailed "fetch_failed" 502 Refused;
    /// The release cannot run.
    LoadFailed "load_failed" 422 Refused;
    /// The `release:` command of the release failed.
    ReleaseFailed "release_failed" 422 Refused;
    /// The new processes did not become healthy.
    Unhealthy "unhealthy" 422 Refused;
    /// Somebody cancelled the deployment.
    Cancelled "cancelled" 409 Refused;
    /// The server ended during the deployment.
    Interrupted "interrupted" 503 Refused;
    /// A peer failed.
    ReplicateFailed "replicate_failed" 502 Refused;
    /// The store that the hosts of the fleet share does not answer, or this server belongs to no fleet.
    FleetUnavailable "fleet_unavailable" 503 Busy;
    /// What was published to the fleet may be wanted by now or not: the store's answer was lost.
    OutcomeUnknown "outcome_unknown" 503 Unknown;
    /// A bug: the log has the rest.
    Internal "internal" 500 Refused;
    /// No place for a further connection.
    Full "full" 503 Busy;
    /// The server is ending.
    Stopping "stopping" 503 Busy;
    /// The disk is full, or would be.
    NoSpace "no_space" 507 Refused;
}

impl Code {
    /// When it makes sense to try again.
    pub const fn retry_after(self) -> Option<Duration> {
        match self {
            // Soon enough for a restart, and not so often that it hurts.
            Code::Full | Code::Stopping => Some(Duration::from_secs(5)),
            Code::TooManyAttempts => Some(Duration::from_secs(60)),
            _ => None,
        }
    }

    /// The code of a word from the wire.
    pub fn parse(word: &str) -> Option<Code> {
        Code::ALL.iter().copied().find(|code| code.word() == word)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What a client is told when the answer is no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Why, for machines.
    pub code: Code,
    /// What was being done and why it failed, for people.
    pub message: String,
    /// The deployment that it is about, such as the one that keeps a component busy.
    pub deployment_id: Option<DeploymentId>,
}

impl Refusal {
    /// A refusal with its sentence.
    pub fn new(code: Code, message: impl Into<String>) -> Refusal {
        Refusal {
            code,
            message: message.into(),
            deployment_id: None,
        }
    }

    /// What a reader's error says: a reader that knows better carries a refusal in it; else receiving has failed.
    pub fn of_reading(what: &str, error: &io::Error) -> Refusal {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
        let broken = || Refusal::new(Code::UploadBroken, format!("{what}: {error}"));
        inner.cloned().unwrap_or_else(broken)
    }

    /// What an answer with this refusal says.
    pub fn body(&self) -> Map<String, Value> {
        let mut more = Map::new();
        if let Some(id) = self.deployment_id {
            more.insert("deployment_id".into(), id.to_string().into());
        }
        body(&self.message, self.code.word(), more)
    }

    /// The refusal, about a deployment.
    pub fn about(self, id: DeploymentId) -> Refusal {
        Refusal {
            deployment_id: Some(id),
            ..self
        }
    }
}

/// The JSON of every answer that says no: why, for people and for machines, and what more is known.
pub fn body(message: &str, code: &str, more: Map<String, Value>) -> Map<String, Value> {
    let mut body = more;
    body.insert("error".into(), message.into());
    body.insert("code".into(), code.into());
    body
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}

impl StdError for Refusal {}

/// An error that no room has judged is a full disk if it says so, and else a bug.
impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        let full = error.io().is_some_and(is_full);
        Refusal::new(
            if full { Code::NoSpace } else { Code::Internal },
            error.to_string(),
        )
    }
}

/// Whether an I/O error means that the disk, or the user's share of it, is used up.
pub fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_unique_words_that_parse() {
        for code in Code::ALL {
            assert_eq!(Code::parse(code.word()), Some(*code));
        }
        assert_eq!(Code::parse("nonsense"), None);
    }

    #[test]
    fn codes_decide_status_and_exit() {
        let table = [
            (Code::BadRequest, 400, Exit::Refused),
            (Code::Unauthorized, 401, Exit::Unauthorized),
            (Code::Busy, 409, Exit::Busy),
            (Code::Conflict, 409, Exit::Refused),
            (Code::UploadBroken, 400, Exit::Unreachable),
            (Code::Stopping, 503, Exit::Busy),
            (Code::Interrupted, 503, Exit::Refused),
            (Code::NoSpace, 507, Exit::Refused),
        ];
        for (code, status, exit) in table {
            assert_eq!((code.status(), code.exit()), (status, exit), "{code}");
        }
    }

    #[test]
    fn an_error_keeps_what_was_done_and_finds_the_full_disk() {
        let full: Result<(), _> = Err(io::Error::from(io::ErrorKind::StorageFull));
        let error = full
            .doing(|| "writing x".into())
            .doing(|| "unpacking".into())
            .unwrap_err();
        assert!(error.to_string().starts_with("unpacking: writing x: "));
        assert_eq!(Refusal::from(error).code, Code::NoSpace);
        assert_eq!(
            Refusal::from(Error::new("thinking", "no idea")).code,
            Code::Internal
        );
    }
}
