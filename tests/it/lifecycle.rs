//! How a server ends, and what the next one makes of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::needs::{have, is_root, may};
use crate::test_server::{
    BINARY, TempDir, TestServer, await_some, bare, component, form, gzip, names, request, tar,
};

/// Whether a process runs that has this in its command line.
fn runs(marker: &str) -> bool {
    names(std::path::Path::new("/proc")).iter().any(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        pid.parse::<u32>()
            .is_ok_and(|pid| pid != std::process::id())
            && String::from_utf8_lossy(&line).contains(marker)
    })
}

/// Sends a deployment whose installation lasts until it is killed, and waits until it runs.
fn hang(host: &TestServer, marker: &str) -> (std::net::TcpStream, String) {
    use std::io::Write;
    let command = format!("trap '' TERM; sleep 987 & : {marker}; wait; sleep 987");
    let (media, body) = form(
        &[("project", "demo"), ("install_command", &command)],
        &component(),
    );
    let authorization = format!("Authorization: Bearer {}", host.token);
    let mut stream = host.connect();
    stream
        .write_all(&request("POST", "/", &[&authorization, &media], &body))
        .unwrap();
    let id = await_some("the installation", || {
        let list = host
            .operate(&json!({"operation": "list_deployments", "status": "installing"}))
            .json();
        list["deployments"][0]["deployment_id"]
            .as_str()
            .map(str::to_owned)
            .filter(|_| runs(marker))
    });
    (stream, id)
}

fn interrupted(record: &Value) {
    assert_eq!(
        (&record["status"], &record["error"]["code"]),
        (&json!("failed"), &json!("interrupted")),
        "{record}"
    );
}

#[test]
fn an_idle_server_ends_at_once() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut host = TestServer::start();
        let begun = Instant::now();
        host.signal(signal);
        assert_eq!(host.server.wait().unwrap().code(), Some(0));
        assert!(begun.elapsed() < Duration::from_secs(5));
        assert!(!host.path("run/gangplank.sock").exists());
    }
}

#[test]
fn a_stop_interrupts_what_runs_and_leaves_no_process() {
    let mut host = TestServer::with(&["--grace", "8"], &[]);
    assert_eq!(
        host.deploy(&[("project", "demo")], &component()).status,
        200
    );
    let marker = format!("stopped-{}", std::process::id());
    let (stream, id) = hang(&host, &marker);
    let begun = Instant::now();
    host.signal(Signal::TERM);
    let answer = crate::test_server::Answer::read(stream);
    assert_eq!(
        (answer.status, answer.refusal().0.as_str()),
        (503, "interrupted")
    );
    assert_eq!(host.server.wait().unwrap().code(), Some(0));
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "{:?}",
        begun.elapsed()
    );
    assert!(!runs(&marker));
    let host = TestServer::on(Arc::clone(&host.root), &[], &[]);
    interrupted(&host.record(&id));
    assert_eq!(names(&host.path("releases/demo")).len(), 1);
}

#[test]
fn a_killed_server_is_cleaned_up_after() {
    let mut host = TestServer::start();
    let first = host.deploy(&[("project", "demo")], &component()).json();
    let marker = format!("killed-{}", std::process::id());
    let (_stream, id) = hang(&host, &marker);
    host.server.kill().unwrap();
    host.server.wait().unwrap();
    assert!(runs(&marker), "the installation outlives its server");
    let host = TestServer::on(Arc::clone(&host.root), &[], &[]);
    assert!(!runs(&marker), "the start ends what was left running");
    interrupted(&host.record(&id));
    let events = host
        .ask("GET", &format!("/deployments/{id}/events"), &[], b"")
        .events();
    assert_eq!(events.last().unwrap().data["code"], "interrupted");
    assert!(
        events
            .iter()
            .zip(1..)
            .all(|(record, id)| record.id == Some(id))
    );
    let kept = first["deployment_id"].as_str().unwrap();
    assert_eq!(names(&host.path("releases/demo")), [kept]);
    assert_eq!(host.record(kept)["status"], "success");
    assert_eq!(
        host.deploy(&[("project", "demo")], &component()).status,
        200
    );
}

