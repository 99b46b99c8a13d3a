//! The JSON that goes to etcd and comes back. etcd ignores a member that it does not know, without a word: a comparison with
//! a misspelt name makes a transaction unconditional. So every request is written from a type, and tested on a real etcd.
//!
//! Keys and values are standard base64, and numbers of 64 bits are texts. What is zero, false or empty is left out of an
//! answer.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize};

use crate::client::kv::{KvChange, KvCondition, KvEntry, KvRange, KvWrite, LeaseId, VALUE_LEN_MAX};

fn encode(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}

/// Keys are texts of ours; one that is not was written by somebody else, and is shown as far as it can be.
fn decode_key(text: &str) -> String {
    let bytes = STANDARD.decode(text).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[derive(Debug, Serialize)]
pub(super) struct RangeRequest {
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    range_end: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<String>,
}

impl RangeRequest {
    /// At most so many keys of a range from one on, as they were at a revision; as they are if it is 0.
    pub(super) fn page(range: &KvRange, from: &[u8], limit: u64, revision: i64) -> RangeRequest {
        RangeRequest {
            key: encode(from),
            range_end: range.end.as_ref().map(encode),
            limit: Some(limit.to_string()),
            revision: (revision > 0).then(|| revision.to_string()),
        }
    }

    fn key(key: &str) -> RangeRequest {
        RangeRequest {
            key: encode(key),
            range_end: None,
            limit: None,
            revision: None,
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct PutRequest {
    key: String,
    value: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease: Option<String>,
}

impl PutRequest {
    pub(super) fn new(key: &str, value: &[u8], lease: Option<&LeaseId>) -> PutRequest {
        PutRequest {
            key: encode(key),
            value: encode(value),
            lease: lease.map(|lease| lease.0.clone()),
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct DeleteRequest {
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    range_end: Option<String>,
}

impl DeleteRequest {
    pub(super) fn new(range: &KvRange) -> DeleteRequest {
        DeleteRequest {
            key: encode(&range.from),
            range_end: range.end.as_ref().map(encode),
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct TxnRequest {
    compare: Vec<CompareRequest>,
    success: Vec<TxnOperation>,
    failure: Vec<TxnOperation>,
}

#[derive(Debug, Serialize)]
struct CompareRequest {
    key: String,
    target: &'static str,
    result: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    mod_revision: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    create_revision: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::enum_variant_names)]
enum TxnOperation {
    RequestPut(PutRequest),
    RequestDeleteRange(DeleteRequest),
    RequestRange(RangeRequest),
}

impl TxnRequest {
    /// These writes if all of that holds, and else a look at what was compared.
    pub(super) fn new(conditions: &[KvCondition], writes: &[KvWrite]) -> TxnRequest {
        let compare = conditions.iter().map(|condition| {
            let (target, modified, created) = match condition {
                KvCondition::Absent(_) => ("CREATE", None, Some(0)),
                KvCondition::Created(_, at) => ("CREATE", None, Some(*at)),
                KvCondition::Modified(_, at) => ("MOD", Some(*at), None),
            };
            CompareRequest {
                key: encode(condition.key()),
                target,
                result: "EQUAL",
                mod_revision: modified.map(|at| at.to_string()),
                create_revision: created.map(|at| at.to_string()),
            }
        });
        let success = writes.iter().map(|write| match write {
            KvWrite::Put { key, value, lease } => {
                TxnOperation::RequestPut(PutRequest::new(key, value, lease.as_ref()))
            }
            KvWrite::Delete(key) => {
                TxnOperation::RequestDeleteRange(DeleteRequest::new(&KvRange::key(key)))
            }
        });
        let failure = conditions.iter();
        TxnRequest {
            compare: compare.collect(),
            success: success.collect(),
            failure: failure
                .map(|one| TxnOperation::RequestRange(RangeRequest::key(one.key())))
                .collect(),
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct GrantRequest {
    #[serde(rename = "TTL")]
    pub(super) ttl: String,
}

#[derive(Debug, Serialize)]
pub(super) struct KeepRequest<'a> {
    #[serde(rename = "ID")]
    pub(super) id: &'a str,
}

#[derive(Debug, Serialize)]
pub(super) struct LoginRequest<'a> {
    pub(super) name: &'a str,
    pub(super) password: &'a str,
}

#[derive(Debug, Serialize)]
pub(super) struct WatchRequest {
    create_request: WatchCreate,
}

#[derive(Debug, Serialize)]
struct WatchCreate {
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    range_end: Option<String>,
    start_revision: String,
    progress_notify: bool,
}

impl WatchRequest {
    pub(super) fn new(range: &KvRange, after: i64) -> WatchRequest {
        WatchRequest {
            create_request: WatchCreate {
                key: encode(&range.from),
                range_end: range.end.as_ref().map(encode),
                start_revision: (after + 1).to_string(),
                progress_notify: true,
            },
        }
    }
}

/// A number of 64 bits, as text or as a number.
fn int64<'de, D: Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Int64 {
        Number(i64),
        Text(String),
    }
    match Int64::deserialize(from)? {
        Int64::Number(number) => Ok(number),
        Int64::Text(text) => text.parse().map_err(de::Error::custom),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ResponseHeader {
    #[serde(deserialize_with = "int64")]
    pub(super) revision: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct KeyValue {
    key: String,
    value: String,
    #[serde(deserialize_with = "int64")]
    create_revision: i64,
    #[serde(deserialize_with = "int64")]
    mod_revision: i64,
    #[serde(deserialize_with = "int64")]
    lease: i64,
}

impl KeyValue {
    /// The key behind it, whatever its bytes are: that of a stranger need not be text.
    pub(super) fn next_key(&self) -> Vec<u8> {
        let mut key = STANDARD.decode(&self.key).unwrap_or_default();
        key.push(0);
        key
    }

    /// What it says; an error if the value is not base64.
    pub(super) fn entry(self) -> Result<KvEntry, String> {
        let key = decode_key(&self.key);
        // Four digits are three bytes.
        let kept = (VALUE_LEN_MAX.div_ceil(3) * 4).min(self.value.len());
        let value = self.value.as_bytes().get(..kept).unwrap_or_default();
        let value = STANDARD.decode(value);
        let mut value = value.map_err(|error| format!("the value of {key}: {error}"))?;
        value.truncate(VALUE_LEN_MAX);
        Ok(KvEntry {
            value,
            key,
            created: self.create_revision,
            modified: self.mod_revision,
            lease: (self.lease != 0).then(|| LeaseId(self.lease.to_string())),
        })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RangeResponse {
    pub(super) header: ResponseHeader,
    pub(super) kvs: Vec<KeyValue>,
    pub(super) more: bool,
}

/// The answer of a put or a delete.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct WriteResponse {
    pub(super) header: ResponseHeader,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TxnResponse {
    pub(super) header: ResponseHeader,
    pub(super) succeeded: bool,
    pub(super) responses: Vec<TxnPart>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TxnPart {
    pub(super) response_range: Option<RangeResponse>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct LeaseResponse {
    #[serde(rename = "ID", deserialize_with = "int64")]
    pub(super) id: i64,
    #[serde(rename = "TTL", deserialize_with = "int64")]
    pub(super) ttl: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct LoginResponse {
    pub(super) token: String,
}

/// A message of a stream.
#[derive(Debug, Deserialize)]
pub(super) struct Streamed<T> {
    pub(super) result: T,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct WatchResponse {
    pub(super) header: ResponseHeader,
    pub(super) created: bool,
    pub(super) canceled: bool,
    #[serde(deserialize_with = "int64")]
    pub(super) compact_revision: i64,
    pub(super) cancel_reason: String,
    pub(super) events: Vec<WatchEvent>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct WatchEvent {
    #[serde(rename = "type")]
    kind: String,
    kv: KeyValue,
}

impl WatchEvent {
    pub(super) fn change(self) -> Result<KvChange, String> {
        match self.kind.as_str() {
            "DELETE" => Ok(KvChange::Deleted {
                key: decode_key(&self.kv.key),
                revision: self.kv.mod_revision,
            }),
            "" | "PUT" => Ok(KvChange::Put(self.kv.entry()?)),
            other => Err(format!("the change is a {other:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_is_written_as_etcd_knows_it() {
        let conditions = [
            KvCondition::Modified("k".to_owned(), 3),
            KvCondition::Absent("n".to_owned()),
            KvCondition::Created("c".to_owned(), 7),
        ];
        let writes = [
            KvWrite::Put {
                key: "k".to_owned(),
                value: b"v".to_vec(),
                lease: Some(LeaseId("2523882863376572434".to_owned())),
            },
            KvWrite::Delete("c".to_owned()),
        ];
        let text = serde_json::to_string(&TxnRequest::new(&conditions, &writes)).unwrap();
        let expected = r#"{"compare":[{"key":"aw==","target":"MOD","result":"EQUAL","mod_revision":"3"},{"key":"bg==","target":"CREATE","result":"EQUAL","create_revision":"0"},{"key":"Yw==","target":"CREATE","result":"EQUAL","create_revision":"7"}],"success":[{"request_put":{"key":"aw==","value":"dg==","lease":"2523882863376572434"}},{"request_delete_range":{"key":"Yw=="}}],"failure":[{"request_range":{"key":"aw=="}},{"request_range":{"key":"bg=="}},{"request_range":{"key":"Yw=="}}]}"#;
        assert_eq!(text, expected);
    }

    #[test]
    fn numbers_are_texts_or_numbers_and_zeros_are_left_out() {
        for text in [
            r#"{"header":{"cluster_id":"6524606506111601447", "revision":"3"},"kvs":[{"key":"YQ==","create_revision":"2","mod_revision":"3","version":"2","value":"eA==","lease":"2523882863376572434"}],"count":"1"}"#,
            r#"{"header":{"revision":3},"kvs":[{"key":"YQ==","create_revision":2,"mod_revision":3,"value":"eA==","lease":2523882863376572434}]}"#,
        ] {
            let response: RangeResponse = serde_json::from_str(text).unwrap();
            let revision = response.header.revision;
            let entry = response.kvs.into_iter().next().unwrap().entry().unwrap();
            assert_eq!((revision, entry.created, entry.modified), (3, 2, 3));
            assert_eq!(
                (entry.key.as_str(), entry.value.as_slice()),
                ("a", &b"x"[..])
            );
            assert_eq!(entry.lease.unwrap().0, "2523882863376572434");
        }
        let empty: RangeResponse = serde_json::from_str(r#"{"header":{}}"#).unwrap();
        assert!(empty.kvs.is_empty() && !empty.more && empty.header.revision == 0);
        let lost: TxnResponse =
            serde_json::from_str(r#"{"header":{},"responses":[{"response_range":{}}]}"#).unwrap();
        assert!(!lost.succeeded && lost.responses[0].response_range.is_some());
        let gone: Streamed<LeaseResponse> =
            serde_json::from_str(r#"{"result":{"header":{},"ID":"123"}}"#).unwrap();
        assert_eq!((gone.result.id, gone.result.ttl), (123, 0));
    }
}
