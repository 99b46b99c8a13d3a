//! What real hosts do when something fails around them. The table of all failures and their tests is in `fleet.rs`.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::etcd_server::EtcdServer;
use crate::fleet_hosts::{
    EVERYBODY, TestFleet, await_joined, await_that, base64, content, get, logged, put, raw,
};
use crate::test_server::{TempDir, await_some, names, tar};

/// The place of a host in the order of a deployment.
fn place(desired: &Value, host: &str) -> String {
    let id = desired["deployment_id"].as_str().unwrap();
    let digest = Sha256::digest(format!("{id}{host}"));
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A command that says when it has begun, and waits until it may end.
struct Gate(TempDir);

impl Gate {
    fn new() -> Gate {
        Gate(TempDir::new())
    }

    fn command(&self) -> String {
        let dir = self.0.0.display();
        format!("touch {dir}/begun; until test -e {dir}/go; do sleep 0.02; done")
    }

    fn procfile(&self) -> String {
        format!("release: {}\n", self.command())
    }

    fn await_begun(&self) {
        await_that("the command", || self.0.0.join("begun").exists());
    }

    fn open(&self) {
        fs::write(self.0.0.join("go"), "").unwrap();
    }
}

#[test]
fn without_etcd_what_has_begun_ends_and_who_waits_does_not_go() {
    let Some(mut fleet) = TestFleet::new() else {
        return;
    };
    let hosts = [("one", fleet.host("one")), ("two", fleet.host("two"))];
    let gate = Gate::new();
    let files = [("./v", "first"), ("./Procfile", &gate.procfile())];
    let desired = TestFleet::build(1, ("one", &hosts[0].1), &files);
    let is_first = place(&desired, "one") < place(&desired, "two");
    let [first, second] = match is_first {
        true => [&hosts[0], &hosts[1]],
        false => [&hosts[1], &hosts[0]],
    };
    fleet.want(&desired, &place(&desired, second.0));
    gate.await_begun();
    fleet.await_status(second.0, 1, "waiting");
    fleet.etcd.kill(0);
    await_that("a word of the trouble", || {
        logged(&first.1, "what runs here goes on")
    });
    gate.open();
    await_that("its end", || content(&first.1) == "first");
    fleet.etcd.start_again(0);
    fleet.await_status(first.0, 1, "live");
    assert_eq!(content(&second.1), "");
    fleet.want(&desired, EVERYBODY);
    fleet.await_status(second.0, 1, "live");
}

#[test]
fn a_host_at_the_minority_of_etcd_stays_as_it_is() {
    let Some(etcd) = EtcdServer::with(3, &[]) else {
        return;
    };
    let mut fleet = TestFleet::at(etcd);
    let one = fleet.host("one");
    fleet.publish(1, ("one", &one), "first");
    fleet.await_status("one", 1, "live");
    fleet.etcd.kill(1);
    fleet.etcd.kill(2);
    await_that("a word of the trouble", || {
        logged(&one, "what runs here goes on")
    });
    assert_eq!(content(&one), "first");
    let payload = tar(&[("./v", "local")]);
    assert_eq!(one.deploy(&[("project", "other")], &payload).status, 200);
    fleet.etcd.start_again(1);
    fleet.publish(2, ("one", &one), "second");
    fleet.await_status("one", 2, "live");
}

#[test]
fn a_full_etcd_takes_no_publication_and_is_told_later() {
    let Some(etcd) = EtcdServer::with(1, &["--quota-backend-bytes", "2000000"]) else {
        return;
    };
    let fleet = TestFleet::at(etcd);
    let one = fleet.host("one");
    let gate = Gate::new();
    let files = [("./v", "first"), ("./Procfile", &gate.procfile())];
    fleet.want(&TestFleet::build(1, ("one", &one), &files), EVERYBODY);
    gate.await_begun();
    let large = base64(&"x".repeat(400_000));
    let fill = |n: u32| json!({"key": base64(&format!("fill/{n}")), "value": large});
    let is_full = |n| {
        let answer = fleet.etcd.try_ask(0, "/v3/kv/put", &fill(n));
        answer.is_some_and(|(status, _)| status != 200)
    };
    // It looks at its size ten times a second, and not at each write.
    let mut n = 0;
    await_that("a full etcd", || {
        n += 1;
        is_full(n)
    });
    gate.open();
    await_that("its end", || content(&one) == "first");
    await_that("a word of the trouble", || logged(&one, "space exceeded"));
    assert_ne!(get(&fleet.etcd, "status/one/app").unwrap()["state"], "live");
    let payload = tar(&[("./v", "1")]);
    let refused = one.deploy(&[("project", "more"), ("fleet", "true")], &payload);
    let (code, why) = refused.refusal();
    assert_eq!(code, "fleet_unavailable");
    let words = "etcd: space exceeded; compact it, defragment it, and disarm its alarm";
    assert!(why.contains(words), "{why}");
    // The operator does as it says.
    let ask = |path: &str, body: Value| fleet.etcd.ask(0, path, &body);
    let (from, to) = (base64("fill/"), base64("fill0"));
    let gone = ask("/v3/kv/deleterange", json!({"key": from, "range_end": to}));
    let revision = &gone["header"]["revision"];
    let member = &gone["header"]["member_id"];
    ask(
        "/v3/kv/compaction",
        json!({"revision": revision, "physical": true}),
    );
    ask("/v3/maintenance/defragment", json!({}));
    ask(
        "/v3/maintenance/alarm",
        json!({"action": "DEACTIVATE", "alarm": "NOSPACE", "memberID": member}),
    );
    fleet.await_status("one", 1, "live");
}

/// The id of a deployment at a host whose clock says this.
fn id_of_clock(ms: u64) -> String {
    let (high, low) = (ms >> 16, ms & 0xffff);
    format!("{high:08x}-{low:04x}-7000-8000-000000000001")
}

#[test]
fn clocks_labels_newer_words_and_other_fleets_confuse_no_host() {
    let Some(fleet) = TestFleet::new() else {
        return;
    };
    let entry = json!({"v": 1, "url": "http://old", "joined_at": 1, "colour": "red"});
    put(&fleet.etcd, "hosts/one", &entry);
    let start = |name, flags: &[&str]| fleet.host_on(name, Arc::new(TempDir::new()), flags);
    let one = start("one", &["--fleet-label", "arch=amd64"]);
    let two = start("two", &["--fleet-label", "arch=arm64"]);
    let three = start("three", &["--fleet-prefix", "elsewhere"]);
    let origin = ("one", &one);
    // For one architecture, from an origin whose clock is in 2040, with a word of a newer gangplank.
    let mut desired = TestFleet::build(1, origin, &[("./v", "first")]);
    let in_2040 = id_of_clock(2_208_988_800_000);
    let more = json!({
        "deployment_id": in_2040, "published_at": 1, "labels": {"arch": "arm64"}, "colour": "red",
    });
    for (name, value) in more.as_object().unwrap() {
        desired[name] = value.clone();
    }
    fleet.want(&desired, EVERYBODY);
    fleet.await_status("two", 1, "live");
    assert_eq!(content(&two), "first");
    let list = two.operate(&json!({"operation": "list_deployments", "project": "app"}));
    let own = list.json()["deployments"][0]["deployment_id"].clone();
    assert!(own.as_str().unwrap() < in_2040.as_str(), "{own}");
    assert!(get(&fleet.etcd, "status/one/app").is_none());
    // What comes later is newer, though its clock stands in 1980.
    let mut desired = TestFleet::build(2, origin, &[("./v", "second")]);
    desired["deployment_id"] = id_of_clock(315_532_800_000).into();
    fleet.want(&desired, EVERYBODY);
    for (name, host) in [("one", &one), ("two", &two)] {
        fleet.await_status(name, 2, "live");
        assert_eq!(content(host), "second");
    }
    // Who writes a document again keeps the words of newer ones.
    let entry = get(&fleet.etcd, "hosts/one").unwrap();
    let expected =
        json!({"url": format!("http://{}", one.address), "joined_at": 1, "colour": "red"});
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&entry[name], value, "{entry}");
    }
    let desired = TestFleet::build(3, origin, &[("./v", "third")]);
    let rollout = json!({
        "v": 1, "generation": 3, "wave": 2, "open": 2, "below": EVERYBODY, "state": "wave", "colour": "red",
    });
    put(&fleet.etcd, "rollout/app", &rollout);
    put(&fleet.etcd, "desired/app", &desired);
    let rollout = await_some("the end of the rollout", || {
        get(&fleet.etcd, "rollout/app").filter(|one| one["state"] == "done")
    });
    assert_eq!(rollout["colour"], "red", "{rollout}");
    // Under another prefix is another fleet.
    let seen = await_some("its own fleet", || {
        let seen = three.operate(&json!({"operation": "get_fleet"})).json();
        let hosts = seen["hosts"].as_array().map_or(0, Vec::len);
        (hosts == 1).then_some(seen)
    });
    assert_eq!(seen["hosts"][0]["host"], "three");
    assert_eq!(seen["projects"], json!([]));
    assert!(raw(&fleet.etcd, "hosts/three").is_none());
}

