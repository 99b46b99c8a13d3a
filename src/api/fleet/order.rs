//! In which order the hosts of a rollout go. It is another one for each deployment, so that it is not always the same host
//! that tries what is new, and every host knows its own place without asking.

use sha2::{Digest, Sha256};

use crate::api::fleet::HostName;
use crate::api::name::DeploymentId;

/// A bound that is above every place.
pub const EVERYBODY: &str = "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff";

/// The place of a host in the order of a deployment, as 64 hex digits: a lower text goes earlier.
pub fn order_of(deployment: DeploymentId, host: &HostName) -> String {
    let mut hash = Sha256::new();
    hash.update(deployment.to_string());
    hash.update(host.as_str());
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The hosts of a rollout, first to last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolloutOrder(Vec<(String, HostName)>);

impl RolloutOrder {
    /// The order of these hosts.
    pub fn new(
        deployment: DeploymentId,
        hosts: impl IntoIterator<Item = HostName>,
    ) -> RolloutOrder {
        let hosts = hosts.into_iter();
        let mut order: Vec<_> = hosts
            .map(|host| (order_of(deployment, &host), host))
            .collect();
        order.sort();
        RolloutOrder(order)
    }

    /// The hosts, first to last.
    pub fn hosts(&self) -> impl Iterator<Item = &HostName> {
        self.0.iter().map(|(_, host)| host)
    }

    /// The bound that lets exactly the first so many go.
    pub fn below(&self, open: usize) -> String {
        self.0
            .get(open)
            .map_or_else(|| EVERYBODY.to_owned(), |(place, _)| place.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_opens_the_first_hosts() {
        let id = DeploymentId::after(None, 1, [0; 10]);
        let names = ["a", "b", "c", "d", "e"].map(|name| name.parse::<HostName>().unwrap());
        let order = RolloutOrder::new(id, names.iter().cloned());
        for open in 0..7 {
            let below = order.below(open);
            for (rank, host) in order.hosts().enumerate() {
                assert_eq!(order_of(id, host) < below, rank < open, "{host} {open}");
            }
        }
        let other = RolloutOrder::new(DeploymentId::after(Some(id), 2, [0; 10]), names);
        assert_ne!(order, other);
    }
}
