//! `run`: one command in a release, by raw HTTP and by the CLI.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Child, ChildStdout, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::processes::lives;
use crate::strangers::token;
use crate::test_server::{
    Answer, BOUNDARY, Record, TempDir, TestServer, await_some, gzip, is_root, names, request, tar,
};

fn deploy(host: &TestServer, files: &[(&str, &str)]) -> String {
    let answer = host.deploy(&[("project", "app")], &gzip(&tar(files)));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let id = &answer.json()["deployment_id"];
    id.as_str().unwrap().to_owned()
}

/// A server with a component whose release says which one it is.
fn with_app() -> (TestServer, String) {
    let host = TestServer::start();
    let id = deploy(&host, &[("./v", "1\n")]);
    (host, id)
}

fn asking(command: &Value, more: Value) -> Value {
    let mut operation = json!({"operation": "run_component", "project": "app", "command": command});
    let more = more.as_object().unwrap().clone();
    operation.as_object_mut().unwrap().extend(more);
    operation
}

/// What a command prints on one stream, and the last event.
fn end(events: &[Record], stream: &str) -> (String, Record) {
    let lines = events
        .iter()
        .filter(|one| one.event == "output" && one.data["stream"] == stream);
    let text = lines.map(|one| {
        let end = if one.data["continued"] == true {
            ""
        } else {
            "\n"
        };
        one.data["line"].as_str().unwrap().to_owned() + end
    });
    (text.collect(), events.last().unwrap().clone())
}

fn run(host: &TestServer, command: Value, more: Value) -> (String, Record) {
    let events = host.operate(&asking(&command, more)).events();
    end(&events, "stdout")
}

/// A client of the CLI that runs a command.
struct RunClient {
    child: Child,
    out: BufReader<ChildStdout>,
    /// The command's own process id, which it prints first.
    pid: String,
}

impl RunClient {
    fn new(host: &TestServer, line: &str) -> RunClient {
        let line = format!("echo $$; {line}");
        let mut command = host.cli_command(&["run", "app", "--", &line]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let mut client = RunClient {
            child,
            out,
            pid: String::new(),
        };
        client.pid = client.line();
        client
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// Kills it, and waits for the end of its command.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        gone(&self.pid);
    }

    /// How it ended, and what it said.
    fn ended(self) -> (Option<i32>, String) {
        drop(self.out);
        let output = self.child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), said)
    }
}

fn gone(pid: &str) {
    await_some("the end of the command", || (!lives(pid)).then_some(()));
}

