//! Reading the fields of an operation, one by one, with all their faults.

mod fleet;
mod peers;
mod run;

use std::collections::BTreeMap;

use serde_json::Value;

use crate::api::json;
use crate::api::name::{DeploymentId, Project, Secret, VariableName};
use crate::api::operation::{
    Deploy, DropComponent, EnvChange, Fields, List, Logs, Operation, Options, Prepare, Restart,
    Rollback, is_known, truth,
};
use crate::api::package::PackageSpec;
use crate::api::source::{self, Provenance, SourceRevision};

/// The longest command: Linux takes no longer argument, and this one is an argument of `sh -c`.
const COMMAND_LEN_MAX: usize = (128 << 10) - 1;
/// The longest `KEY=VALUE`: with a longer one Linux starts nothing.
const VARIABLE_LEN_MAX: usize = (128 << 10) - 1;

/// The longest name of another server: longer than a host name can be.
const ORIGIN_LEN_MAX: usize = 255;

/// Reads fields one by one and keeps their faults. `null` counts as absent everywhere.
pub(super) struct FieldReader<'a> {
    pub(super) fields: &'a Fields,
    pub(super) faults: Vec<String>,
}

impl FieldReader<'_> {
    fn get(&self, name: &str) -> Option<&Value> {
        // What is not known is not even kept.
        debug_assert!(is_known(name), "{name}");
        self.fields.get(name).filter(|value| !value.is_null())
    }

    fn fault<T>(&mut self, fault: String) -> Option<T> {
        self.faults.push(fault);
        None
    }

    fn text(&mut self, name: &str) -> Option<String> {
        match self.get(name) {
            None => None,
            // It ends every text that a system call takes.
            Some(Value::String(text)) if text.contains('\0') => {
                self.fault(format!("'{name}' must not have a NUL in it"))
            }
            Some(Value::String(text)) => Some(text.clone()),
            Some(_) => self.fault(format!("'{name}' must be a string")),
        }
    }

    fn boolean(&mut self, name: &str) -> Option<bool> {
        let value = match self.get(name) {
            None => return None,
            Some(Value::Bool(value)) => Some(*value),
            Some(Value::String(text)) => truth(text),
            Some(_) => None,
        };
        value.or_else(|| self.fault(format!("'{name}' must be true or false")))
    }

    fn number(&mut self, name: &str) -> Option<u64> {
        let number = match self.get(name) {
            None => return None,
            Some(Value::Number(number)) => number.as_u64(),
            Some(Value::String(text)) => text.parse().ok(),
            Some(_) => None,
        };
        match number {
            Some(number) => Some(number),
            None => self.fault(format!("'{name}' must be a whole number from 0 up")),
        }
    }

    pub(super) fn project(&mut self) -> Option<Project> {
        match self.get("project") {
            None => self.fault("'project' is required".into()),
            Some(Value::String(text)) => match text.parse() {
                Ok(project) => Some(project),
                Err(error) => self.fault(error.to_string()),
            },
            // Harper's CLI sends what looks like a number as one.
            Some(Value::Number(number)) => match number.to_string().parse() {
                Ok(project) => Some(project),
                Err(error) => self.fault(error.to_string()),
            },
            Some(_) => self.fault("'project' must be a string".into()),
        }
    }

    fn id(&mut self, name: &str, required: bool) -> Option<DeploymentId> {
        match self.get(name).map(|value| value.as_str().map(str::parse)) {
            None if required => self.fault(format!("'{name}' is required")),
            None => None,
            Some(Some(Ok(id))) => Some(id),
            Some(_) => self.fault(format!("'{name}' must be a deployment id")),
        }
    }

    pub(super) fn deployment(&mut self) -> Option<DeploymentId> {
        self.id("deployment_id", true)
    }

    pub(super) fn objects(&mut self) -> Option<Operation> {
        let id = self.deployment();
        let objects = match self.text("objects") {
            Some(text) => Some(text),
            None => self.fault("'objects' is required".into()),
        };
        Some(Operation::GetObjects(id?, objects?))
    }

    pub(super) fn restart_component(&mut self) -> Option<Operation> {
        let (project, rolling) = (self.project(), self.boolean("rolling"));
        let restart = match rolling {
            Some(true) => Restart::Rolling,
            _ => Restart::Immediate,
        };
        let message = self.message();
        let peers = self.for_peers();
        Some(Operation::Restart(project?, restart, message, peers))
    }

    pub(super) fn drop_component(&mut self) -> Option<Operation> {
        let project = self.project();
        let first = self.id("deployment_id", false);
        let purge = self.boolean("purge").unwrap_or(false);
        Some(Operation::Drop(DropComponent {
            project: project?,
            first,
            purge,
        }))
    }

    pub(super) fn sync(&mut self) -> Option<Operation> {
        let from = match self.text("from") {
            None => self.fault("'from' is required".into()),
            from => from,
        };
        let project = match self.get("project") {
            None => None,
            Some(_) => Some(self.project()?),
        };
        Some(Operation::Sync(from?, project))
    }

    pub(super) fn logs(&mut self) -> Option<Logs> {
        let (project, lines) = (self.project(), self.number("lines"));
        let follow = self.boolean("follow").unwrap_or(false);
        let (since, kind) = (self.number("since"), self.text("type"));
        Some(Logs {
            project: project?,
            lines,
            follow,
            since,
            kind,
        })
    }

    pub(super) fn get_env(&mut self) -> Option<Operation> {
        let (project, values) = (self.project(), self.boolean("values"));
        Some(Operation::GetEnv(project?, values.unwrap_or(false)))
    }

    pub(super) fn set_env(&mut self) -> Option<EnvChange> {
        let project = self.project();
        let (mut set, mut unset) = (BTreeMap::new(), Vec::new());
        match self.unfolded("set") {
            None => {}
            Some(Value::Object(fields)) => {
                for (name, value) in fields {
                    if let Some((name, value)) = self.variable(&name, &value) {
                        set.insert(name, value);
                    }
                }
            }
            Some(_) => self.faults.push("'set' must be an object".into()),
        }
        match self.unfolded("unset") {
            None => {}
            Some(Value::Array(names)) => {
                for name in names {
                    let name = name.as_str().unwrap_or_default();
                    match name.parse::<VariableName>() {
                        Ok(name) if set.contains_key(&name) => {
                            self.faults
                                .push(format!("{name} is in 'set' and in 'unset'"));
                        }
                        Ok(name) => unset.push(name),
                        Err(why) => self.faults.push(format!("'unset': {why}")),
                    }
                }
            }
            Some(_) => self.faults.push("'unset' must be a list of names".into()),
        }
        Some(EnvChange {
            project: project?,
            set,
            unset,
        })
    }

    /// A list or an object, which a form carries as text.
    fn unfolded(&self, name: &str) -> Option<Value> {
        let value = self.get(name)?;
        let text = value.as_str().map(json::from_text);
        Some(match text {
            Some(Ok(inner)) => inner,
            _ => value.clone(),
        })
    }

    /// One variable. No fault quotes the value, nor a key that may be a part of one.
    fn variable(&mut self, name: &str, value: &Value) -> Option<(VariableName, Secret)> {
        let name = match name.parse::<VariableName>() {
            Ok(name) => name,
            Err(why) => return self.fault(format!("'set': {why}")),
        };
        match value.as_str() {
            None => self.fault(format!("'set': the value of {name} must be a string")),
            Some(text) if text.contains(['\n', '\0']) => self.fault(format!(
                "'set': the value of {name} must not have a newline or a NUL in it"
            )),
            Some(text) if name.as_str().len() + 1 + text.len() > VARIABLE_LEN_MAX => self.fault(
                format!("'set': {name} must not be longer than {VARIABLE_LEN_MAX} bytes"),
            ),
            Some(text) => Some((name, Secret::new(text))),
        }
    }

    pub(super) fn rollback(&mut self) -> Option<Rollback> {
        let (project, to) = (self.project(), self.id("deployment_id", false));
        let restart = self.restart();
        let message = self.message();
        let replicated = self.boolean("replicated").unwrap_or(false);
        let ignore_replication_errors = self.boolean("ignore_replication_errors").unwrap_or(false);
        Some(Rollback {
            project: project?,
            to,
            restart,
            message,
            replicated,
            ignore_replication_errors,
        })
    }

    fn restart(&mut self) -> Restart {
        match self.get("restart") {
            None => Restart::No,
            Some(Value::Bool(true)) => Restart::Immediate,
            Some(Value::Bool(false)) => Restart::No,
            Some(Value::String(text)) if text == "rolling" => Restart::Rolling,
            Some(Value::String(text)) if text == "auto" => Restart::Auto,
            Some(Value::String(text)) if truth(text) == Some(true) => Restart::Immediate,
            Some(Value::String(text)) if truth(text) == Some(false) => Restart::No,
            Some(_) => {
                self.faults
                    .push("'restart' must be one of [boolean, rolling, auto]".into());
                Restart::No
            }
        }
    }

    fn options(&mut self) -> Options {
        let install_command = self.text("install_command");
        if install_command
            .as_deref()
            .is_some_and(|command| command.trim().is_empty())
        {
            self.faults
                .push("'install_command' is not allowed to be empty".into());
        }
        if install_command
            .as_deref()
            .is_some_and(|command| command.len() > COMMAND_LEN_MAX)
        {
            self.faults.push(format!(
                "'install_command' must not be longer than {COMMAND_LEN_MAX} bytes"
            ));
        }
        let install_timeout = self.number("install_timeout");
        if install_timeout == Some(0) {
            self.faults
                .push("'install_timeout' must be above 0 milliseconds".into());
        }
        Options {
            install_command,
            install_timeout,
            install_allow_scripts: self.boolean("install_allow_scripts").unwrap_or(false),
            fresh_install: self.boolean("fresh_install").unwrap_or(false),
        }
    }

    pub(super) fn prepare(&mut self) -> Option<Prepare> {
        let project = self.project();
        let tree = self.get("tree").is_some().then(|| self.sha256("tree"));
        let verify = self.boolean("verify").unwrap_or(false);
        Some(Prepare {
            project: project?,
            tree: match tree {
                Some(tree) => Some(tree?),
                None => None,
            },
            verify,
        })
    }

    fn sha256(&mut self, name: &str) -> Option<String> {
        let text = self.text(name)?.to_ascii_lowercase();
        if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            Some(text)
        } else {
            self.fault(format!("'{name}' must be 64 hexadecimal digits"))
        }
    }

    fn package(&mut self) -> Option<PackageSpec> {
        match PackageSpec::parse(&self.text("package")?) {
            Ok(package) => Some(package),
            Err(why) => self.fault(format!("'package' {why}")),
        }
    }

    /// What a package's component is called if the request does not say it, as in Harper.
    fn project_of(&mut self, package: &PackageSpec) -> Option<Project> {
        match package.project_name().parse() {
            Ok(project) => Some(project),
            Err(_) => self.fault(
                "'project' is required, since the package's own name is not a valid one".into(),
            ),
        }
    }

    pub(super) fn deploy(&mut self) -> Option<Deploy> {
        let package = self.package();
        let project = match (&package, self.get("project")) {
            (Some(package), None) => self.project_of(package),
            _ => self.project(),
        };
        let release = self.id("deployment_id", false);
        if package.is_some() && release.is_some() {
            self.faults
                .push("'package' cannot go with 'deployment_id'".into());
        }
        let restart = self.restart();
        let activate = self.boolean("activate").unwrap_or(true);
        if !activate && restart != Restart::No {
            self.faults.push(
                "'restart' cannot go with 'activate': false, since nothing becomes live".into(),
            );
        }
        let origin = self.origin();
        if !activate && release.is_some() && origin.is_none() {
            self.faults.push(
                "'deployment_id' cannot go with 'activate': false, since it is built already"
                    .into(),
            );
        }
        let options = self.options();
        let payload_sha256 = self.sha256("payload_sha256");
        let base = self.sha256("base");
        let replicated = self.boolean("replicated").unwrap_or(false);
        if replicated && !activate {
            self.faults
                .push("'replicated' cannot go with 'activate': false".into());
        }
        if replicated && release.is_some() {
            self.faults.push(
                "'replicated' cannot go with 'deployment_id': it is a payload that is replicated"
                    .into(),
            );
        }
        let ignore_replication_errors = self.boolean("ignore_replication_errors").unwrap_or(false);
        let provenance = self.provenance();
        let fleet = self.fleet_options();
        let is_odd = replicated || !activate || release.is_some() || package.is_some();
        if fleet.is_some() && is_odd {
            self.faults.push(
                "'fleet' cannot go with 'replicated', 'activate': false, 'deployment_id' or 'package'"
                    .into(),
            );
        }
        Some(Deploy {
            project: project?,
            package,
            release,
            restart,
            activate,
            options,
            payload_sha256,
            base,
            replicated,
            ignore_replication_errors,
            origin,
            provenance,
            fleet,
        })
    }

    /// It becomes a variable of what a release runs.
    fn origin(&mut self) -> Option<String> {
        let origin = self.text("origin")?;
        if (1..=ORIGIN_LEN_MAX).contains(&origin.len()) && !origin.contains(char::is_control) {
            return Some(origin);
        }
        self.fault(format!(
            "'origin' must be 1 to {ORIGIN_LEN_MAX} bytes without control characters"
        ))
    }

    fn message(&mut self) -> Option<String> {
        let text = self.text("message").unwrap_or_default();
        source::message(&text).unwrap_or_else(|why| self.fault(why))
    }

    fn provenance(&mut self) -> Provenance {
        let message = self.message();
        let source = match self.unfolded("source") {
            None => None,
            Some(Value::Object(members)) => {
                SourceRevision::read(&members).unwrap_or_else(|why| self.fault(why))
            }
            Some(_) => self.fault("'source' must be an object".into()),
        };
        Provenance { message, source }
    }

    pub(super) fn list(&mut self) -> List {
        List {
            project: self.text("project"),
            status: self.text("status"),
            since: self.number("since"),
            until: self.number("until"),
            limit: self.number("limit"),
            offset: self.number("offset").unwrap_or(0),
            include_events: self.boolean("include_events").unwrap_or(false),
        }
    }
}
