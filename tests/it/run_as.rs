//! Components that run as another user than the server.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;

use serde_json::json;

use crate::test_server::{BINARY, TempDir, TestServer, bare, gangplank, gzip, is_root, tar};

/// Every Linux has this one; it is in no other group.
pub(crate) const NOBODY: u32 = 65534;

/// The users and the groups of all that is in a directory.
pub(crate) fn owners(dir: &Path, found: &mut Vec<u32>) {
    let meta = fs::symlink_metadata(dir).unwrap();
    found.push(meta.uid());
    found.push(meta.gid());
    if meta.is_dir() {
        for entry in fs::read_dir(dir).unwrap() {
            owners(&entry.unwrap().path(), found);
        }
    }
}

#[test]
fn what_a_component_says_runs_as_the_user_and_sees_nothing_of_the_servers() {
    if !is_root() {
        return;
    }
    let host = TestServer::with(
        &["--run-as", "nobody"],
        &[("HOME", "/root"), ("XDG_CACHE_HOME", "/root/c")],
    );
    let root = host.root.0.display();
    let probe = format!(
        "echo \"$(id -u):$(id -g):$(id -G):$HOME:$USER:$XDG_CACHE_HOME\"; cd .; \
         for secret in admin.token tokens.json tokens.lock lock run deployments env; do \
         cat {root}/$secret && echo leaked $secret; ls {root}/$secret/ && echo leaked $secret; done; \
         echo new > sub/own && ln -s sub/own here && mkdir made && chmod 0 sub/a && chmod 600 sub/a"
    );
    let check = r#"{"check": "test $(id -u) = 65534 && test -O . && test -O sub/own"}"#;
    let payload = gzip(&tar(&[
        ("./", ""),
        ("./sub/a", "a"),
        ("./gangplank.json", check),
    ]));
    let fields = [("project", "demo"), ("install_command", probe.as_str())];
    let events = host.deploy_live(&fields, &payload).events();
    let last = events.last().unwrap();
    assert_eq!(last.event, "done", "{events:?}");
    let lines: Vec<&str> = events
        .iter()
        .filter(|record| record.data["stream"] == "stdout")
        .map(|record| record.data["line"].as_str().unwrap())
        .collect();
    // The user's own home is none that it could write to.
    let home = host.root.0.canonicalize().unwrap().join("cache/demo/home");
    let expected = format!("65534:65534:65534:{}:nobody:", home.display());
    assert_eq!(lines, [expected]);
    let mut found = Vec::new();
    owners(&host.path("components/demo/"), &mut found);
    assert!(found.iter().all(|id| *id == NOBODY), "{found:?}");

    // A link that an installation leaves does not make the server read for it.
    let steal = format!("ln -s {root}/admin.token Procfile");
    let answer = host.deploy(
        &[("project", "thief"), ("install_command", &steal)],
        &payload,
    );
    let (code, why) = answer.refusal();
    assert_eq!(code, "load_failed");
    assert!(
        why.contains("Procfile: it leads out of the release"),
        "{why}"
    );
    let list = host.operate(&json!({"operation": "get_components"})).json();
    assert_eq!(list["components"].as_array().unwrap().len(), 1);
}

#[test]
fn a_user_that_cannot_be_is_said_at_the_start() {
    if !is_root() {
        return;
    }
    let dir = TempDir::new();
    let start = |root: &Path, user: &str, as_nobody: bool| {
        let mut command = gangplank();
        command.args(["serve", "--listen", "127.0.0.1:0", "--root"]);
        command.arg(root).args(["--run-as", user]);
        if as_nobody {
            command.uid(NOBODY).gid(NOBODY);
        }
        let output = command.output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        stderr
    };
    let why = start(&dir.0.join("a"), "no-such-user", false);
    assert!(
        why.contains("no-such-user") && why.contains("/etc/passwd"),
        "{why}"
    );
    // The binary must be within reach of who runs it, and the root theirs.
    let open = dir.0.join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    let reachable = fs::metadata(crate::test_server::BINARY).is_ok_and(|_| {
        Path::new(crate::test_server::BINARY)
            .ancestors()
            .skip(1)
            .all(|dir| fs::metadata(dir).is_ok_and(|meta| meta.mode() & 0o001 != 0))
    });
    if reachable {
        let why = start(&open.join("b"), "nobody", true);
        assert!(why.contains("only root"), "{why}");
    }
    let closed = dir.0.join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    let why = start(&closed.join("c"), "nobody", false);
    assert!(
        why.contains("let it through") && why.contains("closed"),
        "{why}"
    );
}

/// A server whose umask is strict, on a root that it makes itself.
fn under_a_strict_umask(flags: &[&str]) -> TestServer {
    let root = std::sync::Arc::new(TempDir::new());
    fs::remove_dir(&root.0).unwrap();
    let mut command = bare("sh");
    command.args(["-c", "umask 077 && exec \"$0\" \"$@\"", BINARY]);
    TestServer::launch(command, root, flags)
}

#[test]
fn the_user_comes_to_its_release_under_a_strict_umask() {
    if !is_root() {
        return;
    }
    let host = under_a_strict_umask(&["--run-as", "nobody"]);
    let payload = gzip(&tar(&[("./a", "a"), ("./Procfile", "web: sleep 1000\n")]));
    let fields = [
        ("project", "demo"),
        ("install_command", "cat a"),
        ("restart", "true"),
    ];
    let answer = host.deploy(&fields, &payload);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let secret = fs::metadata(host.path("admin.token")).unwrap();
    assert_eq!(secret.mode() & 0o777, 0o600);
}

#[test]
fn ports_of_the_superuser_are_refused_where_they_are_not_given() {
    let host = TestServer::with(&["--no-privileged-sockets"], &[]);
    let with_port = |port: u32| {
        let manifest = json!({"sockets": {"web": format!("127.0.0.1:{port}")}}).to_string();
        let files = [
            ("./gangplank.json", &*manifest),
            ("./Procfile", "web: sleep 1000\n"),
        ];
        host.deploy(&[("project", "demo")], &gzip(&tar(&files)))
    };
    let (code, why) = with_port(80).refusal();
    assert_eq!(code, "load_failed");
    assert!(
        why.contains("127.0.0.1:80") && why.contains("--no-privileged-sockets"),
        "{why}"
    );
    assert_eq!(with_port(1024).status, 200);
}
