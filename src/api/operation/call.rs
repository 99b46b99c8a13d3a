//! Writing an operation as the fields that a client sends, and what the answer to it has to look like.

use serde_json::Value;

use crate::api::operation::{Fields, NAME, Operation};

/// What a success of an operation looks like. Anything else that is answered with a 2xx comes from something that stands in
/// the server's place, such as a proxy's page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerShape {
    /// A JSON object with these fields, each of this kind.
    Object(&'static [(&'static str, FieldKind)]),
    /// Lines of text: time, process type, `stdout`, `stderr` or `gangplank`, and what was printed.
    Lines,
    /// The bytes of a payload.
    Bytes,
    /// Any JSON object or list: the operation is one that this client does not know.
    Json,
}

/// What a field of an answer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldKind {
    /// A string.
    Text,
    /// An array.
    List,
    /// A number.
    Number,
}

impl AnswerShape {
    /// What an older Harper server answers to a deployment.
    pub const MESSAGE: AnswerShape = AnswerShape::Object(&[("message", FieldKind::Text)]);

    /// Whether a JSON value has this shape.
    pub fn fits(self, value: &Value) -> bool {
        match self {
            AnswerShape::Object(fields) => fields.iter().all(|(name, kind)| {
                value.get(name).is_some_and(|value| match kind {
                    FieldKind::Text => value.is_string(),
                    FieldKind::List => value.is_array(),
                    FieldKind::Number => value.is_number(),
                })
            }),
            AnswerShape::Json => value.is_object() || value.is_array(),
            AnswerShape::Lines | AnswerShape::Bytes => false,
        }
    }
}

macro_rules! operations {
    ($($name:ident $word:literal $shape:expr;)+) => {
        /// The name of each operation that there is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum OperationName { $(#[doc = $word] $name,)+ }

        impl OperationName {
            /// All of them.
            pub const ALL: &'static [OperationName] = &[$(OperationName::$name,)+];

            /// The word on the wire.
            pub const fn word(self) -> &'static str {
                match self { $(OperationName::$name => $word,)+ }
            }

            const fn shape(self) -> AnswerShape {
                match self { $(OperationName::$name => $shape,)+ }
            }
        }
    };
}

use AnswerShape::{Bytes, Lines, Object};
use FieldKind::{List as AList, Number, Text};

/// The beginning of a deployment, which its answer names.
const DEPLOYS: AnswerShape = Object(&[("message", Text), ("deployment_id", Text)]);

operations! {
    DeployComponent "deploy_component" DEPLOYS;
    PrepareDeployment "prepare_deployment" Object(&[("missing", Text)]);
    GetDeployment "get_deployment" Object(&[("deployment_id", Text), ("status", Text)]);
    ListDeployments "list_deployments" Object(&[("deployments", AList)]);
    GetDeploymentPayload "get_deployment_payload" Bytes;
    GetTree "get_tree" Bytes;
    GetObjects "get_objects" Bytes;
    DeleteDeploymentPayload "delete_deployment_payload" DEPLOYS;
    RollbackComponent "rollback_component" DEPLOYS;
    CancelDeployment "cancel_deployment" Object(&[("message", Text), ("status", Text)]);
    RestartComponent "restart_component" DEPLOYS;
    StopComponent "stop_component" Object(&[("message", Text), ("processes", AList)]);
    StartComponent "start_component" Object(&[("message", Text), ("processes", AList)]);
    GetLogs "get_logs" Lines;
    RunComponent "run_component" Object(&[("exit_code", Number)]);
    GetEnv "get_env" Object(&[("project", Text), ("names", AList)]);
    SetEnv "set_env" Object(&[("message", Text), ("project", Text)]);
    Sync "sync" Object(&[("message", Text), ("deployments", AList)]);
    DropComponent "drop_component" Object(&[("message", Text)]);
    GetComponents "get_components" Object(&[("components", AList)]);
    GetFleet "get_fleet" Object(&[("projects", AList)]);
    ChangeFleet "change_fleet" Object(&[("message", Text)]);
    RegistrationInfo "registration_info" Object(&[("version", Text)]);
    SystemInformation "system_information" Object(&[("version", Text)]);
    CreatePageCode "create_page_code" Object(&[("code", Text)]);
    EndPageSessions "end_page_sessions" Object(&[("message", Text)]);
}

