//! `serve --notify`: who wants to hear of the ends of deployments does, whatever becomes of the server, and a receiver that
//! fails, stalls or redirects is in nobody's way.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rustix::process::Signal;
use serde_json::Value;

use crate::needs::is_debug_build;
use crate::recipes::recipe;
use crate::test_server::{
    BINARY, PATIENCE, TempDir, TestServer, await_some, bare, component, form, have, names, request,
};

/// The waits are a thousandth of the real ones, and a try takes at most 300 ms.
const HURRIED: (&str, &str) = ("GANGPLANK_TEST_NOTIFY", "1000,300");

/// Somebody who is told.
struct Receiver(TcpListener);

/// What came.
struct Delivery {
    stream: TcpStream,
    head: String,
    text: String,
}

impl Receiver {
    fn new() -> Receiver {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        Receiver(listener)
    }

    fn url(&self) -> String {
        format!("http://{}/hook?to=1", self.0.local_addr().unwrap())
    }

    /// The next delivery.
    fn next(&self) -> Delivery {
        let (mut stream, _) = await_some("a delivery", || self.0.accept().ok());
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut read = Vec::new();
        let end = loop {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            read.push(byte[0]);
            if read.ends_with(b"\r\n\r\n") {
                break String::from_utf8(read).unwrap();
            }
        };
        let mut delivery = Delivery {
            stream,
            head: end,
            text: String::new(),
        };
        let length = delivery.header("content-length").parse().unwrap();
        let mut body = vec![0; length];
        delivery.stream.read_exact(&mut body).unwrap();
        delivery.text = String::from_utf8(body).unwrap();
        delivery
    }
}

