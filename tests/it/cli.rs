//! The client: what it prints where, and how it ends.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::ports::nobodys;
use crate::test_server::{
    TempDir, TestServer, VERSION, await_some, bare, for_others, gangplank, names,
};

fn app() -> TempDir {
    TempDir::new().with(&[
        ("app/index.txt", "hello"),
        ("app/.hidden", "h"),
        ("app/node_modules/m/index.js", "m"),
        ("app/.git/HEAD", "ref"),
    ])
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn stderr(output: &Output) -> String {
    text(&output.stderr)
}

#[test]
fn a_deploy_shows_its_steps_and_prints_its_result_alone() {
    let host = TestServer::start();
    let app = app();
    let dir = app.0.join("app");
    let output = host.cli(&[
        "deploy",
        dir.to_str().unwrap(),
        "--install-command",
        "echo one; echo two >&2",
    ]);
    let shown = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{shown}");
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(result["message"], "Successfully deployed: app");
    let id = result["deployment_id"].as_str().unwrap();
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines[0], "Packing 2 files, 6 B", "{shown}");
    assert!(
        lines[1].starts_with("Uploaded ") && lines[1].ends_with("(100%)"),
        "{shown}"
    );
    assert!(lines[2].contains(id), "{shown}");
    for line in [
        "extract...",
        "install...",
        "install: using echo",
        "  | one",
        "  ! two",
        "load...",
        "activate...",
    ] {
        assert!(lines.contains(&line), "{line} in {shown}");
    }
    assert!(shown.contains("install done (2 log lines, "), "{shown}");
    assert!(
        !shown.contains('\r') && !shown.contains('\x1b'),
        "{shown:?}"
    );
    assert_eq!(
        names(&host.path("components/app/")),
        [".hidden", "index.txt"]
    );

    let all = host.cli(&[
        "deploy",
        dir.to_str().unwrap(),
        "--include-node-modules",
        "--include-git",
        "--progress",
        "quiet",
    ]);
    assert_eq!((all.status.code(), stderr(&all).as_str()), (Some(0), ""));
    assert_eq!(
        names(&host.path("components/app/")),
        [".git", ".hidden", "index.txt", "node_modules"]
    );
}

#[test]
fn every_end_has_its_code_and_failures_print_no_result() {
    let host = TestServer::start();
    let app = app();
    let empty = TempDir::new();
    let (dir, empty) = (app.0.join("app"), empty.0.to_str().unwrap().to_owned());
    let dir = dir.to_str().unwrap();
    let nobody = nobodys().to_string();
    let nobody = format!("http://{nobody}");
    let table: [(&[&str], i32, &str); 17] = [
        (
            &["deploy", dir, "--install-command", "exit 9"],
            1,
            "exit code 9 (install_failed)",
        ),
        (
            &["deploy", dir, "--replicated"],
            1,
            "no peers to replicate to",
        ),
        (
            &["show", "01a20cf7-0c3c-75a6-9ee8-bff2915a5a0d"],
            1,
            "No deployment found",
        ),
        (&["show", "0."], 2, "neither a deployment's id"),
        (&["op", "fly"], 1, "Operation 'fly' not found"),
        (&["deploy", "/no/such/directory"], 2, "/no/such/directory"),
        (&["deploy", &empty, "--project", "x"], 2, "no file in it"),
        (&["deploy", dir, "--project", "a.b"], 2, "--project"),
        (&["deploy", dir, "--nonsense"], 2, "--nonsense"),
        (&["deploy", dir, "more"], 2, "more"),
        (&["deploy", dir, "--level", "10"], 2, "--level"),
        (&["list", "--limit", "many"], 2, "many"),
        (&["nonsense"], 2, "nonsense"),
        (&["list", "--target", &nobody], 3, "connecting to"),
        (&["deploy", dir, "--target", &nobody], 3, "connecting to"),
        (&["deploy", dir, "--token", "wrong"], 4, "Login failed"),
        (&["list", "--token", "wrong"], 4, "Login failed"),
    ];
    for (arguments, code, part) in table {
        let output = host.cli(arguments);
        let shown = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {shown}");
        assert!(shown.contains(part), "{arguments:?}: {shown}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

/// A server that says its version, answers one other request with these bytes, and hangs up.
fn answers(bytes: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut seen = Vec::new();
            let mut buffer = [0; 4096];
            while !seen.ends_with(b"registration_info\"}")
                && !seen.windows(5).any(|window| window == b"0\r\n\r\n")
            {
                match stream.read(&mut buffer).unwrap() {
                    0 => break,
                    n => seen.extend_from_slice(&buffer[..n]),
                }
            }
            if seen.ends_with(b"}") {
                stream.write_all(VERSION.as_bytes()).unwrap();
                continue;
            }
            stream.write_all(bytes).unwrap();
            break;
        }
    });
    format!("http://{address}")
}

