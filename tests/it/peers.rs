//! One deploy, every peer, one stream: servers that deploy to each other.

mod broken;
mod release;
mod restart;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::ports::nobodys;
use crate::test_server::{Record, TempDir, TestServer, await_some, gzip, names, tar};

/// An origin whose peers are called `two`, `three`, and so on.
struct Cluster {
    origin: TestServer,
    peers: Vec<TestServer>,
    _tokens: TempDir,
}

/// The flags that make servers peers by their addresses and tokens.
fn flags(dir: &Path, peers: &[(&str, &str, &str)]) -> Vec<String> {
    let mut flags = Vec::new();
    for (name, address, token) in peers {
        let file = dir.join(name);
        fs::write(&file, token).unwrap();
        flags.extend(["--peer".to_owned(), format!("{name}=http://{address}")]);
        flags.extend([
            "--peer-token-file".to_owned(),
            format!("{name}={}", file.display()),
        ]);
    }
    flags
}

const NAMES: [&str; 8] = [
    "two", "three", "four", "five", "six", "seven", "eight", "nine",
];

fn cluster(count: usize, more: &[&str]) -> Cluster {
    let peers: Vec<TestServer> = (0..count).map(|_| TestServer::start()).collect();
    let tokens = TempDir::new();
    let known: Vec<(&str, &str, &str)> = peers
        .iter()
        .zip(NAMES)
        .map(|(peer, name)| (name, &*peer.address, &*peer.token))
        .collect();
    let flags = flags(&tokens.0, &known);
    let all: Vec<&str> = flags
        .iter()
        .map(String::as_str)
        .chain(more.iter().copied())
        .collect();
    Cluster {
        origin: TestServer::with(&all, &[]),
        peers,
        _tokens: tokens,
    }
}

fn payload(files: &[(&str, &str)]) -> Vec<u8> {
    gzip(&tar(files))
}

fn deploy(host: &TestServer, more: &[(&str, &str)], payload: &[u8]) -> Vec<Record> {
    let mut fields = vec![("project", "demo"), ("replicated", "true")];
    fields.extend(more);
    host.deploy_live(&fields, payload).events()
}

fn live(host: &TestServer) -> Option<String> {
    fs::read_to_string(host.path("components/demo/v")).ok()
}

/// What of the peers' results is to be seen: name, status, and a part of the error.
fn results(value: &Value) -> Vec<(String, String, String)> {
    let text = |one: &Value, name: &str| one[name].as_str().unwrap_or_default().to_owned();
    value["peer_results"]
        .as_array()
        .unwrap_or(&Vec::new())
        .iter()
        .map(|one| (text(one, "node"), text(one, "status"), text(one, "error")))
        .collect()
}

/// The end of a deployment that must not go well, which its record tells too.
fn fails(cluster: &Cluster, events: &[Record]) -> Value {
    let last = events.last().unwrap();
    assert_eq!(last.event, "error", "{events:#?}");
    let record = cluster
        .origin
        .record(last.data["deployment_id"].as_str().unwrap());
    assert_eq!(results(&record), results(&last.data));
    last.data.clone()
}

/// What runs of the component.
fn processes(host: &TestServer) -> Value {
    let components = host.operate(&json!({"operation": "get_components"})).json();
    components["components"][0]["processes"].clone()
}

