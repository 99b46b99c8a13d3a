//! Where a request goes and who asks: [`Target`] and [`TargetCredentials`], parsed once.
//!
//! A target may carry `user:password@`. They become credentials, and neither `Display`, `Debug` nor an error shows them.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};

use crate::api::error::Error;
use crate::api::name::Secret;
use crate::system::paths;

/// The port when none is named; Harper's operations port, so that its users' targets mean the same here.
const PORT: u16 = 9925;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TargetCredentials {
    /// An access token.
    Bearer(Secret),
    /// A name and a password; at a gangplank server the token's name and the token.
    Basic {
        /// The name.
        username: String,
        /// The password.
        password: Secret,
    },
}

/// A server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    place: Address,
    credentials: Option<TargetCredentials>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Address {
    Http {
        tls: bool,
        /// `host:port`, IPv6 addresses in brackets.
        authority: String,
        /// Empty, or begins with a slash and ends without one.
        prefix: String,
    },
    Unix(PathBuf),
}

impl Target {
    /// A unix socket.
    pub(crate) fn unix(path: impl Into<PathBuf>) -> Target {
        Target {
            place: Address::Unix(path.into()),
            credentials: None,
        }
    }

    /// Reads `http://h:9925`, `https://h`, `h`, `unix:/path/to.sock`. Without a scheme it is https, but http for a
    /// loopback address, where nobody listens on the wire and hardly a server has a certificate.
    ///
    /// # Errors
    /// When it is none of these; the text is named without its credentials.
    pub(crate) fn parse(text: &str) -> Result<Target, Error> {
        let text = text.trim();
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() || path.contains('\0') {
                return Err(bad(text, "a unix socket needs a path"));
            }
            return Ok(Target::unix(path));
        }
        let (tls, rest) = match text.split_once("://") {
            None => (!is_loopback(text), text),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
            Some(_) => return Err(bad(text, "the scheme is none of http, https and unix")),
        };
        let (authority, prefix) = match rest.find(['/', '?', '#']) {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        if prefix
            .bytes()
            .any(|b| !b.is_ascii_graphic() || matches!(b, b'?' | b'#'))
        {
            return Err(bad(text, "it has more than a path behind the host"));
        }
        let (userinfo, host) = match authority.rsplit_once('@') {
            Some((userinfo, host)) => (Some(userinfo), host),
            None => (None, authority),
        };
        Ok(Target {
            place: Address::Http {
                tls,
                authority: host_and_port(host).map_err(|why| bad(text, why))?,
                prefix: prefix.trim_end_matches('/').to_owned(),
            },
            credentials: userinfo
                .map(basic)
                .transpose()
                .map_err(|why| bad(text, why))?,
        })
    }

    /// The credentials that the target's text carried.
    pub(crate) fn credentials(&self) -> Option<&TargetCredentials> {
        self.credentials.as_ref()
    }

    /// The path, if it is a unix socket.
    pub(crate) fn socket(&self) -> Option<&Path> {
        match &self.place {
            Address::Unix(path) => Some(path),
            Address::Http { .. } => None,
        }
    }

    /// Whether it is on this machine, as far as its address says.
    pub(crate) fn is_local(&self) -> bool {
        match &self.place {
            Address::Unix(_) => true,
            Address::Http { authority, .. } => is_loopback(authority),
        }
    }

    /// Whether it is the socket that a gangplank server always has, by its name.
    pub(crate) fn is_own_socket(&self) -> bool {
        let name = self.socket().and_then(Path::file_name);
        name.is_some_and(|name| name == paths::SOCKET)
    }

    /// The URL of a path, which begins with a slash. That of a unix socket names a host that is never looked up.
    pub(crate) fn url(&self, path: &str) -> String {
        match &self.place {
            Address::Unix(_) => format!("http://localhost{path}"),
            Address::Http {
                tls,
                authority,
                prefix,
            } => format!("{}://{authority}{prefix}{path}", scheme(*tls)),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Http {
                tls,
                authority,
                prefix,
            } => write!(f, "{}://{authority}{prefix}", scheme(*tls)),
        }
    }
}

const fn scheme(tls: bool) -> &'static str {
    if tls { "https" } else { "http" }
}

fn bad(text: &str, why: &str) -> Error {
    // Whatever stands before the last `@` may be a password.
    let shown = text.rsplit_once('@').map_or(text, |(_, rest)| rest);
    let shown: String = shown.chars().take(80).collect();
    Error::new(format!("reading the target {shown:?}"), why)
}

/// Whether an authority names this machine.
fn is_loopback(text: &str) -> bool {
    let authority = text.split('/').next().unwrap_or_default();
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next(),
        None => host.split(':').next(),
    };
    let name = name.unwrap_or_default();
    let address = name.parse::<IpAddr>();
    name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

