//! The description of the API by OpenAPI 3.1, made of the tables that also make the server: the operations, the shapes of their
//! answers, the kinds of their fields, and the codes of refusals.
//!
//! Each operation has a schema of what is asked, `deploy_component`. It says under `x-answer` what a success has, by
//! media type: OpenAPI knows one answer for a path and a method, and here all operations share one path.

mod fields;
mod operations;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::api::error::Code;
use crate::api::openapi::operations::{Need, OperationText, Streams, text};
use crate::api::operation::{AnswerShape, FieldKind, Fields, NAME, OperationCall, OperationName};

const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";
const TEXT: &str = "text/plain";
const BYTES: &str = "application/octet-stream";
const METRICS: &str = "application/openmetrics-text";
const FORM: &str = "multipart/form-data";

const ABOUT: &str = "Deploys components and runs their processes. All operations are `POST /`, and the field `operation` \
    says which one. What a success has is under `x-answer` of each one's schema. Bodies of CBOR (`application/cbor`) are \
    taken, too. Two operations need no credentials in the head: `create_authentication_tokens` (`username`, `password`), \
    which answers with `operation_token`, and `create_page_session` (`code`), which answers with `token`.";

const EVENTS_ARE: &str = "Server-Sent Events, each with data of JSON, and its number as the id where it can be resumed. The \
    last one is `done`, whose `result` is what the plain answer would be, or `error`, with `message` and `code`.";

/// The whole document.
pub fn document() -> Value {
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "gangplank",
            "version": env!("CARGO_PKG_VERSION"),
            "description": ABOUT,
            "license": { "name": "MIT", "identifier": "MIT" },
        },
        // Where the document is: a proxy may have put all of it below a path.
        "servers": [{ "url": "." }],
        "security": [{ "bearer": [] }, { "basic": [] }],
        "paths": paths(),
        "components": {
            "schemas": schemas(),
            "responses": refusals(),
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer", "description": "A token." },
                "basic": {
                    "type": "http",
                    "scheme": "basic",
                    "description": "The name of a token, and the token as the password.",
                },
            },
        },
    })
}

fn paths() -> Value {
    let public = |id: &str, summary: &str, media: &str| {
        let known = "It is what `If-None-Match` names.";
        let mut responses = answers(json!({ media: { "schema": { "type": "string" } } }));
        if media != TEXT {
            responses["304"] = json!({ "description": known });
        }
        json!({
            "operationId": id,
            "summary": summary,
            "security": [],
            "responses": responses,
        })
    };
    let mut document = public("openapi", "This document.", JSON);
    document["responses"]["200"]["content"][JSON]["schema"] = json!({ "type": "object" });
    json!({
        "/": {
            "get": public("page", "The page for a browser.", "text/html"),
            "post": post(),
        },
        "/health": { "get": public("health", "Whether the server runs.", TEXT) },
        "/openapi.json": { "get": document },
        "/metrics": { "get": {
            "operationId": "metrics",
            "summary": "What happens here in numbers. A token that is limited to components does not get them.",
            "responses": answers(json!({
                METRICS: { "schema": { "type": "string" } },
                TEXT: { "schema": { "type": "string" } },
            })),
        } },
        "/deployments/{id}/events": { "get": events() },
        "/fleet/payload/{sha256}": { "get": fleet_payload() },
    })
}

fn post() -> Value {
    let all = || OperationName::ALL.iter().map(|name| name.word());
    let one_of = |names: Vec<&str>, suffix: &str| {
        let of = |name: &str| reference(&format!("{name}{suffix}"));
        let mapping = names.iter().map(|name| {
            let at = of(name)["$ref"].take();
            ((*name).to_owned(), at)
        });
        json!({
            "oneOf": names.iter().map(|name| of(name)).collect::<Vec<_>>(),
            "discriminator": {
                "propertyName": NAME,
                "mapping": mapping.collect::<Map<_, _>>(),
            },
        })
    };
    let forms = OperationName::ALL.iter().filter(|name| has_file(**name));
    let forms: Vec<&str> = forms.map(|name| name.word()).collect();
    let examples = OperationName::ALL.iter().flat_map(|name| {
        let examples = examples(*name).into_iter().enumerate();
        examples.map(|(at, example)| {
            let key = format!("{}_{}", name.word(), at + 1);
            (key, json!({ "value": example }))
        })
    });
    let mut content: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for name in OperationName::ALL {
        for (media, schema) in answer(*name) {
            let schemas = content.entry(media).or_default();
            if !schemas.contains(&schema) {
                schemas.push(schema);
            }
        }
    }
    let content = content.into_iter().map(|(media, mut schemas)| {
        let schema = match schemas.len() {
            1 => schemas.remove(0),
            _ => json!({ "anyOf": schemas }),
        };
        (media, json!({ "schema": schema }))
    });
    json!({
        "operationId": "operate",
        "summary": "Performs an operation.",
        "parameters": [
            {
                "name": "Idempotency-Key",
                "in": "header",
                "description": "A request that comes again with it within a day gets the deployment of the first one.",
                "schema": { "type": "string", "minLength": 1, "maxLength": 128 },
            },
            {
                "name": "Last-Event-ID",
                "in": "header",
                "description": "The number after which the events of `get_deployment` go on.",
                "schema": { "type": "integer", "minimum": 0 },
            },
        ],
        "requestBody": { "required": true, "content": {
            JSON: {
                "schema": one_of(all().collect(), ""),
                "examples": examples.collect::<Map<_, _>>(),
            },
            FORM: { "schema": one_of(forms, "_form") },
        } },
        "responses": answers(Value::Object(content.collect())),
    })
}

