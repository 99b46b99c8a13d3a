//! What is deployed runs, and what runs is said.

use std::fs;

use serde_json::{Value, json};

use crate::processes::{ask, down, lives, payload, processes, up};
use crate::test_server::{TempDir, TestServer, await_some};

/// The releases that the component's processes run from, by type.
fn runs(host: &TestServer) -> Vec<(String, String)> {
    let text = |one: &Value, key: &str| one[key].as_str().unwrap().to_owned();
    let all = processes(host);
    let all = all
        .iter()
        .map(|one| (text(one, "type"), text(one, "release_id")));
    all.collect()
}

/// Runs the client, which must go well, and gives its result and what it said.
fn client(host: &TestServer, arguments: &[&str]) -> (Value, String) {
    let output = host.cli(arguments);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {said}");
    (serde_json::from_slice(&output.stdout).unwrap(), said)
}

fn id(result: &Value) -> String {
    result["deployment_id"].as_str().unwrap().to_owned()
}

#[test]
fn the_client_restarts_what_the_release_has() {
    let host = TestServer::start();
    let dir = TempDir::new().with(&[("app/Procfile", "web: sleep 1000\n")]);
    let app = dir.0.join("app");
    let app = app.to_str().unwrap();
    let deploy = ["deploy", app, "--project", "demo"];
    let (result, _) = client(&host, &deploy);
    assert_eq!(result["message"], "Successfully deployed: demo, restarted");
    let first = id(&result);
    assert_eq!(runs(&host), [("web".to_owned(), first.clone())]);

    // Left as it is, it runs from the release before, and that is said.
    let (result, said) = client(&host, &[&deploy[..], &["--no-restart"]].concat());
    assert_eq!(result["message"], "Successfully deployed: demo");
    let warning =
        format!("warning: web of release {first} still runs, since nothing was restarted");
    assert!(said.lines().any(|line| line == warning), "{said}");
    assert_eq!(runs(&host), [("web".to_owned(), first.clone())]);

    // So does a request that says nothing of it.
    let silent = host.deploy(
        &[("project", "demo")],
        &payload(&[("./Procfile", "web: sleep 1000\nb: sleep 1000\n")]),
    );
    assert_eq!(silent.status, 200);
    assert_eq!(runs(&host), [("web".to_owned(), first.clone())]);
    let asked = [("project", "demo"), ("restart", "auto")];
    let both = payload(&[("./Procfile", "web: sleep 1000\nb: sleep 1000\n")]);
    let third = id(&host.deploy(&asked, &both).json());
    assert_eq!(host.record(&third)["restart_mode"], "auto");
    let running = runs(&host);
    assert_eq!((running.len(), &running[0].1), (2, &third));

    // A release without any ends what ran, and that is said.
    fs::remove_file(dir.0.join("app/Procfile")).unwrap();
    fs::write(dir.0.join("app/index.html"), "").unwrap();
    let before = processes(&host)[0]["pid"].to_string();
    let (result, said) = client(&host, &deploy);
    let warning = format!(
        "warning: b, web of release {third} are stopped: release {} has neither processes nor a hook",
        id(&result)
    );
    assert!(said.lines().any(|line| line == warning), "{said}");
    assert!(!lives(&before) && runs(&host).is_empty());
    // The next one has nothing to restart, which is nothing to warn of.
    let (result, said) = client(&host, &deploy);
    assert_eq!(result["message"], "Successfully deployed: demo");
    assert!(!said.contains("warning"), "{said}");

    let (_, said) = client(&host, &["rollback", "demo", "--to", &third]);
    assert!(said.contains("restart done"), "{said}");
    let running = runs(&host);
    assert_eq!((running.len(), &running[0].1), (2, &third));
}

