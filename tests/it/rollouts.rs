//! Rollouts to real servers that share a real etcd: canaries, hosts that are off or full, two people at once, a rollback in the
//! middle, an etcd and a leader that are killed.

use std::fs;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::etcd_server::EtcdServer;
use crate::needs::is_debug_build;
use crate::ports::free_port;
use crate::test_server::{TempDir, TestServer, await_some};

/// Servers that share an etcd.
struct Hosts {
    etcd: EtcdServer,
    dir: TempDir,
    servers: Vec<Option<TestServer>>,
    roots: Vec<Arc<TempDir>>,
    ports: Vec<u16>,
    more: Vec<String>,
}

impl Hosts {
    fn start(count: usize, more: &[&str]) -> Option<Hosts> {
        if !is_debug_build() {
            return None;
        }
        let etcd = EtcdServer::start()?;
        let dir = TempDir::new();
        fs::write(dir.0.join("token"), "ab".repeat(32)).unwrap();
        let mut hosts = Hosts {
            etcd,
            dir,
            servers: Vec::new(),
            roots: (0..count).map(|_| Arc::new(TempDir::new())).collect(),
            ports: (0..count).map(|_| free_port()).collect(),
            more: more.iter().map(|flag| (*flag).to_owned()).collect(),
        };
        for n in 0..count {
            let server = hosts.launch(n, &[]);
            hosts.servers.push(Some(server));
        }
        for n in 0..count {
            await_some("the host joins", || hosts.is_alive(n).then_some(()));
        }
        Some(hosts)
    }

    fn launch(&self, n: usize, more: &[&str]) -> TestServer {
        let token = self.dir.0.join("token");
        let mut flags: Vec<String> = [
            "--listen".to_owned(),
            format!("127.0.0.1:{}", self.ports[n]),
            "--fleet".to_owned(),
            format!("etcd={}", self.etcd.urls()),
            "--fleet-name".to_owned(),
            format!("h{n}"),
            "--fleet-url".to_owned(),
            format!("http://127.0.0.1:{}", self.ports[n]),
            "--fleet-token-file".to_owned(),
            token.display().to_string(),
            "--fleet-label".to_owned(),
            format!("is={}", if n == 0 { "first" } else { "other" }),
        ]
        .to_vec();
        flags.extend(self.more.iter().cloned());
        let flags: Vec<&str> = flags
            .iter()
            .map(String::as_str)
            .chain(more.iter().copied())
            .collect();
        // Leases and pauses of a fifteenth: a second in place of minutes.
        let quicker = [("GANGPLANK_TEST_FLEET_QUICKER", "15")];
        TestServer::on(Arc::clone(&self.roots[n]), &flags, &quicker)
    }

    fn host(&self, n: usize) -> &TestServer {
        self.servers[n].as_ref().unwrap()
    }

    fn kill(&mut self, n: usize) {
        self.servers[n] = None;
    }

    fn start_again(&mut self, n: usize, more: &[&str]) {
        self.servers[n] = None;
        self.servers[n] = Some(self.launch(n, more));
    }

    fn is_alive(&self, n: usize) -> bool {
        let any = self.servers.iter().flatten().next().unwrap();
        let fleet = any.operate(&json!({"operation": "get_fleet"})).json();
        let name = format!("h{n}");
        let hosts = fleet["hosts"].as_array().cloned().unwrap_or_default();
        hosts
            .iter()
            .any(|one| one["host"] == *name && one["alive"] == true)
    }

