//! Kernels that lack newer system calls: a filter around the server answers them as such a kernel would.

use std::process::{Command, Stdio};
use std::sync::Arc;

use serde_json::json;

use crate::inject::PROGRAM;
use crate::needs::{allows, have};
use crate::test_server::{BINARY, TempDir, TestServer, await_some, bare, names, tar};

/// What Linux 4.18 does not have of what a server, its libraries or the programs that it starts may call.
const NEWER: &str =
    "pidfd_open,pidfd_send_signal,openat2,renameat2,copy_file_range,clone3,close_range,faccessat2";
/// What an older container runtime does not know and therefore forbids. The C library itself gives up where clone3 is forbidden.
const FORBIDDEN: &str = "pidfd_open,pidfd_send_signal,openat2,renameat2,close_range,faccessat2";

/// What becomes a program for which these calls fail.
fn without(errno: &str, calls: &str, program: &str) -> Command {
    let mut command = bare("python3");
    command.args([PROGRAM, "without", errno, calls, program]);
    command
}

/// A component with two processes, one of which leaves its process group, a check and shared data.
fn payload(version: &str) -> Vec<u8> {
    tar(&[
        ("version", version),
        (
            "Procfile",
            "web: exec sleep 987\nworker: exec setsid -w sleep 986 >/dev/null 2>&1\n",
        ),
        (
            "gangplank.json",
            r#"{"check": "test -e version", "shared": ["data/"], "health": {"command": "true"}}"#,
        ),
    ])
}

#[test]
fn a_deployment_with_processes_goes_on_without_newer_system_calls() {
    if !have("python3") {
        return;
    }
    let filters = [("ENOSYS", NEWER), ("EPERM", FORBIDDEN)];
    let tried = without(filters[0].0, filters[0].1, "true")
        .stderr(Stdio::null())
        .status();
    if !allows(
        "a machine that allows seccomp filters",
        tried.is_ok_and(|status| status.success()),
    ) {
        return;
    }
    for (errno, calls) in filters {
        let launch = |root| TestServer::launch(without(errno, calls, BINARY), root, &[]);
        let mut host = launch(Arc::new(TempDir::new()));
        let deploy = |version: &str| {
            let fields = [
                ("project", "demo"),
                ("restart", "true"),
                ("install_command", "echo installed"),
            ];
            let answer = host.deploy(&fields, &payload(version));
            assert_eq!(answer.status, 200, "{errno}: {}", answer.text());
            answer.json()["deployment_id"].as_str().unwrap().to_owned()
        };
        let first = deploy("1");
        deploy("2");
        let live = || std::fs::read_to_string(host.path("components/demo/version")).unwrap();
        assert_eq!(live(), "2");
        let rollback = json!({"operation": "rollback_component", "project": "demo",
            "deployment_id": first, "restart": true});
        let answer = host.operate(&rollback);
        assert_eq!(answer.status, 200, "{errno}: {}", answer.text());
        assert_eq!(live(), "1");
        let hidden = names(&host.path("components"));
        assert_eq!(hidden, ["demo"], "{errno}: a switch leaves nothing beside");
        // What a killed server left is ended by the next one, which runs it anew.
        host.server.kill().unwrap();
        host.server.wait().unwrap();
        let host = launch(Arc::clone(&host.root));
        let processes = await_some("both processes", || {
            let all = host.operate(&json!({"operation": "get_components"})).json();
            let all = all["components"][0]["processes"].as_array()?.clone();
            let pids = all.iter().filter_map(|one| one["pid"].as_i64());
            let pids = pids.collect::<Vec<_>>();
            (pids.len() == 2).then_some(pids)
        });
        // The third one is what left its process group.
        await_some("exactly what should run", || {
            let marked = marked(&host);
            let all = processes.iter().all(|pid| marked.contains(pid));
            (all && marked.len() == 3).then_some(())
        });
        let dropped = host.operate(&json!({"operation": "drop_component", "project": "demo"}));
        assert_eq!(dropped.status, 200, "{errno}: {}", dropped.text());
        assert_eq!(self::marked(&host), [0; 0], "{errno}");
    }
}

/// The processes that carry the mark of a server.
fn marked(host: &TestServer) -> Vec<i64> {
    let id = std::fs::read_to_string(host.path("id")).unwrap();
    let mark = format!("GANGPLANK_CHILD={}", id.lines().next().unwrap());
    let pids = names("/proc".as_ref()).into_iter();
    let pids = pids.filter(|pid| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment
            .split(|byte| *byte == 0)
            .any(|one| one == mark.as_bytes())
    });
    pids.filter_map(|pid| pid.parse().ok()).collect()
}
