//! What etcd's refusals mean. Of their many forms only the HTTP status, the number of gRPC and the message are told
//! reliably.
//!
//! | where | 3.4 | 3.5 of Debian, 3.6 |
//! | --- | --- | --- |
//! | an answer | `{"error":T,"message":T,"code":3}` | `{"code":3,"message":T,"details":[]}` |
//! | in a stream, or instead of it | `{"error":{"grpc_code":14,"http_code":503,"message":T}}` | `{"error":{"code":14,"message":T}}` |

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::api::json;
use crate::client::kv::{KvError, KvTrouble};
use crate::system::time;

/// The longest part of an answer that is shown.
const SHOWN_MAX: usize = 200;

/// A refusal, as far as it could be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EtcdFailure {
    /// The HTTP status; 200 for a refusal inside a stream.
    status: u16,
    /// The number of gRPC; none if what answered did not give one.
    code: Option<u64>,
    message: String,
}

/// What follows from a refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum EtcdRefusal {
    /// Log in, and ask again.
    LogIn(String),
    /// There is nobody to log in: its users are switched off.
    NoUsers,
    /// Nothing but this.
    Trouble(KvError),
}

impl EtcdFailure {
    /// Reads the body of a refusal, or a line of a stream that is one.
    pub(super) fn read(status: u16, body: &[u8]) -> EtcdFailure {
        let text = String::from_utf8_lossy(body);
        let value: Value = json::from_text(text.trim()).unwrap_or_default();
        let inner = match &value["error"] {
            Value::Object(_) => &value["error"],
            _ => &value,
        };
        let code = inner["code"]
            .as_u64()
            .or_else(|| inner["grpc_code"].as_u64());
        let message = inner["message"]
            .as_str()
            .or_else(|| inner["error"].as_str());
        let message = match message {
            Some(message) => message.to_owned(),
            None => text.trim().chars().take(SHOWN_MAX).collect(),
        };
        EtcdFailure {
            status,
            code,
            message,
        }
    }

    /// Whether a line of a stream is a refusal.
    pub(super) fn in_stream(line: &[u8]) -> Option<EtcdFailure> {
        let value: Value = serde_json::from_slice(line).ok()?;
        value.get("error")?;
        Some(EtcdFailure::read(200, line))
    }

    /// A watch that was cancelled for this reason, which has neither status nor number.
    pub(super) fn cancelled(reason: &str) -> EtcdFailure {
        let known = [
            ("PermissionDenied", 7),
            ("permission denied", 7),
            ("Unauthenticated", 16),
            ("invalid auth token", 16),
            ("user name is empty", 3),
            ("no leader", 14),
        ];
        let mut known = known.into_iter();
        EtcdFailure {
            status: 200,
            code: known
                .find(|(word, _)| reason.contains(word))
                .map(|(_, code)| code),
            message: reason.to_owned(),
        }
    }

    /// What follows for what was being done; `writes` if it was to change something.
    pub(super) fn judge(&self, doing: &str, writes: bool) -> EtcdRefusal {
        let says = |word: &str| self.message.contains(word);
        let calls_itself = says("connection closed") || says("client preface");
        let hint = match self.code == Some(14) && calls_itself && doing.contains("https://") {
            true => "; its gateway calls itself, for which etcd's own certificate needs clientAuth",
            false => "",
        };
        let message = format!("{doing}: etcd: {}{hint}", self.message);
        let trouble = match (self.code, self.status) {
            (Some(16), _) => return EtcdRefusal::LogIn(message),
            (Some(3), _) if says("user name is empty") => return EtcdRefusal::LogIn(message),
            (Some(9), _) if says("not enabled") => return EtcdRefusal::NoUsers,
            (Some(7), _) => KvTrouble::Denied,
            (Some(5), _) if says("lease") => KvTrouble::Gone,
            (Some(8), _) if says("space") => {
                let message = format!("{doing}: etcd: space exceeded, compact + defrag + disarm");
                return EtcdRefusal::Trouble(KvError::new(KvTrouble::NoSpace, message));
            }
            (Some(8), _) if says("too many requests") => KvTrouble::Unavailable,
            (Some(11), _) if says("compacted") => KvTrouble::Compacted,
            (Some(11), _) if says("future") => KvTrouble::Behind,
            // Other messages of this number are those of a write that was begun.
            (Some(14), _) if !writes || says("no leader") => KvTrouble::Unavailable,
            // One that ends may say of a watch that it was canceled; what is only read has no outcome to be unknown.
            (Some(1 | 2 | 4 | 10 | 13 | 15), _) if !writes => KvTrouble::Unavailable,
            (Some(1 | 2 | 4 | 10 | 13 | 14 | 15), _) => KvTrouble::Unknown,
            (None, 401 | 403) => KvTrouble::Denied,
            (None, 429) => KvTrouble::Unavailable,
            (None, 500..=599) if !writes => KvTrouble::Unavailable,
            (None, 500..=599) => KvTrouble::Unknown,
            (None, 200) => KvTrouble::Unavailable,
            (Some(5 | 12), _) | (None, 404 | 405) => {
                let status = self.status;
                let why = format!(
                    "{doing}: status {status}: either it is not etcd that answers, or its JSON gateway is off"
                );
                return EtcdRefusal::Trouble(KvError::new(KvTrouble::Refused, why));
            }
            _ => KvTrouble::Refused,
        };
        EtcdRefusal::Trouble(KvError::new(trouble, message))
    }
}

