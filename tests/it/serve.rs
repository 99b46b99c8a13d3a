//! The server's start, its doors, and who may come in.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::test_server::{
    Answer, TempDir, TestServer, await_some, component, form, gangplank, request,
};

fn mode(host: &TestServer, path: &str) -> u32 {
    fs::symlink_metadata(host.path(path))
        .unwrap()
        .permissions()
        .mode()
        & 0o777
}

#[test]
fn a_start_makes_what_only_its_owner_may_read() {
    let host = TestServer::start();
    let table = [
        ("admin.token", 0o600),
        ("tokens.json", 0o600),
        ("run", 0o700),
        ("run/gangplank.sock", 0o600),
        ("deployments", 0o700),
    ];
    for (path, expected) in table {
        assert_eq!(mode(&host, path), expected, "{path}");
    }
    assert_eq!(host.token.len(), 64);
    // The log comes by a pipe of its own.
    let log = await_some("the log's first line", || {
        let log = host.log.lock().unwrap().clone();
        log.contains("admin.token").then_some(log)
    });
    assert!(!log.contains(&host.token), "{log}");
}

#[test]
fn a_start_that_cannot_work_says_why() {
    let host = TestServer::start();
    let file = TempDir::new().with(&[("root", "a file")]);
    let other = TempDir::new();
    let root = host.root.0.to_str().unwrap();
    let (file_root, free) = (file.0.join("root"), other.0.join("root"));
    let long = other.0.join("x".repeat(120));
    let table: [(&[&str], &str); 5] = [
        (
            &["--root", root, "--listen", "127.0.0.1:0"],
            "another server",
        ),
        (
            &["--root", free.to_str().unwrap(), "--listen", &host.address],
            "in use",
        ),
        (
            &["--root", long.to_str().unwrap(), "--listen", "127.0.0.1:0"],
            "107",
        ),
        (
            &[
                "--root",
                file_root.to_str().unwrap(),
                "--listen",
                "127.0.0.1:0",
            ],
            "opening the root",
        ),
        (
            &[
                "--root",
                free.to_str().unwrap(),
                "--listen",
                &format!("unix:{root}/run/gangplank.sock"),
            ],
            "in use",
        ),
    ];
    for (flags, why) in table {
        let output = gangplank().arg("serve").args(flags).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{flags:?}: {stderr}");
        assert!(stderr.contains(why), "{flags:?}: {stderr}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_reader_of_the_first_line_may_go_away() {
    use std::io::BufRead;
    let root = TempDir::new();
    let mut command = gangplank();
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--root"])
        .arg(&root.0);
    let mut server = command
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufReader::new(server.stdout.take().unwrap()).lines();
    let line = lines.next().unwrap().unwrap();
    drop(lines);
    let address = line.strip_prefix("listening on http://").unwrap();
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    std::io::Write::write_all(&mut stream, &request("GET", "/health", &[], b"")).unwrap();
    assert_eq!(Answer::read(stream).status, 200);
    server.kill().unwrap();
    server.wait().unwrap();
}

#[test]
fn only_valid_credentials_come_in_by_tcp() {
    let host = TestServer::start();
    let basic = |name: &str, token: &str| {
        format!(
            "Authorization: Basic {}",
            STANDARD.encode(format!("{name}:{token}"))
        )
    };
    let right = &host.token;
    let table = [
        (None, 401, "Must login"),
        (Some(format!("Authorization: Bearer {right}")), 200, ""),
        (Some(basic("admin", right)), 200, ""),
        (Some(basic("other", right)), 401, "Login failed"),
        (Some(basic("admin", "wrong")), 401, "Login failed"),
        (
            Some(format!("Authorization: Bearer {}", "0".repeat(64))),
            401,
            "Login failed",
        ),
        (
            Some("Authorization: Digest x".to_owned()),
            401,
            "Login failed",
        ),
    ];
    let body = json!({"operation": "registration_info"}).to_string();
    for (header, status, message) in table {
        let mut headers = vec![
            "Content-Type: application/json",
            "Accept: text/event-stream",
        ];
        headers.extend(header.as_deref());
        let answer = host.ask_as_anyone("POST", "/", &headers, body.as_bytes());
        assert_eq!(answer.status, status, "{header:?}");
        if status == 401 {
            assert_eq!(
                answer.refusal(),
                ("unauthorized".to_owned(), message.to_owned())
            );
            assert!(answer.header("WWW-Authenticate").is_some());
        } else {
            let version = answer.json()["version"].as_str().unwrap().to_owned();
            assert!(version.starts_with("5.1.14+gangplank."), "{version}");
        }
    }
    let log = host.log.lock().unwrap().clone();
    assert!(!log.contains(right), "a token is in the log: {log}");
}

#[test]
fn guessing_is_slowed_down_and_whoever_knows_still_passes() {
    let host = TestServer::start();
    let body = json!({"operation": "registration_info"}).to_string();
    let ask = |token: &str| {
        let authorization = format!("Authorization: Bearer {token}");
        let headers = ["Content-Type: application/json", &authorization];
        host.ask_as_anyone("POST", "/", &headers, body.as_bytes())
    };
    for _ in 0..10 {
        assert_eq!(ask("wrong").status, 401);
        // Nothing shown is nothing guessed.
        let headers = ["Content-Type: application/json"];
        let nobody = host.ask_as_anyone("POST", "/", &headers, body.as_bytes());
        assert_eq!(nobody.refusal().1, "Must login");
    }
    let answer = ask("wrong");
    assert_eq!(answer.status, 429);
    assert_eq!(answer.refusal().0, "too_many_attempts");
    assert_eq!(answer.header("Retry-After"), Some("60"));
    assert_eq!(ask(&host.token).status, 200);
    assert_eq!(ask("wrong").status, 429, "the right one forgives nothing");
    let mut cli = host.cli_command(&["list"]);
    let output = cli.env("GANGPLANK_TOKEN", "wrong").output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(4), "{stderr}");
    assert!(stderr.contains("too_many_attempts"), "{stderr}");
}

#[test]
fn the_unix_socket_needs_no_credentials() {
    let host = TestServer::start();
    let mut stream = UnixStream::connect(host.path("run/gangplank.sock")).unwrap();
    let body = json!({"operation": "get_components"}).to_string();
    let request = request(
        "POST",
        "/",
        &["Content-Type: application/json"],
        body.as_bytes(),
    );
    let mut answer = String::new();
    std::io::Write::write_all(&mut stream, &request).unwrap();
    std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("{\"components\":[]}"), "{answer}");
}

