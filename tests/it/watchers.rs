//! Who watches: somebody else's upload while it arrives, and a deployment that has not begun yet.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::test_server::{PATIENCE, TestServer, await_some, component, form, noise, request, tar};

/// A client whose stderr is read line by line.
struct Watcher {
    client: Child,
    lines: Receiver<String>,
}

impl Watcher {
    fn start(host: &TestServer, words: &[&str]) -> Watcher {
        let mut command = host.cli_command(words);
        // The same after a restart of the server.
        let socket = host.path("run/gangplank.sock");
        command.env("GANGPLANK_TARGET", format!("unix:{}", socket.display()));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut client = command.spawn().unwrap();
        let stderr = client.stderr.take().unwrap();
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Watcher { client, lines }
    }

    /// The next line of which this is true.
    fn line(&self, is_it: impl Fn(&str) -> bool) -> String {
        let mut before = Vec::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) if is_it(&line) => return line,
                Ok(line) => before.push(line),
                Err(_) => panic!("it did not come, but {before:#?}"),
            }
        }
    }

    /// How it ends, and its result.
    fn end(self) -> (i32, Value, Vec<String>) {
        let output = self.client.wait_with_output().unwrap();
        let result = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let rest = self.lines.iter().collect();
        (output.status.code().unwrap(), result, rest)
    }
}

/// An upload, piece by piece.
struct Upload {
    stream: TcpStream,
    chunked: bool,
}

