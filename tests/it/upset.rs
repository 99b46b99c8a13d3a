//! What upsets a host: releases that somebody removed, trees without a bottom, limits without an end, servers that go.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::ports::nobodys;
use crate::test_server::{Answer, TestServer, await_some, form, gzip, have, names, request, tar};

const SLEEPS: &str = "web: sleep 1000\n";

fn deploy(host: &TestServer, restart: &str, files: &[(&str, &str)]) -> Answer {
    let fields = [("project", "demo"), ("restart", restart)];
    host.deploy(&fields, &gzip(&tar(files)))
}

/// Deploys, which must go well, and gives the deployment.
fn up(host: &TestServer, restart: &str, files: &[(&str, &str)]) -> String {
    let answer = deploy(host, restart, files);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["deployment_id"].as_str().unwrap().to_owned()
}

fn ask(host: &TestServer, operation: &str) -> Answer {
    host.operate(&json!({"operation": operation, "project": "demo"}))
}

fn live(host: &TestServer) -> String {
    let link = fs::read_link(host.path("components/demo")).unwrap();
    link.file_name().unwrap().to_str().unwrap().to_owned()
}

/// The types of the processes that run, and their ids.
fn running(host: &TestServer) -> Vec<(String, Value)> {
    let components = ask(host, "get_components").json();
    let processes = components["components"][0]["processes"].as_array().cloned();
    let of = |one: &Value| (one["type"].as_str().unwrap().to_owned(), one["pid"].clone());
    processes.unwrap_or_default().iter().map(of).collect()
}

#[test]
fn a_second_request_with_a_key_goes_back_no_further() {
    let host = TestServer::start();
    let ids: Vec<String> = (0..3)
        .map(|_| up(&host, "false", &[("./Procfile", SLEEPS)]))
        .collect();
    let asked = |operation: &str, key: &str| {
        let body = json!({"operation": operation, "project": "demo"}).to_string();
        let key = format!("Idempotency-Key: {key}");
        host.ask(
            "POST",
            "/",
            &["Content-Type: application/json", &key],
            body.as_bytes(),
        )
    };
    let first = asked("rollback_component", "back").json();
    assert_eq!(live(&host), ids[1], "{first}");
    assert_eq!(
        asked("rollback_component", "back").json()["deployment_id"],
        first["deployment_id"]
    );
    assert_eq!(live(&host), ids[1]);
    // While it runs, too.
    let answers = std::thread::scope(|scope| {
        let one = scope.spawn(|| asked("restart_component", "again"));
        await_some("the restart", || {
            let list = ask(&host, "list_deployments").json();
            (list["deployments"][0]["status"] == "restarting").then_some(())
        });
        [asked("restart_component", "again"), one.join().unwrap()]
    });
    let [second, first] = answers;
    assert_eq!(second.status, 200, "{}", second.text());
    assert_eq!(
        second.json()["deployment_id"],
        first.json()["deployment_id"]
    );
}

#[test]
fn requests_with_one_key_at_once_end_well() {
    let host = TestServer::start();
    let payload = gzip(&tar(&[("./x", "")]));
    for key in ["Idempotency-Key: one", "Idempotency-Key: two"] {
        let (media, body) = form(&[("project", "demo")], &payload);
        let deploy = || host.ask("POST", "/", &[&media, key], &body);
        std::thread::scope(|scope| {
            for _ in 0..12 {
                scope.spawn(deploy);
            }
        });
        // Some of them took the place of others, or found one busy; what counts in the end went well, once.
        let last = deploy();
        assert_eq!(last.status, 200, "{}", last.text());
        let list = ask(&host, "list_deployments").json();
        let of_key = list["deployments"].as_array().unwrap().iter();
        let well = of_key.filter(|one| one["status"] == "success").count();
        assert_eq!(well, if key.ends_with("one") { 1 } else { 2 });
    }
}

#[test]
fn a_restart_that_cannot_begin_changes_nothing() {
    let host = TestServer::start();
    up(&host, "false", &[("./Procfile", SLEEPS)]);
    let second = up(&host, "false", &[("./Procfile", SLEEPS)]);
    fs::write(host.path("env/demo"), "no variable\n").unwrap();
    let answer = host
        .operate(&json!({"operation": "rollback_component", "project": "demo", "restart": true}));
    assert_eq!(answer.refusal().0, "unhealthy", "{}", answer.text());
    assert_eq!(live(&host), second);
    fs::remove_file(host.path("env/demo")).unwrap();

    // Somebody removes what is live: what runs goes on.
    let third = up(&host, "true", &[("./Procfile", SLEEPS)]);
    let before = running(&host);
    fs::rename(
        host.path(&format!("releases/demo/{third}")),
        host.path("elsewhere"),
    )
    .unwrap();
    let answer = ask(&host, "restart_component");
    assert_eq!(answer.refusal().0, "unhealthy", "{}", answer.text());
    assert_eq!(running(&host), before);
}

