//! Wires and servers that break in the midst of a deployment.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;

use super::{Cluster, cluster, deploy, fails, flags, live, payload, results};
use crate::test_server::{Record, TempDir, TestServer, await_some, names, noise};

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

/// Deploys with an install command, and kills the second peer as soon as something is to be seen at the origin. What happens
/// `then` may give a server that is needed until the deployment's end.
fn while_the_second_dies(
    cluster: &mut Cluster,
    command: &str,
    seen: impl Fn(&TestServer) -> bool,
    then: impl FnOnce(&TestServer) -> Option<TestServer>,
) -> Vec<Record> {
    let fields = [("install_command", command)];
    let origin = &cluster.origin;
    let dying = &mut cluster.peers[1];
    std::thread::scope(|scope| {
        let deploy = scope.spawn(|| deploy(origin, &fields, &payload(&[("./v", "2")])));
        await_some("the moment to die", || seen(origin).then_some(()));
        dying.server.kill().unwrap();
        dying.server.wait().unwrap();
        let _needed = then(dying);
        deploy.join().unwrap()
    })
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
    let is_there = |_: &TestServer| there.exists();
    let events = while_the_second_dies(&mut cluster, &command, is_there, |dead| {
        // It comes back and ends what was interrupted, which the origin then learns.
        let flags = ["--listen", dead.address.as_str()];
        Some(TestServer::on(Arc::clone(&dead.root), &flags, &[]))
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
    let has_heard = |origin: &TestServer| {
        let newest = names(&origin.path("deployments")).pop().unwrap();
        let journal = origin.path(&format!("deployments/{newest}/events.ndjson"));
        let text = fs::read_to_string(journal).unwrap_or_default();
        let of_three = text
            .lines()
            .filter(|line| line.contains("\"peer\":\"three\""));
        let mut done = of_three.filter(|line| line.contains("\"event\":\"done\""));
        // Not that of the deployment before.
        text.contains("while [") && done.next().is_some()
    };
    let events = while_the_second_dies(&mut cluster, &command, has_heard, |_| {
        fs::write(&gate, "").unwrap();
        None
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
