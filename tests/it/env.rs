//! A component's environment: who sets it, what reads it back, and that it reaches everything that runs.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Output, Stdio};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::test_server::{
    Answer, BINARY, TempDir, TestServer, await_some, bare, gangplank, gzip, is_root, tar,
};

/// What no log, answer or file but the one may have.
const SECRET: &str = "hunter2";

fn set(host: &TestServer, project: &str, set: &Value, unset: &Value) -> Answer {
    host.operate(&json!({"operation": "set_env", "project": project, "set": set, "unset": unset}))
}

fn values(host: &TestServer, project: &str) -> Value {
    let asked = json!({"operation": "get_env", "project": project, "values": true});
    let answer = host.operate(&asked);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["values"].clone()
}

fn deploy(host: &TestServer, files: &[(&str, &str)]) -> Value {
    let fields = [("project", "app"), ("restart", "true")];
    let answer = host.deploy(&fields, &gzip(&tar(files)));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

/// The lines that programs of the component have written, when all are there.
fn said(host: &TestServer, all: &dyn Fn(&str) -> bool) -> String {
    await_some("what the component's programs say", || {
        let said = fs::read_to_string(host.path("shared/app/said")).ok()?;
        all(&said).then_some(said)
    })
}

/// A component whose install command, check, process and health command each write what `say` gives, behind their names.
fn speaking(say: &str) -> Vec<(&'static str, String)> {
    let say = |who: &str| format!("echo \"{who} {say}\" >>$GANGPLANK_SHARED/said");
    let manifest = json!({
        "install_command": say("install"),
        "check": say("check"),
        "health": {"command": say("health")},
    });
    let procfile = format!("web: {}; exec sleep 1000\n", say("web"));
    vec![
        ("./gangplank.json", manifest.to_string()),
        ("./Procfile", procfile),
    ]
}

fn deploy_speaking(host: &TestServer, say: &str) -> String {
    let files = speaking(say);
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, &**text)).collect();
    deploy(host, &files);
    let who = ["install ", "check ", "health ", "web "];
    said(host, &|said| who.iter().all(|who| said.contains(who)))
}

#[test]
fn what_is_set_before_the_first_deployment_reaches_everything_that_runs() {
    let host = TestServer::start();
    let answer = set(
        &host,
        "app",
        &json!({"GREETING": "it's # $HOME"}),
        &json!([]),
    );
    assert_eq!(answer.status, 200, "{}", answer.text());
    let said = deploy_speaking(&host, "<$GREETING>");
    for line in said.lines() {
        assert!(line.ends_with(" <it's # $HOME>"), "{said}");
    }
}

#[test]
fn programs_of_the_release_come_first_and_python_prints_at_once() {
    let host = TestServer::with(&[], &[("HOME", "/")]);
    set(
        &host,
        "app",
        &json!({"PATH": "/usr/bin:/bin:/own"}),
        &json!([]),
    );
    let said = deploy_speaking(&host, "$PATH $PYTHONUNBUFFERED");
    let releases = host.root.0.canonicalize().unwrap().join("releases/app");
    for line in said.lines() {
        let start = format!(" {}/", releases.display());
        assert!(line.contains(&start), "{said}");
        let end = "/node_modules/.bin:/usr/bin:/bin:/own 1";
        assert!(line.ends_with(end), "{said}");
    }
    // What follows in an install command finds what was installed, and so does what runs later.
    let make = "mkdir -p node_modules/.bin && printf '#!/bin/sh\\necho own >>$GANGPLANK_SHARED/own' \
                >node_modules/.bin/next && chmod 755 node_modules/.bin/next && next";
    let manifest = json!({"install_command": make, "check": "next"}).to_string();
    deploy(
        &host,
        &[
            ("./gangplank.json", &manifest),
            (
                "./package.json",
                r#"{"scripts": {"start": "next; exec sleep 1000"}}"#,
            ),
        ],
    );
    await_some("three runs of the installed program", || {
        let said = fs::read_to_string(host.path("shared/app/own")).ok()?;
        (said == "own\n".repeat(3)).then_some(())
    });
}

