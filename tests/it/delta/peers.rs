//! Deltas between servers: to peers, and from a server that has more. What goes over the wire is counted.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::delta::edits::payload;
use crate::delta::{FILE_LEN, FILES, deploy, is_live, noise, sample, tree, walk};
use crate::strangers::token;
use crate::test_server::{Answer, TempDir, TestServer};

/// What a file that changed may cost on the wire: the list of the tree, some requests and the file.
const LITTLE: u64 = 20_000;
const TOTAL: u64 = (FILES * FILE_LEN) as u64;

/// A wire to a server that counts what goes over it, and changes some of it.
struct Wire {
    address: String,
    carried: Arc<AtomicU64>,
    /// The server does not know of these.
    unknown: Arc<AtomicBool>,
    /// Requests for objects break off.
    breaks: Arc<AtomicBool>,
}

impl Wire {
    fn to(host: &TestServer) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let wire = Wire {
            address: listener.local_addr().unwrap().to_string(),
            carried: Arc::default(),
            unknown: Arc::default(),
            breaks: Arc::default(),
        };
        let server = host.address.clone();
        let counted = Arc::clone(&wire.carried);
        let (unknown, breaks) = (Arc::clone(&wire.unknown), Arc::clone(&wire.breaks));
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(&server) else {
                    continue;
                };
                let (from, to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                let asks_for_objects = Arc::new(AtomicBool::new(false));
                let (up, down) = (Arc::clone(&counted), Arc::clone(&counted));
                let (unknown, breaks) = (Arc::clone(&unknown), Arc::clone(&breaks));
                let asks = Arc::clone(&asks_for_objects);
                thread::spawn(move || {
                    carry(client, server, &up, &mut |bytes| {
                        let has =
                            |part: &str| bytes.windows(part.len()).any(|at| at == part.as_bytes());
                        if has("get_objects") {
                            asks.store(true, Ordering::Release);
                        }
                        if unknown.load(Ordering::Acquire) {
                            forget(bytes, b"prepare_deployment");
                            forget(bytes, b"get_tree");
                            // What a delta begins with.
                            forget(bytes, b"GPD1");
                        }
                        true
                    });
                });
                thread::spawn(move || {
                    let mut passed = 0;
                    carry(from, to, &down, &mut |bytes| {
                        passed += bytes.len();
                        let breaks = breaks.load(Ordering::Acquire);
                        !(breaks && asks_for_objects.load(Ordering::Acquire) && passed > 1000)
                    });
                });
            }
        });
        wire
    }

    /// What went over it since the last time.
    fn carried(&self) -> u64 {
        self.carried.swap(0, Ordering::AcqRel)
    }
}

/// Makes a word one that nobody knows.
fn forget(bytes: &mut [u8], word: &[u8]) {
    let at = bytes.windows(word.len()).position(|at| at == word);
    if let Some(at) = at {
        bytes[at] = b'X';
    }
}