impl OperationName {
    /// The operation of a word from the wire.
    pub fn parse(word: &str) -> Option<OperationName> {
        let mut all = OperationName::ALL.iter().copied();
        all.find(|name| name.word() == word)
    }

    /// Whether it begins a deployment, whose events its answer may be.
    pub const fn deploys(self) -> bool {
        matches!(
            self,
            OperationName::DeployComponent
                | OperationName::RollbackComponent
                | OperationName::RestartComponent
        )
    }

    /// Whether it changes nothing.
    pub const fn reads(self) -> bool {
        matches!(
            self,
            OperationName::PrepareDeployment
                | OperationName::GetDeployment
                | OperationName::ListDeployments
                | OperationName::GetDeploymentPayload
                | OperationName::GetTree
                | OperationName::GetObjects
                | OperationName::GetLogs
                | OperationName::GetEnv
                | OperationName::GetComponents
                | OperationName::GetFleet
                | OperationName::RegistrationInfo
                | OperationName::SystemInformation
        )
    }
}

/// The operation that a request's fields name.
pub fn name_in(fields: &Fields) -> Option<&str> {
    fields.get(NAME)?.as_str()
}

/// What a client sends: an operation's name and its fields.
#[derive(Debug, Clone, PartialEq)]
pub struct OperationCall(Fields);

impl OperationCall {
    /// With these fields, of which nothing is known: the server judges them.
    pub fn new(name: &str, fields: Fields) -> OperationCall {
        let mut all = Fields::new();
        all.insert(NAME.into(), name.into());
        all.extend(fields.into_iter().filter(|(field, _)| field != NAME));
        OperationCall(all)
    }

    /// Its fields, the name first.
    pub fn fields(&self) -> &Fields {
        &self.0
    }

    /// Its name, if this client knows it.
    pub fn name(&self) -> Option<OperationName> {
        OperationName::parse(name_in(&self.0)?)
    }

    /// Whether it can take long, so that it is asked for as an event stream: silence ends a stream, never the wait for a
    /// plain answer.
    pub fn is_long(&self) -> bool {
        match self.name() {
            Some(OperationName::Sync | OperationName::RunComponent) => true,
            Some(OperationName::StopComponent | OperationName::StartComponent) => {
                self.0.get("replicated") == Some(&Value::Bool(true))
            }
            Some(OperationName::GetLogs | OperationName::GetFleet) => {
                self.0.get("follow") == Some(&Value::Bool(true))
            }
            name => name.is_some_and(OperationName::deploys),
        }
    }

    /// What a success looks like.
    pub fn shape(&self) -> AnswerShape {
        self.name().map_or(AnswerShape::Json, OperationName::shape)
    }
}

impl From<&Operation> for OperationCall {
    fn from(operation: &Operation) -> OperationCall {
        OperationCall::new(operation.name().word(), operation.fields())
    }
}