#[test]
fn a_command_runs_in_the_live_release_with_its_environment() {
    let (host, first) = with_app();
    fs::write(host.path("env/app"), "GREETING='hello there'\nODD=a # b\n").unwrap();
    let second = deploy(
        &host,
        &[
            ("./v", "2\n"),
            ("./node_modules/.bin/tool", "#!/bin/sh\necho tool $1\n"),
        ],
    );
    let tool = host.path("components/app/node_modules/.bin/tool");
    fs::set_permissions(&tool, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let line = "cat v; echo $GREETING $GANGPLANK_PROJECT $GANGPLANK_DEPLOYMENT_ID $GANGPLANK_TOKEN; \
                cd $GANGPLANK_SHARED && basename $PWD; read input || echo no input; tool x; exit 7";
    let events = host
        .operate(&asking(&json!(line), json!({"unknown": []})))
        .events();
    let (out, last) = end(&events, "stdout");
    assert_eq!(
        out,
        format!("2\nhello there app {second}\napp\nno input\ntool x\n")
    );
    assert_eq!(
        (&*last.event, &last.data),
        ("done", &json!({"result": {"exit_code": 7}}))
    );
    assert!(events.iter().all(|one| one.id.is_none()));
    // The operator's file is warned of, and the token is not there.
    let mut warnings = events.iter().filter(|one| one.event == "warning");
    assert!(
        warnings.any(|one| one.data.to_string().contains("line 2: the text from")),
        "{events:?}"
    );
    // A list of words goes to the program as it is, and a form carries either.
    let words = json!(["printf", "%s|", "a b", "", "$HOME", "*"]);
    let (out, last) = run(&host, words.clone(), json!({}));
    assert_eq!(
        (&*out, &last.data["result"]["exit_code"]),
        ("a b||$HOME|*|", &json!(0))
    );
    for (text, expected) in [
        (words.to_string(), "a b||$HOME|*|"),
        ("cat v | tr 2 3".into(), "3\n"),
    ] {
        let mut body = String::new();
        for (name, value) in [
            ("operation", "run_component"),
            ("project", "app"),
            ("command", &text),
        ] {
            let head = format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"");
            body += &format!("{head}\r\n\r\n{value}\r\n");
        }
        body += &format!("--{BOUNDARY}--\r\n");
        let media = format!("Content-Type: multipart/form-data; boundary={BOUNDARY}");
        let answer = host.ask("POST", "/", &[&media], body.as_bytes());
        assert_eq!(end(&answer.events(), "stdout").0, expected);
    }
    // In a release that is kept.
    let (out, _) = run(
        &host,
        json!("cat v; echo $GANGPLANK_DEPLOYMENT_ID"),
        json!({"deployment_id": first}),
    );
    assert_eq!(out, format!("1\n{first}\n"));
    // It is not a deployment.
    let list = host
        .operate(&json!({"operation": "list_deployments"}))
        .json();
    assert_eq!(list["total"], 2);
}

#[test]
fn the_client_prints_what_the_command_prints_and_ends_as_it_does() {
    let (host, first) = with_app();
    deploy(&host, &[("./v", "2\n")]);
    let every: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    fs::write(host.path("shared/app/bytes"), &every).unwrap_or_else(|_| {
        run(&host, json!("true"), json!({}));
        fs::write(host.path("shared/app/bytes"), &every).unwrap();
    });
    let long = "x".repeat(20_000);
    let table: &[(&[&str], &[u8], &str, i32)] = &[
        (&["--", "cat v; echo err >&2; exit 3"], b"2\n", "err\n", 3),
        (&["--", "cat", "v", "-"], b"2\n", "", 0),
        (&["cat", "v"], b"2\n", "", 0),
        (&["--release", &first, "--", "cat v"], b"1\n", "", 0),
        (&["--", "printf", "a\\r\\nb\\rc"], b"a\r\nb\rc", "", 0),
        (&["--", "printf", &long], long.as_bytes(), "", 0),
        (&["--", "cat $GANGPLANK_SHARED/bytes"], &every, "", 0),
        (&["--", "kill $$"], b"", "", 143),
        (&["--", "kill -9 $$"], b"", "", 137),
        (&["--", "echo", "--help", "-x"], b"--help -x\n", "", 0),
        (
            &["--timeout", "1s", "--", "echo a; sleep 1000"],
            b"a\n",
            "timed out after 1s",
            1,
        ),
        (&["--", "no-such-program", "a"], b"", "No such file", 1),
        (
            &[
                "--release",
                "01976e6c-1c2b-7000-8000-000000000000",
                "--",
                "true",
            ],
            b"",
            "No deployment found",
            1,
        ),
        // The newest deployment of the component.
        (&["--release", "latest", "--", "cat v"], b"2\n", "", 0),
        (&["more", "--", "true"], b"", "unexpected argument", 2),
        (&[], b"", "CMD is missing: gangplank run PROJECT -- CMD", 2),
        (&["--timeout", "0", "--", "true"], b"", "above 0", 2),
    ];
    for (words, out, said, code) in table {
        let words: Vec<&str> = ["run", "app"].iter().chain(*words).copied().collect();
        let output = host.cli(&words);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(*code), "{words:?}: {stderr}");
        assert!(
            output.stdout == *out,
            "{words:?}: {:?}",
            output.stdout.len()
        );
        match *code {
            0 | 3 | 137 | 143 => assert_eq!(stderr, *said, "{words:?}"),
            _ => assert!(stderr.contains(said), "{words:?}: {stderr}"),
        }
    }
    let output = host.cli(&[
        "run",
        "app",
        "--output",
        "json",
        "--",
        "echo a; echo b >&2; exit 4",
    ]);
    assert_eq!(output.status.code(), Some(4));
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        result,
        json!({"exit_code": 4, "stdout": "a\n", "stderr": "b\n"})
    );
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn what_a_command_prints_is_shown_to_who_asks_by_its_operation() {
    let (host, _) = with_app();
    let output = host.cli(&[
        "op",
        "run_component",
        "project=app",
        "command=cat v; exit 3",
    ]);
    let shown = String::from_utf8(output.stderr).unwrap();
    assert!(
        shown
            .lines()
            .any(|line| line.ends_with(" 1") || line == "1"),
        "{shown}"
    );
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(result, json!({"exit_code": 3}));
}

