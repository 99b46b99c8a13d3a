//! What a release says of itself: `gangplank.json`, `package.json` and `Procfile`.
//!
//! A file that is missing says nothing. One that is there is read whole, under a limit, and either understood or refused
//! with `load_failed` and its name and line.

pub(super) mod text;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use serde_json::value::RawValue;

use crate::api::error::{Code, Refusal};
use crate::api::json;
use crate::api::name::Project;
use crate::engine::manifest::text::read_inside;
use crate::engine::shared::SharedPath;
use crate::system::time::duration;

/// The longest file of ours: thousands of lines.
const FILE_LEN_MAX: u64 = 1 << 20;
/// The longest package.json: they are generated and grow large.
const PACKAGE_LEN_MAX: u64 = 16 << 20;
/// How long new processes may take to become healthy, unless `health_timeout` says otherwise.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(30);

/// `gangplank.json`. Everything is optional; an unknown key is refused, since it is a misspelt one.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Manifest {
    /// The component's name, for who deploys it.
    pub project: Option<Project>,
    /// The name of a target, for who deploys it.
    pub target: Option<String>,
    /// Run instead of the package manager.
    #[serde(deserialize_with = "command")]
    pub install_command: Option<String>,
    /// The installation's time limit.
    #[serde(deserialize_with = "optional_time")]
    pub install_timeout: Option<Duration>,
    /// A command that says by its exit code whether the release can run.
    #[serde(deserialize_with = "command")]
    pub check: Option<String>,
    /// How it is known that a new process is healthy.
    pub health: Option<Health>,
    /// How long that may take.
    #[serde(deserialize_with = "time")]
    pub health_timeout: Duration,
    /// The process types that get a listening socket, with its `host:port`.
    #[serde(deserialize_with = "sockets")]
    pub sockets: BTreeMap<String, String>,
    /// What stays from release to release.
    #[serde(deserialize_with = "shared")]
    pub shared: Vec<SharedPath>,
}

/// Ports below this one are the superuser's to give.
const UNPRIVILEGED_FROM: u16 = 1024;

impl Manifest {
    /// Refuses sockets at ports that only the superuser may listen on.
    ///
    /// # Errors
    /// `load_failed`, which names the first of them.
    pub fn needs_no_privilege(&self) -> Result<(), Refusal> {
        let port = |address: &str| address.rsplit_once(':')?.1.parse::<u16>().ok();
        let low = |(_, address): &(&String, &String)| {
            port(address).is_some_and(|port| port < UNPRIVILEGED_FROM)
        };
        let Some((kind, address)) = self.sockets.iter().find(low) else {
            return Ok(());
        };
        let why = format!(
            "gangplank.json: the socket of {kind} is at {address}, and this server allows no port below \
             {UNPRIVILEGED_FROM} (--no-privileged-sockets)"
        );
        Err(Refusal::new(Code::LoadFailed, why))
    }
}

impl Manifest {
    /// Refuses `health.http` where it would judge nothing: behind a held socket the old process may answer for the new one.
    ///
    /// # Errors
    /// `load_failed`, which names what would judge.
    pub fn judges(&self, types: &[ProcessType]) -> Result<(), Refusal> {
        let held = |one: &ProcessType| self.sockets.contains_key(&one.name);
        let by_http = matches!(self.health, Some(Health::Http(_)));
        if !by_http || types.is_empty() || !types.iter().all(held) {
            return Ok(());
        }
        let why = "gangplank.json: 'health.http' would judge no process, since every type has a held socket, where \
                   the old process may answer for the new one; use 'notify' or 'command'";
        Err(Refusal::new(Code::LoadFailed, why))
    }
}

impl Default for Manifest {
    fn default() -> Manifest {
        Manifest {
            project: None,
            target: None,
            install_command: None,
            install_timeout: None,
            check: None,
            health: None,
            health_timeout: HEALTH_TIMEOUT,
            sockets: BTreeMap::new(),
            shared: Vec::new(),
        }
    }
}

/// How it is known that a process is healthy.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "HealthText")]
pub enum Health {
    /// This URL answers with success.
    Http(String),
    /// This command exits with 0.
    Command(String),
    /// The process says so through `NOTIFY_SOCKET`.
    Notify,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum HealthText {
    Http(String),
    Command(String),
    Notify(bool),
}

impl TryFrom<HealthText> for Health {
    type Error = String;

