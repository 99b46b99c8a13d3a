//! What the hosts of a fleet tell each other through etcd: one small JSON document for each key of [`FleetKeys`].
//!
//! A document is read with its version, `v`. One of a version that is not known here is not read any further: who acts on
//! it needs a newer gangplank. Members that are not known are kept, so that who writes a document again loses nothing.

mod keys;
mod order;
mod signed;

use std::collections::BTreeMap;
use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use crate::api::fleet::keys::FleetKeys;
pub use crate::api::fleet::order::{EVERYBODY, RolloutOrder, order_of};
pub use crate::api::fleet::signed::signed_part;
pub use crate::api::name::HostName;
use crate::api::name::{DeploymentId, Project};
use crate::api::operation::{Options, Restart};
use crate::api::source::SourceRevision;

/// The version of the documents that is written, and the only one that is read.
const VERSION: u64 = 1;

/// A document is smaller: etcd keeps each of them in memory, and a thousand hosts read it.
const DOCUMENT_LEN_MAX: usize = 16 << 10;

/// Declares a document: its members, `v` before them, and behind them those that are not known here.
macro_rules! documents {
    ($($(#[$doc:meta])+ $name:ident { $($(#[$attribute:meta])+ $member:ident: $type:ty,)* })+) => {
        $(
            $(#[$doc])+
            #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
            pub struct $name {
                /// The version of the document.
                v: u64,
                $($(#[$attribute])+ pub $member: $type,)*
                /// Members that are not known here.
                #[serde(flatten)]
                pub more: Map<String, Value>,
            }

            impl $name {
                /// A document of the version that is written.
                #[allow(clippy::too_many_arguments, clippy::new_without_default)]
                pub fn new($($member: $type),*) -> $name {
                    $name { v: VERSION, $($member,)* more: Map::new() }
                }
            }

            impl FleetDocument for $name {}
        )+
    };
}

/// A document of a fleet.
pub trait FleetDocument: Serialize + DeserializeOwned {
    /// Reads a value of etcd.
    ///
    /// # Errors
    /// When it is of another version, or not such a document.
    fn read(value: &[u8]) -> Result<Self, Unreadable> {
        if value.len() >= DOCUMENT_LEN_MAX {
            let most = DOCUMENT_LEN_MAX >> 10;
            return Err(Unreadable::Broken(format!("it has {most} KiB or more")));
        }
        let value: Value =
            serde_json::from_slice(value).map_err(|error| Unreadable::Broken(error.to_string()))?;
        match value["v"].as_u64() {
            Some(VERSION) => {}
            Some(other) => return Err(Unreadable::Newer(other)),
            None => {
                return Err(Unreadable::Broken(
                    "it does not say its version, 'v'".to_owned(),
                ));
            }
        }
        serde_json::from_value(value).map_err(|error| Unreadable::Broken(error.to_string()))
    }

    /// The value for etcd, on one line.
    ///
    /// # Errors
    /// When it is larger than a document may be.
    fn write(&self) -> Result<Vec<u8>, String> {
        let value = serde_json::to_vec(self).map_err(|error| error.to_string())?;
        match value.len() < DOCUMENT_LEN_MAX {
            true => Ok(value),
            false => Err(format!(
                "it has {} bytes, and a document of the fleet must have less than {} KiB",
                value.len(),
                DOCUMENT_LEN_MAX >> 10
            )),
        }
    }
}

/// Why a document cannot be acted on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unreadable {
    /// It is of this version.
    Newer(u64),
    /// It is not such a document.
    Broken(String),
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unreadable::Newer(v) => write!(f, "newer gangplank needed: it is of version {v}"),
            Unreadable::Broken(why) => f.write_str(why),
        }
    }
}

documents! {
    /// `fleet`: which fleet the keys belong to. Who finds another id than before knows that etcd was emptied.
    FleetIdentity {
        /// A random id.
        id: String,
    }

    /// `hosts/HOST`: the host is expected. It stays when the host goes off.
    HostEntry {
        /// Where the others reach it.
        url: String,
        /// The place that it stands in, if that was said; payloads come from the same place first.
        #[serde(default)]
        site: Option<String>,
        /// What it is chosen by.
        #[serde(default)]
        labels: BTreeMap<String, String>,
        /// When it joined, by its own clock.
        joined_at: u64,
        /// The id of its root: another host of the same name has another one.
        #[serde(default)]
        root: String,
    }

    /// `alive/HOST`, under a lease: the host is there.
    Alive {
        /// This run of the host's server, in hex: each start has another one.
        boot: String,
        /// The id of its root.
        #[serde(default)]
        root: String,
        /// The version of its gangplank.
        version: String,
        /// The highest generation that it has seen, of each component.
        #[serde(default)]
        generation_seen: BTreeMap<Project, u64>,
    }

    /// `desired/PROJECT`: what is wanted of a component.
    Desired {
        /// Counted by one for each change, so that a restored older state is seen to be older.
        generation: u64,
        /// The deployment at the origin that built it.
        deployment_id: DeploymentId,
        /// The payload's SHA-256 in hex.
        sha256: String,
        /// The payload's size in bytes.
        size: u64,
        /// How it is built.
        #[serde(default)]
        options: Options,
        /// Whether the processes start again.
        #[serde(default, with = "restart_mode")]
        restart: Restart,
        /// The host that built it first, whose server has the payload.
        origin: HostName,
        /// Where that host is reached.
        #[serde(default)]
        origin_url: Option<String>,
        /// Who asked for it.
        #[serde(default)]
        user: Option<String>,
        /// When, by the origin's clock.
        #[serde(default)]
        published_at: u64,
        /// Why it is made.
        #[serde(default)]
        message: Option<String>,
        /// What it is made of.
        #[serde(default)]
        source: Option<SourceRevision>,
        /// The deployment that it undoes.
        #[serde(default)]
        rollback_of: Option<DeploymentId>,
        /// The component is not wanted any longer.
        #[serde(default)]
        drop: bool,
        /// Only the hosts that have all of these labels; everybody if there are none.
        #[serde(default)]
        labels: BTreeMap<String, String>,
        /// What was wanted before.
        #[serde(default)]
        previous: Option<PreviousDesired>,
        /// Who publishes signs all of the above, with the project, in base64.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signature: Option<String>,
    }

    /// `rollout/PROJECT`: how far a generation may go.
    Rollout {
        /// The generation that it is about.
        generation: u64,
        /// How many hosts go first.
        #[serde(default)]
        canary: u64,
        /// How many hosts are a wave.
        #[serde(default)]
        wave: u64,
        /// More failures stop it.
        #[serde(default)]
        max_failures: u64,
        /// How long a wave is looked at before the next one, in seconds.
        #[serde(default)]
        soak_s: u64,
        /// How many hosts of the order may go.
        open: u64,
        /// The same as a bound: hosts whose place in the order ([`order_of`]) is below it may go. With it a host needs no
        /// list of the others.
        #[serde(default)]
        below: Option<String>,
        /// How it stands.
        state: RolloutState,
        /// Why it stands so.
        #[serde(default)]
        reason: Option<String>,
        /// How long a host may take, in seconds; one that takes longer counts as failed. 0 for any time.
        #[serde(default)]
        host_timeout_s: u64,
        /// What was wanted before is wanted again when it stops.
        #[serde(default)]
        rollback_on_failure: bool,
    }

    /// `claim/PROJECT`, under a lease: somebody is about to publish it.
    Claim {
        /// On this host.
        host: HostName,
        /// By this deployment.
        deployment_id: DeploymentId,
        /// For this user.
        #[serde(default)]
        user: Option<String>,
    }

    /// `lead/PROJECT`, under a lease: a host leads the rollout.
    Lead {
        /// Which one.
        host: HostName,
    }

    /// `status/HOST/PROJECT`, without a lease: how a component stands on a host.
    HostStatus {
        /// The generation that it is about.
        generation: u64,
        /// The fleet's deployment that it is about.
        deployment_id: Option<DeploymentId>,
        /// How it stands.
        state: HostState,
        /// The phase in which it ended.
        #[serde(default)]
        phase: Option<String>,
        /// The code of why it is so.
        #[serde(default)]
        code: Option<String>,
        /// Why it is so.
        #[serde(default)]
        message: Option<String>,
        /// How often it was tried.
        #[serde(default)]
        attempt: u64,
        /// The fleet's deployment that was live before.
        #[serde(default)]
        previous_live: Option<DeploymentId>,
    }

    /// `have/SHA256/HOST`, under the host's lease: the host has a payload.
    Have {
        /// Where it gives it away.
        url: String,
        /// The place that it stands in, if that was said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        site: Option<String>,
    }
}

/// What a deployment of a host was made for. It has an id of its own on each host, and this in its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetGeneration {
    /// Which change of the component it is, as the fleet counts them.
    pub generation: u64,
    /// The deployment at the origin that built it.
    pub deployment_id: DeploymentId,
}

impl From<&Desired> for FleetGeneration {
    fn from(desired: &Desired) -> FleetGeneration {
        FleetGeneration {
            generation: desired.generation,
            deployment_id: desired.deployment_id,
        }
    }
}

/// What was wanted before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviousDesired {
    pub generation: u64,
    pub deployment_id: DeploymentId,
    pub sha256: String,
    /// The rest of what a rollback wants again.
    #[serde(default)]
    pub size: u64,
    #[serde(default)]
    pub options: Options,
    #[serde(default)]
    pub origin: Option<HostName>,
    #[serde(default)]
    pub origin_url: Option<String>,
}

