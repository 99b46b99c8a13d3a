//! `target`: names servers, with the credentials for each. No server is asked.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::api::error::{Doing, Error};
use crate::api::name::Secret;
use crate::cli::arguments::{
    CommandLine, Environment, Usage, finish, finish_words, leftover, one_of, value,
};
use crate::cli::commands::{Command, CommandSpec, LocalJob, Parse};
use crate::cli::config::targets::{self, SavedTarget, TargetsFile};
use crate::cli::config::token;
use crate::cli::screen::{OutputFormat, Screen};
use crate::client::{Client, Target};

pub(super) const COMMAND: CommandSpec = CommandSpec {
    words: &["target"],
    usage: "target add|list|remove",
    summary: "servers by name, for --target",
    help: "\
usage: gangplank target add NAME URL [--token-file F | --token -] [--ca-cert F]
       gangplank target list
       gangplank target remove NAME

Names a server, with what it takes to log in, for --target NAME. A \"target\" in a
directory's gangplank.json is such a name. All of it is kept in
$XDG_CONFIG_HOME/gangplank/targets.json, or below ~/.config, which only you may
read. A token goes to the URL beside it and nowhere else.

  --token-file F        read the token in this file at each use
  --token -             keep the token that is on stdin
  --ca-cert F           trust the certificates of this PEM file, and only them
  --output KIND         the list on stdout: auto, text, json, yaml
",
    example: "gangplank target add prod https://apps.example --token-file ~/prod.token",
    parse: Parse::Local(parse),
};

/// What becomes of the targets.
enum TargetAction {
    Add {
        name: String,
        url: Secret,
        token: Option<TokenSource>,
        ca_cert: Option<PathBuf>,
    },
    List,
    Remove(String),
}

/// Where a saved target has its token from.
enum TokenSource {
    /// From stdin now.
    Stdin,
    /// From the command line.
    Given(Secret),
    /// From a file, at each use.
    File(PathBuf),
}

fn parse(mut line: CommandLine, _: Environment) -> Result<Command, Usage> {
    let output = value::parsed(&mut line, "--output", str::parse)?;
    let output = output.unwrap_or(OutputFormat::Auto);
    let action = match one_of("target", &mut line, &["add", "list", "remove"])? {
        "add" => add(line)?,
        "list" => {
            finish(line)?;
            TargetAction::List
        }
        _ => TargetAction::Remove(value::one("the NAME of the target", line, value::word)?),
    };
    Ok(Command::Local(LocalJob::new(move |screen| {
        let file = TargetsFile::of_user()?;
        match action {
            TargetAction::List => Ok((list(&file, screen)?, output)),
            action => {
                if let TargetAction::Add {
                    token: Some(TokenSource::Stdin),
                    ..
                } = action
                {
                    token::announce(screen);
                }
                Ok((change(&file, action)?, OutputFormat::Text))
            }
        }
    })))
}

fn add(mut line: CommandLine) -> Result<TargetAction, Usage> {
    let token = value::text(&mut line, "--token")?;
    let token_file = value::path(&mut line, "--token-file")?;
    let token = match (token, token_file) {
        (Some(_), Some(_)) => {
            return Err(Usage::new("--token and --token-file cannot go together"));
        }
        (Some(token), None) if token != "-" => Some(TokenSource::Given(Secret::new(token))),
        (None, Some(file)) if file != Path::new("-") => Some(TokenSource::File(file)),
        (None, None) => None,
        _ => Some(TokenSource::Stdin),
    };
    let ca_cert = value::path(&mut line, "--ca-cert")?;
    let mut words = finish_words(line)?.into_iter();
    let mut next = |what: &str| {
        let word = words.next();
        let word = word.ok_or_else(|| Usage::new(format!("{what} is missing")))?;
        word.into_string().map_err(|word| leftover(&word))
    };
    let name = next("the NAME of the target")?;
    let url = Secret::new(next("the URL of the target")?);
    if let Some(more) = words.next() {
        return Err(leftover(&more));
    }
    if !targets::is_name(&name) {
        return Err(Usage::new(format!(
            "{:?} cannot be the name of a target: letters, digits, '-' and '_', at most 63, the first one a letter or a \
             digit",
            name.rsplit('@').next().unwrap_or_default()
        )));
    }
    Ok(TargetAction::Add {
        name,
        url,
        token,
        ca_cert,
    })
}

