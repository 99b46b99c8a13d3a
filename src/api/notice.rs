//! What is told of the end of a deployment to whoever wants to hear of it, and where that is sent.

use serde_json::{Value, json};

use crate::api::name::{DeploymentId, Secret};
use crate::api::record::Record;

/// Where notices are sent. The path is a secret of most receivers, and is never shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoticeUrl {
    /// Scheme, host and port.
    origin: String,
    path: Secret,
}

impl NoticeUrl {
    /// Reads one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<NoticeUrl, String> {
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme @ ("http" | "https"), rest)) => (scheme, rest),
            _ => return Err("expected a URL that begins with http:// or https://".into()),
        };
        let fits = |byte: u8| byte.is_ascii_graphic() && !b"\"<>\\^`{|}#".contains(&byte);
        if !rest.bytes().all(fits) {
            return Err("a URL has ASCII characters, others as %XX, and no fragment here".into());
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.contains('@') {
            return Err("a user or a password in it is not sent: --notify-secret-file is what a receiver knows the server by".into());
        }
        let is_v6 = authority.starts_with('[');
        let (host, port) = match authority
            .strip_prefix('[')
            .and_then(|rest| rest.split_once(']'))
        {
            Some((host, port)) => (host, port),
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        let is_host = match is_v6 {
            true => host.parse::<std::net::Ipv6Addr>().is_ok(),
            false => {
                let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
                !host.is_empty() && host.bytes().all(fits)
            }
        };
        let is_port = match port.strip_prefix(':') {
            Some(port) => port.parse::<u16>().is_ok_and(|port| port > 0),
            None => port.is_empty(),
        };
        if !is_host || !is_port {
            return Err("it has no host, or a port that is not one".into());
        }
        let slash = if path.starts_with('/') { "" } else { "/" };
        Ok(NoticeUrl {
            origin: format!("{scheme}://{authority}"),
            path: Secret::new(format!("{slash}{path}")),
        })
    }

    /// Scheme, host and port, which may be shown.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// All of it, for whoever sends something there.
    pub fn reveal(&self) -> String {
        format!("{}{}", self.origin, self.path.reveal())
    }
}

/// What a delivery is called, each time that it is sent: a deployment ends once.
pub fn delivery_id(deployment: DeploymentId) -> String {
    format!("{deployment}-end")
}

/// What is told of a deployment that has ended.
pub fn of(record: &Record) -> Value {
    json!({
        "id": delivery_id(record.deployment_id),
        "deployment_id": record.deployment_id,
        "project": record.project,
        "kind": record.kind,
        "status": record.status,
        "message": record.message,
        "user": record.user,
        "source": record.source,
        "release_id": record.release_id,
        "rollback_of": record.rollback_of,
        "previous": record.previous,
        "node": record.origin_node,
        "started_at": record.started_at,
        "at": record.completed_at,
        "elapsed_ms": record.elapsed_ms,
        "error": record.error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read_and_its_path_is_not_shown() {
        for (text, origin, whole) in [
            ("http://a", "http://a", "http://a/"),
            (
                "https://a.b:8443/x/y?z=1",
                "https://a.b:8443",
                "https://a.b:8443/x/y?z=1",
            ),
            ("http://[::1]:80?q", "http://[::1]:80", "http://[::1]:80/?q"),
        ] {
            let url = NoticeUrl::parse(text).unwrap();
            assert_eq!((url.origin(), url.reveal().as_str()), (origin, whole));
            assert!(!format!("{url:?}").contains("x/y"));
        }
        for bad in [
            "",
            "a",
            "ftp://a/",
            "http://",
            "http:///x",
            "http://a:0/",
            "http://a:x/",
            "http://a b/",
            "http://u:p@a/",
            "http://[::g]/",
            "http://a/#f",
            "http://a:70000/",
            "HTTP://a",
            "http://ä/",
        ] {
            assert!(NoticeUrl::parse(bad).is_err(), "{bad}");
        }
    }
}