    fn try_from(text: HealthText) -> Result<Health, String> {
        match text {
            HealthText::Http(url) if url.starts_with("http://") || url.starts_with("https://") => {
                Ok(Health::Http(url))
            }
            HealthText::Http(_) => {
                Err("'http' must be a URL that begins with http:// or https://".into())
            }
            HealthText::Command(command) => Ok(Health::Command(runnable(command)?)),
            HealthText::Notify(true) => Ok(Health::Notify),
            HealthText::Notify(false) => Err("'notify' can only be true".into()),
        }
    }
}

/// Reads `gangplank.json`; without one, everything is as by default.
///
/// # Errors
/// `load_failed` with file and line.
pub fn manifest(dir: &Path) -> Result<Manifest, Refusal> {
    let Some(text) = read_inside(dir, "gangplank.json", FILE_LEN_MAX)? else {
        return Ok(Manifest::default());
    };
    json::from_text(&text).map_err(|error| text.refused_json(&error, 0))
}

fn shared<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<SharedPath>, D::Error> {
    let paths = Vec::<SharedPath>::deserialize(deserializer)?;
    for (n, one) in paths.iter().enumerate() {
        if let Some(other) = paths[..n].iter().find(|other| one.contains(other)) {
            let why = format!(
                "the shared paths {:?} and {:?} contain one another",
                other.text(),
                one.text()
            );
            return Err(de::Error::custom(why));
        }
    }
    Ok(paths)
}

fn command<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let command = Option::<String>::deserialize(deserializer)?;
    command.map(runnable).transpose().map_err(de::Error::custom)
}

fn runnable(command: String) -> Result<String, &'static str> {
    if command.trim().is_empty() {
        Err("a command must not be empty")
    } else if command.contains('\0') {
        Err("a command must not hold a NUL")
    } else {
        Ok(command)
    }
}

fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    struct TimeVisitor;

    impl Visitor<'_> for TimeVisitor {
        type Value = Duration;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a time above zero, as whole seconds or like \"30s\" or \"5m\"")
        }

        fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<Duration, E> {
            match seconds {
                0 => Err(E::invalid_value(de::Unexpected::Unsigned(0), &self)),
                seconds => Ok(Duration::from_secs(seconds)),
            }
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
            // Zero would be over before it begins.
            let time = duration(text).filter(|time| !time.is_zero());
            time.ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
        }
    }

    deserializer.deserialize_any(TimeVisitor)
}

fn optional_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    #[derive(Deserialize)]
    struct ManifestTime(#[serde(deserialize_with = "time")] Duration);

    Ok(Option::<ManifestTime>::deserialize(deserializer)?.map(|time| time.0))
}

fn sockets<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    let sockets = BTreeMap::<String, String>::deserialize(deserializer)?;
    for (kind, address) in &sockets {
        if !is_process_type(kind) {
            return Err(de::Error::custom(format!(
                "{kind:?} is not a process type: letters, digits, '-' and '_'"
            )));
        }
        if !is_address(address) {
            return Err(de::Error::custom(format!(
                "{address:?} is not an address like \"127.0.0.1:8080\" or \"[::1]:8080\""
            )));
        }
    }
    Ok(sockets)
}

/// `host:port`, or an IPv6 address in brackets. The port is a real one: a held socket at a random port is of little use.
fn is_address(text: &str) -> bool {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return address.port() != 0;
    }
    let host_byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    text.rsplit_once(':').is_some_and(|(host, port)| {
        let port = port.bytes().all(|byte| byte.is_ascii_digit())
            && port.parse::<u16>().is_ok_and(|port| port != 0);
        !host.is_empty() && host.bytes().all(host_byte) && port
    })
}

/// What gangplank needs of a `package.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Package {
    /// `devEngines.packageManager`, one or several.
    pub engines: Vec<Engine>,
    /// `packageManager`, such as `pnpm@9.1.0`.
    pub package_manager: Option<String>,
    /// `scripts.start`
    pub start: Option<String>,
    /// It names packages: dependencies of any kind, or workspaces.
    pub names_packages: bool,
    /// It has scripts that a package manager runs when it installs.
    pub install_scripts: bool,
}

/// The members that name packages. npm installs the peers, too.
const NAMING: [&str; 6] = [
    "dependencies",
    "devDependencies",
    "optionalDependencies",
    "peerDependencies",
    "bundleDependencies",
    "workspaces",
];

/// The scripts that package managers run when they install.
const INSTALL_SCRIPTS: [&str; 9] = [
    "preinstall",
    "install",
    "postinstall",
    "preprepare",
    "prepare",
    "postprepare",
    "prepublish",
    "dependencies",
    "pnpm:devPreinstall",
];

/// An entry of `devEngines.packageManager`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Engine {
    /// The program's name.
    pub name: String,
    /// Which versions, as npm writes ranges.
    pub version: Option<String>,
    /// What to do if it is not there: `error`, `download`, `warn` or `ignore`.
    pub on_fail: Option<String>,
}