#[test]
fn one_deploy_reaches_every_peer() {
    let cluster = cluster(2, &[]);
    let events = deploy(
        &cluster.origin,
        &[
            ("install_command", "echo building"),
            ("message", "for all"),
            ("source", r#"{"commit":"a1b2c3d"}"#),
        ],
        &payload(&[("./v", "1")]),
    );
    let last = events.last().unwrap();
    assert_eq!(last.event, "done", "{events:#?}");
    assert_eq!(
        events[0].data["phases"],
        json!(["extract", "install", "load", "replicate", "activate"])
    );
    let id = last.data["result"]["deployment_id"].as_str().unwrap();
    for (name, status, error) in results(&last.data["result"]) {
        assert!(NAMES[..2].contains(&&*name) && status == "success" && error.is_empty());
    }
    let record = cluster.origin.record(id);
    assert_eq!(results(&record).len(), 2, "{record}");
    let takes_lz4 = |server: &TestServer| {
        let answer = server.operate(&json!({"operation": "registration_info"}));
        let accepts = answer.json()["accepts"].clone();
        accepts.as_array().unwrap().contains(&json!("lz4"))
    };
    // A peer may be older, and not be able to read what it is given.
    assert!(!takes_lz4(&cluster.origin));
    for (peer, name) in cluster.peers.iter().zip(NAMES) {
        assert!(takes_lz4(peer));
        assert_eq!(live(peer).as_deref(), Some("1"));
        let lines = events
            .iter()
            .filter(|event| event.event == "peer" && event.data["peer"] == name);
        let lines: Vec<&Record> = lines.collect();
        assert!(lines.iter().any(|one| one.data["event"] == "install" && one.data["data"]["line"] == "building"));
        let staged = lines
            .iter()
            .find(|one| one.data["event"] == "done")
            .unwrap();
        assert_eq!(staged.data["data"]["result"]["staged"], true);
        // Its own records: one staged, one that made it live, by the same payload.
        let list = peer
            .operate(&json!({"operation": "list_deployments"}))
            .json();
        let statuses: Vec<&Value> = list["deployments"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| &one["status"])
            .collect();
        assert_eq!(statuses, ["success", "staged"]);
        for one in list["deployments"].as_array().unwrap() {
            assert_eq!(one["message"], "for all", "{one}");
            assert_eq!(one["source"], json!({"commit": "a1b2c3d"}), "{one}");
        }
        assert_eq!(
            list["deployments"][1]["payload_hash"],
            record["payload_hash"]
        );
    }
    assert_eq!(live(&cluster.origin).as_deref(), Some("1"));

    // What a client prints.
    let dir = TempDir::new().with(&[("v", "2")]);
    let output = cluster.origin.cli(&[
        "deploy",
        "--project",
        "demo",
        "--replicated",
        "--progress",
        "plain",
        dir.0.to_str().unwrap(),
    ]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(
        stderr.contains("[two] ") && stderr.contains("[three] "),
        "{stderr}"
    );
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .contains("peer_results")
    );
    for server in cluster.peers.iter().chain([&cluster.origin]) {
        assert_eq!(live(server).as_deref(), Some("2"));
    }
}

#[test]
fn what_one_cannot_build_is_live_nowhere() {
    let mut cluster = cluster(2, &[]);
    deploy(&cluster.origin, &[], &payload(&[("./v", "1")]));
    // The second peer cannot: its root says so.
    let root = cluster.peers[1].root.0.display().to_string();
    let command = format!("case $PWD in {root}*) exit 9;; esac");
    let error = fails(
        &cluster,
        &deploy(
            &cluster.origin,
            &[("install_command", &command)],
            &payload(&[("./v", "2")]),
        ),
    );
    assert_eq!(
        (&error["code"], &error["phase"]),
        (&json!("replicate_failed"), &json!("replicate"))
    );
    assert_eq!(error["failed_peers"], json!(["three"]));
    assert!(
        error["message"].as_str().unwrap().contains("exit code 9"),
        "{error}"
    );
    for server in cluster.peers.iter().chain([&cluster.origin]) {
        assert_eq!(live(server).as_deref(), Some("1"));
    }
    // Left behind, if that is what is wanted.
    let ignoring = [
        ("install_command", command.as_str()),
        ("ignore_replication_errors", "true"),
    ];
    let events = deploy(&cluster.origin, &ignoring, &payload(&[("./v", "3")]));
    let result = &events.last().unwrap().data["result"];
    let of_three = results(result)
        .into_iter()
        .find(|(name, ..)| name == "three")
        .unwrap();
    assert!(
        of_three.1 == "failed" && of_three.2.contains("exit code 9"),
        "{result}"
    );
    assert_eq!(
        [&cluster.origin, &cluster.peers[0], &cluster.peers[1]].map(live),
        [Some("3".into()), Some("3".into()), Some("1".into())]
    );

    // One that is not there is a failure, and so are all of them, even if failures are ignored.
    let port = nobodys();
    cluster.peers[0].server.kill().unwrap();
    cluster.peers[0].server.wait().unwrap();
    let error = fails(
        &cluster,
        &deploy(&cluster.origin, &[], &payload(&[("./v", "4")])),
    );
    assert_eq!(error["failed_peers"], json!(["two"]), "{port}");
    cluster.peers[1].server.kill().unwrap();
    cluster.peers[1].server.wait().unwrap();
    let error = fails(
        &cluster,
        &deploy(
            &cluster.origin,
            &[("ignore_replication_errors", "true")],
            &payload(&[("./v", "4")]),
        ),
    );
    assert_eq!(error["failed_peers"], json!(["two", "three"]));
    assert_eq!(live(&cluster.origin).as_deref(), Some("3"));
}

#[test]
fn two_that_are_each_others_peers_do_not_wait_for_each_other() {
    let roots = [Arc::new(TempDir::new()), Arc::new(TempDir::new())];
    let tokens = TempDir::new();
    // Once on any port, to have tokens; then on known ones, as each other's peers.
    let known = roots
        .each_ref()
        .map(|root| TestServer::on(Arc::clone(root), &[], &[]).token.clone());
    let ports = [0, 1].map(|_| nobodys().to_string());
    let servers = [0, 1].map(|n| {
        let other = 1 - n;
        let dir = tokens.0.join(n.to_string());
        fs::create_dir_all(&dir).unwrap();
        let mut flags = flags(&dir, &[("other", &ports[other], &known[other])]);
        flags.extend(["--max-deploys", "1", "--listen", &ports[n]].map(str::to_owned));
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        TestServer::on(Arc::clone(&roots[n]), &flags, &[])
    });
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let deploys = [("a", &servers[0]), ("b", &servers[1])].map(|(project, server)| {
            scope.spawn(move || {
                let fields = [
                    ("project", project),
                    ("replicated", "true"),
                    ("install_command", "sleep 0.3"),
                ];
                server
                    .deploy_live(&fields, &payload(&[("./v", "1")]))
                    .events()
            })
        });
        for deploy in deploys {
            let events = deploy.join().unwrap();
            assert_eq!(events.last().unwrap().event, "done", "{events:#?}");
        }
    });
    assert!(begun.elapsed() < Duration::from_secs(30));
    for server in &servers {
        assert_eq!(names(&server.path("components")), ["a", "b"]);
    }
}

