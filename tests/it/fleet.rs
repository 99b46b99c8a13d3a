//! The fleet from outside: its operations and its command, as far as they need no etcd.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::test_server::{TempDir, TestServer, gangplank, tar};

#[test]
fn a_server_without_a_fleet_refuses_before_anything_is_sent() {
    let server = TestServer::start();
    let asked = [
        json!({"operation": "get_fleet"}),
        json!({"operation": "get_fleet", "project": "demo", "follow": true}),
        json!({"operation": "change_fleet", "action": "rollback", "project": "demo"}),
        json!({"operation": "change_fleet", "action": "remove", "host": "two"}),
    ];
    for operation in asked {
        let answer = server.operate(&operation);
        assert_eq!(answer.status, 503, "{operation}: {}", answer.text());
        let (code, why) = answer.refusal();
        assert_eq!(code, "fleet_unavailable");
        assert!(why.contains("belongs to no fleet"), "{why}");
    }
    let payload = tar(&[("./v", "1")]);
    let refused = server.deploy(&[("project", "demo"), ("fleet", "true")], &payload);
    assert_eq!(refused.refusal().0, "fleet_unavailable");
    let list = server.operate(&json!({"operation": "list_deployments"}));
    assert_eq!(list.json()["total"], 0, "nothing has begun");
    let dir = TempDir::new().with(&[("v", "1")]);
    let dir = dir.0.to_str().unwrap();
    for command in [
        &["deploy", dir, "--project", "demo", "--fleet"][..],
        &["rollback", "demo", "--fleet"],
        &["fleet", "demo"],
        &["fleet", "publish-current", "demo"],
    ] {
        let output = server.cli(command);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(6), "{command:?}: {said}");
        assert!(said.contains("(fleet_unavailable)"), "{said}");
    }
}

#[test]
fn wrong_words_about_the_fleet_are_named() {
    let server = TestServer::start();
    let table = [
        (
            json!({"operation": "get_fleet", "follow": true}),
            "'project'",
        ),
        (json!({"operation": "change_fleet"}), "'action'"),
        (
            json!({"operation": "change_fleet", "action": "remove", "host": "a/b"}),
            "'host'",
        ),
        (
            json!({"operation": "change_fleet", "action": "pin"}),
            "'project'",
        ),
    ];
    for (operation, part) in table {
        let answer = server.operate(&operation);
        let (code, why) = answer.refusal();
        assert!(
            code == "bad_request" && why.contains(part),
            "{operation}: {why}"
        );
    }
    let table = [
        ("wave", "0%", "'wave'"),
        ("canary", "x", "'canary'"),
        ("labels", "[]", "'labels'"),
        ("replicated", "true", "'fleet' cannot go with"),
        ("activate", "false", "'fleet' cannot go with"),
    ];
    for (field, value, part) in table {
        let fields = [("project", "demo"), ("fleet", "true"), (field, value)];
        let answer = server.deploy(&fields, &tar(&[("./v", "1")]));
        let (code, why) = answer.refusal();
        assert!(
            code == "bad_request" && why.contains(part),
            "{field}={value}: {why}"
        );
    }
    for (words, part) in [
        (
            &["deploy", ".", "--canary", "1"][..],
            "--canary goes with --fleet alone",
        ),
        (
            &["deploy", ".", "--detach"],
            "--detach goes with --fleet alone",
        ),
        (&["deploy", ".", "--fleet", "--wave", "0"], "--wave"),
        (&["deploy", ".", "--fleet", "--label", "x"], "KEY=VALUE"),
        (
            &["rollback", "demo", "--fleet", "--replicated"],
            "neither --to nor --replicated",
        ),
        (&["fleet", "--follow"], "--follow needs a PROJECT"),
        (&["fleet", "remove"], "HOST"),
    ] {
        let output = server.cli(words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {said}");
        assert!(said.contains(part), "{words:?}: {said}");
    }
}

#[test]
fn fleet_key_makes_a_pair_and_overwrites_none() {
    let dir = TempDir::new();
    let file = dir.0.join("key");
    let make = || {
        let mut command = gangplank();
        command.args(["fleet", "key"]).arg(&file);
        command.env("GANGPLANK_ROOT", &dir.0).output().unwrap()
    };
    let made = make();
    assert!(made.status.success(), "{made:?}");
    let mode = |name: &str| {
        let meta = fs::metadata(dir.0.join(name)).unwrap();
        meta.permissions().mode() & 0o777
    };
    assert_eq!(mode("key"), 0o600);
    let (secret, public) = (
        fs::read_to_string(&file).unwrap(),
        fs::read_to_string(dir.0.join("key.pub")).unwrap(),
    );
    assert!(secret.starts_with("gangplank-ed25519-secret:"));
    assert!(public.starts_with("gangplank-ed25519-public:"));
    let said = String::from_utf8_lossy(&made.stdout) + String::from_utf8_lossy(&made.stderr);
    assert!(
        !said.contains(secret.trim()),
        "the key itself is shown to nobody"
    );
    assert_eq!(make().status.code(), Some(2));
    assert_eq!(fs::read_to_string(&file).unwrap(), secret);
}
