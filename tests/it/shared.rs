//! Shared data stays from release to release.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::needs::is_debug_build;
use crate::test_server::{
    Record, TempDir, TestServer, await_some, form, gzip, names, request, tar,
};

/// An app that appends a row to its data at each start.
const APP: &str = "web: echo row >>data/app.db; exec sleep 1000\n";

fn payload(files: &[(&str, &str)]) -> Vec<u8> {
    gzip(&tar(files))
}

fn manifest(shared: &[&str]) -> String {
    json!({ "shared": shared }).to_string()
}

fn deploy(host: &TestServer, restart: &str, payload: &[u8]) -> Value {
    let answer = host.deploy(&[("project", "app"), ("restart", restart)], payload);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn warnings(host: &TestServer, id: &Value) -> Vec<String> {
    let path = format!("/deployments/{}/events", id.as_str().unwrap());
    let events = host.ask("GET", &path, &[], b"").events();
    let warnings = events.iter().filter(|one| one.event == "warning");
    let message = |one: &Record| one.data["message"].clone();
    warnings
        .map(|one| message(one).as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn seven_deployments_and_a_rollback_of_an_app_append_to_one_file() {
    let host = TestServer::start();
    let app = payload(&[
        ("./Procfile", APP),
        ("./gangplank.json", &manifest(&["data/"])),
        ("./data/app.db", "seed\n"),
    ]);
    let file = host.path("shared/app/data/app.db");
    let rows = |n: usize| {
        await_some("the row of this start", || {
            let text = fs::read_to_string(&file).ok()?;
            (text == format!("seed\n{}", "row\n".repeat(n))).then_some(())
        });
    };
    for n in 1..=7 {
        let answer = deploy(&host, "true", &app);
        rows(n);
        let warned = warnings(&host, &answer["deployment_id"]);
        assert_eq!(warned.len(), usize::from(n > 1), "{warned:?}");
        assert!(warned.iter().all(|one| one.contains("data is shared")));
    }
    let back = json!({"operation": "rollback_component", "project": "app", "restart": true});
    let back = host.operate(&back);
    assert_eq!(back.status, 200, "{}", back.text());
    rows(8);
    let through = fs::read_to_string(host.path("components/app/data/app.db")).unwrap();
    assert_eq!(through, fs::read_to_string(&file).unwrap());
    let mode = |path: &str| fs::metadata(host.path(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("shared/app"), 0o700);
    let dropped = host.operate(&json!({"operation": "drop_component", "project": "app"}));
    assert_eq!(dropped.status, 200, "{}", dropped.text());
    rows(8);
    let root = host.root.0.canonicalize().unwrap();
    assert_eq!(dropped.json()["kept"], json!([root.join("shared/app")]));
}

#[test]
fn a_purge_leaves_nothing_of_a_component() {
    let host = TestServer::start();
    for project in ["app", "other"] {
        let answer = host.deploy(
            &[("project", project), ("restart", "true")],
            &payload(&[
                ("./Procfile", APP),
                ("./gangplank.json", &manifest(&["data/"])),
            ]),
        );
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    fs::write(host.path("env/app"), "A=1\n").unwrap();
    fs::create_dir_all(host.path("hooks/app")).unwrap();
    let dropped = host.cli(&["drop", "app", "--output", "json"]);
    assert!(dropped.status.success(), "{dropped:?}");
    let kept: Value = serde_json::from_slice(&dropped.stdout).unwrap();
    assert_eq!(kept["kept"].as_array().unwrap().len(), 3, "{kept}");
    let purged = host.cli(&["drop", "app", "--purge", "--output", "json"]);
    assert!(purged.status.success(), "{purged:?}");
    for place in ["shared", "env", "hooks", "logs", "releases", "components"] {
        let left = names(&host.path(place));
        assert!(!left.contains(&"app".to_owned()), "{place}: {left:?}");
    }
    let list = json!({"operation": "list_deployments"});
    let list = host.operate(&list).json();
    assert_eq!(list["total"], 1, "{list}");
    assert_eq!(names(&host.path("deployments")).len(), 1);
    assert!(host.path("shared/other/data/app.db").exists());
    let again = host.cli(&["drop", "app", "--purge"]);
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    // Nothing of it is open either, and what is deployed under its name has a log of its own.
    let held = fs::read_dir(format!("/proc/{}/fd", host.server.id())).unwrap();
    let held = held.filter_map(|one| fs::read_link(one.unwrap().path()).ok());
    let log = host.root.0.join("logs/app");
    let held: Vec<_> = held.filter(|path| path.starts_with(&log)).collect();
    assert!(held.is_empty(), "{held:?}");
    let answer = host.deploy(
        &[("project", "app"), ("restart", "true")],
        &payload(&[("./Procfile", "web: echo again; exec sleep 600\n")]),
    );
    assert_eq!(answer.status, 200, "{}", answer.text());
    let log = || String::from_utf8(host.cli(&["logs", "app"]).stdout).unwrap();
    await_some("a line of the new component", || {
        log().contains("again").then_some(())
    });
}

#[test]
fn what_is_not_there_is_made_or_left_to_the_app() {
    let host = TestServer::start();
    let shared = manifest(&["made/", "deep/er/", "deep/left", "later.db"]);
    deploy(
        &host,
        "false",
        &payload(&[
            ("./gangplank.json", &shared),
            ("./deep/left", "sent"),
            ("./v", "1"),
        ]),
    );
    assert_eq!(names(&host.path("shared/app")), ["deep", "made"]);
    assert_eq!(names(&host.path("shared/app/deep")), ["er", "left"]);
    fs::write(host.path("components/app/later.db"), "written by the app").unwrap();
    assert_eq!(
        fs::read_to_string(host.path("shared/app/later.db")).unwrap(),
        "written by the app"
    );
    // The same content as it has already is no reason for a word, nor is an empty directory.
    let same = deploy(
        &host,
        "false",
        &payload(&[
            ("./gangplank.json", &shared),
            ("./deep/left", "sent"),
            ("./later.db", "written by the app"),
        ]),
    );
    assert_eq!(warnings(&host, &same["deployment_id"]), [""; 0]);
    assert_eq!(
        fs::read_to_string(host.path("components/app/deep/left")).unwrap(),
        "sent"
    );
}

#[test]
fn the_place_of_shared_data_is_known_to_all_that_runs() {
    let host = TestServer::start();
    let say = "echo $GANGPLANK_SHARED >>$GANGPLANK_SHARED/said";
    let manifest = json!({ "install_command": say, "check": say });
    let procfile = format!("web: {say}; exec sleep 1000\n");
    deploy(
        &host,
        "true",
        &payload(&[
            ("./Procfile", &procfile),
            ("./gangplank.json", &manifest.to_string()),
        ]),
    );
    let place = host.root.0.canonicalize().unwrap().join("shared/app");
    await_some("three programs have said it", || {
        let said = fs::read_to_string(host.path("shared/app/said")).ok()?;
        (said == format!("{}\n", place.display()).repeat(3)).then_some(())
    });
}

#[test]
fn a_path_that_leads_elsewhere_is_refused_and_changes_nothing() {
    let host = TestServer::start();
    let outside = TempDir::new();
    deploy(&host, "false", &payload(&[("./v", "1")]));
    // What the app itself may have put there.
    fs::create_dir_all(host.path("shared/app")).unwrap();
    symlink(&outside.0, host.path("shared/app/out")).unwrap();
    let link = |name: &str, to: &str| {
        let mut builder = ::tar::Builder::new(Vec::new());
        let mut header = ::tar::Header::new_gnu();
        header.set_entry_type(::tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        builder.append_link(&mut header, name, to).unwrap();
        let text = manifest(&["inside/x"]);
        let mut header = ::tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, "./gangplank.json", text.as_bytes())
            .unwrap();
        gzip(&builder.into_inner().unwrap())
    };
    let table: [(Vec<u8>, &str); 5] = [
        (
            payload(&[("./gangplank.json", &manifest(&["/data"]))]),
            "must be relative",
        ),
        (
            payload(&[("./gangplank.json", &manifest(&["a/../b"]))]),
            "'..'",
        ),
        (
            payload(&[("./gangplank.json", &manifest(&["a/", "a/b"]))]),
            "contain one another",
        ),
        (
            payload(&[("./gangplank.json", &manifest(&["out/x"]))]),
            "sharing out/x",
        ),
        (link("./inside", "."), "sharing inside/x"),
    ];
    for (payload, why) in table {
        let answer = host.deploy(&[("project", "app")], &payload);
        assert_eq!(answer.status, 422, "{}", answer.text());
        assert_eq!(answer.json()["code"], "load_failed", "{}", answer.text());
        assert!(answer.text().contains(why), "{why}: {}", answer.text());
        assert_eq!(
            fs::read_to_string(host.path("components/app/v")).unwrap(),
            "1"
        );
        assert_eq!(names(&outside.0), [""; 0]);
    }
}

#[test]
fn a_kill_while_the_links_are_made_loses_no_data() {
    if !is_debug_build() {
        return;
    }
    for checkpoint in ["seeded", "linked"] {
        let root = Arc::new(TempDir::new());
        let reached: PathBuf = root.0.with_extension("reached");
        let asked = format!("{checkpoint}={}", reached.display());
        let host = TestServer::on(
            Arc::clone(&root),
            &[],
            &[("GANGPLANK_TEST_CHECKPOINT", &asked)],
        );
        let files = [
            ("./gangplank.json", &*manifest(&["data/", "app.db"])),
            ("./data/x", "seed"),
            ("./app.db", "rows"),
        ];
        let (media, body) = form(&[("project", "app")], &payload(&files));
        let token = format!("Authorization: Bearer {}", host.token);
        let head = [&*token, &*media];
        let mut stream = host.connect();
        std::io::Write::write_all(&mut stream, &request("POST", "/", &head, &body)).unwrap();
        await_some("the checkpoint", || reached.exists().then_some(()));
        host.signal(rustix::process::Signal::KILL);
        drop((stream, host));
        fs::remove_file(&reached).unwrap();
        let host = TestServer::on(root, &[], &[]);
        deploy(&host, "false", &payload(&files));
        for (path, text) in [("data/x", "seed"), ("app.db", "rows")] {
            let place = host.path("components/app").join(path);
            assert_eq!(fs::read_to_string(place).unwrap(), text, "{checkpoint}");
            let place = host.path("shared/app").join(path);
            assert_eq!(fs::read_to_string(place).unwrap(), text, "{checkpoint}");
        }
    }
}
