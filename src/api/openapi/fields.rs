//! The schema of a field by its name, as JSON carries it.

use serde_json::{Value, json};

use crate::api::operation::{BOOLEANS, NUMBERS};

/// What a field holds. In a form a payload is the bytes themselves.
pub(super) fn schema(name: &str, form: bool) -> Value {
    if BOOLEANS.contains(&name) {
        return json!({ "type": "boolean" });
    }
    if NUMBERS.contains(&name) {
        let least = u8::from(matches!(name, "timeout" | "install_timeout"));
        return json!({ "type": "integer", "minimum": least });
    }
    match name {
        "project" => json!({ "type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$" }),
        "host" => json!({ "type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$" }),
        "deployment_id" => json!({ "type": "string", "format": "uuid" }),
        "payload_sha256" | "base" | "tree" => {
            json!({ "type": "string", "pattern": "^[0-9A-Fa-f]{64}$" })
        }
        "payload" if form => {
            json!({ "type": "string", "contentMediaType": "application/octet-stream" })
        }
        "payload" => json!({ "type": "string", "contentEncoding": "base64" }),
        "restart" => json!({ "oneOf": [
            { "type": "boolean" },
            { "type": "string", "enum": ["auto", "rolling"] },
        ] }),
        "wave" => json!({ "type": ["string", "integer"] }),
        "action" => json!({
            "type": "string",
            "enum": ["rollback", "publish_current", "remove", "pin", "unpin"],
        }),
        "source" => json!({ "type": "object", "properties": {
            "commit": { "type": "string" },
            "branch": { "type": "string" },
            "dirty": { "type": "boolean" },
        } }),
        "command" => json!({ "oneOf": [
            { "type": "string" },
            { "type": "array", "items": { "type": "string" }, "minItems": 1 },
        ] }),
        "set" | "labels" => {
            json!({ "type": "object", "additionalProperties": { "type": "string" } })
        }
        "unset" => json!({ "type": "array", "items": { "type": "string" } }),
        _ => json!({ "type": "string" }),
    }
}
