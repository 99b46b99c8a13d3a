//! Hosts of a fleet: real servers, and a real etcd. What is wanted is written here as whoever publishes writes it.

use std::fs;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::etcd_server::EtcdServer;
use crate::ports::free_port;
use crate::test_server::{TempDir, TestServer, await_some, tar};

/// So much quicker than a host in the field: its lease lasts three seconds.
const QUICKER: (&str, &str) = ("GANGPLANK_TEST_FLEET_QUICKER", "20");
pub(crate) const EVERYBODY: &str =
    "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff";

pub(crate) fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

fn from_base64(text: &Value) -> Value {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD.decode(text.as_str().unwrap());
    serde_json::from_slice(&bytes.unwrap()).unwrap()
}

pub(crate) fn put(etcd: &EtcdServer, key: &str, value: &Value) {
    let body =
        json!({"key": base64(&format!("gangplank/{key}")), "value": base64(&value.to_string())});
    etcd.ask(0, "/v3/kv/put", &body);
}

/// A key as etcd gives it.
pub(crate) fn raw(etcd: &EtcdServer, key: &str) -> Option<Value> {
    let answer = etcd.ask(
        0,
        "/v3/kv/range",
        &json!({"key": base64(&format!("gangplank/{key}"))}),
    );
    answer["kvs"].as_array().map(|all| all[0].clone())
}

pub(crate) fn get(etcd: &EtcdServer, key: &str) -> Option<Value> {
    raw(etcd, key).map(|one| from_base64(&one["value"]))
}

/// What all hosts need.
pub(crate) struct TestFleet {
    pub(crate) etcd: EtcdServer,
    dir: TempDir,
}

impl TestFleet {
    pub(crate) fn new() -> Option<TestFleet> {
        Some(TestFleet::at(EtcdServer::start()?))
    }

    pub(crate) fn at(etcd: EtcdServer) -> TestFleet {
        let dir = TempDir::new().with(&[("token", &"5f".repeat(32))]);
        TestFleet { etcd, dir }
    }

    pub(crate) fn host(&self, name: &str) -> TestServer {
        self.host_on(name, Arc::new(TempDir::new()), &[])
    }

    /// A host that has etcd at another address, and is so much quicker.
    pub(crate) fn host_behind(&self, name: &str, etcd: &str, quicker: &str) -> TestServer {
        let root = Arc::new(TempDir::new());
        self.launch((name, root), (etcd, &[]), (QUICKER.0, quicker))
    }

    /// What a key holds.
    pub(crate) fn get(&self, key: &str) -> Option<Value> {
        get(&self.etcd, key)
    }

    pub(crate) fn host_on(&self, name: &str, root: Arc<TempDir>, more: &[&str]) -> TestServer {
        self.launch((name, root), (&self.etcd.urls(), more), QUICKER)
    }

    fn launch(
        &self,
        (name, root): (&str, Arc<TempDir>),
        (etcd, more): (&str, &[&str]),
        quicker: (&str, &str),
    ) -> TestServer {
        let port = free_port();
        let (listen, url) = (
            format!("127.0.0.1:{port}"),
            format!("http://127.0.0.1:{port}"),
        );
        let etcd = format!("etcd={etcd}");
        let token = self.dir.0.join("token");
        let mut flags = vec![
            "--listen",
            &listen,
            "--fleet",
            &etcd,
            "--fleet-name",
            name,
            "--fleet-url",
            &url,
        ];
        flags.extend(["--fleet-token-file", token.to_str().unwrap()]);
        flags.extend(more);
        TestServer::on(root, &flags, &[quicker])
    }

    /// Builds at a host what is to be published, and publishes it to everybody.
    pub(crate) fn publish(&self, generation: u64, origin: (&str, &TestServer), content: &str) {
        let desired = TestFleet::build(generation, origin, &[("./v", content)]);
        self.want(&desired, EVERYBODY);
    }

    /// Builds at a host what is to be published.
    pub(crate) fn build(
        generation: u64,
        origin: (&str, &TestServer),
        files: &[(&str, &str)],
    ) -> Value {
        let (name, server) = origin;
        let payload = tar(files);
        // The host may be making live what was published before.
        let staged = await_some("a component that is free", || {
            let answer = server.deploy(&[("project", "app"), ("activate", "false")], &payload);
            (answer.status != 409).then_some(answer)
        });
        assert_eq!(staged.status, 200, "{}", staged.text());
        let staged = staged.json();
        let id = staged["deployment_id"].as_str().unwrap();
        let record = server.record(id);
        json!({
            "v": 1, "generation": generation, "deployment_id": id, "sha256": record["payload_hash"],
            "size": record["payload_size"], "origin": name, "origin_url": format!("http://{}", server.address),
        })
    }

