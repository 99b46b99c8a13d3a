//! Installing the dependencies of a release that is not live yet: which package manager, with which words, and its run.
//!
//! [`choose`] decides and runs nothing; [`run`] runs what was decided; [`check`] runs the manifest's own judgement of
//! the release. All three only ever touch the release's directory. A run that fails gives the reason and the last lines
//! that were printed, together.

mod choice;
mod decides;
mod needs;
mod tail;

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use crate::api::error::{Code, Error, Refusal};
use crate::api::event::{InstallLine, InstallOutput};
use crate::api::name::{DeploymentId, Project};
use crate::api::operation::Options;
use crate::engine::child_env::{self, path_in};
pub use crate::engine::install::choice::{Choice, Installer, choose};
pub use crate::engine::install::decides::decides;
pub use crate::engine::install::tail::Tail;
use crate::engine::manifest::Manifest;
use crate::engine::shared::SHARED;
use crate::system::account::Account;
use crate::system::child::{self, Ended, RunOptions, ServerMark, SurvivorScope, random};
use crate::system::log;
use crate::system::stop::Stop;

/// What an installation needs to know.
pub struct InstallRequest<'a> {
    /// How the client wants it built.
    pub options: &'a Options,
    /// The time limit where neither the request nor the manifest has one.
    pub default_timeout: Duration,
    /// The release's directory.
    pub release: &'a Path,
    /// The component.
    pub project: &'a Project,
    /// The deployment.
    pub id: DeploymentId,
    /// What every child's environment says of the server.
    pub mark: &'a ServerMark,
    /// Where its shared data is.
    pub shared: &'a Path,
    /// The environment, but for what is the deployment's and the release's.
    pub environment: &'a [(OsString, OsString)],
    /// Who it runs as, if not as the server's own user.
    pub account: Option<&'a Account>,
    /// Ends it early.
    pub stop: &'a Stop,
}

/// What is the server's alone, by its name: what its supervisor says to it and gives it, and the agents of who started it.
const SERVERS_OWN: &[&[u8]] = &[
    b"NOTIFY_SOCKET",
    b"CREDENTIALS_DIRECTORY",
    b"INVOCATION_ID",
    b"JOURNAL_STREAM",
    b"SYSTEMD_EXEC_PID",
    b"SYSTEMD_NSS_DYNAMIC_BYPASS",
    b"MAINPID",
    b"MANAGERPID",
    b"MANAGERPIDFDID",
    b"PIDFILE",
    b"FDSTORE",
    b"MEMORY_PRESSURE_WATCH",
    b"MEMORY_PRESSURE_WRITE",
    b"RUNTIME_DIRECTORY",
    b"STATE_DIRECTORY",
    b"CACHE_DIRECTORY",
    b"LOGS_DIRECTORY",
    b"CONFIGURATION_DIRECTORY",
    b"DBUS_SESSION_BUS_ADDRESS",
    b"GPG_AGENT_INFO",
    b"KRB5CCNAME",
    b"XAUTHORITY",
    b"SSH_AUTH_SOCK",
    b"SSH_AGENT_PID",
    b"SSH_CLIENT",
    b"SSH_CONNECTION",
    b"SSH_TTY",
];

/// As [`SERVERS_OWN`], by how the name begins: its settings and tokens, the sockets and the watchdog of its supervisor.
const SERVERS_OWN_PREFIXES: &[&[u8]] = &[
    b"GANGPLANK_",
    b"HARPER_CLI_",
    b"CLI_TARGET",
    b"LISTEN_",
    b"WATCHDOG_",
];

/// The server's own environment without what is the server's alone: its settings and tokens, and what its own supervisor
/// gave it. For another user also without what is its own user's, whose places the other may not write to.
pub fn environment(
    variables: impl Iterator<Item = (OsString, OsString)>,
    account: Option<&Account>,
) -> Vec<(OsString, OsString)> {
    let own = account.map_or(Vec::new(), |account| {
        let name = || OsString::from(&account.name);
        vec![
            ("HOME".into(), account.home.clone().into_os_string()),
            ("USER".into(), name()),
            ("LOGNAME".into(), name()),
        ]
    });
    let is_kept = |key: &[u8]| {
        let begins = |prefix: &&[u8]| key.starts_with(prefix);
        let servers = SERVERS_OWN.contains(&key) || SERVERS_OWN_PREFIXES.iter().any(begins);
        let users = matches!(key, b"HOME" | b"USER" | b"LOGNAME" | b"MAIL")
            || key.starts_with(b"XDG_")
            || key.starts_with(b"SUDO_");
        !(servers || users && account.is_some())
    };
    variables
        .filter(|(key, _)| is_kept(key.as_encoded_bytes()))
        .chain(own)
        .collect()
}

