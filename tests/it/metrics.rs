//! `GET /metrics`: the numbers are those of what has happened, parsers of both forms take them, and who may not have them does
//! not get them.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::recipes::recipe;
use crate::test_server::{
    Answer, TempDir, TestServer, await_some, component, form, gzip, have, names, request, tar,
};

const OPEN: &str = "Accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
const PLAIN: &str = "Accept: text/plain;version=0.0.4";

/// The samples of a text, by their names with the labels.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let split = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    };
    lines.map(split).collect()
}

fn now(host: &TestServer) -> BTreeMap<String, f64> {
    samples(&host.ask("GET", "/metrics", &[], b"").text())
}

/// Waits until each of the samples has its value.
fn await_samples(host: &TestServer, wanted: &[(&str, f64)]) {
    await_some(&format!("{wanted:?}"), || {
        let found = now(host);
        let is_so = |(name, value): &(&str, f64)| found.get(*name) == Some(value);
        wanted.iter().all(is_so).then_some(())
    });
}

/// Gives a program a text, which it has to take without a word.
fn takes(command: &mut Command, text: &str) {
    let mut program = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = program.stdin.take().unwrap();
    stdin.write_all(text.as_bytes()).unwrap();
    drop(stdin);
    let output = program.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}\n{text}");
}