#[test]
fn a_limit_without_an_end_is_one() {
    let host = TestServer::start();
    let manifest = r#"{"health_timeout": 18446744073709551615}"#;
    let files = [("./Procfile", SLEEPS), ("./gangplank.json", manifest)];
    let id = up(&host, "true", &files);
    assert_eq!(live(&host), id);
    assert_eq!(running(&host).len(), 1);
}

#[test]
fn a_held_socket_goes_to_a_type_of_another_name() {
    let host = TestServer::start();
    let address = nobodys();
    for kind in ["web", "http"] {
        let manifest = json!({"sockets": {kind: address.to_string()}}).to_string();
        let procfile = format!("{kind}: sleep 1000\n");
        up(
            &host,
            "true",
            &[("./Procfile", &procfile), ("./gangplank.json", &manifest)],
        );
        assert_eq!(running(&host)[0].0, kind);
    }
}

#[test]
fn a_tree_without_a_bottom_is_removed() {
    if !have("python3") {
        return;
    }
    let host = TestServer::start();
    let digs = "import os\nfor n in range(20000):\n    os.mkdir('a'); os.chdir('a')\n";
    let fields = [
        ("project", "demo"),
        ("install_command", "python3 digs.py; exit 3"),
    ];
    let answer = host.deploy(&fields, &gzip(&tar(&[("./digs.py", digs)])));
    assert_eq!(answer.refusal().0, "install_failed", "{}", answer.text());
    assert_eq!(names(&host.path("releases")), Vec::<String>::new());
}

#[test]
fn who_follows_output_is_not_left_behind_and_keeps_no_server() {
    let mut host = TestServer::start();
    up(&host, "true", &[("./Procfile", SLEEPS)]);
    let body = json!({"operation": "get_logs", "project": "demo", "follow": true}).to_string();
    let authorization = format!("Authorization: Bearer {}", host.token);
    let headers = [
        authorization.as_str(),
        "Content-Type: application/json",
        "Accept: text/event-stream",
    ];
    let mut stream = host.connect();
    stream
        .write_all(&request("POST", "/", &headers, body.as_bytes()))
        .unwrap();
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    assert!(lines.any(|line| line == ": stream open"));
    // A component that comes again is the same one to who follows it.
    assert_eq!(ask(&host, "drop_component").status, 200);
    up(
        &host,
        "true",
        &[("./Procfile", "web: echo hello; sleep 1000\n")],
    );
    let begun = Instant::now();
    assert!(lines.any(|line| line.contains("hello")));
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    let begun = Instant::now();
    host.signal(Signal::TERM);
    assert!(host.server.wait().unwrap().success());
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn nobody_is_told_of_a_socket_that_is_gone() {
    let host = TestServer::start();
    let procfile = "web: echo \"told ${NOTIFY_SOCKET:-nothing}\"; sleep 1000\n";
    up(&host, "true", &[("./Procfile", procfile)]);
    let pid = running(&host)[0].1.as_i64().unwrap();
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    await_some("the process again", || {
        let text = ask(&host, "get_logs").text();
        text.contains("told nothing").then_some(())
    });
    assert_eq!(ask(&host, "get_logs").text().matches("told @").count(), 1);
}

#[test]
fn what_ran_before_does_not_replace_what_is_deployed_meanwhile() {
    let mut host = TestServer::start();
    let healthy = r#"{"health": {"command": "true"}}"#;
    let files = [("./Procfile", SLEEPS), ("./gangplank.json", healthy)];
    let others = ["a", "b", "c", "d"];
    let deploy = |host: &TestServer, project: &str| {
        let fields = [("project", project), ("restart", "true")];
        let answer = host.deploy(&fields, &gzip(&tar(&files)));
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    for project in others.iter().chain(&["slow", "slower"]) {
        deploy(&host, project);
    }
    // What takes a while to read is started late, and all that comes after it.
    let package = format!(
        "{{\"scripts\": {{\"start\": \"sleep 1000\"}}, \"a\": [{}0]}}",
        "{\"b\":1},".repeat(1_500_000)
    );
    for project in ["slow", "slower"] {
        fs::remove_file(host.path(&format!("components/{project}/Procfile"))).unwrap();
        fs::write(
            host.path(&format!("components/{project}/package.json")),
            &package,
        )
        .unwrap();
    }
    host.signal(Signal::KILL);
    host.server.wait().unwrap();
    let host = TestServer::on(host.root.clone(), &[], &[]);
    for project in others {
        deploy(&host, project);
    }
    let all = || {
        let components = host.operate(&json!({"operation": "get_components"})).json();
        components["components"].as_array().unwrap().clone()
    };
    await_some("all that ran", || {
        let runs = |one: &Value| one["processes"][0]["pid"].is_u64();
        all().iter().all(runs).then_some(())
    });
    for one in all() {
        assert_eq!(
            one["processes"][0]["release_id"], one["release_id"],
            "{one}"
        );
    }
}
