//! Payloads for the other hosts of a fleet: by their SHA-256, whole or in parts, with a token that is good for nothing else.

use std::io::{Read, Write};
use std::process::Command;

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::test_server::{Answer, BINARY, TempDir, TestServer, await_some, form, request, tar};

/// A token of a role, as a header.
fn token(server: &TestServer, role: &str, more: &[&str]) -> String {
    let added = Command::new(BINARY)
        .args([
            "token",
            "add",
            &format!("{role}{}", more.len()),
            "--role",
            role,
            "--root",
        ])
        .arg(&server.root.0)
        .args(more)
        .output()
        .unwrap();
    assert!(added.status.success(), "{added:?}");
    let token = String::from_utf8(added.stdout).unwrap();
    format!("Authorization: Bearer {}", token.trim())
}

fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn fetch(server: &TestServer, sha: &str, headers: &[&str]) -> Answer {
    server.ask_as_anyone("GET", &format!("/fleet/payload/{sha}"), headers, b"")
}

#[test]
fn a_payload_is_fetched_by_its_hash_whole_and_in_parts() {
    let server = TestServer::start();
    let payload = tar(&[("./v", "1")]);
    assert_eq!(server.deploy(&[("project", "demo")], &payload).status, 200);
    let (sha, length, fleet) = (
        sha256(&payload),
        payload.len(),
        token(&server, "fleet", &[]),
    );
    let whole = fetch(&server, &sha, &[&fleet]);
    assert_eq!((whole.status, &whole.body), (200, &payload));
    assert_eq!(fetch(&server, &sha.to_uppercase(), &[&fleet]).body, payload);
    let table = [
        ("bytes=100-", 206, 100..length),
        ("bytes=0-0", 206, 0..1),
        ("bytes=10-19", 206, 10..20),
        ("bytes=-5", 206, length - 5..length),
        ("bytes=1-2,3-4", 200, 0..length),
    ];
    for (range, status, part) in table {
        let header = format!("Range: {range}");
        let answer = fetch(&server, &sha, &[&fleet, &header]);
        assert_eq!(answer.status, status, "{range}");
        assert_eq!(answer.body, payload[part.clone()], "{range}");
        let said = format!("bytes {}-{}/{length}", part.start, part.end - 1);
        let said = (status == 206).then_some(said);
        assert_eq!(answer.header("Content-Range"), said.as_deref(), "{range}");
    }
    let outside = fetch(&server, &sha, &[&fleet, &format!("Range: bytes={length}-")]);
    let said = format!("bytes */{length}");
    assert_eq!(
        (outside.status, outside.header("Content-Range")),
        (416, Some(&*said))
    );
    for (sha, status) in [
        ("ab", 400),
        (&*"0".repeat(64), 404),
        (&*"z".repeat(64), 400),
    ] {
        assert_eq!(fetch(&server, sha, &[&fleet]).status, status, "{sha}");
    }
    let path = format!("/fleet/payload/{sha}");
    assert_eq!(
        server.ask_as_anyone("POST", &path, &[&fleet], b"").status,
        405
    );
}

#[test]
fn the_role_fleet_is_good_for_payloads_and_nothing_else() {
    let server = TestServer::start();
    let payload = tar(&[("./v", "1")]);
    let deployed = server.deploy(&[("project", "demo")], &payload).json();
    let id = deployed["deployment_id"].as_str().unwrap();
    let sha = sha256(&payload);
    let fleet = token(&server, "fleet", &[]);
    let operations = [
        json!({"operation": "get_components"}),
        json!({"operation": "registration_info"}),
        json!({"operation": "system_information"}),
        json!({"operation": "list_deployments"}),
        json!({"operation": "get_deployment", "deployment_id": id}),
        json!({"operation": "get_deployment_payload", "deployment_id": id}),
        json!({"operation": "rollback_component", "project": "demo"}),
        json!({"operation": "run_component", "project": "demo", "command": "id"}),
        json!({"operation": "nothing"}),
    ];
    for operation in operations {
        let headers = [fleet.as_str(), "Content-Type: application/json"];
        let answer = server.ask_as_anyone("POST", "/", &headers, operation.to_string().as_bytes());
        assert_eq!(answer.status, 403, "{operation}: {}", answer.text());
    }
    let (media, body) = form(&[("project", "demo")], &payload);
    let deploy = server.ask_as_anyone("POST", "/", &[&fleet, &media], &body);
    assert_eq!(deploy.status, 403);
    for path in [
        format!("/deployments/{id}/events"),
        "/deployments/latest/events?project=demo".into(),
        "/deployments/next/events?project=demo".into(),
    ] {
        let answer = server.ask_as_anyone("GET", &path, &[&fleet], b"");
        assert_eq!(answer.status, 403, "{path}");
    }
    // And nobody else may do what it may, but for an admin.
    let table = [
        ("admin", &[][..], 200),
        ("deploy", &[], 403),
        ("read", &[], 403),
        ("fleet", &["--project", "demo"], 200),
        ("fleet", &["--project", "other", "--project", "one"], 404),
    ];
    for (role, more, status) in table {
        let shown = token(&server, role, more);
        assert_eq!(
            fetch(&server, &sha, &[&shown]).status,
            status,
            "{role} {more:?}"
        );
    }
    assert_eq!(fetch(&server, &sha, &[]).status, 401);
}

#[test]
fn a_payload_can_be_fetched_while_its_deployment_installs() {
    let server = TestServer::start();
    let dir = TempDir::new();
    let (begun, go) = (dir.0.join("begun"), dir.0.join("go"));
    let payload = tar(&[("./v", "1")]);
    let install = format!(
        "touch {}; until test -e {}; do sleep 0.02; done",
        begun.display(),
        go.display()
    );
    let fields = [("project", "demo"), ("install_command", &*install)];
    let (media, body) = form(&fields, &payload);
    let authorization = format!("Authorization: Bearer {}", server.token);
    let mut upload = server.connect();
    let asked = request("POST", "/", &[&authorization, &media], &body);
    upload.write_all(&asked).unwrap();
    await_some("the installation", || begun.exists().then_some(()));
    let fleet = token(&server, "fleet", &[]);
    let fetched = fetch(&server, &sha256(&payload), &[&fleet]);
    assert_eq!((fetched.status, &fetched.body), (200, &payload));
    std::fs::write(&go, "").unwrap();
    assert_eq!(Answer::read(upload).status, 200);
}

#[test]
fn two_payloads_are_sent_at_once_and_who_comes_third_asks_elsewhere() {
    let server = TestServer::start();
    // More than the sockets between them take, so that a sending that nobody reads goes on.
    let payload = tar(&[("./v", &"x".repeat(24 << 20))]);
    assert_eq!(server.deploy(&[("project", "demo")], &payload).status, 200);
    let (sha, fleet) = (sha256(&payload), token(&server, "fleet", &[]));
    let begin = || {
        let mut stream = server.connect();
        let asked = request("GET", &format!("/fleet/payload/{sha}"), &[&fleet], b"");
        stream.write_all(&asked).unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        stream
    };
    let (one, two) = (begin(), begin());
    let third = fetch(&server, &sha, &[&fleet]);
    assert_eq!(third.status, 503);
    assert!(third.header("Retry-After").is_some());
    assert_eq!(third.refusal().0, "full");
    drop(one);
    await_some("a place", || {
        (fetch(&server, &sha, &[&fleet, "Range: bytes=0-0"]).status == 206).then_some(())
    });
    drop(two);
}
