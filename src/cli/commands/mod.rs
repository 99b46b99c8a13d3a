//! The user's edge: runs the client's commands, and is the one place that says what went wrong and how the program ends.
//!
//! It joins the typed command of `cli`, the packing of `archive`, the requests of `client` and the output of `screen`.
//! Stdout gets the result alone, and only if there is one.

mod call;
mod connect;
mod deploy;
mod follow;
mod logs;
mod pack;
mod payload;
mod retry_window;
mod session;
mod token;

use std::ffi::OsString;

use serde_json::Value;

use crate::api::error::Exit;
use crate::api::name::{DeploymentId, Project};
use crate::api::operation::Fields;
use crate::cli::arguments::{self, ClientOptions, ClientRequest, Command, TokenOptions};
use crate::cli::commands::call::Call;
use crate::cli::commands::follow::{Following, Subject};
use crate::cli::commands::session::Session;
use crate::cli::screen::{OutputFormat, Progress, Screen, print_result};
use crate::client::{DeploymentRef, NoResult};
use crate::engine::settings::ServeOptions;

/// What is left to be done when the arguments were read.
#[derive(Debug)]
pub enum Next {
    /// Nothing: the program ends like this.
    End(Exit),
    /// Run the server.
    Serve(Box<ServeOptions>),
}

/// Reads the arguments, the program's own name not among them, and does what they say but for running the server.
pub fn start(arguments: Vec<OsString>) -> Next {
    let nothing = arguments.is_empty();
    let environment = |name: &str| std::env::var(name).ok();
    match arguments::parse(arguments, &environment) {
        Ok(Command::Serve(options)) => Next::Serve(options),
        Ok(Command::Token(options)) => Next::End(token(&options)),
        Ok(Command::Help(text)) => Next::End(print(&Value::from(text), OutputFormat::Text, None)),
        Ok(Command::Client(options, request)) => Next::End(run(&options, request)),
        Err(usage) => {
            let mut screen = Screen::new(Progress::Plain, false);
            if nothing {
                for line in arguments::usage().lines() {
                    screen.remark(line);
                }
            } else {
                screen.error(&usage.to_string(), None);
            }
            Next::End(Exit::Usage)
        }
    }
}

fn token(options: &TokenOptions) -> Exit {
    match token::run(options) {
        Ok((value, output)) => print(&value, output, None),
        Err(error) => {
            Screen::new(Progress::Plain, false).error(&error.to_string(), None);
            Exit::Usage
        }
    }
}

fn run(options: &ClientOptions, request: ClientRequest) -> Exit {
    let mut screen = Screen::new(options.progress, options.raw_output);
    let result = ask(options, request, &mut screen);
    screen.finish();
    match result {
        Ok(Some(value)) => print(&value, options.output, Some(screen)),
        Ok(None) => Exit::Success,
        Err(failed) => {
            say(&failed, options, &mut screen);
            failed.failed.exit
        }
    }
}

/// A failure, and whether the screen has shown its reason already, as it does for an `error` event.
#[derive(Debug)]
pub(crate) struct CommandError {
    pub(crate) failed: NoResult,
    pub(crate) shown: bool,
    /// Whether the deployment may go on and can be watched.
    pub(crate) watch: bool,
}

impl From<NoResult> for CommandError {
    fn from(failed: NoResult) -> CommandError {
        CommandError {
            watch: matches!(failed.exit, Exit::Unknown | Exit::Interrupted),
            failed,
            shown: false,
        }
    }
}

impl CommandError {
    pub(crate) fn usage(message: impl ToString) -> CommandError {
        NoResult::new(Exit::Usage, message.to_string()).into()
    }
}