    /// Publishes it to the hosts whose place in the order is below this one.
    pub(crate) fn want(&self, desired: &Value, below: &str) {
        // Done, so that nobody leads it.
        let rollout = json!({
            "v": 1, "generation": desired["generation"], "open": 1, "below": below, "state": "done",
        });
        put(&self.etcd, "rollout/app", &rollout);
        put(&self.etcd, "desired/app", desired);
    }

    pub(crate) fn await_status(&self, host: &str, generation: u64, state: &str) -> Value {
        await_some(&format!("{host}: {state} at {generation}"), || {
            get(&self.etcd, &format!("status/{host}/app"))
                .filter(|one| one["generation"] == generation && one["state"] == state)
        })
    }
}

/// A host is in the fleet by this name.
pub(crate) fn await_joined(host: &TestServer, name: &str) {
    let joined = format!("joined as {name}");
    await_that("joining", || logged(host, &joined));
}

pub(crate) fn await_that(what: &str, mut is_so: impl FnMut() -> bool) {
    await_some(what, || is_so().then_some(()));
}

pub(crate) fn content(server: &TestServer) -> String {
    fs::read_to_string(server.path("components/app/v")).unwrap_or_default()
}

pub(crate) fn logged(server: &TestServer, text: &str) -> bool {
    server.log.lock().unwrap().contains(text)
}

#[test]
fn hosts_take_what_one_built_and_one_that_was_off_catches_up_without_etcd_in_between() {
    let Some(mut fleet) = TestFleet::new() else {
        return;
    };
    let (one, two) = (fleet.host("one"), fleet.host("two"));
    fleet.publish(1, ("one", &one), "first");
    for (name, host) in [("one", &one), ("two", &two)] {
        let status = fleet.await_status(name, 1, "live");
        assert_eq!(content(host), "first", "{status}");
    }
    // The payload went from one to the other, who has it now, too, as long as its lease lasts.
    let sha256 = get(&fleet.etcd, "desired/app").unwrap()["sha256"]
        .as_str()
        .unwrap()
        .to_owned();
    let have = await_some("a holder", || {
        raw(&fleet.etcd, &format!("have/{sha256}/two"))
    });
    assert!(have["lease"].is_string());
    assert!(
        raw(&fleet.etcd, "status/two/app").unwrap()["lease"].is_null(),
        "it stays when the host goes"
    );
    let host = get(&fleet.etcd, "hosts/two").unwrap();
    assert_eq!(
        host["url"].as_str().unwrap(),
        format!("http://{}", two.address)
    );
    assert!(raw(&fleet.etcd, "alive/two").unwrap()["lease"].is_string());
    // A second host of the name is refused, and what it runs is its own affair.
    let impostor = fleet.host("two");
    await_that("a refusal of the name", || {
        logged(&impostor, "name in use by http://")
    });
    drop(impostor);

    // One goes off; the others go on.
    let root = Arc::clone(&two.root);
    drop(two);
    fleet.publish(2, ("one", &one), "second");
    fleet.publish(3, ("one", &one), "third");
    fleet.await_status("one", 3, "live");
    assert_eq!(get(&fleet.etcd, "status/two/app").unwrap()["generation"], 1);
    // It starts while etcd is away, which it does not wait for, and what was live is live.
    fleet.etcd.kill(0);
    let two = fleet.host_on("two", root, &[]);
    await_that("a word of the trouble", || {
        logged(&two, "what runs here goes on")
    });
    assert_eq!(
        (content(&two).as_str(), content(&one).as_str()),
        ("first", "third")
    );
    let payload = tar(&[("./v", "local")]);
    assert_eq!(two.deploy(&[("project", "other")], &payload).status, 200);
    fleet.etcd.start_again(0);
    fleet.await_status("two", 3, "live");
    assert_eq!(content(&two), "third");
    // The generation between was never built there.
    let list = two
        .operate(&json!({"operation": "list_deployments", "project": "app"}))
        .json();
    assert_eq!(list["total"], 2, "{list}");
}

