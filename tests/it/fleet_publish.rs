//! Publishing to a fleet while etcd is there, is lost for a moment, or was emptied.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use serde_json::{Value, json};

use crate::fleet_hosts::{TestFleet, await_joined, base64, content, logged};
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
    await_joined(&one, "one");
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
    await_joined(&one, "one");
    await_joined(&two, "two");
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

#[test]
fn an_emptied_etcd_is_filled_again_only_by_who_says_so() {
    let Some(mut fleet) = TestFleet::new() else {
        return;
    };
    let (one, two) = (fleet.host("one"), fleet.host("two"));
    fleet.publish(12, ("one", &one), "first");
    for name in ["one", "two"] {
        fleet.await_status(name, 12, "live");
    }
    fleet.etcd.restore(None);
    for name in ["one", "two"] {
        fleet.await_status(name, 12, "held");
    }
    let told = said(&deploy(&one, "other", &[]), 1);
    assert!(
        told.contains("emptied") && told.contains("--adopt"),
        "{told}"
    );
    let current = ["fleet", "publish-current", "app"];
    let told = said(&one.cli(&current), 1);
    assert!(told.contains("--adopt"), "{told}");
    assert_eq!(
        fleet.get("desired/app"),
        None,
        "nothing is published by itself"
    );
    said(&one.cli(&[&current[..], &["--adopt"]].concat()), 0);
    for (name, host) in [("one", &one), ("two", &two)] {
        let live = fleet.await_status(name, 13, "live");
        assert_eq!(content(host), "first", "{live}");
        let list = json!({"operation": "list_deployments", "status": "success"});
        let list = host.operate(&list).json();
        assert_eq!(list["total"], 1, "nothing was built again: {list}");
    }
    // Whoever deploys something else does it by saying so, too.
    fleet.etcd.restore(None);
    for name in ["one", "two"] {
        fleet.await_status(name, 13, "held");
    }
    said(&deploy(&two, "other", &["--adopt"]), 0);
    assert_eq!((&*content(&one), &*content(&two)), ("other", "other"));
}

#[test]
fn a_host_that_was_removed_says_so_until_it_is_forgotten() {
    let Some(fleet) = TestFleet::new() else {
        return;
    };
    let (one, two) = (fleet.host("one"), fleet.host("two"));
    fleet.publish(1, ("one", &one), "first");
    for name in ["one", "two"] {
        fleet.await_status(name, 1, "live");
    }
    said(&one.cli(&["fleet", "remove", "two"]), 0);
    let removed = fleet.await_status("two", 1, "removed");
    assert_eq!(fleet.get("hosts/two"), None);
    await_some("two hears of it", || {
        logged(&two, "was taken out of the fleet").then_some(())
    });
    let rows = one
        .operate(&json!({"operation": "get_fleet", "project": "app"}))
        .json();
    let rows = rows["projects"][0].clone();
    assert_eq!(
        (&rows["live"], &rows["expected"]),
        (&json!(1), &json!(1)),
        "{removed}"
    );
    let state = |of: &Value| of["state"].as_str().unwrap().to_owned();
    let states: Vec<String> = rows["hosts"]
        .as_array()
        .unwrap()
        .iter()
        .map(state)
        .collect();
    assert_eq!(states, ["live", "removed"]);
    let table = String::from_utf8(one.cli(&["fleet", "app", "--output", "text"]).stdout).unwrap();
    assert!(table.contains("removed"), "{table}");
    // It goes on as it is, and changes nothing any longer.
    fleet.publish(2, ("one", &one), "second");
    fleet.await_status("one", 2, "live");
    assert_eq!(content(&two), "first");
    assert_eq!(fleet.get("status/two/app").unwrap()["state"], "removed");
    said(&one.cli(&["fleet", "remove", "two"]), 0);
    assert_eq!(fleet.get("status/two/app"), None);
    said(&one.cli(&["fleet", "remove", "two"]), 1);
}