/// A component with one process, which runs when this returns, and the process's id.
fn running(host: &TestServer, procfile: &str) -> u64 {
    let payload = gzip(&tar(&[("./Procfile", procfile)]));
    let fields = [("project", "demo"), ("restart", "true")];
    let answer = host.deploy(&fields, &payload);
    assert_eq!(answer.status, 200, "{}", answer.text());
    pid(host).unwrap()
}

fn pid(host: &TestServer) -> Option<u64> {
    let list = host.operate(&json!({"operation": "get_components"})).json();
    list["components"][0]["processes"][0]["pid"].as_u64()
}

#[test]
fn a_root_that_was_moved_while_its_server_was_dead_runs_nothing_twice() {
    let mut host = TestServer::start();
    let marker = format!("moved-{}", std::process::id());
    let before = running(&host, &format!("web: : {marker}; exec sleep 987\n"));
    host.server.kill().unwrap();
    host.server.wait().unwrap();
    let first = Arc::clone(&host.root);
    let moved = Arc::new(TempDir(first.0.with_extension("moved")));
    std::fs::rename(&first.0, &moved.0).unwrap();
    let alive = |pid: u64| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat.rsplit(')').next().unwrap().trim_start();
        !state.is_empty() && !state.starts_with(['Z', 'X'])
    };
    assert!(alive(before), "it outlives its server");
    let mut host = TestServer::on(Arc::clone(&moved), &[], &[]);
    assert!(!alive(before), "it is found at the new place");
    let second = await_some("the process", || pid(&host));
    // A copy is another root: its server ends nothing of the first one's.
    let copy = Arc::new(TempDir(first.0.with_extension("copy")));
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .args([&moved.0, &copy.0])
        .status();
    assert!(copied.unwrap().success());
    let other = TestServer::on(Arc::clone(&copy), &[], &[]);
    let third = await_some("the copy's process", || pid(&other));
    assert!(alive(second) && third != second);
    drop(other);
    host.signal(Signal::TERM);
    host.server.wait().unwrap();
    assert!(!alive(second));
}

#[test]
fn what_leaves_its_group_goes_with_its_build_its_component_and_its_server() {
    let mut host = TestServer::start();
    let marker = format!("left-{}", std::process::id());
    let build = format!("setsid sh -c ': {marker}-build; sleep 987' & true");
    let fields = [("project", "demo"), ("install_command", build.as_str())];
    let answer = host.deploy(&fields, &component());
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(!runs(&format!("{marker}-build")), "after a success");

    // As what a process leaves that hides which process it is of.
    let procfile = format!(
        "web: env -u GANGPLANK_PROCESS setsid sh -c ': {marker}-process; sleep 987' & exec sleep 988\n"
    );
    let left = format!("{marker}-process");
    running(&host, &procfile);
    await_some("it to be left behind", || runs(&left).then_some(()));
    let dropped = host.operate(&json!({"operation": "drop_component", "project": "demo"}));
    assert_eq!(dropped.status, 200, "{}", dropped.text());
    assert!(!runs(&left), "after a drop");

    running(&host, &procfile);
    await_some("it to be left behind again", || runs(&left).then_some(()));
    host.signal(Signal::TERM);
    assert_eq!(host.server.wait().unwrap().code(), Some(0));
    assert!(!runs(&left), "after the server's end");
}

const SPACE: &[&str] = &["unshare", "--pid", "--fork", "--mount-proc", "true"];