    /// A component whose content is this text; `release` is run on each host before it goes live.
    fn app(&self, text: &str, release: &str) -> PathBuf {
        let dir = self.dir.0.join(format!("app-{text}"));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("v"), text).unwrap();
        fs::write(dir.join("Procfile"), format!("release: {release}\n")).unwrap();
        dir
    }

    /// `gangplank deploy --fleet` at a host.
    fn deploy(&self, n: usize, text: &str, release: &str, flags: &[&str]) -> Output {
        let app = self.app(text, release);
        let mut command = vec![
            "deploy",
            app.to_str().unwrap(),
            "--project",
            "demo",
            "--fleet",
        ];
        command.extend(["--progress", "plain"]);
        if !flags.contains(&"--soak") {
            command.extend(["--soak", "0s"]);
        }
        command.extend(flags);
        self.host(n).cli(&command)
    }

    /// What is live on each host.
    fn live(&self) -> Vec<String> {
        let read = |root: &Arc<TempDir>| fs::read_to_string(root.0.join("components/demo/v"));
        self.roots
            .iter()
            .map(|root| read(root).unwrap_or_default())
            .collect()
    }

    fn await_live(&self, what: &str, text: &str) {
        await_some(what, || {
            self.live().iter().all(|one| one == text).then_some(())
        });
    }

    fn view(&self) -> Value {
        let any = self.servers.iter().flatten().next().unwrap();
        let asked = json!({"operation": "get_fleet", "project": "demo"});
        any.operate(&asked).json()["projects"][0].clone()
    }

    fn await_view(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        await_some(what, || Some(self.view()).filter(|view| is(view)))
    }
}

fn exit(output: &Output, expected: i32) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(expected), "{said}");
    said
}

#[test]
fn eight_hosts_go_in_waves_stop_at_a_bad_canary_and_come_back() {
    let Some(mut hosts) = Hosts::start(8, &[]) else {
        return;
    };
    // A good canary, and then everybody.
    let said = exit(&hosts.deploy(0, "1", "true", &["--wave", "50%"]), 0);
    assert_eq!(hosts.live(), vec!["1"; 8]);
    for n in 0..8 {
        assert!(said.contains(&format!("h{n}: live")), "{said}");
    }
    assert!(said.contains("8 of 8 hosts live"), "{said}");
    // A bad canary: one host tries it, and nobody else does.
    let said = exit(
        &hosts.deploy(3, "2", "echo no; exit 1", &["--wave", "50%"]),
        1,
    );
    assert!(
        said.contains("it was stopped; 0 of 8 hosts are live"),
        "{said}"
    );
    assert_eq!(hosts.live(), vec!["1"; 8]);
    let states = hosts.view();
    let states = states["hosts"].as_array().unwrap().clone();
    let failed = states.iter().filter(|one| one["state"] == "failed").count();
    assert_eq!(failed, 1, "{states:#?}");
    // Two at once: the second one is told of the first before its upload.
    let gate = hosts.dir.0.join("gate");
    let slow = hosts.app("3", "true");
    let begun = hosts.dir.0.join("begun");
    let install = format!(
        "touch {}; until test -e {}; do sleep 0.02; done",
        begun.display(),
        gate.display()
    );
    let first = [
        "deploy",
        slow.to_str().unwrap(),
        "--project",
        "demo",
        "--fleet",
        "--soak",
        "0s",
    ];
    let mut first = hosts.host(1).cli_command(&first);
    first
        .args(["--install-command", &install])
        .stderr(Stdio::piped())
        .stdout(Stdio::piped());
    let first = first.spawn().unwrap();
    await_some("the first one's installation", || {
        begun.exists().then_some(())
    });
    let said = exit(&hosts.deploy(2, "4", "true", &[]), 6);
    assert!(
        said.contains("being deployed to the fleet from h1 for admin"),
        "{said}"
    );
    // Nobody waits for one that is off, and it catches up when it is back.
    hosts.kill(7);
    await_some("h7 is off", || (!hosts.is_alive(7)).then_some(()));
    fs::write(&gate, "").unwrap();
    let said = exit(&first.wait_with_output().unwrap(), 1);
    assert!(
        said.contains("7 of 8 hosts are live; h7 is absent"),
        "{said}"
    );
    assert_eq!(hosts.live()[7], "1");
    hosts.start_again(7, &[]);
    hosts.await_live("h7 catches up", "3");
}