#[test]
fn a_home_that_cannot_be_written_is_replaced_and_the_caches_with_it() {
    let say = "$HOME|$npm_config_cache|$YARN_CACHE_FOLDER|$PNPM_HOME|$PIP_CACHE_DIR";
    let own = TempDir::new();
    let mine = own.0.to_str().unwrap();
    let mut table = vec![(&[][..], mine, true), (&[][..], "/nonexistent", false)];
    if is_root() {
        // It may write there only as root.
        table.push((&["--run-as", "nobody"][..], mine, false));
    }
    for (flags, home, is_kept) in table {
        let host = TestServer::with(flags, &[("HOME", home)]);
        let said = deploy_speaking(&host, say);
        let cache = host.root.0.canonicalize().unwrap().join("cache/app");
        let place = |name: &str| cache.join(name).display().to_string();
        let expected = match is_kept {
            true => format!("{home}||||"),
            false => ["home", "npm", "yarn", "pnpm", "pip"].map(place).join("|"),
        };
        for line in said.lines() {
            let (_, found) = line.split_once(' ').unwrap();
            assert_eq!(found, expected, "{flags:?} {home}");
        }
        assert_eq!(host.path("cache/app").exists(), !is_kept);
        host.operate(&json!({"operation": "drop_component", "project": "app"}));
        assert!(!host.path("cache/app").exists(), "{flags:?} {home}");
    }
    // The operator's word counts for more than the server's.
    let host = TestServer::with(&[], &[("HOME", "/nonexistent")]);
    set(&host, "app", &json!({"HOME": mine}), &json!([]));
    let said = deploy_speaking(&host, say);
    assert!(
        said.lines()
            .all(|line| line.ends_with(&format!(" {mine}||||"))),
        "{said}"
    );
}

#[test]
fn what_runs_has_the_limit_of_open_files_that_the_server_was_started_with() {
    let mut command = bare("sh");
    command.args(["-c", "ulimit -S -n 200 && exec \"$0\" \"$@\"", BINARY]);
    let host = TestServer::launch(command, Arc::new(TempDir::new()), &[]);
    // It gets it when it has started already, a moment later.
    let wait = "until test $(ulimit -S -n) = 200; do sleep 0.02; done";
    let manifest =
        json!({"install_command": wait, "install_timeout": 30, "check": wait}).to_string();
    let procfile =
        format!("web: {wait}; echo $(ulimit -S -n) >$GANGPLANK_SHARED/said; exec sleep 1000\n");
    deploy(
        &host,
        &[("./gangplank.json", &manifest), ("./Procfile", &procfile)],
    );
    said(&host, &|said| said == "200\n");
    // The server itself has all that it may have.
    let limits = fs::read_to_string(format!("/proc/{}/limits", host.server.id())).unwrap();
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let numbers: Vec<&str> = files.unwrap().split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers[0], numbers[1]);
}

#[test]
fn what_is_set_reads_back_the_same_and_no_other_line_changes() {
    let host = TestServer::start();
    let file = host.path("env/app");
    fs::write(
        &file,
        "\u{feff}# by hand\r\nexport OLD=\"a \\\"b\\\"\"\nGONE=1\n\nGONE=2\n",
    )
    .unwrap();
    let all = json!({"A": "a b", "B": "it's", "C": "\"", "D": "'\"\\$`", "E": "", "F": " # ", "G": "\\n", "H": "ä", "OLD": "new"});
    let answer = set(&host, "app", &all, &json!(["GONE", "MISSING"]));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["unset"], json!(["GONE"]));
    assert_eq!(values(&host, "app"), all);
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.starts_with("# by hand\n\nA='a b'\n"), "{text}");
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    // Without values there are none.
    let names = host.operate(&json!({"operation": "get_env", "project": "app"}));
    assert!(!names.text().contains("values") && !names.text().contains("it's"));
    assert_eq!(names.json()["names"].as_array().unwrap().len(), 9);
    assert_eq!(values(&host, "other"), json!({}));
}

#[test]
fn changes_at_once_are_all_made() {
    let host = TestServer::start();
    std::thread::scope(|scope| {
        for n in 0..8 {
            let host = &host;
            scope.spawn(move || {
                let mut one = json!({});
                one[format!("KEY_{n}")] = n.to_string().into();
                assert_eq!(set(host, "app", &one, &json!([])).status, 200);
            });
        }
    });
    assert_eq!(values(&host, "app").as_object().unwrap().len(), 8);
}

