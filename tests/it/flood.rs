//! Clients that the server must outlive: too many, too slow, too large, gone too early.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_linger;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};
use serde_json::Value;

use crate::test_server::threads_of;

/// Longer than anything here takes: a test that waits so long has failed.
const LONG: Duration = Duration::from_secs(60);

/// A server of its own, ended with the test.
pub(crate) struct Server {
    child: Child,
    root: PathBuf,
    address: String,
    token: String,
}

impl Server {
    pub(crate) fn start(flags: &[&str]) -> Server {
        Server::start_under(None, flags)
    }

    /// With a shell's limit, such as `ulimit -n 48`.
    fn start_under(limit: Option<&str>, flags: &[&str]) -> Server {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let root =
            std::env::temp_dir().join(format!("gangplank-gate-{}-{number}", std::process::id()));
        let _ = std::fs::remove_dir_all(&root);
        std::fs::create_dir_all(&root).unwrap();
        let log = std::fs::File::create(root.join("log")).unwrap();
        let line = format!(
            "{}exec \"$0\" \"$@\"",
            limit.map(|limit| format!("{limit}; ")).unwrap_or_default()
        );
        let mut child = Command::new("sh")
            .args([
                "-c",
                &line,
                env!("CARGO_BIN_EXE_gangplank"),
                "serve",
                "--listen",
                "127.0.0.1:0",
            ])
            .arg("--root")
            .arg(&root)
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = lines.next().unwrap().unwrap();
        let address = first
            .strip_prefix("listening on http://")
            .unwrap()
            .to_owned();
        assert!(
            lines
                .next()
                .unwrap()
                .unwrap()
                .starts_with("listening on unix:")
        );
        let token = std::fs::read_to_string(root.join("admin.token"))
            .unwrap()
            .trim()
            .to_owned();
        Server {
            child,
            root,
            address,
            token,
        }
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.set_write_timeout(Some(LONG)).unwrap();
        stream
    }

    /// Sends bytes, and gives the answer up to the connection's end.
    pub(crate) fn ask(&self, request: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(request).unwrap();
        answer(stream)
    }

    fn health(&self) -> String {
        self.ask(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    }

    pub(crate) fn authorization(&self) -> String {
        format!("Authorization: Bearer {}\r\n", self.token)
    }

    /// The path of the newest deployment's events.
    fn newest(&self) -> String {
        let authorization = self.authorization();
        let request =
            format!("GET /deployments/latest/events HTTP/1.1\r\nHost: x\r\n{authorization}\r\n");
        let answer = self.ask(request.as_bytes());
        let location = answer
            .lines()
            .find_map(|line| line.strip_prefix("Location: .."));
        format!(
            "/deployments{}",
            location.unwrap_or_else(|| panic!("{answer}"))
        )
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.root.join("log")).unwrap()
    }

    /// Begins a deployment whose payload does not go on: the fields, and the head of the file part.
    fn open_upload(&self, project: &str) -> TcpStream {
        let mut stream = self.connect();
        let body = format!(
            "--b\r\nContent-Disposition: form-data; name=\"operation\"\r\n\r\ndeploy_component\r\n\
             --b\r\nContent-Disposition: form-data; name=\"project\"\r\n\r\n{project}\r\n\
             --b\r\nContent-Disposition: form-data; name=\"payload\"; filename=\"p\"\r\n\r\nbegin"
        );
        let head = format!(
            "POST / HTTP/1.1\r\nHost: x\r\n{}Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 1000000\r\n\r\n",
            self.authorization()
        );
        stream.write_all((head + &body).as_bytes()).unwrap();
        self.eventually("the deployment begins", || {
            self.log().contains(&format!(" of {project} begins"))
        });
        stream
    }

    /// The record of a project's only deployment.
    fn record(&self, project: &str) -> Value {
        for entry in std::fs::read_dir(self.root.join("deployments")).unwrap() {
            let text = std::fs::read_to_string(entry.unwrap().path().join("record.json")).unwrap();
            let record: Value = serde_json::from_str(&text).unwrap();
            if record["project"] == project {
                return record;
            }
        }
        panic!("no record of {project}");
    }

    /// How many clients have a thread: one until the head of the request is there, another one until the answer is.
    fn connections(&self) -> usize {
        let threads = threads_of(&self.child);
        let is_one = |name: &&String| {
            let number = name
                .strip_prefix("gate-")
                .or_else(|| name.strip_prefix("http-"));
            number.is_some_and(|number| number.parse::<u64>().is_ok())
        };
        threads.iter().filter(is_one).count()
    }