impl From<Operation> for OperationCall {
    fn from(operation: Operation) -> OperationCall {
        OperationCall::from(&operation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::name::Project;
    use crate::api::name::Secret;
    use crate::api::operation::{
        CommandWords, Deploy, EnvChange, FleetChange, FleetOptions, ForPeers, List, Logs, Options,
        Restart, RunCommand, WaveSize,
    };
    use crate::api::operation::{FleetQuery, Prepare, Rollback, typed};
    use crate::api::package::PackageSpec;
    use crate::api::source::Provenance;
    use crate::api::source::SourceRevision;
    use serde_json::json;

    const ID: &str = "01976e6c-1c2b-7000-8000-000000000000";

    fn all() -> Vec<Operation> {
        let project: Project = "demo".parse().unwrap();
        let id = ID.parse().unwrap();
        let stage = Deploy {
            activate: false,
            options: Options {
                install_command: Some("true".into()),
                install_timeout: Some(60_000),
                install_allow_scripts: true,
                fresh_install: true,
            },
            payload_sha256: Some("a".repeat(64)),
            base: Some("b".repeat(64)),
            ..Deploy::of(project.clone())
        };
        let prepare = |tree, verify| {
            Operation::Prepare(Prepare {
                project: project.clone(),
                tree,
                verify,
            })
        };
        let release = Deploy {
            release: Some(id),
            restart: Restart::Rolling,
            ..Deploy::of(project.clone())
        };
        let replicated = Deploy {
            provenance: Provenance {
                message: Some("why\n\nat length".into()),
                source: SourceRevision::found(Some("a1b2".into()), Some("main".into()), Some(true)),
            },
            replicated: true,
            ignore_replication_errors: true,
            restart: Restart::Immediate,
            ..Deploy::of(project.clone())
        };
        let package = Deploy {
            package: Some(PackageSpec::parse("https://u:p@h/x.tgz?a=b").unwrap()),
            ..Deploy::of(project.clone())
        };
        let drop_of = |first, purge| {
            Operation::Drop(crate::api::operation::DropComponent {
                project: project.clone(),
                first,
                purge,
            })
        };
        let rollback = |to, restart| {
            Operation::Rollback(Rollback {
                project: project.clone(),
                to,
                restart,
                message: to.map(|_| "why".to_owned()),
                replicated: to.is_some(),
                ignore_replication_errors: to.is_some(),
            })
        };
        let logs = |lines, follow| {
            Operation::GetLogs(Logs {
                project: project.clone(),
                lines,
                follow,
                since: lines,
                kind: lines.map(|_| "web".to_owned()),
            })
        };
        let run = |command, release, timeout| {
            Operation::Run(RunCommand {
                project: project.clone(),
                command,
                release,
                timeout,
            })
        };
        let alone = ForPeers::default();
        let everywhere = ForPeers {
            replicated: true,
            ignores: true,
        };
        vec![
            prepare(Some("c".repeat(64)), true),
            prepare(None, false),
            Operation::Deploy(Box::new(Deploy::of(project.clone()))),
            Operation::Deploy(Box::new(stage)),
            Operation::Deploy(Box::new(release)),
            Operation::Deploy(Box::new(replicated)),
            Operation::Deploy(Box::new(Deploy {
                release: Some(id),
                activate: false,
                origin: Some("berlin".into()),
                ..Deploy::of(project.clone())
            })),
            Operation::Deploy(Box::new(package)),
            Operation::Deploy(Box::new(Deploy {
                fleet: Some(FleetOptions {
                    canary: Some(0),
                    wave: Some(WaveSize::Percent(10)),
                    max_failures: Some(2),
                    soak_s: Some(30),
                    host_timeout_s: Some(600),
                    labels: [("site".to_owned(), "eu".to_owned())].into(),
                    rollback_on_failure: true,
                    replace: true,
                    adopt: true,
                }),
                ..Deploy::of(project.clone())
            })),
            Operation::Deploy(Box::new(Deploy {
                fleet: Some(FleetOptions {
                    wave: Some(WaveSize::Hosts(3)),
                    ..FleetOptions::default()
                }),
                ..Deploy::of(project.clone())
            })),
            Operation::GetTree(id),
            Operation::GetObjects(id, "0-2,7".into()),
            Operation::CreatePageCode,
            Operation::EndPageSessions,
            Operation::GetFleet(FleetQuery::default()),
            Operation::GetFleet(FleetQuery {
                project: Some(project.clone()),
                deployment: Some(id),
                follow: true,
            }),
            Operation::ChangeFleet(FleetChange::RollBack(project.clone(), Some("why".into()))),
            Operation::ChangeFleet(FleetChange::PublishCurrent(project.clone(), false)),
            Operation::ChangeFleet(FleetChange::PublishCurrent(project.clone(), true)),
            Operation::ChangeFleet(FleetChange::Remove("h1".parse().unwrap())),
            Operation::ChangeFleet(FleetChange::Pin(project.clone(), true)),
            Operation::ChangeFleet(FleetChange::Pin(project.clone(), false)),
            Operation::GetDeployment(id),
            Operation::GetPayload(id),
            Operation::DeletePayload(id),
            Operation::Cancel(id),
            rollback(None, Restart::No),
            rollback(None, Restart::Auto),
            rollback(Some(id), Restart::Immediate),
            Operation::Restart(project.clone(), Restart::Immediate, None, alone),
            Operation::Restart(
                project.clone(),
                Restart::Rolling,
                Some("why".into()),
                everywhere,
            ),
            Operation::Stop(project.clone(), alone),
            Operation::Stop(project.clone(), everywhere),
            Operation::Start(project.clone(), everywhere),
            logs(None, false),
            logs(Some(7), true),
            run(CommandWords::Line("ls | wc".into()), None, None),
            run(
                CommandWords::Words(vec!["ls".into(), "a b".into(), String::new()]),
                Some(id),
                Some(30_000),
            ),
            Operation::GetEnv(project.clone(), false),
            Operation::GetEnv(project.clone(), true),
            Operation::SetEnv(EnvChange {
                project: project.clone(),
                set: [("A", "1"), ("B", "{\"x\": [1]} # $")]
                    .map(|(name, value)| (name.parse().unwrap(), Secret::new(value)))
                    .into(),
                unset: vec!["C".parse().unwrap()],
            }),
            Operation::Sync("berlin".into(), None),
            Operation::Sync("berlin".into(), Some(project.clone())),
            drop_of(None, false),
            drop_of(None, true),
            drop_of(Some(id), false),
            Operation::ListDeployments(List::default()),
            Operation::ListDeployments(List {
                project: Some("123".into()),
                status: Some("failed".into()),
                since: Some(1),
                until: Some(2),
                limit: Some(3),
                offset: 4,
                include_events: true,
            }),
            Operation::GetComponents(false),
            Operation::GetComponents(true),
            Operation::RegistrationInfo,
            Operation::SystemInformation,
        ]
    }

    #[test]
    fn what_is_written_is_read_back_from_json_and_from_a_form() {
        for operation in all() {
            let call = OperationCall::from(&operation);
            assert_eq!(Operation::parse(call.fields()), Ok(operation.clone()));
            // As a form carries it: each value as text, typed by its name.
            let form = call.fields().iter().map(|(name, value)| {
                let text = value.as_str().map_or(value.to_string(), str::to_owned);
                (name.clone(), typed(name, &text))
            });
            assert_eq!(Operation::parse(&form.collect()), Ok(operation));
        }
        for name in OperationName::ALL {
            assert!(all().iter().any(|one| one.name() == *name), "{name:?}");
            assert_eq!(OperationName::parse(name.word()), Some(*name));
        }
    }

    #[test]
    fn a_success_has_a_shape() {
        let table = [
            (
                "deploy_component",
                json!({"message": "m", "deployment_id": ID}),
                true,
            ),
            ("deploy_component", json!({"message": "m"}), false),
            ("deploy_component", json!({"status": "ok"}), false),
            (
                "list_deployments",
                json!({"deployments": [], "total": 0}),
                true,
            ),
            ("list_deployments", json!({"deployments": {}}), false),
            ("list_deployments", json!([]), false),
            ("get_components", json!({"message": "hello"}), false),
            ("drop_component", json!({"message": 1}), false),
            ("drop_component", json!(null), false),
            ("get_logs", json!({"message": "m"}), false),
            ("search_by_value", json!([1]), true),
            ("search_by_value", json!("text"), false),
        ];
        for (name, value, fits) in table {
            let call = OperationCall::new(name, Fields::new());
            assert_eq!(call.shape().fits(&value), fits, "{name} {value}");
        }
    }

    #[test]
    fn a_name_stands_first_and_once() {
        let mut fields = Fields::new();
        fields.insert("project".into(), "p".into());
        fields.insert(NAME.into(), "other".into());
        let call = OperationCall::new("x", fields);
        let text = serde_json::to_string(call.fields()).unwrap();
        assert_eq!(text, r#"{"operation":"x","project":"p"}"#);
    }
}
