//! The steps of an installation: each can be shown, and done.

use std::fmt;
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::api::error::{Doing, Error};
use crate::system::account::Account;
use crate::system::files::{self, Durability};

/// One thing that is done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SetupStep {
    /// A program of the system.
    Run(Vec<String>),
    MakeRoot {
        path: PathBuf,
        owner: String,
    },
    Copy {
        from: PathBuf,
        to: PathBuf,
    },
    Write {
        path: PathBuf,
        content: String,
        mode: u32,
    },
}

impl SetupStep {
    /// A command whose words have no spaces.
    pub(super) fn run_line(line: &str) -> SetupStep {
        SetupStep::Run(line.split(' ').map(str::to_owned).collect())
    }

    /// What it does, as a line.
    pub(super) fn line(&self) -> String {
        match self {
            SetupStep::Run(words) => words.join(" "),
            SetupStep::MakeRoot { path, owner } => {
                format!("make the directory {} for {owner}", path.display())
            }
            SetupStep::Copy { from, to } => {
                format!("copy {} to {}", from.display(), to.display())
            }
            SetupStep::Write { path, .. } => format!("write {}", path.display()),
        }
    }

    pub(super) fn run(&self) -> Result<(), Error> {
        let what = || self.line();
        match self {
            SetupStep::Run(words) => {
                let output = Command::new(&words[0])
                    .args(&words[1..])
                    .output()
                    .doing(what)?;
                if output.status.success() {
                    return Ok(());
                }
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                Err(Error::new(what(), format!("{} {said}", output.status)))
            }
            SetupStep::MakeRoot { path, owner } => {
                files::make_dirs(path, 0o755).doing(what)?;
                let read = |path: &str| fs::read_to_string(path).doing(what);
                let found = Account::find(owner, &read("/etc/passwd")?, &read("/etc/group")?);
                let account = found.map_err(|why| Error::new(what(), why))?;
                chown(path, Some(account.uid), Some(account.gid)).doing(what)
            }
            SetupStep::Copy { from, to } => {
                let program = fs::read(from).doing(what)?;
                if let Some(dir) = to.parent() {
                    files::make_dirs(dir, 0o755).doing(what)?;
                }
                files::replace(to, &program, 0o755, Durability::PowerLoss).doing(what)
            }
            SetupStep::Write {
                path,
                content,
                mode,
            } => files::replace(path, content.as_bytes(), *mode, Durability::PowerLoss).doing(what),
        }
    }
}

impl fmt::Display for SetupStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line())?;
        if let SetupStep::Write { content, .. } = self {
            for line in content.lines() {
                write!(f, "\n  {line}")?;
            }
        }
        Ok(())
    }
}

/// Makes a user of the system, with a group of that name. BusyBox has other programs for that than the rest.
pub(super) fn make_user(user: &str, home: &Path) -> Result<Vec<SetupStep>, Error> {
    let home = home.display();
    if is_program("useradd") {
        let line = format!(
            "useradd --system --user-group --no-create-home --home-dir {home} --shell /usr/sbin/nologin {user}"
        );
        return Ok(vec![SetupStep::run_line(&line)]);
    }
    if is_program("adduser") && is_program("addgroup") {
        let group = format!("addgroup -S {user}");
        let user = format!("adduser -S -D -H -h {home} -s /sbin/nologin -G {user} {user}");
        return Ok(vec![
            SetupStep::run_line(&group),
            SetupStep::run_line(&user),
        ]);
    }
    let why = "neither useradd nor adduser is there; make it by hand";
    Err(Error::new(format!("making the user {user}"), why))
}

fn is_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
}

/// Puts this program where the unit expects it, if it is not there.
pub(super) fn copy_program(to: &Path) -> Result<Vec<SetupStep>, Error> {
    let what = || "finding this program's own file".to_owned();
    let from = std::env::current_exe().doing(what)?;
    if fs::read(to).ok() == Some(fs::read(&from).doing(what)?) {
        return Ok(Vec::new());
    }
    let to = to.to_owned();
    Ok(vec![SetupStep::Copy { from, to }])
}