#[test]
fn a_full_disk_a_rollback_in_the_middle_and_ends_of_etcd_and_of_the_leader() {
    let Some(mut hosts) = Hosts::start(4, &[]) else {
        return;
    };
    exit(&hosts.deploy(0, "1", "true", &[]), 0);
    // A disk without room: that host fails, says why, and keeps what it had.
    hosts.start_again(3, &["--min-free-disk", "9000000G"]);
    let said = exit(&hosts.deploy(0, "2", "true", &["--max-failures", "1"]), 1);
    assert!(said.contains("h3: failed"), "{said}");
    assert_eq!(hosts.live(), ["2", "2", "2", "1"]);
    let view = hosts.view();
    let full = view["hosts"]
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["host"] == "h3")
        .cloned();
    assert_eq!(full.unwrap()["code"], "no_space");
    hosts.start_again(3, &[]);
    exit(&hosts.deploy(0, "3", "true", &[]), 0);
    // A rollback in the middle of a rollout goes everywhere at once.
    exit(
        &hosts.deploy(1, "4", "true", &["--soak", "1h", "--detach"]),
        0,
    );
    hosts.await_view("the canary soaks", |view| view["rollout"] == "soak");
    assert_eq!(hosts.live().iter().filter(|one| *one == "4").count(), 1);
    let back = hosts.host(2).cli(&["rollback", "demo", "--fleet"]);
    exit(&back, 0);
    assert_eq!(hosts.live(), vec!["3"; 4]);
    // Without etcd nothing begins, what runs runs, and what was begun goes on when it is back.
    exit(
        &hosts.deploy(1, "5", "true", &["--soak", "1h", "--detach"]),
        0,
    );
    hosts.await_view("the canary soaks", |view| view["rollout"] == "soak");
    hosts.etcd.kill(0);
    let said = exit(&hosts.deploy(2, "6", "true", &["--replace"]), 6);
    assert!(said.contains("(fleet_unavailable)"), "{said}");
    assert_eq!(hosts.live().iter().filter(|one| *one == "5").count(), 1);
    hosts.etcd.start_again(0);
    // A new deployment takes its place, and its leader is killed in the midst of it.
    await_some("etcd is heard of", || hosts.is_alive(1).then_some(()));
    exit(
        &hosts.deploy(
            1,
            "6",
            "true",
            &["--replace", "--canary", "2", "--soak", "2s", "--detach"],
        ),
        0,
    );
    let view = hosts.await_view("somebody leads", |view| view["leader"].is_string());
    let leader: usize = view["leader"].as_str().unwrap()[1..].parse().unwrap();
    hosts.await_view("the canaries", |view| view["live"].as_u64() >= Some(2));
    hosts.kill(leader);
    hosts.start_again(leader, &[]);
    let followed = hosts
        .host((leader + 1) % 4)
        .cli(&["fleet", "demo", "--follow"]);
    exit(&followed, 0);
    hosts.await_live("all of them", "6");
}

#[test]
fn a_host_with_a_trust_takes_only_what_is_signed() {
    let keys = TempDir::new();
    let key = keys.0.join("key");
    let made = crate::test_server::gangplank()
        .args(["fleet", "key", key.to_str().unwrap()])
        .env("GANGPLANK_ROOT", &keys.0)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let trust = format!("{}.pub", key.display());
    let Some(mut hosts) = Hosts::start(2, &["--fleet-trust", &trust]) else {
        return;
    };
    let said = exit(&hosts.deploy(0, "1", "true", &[]), 1);
    assert!(said.contains("is not signed"), "{said}");
    assert_eq!(hosts.live(), ["", ""]);
    hosts.start_again(0, &["--fleet-key", key.to_str().unwrap()]);
    await_some("h0 is back", || hosts.is_alive(0).then_some(()));
    exit(&hosts.deploy(0, "2", "true", &["--replace"]), 0);
    assert_eq!(hosts.live(), ["2", "2"]);
}

#[test]
fn a_pinned_component_is_left_alone_until_it_is_unpinned() {
    let Some(hosts) = Hosts::start(2, &[]) else {
        return;
    };
    exit(&hosts.deploy(0, "1", "true", &[]), 0);
    exit(&hosts.host(1).cli(&["fleet", "pin", "demo"]), 0);
    hosts.await_view("h1 is pinned", |view| {
        let rows = view["hosts"].as_array();
        rows.is_some_and(|rows| {
            rows.iter()
                .any(|one| one["host"] == "h1" && one["state"] == "pinned")
        })
    });
    let said = exit(&hosts.deploy(0, "2", "true", &[]), 1);
    assert!(said.contains("h1 is pinned"), "{said}");
    assert_eq!(hosts.live(), ["2", "1"]);
    exit(&hosts.host(1).cli(&["fleet", "unpin", "demo"]), 0);
    hosts.await_live("h1 follows again", "2");
}
