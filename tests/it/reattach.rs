//! Deployments outlive everything: the client goes on where it stopped when connections break, proxies answer, and the
//! server dies and comes back.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::ports::{free_port, nobodys};
use crate::test_server::{TempDir, TestServer, VERSION, await_some, gangplank};

/// What is done with a connection.
#[derive(Debug, Clone, Copy)]
enum Act {
    /// So many bytes of the request go through, then it is cut.
    CutUp(usize),
    /// So many bytes of the answer go through, then it is cut.
    CutDown(usize),
    /// Nothing goes through; it is cut after this time, or when the client closes it.
    Hold(Duration),
    /// Answers in the server's place.
    Html,
}

/// A proxy that does these things with its first connections, in their order, and lets further ones through. That a client
/// asks for the version, as it does before anything else, goes through and does not count.
struct Proxy {
    target: String,
    acts: Arc<Mutex<VecDeque<Act>>>,
}

impl Proxy {
    fn before(address: &str, acts: &[Act]) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = format!("http://{}", listener.local_addr().unwrap());
        let left = Arc::new(Mutex::new(acts.iter().copied().collect::<VecDeque<_>>()));
        let (acts, address) = (Arc::clone(&left), address.to_owned());
        // It ends with the tests.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, address) = (stream.unwrap(), address.clone());
                let act = match is_probe(&stream) {
                    true => None,
                    false => acts.lock().unwrap().pop_front(),
                };
                std::thread::spawn(move || relay(stream, &address, act));
            }
        });
        Proxy { target, acts: left }
    }

    /// Whether all has been done.
    fn done(&self) -> bool {
        self.acts.lock().unwrap().is_empty()
    }
}

