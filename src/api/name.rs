//! Names that were parsed once and are right from then on: [`Project`], [`DeploymentId`],
//! [`HostName`], [`VariableName`] and [`Secret`].

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The name of a component: `^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$`, so it is a safe file name anywhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Project(String);

/// Why a text is no [`Project`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadProject(String);

/// The longest project name, in bytes: with a prefix and an id it stays far below a file name's 255.
const PROJECT_LEN_MAX: usize = 63;

impl Project {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Project {
    type Err = BadProject;

    fn from_str(text: &str) -> Result<Project, BadProject> {
        let first = text
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphanumeric());
        let rest = text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if first && rest && text.len() <= PROJECT_LEN_MAX {
            Ok(Project(text.to_owned()))
        } else {
            Err(BadProject(text.chars().take(80).collect()))
        }
    }
}

impl TryFrom<String> for Project {
    type Error = BadProject;

    fn try_from(text: String) -> Result<Project, BadProject> {
        text.parse()
    }
}

impl From<Project> for String {
    fn from(project: Project) -> String {
        project.0
    }
}

impl fmt::Display for Project {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for BadProject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is not a valid project name: 1 to {PROJECT_LEN_MAX} letters, digits, '-' and '_', the first one a letter \
             or a digit; choose one with project=NAME",
            self.0
        )
    }
}

impl std::error::Error for BadProject {}

/// The id of a deployment: a UUIDv7, so ids sort as text by the time they were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeploymentId(Uuid);

/// Why a text is no [`DeploymentId`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadDeploymentId(String);

impl DeploymentId {
    /// A new id, from the time and ten random bytes, but always above `newest`: a host whose clock stands before its
    /// newest deployment goes on counting from there.
    pub fn after(newest: Option<DeploymentId>, now_ms: u64, random: [u8; 10]) -> DeploymentId {
        let fresh =
            DeploymentId(uuid::Builder::from_unix_timestamp_millis(now_ms, &random).into_uuid());
        match newest {
            Some(newest) if fresh <= newest => {
                // The newest id's millisecond plus one is above it whatever its random bits are.
                let ms = newest.ms().saturating_add(1);
                DeploymentId(uuid::Builder::from_unix_timestamp_millis(ms, &random).into_uuid())
            }
            _ => fresh,
        }
    }

    /// The milliseconds since the epoch that the id was made from.
    fn ms(self) -> u64 {
        let bytes = self.0.as_bytes();
        bytes[..6]
            .iter()
            .fold(0, |ms, byte| ms << 8 | u64::from(*byte))
    }
}

impl FromStr for DeploymentId {
    type Err = BadDeploymentId;

    fn from_str(text: &str) -> Result<DeploymentId, BadDeploymentId> {
        // Only the form that we print: ids are directory names, and one deployment has one name.
        match Uuid::try_parse(text) {
            Ok(id) if id.to_string() == text => Ok(DeploymentId(id)),
            _ => Err(BadDeploymentId(text.chars().take(80).collect())),
        }
    }
}

impl TryFrom<String> for DeploymentId {
    type Error = BadDeploymentId;

    fn try_from(text: String) -> Result<DeploymentId, BadDeploymentId> {
        text.parse()
    }
}

impl From<DeploymentId> for String {
    fn from(id: DeploymentId) -> String {
        id.to_string()
    }
}

impl fmt::Display for DeploymentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for BadDeploymentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a deployment id", self.0)
    }
}

impl std::error::Error for BadDeploymentId {}

/// A text that must not be shown: `Debug` and `Display` hide it, and it has no serialisation.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The secret itself, for the one place that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The name of a variable of the environment: letters, digits and `_`, not beginning with a digit, so that every shell can
/// read it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VariableName(String);

/// The longest name of a variable: as long as anybody could want one, and short enough to be shown.
const VARIABLE_LEN_MAX: usize = 255;

impl VariableName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for VariableName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<VariableName, &'static str> {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let begins = text
            .bytes()
            .next()
            .is_some_and(|first| !first.is_ascii_digit());
        match begins && text.bytes().all(known) && text.len() <= VARIABLE_LEN_MAX {
            true => Ok(VariableName(text.to_owned())),
            false => Err(
                "the key must be at most 255 letters, digits and '_', not beginning with a digit",
            ),
        }
    }
}

impl fmt::Display for VariableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The longest name of a host in bytes, as of a component.
const HOST_LEN_MAX: usize = 63;

/// The name of a host in its fleet: `^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(String);

impl HostName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HostName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<HostName, &'static str> {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let begins = text
            .bytes()
            .next()
            .is_some_and(|first| first.is_ascii_alphanumeric());
        match begins && text.bytes().all(known) && text.len() <= HOST_LEN_MAX {
            true => Ok(HostName(text.to_owned())),
            false => Err(
                "the name of a host must be 1 to 63 letters, digits, '.', '_' and '-', the first one a letter or a digit",
            ),
        }
    }
}

impl TryFrom<String> for HostName {
    type Error = &'static str;

    fn try_from(text: String) -> Result<HostName, &'static str> {
        text.parse()
    }
}

impl From<HostName> for String {
    fn from(host: HostName) -> String {
        host.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn projects() {
        let long = "a".repeat(63);
        for good in ["a", "9", "my-app", "my_app", "A-1_b", "123", long.as_str()] {
            assert_eq!(good.parse::<Project>().unwrap().as_str(), good);
        }
        let too_long = "a".repeat(64);
        for bad in [
            "",
            "-a",
            "_a",
            ".a",
            "a.b",
            "a/b",
            "..",
            "a b",
            "ä",
            "a\n",
            "a\0",
            too_long.as_str(),
        ] {
            let refused = bad.parse::<Project>().unwrap_err().to_string();
            assert!(refused.contains("project="), "{bad:?}: {refused}");
        }
    }

    #[test]
    fn ids_increase_whatever_the_clock_does() {
        let now = 1_800_000_000_000;
        let mut newest = None;
        for ms in [now, now, now + 5, 0, 1, now - 1, now + 5] {
            for random in [[0; 10], [255; 10]] {
                let id = DeploymentId::after(newest, ms, random);
                assert!(Some(id) > newest, "{id} at {ms}");
                assert_eq!(id.to_string().parse(), Ok(id));
                assert_eq!(id.to_string().as_bytes()[14], b'7');
                newest = Some(id);
            }
        }
    }

    #[test]
    fn ids_have_one_spelling() {
        let id = DeploymentId::after(None, 1, [7; 10]).to_string();
        for bad in [
            "",
            "latest",
            "../x",
            &id.to_uppercase().replace('0', "A"),
            &id.replace('-', ""),
            &format!("{{{id}}}"),
        ] {
            assert!(bad.parse::<DeploymentId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn secrets_hide() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(..)");
    }

    #[test]
    fn names_of_hosts() {
        for good in ["a", "edge-1.eu_2", "9"] {
            assert_eq!(good.parse::<HostName>().unwrap().as_str(), good);
        }
        for bad in ["", ".a", "-a", "a/b", "a b", "ä", &"a".repeat(64)] {
            assert!(bad.parse::<HostName>().is_err(), "{bad}");
        }
    }
}
