//! What the document says of each operation: what it does, its fields, and examples that a server takes.

use crate::api::operation::OperationName;

/// Whether a field has to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// Without it the operation is refused.
    Required,
    /// It may be left out.
    Optional,
}

/// When the answer is a stream of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Streams {
    /// Whatever the client accepts, it gets none.
    Never,
    /// If the client accepts `text/event-stream`.
    Asked,
    /// Whatever the client accepts.
    Always,
}

/// A field: its name, whether it is needed, and what it is for.
pub(super) type FieldText = (&'static str, Need, &'static str);

/// What is said of an operation.
pub(super) struct OperationText {
    /// What it does.
    pub(super) summary: &'static str,
    pub(super) streams: Streams,
    /// The fields of each, as JSON.
    pub(super) examples: &'static [&'static str],
    /// Of each of these lists, one field at least is needed.
    pub(super) any_of: &'static [&'static [&'static str]],
    pub(super) fields: &'static [FieldText],
}

macro_rules! texts {
    ($($name:ident $streams:ident $summary:literal $examples:tt $any_of:tt { $($field:literal $need:ident $text:literal;)* })+) => {
        /// What is said of an operation. There is no operation of which nothing is said.
        pub(super) const fn text(name: OperationName) -> OperationText {
            match name {
                $(OperationName::$name => OperationText {
                    summary: $summary,
                    streams: Streams::$streams,
                    examples: &$examples,
                    any_of: &$any_of,
                    fields: &[$(($field, Need::$need, $text),)*],
                },)+
            }
        }
    };
}

