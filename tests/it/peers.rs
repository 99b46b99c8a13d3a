//! One deploy, every peer, one stream: servers that deploy to each other.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::test_server::{Record, TempDir, TestServer, await_some, gzip, names, noise, tar};

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
    for (peer, name) in cluster.peers.iter().zip(NAMES) {
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
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
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

const SLEEPS: &str = "web: sleep 1000\n";

#[test]
fn what_is_not_healthy_somewhere_is_rolled_back_everywhere() {
    let cluster = cluster(2, &[]);
    let good = [("./Procfile", SLEEPS), ("./v", "1")];
    for mode in ["true", "rolling"] {
        let events = deploy(&cluster.origin, &[("restart", mode)], &payload(&good));
        assert_eq!(events.last().unwrap().event, "done", "{events:#?}");
        let root = cluster.peers[1].root.0.display().to_string();
        let bad = format!("web: case $PWD in {root}*) exit 8;; esac; sleep 1000\n");
        let events = deploy(
            &cluster.origin,
            &[("restart", mode)],
            &payload(&[("./Procfile", &bad), ("./v", "2")]),
        );
        let error = fails(&cluster, &events);
        assert_eq!(
            (&error["code"], &error["failed_peers"]),
            (&json!("replicate_failed"), &json!(["two", "three"])),
            "{error}"
        );
        let record = cluster
            .origin
            .record(error["deployment_id"].as_str().unwrap());
        assert_eq!(record["status"], "rolled_back", "{record}");
        let told = results(&record);
        assert!(
            told[0]
                .2
                .contains("rolled back, because another one failed"),
            "{told:?}"
        );
        assert!(
            told[1].2.contains("exit code 8") && told[1].2.contains("rolled back"),
            "{told:?}"
        );
        for server in cluster.peers.iter().chain([&cluster.origin]) {
            assert_eq!(live(server).as_deref(), Some("1"), "{mode}");
            let components = server
                .operate(&json!({"operation": "get_components"}))
                .json();
            let process = &components["components"][0]["processes"][0];
            assert!(
                process["pid"].is_u64() && process["restarts"] == 0,
                "{mode}: {components}"
            );
        }
    }
}

/// What runs of the component.
fn processes(host: &TestServer) -> Value {
    let components = host.operate(&json!({"operation": "get_components"})).json();
    components["components"][0]["processes"].clone()
}

fn pids(peers: &[TestServer]) -> Vec<u64> {
    let pid = |peer| processes(peer)[0]["pid"].as_u64().unwrap();
    peers.iter().map(pid).collect()
}

#[test]
fn a_peer_that_is_left_behind_has_live_what_runs_there() {
    let cluster = cluster(2, &[]);
    for (mode, v) in [("true", "2"), ("rolling", "3")] {
        let good = [("./Procfile", SLEEPS), ("./v", "1")];
        deploy(&cluster.origin, &[("restart", mode)], &payload(&good));
        let root = cluster.peers[0].root.0.display().to_string();
        let bad = format!("web: case $PWD in {root}*) exit 8;; esac; sleep 1000\n");
        let fields = [("restart", mode), ("ignore_replication_errors", "true")];
        let events = deploy(
            &cluster.origin,
            &fields,
            &payload(&[("./Procfile", &bad), ("./v", v)]),
        );
        let last = events.last().unwrap();
        assert_eq!(last.event, "done", "{events:#?}");
        let told = results(&last.data["result"]);
        assert!(
            told[0].2.contains("exit code 8") && told[0].2.ends_with("; rolled back"),
            "{told:?}"
        );
        assert_eq!(told[1].1, "success", "{told:?}");
        assert_eq!(
            [&cluster.origin, &cluster.peers[0], &cluster.peers[1]].map(live),
            [Some(v.into()), Some("1".into()), Some(v.into())],
            "{mode}"
        );
        assert!(processes(&cluster.peers[0])[0]["pid"].is_u64(), "{mode}");
        // Whatever happens at a peer is passed on, what is taken back too, in its own order.
        let ends = events.iter().filter(|one| {
            let of_two = one.event == "peer" && one.data["peer"] == "two";
            of_two && (one.data["event"] == "done" || one.data["event"] == "error")
        });
        let ends: Vec<&str> = ends.filter_map(|one| one.data["event"].as_str()).collect();
        assert_eq!(ends, ["done", "done", "error", "done"], "{mode}");
    }
}

#[test]
fn what_was_not_restarted_runs_on_when_it_is_taken_back() {
    let cluster = cluster(2, &[]);
    let good = [("./Procfile", SLEEPS), ("./v", "1")];
    deploy(&cluster.origin, &[("restart", "true")], &payload(&good));
    let running = pids(&cluster.peers);
    // The origin itself cannot run it: its peers have switched by then, and restarted nothing.
    let root = cluster.origin.root.0.display().to_string();
    let bad = format!("web: case $PWD in {root}*) exit 8;; esac; sleep 1000\n");
    let events = deploy(
        &cluster.origin,
        &[("restart", "true")],
        &payload(&[("./Procfile", &bad), ("./v", "2")]),
    );
    let error = fails(&cluster, &events);
    assert_eq!(error["code"], "unhealthy", "{error}");
    assert_eq!(error["failed_peers"], json!(["two", "three"]), "{error}");
    for server in cluster.peers.iter().chain([&cluster.origin]) {
        assert_eq!(live(server).as_deref(), Some("1"));
    }
    assert_eq!(pids(&cluster.peers), running);
}

#[test]
fn a_first_deployment_that_fails_somewhere_leaves_nothing_live() {
    let cluster = cluster(1, &[]);
    let root = cluster.peers[0].root.0.display().to_string();
    let bad = format!("web: case $PWD in {root}*) exit 8;; esac; sleep 1000\n");
    let error = fails(
        &cluster,
        &deploy(
            &cluster.origin,
            &[("restart", "true")],
            &payload(&[("./Procfile", &bad), ("./v", "1")]),
        ),
    );
    assert!(
        error["message"].as_str().unwrap().contains("exit code 8"),
        "{error}"
    );
    for server in [&cluster.origin, &cluster.peers[0]] {
        assert_eq!(live(server), None);
        let components = server
            .operate(&json!({"operation": "get_components"}))
            .json();
        assert_eq!(components["components"], json!([]));
    }
}

#[test]
fn a_first_deployment_that_is_taken_back_takes_only_what_it_made() {
    let cluster = cluster(1, &[]);
    let peer = &cluster.peers[0];
    // Somebody has staged a build there.
    let staged = peer.deploy(
        &[("project", "demo"), ("activate", "false")],
        &payload(&[("./v", "staged")]),
    );
    assert_eq!(staged.status, 200, "{}", staged.text());
    let staged = staged.json()["deployment_id"].as_str().unwrap().to_owned();
    let root = peer.root.0.display().to_string();
    let bad = format!("web: case $PWD in {root}*) exit 8;; esac; sleep 1000\n");
    fails(
        &cluster,
        &deploy(
            &cluster.origin,
            &[("restart", "true")],
            &payload(&[("./Procfile", &bad), ("./v", "1")]),
        ),
    );
    assert_eq!(live(peer), None);
    assert_eq!(names(&peer.path("releases/demo")), [&*staged]);
    let activated = peer.operate(&json!({
        "operation": "deploy_component", "project": "demo", "deployment_id": staged
    }));
    assert_eq!(activated.status, 200, "{}", activated.text());
    assert_eq!(live(peer).as_deref(), Some("staged"));
}

#[test]
fn two_that_are_each_others_peers_do_not_wait_for_each_other() {
    let roots = [Arc::new(TempDir::new()), Arc::new(TempDir::new())];
    let tokens = TempDir::new();
    // Once on any port, to have tokens; then on known ones, as each other's peers.
    let known = roots
        .each_ref()
        .map(|root| TestServer::on(Arc::clone(root), &[], &[]).token.clone());
    let ports = [0, 1].map(|_| {
        TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .to_string()
    });
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

/// Something between the origin and a peer: it passes bytes on, and may cut, slow down or change what goes up.
struct Between {
    address: String,
    connections: Arc<AtomicU64>,
}

/// What is done to the bytes of one connection, by its number: none to cut it after so many, or the bytes that go on.
type Change = fn(u64, u64, &mut [u8]) -> Option<Duration>;

fn between(target: &str, change: Change) -> Between {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let connections = Arc::new(AtomicU64::new(0));
    let (counted, target) = (Arc::clone(&connections), target.to_owned());
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let number = counted.fetch_add(1, Ordering::Relaxed) + 1;
            let Ok(server) = TcpStream::connect(&target) else {
                continue;
            };
            let (mut up, mut down) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            let mut to_server = server.try_clone().unwrap();
            std::thread::spawn(move || {
                let (mut buffer, mut sent) = ([0; 4096], 0);
                while let Ok(read @ 1..) = up.read(&mut buffer) {
                    match change(number, sent, &mut buffer[..read]) {
                        Some(pause) => std::thread::sleep(pause),
                        None => {
                            let _ = up.shutdown(std::net::Shutdown::Both);
                            break;
                        }
                    }
                    sent += read as u64;
                    // An answer came early: what still comes is read over, or its end would reset the answer.
                    let _ = to_server.write_all(&buffer[..read]);
                }
                let _ = to_server.shutdown(std::net::Shutdown::Write);
            });
            let mut to_client = client;
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut down, &mut to_client);
                // Not both ways: what still comes up would reset what went down.
                let _ = to_client.shutdown(std::net::Shutdown::Write);
            });
        }
    });
    Between {
        address,
        connections,
    }
}