fn list(file: &TargetsFile, screen: &mut Screen) -> Result<Value, Error> {
    let (all, warning) = file.read()?;
    if let Some(warning) = warning {
        screen.warning(&warning);
    }
    let rows = all.iter().map(|(name, saved)| {
        let target = Target::parse(saved.url.reveal());
        let url = match &target {
            Ok(target) => target.to_string(),
            Err(error) => error.to_string(),
        };
        let in_url = target.is_ok_and(|target| target.credentials().is_some());
        let login = match (&saved.token, &saved.token_file) {
            (Some(_), _) => "token".to_owned(),
            (None, Some(file)) => format!("token in {}", file.display()),
            (None, None) if in_url => "name and password".to_owned(),
            (None, None) => "-".to_owned(),
        };
        let mut row = json!({ "name": name, "url": url, "login": login });
        if let Some(file) = &saved.ca_cert {
            row["ca_cert"] = file.display().to_string().into();
        }
        row
    });
    Ok(json!({ "targets": rows.collect::<Vec<_>>() }))
}

fn change(file: &TargetsFile, action: TargetAction) -> Result<Value, Error> {
    let mut message = String::new();
    match action {
        TargetAction::Add {
            name,
            url,
            token,
            ca_cert,
        } => {
            let saved = saved(&url, token, ca_cert)?;
            let target = Target::parse(saved.url.reveal())?;
            message = format!("Added: {name}, {target}");
            file.change(|all| {
                if all.contains_key(&name) {
                    let why =
                        format!("it is there already: `gangplank target remove {name}` first");
                    return Err(Error::new(format!("adding the target {name}"), why));
                }
                all.insert(name, saved);
                Ok(())
            })?;
        }
        TargetAction::Remove(name) => file.change(|all| {
            message = format!("Removed: {name}");
            match all.remove(&name) {
                Some(_) => Ok(()),
                None => Err(Error::new(
                    format!("removing the target {name:?}"),
                    targets::absent(&name, all),
                )),
            }
        })?,
        TargetAction::List => {}
    }
    Ok(json!({ "message": message }))
}

/// What is kept of a target, once it is sure that it can be used: from any directory, so that its paths are absolute.
fn saved(
    url: &Secret,
    token: Option<TokenSource>,
    ca_cert: Option<PathBuf>,
) -> Result<SavedTarget, Error> {
    let target = Target::parse(url.reveal())?;
    if target.credentials().is_some() && token.is_some() {
        let why = "the URL has a user name and a password, which cannot go with a token";
        return Err(Error::new("reading the credentials", why));
    }
    let url = match target.socket() {
        Some(path) => Secret::new(format!("unix:{}", absolute(path)?.display())),
        None => Secret::new(url.reveal().trim()),
    };
    let mut saved = SavedTarget {
        url,
        token: None,
        token_file: None,
        ca_cert: ca_cert.as_deref().map(absolute).transpose()?,
    };
    match token {
        Some(TokenSource::Stdin) => saved.token = Some(token::from_stdin()?),
        Some(TokenSource::Given(text)) => {
            saved.token = Some(token::from_text(text.reveal(), "--token")?);
        }
        Some(TokenSource::File(file)) => {
            token::from_file(&file)?;
            saved.token_file = Some(absolute(&file)?);
        }
        None => {}
    }
    if let Some(file) = &saved.ca_cert {
        Client::new(target)?.with_roots(file)?;
    }
    Ok(saved)
}

/// The same path from any directory. The file itself may be a link, which stays one.
fn absolute(path: &Path) -> Result<PathBuf, Error> {
    let found = std::path::absolute(path).doing(|| format!("finding {}", path.display()))?;
    let dir = found.parent().and_then(|dir| dir.canonicalize().ok());
    match (dir, found.file_name()) {
        (Some(dir), Some(name)) => Ok(dir.join(name)),
        _ => Ok(found),
    }
}
