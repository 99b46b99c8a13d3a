//! Which package manager, with which words.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use crate::api::error::{Code, Refusal};
use crate::engine::install::{InstallRequest, find, first_word, needs, timeout};
use crate::engine::manifest::{Engine, Package, manifest, package};

/// What an installation will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// Nothing, and why.
    Skip(String),
    /// Run this.
    Run(Installer),
}

/// A command that installs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installer {
    /// What events call it: the program's name, or a command's first word.
    pub manager: String,
    /// The program and its arguments.
    pub words: Vec<String>,
    /// What it gets into its environment beside what every child gets.
    pub variables: Vec<(&'static str, &'static str)>,
    /// How long it may take.
    pub timeout: Duration,
    /// What asked for it, for the message if it is not there.
    pub asked_by: String,
}

/// Decides what to run, from the request and from what is in the release: the first that applies of the request's
/// command, the manifest's, nothing, `devEngines`, `packageManager`, a lock file, a manager's settings, npm. Also gives
/// warnings.
///
/// # Errors
/// `load_failed` if a file that it needs cannot be read, `install_failed` if a manager that must be there is not.
pub fn choose(request: &InstallRequest<'_>) -> Result<(Choice, Vec<String>), Refusal> {
    let manifest = manifest(request.release)?;
    let timeout = timeout(request, &manifest);
    let command = |line: &str, asked_by: &str| {
        Choice::Run(Installer {
            manager: first_word(line).to_owned(),
            words: vec!["sh".into(), "-c".into(), line.to_owned()],
            variables: Vec::new(),
            timeout,
            asked_by: asked_by.to_owned(),
        })
    };
    if let Some(line) = &request.options.install_command {
        return Ok((command(line, "install_command of the request"), Vec::new()));
    }
    if let Some(line) = &manifest.install_command {
        return Ok((
            command(line, "install_command of gangplank.json"),
            Vec::new(),
        ));
    }
    let Some(package) = package(request.release)? else {
        return Ok((Choice::Skip("there is no package.json".into()), Vec::new()));
    };
    if let Some(why) = needs::why_not(request, &package) {
        return Ok((Choice::Skip(why.into()), Vec::new()));
    }
    let mut warnings = Vec::new();
    let wanted = match from_engines(request, &package, &mut warnings)? {
        Some(wanted) => wanted,
        None => from_package(&package)?.unwrap_or_else(|| from_files(request.release)),
    };
    warnings.extend(wanted.unread_locks(request.release));
    Ok((Choice::Run(wanted.installer(request, timeout)), warnings))
}

/// A manager that was asked for.
struct RequestedManager {
    name: String,
    /// A version or a range of versions, where one was given.
    version: Option<String>,
    asked_by: String,
}

fn is_there(release: &Path, name: &str) -> bool {
    release.join(name).symlink_metadata().is_ok()
}

/// The first manager of `devEngines.packageManager` that is there. One that is not is judged by its `onFail`, which of
/// several only the last one has by default.
fn from_engines(
    request: &InstallRequest<'_>,
    package: &Package,
    warnings: &mut Vec<String>,
) -> Result<Option<RequestedManager>, Refusal> {
    let asked_by = "devEngines.packageManager of package.json";
    for (
        index,
        Engine {
            name,
            version,
            on_fail,
        },
    ) in package.engines.iter().enumerate()
    {
        if !is_program(name) {
            return Err(no_program(request, name, asked_by));
        }
        if find(request, name).is_some() {
            return Ok(Some(RequestedManager {
                name: name.clone(),
                version: version.clone(),
                asked_by: asked_by.into(),
            }));
        }
        let last = index + 1 == package.engines.len();
        let missing = format!(
            "installing dependencies of {} with {name}: {name} is not installed on the server, but {asked_by} asks for it",
            request.project
        );
        match on_fail
            .as_deref()
            .unwrap_or(if last { "error" } else { "ignore" })
        {
            "ignore" => {}
            "warn" => warnings.push(missing),
            // `download` is asked for too, and what it would download must already be here; an unknown word may mean no
            // less.
            _ => return Err(Refusal::new(Code::InstallFailed, missing)),
        }
    }
    Ok(None)
}

/// `packageManager`, such as `pnpm@9.1.0+sha512.abc`.
fn from_package(package: &Package) -> Result<Option<RequestedManager>, Refusal> {
    let Some(text) = &package.package_manager else {
        return Ok(None);
    };
    let (name, version) = match text.split_once('@') {
        Some((name, version)) => (name, Some(version.to_owned())),
        None => (text.as_str(), None),
    };
    if !is_program(name) {
        let shown = text.chars().take(80).collect::<String>();
        return Err(Refusal::new(
            Code::LoadFailed,
            format!("reading package.json: 'packageManager' does not name a program: {shown:?}"),
        ));
    }
    Ok(Some(RequestedManager {
        name: name.to_owned(),
        version,
        asked_by: "packageManager of package.json".into(),
    }))
}

