//! kill -9 at every step of a deployment: a debug build parks at a named checkpoint, is killed there, and the next start must
//! make a whole thing of it. `make crash N=50` goes through the table in random order, so often, and through the moments of
//! the spare and of what was installed, whose tests are beside theirs.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::delta::{hostile, spare};
use crate::needs::is_debug_build;
use crate::reuse;
use crate::soak::random::Random;
use crate::test_server::{TempDir, TestServer, await_some, form, gzip, names, request, tar};

/// How many files a release has: whole or not is seen by all of them.
const FILES: usize = 40;

/// A component whose every file says which version it is.
fn version(n: u32) -> Vec<u8> {
    let files: Vec<(String, String)> = (0..FILES)
        .map(|file| (format!("./d{}/f{file}", file % 4), n.to_string()))
        .collect();
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(path, text)| (&**path, &**text))
        .collect();
    gzip(&tar(&files))
}

/// The list of a version's tree, and its identity.
fn list(n: u32) -> (String, Vec<u8>) {
    let mut lines = String::new();
    for dir in 0..4 {
        lines.push_str(&format!("d 755 d{dir}\n"));
        let mut names: Vec<String> = (0..FILES)
            .filter(|file| file % 4 == dir)
            .map(|file| format!("d{dir}/f{file}"))
            .collect();
        names.sort();
        for name in names {
            lines.push_str(&hostile::file(&name, &n.to_string()));
        }
    }
    hostile::list(&lines)
}

/// A version as a delta to another one.
fn delta(from: u32, n: u32) -> Vec<u8> {
    let ((base, _), (tree, list)) = (list(from), list(n));
    let content = n.to_string();
    let records = [hostile::object(&content, &content), hostile::end(1)];
    hostile::delta(Some(&base), &tree, &list, &records)
}

/// The version that a tree has, if it is whole.
fn whole(release: &Path) -> Option<u32> {
    let mut versions: Vec<String> = (0..FILES)
        .map(|file| fs::read_to_string(release.join(format!("d{}/f{file}", file % 4))).unwrap())
        .collect();
    versions.dedup();
    assert_eq!(
        versions.len(),
        1,
        "{}: of two versions: {versions:?}",
        release.display()
    );
    versions[0].parse().ok()
}

/// What is interrupted.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    /// The first deployment of the component.
    First,
    /// A second version.
    Next,
    /// A second version, as a delta to the first one.
    Delta,
    /// A rollback to a release that is there.
    Rollback,
    /// A rollback to one that was removed.
    Rebuild,
}

/// What else is broken while the server is away.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Damage {
    None,
    TornJournal,
    HalfRecord,
    NoRecord,
}

/// Each checkpoint, and whether what comes is live by then.
const CHECKPOINTS: [(&str, bool); 11] = [
    ("received", false),
    ("listed", false),
    ("stored", false),
    ("unpacked", false),
    ("installed", false),
    ("loaded", false),
    ("synced", false),
    ("switched", true),
    ("recorded", true),
    ("written", true),
    ("ended", true),
];

const DAMAGES: [Damage; 4] = [
    Damage::None,
    Damage::TornJournal,
    Damage::HalfRecord,
    Damage::NoRecord,
];

fn cases() -> Vec<(Kind, &'static str, bool)> {
    let mut cases = Vec::new();
    for kind in [
        Kind::First,
        Kind::Next,
        Kind::Delta,
        Kind::Rollback,
        Kind::Rebuild,
    ] {
        for (checkpoint, live) in CHECKPOINTS {
            let builds = ["received", "stored", "unpacked", "installed", "loaded"];
            let is_reached = match kind {
                Kind::Delta => true,
                Kind::Rollback => checkpoint != "listed" && !builds.contains(&checkpoint),
                _ => checkpoint != "listed",
            };
            if is_reached {
                cases.push((kind, checkpoint, live));
            }
        }
    }
    cases
}