#[test]
fn a_stream_that_is_cut_is_no_success_and_a_proxy_is_told_from_a_server() {
    let app = app();
    let dir = app.0.join("app");
    const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n: stream open\n\n";
    let phase = "id: 1\nevent: phase\ndata: {\"phase\":\"install\",\"status\":\"start\"}\n\n";
    let done = "event: done\ndata: {\"result\":{\"message\":\"m\"}}\n\n";
    let table: [(String, i32, &str); 5] = [
        (format!("{HEAD}{phase}"), 5, ""),
        (format!("{HEAD}{phase}event: done\ndata: {{}}\n"), 5, ""),
        (HEAD.to_owned(), 5, ""),
        (format!("{HEAD}{phase}{done}"), 0, ""),
        ("HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n<h1>nginx</h1>".to_owned(), 3, "nginx"),
    ];
    for (answer, code, part) in table {
        let target = answers(answer.clone().leak().as_bytes());
        let mut command = gangplank();
        command.args([
            "deploy",
            dir.to_str().unwrap(),
            "--target",
            &target,
            "--token",
            "t",
            "--retry-for",
            "1",
        ]);
        let output = command.output().unwrap();
        let shown = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{answer}: {shown}");
        assert!(shown.contains(part), "{answer}: {shown}");
        assert_eq!(output.stdout.is_empty(), code != 0);
    }
}

#[test]
fn every_line_of_ndjson_parses_and_the_other_forms_are_what_they_say() {
    let host = TestServer::start();
    let app = app();
    let dir = app.0.join("app");
    let dir = dir.to_str().unwrap();
    let output = host.cli(&[
        "deploy",
        dir,
        "--progress",
        "ndjson",
        "--install-command",
        "printf '\\033[31mred\\n'",
    ]);
    let shown = stderr(&output);
    let lines: Vec<Value> = shown
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for event in ["upload", "deployment", "phase", "install", "done"] {
        assert!(
            lines.iter().any(|line| line["event"] == event),
            "{event} in {shown}"
        );
    }
    let yaml = text(&host.cli(&["deploy", dir, "--output", "yaml"]).stdout);
    assert!(
        yaml.starts_with("message: \"Successfully deployed: app\"\ndeployment_id: "),
        "{yaml}"
    );
    let plain = host.cli(&[
        "deploy",
        dir,
        "--output",
        "text",
        "--install-command",
        "printf '\\033[31mred\\n'",
    ]);
    assert_eq!(text(&plain.stdout), "Successfully deployed: app\n");
    assert!(stderr(&plain).contains("  | red\n"), "{}", stderr(&plain));
    let github = host.cli(&[
        "deploy",
        dir,
        "--progress",
        "github",
        "--install-command",
        "echo '::set-env::x ##[add-path]'",
    ]);
    let shown = stderr(&github);
    assert!(
        shown.contains("::group::install")
            && !shown.contains("\n::set-env")
            && !shown.contains("##["),
        "{shown}"
    );
    let table = text(
        &host
            .cli(&["list", "--output", "text", "--limit", "2"])
            .stdout,
    );
    assert_eq!(table.matches("success").count(), 2, "{table}");
}