/// Does it, and gives the result that is to be printed; none if all was printed on the way.
fn ask(
    options: &ClientOptions,
    request: ClientRequest,
    screen: &mut Screen,
) -> Result<Option<Value>, CommandError> {
    let client = connect::client(options, screen)?;
    if let ClientRequest::Deploy(deploy) = &request {
        return deploy::run(&client, deploy, options.retry_for, screen).map(Some);
    }
    let mut session = Session::new(&client, screen, options.retry_for)?;
    let session = &mut session;
    match request {
        // It was handled above, since it catches signals later.
        ClientRequest::Deploy(_) => Ok(None),
        ClientRequest::Watch(which) => watch(session, &which).map(Some),
        ClientRequest::List(fields) => call(session, &fields, Subject::Reading).map(Some),
        ClientRequest::Show(id) => {
            let id: DeploymentId = id.parse().map_err(CommandError::usage)?;
            let mut fields = Fields::new();
            fields.insert("operation".into(), "get_deployment".into());
            fields.insert("deployment_id".into(), id.to_string().into());
            call(session, &fields, Subject::Reading).map(Some)
        }
        ClientRequest::Operation(fields) => call(session, &fields, Subject::Operation).map(Some),
        ClientRequest::Status { fields, project } => {
            let value = call(session, &fields, Subject::Reading)?;
            only(value, project.as_deref()).map(Some)
        }
        ClientRequest::Payload { fields, out } => payload::run(session, &fields, out.as_deref()),
        ClientRequest::Logs { fields, follow } => logs::run(session, &fields, follow, options),
    }
}

/// The components; if one is named, it alone.
fn only(mut value: Value, project: Option<&str>) -> Result<Value, CommandError> {
    let Some(project) = project else {
        return Ok(value);
    };
    let all = value.get_mut("components").and_then(Value::as_array_mut);
    let found = all.is_some_and(|all| {
        all.retain(|component| component.get("project").and_then(Value::as_str) == Some(project));
        !all.is_empty()
    });
    if !found {
        let message = format!("no component {project} is deployed");
        return Err(NoResult::new(Exit::Refused, message).into());
    }
    Ok(value)
}

fn watch(session: &mut Session, which: &str) -> Result<Value, CommandError> {
    // An id is no likely name of a component.
    let which = match which.parse::<DeploymentId>() {
        Ok(id) => DeploymentRef::Deployment(id),
        Err(_) => DeploymentRef::Latest(which.parse::<Project>().map_err(|_| {
            CommandError::usage(format!(
                "{which:?} is neither a deployment's id nor a component's name"
            ))
        })?),
    };
    let id = match &which {
        DeploymentRef::Deployment(id) => Some(id.to_string()),
        DeploymentRef::Latest(_) => None,
    };
    Following::new(session, Subject::Watching, id).follow(Call::Watch(which))
}

/// Operations that begin a deployment and tell of it, or of several; each can take long, and is asked for as a stream.
const DEPLOYING: &[&str] = &[
    "deploy_component",
    "rollback_component",
    "restart_component",
];
const LONG: &[&str] = &["sync"];

fn call(session: &mut Session, fields: &Fields, subject: Subject) -> Result<Value, CommandError> {
    let name = fields
        .get("operation")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let deploys = DEPLOYING.contains(&name);
    let follow = name == "get_logs" && fields.get("follow") == Some(&Value::Bool(true));
    let stream = deploys || follow || LONG.contains(&name);
    let subject = if deploys {
        Subject::Deployment
    } else {
        subject
    };
    Following::new(session, subject, None).follow(Call::Operation { fields, stream })
}

fn print(value: &Value, output: OutputFormat, screen: Option<Screen>) -> Exit {
    match print_result(value, output) {
        Ok(()) => Exit::Success,
        Err(error) => {
            let mut screen = screen.unwrap_or_else(|| Screen::new(Progress::Quiet, false));
            screen.error(&error.to_string(), None);
            Exit::Usage
        }
    }
}

/// One error, with the way to go on, so that `--progress quiet` has both.
fn say(trouble: &CommandError, options: &ClientOptions, screen: &mut Screen) {
    if trouble.shown {
        return;
    }
    let failed = &trouble.failed;
    let mut message = failed.message.clone();
    if trouble.watch {
        message += &match &failed.deployment_id {
            Some(id) => {
                let target = connect::target_flag(options);
                let mut hint = format!(
                    "; deployment {id} may go on\nfollow it with: gangplank watch {id}{target}"
                );
                if failed.exit == Exit::Interrupted {
                    hint += &format!("\nstop it with: gangplank cancel {id}{target}");
                }
                hint
            }
            None => "; a deployment may go on, `gangplank list` shows it".to_owned(),
        };
    }
    screen.error(&message, failed.code.as_deref());
}

#[cfg(test)]
mod tests;