#[test]
fn what_is_refused_changes_nothing_and_no_value_is_told() {
    let host = TestServer::start();
    set(
        &host,
        "app",
        &json!({"KEPT": SECRET, "OTHER": SECRET}),
        &json!([]),
    );
    let before = fs::read(host.path("env/app")).unwrap();
    let long = SECRET.repeat(20_000);
    let table = [
        (
            json!({"A": format!("{SECRET}\n{SECRET}")}),
            json!([]),
            "newline",
        ),
        (
            json!({"A": "1", "hunter2-": "1"}),
            json!([]),
            "the key must be",
        ),
        (json!({"": SECRET}), json!([]), "the key must be"),
        (json!({"A": 1}), json!([]), "must be a string"),
        (json!([SECRET]), json!([]), "'set' must be an object"),
        (
            json!({"A": SECRET}),
            json!(["A"]),
            "in 'set' and in 'unset'",
        ),
        (json!({}), json!([7]), "'unset'"),
        (json!({}), json!({"A": 1}), "'unset' must be a list"),
        (json!({"A": long}), json!([]), "must not be longer"),
    ];
    for (values, unset, part) in table {
        let answer = set(&host, "app", &values, &unset);
        let (code, why) = answer.refusal();
        assert_eq!(code, "bad_request", "{why}");
        assert!(why.contains(part) && !why.contains(SECRET), "{part}: {why}");
        assert_eq!(fs::read(host.path("env/app")).unwrap(), before);
    }
    // A file that grows beyond what is read is not written.
    for n in 0..12 {
        let mut one = json!({});
        one[format!("LONG_{n}")] = "x".repeat(100_000).into();
        let answer = set(&host, "big", &one, &json!([]));
        assert_eq!(answer.status, if n < 10 { 200 } else { 413 }, "{n}");
    }
    assert_eq!(values(&host, "big").as_object().unwrap().len(), 10);
    // Nor is one that is not understood, which is named with its line.
    fs::write(host.path("env/app"), format!("A=1\n{SECRET}\n")).unwrap();
    let (_, why) = set(&host, "app", &json!({"A": "2"}), &json!([])).refusal();
    assert!(
        why.contains("env/app: line 2") && !why.contains(SECRET),
        "{why}"
    );
    assert!(
        fs::read_to_string(host.path("env/app"))
            .unwrap()
            .starts_with("A=1\n")
    );
    let log = await_some("the change in the log", || {
        let log = host.log.lock().unwrap().clone();
        log.contains("environment of app is changed by admin: set KEPT, OTHER")
            .then_some(log)
    });
    assert!(!log.contains(SECRET), "{log}");
}

#[test]
fn only_who_may_deploy_a_component_sees_or_changes_its_environment() {
    let host = TestServer::start();
    let token = |name: &str, flags: &[&str]| {
        let mut command = gangplank();
        command
            .args(["token", "add", name, "--root"])
            .arg(&host.root.0);
        let output = command.args(flags).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        format!("Authorization: Bearer {}", text.trim())
    };
    let limited = token("limited", &["--role", "deploy", "--project", "app"]);
    let looks = token("looks", &["--role", "read"]);
    let table = [
        (&limited, "app", 200),
        (&limited, "other", 404),
        (&looks, "app", 403),
    ];
    for (token, project, status) in table {
        for asked in [
            json!({"operation": "set_env", "project": project, "set": {"A": "1"}}),
            json!({"operation": "get_env", "project": project, "values": true}),
            json!({"operation": "get_env", "project": project}),
        ] {
            let media = "Content-Type: application/json";
            let body = asked.to_string();
            let answer = host.ask_as_anyone("POST", "/", &[token, media], body.as_bytes());
            assert_eq!(answer.status, status, "{asked}: {}", answer.text());
        }
        assert_eq!(host.path("env").join(project).exists(), project == "app");
    }
}

