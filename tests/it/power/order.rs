//! What survives a power loss is a matter of the order of writes, syncs and renames. Here it is watched from outside: the
//! system calls of one deployment, in the order in which they ended.

use std::collections::HashMap;
use std::fs;

use crate::test_server::{BINARY, TempDir, TestServer, await_some, bare, component, have, may};

/// The calls of a trace, each as one line with the paths of its descriptors, in the order in which they ended.
fn calls(trace: &str) -> Vec<String> {
    let mut begun: HashMap<&str, &str> = HashMap::new();
    let mut calls = Vec::new();
    for line in trace.lines() {
        let (pid, call) = line.split_once(' ').unwrap();
        let call = call.trim_start();
        if let Some(call) = call.strip_suffix(" <unfinished ...>") {
            begun.insert(pid, call);
        } else if let Some((_, end)) = call.split_once(" resumed>") {
            calls.push(format!("{}{end}", begun.remove(pid).unwrap_or_default()));
        } else {
            calls.push(call.to_owned());
        }
    }
    calls
}

#[test]
fn everything_is_on_disk_before_it_is_said() {
    if !have("strace") || !may(&["strace", "-f", "-qq", "-o", "/dev/null", "true"]) {
        return;
    }
    let root = std::sync::Arc::new(TempDir::new());
    let trace = root.0.with_extension("trace");
    let mut command = bare("strace");
    command
        .args(["-f", "-qq", "-y", "-s", "400", "-o"])
        .arg(&trace);
    let watched = "trace=write,fsync,fdatasync,syncfs,sync_file_range,rename,renameat,renameat2,symlink,symlinkat,unlink,unlinkat,sendto";
    command.args(["-e", watched, BINARY]);
    let host = TestServer::launch(command, root.clone(), &[]);
    let answer = host.deploy(
        &[("project", "demo"), ("install_command", "true")],
        &component(),
    );
    assert_eq!(answer.status, 200, "{}", answer.text());
    let id = answer.json()["deployment_id"].as_str().unwrap().to_owned();
    let is_told = |call: &String| call.contains("Successfully deployed") && call.contains("socket");
    // Its tracer writes later than the server does.
    await_some("the trace of the answer", || {
        let text = fs::read_to_string(&trace).unwrap();
        let (whole, _) = text.rsplit_once('\n')?;
        calls(whole).iter().any(is_told).then_some(())
    });
    // The server goes first: without its tracer it would go on.
    let strace = host.server.id();
    let children = fs::read_to_string(format!("/proc/{strace}/task/{strace}/children")).unwrap();
    for child in children.split_whitespace() {
        let pid = rustix::process::Pid::from_raw(child.parse().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
    drop(host);
    let text = fs::read_to_string(&trace).unwrap();
    fs::remove_file(&trace).unwrap();
    let calls = calls(&text);
    let (journal, record) = (
        format!("{id}/events.ndjson>"),
        format!("{id}/record.json.new"),
    );
    let (release, run) = (format!("releases/demo/{id}/"), format!("run/{id}"));
    // What has to be there, in this order: a call's name, and parts of its line.
    let order: [(&str, [&str; 2], &str); 8] = [
        (
            "write",
            [&journal, "activate"],
            "the intent is in the journal",
        ),
        (
            "syncfs",
            [root.0.to_str().unwrap(), ""],
            "the release and the intent are on disk",
        ),
        ("symlink", ["components/.demo", &id], "the new link is made"),
        (
            "rename",
            ["components/.demo", "components/demo"],
            "the switch",
        ),
        ("fsync", ["components>", ""], "the switch is on disk"),
        ("write", [&journal, "done"], "the end is in the journal"),
        ("fdatasync", [&journal, ""], "the end is on disk"),
        ("rename", [&record, "record.json"], "the record says so"),
    ];
    let mut at = 0;
    for (name, parts, what) in order {
        let is_it = |call: &String| {
            call.starts_with(name)
                && parts.iter().all(|part| call.contains(part))
                && !call.contains("= -1")
        };
        let found = calls[at..].iter().position(is_it);
        let found =
            found.unwrap_or_else(|| panic!("not in order: {what}\n{}", calls[at..].join("\n")));
        at += found + 1;
    }
    // Nothing is written into the release once it was synced.
    let synced = calls
        .iter()
        .position(|call| call.starts_with("syncfs"))
        .unwrap();
    let late = calls[synced..]
        .iter()
        .find(|call| call.starts_with("write") && call.contains(&release));
    assert_eq!(late, None);
    let place = |name: &str, part: &str| {
        let is_it = |call: &String| call.starts_with(name) && call.contains(part);
        calls.iter().rposition(is_it)
    };
    let told = calls.iter().position(is_told);
    // The client hears of it once the record says so.
    assert!(place("rename", &record) < told, "{}", calls.join("\n"));
    // The mark, by which the next start would find it, goes once the record is on disk, if it has come to that.
    if let Some(gone) = place("unlink", &run) {
        let kept = place("fsync", &format!("{id}/record.json>"));
        assert!(kept.is_some_and(|kept| kept < gone), "{}", calls.join("\n"));
    }
}