fn through(change: Change, token: Option<&str>) -> (TestServer, TestServer, Between, TempDir) {
    let peer = TestServer::start();
    let between = between(&peer.address, change);
    let tokens = TempDir::new();
    let flags = flags(
        &tokens.0,
        &[("two", &between.address, token.unwrap_or(&peer.token))],
    );
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    (TestServer::with(&flags, &[]), peer, between, tokens)
}

#[test]
fn wires_that_break_are_mended_and_those_that_lie_are_found_out() {
    // The first upload breaks off in the middle, and is begun again.
    let (origin, peer, between, _tokens) = through(
        |number, sent, _| (number > 1 || sent < 50_000).then_some(Duration::ZERO),
        None,
    );
    let events = origin
        .deploy_live(&[("project", "demo"), ("replicated", "true")], &noise())
        .events();
    assert_eq!(events.last().unwrap().event, "done", "{events:#?}");
    assert!(between.connections.load(Ordering::Relaxed) > 1);
    assert!(peer.path("components/demo/noise").exists());

    // A byte that changes on its way is found out by the hash.
    let (origin, peer, _, _tokens) = through(
        |_, sent, bytes| {
            if sent > 100_000 && sent < 110_000 {
                bytes[0] ^= 1;
            }
            Some(Duration::ZERO)
        },
        None,
    );
    let events = origin
        .deploy_live(&[("project", "demo"), ("replicated", "true")], &noise())
        .events();
    let last = events.last().unwrap();
    assert_eq!(last.data["code"], "replicate_failed", "{events:#?}");
    assert!(
        last.data["message"].as_str().unwrap().contains("SHA-256"),
        "{last:?}"
    );
    assert!(live(&origin).is_none() && !peer.path("components/demo").exists());

    // A wrong token.
    let (origin, _peer, _, _tokens) = through(|_, _, _| Some(Duration::ZERO), Some("wrong"));
    let events = origin
        .deploy_live(&[("project", "demo"), ("replicated", "true")], &noise())
        .events();
    assert!(
        events.last().unwrap().data["message"]
            .as_str()
            .unwrap()
            .contains("Login failed"),
        "{events:#?}"
    );

    // A slow one, beyond the time.
    let peer = TestServer::start();
    let slow = self::between(&peer.address, |_, _, _| Some(Duration::from_millis(100)));
    let tokens = TempDir::new();
    let flags = flags(&tokens.0, &[("two", &slow.address, &peer.token)]);
    let flags: Vec<&str> = flags
        .iter()
        .map(String::as_str)
        .chain(["--replicate-timeout", "1"])
        .collect();
    let origin = TestServer::with(&flags, &[]);
    let events = origin
        .deploy_live(&[("project", "demo"), ("replicated", "true")], &noise())
        .events();
    assert!(
        events.last().unwrap().data["message"]
            .as_str()
            .unwrap()
            .contains("timed out"),
        "{events:#?}"
    );
    assert!(!origin.path("components/demo").exists() && names(&origin.path("releases")).is_empty());
}

