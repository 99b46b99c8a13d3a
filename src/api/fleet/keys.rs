//! The keys of a fleet, below one prefix. The host stands before the project, so that etcd's rights, which are ranges of
//! keys, can confine a host to its own.

use std::str::FromStr;

use crate::api::fleet::HostName;
use crate::api::name::Project;

/// What all keys begin with, if nothing else is said.
pub const DEFAULT_PREFIX: &str = "gangplank/";

/// The longest prefix in bytes: room for names of sites, and every key stays short.
const PREFIX_LEN_MAX: usize = 200;

/// What all keys of a fleet begin with; it ends in `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetKeys(String);

impl FromStr for FleetKeys {
    type Err = &'static str;

    /// A prefix, with or without its last `/`.
    fn from_str(text: &str) -> Result<FleetKeys, &'static str> {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
        let trimmed = text.strip_suffix('/').unwrap_or(text);
        let parts = trimmed.split('/').all(|part| !part.is_empty());
        match parts && text.bytes().all(known) && text.len() <= PREFIX_LEN_MAX {
            true => Ok(FleetKeys(format!("{trimmed}/"))),
            false => Err(
                "the prefix must be names of letters, digits, '.', '_' and '-' with single '/' between them, at most 200 \
                 bytes",
            ),
        }
    }
}

impl Default for FleetKeys {
    fn default() -> FleetKeys {
        FleetKeys(DEFAULT_PREFIX.to_owned())
    }
}

impl FleetKeys {
    /// The one key that says which fleet this is.
    pub fn identity(&self) -> String {
        format!("{}fleet", self.0)
    }

    /// Below it: a key for each host that is expected.
    pub fn hosts(&self) -> String {
        format!("{}hosts/", self.0)
    }

    /// That a host is expected.
    pub fn host(&self, host: &HostName) -> String {
        format!("{}hosts/{host}", self.0)
    }

    /// Below it: a key for each host that is there.
    pub fn alive_hosts(&self) -> String {
        format!("{}alive/", self.0)
    }

    /// That a host is there.
    pub fn alive(&self, host: &HostName) -> String {
        format!("{}alive/{host}", self.0)
    }

    /// Below it: what is wanted of each component.
    pub fn all_desired(&self) -> String {
        format!("{}desired/", self.0)
    }

    /// What is wanted of a component.
    pub fn desired(&self, project: &Project) -> String {
        format!("{}desired/{project}", self.0)
    }

    /// Below it: how far each component's rollout is.
    pub fn rollouts(&self) -> String {
        format!("{}rollout/", self.0)
    }

    /// How far a component's rollout is.
    pub fn rollout(&self, project: &Project) -> String {
        format!("{}rollout/{project}", self.0)
    }

    /// Who is about to publish a component.
    pub fn claim(&self, project: &Project) -> String {
        format!("{}claim/{project}", self.0)
    }

    /// Below it: who leads the rollout of each component.
    pub fn lead_prefix(&self) -> String {
        format!("{}lead/", self.0)
    }

    /// Who leads a component's rollout.
    pub fn lead(&self, project: &Project) -> String {
        format!("{}lead/{project}", self.0)
    }

    /// Below it: how every component stands on every host.
    pub fn statuses(&self) -> String {
        format!("{}status/", self.0)
    }

    /// Below it: how every component stands on a host.
    pub fn statuses_of(&self, host: &HostName) -> String {
        format!("{}status/{host}/", self.0)
    }

    /// How a component stands on a host.
    pub fn status(&self, host: &HostName, project: &Project) -> String {
        format!("{}status/{host}/{project}", self.0)
    }

    /// Below it: who has a payload, by its SHA-256 in hex.
    pub fn holders(&self, sha256: &str) -> String {
        format!("{}have/{sha256}/", self.0)
    }

    /// That a host has a payload.
    pub fn have(&self, sha256: &str, host: &HostName) -> String {
        format!("{}have/{sha256}/{host}", self.0)
    }

    /// What stands behind a key's prefix, as a name; none if that is not one.
    pub fn name_below<T: FromStr>(prefix: &str, key: &str) -> Option<T> {
        key.strip_prefix(prefix)?.parse().ok()
    }

    /// The host and the component of a status' key.
    pub fn of_status(&self, key: &str) -> Option<(HostName, Project)> {
        let (host, project) = key.strip_prefix(&self.statuses())?.split_once('/')?;
        Some((host.parse().ok()?, project.parse().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_in_one_slash() {
        for (text, prefix) in [
            ("gangplank/", Some("gangplank/")),
            ("gangplank", Some("gangplank/")),
            ("a/eu1", Some("a/eu1/")),
            ("", None),
            ("/", None),
            ("/a", None),
            ("a//b", None),
            ("a b", None),
            ("a\0", None),
            ("ä", None),
        ] {
            let found = text.parse::<FleetKeys>().ok();
            assert_eq!(found.map(|keys| keys.0).as_deref(), prefix, "{text:?}");
        }
    }

    #[test]
    fn a_key_is_read_back() {
        let keys = FleetKeys::default();
        let host: HostName = "edge-1.eu".parse().unwrap();
        let project: Project = "app".parse().unwrap();
        assert_eq!(
            keys.status(&host, &project),
            "gangplank/status/edge-1.eu/app"
        );
        assert_eq!(
            keys.of_status("gangplank/status/edge-1.eu/app"),
            Some((host.clone(), project.clone()))
        );
        for odd in [
            "gangplank/status/app",
            "gangplank/status/a/b/c",
            "gangplank/desired/app",
        ] {
            assert_eq!(keys.of_status(odd), None);
        }
        let read = |key: &str| FleetKeys::name_below::<Project>(&keys.all_desired(), key);
        assert_eq!(read(&keys.desired(&project)), Some(project));
        assert_eq!(read("gangplank/desired/a/b"), None);
        assert_eq!(read("gangplank/desired/"), None);
    }
}