fn events() -> Value {
    let parameter = |name: &str, place: &str, text: &str, schema: Value| {
        json!({
            "name": name,
            "in": place,
            "required": place == "path",
            "description": text,
            "schema": schema,
        })
    };
    let id = json!({ "anyOf": [
        fields::schema("deployment_id", false),
        { "type": "string", "enum": ["latest", "next"] },
    ] });
    let number = || json!({ "type": "integer", "minimum": 0 });
    let from = "The number after which the events go on.";
    let mut responses = answers(json!({ EVENTS: { "schema": event_schema() } }));
    let ended = "There is nothing after the event that was named.";
    responses["204"] = json!({ "description": ended });
    json!({
        "operationId": "events",
        "summary": "The events of a deployment from the first one on, and those that come.",
        "parameters": [
            parameter("id", "path", "The deployment, or `latest`, or `next` with a project.", id),
            parameter("from", "query", from, number()),
            parameter("Last-Event-ID", "header", from, number()),
            parameter("project", "query", "The component whose latest or next one it is.", fields::schema("project", false)),
            parameter("after", "query", "The deployment after which the next one is; 0 for none.", json!({ "type": "string" })),
        ],
        "responses": responses,
    })
}

fn fleet_payload() -> Value {
    let bytes = json!({ BYTES: { "schema": bytes_schema() } });
    let mut responses = answers(bytes.clone());
    responses["206"] = json!({ "description": "The part that was asked for.", "content": bytes });
    responses["416"] = json!({
        "description": "The payload has none of the bytes that were asked for.",
        "content": { JSON: { "schema": reference("Error") } },
    });
    json!({
        "operationId": "fleet_payload",
        "summary": "A payload for another host of the fleet, by its SHA-256.",
        "parameters": [
            {
                "name": "sha256",
                "in": "path",
                "required": true,
                "schema": fields::schema("payload_sha256", false),
            },
            {
                "name": "Range",
                "in": "header",
                "description": "The part that is wanted, such as bytes=0-1023.",
                "schema": { "type": "string" },
            },
        ],
        "responses": responses,
    })
}

/// The answers of a path: a success with this content, and each status of a refusal.
fn answers(content: Value) -> Value {
    let mut all = Map::new();
    all.insert(
        "200".into(),
        json!({ "description": "A success.", "content": content }),
    );
    for status in statuses().into_keys() {
        let at = format!("#/components/responses/{}", refusal_name(status));
        all.insert(status.to_string(), json!({ "$ref": at }));
    }
    // What is not even a request has several statuses, by what is wrong with it.
    let other = json!({
        "description": "What came was refused before it was read as a request, with `bad_http`.",
        "content": { JSON: { "schema": reference("Error") } },
    });
    all.insert("default".into(), other);
    Value::Object(all)
}

/// The codes of each status.
fn statuses() -> BTreeMap<u16, Vec<Code>> {
    let mut statuses: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
    for code in Code::ALL {
        statuses.entry(code.status()).or_default().push(*code);
    }
    statuses
}

fn refusal_name(status: u16) -> String {
    format!("Refused{status}")
}

fn refusals() -> Value {
    let all = statuses().into_iter().map(|(status, codes)| {
        let texts = codes
            .iter()
            .map(|code| format!("`{}`: {}", code.word(), code.meaning()));
        let words: Vec<&str> = codes.iter().map(|code| code.word()).collect();
        let mut response = json!({
            "description": texts.collect::<Vec<_>>().join("\n\n"),
            "content": { JSON: { "schema": {
                "allOf": [reference("Error"), { "properties": { "code": { "enum": words } } }],
            } } },
        });
        let header =
            |text: &str, kind: &str| json!({ "description": text, "schema": { "type": kind } });
        if codes.contains(&Code::Unauthorized) {
            response["headers"] =
                json!({ "WWW-Authenticate": header("Which credentials are taken.", "string") });
        }
        if codes.iter().any(|code| code.retry_after().is_some()) {
            let text = "After how many seconds it makes sense to try again, where that is known.";
            response["headers"] = json!({ "Retry-After": header(text, "integer") });
        }
        (refusal_name(status), response)
    });
    Value::Object(all.collect())
}

