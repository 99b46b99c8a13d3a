//! Writing an operation as the fields that a client sends.

use serde_json::{Value, json};

use crate::api::name::Project;
use crate::api::operation::call::OperationName;
use crate::api::operation::{
    CommandWords, Deploy, EnvChange, Fields, FleetChange, FleetOptions, ForPeers, List, Logs,
    Operation, Options, Restart, RunCommand, WaveSize,
};
use crate::api::package::PackageSpec;
use crate::api::source::Provenance;

/// Collects fields, and leaves out those that say nothing.
#[derive(Default)]
struct FieldWriter(Fields);

impl FieldWriter {
    fn with(mut self, name: &str, value: impl Into<Value>) -> FieldWriter {
        match value.into() {
            Value::Null => {}
            value => {
                self.0.insert(name.into(), value);
            }
        }
        self
    }

    /// A field that is left out where it is false.
    fn flag(self, name: &str, value: bool) -> FieldWriter {
        self.with(name, value.then_some(true))
    }

    fn peers(self, peers: ForPeers) -> FieldWriter {
        self.flag("replicated", peers.replicated)
            .flag("ignore_replication_errors", peers.ignores)
    }

    fn options(self, options: &Options) -> FieldWriter {
        self.with("install_command", options.install_command.clone())
            .with("install_timeout", options.install_timeout)
            .flag("install_allow_scripts", options.install_allow_scripts)
            .flag("fresh_install", options.fresh_install)
    }
}

impl FieldWriter {
    fn fleet(self, options: Option<&FleetOptions>) -> FieldWriter {
        let Some(options) = options else {
            return self;
        };
        let labels = (!options.labels.is_empty()).then(|| json!(options.labels));
        self.flag("fleet", true)
            .with("canary", options.canary)
            .with("wave", options.wave.map(WaveSize::text))
            .with("max_failures", options.max_failures)
            .with("soak", options.soak_s)
            .with("host_timeout", options.host_timeout_s)
            .with("labels", labels)
            .flag("rollback_on_failure", options.rollback_on_failure)
            .flag("replace", options.replace)
            .flag("adopt", options.adopt)
    }
}

impl FleetChange {
    fn write(&self, writer: FieldWriter) -> FieldWriter {
        match self {
            FleetChange::RollBack(project, message) => writer
                .with("action", "rollback")
                .with("project", project.as_str())
                .with("message", message.clone()),
            FleetChange::PublishCurrent(project, adopt) => writer
                .with("action", "publish_current")
                .with("project", project.as_str())
                .flag("adopt", *adopt),
            FleetChange::Remove(host) => {
                writer.with("action", "remove").with("host", host.as_str())
            }
            FleetChange::Pin(project, pinned) => writer
                .with("action", if *pinned { "pin" } else { "unpin" })
                .with("project", project.as_str()),
        }
    }
}

impl Restart {
    fn field(self) -> Value {
        match self {
            Restart::No => Value::Null,
            Restart::Auto => "auto".into(),
            Restart::Immediate => true.into(),
            Restart::Rolling => "rolling".into(),
        }
    }
}

impl Operation {
    pub(super) fn name(&self) -> OperationName {
        match self {
            Operation::Deploy(_) => OperationName::DeployComponent,
            Operation::Prepare(_) => OperationName::PrepareDeployment,
            Operation::GetDeployment(_) => OperationName::GetDeployment,
            Operation::ListDeployments(_) => OperationName::ListDeployments,
            Operation::GetPayload(_) => OperationName::GetDeploymentPayload,
            Operation::GetTree(_) => OperationName::GetTree,
            Operation::GetObjects(..) => OperationName::GetObjects,
            Operation::DeletePayload(_) => OperationName::DeleteDeploymentPayload,
            Operation::Rollback(_) => OperationName::RollbackComponent,
            Operation::Cancel(_) => OperationName::CancelDeployment,
            Operation::Restart(..) => OperationName::RestartComponent,
            Operation::Stop(..) => OperationName::StopComponent,
            Operation::Start(..) => OperationName::StartComponent,
            Operation::GetLogs(_) => OperationName::GetLogs,
            Operation::Run(_) => OperationName::RunComponent,
            Operation::GetEnv(..) => OperationName::GetEnv,
            Operation::SetEnv(_) => OperationName::SetEnv,
            Operation::Sync(..) => OperationName::Sync,
            Operation::Drop(..) => OperationName::DropComponent,
            Operation::GetComponents(_) => OperationName::GetComponents,
            Operation::GetFleet(_) => OperationName::GetFleet,
            Operation::ChangeFleet(_) => OperationName::ChangeFleet,
            Operation::RegistrationInfo => OperationName::RegistrationInfo,
            Operation::SystemInformation => OperationName::SystemInformation,
            Operation::CreatePageCode => OperationName::CreatePageCode,
            Operation::EndPageSessions => OperationName::EndPageSessions,
        }
    }

