//! Which kind of server answers: ours, or a Harper server, which knows less and is spoken to otherwise.

use std::fmt;

use serde_json::Value;

/// What answers at a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ServerKind {
    /// A gangplank server.
    Gangplank,
    /// A Harper server that keeps deployments and streams their events.
    Harper(HarperVersion),
    /// A Harper server from before 5.1: one request, one answer, and no records.
    Legacy(HarperVersion),
}

/// The version that a Harper server says that it has: two numbers and a third one; none if it says nothing that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HarperVersion(Option<(u32, u32, u32)>);

/// The first version that keeps deployments and streams their events.
const STREAMS: (u32, u32) = (5, 1);

/// The first version that gives and deletes stored payloads.
const PAYLOADS: (u32, u32, u32) = (5, 1, 15);

impl ServerKind {
    /// By the answer to `registration_info`. What is not understood is taken for a Harper server that streams, as Harper's
    /// own CLI does.
    pub(crate) fn of(answer: Option<&Value>) -> ServerKind {
        let version = answer.and_then(|answer| answer.get("version")?.as_str());
        if version.is_some_and(|version| version.contains("+gangplank")) {
            return ServerKind::Gangplank;
        }
        let version = HarperVersion(version.and_then(numbers));
        match version.0 {
            Some((major, minor, _)) if (major, minor) < STREAMS => ServerKind::Legacy(version),
            _ => ServerKind::Harper(version),
        }
    }

    /// Whether it gives and deletes stored payloads.
    pub(crate) fn has_payloads(&self) -> bool {
        match self {
            ServerKind::Gangplank => true,
            ServerKind::Harper(version) => version.0.is_none_or(|version| version >= PAYLOADS),
            ServerKind::Legacy(_) => false,
        }
    }
}

impl fmt::Display for ServerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServerKind::Gangplank => f.write_str("gangplank"),
            ServerKind::Harper(version) | ServerKind::Legacy(version) => match version.0 {
                Some((major, minor, _)) => write!(f, "Harper {major}.{minor}"),
                None => f.write_str("Harper"),
            },
        }
    }
}

/// The numbers that a version begins with; the third one may be missing, and what follows it does not count.
fn numbers(version: &str) -> Option<(u32, u32, u32)> {
    let mut parts = version.splitn(3, '.').map(|part| {
        let end = part.find(|c: char| !c.is_ascii_digit());
        part[..end.unwrap_or(part.len())].parse().ok()
    });
    let (major, minor) = (parts.next()??, parts.next()??);
    Some((major, minor, parts.next().flatten().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_version_says_which_server_it_is() {
        let table = [
            ("5.1.14+gangplank.0.1.0", "gangplank", "ours"),
            ("5.1.14", "Harper 5.1", "streams"),
            ("5.2.0-beta.1", "Harper 5.2", "payloads"),
            ("5.1.15", "Harper 5.1", "payloads"),
            ("6.0", "Harper 6.0", "payloads"),
            ("4.7.29", "Harper 4.7", "legacy"),
            ("5.0.9", "Harper 5.0", "legacy"),
            ("10.0.0", "Harper 10.0", "payloads"),
            ("v5", "Harper", "payloads"),
            ("", "Harper", "payloads"),
        ];
        for (version, shown, what) in table {
            let kind = ServerKind::of(Some(&json!({ "version": version, "deprecated": true })));
            let found = match &kind {
                ServerKind::Gangplank => "ours",
                ServerKind::Legacy(_) => "legacy",
                ServerKind::Harper(_) if kind.has_payloads() => "payloads",
                ServerKind::Harper(_) => "streams",
            };
            assert_eq!(
                (kind.to_string().as_str(), found),
                (shown, what),
                "{version:?}"
            );
        }
        for answer in [json!({}), json!([]), json!({"version": 5})] {
            let kind = ServerKind::of(Some(&answer));
            assert!(matches!(kind, ServerKind::Harper(_)), "{answer}");
        }
        assert!(matches!(ServerKind::of(None), ServerKind::Harper(_)));
    }
}
