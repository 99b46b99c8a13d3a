//! A watch: one request whose answer does not end. A thread of its own reads it line by line.
//!
//! What etcd does and does not say:
//! - after `canceled` the connection stays open and silent, so this end hangs up;
//! - `created` and `canceled` may be in one message;
//! - a revision in the future is accepted and never told of anything, which only the revision of `created` betrays;
//! - an etcd without a leader accepts a watch and says nothing, but for who asks with `hasleader`;
//! - a last line may have no newline;
//! - one that is frozen, or cut off, says nothing at all, which only the time betrays.

use std::io::{BufRead, BufReader, Read};

use crossbeam_channel::Sender;
use ureq::Agent;

use crate::client::etcd::ask::{Etcd, whole};
use crate::client::etcd::failure::{EtcdFailure, EtcdRefusal, of_transport};
use crate::client::etcd::message::{Streamed, WatchEvent, WatchRequest, WatchResponse};
use crate::client::kv::{KvError, KvNews, KvRange, KvTrouble};

/// A line is as long as one value in base64, of 1.5 MiB at most, or as the changes of one transaction.
const LINE_MAX: u64 = 8 << 20;

/// Ends the request when it is dropped.
pub(super) struct HangUp(pub(super) Agent);

impl Drop for HangUp {
    fn drop(&mut self) {
        self.0.clone().shutdown();
    }
}

/// Reads the messages of a watch.
struct WatchReader {
    /// Revisions up to this one are known.
    after: i64,
    /// So many ranges still have to be confirmed.
    awaited: usize,
}

/// Why a watch has ended.
enum WatchEnd {
    /// For this reason of etcd's.
    Refused(EtcdRefusal),
    /// Nobody listens any longer.
    Unheard,
}

impl From<KvError> for WatchEnd {
    fn from(error: KvError) -> WatchEnd {
        WatchEnd::Refused(EtcdRefusal::Trouble(error))
    }
}

impl WatchReader {
    /// Reads until the watch ends.
    fn read(
        &mut self,
        body: impl Read,
        news: &Sender<Result<KvNews, KvError>>,
        doing: &str,
    ) -> WatchEnd {
        let mut body = BufReader::new(body);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = (&mut body).take(LINE_MAX + 1).read_until(b'\n', &mut line);
            match read {
                Ok(_) if line.len() as u64 > LINE_MAX => {
                    let why = format!("{doing}: a line is over {} MiB", LINE_MAX >> 20);
                    return KvError::new(KvTrouble::Refused, why).into();
                }
                Ok(0) => {
                    let why = format!("{doing}: etcd ended it");
                    return KvError::new(KvTrouble::Unavailable, why).into();
                }
                Ok(_) => {}
                Err(error) => {
                    // ureq tells of it by an error of its own within one of no particular kind.
                    let inner = error.get_ref();
                    let inner = inner.and_then(|inner| inner.downcast_ref::<ureq::Error>());
                    let why = match inner {
                        Some(ureq::Error::Timeout(_)) => {
                            format!("{doing}: nothing came for a while")
                        }
                        _ => format!("{doing}: {error}"),
                    };
                    return KvError::new(KvTrouble::Unavailable, why).into();
                }
            }
            match self.message(&line, doing) {
                Ok(all) => {
                    for one in all {
                        if news.send(Ok(one)).is_err() {
                            return WatchEnd::Unheard;
                        }
                    }
                }
                Err(end) => return end,
            }
        }
    }

    fn message(&mut self, line: &[u8], doing: &str) -> Result<Vec<KvNews>, WatchEnd> {
        if line.trim_ascii().is_empty() {
            return Ok(Vec::new());
        }
        if let Some(failure) = EtcdFailure::in_stream(line) {
            return Err(WatchEnd::Refused(failure.judge(doing, false)));
        }
        let wrong = |why: String| KvError::new(KvTrouble::Refused, format!("{doing}: {why}"));
        let message: Streamed<WatchResponse> =
            serde_json::from_slice(line).map_err(|error| wrong(error.to_string()))?;
        let message = message.result;
        if message.canceled {
            if message.compact_revision > 0 {
                let at = message.compact_revision;
                let why = format!("{doing}: the history before revision {at} is not kept");
                return Err(KvError::new(KvTrouble::Compacted, why).into());
            }
            let failure = EtcdFailure::cancelled(&message.cancel_reason);
            return Err(WatchEnd::Refused(failure.judge(doing, false)));
        }
        let revision = message.header.revision;
        if message.created {
            if revision < self.after {
                let after = self.after;
                let why =
                    format!("{doing}: etcd is at revision {revision}, and was at {after} before");
                return Err(KvError::new(KvTrouble::Behind, why).into());
            }
            self.awaited = self.awaited.saturating_sub(1);
            return Ok(match self.awaited {
                0 => vec![KvNews::Watching],
                _ => Vec::new(),
            });
        }
        if message.events.is_empty() {
            return Ok(vec![KvNews::Progress(revision)]);
        }
        let changes = message.events.into_iter().map(WatchEvent::change);
        let changes = changes.collect::<Result<Vec<_>, _>>().map_err(wrong)?;
        Ok(vec![KvNews::Changes(changes)])
    }
}

