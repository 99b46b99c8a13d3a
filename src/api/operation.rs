//! The operations API, for both ends: a client writes an [`Operation`] as an [`OperationCall`], a server reads it back.
//!
//! Fields arrive as JSON, or as the texts of a form. [`typed`] gives a form's text the type that its name asks for, so
//! that both end in the same [`Fields`]. Reading collects every fault into one refusal. To add an operation: a row in
//! [`OperationName`]'s table, a variant of [`Operation`], how it is written in `call.rs`, and how it is read in `reader.rs`.

mod call;
mod reader;
mod writer;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::api::error::{Code, Refusal};
use crate::api::name::{DeploymentId, HostName, Project, Secret, VariableName};
use crate::api::operation::reader::FieldReader;
use crate::api::package::PackageSpec;
use crate::api::source::Provenance;

pub use crate::api::operation::call::{
    AnswerShape, FieldKind, OperationCall, OperationName, name_in,
};

/// The field that names the operation.
pub(in crate::api) const NAME: &str = "operation";

/// The fields of a request, by name.
pub type Fields = Map<String, Value>;

/// Fields that are `true` or `false`.
pub(in crate::api) const BOOLEANS: &[&str] = &[
    "activate",
    "replicated",
    "ignore_replication_errors",
    "peers",
    "install_allow_scripts",
    "fresh_install",
    "purge",
    "rolling",
    "include_events",
    "follow",
    "values",
    "verify",
    "fleet",
    "replace",
    "rollback_on_failure",
    "adopt",
];

/// Fields that are numbers.
pub(in crate::api) const NUMBERS: &[&str] = &[
    "install_timeout",
    "limit",
    "offset",
    "since",
    "until",
    "lines",
    "timeout",
    "canary",
    "max_failures",
    "soak",
    "host_timeout",
];

/// All other fields: texts, and what has rules of its own.
pub(in crate::api) const OTHERS: &[&str] = &[
    "operation",
    "project",
    "deployment_id",
    "payload",
    "payload_sha256",
    "base",
    "tree",
    "message",
    "source",
    "package",
    "install_command",
    "command",
    "restart",
    "status",
    "from",
    "origin",
    "set",
    "unset",
    "type",
    "objects",
    "wave",
    "labels",
    "action",
    "host",
];

/// Whether some operation has a field of this name. What is none of theirs is not kept.
pub fn is_known(name: &str) -> bool {
    [BOOLEANS, NUMBERS, OTHERS]
        .iter()
        .any(|names| names.contains(&name))
}

/// A form field's text as the JSON value that its name asks for. A text that does not fit stays text, and the
/// operation's own reading refuses it by name.
pub fn typed(name: &str, text: &str) -> Value {
    if BOOLEANS.contains(&name) || name == "restart" {
        truth(text).map_or_else(|| Value::from(text), Value::from)
    } else if NUMBERS.contains(&name) {
        text.parse::<u64>()
            .map_or_else(|_| Value::from(text), Value::from)
    } else {
        Value::from(text)
    }
}

/// `true` or `false` in any case: Python writes `True`.
fn truth(text: &str) -> Option<bool> {
    if text.eq_ignore_ascii_case("true") {
        Some(true)
    } else if text.eq_ignore_ascii_case("false") {
        Some(false)
    } else {
        None
    }
}

/// Whether and how the processes start again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Restart {
    /// Not at all.
    #[default]
    No,
    /// All at once, if the release has processes or the component has a hook. Nobody is warned if there is nothing to do.
    Auto,
    /// All at once.
    Immediate,
    /// One after the other.
    Rolling,
}

impl Restart {
    /// The record's `restart_mode`.
    pub const fn mode(self) -> Option<&'static str> {
        match self {
            Restart::No => None,
            Restart::Auto => Some("auto"),
            Restart::Immediate => Some("immediate"),
            Restart::Rolling => Some("rolling"),
        }
    }
}

/// What a build needs to be done again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// Run instead of the package manager.
    pub install_command: Option<String>,
    /// The installation's time limit in milliseconds; none means the server's default.
    pub install_timeout: Option<u64>,
    /// Whether packages may run their own scripts.
    pub install_allow_scripts: bool,
    /// Whether it is installed even if the same was installed before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fresh_install: bool,
}

impl Options {
    /// The installation's time limit.
    pub fn timeout(&self) -> Option<Duration> {
        self.install_timeout.map(Duration::from_millis)
    }
}