    /// The fields, without the name.
    pub(super) fn fields(&self) -> Fields {
        let writer = FieldWriter::default();
        let written = match self {
            Operation::Deploy(deploy) => deploy.write(writer),
            Operation::Prepare(prepare) => writer
                .with("project", prepare.project.as_str())
                .with("tree", prepare.tree.clone())
                .flag("verify", prepare.verify),
            Operation::GetDeployment(id)
            | Operation::GetPayload(id)
            | Operation::GetTree(id)
            | Operation::DeletePayload(id)
            | Operation::Cancel(id) => writer.with("deployment_id", id.to_string()),
            Operation::GetObjects(id, objects) => writer
                .with("deployment_id", id.to_string())
                .with("objects", objects.as_str()),
            Operation::ListDeployments(list) => list.write(writer),
            Operation::Rollback(rollback) => writer
                .with("project", rollback.project.as_str())
                .with("deployment_id", rollback.to.map(|id| id.to_string()))
                .with("restart", rollback.restart.field())
                .with("message", rollback.message.clone())
                .flag("replicated", rollback.replicated)
                .flag(
                    "ignore_replication_errors",
                    rollback.ignore_replication_errors,
                ),
            Operation::Restart(project, restart, message, peers) => writer
                .with("project", project.as_str())
                .flag("rolling", *restart == Restart::Rolling)
                .with("message", message.clone())
                .peers(*peers),
            Operation::Stop(project, peers) | Operation::Start(project, peers) => {
                writer.with("project", project.as_str()).peers(*peers)
            }
            Operation::GetLogs(logs) => logs.write(writer),
            Operation::Run(run) => run.write(writer),
            Operation::GetEnv(project, values) => writer
                .with("project", project.as_str())
                .flag("values", *values),
            Operation::SetEnv(change) => change.write(writer),
            Operation::Sync(from, project) => writer
                .with("from", from.as_str())
                .with("project", project.as_ref().map(|project| project.as_str())),
            Operation::Drop(drop) => writer
                .with("project", drop.project.as_str())
                .with("deployment_id", drop.first.map(|id| id.to_string()))
                .flag("purge", drop.purge),
            Operation::GetFleet(query) => writer
                .with(
                    "project",
                    query.project.as_ref().map(|project| project.as_str()),
                )
                .with("deployment_id", query.deployment.map(|id| id.to_string()))
                .flag("follow", query.follow),
            Operation::ChangeFleet(change) => change.write(writer),
            Operation::GetComponents(peers) => writer.flag("peers", *peers),
            Operation::RegistrationInfo
            | Operation::SystemInformation
            | Operation::CreatePageCode
            | Operation::EndPageSessions => writer,
        };
        written.0
    }
}

impl Deploy {
    fn write(&self, writer: FieldWriter) -> FieldWriter {
        writer
            .with("project", self.project.as_str())
            .with("package", self.package.as_ref().map(PackageSpec::reveal))
            .with("deployment_id", self.release.map(|id| id.to_string()))
            .with("restart", self.restart.field())
            .with("activate", (!self.activate).then_some(false))
            .options(&self.options)
            .with("payload_sha256", self.payload_sha256.clone())
            .with("base", self.base.clone())
            .flag("replicated", self.replicated)
            .flag("ignore_replication_errors", self.ignore_replication_errors)
            .with("origin", self.origin.clone())
            .with("message", self.provenance.message.clone())
            .with(
                "source",
                self.provenance.source.as_ref().map(|source| json!(source)),
            )
            .fleet(self.fleet.as_ref())
    }

    /// A payload that is built and made live, as who says nothing else gets it.
    pub fn of(project: Project) -> Deploy {
        Deploy {
            project,
            package: None,
            release: None,
            restart: Restart::No,
            activate: true,
            options: Options::default(),
            payload_sha256: None,
            base: None,
            replicated: false,
            ignore_replication_errors: false,
            origin: None,
            provenance: Provenance::default(),
            fleet: None,
        }
    }
}

impl List {
    fn write(&self, writer: FieldWriter) -> FieldWriter {
        writer
            .with("project", self.project.clone())
            .with("status", self.status.clone())
            .with("since", self.since)
            .with("until", self.until)
            .with("limit", self.limit)
            .with("offset", (self.offset > 0).then_some(self.offset))
            .flag("include_events", self.include_events)
    }
}

impl EnvChange {
    fn write(&self, writer: FieldWriter) -> FieldWriter {
        let set = self.set.iter();
        let set: Fields = set
            .map(|(name, value)| (name.to_string(), value.reveal().into()))
            .collect();
        let unset: Vec<Value> = self.unset.iter().map(|name| name.as_str().into()).collect();
        writer
            .with("project", self.project.as_str())
            .with("set", (!set.is_empty()).then_some(Value::from(set)))
            .with("unset", (!unset.is_empty()).then_some(Value::from(unset)))
    }
}

impl RunCommand {
    fn write(&self, writer: FieldWriter) -> FieldWriter {
        let command = match &self.command {
            CommandWords::Line(line) => Value::from(line.as_str()),
            CommandWords::Words(words) => words.clone().into(),
        };
        writer
            .with("project", self.project.as_str())
            .with("command", command)
            .with("deployment_id", self.release.map(|id| id.to_string()))
            .with("timeout", self.timeout)
    }
}

impl Logs {
    fn write(&self, writer: FieldWriter) -> FieldWriter {
        writer
            .with("project", self.project.as_str())
            .with("lines", self.lines)
            .flag("follow", self.follow)
            .with("since", self.since)
            .with("type", self.kind.clone())
    }
}