/// A run that failed: why, and what was printed last.
#[derive(Debug, Clone, PartialEq)]
pub struct InstallFailure {
    /// Why.
    pub refusal: Refusal,
    /// The last lines; none if nothing was started.
    pub output: InstallOutput,
}

impl From<Refusal> for InstallFailure {
    fn from(refusal: Refusal) -> InstallFailure {
        InstallFailure {
            refusal,
            output: InstallOutput::default(),
        }
    }
}

/// Takes the lines of a run, as many at once as came at once; its error ends the run.
pub type OnLines<'a> = &'a mut dyn FnMut(Vec<InstallLine>) -> Result<(), Error>;

/// Runs what [`choose`] decided. Gives the number of lines, of which the pieces of a long one count singly.
///
/// # Errors
/// `install_failed` if it did not end well, `install_timeout` if its time was over, `cancelled` if it was stopped; else
/// what `on_lines` failed with.
pub fn run(
    request: &InstallRequest<'_>,
    installer: &Installer,
    on_lines: OnLines<'_>,
) -> Result<u64, InstallFailure> {
    let what = format!(
        "installing dependencies of {} with {}",
        request.project, installer.manager
    );
    let not_installed = || {
        Refusal::new(
            Code::InstallFailed,
            format!(
                "{what}: {} is not installed on the server, but {} asks for it",
                installer.words[0], installer.asked_by
            ),
        )
    };
    let program = find(request, &installer.words[0]).ok_or_else(not_installed)?;
    let mut command = command(request, &program, &installer.words[1..]);
    command.envs(installer.variables.iter().copied());
    let codes = (Code::InstallFailed, Code::InstallTimeout);
    let job = InstallStep {
        what,
        manager: &installer.manager,
        timeout: installer.timeout,
        codes,
    };
    job.run(request, command, on_lines)
}

/// What is not whole although the run went well, as warnings.
pub fn warnings(request: &InstallRequest<'_>) -> Vec<String> {
    needs::dangling(request.release)
}

/// Runs the manifest's `check` command, if it has one: exit code 0 says that the release can run.
///
/// # Errors
/// `load_failed`, which names the command, or `cancelled`; else what `on_lines` failed with.
pub fn check(
    request: &InstallRequest<'_>,
    manifest: &Manifest,
    on_lines: OnLines<'_>,
) -> Result<u64, InstallFailure> {
    let Some(line) = &manifest.check else {
        return Ok(0);
    };
    let what = format!("checking {} with '{line}'", request.project);
    let command = shell(request, line, &what, Code::LoadFailed)?;
    let job = InstallStep {
        what,
        manager: first_word(line),
        timeout: timeout(request, manifest),
        codes: (Code::LoadFailed, Code::LoadFailed),
    };
    job.run(request, command, on_lines)
}

/// Tells what a release runs before it goes live that it is not on the deployment's first host, and which that is.
const ORIGIN: &str = "GANGPLANK_ORIGIN";

/// Runs the command that a release wants to be run once before it goes live. `origin` is the server that this one is a peer
/// of in this deployment.
///
/// # Errors
/// `release_failed`, which names the command, or `cancelled`; else what `on_lines` failed with.
pub fn release(
    request: &InstallRequest<'_>,
    (line, limit): (&str, Duration),
    origin: Option<&str>,
    on_lines: OnLines<'_>,
) -> Result<u64, InstallFailure> {
    let what = format!("releasing {} with '{line}'", request.project);
    let mut command = shell(request, line, &what, Code::ReleaseFailed)?;
    match origin {
        Some(origin) => command.env(ORIGIN, origin),
        None => command.env_remove(ORIGIN),
    };
    let job = InstallStep {
        what,
        manager: first_word(line),
        timeout: limit,
        codes: (Code::ReleaseFailed, Code::ReleaseFailed),
    };
    job.run(request, command, on_lines)
}

