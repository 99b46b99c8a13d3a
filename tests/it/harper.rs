//! Our CLI against Harper servers: a small one that speaks as they do, and the real one where it is installed.

mod fake;
mod legacy;
mod lost;
mod real;

use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harper::fake::{FakeHarper, succeed, success};
use crate::test_server::{TempDir, gangplank};

/// A directory with one file, as large as it is said.
fn app(size: usize) -> TempDir {
    // Noise, so that it is as large when it is packed.
    let mut number = 0x2545_f491_4f6c_dd1d_u64;
    let mut noise = Vec::with_capacity(size);
    while noise.len() < size {
        number ^= number << 13;
        number ^= number >> 7;
        number ^= number << 17;
        noise.extend_from_slice(&number.to_le_bytes());
    }
    noise.truncate(size);
    let dir = TempDir::new();
    std::fs::create_dir(dir.0.join("hello")).unwrap();
    std::fs::write(dir.0.join("hello/config.yaml"), noise).unwrap();
    dir
}

/// Runs a command against a server, as the user whom it knows.
fn run(target: &str, arguments: &[&str]) -> Output {
    let login = ["--username", "admin", "--password", "secret"];
    let mut command = gangplank();
    command.args(arguments).args(["--target", target]);
    if !arguments.contains(&"--password") {
        command.args(login);
    }
    command.output().unwrap()
}