fn stdout(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn the_command_sets_gets_lists_and_unsets() {
    let host = TestServer::start();
    let said = stdout(&host.cli(&[
        "env", "set", "app", "A=x=y", "B=it's", "C=", "--output", "text",
    ]));
    assert_eq!(
        said,
        "Successfully changed the environment of app: set A, B, C\n"
    );
    assert_eq!(stdout(&host.cli(&["env", "get", "app", "B"])), "it's\n");
    assert_eq!(
        stdout(&host.cli(&["env", "get", "app"])),
        "A=x=y\nB=\"it's\"\nC=\n"
    );
    let json = stdout(&host.cli(&["env", "get", "app", "A", "--output", "json"]));
    assert_eq!(
        serde_json::from_str::<Value>(&json).unwrap(),
        json!({"A": "x=y"})
    );
    assert_eq!(
        stdout(&host.cli(&["env", "list", "app", "--output", "text"])),
        "A\nB\nC\n"
    );
    stdout(&host.cli(&["env", "unset", "app", "A", "C"]));
    assert_eq!(values(&host, "app"), json!({"B": "it's"}));
    let table: [(&[&str], i32, &str); 8] = [
        (&["get", "app", "NONE"], 1, "NONE is not set"),
        (&["set", "app"], 2, "--from is missing"),
        (&["set", "app", SECRET], 2, "has no '='"),
        (&["set", "app", "A-B=hunter2"], 2, "the key must be"),
        (&["set", "app", "A=hunter2\nhunter2"], 1, "newline"),
        (&["unset", "app", "A=hunter2"], 2, "unexpected argument"),
        (&["unset", "app"], 2, "KEY or PROJECT is missing"),
        (&["show", "app"], 2, "list, get, set, unset"),
    ];
    for (words, code, part) in table {
        let words: Vec<&str> = std::iter::once("env")
            .chain(words.iter().copied())
            .collect();
        let output = host.cli(&words);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{words:?}: {stderr}");
        assert!(
            stderr.contains(part) && !stderr.contains(SECRET),
            "{stderr}"
        );
        assert!(output.stdout.is_empty());
    }
    assert_eq!(values(&host, "app"), json!({"B": "it's"}));
}

#[test]
fn a_file_or_stdin_is_set_and_the_processes_have_it_after_a_restart() {
    let host = TestServer::start();
    let procfile = "web: echo $A-$B >>$GANGPLANK_SHARED/said; exec sleep 1000\n";
    deploy(&host, &[("./Procfile", procfile)]);
    said(&host, &|said| said == "-\n");
    let dir = TempDir::new().with(&[(
        ".env",
        "\u{feff}# x\r\nexport A=1\r\nB='2' \r\nC=3 # note\r\n",
    )]);
    let file = dir.0.join(".env");
    let file = file.to_str().unwrap();
    let output = host.cli(&["env", "set", "app", "A=mine", "--from", file, "--restart"]);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let answer: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert!(answer["deployment_id"].is_string(), "{answer}");
    assert!(stderr.contains(&format!("{file}: line 4:")), "{stderr}");
    said(&host, &|said| said == "-\nmine-2\n");
    assert_eq!(values(&host, "app")["C"], "3 # note");
    // The history has the names, and no value: the list, and the component's own log.
    let list = host.operate(&json!({"operation": "list_deployments", "limit": 1}));
    let newest = &list.json()["deployments"][0];
    assert_eq!(
        (&newest["kind"], &newest["message"]),
        (&json!("restart"), &json!("environment: set A, B, C"))
    );
    let log = stdout(&host.cli(&["logs", "app", "--type", "env"]));
    assert!(
        log.ends_with(" env gangplank the environment is changed by admin: set A, B, C\n"),
        "{log}"
    );

    let mut command = host.cli_command(&["env", "set", "app", "--from", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut client = command.spawn().unwrap();
    client
        .stdin
        .take()
        .unwrap()
        .write_all(b"A=\"piped\"\n")
        .unwrap();
    stdout(&client.wait_with_output().unwrap());
    assert_eq!(values(&host, "app")["A"], "piped");

    fs::write(file, "A=1\nhunter2").unwrap();
    let output = host.cli(&["env", "set", "app", "--from", file]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(
        stderr.contains("line 2") && !stderr.contains(SECRET),
        "{stderr}"
    );
}

#[test]
fn a_hash_in_a_value_without_quotes_is_kept_and_warned_of_with_its_line() {
    let host = TestServer::start();
    fs::write(host.path("env/app"), "# x\nA=1 # note\nB='1 # none'\n").unwrap();
    let answer = deploy(&host, &[("./v", "1")]);
    assert_eq!(values(&host, "app")["A"], "1 # note");
    let path = format!(
        "/deployments/{}/events",
        answer["deployment_id"].as_str().unwrap()
    );
    let events = host.ask("GET", &path, &[], b"").events();
    let warnings: Vec<String> = events
        .iter()
        .filter(|one| one.event == "warning")
        .map(|one| one.data["message"].as_str().unwrap().to_owned())
        .filter(|one| one.contains("line"))
        .collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].starts_with("env/app: line 2: ") && !warnings[0].contains("note"));
}
