//! The flags of a host that belongs to a fleet.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{FlagReader, pair};
use crate::api::fleet::{FleetKeys, HostName};
use crate::cli::arguments::Usage;
use crate::client::Target;
use crate::engine::settings::FleetSettings;

/// Where etcd listens if nothing is said.
const ETCD_PORT: u16 = 2379;

impl FlagReader<'_> {
    /// The fleet, if there is one.
    pub(super) fn fleet(&mut self) -> Result<Option<FleetSettings>, Usage> {
        let path = |text: &str| Ok(PathBuf::from(text));
        let endpoints = self.get("--fleet", endpoints)?;
        let name = self.get("--fleet-name", |text| {
            text.parse::<HostName>().map_err(str::to_owned)
        })?;
        let url = self.get("--fleet-url", url)?;
        let token_file = self.get("--fleet-token-file", path)?;
        let user = self.get("--fleet-user", |text| Ok(text.to_owned()))?;
        let password_file = self.get("--fleet-password-file", path)?;
        let certificate = self.get("--fleet-cert", path)?;
        let key = self.get("--fleet-key-file", path)?;
        let labels: BTreeMap<String, String> =
            self.all("--fleet-label", pair)?.into_iter().collect();
        let keys = self.get("--fleet-prefix", |text| {
            text.parse::<FleetKeys>().map_err(str::to_owned)
        })?;
        let (ca, host_ca) = (
            self.get("--fleet-ca", path)?,
            self.get("--fleet-host-ca", path)?,
        );
        let (trust, signing_key) = (
            self.get("--fleet-trust", path)?,
            self.get("--fleet-key", path)?,
        );
        let takes_over = self.is_set("--fleet-takeover")?;
        let given = [
            ("--fleet-name", name.is_some()),
            ("--fleet-url", url.is_some()),
            ("--fleet-token-file", token_file.is_some()),
            ("--fleet-user", user.is_some()),
            ("--fleet-password-file", password_file.is_some()),
            ("--fleet-cert", certificate.is_some()),
            ("--fleet-key-file", key.is_some()),
            ("--fleet-label", !labels.is_empty()),
            ("--fleet-prefix", keys.is_some()),
            ("--fleet-ca", ca.is_some()),
            ("--fleet-host-ca", host_ca.is_some()),
            ("--fleet-trust", trust.is_some()),
            ("--fleet-key", signing_key.is_some()),
            ("--fleet-takeover", takes_over),
        ];
        let Some(endpoints) = endpoints else {
            return match given.iter().find(|(_, is_given)| *is_given) {
                Some((flag, _)) => Err(Usage::new(format!("{flag} needs --fleet beside it"))),
                None => Ok(None),
            };
        };
        let missing = |flag: &str| Usage::new(format!("--fleet needs {flag} beside it"));
        Ok(Some(FleetSettings {
            endpoints,
            name,
            url: url.ok_or_else(|| missing("--fleet-url"))?,
            token_file: token_file.ok_or_else(|| missing("--fleet-token-file"))?,
            host_ca,
            user: both(
                ("--fleet-user", user),
                ("--fleet-password-file", password_file),
            )?,
            certificate: both(("--fleet-cert", certificate), ("--fleet-key-file", key))?,
            ca,
            keys: keys.unwrap_or_default(),
            labels,
            takes_over,
            trust,
            signing_key,
        }))
    }
}

/// Two flags of which neither does without the other.
fn both<A, B>(one: (&str, Option<A>), other: (&str, Option<B>)) -> Result<Option<(A, B)>, Usage> {
    match (one.1, other.1) {
        (Some(a), Some(b)) => Ok(Some((a, b))),
        (None, None) => Ok(None),
        (Some(_), None) => Err(Usage::new(format!("{} needs {} beside it", one.0, other.0))),
        (None, Some(_)) => Err(Usage::new(format!("{} needs {} beside it", other.0, one.0))),
    }
}

/// `etcd=URL[,URL]`
fn endpoints(text: &str) -> Result<Vec<String>, String> {
    let urls = text
        .strip_prefix("etcd=")
        .ok_or("expected etcd=URL[,URL]")?;
    urls.split(',').map(|url| endpoint(url.trim())).collect()
}

/// The URL of a node, with its port.
fn endpoint(text: &str) -> Result<String, String> {
    let wrong = || format!("{text:?} is not http://HOST[:PORT] or https://HOST[:PORT]");
    let trimmed = text.strip_suffix('/').unwrap_or(text);
    let (scheme, host) = trimmed.split_once("://").ok_or_else(wrong)?;
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    if !["http", "https"].contains(&scheme) || host.is_empty() || !host.bytes().all(fits) {
        return Err(wrong());
    }
    let port = host
        .rsplit_once(':')
        .filter(|(_, port)| !port.ends_with(']'));
    match port {
        Some((name, port)) if !name.is_empty() && port.parse::<u16>().is_ok() => {
            Ok(trimmed.to_owned())
        }
        Some(_) => Err(wrong()),
        None => Ok(format!("{trimmed}:{ETCD_PORT}")),
    }
}

/// Where the others reach this host.
fn url(text: &str) -> Result<String, String> {
    let is_web = text.starts_with("http://") || text.starts_with("https://");
    match Target::parse(text) {
        Ok(target) if is_web && target.credentials().is_none() => Ok(text.to_owned()),
        Ok(_) => Err(
            "expected http://HOST[:PORT] or https://HOST[:PORT], without credentials".to_owned(),
        ),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_etcd() {
        for (text, expected) in [
            ("etcd=http://a:1", Some(vec!["http://a:1"])),
            (
                "etcd=https://a, http://b:2/",
                Some(vec!["https://a:2379", "http://b:2"]),
            ),
            ("etcd=http://[::1]", Some(vec!["http://[::1]:2379"])),
            ("http://a:1", None),
            ("etcd=", None),
            ("etcd=a:1", None),
            ("etcd=http://a:1,", None),
            ("etcd=http://a:99999", None),
            ("etcd=http://a/b", None),
            ("etcd=ftp://a", None),
        ] {
            let found = endpoints(text).ok();
            let found: Option<Vec<&str>> = found
                .as_ref()
                .map(|all| all.iter().map(String::as_str).collect());
            assert_eq!(found, expected, "{text}");
        }
        assert!(url("http://a:9925").is_ok() && url("https://a").is_ok());
        for bad in ["a:1", "unix:/a", "http://u:p@a", "http://"] {
            assert!(url(bad).is_err(), "{bad}");
        }
    }
}