fn host_and_port(text: &str) -> Result<String, &'static str> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or("a bracket is not closed")?;
            host.parse::<Ipv6Addr>()
                .map_err(|_| "there is no IPv6 address in the brackets")?;
            let port = match rest.strip_prefix(':') {
                None if rest.is_empty() => None,
                None => return Err("something stands between the bracket and the port"),
                Some(port) => Some(port),
            };
            (format!("[{host}]"), port)
        }
        None => {
            let (host, port) = match text.rsplit_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            };
            if host.contains(':') {
                return Err("an IPv6 address has to stand in brackets");
            }
            let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
            if host.is_empty() || !host.bytes().all(fits) {
                return Err("it has no valid host name");
            }
            (host.to_owned(), port)
        }
    };
    let port = match port {
        None => PORT,
        Some(port) => match port.parse() {
            Ok(port) if port > 0 => port,
            _ => return Err("the port must be 1-65535"),
        },
    };
    Ok(format!("{host}:{port}"))
}

fn basic(userinfo: &str) -> Result<TargetCredentials, &'static str> {
    let (username, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
    let decode = |text| percent_decoded(text).ok_or("its user or password is not percent-encoded");
    Ok(TargetCredentials::Basic {
        username: decode(username)?,
        password: Secret::new(decode(password)?),
    })
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
            let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
            decoded.push(u8::try_from(high << 4 | low).ok()?);
        } else {
            decoded.push(byte);
        }
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let table = [
            ("http://h:9925", "http://h:9925"),
            ("http://h", "http://h:9925"),
            ("https://h", "https://h:9925"),
            ("HTTPS://h.example.:443/", "https://h.example.:443"),
            ("h", "https://h:9925"),
            ("h:1", "https://h:1"),
            ("127.0.0.1:80", "http://127.0.0.1:80"),
            ("127.9.9.9", "http://127.9.9.9:9925"),
            ("localhost", "http://localhost:9925"),
            ("u:p@LocalHost:1/p", "http://LocalHost:1/p"),
            ("https://localhost", "https://localhost:9925"),
            ("[::1]", "http://[::1]:9925"),
            ("127.0.0.1.example", "https://127.0.0.1.example:9925"),
            ("localhost.example", "https://localhost.example:9925"),
            ("localhost@h", "https://h:9925"),
            ("128.0.0.1", "https://128.0.0.1:9925"),
            ("http://[::1]", "http://[::1]:9925"),
            ("[::1]:80", "http://[::1]:80"),
            ("http://h/behind/proxy//", "http://h:9925/behind/proxy"),
            ("unix:/path/to.sock", "unix:/path/to.sock"),
            ("unix:///path/to.sock", "unix:/path/to.sock"),
            ("unix:to.sock", "unix:to.sock"),
            (" https://user:hunter2@h ", "https://h:9925"),
        ];
        for (text, shown) in table {
            let target = Target::parse(text).unwrap();
            assert_eq!(target.to_string(), shown, "{text}");
            assert!(!format!("{target:?}").contains("hunter2"));
        }
        assert_eq!(
            Target::parse("unix:/s").unwrap().url("/x"),
            "http://localhost/x"
        );
        assert_eq!(
            Target::parse("http://h/p/").unwrap().url("/"),
            "http://h:9925/p/"
        );
    }

    #[test]
    fn bad_targets_are_refused_without_their_password() {
        let table = [
            ("", "host name"),
            ("ftp://h", "scheme"),
            ("http://", "host name"),
            ("http://h:0", "port"),
            ("http://h:65536", "port"),
            ("http://h:x", "port"),
            ("http://h:", "port"),
            ("http://user:hunter2@h:x", "port"),
            ("http://us:hunter2@er@:1", "host name"),
            ("http://h h", "host name"),
            ("::1", "brackets"),
            ("http://[::1", "closed"),
            ("http://[::g]", "IPv6"),
            ("http://[::1]9", "between"),
            ("http://h?x=1", "more than"),
            ("http://h/a b", "more than"),
            ("http://%zz:hunter2@h", "percent"),
            ("unix:", "path"),
        ];
        for (text, why) in table {
            let error = Target::parse(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn userinfo_becomes_credentials() {
        let target = Target::parse("http://ad%3Amin:p%40ss:w@h").unwrap();
        assert_eq!(
            target.credentials(),
            Some(&TargetCredentials::Basic {
                username: "ad:min".into(),
                password: Secret::new("p@ss:w"),
            })
        );
        assert_eq!(Target::parse("http://h").unwrap().credentials(), None);
    }
}
