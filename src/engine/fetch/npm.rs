//! A package from npm's registry, by `npm pack`: npm knows its registries, their credentials and their proxies.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;

use crate::api::source::SourceRevision;
use crate::engine::attempt::Attempt;
use crate::engine::child_env::value_of;
use crate::engine::fetch::FetchRequest;
use crate::engine::fetch::local::open_file;
use crate::engine::fetch::payload::FetchedPayload;
use crate::engine::fetch::step::{FetchProgram, Says};
use crate::engine::fetch::workspace::Workspace;
use crate::engine::outcome::Failed;
use crate::system::child::act_as;

/// Where a token without a registry goes.
const REGISTRY: &str = "https://registry.npmjs.org/";

/// Fetches a package; gives its version.
pub(super) fn fetch(
    request: &FetchRequest<'_>,
    (name, range): (&str, Option<&str>),
    attempt: &mut Attempt,
    payload: &mut FetchedPayload<'_>,
) -> Result<Option<SourceRevision>, Box<Failed>> {
    let workspace = Workspace::make(request)?;
    let mut npm = FetchProgram::find(request, "npm", |_| true, token(request))?;
    let spec = match range {
        Some(range) => format!("{name}@{range}"),
        None => name.to_owned(),
    };
    let words = [
        "pack",
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
        "--no-update-notifier",
        // Not a list of all that is in it, but a line for each request that it makes.
        "--json",
        "--loglevel=http",
        "--",
        &spec,
    ];
    npm.run(workspace.path(), &words, Says::Answer, attempt)?;
    let file = act_as(request.account, || packed(workspace.path()));
    let file = file.map_err(|error| request.failed(format!("npm: {error}")))?;
    let tarball = open_file(request, &workspace.path().join(&file))?;
    payload.expect(tarball.metadata().ok().map(|meta| meta.len()))?;
    payload.copy(tarball, attempt)?;
    Ok(SourceRevision::found(version(name, &file), None, None))
}

/// The name of the one file that npm has made.
fn packed(dir: &Path) -> io::Result<String> {
    let mut found = None;
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".tgz") && found.replace(name).is_some() {
            return Err(io::Error::other("it made more than one tarball"));
        }
    }
    found.ok_or_else(|| io::Error::other("it made no tarball"))
}

/// The version that a tarball's name has: `scope-name-1.2.3.tgz` of `@scope/name`.
fn version(name: &str, file: &str) -> Option<String> {
    let flat = name.trim_start_matches('@').replace('/', "-");
    let version = file.strip_prefix(&flat)?.strip_prefix('-')?;
    version.strip_suffix(".tgz").map(str::to_owned)
}

/// `NPM_TOKEN` of the component's environment, for its registry, where the user has no `.npmrc` that says what it is for. npm
/// reads it from its environment, so that it stands in no list of arguments.
fn token(request: &FetchRequest<'_>) -> Vec<(OsString, OsString)> {
    let of = |name: &str| value_of(request.environment, name);
    let Some(token) = of("NPM_TOKEN").filter(|token| !token.is_empty()) else {
        return Vec::new();
    };
    let home = of("HOME").unwrap_or_default();
    let own = Path::new(home).join(".npmrc");
    let has_own = act_as(request.account, || Ok(own.symlink_metadata().is_ok()));
    if has_own.unwrap_or(false) {
        return Vec::new();
    }
    let registry = of("npm_config_registry").or(of("NPM_CONFIG_REGISTRY"));
    let registry = registry
        .and_then(|registry| registry.to_str())
        .unwrap_or(REGISTRY);
    let Some((_, place)) = registry.split_once("://") else {
        return Vec::new();
    };
    let place = place.trim_end_matches('/');
    vec![(
        format!("npm_config_//{place}/:_authToken").into(),
        token.to_owned(),
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_stands_in_the_files_name() {
        let table = [
            ("left-pad", "left-pad-1.3.0.tgz", Some("1.3.0")),
            (
                "@my-org/app",
                "my-org-app-2.0.0-rc.1.tgz",
                Some("2.0.0-rc.1"),
            ),
            ("left-pad", "other-1.tgz", None),
            ("left-pad", "left-pad.tgz", None),
        ];
        for (name, file, expected) in table {
            assert_eq!(version(name, file).as_deref(), expected, "{file}");
        }
    }
}
