//! gangplank as a service: what a supervisor is told, and the files for several of them.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::needs::have;
use crate::test_server::{BINARY, PATIENCE, TempDir, TestServer};

#[test]
fn a_supervisor_is_told() {
    let dir = TempDir::new();
    let socket = UnixDatagram::bind(dir.0.join("notify")).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let name = dir.0.join("notify");
    let mut host = TestServer::with(&[], &[("NOTIFY_SOCKET", name.to_str().unwrap())]);
    let mut said = [0; 100];
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
