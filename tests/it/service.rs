//! gangplank as a service: what a supervisor is told, and the files for several of them.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::needs::have;
use crate::test_server::{BINARY, PATIENCE, TempDir, TestServer, await_some, gangplank};

#[test]
fn a_supervisor_is_told() {
    let dir = TempDir::new();
    let socket = UnixDatagram::bind(dir.0.join("notify")).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let name = dir.0.join("notify");
    let mut host = TestServer::with(&[], &[("NOTIFY_SOCKET", name.to_str().unwrap())]);
    let mut said = [0; 100];
    // It is asked to keep the two listening sockets before there are clients.
    for _ in 0..2 {
        let length = socket.recv(&mut said).unwrap();
        assert_eq!(&said[..length], b"FDSTORE=1\nFDNAME=listen");
    }
    let length = socket.recv(&mut said).unwrap();
    assert_eq!(&said[..length], b"READY=1");
    // What runs in it is nothing of the supervisor's.
    let fields = [
        ("project", "demo"),
        ("install_command", "echo \"($NOTIFY_SOCKET)\""),
    ];
    let answer = host.deploy_live(&fields, &crate::test_server::component());
    assert!(
        answer.text().contains("\"line\":\"()\""),
        "{}",
        answer.text()
    );
    host.signal(Signal::TERM);
    let length = socket.recv(&mut said).unwrap();
    assert_eq!(&said[..length], b"STOPPING=1");
    assert_eq!(host.server.wait().unwrap().code(), Some(0));
    socket
        .set_read_timeout(Some(Duration::from_millis(1)))
        .unwrap();
    assert!(socket.recv(&mut said).is_err());
}

#[test]
fn a_reload_and_a_terminal_that_closes_end_no_server() {
    // The unit sends it on reload, whether or not there is a certificate to read again.
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/service/gangplank.service");
    let unit = fs::read_to_string(unit).unwrap();
    assert!(unit.contains("\nExecReload=/bin/kill -HUP $MAINPID\n"));
    let mut host = TestServer::start();
    for _ in 0..3 {
        host.signal(Signal::HUP);
    }
    await_some("the line of log", || {
        let log = host.log.lock().unwrap();
        log.contains("there is nothing to read again").then_some(())
    });
    assert_eq!(host.ask("GET", "/health", &[], b"").status, 200);
    assert_eq!(host.server.try_wait().unwrap(), None);

    // `script` gives it a terminal of its own, as a login does, and closes that at its end.
    if !have("script") {
        return;
    }
    let dir = TempDir::new();
    let line = format!(
        "{BINARY} serve --listen 127.0.0.1:0 --root {0}/root >{0}/out 2>{0}/log & echo $! >{0}/pid; \
         until grep -q unix: {0}/out; do sleep 0.01; done",
        dir.0.display()
    );
    let script = Command::new("script")
        .args(["-q", "-e", "-c", &line, "/dev/null"])
        .output()
        .unwrap();
    assert!(script.status.success(), "{script:?}");
    let pid = fs::read_to_string(dir.0.join("pid")).unwrap();
    let pid = Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
    let socket = dir.0.join("root/run/gangplank.sock");
    let list = gangplank()
        .args(["list", "--output", "json", "--target"])
        .arg(format!("unix:{}", socket.display()))
        .output()
        .unwrap();
    // Before anything can fail: it is not a child of this test.
    let _ = kill_process(pid, Signal::TERM);
    assert_eq!(list.status.code(), Some(0), "{list:?}");
    await_some("its end", || (!socket.exists()).then_some(()));
}

#[test]
fn the_files_for_supervisors_are_right_and_in_the_readme() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| fs::read_to_string(top.join(name)).unwrap();
    let readme = read("README.md");
    for name in ["gangplank.service", "gangplank.openrc", "inittab"] {
        let path = format!("tests/service/{name}");
        assert!(readme.contains(&path), "{path}");
        assert!(read(&path).contains("/usr/local/bin/gangplank"), "{path}");
    }
    assert!(
        readme.contains(&read("tests/service/gangplank.service")),
        "the unit is in the README"
    );
    let inittab = read("tests/service/inittab");
    let line = inittab.lines().find(|line| line.starts_with("::"));
    assert!(
        line.is_some_and(|line| readme.contains(line)),
        "the line for init is in the README"
    );
    if !have("systemd-analyze") {
        return;
    }
    let dir = TempDir::new();
    let unit = dir.0.join("gangplank.service");
    fs::write(
        &unit,
        read("tests/service/gangplank.service").replace("/usr/local/bin/gangplank", BINARY),
    )
    .unwrap();
    let output = Command::new("systemd-analyze")
        .arg("verify")
        .arg("--man=no")
        .arg(&unit)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    // Of other units of this host it may say more.
    let ours: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("gangplank.service"))
        .collect();
    assert!(ours.is_empty(), "{ours:?}");
}