#[test]
fn a_command_ends_with_its_client() {
    let (host, _) = with_app();
    // By Ctrl-C, which lets it tidy up.
    let file = host.path("tidied");
    let tidies = format!(
        "trap 'echo > {}; exit' TERM; sleep 1000 & wait",
        file.display()
    );
    let one = RunClient::new(&host, &tidies);
    let pid = one.pid.clone();
    kill_process(Pid::from_child(&one.child), Signal::INT).unwrap();
    let (code, said) = one.ended();
    assert_eq!(code, Some(130), "{said}");
    assert!(said.contains("the command is ended"), "{said}");
    gone(&pid);
    assert!(file.exists());
    // By the end of the client, whatever its own children do about that.
    let left = "trap '' TERM; setsid sh -c 'echo $$; exec sleep 1000' & wait";
    let mut two = RunClient::new(&host, left);
    let own = two.line();
    let begun = Instant::now();
    two.kill();
    gone(&own);
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    // By a reader that wants no more of its output.
    let three = RunClient::new(&host, "yes");
    let pid = three.pid.clone();
    assert_eq!(three.ended().0, Some(141));
    gone(&pid);
    // Who only sends nothing more is still there.
    let command = "sleep 2; echo here";
    let (mut stream, _) = begin(&host, command, json!({}));
    stream.shutdown(Shutdown::Write).unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(
        rest.contains("\"line\":\"here\"") && rest.contains("event: done"),
        "{rest}"
    );
}

/// Begins a command by raw HTTP, up to its head.
fn begin(host: &TestServer, command: &str, more: Value) -> (TcpStream, String) {
    let body = asking(&json!(command), more).to_string();
    let authorization = format!("Authorization: Bearer {}", host.token);
    let headers = [authorization.as_str(), "Content-Type: application/json"];
    let mut stream = host.connect();
    stream
        .write_all(&request("POST", "/", &headers, body.as_bytes()))
        .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b": stream open\n\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    (stream, String::from_utf8(head).unwrap())
}

#[test]
fn what_leaves_the_group_or_keeps_the_output_does_not_hold_up_the_end() {
    let (host, _) = with_app();
    let begun = Instant::now();
    let (out, last) = run(&host, json!("setsid sleep 1000 & echo $!"), json!({}));
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(last.data["result"]["exit_code"], 0);
    assert!(!lives(out.trim()));
    // Nor does a client that reads nothing.
    let more = json!({"timeout": 1000});
    let (stream, _) = begin(&host, "echo $$ >$GANGPLANK_SHARED/pid; exec yes", more);
    let pid = await_some("the command", || {
        let pid = fs::read_to_string(host.path("shared/app/pid")).ok()?;
        pid.ends_with('\n').then_some(pid)
    });
    gone(pid.trim());
    drop(stream);
}

