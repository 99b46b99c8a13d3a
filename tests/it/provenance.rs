//! What a deployment was, why it was made, and of which commit: in the request, the record, the lists, and from git.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::test_server::{TempDir, TestServer, component, have};

fn newest(host: &TestServer) -> Value {
    let list = json!({"operation": "list_deployments", "limit": 1});
    host.operate(&list).json()["deployments"][0].clone()
}

#[test]
fn a_record_says_its_kind_and_what_was_said_of_it() {
    let host = TestServer::start();
    let source = json!({"commit": "a1b2c3d", "branch": "main", "dirty": true});
    let fields = |message: &'static str| {
        vec![
            ("project", "demo"),
            ("message", message),
            (
                "source",
                r#"{"commit":"a1b2c3d","branch":"main","dirty":true}"#,
            ),
        ]
    };
    let first = host.deploy(&fields("  one\x1b[2J\nline \r\n"), &component());
    assert_eq!(first.status, 200, "{}", first.text());
    let first = first.json();
    assert_eq!(
        (&first["kind"], &first["source"]),
        (&json!("deploy"), &source)
    );
    let record = host.record(first["deployment_id"].as_str().unwrap());
    assert_eq!(record["message"], "one [2J\nline");
    assert_eq!(record["source"], source);
    assert_eq!(newest(&host)["message"], "one [2J\nline");

    // Without any of it there is none of it; a rollback is of what its release is of.
    let second = host.deploy(&[("project", "demo"), ("message", " ")], &component());
    assert_eq!(second.status, 200, "{}", second.text());
    let record = newest(&host);
    assert_eq!(
        (&record["message"], &record["source"]),
        (&Value::Null, &Value::Null)
    );
    for message in [Value::Null, json!("it was slow")] {
        let back =
            json!({"operation": "rollback_component", "project": "demo", "message": message});
        assert_eq!(host.operate(&back).status, 200);
        let record = newest(&host);
        assert_eq!(
            (&record["kind"], &record["message"], &record["source"]),
            (&json!("rollback"), &message, &source)
        );
        let activate = json!({"operation": "deploy_component", "project": "demo", "deployment_id": second.json()["deployment_id"]});
        assert_eq!(host.operate(&activate).status, 200);
    }
    let output = host.cli(&["rollback", "demo", "--message", "back"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(newest(&host)["message"], "back");
    let output = host.cli(&["restart", "demo", "--message", "once more"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let record = newest(&host);
    assert_eq!(
        (&record["kind"], &record["message"], &record["source"]),
        (&json!("restart"), &json!("once more"), &source)
    );

    // As an activation is, which may say why.
    let id = second.json()["deployment_id"].clone();
    let activate = json!({"operation": "deploy_component", "project": "demo", "deployment_id": id, "message": "again"});
    assert_eq!(host.operate(&activate).status, 200);
    let record = newest(&host);
    assert_eq!(
        (&record["kind"], &record["message"], &record["source"]),
        (&json!("activate"), &json!("again"), &Value::Null)
    );
}

#[test]
fn what_is_said_of_a_deployment_is_refused_where_it_is_wrong() {
    let host = TestServer::start();
    let long = "x".repeat((4 << 10) + 1);
    let table = [
        ("message", long.as_str(), "'message'"),
        ("source", "main", "'source' must be an object"),
        ("source", r#"{"commit":7}"#, "'source.commit'"),
        ("source", r#"{"branch":"a b"}"#, "'source.branch'"),
        ("source", r#"{"dirty":"yes"}"#, "'source.dirty'"),
    ];
    for (name, value, why) in table {
        let answer = host.deploy(&[("project", "demo"), (name, value)], &component());
        let (code, message) = answer.refusal();
        assert_eq!((answer.status, &*code), (400, "bad_request"), "{message}");
        assert!(message.contains(why), "{message}");
    }
}

fn git(dir: &Path, words: &[&str]) {
    let mut command = Command::new("git");
    command.args(["-c", "user.name=t", "-c", "user.email=t@example.org"]);
    let output = command.arg("-C").arg(dir).args(words).output().unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}");
}

#[test]
fn the_commit_comes_from_the_ci_system_or_from_git_and_the_list_shows_it() {
    if !have("git") {
        return;
    }
    let host = TestServer::start();
    let dir = TempDir::new().with(&[("app/index.txt", "1"), ("plain/index.txt", "1")]);
    let app = dir.0.join("app");
    let deploy = |dir: &Path, more: &[&str], variables: &[(&str, &str)]| {
        let mut words = vec!["deploy", dir.to_str().unwrap()];
        words.extend(more);
        let mut command = host.cli_command(&words);
        let output = command.envs(variables.iter().copied()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        newest(&host)["source"].clone()
    };
    assert_eq!(deploy(&dir.0.join("plain"), &[], &[]), Value::Null);
    git(&app, &["init", "-q", "-b", "trunk"]);
    // Nothing is committed yet.
    assert_eq!(deploy(&app, &[], &[]), Value::Null);
    git(&app, &["add", "."]);
    git(&app, &["commit", "-q", "-m", "first"]);
    let clean = deploy(&app, &["--message", "why"], &[]);
    assert_eq!(
        (&clean["branch"], &clean["dirty"]),
        (&json!("trunk"), &json!(false))
    );
    let commit = clean["commit"].as_str().unwrap().to_owned();
    assert_eq!(commit.len(), 40);
    std::fs::write(app.join("new.txt"), "x").unwrap();
    assert_eq!(deploy(&app, &[], &[])["dirty"], true);
    // No git there is no failure, nor is one that never ends.
    std::fs::create_dir(dir.0.join("bin")).unwrap();
    let path = dir.0.join("bin");
    let path = path.to_str().unwrap();
    assert_eq!(deploy(&app, &[], &[("PATH", path)]), Value::Null);
    let sha = "0123456789abcdef0123456789abcdef01234567";
    let github = [("GITHUB_SHA", sha), ("GITHUB_REF_NAME", "main")];
    let said = json!({"commit": sha, "branch": "main"});
    assert_eq!(deploy(&app, &["--message", "by CI"], &github), said);
    let gitlab = [("CI_COMMIT_SHA", sha), ("CI_COMMIT_REF_NAME", "v1")];
    let said = json!({"commit": sha, "branch": "v1"});
    assert_eq!(deploy(&app, &[], &gitlab), said);
    let own = r#"source={"commit":"v1.2.3"}"#;
    assert_eq!(deploy(&app, &[own], &github), json!({"commit": "v1.2.3"}));

    let list = host.cli(&["list", "--output", "text"]);
    let list = String::from_utf8(list.stdout).unwrap();
    let (head, rows) = list.split_once('\n').unwrap();
    let titles: Vec<&str> = head.split_whitespace().collect();
    let expected = "ID PROJECT KIND STATUS PHASE STARTED TOOK BY COMMIT MESSAGE";
    assert_eq!(titles.join(" "), expected, "{list}");
    for (cell, count) in [
        ("0123456   by CI", 1),
        (&*format!("{}   why", &commit[..7]), 1),
        (&*format!("{}+", &commit[..7]), 1),
    ] {
        assert_eq!(rows.matches(cell).count(), count, "{cell} in {list}");
    }
    let too_long = host.cli(&[
        "deploy",
        app.to_str().unwrap(),
        "--message",
        &"x".repeat(5000),
    ]);
    assert_eq!(too_long.status.code(), Some(2), "{too_long:?}");
}

#[test]
fn a_git_that_hangs_does_not_hold_a_deployment_up() {
    let host = TestServer::start();
    let dir = TempDir::new().with(&[
        ("app/index.txt", "1"),
        ("bin/git", "#!/bin/sh\nexec sleep 300\n"),
    ]);
    let git = dir.0.join("bin/git");
    std::fs::set_permissions(&git, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", dir.0.join("bin").display());
    let mut command = host.cli_command(&["deploy", dir.0.join("app").to_str().unwrap()]);
    let begun = std::time::Instant::now();
    let output = command.env("PATH", path).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(begun.elapsed() < std::time::Duration::from_secs(60));
    assert_eq!(newest(&host)["source"], Value::Null);
}