#[test]
fn a_peer_that_dies_in_between_fails_the_deployment_and_nothing_is_live() {
    let mut cluster = cluster(2, &[]);
    deploy(&cluster.origin, &[], &payload(&[("./v", "1")]));
    let gate = cluster.origin.path("gate");
    // The second peer dies while the others wait for it.
    let root = cluster.peers[1].root.0.display().to_string();
    let command = format!(
        "case $PWD in {root}*) touch {0}-there; while [ ! -e {0} ]; do sleep 0.01; done;; esac",
        gate.display()
    );
    let there = gate.with_file_name("gate-there");
    let fields = [
        ("project", "demo"),
        ("replicated", "true"),
        ("install_command", command.as_str()),
    ];
    let origin = &cluster.origin;
    let dying = &mut cluster.peers[1];
    let events = std::thread::scope(|scope| {
        let deploy = scope.spawn(|| {
            origin
                .deploy_live(&fields, &payload(&[("./v", "2")]))
                .events()
        });
        await_some("the peer's installation", || there.exists().then_some(()));
        dying.server.kill().unwrap();
        dying.server.wait().unwrap();
        // It comes back and ends what was interrupted, which the origin then learns.
        let flags = ["--listen", dying.address.as_str()];
        let again = TestServer::on(Arc::clone(&dying.root), &flags, &[]);
        let events = deploy.join().unwrap();
        drop(again);
        events
    });
    let error = fails(&cluster, &events);
    assert_eq!(error["failed_peers"], json!(["three"]));
    assert!(
        error["message"].as_str().unwrap().contains("interrupted"),
        "{error}"
    );
    assert_eq!(live(&cluster.origin).as_deref(), Some("1"));
    assert_eq!(live(&cluster.peers[0]).as_deref(), Some("1"));
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
fn a_peer_that_dies_between_its_build_and_the_switch_takes_all_back() {
    let mut cluster = cluster(2, &[]);
    deploy(&cluster.origin, &[], &payload(&[("./v", "1")]));
    let gate = cluster.origin.path("gate");
    let root = cluster.peers[0].root.0.display().to_string();
    // The first peer holds the barrier until the second one has built, and is no more.
    let command = format!(
        "case $PWD in {root}*) while [ ! -e {} ]; do sleep 0.01; done;; esac",
        gate.display()
    );
    let fields = [
        ("project", "demo"),
        ("replicated", "true"),
        ("install_command", command.as_str()),
    ];
    let origin = &cluster.origin;
    let dying = &mut cluster.peers[1];
    let events = std::thread::scope(|scope| {
        let deploy = scope.spawn(|| {
            origin
                .deploy_live(&fields, &payload(&[("./v", "2")]))
                .events()
        });
        await_some(
            "the second peer's build, as the origin has heard of it",
            || {
                let newest = names(&origin.path("deployments")).pop()?;
                let journal = origin.path(&format!("deployments/{newest}/events.ndjson"));
                let text = fs::read_to_string(journal).ok()?;
                let of_three = text
                    .lines()
                    .filter(|line| line.contains("\"peer\":\"three\""));
                let mut done = of_three.filter(|line| line.contains("\"event\":\"done\""));
                // Not that of the deployment before.
                (text.contains("while [") && done.next().is_some()).then_some(())
            },
        );
        dying.server.kill().unwrap();
        dying.server.wait().unwrap();
        fs::write(&gate, "").unwrap();
        deploy.join().unwrap()
    });
    let error = fails(&cluster, &events);
    assert_eq!(error["phase"], "activate", "{error}");
    let told = results(&error);
    assert!(told[0].2.contains("rolled back"), "{told:?}");
    assert!(told[1].2.contains("connecting"), "{told:?}");
    assert_eq!(live(&cluster.origin).as_deref(), Some("1"));
    assert_eq!(live(&cluster.peers[0]).as_deref(), Some("1"));
    assert_eq!(live(&cluster.peers[1]).as_deref(), Some("1"));
}

/// Something between the origin and a peer that passes on all, but the first answer to an activation.
fn without_the_first_answer(target: &str) -> (String, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let lost = Arc::new(AtomicU64::new(0));
    let (counted, target) = (Arc::clone(&lost), target.to_owned());
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(mut server) = TcpStream::connect(&target) else {
                continue;
            };
            let (mut up, mut down) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            let (mut to_client, counted) = (client, Arc::clone(&counted));
            let mute = Arc::new(AtomicBool::new(false));
            let is_mute = Arc::clone(&mute);
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(read @ 1..) = down.read(&mut buffer) {
                    if !is_mute.load(Ordering::Relaxed) {
                        let _ = to_client.write_all(&buffer[..read]);
                    }
                }
                // The peer has done it when it closes.
                let how = match is_mute.load(Ordering::Relaxed) {
                    true => std::net::Shutdown::Both,
                    false => std::net::Shutdown::Write,
                };
                let _ = to_client.shutdown(how);
            });
            std::thread::spawn(move || {
                let (mut buffer, mut seen, mut found) = ([0; 4096], Vec::new(), false);
                while let Ok(read @ 1..) = up.read(&mut buffer) {
                    seen.extend_from_slice(&buffer[..read]);
                    let text = String::from_utf8_lossy(&seen);
                    if !found
                        && text.contains("deploy_component")
                        && text.contains("\"deployment_id\"")
                    {
                        found = true;
                        mute.store(
                            counted.fetch_add(1, Ordering::Relaxed) == 0,
                            Ordering::Relaxed,
                        );
                    }
                    let _ = server.write_all(&buffer[..read]);
                }
            });
        }
    });
    (address, lost)
}