/// What an error of the connection means. Only of some it is known that nothing was sent.
pub(super) fn of_transport(
    doing: &str,
    error: ureq::Error,
    is_tls: bool,
    has_certificate: bool,
) -> KvError {
    // What the body's reader and TLS wrap into an I/O error comes out again.
    let error = match error {
        ureq::Error::Io(error) => ureq::Error::from(error),
        error => error,
    };
    let refused = |kind| {
        use std::io::ErrorKind::{
            AddrNotAvailable, ConnectionRefused, HostUnreachable, NetworkUnreachable,
        };
        [
            AddrNotAvailable,
            ConnectionRefused,
            HostUnreachable,
            NetworkUnreachable,
        ]
        .contains(&kind)
    };
    let text = error.to_string();
    let not_yet = text.contains("not valid yet") || text.contains("NotValidYet");
    let trouble = match &error {
        ureq::Error::Io(io) if refused(io.kind()) => KvTrouble::Unavailable,
        // It ended before anything was asked.
        _ if text.contains("invalid peer certificate") => KvTrouble::Unavailable,
        ureq::Error::HostNotFound
        | ureq::Error::ConnectionFailed
        | ureq::Error::Tls(_)
        | ureq::Error::Rustls(_)
        | ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
            KvTrouble::Unavailable
        }
        _ => KvTrouble::Unknown,
    };
    let hint = match &error {
        _ if not_yet => {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            let now = u64::try_from(now.as_millis()).unwrap_or_default();
            format!(
                "; certificate not yet valid, clock says {}",
                time::plain(now)
            )
        }
        // etcd closes the connection of who shows no certificate, without a word.
        ureq::Error::Io(_) if is_tls && !has_certificate && trouble == KvTrouble::Unknown => {
            "; does etcd want a client certificate?".to_owned()
        }
        _ => String::new(),
    };
    KvError::new(trouble, format!("{doing}: {text}{hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is expected of a refusal.
    enum Meant {
        LogIn,
        NoUsers,
        Is(KvTrouble),
    }
    use KvTrouble::{Behind, Compacted, Denied, Gone, NoSpace, Refused, Unavailable, Unknown};
    use Meant::{Is, LogIn, NoUsers};

    fn judged(status: u16, body: &str, writes: bool) -> EtcdRefusal {
        EtcdFailure::read(status, body.as_bytes()).judge("putting a", writes)
    }

    fn check(status: u16, body: &str, writes: bool, meant: &Meant) {
        let found = judged(status, body, writes);
        let matches = match (&found, meant) {
            (EtcdRefusal::LogIn(_), LogIn) | (EtcdRefusal::NoUsers, NoUsers) => true,
            (EtcdRefusal::Trouble(error), Is(trouble)) => error.trouble == *trouble,
            _ => false,
        };
        assert!(matches, "{status} {body} {writes}: {found:?}");
    }

    /// Each refusal in the forms of 3.4, of 3.5 and of 3.6.
    #[test]
    fn refusals_of_all_versions() {
        let table: &[(u16, u16, u64, &str, bool, Meant)] = &[
            (
                400,
                400,
                3,
                "etcdserver: key is not provided",
                true,
                Is(Refused),
            ),
            (
                400,
                400,
                3,
                "etcdserver: duplicate key given in txn request",
                true,
                Is(Refused),
            ),
            (400, 400, 3, "etcdserver: user name is empty", true, LogIn),
            (
                400,
                400,
                11,
                "etcdserver: mvcc: required revision has been compacted",
                false,
                Is(Compacted),
            ),
            (
                400,
                400,
                11,
                "etcdserver: mvcc: required revision is a future revision",
                false,
                Is(Behind),
            ),
            (
                404,
                404,
                5,
                "etcdserver: requested lease not found",
                true,
                Is(Gone),
            ),
            (404, 404, 5, "Not Found", true, Is(Refused)),
            (501, 501, 12, "Method Not Allowed", true, Is(Refused)),
            (
                403,
                403,
                7,
                "etcdserver: permission denied",
                true,
                Is(Denied),
            ),
            (401, 401, 16, "etcdserver: invalid auth token", true, LogIn),
            (
                412,
                400,
                9,
                "etcdserver: authentication is not enabled",
                false,
                NoUsers,
            ),
            (
                429,
                429,
                8,
                "etcdserver: mvcc: database space exceeded",
                true,
                Is(NoSpace),
            ),
            (
                429,
                429,
                8,
                "grpc: received message larger than max (2097240 vs. 2097152)",
                true,
                Is(Refused),
            ),
            (
                429,
                429,
                8,
                "etcdserver: too many requests",
                true,
                Is(Unavailable),
            ),
            (503, 503, 14, "etcdserver: no leader", true, Is(Unavailable)),
            (
                503,
                503,
                14,
                "etcdserver: request timed out",
                false,
                Is(Unavailable),
            ),
            (
                503,
                503,
                14,
                "etcdserver: request timed out",
                true,
                Is(Unknown),
            ),
            (408, 499, 1, "context canceled", true, Is(Unknown)),
            (408, 499, 1, "context canceled", false, Is(Unavailable)),
            (503, 503, 14, "transport is closing", true, Is(Unknown)),
            (500, 504, 2, "context deadline exceeded", true, Is(Unknown)),
            (504, 504, 4, "context deadline exceeded", true, Is(Unknown)),
        ];
        for (old, new, code, message, writes, meant) in table {
            let forms = [
                (
                    *old,
                    format!(r#"{{"error":"{message}","message":"{message}","code":{code}}}"#),
                ),
                (*new, format!(r#"{{"code":{code}, "message":"{message}"}}"#)),
                (
                    *new,
                    format!(r#"{{"code":{code}, "message":"{message}", "details":[]}}"#),
                ),
                (
                    *old,
                    format!(
                        r#"{{"error":{{"grpc_code":{code},"http_code":{old},"message":"{message}","http_status":"x"}}}}"#
                    ),
                ),
                (
                    *new,
                    format!("{{\"error\":{{\"code\":{code},\"message\":\"{message}\"}}}}\n"),
                ),
                (
                    *new,
                    format!(
                        r#"{{"error":{{"code":{code}, "message":"{message}", "details":[]}}}}"#
                    ),
                ),
            ];
            for (status, body) in forms {
                check(status, &body, *writes, meant);
                let line = EtcdFailure::in_stream(body.as_bytes());
                assert_eq!(line.is_some(), body.contains("\"error\""), "{body}");
            }
        }
    }

    #[test]
    fn what_is_not_of_etcd() {
        let html = "<html><body>502 Bad Gateway</body></html>";
        let table: &[(u16, &str, bool, Meant)] = &[
            (404, "404 page not found\n", false, Is(Refused)),
            (405, "Method Not Allowed\n", false, Is(Refused)),
            (502, html, true, Is(Unknown)),
            (502, html, false, Is(Unavailable)),
            (403, html, false, Is(Denied)),
            (418, "", false, Is(Refused)),
        ];
        for (status, body, writes, meant) in table {
            check(*status, body, *writes, meant);
        }
        let EtcdRefusal::Trouble(error) = judged(404, "404 page not found", true) else {
            panic!("it is trouble");
        };
        assert!(error.message.contains("JSON gateway"), "{error}");
    }

    #[test]
    fn why_a_watch_was_cancelled() {
        let table = [
            (
                "rpc error: code = PermissionDenied desc = etcdserver: permission denied",
                Is(Denied),
            ),
            (
                "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token",
                LogIn,
            ),
            (
                "rpc error: code = InvalidArgument desc = etcdserver: user name is empty",
                LogIn,
            ),
            ("etcdserver: no leader", Is(Unavailable)),
            ("", Is(Unavailable)),
        ];
        for (reason, meant) in table {
            let found = EtcdFailure::cancelled(reason).judge("watching", false);
            let matches = match (&found, &meant) {
                (EtcdRefusal::LogIn(_), LogIn) => true,
                (EtcdRefusal::Trouble(error), Is(trouble)) => error.trouble == *trouble,
                _ => false,
            };
            assert!(matches, "{reason}: {found:?}");
        }
    }

    #[test]
    fn what_was_not_sent_was_not_done() {
        let io = |kind: std::io::ErrorKind| ureq::Error::Io(kind.into());
        let table = [
            (
                io(std::io::ErrorKind::ConnectionRefused),
                true,
                Unavailable,
                "",
            ),
            (
                io(std::io::ErrorKind::BrokenPipe),
                false,
                Unknown,
                "client certificate",
            ),
            (ureq::Error::HostNotFound, false, Unavailable, ""),
            (
                ureq::Error::Timeout(ureq::Timeout::Connect),
                false,
                Unavailable,
                "",
            ),
            (
                ureq::Error::Timeout(ureq::Timeout::Global),
                false,
                Unknown,
                "",
            ),
        ];
        for (error, has_certificate, trouble, hint) in table {
            let found = of_transport("putting a", error, true, has_certificate);
            assert_eq!(found.trouble, trouble, "{found}");
            assert!(found.message.contains(hint), "{found}");
        }
        let early = rustls::Error::InvalidCertificate(rustls::CertificateError::NotValidYet);
        let found = of_transport("putting a", ureq::Error::Rustls(early), true, true);
        assert!(found.message.contains("clock says 20"), "{found}");
    }
}
