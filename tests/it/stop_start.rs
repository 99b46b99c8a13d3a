//! Components that are stopped and started without a deployment.

use std::fs;
use std::sync::Arc;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::processes::{ask, down, lives, payload, processes, up};
use crate::test_server::{TestServer, await_some, gangplank};

const SLEEPS: &str = "web: sleep 1000\n";

/// The exit code of `status demo`, what it prints and what it says.
fn status(host: &TestServer, format: &str) -> (Option<i32>, String, String) {
    let output = host.cli(&["status", "demo", "--output", format]);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// Starts another server on the same root, after the first was killed.
fn again(host: TestServer) -> TestServer {
    let root = Arc::clone(&host.root);
    drop(host);
    TestServer::on(root, &[], &[])
}

fn pid(host: &TestServer) -> String {
    await_some("the process to run", || {
        let pid = processes(host).first()?["pid"].as_u64()?;
        Some(pid.to_string())
    })
}

#[test]
fn what_is_stopped_stays_so_until_it_is_started() {
    let mut host = TestServer::start();
    let release = up(&host, &[("./Procfile", SLEEPS)]);
    let before = pid(&host);
    let stopped = host.cli(&["stop", "demo"]);
    assert_eq!(stopped.status.code(), Some(0));
    let result: Value = serde_json::from_slice(&stopped.stdout).unwrap();
    assert_eq!(
        (&result["message"], &result["processes"]),
        (&json!("Successfully stopped: demo"), &json!(["web"]))
    );
    assert!(!lives(&before));
    for _ in 0..2 {
        assert!(processes(&host).is_empty());
        let (code, text, _) = status(&host, "text");
        assert!(code == Some(0) && text.contains("  stopped"), "{text}");
        host = again(host);
    }
    // Once more is no mistake.
    assert_eq!(ask(&host, "stop_component").status, 200);

    let started = host.cli(&["start", "demo"]);
    let result: Value = serde_json::from_slice(&started.stdout).unwrap();
    let running = &result["processes"][0];
    assert_eq!(running["release_id"], release);
    let now = pid(&host);
    assert_eq!(running["pid"].to_string(), now);
    assert!(lives(&now));
    // What runs already is left alone.
    assert_eq!(ask(&host, "start_component").status, 200);
    assert_eq!(pid(&host), now);
    let host = again(host);
    assert!(lives(&pid(&host)));
    let (code, text, _) = status(&host, "json");
    assert!(
        code == Some(0) && text.contains("\"stopped\": false"),
        "{text}"
    );
}

#[test]
fn a_deployment_with_a_restart_starts_what_was_stopped() {
    let host = TestServer::start();
    up(&host, &[("./Procfile", SLEEPS)]);
    assert_eq!(ask(&host, "stop_component").status, 200);
    // One without a restart does not, nor one that fails.
    let silent = host.deploy(&[("project", "demo")], &payload(&[("./Procfile", SLEEPS)]));
    assert_eq!(silent.status, 200);
    down(&host, &[("./Procfile", "web: exit 3\n")]);
    assert!(processes(&host).is_empty());
    let host = again(host);
    assert!(status(&host, "text").1.contains("  stopped"));

    let fields = [("project", "demo"), ("restart", "auto")];
    let answer = host.deploy_live(&fields, &payload(&[("./Procfile", SLEEPS)]));
    let events = answer.events();
    let warning = json!({"message": "demo was stopped; it is started again"});
    let warned = events
        .iter()
        .any(|one| one.event == "warning" && one.data == warning);
    assert!(
        warned && events.last().unwrap().event == "done",
        "{events:#?}"
    );
    assert!(lives(&pid(&host)));
    let host = again(host);
    assert!(lives(&pid(&host)));
}

#[test]
fn what_cannot_be_stopped_or_started_is_said() {
    let host = TestServer::start();
    for operation in ["stop_component", "start_component"] {
        assert_eq!(ask(&host, operation).refusal().0, "not_found");
    }
    let site = host.deploy(&[("project", "demo")], &payload(&[("./index.html", "")]));
    assert_eq!(site.status, 200);
    let mut token = gangplank();
    token.args(["token", "add", "looks", "--role", "read", "--root"]);
    let token = token.arg(&host.root.0).output().unwrap().stdout;
    let token = format!(
        "Authorization: Bearer {}",
        String::from_utf8(token).unwrap().trim()
    );
    for operation in ["stop_component", "start_component"] {
        let (code, why) = ask(&host, operation).refusal();
        assert!(
            code == "conflict" && why.contains("has no processes"),
            "{why}"
        );
        let body = json!({"operation": operation, "project": "demo"}).to_string();
        let headers = [&*token, "Content-Type: application/json"];
        let refused = host.ask_as_anyone("POST", "/", &headers, body.as_bytes());
        assert_eq!(refused.status, 403, "{}", refused.text());
    }
    assert_eq!(status(&host, "text").0, Some(0));
    // A port that somebody has: nothing runs, and it is stopped as before.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap();
    let manifest = format!(r#"{{"sockets": {{"web": "{at}"}}}}"#);
    let files = payload(&[("./Procfile", SLEEPS), ("./gangplank.json", &manifest)]);
    assert_eq!(host.deploy(&[("project", "demo")], &files).status, 200);
    assert_eq!(ask(&host, "stop_component").status, 200);
    let (_, why) = ask(&host, "start_component").refusal();
    assert!(why.contains(&at.to_string()), "{why}");
    assert!(status(&host, "text").1.contains("  stopped"));
    drop(taken);
    assert_eq!(ask(&host, "start_component").status, 200);
    assert!(lives(&pid(&host)));
}

#[test]
fn the_status_of_what_should_run_and_does_not_is_1() {
    let host = TestServer::start();
    let procfile = "web: [ -e $GANGPLANK_SHARED/sick ] && exit 7; exec sleep 1000\n";
    up(&host, &[("./Procfile", procfile)]);
    assert_eq!(status(&host, "text").0, Some(0));
    let first = pid(&host);
    fs::write(host.path("shared/demo/sick"), "").unwrap();
    let raw = Pid::from_raw(first.parse().unwrap()).unwrap();
    kill_process(raw, Signal::KILL).unwrap();
    let (text, said) = await_some("it to be down", || {
        let (code, text, said) = status(&host, "text");
        (code == Some(1) && said.contains("exit code 7")).then_some((text, said))
    });
    assert!(text.contains("web (not running, exit code 7"), "{text}");
    assert!(
        said.contains("demo: web (exit code 7) does not run"),
        "{said}"
    );
}
