use super::*;
use crate::api::operation::OperationCall;
use crate::cli::session::Session;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::thread::JoinHandle;

/// What a gangplank server answers to whoever asks for its version.
const VERSION: &str =
    "HTTP/1.1 200 OK\r\nContent-Length: 36\r\n\r\n{\"version\":\"5.1.14+gangplank.0.1.0\"}";

/// A server that says its version, reads one other whole request, or its head alone, and answers with these bytes.
fn serve(answer: &'static str, whole: bool) -> (String, JoinHandle<Vec<u8>>) {
    serve_after(VERSION, answer, whole)
}

/// As [`serve`], with another answer to the question for the version; none if it is answered as all else is.
fn serve_after(
    version: &'static str,
    answer: &'static str,
    whole: bool,
) -> (String, JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = format!("http://{}", listener.local_addr().unwrap());
    let thread = std::thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            let n = stream.read(&mut buffer).unwrap();
            request.extend_from_slice(&buffer[..n]);
            // By its length: no other request of ours has this one.
            let probes = request
                .to_ascii_lowercase()
                .windows(20)
                .any(|part| part == b"content-length: 33\r\n");
            if probes && !version.is_empty() {
                if request.ends_with(b"}") {
                    stream.write_all(version.as_bytes()).unwrap();
                    stream = listener.accept().unwrap().0;
                    request.clear();
                }
                continue;
            }
            let ended = request.ends_with(b"0\r\n\r\n") || request.ends_with(b"}") || !whole;
            let get = request.starts_with(b"GET") && request.ends_with(b"\r\n\r\n");
            if n == 0 || ended || get {
                break;
            }
        }
        let _ = stream.write_all(answer.as_bytes());
        // Until the client has had enough: closing with unread input would take the answer away.
        let _ = stream.shutdown(std::net::Shutdown::Write);
        while stream.read(&mut buffer).is_ok_and(|n| n > 0) {}
        request
    });
    (target, thread)
}

fn read(text: &str, target: &str) -> (ClientOptions, Job) {
    let words = text
        .split_whitespace()
        .chain(["--target", target, "--progress", "quiet"]);
    // Without it what is lost would be tried again for a minute.
    let none = ["--retry-for", "0"].into_iter();
    let words = words.chain(none.filter(|_| !text.contains("--retry-for")));
    match parse(words.map(OsString::from).collect(), &|_| None) {
        Ok(Command::Client(options, job)) => (*options, job),
        other => panic!("{other:?}"),
    }
}

fn asked(text: &str, target: &str) -> Result<Value, CommandError> {
    let (options, job) = read(text, target);
    let mut screen = Screen::new(Progress::Quiet, false);
    ask(&options, job, &mut screen).map(value_of)
}

/// The result, or the exit code in its place.
fn value_of(end: JobEnd) -> Value {
    match end {
        JobEnd::Result(value) => value.unwrap_or_default(),
        JobEnd::Exit(code) => code.into(),
    }
}

struct CommandDir(PathBuf);

