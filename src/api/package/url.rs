//! The URL of a package, with its credentials kept apart.

use crate::api::name::Secret;
use crate::api::package::BadPackage;

/// A URL without credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageUrl {
    /// `https`, `http`, `ssh` or `git`.
    pub scheme: &'static str,
    /// The user of ssh, the host, and the port if there is one.
    pub authority: String,
    /// From the first slash on. A query may hold a credential.
    path: Secret,
}

/// What a URL says of who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UrlCredentials {
    /// The name; a token may stand alone in its place.
    pub username: Secret,
    /// The password; empty if there is none.
    pub password: Secret,
}

impl PackageUrl {
    /// All of it, for whoever fetches it.
    pub fn reveal(&self) -> String {
        format!("{}{}", self.origin(), self.path.reveal())
    }

    /// From the first slash on.
    pub fn path(&self) -> &str {
        self.path.reveal()
    }

    /// Scheme and authority.
    pub fn origin(&self) -> String {
        format!("{}://{}", self.scheme, self.authority)
    }

    /// As it may be shown: of a query only that there is one.
    pub fn shown(&self) -> String {
        let path = self.path.reveal();
        match path.split_once('?') {
            Some((path, _)) => format!("{}{path}?...", self.origin()),
            None => format!("{}{path}", self.origin()),
        }
    }
}

/// A URL behind its `scheme://`, without a fragment.
pub(super) fn url(
    scheme: &'static str,
    rest: &str,
) -> Result<(PackageUrl, Option<UrlCredentials>), BadPackage> {
    if !rest
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte))
    {
        return Err(BadPackage(
            "must be a URL of ASCII characters, others as %XX",
        ));
    }
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if path.len() < 2 {
        return Err(BadPackage("must have a path in its URL"));
    }
    let plain = path
        .split(['?', '/'])
        .map(|part| part.to_ascii_lowercase().replace("%2e", "."));
    if plain.into_iter().any(|part| part == "..") {
        return Err(BadPackage("must not have '..' in its URL"));
    }
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    check_host(host)?;
    let (shown_user, credentials) = match user {
        None => (None, None),
        Some(user) if scheme == "ssh" => (Some(ssh_user(user)?), None),
        Some(user) => (None, Some(credentials(user)?)),
    };
    let authority = match shown_user {
        Some(user) => format!("{user}@{host}"),
        None => host.to_ascii_lowercase(),
    };
    let path = Secret::new(path);
    let url = PackageUrl {
        scheme,
        authority,
        path,
    };
    Ok((url, credentials))
}

fn check_host(host: &str) -> Result<(), BadPackage> {
    let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            address
                .parse::<std::net::Ipv6Addr>()
                .map_err(|_| BadPackage("must have a host in its URL"))?;
            ("v6", port)
        }
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
    // A dash would make it an option of ssh.
    if name.is_empty() || name.starts_with(['-', '.']) || !name.bytes().all(known) {
        return Err(BadPackage("must have a host in its URL"));
    }
    match port.strip_prefix(':').map(str::parse::<u16>) {
        None if port.is_empty() => Ok(()),
        Some(Ok(port)) if port > 0 => Ok(()),
        _ => Err(BadPackage("must have a port from 1 to 65535 in its URL")),
    }
}

fn ssh_user(user: &str) -> Result<&str, BadPackage> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if user.contains(':') {
        return Err(BadPackage(
            "must not have a password over ssh, which takes a key",
        ));
    }
    match user.is_empty() || user.starts_with('-') || !user.bytes().all(known) {
        true => Err(BadPackage(
            "must have a user's name before the '@' of its URL",
        )),
        false => Ok(user),
    }
}

fn credentials(user: &str) -> Result<UrlCredentials, BadPackage> {
    let (username, password) = user.split_once(':').unwrap_or((user, ""));
    let plain = |text: &str| {
        let decoded = decoded(text).filter(|text| !text.chars().any(char::is_control));
        decoded
            .map(Secret::new)
            .ok_or(BadPackage("must have credentials of text in its URL"))
    };
    let credentials = UrlCredentials {
        username: plain(username)?,
        password: plain(password)?,
    };
    // Basic has no other place for the end of the name.
    if credentials.username.reveal().contains(':') {
        return Err(BadPackage(
            "must not have a colon in the user's name of its URL",
        ));
    }
    Ok(credentials)
}

/// A text with its `%XX` decoded.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first != b'%' {
            bytes.push(*first);
            rest = after;
            continue;
        }
        let hex = std::str::from_utf8(after.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(hex, 16).ok()?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).ok()
}