#[test]
fn eight_commands_run_at_once() {
    let (host, _) = with_app();
    let clients: Vec<_> = (0..8)
        .map(|_| RunClient::new(&host, "exec sleep 1000"))
        .collect();
    let (code, why) = host.operate(&asking(&json!("true"), json!({}))).refusal();
    assert!(
        code == "full" && why.contains("8 commands run already"),
        "{why}"
    );
    let ninth = host.cli(&["run", "app", "--", "true"]);
    assert_eq!(ninth.status.code(), Some(6), "{ninth:?}");
    // Stopping the component is not meant for them, dropping it is.
    host.cli(&["stop", "app"]);
    assert!(clients.iter().all(|one| lives(&one.pid)));
    let dropped = host.operate(&json!({"operation": "drop_component", "project": "app"}));
    assert_eq!(dropped.status, 200, "{}", dropped.text());
    for client in clients {
        assert!(!lives(&client.pid));
        let (code, said) = client.ended();
        assert!(
            code == Some(1) && said.contains("the component is dropped"),
            "{said}"
        );
    }
    let answer = host.operate(&asking(&json!("true"), json!({})));
    assert_eq!(
        (answer.status, answer.refusal().0.as_str()),
        (404, "not_found")
    );
}

#[test]
fn a_stop_of_the_component_leaves_its_commands() {
    let host = TestServer::start();
    deploy(&host, &[("./Procfile", "web: sleep 1000\n")]);
    let start = host.cli(&["restart", "app"]);
    assert!(start.status.success(), "{start:?}");
    let one = RunClient::new(&host, "exec sleep 1000");
    let stopped = host.cli(&["stop", "app"]);
    assert!(stopped.status.success(), "{stopped:?}");
    assert!(lives(&one.pid));
    one.kill();
}

#[test]
fn the_release_of_a_command_stays_while_it_runs() {
    let host = TestServer::with(&["--keep-releases", "1"], &[]);
    let first = deploy(&host, &[("./v", "1")]);
    let one = RunClient::new(&host, "while sleep 0.05; do cat v || exit 9; done");
    for v in ["2", "3", "4"] {
        deploy(&host, &[("./v", v)]);
    }
    assert!(names(&host.path("releases/app")).contains(&first));
    assert!(lives(&one.pid));
    one.kill();
    await_some("the end of its need", || {
        deploy(&host, &[("./v", "5")]);
        (!names(&host.path("releases/app")).contains(&first)).then_some(())
    });
    let answer = host.operate(&asking(&json!("true"), json!({"deployment_id": first})));
    assert_eq!(answer.status, 404, "{}", answer.text());
}

#[test]
fn a_command_ends_with_the_server() {
    let root = Arc::new(TempDir::new());
    let mut host = TestServer::on(Arc::clone(&root), &[], &[]);
    deploy(&host, &[("./v", "1")]);
    let one = RunClient::new(&host, "exec sleep 1000");
    let pid = one.pid.clone();
    host.signal(Signal::TERM);
    let (code, said) = one.ended();
    assert!(
        code == Some(1) && said.contains("interrupted by the end of the server"),
        "{said}"
    );
    assert!(await_some("its end", || host.server.try_wait().unwrap()).success());
    assert!(!lives(&pid));
    // Killed, it cannot say so, and the next start ends what ran.
    let mut host = TestServer::on(Arc::clone(&root), &[], &[]);
    let one = RunClient::new(&host, "exec sleep 1000");
    let pid = one.pid.clone();
    host.server.kill().unwrap();
    host.server.wait().unwrap();
    let (code, said) = one.ended();
    assert!(
        code == Some(5) && said.contains("it is not known how far"),
        "{said}"
    );
    let host = TestServer::on(root, &[], &[]);
    assert!(!lives(&pid));
    assert_eq!(run(&host, json!("cat v"), json!({})).0, "1");
}