impl Delivery {
    fn header(&self, name: &str) -> String {
        let lines = self.head.lines().filter_map(|line| line.split_once(':'));
        let mut found = lines.filter(|(known, _)| known.eq_ignore_ascii_case(name));
        found.next().unwrap().1.trim().to_owned()
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    /// Answers, and leaves the connection open.
    fn say(&mut self, answer: &str) {
        // It may have given up by now.
        let _ = self.stream.write_all(answer.as_bytes());
    }

    fn take(mut self) -> Value {
        self.say("HTTP/1.1 204 No Content\r\n\r\n");
        self.json()
    }
}

/// Waits until a server has nothing left to tell.
fn await_told(host: &TestServer) {
    await_some("an empty queue", || {
        let dirs = names(&host.path("notify"));
        let waits = |name: &String| !names(&host.path("notify").join(name)).is_empty();
        (!dirs.iter().any(waits)).then_some(())
    });
}

fn deploy(host: &TestServer, project: &str, more: &[(&str, &str)]) -> u16 {
    let fields = [&[("project", project)], more].concat();
    host.deploy(&fields, &component()).status
}

/// Kills the server, and starts another one on its root.
fn restarted(mut host: TestServer, flags: &[&str], environment: &[(&str, &str)]) -> TestServer {
    host.server.kill().unwrap();
    host.server.wait().unwrap();
    let root = Arc::clone(&host.root);
    drop(host);
    TestServer::on(root, flags, environment)
}

#[test]
fn a_delivery_is_signed_and_comes_again_until_it_is_taken() {
    if !is_debug_build() || !have("openssl") {
        return;
    }
    let receiver = Receiver::new();
    let dir = TempDir::new().with(&[("secret", "between us\n")]);
    let secret = dir.0.join("secret");
    let flags = [
        "--notify",
        &receiver.url(),
        "--notify-secret-file",
        secret.to_str().unwrap(),
    ];
    let host = TestServer::with(&flags, &[HURRIED]);
    assert_eq!(deploy(&host, "app", &[("message", "why not")]), 200);
    let elsewhere = format!(
        "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://{}/elsewhere\r\nContent-Length: 0\r\n\r\n",
        receiver.0.local_addr().unwrap()
    );
    let answers = [
        "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
        &elsewhere,
        // It stalls, before an answer and in the midst of one.
        "",
        "HTTP/1.1 200 OK\r\nContent-",
    ];
    let mut before: Vec<Delivery> = Vec::new();
    for answer in answers {
        let mut delivery = receiver.next();
        delivery.say(answer);
        before.push(delivery);
    }
    let last = receiver.next();
    for one in &before {
        assert_eq!(one.text, last.text);
        assert!(
            one.head.starts_with("POST /hook?to=1 HTTP/1.1\r\n"),
            "{}",
            one.head
        );
        let headers = ["x-gangplank-delivery", "x-gangplank-signature"];
        for header in headers {
            assert_eq!(one.header(header), last.header(header));
        }
    }
    assert_eq!(last.header("content-type"), "application/json");
    let mut openssl = Command::new("openssl")
        .args(["dgst", "-sha256", "-hmac", "between us"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    openssl
        .stdin
        .take()
        .unwrap()
        .write_all(last.text.as_bytes())
        .unwrap();
    let digest = String::from_utf8(openssl.wait_with_output().unwrap().stdout).unwrap();
    let digest = digest.trim().rsplit(' ').next().unwrap();
    assert_eq!(
        last.header("x-gangplank-signature"),
        format!("sha256={digest}")
    );
    let id = last.header("x-gangplank-delivery");
    let told = last.take();
    assert_eq!(told["id"], id.as_str());
    for (field, value) in [
        ("project", "app"),
        ("kind", "deploy"),
        ("status", "success"),
        ("message", "why not"),
        ("user", "admin"),
    ] {
        assert_eq!(told[field], value, "{told}");
    }
    let record = host.record(told["deployment_id"].as_str().unwrap());
    assert_eq!(told["at"], record["completed_at"]);
    assert!(told["error"].is_null());
    await_told(&host);
    // The log says what went wrong, and nothing of the URL that is secret.
    let log = host.log.lock().unwrap().clone();
    assert!(log.contains("it answers 500; it is tried again"), "{log}");
    assert!(
        !log.contains("/hook") && !log.contains("between us"),
        "{log}"
    );
}

#[test]
fn a_receiver_that_never_takes_it_is_given_up_after_five_tries() {
    if !is_debug_build() {
        return;
    }
    let receiver = Receiver::new();
    let host = TestServer::with(&["--notify", &receiver.url()], &[HURRIED]);
    assert_eq!(deploy(&host, "app", &[]), 200);
    for _ in 0..5 {
        drop(receiver.next());
    }
    await_told(&host);
    await_some("the word of it", || {
        let log = host.log.lock().unwrap();
        log.contains("it is given up after 5 tries").then_some(())
    });
    // The next one is tried as if nothing had been.
    assert_eq!(deploy(&host, "app", &[]), 200);
    assert_eq!(receiver.next().take()["status"], "success");
    await_told(&host);
}

#[test]
fn a_receiver_that_stalls_holds_up_neither_deployments_nor_others_nor_the_end() {
    let (stalls, takes) = (Receiver::new(), Receiver::new());
    let flags = ["--notify", &stalls.url(), "--notify", &takes.url()];
    let mut host = TestServer::with(&flags, &[]);
    assert_eq!(deploy(&host, "app", &[]), 200);
    assert_eq!(deploy(&host, "app", &[("install_command", "exit 3")]), 422);
    assert_eq!(deploy(&host, "app", &[("activate", "false")]), 200);
    let told: Vec<Value> = (0..3).map(|_| takes.next().take()).collect();
    let ends: Vec<&str> = told
        .iter()
        .map(|one| one["status"].as_str().unwrap())
        .collect();
    assert_eq!(ends, ["success", "failed", "staged"]);
    assert_eq!(told[1]["error"]["code"], "install_failed");
    assert_eq!(told[1]["error"]["phase"], "install");
    let waiting = || {
        let dirs = names(&host.path("notify"));
        let counts = dirs
            .iter()
            .map(|dir| names(&host.path("notify").join(dir)).len());
        let mut counts: Vec<usize> = counts.collect();
        counts.sort_unstable();
        counts
    };
    await_some("what was taken to be gone", || {
        (waiting() == [0, 3]).then_some(())
    });
    host.signal(Signal::TERM);
    assert!(host.server.wait().unwrap().success());
}

#[test]
fn a_delivery_survives_a_restart_of_the_server() {
    let receiver = Receiver::new();
    let url = receiver.url();
    let flags = ["--notify", &*url];
    let host = TestServer::with(&flags, &[]);
    assert_eq!(deploy(&host, "app", &[]), 200);
    let first = receiver.next();
    let host = restarted(host, &flags, &[]);
    let second = receiver.next();
    assert_eq!(first.text, second.text);
    let id = second.header("x-gangplank-delivery");
    assert_eq!(first.header("x-gangplank-delivery"), id);
    second.take();
    await_told(&host);
    // What waits for somebody who is not told any longer goes.
    assert_eq!(deploy(&host, "app", &[]), 200);
    let third = receiver.next();
    let host = restarted(host, &[], &[]);
    drop(third);
    assert_eq!(names(&host.path("notify")), [""; 0]);
    assert!(
        host.log
            .lock()
            .unwrap()
            .contains("and the 1 that wait there")
    );
}

#[test]
fn an_end_is_told_by_the_next_server_when_this_one_is_killed_before_it_puts_that_down() {
    if !is_debug_build() {
        return;
    }
    let receiver = Receiver::new();
    let url = receiver.url();
    let flags = ["--notify", &*url];
    // Before there is an end, and when the journal has it.
    for (place, end) in [("installed", "failed"), ("recorded", "success")] {
        let dir = TempDir::new();
        let file = dir.0.join("reached");
        let checkpoint = format!("{place}={}", file.display());
        let host = TestServer::with(&flags, &[("GANGPLANK_TEST_CHECKPOINT", &checkpoint)]);
        let (media, body) = form(&[("project", "app")], &component());
        let token = format!("Authorization: Bearer {}", host.token);
        let mut stream = host.connect();
        stream
            .write_all(&request("POST", "/", &[&token, &media], &body))
            .unwrap();
        await_some("the checkpoint", || file.exists().then_some(()));
        let host = restarted(host, &flags, &[]);
        let told = receiver.next().take();
        let record = host.record(told["deployment_id"].as_str().unwrap());
        assert_eq!(told["status"], record["status"]);
        assert_eq!(told["status"], end, "{place}");
        await_told(&host);
    }
}

#[test]
fn what_the_disk_does_not_take_is_said_in_the_log_and_fails_nothing() {
    let receiver = Receiver::new();
    let host = TestServer::with(&["--notify", &receiver.url()], &[]);
    let dir = host.path("notify").join(&names(&host.path("notify"))[0]);
    fs::remove_dir(&dir).unwrap();
    fs::write(&dir, "").unwrap();
    assert_eq!(deploy(&host, "app", &[]), 200);
    await_some("the line of the log", || {
        let log = host.log.lock().unwrap();
        let said = log.contains("nobody is told of the end of deployment");
        said.then_some(())
    });
}

#[test]
fn what_makes_no_sense_is_refused_at_the_start() {
    let dir = TempDir::new().with(&[("empty", "\n")]);
    let root = dir.0.join("root");
    let file = |name: &str| dir.0.join(name).display().to_string();
    for (flags, code, why) in [
        (vec!["--notify", "ftp://a/"], 2, "http:// or https://"),
        (
            vec!["--notify", "http://a/", "--notify", "http://a"],
            2,
            "twice",
        ),
        (vec!["--notify-secret-file", "x"], 2, "needs --notify"),
        (
            vec![
                "--notify",
                "http://a/",
                "--notify-secret-file",
                &file("none"),
            ],
            1,
            "No such file",
        ),
        (
            vec![
                "--notify",
                "http://a/",
                "--notify-secret-file",
                &file("empty"),
            ],
            1,
            "it is empty",
        ),
    ] {
        let output = bare(BINARY)
            .args(["serve", "--listen", "127.0.0.1:0", "--root"])
            .arg(&root)
            .args(&flags)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{flags:?}: {said}");
        assert!(said.contains(why), "{flags:?}: {said}");
    }
}

/// A program that ends with the test.
struct Relay(Child);

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_recipe_for_a_chat_tells_it_what_ended() {
    if !have("python3") {
        return;
    }
    let chat = Receiver::new();
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let dir = TempDir::new().with(&[("secret", "between us\n")]);
    let secret = dir.0.join("secret").display().to_string();
    let text = recipe("chat").replace("9926", &port.to_string());
    let file = dir.0.join("relay.py");
    fs::write(&file, text).unwrap();
    let relay = bare("python3")
        .arg(&file)
        .env("CHAT_URL", chat.url())
        .env("SECRET_FILE", &secret)
        .spawn();
    let _relay = Relay(relay.unwrap());
    await_some("the relay", || {
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()
    });
    let url = format!("http://127.0.0.1:{port}/");
    let host = TestServer::with(&["--notify", &url, "--notify-secret-file", &secret], &[]);
    assert_eq!(deploy(&host, "app", &[("install_command", "exit 3")]), 422);
    let told = chat.next().take();
    let text = told["text"].as_str().unwrap();
    assert!(text.starts_with("app: deploy failed by admin: "), "{text}");
    await_told(&host);
}