#[test]
fn a_failed_restart_says_what_is_live_and_what_runs() {
    let host = TestServer::start();
    let message = |error: &Value| error["message"].as_str().unwrap().to_owned();
    let bad = [("./Procfile", "web: exit 3\n")];
    let error = message(&down(&host, &bad));
    let end = "; rolled back: nothing of demo is live; nothing of it runs";
    assert!(error.ends_with(end), "{error}");

    let first = up(&host, &[("./Procfile", "web: sleep 1000\n")]);
    let error = message(&down(&host, &bad));
    let pid = processes(&host)[0]["pid"].to_string();
    let end = format!("; rolled back: {first} is live again; web started (pid {pid})");
    assert!(error.ends_with(&end), "{error}");

    // What is restarted alone says so, too.
    fs::write(host.path("components/demo/Procfile"), "web: exit 4\n").unwrap();
    let answer = ask(&host, "restart_component");
    let pid = processes(&host)[0]["pid"].to_string();
    let (code, error) = answer.refusal();
    assert_eq!(code, "unhealthy");
    assert!(
        error.ends_with(&format!("; web started (pid {pid})")),
        "{error}"
    );
}

#[test]
fn health_by_url_is_refused_where_every_type_has_a_held_socket() {
    let host = TestServer::start();
    let manifest =
        r#"{"health": {"http": "http://127.0.0.1:9/"}, "sockets": {"web": "127.0.0.1:9988"}}"#;
    let deploy = |procfile: &str| {
        let files = payload(&[("./Procfile", procfile), ("./gangplank.json", manifest)]);
        host.deploy(&[("project", "demo")], &files)
    };
    let refused = deploy("web: sleep 1000\n");
    let (code, error) = refused.refusal();
    assert_eq!(
        (code.as_str(), refused.json()["phase"].clone()),
        ("load_failed", json!("load"))
    );
    assert!(
        ["health.http", "'notify'", "'command'"]
            .iter()
            .all(|part| error.contains(part)),
        "{error}"
    );
    // It judges the other type.
    assert_eq!(deploy("web: sleep 1000\nadmin: sleep 1000\n").status, 200);
}

#[test]
fn the_log_says_when_a_process_started_and_how_it_ended() {
    let host = TestServer::start();
    let procfile = "web: echo up; exec sleep 1000\njob: exec sleep 1000\n";
    let release = up(&host, &[("./Procfile", procfile)]);
    let pid = processes(&host)[1]["pid"].to_string();
    let raw = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
    rustix::process::kill_process(raw, rustix::process::Signal::KILL).unwrap();
    let logs = |flags: &[&str]| {
        let output = host.cli(&[&["logs", "demo"][..], flags].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{said}");
        String::from_utf8(output.stdout).unwrap()
    };
    let web = await_some("it to be started again", || {
        let text = logs(&["--type", "web"]);
        (text.matches(" web gangplank started (pid ").count() == 2).then_some(text)
    });
    let lines: Vec<&str> = web
        .lines()
        .map(|line| line.split_once(' ').unwrap().1)
        .collect();
    let of = format!(", release {release}");
    let ended = format!("web gangplank ended (signal 9) and is started again in 0.1 s{of}");
    assert_eq!(
        lines[..3],
        [
            &*format!("web gangplank started (pid {pid}){of}"),
            "web stdout up",
            &*ended
        ]
    );
    assert!(
        !web.contains(" job ") && logs(&[]).contains(" job gangplank started "),
        "{web}"
    );
    assert_eq!(
        logs(&["--since", "60m", "--type", "web", "--lines", "2"])
            .lines()
            .count(),
        2
    );

    // Only what was printed from that moment on.
    let asked = |since: u64| json!({"operation": "get_logs", "project": "demo", "type": "web", "since": since});
    assert_eq!(host.operate(&asked(u64::MAX / 2)).text(), "");
    assert_eq!(
        host.operate(&asked(1)).text().lines().next(),
        web.lines().next()
    );
    assert_eq!(ask(&host, "stop_component").status, 200);
    assert!(logs(&["--lines", "2"]).contains(&format!(" web gangplank stopped{of}\n")));
}