/// Sends what is to be interrupted; nobody waits for its answer.
fn send(host: &TestServer, kind: Kind) -> std::net::TcpStream {
    let authorization = format!("Authorization: Bearer {}", host.token);
    let (media, body) = match kind {
        Kind::First | Kind::Next => form(
            &[("project", "demo"), ("install_command", "true")],
            &version(2),
        ),
        Kind::Delta => form(
            &[("project", "demo"), ("install_command", "true")],
            &delta(1, 2),
        ),
        Kind::Rollback | Kind::Rebuild => (
            "Content-Type: application/json".to_owned(),
            json!({"operation": "rollback_component", "project": "demo"})
                .to_string()
                .into_bytes(),
        ),
    };
    let mut stream = host.connect();
    stream
        .write_all(&request("POST", "/", &[&authorization, &media], &body))
        .unwrap();
    stream
}

fn deployed(host: &TestServer, n: u32) -> String {
    let answer = host.deploy(
        &[("project", "demo"), ("install_command", "true")],
        &version(n),
    );
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["deployment_id"].as_str().unwrap().to_owned()
}

/// Everything in the root, by path from it.
fn tree(dir: &Path, below: &str, found: &mut Vec<String>) {
    for name in names(dir) {
        let path = format!("{below}{name}");
        if dir.join(&name).symlink_metadata().unwrap().is_dir() && below.split('/').count() < 3 {
            tree(&dir.join(&name), &format!("{path}/"), found);
        }
        found.push(path);
    }
}

/// What a file system may make of the newest writes if the power goes, too.
fn damage(root: &Path, id: &str, damage: Damage) {
    let dir = root.join("deployments").join(id);
    let record = dir.join("record.json");
    match damage {
        Damage::None => {}
        Damage::TornJournal => {
            let mut journal = fs::OpenOptions::new()
                .append(true)
                .open(dir.join("events.ndjson"))
                .unwrap();
            journal
                .write_all(b"{\"id\":99,\"t\":1,\"event\":\"inst")
                .unwrap();
        }
        Damage::HalfRecord => {
            let text = fs::read(&record).unwrap();
            fs::write(&record, &text[..text.len() / 2]).unwrap();
        }
        Damage::NoRecord => fs::remove_file(&record).unwrap(),
    }
}

