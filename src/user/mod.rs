//! The user's edge: runs the client's commands, and is the one place that says what went wrong and how the program ends.
//!
//! It joins the typed command of `cli`, the packing of `archive`, the requests of `client` and the output of `screen`.
//! Stdout gets the result alone, and only if there is one.

mod connect;
mod deploy;
mod follow;
mod pack;
mod signals;
mod token;

use std::ffi::OsString;

use serde_json::Value;

use crate::cli::{self, ClientOptions, Command, Request, ServeOptions, TokenOptions};
use crate::client::{Client, Failed, Which};
use crate::error::Exit;
use crate::name::{DeploymentId, Project};
use crate::operation::Fields;
use crate::screen::{Output, Progress, Screen, print_result};
use crate::user::follow::{Following, Subject};

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
    match cli::parse(arguments, &environment) {
        Ok(Command::Serve(options)) => Next::Serve(options),
        Ok(Command::Token(options)) => Next::End(token(&options)),
        Ok(Command::Help(text)) => Next::End(print(&Value::from(text), Output::Text, None)),
        Ok(Command::Client(options, request)) => Next::End(run(&options, request)),
        Err(usage) => {
            let mut screen = Screen::new(Progress::Plain, false);
            if nothing {
                for line in cli::usage().lines() {
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

fn run(options: &ClientOptions, request: Request) -> Exit {
    let mut screen = Screen::new(options.progress, options.raw_output);
    let result = ask(options, request, &mut screen);
    screen.finish();
    match result {
        Ok(value) => print(&value, options.output, Some(screen)),
        Err(failed) => {
            say(&failed, options, &mut screen);
            failed.failed.exit
        }
    }
}

/// A failure, and whether the screen has shown its reason already, as it does for an `error` event.
#[derive(Debug)]
pub(crate) struct Trouble {
    pub(crate) failed: Failed,
    pub(crate) shown: bool,
    /// Whether the deployment may go on and can be watched.
    pub(crate) watch: bool,
}

impl From<Failed> for Trouble {
    fn from(failed: Failed) -> Trouble {
        Trouble {
            watch: matches!(failed.exit, Exit::Unknown | Exit::Interrupted),
            failed,
            shown: false,
        }
    }
}

impl Trouble {
    pub(crate) fn usage(message: impl ToString) -> Trouble {
        Failed::new(Exit::Usage, message.to_string()).into()
    }
}

fn ask(options: &ClientOptions, request: Request, screen: &mut Screen) -> Result<Value, Trouble> {
    let client = connect::client(options, screen)?;
    match request {
        Request::Deploy(deploy) => deploy::run(&client, &deploy, screen),
        Request::Watch(which) => watch(&client, &which, screen),
        Request::List(fields) => call(&client, &fields, Subject::Reading, screen),
        Request::Show(id) => {
            let id: DeploymentId = id.parse().map_err(Trouble::usage)?;
            let mut fields = Fields::new();
            fields.insert("operation".into(), "get_deployment".into());
            fields.insert("deployment_id".into(), id.to_string().into());
            call(&client, &fields, Subject::Reading, screen)
        }
        Request::Operation(fields) => call(&client, &fields, Subject::Operation, screen),
    }
}

fn watch(client: &Client, which: &str, screen: &mut Screen) -> Result<Value, Trouble> {
    // An id is no likely name of a component.
    let which = match which.parse::<DeploymentId>() {
        Ok(id) => Which::Deployment(id),
        Err(_) => Which::Latest(which.parse::<Project>().map_err(|_| {
            Trouble::usage(format!(
                "{which:?} is neither a deployment's id nor a component's name"
            ))
        })?),
    };
    let id = match &which {
        Which::Deployment(id) => Some(id.to_string()),
        Which::Latest(_) => None,
    };
    let running = client.events(&which, 0).map_err(Trouble::usage)?;
    Following::new(screen, Subject::Watching, id)?.follow(&running)
}

/// Operations that can take long, and whose answer is therefore asked for as a stream.
const LONG: &[&str] = &[
    "deploy_component",
    "rollback_component",
    "restart_component",
    "sync",
];

fn call(
    client: &Client,
    fields: &Fields,
    subject: Subject,
    screen: &mut Screen,
) -> Result<Value, Trouble> {
    let name = fields
        .get("operation")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let follow = name == "get_logs" && fields.get("follow") == Some(&Value::Bool(true));
    let stream = follow || LONG.contains(&name);
    let subject = if stream && !follow {
        Subject::Deployment
    } else {
        subject
    };
    let running = client.call(fields, stream).map_err(Trouble::usage)?;
    Following::new(screen, subject, None)?.follow(&running)
}

fn print(value: &Value, output: Output, screen: Option<Screen>) -> Exit {
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
fn say(trouble: &Trouble, options: &ClientOptions, screen: &mut Screen) {
    if trouble.shown {
        return;
    }
    let failed = &trouble.failed;
    let mut message = failed.message.clone();
    if trouble.watch {
        message += &match &failed.deployment_id {
            Some(id) => {
                let target = connect::target_flag(options);
                format!("; deployment {id} may go on, follow it with: gangplank watch {id}{target}")
            }
            None => "; a deployment may go on, `gangplank list` shows it".to_owned(),
        };
    }
    screen.error(&message, failed.code.as_deref());
}

#[cfg(test)]
mod tests;