/// Reads `package.json`, if there is one. Its other keys may be anything, and of a key that comes twice the last one
/// counts, as everywhere in JavaScript.
///
/// # Errors
/// `load_failed` with file and line.
pub fn package(dir: &Path) -> Result<Option<Package>, Refusal> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(Engine),
        Many(Vec<Engine>),
    }

    let Some(text) = read_inside(dir, "package.json", PACKAGE_LEN_MAX)? else {
        return Ok(None);
    };
    let top = text.object(&text)?;
    let mut package = Package::default();
    if let Some(raw) = top.get("packageManager") {
        package.package_manager = text.value(raw, "'packageManager' must be a string")?;
    }
    if let Some(raw) = present(top.get("scripts")) {
        let scripts = text.object(raw.get())?;
        if let Some(start) = scripts.get("start") {
            package.start = text.value(start, "'scripts.start' must be a string")?;
        }
        package.install_scripts = INSTALL_SCRIPTS
            .iter()
            .any(|name| scripts.contains_key(*name));
    }
    // What is neither an object nor a list is for the package manager to judge.
    let says_nothing = |raw: &&RawValue| {
        let inner = raw.get().trim_matches(['{', '}', '[', ']']);
        inner.trim().is_empty() || matches!(inner, "false" | "\"\"")
    };
    package.names_packages = NAMING
        .iter()
        .filter_map(|name| present(top.get(*name)))
        .any(|raw| !says_nothing(&raw));
    let engines = match present(top.get("devEngines")) {
        Some(raw) => text.object(raw.get())?.get("packageManager").copied(),
        None => None,
    };
    if let Some(raw) = engines {
        let why =
            "'devEngines.packageManager' must be an object with a 'name', or an array of them";
        package.engines = match text.value(raw, why)? {
            Some(OneOrMany::One(engine)) => vec![engine],
            Some(OneOrMany::Many(engines)) => engines,
            None => Vec::new(),
        };
    }
    Ok(Some(package))
}

fn present<'a>(raw: Option<&&'a RawValue>) -> Option<&'a RawValue> {
    raw.copied().filter(|raw| raw.get() != "null")
}

/// A line of a Procfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessType {
    /// The process type, such as `web`.
    pub name: String,
    /// What `sh` runs.
    pub line: String,
}

/// The type of a `Procfile` that is run once for each deployment and never kept running.
const RELEASE: &str = "release";

/// The processes of a release: its `Procfile`'s, else `web` as `scripts.start` of package.json says, else none. A `Procfile`
/// that has nothing but a `release` says nothing of processes.
///
/// # Errors
/// `load_failed` with file and line.
pub fn processes(dir: &Path) -> Result<Vec<ProcessType>, Refusal> {
    if let Some(mut types) = procfile(dir)? {
        let all = types.len();
        types.retain(|one| one.name != RELEASE);
        if !types.is_empty() || all == 0 {
            return Ok(types);
        }
    }
    let start = package(dir)?.and_then(|package| package.start);
    Ok(start
        .filter(|line| !line.trim().is_empty())
        .map(|line| ProcessType {
            name: "web".to_owned(),
            line,
        })
        .into_iter()
        .collect())
}

/// The command that a release wants to be run once before it goes live, if it has one.
///
/// # Errors
/// `load_failed` with file and line.
pub fn release(dir: &Path) -> Result<Option<String>, Refusal> {
    let types = procfile(dir)?.unwrap_or_default();
    let found = types.into_iter().find(|one| one.name == RELEASE);
    Ok(found.map(|one| one.line))
}

/// Reads the `Procfile`, if there is one: `type: command` lines, blank ones, and comments with `#`. One without any
/// type says that there are no processes.
///
/// # Errors
/// `load_failed` with file and line.
pub fn procfile(dir: &Path) -> Result<Option<Vec<ProcessType>>, Refusal> {
    let Some(text) = read_inside(dir, "Procfile", FILE_LEN_MAX)? else {
        return Ok(None);
    };
    let mut types: Vec<ProcessType> = Vec::new();
    for (number, line) in text.statements() {
        let refused = |why: String| text.refused(number, &why);
        let Some((name, command)) = line.split_once(':') else {
            return Err(refused("expected 'type: command'".into()));
        };
        let (name, command) = (name.trim(), command.trim());
        if !is_process_type(name) {
            let name = name.chars().take(80).collect::<String>();
            return Err(refused(format!(
                "{name:?} is not a process type: letters, digits, '-' and '_'"
            )));
        }
        if command.is_empty() {
            return Err(refused(format!("'{name}' has no command")));
        }
        if types.iter().any(|known| known.name == name) {
            return Err(refused(format!("'{name}' is there twice")));
        }
        types.push(ProcessType {
            name: name.to_owned(),
            line: command.to_owned(),
        });
    }
    Ok(Some(types))
}

/// The longest process type: it becomes part of file names.
const PROCESS_TYPE_LEN_MAX: usize = 63;

fn is_process_type(name: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    (1..=PROCESS_TYPE_LEN_MAX).contains(&name.len()) && name.bytes().all(known)
}

#[cfg(test)]
mod tests;