#[test]
fn help_and_version() {
    for command in [
        "serve",
        "deploy",
        "deploy_component",
        "watch",
        "list",
        "show",
        "rollback",
        "cancel",
        "payload",
        "status",
        "restart",
        "stop",
        "start",
        "drop",
        "logs",
        "sync",
        "op",
        "token",
    ] {
        let output = gangplank().args([command, "--help"]).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{command}");
        assert!(text(&output.stdout).contains("gangplank "), "{command}");
    }
    let version = gangplank().arg("--version").output().unwrap();
    assert_eq!(
        text(&version.stdout),
        format!("gangplank {}\n", env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(gangplank().output().unwrap().status.code(), Some(2));
    let said = gangplank().arg("deplyo").output().unwrap();
    assert_eq!(said.status.code(), Some(2));
    let expected = "error: unknown command \"deplyo\"; did you mean deploy?\n";
    assert_eq!(stderr(&said), expected);
}

#[test]
fn the_habits_of_harper_work() {
    let host = TestServer::start();
    let app = app();
    let target = format!("http://{}", host.address);
    let token = &host.token;
    let dir = app.0.join("app");
    let words = [
        format!("target={target}"),
        "username=admin".to_owned(),
        format!("password={token}"),
        "project=harper".to_owned(),
        "json=true".to_owned(),
    ];
    let output = gangplank()
        .current_dir(&dir)
        .arg("deploy_component")
        .args(&words)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(text(&output.stdout).starts_with("{\n"));
    assert!(host.path("components/harper/index.txt").exists());
    let mut command = gangplank();
    command
        .current_dir(&dir)
        .arg("list")
        .env("HARPER_CLI_TARGET", &target);
    command
        .env("HARPER_CLI_USERNAME", "admin")
        .env("HARPER_CLI_PASSWORD", token);
    let list: Value = serde_json::from_slice(&command.output().unwrap().stdout).unwrap();
    assert_eq!(list["total"], 1);
    std::os::unix::fs::symlink("index.txt", dir.join("link")).unwrap();
    for (word, linked) in [("skip_symlinks=false", true), ("skip_symlinks=true", false)] {
        let output = host.cli_command(&["deploy", "project=harper", word]);
        let output = { output }.current_dir(&dir).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let link = fs::symlink_metadata(host.path("components/harper/link"));
        assert_eq!(link.is_ok(), linked, "{word}");
    }
}

#[test]
fn the_socket_of_the_root_is_the_default() {
    let host = TestServer::start();
    let app = app();
    let mut command = gangplank();
    command
        .arg("deploy")
        .arg(app.0.join("app"))
        .env("GANGPLANK_ROOT", &host.root.0);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        host.record(result["deployment_id"].as_str().unwrap())["user"],
        Value::Null
    );
}

#[test]
fn an_interrupted_client_says_how_to_go_on_watching() {
    let host = TestServer::start();
    let app = app();
    let gate = host.path("gate");
    let hold = format!(
        "echo begun; while [ ! -e {} ]; do sleep 0.01; done; echo over",
        gate.display()
    );
    let dir = app.0.join("app");
    let arguments = ["deploy", dir.to_str().unwrap(), "--install-command", &hold];
    let mut deploy = host
        .cli_command(&arguments)
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(deploy.stderr.take().unwrap())
        .lines()
        .map(Result::unwrap);
    lines.find(|line| line == "  | begun").unwrap();
    let busy = host.cli(&["deploy", dir.to_str().unwrap()]);
    assert_eq!(busy.status.code(), Some(6), "{}", stderr(&busy));
    assert!(stderr(&busy).contains("; --wait waits for its end, and then deploys (busy)"));

    // Somebody else follows meanwhile, from the start.
    let mut watch = host
        .cli_command(&["watch", "app"])
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut watched = BufReader::new(watch.stderr.take().unwrap())
        .lines()
        .map(Result::unwrap);
    watched.find(|line| line == "  | begun").unwrap();

    kill_process(Pid::from_child(&deploy), Signal::INT).unwrap();
    let rest: Vec<String> = lines.collect();
    assert_eq!(deploy.wait().unwrap().code(), Some(130));
    assert!(
        rest.iter().any(|line| line.contains("gangplank watch ")),
        "{rest:?}"
    );

    fs::write(&gate, "").unwrap();
    watched.find(|line| line == "  | over").unwrap();
    drop(watched);
    assert_eq!(watch.wait().unwrap().code(), Some(0));
    let id = await_some("the end", || {
        let list = host
            .operate(&json!({"operation": "list_deployments"}))
            .json();
        let newest = list["deployments"][0].clone();
        (newest["status"] == "success")
            .then(|| newest["deployment_id"].as_str().unwrap().to_owned())
    });
    let replay = host.cli(&["watch", &id]);
    assert_eq!(replay.status.code(), Some(0));
    assert!(stderr(&replay).contains("  | begun"));
    let shown: Value = serde_json::from_slice(&host.cli(&["show", &id]).stdout).unwrap();
    assert_eq!(shown["status"], "success");
    let operation: Value = serde_json::from_slice(
        &host
            .cli(&["op", "get_deployment", &format!("deployment_id={id}")])
            .stdout,
    )
    .unwrap();
    assert_eq!(operation["project"], "app");
}

#[test]
fn links_that_lead_out_are_left_out_with_a_warning() {
    let host = TestServer::start();
    let app = app();
    let dir = app.0.join("app");
    std::os::unix::fs::symlink("index.txt", dir.join("inside")).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", dir.join("outside")).unwrap();
    let output = host.cli(&["deploy", dir.to_str().unwrap()]);
    assert!(
        stderr(&output).contains("warning: ") && stderr(&output).contains("outside"),
        "{}",
        stderr(&output)
    );
    assert_eq!(
        names(&host.path("components/app/")),
        [".hidden", "index.txt", "inside"]
    );
}

#[test]
fn what_must_not_be_read_is_told_before_anything_is_sent() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    for hidden in ["app/f", "app/d"] {
        let at = TempDir::new().with(&[("app/f", "f"), ("app/d/x", "x")]);
        let hide = |mode| {
            fs::set_permissions(at.0.join(hidden), fs::Permissions::from_mode(mode)).unwrap();
        };
        hide(0);
        let mut command = bare(for_others(&at.0).to_str().unwrap());
        // Root may read everything, and another user may not.
        if rustix::process::geteuid().is_root() {
            command.uid(65534).gid(65534);
        }
        command.arg("deploy").arg(at.0.join("app"));
        // Where it would be sent, nobody answers: that would be exit code 3.
        let output = command.args(["--target", "127.0.0.1:9"]).output().unwrap();
        hide(0o700);
        let shown = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{shown}");
        assert!(
            shown.contains(&format!("/{hidden}: Permission denied")),
            "{shown}"
        );
    }
}

#[test]
fn names_that_no_server_takes_are_told_before_anything_is_sent() {
    // Nobody listens there, and nobody is asked.
    let nobody = "http://127.0.0.1:1";
    let deep = format!("{}f", "d/".repeat(64));
    let long = format!("{}f", format!("{}/", "n".repeat(200)).repeat(6));
    for (name, why) in [(&*deep, "64"), (&*long, "1024"), ("a\nb", "newline")] {
        let dir = TempDir::new().with(&[(name, "x")]);
        let mut command = gangplank();
        command.args(["deploy", dir.0.to_str().unwrap(), "--project", "x"]);
        let output = command.args(["--target", nobody]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert!(stderr(&output).contains(why), "{}", stderr(&output));
    }
}

#[test]
fn a_result_that_cannot_be_written_does_not_hide_that_it_was_done() {
    let host = TestServer::start();
    let app = app();
    let dir = app.0.join("app");
    let mut command = host.cli_command(&["deploy", dir.to_str().unwrap()]);
    let full = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let output = command.stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    let said = stderr(&output);
    assert!(
        said.contains("Successfully deployed: app, but writing the result"),
        "{said}"
    );
}
