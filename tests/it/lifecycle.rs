//! How a server ends, and what the next one makes of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::test_server::{TestServer, await_some, component, form, names, request};

/// Whether a process runs that has this in its command line.
fn runs(marker: &str) -> bool {
    names(std::path::Path::new("/proc")).iter().any(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        pid.parse::<u32>()
            .is_ok_and(|pid| pid != std::process::id())
            && String::from_utf8_lossy(&line).contains(marker)
    })
}

/// Sends a deployment whose installation lasts until it is killed, and waits until it runs.
fn hang(host: &TestServer, marker: &str) -> (std::net::TcpStream, String) {
    use std::io::Write;
    let command = format!("trap '' TERM; sleep 987 & : {marker}; wait; sleep 987");
    let (media, body) = form(
        &[("project", "demo"), ("install_command", &command)],
        &component(),
    );
    let authorization = format!("Authorization: Bearer {}", host.token);
    let mut stream = host.connect();
    stream
        .write_all(&request("POST", "/", &[&authorization, &media], &body))
        .unwrap();
    let id = await_some("the installation", || {
        let list = host
            .operate(&json!({"operation": "list_deployments", "status": "installing"}))
            .json();
        list["deployments"][0]["deployment_id"]
            .as_str()
            .map(str::to_owned)
            .filter(|_| runs(marker))
    });
    (stream, id)
}

fn interrupted(record: &Value) {
    assert_eq!(
        (&record["status"], &record["error"]["code"]),
        (&json!("failed"), &json!("interrupted")),
        "{record}"
    );
}

#[test]
fn an_idle_server_ends_at_once() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut host = TestServer::start();
        let begun = Instant::now();
        host.signal(signal);
        assert_eq!(host.server.wait().unwrap().code(), Some(0));
        assert!(begun.elapsed() < Duration::from_secs(5));
        assert!(!host.path("run/gangplank.sock").exists());
    }
}

#[test]
fn a_stop_interrupts_what_runs_and_leaves_no_process() {
    let mut host = TestServer::with(&["--grace", "8"], &[]);
    assert_eq!(
        host.deploy(&[("project", "demo")], &component()).status,
        200
    );
    let marker = format!("stopped-{}", std::process::id());
    let (stream, id) = hang(&host, &marker);
    let begun = Instant::now();
    host.signal(Signal::TERM);
    let answer = crate::test_server::Answer::read(stream);
    assert_eq!(
        (answer.status, answer.refusal().0.as_str()),
        (503, "interrupted")
    );
    assert_eq!(host.server.wait().unwrap().code(), Some(0));
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "{:?}",
        begun.elapsed()
    );
    assert!(!runs(&marker));
    let host = TestServer::on(Arc::clone(&host.root), &[], &[]);
    interrupted(&host.record(&id));
    assert_eq!(names(&host.path("releases/demo")).len(), 1);
}

#[test]
fn a_killed_server_is_cleaned_up_after() {
    let mut host = TestServer::start();
    let first = host.deploy(&[("project", "demo")], &component()).json();
    let marker = format!("killed-{}", std::process::id());
    let (_stream, id) = hang(&host, &marker);
    host.server.kill().unwrap();
    host.server.wait().unwrap();
    assert!(runs(&marker), "the installation outlives its server");
    let host = TestServer::on(Arc::clone(&host.root), &[], &[]);
    assert!(!runs(&marker), "the start ends what was left running");
    interrupted(&host.record(&id));
    let events = host
        .ask("GET", &format!("/deployments/{id}/events"), &[], b"")
        .events();
    assert_eq!(events.last().unwrap().data["code"], "interrupted");
    assert!(
        events
            .iter()
            .zip(1..)
            .all(|(record, id)| record.id == Some(id))
    );
    let kept = first["deployment_id"].as_str().unwrap();
    assert_eq!(names(&host.path("releases/demo")), [kept]);
    assert_eq!(host.record(kept)["status"], "success");
    assert_eq!(
        host.deploy(&[("project", "demo")], &component()).status,
        200
    );
}
