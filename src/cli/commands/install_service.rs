//! `install-service`: makes the server a service of this machine: its user, its root, the program and the unit. What is there
//! already stays as it is, so that a second run changes nothing, and one after an upgrade changes what is new.

mod step;
mod unit;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::api::error::{Doing, Error};
use crate::cli::arguments::{CommandLine, Environment, Usage, finish, value};
use crate::cli::commands::install_service::step::SetupStep;
use crate::cli::commands::install_service::unit::{InitSystem, PROGRAM, ServiceOptions};
use crate::cli::commands::job::LocalJob;
use crate::cli::commands::serve;
use crate::cli::commands::{Command, CommandSpec, Parse};
use crate::cli::screen::OutputFormat;
use crate::engine::settings::Listen;
use crate::system::account::{Account, owner};
use crate::system::{host, paths};

pub(super) const COMMAND: CommandSpec = CommandSpec {
    words: &["install-service"],
    usage: "install-service",
    summary: "make the server a service of this machine",
    help: "\
usage: gangplank install-service [--run-as USER] [--listen ADDR] [--root DIR]
                                 [--dry-run]

Makes what the server needs to run as a service: a user, the root, the program
as /usr/local/bin/gangplank, and a unit of systemd or a script of OpenRC. Then
it starts the server, and at each start of the machine. It says each step that
it does. What is there already stays, so it can be run again, and after an
upgrade it is how the new program comes into place. It needs root.

  --run-as USER         the server runs as root, and what components say as this
                        user, who is made if need be; without this flag all
                        runs as the user gangplank
  --listen ADDR         host:port, [::1]:port or unix:PATH (127.0.0.1:9925)
  --root DIR            everything the server owns lives here
                        (/var/lib/gangplank)
  --dry-run             only say what would be done; needs no root
",
    example: "gangplank install-service --listen 0.0.0.0:9925 --dry-run",
    parse: Parse::Local(parse),
};

/// Who the server runs as, unless it is root with `--run-as`.
const USER: &str = "gangplank";

fn parse(mut line: CommandLine, _: Environment) -> Result<Command, Usage> {
    let listen = value::parsed(&mut line, "--listen", |text| match serve::listen(text)? {
        Listen::Unix(path) if !path.is_absolute() => Err("expected an absolute path".to_owned()),
        _ => plain(text),
    })?;
    let run_as = value::parsed(&mut line, "--run-as", |text| match text {
        "root" => Err("expected another user than root".to_owned()),
        _ => plain(text),
    })?;
    let root = value::parsed(&mut line, "--root", |text| {
        match Path::new(text).is_absolute() {
            true => plain(text).map(PathBuf::from),
            false => Err("expected an absolute path".to_owned()),
        }
    })?;
    let dry = line.contains("--dry-run");
    finish(line)?;
    let service = ServiceOptions {
        root: root.unwrap_or_else(|| PathBuf::from(paths::SYSTEM_ROOT)),
        listen: listen.unwrap_or_else(|| "127.0.0.1:9925".to_owned()),
        run_as,
    };
    Ok(Command::Local(LocalJob::new(move |screen| {
        if !dry && !host::is_root() {
            let why =
                "only root can do so: run it with sudo, or with --dry-run to see what it would do";
            return Err(Error::new("installing the service", why));
        }
        let supervisor = InitSystem::find()?;
        let steps = plan(&service, supervisor)?;
        if dry {
            let text: Vec<String> = steps.iter().map(SetupStep::to_string).collect();
            let text = match text.is_empty() {
                true => "Nothing is to be done.".to_owned(),
                false => text.join("\n"),
            };
            return Ok((Value::from(text), OutputFormat::Text));
        }
        for step in &steps {
            screen.remark(&step.line());
            step.run()?;
        }
        let message = format!(
            "Installed: gangplank runs as a service of {}; as root, `gangplank status` asks it{}",
            supervisor.name(),
            match service.root.as_path() == Path::new(paths::SYSTEM_ROOT) {
                true => String::new(),
                false => format!(" with GANGPLANK_ROOT={}", service.root.display()),
            }
        );
        Ok((Value::from(message), OutputFormat::Text))
    })))
}

/// What can stand in a unit and in a shell's script as it is.
fn plain(text: &str) -> Result<String, String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:[]@".contains(&byte);
    match !text.is_empty() && !text.starts_with('-') && text.bytes().all(fits) {
        true => Ok(text.to_owned()),
        false => Err("expected letters, digits and any of -_./:[]@".to_owned()),
    }
}

/// What is left to be done.
fn plan(service: &ServiceOptions, supervisor: InitSystem) -> Result<Vec<SetupStep>, Error> {
    let mut steps = Vec::new();
    let user = service.run_as.as_deref().unwrap_or(USER);
    let read = |path: &str| fs::read_to_string(path).doing(|| format!("reading {path}"));
    let is_there = Account::find(user, &read("/etc/passwd")?, &read("/etc/group")?).is_ok();
    if !is_there {
        steps.extend(step::make_user(user, &service.root)?);
    }
    // With --run-as the server itself is root.
    let owner_wanted = service.run_as.as_ref().map_or(USER, |_| "root");
    match owner(&service.root).filter(|_| service.root.exists()) {
        None => steps.push(SetupStep::MakeRoot {
            path: service.root.clone(),
            owner: owner_wanted.to_owned(),
        }),
        Some(owner) if owner == owner_wanted => {}
        Some(owner) => {
            let what = format!("using {} as the root", service.root.display());
            let why = format!(
                "it belongs to {owner} and not to {owner_wanted}, as whom the server is to run"
            );
            return Err(Error::new(what, why));
        }
    }
    let mut changed = step::copy_program(Path::new(PROGRAM))?;
    let (path, mode) = supervisor.file();
    let content = service.unit(supervisor);
    if fs::read(path).ok().as_deref() != Some(content.as_bytes()) {
        changed.push(SetupStep::Write {
            path: path.into(),
            content,
            mode,
        });
        changed.extend(supervisor.reload().map(SetupStep::run_line));
    }
    let is_new = !changed.is_empty();
    steps.extend(changed);
    steps.extend(
        supervisor
            .enable(is_new)
            .into_iter()
            .map(SetupStep::run_line),
    );
    Ok(steps)
}
