//! Which of a Harper server's deployments is ours: it names none before its end, so an answer that was lost is looked for
//! among its records.

use std::sync::{Arc, OnceLock};

use serde_json::{Value, json};

use crate::api::operation::{List, Operation, OperationCall};

/// The SHA-256 of a payload in hex, once it was read to its end.
pub(crate) type PayloadHash = Arc<OnceLock<String>>;

/// So many records are looked at, the newest ones: more than begin within the second or two that is looked back.
const LOOKED_AT: u64 = 5;

/// A deployment that is looked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sought {
    /// Its component; none where the server makes the name of the package's.
    pub(crate) project: Option<String>,
    /// Not before this time by the server's clock, in ms.
    pub(crate) since: Option<u64>,
    /// What the server was to fetch.
    pub(crate) package: Option<String>,
    /// Who deploys, where that is known.
    pub(crate) user: Option<String>,
    /// The component's newest one, whoever deployed it.
    pub(crate) newest: bool,
}

impl Sought {
    /// What is asked to find it.
    pub(crate) fn call(&self) -> OperationCall {
        Operation::ListDeployments(List {
            project: self.project.clone(),
            since: self.since,
            limit: Some(LOOKED_AT),
            ..List::default()
        })
        .into()
    }

    /// The record of it, among these, the newest first. The payload's hash decides where it is known on both sides; else it
    /// is the only one of this user's that it can be.
    pub(crate) fn choose<'r>(&self, answer: &'r Value, hash: Option<&str>) -> Option<&'r Value> {
        let rows = answer.get("deployments")?.as_array()?;
        if self.newest {
            return rows.first();
        }
        let hashed = |row: &&Value| hash.is_some() && text(row, "payload_hash") == hash;
        if let Some(row) = rows.iter().find(hashed) {
            return Some(row);
        }
        let mut possible = rows.iter().filter(|row| {
            let user = self.user.as_deref();
            let ours = user.is_none() || text(row, "user").is_none_or(|by| Some(by) == user);
            let known = match hash {
                // Another hash is another payload.
                Some(_) => row.get("payload_hash").is_none_or(Value::is_null),
                None => true,
            };
            ours && known && text(row, "package_identifier") == self.package.as_deref()
        });
        let first = possible.next();
        first.filter(|_| possible.next().is_none())
    }
}

fn text<'r>(row: &'r Value, key: &str) -> Option<&'r str> {
    row.get(key)?.as_str()
}

/// What a deployment that succeeded would have been answered with.
pub(crate) fn result_of(row: &Value) -> Value {
    let project = text(row, "project").unwrap_or_default();
    json!({
        "message": format!("Successfully deployed: {project}"),
        "deployment_id": row.get("deployment_id"),
        "project": project,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_deployment_is_the_one_with_our_payload_or_the_only_one_of_ours() {
        let row = |id: u8, hash: Option<&str>, user: &str, package: Option<&str>| json!({"deployment_id": id, "payload_hash": hash, "user": user, "package_identifier": package});
        let (ours, other) = (Some("aa"), Some("bb"));
        let table = [
            (vec![row(1, ours, "me", None)], ours, None, Some(1)),
            (
                vec![row(2, None, "me", None), row(1, ours, "me", None)],
                ours,
                None,
                Some(1),
            ),
            // The newer one of two with the same payload.
            (
                vec![row(2, ours, "me", None), row(1, ours, "me", None)],
                ours,
                None,
                Some(2),
            ),
            (
                vec![row(2, None, "me", None), row(1, other, "me", None)],
                ours,
                None,
                Some(2),
            ),
            (
                vec![row(2, None, "me", None), row(1, None, "me", None)],
                ours,
                None,
                None,
            ),
            (
                vec![row(2, None, "you", None), row(1, None, "me", None)],
                ours,
                None,
                Some(1),
            ),
            (vec![row(1, other, "me", None)], ours, None, None),
            (vec![row(1, None, "me", Some("x"))], ours, None, None),
            (
                vec![row(2, None, "me", None), row(1, None, "me", Some("x"))],
                None,
                Some("x"),
                Some(1),
            ),
            (vec![], ours, None, None),
        ];
        for (rows, hash, package, found) in table {
            let sought = Sought {
                user: Some("me".into()),
                package: package.map(str::to_owned),
                ..Sought::default()
            };
            let answer = json!({ "deployments": rows });
            let chosen = sought.choose(&answer, hash);
            let chosen = chosen.and_then(|row| row["deployment_id"].as_u64());
            assert_eq!(chosen, found, "{answer} {hash:?}");
        }
        let newest = Sought {
            newest: true,
            ..Sought::default()
        };
        let answer = json!({"deployments": [row(2, None, "you", None), row(1, None, "me", None)]});
        assert_eq!(newest.choose(&answer, None).unwrap()["deployment_id"], 2);
        assert_eq!(newest.choose(&json!({}), None), None);
    }
}
