//! `token`: changes and shows the access tokens of a root on this machine. No server is asked: it reads the file at each use.

use std::io;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::api::error::{Doing, Error};
use crate::api::name::Project;
use crate::cli::arguments::{CommandLine, Environment, Usage, finish, one_of, value};
use crate::cli::commands::{Command, CommandSpec, LocalJob, Parse};
use crate::cli::screen::OutputFormat;
use crate::store::tokens::{Role, Tokens};
use crate::system::paths;

pub(super) const COMMAND: CommandSpec = CommandSpec {
    words: &["token"],
    usage: "token add|list|revoke",
    summary: "access tokens of a root on this machine",
    help: "\
usage: gangplank token add NAME [--role R] [--project P]... [--root DIR]
       gangplank token list [--root DIR]
       gangplank token revoke NAME [--root DIR]

Access tokens of a root on this machine. `add` prints the token, once, alone on
stdout; only its hash is kept. A change holds from the server's next request on.

  --root DIR            the server's root (GANGPLANK_ROOT)
  --role R              admin: everything; deploy: all but payload download and
                        tokens; read: looking only; fleet: payloads by their
                        SHA-256 and nothing else (deploy)
  --project P           limited to this component; may be repeated
  --output KIND         the list on stdout: auto, text, json, yaml
",
    example: "gangplank token add ci --role deploy --project my-app > ci.token",
    parse: Parse::Local(parse),
};

/// What the one argument is called where it is missing.
const NAME: &str = "the NAME of the token";

/// What is done with a token.
#[derive(Debug)]
enum TokenAction {
    /// Make one.
    Add {
        /// Its name.
        name: String,
        /// What it allows.
        role: Role,
        /// The components that it is limited to.
        projects: Vec<Project>,
    },
    /// Show all.
    List,
    /// Take one away, by its name.
    Revoke(String),
}

fn parse(mut line: CommandLine, _: Environment) -> Result<Command, Usage> {
    let root = value::path(&mut line, "--root")?;
    let output = value::parsed(&mut line, "--output", str::parse)?;
    let action = match one_of("token", &mut line, &["add", "list", "revoke"])? {
        "add" => {
            let role = value::parsed(&mut line, "--role", str::parse)?;
            let mut projects = Vec::new();
            while let Some(name) = value::parsed(&mut line, "--project", value::project)? {
                projects.push(name);
            }
            TokenAction::Add {
                name: value::one(NAME, line, value::word)?,
                role: role.unwrap_or(Role::Deploy),
                projects,
            }
        }
        "list" => {
            finish(line)?;
            TokenAction::List
        }
        _ => TokenAction::Revoke(value::one(NAME, line, value::word)?),
    };
    let output = output.unwrap_or(OutputFormat::Auto);
    Ok(Command::Local(LocalJob::new(move |_| {
        Ok(match run(root, &action).map_err(advised)? {
            (value, true) => (value, output),
            (value, false) => (value, OutputFormat::Text),
        })
    })))
}

/// Adds what to do where it is forbidden.
fn advised(error: Error) -> Error {
    let forbidden = |io: &io::Error| io.kind() == io::ErrorKind::PermissionDenied;
    match error.io().is_some_and(forbidden) {
        true => Error::new(error.to_string(), "run this as the user of the server"),
        false => error,
    }
}

/// Does it, and gives what is to be printed, and whether it is a list.
fn run(root: Option<PathBuf>, action: &TokenAction) -> Result<(Value, bool), Error> {
    let root = match root {
        Some(root) => root,
        None => paths::default_root()?,
    };
    let root = root
        .canonicalize()
        .doing(|| format!("opening the root {}", root.display()))?;
    let tokens = Tokens::of(&root);
    match action {
        TokenAction::Add {
            name,
            role,
            projects,
        } => {
            let secret = tokens.add(name, *role, projects)?;
            Ok((Value::from(secret.reveal()), false))
        }
        TokenAction::List => {
            let all = tokens.list()?.into_iter().map(|token| {
                json!({ "name": token.name, "role": token.role, "projects": token.projects })
            });
            let all: Vec<Value> = all.collect();
            Ok((json!({ "tokens": all }), true))
        }
        TokenAction::Revoke(name) => {
            tokens.revoke(name)?;
            let message = format!("Revoked: {name}");
            Ok((json!({ "message": message }), false))
        }
    }
}
