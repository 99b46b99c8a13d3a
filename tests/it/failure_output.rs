//! A failure of the client, as people read it and as programs do.

use std::process::Command;

use serde_json::Value;

use crate::ports::nobodys;
use crate::test_server::{TempDir, TestServer, component, gangplank};

/// A command, its exit code, and the code's word.
struct Case {
    words: Vec<String>,
    token: bool,
    exit: i32,
    code: &'static str,
}

fn case(words: &[&str], exit: i32, code: &'static str) -> Case {
    Case {
        words: words.iter().map(|word| (*word).to_owned()).collect(),
        token: true,
        exit,
        code,
    }
}

#[test]
fn every_failure_is_a_document_for_who_asked_for_one() {
    let host = TestServer::start();
    host.deploy(&[("project", "demo")], &component());
    let dir = TempDir::new().with(&[("app/x", "1")]);
    let app = dir.0.join("app");
    let app = app.to_str().unwrap();
    // Taken and closed again, so that nobody listens there.
    let nobody = format!("http://{}", nobodys());
    let none = "01976e6c-1c2b-7000-8000-000000000000";
    let mut stranger = case(&["list"], 4, "unauthorized");
    stranger.token = false;
    let cases = [
        // Usage, before and after the words are understood.
        case(&["list", "--wat"], 2, "usage"),
        case(&["dance"], 2, "usage"),
        case(&["show"], 2, "usage"),
        case(&["deploy", "/nowhere/at/all"], 2, "usage"),
        case(&["token", "list", "--root", "/nowhere/at/all"], 2, "usage"),
        // The server says no.
        case(&["rollback", "demo"], 1, "not_found"),
        case(&["show", none], 1, "not_found"),
        case(&["watch", none], 1, "not_found"),
        case(&["status", "none"], 1, "refused"),
        case(&["logs", "none"], 1, "not_found"),
        case(&["op", "dance"], 1, "bad_request"),
        case(&["deploy", app, "install_timeout=x"], 1, "bad_request"),
        case(
            &["deploy", app, "--install-command", "echo why; exit 3"],
            1,
            "install_failed",
        ),
        stranger,
        // Nobody is there.
        case(&["list", "--target", &nobody], 3, "unreachable"),
        case(&["deploy", app, "--target", &nobody], 3, "unreachable"),
    ];
    for Case {
        words,
        token,
        exit,
        code,
    } in cases
    {
        let run = |more: &[&str]| {
            let mut command: Command = match token {
                true => host.cli_command(&[]),
                false => gangplank(),
            };
            command.env("GANGPLANK_TARGET", format!("http://{}", host.address));
            let output = command.args(&words).args(more).output().unwrap();
            let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
            assert_eq!(output.status.code(), Some(exit), "{words:?} {more:?}");
            (text(output.stdout), text(output.stderr))
        };
        let (stdout, stderr) = run(&[]);
        assert!(
            stdout.is_empty() && stderr.contains("error: "),
            "{words:?}: {stdout}{stderr}"
        );
        let (stdout, stderr) = run(&["--output", "json", "--progress", "ndjson"]);
        let found: Value = serde_json::from_str(&stdout)
            .unwrap_or_else(|_| panic!("{words:?}: {stdout:?} {stderr}"));
        assert_eq!(
            (&found["code"], &found["exit_code"]),
            (&code.into(), &exit.into()),
            "{words:?}: {found}"
        );
        assert!(
            found["error"]
                .as_str()
                .is_some_and(|error| !error.is_empty()),
            "{found}"
        );
        let is_token = words[0] == "token";
        for line in stderr.lines() {
            assert!(
                serde_json::from_str::<Value>(line).is_ok(),
                "{words:?}: {line}"
            );
        }
        assert!(!stderr.is_empty() || is_token, "{words:?}");
        let (stdout, _) = run(&["--output", "yaml"]);
        assert!(
            stdout.starts_with("error: ") && stdout.contains(&format!("\ncode: {code}\n")),
            "{stdout}"
        );
        if code == "install_failed" {
            assert_eq!(found["phase"], "install");
            assert_eq!(found["install_output"]["lines"][0]["line"], "why");
            assert!(found["deployment_id"].is_string(), "{found}");
        }
    }
}

#[test]
fn a_result_that_is_there_is_not_followed_by_a_document() {
    let host = TestServer::start();
    // It ends at once, each time.
    let files = &[("./Procfile", "web: sleep 3; exit 7\n")];
    let payload = crate::test_server::gzip(&crate::test_server::tar(files));
    assert_eq!(
        host.deploy(&[("project", "demo"), ("restart", "true")], &payload)
            .status,
        200
    );
    let found = crate::test_server::await_some("a process that is down", || {
        let output = host.cli(&["status", "demo", "--output", "json"]);
        (output.status.code() == Some(1)).then_some(output.stdout)
    });
    let found: Value = serde_json::from_slice(&found).expect("one document");
    assert_eq!(found["components"][0]["project"], "demo");
}