/// Lives through one crash.
fn crash(kind: Kind, checkpoint: &str, comes: bool, broken: Damage) {
    let what = format!("{kind:?} at {checkpoint}, {broken:?}");
    let root = Arc::new(TempDir::new());
    let host = TestServer::on(Arc::clone(&root), &[], &[]);
    let mut ids = Vec::new();
    if kind != Kind::First {
        ids.push(deployed(&host, 1));
    }
    if matches!(kind, Kind::Rollback | Kind::Rebuild) {
        ids.push(deployed(&host, 3));
    }
    if kind == Kind::Rebuild {
        fs::remove_dir_all(host.path(&format!("releases/demo/{}", ids[0]))).unwrap();
    }
    if kind == Kind::Delta {
        await_some("the list of the first", || {
            host.record(&ids[0])["tree"].as_str().map(drop)
        });
    }
    drop(host);

    let reached = root.0.with_extension("reached");
    let _ = fs::remove_file(&reached);
    let asked = format!("{checkpoint}={}", reached.display());
    let host = TestServer::on(
        Arc::clone(&root),
        &[],
        &[("GANGPLANK_TEST_CHECKPOINT", &asked)],
    );
    let stream = send(&host, kind);
    await_some(&what, || reached.exists().then_some(()));
    let id = names(&host.path("deployments")).pop().unwrap();
    // Killed without a chance to tidy up.
    drop(host);
    drop(stream);
    fs::remove_file(&reached).unwrap();
    let (old, new) = match kind {
        Kind::First => (None, 2),
        Kind::Next | Kind::Delta => (Some(1), 2),
        Kind::Rollback | Kind::Rebuild => (Some(3), 1),
    };
    let expected = if comes { Some(new) } else { old };
    let link = root.0.join("components/demo");
    let live = || link.exists().then(|| whole(&link).unwrap());
    assert_eq!(live(), expected, "{what}: before the start");
    // What has ended is on disk.
    if checkpoint != "ended" {
        damage(&root.0, &id, broken);
    }

    // Killed again right after it has listened: nothing more changes.
    drop(TestServer::on(Arc::clone(&root), &[], &[]));
    assert_eq!(live(), expected, "{what}");
    let host = TestServer::on(Arc::clone(&root), &[], &[]);
    let record = host.record(&id);
    let status: (&Value, &Value) = (&record["status"], &record["error"]["code"]);
    let right = if comes {
        (&json!("success"), &Value::Null)
    } else {
        (&json!("failed"), &json!("interrupted"))
    };
    assert_eq!(status, right, "{what}: {record}");
    let events = host
        .ask("GET", &format!("/deployments/{id}/events"), &[], b"")
        .events();
    let ends = events
        .iter()
        .filter(|event| ["done", "error"].contains(&&*event.event));
    assert_eq!(ends.count(), 1, "{what}");
    assert!(
        ["done", "error"].contains(&&*events.last().unwrap().event),
        "{what}"
    );
    assert!(
        events
            .iter()
            .zip(1..)
            .all(|(event, id)| event.id == Some(id)),
        "{what}: {events:?}"
    );

    // Nothing half made, no mark, no spool.
    let mut found = Vec::new();
    tree(&root.0, "", &mut found);
    let stray = |path: &&String| {
        path.contains("/.") || path.ends_with(".new") || path.starts_with(&format!("run/{id}"))
    };
    assert_eq!(found.iter().find(stray), None, "{what}");
    let mut releases = ids.clone();
    if kind == Kind::Rebuild && !comes {
        releases.remove(0);
    }
    if comes && matches!(kind, Kind::First | Kind::Next | Kind::Delta) {
        releases.push(id.clone());
    }
    assert_eq!(names(&root.0.join("releases/demo")), releases, "{what}");
    for release in releases {
        assert!(whole(&root.0.join("releases/demo").join(release)).is_some());
    }
    let stored = root.0.join(format!("deployments/{id}/payload")).exists();
    let uploads = matches!(kind, Kind::First | Kind::Next | Kind::Delta);
    assert_eq!(
        stored,
        uploads && !["received", "listed", "stored"].contains(&checkpoint),
        "{what}"
    );
    deployed(&host, 7);
    assert_eq!(live(), Some(7), "{what}");
}

#[test]
fn a_server_that_is_killed_anywhere_leaves_something_whole() {
    if !is_debug_build() {
        return;
    }
    let cases = cases();
    let Some(rounds) = std::env::var("GANGPLANK_CRASH")
        .ok()
        .and_then(|n| n.parse::<u64>().ok())
    else {
        for (n, (kind, checkpoint, comes)) in cases.into_iter().enumerate() {
            crash(kind, checkpoint, comes, DAMAGES[n % DAMAGES.len()]);
        }
        return;
    };
    let mut random = Random(std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos() as u64);
    let spares: Vec<&str> = spare::kills().collect();
    for round in 1..=rounds {
        let pick = random.below(cases.len() + spares.len() + reuse::KILLS.len());
        let broken = DAMAGES[random.below(DAMAGES.len())];
        if let Some((kind, checkpoint, comes)) = cases.get(pick) {
            eprintln!("{round}: {kind:?} at {checkpoint}, {broken:?}");
            crash(*kind, checkpoint, *comes, broken);
        } else if let Some(step) = spares.get(pick - cases.len()) {
            // Only root may give files to another user.
            let handed = random.below(2) == 0 && rustix::process::getuid().is_root();
            let flags: &[&str] = if handed { &["--run-as", "nobody"] } else { &[] };
            eprintln!("{round}: {step} {flags:?}, {broken:?}");
            spare::killed_at(step, flags, &|root, id| damage(root, id, broken));
        } else {
            let kill = reuse::KILLS[pick - cases.len() - spares.len()];
            eprintln!("{round}: {}", kill.0);
            reuse::killed_at(kill);
        }
    }
}