impl Etcd {
    /// Watches until something ends it, and tells why.
    pub(super) fn watch(
        &self,
        agent: &Agent,
        ranges: &[KvRange],
        after: i64,
        news: &Sender<Result<KvNews, KvError>>,
    ) {
        let mut logins = 0;
        let last = loop {
            match self.watch_once(agent, ranges, after, news) {
                WatchEnd::Unheard => return,
                WatchEnd::Refused(EtcdRefusal::LogIn(message)) => {
                    if self.user.is_none() || logins > 0 {
                        break KvError::new(KvTrouble::Denied, message);
                    }
                    logins += 1;
                    if let Err(error) = self.log_in("watching") {
                        break error;
                    }
                }
                WatchEnd::Refused(EtcdRefusal::NoUsers) => {
                    break KvError::new(KvTrouble::Refused, "watching: users are switched off");
                }
                WatchEnd::Refused(EtcdRefusal::Trouble(error)) => break error,
            }
        };
        let _ = news.send(Err(last));
    }

    fn watch_once(
        &self,
        agent: &Agent,
        ranges: &[KvRange],
        after: i64,
        news: &Sender<Result<KvNews, KvError>>,
    ) -> WatchEnd {
        let (at, endpoint) = self.endpoint();
        let doing = format!("watching at {endpoint}");
        // All ranges in one request, a message for each.
        let body = ranges
            .iter()
            .map(|range| serde_json::to_string(&WatchRequest::new(range, after)));
        let body: Result<Vec<String>, _> = body.collect();
        let body = match body {
            Ok(body) => body.join("\n"),
            Err(error) => {
                return KvError::new(KvTrouble::Refused, format!("{doing}: {error}")).into();
            }
        };
        // Without it an etcd that has no leader would take the watch and be silent.
        let request = agent
            .post(format!("{endpoint}/v3/watch"))
            .header("Grpc-Metadata-hasleader", "true");
        let request = match self.token() {
            Some(token) => request.header("Authorization", token),
            None => request,
        };
        let response = match request.send(&body) {
            Ok(response) => response,
            Err(error) => {
                self.turn(at);
                let is_tls = endpoint.starts_with("https:");
                let error = of_transport(&doing, error, is_tls, self.has_certificate);
                return KvError::new(KvTrouble::Unavailable, error.message).into();
            }
        };
        let status = response.status().as_u16();
        if !(200..300).contains(&status) {
            let answer = whole(response.into_body()).unwrap_or_default();
            self.turn(at);
            return WatchEnd::Refused(EtcdFailure::read(status, &answer).judge(&doing, false));
        }
        let mut reader = WatchReader {
            after,
            awaited: ranges.len(),
        };
        let end = reader.read(response.into_body().into_reader(), news, &doing);
        if matches!(&end, WatchEnd::Refused(EtcdRefusal::Trouble(error)) if error.message.contains("leader"))
        {
            self.turn(at);
        }
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::kv::KvChange;

    fn read(text: &[u8], after: i64, awaited: usize) -> (Vec<KvNews>, WatchEnd) {
        let (sender, receiver) = crossbeam_channel::unbounded();
        let mut reader = WatchReader { after, awaited };
        let end = reader.read(text, &sender, "watching");
        (receiver.try_iter().map(Result::unwrap).collect(), end)
    }

    fn trouble(end: &WatchEnd) -> (KvTrouble, String) {
        match end {
            WatchEnd::Refused(EtcdRefusal::Trouble(error)) => {
                (error.trouble, error.message.clone())
            }
            _ => panic!("it is no trouble"),
        }
    }

    #[test]
    fn messages_as_they_come() {
        let text = concat!(
            r#"{"result":{"header":{"revision":"18"},"created":true}}"#,
            "\n",
            r#"{"result":{"header":{"revision":"18"},"watch_id":"1","created":true}}"#,
            "\n",
            r#"{"result":{"header":{"revision":"20"},"events":[{"kv":{"key":"YQ==","mod_revision":"19","value":"eA=="}},{"type":"DELETE","kv":{"key":"Yg==","mod_revision":"20"}}]}}"#,
            "\n",
            r#"{"result":{"header":{"revision":"25"}}}"#,
            "\n",
            r#"{"error":{"grpc_code":14,"http_code":503,"message":"transport is closing","http_status":"Service Unavailable"}}"#,
        );
        let (news, end) = read(text.as_bytes(), 18, 2);
        assert_eq!(trouble(&end).0, KvTrouble::Unavailable);
        assert!(trouble(&end).1.contains("transport is closing"));
        assert_eq!(news[0], KvNews::Watching);
        match &news[1] {
            KvNews::Changes(changes) => {
                assert!(
                    matches!(&changes[0], KvChange::Put(one) if one.key == "a" && one.modified == 19)
                );
                assert!(
                    matches!(&changes[1], KvChange::Deleted { key, revision: 20 } if key == "b")
                );
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(news[2..], [KvNews::Progress(25)]);
    }

    #[test]
    fn a_watch_that_would_be_silent_ends() {
        let created = r#"{"result":{"header":{"revision":"18"},"created":true}}"#;
        let denied = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
        let table = [
            (created.to_owned(), 17, KvTrouble::Unavailable),
            (created.to_owned(), 19, KvTrouble::Behind),
            (
                r#"{"result":{"header":{},"canceled":true,"compact_revision":"20"}}"#.to_owned(),
                3,
                KvTrouble::Compacted,
            ),
            (
                format!(
                    r#"{{"result":{{"watch_id":"-1","created":true,"canceled":true,"cancel_reason":"{denied}"}}}}"#
                ),
                3,
                KvTrouble::Denied,
            ),
            (
                r#"{"error":{"code":14,"message":"etcdserver: no leader"}}"#.to_owned(),
                3,
                KvTrouble::Unavailable,
            ),
            ("not JSON".to_owned(), 3, KvTrouble::Refused),
            (
                r#"{"result":{"events":[{"type":"SPLIT"}]}}"#.to_owned(),
                3,
                KvTrouble::Refused,
            ),
        ];
        for (line, after, expected) in table {
            for end in ["", "\n"] {
                let (_, ended) = read(format!("{line}{end}").as_bytes(), after, 1);
                assert_eq!(trouble(&ended).0, expected, "{line}");
            }
        }
    }

    #[test]
    fn a_line_without_end_is_not_kept() {
        let endless = std::io::repeat(b' ').take(LINE_MAX * 2);
        let (sender, _receiver) = crossbeam_channel::unbounded();
        let mut reader = WatchReader {
            after: 0,
            awaited: 1,
        };
        let end = reader.read(endless, &sender, "watching");
        assert!(trouble(&end).1.contains("8 MiB"));
    }
}
