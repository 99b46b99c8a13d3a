//! What is lost and tried again, with servers that say and do exactly what they are told.

use super::*;
use crate::cli::screen::Surroundings;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What a server does with one connection.
#[derive(Clone, Copy)]
pub(crate) enum Do {
    /// Reads the whole request and answers with this, and closes.
    Answer(&'static str),
    /// Reads so many bytes of the request and closes.
    Cut(usize),
    /// Reads the head, answers with this, and reads no further until the client closes.
    Early(&'static str),
}

/// A server that does this with its connections, one after the other, and is gone then. Gives the requests that it read.
/// Questions for its version are answered and do not count.
pub(crate) fn scripted(steps: Vec<Do>) -> (String, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = format!("http://{}", listener.local_addr().unwrap());
    let serving = move || steps.into_iter().map(|step| one(&listener, step)).collect();
    (target, std::thread::spawn(serving))
}

pub(crate) fn one(listener: &TcpListener, step: Do) -> String {
    let mut stream = other_than_probe(listener);
    let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
    let has = |request: &[u8], part: &[u8]| request.windows(part.len()).any(|at| at == part);
    loop {
        let enough = match step {
            Do::Answer(_) if request.starts_with(b"GET") => request.ends_with(b"\r\n\r\n"),
            Do::Answer(_) if has(&request, b"multipart/") => request.ends_with(b"0\r\n\r\n"),
            Do::Answer(_) => request.ends_with(b"}"),
            Do::Cut(bytes) => request.len() >= bytes,
            Do::Early(_) => has(&request, b"\r\n\r\n"),
        };
        if enough {
            break;
        }
        let n = stream.read(&mut buffer).unwrap();
        assert!(n > 0, "{}", String::from_utf8_lossy(&request));
        request.extend_from_slice(&buffer[..n]);
    }
    if let Do::Answer(answer) | Do::Early(answer) = step {
        // A client that has seen enough hangs up before the end.
        let _ = stream.write_all(answer.as_bytes());
    }
    if let Do::Answer(_) = step {
        let _ = stream.shutdown(std::net::Shutdown::Write);
        while stream.read(&mut buffer).is_ok_and(|n| n > 0) {}
    }
    if let Do::Early(_) = step {
        // The client closes when it has seen the end; nothing is read before.
        await_closing(&stream);
    }
    String::from_utf8_lossy(&request).into_owned()
}

/// The next connection that does not ask for the version.
fn other_than_probe(listener: &TcpListener) -> std::net::TcpStream {
    let mut buffer = [0; 2048];
    loop {
        let mut stream = listener.accept().unwrap().0;
        let head = loop {
            let n = stream.peek(&mut buffer).unwrap();
            let text = String::from_utf8_lossy(&buffer[..n]).to_ascii_lowercase();
            match text.split_once("\r\n\r\n") {
                Some((head, _)) => break head.to_owned(),
                None if n == 0 || n == buffer.len() => return stream,
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        // No other request of ours has this length.
        if !head.contains("content-length: 33") {
            return stream;
        }
        let mut request = Vec::new();
        while !request.ends_with(b"}") {
            let n = stream.read(&mut buffer).unwrap();
            request.extend_from_slice(&buffer[..n]);
        }
        stream.write_all(VERSION.as_bytes()).unwrap();
    }
}

/// Until the other side has closed, without reading from it: a write fails then.
fn await_closing(mut stream: &std::net::TcpStream) {
    let begun = Instant::now();
    while stream.write_all(b": still here\n\n").is_ok() {
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "the client goes on"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[derive(Clone, Default)]
struct ShownText(Arc<Mutex<Vec<u8>>>);

impl Write for ShownText {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What a command gives, and what the plain screen shows of it.
pub(crate) fn told(text: &str, target: &str) -> (Result<Option<Value>, CommandError>, Vec<String>) {
    let (options, request) = read(text, target);
    let around = Surroundings {
        terminal: false,
        ci: false,
        dumb: false,
        runner: None,
        no_color: false,
        utf8: false,
        columns: || 80,
    };
    let shown = ShownText::default();
    let writer = Box::new(shown.clone());
    let mut screen = Screen::with(
        Progress::Plain,
        false,
        around,
        writer,
        Box::new(Instant::now),
    );
    let result = ask(&options, request, &mut screen);
    if let Err(trouble) = &result {
        say(trouble, &options, &mut screen);
    }
    screen.finish();
    let text = String::from_utf8(shown.0.lock().unwrap().clone()).unwrap();
    let result = result.map(|end| Some(value_of(end)));
    (result, text.lines().map(str::to_owned).collect())
}

macro_rules! deployment {
    () => {
        "id: 1\nevent: deployment\ndata: {\"deployment_id\":\"01976e6c-1c2b-7000-8000-000000000000\"}"
    };
}

macro_rules! line {
    ($id:literal, $line:literal) => {
        concat!(
            "id: ",
            $id,
            "\nevent: install\ndata: {\"manager\":\"m\",\"stream\":\"stdout\",\"line\":\"",
            $line,
            "\"}"
        )
    };
}

macro_rules! upload {
    ($bytes:literal) => {
        concat!(
            "event: upload\ndata: {\"bytes\":",
            $bytes,
            ",\"total\":100}"
        )
    };
}

pub(crate) const DONE: &str = stream!("id: 9\nevent: done\ndata: {\"result\":{\"message\":\"m\"}}");
pub(crate) const ENDED: &str = "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
const PROXY: &str =
    "HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 12\r\n\r\n<h1>bad</h1>";
pub(crate) const BUSY: &str = "HTTP/1.1 409 X\r\nContent-Type: application/json\r\nContent-Length: 88\r\n\r\n{\"error\":\"x\",\"code\":\"busy\",\"deployment_id\":\"01976e6c-1c2b-7000-8000-000000000000\"}     ";
const STOPPING: &str = "HTTP/1.1 503 X\r\nContent-Type: application/json\r\nContent-Length: 33\r\n\r\n{\"error\":\"x\",\"code\":\"stopping\"}  ";

pub(crate) fn app(name: &str) -> CommandDir {
    let dir = CommandDir::new(name);
    std::fs::write(dir.0.join("a"), "a").unwrap();
    dir
}

#[test]
fn a_stream_that_breaks_goes_on_where_it_stopped() {
    let dir = app("resume");
    let begun = stream!(deployment!(), line!(2, "one"), line!(3, "two"));
    // The server sends more than was asked for: nothing is shown twice.
    let more = stream!(line!(3, "two"), upload!(50), line!(4, "three"));
    let steps = vec![
        Do::Answer(begun),
        Do::Answer(PROXY),
        Do::Cut(1),
        Do::Answer(STOPPING),
        Do::Answer(more),
        Do::Answer(stream!(": nothing")),
        Do::Answer(DONE),
    ];
    for rollback in [false, true] {
        let (target, thread) = scripted(steps.clone());
        let command = match rollback {
            true => "rollback demo --retry-for 20".to_owned(),
            false => format!("{} --retry-for 20", dir.deploy()),
        };
        let (result, shown) = told(&command, &target);
        assert_eq!(result.unwrap().unwrap()["message"], "m", "{shown:?}");
        let requests = thread.join().unwrap();
        for (request, from) in requests.iter().skip(1).zip([3, 3, 3, 3, 4, 4]) {
            let path = format!("GET /deployments/{DEPLOYMENT}/events?from={from} HTTP/1.1\r\n");
            assert!(
                path.starts_with(request) || request.starts_with(&path),
                "{request}"
            );
        }
        let lines: Vec<&str> = shown.iter().map(String::as_str).collect();
        // What was packed, and that it was uploaded.
        let lines = if rollback { &lines[..] } else { &lines[2..] };
        assert_eq!(
            lines,
            [
                &*format!("deployment {DEPLOYMENT}"),
                "install: using m",
                "  | one",
                "  | two",
                "connection lost (the stream ended without a result); reconnecting",
                "Uploaded 50 B / ~100 B (50%)",
                "reconnected",
                "  | three",
                "connection lost (the stream ended without a result); reconnecting",
                "reconnected",
            ]
        );
    }
}

#[test]
fn what_has_ended_is_asked_for_its_end() {
    let begun = stream!(deployment!(), line!(2, "one"));
    let steps = vec![Do::Answer(begun), Do::Answer(ENDED), Do::Answer(DONE)];
    let (target, thread) = scripted(steps);
    let (result, _) = told("watch demo --retry-for 20", &target);
    assert_eq!(result.unwrap().unwrap()["message"], "m");
    let last = thread.join().unwrap().pop().unwrap().to_ascii_lowercase();
    assert!(last.contains("last-event-id: 2\r\n"), "{last}");
    assert!(last.contains("accept: text/event-stream\r\n"), "{last}");
    assert!(last.contains("\"operation\":\"get_deployment\""), "{last}");
    assert!(last.contains(DEPLOYMENT), "{last}");
}

#[test]
fn only_new_events_begin_the_time_again() {
    let begun = stream!(deployment!());
    let old = stream!(deployment!(), ": nothing new");
    let mut steps = vec![Do::Answer(begun)];
    steps.extend([Do::Answer(old); 40]);
    let (target, _) = scripted(steps);
    let started = Instant::now();
    let (result, shown) = told("watch demo --retry-for 1", &target);
    let trouble = result.unwrap_err();
    assert_eq!(trouble.failed.exit, Exit::Unknown);
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert!(started.elapsed() < Duration::from_secs(10));
    let text = shown.join("\n");
    assert_eq!(text.matches("connection lost").count(), 1, "{text}");
    assert!(
        text.contains(&format!("gangplank watch {DEPLOYMENT} --target http://")),
        "{text}"
    );
}

#[test]
fn some_refusals_are_final() {
    let table = [
        ("401 X", "{\"error\":\"Login failed\"}", Exit::Unauthorized),
        ("403 X", "{\"error\":\"x\"}", Exit::Unauthorized),
        ("429 X", "{\"error\":\"x\"}", Exit::Unauthorized),
        (
            "404 X",
            "{\"error\":\"no such\",\"code\":\"not_found\"}",
            Exit::Unknown,
        ),
    ];
    for (status, body, exit) in table {
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let begun = Do::Answer(stream!(deployment!()));
        let (target, thread) = scripted(vec![begun, Do::Answer(answer.leak())]);
        let (result, shown) = told("watch demo --retry-for 20", &target);
        assert_eq!(result.unwrap_err().failed.exit, exit, "{shown:?}");
        assert!(shown.last().unwrap().contains(DEPLOYMENT), "{shown:?}");
        thread.join().unwrap();
    }
}

#[test]
fn an_upload_is_begun_again_with_the_same_key() {
    let dir = app("upload");
    // More than the sockets hold, and sparse.
    let file = std::fs::File::create(dir.0.join("b")).unwrap();
    file.set_len(16 << 20).unwrap();
    let steps = vec![
        Do::Cut(1 << 20),
        Do::Answer(PROXY),
        Do::Answer(STOPPING),
        // All was sent, and nobody knows what came of it.
        Do::Answer(""),
        Do::Answer(stream!(
            deployment!(),
            "id: 2\nevent: done\ndata: {\"result\":{\"message\":\"m\"}}"
        )),
    ];
    let (target, thread) = scripted(steps);
    // As users have it: neither a key nor a time.
    let command = format!(
        "deploy {} --project demo --level 0 --full --retry-for 20",
        dir.0.display()
    );
    let (result, shown) = told(&command, &target);
    assert_eq!(result.unwrap().unwrap()["message"], "m", "{shown:?}");
    let key = |request: &String| {
        let head = request
            .split("\r\n\r\n")
            .next()
            .unwrap()
            .to_ascii_lowercase();
        let key = head
            .lines()
            .find_map(|line| line.strip_prefix("idempotency-key: "));
        key.unwrap().to_owned()
    };
    let keys: Vec<String> = thread.join().unwrap().iter().map(key).collect();
    assert_eq!(keys.len(), 5);
    assert!(
        keys.iter().all(|key| *key == keys[0] && key.len() == 32),
        "{keys:?}"
    );
    let text = shown.join("\n");
    assert_eq!(text.matches("; trying again").count(), 3, "{text}");
    assert_eq!(
        text.matches("; sending the upload again").count(),
        1,
        "{text}"
    );
    assert!(text.contains("upload broken (502 Bad Gateway"), "{text}");
}

#[test]
fn a_server_that_knows_the_upload_ends_it() {
    let dir = app("known");
    let file = std::fs::File::create(dir.0.join("b")).unwrap();
    file.set_len(256 << 20).unwrap();
    let known = stream!(
        deployment!(),
        "id: 2\nevent: done\ndata: {\"result\":{\"message\":\"m\"}}"
    );
    let (target, thread) = scripted(vec![Do::Early(known)]);
    let begun = Instant::now();
    let (result, shown) = told(&format!("{} --level 0", dir.deploy()), &target);
    assert_eq!(result.unwrap().unwrap()["message"], "m", "{shown:?}");
    assert!(
        shown.contains(&"the server has this upload already".to_owned()),
        "{shown:?}"
    );
    assert!(begun.elapsed() < Duration::from_secs(20));
    thread.join().unwrap();
}

#[test]
fn nothing_is_sent_twice_without_a_key_and_nobody_unknown_is_waited_for() {
    // It may have arrived.
    for command in ["drop demo", "rollback demo"] {
        let (target, thread) = scripted(vec![Do::Answer("")]);
        let (result, _) = told(&format!("{command} --retry-for 20"), &target);
        assert_eq!(result.unwrap_err().failed.exit, Exit::Unknown, "{command}");
        thread.join().unwrap();
    }
    // As the options are without --retry-for.
    let dir = app("nobody");
    let (mut options, request) = read(&dir.deploy(), "http://127.0.0.1:1");
    options.retry_for = None;
    let begun = Instant::now();
    let trouble = ask(&options, request, &mut Screen::new(Progress::Quiet, false)).unwrap_err();
    assert_eq!(trouble.failed.exit, Exit::Unreachable);
    assert!(begun.elapsed() < Duration::from_secs(20));
    // With it, whoever begins to listen in time is reached.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let command = format!("{} --retry-for 30", dir.deploy());
    let asking = std::thread::spawn(move || told(&command, &format!("http://{address}")));
    let listener = TcpListener::bind(address).unwrap();
    one(&listener, Do::Answer(DONE));
    let (result, shown) = asking.join().unwrap();
    assert_eq!(result.unwrap().unwrap()["message"], "m", "{shown:?}");
}

#[test]
fn who_waits_follows_the_other_one_and_then_has_its_turn() {
    let dir = app("wait");
    let other = stream!(
        deployment!(),
        line!(2, "theirs"),
        "id: 3\nevent: error\ndata: {\"message\":\"no\",\"code\":\"install_failed\"}"
    );
    let ours = stream!(
        line!(1, "ours"),
        "id: 2\nevent: done\ndata: {\"result\":{\"message\":\"m\"}}"
    );
    let steps = vec![
        Do::Answer(BUSY),
        Do::Answer(other),
        // It has ended, and the component is not free yet.
        Do::Answer(BUSY),
        Do::Answer(ENDED),
        Do::Answer(ours),
    ];
    let (target, thread) = scripted(steps);
    let (result, shown) = told(&format!("{} --wait", dir.deploy()), &target);
    assert_eq!(result.unwrap().unwrap()["message"], "m", "{shown:?}");
    let text = shown.join("\n");
    assert_eq!(
        text.matches(&format!("waiting for deployment {DEPLOYMENT} to end"))
            .count(),
        1,
        "{text}"
    );
    assert!(text.contains("that deployment failed: no"), "{text}");
    assert!(!text.contains("error:"), "{text}");
    let (theirs, ours) = (text.find("theirs").unwrap(), text.find("  | ours").unwrap());
    assert!(theirs < ours, "{text}");
    assert_eq!(thread.join().unwrap().len(), 5);
    let (target, _) = scripted(vec![Do::Answer(BUSY)]);
    let (result, _) = told(&dir.deploy(), &target);
    assert_eq!(result.unwrap_err().failed.exit, Exit::Busy);
}