#[test]
fn a_host_that_was_off_catches_up() {
    let source = TestServer::start();
    let deployed = |project: &str, v: &str| {
        let fields = [
            ("project", project),
            ("install_command", "echo installed > how"),
        ];
        assert_eq!(source.deploy(&fields, &payload(&[("./v", v)])).status, 200);
    };
    deployed("demo", "1");
    deployed("other", "2");
    let tokens = TempDir::new();
    let known = flags(&tokens.0, &[("source", &source.address, &source.token)]);
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    let root = Arc::new(TempDir::new());
    let host = TestServer::on(Arc::clone(&root), &known, &[]);
    let sync = |fields: Value| host.operate(&fields);
    let answer = sync(json!({"operation": "sync", "from": "source", "project": "demo"}));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let deployments = answer.json()["deployments"].clone();
    assert_eq!(
        (&deployments[0]["project"], &deployments[0]["status"]),
        (&json!("demo"), &json!("success"))
    );
    assert_eq!(names(&host.path("components")), ["demo"]);
    // All, and then nothing more.
    let output = host.cli(&[
        "sync",
        "--from",
        "source",
        "--output",
        "json",
        "--progress",
        "plain",
    ]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["deployments"].as_array().unwrap().len(), 1, "{said}");
    assert_eq!(
        fs::read_to_string(host.path("components/other/how")).unwrap(),
        "installed\n"
    );
    let answer = sync(json!({"operation": "sync", "from": "source"}));
    assert_eq!(answer.json()["deployments"], json!([]), "{}", answer.text());
    assert_eq!(
        sync(json!({"operation": "sync", "from": "nobody"})).status,
        404
    );

    // At the start; and what cannot be had is said.
    drop(host);
    deployed("demo", "3");
    let at_start: Vec<&str> = known
        .iter()
        .copied()
        .chain(["--sync-from", "source"])
        .collect();
    let host = TestServer::on(root, &at_start, &[]);
    await_some("the new version", || {
        (live(&host).as_deref() == Some("3")).then_some(())
    });
    deployed("demo", "4");
    let list = source
        .operate(&json!({"operation": "list_deployments", "project": "demo"}))
        .json();
    let id = list["deployments"][0]["deployment_id"].as_str().unwrap();
    await_some("the list of its tree", || {
        source.record(id)["tree"].as_str().map(drop)
    });
    for file in ["payload", "manifest"] {
        fs::remove_file(source.path(&format!("deployments/{id}/{file}"))).unwrap();
    }
    let answer = host.operate(&json!({"operation": "sync", "from": "source"}));
    assert_eq!(
        (answer.status, answer.refusal().0.as_str()),
        (502, "replicate_failed"),
        "{}",
        answer.text()
    );
    assert!(
        answer.text().contains("no longer stored"),
        "{}",
        answer.text()
    );
    assert_eq!(live(&host).as_deref(), Some("3"));
}

