//! `list_deployments`: found in the index, and copied from the records one by one, so that a listing costs hardly more memory
//! than its answer has bytes.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::api::error::{Doing, Error, Refusal};
use crate::api::operation::List;
use crate::api::record::Summary;
use crate::server::answers::json_text;
use crate::server::auth::Caller;
use crate::server::http::Answer;
use crate::server::state::ServerState;

/// How many deployments a listing has if nobody says.
const LIMIT: u64 = 100;

/// Performs `list_deployments`.
pub(super) fn list_deployments(
    state: &ServerState,
    list: &List,
    caller: &Caller,
) -> Result<Answer, Refusal> {
    let (first, limit) = (list.offset, list.limit.unwrap_or(LIMIT));
    let (total, ids) = state.known.index.look(|all| {
        let (mut total, mut ids) = (0_u64, Vec::new());
        for (id, one) in all.iter().rev() {
            if !matches(one, list) || caller.is_barred_from(&one.project) {
                continue;
            }
            if total >= first && total - first < limit {
                ids.push(*id);
            }
            total += 1;
        }
        (total, ids)
    });
    let mut body = b"{\"deployments\":[".to_vec();
    let empty = body.len();
    for id in ids {
        // One that was removed meanwhile is none.
        if let Some(text) = state.known.store.read_record_text(id)? {
            if body.len() > empty {
                body.push(b',');
            }
            let present = state.known.store.payload(id).exists();
            copy(&mut body, &text, present, list.include_events)
                .doing(|| format!("reading the record of deployment {id}"))?;
        }
    }
    body.extend_from_slice(format!("],\"total\":{total}}}\n").as_bytes());
    Ok(json_text(200, body))
}

fn matches(one: &Summary, list: &List) -> bool {
    let status = || serde_json::to_value(one.status).ok();
    list.project
        .as_ref()
        .is_none_or(|project| project == one.project.as_str())
        && list
            .status
            .as_ref()
            .is_none_or(|wanted| status().is_some_and(|status| status == wanted.as_str()))
        && list.since.is_none_or(|since| one.started_at >= since)
        && list.until.is_none_or(|until| one.started_at <= until)
}

/// Copies a record, with what the disk says of its payload, and with its events only if they are wanted.
fn copy(body: &mut Vec<u8>, text: &[u8], present: bool, events: bool) -> Result<(), Error> {
    let what = || "copying it".to_owned();
    let ObjectMembers(members) = serde_json::from_slice(text).doing(what)?;
    let mut separator = b'{';
    for (name, value) in members {
        if name == "event_log" && !events {
            continue;
        }
        body.push(separator);
        separator = b',';
        serde_json::to_writer(&mut *body, &name).doing(what)?;
        body.push(b':');
        match &*name {
            "payload_present" => body.extend_from_slice(present.to_string().as_bytes()),
            _ => body.extend_from_slice(value.get().as_bytes()),
        }
    }
    body.push(b'}');
    Ok(())
}

/// The members of an object, unread and in their order.
struct ObjectMembers<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for ObjectMembers<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMembers<'de>, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = ObjectMembers<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<ObjectMembers<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(ObjectMembers(members))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_copied_in_its_order() {
        let text = br#"{ "b": [1,
 2], "payload_present": true, "a\"": {"x":null}, "event_log": [{"id":1}] }"#;
        let table = [
            (
                false,
                r#"{"b":[1,
 2],"payload_present":false,"a\"":{"x":null}}"#,
            ),
            (
                true,
                r#"{"b":[1,
 2],"payload_present":false,"a\"":{"x":null},"event_log":[{"id":1}]}"#,
            ),
        ];
        for (events, expected) in table {
            let mut body = Vec::new();
            copy(&mut body, text, false, events).unwrap();
            assert_eq!(String::from_utf8(body).unwrap(), expected);
        }
        assert!(copy(&mut Vec::new(), b"[]", true, true).is_err());
    }
}