/// How a deployment goes to the hosts of a fleet. What is not said is as the server has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FleetOptions {
    /// How many hosts go first.
    pub canary: Option<u64>,
    /// How many go at once then.
    pub wave: Option<WaveSize>,
    /// More failures stop it.
    pub max_failures: Option<u64>,
    /// How long a wave is looked at before the next one, in seconds.
    pub soak_s: Option<u64>,
    /// How long a host may take, in seconds; 0 for any time.
    pub host_timeout_s: Option<u64>,
    /// Only the hosts that have all of these labels.
    pub labels: BTreeMap<String, String>,
    /// What was wanted before is wanted again when it stops.
    pub rollback_on_failure: bool,
    /// It takes the place of one that goes on.
    pub replace: bool,
    /// It is published though etcd has lost what hosts have.
    pub adopt: bool,
}

/// How many hosts are a wave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaveSize {
    /// So many.
    Hosts(u64),
    /// So many of a hundred, at least one.
    Percent(u64),
}

impl WaveSize {
    /// Reads `10%` or `3`; none if it is neither, or nobody would go.
    pub fn parse(text: &str) -> Option<WaveSize> {
        let size = match text.strip_suffix('%') {
            Some(percent) => WaveSize::Percent(percent.parse().ok()?),
            None => WaveSize::Hosts(text.parse().ok()?),
        };
        match size {
            WaveSize::Hosts(0) | WaveSize::Percent(0 | 101..) => None,
            size => Some(size),
        }
    }

    /// As it is written.
    pub fn text(self) -> String {
        match self {
            WaveSize::Hosts(hosts) => hosts.to_string(),
            WaveSize::Percent(percent) => format!("{percent}%"),
        }
    }
}

/// `get_fleet`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FleetQuery {
    /// Only this component.
    pub project: Option<Project>,
    /// The deployment whose rollout is followed; none for the one that is wanted.
    pub deployment: Option<DeploymentId>,
    /// Whether to go on until the rollout has ended.
    pub follow: bool,
}

/// `change_fleet`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FleetChange {
    /// What was wanted before is wanted again.
    RollBack(Project, Option<String>),
    /// What is wanted is published anew, above all that any host has heard of. If it is said, and nothing is wanted, what is live
    /// on this host.
    PublishCurrent(Project, bool),
    /// A host is expected no longer.
    Remove(HostName),
    /// The fleet leaves a component of this host alone, or does so no longer.
    Pin(Project, bool),
}

/// `deploy_component`, but for the payload's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deploy {
    /// The component.
    pub project: Project,
    /// What the server fetches itself, instead of a payload.
    pub package: Option<PackageSpec>,
    /// An existing release to activate, instead of a payload.
    pub release: Option<DeploymentId>,
    /// Whether to restart.
    pub restart: Restart,
    /// Whether the release becomes live, or is only kept.
    pub activate: bool,
    /// How it is built.
    pub options: Options,
    /// The SHA-256 that the payload must have, in lower-case hex.
    pub payload_sha256: Option<String>,
    /// The tree that the payload, a delta, begins from, in lower-case hex.
    pub base: Option<String>,
    /// Whether the peers get it too.
    pub replicated: bool,
    /// Whether failed peers are left behind.
    pub ignore_replication_errors: bool,
    /// The server that asks a peer, by its name. It is told to what the release runs before it goes live, and decides when
    /// that is run.
    pub origin: Option<String>,
    /// What is said of it.
    pub provenance: Provenance,
    /// How it goes to the hosts of the fleet; none if it does not.
    pub fleet: Option<FleetOptions>,
}

/// `prepare_deployment`, but for the list's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepare {
    /// The component.
    pub project: Project,
    /// The tree that is to be sent, in lower-case hex. None if it is only asked whether there is anything at all that need not
    /// be sent.
    pub tree: Option<String>,
    /// Whether what is here is read before it is counted on.
    pub verify: bool,
}

/// `list_deployments`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct List {
    /// Only this component's.
    pub project: Option<String>,
    /// Only those in this status.
    pub status: Option<String>,
    /// Only those started at or after this time, in ms.
    pub since: Option<u64>,
    /// Only those started at or before this time, in ms.
    pub until: Option<u64>,
    /// At most so many.
    pub limit: Option<u64>,
    /// Without the first so many.
    pub offset: u64,
    /// With their event logs.
    pub include_events: bool,
}

/// `rollback_component`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollback {
    /// The component.
    pub project: Project,
    /// The deployment whose release becomes live again; none for the one before.
    pub to: Option<DeploymentId>,
    /// Whether to restart.
    pub restart: Restart,
    /// Why.
    pub message: Option<String>,
    /// Whether the peers go back, too.
    pub replicated: bool,
    /// Whether failed peers are left behind.
    pub ignore_replication_errors: bool,
}

/// Whether the peers do it, too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ForPeers {
    /// They do.
    pub replicated: bool,
    /// Failed peers are left behind.
    pub ignores: bool,
}

