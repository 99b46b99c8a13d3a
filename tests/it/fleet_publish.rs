//! Publishing to a fleet while etcd is there, is lost for a moment, or was emptied.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use serde_json::{Value, json};

use crate::fleet_hosts::{TestFleet, base64, content, logged};
use crate::test_server::{TempDir, TestServer, await_some};

/// What the wire to etcd does with the next publication.
const PASSES: u8 = 0;
/// etcd does it, and its answer is lost.
const LOSES_ANSWER: u8 = 1;
/// It never comes to etcd.
const LOSES_REQUEST: u8 = 2;
/// Nothing passes.
const IS_CUT: u8 = 3;

/// A wire between a host and etcd.
struct EtcdWire {
    url: String,
    now: Arc<AtomicU8>,
    /// What it does once a publication was lost.
    next: Arc<AtomicU8>,
}

impl EtcdWire {
    fn to(etcd: &str) -> EtcdWire {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let target = etcd.strip_prefix("http://").unwrap().to_owned();
        let (now, next) = (Arc::<AtomicU8>::default(), Arc::<AtomicU8>::default());
        let of = (Arc::clone(&now), Arc::clone(&next));
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if of.0.load(Ordering::SeqCst) == IS_CUT {
                    continue;
                }
                if let Ok(server) = TcpStream::connect(&target) {
                    join(client, server, (Arc::clone(&of.0), Arc::clone(&of.1)));
                }
            }
        });
        EtcdWire { url, now, next }
    }

    fn does(&self, now: u8, next: u8) {
        self.next.store(next, Ordering::SeqCst);
        self.now.store(now, Ordering::SeqCst);
    }
}

/// Passes on what both say.
fn join(client: TcpStream, server: TcpStream, (now, next): (Arc<AtomicU8>, Arc<AtomicU8>)) {
    let (mut up, mut to_client) = (client.try_clone().unwrap(), client);
    let (mut down, mut to_server) = (server.try_clone().unwrap(), server);
    let is_mute = Arc::<AtomicU8>::default();
    let (muted, after) = (Arc::clone(&is_mute), (Arc::clone(&now), Arc::clone(&next)));
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = down.read(&mut buffer) {
            if muted.load(Ordering::SeqCst) == 1 {
                after
                    .0
                    .store(after.1.load(Ordering::SeqCst), Ordering::SeqCst);
                break;
            }
            let _ = to_client.write_all(&buffer[..read]);
        }
        let _ = to_client.shutdown(Shutdown::Both);
        let _ = down.shutdown(Shutdown::Both);
    });
    std::thread::spawn(move || {
        let published = base64("gangplank/desired/app");
        let (mut buffer, mut seen) = ([0; 4096], String::new());
        while let Ok(read @ 1..) = up.read(&mut buffer) {
            if buffer.starts_with(b"POST ") {
                seen.clear();
            }
            seen += &String::from_utf8_lossy(&buffer[..read]);
            let is_it = seen.contains("/v3/kv/txn") && seen.contains(&published);
            match now.load(Ordering::SeqCst) {
                LOSES_ANSWER if is_it => is_mute.store(1, Ordering::SeqCst),
                LOSES_REQUEST if is_it => {
                    now.store(next.load(Ordering::SeqCst), Ordering::SeqCst);
                    break;
                }
                IS_CUT => break,
                _ => {}
            }
            let _ = to_server.write_all(&buffer[..read]);
        }
        let _ = up.shutdown(Shutdown::Both);
        let _ = to_server.shutdown(Shutdown::Both);
    });
}

/// `gangplank deploy --fleet` of a component with this content, which is followed to its end.
fn deploy(host: &TestServer, content: &str, more: &[&str]) -> Output {
    let dir = TempDir::new().with(&[("v", content)]);
    let mut command = vec!["deploy", dir.0.to_str().unwrap(), "--project", "app"];
    command.extend(["--fleet", "--soak", "0s", "--progress", "plain"]);
    command.extend(more);
    host.cli(&command)
}

fn said(output: &Output, exit: i32) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(exit), "{said}");
    said
}