/// How a rollout stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutState {
    /// The first hosts go.
    Canary,
    /// Those that went are looked at.
    Soak,
    /// A wave goes.
    Wave,
    /// Everybody may go, and all that is there went.
    Done,
    /// Too many failed: nobody goes any longer that has not begun.
    Stopped,
    /// A newer generation took its place.
    Superseded,
}

/// How a component stands on a host. That a host is not there is seen by its missing `alive`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostState {
    Idle,
    /// Its turn has not come.
    Waiting,
    Fetching,
    Verifying,
    Building,
    Activating,
    Live,
    Failed,
    RolledBack,
    /// What is wanted cannot be trusted, and nothing is done.
    Held,
    /// Somebody made another release live on this host, and the fleet leaves it alone.
    Pinned,
    /// The host was taken out of the fleet.
    Removed,
}

impl HostState {
    /// The word for it, as it is written.
    pub const fn word(self) -> &'static str {
        match self {
            HostState::Idle => "idle",
            HostState::Waiting => "waiting",
            HostState::Fetching => "fetching",
            HostState::Verifying => "verifying",
            HostState::Building => "building",
            HostState::Activating => "activating",
            HostState::Live => "live",
            HostState::Failed => "failed",
            HostState::RolledBack => "rolled_back",
            HostState::Held => "held",
            HostState::Pinned => "pinned",
            HostState::Removed => "removed",
        }
    }
}

