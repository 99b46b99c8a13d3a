//! Damaged files and full disks: a start runs what ran, says what it found, and one component's damage is that component's.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::needs::{have, is_debug_build, is_root, may};
use crate::test_server::{
    BINARY, TempDir, TestServer, await_some, bare, form, gzip, names, request, tar,
};

/// A component that runs, and says its version in a file.
fn payload(version: &str) -> Vec<u8> {
    gzip(&tar(&[
        ("./version", version),
        ("./Procfile", "web: sleep 1000\n"),
    ]))
}

fn deployed(host: &TestServer, project: &str, restart: &str) -> String {
    let fields = [("project", project), ("restart", restart)];
    let answer = host.deploy(&fields, &payload("1"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["deployment_id"].as_str().unwrap().to_owned()
}

fn said(host: &TestServer, what: &str) -> String {
    await_some(what, || {
        let log = host.log.lock().unwrap();
        log.lines()
            .find(|line| line.contains(what))
            .map(str::to_owned)
    })
}

/// Whether a component's process runs.
fn runs(host: &TestServer, project: &str) -> bool {
    let components = host.operate(&json!({"operation": "get_components"})).json();
    let components = components["components"].as_array().unwrap().clone();
    let mut of = components.iter().filter(|one| one["project"] == project);
    of.any(|one| one["processes"][0]["pid"].is_u64())
}

/// Starts a deployment of `demo` that parks at a checkpoint, and kills the server there.
fn killed_at(host: TestServer, checkpoint: &str, root: &Arc<TempDir>) -> String {
    drop(host);
    let reached = root.0.with_extension("reached");
    let _ = fs::remove_file(&reached);
    let asked = format!("{checkpoint}={}", reached.display());
    let host = TestServer::on(
        Arc::clone(root),
        &[],
        &[("GANGPLANK_TEST_CHECKPOINT", &asked)],
    );
    let (media, body) = form(&[("project", "demo")], &payload("2"));
    let authorization = format!("Authorization: Bearer {}", host.token);
    let mut stream = host.connect();
    stream
        .write_all(&request("POST", "/", &[&authorization, &media], &body))
        .unwrap();
    await_some(checkpoint, || reached.exists().then_some(()));
    fs::remove_file(&reached).unwrap();
    newest(&root.0)
}

fn newest(root: &Path) -> String {
    names(&root.join("deployments")).pop().unwrap()
}

/// What is done to a root while its server is away, by the deployment that was killed at `switched`, and what the log says.
type Damage = (&'static str, fn(&Path, &str), &'static str);

const DAMAGES: [Damage; 8] = [
    (
        "a head of zeros",
        |root, id| {
            let journal = root.join(format!("deployments/{id}/events.ndjson"));
            let length = fs::metadata(&journal).unwrap().len();
            fs::write(journal, vec![0; usize::try_from(length).unwrap()]).unwrap();
        },
        "its journal is damaged",
    ),
    (
        "a first line of rubbish",
        |root, id| {
            let journal = root.join(format!("deployments/{id}/events.ndjson"));
            let text = fs::read_to_string(&journal).unwrap();
            let rest = text.split_once('\n').unwrap().1;
            fs::write(journal, format!("rubbish\n{rest}")).unwrap();
        },
        "its journal is damaged",
    ),
    (
        "a journal that is a directory",
        |root, id| {
            let journal = root.join(format!("deployments/{id}/events.ndjson"));
            fs::remove_file(&journal).unwrap();
            fs::create_dir_all(journal.join("below")).unwrap();
        },
        "its journal is damaged",
    ),
    (
        "neither a journal nor a record",
        |root, id| {
            let dir = root.join(format!("deployments/{id}"));
            fs::write(dir.join("events.ndjson"), [0; 100]).unwrap();
            fs::write(dir.join("record.json"), [0; 100]).unwrap();
        },
        "its journal and its record are damaged",
    ),
    (
        "a mark that is a directory",
        |root, id| {
            let mark = root.join(format!("run/{id}"));
            fs::remove_file(&mark).unwrap();
            fs::create_dir(mark).unwrap();
        },
        "it is done",
    ),
    (
        "a mark of nothing",
        |root, _| {
            fs::create_dir_all(root.join("run/01a217d7-3436-7000-8000-000000000000/x")).unwrap()
        },
        "01a217d7-3436-7000-8000-000000000000",
    ),
    (
        "files where directories should be",
        |root, _| {
            for dir in ["releases", "components", "deployments", "run", "env"] {
                fs::write(root.join(dir).join("notes"), "x").unwrap();
                fs::write(
                    root.join(dir).join("01a217d7-3436-7000-8000-000000000000"),
                    "x",
                )
                .unwrap();
            }
            fs::write(root.join("deployments/.hidden"), "x").unwrap();
        },
        "it is done",
    ),
    (
        "a component whose releases are a file",
        |root, _| fs::write(root.join("releases/third"), "x").unwrap(),
        "it is done",
    ),
];

#[test]
fn one_component_s_damage_keeps_no_other_from_running() {
    if !is_debug_build() {
        return;
    }
    for (what, damage, log) in DAMAGES {
        let root = Arc::new(TempDir::new());
        let host = TestServer::on(Arc::clone(&root), &[], &[]);
        deployed(&host, "demo", "false");
        deployed(&host, "other", "true");
        let id = killed_at(host, "switched", &root);
        damage(&root.0, &id);
        let host = TestServer::on(Arc::clone(&root), &[], &[]);
        eprintln!("{what}");
        said(&host, log);
        await_some(what, || runs(&host, "other").then_some(()));
        let record = host.record(&id);
        assert_eq!(record["status"], "success", "{what}: {record}");
        let events = host
            .ask("GET", &format!("/deployments/{id}/events"), &[], b"")
            .events();
        assert_eq!(events.last().unwrap().event, "done", "{what}: {events:?}");
        for project in ["demo", "other"] {
            deployed(&host, project, "false");
        }
        // The next start finds nothing more to do for it.
        drop(host);
        let host = TestServer::on(Arc::clone(&root), &[], &[]);
        assert_eq!(host.record(&id)["status"], "success", "{what}");
    }
}

#[test]
fn a_damaged_line_of_an_old_journal_is_a_gap_and_not_the_end() {
    let host = TestServer::start();
    let id = deployed(&host, "demo", "false");
    let path = host.path(&format!("deployments/{id}/events.ndjson"));
    let lines: Vec<String> = fs::read_to_string(&path)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    let stream = || {
        let events = host
            .ask("GET", &format!("/deployments/{id}/events"), &[], b"")
            .events();
        let names = events.iter().map(|event| event.event.clone());
        names.collect::<Vec<_>>()
    };
    let whole = stream();
    for at in [2, lines.len() - 1] {
        let mut damaged = lines.clone();
        damaged[at] = "\0".repeat(40);
        fs::write(&path, damaged.join("\n") + "\n").unwrap();
        let mut expected = whole.clone();
        if at == 2 {
            expected[at] = "truncated".to_owned();
        }
        assert_eq!(stream(), expected, "line {at}");
    }
}

#[test]
fn processes_whose_state_is_damaged_run_from_the_live_release() {
    let root = Arc::new(TempDir::new());
    let mut host = TestServer::on(Arc::clone(&root), &[], &[]);
    deployed(&host, "demo", "true");
    deployed(&host, "other", "true");
    let state = root.0.join("run/demo.processes");
    let nowhere = json!({"web": "01a217d7-3436-7000-8000-000000000000"}).to_string();
    let damages: [(&str, &dyn Fn()); 4] = [
        ("nothing in it", &|| fs::write(&state, "").unwrap()),
        ("zeros", &|| fs::write(&state, [0; 30]).unwrap()),
        ("a release that is gone", &|| {
            fs::write(&state, &nowhere).unwrap()
        }),
        ("a directory", &|| {
            fs::remove_file(&state).unwrap();
            fs::create_dir(&state).unwrap();
        }),
    ];
    for (what, damage) in damages {
        drop(host);
        damage();
        host = TestServer::on(Arc::clone(&root), &[], &[]);
        eprintln!("{what}");
        said(&host, "is started instead");
        for project in ["demo", "other"] {
            await_some(project, || runs(&host, project).then_some(()));
        }
    }
}

#[test]
fn a_component_that_was_copied_without_its_link_says_what_to_do() {
    let root = Arc::new(TempDir::new());
    let host = TestServer::on(Arc::clone(&root), &[], &[]);
    deployed(&host, "demo", "false");
    let link = root.0.join("components/demo");
    fs::remove_file(&link).unwrap();
    fs::create_dir(&link).unwrap();
    fs::write(link.join("version"), "1").unwrap();
    let answer = host.deploy(&[("project", "demo")], &payload("2"));
    let (code, why) = answer.refusal();
    assert_eq!((answer.status, code.as_str()), (409, "conflict"), "{why}");
    assert!(why.contains("Move it out of there"), "{why}");
    assert!(link.join("version").exists());
    deployed(&host, "other", "false");
    fs::rename(&link, root.0.join("demo.old")).unwrap();
    deployed(&host, "demo", "false");
}

/// A mount namespace that stays while servers in it come and go.
struct Namespace(Child);

impl Namespace {
    fn with_tmpfs(root: &Path, size: &str) -> Namespace {
        let script = format!(
            "mount -t tmpfs -o size={size} none '{0}' && touch '{0}/ready' && exec sleep 600",
            root.display()
        );
        let mut command = bare("unshare");
        let holder = Namespace(command.args(["-m", "sh", "-c", &script]).spawn().unwrap());
        await_some("the mount", || {
            holder.path(root).join("ready").exists().then_some(())
        });
        holder
    }

    /// A path in it, as it is seen from here.
    fn path(&self, path: &Path) -> PathBuf {
        let inside = path.strip_prefix("/").unwrap();
        PathBuf::from(format!("/proc/{}/root", self.0.id())).join(inside)
    }

    fn server(&self, root: &Arc<TempDir>, environment: &[(&str, &str)]) -> TestServer {
        let mut command = bare("nsenter");
        command.args(["-m", "-t", &self.0.id().to_string(), BINARY]);
        command.envs(environment.iter().copied());
        TestServer::launch(command, Arc::clone(root), &["--min-free-disk", "0"])
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const MOUNTS: &[&str] = &["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"];

/// Takes all that is left of a disk.
fn fill(dir: &Path) -> PathBuf {
    let path = dir.join("fill");
    let mut file = fs::File::create(&path).unwrap();
    for size in [64 << 10, 4 << 10, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
    path
}

#[test]
fn a_full_disk_keeps_nothing_from_starting_and_the_end_is_written_later() {
    if !is_debug_build() || !is_root() || !have("nsenter") || !may(MOUNTS) {
        return;
    }
    let root = Arc::new(TempDir::new());
    let space = Namespace::with_tmpfs(&root.0, "16m");
    let host = space.server(&root, &[]);
    deployed(&host, "other", "true");
    deployed(&host, "demo", "false");
    drop(host);
    let reached = root.0.with_extension("reached");
    let asked = format!("switched={}", reached.display());
    let host = space.server(&root, &[("GANGPLANK_TEST_CHECKPOINT", &asked)]);
    let (media, body) = form(&[("project", "demo")], &payload("2"));
    let authorization = format!("Authorization: Bearer {}", host.token);
    let mut stream = host.connect();
    stream
        .write_all(&request("POST", "/", &[&authorization, &media], &body))
        .unwrap();
    await_some("the switch", || reached.exists().then_some(()));
    fs::remove_file(&reached).unwrap();
    let seen = space.path(&root.0);
    let id = newest(&seen);
    drop(host);
    let fill = fill(&seen);

    let host = space.server(&root, &[]);
    let line = said(&host, "it is tried again later");
    assert!(line.contains(&id) && line.contains("No space"), "{line}");
    await_some("the other component", || runs(&host, "other").then_some(()));
    let list = host.operate(&json!({"operation": "list_deployments"}));
    let status = |list: &Value| list["deployments"][0]["status"].clone();
    assert_eq!(status(&list.json()), "success", "{}", list.text());
    assert_eq!(host.record(&id)["status"], "success");
    fs::remove_file(fill).unwrap();
    await_some("the record", || {
        let text = fs::read(seen.join(format!("deployments/{id}/record.json"))).ok()?;
        let record: Value = serde_json::from_slice(&text).ok()?;
        (record["status"] == "success").then_some(())
    });
    let events = host
        .ask("GET", &format!("/deployments/{id}/events"), &[], b"")
        .events();
    assert_eq!(events.last().unwrap().event, "done");
    await_some("the mark to go", || {
        (!seen.join(format!("run/{id}")).exists()).then_some(())
    });
}

#[test]
fn a_full_disk_runs_what_ran_before_a_restart_that_was_cut_off() {
    if !is_root() || !have("nsenter") || !may(MOUNTS) {
        return;
    }
    let root = Arc::new(TempDir::new());
    let space = Namespace::with_tmpfs(&root.0, "16m");
    let mut host = space.server(&root, &[]);
    let first = deployed(&host, "demo", "true");
    let never = json!({"health": {"command": "false"}, "health_timeout": 60}).to_string();
    let second = gzip(&tar(&[
        ("./Procfile", "web: sleep 1000\n"),
        ("./gangplank.json", &never),
    ]));
    let (media, body) = form(&[("project", "demo"), ("restart", "true")], &second);
    let authorization = format!("Authorization: Bearer {}", host.token);
    let mut stream = host.connect();
    stream
        .write_all(&request("POST", "/", &[&authorization, &media], &body))
        .unwrap();
    let seen = space.path(&root.0);
    let id = await_some("the health wait", || {
        let id = newest(&seen);
        let text = fs::read_to_string(seen.join(format!("deployments/{id}/events.ndjson")));
        let waits = text.unwrap_or_default().contains("waiting for 'false'");
        waits.then_some(id)
    });
    host.server.kill().unwrap();
    host.server.wait().unwrap();
    drop(host);
    let fill = fill(&seen);
    let host = space.server(&root, &[]);
    await_some("what ran", || runs(&host, "demo").then_some(()));
    let components = host.operate(&json!({"operation": "get_components"})).json();
    let demo = &components["components"][0];
    assert_eq!(
        (&demo["release_id"], &demo["processes"][0]["release_id"]),
        (&json!(first), &json!(first)),
        "{demo}"
    );
    fs::remove_file(fill).unwrap();
    await_some("its end", || {
        let text = fs::read(seen.join(format!("deployments/{id}/record.json"))).ok()?;
        let record: Value = serde_json::from_slice(&text).ok()?;
        (record["status"] == "rolled_back").then_some(())
    });
}

/// The modes of everything in a root that the server makes, but for releases and sockets.
fn modes(dir: &Path, below: &str, found: &mut Vec<(String, u32)>) {
    for name in names(dir) {
        let (path, known) = (dir.join(&name), format!("{below}{name}"));
        let meta = path.symlink_metadata().unwrap();
        if meta.is_symlink() {
            continue;
        }
        found.push((known.clone(), meta.permissions().mode() & 0o777));
        if meta.is_dir() && below.split('/').count() < 3 {
            modes(&path, &format!("{known}/"), found);
        }
    }
}

#[test]
fn what_the_server_makes_has_its_mode_under_any_umask() {
    for umask in ["000", "022", "077"] {
        let root = Arc::new(TempDir::new());
        fs::remove_dir(&root.0).unwrap();
        let mut command = bare("sh");
        let script = format!("umask {umask} && exec \"$0\" \"$@\"");
        command.args(["-c", &script, BINARY]);
        let host = TestServer::launch(command, Arc::clone(&root), &[]);
        let id = deployed(&host, "demo", "true");
        // What is written after the end is there by then, and nothing comes and goes any more.
        await_some("the list of its tree", || {
            (!host.record(&id)["tree"].is_null()).then_some(())
        });
        let mut found = Vec::new();
        modes(&root.0, "", &mut found);
        let open = ["components", "releases", "releases/demo", "shared"];
        let release = format!("releases/demo/{id}");
        for (path, mode) in &found {
            let path = path.as_str();
            let expected = if open.contains(&path) || path == release {
                0o755
            } else if path.starts_with(&release) {
                continue;
            } else if root.0.join(path).is_dir() {
                0o700
            } else {
                0o600
            };
            assert_eq!(*mode, expected, "umask {umask}: {path} has {mode:o}");
        }
        let top = fs::metadata(&root.0).unwrap().permissions().mode() & 0o777;
        assert_eq!(top, 0o755, "umask {umask}");
        drop(host);
    }
}