/// A fleet of one host behind a wire. `quicker` decides how long it looks whether something was published: half a minute by 1.
fn behind_a_wire(quicker: &str) -> Option<(TestFleet, EtcdWire, TestServer)> {
    let fleet = TestFleet::new()?;
    let wire = EtcdWire::to(&fleet.etcd.url(0));
    let one = fleet.host_behind("one", &wire.url, quicker);
    await_some("joining", || logged(&one, "joined as one").then_some(()));
    Some((fleet, wire, one))
}

#[test]
fn a_publication_whose_answer_is_lost_is_found_or_done_again() {
    let Some((fleet, wire, one)) = behind_a_wire("1") else {
        return;
    };
    for (generation, loses) in [(1, LOSES_ANSWER), (2, LOSES_REQUEST)] {
        wire.does(loses, PASSES);
        said(&deploy(&one, &generation.to_string(), &[]), 0);
        let live = fleet.await_status("one", generation, "live");
        assert_eq!(content(&one), generation.to_string(), "{live}");
    }
}

#[test]
fn a_publication_that_stays_unknown_ends_so_and_is_settled_later() {
    let Some((fleet, wire, one)) = behind_a_wire("100") else {
        return;
    };
    for (generation, loses) in [(1, LOSES_ANSWER), (2, LOSES_REQUEST)] {
        wire.does(loses, IS_CUT);
        let told = said(&deploy(&one, &generation.to_string(), &["--replace"]), 5);
        assert!(told.contains("is not known"), "{told}");
        let staged = json!({"operation": "list_deployments", "status": "staged"});
        let staged = one.operate(&staged).json();
        assert_eq!(staged["total"], generation, "its release is kept: {staged}");
        // The server goes on with it when etcd is back.
        wire.does(PASSES, PASSES);
        let known = format!("after all: generation {generation}");
        await_some("what came of it", || logged(&one, &known).then_some(()));
        let wanted = fleet.get("desired/app").unwrap();
        assert_eq!(wanted["generation"], generation, "{wanted}");
        // The host comes back to etcd by itself.
        let live = fleet.await_status("one", generation, "live");
        assert_eq!(content(&one), generation.to_string(), "{live}");
    }
}

#[test]
fn a_record_says_which_generation_of_the_fleet_it_is() {
    let Some(fleet) = TestFleet::new() else {
        return;
    };
    let (one, two) = (fleet.host("one"), fleet.host("two"));
    for (name, host) in [("one", &one), ("two", &two)] {
        let joined = format!("joined as {name}");
        await_some("joining", || logged(host, &joined).then_some(()));
    }
    said(&deploy(&one, "1", &["--canary", "2"]), 0);
    let records = |host: &TestServer| -> Vec<Value> {
        let list = json!({"operation": "list_deployments", "project": "app"});
        host.operate(&list).json()["deployments"]
            .as_array()
            .unwrap()
            .clone()
    };
    let (own, other) = (records(&one), records(&two));
    // Where it was published it was built, and then made live.
    let origin = own[1]["deployment_id"].clone();
    let expected = json!({"generation": 1, "deployment_id": origin});
    assert_eq!((own.len(), other.len()), (2, 1));
    for record in own.iter().chain(&other) {
        assert_eq!(record["fleet"], expected, "{record}");
    }
    assert_ne!(other[0]["deployment_id"], origin, "it has an id of its own");
    let id = other[0]["deployment_id"].as_str().unwrap();
    assert_eq!(two.record(id)["fleet"], expected);
    let components = two.operate(&json!({"operation": "get_components"})).json();
    assert_eq!(
        components["components"][0]["fleet"], expected,
        "{components}"
    );
    for command in ["list", "status"] {
        let table = String::from_utf8(two.cli(&[command, "--output", "text"]).stdout).unwrap();
        assert!(table.contains("FLEET"), "{table}");
    }
    // What is deployed here alone is not the fleet's.
    let alone = two.deploy(
        &[("project", "app")],
        &crate::test_server::tar(&[("./v", "own")]),
    );
    let id = alone.json()["deployment_id"].as_str().unwrap().to_owned();
    assert_eq!(two.record(&id)["fleet"], Value::Null);
}