fn schemas() -> Value {
    let mut all = Map::new();
    for name in OperationName::ALL {
        all.insert(name.word().into(), request(*name, false));
        if has_file(*name) {
            all.insert(format!("{}_form", name.word()), request(*name, true));
        }
        if let AnswerShape::Object(fields) = shape(*name) {
            all.insert(format!("{}_answer", name.word()), object(fields));
        }
    }
    let words: Vec<&str> = Code::ALL.iter().map(|code| code.word()).collect();
    all.insert(
        "Error".into(),
        json!({
            "type": "object",
            "required": ["error", "code"],
            "properties": {
                "error": { "type": "string", "description": "What was being done, to what, and why it failed." },
                "code": { "type": "string", "enum": words },
                "deployment_id": { "type": "string", "description": "The deployment that it is about." },
                "phase": { "type": "string", "description": "The phase in which a deployment failed." },
                "install_output": { "description": "The last of what the installation printed." },
            },
        }),
    );
    Value::Object(all)
}

/// What is asked.
fn request(name: OperationName, form: bool) -> Value {
    let OperationText {
        summary,
        any_of,
        fields,
        ..
    } = text(name);
    let mut properties = Map::new();
    properties.insert(NAME.into(), json!({ "const": name.word() }));
    let mut required = vec![NAME];
    for (field, need, text) in fields {
        let mut schema = fields::schema(field, form);
        schema["description"] = (*text).into();
        properties.insert((*field).into(), schema);
        if *need == Need::Required {
            required.push(field);
        }
    }
    let answer: Map<String, Value> = answer(name).into_iter().collect();
    let mut schema = json!({
        "type": "object",
        "description": summary,
        "required": required,
        "properties": properties,
        "x-answer": answer,
    });
    let any_of = any_of.iter().map(|names| {
        let each = names.iter().map(|name| json!({ "required": [name] }));
        json!({ "anyOf": each.collect::<Vec<_>>() })
    });
    let any_of: Vec<Value> = any_of.collect();
    if !any_of.is_empty() {
        schema["allOf"] = any_of.into();
    }
    if !form {
        schema["examples"] = examples(name).into();
    }
    schema
}

/// What a success has, by media type.
fn answer(name: OperationName) -> BTreeMap<String, Value> {
    let mut media = BTreeMap::new();
    let streams = text(name).streams;
    let (plain, schema) = match shape(name) {
        AnswerShape::Object(_) => (JSON, reference(&format!("{}_answer", name.word()))),
        AnswerShape::Json => (JSON, json!({ "type": ["object", "array"] })),
        AnswerShape::Lines => (
            TEXT,
            json!({
                "type": "string",
                "description": "Lines: time, process type, stdout, stderr or gangplank, and what was printed.",
            }),
        ),
        AnswerShape::Bytes => (BYTES, bytes_schema()),
    };
    if streams != Streams::Always {
        media.insert(plain.to_owned(), schema);
    }
    if streams != Streams::Never {
        media.insert(EVENTS.to_owned(), event_schema());
    }
    media
}

fn object(fields: &[(&str, FieldKind)]) -> Value {
    let required: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
    let properties = fields.iter().map(|(name, kind)| {
        let kind = match kind {
            FieldKind::Text => "string",
            FieldKind::List => "array",
            FieldKind::Number => "number",
        };
        ((*name).to_owned(), json!({ "type": kind }))
    });
    json!({
        "type": "object",
        "required": required,
        "properties": properties.collect::<Map<_, _>>(),
    })
}

fn event_schema() -> Value {
    json!({ "type": "string", "description": EVENTS_ARE })
}