#[test]
fn what_is_no_operation_is_refused_as_json() {
    let host = TestServer::start();
    let json = "Content-Type: application/json";
    let table: [(&str, &str, &[&str], &str, u16, &str, &str); 12] = [
        ("GET", "/nowhere", &[], "", 404, "not_found", "/nowhere"),
        ("PUT", "/", &[], "", 405, "bad_method", "GET, HEAD, POST"),
        ("PUT", "/health", &[], "", 405, "bad_method", "GET"),
        (
            "DELETE",
            "/deployments/latest/events",
            &[],
            "",
            405,
            "bad_method",
            "GET",
        ),
        (
            "POST",
            "/",
            &["Content-Type: text/plain"],
            "x",
            415,
            "unsupported_media",
            "multipart",
        ),
        ("POST", "/", &[], "x", 415, "unsupported_media", "multipart"),
        (
            "POST",
            "/",
            &[json],
            "{",
            400,
            "bad_request",
            "not valid JSON",
        ),
        (
            "POST",
            "/",
            &[json],
            "[]",
            400,
            "bad_request",
            "Invalid JSON.",
        ),
        (
            "POST",
            "/",
            &[json],
            "{}",
            400,
            "bad_request",
            "Invalid JSON.",
        ),
        (
            "POST",
            "/",
            &[json],
            r#"{"a":1}"#,
            400,
            "bad_request",
            "'operation'",
        ),
        (
            "POST",
            "/",
            &[json],
            r#"{"operation":"fly"}"#,
            400,
            "bad_request",
            "Operation 'fly' not found",
        ),
        (
            "POST",
            "/",
            &["Content-Type: multipart/form-data"],
            "x",
            400,
            "bad_request",
            "oundary",
        ),
    ];
    for (method, path, headers, body, status, code, part) in table {
        let headers: Vec<&str> = headers
            .iter()
            .copied()
            .chain(["Accept: text/event-stream"])
            .collect();
        let answer = host.ask(method, path, &headers, body.as_bytes());
        let (word, message) = answer.refusal();
        assert_eq!(
            (answer.status, word.as_str()),
            (status, code),
            "{method} {path} {body}: {message}"
        );
        assert!(message.contains(part), "{method} {path} {body}: {message}");
        assert_eq!(answer.header("Allow").is_some(), status == 405);
    }
}