fn deploy(harper: &FakeHarper, arguments: &[&str]) -> Output {
    let app = app(300);
    let dir = app.0.join("hello");
    let all = [&["deploy", dir.to_str().unwrap()], arguments].concat();
    run(&harper.target, &all)
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn stdout(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

#[track_caller]
fn assert_exit(output: &Output, code: i32, part: &str) {
    let shown = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{shown}");
    assert!(shown.contains(part), "{part} in {shown}");
    assert_eq!(output.stdout.is_empty(), code != 0, "{shown}");
}

#[test]
fn a_deployment_asks_for_the_version_first_and_is_then_as_harper_wants_it() {
    let harper = FakeHarper::start("5.1.14", succeed);
    let output = deploy(&harper, &[]);
    assert_exit(&output, 0, "prepare done");
    assert_eq!(
        stdout(&output)["message"],
        "Successfully deployed: hello",
        "{output:?}"
    );
    assert_eq!(
        harper.operations(),
        ["registration_info", "deploy_component"]
    );
    let probe = &harper.seen()[0];
    assert_eq!(probe.body, b"{\"operation\":\"registration_info\"}");
    for header in ["content-type", "accept"] {
        assert_eq!(probe.header(header).as_deref(), Some("application/json"));
    }
    let deploy = harper.deploy();
    assert!(deploy.header("idempotency-key").is_none());
    assert_eq!(
        deploy.header("accept").as_deref(),
        Some("text/event-stream")
    );
    // Nothing is restarted unless that is asked for, and Harper takes no `auto`.
    assert_eq!(
        Value::Object(deploy.fields),
        json!({"operation": "deploy_component", "project": "hello"})
    );
    assert!(stderr(&output).contains("--restart does that"));
}

#[test]
fn a_restart_that_is_asked_for_is_sent_and_nothing_is_said_of_it() {
    for (flag, sent) in [
        ("--restart", "true"),
        ("--restart=rolling", "rolling"),
        ("--no-restart", "false"),
    ] {
        let harper = FakeHarper::start("5.1.14", succeed);
        let output = deploy(&harper, &[flag]);
        assert_exit(&output, 0, "");
        assert_eq!(harper.deploy().fields["restart"], sent);
        assert!(!stderr(&output).contains("old code"), "{output:?}");
    }
}

#[test]
fn whoever_is_not_let_in_has_sent_no_upload() {
    for (login, reason) in [
        (
            &["--username", "admin", "--password", "wrong"][..],
            "Login failed",
        ),
        (&["--token", "x", "--password", ""][..2], "Login failed"),
    ] {
        let harper = FakeHarper::start("5.1.14", succeed);
        let app = app(300);
        let dir = app.0.join("hello");
        let mut command = gangplank();
        command.args(["deploy", dir.to_str().unwrap(), "--target", &harper.target]);
        let output = command.args(login).output().unwrap();
        assert_exit(&output, 4, reason);
        assert_eq!(harper.operations(), ["registration_info"]);
        // The same for what is asked without it.
        let mut command = gangplank();
        command
            .args(["list", "--target", &harper.target])
            .args(login);
        let output = command.output().unwrap();
        assert_exit(&output, 4, reason);
        // It has no tokens of ours.
        assert!(!stderr(&output).contains("token list"), "{output:?}");
    }
    let harper = FakeHarper::start("5.1.14", succeed);
    let mut command = gangplank();
    let output = command.args(["list", "--target", &harper.target]).output();
    let output = output.unwrap();
    assert_exit(&output, 4, "Must login; say who asks by --username U");
    assert!(!stderr(&output).contains("token add"), "{output:?}");
}

#[test]
fn a_server_that_does_not_say_what_it_is_is_taken_for_harper() {
    for version in ["", "what", "7"] {
        let harper = FakeHarper::start(version, succeed);
        assert_exit(&deploy(&harper, &["--project", "123"]), 0, "");
        let deploy = harper.deploy();
        assert!(deploy.header("idempotency-key").is_none());
        assert_eq!(deploy.fields["project"], "\"123\"");
    }
}

#[test]
fn a_refusal_that_is_written_as_an_event_keeps_its_reason_and_its_exit_code() {
    let table = [
        (401, "Login failed", 4),
        (401, "Must login", 4),
        (
            403,
            "This operation is not authorized due to role restrictions and/or invalid database items",
            4,
        ),
        (400, "Request body must include an 'operation' property.", 1),
        (404, "no staged build with that id", 1),
        (406, "Not Acceptable", 1),
        (415, "Unsupported Media Type", 1),
        (500, "Either payload or package must be provided", 1),
    ];
    for (status, error, code) in table {
        let harper = FakeHarper::start("5.1.14", move |exchange| exchange.refuse(status, error));
        assert_exit(&deploy(&harper, &[]), code, &format!("error: {error}"));
        assert_eq!(harper.operations().len(), 2);
    }
}

#[test]
fn texts_that_harper_would_read_as_json_arrive_as_texts() {
    let harper = FakeHarper::start("5.1.14", succeed);
    let output = deploy(
        &harper,
        &[
            "--project=123",
            "--install-command=true",
            "--install-timeout=30s",
            "--allow-scripts",
            "urlPath=-x",
            "deployment_timeout=60",
            "force=true",
        ],
    );
    assert_exit(&output, 0, "");
    assert_eq!(
        Value::Object(harper.deploy().fields),
        json!({
            "operation": "deploy_component", "project": "\"123\"", "install_command": "\"true\"",
            "install_timeout": "30000", "install_allow_scripts": "true", "urlPath": "\"-x\"",
            "deployment_timeout": "60", "force": "true",
        })
    );
}

#[test]
fn what_harper_cannot_do_is_refused_before_anything_is_sent() {
    let harper = FakeHarper::start("5.1.14", succeed);
    let id = "2f1c1e9a-7d0a-4f55-9d8e-000000000001";
    let deployment = format!("deployment_id={id}");
    let table: &[&[&str]] = &[
        &["deploy", "--project", "x", &deployment],
        &["rollback", "hello"],
        &["cancel", id],
        &["logs", "hello"],
        &["logs", "hello", "--follow"],
        &["sync", "--from", "berlin"],
        &["payload", id],
        &["payload", id, "--delete"],
        &["restart", "hello"],
        &["stop", "hello"],
        &["start", "hello"],
        &["env", "list", "hello"],
        &["drop", "hello", "--purge"],
        &["watch", "hello", "--next"],
    ];
    for arguments in table {
        let output = run(&harper.target, arguments);
        assert_exit(&output, 1, "Harper 5.1 cannot do that");
    }
    assert_exit(
        &deploy(&harper, &["--no-activate"]),
        1,
        "Harper 5.1 cannot do that",
    );
    let asked = harper.operations();
    assert!(
        asked
            .iter()
            .all(|operation| operation == "registration_info"),
        "{asked:?}"
    );
    assert_eq!(asked.len(), table.len() + 1);
    // What it does not know is told by its name where it was not asked for it before.
    let old = FakeHarper::start("4.7.29", succeed);
    let output = run(&old.target, &["list"]);
    assert_exit(
        &output,
        1,
        "Harper 4.7 cannot do that: Operation 'list_deployments' not found",
    );
}

#[test]
fn what_has_no_effect_at_harper_is_warned_of() {
    let harper = FakeHarper::start("5.1.14", succeed);
    let sum = format!("payload_sha256={}", "0".repeat(64));
    let output = deploy(&harper, &[&sum, "--idempotency-key", "k"]);
    assert_exit(&output, 0, "warning: payload_sha256 has no effect");
    assert!(stderr(&output).contains("warning: --idempotency-key has no effect"));
    assert!(!harper.deploy().fields.contains_key("payload_sha256"));
}

#[test]
fn names_that_harper_would_change_are_refused_here() {
    for name in ["my.app", "a/b", "../x"] {
        let harper = FakeHarper::start("5.1.14", succeed);
        assert_exit(&deploy(&harper, &["--project", name]), 2, "project");
        assert!(harper.operations().is_empty());
    }
}

#[test]
fn one_command_each_for_what_harper_can_do() {
    let harper = FakeHarper::start("5.1.14", succeed);
    assert_exit(&deploy(&harper, &[]), 0, "");
    let output = run(&harper.target, &["list"]);
    assert_exit(&output, 0, "");
    let rows = stdout(&output);
    let id = rows["deployments"][0]["deployment_id"].as_str().unwrap();
    let output = run(&harper.target, &["show", id]);
    assert_exit(&output, 0, "");
    assert_eq!(stdout(&output)["status"], "success");
    let output = run(
        &harper.target,
        &["op", "get_deployment", &format!("deployment_id={id}")],
    );
    assert_eq!(stdout(&output)["status"], "success");
    assert_exit(&run(&harper.target, &["drop", "hello"]), 0, "");
    let output = run(&harper.target, &["status"]);
    assert_eq!(stdout(&output)["entries"][0]["name"], "hello");
    let output = run(&harper.target, &["status", "hello"]);
    assert_exit(&output, 0, "");
    assert_eq!(stdout(&output)["name"], "hello");
    let output = run(&harper.target, &["status", "other"]);
    assert_exit(&output, 1, "no component other is deployed");
    let output = run(&harper.target, &["op", "nonsense"]);
    assert_exit(&output, 1, "Operation 'nonsense' not found");
}

#[test]
fn a_refusal_among_the_events_ends_the_upload_that_runs() {
    // Harper refuses by an event, reads nothing more of the payload, and keeps the connection open.
    let harper = FakeHarper::start("5.1.14", |exchange| {
        exchange.open();
        let message = "'urlPath' missing required peer 'package'";
        exchange.event("error", &json!({"message": message, "code": 400}));
        exchange.await_gone();
    });
    let app = app(50 << 20);
    let dir = app.0.join("hello");
    let begun = Instant::now();
    let output = run(
        &harper.target,
        &[
            "deploy",
            dir.to_str().unwrap(),
            "--level",
            "0",
            "urlPath=/x",
        ],
    );
    assert_exit(
        &output,
        1,
        "error: 'urlPath' missing required peer 'package' (400)",
    );
    let shown = stderr(&output);
    assert!(begun.elapsed() < Duration::from_secs(20), "{shown}");
    assert!(
        !shown.contains("already") && !shown.contains("(100%)"),
        "{shown}"
    );
}

#[test]
fn a_deployment_is_told_without_what_says_nothing() {
    let harper = FakeHarper::start("5.1.14", |exchange| {
        exchange.open();
        let id = exchange.begin_row();
        assert!(exchange.store(&id));
        let mut events = success(&id, &exchange.seen.fields);
        events.insert(5, ("peer", json!({"node": "n2", "status": "success"})));
        events.insert(
            6,
            (
                "peer",
                json!({"status": "failed", "reason": "Error: gone", "node": "n3"}),
            ),
        );
        events.insert(
            7,
            ("payload_dropped", json!({"payload_size": 9, "max_size": 1})),
        );
        events.insert(
            8,
            ("warning", json!({"message": "Install fingerprints differ"})),
        );
        for (event, data) in events {
            exchange.event(event, &data);
        }
        exchange.end();
    });
    let output = deploy(&harper, &["--restart"]);
    assert_exit(&output, 0, "");
    let shown = stderr(&output);
    let told: Vec<&str> = shown
        .lines()
        .skip_while(|line| *line != "prepare...")
        .filter(|line| !line.contains(" done"))
        .collect();
    assert_eq!(
        told,
        [
            "prepare...",
            "install: using npm",
            "  | added 42 packages in 3s",
            "replicate...",
            "peer n2: success",
            "peer n3: failed: Error: gone",
            "warning: Install fingerprints differ",
            "restart...",
            "deployment 2f1c1e9a-7d0a-4f55-9d8e-000000000001",
        ],
        "{shown}"
    );
    assert!(
        shown.contains("restart done") && !shown.contains("success done"),
        "{shown}"
    );
}

#[test]
fn a_failure_has_its_output_once_and_warns_of_what_is_live() {
    let harper = FakeHarper::start("5.1.14", |exchange| {
        exchange.open();
        let id = exchange.begin_row();
        assert!(exchange.store(&id));
        let line = json!({"manager": "npm", "stream": "stdout", "line": "added 42 packages"});
        exchange.tell(
            &id,
            "phase",
            &json!({"phase": "prepare", "status": "start"}),
        );
        exchange.tell(&id, "install", &line);
        exchange.tell(&id, "phase", &json!({"phase": "prepare", "status": "done"}));
        exchange.tell(
            &id,
            "phase",
            &json!({"phase": "replicate", "status": "start"}),
        );
        let output = json!({"lines": [line], "truncated": false, "dropped_lines": 0});
        exchange.tell(
            &id,
            "error",
            &json!({"message": "Replication not implemented.", "code": 500, "phase": "replicate", "install_output": output, "deployment_id": id}),
        );
        exchange.event("_recorder_finished", &json!({"status": "failed"}));
        exchange.end();
    });
    let output = deploy(&harper, &["--replicated"]);
    assert_exit(&output, 1, "error: Replication not implemented. (500)");
    let shown = stderr(&output);
    assert_eq!(shown.matches("added 42 packages").count(), 1, "{shown}");
    assert!(shown.contains("deployment 2f1c1e9a"), "{shown}");
    assert!(
        shown.contains("warning: Harper puts the new files in place"),
        "{shown}"
    );
}

#[test]
fn a_harper_server_on_a_unix_socket_is_asked_what_it_is_and_needs_no_credentials() {
    let harper = FakeHarper::start("5.1.14", succeed);
    let dir = TempDir::new();
    let socket = dir.0.join("operations-server");
    harper.also_at(&socket);
    let app = app(300);
    let mut command = gangplank();
    command.args(["deploy", app.0.join("hello").to_str().unwrap(), "--target"]);
    let output = command
        .arg(format!("unix:{}", socket.display()))
        .output()
        .unwrap();
    assert_exit(&output, 0, "prepare done");
    assert_eq!(
        harper.operations(),
        ["registration_info", "deploy_component"]
    );
    assert!(harper.deploy().header("authorization").is_none());
}