#[test]
fn a_switch_whose_answer_is_lost_is_not_taken_for_a_failure() {
    let peer = TestServer::start();
    let (address, tried) = without_the_first_answer(&peer.address);
    let tokens = TempDir::new();
    let flags = flags(&tokens.0, &[("two", &address, &peer.token)]);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let origin = TestServer::with(&flags, &[]);
    let events = deploy(&origin, &[], &payload(&[("./v", "1")]));
    assert_eq!(events.last().unwrap().event, "done", "{events:#?}");
    assert_eq!(tried.load(Ordering::Relaxed), 2);
    assert_eq!(
        [&origin, &peer].map(live),
        [Some("1".into()), Some("1".into())]
    );
    // It was made live once.
    let list = json!({"operation": "list_deployments", "status": "success"});
    assert_eq!(peer.operate(&list).json()["total"], 1);
}

#[test]
fn an_origin_that_is_killed_after_its_switch_says_what_it_knows_of_its_peers() {
    if !crate::needs::is_debug_build() {
        return;
    }
    let peer = TestServer::start();
    let tokens = TempDir::new();
    let flags = flags(&tokens.0, &[("two", &peer.address, &peer.token)]);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let root = Arc::new(TempDir::new());
    let reached = root.0.with_extension("reached");
    let asked = format!("switched={}", reached.display());
    let origin = TestServer::on(
        Arc::clone(&root),
        &flags,
        &[("GANGPLANK_TEST_CHECKPOINT", &asked)],
    );
    let (media, body) = crate::test_server::form(
        &[("project", "demo"), ("replicated", "true")],
        &payload(&[("./v", "1")]),
    );
    let authorization = format!("Authorization: Bearer {}", origin.token);
    let mut stream = origin.connect();
    stream
        .write_all(&crate::test_server::request(
            "POST",
            "/",
            &[&authorization, &media],
            &body,
        ))
        .unwrap();
    await_some("the switch", || reached.exists().then_some(()));
    drop(origin);
    fs::remove_file(&reached).unwrap();
    let origin = TestServer::on(root, &flags, &[]);
    let list = origin
        .operate(&json!({"operation": "list_deployments"}))
        .json();
    let record = &list["deployments"][0];
    assert_eq!(
        (live(&origin).as_deref(), &record["status"]),
        (Some("1"), &json!("success"))
    );
    let told = results(record);
    assert!(
        told.len() == 1 && told[0].1 == "failed" && told[0].2.contains("not known"),
        "{told:?}"
    );
    assert_eq!(live(&peer), None);
}

