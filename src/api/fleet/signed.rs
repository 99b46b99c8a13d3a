//! What is signed of what is wanted of a component: all of it, the component's name too, in one form whoever writes it.

use serde_json::{Map, Value};

use crate::api::name::Project;

/// The member that has the signature.
const SIGNATURE: &str = "signature";

/// The bytes that are signed, of a value of etcd, and the signature that it has. The members stand in the order of their
/// names, so that it is the same form whether or not who reads it knows all of them. None if it is not a document.
pub fn signed_part(project: &Project, value: &[u8]) -> Option<(Vec<u8>, Option<String>)> {
    let Value::Object(mut members) = serde_json::from_slice(value).ok()? else {
        return None;
    };
    let signature = members.remove(SIGNATURE);
    let signature = signature.and_then(|one| one.as_str().map(str::to_owned));
    members.retain(|_, value| !value.is_null());
    let mut all = Map::new();
    all.insert("project".to_owned(), project.as_str().into());
    all.insert("desired".to_owned(), Value::Object(members));
    let bytes = serde_json::to_vec(&sorted(Value::Object(all))).ok()?;
    Some((bytes, signature))
}

fn sorted(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let mut members: Vec<(String, Value)> = members.into_iter().collect();
            members.sort_by(|one, other| one.0.cmp(&other.0));
            let members = members.into_iter();
            Value::Object(members.map(|(name, value)| (name, sorted(value))).collect())
        }
        Value::Array(values) => Value::Array(values.into_iter().map(sorted).collect()),
        value => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_signed_whoever_writes_it() {
        let (a, b): (Project, Project) = ("a".parse().unwrap(), "b".parse().unwrap());
        let one = br#"{"v":1,"generation":2,"more":{"y":1,"x":[{"d":1,"c":2}]},"signature":"s"}"#;
        let other = br#"{"more":{"x":[{"c":2,"d":1}],"y":1},"signature":"t","v":1, "none":null,"generation":2}"#;
        let (bytes, signature) = signed_part(&a, one).unwrap();
        assert_eq!(signature.as_deref(), Some("s"));
        assert_eq!(
            signed_part(&a, other),
            Some((bytes.clone(), Some("t".into())))
        );
        assert_ne!(signed_part(&b, one).unwrap().0, bytes);
        let newer = br#"{"v":1,"generation":3,"more":{"y":1,"x":[{"d":1,"c":2}]}}"#;
        let (newer, none) = signed_part(&a, newer).unwrap();
        assert!(newer != bytes && none.is_none());
        assert_eq!(signed_part(&a, b"[]"), None);
    }
}
