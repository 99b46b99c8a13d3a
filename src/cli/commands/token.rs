//! `token`: changes and shows the access tokens of a root on this machine. No server is asked: it reads the file at each use.

use serde_json::{Value, json};

use crate::api::error::{Doing, Error};
use crate::cli::arguments::{TokenAction, TokenOptions};
use crate::cli::screen::OutputFormat;
use crate::store::tokens::Tokens;
use crate::system::paths;

/// Does it, and gives what is to be printed, and how.
///
/// # Errors
/// When there is no such root, or its tokens cannot be read or changed.
pub(crate) fn run(options: &TokenOptions) -> Result<(Value, OutputFormat), Error> {
    let root = match &options.root {
        Some(root) => root.clone(),
        None => paths::default_root()?,
    };
    let root = root
        .canonicalize()
        .doing(|| format!("opening the root {}", root.display()))?;
    let tokens = Tokens::of(&root);
    match &options.action {
        TokenAction::Add {
            name,
            role,
            projects,
        } => {
            let secret = tokens.add(name, *role, projects)?;
            Ok((Value::from(secret.reveal()), OutputFormat::Text))
        }
        TokenAction::List => {
            let all = tokens.list()?.into_iter().map(|token| {
                json!({ "name": token.name, "role": token.role, "projects": token.projects })
            });
            let all: Vec<Value> = all.collect();
            Ok((json!({ "tokens": all }), options.output))
        }
        TokenAction::Revoke(name) => {
            tokens.revoke(name)?;
            let message = format!("Revoked: {name}");
            Ok((json!({ "message": message }), OutputFormat::Text))
        }
    }
}