impl Desired {
    /// Whether a host with these labels is meant.
    pub fn is_for(&self, labels: &BTreeMap<String, String>) -> bool {
        self.labels
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
    }
}

impl HostStatus {
    /// The same of a host that was taken out of the fleet.
    pub fn of_removed(&self) -> HostStatus {
        HostStatus {
            state: HostState::Removed,
            phase: None,
            code: None,
            message: Some("the host was taken out of the fleet, and goes on as it is".to_owned()),
            ..self.clone()
        }
    }
}

impl Rollout {
    /// Whether a host may go, by its bound; none if the document has none, and the hosts have to be counted.
    pub fn opens(&self, deployment: DeploymentId, host: &HostName) -> Option<bool> {
        let below = self.below.as_deref()?;
        Some(order_of(deployment, host).as_str() < below)
    }
}

/// Whether and how processes start again, as a record writes it.
mod restart_mode {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    use crate::api::operation::Restart;

    pub fn serialize<S: Serializer>(restart: &Restart, to: S) -> Result<S::Ok, S::Error> {
        restart.mode().serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Restart, D::Error> {
        let mode = Option::<String>::deserialize(from)?;
        let all = [
            Restart::No,
            Restart::Auto,
            Restart::Immediate,
            Restart::Rolling,
        ];
        let mut all = all.into_iter();
        all.find(|restart| restart.mode() == mode.as_deref())
            .ok_or_else(|| {
                de::Error::custom(format!("'restart' is {mode:?}, which is not known here"))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DESIRED: &str = r#"{"v":1,"generation":7,"deployment_id":"01920000-0000-7000-8000-000000000001",
        "sha256":"ab","size":12,"options":{"install_command":null,"install_timeout":null,"install_allow_scripts":true},
        "restart":"rolling","origin":"one","drop":false,"colour":"later","previous":null}"#;

    #[test]
    fn unknown_members_stay() {
        let desired = Desired::read(DESIRED.as_bytes()).unwrap();
        assert_eq!(desired.restart, Restart::Rolling);
        assert!(desired.options.install_allow_scripts && !desired.drop);
        assert_eq!(desired.more["colour"], "later");
        let written = desired.write().unwrap();
        assert!(!written.contains(&b'\n'));
        assert_eq!(Desired::read(&written), Ok(desired));
    }

    #[test]
    fn a_document_is_read_by_its_version() {
        let newer = DESIRED.replace("\"v\":1", "\"v\":2");
        assert_eq!(Desired::read(newer.as_bytes()), Err(Unreadable::Newer(2)));
        for (broken, why) in [
            ("", "EOF"),
            ("[]", "'v'"),
            ("{}", "'v'"),
            (r#"{"v":"1"}"#, "'v'"),
            (r#"{"v":1}"#, "generation"),
            (&DESIRED.replace("rolling", "sideways"), "sideways"),
            (&DESIRED.replace("01920000", "x"), "deployment id"),
            (&"[".repeat(10_000), "recursion"),
            (&" ".repeat(DOCUMENT_LEN_MAX), "16 KiB"),
        ] {
            match Desired::read(broken.as_bytes()) {
                Err(Unreadable::Broken(text)) => assert!(text.contains(why), "{text}"),
                other => panic!("{broken}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_document_is_small() {
        let status = HostStatus::new(
            1,
            None,
            HostState::Failed,
            None,
            None,
            Some("x".repeat(DOCUMENT_LEN_MAX)),
            1,
            None,
        );
        assert!(status.write().unwrap_err().contains("16 KiB"));
    }

    #[test]
    fn states_are_written_by_their_words() {
        for state in [HostState::Idle, HostState::RolledBack, HostState::Held] {
            assert_eq!(serde_json::to_value(state).unwrap(), state.word());
        }
    }

    #[test]
    fn labels_choose() {
        let mut desired = Desired::read(DESIRED.as_bytes()).unwrap();
        let labels = BTreeMap::from([("site".to_owned(), "eu".to_owned())]);
        assert!(desired.is_for(&labels) && desired.is_for(&BTreeMap::new()));
        desired.labels = labels.clone();
        assert!(desired.is_for(&labels) && !desired.is_for(&BTreeMap::new()));
    }
}