#[test]
fn the_first_process_of_a_container_collects_orphans() {
    if !is_root() || !have("unshare") || !may(SPACE) {
        return;
    }
    let mut command = bare("unshare");
    command.args(["--pid", "--fork", "--mount-proc", "--kill-child", BINARY]);
    let host = TestServer::launch(command, Arc::new(TempDir::new()), &[]);
    let marker = format!("orphan-{}", std::process::id());
    let orphans = format!(
        "web: for n in 1 2 3 4 5 6 7 8; do (setsid sh -c ': {marker}; sleep 1' &); done; exec sleep 987\n"
    );
    let fields = [("project", "demo"), ("restart", "true")];
    let answer = host.deploy(&fields, &gzip(&tar(&[("./Procfile", &orphans)])));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let unshare = host.server.id();
    let children = |of: &str| {
        let text = std::fs::read_to_string(format!("/proc/{of}/task/{of}/children"));
        let text = text.unwrap_or_default();
        text.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let server = children(&unshare.to_string()).pop().unwrap();
    let parents = |state: &str| {
        let stats = names(std::path::Path::new("/proc"))
            .into_iter()
            .filter(|pid| {
                let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                let mut fields = stat.rsplit(')').next().unwrap().split_whitespace();
                fields.next() == Some(state) && fields.next() == Some(&server)
            });
        stats.count()
    };
    await_some("the orphans to end and to be collected", || {
        (!runs(&marker) && parents("Z") == 0).then_some(())
    });
    assert!(pid(&host).is_some());
}

#[test]
fn a_stream_ends_when_its_token_is_revoked() {
    use std::io::{Read, Write};
    let host = TestServer::start();
    let root = host.root.0.to_str().unwrap().to_owned();
    let token = |words: &[&str]| {
        let mut all = vec!["token"];
        all.extend(words);
        all.extend(["--root", &root]);
        let output = host.cli(&all);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let secret = token(&["add", "watcher", "--role", "read"]);
    let command = "while :; do echo tick; sleep 0.02; done";
    let (media, body) = form(
        &[("project", "demo"), ("install_command", command)],
        &component(),
    );
    let authorization = format!("Authorization: Bearer {}", host.token);
    let mut upload = host.connect();
    let sent = request("POST", "/", &[&authorization, &media], &body);
    upload.write_all(&sent).unwrap();
    let id = await_some("the installation", || {
        let asked = json!({"operation": "list_deployments", "status": "installing"});
        let list = host.operate(&asked).json();
        let id = list["deployments"][0]["deployment_id"].as_str();
        id.map(str::to_owned)
    });
    let path = format!("/deployments/{id}/events");
    let mut stream = host.connect();
    let shown = format!("Authorization: Bearer {secret}");
    stream
        .write_all(&request("GET", &path, &[&shown], b""))
        .unwrap();
    let mut seen = vec![0; 64 << 10];
    let mut text = String::new();
    while !text.contains("tick") {
        let read = stream.read(&mut seen).unwrap();
        text.push_str(&String::from_utf8_lossy(&seen[..read]));
    }
    token(&["revoke", "watcher"]);
    // The rest of what was on its way, and then the end, long before the next heartbeat.
    let begun = Instant::now();
    let mut rest = Vec::new();
    // A connection that is reset has ended, too.
    let _ = stream.read_to_end(&mut rest);
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert!(!String::from_utf8_lossy(&rest).contains("event: done"));
    let cancel = json!({"operation": "cancel_deployment", "deployment_id": id});
    assert_eq!(host.operate(&cancel).status, 200);
    drop(upload);
}

/// A component whose process runs for good, and is healthy once its word stands in a file.
fn version(word: &str, control: &std::path::Path) -> Vec<u8> {
    let health = format!("grep -q {word} {}", control.display());
    let manifest = json!({"health": {"command": health}, "health_timeout": 4}).to_string();
    let procfile = format!("web: : {word}; exec sleep 987\n");
    gzip(&tar(&[
        ("./Procfile", &procfile),
        ("./gangplank.json", &manifest),
        ("./word", word),
    ]))
}

/// Begins something that restarts, and kills the server while it waits for the process.
fn killed_in_the_health_wait(mut host: TestServer, request: &[u8]) -> (Arc<TempDir>, String) {
    use std::io::Write;
    let mut stream = host.connect();
    stream.write_all(request).unwrap();
    let id = await_some("the health wait", || {
        let asked = json!({"operation": "list_deployments", "status": "restarting"});
        let list = host.operate(&asked).json();
        let id = list["deployments"][0]["deployment_id"].as_str()?.to_owned();
        let journal = host.path(&format!("deployments/{id}/events.ndjson"));
        let text = std::fs::read_to_string(journal).unwrap();
        text.contains("waiting for").then_some(id)
    });
    host.server.kill().unwrap();
    host.server.wait().unwrap();
    (Arc::clone(&host.root), id)
}

#[test]
fn a_restart_that_the_server_s_end_cut_off_is_judged_by_the_next_start() {
    let control = TempDir::new();
    let healthy = control.0.join("healthy");
    let allow = |words: &str| std::fs::write(&healthy, words).unwrap();
    let deploy = |host: &TestServer, word: &str| {
        let (media, body) = form(
            &[("project", "demo"), ("restart", "true")],
            &version(word, &healthy),
        );
        let authorization = format!("Authorization: Bearer {}", host.token);
        request("POST", "/", &[&authorization, &media], &body)
    };
    // Whether the one before is there, whether the new one will be healthy, and what becomes of it.
    let table = [
        (true, true, "success", Some("second")),
        (true, false, "rolled_back", Some("first")),
        (false, true, "success", Some("second")),
        (false, false, "failed", None),
    ];
    for (before, well, status, live) in table {
        let what = format!("before: {before}, healthy: {well}");
        let host = TestServer::start();
        allow("first");
        let mut first = None;
        if before {
            let fields = [("project", "demo"), ("restart", "true")];
            let answer = host.deploy(&fields, &version("first", &healthy));
            assert_eq!(answer.status, 200, "{}", answer.text());
            first = answer.json()["deployment_id"].as_str().map(str::to_owned);
        }
        let request = deploy(&host, "second");
        let (root, id) = killed_in_the_health_wait(host, &request);
        let host = TestServer::on(Arc::clone(&root), &[], &[]);
        // It runs, for everybody.
        let record = host.record(&id);
        assert_eq!(record["status"], "restarting", "{what}: {record}");
        let busy = host.deploy(&[("project", "demo")], &component());
        assert_eq!(busy.refusal().0, "busy", "{what}");
        let cancel = json!({"operation": "cancel_deployment", "deployment_id": id});
        assert_eq!(host.operate(&cancel).refusal().0, "conflict", "{what}");
        if well {
            allow("first second");
        }
        let events = host
            .ask("GET", &format!("/deployments/{id}/events"), &[], b"")
            .events();
        let last = events.last().unwrap();
        let numbers = events.iter().zip(1..);
        assert!(
            numbers.clone().all(|(event, id)| event.id == Some(id)),
            "{what}: {events:?}"
        );
        let record = host.record(&id);
        assert_eq!(record["status"], status, "{what}: {record}");
        if !well {
            assert_eq!(last.data["code"], "unhealthy", "{what}");
            assert_eq!(last.data["rolled_back_to"], json!(first), "{what}");
        }
        let word = std::fs::read_to_string(root.0.join("components/demo/word")).ok();
        assert_eq!(word.as_deref(), live, "{what}");
        let releases = host.operate(&json!({"operation": "get_components"})).json();
        let processes = &releases["components"][0]["processes"];
        match live {
            None => assert_eq!(releases["components"], json!([]), "{what}"),
            Some(word) => {
                let release = if word == "second" {
                    Some(&id)
                } else {
                    first.as_ref()
                };
                assert_eq!(processes[0]["release_id"], json!(release), "{what}");
                assert!(processes[0]["pid"].is_u64(), "{what}: {processes}");
            }
        }
        // It goes a moment after the end is told.
        let mark = root.0.join("run").join(&id);
        await_some("the mark to go", || (!mark.exists()).then_some(()));
        assert!(!root.0.join("run/demo.before").exists(), "{what}");
        let next = host.deploy(&[("project", "demo")], &component());
        assert_eq!(next.status, 200, "{what}: {}", next.text());
    }
}

#[test]
fn a_restart_alone_that_was_cut_off_leaves_what_is_live() {
    let control = TempDir::new();
    let healthy = control.0.join("healthy");
    std::fs::write(&healthy, "first").unwrap();
    let host = TestServer::start();
    let fields = [("project", "demo"), ("restart", "true")];
    let answer = host.deploy(&fields, &version("first", &healthy));
    assert_eq!(answer.status, 200, "{}", answer.text());
    std::fs::write(&healthy, "").unwrap();
    let authorization = format!("Authorization: Bearer {}", host.token);
    let body = json!({"operation": "restart_component", "project": "demo"}).to_string();
    let media = "Content-Type: application/json";
    let request = request("POST", "/", &[&authorization, media], body.as_bytes());
    let (root, id) = killed_in_the_health_wait(host, &request);
    let host = TestServer::on(root, &[], &[]);
    let events = host
        .ask("GET", &format!("/deployments/{id}/events"), &[], b"")
        .events();
    assert_eq!(events.last().unwrap().data["code"], "unhealthy");
    assert_eq!(host.record(&id)["status"], "failed");
    // What is live is not to blame, and runs.
    await_some("the process", || pid(&host));
}
