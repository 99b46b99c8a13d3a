//! The fleet as this host sees it.

use std::fmt;
use std::sync::Arc;

use crate::api::error::{Code, Refusal};
use crate::api::fleet::{FleetKeys, HostName};
use crate::client::kv::{KvError, KvStore, KvTrouble};

/// The fleet as this host sees it: the store that all share, where in it, and who this is.
#[derive(Clone)]
pub struct FleetSeat {
    pub(crate) store: Arc<dyn KvStore>,
    pub(crate) keys: FleetKeys,
    pub(crate) host: HostName,
    /// Where the others reach this host.
    pub(crate) url: String,
}

impl FleetSeat {
    /// The name of this host.
    pub fn host_name(&self) -> String {
        self.host.to_string()
    }
}

impl fmt::Debug for FleetSeat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FleetSeat({})", self.host)
    }
}

/// What whoever asks is told of trouble with the store.
pub(super) fn unavailable(what: &str, error: &KvError) -> Refusal {
    let why = match error.trouble {
        KvTrouble::NoSpace => {
            "etcd: space exceeded; compact it, defragment it, and disarm its alarm".to_owned()
        }
        _ => error.message.clone(),
    };
    Refusal::new(Code::FleetUnavailable, format!("{what}: {why}"))
}