/// A host that answers every request with what nobody asked for, and keeps what it was asked.
fn bad_holder(length: usize) -> (String, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answer = move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = [0; 4096];
        let read = stream.read(&mut head).unwrap();
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Disposition: attachment\r\n\
             Content-Length: {length}\r\n\r\n"
        );
        let body = answer.into_bytes().into_iter().chain(vec![b'x'; length]);
        let _ = stream.write_all(&body.collect::<Vec<u8>>());
        String::from_utf8_lossy(&head[..read]).into_owned()
    };
    (url, std::thread::spawn(answer))
}

#[test]
fn bad_holders_lost_payloads_and_foreign_binaries_fail_where_they_are() {
    let Some(fleet) = TestFleet::new() else {
        return;
    };
    let (one, two) = (fleet.host("one"), fleet.host("two"));
    let origin = ("one", &one);
    // Nobody has the payload of one component any longer.
    let desired = TestFleet::build(1, origin, &[("./v", "first")]);
    let mut lost = desired.clone();
    lost["sha256"] = "0".repeat(64).into();
    let rollout = json!({"v": 1, "generation": 1, "open": 1, "below": EVERYBODY, "state": "done"});
    put(&fleet.etcd, "rollout/lost", &rollout);
    put(&fleet.etcd, "desired/lost", &lost);
    // One that says it has the other one lies, as do two whose names are no names.
    let length = usize::try_from(desired["size"].as_u64().unwrap()).unwrap();
    let (url, asked) = bad_holder(length);
    let sha256 = desired["sha256"].as_str().unwrap();
    for name in ["zz-bad", "zz/b", "zz\u{1b}[2J"] {
        let have = json!({"v": 1, "url": url});
        put(&fleet.etcd, &format!("have/{sha256}/{name}"), &have);
    }
    fleet.want(&desired, EVERYBODY);
    fleet.await_status("two", 1, "live");
    assert_eq!(content(&two), "first");
    let asked = asked.join().unwrap();
    assert!(
        asked.starts_with(&format!("GET /fleet/payload/{sha256} ")),
        "{asked}"
    );
    await_that("a word of it", || {
        logged(&two, "zz-bad sent another payload")
    });
    // Only the hosts fail on which its program does not run.
    let native = format!("\x7fELF\x01\x01\x01{}\x02\0\x28\0\x01", "\0".repeat(9));
    let root = two.root.0.display();
    let procfile =
        format!("release: case \"$PWD\" in {root}/*) chmod +x native && exec ./native;; esac\n");
    let files = [
        ("./v", "second"),
        ("./native", &native),
        ("./Procfile", &procfile),
    ];
    fleet.want(&TestFleet::build(2, origin, &files), EVERYBODY);
    fleet.await_status("one", 2, "live");
    let failed = fleet.await_status("two", 2, "failed");
    assert_eq!(
        (content(&one).as_str(), content(&two).as_str()),
        ("second", "first"),
        "{failed}"
    );
    let gone = await_some("the end of the search", || {
        get(&fleet.etcd, "status/two/lost").filter(|one| one["state"] == "failed")
    });
    assert_eq!(gone["code"], "payload_gone", "{gone}");
}