impl CommandDir {
    fn new(name: &str) -> CommandDir {
        let dir =
            std::env::temp_dir().join(format!("gangplank-user-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        CommandDir(dir)
    }

    fn deploy(&self) -> String {
        format!(
            "deploy {} --project demo --idempotency-key k --full",
            self.0.display()
        )
    }
}

impl Drop for CommandDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

macro_rules! stream {
    ($($records:expr),*) => {
        concat!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n", $($records, "\n\n"),*)
    };
}

const DEPLOYMENT: &str = "01976e6c-1c2b-7000-8000-000000000000";

#[test]
fn what_is_answered_decides_the_exit() {
    let dir = CommandDir::new("exits");
    std::fs::write(dir.0.join("a"), "a").unwrap();
    let deploy = dir.deploy();
    let table = [
        (
            &*deploy,
            stream!("event: error\ndata: {\"message\":\"m\",\"code\":\"install_failed\"}"),
            Exit::Refused,
        ),
        (
            &*deploy,
            stream!("event: error\ndata: {\"message\":\"m\",\"code\":\"stopping\"}"),
            Exit::Busy,
        ),
        (
            &*deploy,
            stream!("data: unnamed", "event: _recorder_finished\ndata: {}"),
            Exit::Unknown,
        ),
        (
            &*deploy,
            stream!("event: done\ndata: {}").split_at(90).0,
            Exit::Unknown,
        ),
        (&*deploy, "", Exit::Unknown),
        (
            &*deploy,
            "HTTP/1.1 401 X\r\nContent-Length: 22\r\n\r\n{\"error\":\"Must login\"}",
            Exit::Unauthorized,
        ),
        (
            &*deploy,
            "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 4\r\n\r\n<h1>",
            Exit::Unreachable,
        ),
        (
            "watch demo",
            stream!("event: phase\ndata: {}"),
            Exit::Unknown,
        ),
        ("watch demo", "", Exit::Unreachable),
        ("list", "", Exit::Unreachable),
        ("op drop_component project=demo", "", Exit::Unknown),
        (
            "list",
            "HTTP/1.1 404 X\r\nContent-Length: 13\r\n\r\n{\"error\":\"x\"}",
            Exit::Refused,
        ),
    ];
    for (text, answer, exit) in table {
        let (target, thread) = serve(answer, true);
        let trouble = asked(text, &target).unwrap_err();
        assert_eq!(trouble.failed.exit, exit, "{text} {answer:?}: {trouble:?}");
        thread.join().unwrap();
    }
}

#[test]
fn a_result_is_a_success() {
    let dir = CommandDir::new("success");
    std::fs::write(dir.0.join("a"), "a").unwrap();
    let done = stream!(
        "event: deployment\ndata: {}",
        "event: done\ndata: {\"result\":{\"message\":\"m\"}}",
        "event: error\ndata: {}"
    );
    for text in [&*dir.deploy(), "watch demo", "op sync from=x"] {
        let (target, thread) = serve(done, true);
        assert_eq!(
            asked(text, &target).unwrap(),
            serde_json::json!({"message": "m"}),
            "{text}"
        );
        let request = String::from_utf8_lossy(&thread.join().unwrap()).to_ascii_lowercase();
        assert!(request.contains("accept: text/event-stream"), "{request}");
    }
    let show = format!("show {DEPLOYMENT}");
    for (text, part, body) in [
        ("list --limit 3", "\"limit\":3", "{\"deployments\":[]}"),
        (
            &show,
            DEPLOYMENT,
            "{\"deployment_id\":\"i\",\"status\":\"s\"}",
        ),
        ("op x y=z", "\"y\":\"z\"", "{\"a\":1}"),
    ] {
        let plain = json_answer(body);
        let (target, thread) = serve(plain, true);
        let expected: Value = serde_json::from_str(body).unwrap();
        assert_eq!(asked(text, &target).unwrap(), expected, "{text}");
        let request = String::from_utf8_lossy(&thread.join().unwrap()).into_owned();
        assert!(request.contains(part), "{request}");
    }
}

fn json_answer(body: &str) -> &'static str {
    let length = body.len();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n";
    format!("{head}Content-Length: {length}\r\n\r\n{body}").leak()
}

#[test]
fn a_2xx_of_something_else_is_not_a_success() {
    let dir = CommandDir::new("foreign");
    std::fs::write(dir.0.join("a"), "a").unwrap();
    let foreign = [
        "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 8\r\n\r\nIt works",
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 8\r\n\r\nIt works",
        "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: 8\r\n\r\nIt works",
        json_answer("[]"),
        json_answer("{}"),
        json_answer("\"ok\""),
        json_answer("{\"status\":\"ok\"}"),
        json_answer("{\"message\":1}"),
    ];
    let (deploy, show) = (dir.deploy(), format!("show {DEPLOYMENT}"));
    let (cancel, payload) = (
        format!("cancel {DEPLOYMENT}"),
        format!("payload {DEPLOYMENT}"),
    );
    let (delete, watch) = (format!("{payload} --delete"), format!("watch {DEPLOYMENT}"));
    let out = dir.0.join("out");
    let payload = format!("{payload} --out {}", out.display());
    for text in [
        &*deploy,
        &*show,
        &*cancel,
        &*payload,
        &*delete,
        &*watch,
        "watch demo",
        "list",
        "status",
        "rollback demo",
        "restart demo",
        "drop demo",
        "logs demo",
        "logs demo --follow",
        "sync --from x",
        "op get_components",
    ] {
        for answer in foreign {
            let (target, thread) = serve(answer, true);
            let trouble = asked(text, &target).unwrap_err();
            assert_eq!(
                trouble.failed.exit,
                Exit::Unreachable,
                "{text} {answer:?}: {trouble:?}"
            );
            thread.join().unwrap();
        }
    }
    assert!(!out.exists());
    // And so is what answers so to the question for the version; a deployment goes on, as Harper's own CLI does.
    for text in ["status", "watch demo", "rollback demo", "logs demo"] {
        for answer in foreign {
            let (target, thread) = serve_after("", answer, true);
            let trouble = asked(text, &target).unwrap_err();
            assert_eq!(
                trouble.failed.exit,
                Exit::Unreachable,
                "{text} {answer:?}: {trouble:?}"
            );
            thread.join().unwrap();
        }
    }
}

#[test]
fn a_cut_stream_leaves_the_deployments_id() {
    let dir = CommandDir::new("cut");
    std::fs::write(dir.0.join("a"), "a").unwrap();
    let answer = stream!(
        "event: deployment\ndata: {\"deployment_id\":\"01976e6c-1c2b-7000-8000-000000000000\"}"
    );
    let (target, thread) = serve(answer, true);
    let trouble = asked(&dir.deploy(), &target).unwrap_err();
    assert_eq!(trouble.failed.exit, Exit::Unknown);
    assert_eq!(trouble.failed.deployment_id.as_deref(), Some(DEPLOYMENT));
    assert!(trouble.watch && !trouble.shown);
    thread.join().unwrap();
}

#[test]
fn an_upload_is_refused_early() {
    let dir = CommandDir::new("early");
    // More than the sockets hold, and sparse.
    let file = std::fs::File::create(dir.0.join("a")).unwrap();
    file.set_len(256 << 20).unwrap();
    let refused =
        "HTTP/1.1 409 X\r\nContent-Length: 29\r\n\r\n{\"error\":\"x\",\"code\":\"busy\"}\r\n";
    let (target, thread) = serve(refused, false);
    let trouble = asked(&format!("{} --level 0", dir.deploy()), &target).unwrap_err();
    assert_eq!(trouble.failed.exit, Exit::Busy, "{trouble:?}");
    thread.join().unwrap();
}

#[test]
fn local_trouble_is_found_before_anything_is_sent() {
    let dir = CommandDir::new("local");
    // Nobody listens there, and nobody is asked.
    let nobody = "http://127.0.0.1:1";
    for text in [
        &*dir.deploy(),
        "deploy /nonexistent --project demo",
        "list --token-file /nonexistent",
    ] {
        let trouble = asked(text, nobody).unwrap_err();
        assert_eq!(trouble.failed.exit, Exit::Usage, "{text}: {trouble:?}");
    }
    assert_eq!(
        asked("list", nobody).unwrap_err().failed.exit,
        Exit::Unreachable
    );
}

#[test]
fn a_packing_error_is_local_and_nothing_whole_is_sent() {
    let dir = CommandDir::new("packing");
    std::fs::write(dir.0.join("a"), "a").unwrap();
    let plan =
        crate::formats::archive::plan(&dir.0, &crate::formats::archive::PackOptions::default())
            .unwrap();
    std::fs::remove_file(dir.0.join("a")).unwrap();
    let (target, thread) = serve("", true);
    let client =
        crate::client::Client::new(crate::client::Target::parse(&target).unwrap()).unwrap();
    let mut screen = Screen::new(Progress::Quiet, false);
    let mut session = Session::new(&client, &mut screen, None).unwrap();
    let call = OperationCall::new("deploy_component", Default::default());
    let request = crate::cli::session::follow::FollowedRequest::Upload {
        call: &call,
        source: crate::cli::session::pack::UploadSource::Plan(std::sync::Arc::new(plan), Some(0)),
        delta: None,
        key: "k",
    };
    let trouble = session.follow(request).unwrap_err();
    assert_eq!(trouble.failed.exit, Exit::Usage);
    assert!(
        trouble.failed.message.contains("No such file"),
        "{trouble:?}"
    );
    assert!(!thread.join().unwrap().ends_with(b"0\r\n\r\n"));
}

mod again;
mod arguments;
mod commands;
