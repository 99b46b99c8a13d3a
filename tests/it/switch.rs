//! A switch that cannot be half: whatever fails after the rename, what was live is live again, whole, and runs.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::needs::{have, may};
use crate::test_server::{BINARY, TempDir, TestServer, await_some, bare, gzip, names, tar};

/// A server whose system calls fail as these flags of strace say, on a root that has its first release from a server
/// without faults.
struct Faulty {
    host: TestServer,
    first: String,
}

fn release(version: &str) -> Vec<u8> {
    let web = "web: exec sleep 1000\n";
    gzip(&tar(&[("./v", version), ("./Procfile", web)]))
}

fn deploy(host: &TestServer, version: &str) -> (u16, Value) {
    let fields = [("project", "demo"), ("restart", "true")];
    let answer = host.deploy(&fields, &release(version));
    (answer.status, answer.json())
}

fn faulty(faults: &[&str]) -> Option<Faulty> {
    if !have("strace") || !may(&["strace", "-f", "-qq", "-o", "/dev/null", "true"]) {
        return None;
    }
    let root = Arc::new(TempDir::new());
    let host = TestServer::on(Arc::clone(&root), &[], &[]);
    let (status, answer) = deploy(&host, "1");
    assert_eq!(status, 200, "{answer}");
    drop(host);
    let mut command: Command = bare("strace");
    command.args(["-f", "-qq", "-o", "/dev/null"]);
    let here = |fault: &str| fault.replace("ROOT", root.0.to_str().unwrap());
    command.args(faults.iter().map(|fault| here(fault)));
    command.arg(BINARY);
    let host = TestServer::launch(command, root, &[]);
    await_some("the first release runs again", || pid(&host));
    let first = answer["deployment_id"].as_str().unwrap().to_owned();
    Some(Faulty { host, first })
}

fn components(host: &TestServer) -> Value {
    let answer = host.operate(&json!({"operation": "get_components"}));
    answer.json()["components"][0].clone()
}

/// The process that runs, and the release that it runs from.
fn pid(host: &TestServer) -> Option<(u64, String)> {
    let process = components(host)["processes"][0].clone();
    let release = process["release_id"].as_str()?.to_owned();
    Some((process["pid"].as_u64()?, release))
}

impl Faulty {
    /// The server goes before its tracer, without which it would go on.
    fn end(self) {
        let strace = self.host.server.id();
        let children = Path::new("/proc").join(format!("{strace}/task/{strace}/children"));
        for child in fs::read_to_string(children).unwrap().split_whitespace() {
            let pid = rustix::process::Pid::from_raw(child.parse().unwrap()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
        drop(self.host);
    }

    /// The second deployment failed: the first release is live, whole, and runs; nothing stays beside the link; the record,
    /// the list and the journal say the same.
    fn is_as_before(&self, answer: &Value) {
        let host = &self.host;
        let link = fs::read_link(host.path("components/demo")).unwrap();
        assert!(link.ends_with(&self.first), "{link:?}: {answer}");
        let version = fs::read_to_string(host.path("components/demo/v")).unwrap();
        assert_eq!(version, "1", "{answer}");
        assert_eq!(names(&host.path("components")), ["demo"], "{answer}");
        let (_, runs) = await_some("a process", || pid(host));
        assert_eq!(runs, self.first, "{answer}");
        let id = answer["deployment_id"].as_str().unwrap();
        let record = host.record(id);
        assert_eq!(record["error"]["code"], answer["code"], "{record}");
        assert!(
            ["failed", "rolled_back"].contains(&record["status"].as_str().unwrap()),
            "{record}"
        );
        let events = host.ask("GET", &format!("/deployments/{id}/events"), &[], b"");
        let ends: Vec<_> = events.events();
        let ends = ends
            .iter()
            .filter(|one| one.event == "error" || one.event == "done");
        assert_eq!(ends.count(), 1, "{}", events.text());
    }
}

#[test]
fn a_directory_that_cannot_be_synced_after_the_rename_switches_back() {
    let faults = [
        "-P",
        "ROOT/components",
        "-e",
        "trace=fsync",
        "-e",
        "inject=fsync:error=EIO",
    ];
    let Some(faulty) = faulty(&faults) else {
        return;
    };
    let (status, answer) = deploy(&faulty.host, "2");
    assert_eq!(
        (status, &answer["code"]),
        (500, &json!("internal")),
        "{answer}"
    );
    assert_eq!(answer["phase"], "activate", "{answer}");
    faulty.is_as_before(&answer);
    faulty.end();
}

#[test]
fn a_record_that_cannot_be_written_fails_no_phase() {
    // No file can be replaced, so that no record can be written; the link changes by another call.
    let faults = ["-e", "trace=rename", "-e", "inject=rename:error=ENOSPC"];
    let Some(faulty) = faulty(&faults) else {
        return;
    };
    let answer = faulty.host.deploy(&[("project", "demo")], &release("2"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let id = answer.json()["deployment_id"].as_str().unwrap().to_owned();
    let version = fs::read_to_string(faulty.host.path("components/demo/v")).unwrap();
    assert_eq!(version, "2", "{}", answer.text());
    assert_eq!(faulty.host.record(&id)["status"], "success");
    let list = json!({"operation": "list_deployments", "limit": 1});
    let list = faulty.host.operate(&list).json();
    assert_eq!(list["deployments"][0]["status"], "success", "{list}");
    faulty.end();
}

#[test]
fn an_end_that_the_disk_does_not_keep_switches_back() {
    // Each thread that deploys syncs its journal with its end.
    let faults = [
        "-e",
        "trace=fdatasync",
        "-e",
        "inject=fdatasync:error=EIO:when=1",
    ];
    let Some(faulty) = faulty(&faults) else {
        return;
    };
    let (status, answer) = deploy(&faulty.host, "2");
    assert_eq!(
        (status, &answer["code"]),
        (500, &json!("internal")),
        "{answer}"
    );
    faulty.is_as_before(&answer);
    let (status, answer) = deploy(&faulty.host, "3");
    assert_eq!(
        (status, &answer["code"]),
        (500, &json!("internal")),
        "{answer}"
    );
    faulty.is_as_before(&answer);
    faulty.end();
}
