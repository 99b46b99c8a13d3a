//! `GET /openapi.json`: a validator has nothing against it, and a server answers as it says.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::test_server::{Answer, TempDir, TestServer, gzip, have, records, tar};

/// The deployment of the examples.
const ID: &str = "01976e6c-1c2b-7000-8000-000000000000";

fn document(host: &TestServer) -> Value {
    let answer = host.ask_as_anyone("GET", "/openapi.json", &[], b"");
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

/// What an answer is, without its parameters.
fn media(answer: &Answer) -> &str {
    let media = answer.header("Content-Type").unwrap();
    media.split(';').next().unwrap()
}

/// What a reference means.
fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(at) => document.pointer(at.strip_prefix('#').unwrap()).unwrap(),
        None => value,
    }
}

/// Whether a value has what a schema requires, each of its kind.
fn assert_fits(document: &Value, schema: &Value, value: &Value) {
    let schema = resolved(document, schema);
    for name in schema["required"].as_array().unwrap() {
        let name = name.as_str().unwrap();
        let found = &value[name];
        let kind = match found {
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Number(_) => "number",
            _ => "another kind",
        };
        assert_eq!(schema["properties"][name]["type"], kind, "{name}: {value}");
    }
}

/// The code of a refusal, which is as the document says of its status.
fn refused(document: &Value, answers: &Value, answer: &Answer) -> String {
    let response = resolved(document, &answers[answer.status.to_string()]);
    let both = &response["content"][media(answer)]["schema"]["allOf"];
    assert_fits(document, &both[0], &answer.json());
    let (code, why) = answer.refusal();
    let codes = both[1]["properties"]["code"]["enum"].as_array().unwrap();
    assert!(codes.contains(&json!(code)), "{code}: {why}");
    code
}

#[test]
fn a_validator_has_nothing_against_the_document() {
    if !have("openapi-spec-validator") {
        return;
    }
    let host = TestServer::start();
    let mut document = document(&host);
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let dir = TempDir::new();
    let file = dir.0.join("openapi.json");
    let validate = |document: &Value| {
        fs::write(&file, document.to_string()).unwrap();
        let mut validator = Command::new("openapi-spec-validator");
        validator.arg(&file).output().unwrap()
    };
    let output = validate(&document);
    assert!(output.status.success(), "{output:?}");
    // It is one that would say so.
    document["paths"]["/health"]["get"]["responses"]["200"]["description"] = json!(7);
    assert!(!validate(&document).status.success());
}

#[test]
fn anyone_gets_the_document_and_gets_it_once() {
    let host = TestServer::start();
    let ask = |method, headers: &[&str]| host.ask_as_anyone(method, "/openapi.json", headers, b"");
    // A link may stand on a page of somebody else.
    let answer = ask("GET", &["Sec-Fetch-Site: cross-site"]);
    assert_eq!((answer.status, media(&answer)), (200, "application/json"));
    let tag = answer.header("ETag").unwrap();
    let again = ask("GET", &[&format!("If-None-Match: {tag}")]);
    assert_eq!((again.status, again.body.len()), (304, 0));
    assert_eq!(ask("POST", &[]).status, 405);
    assert!(!answer.text().contains(&host.token));
}

#[test]
fn the_paths_of_the_document_are_there() {
    let host = TestServer::start();
    let document = document(&host);
    let paths = document["paths"].as_object().unwrap();
    for (path, item) in paths {
        let asked = path
            .replace("{id}", ID)
            .replace("{sha256}", &"a".repeat(64));
        let (without, with) = (
            host.ask_as_anyone("GET", &asked, &[], b""),
            host.ask("GET", &asked, &[], b""),
        );
        let is_public = item["get"]["security"] == json!([]);
        assert_eq!(without.status == 401, !is_public, "{path}");
        let answers = &item["get"]["responses"];
        match with.status {
            200 => {
                let content = &answers["200"]["content"];
                assert!(content.get(media(&with)).is_some(), "{path}: {}", with.head);
            }
            _ => assert_eq!(refused(&document, answers, &with), "not_found", "{path}"),
        }
    }
}

/// An operation's example, asked of the server twice: for a plain answer, and for events.
fn ask(host: &TestServer, example: &Value, id: &str) -> [Answer; 2] {
    let body = example.to_string().replace(ID, id);
    ["application/json", "text/event-stream"].map(|accepted| {
        let accept = format!("Accept: {accepted}");
        let headers = ["Content-Type: application/json", &accept];
        host.ask("POST", "/", &headers, body.as_bytes())
    })
}

#[test]
fn the_examples_are_answered_as_the_document_says() {
    let host = TestServer::start();
    let files = [
        ("./Procfile", "web: exec sleep 1000\n"),
        ("./gangplank.json", r#"{"health": {"command": "true"}}"#),
    ];
    // The second one can be rolled back.
    let payload = gzip(&tar(&files));
    let [_, deployed] = [(); 2].map(|()| host.deploy(&[("project", "my-app")], &payload));
    let deployed = deployed.json();
    let id = deployed["deployment_id"].as_str().unwrap();
    let document = document(&host);
    let (schemas, post) = (
        &document["components"]["schemas"],
        &document["paths"]["/"]["post"],
    );
    // In the order of the document, which reads the deployment before its payload and its component are removed.
    let operations =
        post["requestBody"]["content"]["application/json"]["schema"]["oneOf"].as_array();
    let mut refusals = Vec::new();
    for operation in operations.unwrap() {
        let schema = resolved(&document, operation);
        let name = schema["properties"]["operation"]["const"].as_str().unwrap();
        for example in schema["examples"].as_array().unwrap() {
            for (which, answer) in ask(&host, example, id).into_iter().enumerate() {
                if answer.status != 200 {
                    let code = refused(&document, &post["responses"], &answer);
                    assert_ne!(code, "bad_request", "{example}: {}", answer.text());
                    if which == 0 {
                        refusals.push((name, code));
                    }
                    continue;
                }
                let said = schema["x-answer"].get(media(&answer));
                let said = said.unwrap_or_else(|| panic!("{example}: {}", answer.head));
                let streams = schema["x-answer"].get("text/event-stream").is_some();
                match media(&answer) {
                    "application/json" => assert_fits(&document, said, &answer.json()),
                    "text/event-stream" => {
                        let (last, all) = (records(&answer.text()).pop().unwrap(), answer.text());
                        assert_eq!(last.event, "done", "{example}: {all}");
                        if let Some(plain) = schemas
                            .get(format!("{name}_answer"))
                            .filter(|_| name != "get_deployment")
                        {
                            assert_fits(&document, plain, &last.data["result"]);
                        }
                    }
                    _ => {}
                }
                let is_stream = media(&answer) == "text/event-stream";
                assert!(
                    which == 0 || is_stream == streams,
                    "{example}: {}",
                    answer.head
                );
            }
        }
    }
    let expected = [
        ("deploy_component", "fleet_unavailable"),
        ("cancel_deployment", "conflict"),
        ("sync", "not_found"),
        ("get_fleet", "fleet_unavailable"),
        ("change_fleet", "fleet_unavailable"),
        ("change_fleet", "fleet_unavailable"),
        ("change_fleet", "fleet_unavailable"),
    ];
    let expected = expected.map(|(name, code)| (name, code.to_owned()));
    assert_eq!(refusals, expected);
}