#[test]
fn a_host_takes_back_that_it_has_a_payload_before_that_goes() {
    let Some(fleet) = TestFleet::new() else {
        return;
    };
    let flags = ["--keep-payloads", "1", "--fleet-label", "site=eu"];
    let one = fleet.host_on("one", Arc::new(TempDir::new()), &flags);
    let have = |sha256: &Value| format!("have/{}/one", sha256.as_str().unwrap());
    await_joined(&one, "one");
    let publish = |content| {
        said(&deploy(&one, content, &[]), 0);
        let sha256 = fleet.get("desired/app").unwrap()["sha256"].clone();
        await_some("a holder", || fleet.get(&have(&sha256)));
        sha256
    };
    let (first, second) = (publish("1"), publish("2"));
    await_some("the first one is taken back", || {
        fleet.get(&have(&first)).is_none().then_some(())
    });
    let there = fleet.get(&have(&second)).unwrap();
    assert_eq!(there["site"], "eu", "hosts of the same place ask it first");
    // What the fleet wants is kept, however much is built here meanwhile.
    said(&one.cli(&["fleet", "pin", "app"]), 0);
    for content in ["a", "b"] {
        let payload = crate::test_server::tar(&[("./v", content)]);
        assert_eq!(one.deploy(&[("project", "app")], &payload).status, 200);
    }
    let payload = format!("/fleet/payload/{}", second.as_str().unwrap());
    let authorization = format!("Authorization: Bearer {}", "5f".repeat(32));
    let fetched = one.ask_as_anyone("GET", &payload, &[&authorization], b"");
    assert_eq!(fetched.status, 200, "{}", fetched.text());
    assert!(fleet.get(&have(&second)).is_some());
}

#[test]
fn the_fleet_takes_no_delta_and_says_so_to_who_sends_one() {
    let Some(fleet) = TestFleet::new() else {
        return;
    };
    let one = fleet.host("one");
    await_joined(&one, "one");
    let base = "0".repeat(64);
    let fields = [("project", "app"), ("fleet", "true"), ("base", &*base)];
    let refused = one.deploy(&fields, &crate::test_server::tar(&[("./v", "1")]));
    let (code, why) = refused.refusal();
    // Who sends deltas sends all of it then, as always after this code.
    assert_eq!(code, "stale_base");
    assert!(why.contains("has to be whole"), "{why}");
    // A directory that was deployed before is sent whole at once.
    let dir = TempDir::new().with(&[("v", "1"), ("big", &"x".repeat(1 << 20))]);
    let dir = dir.0.to_str().unwrap();
    let deploy = |more: &[&str]| {
        let command = ["deploy", dir, "--project", "app", "--progress", "plain"];
        said(&one.cli(&[&command[..], more].concat()), 0)
    };
    deploy(&[]);
    deploy(&["--fleet", "--soak", "0s"]);
    let sha256 = fleet.get("desired/app").unwrap()["sha256"].clone();
    let list = one
        .operate(&json!({"operation": "list_deployments", "status": "staged"}))
        .json();
    let built = &list["deployments"][0];
    assert_eq!(
        (&built["payload_hash"], &built["payload_kind"]),
        (&sha256, &json!("tar"))
    );
}

#[test]
fn who_waits_follows_a_claim_of_another_host() {
    let Some(fleet) = TestFleet::new() else {
        return;
    };
    let (one, two) = (fleet.host("one"), fleet.host("two"));
    await_joined(&one, "one");
    await_joined(&two, "two");
    let gate = TempDir::new();
    let begun = gate.0.join("begun");
    let install = format!(
        "touch {}; until test -e {}; do sleep 0.02; done",
        begun.display(),
        gate.0.join("go").display()
    );
    let more = ["--install-command", &install, "--canary", "2"];
    // What is published while the first rollout still runs would be in its place.
    let ended = gate.0.join("ended");
    let install = format!("until test -e {}; do sleep 0.02; done", ended.display());
    let waits = ["--wait", "--install-command", &install, "--canary", "2"];
    std::thread::scope(|scope| {
        let first = scope.spawn(|| deploy(&one, "1", &more));
        await_some("the first one's installation", || {
            begun.exists().then_some(())
        });
        let second = scope.spawn(|| deploy(&two, "2", &waits));
        await_some("the second one's refusal", || {
            logged(&two, "deploy_component 409").then_some(())
        });
        std::fs::write(gate.0.join("go"), "").unwrap();
        let first = first.join().unwrap();
        std::fs::write(&ended, "").unwrap();
        said(&first, 0);
        let told = said(&second.join().unwrap(), 0);
        assert!(told.contains("waiting for"), "{told}");
    });
    assert_eq!((&*content(&one), &*content(&two)), ("2", "2"));
}