impl Upload {
    fn begin(host: &TestServer, length: usize, media: &str, declared: bool) -> Upload {
        let authorization = format!("Authorization: Bearer {}", host.token);
        let head = request("POST", "/", &[&authorization, media], b"");
        let length = match declared {
            true => format!("Content-Length: {length}"),
            false => "Transfer-Encoding: chunked".to_owned(),
        };
        let head = String::from_utf8(head).unwrap();
        let head = head.replace("Content-Length: 0", &length);
        let mut stream = host.connect();
        stream.write_all(head.as_bytes()).unwrap();
        Upload {
            stream,
            chunked: !declared,
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        let (before, after) = match self.chunked {
            true => (format!("{:x}\r\n", bytes.len()), "\r\n"),
            false => (String::new(), ""),
        };
        let framed = [before.as_bytes(), bytes, after.as_bytes()].concat();
        self.stream.write_all(&framed).unwrap();
    }

    fn end(&mut self) {
        if self.chunked {
            self.stream.write_all(b"0\r\n\r\n").unwrap();
        }
    }
}

#[test]
fn a_second_viewer_sees_the_bytes_of_an_upload() {
    let host = TestServer::start();
    let payload = tar(&[("./large", &"x".repeat(5 << 20))]);
    let (media, body) = form(&[("project", "demo")], &payload);
    // With a length that is declared, and without one.
    for declared in [true, false] {
        let plain = Watcher::start(&host, &["watch", "demo", "--next"]);
        let ndjson = ["watch", "demo", "--next", "--progress", "ndjson"];
        let ndjson = Watcher::start(&host, &ndjson);
        for watcher in [&plain, &ndjson] {
            watcher.line(|line| line.contains("waiting for the next deployment of demo"));
        }
        let mut upload = Upload::begin(&host, body.len(), &media, declared);
        let (first, rest) = body.split_at(3 << 20);
        upload.send(first);
        // It is told as bytes come, so a few come until it is.
        let mut rest = rest.chunks(4 << 10);
        let told = await_some("the upload", || {
            upload.send(rest.next().unwrap());
            let mut lines = plain.lines.try_iter();
            lines.find(|line| line.starts_with("Uploaded "))
        });
        assert_eq!(told.ends_with("%)"), declared, "{told}");
        let event = ndjson.line(|line| line.contains(r#""event":"upload""#));
        let event: Value = serde_json::from_str(&event).unwrap();
        let (bytes, total) = (&event["data"]["bytes"], &event["data"]["total"]);
        assert!(bytes.as_u64().is_some_and(|bytes| bytes > 0), "{event}");
        let total = total.as_u64();
        assert_eq!(total.is_some(), declared, "{event}");
        assert!(total.is_none_or(|total| total.abs_diff(payload.len() as u64) < 4096));
        rest.for_each(|piece| upload.send(piece));
        upload.end();
        plain.line(|line| line == "Uploaded 5.0 MiB / ~5.0 MiB (100%)");
        plain.line(|line| line.starts_with("extract done"));
        assert_eq!(plain.end().0, 0);
        let (code, _, lines) = ndjson.end();
        assert_eq!(code, 0);
        for line in lines {
            assert!(serde_json::from_str::<Value>(&line).is_ok(), "{line}");
        }
    }
}

#[test]
fn the_next_deployment_is_waited_for_across_a_restart_of_the_server() {
    let host = TestServer::start();
    // It has none yet.
    let watcher = Watcher::start(&host, &["watch", "demo", "--next"]);
    watcher.line(|line| line == "waiting for the next deployment of demo");
    host.deploy(&[("project", "other")], &component());
    let first = host.deploy(&[("project", "demo")], &component()).json();
    let id = first["deployment_id"].as_str().unwrap().to_owned();
    watcher.line(|line| line == format!("deployment {id}"));
    let (code, result, _) = watcher.end();
    assert_eq!(
        (code, &result["deployment_id"]),
        (0, &first["deployment_id"])
    );

    // The one that there is, is not the next one.
    let watcher = Watcher::start(&host, &["watch", "demo", "--next"]);
    let said = format!("waiting for the next deployment of demo, after {id}");
    watcher.line(|line| line == said);
    let root = Arc::clone(&host.root);
    drop(host);
    watcher.line(|line| line.contains("trying again"));
    let host = TestServer::on(root, &[], &[]);
    // What fails ends it as `deploy` would have ended.
    let failed = host.deploy(
        &[("project", "demo"), ("install_command", "exit 3")],
        &component(),
    );
    let id = failed.json()["deployment_id"].as_str().unwrap().to_owned();
    watcher.line(|line| line == format!("deployment {id}"));
    assert_eq!(watcher.end().0, 1);
}

#[test]
fn waiting_for_the_next_deployment_ends_when_it_is_interrupted_and_costs_few_requests() {
    let host = TestServer::start();
    let watcher = Watcher::start(&host, &["watch", "demo", "--next"]);
    watcher.line(|line| line == "waiting for the next deployment of demo");
    // Long enough for a client that asks again and again.
    watcher.line(|line| line.starts_with("still waiting for the next deployment (10s)"));
    kill_process(Pid::from_child(&watcher.client), Signal::INT).unwrap();
    watcher.line(|line| line == "error: interrupted: no deployment of demo has begun");
    let (code, _, rest) = watcher.end();
    assert_eq!((code, rest.len()), (130, 0), "{rest:?}");
    let asked = host
        .log
        .lock()
        .unwrap()
        .matches("/deployments/next")
        .count();
    assert!(asked <= 1, "{asked}");
}

#[test]
fn what_the_next_deployment_is_asked_of_is_a_component_of_the_callers() {
    let host = TestServer::start();
    let ask = |path: &str| host.ask("GET", path, &[], b"");
    for (path, status) in [
        ("/deployments/next/events", 400),
        ("/deployments/next/events?project=a.b", 400),
        ("/deployments/next/events?project=demo&after=x", 400),
    ] {
        assert_eq!(ask(path).status, status, "{path}");
    }
    let root = host.root.0.to_str().unwrap().to_owned();
    let made = host.cli(&[
        "token",
        "add",
        "mine",
        "--role",
        "read",
        "--project",
        "mine",
        "--root",
        &root,
    ]);
    let token = String::from_utf8(made.stdout).unwrap();
    let authorization = format!("Authorization: Bearer {}", token.trim());
    let path = "/deployments/next/events?project=demo";
    let answer = host.ask_as_anyone("GET", path, &[&authorization], b"");
    assert_eq!(answer.status, 404, "{}", answer.text());
    // From the beginning: the first one that there was.
    let first = host.deploy(&[("project", "demo")], &noise()).json();
    host.deploy(&[("project", "demo")], &component());
    let events = ask("/deployments/next/events?project=demo&after=0").events();
    assert_eq!(events[0].data["deployment_id"], first["deployment_id"]);
    assert_eq!(events.last().unwrap().event, "done");
    let list = host
        .operate(&json!({"operation": "list_deployments"}))
        .json();
    assert_eq!(list["total"], 2);
}