/// Writes down who is released, whether it is a peer, and what is live there meanwhile.
const RELEASE: &str = "release: echo \"$GANGPLANK_DEPLOYMENT_ID ${GANGPLANK_ORIGIN-none} \
                       $(cat ../../../components/demo/v)\" >>$GANGPLANK_SHARED/ran";

/// What was released on a host, but for the ids.
fn released(host: &TestServer) -> Vec<String> {
    let text = fs::read_to_string(host.path("shared/demo/ran")).unwrap_or_default();
    let words = text.lines().map(|line| line.split_once(' ').unwrap().1);
    words.map(str::to_owned).collect()
}

#[test]
fn each_host_runs_its_own_release_line_before_anything_is_live() {
    let cluster = cluster(2, &[]);
    deploy(&cluster.origin, &[], &payload(&[("./v", "1")]));
    let procfile = format!("{RELEASE}\nweb: sleep 1000\n");
    let events = deploy(
        &cluster.origin,
        &[("restart", "auto")],
        &payload(&[("./Procfile", &procfile), ("./v", "2")]),
    );
    let last = events.last().unwrap();
    assert_eq!(last.event, "done", "{events:#?}");
    let id = last.data["result"]["deployment_id"].as_str().unwrap();
    let node = cluster.origin.record(id)["origin_node"].clone();
    let node = node.as_str().unwrap();
    assert_eq!(released(&cluster.origin), ["none 1"]);
    for peer in &cluster.peers {
        assert_eq!(released(peer), [format!("{node} 1")]);
    }
    for server in cluster.peers.iter().chain([&cluster.origin]) {
        assert_eq!(live(server).as_deref(), Some("2"));
        assert_eq!(processes(server).as_array().unwrap().len(), 1);
    }
    // One peer fails: nothing is live anywhere, and the others have no more than run theirs.
    let root = cluster.peers[1].root.0.display().to_string();
    let bad = format!("{RELEASE}; case $PWD in {root}*) echo broken; exit 7;; esac\n");
    let error = fails(
        &cluster,
        &deploy(
            &cluster.origin,
            &[("restart", "auto")],
            &payload(&[("./Procfile", &bad), ("./v", "3")]),
        ),
    );
    assert_eq!(
        (&error["code"], &error["phase"], &error["failed_peers"]),
        (
            &json!("replicate_failed"),
            &json!("release"),
            &json!(["three"])
        ),
        "{error}"
    );
    let told = results(&error);
    assert!(
        told[0].2 == "built, but not made live" && told[1].2.contains("exit code 7"),
        "{told:?}"
    );
    for server in cluster.peers.iter().chain([&cluster.origin]) {
        assert_eq!(live(server).as_deref(), Some("2"));
        assert_eq!(released(server).len(), 2);
    }
    // The peer's own record says which of its phases it was.
    let list = json!({"operation": "list_deployments", "limit": 1});
    let newest = cluster.peers[1].operate(&list).json()["deployments"][0].clone();
    assert_eq!(newest["error"]["code"], "release_failed", "{newest}");
    // The origin itself fails: no peer is even asked.
    let bad = "release: [ -n \"$GANGPLANK_ORIGIN\" ] || exit 6; echo x x >>$GANGPLANK_SHARED/ran\n";
    let bad = payload(&[("./Procfile", bad), ("./v", "4")]);
    let error = fails(&cluster, &deploy(&cluster.origin, &[], &bad));
    assert_eq!(
        (&error["code"], &error["phase"]),
        (&json!("release_failed"), &json!("release")),
        "{error}"
    );
    for server in cluster.peers.iter().chain([&cluster.origin]) {
        assert_eq!(live(server).as_deref(), Some("2"));
        assert_eq!(released(server).len(), 2);
    }
    // One that fails is left behind, if that is what is wanted.
    let bad = format!("{RELEASE}; case $PWD in {root}*) exit 7;; esac\n");
    let events = deploy(
        &cluster.origin,
        &[("ignore_replication_errors", "true")],
        &payload(&[("./Procfile", &bad), ("./v", "5")]),
    );
    assert_eq!(events.last().unwrap().event, "done", "{events:#?}");
    assert_eq!(
        [&cluster.origin, &cluster.peers[0], &cluster.peers[1]].map(live),
        [Some("5".into()), Some("5".into()), Some("2".into())]
    );
}