#[test]
fn a_replicated_deployment_ends_with_a_table_and_warns_of_who_is_left_behind() {
    let cluster = cluster(2, &[]);
    let dir = TempDir::new().with(&[("app/v", "1")]);
    let app = dir.0.join("app");
    let root = cluster.peers[1].root.0.display().to_string();
    let fails = format!("case $PWD in {root}*) exit 9;; esac");
    let all = "exit 9";
    // The command, more flags, the exit code, whether somebody is left behind, and the results of the hosts.
    type Case<'a> = (&'a str, &'a [&'a str], i32, bool, [&'a str; 3]);
    let table: [Case; 4] = [
        ("true", &[], 0, false, ["success"; 3]),
        (
            &fails,
            &["--ignore-replication-errors"],
            0,
            true,
            ["success", "success", "failed"],
        ),
        (&fails, &[], 1, false, ["failed"; 3]),
        (
            all,
            &["--ignore-replication-errors"],
            1,
            false,
            ["failed"; 3],
        ),
    ];
    for (command, flags, exit, warned, results) in table {
        for (progress, warning) in [("plain", "warning: "), ("github", "::warning::")] {
            let mut words = vec!["deploy", app.to_str().unwrap(), "--replicated"];
            words.extend(["--progress", progress, "--install-command", command]);
            words.extend(flags);
            let output = cluster.origin.cli(&words);
            let shown = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(exit), "{shown}");
            let warnings: Vec<&str> = shown
                .lines()
                .filter(|line| line.starts_with(warning))
                .collect();
            assert_eq!(warnings.len(), usize::from(warned), "{shown}");
            if warned {
                let said = format!("{warning}the peer three is left behind: ");
                assert!(
                    warnings[0].starts_with(&said) && warnings[0].contains("exit code 9"),
                    "{shown}"
                );
            }
            let lines: Vec<&str> = shown.lines().collect();
            let head = lines
                .iter()
                .position(|line| line.starts_with("HOST  ") || line.starts_with("HOST "));
            if command == all {
                // It failed here before any peer was asked.
                assert_eq!(head, None, "{shown}");
                continue;
            }
            let head = head.unwrap_or_else(|| panic!("no table: {shown}"));
            let words = |line: &str| {
                line.split_whitespace()
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            };
            assert_eq!(words(lines[head]), ["HOST", "RESULT", "TOOK", "REASON"]);
            let found: Vec<String> = lines[head + 1..head + 4]
                .iter()
                .map(|line| words(line)[1].clone())
                .collect();
            assert_eq!(found, results, "{shown}");
            assert_eq!(shown.matches("RESULT").count(), 1, "{shown}");
            // Nothing comes after it but why it failed.
            assert!(
                lines[head + 4..].iter().all(|line| line.contains("error")),
                "{shown}"
            );
        }
    }
    let list = cluster.origin.cli(&["list", "--output", "text"]);
    let list = String::from_utf8(list.stdout).unwrap();
    assert!(
        list.contains("  PEERS") && list.contains("  2/2") && list.contains("  1/2"),
        "{list}"
    );
}