/// The shell with a line, in the release.
fn shell(
    request: &InstallRequest<'_>,
    line: &str,
    what: &str,
    code: Code,
) -> Result<Command, Refusal> {
    let shell = find(request, "sh").ok_or_else(|| {
        let why = format!("{what}: sh is not installed on the server");
        Refusal::new(code, why)
    })?;
    let words = ["-c".to_owned(), line.to_owned()];
    Ok(command(request, &shell, &words))
}

/// The time limit of an installation and a check: the request's, else the manifest's, else the server's.
pub fn timeout(request: &InstallRequest<'_>, manifest: &Manifest) -> Duration {
    let own = request.options.timeout().or(manifest.install_timeout);
    own.unwrap_or(request.default_timeout)
}

/// What a command is called in events.
fn first_word(command: &str) -> &str {
    command.split_whitespace().next().unwrap_or("sh")
}

/// Where a program is, by the PATH of the request's environment; those of the release itself are not meant.
fn find(request: &InstallRequest<'_>, program: &str) -> Option<PathBuf> {
    child_env::find(request.environment, program)
}

/// A command in the release, with the environment that every child gets.
fn command(request: &InstallRequest<'_>, program: &Path, words: &[String]) -> Command {
    let mut command = Command::new(program);
    command
        .args(words)
        .current_dir(request.release)
        .env_clear()
        .envs(request.environment.iter().map(|(key, value)| (key, value)))
        .env("PATH", path_in(request.release, request.environment))
        .envs([request.mark.variable()])
        .env(child::DEPLOYMENT, request.id.to_string())
        .env(child::PROJECT, request.project.as_str())
        .env(SHARED, request.shared);
    command
}

/// One command and how its end is told.
struct InstallStep<'a> {
    what: String,
    manager: &'a str,
    timeout: Duration,
    /// If it fails, and if its time is over.
    codes: (Code, Code),
}

impl InstallStep<'_> {
    fn run(
        &self,
        request: &InstallRequest<'_>,
        mut command: Command,
        on_lines: OnLines<'_>,
    ) -> Result<u64, InstallFailure> {
        let mut tail = Tail::default();
        let name = format!("build-{}", random().map_err(Refusal::from)?);
        command.env(child::PROCESS, &name);
        let ended = child::run_by_reads(
            command,
            RunOptions::within(self.timeout, request.account),
            request.stop,
            &mut |lines| {
                let lines = lines.into_iter().map(|line| InstallLine {
                    manager: self.manager.to_owned(),
                    stream: line.stream,
                    line: line.text,
                    continued: line.continued,
                });
                let lines: Vec<InstallLine> = lines.collect();
                tail.keep_all(&lines);
                on_lines(lines)
            },
        );
        // Who left the group goes too, however it ended: nothing of a build runs on beside what it built.
        let left = child::end_survivors(request.mark, SurvivorScope::Process(&name));
        if let Err(error) = left {
            log::warn(&error.to_string());
        }
        let (code, why) = match ended {
            Ok(Ended::Exited(status)) if status.success() => return Ok(tail.lines()),
            Ok(Ended::Exited(status)) => (self.codes.0, exit(status)),
            Ok(Ended::TimedOut) => {
                // As short as it was written: "30s", "0.5s".
                let seconds = self.timeout.as_secs_f64();
                (self.codes.1, format!("timed out after {seconds}s"))
            }
            Ok(Ended::Stopped) => (Code::Cancelled, "stopped".into()),
            Err(error) => {
                // A program that is there and still cannot be started is a matter of the host, such as a script without
                // its interpreter. Whatever else fails is judged by what it is.
                let ours = error.io().map(io::Error::kind).is_some_and(|kind| {
                    matches!(
                        kind,
                        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
                    )
                });
                let refusal = if ours && tail.lines() == 0 {
                    Refusal::new(self.codes.0, format!("{}: {error}", self.what))
                } else {
                    Refusal::from(error)
                };
                return Err(InstallFailure {
                    refusal,
                    output: tail.output(),
                });
            }
        };
        Err(InstallFailure {
            refusal: Refusal::new(code, format!("{}: {why}", self.what)),
            output: tail.output(),
        })
    }
}

/// How a program ended that did not end well, in words.
pub fn exit(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        // Only a stopped process has neither, and those are not waited for.
        (None, None) => status.to_string(),
    }
}

#[cfg(test)]
mod tests;