    /// How many watch: they have no threads of their own.
    fn watchers(&self) -> usize {
        let authorization = self.authorization();
        let request = format!("GET /metrics HTTP/1.1\r\nHost: x\r\n{authorization}\r\n");
        let answer = self.ask(request.as_bytes());
        let count = answer
            .lines()
            .find_map(|line| line.strip_prefix("gangplank_watchers "));
        count.unwrap().trim().parse().unwrap()
    }

    fn health_by_unix_socket(&self) -> String {
        let mut stream = UnixStream::connect(self.root.join("run/gangplank.sock")).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream
            .write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            .unwrap();
        answer(stream)
    }

    fn eventually(&self, what: &str, fact: impl Fn() -> bool) {
        let begun = Instant::now();
        while !fact() {
            assert!(begun.elapsed() < LONG, "never: {what}\n{}", self.log());
            thread::yield_now();
            // Not to wait for anything, but to leave the processor to the server.
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn terminate(&mut self) -> (Option<i32>, Duration) {
        let begun = Instant::now();
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).unwrap();
        (self.child.wait().unwrap().code(), begun.elapsed())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

/// All that still comes, a reset being an end too.
pub(crate) fn answer(mut stream: impl Read) -> String {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What comes up to the end of a head.
fn head(stream: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        bytes.push(byte[0]);
    }
    String::from_utf8(bytes).unwrap()
}

#[track_caller]
pub(crate) fn is(answer: &str, status: u16, code: &str) {
    assert!(
        answer.starts_with(&format!("HTTP/1.1 {status} ")),
        "{status}: {answer:?}"
    );
    assert!(answer.contains("Connection: close\r\n"), "{answer:?}");
    assert!(
        answer.contains("Content-Type: application/json\r\n"),
        "{answer:?}"
    );
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let body: Value =
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer:?}"));
    assert_eq!(body["code"], code, "{answer:?}");
    assert!(body["error"].is_string(), "{answer:?}");
}

#[test]
fn a_huge_declared_length_with_an_early_answer() {
    let server = Server::start(&[]);
    for length in ["8000000000000", "18446744073709551615"] {
        let request =
            format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\nbegin");
        is(&server.ask(request.as_bytes()), 401, "unauthorized");
    }
    assert!(server.health().ends_with("gangplank is running."));
}

#[test]
fn other_versions_leave_nothing_behind() {
    let server = Server::start(&[]);
    for _ in 0..30 {
        is(&server.ask(b"GET / HTTP/2.0\r\n\r\n"), 505, "bad_http");
    }
    server.eventually("their threads end", || server.connections() == 0);
    assert!(server.health().starts_with("HTTP/1.1 200 "));
}

#[test]
fn clients_that_reset() {
    let server = Server::start(&[]);
    for request in [
        "",
        "GET",
        "GET /health HTTP/1.1\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nab",
    ] {
        for _ in 0..100 {
            let mut stream = server.connect();
            stream.write_all(request.as_bytes()).unwrap();
            set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
        }
    }
    assert!(server.health().starts_with("HTTP/1.1 200 "));
    server.eventually("their threads end", || server.connections() == 0);
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

#[test]
fn more_dripping_clients_than_permits() {
    let server = Server::start(&["--max-connections", "200"]);
    let begun = Instant::now();
    let clients: Arc<Vec<TcpStream>> = Arc::new((0..400).map(|_| server.connect()).collect());
    let (stop, stopped) = mpsc::channel::<()>();
    let dripping = Arc::clone(&clients);
    let drip = thread::spawn(move || {
        for byte in b"GET / HTTP/1.1\r\nX: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy" {
            for mut client in dripping.iter() {
                // Those that were closed do not count.
                let _ = client.write_all(&[*byte]);
            }
            // This is the clients' pace.
            if stopped.recv_timeout(Duration::from_secs(1)) != Err(mpsc::RecvTimeoutError::Timeout)
            {
                return;
            }
        }
    });
    while begun.elapsed() < Duration::from_secs(5) {
        let asked = Instant::now();
        assert!(server.health().starts_with("HTTP/1.1 200 "));
        // It takes milliseconds. What would be wrong is a wait for the drippers' deadline of 10 seconds; a machine that
        // runs other tests beside this one is not.
        assert!(
            asked.elapsed() < Duration::from_secs(3),
            "{:?}",
            asked.elapsed()
        );
    }
    let answers: Vec<String> = clients.iter().map(answer).collect();
    // 10 seconds for a head, 2 for a client that goes on, and the machine's share.
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
    let late = answers
        .iter()
        .filter(|answer| answer.starts_with("HTTP/1.1 408 "))
        .count();
    let gave_way = answers.iter().filter(|answer| answer.is_empty()).count();
    assert_eq!(late + gave_way, 400, "{answers:?}");
    assert!(
        late > 0 && gave_way >= 200,
        "{late} late, {gave_way} gave way"
    );
    drop(stop);
    drip.join().unwrap();
    server.eventually("their threads end", || server.connections() == 0);
}

#[test]
fn idle_clients_beyond_the_descriptors() {
    let server = Server::start_under(Some("ulimit -n 48"), &[]);
    for _ in 0..3 {
        let clients: Vec<TcpStream> = (0..300).map(|_| server.connect()).collect();
        assert!(server.health().starts_with("HTTP/1.1 200 "));
        drop(clients);
        assert!(server.health().starts_with("HTTP/1.1 200 "));
    }
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

#[test]
fn no_descriptors_for_a_while() {
    let server = Server::start(&[]);
    let pid = Some(Pid::from_child(&server.child));
    let before = prlimit(pid, Resource::Nofile, getrlimit(Resource::Nofile)).unwrap();
    let used = || {
        std::fs::read_dir(format!("/proc/{}/fd", server.child.id()))
            .unwrap()
            .count() as u64
    };
    let limited = |descriptors: u64| {
        let limit = Rlimit {
            current: Some(descriptors),
            maximum: before.maximum,
        };
        prlimit(pid, Resource::Nofile, limit).unwrap();
    };
    // Both accept loops have been through once, and wait.
    assert!(server.health().ends_with("gangplank is running."));
    server.eventually("nobody is connected", || server.connections() == 0);
    // None for the connection itself, below what is open: it waits until there is one.
    limited(3);
    let mut waiting: Vec<TcpStream> = (0..20).map(|_| server.connect()).collect();
    for stream in &mut waiting {
        stream.write_all(b"GET /health HTTP/1.1\r\n\r\n").unwrap();
    }
    server.eventually("it is said", || {
        server.log().contains("WARN taking a connection on ")
    });
    prlimit(pid, Resource::Nofile, before).unwrap();
    for stream in waiting {
        assert!(answer(stream).ends_with("gangplank is running."));
    }
    // One for the connection, and none for the server behind: it is not tried.
    server.eventually("nobody is connected", || server.connections() == 0);
    limited(used() + 2);
    is(&server.health(), 503, "full");
    prlimit(pid, Resource::Nofile, before).unwrap();
    assert!(server.health().ends_with("gangplank is running."));
    assert!(
        !server.log().contains("panicked") && !server.log().contains("has died"),
        "{}",
        server.log()
    );
}

#[test]
fn bursts_beside_busy_loops_and_uploads() {
    let server = Server::start(&[]);
    let busy = Arc::new(AtomicBool::new(true));
    for _ in 0..4 {
        let busy = Arc::clone(&busy);
        thread::spawn(move || {
            while busy.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        });
    }
    let uploads: Vec<TcpStream> = ["a", "b", "c", "d"]
        .map(|project| server.open_upload(project))
        .into();
    for _ in 0..5 {
        let mut clients: Vec<TcpStream> = (0..100).map(|_| server.connect()).collect();
        for client in &mut clients {
            client
                .write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
                .unwrap();
        }
        let served = clients
            .into_iter()
            .filter(|client| answer(client).ends_with("gangplank is running."));
        assert_eq!(served.count(), 100, "{}", server.log());
    }
    busy.store(false, Ordering::Relaxed);
    drop(uploads);
}

#[test]
fn when_all_permits_are_taken_by_requests() {
    let server = Server::start(&["--max-connections", "4"]);
    let mut uploads: Vec<TcpStream> = ["a", "b", "c", "d"]
        .map(|project| server.open_upload(project))
        .into();
    let refusal = server.health();
    is(&refusal, 503, "full");
    assert!(refusal.contains("Retry-After: "), "{refusal:?}");
    // Who is on the machine gets in.
    assert!(
        server
            .health_by_unix_socket()
            .ends_with("gangplank is running.")
    );
    // One that goes makes room.
    drop(uploads.pop());
    server.eventually("its permit is free", || server.connections() == 3);
    assert!(server.health().starts_with("HTTP/1.1 200 "));
}

#[test]
fn who_was_refused_and_goes_on_sending_keeps_nobody_out() {
    let server = Server::start(&["--max-connections", "20"]);
    let flood = || {
        let mut stream = server.connect();
        stream
            .write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\nbegin")
            .unwrap();
        // Its answer is there, and it does not go.
        head(&mut stream);
        stream
    };
    // Each round fills all permits twice, well before the first of them has had its time.
    for _ in 0..5 {
        let mut refused: Vec<TcpStream> = (0..40).map(|_| flood()).collect();
        for stream in &mut refused {
            // Some were closed meanwhile, and that is what this is about.
            let _ = stream.write_all(b"x");
        }
        for _ in 0..10 {
            let answer = server.health();
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
            assert!(server.health_by_unix_socket().starts_with("HTTP/1.1 200 "));
        }
    }
}

#[test]
fn an_upload_or_a_watcher_has_no_thread_of_the_server_behind() {
    let server = Server::start(&[]);
    assert!(server.health().starts_with("HTTP/1.1 200 "));
    server.eventually("nobody is connected", || server.connections() == 0);
    let before = threads_of(&server.child).len();
    let uploads: Vec<TcpStream> = (0..8)
        .map(|n| server.open_upload(&format!("p{n}")))
        .collect();
    // One that receives: what has come is too little for one that stores and one that unpacks.
    server.eventually("one thread for each upload", || {
        threads_of(&server.child).len() == before + uploads.len()
    });
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: x\r\n{}\r\n",
        server.newest(),
        server.authorization()
    );
    let watchers: Vec<TcpStream> = (0..8)
        .map(|_| {
            let mut stream = server.connect();
            stream.write_all(request.as_bytes()).unwrap();
            assert!(head(&mut stream).starts_with("HTTP/1.1 200 "));
            stream
        })
        .collect();
    server.eventually("one thread for all watchers", || {
        threads_of(&server.child).len() == before + uploads.len() + 1
    });
    drop(watchers);
}

#[test]
fn watchers_hold_at_most_half() {
    let server = Server::start(&["--max-connections", "6"]);
    let _upload = server.open_upload("a");
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: x\r\n{}\r\n",
        server.newest(),
        server.authorization()
    );
    let mut watchers = Vec::new();
    for _ in 0..3 {
        let mut stream = server.connect();
        stream.write_all(request.as_bytes()).unwrap();
        let head = head(&mut stream);
        assert!(
            head.starts_with("HTTP/1.1 200 ") && head.contains("text/event-stream"),
            "{head:?}"
        );
        assert!(
            !head.to_ascii_lowercase().contains("gangplank-gate"),
            "{head:?}"
        );
        watchers.push(stream);
    }
    is(&server.ask(request.as_bytes()), 503, "full");
    // Others are not kept out by that.
    assert!(server.health().starts_with("HTTP/1.1 200 "));
    // Whoever goes makes room: a reset shows at once.
    set_socket_linger(&watchers[0], Some(Duration::ZERO)).unwrap();
    watchers.remove(0);
    server.eventually("it is gone", || server.watchers() == 2);
    let mut stream = server.connect();
    stream.write_all(request.as_bytes()).unwrap();
    assert!(head(&mut stream).starts_with("HTTP/1.1 200 "));
}

#[test]
fn a_watcher_that_goes_gives_its_permit_back() {
    let server = Server::start(&[]);
    let _upload = server.open_upload("a");
    let mut stream = UnixStream::connect(server.root.join("run/gangplank.sock")).unwrap();
    stream
        .write_all(format!("GET {} HTTP/1.1\r\n\r\n", server.newest()).as_bytes())
        .unwrap();
    assert!(head(&mut stream).starts_with("HTTP/1.1 200 "));
    server.eventually("it watches", || server.watchers() == 1);
    drop(stream);
    server.eventually("nobody watches", || server.watchers() == 0);
}

#[test]
fn a_body_that_is_cut() {
    let server = Server::start(&[]);
    let requests = [
        format!(
            "POST / HTTP/1.1\r\n{}Content-Type: application/json\r\nContent-Length: 99\r\n\r\n{{\"operation\":",
            server.authorization()
        ),
        // It would be complete if it were taken for an end.
        format!(
            "POST / HTTP/1.1\r\n{}Content-Type: application/json\r\nContent-Length: 99\r\n\r\n{{\"operation\":\"get_components\"}}",
            server.authorization()
        ),
        format!(
            "POST / HTTP/1.1\r\n{}Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n\
             1e\r\n{{\"operation\":\"get_components\"}}\r\n",
            server.authorization()
        ),
        format!(
            "POST / HTTP/1.1\r\n{}Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n\
             ff\r\n{{\"operation\":\"get_components\"}}",
            server.authorization()
        ),
    ];
    for request in requests {
        let mut stream = server.connect();
        stream.write_all(request.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let answer = answer(stream);
        is(&answer, 400, "upload_broken");
        // It says what is missing, in the words of the request.
        let words = match request.contains("Content-Length: ") {
            true => " before its Content-Length: the connection ended",
            false => " before its last chunk, after ",
        };
        assert!(answer.contains(words), "{answer:?}");
    }

    let stream = server.open_upload("cut");
    stream.shutdown(Shutdown::Write).unwrap();
    is(&answer(stream), 400, "upload_broken");
    let record = server.record("cut");
    assert_eq!(
        (&record["status"], &record["error"]["code"]),
        (&"failed".into(), &"upload_broken".into())
    );
    assert!(!Path::new(&server.root).join("components/cut").exists());
}

#[test]
fn an_early_answer_reaches_a_client_that_only_writes() {
    let server = Server::start(&[]);
    let piece = vec![b'x'; 1 << 20];
    for framing in [
        "Content-Length: 1073741824\r\n",
        "Transfer-Encoding: chunked\r\n",
    ] {
        let mut stream = server.connect();
        stream
            .write_all(format!("POST / HTTP/1.1\r\nHost: x\r\n{framing}\r\n").as_bytes())
            .unwrap();
        // 16 MiB: more than fits between the two, and less than the gate reads over.
        for _ in 0..16 {
            if framing.starts_with('T') {
                stream.write_all(b"100000\r\n").unwrap();
            }
            stream.write_all(&piece).unwrap();
            if framing.starts_with('T') {
                stream.write_all(b"\r\n").unwrap();
            }
        }
        is(&answer(stream), 401, "unauthorized");
    }
}

#[test]
fn expectations() {
    let server = Server::start(&[]);
    let head_of = |more: &str| {
        format!(
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 30\r\n{more}\r\n"
        )
    };
    // Refused by the head: no word to go on.
    is(
        &server.ask(head_of("Expect: 100-continue\r\n").as_bytes()),
        401,
        "unauthorized",
    );
    is(
        &server.ask(head_of("Expect: tea\r\n").as_bytes()),
        417,
        "bad_http",
    );

    let mut stream = server.connect();
    let request = head_of(&format!(
        "{}Expect: 100-continue\r\n",
        server.authorization()
    ));
    stream.write_all(request.as_bytes()).unwrap();
    assert_eq!(head(&mut stream), "HTTP/1.1 100 Continue\r\n\r\n");
    stream
        .write_all(b"{\"operation\":\"get_components\"}")
        .unwrap();
    let answer = answer(stream);
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.contains("{\"components\":[]}"),
        "{answer:?}"
    );
}

#[test]
fn clients_of_http_1_0() {
    let server = Server::start(&[]);
    let answer = server.ask(b"GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert!(
        answer.starts_with("HTTP/1.0 200 ") && answer.ends_with("\r\n\r\ngangplank is running."),
        "{answer:?}"
    );

    drop(server.open_upload("a"));
    server.eventually("it fails", || server.log().contains(" of a failed"));
    let request = format!(
        "GET {} HTTP/1.0\r\n{}\r\n",
        server.newest(),
        server.authorization()
    );
    let stream = server.ask(request.as_bytes());
    let (head, body) = stream.split_once("\r\n\r\n").unwrap();
    assert!(
        !head.to_ascii_lowercase().contains("transfer-encoding"),
        "{head:?}"
    );
    assert!(
        body.starts_with(": stream open\n\nid: 1\n") && body.contains("\nevent: error\n"),
        "{body:?}"
    );
    assert!(body.ends_with("\n\n"), "{body:?}");
}

#[test]
fn a_stalled_upload_does_not_hold_up_the_end() {
    let mut server = Server::start(&["--grace", "8"]);
    let upload = server.open_upload("stalled");
    // Somebody without a request does not either.
    let _silent = server.connect();
    let (code, took) = server.terminate();
    assert_eq!(code, Some(0), "{}", server.log());
    assert!(took < Duration::from_secs(5), "{took:?}");
    is(&answer(upload), 503, "interrupted");
    let record = server.record("stalled");
    assert_eq!(
        (&record["status"], &record["error"]["code"]),
        (&"failed".into(), &"interrupted".into())
    );
}
