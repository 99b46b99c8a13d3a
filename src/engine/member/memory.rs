//! What a host remembers of its fleet, `ROOT/run/fleet.json`. It is on disk before anything is done because of it, so that a
//! store that was put back to an older state cannot turn this host back.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::api::error::{Doing, Error};
use crate::api::fleet::HostState;
use crate::api::name::{DeploymentId, Project};
use crate::system::files::{self, Durability};

/// What a host remembers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetMemory {
    /// The id of the fleet that it belongs to.
    #[serde(default)]
    pub fleet: Option<String>,
    /// Whether it has joined: then a missing entry means that somebody took it out.
    #[serde(default)]
    pub joined: bool,
    /// What it did last, of each component.
    #[serde(default)]
    pub projects: BTreeMap<Project, Applied>,
}

/// The newest generation that was begun here, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The highest generation that was begun.
    pub generation: u64,
    /// The fleet's deployment of it.
    pub deployment_id: DeploymentId,
    /// How it ended; `building` until it has.
    pub state: HostState,
    /// How often it was tried.
    pub attempt: u64,
    /// The release of this host that was live when it had ended.
    #[serde(default)]
    pub live: Option<DeploymentId>,
    /// The fleet's deployment that is live.
    #[serde(default)]
    pub live_of_fleet: Option<DeploymentId>,
    /// The fleet's deployment that was live before.
    #[serde(default)]
    pub previous_live: Option<DeploymentId>,
    /// In which phase it failed.
    #[serde(default)]
    pub phase: Option<String>,
    /// The code of why it failed.
    #[serde(default)]
    pub code: Option<String>,
    /// Why it failed.
    #[serde(default)]
    pub message: Option<String>,
}

impl Applied {
    /// Whether it has not ended.
    pub fn is_begun(&self) -> bool {
        self.state == HostState::Building
    }
}

impl FleetMemory {
    /// Where it is kept in a root.
    pub fn file(root: &Path) -> PathBuf {
        root.join("run/fleet.json")
    }

    /// What a host remembers; nothing at its first time.
    ///
    /// # Errors
    /// When it cannot be read: without it, an older state could not be told from a newer one.
    pub fn load(file: &Path) -> Result<FleetMemory, Error> {
        let doing = || format!("reading {}", file.display());
        match std::fs::read(file) {
            Ok(text) => serde_json::from_slice(&text).doing(doing),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(FleetMemory::default()),
            Err(error) => Err(error).doing(doing),
        }
    }

    /// Puts it on disk.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn save(&self, file: &Path) -> Result<(), Error> {
        let doing = || format!("writing {}", file.display());
        let text = serde_json::to_vec_pretty(self).doing(doing)?;
        files::replace(file, &text, 0o600, Durability::PowerLoss).doing(doing)
    }
}
