//! A server starts on a disk that lost its power at a named moment. `make power N=10` loses it so often at each of them.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::disk::{Disk, Flushed, have_disks};
use crate::needs::is_debug_build;
use crate::test_server::{BINARY, TempDir, TestServer, await_some, bare, form, gzip, request, tar};

/// How many files a release has: whole or not is seen by all of them.
const FILES: usize = 20;
/// A start finds what ran and runs it within this time on a busy machine.
const STARTING: Duration = Duration::from_secs(15);

/// What a start made of the disk: the status of the newest deployment, the version that is live, and the one that runs.
type State = (&'static str, Option<u32>, Option<u32>);
/// One moment: a function that lives through it, and says what was wrong after the start.
type Moment = (&'static str, fn(Flushed) -> Result<(), String>);

const MOMENTS: [Moment; 19] = [
    ("the first start", first_start),
    ("a token is revoked and another one is added", tokens),
    ("a deployment is answered", answered),
    ("a deployment with a key is answered", answered_with_key),
    (
        "the first deployment with a restart is answered",
        |flushed| restarted(flushed, 1),
    ),
    (
        "the second deployment with a restart is answered",
        |flushed| restarted(flushed, 2),
    ),
    ("a rollback is answered", rolled_back),
    ("a component is dropped", dropped),
    (
        "the old processes are stopped, the new one is not healthy and will be",
        |flushed| health_wait(flushed, true),
    ),
    (
        "the old processes are stopped, the new one is not healthy and stays so",
        |flushed| health_wait(flushed, false),
    ),
    ("the release is on disk", |flushed| {
        parked(flushed, "synced")
    }),
    ("the link is renamed", |flushed| parked(flushed, "switched")),
    (
        "the link is renamed, and a restart is to come",
        switched_with_restart,
    ),
    ("the end is in the journal", |flushed| {
        parked(flushed, "recorded")
    }),
    ("the record says so", |flushed| parked(flushed, "written")),
    ("the record is on disk", |flushed| parked(flushed, "ended")),
    (
        "a deployment is answered, releases are on another file system",
        |flushed| elsewhere(flushed, &["", "releases"]),
    ),
    (
        "a deployment is answered, deployments are on another file system",
        |flushed| elsewhere(flushed, &["", "deployments"]),
    ),
    ("any", anywhere),
];

/// A disk, and a directory beside it that decides what is healthy.
struct World {
    disk: Disk,
    control: TempDir,
}

impl World {
    fn new(parts: &'static [&'static str]) -> World {
        let control =
            TempDir::new().with(&[("healthy-1", ""), ("healthy-2", ""), ("healthy-3", "")]);
        World {
            disk: Disk::new(parts),
            control,
        }
    }

    fn start(&self) -> TestServer {
        self.disk.start(&[])
    }

    /// Loses the power, and starts a server on what is left.
    fn restart(self, host: TestServer, flushed: Flushed) -> (World, TestServer) {
        let disk = self.disk.lose_power(host, flushed);
        let world = World {
            disk,
            control: self.control,
        };
        let host = world.start();
        (world, host)
    }

    /// A component whose every file says which version it is. It is healthy when a file says so.
    fn payload(&self, version: u32) -> Vec<u8> {
        let control = self.control.0.display();
        let health =
            format!("touch {control}/asked-{version}; test -e {control}/healthy-{version}");
        let manifest = json!({"health": {"command": health}, "health_timeout": 3}).to_string();
        // More than fits into an inode, so that there is content to lose.
        let content = format!("{version}\n").repeat(3_000);
        let mut files = vec![
            ("./Procfile".to_owned(), "web: exec sleep 1000\n"),
            ("./gangplank.json".to_owned(), manifest.as_str()),
        ];
        files.extend((0..FILES).map(|file| (format!("./d{}/f{file}", file % 4), content.as_str())));
        let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (&**path, *text)).collect();
        gzip(&tar(&files))
    }

    fn deploy(&self, host: &TestServer, version: u32, more: &[(&str, &str)]) -> String {
        let fields: Vec<(&str, &str)> = [("project", "demo")].iter().chain(more).copied().collect();
        // One whose end stands in its record already may hold the component for a moment.
        let answer = await_some("the end of the one before", || {
            let answer = host.deploy(&fields, &self.payload(version));
            (answer.status != 409).then_some(answer)
        });
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["deployment_id"].as_str().unwrap().to_owned()
    }

    /// Sends a deployment whose answer nobody waits for.
    fn send(&self, host: &TestServer, version: u32, more: &[(&str, &str)]) -> TcpStream {
        let authorization = format!("Authorization: Bearer {}", host.token);
        let fields: Vec<(&str, &str)> = [("project", "demo")].iter().chain(more).copied().collect();
        let (media, body) = form(&fields, &self.payload(version));
        let mut stream = host.connect();
        let request = request("POST", "/", &[&authorization, &media], &body);
        stream.write_all(&request).unwrap();
        stream
    }

    /// The start must come to one of these states; the next deployment must work.
    fn check(&self, host: &TestServer, expected: &[State]) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            let seen = seen(host)?;
            let known = expected.iter().any(|(status, live, runs)| {
                (*status, *live, *runs) == (seen.0.as_str(), seen.1, seen.2)
            });
            if known {
                break;
            }
            if begun.elapsed() > STARTING {
                let log = host.log.lock().unwrap();
                // Without our own questions.
                let asked = ["list_deployments", "get_components"];
                let told = |line: &&str| !asked.iter().any(|asked| line.contains(asked));
                let log = log.lines().filter(told).collect::<Vec<_>>().join("\n");
                return Err(format!("status, live, running: {seen:?}\n{log}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.deploy(host, 3, &[("restart", "true")]);
        match seen(host)? {
            (status, Some(3), Some(3)) if status == "success" => Ok(()),
            seen => Err(format!("after the next deployment: {seen:?}")),
        }
    }
}

/// The version that a tree has, if it is whole.
fn whole(release: &Path) -> Result<u32, String> {
    let mut version = None;
    for file in 0..FILES {
        let path = release.join(format!("d{}/f{file}", file % 4));
        let text =
            fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let first = text.lines().next().and_then(|line| line.parse().ok());
        let complete = first.is_some_and(|n: u32| text == format!("{n}\n").repeat(3_000));
        if !complete || version.is_some_and(|version| Some(version) != first) {
            return Err(format!(
                "{} is not whole: {} bytes",
                path.display(),
                text.len()
            ));
        }
        version = first;
    }
    version.ok_or_else(|| "a release without files".to_owned())
}

/// What there is now: the newest deployment's status, what is live, and what runs.
fn seen(host: &TestServer) -> Result<(String, Option<u32>, Option<u32>), String> {
    let list = host
        .operate(&json!({"operation": "list_deployments", "limit": 1}))
        .json();
    let status = list["deployments"][0]["status"]
        .as_str()
        .unwrap_or("none")
        .to_owned();
    let link = host.path("components/demo");
    let live = match fs::read_link(&link) {
        // Not through the link itself: it may be looked at from another mount namespace.
        Ok(target) => Some(whole(&host.path("components").join(target))?),
        Err(_) => None,
    };
    let components = host.operate(&json!({"operation": "get_components"})).json();
    let process = &components["components"][0]["processes"][0];
    let runs = match (process["pid"].as_u64(), process["release_id"].as_str()) {
        (Some(_), Some(id)) => Some(whole(&host.path("releases/demo").join(id))?),
        _ => None,
    };
    Ok((status, live, runs))
}

fn first_start(flushed: Flushed) -> Result<(), String> {
    let world = World::new(&[""]);
    let host = world.start();
    let (world, host) = world.restart(host, flushed);
    // With the token that the first start has made, as the file says.
    world.deploy(&host, 1, &[]);
    Ok(())
}

fn tokens(flushed: Flushed) -> Result<(), String> {
    let world = World::new(&[""]);
    let host = world.start();
    let pid = host.server.id().to_string();
    let token = |words: &[&str]| {
        let mut command = bare("nsenter");
        command
            .args(["-m", "-t", &pid, BINARY, "token"])
            .args(words);
        let output = command.arg("--root").arg(&host.root.0).output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let revoked = token(&["add", "revoked", "--role", "read"]);
    let added = token(&["add", "added", "--role", "read"]);
    token(&["revoke", "revoked"]);
    let (_world, host) = world.restart(host, flushed);
    for (token, status) in [(added, 200), (revoked, 401)] {
        let authorization = format!("Authorization: Bearer {token}");
        let list = br#"{"operation":"list_deployments"}"#;
        let headers = [authorization.as_str(), "Content-Type: application/json"];
        let answer = host.ask_as_anyone("POST", "/", &headers, list);
        if answer.status != status {
            let of = if status == 200 { "added" } else { "revoked" };
            return Err(format!("{} for the {of} token", answer.status));
        }
    }
    Ok(())
}

fn answered(flushed: Flushed) -> Result<(), String> {
    elsewhere(flushed, &[""])
}

fn elsewhere(flushed: Flushed, parts: &'static [&'static str]) -> Result<(), String> {
    let world = World::new(parts);
    let host = world.start();
    world.deploy(&host, 1, &[]);
    let id = world.deploy(&host, 2, &[]);
    let (world, host) = world.restart(host, flushed);
    let asked = json!({"operation": "get_deployment_payload", "deployment_id": id});
    let answer = host.operate(&asked);
    if answer.body != world.payload(2) {
        return Err(format!(
            "the payload: {}, {} bytes",
            answer.status,
            answer.body.len()
        ));
    }
    world.check(&host, &[("success", Some(2), None)])
}

fn answered_with_key(flushed: Flushed) -> Result<(), String> {
    let world = World::new(&[""]);
    let host = world.start();
    let deploy = |world: &World, host: &TestServer| {
        let (media, body) = form(&[("project", "demo")], &world.payload(1));
        let answer = host.ask("POST", "/", &[&media, "Idempotency-Key: once"], &body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["deployment_id"].as_str().unwrap().to_owned()
    };
    let id = deploy(&world, &host);
    let (world, host) = world.restart(host, flushed);
    let again = deploy(&world, &host);
    if again != id {
        return Err(format!("deployed again: {id}, then {again}"));
    }
    world.check(&host, &[("success", Some(1), None)])
}

fn restarted(flushed: Flushed, versions: u32) -> Result<(), String> {
    let world = World::new(&[""]);
    let host = world.start();
    for version in 1..=versions {
        world.deploy(&host, version, &[("restart", "true")]);
    }
    let (world, host) = world.restart(host, flushed);
    world.check(&host, &[("success", Some(versions), Some(versions))])
}

fn rolled_back(flushed: Flushed) -> Result<(), String> {
    let world = World::new(&[""]);
    let host = world.start();
    world.deploy(&host, 1, &[("restart", "true")]);
    world.deploy(&host, 2, &[("restart", "true")]);
    let back = json!({"operation": "rollback_component", "project": "demo", "restart": true});
    let answer = host.operate(&back);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let (world, host) = world.restart(host, flushed);
    world.check(&host, &[("success", Some(1), Some(1))])
}

fn dropped(flushed: Flushed) -> Result<(), String> {
    let world = World::new(&[""]);
    let host = world.start();
    world.deploy(&host, 1, &[("restart", "true")]);
    let answer = host.operate(&json!({"operation": "drop_component", "project": "demo"}));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let (world, host) = world.restart(host, flushed);
    world.check(&host, &[("success", None, None)])
}

fn health_wait(flushed: Flushed, healthy: bool) -> Result<(), String> {
    let world = World::new(&[""]);
    let host = world.start();
    world.deploy(&host, 1, &[("restart", "true")]);
    fs::remove_file(world.control.0.join("healthy-2")).unwrap();
    let _stream = world.send(&host, 2, &[("restart", "true")]);
    let asked = world.control.0.join("asked-2");
    await_some("the wait for health", || asked.exists().then_some(()));
    let control = world.control.0.clone();
    let disk = world.disk.lose_power(host, flushed);
    if healthy {
        fs::write(control.join("healthy-2"), "").unwrap();
    }
    let world = World {
        disk,
        control: world.control,
    };
    let host = world.start();
    let back: [State; 2] = [
        ("rolled_back", Some(1), Some(1)),
        ("failed", Some(1), Some(1)),
    ];
    let forth: State = ("success", Some(2), Some(2));
    let expected: Vec<State> = back.into_iter().chain(healthy.then_some(forth)).collect();
    world.check(&host, &expected)
}

fn parked(flushed: Flushed, checkpoint: &str) -> Result<(), String> {
    const BACK: State = ("failed", Some(1), None);
    const FORTH: State = ("success", Some(2), None);
    let (world, host) = park(flushed, checkpoint, &[]);
    let expected: &[State] = match checkpoint {
        "synced" => &[BACK],
        // The new link is not synced yet, and may have reached the disk all the same.
        "switched" => &[BACK, FORTH],
        _ => &[FORTH],
    };
    world.check(&host, expected)
}

fn switched_with_restart(flushed: Flushed) -> Result<(), String> {
    let (world, host) = park(flushed, "switched", &[("restart", "true")]);
    world.check(
        &host,
        &[
            ("success", Some(2), Some(2)),
            ("rolled_back", Some(1), Some(1)),
            ("failed", Some(1), Some(1)),
        ],
    )
}

/// Loses the power when the second deployment comes to a checkpoint, and starts a server on what is left.
fn park(flushed: Flushed, checkpoint: &str, more: &[(&str, &str)]) -> (World, TestServer) {
    let world = World::new(&[""]);
    let host = world.start();
    world.deploy(&host, 1, more);
    // Only the next server is to know of the checkpoint.
    let disk = world.disk.lose_power(host, Flushed::Everything);
    let world = World {
        disk,
        control: world.control,
    };
    let reached = world.control.0.join("reached");
    let asked = format!("{checkpoint}={}", reached.display());
    let host = world.disk.start(&[("GANGPLANK_TEST_CHECKPOINT", &asked)]);
    let _stream = world.send(&host, 2, more);
    await_some("the checkpoint", || reached.exists().then_some(()));
    world.restart(host, flushed)
}

fn anywhere(flushed: Flushed) -> Result<(), String> {
    let world = World::new(&[""]);
    let host = world.start();
    world.deploy(&host, 1, &[("restart", "true")]);
    let _stream = world.send(&host, 2, &[("restart", "true")]);
    let nanos = std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos();
    // A deployment here takes about a third of a second. This is the moment, and not a wait for something.
    std::thread::sleep(Duration::from_micros(u64::from(nanos / 1_000) % 400_000));
    let (world, host) = world.restart(host, flushed);
    world.check(
        &host,
        &[
            // It had not begun, for all that the disk knows.
            ("success", Some(1), Some(1)),
            ("failed", Some(1), Some(1)),
            ("rolled_back", Some(1), Some(1)),
            ("success", Some(2), Some(2)),
        ],
    )
}

/// Lives through a moment; a panic is a fault, too.
fn live_through(moment: Moment, flushed: Flushed) -> Option<String> {
    match catch_unwind(AssertUnwindSafe(|| moment.1(flushed))) {
        Ok(outcome) => outcome.err(),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            Some(text.unwrap_or_else(|| "a panic".to_owned()))
        }
    }
}

#[test]
fn a_disk_that_lost_its_power_at_any_moment_starts_with_what_was_told() {
    if !is_debug_build() || !have_disks() {
        return;
    }
    let asked = std::env::var("GANGPLANK_POWER")
        .ok()
        .and_then(|n| n.parse().ok());
    let only = std::env::var("GANGPLANK_POWER_MOMENT").unwrap_or_default();
    // By default each moment once, with every other one the worse for a commit.
    let rounds: Vec<(Moment, Flushed)> = MOMENTS
        .into_iter()
        .enumerate()
        .filter(|(_, moment)| moment.0.contains(&only))
        .flat_map(|(n, moment)| {
            (0..asked.unwrap_or(1)).map(move |round| {
                let flushed = [Flushed::Names, Flushed::Nothing][(n + round) % 2];
                (moment, flushed)
            })
        })
        .collect();
    let (next, faults) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    // Most of a round is waiting.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some((moment, flushed)) = rounds.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    if let Some(fault) = live_through(*moment, *flushed) {
                        faults.lock().unwrap().push((moment.0, *flushed, fault));
                    }
                }
            });
        }
    });
    let faults = faults.into_inner().unwrap();
    for (name, _) in MOMENTS.iter().filter(|_| asked.is_some()) {
        let of = |name: &str| faults.iter().filter(|fault| fault.0 == name).count();
        let all = rounds
            .iter()
            .filter(|(moment, _)| moment.0 == *name)
            .count();
        eprintln!("{} of {all}: {name}", of(name));
    }
    let told: Vec<String> = faults
        .iter()
        .map(|(name, flushed, fault)| {
            format!("power lost when: {name}; flushed: {flushed:?}: {fault}")
        })
        .collect();
    assert!(told.is_empty(), "{}", told.join("\n"));
}