texts! {
    DeployComponent Asked "Builds a payload or a package and makes it live, or makes an existing release live. Without events the answer comes at the end."
    [
        // A gzipped tar of one file, `index.txt`.
        r#"{"project": "my-app", "payload": "H4sIAAAAAAACA9PTz8xLSa3QK6koYaAVMAACMxMTMA0E6DRIFokNFDc0NAIKKRgw0AGUFpckFgGtp4YnkT03REBGak5OPhfDKBgFo2AUjIIRBgBMOoQOAAgAAA==", "message": "The first one", "source": {"commit": "a1b2c3d", "branch": "main", "dirty": false}}"#,
        r#"{"project": "my-app", "deployment_id": "01976e6c-1c2b-7000-8000-000000000000", "restart": "auto"}"#,
        r#"{"project": "my-app", "payload": "H4sIAAAAAAACA9PTz8xLSa3QK6koYaAVMAACMxMTMA0E6DRIFokNFDc0NAIKKRgw0AGUFpckFgGtp4YnkT03REBGak5OPhfDKBgFo2AUjIIRBgBMOoQOAAgAAA==", "fleet": true, "wave": "10%", "labels": {"site": "eu"}}"#
    ]
    [&["project", "package"], &["payload", "package", "deployment_id"]] {
        "project" Optional "The component. Without it, a package gives its own name.";
        "payload" Optional "A tar, a gzipped tar or a delta. In a form it is the file, as the last part; in JSON it is base64.";
        "package" Optional "What the server fetches itself instead: a package of npm, a URL of a tarball, or a git repository.";
        "deployment_id" Optional "The release to make live instead: of a deployment that was live, or only built.";
        "restart" Optional "Whether and how the processes start again.";
        "activate" Optional "False to build only. The default is true.";
        "install_command" Optional "A command for the shell that runs instead of the package manager.";
        "install_timeout" Optional "How long the installation may take, in milliseconds, above 0.";
        "install_allow_scripts" Optional "Whether packages may run scripts of their own.";
        "fresh_install" Optional "Whether it is installed even if the same was installed before.";
        "payload_sha256" Optional "The SHA-256 that the payload must have.";
        "base" Optional "The tree that the payload begins from, if it is a delta.";
        "replicated" Optional "Whether it is built on every peer, and made live everywhere or nowhere.";
        "ignore_replication_errors" Optional "Whether peers that fail are left behind.";
        "origin" Optional "The server that asks, by its name, if a peer does.";
        "message" Optional "Why, in at most 4096 bytes.";
        "source" Optional "The commit that it is made of.";
        "fleet" Optional "Whether it is published for all hosts of the fleet. The fields below belong to it.";
        "canary" Optional "How many hosts go first.";
        "wave" Optional "How many go at once then: a number, or a part of all from 1% to 100%.";
        "max_failures" Optional "More hosts that fail stop the rollout.";
        "soak" Optional "How long a wave is looked at before the next one, in seconds.";
        "host_timeout" Optional "How long a host may take, in seconds; 0 for any time.";
        "labels" Optional "Only the hosts that have all of these labels.";
        "rollback_on_failure" Optional "Whether what was wanted before is wanted again when the rollout stops.";
        "replace" Optional "Whether it takes the place of a rollout that goes on.";
        "adopt" Optional "Whether it is published though etcd was emptied.";
    }
    PrepareDeployment Never "Says what of a tree is missing here, so that only that has to be sent."
    [r#"{"project": "my-app"}"#] [] {
        "project" Required "The component.";
        "tree" Optional "The tree that is to be sent; its list comes as the payload. Without it the answer says whether there is anything.";
        "verify" Optional "Whether what is here is read before it is counted on.";
        "payload" Optional "The list of the tree, as the file of a form.";
    }
    GetDeployment Asked "The record of a deployment; or its events from the first one on, and those that come."
    [r#"{"deployment_id": "01976e6c-1c2b-7000-8000-000000000000"}"#] [] {
        "deployment_id" Required "The deployment.";
    }
    ListDeployments Never "Deployments, the newest first."
    [r#"{"project": "my-app", "limit": 10}"#, "{}"] [] {
        "project" Optional "Only those of this component.";
        "status" Optional "Only those in this status, such as success or failed.";
        "since" Optional "Only those that began at or after this time, in milliseconds since 1970.";
        "until" Optional "Only those that began at or before this time, in milliseconds since 1970.";
        "limit" Optional "How many at most. The default is 100, and the largest number 1000.";
        "offset" Optional "Without the first so many.";
        "include_events" Optional "Whether each has its log of events.";
    }
    GetDeploymentPayload Never "The payload of a deployment, as an archive."
    [r#"{"deployment_id": "01976e6c-1c2b-7000-8000-000000000000"}"#] [] {
        "deployment_id" Required "The deployment.";
    }
    GetTree Never "The list of the files in the payload of a deployment, for another server."
    [r#"{"deployment_id": "01976e6c-1c2b-7000-8000-000000000000"}"#] [] {
        "deployment_id" Required "The deployment.";
    }
    GetObjects Never "Objects of that list, by their numbers, for another server."
    [r#"{"deployment_id": "01976e6c-1c2b-7000-8000-000000000000", "objects": "all"}"#] [] {
        "deployment_id" Required "The deployment.";
        "objects" Required "Numbers in ascending order, such as 0-11,417, or all.";
    }
    DeleteDeploymentPayload Never "Removes the payload of a deployment. The release stays."
    [r#"{"deployment_id": "01976e6c-1c2b-7000-8000-000000000000"}"#] [] {
        "deployment_id" Required "The deployment.";
    }
    RollbackComponent Asked "Makes an earlier release live again, without upload and installation."
    [r#"{"project": "my-app", "message": "The new one is slow"}"#] [] {
        "project" Required "The component.";
        "deployment_id" Optional "Whose release; without it, the one that was live before.";
        "restart" Optional "Whether and how the processes start again.";
        "message" Optional "Why, in at most 4096 bytes.";
        "replicated" Optional "Whether every peer goes back, too, or none.";
        "ignore_replication_errors" Optional "Whether peers that fail are left behind.";
    }
    CancelDeployment Never "Stops a deployment that is not live yet. The answer comes when it has ended."
    [r#"{"deployment_id": "01976e6c-1c2b-7000-8000-000000000000"}"#] [] {
        "deployment_id" Required "The deployment.";
    }
    RestartComponent Asked "Restarts the processes of a component. What does not become healthy is replaced by what ran before."
    [r#"{"project": "my-app", "rolling": true}"#] [] {
        "project" Required "The component.";
        "rolling" Optional "Whether one process goes after the other.";
        "message" Optional "Why, in at most 4096 bytes.";
        "replicated" Optional "Whether every peer does it, too, after this host.";
        "ignore_replication_errors" Optional "Whether peers that fail are left behind.";
    }
    StopComponent Never "Stops the processes of a component until they are started or deployed with a restart."
    [r#"{"project": "my-app"}"#] [] {
        "project" Required "The component.";
        "replicated" Optional "Whether every peer does it, too, after this host; the answer is a stream of events then if the client accepts one.";
        "ignore_replication_errors" Optional "Whether peers that fail are left behind.";
    }
    StartComponent Never "Starts what does not run of a component."
    [r#"{"project": "my-app"}"#] [] {
        "project" Required "The component.";
        "replicated" Optional "Whether every peer does it, too, after this host; the answer is a stream of events then if the client accepts one.";
        "ignore_replication_errors" Optional "Whether peers that fail are left behind.";
    }
    GetLogs Asked "The newest lines that the processes of a component printed, as text or as events."
    [r#"{"project": "my-app", "lines": 100}"#] [] {
        "project" Required "The component.";
        "lines" Optional "How many at most. The default is 100, and the largest number 10000.";
        "follow" Optional "Whether a stream of events goes on with the lines that come.";
        "since" Optional "Only lines of this time or later, in milliseconds since 1970.";
        "type" Optional "Only lines of this process type.";
    }
    RunComponent Always "Runs one command in a release. It ends with the connection."
    [r#"{"project": "my-app", "command": ["ls", "-l"]}"#, r#"{"project": "my-app", "command": "ls | wc -l", "timeout": 60000}"#] [] {
        "project" Required "The component.";
        "command" Required "A line for the shell, or a program and its arguments.";
        "deployment_id" Optional "The deployment in whose release it runs; without it, the live one.";
        "timeout" Optional "How long it may take, in milliseconds, above 0.";
    }
    GetEnv Never "The names of the variables in the environment of a component, and their values if they are asked for."
    [r#"{"project": "my-app"}"#] [] {
        "project" Required "The component.";
        "values" Optional "Whether the answer has the values, too.";
    }
    SetEnv Never "Changes the environment of a component. It holds from the next start of its processes on."
    [r#"{"project": "my-app", "set": {"PORT": "8080"}, "unset": ["DEBUG"]}"#] [] {
        "project" Required "The component.";
        "set" Optional "Names and their values, of one line each.";
        "unset" Optional "The names that go.";
    }
    Sync Asked "Deploys here what is live at a peer, and the answer tells of each component."
    [r#"{"from": "berlin"}"#] [] {
        "from" Required "The peer.";
        "project" Optional "Only this component.";
    }
    DropComponent Never "Stops a component and removes its releases. What it shares, its environment, hooks, logs and records stay."
    [r#"{"project": "my-app"}"#] [] {
        "project" Required "The component.";
        "deployment_id" Optional "Take back this first deployment alone, if what is live is of it.";
        "purge" Optional "Whether the rest is removed, too.";
    }
    GetComponents Never "The components, what is live of each, and how their processes are."
    ["{}"] [] {
        "peers" Optional "Whether the answer has what is live at the peers, too, as hosts.";
    }
    GetFleet Asked "How components stand on the hosts of the fleet, or how a rollout goes on."
    ["{}"] [] {
        "project" Optional "Only this component. Who follows names one.";
        "deployment_id" Optional "The deployment whose rollout it is; without it, what is wanted now.";
        "follow" Optional "Whether a stream of events goes on until the rollout has ended.";
    }
    ChangeFleet Never "Changes what the fleet wants."
    [r#"{"action": "rollback", "project": "my-app", "message": "The new one is slow"}"#, r#"{"action": "remove", "host": "web-1"}"#,
     r#"{"action": "publish_current", "project": "my-app", "adopt": true}"#]
    [&["project", "host"]] {
        "action" Required "What changes: host goes with remove, and project with all others.";
        "project" Optional "The component.";
        "host" Optional "The host that is expected no longer.";
        "message" Optional "Why it is rolled back.";
        "adopt" Optional "Whether publish_current takes what is live on this host where nothing is wanted, since etcd was emptied.";
    }
    RegistrationInfo Never "Which version answers, as clients of Harper ask for it, and what it takes as a payload."
    ["{}"] [] {}
    SystemInformation Never "How the server is, and who asks."
    ["{}"] [] {}
    CreatePageCode Never "A code with which a browser signs in at the page, once."
    ["{}"] [] {}
    EndPageSessions Never "Ends sessions of the page: the one that asks, or those of the token, or all."
    ["{}"] [] {}
}