#[test]
fn who_loses_the_claim_publishes_nothing_and_follows_who_won() {
    let Some(fleet) = TestFleet::new() else {
        return;
    };
    let (one, two) = (fleet.host("one"), fleet.host("two"));
    let gate = Gate::new();
    let command = gate.command();
    let fields = [
        ("project", "app"),
        ("fleet", "true"),
        ("install_command", &*command),
    ];
    let lost = std::thread::scope(|scope| {
        let deploying = scope.spawn(|| one.deploy(&fields, &tar(&[("./v", "loser")])));
        gate.await_begun();
        // Its lease has ended, as that of a host that was frozen, and another one has published.
        let claim = json!({"key": base64("gangplank/claim/app")});
        fleet.etcd.ask(0, "/v3/kv/deleterange", &claim);
        fleet.publish(1, ("two", &two), "winner");
        fleet.await_status("two", 1, "live");
        gate.open();
        deploying.join().unwrap()
    });
    let (code, why) = lost.refusal();
    assert_eq!(code, "conflict", "{why}");
    fleet.await_status("one", 1, "live");
    assert_eq!(content(&one), "winner");
    let releases = names(&one.path("releases/app"));
    assert_eq!(releases.len(), 1, "what it built is gone: {releases:?}");
}

/// A key as it stands there, for who moves it.
fn value(etcd: &EtcdServer, key: &str) -> String {
    raw(etcd, key).unwrap()["value"]
        .as_str()
        .unwrap()
        .to_owned()
}