/// `drop_component`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropComponent {
    /// The component.
    pub project: Project,
    /// Take back this first deployment alone, if it made live what is live.
    pub first: Option<DeploymentId>,
    /// Remove what stays otherwise, too: shared data, environment, hooks, logs and records.
    pub purge: bool,
}

/// `get_logs`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logs {
    /// The component.
    pub project: Project,
    /// How many of the newest lines.
    pub lines: Option<u64>,
    /// Whether to go on with those that come.
    pub follow: bool,
    /// Only what was printed at or after this time, in ms.
    pub since: Option<u64>,
    /// Only what this process type printed.
    pub kind: Option<String>,
}

/// What is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandWords {
    /// A line for the shell.
    Line(String),
    /// A program and its arguments, as they are.
    Words(Vec<String>),
}

/// `run_component`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunCommand {
    /// The component.
    pub project: Project,
    /// What is run.
    pub command: CommandWords,
    /// The deployment in whose release it is run; none for the live one.
    pub release: Option<DeploymentId>,
    /// How long it may take, in ms.
    pub timeout: Option<u64>,
}

/// `set_env`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvChange {
    /// The component.
    pub project: Project,
    /// The variables that get a value; it has one line.
    pub set: BTreeMap<VariableName, Secret>,
    /// Those that go.
    pub unset: Vec<VariableName>,
}

/// A request, read and found right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Deploy a payload.
    Deploy(Box<Deploy>),
    /// Ask what of a tree is missing.
    Prepare(Prepare),
    /// One record, or its events.
    GetDeployment(DeploymentId),
    /// Many records.
    ListDeployments(List),
    /// A deployment's payload.
    GetPayload(DeploymentId),
    /// The list of the tree of a deployment's payload.
    GetTree(DeploymentId),
    /// Some of the objects of that tree, by their numbers in the list, as ranges.
    GetObjects(DeploymentId, String),
    /// Remove a deployment's payload.
    DeletePayload(DeploymentId),
    /// Make an earlier release live again.
    Rollback(Rollback),
    /// Stop a deployment.
    Cancel(DeploymentId),
    /// Restart a component's processes, and why.
    Restart(Project, Restart, Option<String>, ForPeers),
    /// Stop a component's processes until they are started.
    Stop(Project, ForPeers),
    /// Start what of a component does not run.
    Start(Project, ForPeers),
    /// What a component's processes print.
    GetLogs(Logs),
    /// Run one command in a release.
    Run(RunCommand),
    /// The names in a component's environment, and the values too if that is asked for.
    GetEnv(Project, bool),
    /// Change a component's environment.
    SetEnv(EnvChange),
    /// Deploy here what is live at a peer, of one component or of all.
    Sync(String, Option<Project>),
    /// Remove a component.
    Drop(DropComponent),
    /// What is live, and what is live at the peers if that is asked for.
    GetComponents(bool),
    /// How components stand on the hosts of the fleet.
    GetFleet(FleetQuery),
    /// Change what the fleet wants.
    ChangeFleet(FleetChange),
    /// Which version answers.
    RegistrationInfo,
    /// How the server is.
    SystemInformation,
    /// A code with which a browser signs in, once.
    CreatePageCode,
    /// End sessions of the page.
    EndPageSessions,
}

impl Operation {
    /// Reads a request's fields. The payload is not among them.
    ///
    /// # Errors
    /// `bad_request`, naming every fault at once.
    pub fn parse(fields: &Fields) -> Result<Operation, Refusal> {
        use OperationName as Name;
        let Some(name) = fields.get(NAME) else {
            return Err(bad("Request body must include an 'operation' property."));
        };
        let Some(known) = name.as_str().and_then(Name::parse) else {
            let shown = name
                .as_str()
                .map_or_else(|| name.to_string(), str::to_owned);
            return Err(bad(format!(
                "Operation '{}' not found",
                shown.chars().take(80).collect::<String>()
            )));
        };
        let mut reader = FieldReader {
            fields,
            faults: Vec::new(),
        };
        let operation = match known {
            Name::DeployComponent => reader
                .deploy()
                .map(|deploy| Operation::Deploy(Box::new(deploy))),
            Name::PrepareDeployment => reader.prepare().map(Operation::Prepare),
            Name::GetDeployment => reader.deployment().map(Operation::GetDeployment),
            Name::GetDeploymentPayload => reader.deployment().map(Operation::GetPayload),
            Name::GetTree => reader.deployment().map(Operation::GetTree),
            Name::GetObjects => reader.objects(),
            Name::DeleteDeploymentPayload => reader.deployment().map(Operation::DeletePayload),
            Name::CancelDeployment => reader.deployment().map(Operation::Cancel),
            Name::RollbackComponent => reader.rollback().map(Operation::Rollback),
            Name::DropComponent => reader.drop_component(),
            Name::RestartComponent => reader.restart_component(),
            Name::StopComponent => reader.stop_or_start(Operation::Stop),
            Name::StartComponent => reader.stop_or_start(Operation::Start),
            Name::Sync => reader.sync(),
            Name::GetLogs => reader.logs().map(Operation::GetLogs),
            Name::RunComponent => reader.run().map(Operation::Run),
            Name::GetEnv => reader.get_env(),
            Name::SetEnv => reader.set_env().map(Operation::SetEnv),
            Name::ListDeployments => Some(Operation::ListDeployments(reader.list())),
            Name::GetComponents => Some(reader.get_components()),
            Name::GetFleet => reader.get_fleet(),
            Name::ChangeFleet => reader.change_fleet(),
            Name::RegistrationInfo => Some(Operation::RegistrationInfo),
            Name::SystemInformation => Some(Operation::SystemInformation),
            Name::CreatePageCode => Some(Operation::CreatePageCode),
            Name::EndPageSessions => Some(Operation::EndPageSessions),
        };
        match operation {
            Some(operation) if reader.faults.is_empty() => Ok(operation),
            _ => Err(bad(reader.faults.join(". "))),
        }
    }
}