#[test]
fn deployments_are_counted_as_they_end_and_both_forms_are_well_formed() {
    let host = TestServer::start();
    let before = now(&host);
    assert_eq!(
        before[r#"gangplank_deployments_total{kind="deploy",status="success"}"#],
        0.0
    );
    let payload = component();
    let deploy = |more: &[(&str, &str)]| {
        let fields = [&[("project", "only-here")], more].concat();
        host.deploy(&fields, &payload).status
    };
    assert_eq!(deploy(&[]), 200);
    assert_eq!(deploy(&[("install_command", "exit 3")]), 422);
    assert_eq!(deploy(&[("activate", "false")]), 200);
    let unknown = host.operate(&json!({"operation": "nothing"}));
    assert_eq!(unknown.status, 400);
    assert_eq!(host.ask("DELETE", "/health", &[], b"").status, 405);
    let mut stream = host.connect();
    stream.write_all(b"GET / HTTP/1.1\r\nbad\r\n\r\n").unwrap();
    assert_eq!(Answer::read(stream).status, 400);

    let open = host.ask("GET", "/metrics", &[OPEN], b"");
    let plain = host.ask("GET", "/metrics", &[PLAIN], b"");
    for (answer, media) in [
        (
            &open,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ),
        (&plain, "text/plain; version=0.0.4; charset=utf-8"),
    ] {
        assert_eq!(answer.header("Content-Type"), Some(media));
        // Names of components are nobody's who only counts.
        assert!(!answer.text().contains("only-here"));
        let found = samples(&answer.text());
        let size = payload.len() as f64;
        for (name, value) in [
            (
                r#"gangplank_deployments_total{kind="deploy",status="success"}"#,
                1.0,
            ),
            (
                r#"gangplank_deployments_total{kind="deploy",status="failed"}"#,
                1.0,
            ),
            (
                r#"gangplank_deployments_total{kind="deploy",status="staged"}"#,
                1.0,
            ),
            (
                r#"gangplank_deployments_total{kind="rollback",status="success"}"#,
                0.0,
            ),
            (
                r#"gangplank_deployment_failures_total{code="install_failed"}"#,
                1.0,
            ),
            ("gangplank_deployments_running", 0.0),
            ("gangplank_received_bytes_total", 3.0 * size),
            (
                r#"gangplank_phase_duration_seconds_count{phase="extract"}"#,
                3.0,
            ),
            (
                r#"gangplank_phase_duration_seconds_bucket{phase="install",le="+Inf"}"#,
                1.0,
            ),
            (
                r#"gangplank_phase_duration_seconds_count{phase="activate"}"#,
                1.0,
            ),
            (r#"gangplank_components{state="idle"}"#, 1.0),
            (r#"gangplank_http_refusals_total{code="bad_request"}"#, 1.0),
            (r#"gangplank_http_refusals_total{code="bad_method"}"#, 1.0),
            (r#"gangplank_http_refusals_total{code="bad_http"}"#, 1.0),
            // The failed deployment is among them.
            (r#"gangplank_http_answers_total{class="4xx"}"#, 4.0),
            (r#"gangplank_build_info{version="0.1.0"}"#, 1.0),
        ] {
            assert_eq!(found.get(name), Some(&value), "{name}\n{}", answer.text());
        }
        // What begins with a dot is a list of a tree that is just being written.
        let deployments = host.path("deployments");
        let journals: u64 = names(&deployments)
            .into_iter()
            .filter(|name| !name.starts_with('.'))
            .map(|id| deployments.join(id).join("events.ndjson"))
            .map(|journal| fs::metadata(journal).unwrap().len())
            .sum();
        assert_eq!(found["gangplank_journal_bytes_total"], journals as f64);
        assert!(found["gangplank_resident_memory_bytes"] > 1e6);
        assert!(found["gangplank_disk_free_bytes"] > 0.0);
    }
    if !have("promtool") {
        return;
    }
    takes(
        Command::new("promtool").args(["check", "metrics"]),
        &plain.text(),
    );
    // This one reads OpenMetrics alone, and wants to know when.
    let text = open.text();
    let dated: Vec<String> = text
        .lines()
        .map(|line| match line.starts_with('#') {
            true => format!("{line}\n"),
            false => format!("{line} 1700000000\n"),
        })
        .collect();
    let dir = TempDir::new();
    let blocks = dir.0.join("blocks");
    let file = dir.0.join("metrics");
    fs::write(&file, dated.concat()).unwrap();
    let mut create = Command::new("promtool");
    create.args(["tsdb", "create-blocks-from", "openmetrics"]);
    create.arg(&file).arg(&blocks);
    takes(&mut create, "");
    assert!(!crate::test_server::names(&blocks).is_empty());
}

#[test]
fn what_runs_and_waits_shows_while_it_does() {
    let host = TestServer::with(&["--max-deploys", "1"], &[]);
    let dir = TempDir::new();
    let go = dir.0.join("go");
    let install = format!("while [ ! -e {} ]; do sleep 0.02; done", go.display());
    let send = |project: &str, install: &str| {
        let fields = [("project", project), ("install_command", install)];
        let (media, body) = form(&fields, &component());
        let token = format!("Authorization: Bearer {}", host.token);
        let headers = [&*token, &*media, "Accept: text/event-stream"];
        let mut stream = host.connect();
        stream
            .write_all(&request("POST", "/", &headers, &body))
            .unwrap();
        stream
    };
    let first = send("first", &install);
    await_samples(
        &host,
        &[
            ("gangplank_deployments_running", 1.0),
            ("gangplank_watchers", 0.0),
        ],
    );
    let second = send("second", "true");
    await_samples(
        &host,
        &[
            ("gangplank_deployments_running", 2.0),
            ("gangplank_deployments_queued", 1.0),
        ],
    );
    let list = host
        .operate(&json!({"operation": "list_deployments"}))
        .json();
    let id = list["deployments"][0]["deployment_id"].as_str().unwrap();
    let mut watching = host.connect();
    let token = format!("Authorization: Bearer {}", host.token);
    let path = format!("/deployments/{id}/events");
    watching
        .write_all(&request("GET", &path, &[&token], b""))
        .unwrap();
    // Two that deploy, one that watches, and the one that asks.
    await_samples(
        &host,
        &[("gangplank_watchers", 1.0), ("gangplank_connections", 4.0)],
    );
    fs::write(&go, "").unwrap();
    for stream in [first, second, watching] {
        assert_eq!(Answer::read(stream).events().last().unwrap().event, "done");
    }
    await_samples(
        &host,
        &[
            ("gangplank_deployments_running", 0.0),
            ("gangplank_deployments_queued", 0.0),
            ("gangplank_watchers", 0.0),
            (
                r#"gangplank_phase_duration_seconds_count{phase="queue"}"#,
                1.0,
            ),
        ],
    );
}

#[test]
fn components_and_processes_are_counted_as_they_run() {
    let host = TestServer::start();
    let up = "web: sleep 1000\nworker: sleep 1000\n";
    let flag = host.path("run/flag");
    // It exits as long as the file is there, and is started again each time.
    let falls = format!(
        "web: while [ ! -e {} ]; do sleep 0.02; done\n",
        flag.display()
    );
    for (project, procfile) in [("up", up), ("falls", &falls), ("stopped", up), ("idle", "")] {
        let files = [("./Procfile", procfile), ("./index.txt", "x")];
        let files = if procfile.is_empty() {
            &files[1..]
        } else {
            &files[..]
        };
        let fields = [
            ("project", project),
            ("restart", "auto"),
            ("health_timeout", "100ms"),
        ];
        let answer = host.deploy(&fields[..2], &gzip(&tar(files)));
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let stop = json!({"operation": "stop_component", "project": "stopped"});
    assert_eq!(host.operate(&stop).status, 200);
    await_samples(
        &host,
        &[
            (r#"gangplank_components{state="up"}"#, 2.0),
            (r#"gangplank_components{state="down"}"#, 0.0),
            (r#"gangplank_components{state="stopped"}"#, 1.0),
            (r#"gangplank_components{state="idle"}"#, 1.0),
            (r#"gangplank_processes{state="up"}"#, 3.0),
            ("gangplank_process_restarts_total", 0.0),
        ],
    );
    fs::write(&flag, "").unwrap();
    await_samples(
        &host,
        &[
            (r#"gangplank_components{state="down"}"#, 1.0),
            (r#"gangplank_processes{state="up"}"#, 2.0),
            (r#"gangplank_processes{state="down"}"#, 1.0),
        ],
    );
    let restarts = || now(&host)["gangplank_process_restarts_total"];
    await_some("a restart", || (restarts() > 0.0).then_some(()));
}

#[test]
fn the_metrics_take_the_role_read_and_a_token_for_all_components() {
    let host = TestServer::start();
    let token = |words: &[&str]| {
        let words = [&["token", "add"], words, &["--root"]].concat();
        let root = host.root.0.to_str().unwrap();
        let output = host.cli(&[&words[..], &[root]].concat());
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    for (token, status) in [
        (token(&["reader", "--role", "read"]), 200),
        (token(&["deployer", "--role", "deploy"]), 200),
        (host.token.clone(), 200),
        (token(&["limited", "--role", "read", "--project", "a"]), 403),
        (token(&["own", "--role", "deploy", "--project", "a"]), 403),
        (token(&["host", "--role", "fleet"]), 403),
        ("0".repeat(64), 401),
    ] {
        let shown = format!("Authorization: Bearer {token}");
        let answer = host.ask_as_anyone("GET", "/metrics", &[&shown], b"");
        assert_eq!(answer.status, status, "{}", answer.text());
        assert_eq!(answer.text().contains("gangplank_build"), status == 200);
    }
    assert_eq!(host.ask_as_anyone("GET", "/metrics", &[], b"").status, 401);
    let posted = host.ask("POST", "/metrics", &[], b"");
    assert_eq!(
        (posted.status, posted.header("Allow")),
        (405, Some("GET, HEAD"))
    );
}

#[test]
fn the_recipe_for_prometheus_is_a_configuration() {
    if !have("promtool") {
        return;
    }
    let dir = TempDir::new().with(&[("gangplank.token", "secret")]);
    let text = recipe("prometheus").replace("/etc/prometheus/", &format!("{}/", dir.0.display()));
    let file = dir.0.join("prometheus.yml");
    fs::write(&file, text).unwrap();
    let output = Command::new("promtool")
        .args(["check", "config"])
        .arg(&file)
        .output();
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("SUCCESS"),
        "{said}"
    );
}
