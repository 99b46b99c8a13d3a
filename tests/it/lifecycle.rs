//! How a server ends, and what the next one makes of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harbor::{Harbor, await_some, component, form, names, request};

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
fn hang(harbor: &Harbor, marker: &str) -> (std::net::TcpStream, String) {
    use std::io::Write;
    let command = format!("trap '' TERM; sleep 987 & : {marker}; wait; sleep 987");
    let (media, body) = form(
        &[("project", "demo"), ("install_command", &command)],
        &component(),
    );
    let authorization = format!("Authorization: Bearer {}", harbor.token);
    let mut stream = harbor.connect();
    stream
        .write_all(&request("POST", "/", &[&authorization, &media], &body))
        .unwrap();
    let id = await_some("the installation", || {
        let list = harbor
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
        let mut harbor = Harbor::start();
        let begun = Instant::now();
        harbor.signal(signal);
        assert_eq!(harbor.server.wait().unwrap().code(), Some(0));
        assert!(begun.elapsed() < Duration::from_secs(5));
        assert!(!harbor.path("run/gangplank.sock").exists());
    }
}

#[test]
fn a_stop_interrupts_what_runs_and_leaves_no_process() {
    let mut harbor = Harbor::with(&["--grace", "8"], &[]);
    assert_eq!(
        harbor.deploy(&[("project", "demo")], &component()).status,
        200
    );
    let marker = format!("stopped-{}", std::process::id());
    let (stream, id) = hang(&harbor, &marker);
    let begun = Instant::now();
    harbor.signal(Signal::TERM);
    let answer = crate::harbor::Answer::read(stream);
    assert_eq!(
        (answer.status, answer.refusal().0.as_str()),
        (503, "interrupted")
    );
    assert_eq!(harbor.server.wait().unwrap().code(), Some(0));
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "{:?}",
        begun.elapsed()
    );
    assert!(!runs(&marker));
    let harbor = Harbor::on(Arc::clone(&harbor.root), &[], &[]);
    interrupted(&harbor.record(&id));
    assert_eq!(names(&harbor.path("releases/demo")).len(), 1);
}

#[test]
fn a_killed_server_is_cleaned_up_after() {
    let mut harbor = Harbor::start();
    let first = harbor.deploy(&[("project", "demo")], &component()).json();
    let marker = format!("killed-{}", std::process::id());
    let (_stream, id) = hang(&harbor, &marker);
    harbor.server.kill().unwrap();
    harbor.server.wait().unwrap();
    assert!(runs(&marker), "the installation outlives its server");
    let harbor = Harbor::on(Arc::clone(&harbor.root), &[], &[]);
    assert!(!runs(&marker), "the start ends what was left running");
    interrupted(&harbor.record(&id));
    let events = harbor
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
    assert_eq!(names(&harbor.path("releases/demo")), [kept]);
    assert_eq!(harbor.record(kept)["status"], "success");
    assert_eq!(
        harbor.deploy(&[("project", "demo")], &component()).status,
        200
    );
}