fn bytes_schema() -> Value {
    json!({ "type": "string", "contentMediaType": BYTES })
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

fn shape(name: OperationName) -> AnswerShape {
    OperationCall::new(name.word(), Fields::new()).shape()
}

/// Whether it may come as a form with a file.
fn has_file(name: OperationName) -> bool {
    let mut fields = text(name).fields.iter();
    fields.any(|(field, ..)| *field == "payload")
}

/// Whole requests. One that cannot be read is left out, which a test does not let happen.
fn examples(name: OperationName) -> Vec<Value> {
    let read = |example: &&str| {
        let fields: Fields = serde_json::from_str(example).ok()?;
        let call = OperationCall::new(name.word(), fields);
        Some(Value::Object(call.fields().clone()))
    };
    text(name).examples.iter().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::api::operation::{BOOLEANS, NUMBERS, OTHERS, Operation};

    fn known() -> impl Iterator<Item = &'static str> {
        [BOOLEANS, NUMBERS, OTHERS].into_iter().flatten().copied()
    }

    /// Each example of an operation, as its fields.
    fn requests(name: OperationName) -> Vec<Fields> {
        let all = examples(name);
        assert_eq!(all.len(), text(name).examples.len(), "{name:?}");
        assert!(!all.is_empty(), "{name:?} has no example");
        let fields = all.into_iter().map(|one| one.as_object().unwrap().clone());
        fields.collect()
    }

    fn without(fields: &Fields, names: &[&str]) -> Fields {
        let mut fields = fields.clone();
        fields.retain(|name, _| !names.contains(&&**name));
        fields
    }

    #[test]
    fn every_operation_and_every_known_field_is_in_the_document() {
        let document = document();
        let schemas = &document["components"]["schemas"];
        let mut fields = BTreeSet::new();
        for name in OperationName::ALL {
            let schema = &schemas[name.word()];
            let properties = schema["properties"].as_object();
            let properties = properties.unwrap_or_else(|| panic!("{name:?} is missing"));
            assert_eq!(properties[NAME]["const"], name.word());
            fields.extend(properties.keys().cloned());
            let media = schema["x-answer"].as_object().unwrap();
            assert!(!media.is_empty(), "{name:?}");
        }
        let known: BTreeSet<String> = known().map(str::to_owned).collect();
        assert_eq!(fields, known);
        let codes =
            document["components"]["schemas"]["Error"]["properties"]["code"]["enum"].as_array();
        assert_eq!(codes.unwrap().len(), Code::ALL.len());
        for code in Code::ALL {
            assert!(!code.meaning().is_empty(), "{code}");
        }
    }

    #[test]
    fn examples_are_read_and_what_is_required_is_missed() {
        for name in OperationName::ALL {
            let text = text(*name);
            for example in requests(*name) {
                let read = Operation::parse(&example);
                assert!(read.is_ok(), "{example:?}: {read:?}");
                for (field, need, _) in text.fields {
                    let (shorter, is_there) =
                        (without(&example, &[field]), example.contains_key(*field));
                    let missed = Operation::parse(&shorter).is_err();
                    match need {
                        Need::Required => assert!(is_there && missed, "{name:?} without {field}"),
                        // Of some, one is enough.
                        Need::Optional if text.any_of.iter().any(|names| names.contains(field)) => {
                        }
                        Need::Optional => assert!(!missed, "{name:?} without {field}"),
                    }
                }
                for names in text.any_of {
                    assert!(
                        names.iter().any(|one| example.contains_key(*one)),
                        "{example:?}"
                    );
                    // Whether there is a payload only the server knows.
                    let missed = Operation::parse(&without(&example, names)).is_err();
                    assert!(
                        missed || names.contains(&"payload"),
                        "{name:?} without {names:?}"
                    );
                }
            }
        }
    }

    /// No field takes a list of lists.
    #[test]
    fn the_fields_of_an_operation_are_those_that_it_reads() {
        for name in OperationName::ALL {
            let documented: BTreeSet<&str> = text(*name)
                .fields
                .iter()
                .map(|(field, ..)| *field)
                .collect();
            assert_eq!(
                documented.len(),
                text(*name).fields.len(),
                "{name:?} has a field twice"
            );
            let reads = |field: &str| {
                requests(*name).into_iter().any(|mut example| {
                    example.insert(field.into(), json!([[]]));
                    Operation::parse(&example).is_err()
                })
            };
            // The payload is not among what is read here.
            for field in known().filter(|field| ![NAME, "payload"].contains(field)) {
                assert_eq!(
                    reads(field),
                    documented.contains(field),
                    "{name:?} and {field}"
                );
            }
        }
    }

    #[test]
    fn what_refers_to_something_finds_it() {
        fn walk(value: &Value, found: &mut Vec<String>) {
            match value {
                Value::Object(members) => {
                    found.extend(
                        members
                            .get("$ref")
                            .map(|at| at.as_str().unwrap().to_owned()),
                    );
                    members.values().for_each(|value| walk(value, found));
                }
                Value::Array(values) => values.iter().for_each(|value| walk(value, found)),
                _ => {}
            }
        }
        let (document, mut found) = (document(), Vec::new());
        walk(&document, &mut found);
        assert!(found.len() > OperationName::ALL.len());
        for at in found {
            let pointer = at.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{at}");
        }
    }
}