/// Whether a client asks for the version. Nothing of what it sends is taken.
fn is_probe(stream: &TcpStream) -> bool {
    let mut buffer = [0; 1024];
    loop {
        let n = stream.peek(&mut buffer).unwrap_or(0);
        let text = String::from_utf8_lossy(&buffer[..n]);
        let head = text.split_once("\r\n\r\n");
        match head {
            // A body of this length is no other one's.
            Some((head, _)) => return head.to_ascii_lowercase().contains("content-length: 33"),
            None if n == 0 || n == buffer.len() => return false,
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn relay(mut client: TcpStream, address: &str, act: Option<Act>) {
    match act {
        Some(Act::Html) => {
            let mut buffer = [0; 4096];
            let _ = client.read(&mut buffer);
            let page = "<h1>nginx</h1>";
            let head = "HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nConnection: close";
            let length = page.len();
            let _ = write!(client, "{head}\r\nContent-Length: {length}\r\n\r\n{page}");
            let _ = client.shutdown(Shutdown::Write);
            while client.read(&mut buffer).is_ok_and(|n| n > 0) {}
        }
        Some(Act::Hold(time)) => {
            client.set_read_timeout(Some(time)).unwrap();
            let mut buffer = [0; 4096];
            while client.read(&mut buffer).is_ok_and(|n| n > 0) {}
        }
        Some(Act::CutUp(bytes)) => between(client, address, bytes, usize::MAX),
        Some(Act::CutDown(bytes)) => between(client, address, usize::MAX, bytes),
        None => between(client, address, usize::MAX, usize::MAX),
    }
}

/// Lets through at most so many bytes to the server, and so many back.
fn between(client: TcpStream, address: &str, up: usize, down: usize) {
    let Ok(server) = TcpStream::connect(address) else {
        return;
    };
    let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let sending = std::thread::spawn(move || copy(from, to, up));
    copy(server, client, down);
    sending.join().unwrap();
}

/// At the end of what may go through both sides are cut; at the end of what there is, one.
fn copy(mut from: TcpStream, mut to: TcpStream, mut left: usize) {
    let mut buffer = [0; 16 * 1024];
    while left > 0 {
        let room = left.min(buffer.len());
        match from.read(&mut buffer[..room]) {
            Ok(0) => {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            Ok(n) if to.write_all(&buffer[..n]).is_ok() => left -= n,
            _ => break,
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

fn app() -> TempDir {
    TempDir::new().with(&[("app/index.txt", "hello")])
}

/// The client, by way of a proxy.
fn client(host: &TestServer, target: &str, arguments: &[&str]) -> Child {
    let mut command = gangplank();
    command.args(arguments).args(["--target", target]);
    command.env("GANGPLANK_TOKEN", &host.token);
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn ended(child: Child) -> (Option<i32>, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

/// The lines of the installation, as they were shown.
fn installed(shown: &str) -> Vec<&str> {
    let lines = shown.lines();
    lines.filter_map(|line| line.strip_prefix("  | ")).collect()
}

fn numbered(count: u32) -> Vec<String> {
    (1..=count).map(|n| format!("line-{n}")).collect()
}

#[test]
fn each_line_is_shown_once_whatever_breaks() {
    let host = TestServer::start();
    let app = app();
    let dir = app.0.join("app");
    let command = "n=0; while [ $n -lt 300 ]; do n=$((n+1)); echo line-$n; done";
    let acts = [
        Act::CutDown(1500),
        Act::Html,
        Act::CutDown(90),
        Act::CutDown(2000),
        Act::Hold(Duration::from_millis(300)),
        Act::CutDown(10_000),
        Act::CutDown(0),
        Act::CutDown(5000),
    ];
    let proxy = Proxy::before(&host.address, &acts);
    let arguments = [
        "deploy",
        dir.to_str().unwrap(),
        "--install-command",
        command,
    ];
    let (code, stdout, shown) = ended(client(&host, &proxy.target, &arguments));
    assert_eq!(code, Some(0), "{shown}");
    assert_eq!(installed(&shown), numbered(300), "{shown}");
    assert!(proxy.done());
    let result: Value = serde_json::from_str(&stdout).unwrap();
    let id = result["deployment_id"].as_str().unwrap();
    assert_eq!(shown.matches(id).count(), 1, "{shown}");
    for line in ["extract...", "install...", "load...", "activate..."] {
        assert_eq!(
            shown.lines().filter(|shown| *shown == line).count(),
            1,
            "{shown}"
        );
    }
    assert!(shown.contains("connection lost ("), "{shown}");

    // A watcher is served in the same way, and a program reads the remarks as events.
    let proxy = Proxy::before(&host.address, &acts);
    let arguments = ["watch", id, "--progress", "ndjson", "--retry-for", "30"];
    let (code, _, shown) = ended(client(&host, &proxy.target, &arguments));
    assert_eq!(code, Some(0), "{shown}");
    let events: Vec<Value> = shown
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let ids: Vec<u64> = events
        .iter()
        .filter_map(|event| event["id"].as_str()?.parse().ok())
        .collect();
    assert!(ids.iter().copied().eq(1..=ids.len() as u64), "{ids:?}");
    let lost = |event: &&Value| event["event"] == "client";
    assert!(events.iter().any(|event| lost(&event)), "{shown}");
    assert_eq!(events.last().unwrap()["event"], "done");
}

#[test]
fn an_upload_that_breaks_is_begun_again() {
    let host = TestServer::start();
    let app = app();
    let noise: String = (0..400_000_u32)
        .map(|n| char::from(b'a' + (n.wrapping_mul(2_654_435_761) >> 28) as u8))
        .collect();
    let app = app.with(&[("app/noise", &noise)]);
    let dir = app.0.join("app");
    let acts = [
        Act::CutUp(60_000),
        Act::Html,
        Act::CutUp(200),
        Act::CutUp(150_000),
    ];
    let proxy = Proxy::before(&host.address, &acts);
    let arguments = ["deploy", dir.to_str().unwrap(), "--level", "0"];
    let (code, _, shown) = ended(client(&host, &proxy.target, &arguments));
    assert_eq!(code, Some(0), "{shown}");
    assert!(proxy.done());
    // Of the last one all may be in the sockets when it is cut.
    let again = ["; trying again", "; sending the upload again"];
    let said: usize = again.iter().map(|words| shown.matches(words).count()).sum();
    assert_eq!(said, acts.len(), "{shown}");
    assert!(shown.contains("upload broken (502 Bad Gateway"), "{shown}");
    assert!(host.path("components/app/noise").exists());
}

#[test]
fn the_time_ends_when_nothing_comes_back() {
    let host = TestServer::start();
    let app = app();
    let dir = app.0.join("app");
    let mut acts = vec![Act::CutDown(800)];
    acts.extend([Act::Html; 100]);
    let proxy = Proxy::before(&host.address, &acts);
    let deploy = ["deploy", dir.to_str().unwrap(), "--retry-for", "1"];
    let (code, stdout, shown) = ended(client(&host, &proxy.target, &deploy));
    assert_eq!((code, &*stdout), (Some(5), ""), "{shown}");
    let list = json!({"operation": "list_deployments"});
    let list = host.operate(&list).json();
    let id = list["deployments"][0]["deployment_id"].as_str().unwrap();
    let hint = format!("gangplank watch {id} --target {}", proxy.target);
    assert!(shown.contains(&hint), "{shown}");
    assert_eq!(shown.matches("reconnecting").count(), 1, "{shown}");
    // Whoever was never reached is not waited for.
    drop(proxy);
    let nobody = nobodys();
    let nobody = format!("http://{nobody}");
    let deploy = ["deploy", dir.to_str().unwrap()];
    assert_eq!(ended(client(&host, &nobody, &deploy)).0, Some(3));
}

/// The lines of a client's stderr, as they come.
fn lines(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    let stderr = child.stderr.take().unwrap();
    BufReader::new(stderr).lines().map(Result::unwrap)
}

#[test]
fn a_server_that_is_killed_and_comes_back_tells_the_end() {
    // Free just now; nobody but the system gives it to another one in between.
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let root = Arc::new(TempDir::new());
    let flags = ["--listen", listen.as_str()];
    let mut host = TestServer::on(Arc::clone(&root), &flags, &[]);
    assert_eq!(host.address, listen);
    let app = app();
    let dir = app.0.join("app");
    let command = "echo line-1; echo line-2; echo line-3; exec sleep 600";
    let arguments = [
        "deploy",
        dir.to_str().unwrap(),
        "--install-command",
        command,
    ];
    let target = format!("http://{listen}");
    let mut deploy = client(&host, &target, &arguments);
    let mut shown = lines(&mut deploy);
    let mut seen = Vec::new();
    while seen.last().is_none_or(|line| line != "  | line-3") {
        seen.push(shown.next().unwrap());
    }
    host.server.kill().unwrap();
    host.server.wait().unwrap();
    seen.extend(
        shown
            .by_ref()
            .take_while(|line| !line.contains("reconnecting")),
    );
    let _harbor = TestServer::on(root, &flags, &[]);
    seen.extend(shown);
    assert_eq!(deploy.wait().unwrap().code(), Some(1), "{seen:?}");
    let seen = seen.join("\n");
    assert_eq!(installed(&seen), numbered(3), "{seen}");
    assert!(seen.contains("(interrupted)"), "{seen}");
}

#[test]
fn ctrl_c_lets_a_deployment_go_on_and_stops_an_upload() {
    let host = TestServer::start();
    let app = app();
    let dir = app.0.join("app");
    let patient = Act::Hold(Duration::from_secs(60));
    let proxy = Proxy::before(&host.address, &[Act::CutDown(800), patient]);
    let arguments = ["deploy", dir.to_str().unwrap()];
    let mut deploy = client(&host, &proxy.target, &arguments);
    let mut shown = lines(&mut deploy);
    shown.find(|line| line.contains("reconnecting")).unwrap();
    kill_process(Pid::from_child(&deploy), Signal::INT).unwrap();
    let rest: Vec<String> = shown.collect();
    assert_eq!(deploy.wait().unwrap().code(), Some(130));
    let list = json!({"operation": "list_deployments"});
    let newest = await_some("the end", || {
        let newest = host.operate(&list).json()["deployments"][0].clone();
        (newest["status"] == "success").then_some(newest)
    });
    let id = newest["deployment_id"].as_str().unwrap();
    for command in ["watch", "cancel"] {
        let hint = format!("gangplank {command} {id} --target {}", proxy.target);
        assert!(rest.iter().any(|line| line.contains(&hint)), "{rest:?}");
    }

    let proxy = Proxy::before(&host.address, &[patient]);
    // More than the sockets hold, and sparse.
    let file = std::fs::File::create(dir.join("large")).unwrap();
    file.set_len(256 << 20).unwrap();
    let arguments = ["deploy", dir.to_str().unwrap(), "--level", "0", "--full"];
    let deploy = client(&host, &proxy.target, &arguments);
    await_some("the connection", || proxy.done().then_some(()));
    kill_process(Pid::from_child(&deploy), Signal::INT).unwrap();
    let (code, _, shown) = ended(deploy);
    assert_eq!(code, Some(130), "{shown}");
    assert!(
        shown.contains("nothing was deployed") && !shown.contains("watch"),
        "{shown}"
    );
    assert_eq!(host.operate(&list).json()["total"], 1);
}

#[test]
fn who_waits_follows_the_other_deployment_and_then_deploys() {
    let host = TestServer::start();
    let app = app();
    let dir = app.0.join("app");
    let target = format!("http://{}", host.address);
    let gate = host.path("gate");
    let hold = format!(
        "echo begun; while [ ! -e {} ]; do sleep 0.01; done; exit 3",
        gate.display()
    );
    let dir = dir.to_str().unwrap();
    let arguments = ["deploy", dir, "--install-command", &hold];
    let mut first = client(&host, &target, &arguments);
    let mut shown = lines(&mut first);
    shown.find(|line| line == "  | begun").unwrap();
    let mut second = client(&host, &target, &["deploy", dir, "--wait"]);
    let mut waiting = lines(&mut second);
    let line = waiting
        .find(|line| line.starts_with("waiting for deployment "))
        .unwrap();
    waiting.find(|line| line == "  | begun").unwrap();
    std::fs::write(&gate, "").unwrap();
    let first_id = shown.find(|line| line.contains("install_failed"));
    assert!(first_id.is_some());
    let rest: Vec<String> = waiting.collect();
    assert_eq!(first.wait().unwrap().code(), Some(1));
    assert_eq!(second.wait().unwrap().code(), Some(0), "{line} {rest:?}");
    assert!(host.path("components/app/index.txt").exists());
}

/// A server that says its version, answers one other request with these bytes, and gives that request.
fn answering(answer: String) -> (String, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = format!("http://{}", listener.local_addr().unwrap());
    let thread = std::thread::spawn(move || {
        loop {
            let mut stream = listener.accept().unwrap().0;
            let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
            while !request.ends_with(b"}") {
                let n = stream.read(&mut buffer).unwrap();
                request.extend_from_slice(&buffer[..n]);
            }
            let request = String::from_utf8(request).unwrap();
            if request.contains("registration_info") {
                stream.write_all(VERSION.as_bytes()).unwrap();
                continue;
            }
            stream.write_all(answer.as_bytes()).unwrap();
            return request;
        }
    });
    (target, thread)
}

#[test]
fn logs_and_payloads_go_to_stdout_as_they_are() {
    let ask = |arguments: &[&str], head: &str, body: &str| {
        let (target, thread) = answering(format!(
            "HTTP/1.1 200 OK\r\nConnection: close\r\n{head}\r\n\r\n{body}"
        ));
        let mut command = gangplank();
        let command = command
            .args(arguments)
            .args(["--target", &target, "--token", "t"]);
        let output = command.output().unwrap();
        let request = thread.join().unwrap();
        (output, request)
    };
    let log = |kind: &str, line: &str| {
        let data = json!({"type": kind, "stream": "stdout", "line": line});
        format!("id: 1\nevent: log\ndata: {data}\n\n")
    };
    let stream = [
        log("web", "one"),
        log("job", "\u{1b}[31mtwo"),
        "event: done\ndata: {\"result\":{}}\n\n".into(),
    ];
    let (output, request) = ask(
        &["logs", "p", "--follow", "--lines", "5"],
        "Content-Type: text/event-stream",
        &stream.concat(),
    );
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(output.stdout, b"web | one\njob | \x1b[31mtwo\n");
    assert!(
        request.contains("\"follow\":true") && request.contains("\"lines\":5"),
        "{request}"
    );

    let (output, request) = ask(
        &["logs", "p"],
        "Content-Type: text/plain",
        "2026-11-24T08:16:11.000Z web stdout one\n2026-11-24T08:16:11.001Z web stderr \"two\"\n",
    );
    assert_eq!(
        (output.status.code(), &*output.stdout),
        (
            Some(0),
            &b"2026-11-24T08:16:11.000Z web stdout one\n2026-11-24T08:16:11.001Z web stderr \"two\"\n"[..]
        )
    );
    assert!(request.contains("get_logs"), "{request}");

    let cut = ask(
        &["logs", "p", "--follow", "--retry-for", "0"],
        "Content-Type: text/event-stream",
        &stream[0],
    )
    .0;
    assert_eq!(
        (cut.status.code(), &*cut.stdout),
        (Some(3), &b"web | one\n"[..])
    );

    let id = "01976e6c-1c2b-7000-8000-000000000000";
    let head = "Content-Type: application/octet-stream\r\nContent-Length: 5\r\nContent-Disposition: attachment; filename=p";
    let (output, _) = ask(&["payload", id], head, "a\0b\nc");
    assert_eq!(
        (output.status.code(), &*output.stdout),
        (Some(0), &b"a\0b\nc"[..])
    );
    let (output, _) = ask(&["payload", id], head, "a\0b");
    assert_eq!(output.status.code(), Some(3), "{output:?}");
}

#[test]
fn logs_that_are_followed_go_on_with_the_next_server() {
    let root = std::sync::Arc::new(TempDir::new());
    let host = TestServer::on(std::sync::Arc::clone(&root), &[], &[]);
    let app = TempDir::new().with(&[("Procfile", "web: echo up-$$; exec sleep 600\n")]);
    let deploy = [
        "deploy",
        app.0.to_str().unwrap(),
        "--project",
        "app",
        "--restart",
    ];
    let output = host.cli(&deploy);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let socket = format!("unix:{}", root.0.join("run/gangplank.sock").display());
    let mut logs = gangplank();
    logs.args(["logs", "app", "--follow", "--target", &socket]);
    let mut logs = logs
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(logs.stdout.take().unwrap()).lines();
    // Among them stands when the process was started.
    let mut lines = lines
        .map_while(Result::ok)
        .filter(|line| line.starts_with("web | up-"));
    let first = lines.next().unwrap();
    drop(host);
    let _next = TestServer::on(root, &[], &[]);
    let second = lines.next().unwrap();
    assert_ne!(second, first);
    logs.kill().unwrap();
    logs.wait().unwrap();
}