#[test]
fn health_is_for_everyone_and_the_system_for_those_who_may() {
    let host = TestServer::start();
    let answer: Answer = host.ask_as_anyone("GET", "/health", &[], b"");
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (200, "gangplank is running.")
    );
    let system = host
        .operate(&json!({"operation": "system_information"}))
        .json();
    assert_eq!(system["version"], env!("CARGO_PKG_VERSION"));
    assert!(system["disk_free"].as_u64().unwrap() > 0);
}

#[test]
fn a_json_body_has_a_limit_that_names_the_way_out() {
    let host = TestServer::with(&["--max-json-body", "1K"], &[]);
    let body =
        json!({"operation": "deploy_component", "project": "a", "payload": "A".repeat(2000)});
    let (code, message) = host.operate(&body).refusal();
    assert_eq!(code, "too_large");
    assert!(message.contains("multipart"), "{message}");
}

#[test]
fn tokens_have_roles_and_components_and_can_be_revoked() {
    let host = TestServer::start();
    assert_eq!(
        host.deploy(&[("project", "theirs")], &component()).status,
        200
    );
    let token = |arguments: &[&str]| {
        let output = gangplank()
            .arg("token")
            .args(arguments)
            .arg("--root")
            .arg(&host.root.0)
            .output()
            .unwrap();
        (
            output.status.code().unwrap(),
            String::from_utf8(output.stdout).unwrap(),
        )
    };
    let make = |arguments: &[&str]| {
        let (code, text) = token(arguments);
        assert_eq!((code, text.trim().len()), (0, 64), "{arguments:?}: {text}");
        text.trim().to_owned()
    };
    let ci = make(&["add", "ci", "--role", "deploy", "--project", "mine"]);
    let reader = make(&["add", "reader", "--role", "read"]);
    let deploy = |token: &str, project: &str| {
        let (media, body) = form(&[("project", project)], &component());
        let authorization = format!("Authorization: Bearer {token}");
        host.ask_as_anyone("POST", "/", &[&authorization, &media], &body)
    };
    let ask = |token: &str, operation: &serde_json::Value| {
        let authorization = format!("Authorization: Bearer {token}");
        let headers = [authorization.as_str(), "Content-Type: application/json"];
        host.ask_as_anyone("POST", "/", &headers, operation.to_string().as_bytes())
    };
    assert_eq!(deploy(&ci, "mine").status, 200);
    let table = [
        (&ci, "theirs", 404, "not_found", "'theirs'"),
        (&reader, "mine", 403, "forbidden", "'deploy'"),
    ];
    for (token, project, status, word, part) in table {
        let answer = deploy(token, project);
        let (code, message) = answer.refusal();
        assert_eq!((answer.status, code.as_str()), (status, word), "{message}");
        assert!(
            message.contains("deploy_component") && message.contains(part),
            "{message}"
        );
    }
    let list = json!({"operation": "list_deployments"});
    assert_eq!(ask(&reader, &list).json()["total"], 2);
    let own = ask(&ci, &list).json();
    assert_eq!(
        (&own["total"], &own["deployments"][0]["user"]),
        (&json!(1), &json!("ci"))
    );
    assert_eq!(
        ask(&ci, &json!({"operation": "get_components"})).json()["components"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let all = ask(&reader, &list).json();
    let theirs = all["deployments"][1]["deployment_id"].as_str().unwrap();
    let show = json!({"operation": "get_deployment", "deployment_id": theirs});
    assert_eq!(
        (ask(&reader, &show).status, ask(&ci, &show).status),
        (200, 404)
    );
    assert_eq!(
        ask(&ci, &json!({"operation": "registration_info"})).status,
        200
    );
    for theirs in [
        format!("/deployments/{theirs}/events"),
        "/deployments/latest/events?project=theirs".to_owned(),
    ] {
        let authorization = format!("Authorization: Bearer {ci}");
        assert_eq!(
            host.ask_as_anyone("GET", &theirs, &[&authorization], b"")
                .status,
            404,
            "{theirs}"
        );
    }

    let (_, listed) = token(&["list"]);
    assert!(
        listed.contains("\"ci\"") && listed.contains("\"mine\"") && !listed.contains(&ci),
        "{listed}"
    );
    assert_eq!(token(&["add", "ci"]).0, 2, "a name is given once");
    assert_eq!(token(&["revoke", "ci"]).0, 0);
    assert_eq!(token(&["revoke", "ci"]).0, 2);
    assert_eq!(
        ask(&ci, &list).status,
        401,
        "at once, in the running server"
    );
    let log = host.log.lock().unwrap().clone();
    assert!(!log.contains(&ci) && !log.contains(&reader), "{log}");
}
