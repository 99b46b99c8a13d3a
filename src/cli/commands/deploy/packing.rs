//! What is sent of a directory, and what is said and asked before it is.

use std::path::Path;

use crate::api::error::{Doing, Error};
use crate::api::name::Project;
use crate::cli::commands::deploy::DeployOptions;
use crate::cli::screen::{Screen, units};
use crate::cli::session::CommandError;
use crate::formats::archive::{self, DeployedTree, PackOptions, PackPlan, ReadyArchive};

/// More than this is seldom meant, and takes a while: 1 GiB.
const ASKED_ABOVE: u64 = 1 << 30;

/// So many secrets are named: a line or two of a terminal.
const SECRETS_NAMED: usize = 8;

/// Refuses the two directories in which somebody has typed the command by mistake, and that hold everything.
pub(super) fn refuse_odd_place(dir: &Path) -> Result<(), CommandError> {
    let doing = || format!("deploying {}", dir.display());
    let place = dir
        .canonicalize()
        .doing(doing)
        .map_err(CommandError::usage)?;
    let home = std::env::var_os("HOME").and_then(|home| Path::new(&home).canonicalize().ok());
    let what = if place == Path::new("/") {
        "it is the root of the file system"
    } else if home.is_some_and(|home| home == place) {
        "it is your home directory"
    } else {
        return Ok(());
    };
    let why = format!("{what}; --yes deploys it all the same");
    Err(CommandError::usage(Error::new(doing(), why)))
}

/// Decides what is sent, and says it. What was sent last need not be opened to find out what it is.
pub(super) fn plan(
    screen: &mut Screen,
    dir: &Path,
    project: &Project,
    options: &DeployOptions,
    kept: Option<&DeployedTree>,
) -> Result<PackPlan, CommandError> {
    let pack_options = PackOptions {
        include_node_modules: options.include_node_modules,
        include_git: options.include_git,
        include_secrets: options.include_env,
        skip_symlinks: options.skip_symlinks,
        ignore_file: options.ignore_file.clone(),
    };
    let kept = kept.filter(|_| !options.rehash);
    let plan = archive::plan_again(dir, &pack_options, kept).map_err(CommandError::usage)?;
    for warning in plan.warnings() {
        screen.warning(warning);
    }
    for (name, bytes) in plan.holes() {
        let holes = units::size(*bytes);
        screen.warning(&format!(
            "'{name}' has holes of {holes}, which are sent as zeros"
        ));
    }
    if !plan.secrets().is_empty() {
        screen.warning(&left_out(plan.secrets(), project));
    }
    let (files, size) = (plan.files(), units::size(plan.total()));
    let plural = if files == 1 { "" } else { "s" };
    screen.remark(&format!("Packing {files} file{plural}, {size}"));
    let large = plan.total() > ASKED_ABOVE && !options.yes;
    if large && screen.ask(&format!("Send {size}?")) == Some(false) {
        return Err(CommandError::usage("nothing was sent"));
    }
    Ok(plan)
}

/// Looks at an archive that is sent as it is, and says so.
pub(super) fn archive(screen: &mut Screen, file: &Path) -> Result<ReadyArchive, CommandError> {
    let found = archive::ready(file).map_err(CommandError::usage)?;
    let (name, size) = (file.display(), units::size(found.bytes));
    screen.remark(&format!("Sending {name} as it is, {size}"));
    Ok(found)
}

/// The line about secrets.
fn left_out(secrets: &[String], project: &Project) -> String {
    let named = &secrets[..secrets.len().min(SECRETS_NAMED)];
    let more = match secrets.len() - named.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(
        "left out as secret: {}{more}; `gangplank env set {project} --from .env` gives the app its settings, and \
         --include-env sends these too",
        named.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_about_secrets_has_an_end() {
        let project = "app".parse().unwrap();
        let names: Vec<String> = (0..10).map(|n| format!("{n}/.env")).collect();
        let said = left_out(&names[..2], &project);
        assert!(said.starts_with("left out as secret: 0/.env, 1/.env; `gangplank env set app "));
        let said = left_out(&names, &project);
        assert!(said.contains("7/.env and 2 more; "), "{said}");
    }
}