fn carry(
    mut from: TcpStream,
    mut to: TcpStream,
    counted: &AtomicU64,
    look: &mut dyn FnMut(&mut [u8]) -> bool,
) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        counted.fetch_add(read as u64, Ordering::AcqRel);
        if !look(&mut buffer[..read]) {
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Both);
            return;
        }
        if to.write_all(&buffer[..read]).is_err() {
            return;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// The flags that make a server behind a wire a peer.
fn peer(dir: &Path, name: &str, wire: &Wire, token: &str) -> [String; 4] {
    let file = dir.join(name);
    fs::write(&file, token).unwrap();
    [
        "--peer".into(),
        format!("{name}=http://{}", wire.address),
        "--peer-token-file".into(),
        format!("{name}={}", file.display()),
    ]
}

fn with(flags: &[String]) -> TestServer {
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    TestServer::with(&flags, &[])
}

/// The record of what is live.
fn live(host: &TestServer) -> Value {
    let to = fs::read_link(host.path("components/demo")).unwrap();
    host.record(to.file_name().unwrap().to_str().unwrap())
}

/// Waits until the tree of what is live is known.
fn listed(host: &TestServer) -> String {
    tree(host, live(host)["deployment_id"].as_str().unwrap())
}

#[test]
fn a_peer_gets_what_it_lacks_and_an_old_one_gets_all() {
    let (two, three) = (TestServer::start(), TestServer::start());
    let (to_two, to_three) = (Wire::to(&two), Wire::to(&three));
    let tokens = TempDir::new();
    let flags = [
        peer(&tokens.0, "two", &to_two, &two.token),
        peer(&tokens.0, "three", &to_three, &three.token),
    ];
    let origin = with(&flags.concat());
    let source = sample();
    to_three.unknown.store(true, Ordering::Release);
    let servers = [&origin, &two, &three];
    let replicated = |what: &str| {
        to_two.carried();
        to_three.carried();
        let (record, said) = deploy(&origin, &source.0, &["--replicated"]);
        for host in servers {
            is_live(host, &source.0, what);
        }
        let carried = (to_two.carried(), to_three.carried());
        (record, carried, said)
    };
    let (first, carried, _) = replicated("the first");
    assert_eq!(first["payload_kind"], "tar");
    assert!(carried.0 > TOTAL && carried.1 > TOTAL, "{carried:?}");
    let trees = servers.map(listed);
    assert!(trees.iter().all(|tree| *tree == trees[0]));

    // As it came.
    fs::write(source.0.join("d1/f1"), "another one").unwrap();
    let (record, carried, said) = replicated("a change");
    assert_eq!(record["payload_kind"], "delta", "{said}");
    assert!(carried.0 < LITTLE, "{carried:?}");
    assert!(carried.1 > TOTAL / 2, "{carried:?}");
    let there = live(&two);
    assert_eq!(there["payload_hash"], record["payload_hash"]);
    assert_eq!(there["tree"], record["tree"]);
    assert_eq!(live(&three)["payload_kind"], "tar");
    assert_eq!(listed(&three), record["tree"].as_str().unwrap());

    // What only the origin got is lacking, too; and what others wrote there is not counted on.
    fs::write(source.0.join("d2/f2"), "for the origin alone").unwrap();
    deploy(&origin, &source.0, &[]);
    fs::write(source.0.join("d3/f3"), "for all").unwrap();
    fs::write(two.path("components/demo/d4/f4"), "somebody else's").unwrap();
    to_three.unknown.store(false, Ordering::Release);
    let (record, carried, _) = replicated("two changes");
    assert!(carried.0 < 3 * LITTLE + 2 * FILE_LEN as u64, "{carried:?}");
    assert!(carried.1 < LITTLE, "{carried:?}");
    for host in [&two, &three] {
        let there = live(host);
        let kind = (&there["payload_kind"], &there["tree"]);
        assert_eq!(kind, (&json!("delta"), &record["tree"]));
    }

    // Back, and what is there is built again from what is kept.
    let id = first["deployment_id"].as_str().unwrap();
    let back = origin.cli(&["rollback", "demo", "--to", id, "--replicated"]);
    assert!(
        back.status.success(),
        "{}",
        String::from_utf8_lossy(&back.stderr)
    );
    fs::write(source.0.join("d1/f1"), noise(FILE_LEN, 1)).unwrap();
    fs::write(source.0.join("d2/f2"), noise(FILE_LEN, 2)).unwrap();
    fs::write(source.0.join("d3/f3"), noise(FILE_LEN, 3)).unwrap();
    for host in servers {
        is_live(host, &source.0, "after the rollback");
    }
}

#[test]
fn a_host_that_was_off_fetches_only_what_changed() {
    let source = TestServer::start();
    let wire = Wire::to(&source);
    let tokens = TempDir::new();
    let host = with(&peer(&tokens.0, "source", &wire, &source.token));
    let sync = || -> Answer {
        wire.carried();
        let answer = host.operate(&json!({"operation": "sync", "from": "source"}));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer
    };
    let from = sample();
    deploy(&source, &from.0, &[]);
    listed(&source);
    sync();
    assert!(wire.carried() > TOTAL);
    is_live(&host, &from.0, "the first");
    listed(&host);
    fs::write(from.0.join("d1/f1"), "another one").unwrap();
    fs::rename(from.0.join("d2/f2"), from.0.join("moved")).unwrap();
    let (sent, _) = deploy(&source, &from.0, &[]);
    // What an app writes into a release is neither given nor used.
    fs::write(source.path("components/demo/d3/f3"), "theirs").unwrap();
    fs::write(source.path("components/demo/d1/f1"), "ANOTHER ONE").unwrap();
    fs::write(host.path("components/demo/d4/f4"), "mine").unwrap();
    sync();
    let carried = wire.carried();
    assert!(carried < LITTLE + 2 * FILE_LEN as u64, "{carried}");
    is_live(&host, &from.0, "what changed");
    let got = live(&host);
    assert_eq!(
        (&got["payload_kind"], &got["tree"]),
        (&json!("delta"), &sent["tree"])
    );
    assert!(payload(&host, got["deployment_id"].as_str().unwrap()) == walk(&from.0));

    // Nothing changed, and nothing is to be had.
    assert_eq!(sync().json()["deployments"], json!([]));
    assert!(wire.carried() < LITTLE);

    // What breaks off, and what an older server has not, is had as an archive.
    for (n, how) in [&wire.breaks, &wire.unknown].into_iter().enumerate() {
        how.store(true, Ordering::Release);
        fs::write(from.0.join("d5/f5"), noise(3 * FILE_LEN, n as u64)).unwrap();
        deploy(&source, &from.0, &[]);
        sync();
        how.store(false, Ordering::Release);
        assert!(wire.carried() > TOTAL / 2);
        is_live(&host, &from.0, "as an archive");
        assert_eq!(live(&host)["payload_kind"], "tar");
        listed(&host);
    }
}

#[test]
fn a_tree_and_its_objects_are_for_whoever_may_have_the_payload() {
    let host = TestServer::start();
    let from = sample();
    let (record, _) = deploy(&host, &from.0, &[]);
    let id = record["deployment_id"].as_str().unwrap();
    listed(&host);
    let asked = |operation: &str, objects: Option<&str>| {
        let mut asked = json!({"operation": operation, "deployment_id": id});
        if let Some(objects) = objects {
            asked["objects"] = objects.into();
        }
        asked
    };
    let list = host.operate(&asked("get_tree", None));
    assert_eq!(list.status, 200);
    let kept = fs::read(host.path("deployments").join(id).join("manifest")).unwrap();
    assert!(list.body == kept);
    // As many as are asked for, and an end; a number that is not there is none.
    for (objects, count) in [
        ("0", 1_u32),
        ("1-2,4", 3),
        ("all", FILES as u32),
        ("1000-2000", 0),
    ] {
        let got = host.operate(&asked("get_objects", Some(objects)));
        assert_eq!(got.status, 200, "{objects}");
        let end = [&[2], &count.to_be_bytes()[..]].concat();
        assert!(got.body.ends_with(&end), "{objects}");
        let bytes = u64::from(count) * FILE_LEN as u64;
        assert!(got.body.len() as u64 >= bytes, "{objects}");
        assert!((got.body.len() as u64) < bytes + 4000, "{objects}");
    }
    for objects in [None, Some("x"), Some("2-1"), Some("3,3"), Some("-1")] {
        let refused = host.operate(&asked("get_objects", objects));
        assert_eq!(
            (refused.status, refused.refusal().0.as_str()),
            (400, "bad_request")
        );
    }
    // Others may not, and learn nothing: as the payload.
    for (name, role, project, status) in [
        ("reader", "read", "demo", 403),
        ("deployer", "deploy", "demo", 403),
        ("stranger", "admin", "other", 404),
        ("owner", "admin", "demo", 200),
    ] {
        let authorization = format!(
            "Authorization: Bearer {}",
            token(&host, name, role, &[project])
        );
        for (operation, objects) in [
            ("get_deployment_payload", None),
            ("get_tree", None),
            ("get_objects", Some("all")),
        ] {
            let body = asked(operation, objects).to_string();
            let headers = [authorization.as_str(), "Content-Type: application/json"];
            let answer = host.ask_as_anyone("POST", "/", &headers, body.as_bytes());
            assert_eq!(answer.status, status, "{name}: {operation}");
        }
    }
}
