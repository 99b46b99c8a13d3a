//! What a server is told at its start. The command line reads it, and the server is built from it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::api::fleet::{FleetKeys, HostName};
use crate::api::notice::NoticeUrl;
use crate::engine::peers::PeerOptions;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// `host:port`, the port 0 for any that is free.
    Tcp(String),
    /// A unix socket.
    Unix(PathBuf),
}

/// How the server is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServeOptions {
    /// What the server owns; none for the default root.
    pub root: Option<PathBuf>,
    /// Where it listens, beside the socket in the root; nothing for the default.
    pub listen: Vec<Listen>,
    /// Whether it replaces the server that uses the root.
    pub take_over: bool,
    /// The certificate and the key of its TCP listeners.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Deployments past `extract` at once.
    pub max_deploys: usize,
    /// The largest payload.
    pub max_payload: Option<u64>,
    /// The largest JSON body.
    pub max_json_body: u64,
    /// What is left free on the disk.
    pub min_free_disk: u64,
    /// Entries in one payload.
    pub max_entries: u64,
    /// Connections at once.
    pub max_connections: usize,
    /// Releases kept of a component.
    pub keep_releases: usize,
    /// Payloads kept of a component.
    pub keep_payloads: usize,
    /// Deployments kept of a component.
    pub keep_deployments: usize,
    /// Whether a copy of what is live is kept, of which the next release is made.
    pub spare: bool,
    /// For requests that name none.
    pub install_timeout: Duration,
    /// Who installations, checks and processes run as.
    pub run_as: Option<String>,
    /// Whether a component's held sockets may have ports below 1024.
    pub privileged_sockets: bool,
    /// From the signal to the end.
    pub grace: Duration,
    /// The servers that it deploys to.
    pub peers: Vec<PeerOptions>,
    /// How long each of them may take to build.
    pub replicate_timeout: Duration,
    /// The peer that it catches up from at its start.
    pub sync_from: Option<String>,
    /// Who is told of the ends of deployments.
    pub notify: Vec<NoticeUrl>,
    /// The file with what they know the server by.
    pub notify_secret_file: Option<PathBuf>,
    /// The fleet that it belongs to.
    pub fleet: Option<FleetSettings>,
}

/// How a server belongs to a fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetSettings {
    /// Where etcd is, `http://host:port` or `https://host:port`.
    pub endpoints: Vec<String>,
    /// What this host is called; the system's name for it if nothing is said.
    pub name: Option<HostName>,
    /// Where the other hosts reach it.
    pub url: String,
    /// What all hosts show each other.
    pub token_file: PathBuf,
    /// Whom to trust as other hosts.
    pub host_ca: Option<PathBuf>,
    /// Who logs in to etcd, and the file of the password.
    pub user: Option<(String, PathBuf)>,
    /// The certificate for etcd, and its key.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Whom to trust as etcd.
    pub ca: Option<PathBuf>,
    /// Where in etcd the fleet is.
    pub keys: FleetKeys,
    /// What this host is chosen by.
    pub labels: BTreeMap<String, String>,
    /// Whether it takes the name of a host that is not there.
    pub takes_over: bool,
    /// Whose word it takes for what is wanted; anybody's if it is not said.
    pub trust: Option<PathBuf>,
    /// What it signs with what it publishes.
    pub signing_key: Option<PathBuf>,
}