#[test]
fn a_cancel_reaches_the_release_lines_of_the_peers() {
    let cluster = cluster(2, &[]);
    deploy(&cluster.origin, &[], &payload(&[("./v", "1")]));
    let waits =
        "release: [ -z \"$GANGPLANK_ORIGIN\" ] || { touch $GANGPLANK_SHARED/began; sleep 1000; }\n";
    let waits = payload(&[("./Procfile", waits), ("./v", "2")]);
    std::thread::scope(|scope| {
        let deploying = scope.spawn(|| deploy(&cluster.origin, &[], &waits));
        for peer in &cluster.peers {
            let began = peer.path("shared/demo/began");
            await_some("its release line", || began.exists().then_some(()));
        }
        let list = json!({"operation": "list_deployments", "limit": 1});
        let newest = cluster.origin.operate(&list).json()["deployments"][0].clone();
        assert_eq!(newest["status"], "releasing", "{newest}");
        let cancel =
            json!({"operation": "cancel_deployment", "deployment_id": newest["deployment_id"]});
        let cancelled = cluster.origin.operate(&cancel);
        assert_eq!(cancelled.status, 200, "{}", cancelled.text());
        let events = deploying.join().unwrap();
        assert_eq!(fails(&cluster, &events)["code"], "cancelled");
        for peer in &cluster.peers {
            // The origin ends once it has told the peers: their own ends follow.
            let newest = await_some("the end at a peer", || {
                let newest = peer.operate(&list).json()["deployments"][0].clone();
                (newest["status"] != "releasing").then_some(newest)
            });
            assert_eq!(newest["status"], "cancelled", "{newest}");
            assert_eq!(live(peer).as_deref(), Some("1"));
        }
    });
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

#[test]
fn a_replicated_rollback_goes_back_on_every_host_or_on_none() {
    let cluster = cluster(2, &[]);
    let procfile = format!("{RELEASE}\nweb: sleep 100\n");
    for v in ["1", "2"] {
        let files = [("./v", v), ("./Procfile", &procfile)];
        let events = deploy(&cluster.origin, &[("restart", "auto")], &payload(&files));
        assert_eq!(events.last().unwrap().event, "done", "{events:#?}");
    }
    // One of them has what the others never had, and has lost the release before.
    let more = payload(&[("./v", "3"), ("./Procfile", &procfile)]);
    cluster.peers[1].deploy_live(&[("project", "demo"), ("restart", "auto")], &more);
    let hosts = || [&cluster.origin, &cluster.peers[0], &cluster.peers[1]];
    let all_live = || hosts().map(|host| live(host).unwrap());
    assert_eq!(all_live(), ["2", "2", "3"]);

    let output = cluster.origin.cli(&["rollback", "demo", "--replicated"]);
    let shown = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{shown}");
    assert_eq!(all_live(), ["1", "1", "1"], "{shown}");
    let table = shown.lines().skip_while(|line| !line.starts_with("HOST "));
    assert_eq!(
        table.filter(|line| line.contains(" success ")).count(),
        3,
        "{shown}"
    );
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    let record = cluster
        .origin
        .record(result["deployment_id"].as_str().unwrap());
    assert_eq!(record["kind"], "rollback");
    assert_eq!(results(&record).len(), 2, "{record}");
    // What runs is what is live, and nothing was released again.
    for (host, ran) in hosts().into_iter().zip([2, 2, 3]) {
        let processes = processes(host);
        let of: Vec<&Value> = processes.as_array().unwrap().iter().collect();
        assert!(of.len() == 1 && of[0]["pid"].is_u64(), "{processes}");
        let link = fs::read_link(host.path("components/demo")).unwrap();
        let live = link.file_name().unwrap().to_str().unwrap();
        assert_eq!(of[0]["release_id"], live, "{processes}");
        assert_eq!(released(host).len(), ran, "{shown}");
    }

    // A host that cannot go back keeps all as they are, unless it may be left behind.
    let second = payload(&[("./v", "4"), ("./Procfile", "web: sleep 100\n")]);
    let events = deploy(&cluster.origin, &[("restart", "auto")], &second);
    assert_eq!(events.last().unwrap().event, "done", "{events:#?}");
    let mut cluster = cluster;
    drop(cluster.peers.pop());
    let rollback = |more: &[&str]| {
        let words = [&["rollback", "demo", "--replicated"], more].concat();
        let output = cluster.origin.cli(&words);
        let shown = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), shown)
    };
    let (code, shown) = rollback(&[]);
    assert!(
        code == Some(1) && shown.contains("(replicate_failed)"),
        "{shown}"
    );
    let both = || [&cluster.origin, &cluster.peers[0]].map(|host| live(host).unwrap());
    assert_eq!(both(), ["4", "4"], "{shown}");
    let (code, shown) = rollback(&["--ignore-replication-errors"]);
    assert_eq!(code, Some(0), "{shown}");
    assert!(
        shown.contains("warning: the peer three is left behind: "),
        "{shown}"
    );
    assert_eq!(both(), ["2", "2"], "{shown}");

    // Without a payload there is nothing for the peers to get.
    let list = cluster.origin.cli(&["list", "--output", "json"]);
    let list: Value = serde_json::from_slice(&list.stdout).unwrap();
    let oldest = list["deployments"].as_array().unwrap().last().unwrap();
    let oldest = oldest["deployment_id"].as_str().unwrap();
    let deleted = cluster.origin.cli(&["payload", oldest, "--delete"]);
    assert_eq!(deleted.status.code(), Some(0));
    let (code, shown) = rollback(&["--to", oldest]);
    let why = format!("rolling back demo: the payload of deployment {oldest} is no longer stored");
    assert!(code == Some(1) && shown.contains(&why), "{shown}");
    assert_eq!(both(), ["2", "2"], "{shown}");

    // And without peers nobody gets it.
    let alone = TestServer::start();
    for v in ["1", "2"] {
        alone.deploy_live(&[("project", "demo")], &payload(&[("./v", v)]));
    }
    let output = alone.cli(&["rollback", "demo", "--replicated"]);
    let shown = String::from_utf8(output.stderr).unwrap();
    let why =
        "error: rolling back demo: this server has no peers to replicate to (replicate_failed)\n";
    assert_eq!((output.status.code(), &*shown), (Some(1), why));
    assert_eq!(live(&alone).as_deref(), Some("2"));
}
