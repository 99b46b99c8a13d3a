//! Who may say what is wanted: whoever can write it runs code on every host, and a signature keeps that to who has the key.

use std::path::Path;

use crate::api::error::{Doing, Error};
use crate::api::fleet::signed_part;
use crate::api::name::Project;
use crate::formats::signature::{SigningKey, TrustedKeys};

/// Whose word a host takes.
#[derive(Debug, Clone)]
pub struct FleetTrust(TrustedKeys);

impl FleetTrust {
    /// Reads the file of `--fleet-trust`.
    ///
    /// # Errors
    /// When it cannot be read, or does not hold keys.
    pub fn load(path: &Path) -> Result<FleetTrust, Error> {
        let what = || format!("reading the keys that are trusted in {}", path.display());
        let text = std::fs::read_to_string(path).doing(what)?;
        TrustedKeys::parse(&text).map(FleetTrust).doing(what)
    }

    /// The word of who has this key.
    pub fn of_key(key: &SigningKey) -> FleetTrust {
        FleetTrust(key.checked_by())
    }

    /// Whether a value of `desired/PROJECT` is signed by who is trusted.
    ///
    /// # Errors
    /// Why it is not, for the host's status.
    pub fn check(&self, project: &Project, value: &[u8]) -> Result<(), String> {
        let not = |why: &str| Err(format!("what is wanted of {project} {why}"));
        let Some((bytes, signature)) = signed_part(project, value) else {
            return not("is not a document");
        };
        match signature {
            None => not("is not signed, and this host takes only what is (--fleet-trust)"),
            Some(signature) if self.0.check(&bytes, &signature) => Ok(()),
            Some(_) => not("is signed by nobody whom this host trusts (--fleet-trust)"),
        }
    }
}

/// Reads the file of `--fleet-key`.
///
/// # Errors
/// When it cannot be read, or does not hold the key.
pub fn load_key(path: &Path) -> Result<SigningKey, Error> {
    let what = || format!("reading the key of the fleet in {}", path.display());
    let text = std::fs::read_to_string(path).doing(what)?;
    SigningKey::parse(&text).doing(what)
}
