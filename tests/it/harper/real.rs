//! Our CLI against a real harperdb 4.7.29, in a network of its own, where one is installed.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::Value;

use crate::harper::app;
use crate::needs::harperdb;
use crate::test_server::{BINARY, PATIENCE, TempDir, bare, may};

/// A server, and its network, which nothing else is in.
struct HarperDb {
    process: Child,
    // Last, so that it goes after the server.
    root: TempDir,
}

impl HarperDb {
    fn start(installed: &Path) -> HarperDb {
        let root = TempDir::new();
        let program = installed.join("node_modules/harperdb/bin/harperdb.js");
        let mut command = bare("unshare");
        command.args([
            "-n",
            "sh",
            "-c",
            "ip link set lo up && exec node \"$0\" run",
        ]);
        command.arg(program).stdin(Stdio::null());
        for (name, value) in [
            ("HOME", root.0.join("home").to_str().unwrap()),
            ("ROOTPATH", root.0.join("hdb").to_str().unwrap()),
            ("HDB_ADMIN_USERNAME", "admin"),
            ("HDB_ADMIN_PASSWORD", "secret"),
            ("TC_AGREEMENT", "yes"),
            ("NODE_NAME", "n"),
            ("REPLICATION_HOSTNAME", "localhost"),
            ("DEFAULTS_MODE", "dev"),
            ("OPERATIONSAPI_NETWORK_PORT", "9925"),
            ("HTTP_PORT", "9926"),
            ("THREADS_COUNT", "1"),
        ] {
            command.env(name, value);
        }
        std::fs::create_dir(root.0.join("home")).unwrap();
        let log = std::fs::File::create(root.0.join("log")).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let process = command.spawn().unwrap();
        let server = HarperDb { process, root };
        let begun = Instant::now();
        while server.run(&["op", "registration_info"]).0 != Some(0) {
            let log = std::fs::read_to_string(server.root.0.join("log")).unwrap();
            assert!(begun.elapsed() < PATIENCE * 2, "{log}");
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        server
    }

    /// Runs the client in the server's network.
    fn run(&self, arguments: &[&str]) -> (Option<i32>, Value, String) {
        let mut command = Command::new("nsenter");
        command.args(["-n", "-t", &self.process.id().to_string(), BINARY]);
        command
            .args(arguments)
            .args(["--target", "http://127.0.0.1:9925", "--username", "admin"]);
        if !arguments.contains(&"--password") {
            command.args(["--password", "secret"]);
        }
        let output = command.output().unwrap();
        let shown = String::from_utf8(output.stderr).unwrap();
        let result = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output.status.code(), result, shown)
    }
}

impl Drop for HarperDb {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_real_harperdb_is_deployed_to_and_asked() {
    let Some(installed) = harperdb() else { return };
    if !may(&["unshare", "-n", "ip", "link", "set", "lo", "up"]) {
        return;
    }
    let server = HarperDb::start(&installed);
    let app = app(0);
    let dir = app.0.join("hello");
    std::fs::write(dir.join("config.yaml"), "static:\n  files: '*.html'\n").unwrap();
    std::fs::write(dir.join("index.html"), "hello").unwrap();
    let dir = dir.to_str().unwrap();
    let (code, result, shown) = server.run(&["deploy", dir]);
    assert_eq!(code, Some(0), "{shown}");
    assert_eq!(result["message"], "Successfully deployed: hello");
    let (code, result, shown) = server.run(&["status", "hello"]);
    assert_eq!(
        (code, &result["name"]),
        (Some(0), &Value::from("hello")),
        "{shown}"
    );
    let (code, _, shown) = server.run(&["list"]);
    assert_eq!(code, Some(1), "{shown}");
    assert!(shown.contains("Harper 4.7 cannot do that"), "{shown}");
    let (code, result, shown) = server.run(&["deploy", dir, "--project", "123", "--restart"]);
    assert_eq!(code, Some(0), "{shown}");
    assert_eq!(
        result["message"],
        "Successfully deployed: 123, restarting HarperDB"
    );
    // It refuses connections for some seconds then.
    let (code, result, shown) = server.run(&["status", "123", "--retry-for", "30"]);
    assert_eq!(
        (code, &result["name"]),
        (Some(0), &Value::from("123")),
        "{shown}"
    );
    let (code, _, shown) = server.run(&["deploy", dir, "--retry-for", "30", "--password", "wrong"]);
    assert_eq!(code, Some(4), "{shown}");
    assert!(shown.contains("Login failed"), "{shown}");
}
