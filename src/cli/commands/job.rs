//! What a command does once its arguments are read, and what it works with.

use std::fmt;
use std::path::Path;

use serde_json::Value;

use crate::api::error::Error;
use crate::api::name::{DeploymentId, Project};
use crate::api::operation::{Operation, OperationCall};
use crate::cli::arguments::ClientOptions;
use crate::cli::arguments::value::DeploymentWord;
use crate::cli::config::manifest::DirectoryManifest;
use crate::cli::screen::{OutputFormat, Screen};
use crate::cli::session::find::Purpose;
use crate::cli::session::{CommandError, Session};
use crate::client::Client;

/// What is done on this machine alone: what is to be printed, and how.
pub(super) struct LocalJob(pub(super) Box<dyn FnOnce(&mut Screen) -> LocalResult + Send>);

pub(super) type LocalResult = Result<(Value, OutputFormat), Error>;

impl LocalJob {
    pub(super) fn new(job: impl FnOnce(&mut Screen) -> LocalResult + Send + 'static) -> LocalJob {
        LocalJob(Box::new(job))
    }
}

impl fmt::Debug for LocalJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LocalJob")
    }
}

/// What a command asks a server.
pub(super) enum Job {
    /// One operation, whose answer is the result.
    Operation(OperationCall),
    /// More than that.
    Run(RunJob),
    /// What ends as a command elsewhere does.
    Command(CommandJob),
}

pub(super) type RunJob = Box<dyn FnOnce(Context<'_>) -> Result<Option<Value>, CommandError> + Send>;
pub(super) type CommandJob = Box<dyn FnOnce(Context<'_>) -> Result<u8, CommandError> + Send>;

/// What came of a job.
#[derive(Debug)]
pub(super) enum JobEnd {
    /// The result that is to be printed; none if all was printed on the way.
    Result(Option<Value>),
    /// All was printed, and this is how the program ends.
    Exit(u8),
}

impl Job {
    /// A job that gives the result to be printed; none if all was printed on the way.
    pub(super) fn run(
        job: impl FnOnce(Context<'_>) -> Result<Option<Value>, CommandError> + Send + 'static,
    ) -> Job {
        Job::Run(Box::new(job))
    }

    /// A job that gives the exit code of a command elsewhere.
    pub(super) fn command(
        job: impl FnOnce(Context<'_>) -> Result<u8, CommandError> + Send + 'static,
    ) -> Job {
        Job::Command(Box::new(job))
    }
}

impl Job {
    /// An operation on a component; where none is named, on that of the working directory.
    pub(super) fn about(
        project: Option<Project>,
        operation: impl FnOnce(Project) -> Operation + Send + 'static,
    ) -> Job {
        match project {
            Some(project) => Job::Operation(operation(project).into()),
            None => Job::run(move |context| {
                let call = operation(here()?).into();
                context.session()?.call(&call).map(Some)
            }),
        }
    }

    /// An operation on a deployment; where none is named, on the newest one of the working directory's component.
    pub(super) fn on_deployment(
        word: Option<DeploymentWord>,
        purpose: Purpose,
        operation: fn(DeploymentId) -> Operation,
    ) -> Job {
        match word {
            Some(DeploymentWord::Id(id)) => Job::Operation(operation(id).into()),
            word => Job::run(move |context| {
                let word = word_or_here(word)?;
                let mut session = context.session()?;
                let id = session.find(&word, None, purpose)?;
                session.call(&operation(id).into()).map(Some)
            }),
        }
    }
}

/// The component of the working directory, for who named none.
pub(super) fn here() -> Result<Project, CommandError> {
    let name = DirectoryManifest::of(Path::new(".")).map_err(CommandError::usage)?;
    let name = name.project.ok_or_else(|| {
        CommandError::usage(
            "PROJECT is missing, and there is no gangplank.json here that names one",
        )
    })?;
    name.parse()
        .map_err(|why| CommandError::usage(format!("gangplank.json: {why}")))
}

pub(super) fn word_or_here(word: Option<DeploymentWord>) -> Result<DeploymentWord, CommandError> {
    match word {
        Some(word) => Ok(word),
        None => Ok(DeploymentWord::Other(here()?.into())),
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Job::Operation(call) => write!(f, "{call:?}"),
            Job::Run(_) => f.write_str("Run"),
            Job::Command(_) => f.write_str("Command"),
        }
    }
}

/// What a job works with.
pub(super) struct Context<'a> {
    pub(super) client: &'a Client,
    pub(super) options: &'a ClientOptions,
    pub(super) screen: &'a mut Screen,
}

impl<'a> Context<'a> {
    /// Begins to ask the server. Signals are caught from here on.
    pub(super) fn session(self) -> Result<Session<'a>, CommandError> {
        Session::new(self.client, self.screen, self.options.retry_for)
    }
}