/// The manager whose lock file is there, else the one whose settings are there, else npm.
fn from_files(release: &Path) -> RequestedManager {
    let settings = || {
        let mut settings = SETTINGS.iter();
        settings.find(|(_, file)| is_there(release, file)).copied()
    };
    let (name, asked_by) = locks(release)
        .next()
        .or_else(settings)
        .unwrap_or(("npm", "package.json"));
    RequestedManager {
        name: name.to_owned(),
        version: None,
        asked_by: asked_by.to_owned(),
    }
}

/// The managers that we know, with their lock files, in the order in which those are looked for.
pub(super) const MANAGERS: &[(&str, &[&str])] = &[
    ("pnpm", &["pnpm-lock.yaml"]),
    ("yarn", &["yarn.lock"]),
    ("npm", &["package-lock.json", "npm-shrinkwrap.json"]),
    ("bun", &["bun.lock", "bun.lockb"]),
];

/// Settings that only one manager reads.
const SETTINGS: &[(&str, &str)] = &[("pnpm", "pnpm-workspace.yaml"), ("yarn", ".yarnrc.yml")];

/// A lock file of a manager that we do not run.
const DENO_LOCK: &str = "deno.lock";

/// The managers whose lock files are there, each with the first of its files.
fn locks(release: &Path) -> impl Iterator<Item = (&'static str, &'static str)> {
    MANAGERS.iter().filter_map(move |(name, files)| {
        let file = files.iter().find(|file| is_there(release, file))?;
        Some((*name, *file))
    })
}

impl RequestedManager {
    /// Warns of lock files that another manager wrote: the versions in them are not the ones that are installed.
    fn unread_locks(&self, release: &Path) -> Option<String> {
        let mut unread: Vec<&str> = locks(release)
            .filter(|(name, _)| *name != self.name)
            .map(|(_, file)| file)
            .collect();
        if is_there(release, DENO_LOCK) {
            unread.push(DENO_LOCK);
        }
        if unread.is_empty() {
            return None;
        }
        let is = if unread.len() == 1 { "is" } else { "are" };
        let unread = unread.join(" and ");
        let (name, asked_by) = (&self.name, &self.asked_by);
        Some(format!(
            "{unread} {is} not read: {name} installs, as {asked_by} asks for it"
        ))
    }

    fn installer(self, request: &InstallRequest<'_>, timeout: Duration) -> Installer {
        let release = request.release;
        let scripts = request.options.install_allow_scripts;
        let modern_yarn = self.name == "yarn" && is_modern_yarn(release, self.version.as_deref());
        let locked = MANAGERS
            .iter()
            .find(|(name, _)| *name == self.name)
            .is_some_and(|(_, locks)| locks.iter().any(|lock| is_there(release, lock)));
        let words: &[&str] = match (self.name.as_str(), locked) {
            ("npm", true) => &["ci"],
            ("yarn", true) if modern_yarn => &["install", "--immutable"],
            ("pnpm" | "yarn" | "bun", true) => &["install", "--frozen-lockfile"],
            _ => &["install"],
        };
        let mut words = words
            .iter()
            .map(|word| (*word).to_owned())
            .collect::<Vec<_>>();
        let mut variables = Vec::new();
        if !scripts && modern_yarn {
            // Yarn refuses the flag since its second version, and has a setting instead.
            variables.push(("YARN_ENABLE_SCRIPTS", "false"));
        } else if !scripts {
            words.push("--ignore-scripts".to_owned());
        }
        words.insert(0, self.name.clone());
        Installer {
            manager: self.name,
            words,
            variables,
            timeout,
            asked_by: self.asked_by,
        }
    }
}

/// Whether yarn is its second version or newer, which takes other words: by the version that was asked for, else by the
/// files that only such a yarn writes.
fn is_modern_yarn(release: &Path, version: Option<&str>) -> bool {
    let major = version.and_then(|version| {
        // A range may begin with signs, as in `^4.0.0`.
        let digits = version.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
        let end = digits.find(|c: char| !c.is_ascii_digit());
        digits[..end.unwrap_or(digits.len())].parse::<u64>().ok()
    });
    if let Some(major) = major {
        return major >= 2;
    }
    // `stable` and `berry` are names of newer versions only.
    if matches!(version, Some("stable" | "berry")) || is_there(release, ".yarnrc.yml") {
        return true;
    }
    // Below the comment at the top.
    let mut top = Vec::new();
    let read = std::fs::File::open(release.join("yarn.lock"))
        .and_then(|file| file.take(4096).read_to_end(&mut top));
    let top = String::from_utf8_lossy(&top);
    read.is_ok() && top.lines().any(|line| line.starts_with("__metadata:"))
}

/// Whether a name is a program's, and not a path or a flag.
fn is_program(name: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    name.bytes().all(known)
        && name
            .bytes()
            .next()
            .is_some_and(|first| first.is_ascii_alphanumeric())
}

fn no_program(request: &InstallRequest<'_>, name: &str, asked_by: &str) -> Refusal {
    let shown = name.chars().take(80).collect::<String>();
    Refusal::new(
        Code::LoadFailed,
        format!(
            "installing dependencies of {}: {asked_by} does not name a program: {shown:?}",
            request.project
        ),
    )
}