#[test]
fn who_may_run_a_command() {
    let (host, _) = with_app();
    let other = host.deploy(&[("project", "other")], &gzip(&tar(&[("./v", "o")])));
    let other = other.json()["deployment_id"].clone();
    let ask = |token: &str, operation: &Value| -> Answer {
        let authorization = format!("Authorization: Bearer {token}");
        let headers = [authorization.as_str(), "Content-Type: application/json"];
        host.ask_as_anyone("POST", "/", &headers, operation.to_string().as_bytes())
    };
    let plain = asking(&json!("cat v"), json!({}));
    let looks = ask(&token(&host, "looks", "read", &[]), &plain);
    assert_eq!(looks.status, 403, "{}", looks.text());
    assert!(looks.refusal().1.contains("needs the role 'deploy'"));
    let mine = token(&host, "mine", "deploy", &["app"]);
    assert_eq!(end(&ask(&mine, &plain).events(), "stdout").0, "1\n");
    let foreign = json!({"operation": "run_component", "project": "other", "command": "true"});
    assert_eq!(ask(&mine, &foreign).status, 404);
    let by_id = asking(&json!("true"), json!({"deployment_id": other}));
    assert_eq!(ask(&mine, &by_id).status, 404);
    assert_eq!(host.operate(&by_id).refusal().0, "conflict");
    // A revoked token ends what runs for it.
    let body = asking(&json!("echo $$; exec sleep 1000"), json!({})).to_string();
    let authorization = format!("Authorization: Bearer {mine}");
    let headers = [authorization.as_str(), "Content-Type: application/json"];
    let mut stream = host.connect();
    stream
        .write_all(&request("POST", "/", &headers, body.as_bytes()))
        .unwrap();
    let mut text = String::new();
    let mut lines = BufReader::new(stream).lines();
    let pid = await_some("its id", || {
        text = lines.next()?.unwrap();
        let data: Value = serde_json::from_str(text.strip_prefix("data: ")?).ok()?;
        Some(data["line"].as_str()?.to_owned())
    });
    assert!(lives(&pid));
    let revoked = crate::test_server::gangplank()
        .args(["token", "revoke", "mine", "--root"])
        .arg(&host.root.0)
        .output()
        .unwrap();
    assert!(revoked.status.success(), "{revoked:?}");
    gone(&pid);
    // What makes no sense.
    let table = [
        (json!({}), "'command' is required"),
        (
            json!({"command": []}),
            "'command' is not allowed to be empty",
        ),
        (
            json!({"command": ["", "a"]}),
            "'command' is not allowed to be empty",
        ),
        (
            json!({"command": " "}),
            "'command' is not allowed to be empty",
        ),
        (json!({"command": 7}), "a string, or a list of strings"),
        (
            json!({"command": ["a", 1]}),
            "a string, or a list of strings",
        ),
        (json!({"command": "a\0b"}), "a NUL"),
        (
            json!({"command": "true", "timeout": 0}),
            "'timeout' must be above 0",
        ),
        (json!({"command": "true", "timeout": "soon"}), "'timeout'"),
        (
            json!({"command": "true", "deployment_id": "x"}),
            "'deployment_id'",
        ),
    ];
    for (more, part) in table {
        let answer = host.operate(&asking(&Value::Null, more));
        assert_eq!(answer.status, 400, "{}", answer.text());
        assert!(
            answer.refusal().1.contains(part),
            "{part}: {}",
            answer.text()
        );
    }
    let (_, last) = run(&host, json!(["no-such-program"]), json!({}));
    assert_eq!(
        (&*last.event, &last.data["code"]),
        ("error", &json!("bad_request"))
    );
}

#[test]
fn a_command_runs_as_the_user_that_components_run_as() {
    if !is_root() {
        return;
    }
    let host = TestServer::with(&["--run-as", "nobody"], &[]);
    deploy(&host, &[("./v", "1")]);
    let line = "id -u; touch $HOME/a $GANGPLANK_SHARED/b made && echo ok";
    assert_eq!(run(&host, json!(line), json!({})).0, "65534\nok\n");
}