#[test]
fn a_store_that_was_put_back_or_emptied_turns_no_host_back() {
    let Some(mut fleet) = TestFleet::new() else {
        return;
    };
    let one = fleet.host("one");
    fleet.publish(1, ("one", &one), "first");
    fleet.await_status("one", 1, "live");
    let snapshot = fleet.etcd.snapshot();
    fleet.publish(2, ("one", &one), "second");
    fleet.await_status("one", 2, "live");
    let memory: Value =
        serde_json::from_str(&fs::read_to_string(one.path("run/fleet.json")).unwrap()).unwrap();
    assert_eq!(memory["projects"]["app"]["generation"], 2);
    fleet.etcd.restore(Some(snapshot));
    let held = fleet.await_status("one", 2, "held");
    assert!(
        held["message"]
            .as_str()
            .unwrap()
            .contains("went back from 2 to 1"),
        "{held}"
    );
    assert_eq!(content(&one), "second");
    fleet.etcd.restore(None);
    let held = await_some("a status in the emptied store", || {
        get(&fleet.etcd, "status/one/app")
    });
    assert_eq!(held["state"], "held", "{held}");
    assert!(
        held["message"].as_str().unwrap().contains("emptied"),
        "{held}"
    );
    assert!(
        get(&fleet.etcd, "hosts/one").is_some(),
        "it is expected again"
    );
    assert_eq!(content(&one), "second");
    // What is published above all that was known ends it.
    fleet.publish(3, ("one", &one), "third");
    fleet.await_status("one", 3, "live");
    assert_eq!(content(&one), "third");
}

#[test]
fn a_host_comes_back_after_a_frozen_etcd_and_a_compaction() {
    let Some(fleet) = TestFleet::new() else {
        return;
    };
    let one = fleet.host("one");
    fleet.publish(1, ("one", &one), "first");
    fleet.await_status("one", 1, "live");
    let lease = |etcd: &EtcdServer| raw(etcd, "alive/one").map(|one| one["lease"].clone());
    let before = lease(&fleet.etcd).unwrap();
    // Longer than the lease lasts, and than a watch is believed.
    fleet.etcd.signal(0, "-STOP");
    std::thread::sleep(std::time::Duration::from_secs(4));
    fleet.etcd.signal(0, "-CONT");
    await_that("another lease", || {
        lease(&fleet.etcd).is_some_and(|now| now != before)
    });
    let at = raw(&fleet.etcd, "alive/one").unwrap()["mod_revision"].clone();
    fleet
        .etcd
        .ask(0, "/v3/kv/compaction", &json!({"revision": at}));
    fleet.publish(2, ("one", &one), "second");
    fleet.await_status("one", 2, "live");
}

#[test]
fn a_host_needs_no_right_but_to_its_own_keys_and_lives_on_without_them() {
    let Some(mut fleet) = TestFleet::new() else {
        return;
    };
    let dir = TempDir::new().with(&[("password", "secret\n")]);
    let password = dir.0.join("password");
    // The operator expects the host, and lets it write what is its own.
    put(
        &fleet.etcd,
        "hosts/one",
        &json!({"v": 1, "url": "", "joined_at": 1}),
    );
    put(&fleet.etcd, "desired/app", &json!({"v": 2}));
    fleet.etcd.with_users(&[
        ("gangplank/desired/", "READ"),
        ("gangplank/rollout/", "READ"),
        ("gangplank/hosts/", "READ"),
        ("gangplank/have/", "READWRITE"),
        ("gangplank/alive/", "READWRITE"),
        ("gangplank/status/one/", "READWRITE"),
    ]);
    let flags = [
        "--fleet-user",
        "host",
        "--fleet-password-file",
        password.to_str().unwrap(),
    ];
    let start = |name| fleet.host_on(name, Arc::new(TempDir::new()), &flags);
    let one = start("one");
    await_joined(&one, "one");
    let two = start("two");
    await_that("a refusal", || logged(&two, "permission denied"));
    assert!(!logged(&two, "joined"));
    // An etcd with users answers nobody without one.
    let stranger = fleet.host("three");
    await_that("a refusal", || {
        logged(&stranger, "it wants a user and a password")
    });
    drop((two, stranger));
    // A user that is taken away: what runs there goes on, and the fleet is told nothing any longer.
    fleet.etcd.as_root();
    let user = json!({"name": "host", "password": "secret"});
    fleet.etcd.ask(0, "/v3/auth/user/delete", &user);
    await_that("a word of the trouble", || {
        logged(&one, "what runs here goes on")
    });
    assert!(logged(&one, "logging in as host"));
    await_that("the end of its lease", || {
        raw(&fleet.etcd, "alive/one").is_none()
    });
    let payload = tar(&[("./v", "local")]);
    assert_eq!(one.deploy(&[("project", "other")], &payload).status, 200);
    fleet.etcd.ask(0, "/v3/auth/user/add", &user);
    let role = json!({"user": "host", "role": "host"});
    fleet.etcd.ask(0, "/v3/auth/user/grant", &role);
    await_that("its return", || raw(&fleet.etcd, "alive/one").is_some());
}