fn bad(message: impl Into<String>) -> Refusal {
    Refusal::new(Code::BadRequest, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fields(value: Value) -> Fields {
        value.as_object().expect("an object").clone()
    }

    fn refused(value: Value) -> String {
        let refusal = Operation::parse(&fields(value)).unwrap_err();
        assert_eq!(refusal.code, Code::BadRequest);
        refusal.message
    }

    #[test]
    fn texts_get_the_type_that_their_name_asks_for() {
        let table = [
            ("restart", "true", json!(true)),
            ("restart", "True", json!(true)),
            ("activate", "FALSE", json!(false)),
            ("project", "True", json!("True")),
            ("restart", "rolling", json!("rolling")),
            ("activate", "false", json!(false)),
            ("activate", "no", json!("no")),
            ("install_timeout", "60000", json!(60000)),
            ("install_timeout", "-1", json!("-1")),
            ("install_command", "true", json!("true")),
            ("project", "123", json!("123")),
            ("project", "null", json!("null")),
        ];
        for (name, text, expected) in table {
            assert_eq!(typed(name, text), expected, "{name}={text}");
        }
    }

    #[test]
    fn a_deploy_is_read() {
        let operation = Operation::parse(&fields(json!({
            "operation": "deploy_component", "project": "demo", "restart": "true", "install_timeout": "30",
            "install_allow_scripts": "true", "package": null, "unknown": [],
        })));
        let Ok(Operation::Deploy(deploy)) = operation else {
            panic!("{operation:?}")
        };
        assert_eq!(
            (deploy.project.as_str(), deploy.restart),
            ("demo", Restart::Immediate)
        );
        assert_eq!(
            (
                deploy.options.install_timeout,
                deploy.options.install_allow_scripts
            ),
            (Some(30), true)
        );
        assert!(deploy.activate && !deploy.replicated);
    }

    #[test]
    fn every_fault_is_named_at_once() {
        let message = refused(json!({
            "operation": "deploy_component", "project": "my.app", "restart": "sideways", "install_timeout": "abc",
            "install_allow_scripts": 1, "package": "npm:-x", "payload_sha256": "12", "activate": "maybe",
            "install_command": " ", "deployment_id": "x",
        }));
        for part in [
            "\"my.app\"",
            "project=",
            "'restart' must be",
            "'install_timeout'",
            "'install_allow_scripts'",
            "'package'",
            "'payload_sha256'",
            "'activate'",
            "'install_command'",
            "'deployment_id'",
        ] {
            assert!(message.contains(part), "{part} in {message}");
        }
    }

    #[test]
    fn refusals() {
        let table = [
            (json!({}), "'operation'"),
            (json!({"operation": "nope"}), "Operation 'nope' not found"),
            (json!({"operation": 7}), "Operation '7' not found"),
            (
                json!({"operation": "deploy_component"}),
                "'project' is required",
            ),
            (
                json!({"operation": "deploy_component", "project": true}),
                "'project' must be a string",
            ),
            (
                json!({"operation": "deploy_component", "project": "a", "install_timeout": 0}),
                "above 0",
            ),
            (
                json!({"operation": "deploy_component", "project": "a", "activate": false, "restart": true}),
                "'restart'",
            ),
            (
                json!({"operation": "get_deployment"}),
                "'deployment_id' is required",
            ),
            (
                json!({"operation": "get_deployment", "deployment_id": "../x"}),
                "deployment id",
            ),
            (
                json!({"operation": "list_deployments", "limit": -1}),
                "'limit'",
            ),
        ];
        for (value, part) in table {
            let message = refused(value.clone());
            assert!(message.contains(part), "{value}: {message}");
        }
    }
}
