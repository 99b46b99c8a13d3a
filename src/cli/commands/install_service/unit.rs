//! The unit of systemd and the script of OpenRC: those of `tests/service`, with what was asked for in its place.

use std::path::{Path, PathBuf};

use crate::api::error::Error;
use crate::system::paths;

/// Where the program is installed.
pub(super) const PROGRAM: &str = "/usr/local/bin/gangplank";

const SYSTEMD: &str = include_str!("../../../../tests/service/gangplank.service");
const OPENRC: &str = include_str!("../../../../tests/service/gangplank.openrc");

/// What is to run.
pub(super) struct ServiceOptions {
    pub(super) root: PathBuf,
    pub(super) listen: String,
    pub(super) run_as: Option<String>,
}

/// Who runs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InitSystem {
    Systemd,
    OpenRc,
}

impl InitSystem {
    /// The one that runs on this machine.
    pub(super) fn find() -> Result<InitSystem, Error> {
        // Each makes its directory when it starts the machine.
        if Path::new("/run/systemd/system").is_dir() {
            return Ok(InitSystem::Systemd);
        }
        if Path::new("/run/openrc").is_dir() {
            return Ok(InitSystem::OpenRc);
        }
        let why = "neither systemd nor OpenRC runs here; with BusyBox init it is a line of /etc/inittab: \
                   ::respawn:/usr/local/bin/gangplank serve --root /var/lib/gangplank";
        Err(Error::new("installing the service", why))
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            InitSystem::Systemd => "systemd",
            InitSystem::OpenRc => "OpenRC",
        }
    }

    /// The file that tells it what to run, and its mode.
    pub(super) fn file(self) -> (&'static str, u32) {
        match self {
            InitSystem::Systemd => ("/etc/systemd/system/gangplank.service", 0o644),
            InitSystem::OpenRc => ("/etc/init.d/gangplank", 0o755),
        }
    }

    /// What makes it read that file again.
    pub(super) fn reload(self) -> Option<&'static str> {
        match self {
            InitSystem::Systemd => Some("systemctl daemon-reload"),
            InitSystem::OpenRc => None,
        }
    }

    /// What makes it run the service, now and at each start of the machine. One that `is_new` replaces what runs.
    pub(super) fn enable(self, is_new: bool) -> [&'static str; 2] {
        match (self, is_new) {
            (InitSystem::Systemd, true) => {
                ["systemctl enable gangplank", "systemctl restart gangplank"]
            }
            (InitSystem::Systemd, false) => {
                ["systemctl enable gangplank", "systemctl start gangplank"]
            }
            (InitSystem::OpenRc, true) => [
                "rc-update add gangplank default",
                "rc-service gangplank restart",
            ],
            (InitSystem::OpenRc, false) => [
                "rc-update add gangplank default",
                "rc-service --ifstopped gangplank start",
            ],
        }
    }
}

impl ServiceOptions {
    /// What stands in the supervisor's file.
    pub(super) fn unit(&self, supervisor: InitSystem) -> String {
        let root = self.root.display().to_string();
        let text = match supervisor {
            InitSystem::Systemd => SYSTEMD,
            InitSystem::OpenRc => OPENRC,
        };
        let arguments = format!(
            "serve --root {} --listen 127.0.0.1:9925",
            paths::SYSTEM_ROOT
        );
        let mut wanted = format!("serve --root {root} --listen {}", self.listen);
        if let Some(user) = &self.run_as {
            wanted += &format!(" --run-as {user}");
        }
        let is_default = root == paths::SYSTEM_ROOT;
        let mut unit = String::new();
        for line in text.replace(&arguments, &wanted).lines() {
            let line = match line.split_once('=').map_or(line, |(key, _)| key) {
                // The server is root.
                "User" | "command_user" if self.run_as.is_some() => continue,
                // systemd makes only what is below /var/lib.
                "StateDirectory" if !is_default => format!("ReadWritePaths={root}"),
                "StateDirectoryMode" if !is_default => continue,
                "ProtectHome" if is_home(&self.root) => continue,
                _ if line.contains("checkpath") => {
                    let line = line.replace(paths::SYSTEM_ROOT, &root);
                    match &self.run_as {
                        Some(_) => line.replace("gangplank:gangplank", "root:root"),
                        None => line,
                    }
                }
                _ => line.to_owned(),
            };
            unit += &line;
            unit.push('\n');
        }
        unit
    }
}

fn is_home(root: &Path) -> bool {
    ["/home", "/root", "/run/user"]
        .iter()
        .any(|home| root.starts_with(home))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(root: &str, listen: &str, run_as: Option<&str>) -> ServiceOptions {
        ServiceOptions {
            root: root.into(),
            listen: listen.to_owned(),
            run_as: run_as.map(str::to_owned),
        }
    }

    #[test]
    fn what_is_asked_for_is_in_the_unit_and_the_rest_as_it_was() {
        let default = service("/var/lib/gangplank", "127.0.0.1:9925", None);
        assert_eq!(default.unit(InitSystem::Systemd), SYSTEMD);
        assert_eq!(default.unit(InitSystem::OpenRc), OPENRC);
        let other = service("/home/x/apps", "[::]:80", Some("app"));
        let changes = |supervisor: InitSystem, text: &str| {
            let unit = other.unit(supervisor);
            let old = text.lines().filter(|line| !unit.contains(line));
            let new = unit.lines().filter(|line| !text.contains(line));
            let signed = |sign, lines: &mut dyn Iterator<Item = &str>| {
                lines
                    .map(|line| format!("{sign}{}", line.trim()))
                    .collect::<Vec<_>>()
            };
            [signed("-", &mut { old }), signed("+", &mut { new })].concat()
        };
        let command = "serve --root /home/x/apps --listen [::]:80 --run-as app";
        assert_eq!(
            changes(InitSystem::Systemd, SYSTEMD),
            [
                "-ExecStart=/usr/local/bin/gangplank serve --root /var/lib/gangplank --listen 127.0.0.1:9925",
                "-User=gangplank",
                "-StateDirectory=gangplank",
                "-StateDirectoryMode=0755",
                "-ProtectHome=yes",
                &format!("+ExecStart=/usr/local/bin/gangplank {command}"),
                "+ReadWritePaths=/home/x/apps",
            ]
        );
        assert_eq!(
            changes(InitSystem::OpenRc, OPENRC),
            [
                "-command_args=\"serve --root /var/lib/gangplank --listen 127.0.0.1:9925\"",
                "-command_user=\"gangplank:gangplank\"",
                "-checkpath --directory --owner gangplank:gangplank --mode 0755 /var/lib/gangplank",
                &format!("+command_args=\"{command}\""),
                "+checkpath --directory --owner root:root --mode 0755 /home/x/apps",
            ]
        );
    }
}
