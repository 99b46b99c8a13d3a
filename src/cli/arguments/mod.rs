//! Arguments to a typed [`Command`], and the help texts.
//!
//! Whatever is not understood is refused and named: an unknown flag, a flag given twice, a leftover argument, a value that
//! makes no sense. No value of a secret is ever named. Nothing is looked up here but the environment that is handed in.

mod client;
mod component;
mod deploy;
mod help;
mod serve;
mod token;
mod value;

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use pico_args::Arguments;

use crate::api::operation::Fields;

pub use crate::cli::arguments::client::ClientOptions;
pub use crate::cli::arguments::deploy::DeployOptions;
pub use crate::cli::arguments::token::{TokenAction, TokenOptions};
use crate::engine::settings::ServeOptions;

/// What the user wants.
#[derive(Debug)]
pub enum Command {
    /// Print this text on stdout.
    Help(String),
    /// Run the server.
    Serve(Box<ServeOptions>),
    /// Change or show the access tokens of a root.
    Token(TokenOptions),
    /// Ask a server.
    Client(Box<ClientOptions>, ClientRequest),
}

/// What is asked of a server.
#[derive(Debug)]
pub enum ClientRequest {
    /// Deploy a directory, or activate an earlier release.
    Deploy(Box<DeployOptions>),
    /// Follow a deployment to its end: its id, or its component.
    Watch(String),
    /// The deployments, with these fields of `list_deployments`.
    List(Fields),
    /// One deployment's record.
    Show(String),
    /// What is live: all components, or one.
    Status {
        /// The operation.
        fields: Fields,
        /// The one component.
        project: Option<String>,
    },
    /// The bytes of a stored payload.
    Payload {
        /// The operation.
        fields: Fields,
        /// Where they go; stdout if it is not said.
        out: Option<PathBuf>,
    },
    /// What a component's processes print.
    Logs {
        /// The operation.
        fields: Fields,
        /// Whether it goes on.
        follow: bool,
    },
    /// Any operation, its name among the fields.
    Operation(Fields),
}

/// Wrong usage, in one sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage(String);

impl Usage {
    fn new(message: impl Into<String>) -> Usage {
        Usage(message.into())
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// The environment, by name. A variable that is set to nothing counts as not set.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads the arguments, the program's own name not among them.
///
/// # Errors
/// Wrong usage.
pub fn parse(arguments: Vec<OsString>, environment: Environment) -> Result<Command, Usage> {
    let environment = |name: &str| environment(name).filter(|value| !value.is_empty());
    let mut arguments = Arguments::from_vec(arguments);
    let Some(name) = arguments.subcommand().map_err(pico)? else {
        return without_command(arguments);
    };
    if name == "help" {
        let about = arguments.subcommand().map_err(pico)?;
        finish(arguments)?;
        return match about {
            None => Ok(Command::Help(help::overview())),
            Some(about) => match help::of(&about) {
                Some(text) => Ok(Command::Help(text)),
                None => Err(unknown_command(&about)),
            },
        };
    }
    let Some(text) = help::of(&name) else {
        return Err(unknown_command(&name));
    };
    if arguments.contains(["-h", "--help"]) {
        return Ok(Command::Help(text));
    }
    if name == "serve" {
        return serve::parse(arguments, &environment)
            .map(|options| Command::Serve(Box::new(options)));
    }
    if name == "token" {
        return token::parse(arguments).map(Command::Token);
    }
    let mut options = client::parse(&mut arguments)?;
    let request = match name.as_str() {
        "deploy" | "deploy_component" => {
            ClientRequest::Deploy(Box::new(deploy::parse(arguments, &mut options)?))
        }
        "watch" => ClientRequest::Watch(only("ID or PROJECT", arguments)?),
        "list" => component::list(arguments)?,
        "rollback" => component::rollback(arguments)?,
        "cancel" => component::cancel(arguments)?,
        "payload" => component::payload(arguments)?,
        "drop" => component::drop(arguments)?,
        "restart" => component::restart(arguments)?,
        "status" => component::status(arguments)?,
        "logs" => component::logs(arguments)?,
        "sync" => component::sync(arguments)?,
        "show" => ClientRequest::Show(only("ID", arguments)?),
        // `help::of` knows no other.
        _ => operation(arguments, &mut options)?,
    };
    Ok(Command::Client(Box::new(options), request))
}

/// The few lines for who gave no command.
pub fn usage() -> &'static str {
    help::USAGE
}

fn without_command(mut arguments: Arguments) -> Result<Command, Usage> {
    let version = arguments.contains(["-V", "--version"]);
    let help = arguments.contains(["-h", "--help"]);
    finish(arguments)?;
    if help {
        Ok(Command::Help(help::overview()))
    } else if version {
        let version = env!("CARGO_PKG_VERSION");
        Ok(Command::Help(format!("gangplank {version}\n")))
    } else {
        Err(Usage::new("no command was given"))
    }
}

fn unknown_command(name: &str) -> Usage {
    Usage::new(format!(
        "unknown command {name:?}; `gangplank help` lists them"
    ))
}

fn operation(arguments: Arguments, options: &mut ClientOptions) -> Result<ClientRequest, Usage> {
    let (words, rest) = value::split(finish_words(arguments)?)?;
    let mut rest = rest.into_iter();
    let name = rest
        .next()
        .ok_or_else(|| Usage::new("`op` needs the NAME of an operation"))?;
    if let Some(more) = rest.next() {
        return Err(leftover(&more));
    }
    let name = name.into_string().map_err(|name| leftover(&name))?;
    let mut fields = Fields::new();
    fields.insert("operation".into(), name.into());
    let packing = value::add(words, &mut fields, options)?;
    if packing.any() {
        return Err(Usage::new(
            "skip_node_modules and skip_symlinks are for `deploy`, which packs a directory",
        ));
    }
    Ok(ClientRequest::Operation(fields))
}

/// The one argument that a command takes.
fn only(what: &str, arguments: Arguments) -> Result<String, Usage> {
    let mut rest = finish_words(arguments)?.into_iter();
    let one = rest
        .next()
        .ok_or_else(|| Usage::new(format!("{what} is missing")))?;
    match rest.next() {
        Some(more) => Err(leftover(&more)),
        None => one.into_string().map_err(|one| leftover(&one)),
    }
}

/// What is left when all flags are taken; a flag among it is one too many.
fn finish_words(arguments: Arguments) -> Result<Vec<OsString>, Usage> {
    let rest = arguments.finish();
    match rest
        .iter()
        .find(|word| word.as_encoded_bytes().starts_with(b"-"))
    {
        Some(flag) => Err(leftover(flag)),
        None => Ok(rest),
    }
}

fn finish(arguments: Arguments) -> Result<(), Usage> {
    match finish_words(arguments)?.first() {
        Some(word) => Err(leftover(word)),
        None => Ok(()),
    }
}

fn leftover(word: &std::ffi::OsStr) -> Usage {
    // What stands behind the equals sign may be a secret.
    let text = word.to_string_lossy();
    let shown = text.split('=').next().unwrap_or_default();
    if shown.starts_with('-') {
        Usage::new(format!(
            "the flag {shown} is not known here, or was given twice"
        ))
    } else {
        Usage::new(format!("the argument {shown:?} is one too many"))
    }
}

fn pico(error: pico_args::Error) -> Usage {
    Usage::new(error.to_string())
}

#[cfg(test)]
mod tests;
