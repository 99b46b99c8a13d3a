//! The root on disk: its lock, the releases, what is live, payloads and records.
//!
//! `components/X` is a symbolic link to the live release and the only truth about it. It changes by one rename, after
//! everything that it leads to is on disk ([`Store::switch`]), so that a reader, and a start after a power loss, sees the old
//! release or the new one, whole.
//!
//! | file | what for |
//! | --- | --- |
//! | `root` | the directories, the lock, the sockets' places, the disk |
//! | `identity` | the id of the root, wherever it is moved |
//! | `live` | which release of a component is live |
//! | `switch` | from one release to another, and back |
//! | `releases` | the trees of releases |
//! | `deployments` | the directories of deployments, and the marks of those that run |
//! | `payloads` | what was uploaded |
//! | `trees` | the lists of the trees that payloads hold |
//! | `modules` | a copy of what was installed, for the next release |
//! | `spare` | a copy of a payload's tree, of which the next release is made |
//! | `records` | the record of a deployment, also one that the disk did not take yet |
//! | `notices` | what is to be told of the ends of deployments |
//! | `journal` | what happened in a deployment, entry by entry |
//! | `index` | all deployments, in memory |
//! | `tokens` | who may do what |
//! | `remove` | removing a tree |

mod deployments;
mod identity;
pub mod index;
pub mod journal;
mod live;
mod modules;
mod notices;
mod payloads;
mod records;
mod releases;
mod remove;
mod root;
mod spare;
mod switch;
pub mod tokens;
mod trees;

pub use crate::store::live::Component;
pub use crate::store::modules::ModulesIndex;
pub use crate::store::remove::DetachedTree;
pub use crate::store::root::{Store, check_socket_path};
pub use crate::store::switch::Switch;

use std::fs;
use std::path::Path;

use crate::api::error::{Doing, Error};
use crate::api::name::DeploymentId;
use crate::system::files::if_there;

/// The names in a directory, in no order; none where there is no directory.
fn names(path: &Path) -> Result<Vec<String>, Error> {
    let what = || format!("reading the directory {}", path.display());
    let Some(entries) = if_there(fs::read_dir(path)).doing(what)? else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for entry in entries {
        found.extend(entry.doing(what)?.file_name().into_string());
    }
    Ok(found)
}

/// The names in a directory that are ids, in their order.
fn ids(path: &Path) -> Result<Vec<DeploymentId>, Error> {
    let mut found: Vec<DeploymentId> = names(path)?
        .iter()
        .filter_map(|name| name.parse().ok())
        .collect();
    found.sort_unstable();
    Ok(found)
}