fn put_value(etcd: &EtcdServer, key: &str, value: &str) {
    let key = base64(&format!("gangplank/{key}"));
    etcd.ask(0, "/v3/kv/put", &json!({"key": key, "value": value}));
}

#[test]
fn who_writes_to_etcd_without_the_key_makes_no_host_do_anything() {
    let Some(fleet) = TestFleet::new() else {
        return;
    };
    let keys = TempDir::new();
    let key = keys.0.join("key").display().to_string();
    let made = crate::test_server::gangplank()
        .args(["fleet", "key", &key])
        .env("GANGPLANK_ROOT", &keys.0)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let trust = format!("{key}.pub");
    let flags = ["--fleet-trust", &trust, "--fleet-key", &key];
    let one = fleet.host_on("one", Arc::new(TempDir::new()), &flags);
    await_joined(&one, "one");
    let deploy = |text: &str, generation| {
        let fields = [("project", "app"), ("fleet", "true"), ("soak", "0")];
        let answer = one.deploy(&fields, &tar(&[("./v", text)]));
        assert_eq!(answer.status, 200, "{}", answer.text());
        fleet.await_status("one", generation, "live");
        value(&fleet.etcd, "desired/app")
    };
    let first = deploy("first", 1);
    await_some("the end of the rollout", || {
        get(&fleet.etcd, "rollout/app").filter(|one| one["state"] == "done")
    });
    let second = deploy("second", 2);
    let status = |project: &str, why: &str| {
        await_some(why, || {
            let status = get(&fleet.etcd, &format!("status/one/{project}"))?;
            let said = status["message"].as_str().unwrap_or_default();
            (status["state"] == "held" && said.contains(why)).then_some(())
        });
    };
    let open = json!({"v": 1, "generation": 9, "open": 1, "below": EVERYBODY, "state": "done"});
    // What is signed for another component, or was changed, or is an older one, or is none.
    put(&fleet.etcd, "rollout/other", &open);
    put_value(&fleet.etcd, "desired/other", &second);
    status("other", "signed by nobody");
    put_value(&fleet.etcd, "desired/app", &first);
    status("app", "went back from 2 to 1");
    let huge = json!({"v": 1, "generation": 9, "x": "y".repeat(1_000_000)});
    put(&fleet.etcd, "desired/app", &huge);
    status("app", "16 KiB");
    put_value(&fleet.etcd, "desired/app", &second);
    let mut forged = get(&fleet.etcd, "desired/app").unwrap();
    forged["previous"] = forged.clone();
    forged["generation"] = 9.into();
    put(&fleet.etcd, "rollout/app", &open);
    put(&fleet.etcd, "desired/app", &forged);
    status("app", "signed by nobody");
    // Nor does who has the key sign it for them.
    for action in ["rollback", "publish_current"] {
        let change = json!({"operation": "change_fleet", "action": action, "project": "app"});
        let (code, why) = one.operate(&change).refusal();
        assert_eq!(code, "conflict", "{why}");
        assert!(why.contains("signed by nobody"), "{why}");
    }
    assert_eq!(content(&one), "second");
    put_value(&fleet.etcd, "desired/app", &second);
    fleet.await_status("one", 2, "live");
}
