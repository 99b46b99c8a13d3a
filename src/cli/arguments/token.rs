//! `token`: the access tokens of a root on this machine.

use std::path::PathBuf;

use pico_args::Arguments;

use crate::api::name::Project;
use crate::cli::arguments::{Usage, finish, leftover, only, value};
use crate::cli::screen::OutputFormat;
use crate::store::tokens::Role;

/// What the one argument is called where it is missing.
const NAME: &str = "the NAME of the token";

/// What becomes of a root's tokens.
#[derive(Debug)]
pub struct TokenOptions {
    /// The root; none for the default one.
    pub root: Option<PathBuf>,
    /// How the list is printed.
    pub output: OutputFormat,
    /// What is done.
    pub action: TokenAction,
}

/// What is done with a token.
#[derive(Debug)]
pub enum TokenAction {
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

pub(crate) fn parse(mut arguments: Arguments) -> Result<TokenOptions, Usage> {
    let root = value::path(&mut arguments, "--root")?;
    let output = value::parsed(&mut arguments, "--output", |text| {
        text.parse()
            .map_err(|_| "none of auto, text, json and yaml".to_owned())
    })?;
    let word = arguments.subcommand().map_err(super::pico)?;
    let action = match word.as_deref() {
        Some("add") => {
            let role = value::parsed(&mut arguments, "--role", str::parse)?;
            let mut projects = Vec::new();
            while let Some(project) = arguments
                .opt_value_from_str::<_, Project>("--project")
                .map_err(super::pico)?
            {
                projects.push(project);
            }
            TokenAction::Add {
                name: only(NAME, arguments)?,
                role: role.unwrap_or(Role::Deploy),
                projects,
            }
        }
        Some("list") => {
            finish(arguments)?;
            TokenAction::List
        }
        Some("revoke") => TokenAction::Revoke(only(NAME, arguments)?),
        Some(other) => return Err(leftover(other.as_ref())),
        None => return Err(Usage::new("`token` needs one of add, list and revoke")),
    };
    Ok(TokenOptions {
        root,
        output: output.unwrap_or(OutputFormat::Auto),
        action,
    })
}
