//! The tests' own small world: a server on a temporary root and free ports, raw HTTP, and payloads.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

pub(crate) use crate::needs::{have, is_root, may};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_gangplank");
/// Longer than anything here takes on a busy machine; what reaches it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What a gangplank server answers to whoever asks for its version.
pub(crate) const VERSION: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\
     Content-Length: 36\r\n\r\n{\"version\":\"5.1.14+gangplank.0.1.0\"}";

/// A directory that is gone with its owner.
pub(crate) struct TempDir(pub(crate) PathBuf);

impl TempDir {
    pub(crate) fn new() -> TempDir {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("gangplank-it-{}-{n}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        TempDir(path)
    }

    /// Writes files into it, and gives its path.
    pub(crate) fn with(self, files: &[(&str, &str)]) -> TempDir {
        for (name, content) in files {
            let path = self.0.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        self
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running server.
pub(crate) struct TestServer {
    pub(crate) server: Child,
    pub(crate) address: String,
    pub(crate) token: String,
    pub(crate) log: Arc<Mutex<String>>,
    /// The root as it is seen from here.
    seen: PathBuf,
    /// What its clients keep.
    cache: TempDir,
    // Last, so that it goes after the server.
    pub(crate) root: Arc<TempDir>,
}

impl TestServer {
    pub(crate) fn start() -> TestServer {
        TestServer::with(&[], &[])
    }

    pub(crate) fn with(flags: &[&str], environment: &[(&str, &str)]) -> TestServer {
        TestServer::on(Arc::new(TempDir::new()), flags, environment)
    }

    /// A server on a root that may have been used before.
    pub(crate) fn on(
        root: Arc<TempDir>,
        flags: &[&str],
        environment: &[(&str, &str)],
    ) -> TestServer {
        let mut command = gangplank();
        command.envs(environment.iter().copied());
        TestServer::launch(command, root, flags)
    }

    /// A server that something else starts: the command takes the server's arguments at its end.
    pub(crate) fn launch(mut command: Command, root: Arc<TempDir>, flags: &[&str]) -> TestServer {
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--root"])
            .arg(&root.0)
            .args(flags);
        let mut server = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (shared, stderr) = (Arc::clone(&log), server.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut log = shared.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        let mut address = String::new();
        let stdout = BufReader::new(server.stdout.take().unwrap());
        for line in stdout.lines().map_while(Result::ok) {
            let tcp = ["http://", "https://"].map(|scheme| format!("listening on {scheme}"));
            if let Some(tcp) = tcp.iter().find_map(|start| line.strip_prefix(start)) {
                address = tcp.to_owned();
            }
            if line.starts_with("listening on unix:") {
                break;
            }
        }
        assert!(
            !address.is_empty(),
            "the server did not start: {}",
            log.lock().unwrap()
        );
        let mut seen = root.0.clone();
        if !seen.join("admin.token").exists() {
            // It has mounts of its own.
            let inside = root.0.strip_prefix("/").unwrap();
            seen = PathBuf::from(format!("/proc/{}/root", server.id())).join(inside);
        }
        let token = fs::read_to_string(seen.join("admin.token"))
            .unwrap()
            .trim()
            .to_owned();
        TestServer {
            server,
            address,
            token,
            log,
            seen,
            cache: TempDir::new(),
            root,
        }
    }

    /// The lists of trees that a client has kept, the names of the files.
    pub(crate) fn kept(&self) -> Vec<PathBuf> {
        let dir = self.cache.0.join("gangplank");
        let trees = names(&dir)
            .into_iter()
            .filter(|name| name.starts_with("tree-"));
        trees.map(|name| dir.join(name)).collect()
    }

    pub(crate) fn path(&self, rest: &str) -> PathBuf {
        self.seen.join(rest)
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends a request with the token, and reads the answer.
    pub(crate) fn ask(&self, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Answer {
        let authorization = format!("Authorization: Bearer {}", self.token);
        let headers: Vec<&str> = [authorization.as_str()]
            .into_iter()
            .chain(headers.iter().copied())
            .collect();
        self.ask_as_anyone(method, path, &headers, body)
    }

    pub(crate) fn ask_as_anyone(
        &self,
        method: &str,
        path: &str,
        headers: &[&str],
        body: &[u8],
    ) -> Answer {
        let mut stream = self.connect();
        stream
            .write_all(&request(method, path, headers, body))
            .unwrap();
        Answer::read(stream)
    }

    /// Sends an operation as JSON.
    pub(crate) fn operate(&self, operation: &Value) -> Answer {
        self.ask(
            "POST",
            "/",
            &["Content-Type: application/json"],
            operation.to_string().as_bytes(),
        )
    }

    /// Deploys a payload by a form.
    pub(crate) fn deploy(&self, fields: &[(&str, &str)], payload: &[u8]) -> Answer {
        let (media, body) = form(fields, payload);
        self.ask("POST", "/", &[&media], &body)
    }

    /// Deploys, asking for events.
    pub(crate) fn deploy_live(&self, fields: &[(&str, &str)], payload: &[u8]) -> Answer {
        let (media, body) = form(fields, payload);
        self.ask("POST", "/", &[&media, "Accept: text/event-stream"], &body)
    }

    /// The record of a deployment.
    pub(crate) fn record(&self, id: &str) -> Value {
        let asked = serde_json::json!({"operation": "get_deployment", "deployment_id": id});
        self.operate(&asked).json()
    }

    /// The client, with this server as its target by the environment.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Output {
        self.cli_command(arguments).output().unwrap()
    }

    pub(crate) fn cli_command(&self, arguments: &[&str]) -> Command {
        let mut command = gangplank();
        command.args(arguments);
        command.env("GANGPLANK_TARGET", format!("http://{}", self.address));
        command.env("GANGPLANK_TOKEN", &self.token);
        command.env("XDG_CACHE_HOME", &self.cache.0);
        command
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.server);
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        // What it kept running outlives it; nothing outlives the test.
        if Arc::strong_count(&self.root) == 1 {
            kill_children_of(&self.root.0);
        }
        if std::thread::panicking() {
            eprintln!("--- the server's log:\n{}", self.log.lock().unwrap());
        }
    }
}

/// Kills whatever a server on this root has started.
pub(crate) fn kill_children_of(root: &Path) {
    let id = fs::read_to_string(root.join("id")).unwrap_or_default();
    let mark = format!("GANGPLANK_CHILD={}", id.lines().next().unwrap_or("none"));
    for pid in names(Path::new("/proc")) {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let is_its = environment
            .split(|byte| *byte == 0)
            .any(|one| one == mark.as_bytes());
        if let (true, Ok(pid)) = (is_its, pid.parse()) {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            // One that has gone meanwhile needs no signal.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

/// The binary, without anything of the tests' own environment that it would heed.
pub(crate) fn gangplank() -> Command {
    bare(BINARY)
}

/// A copy of the binary in a directory, for a user who may not go where the binary itself lies, such as below root's home.
pub(crate) fn for_others(dir: &Path) -> PathBuf {
    let copy = dir.join("gangplank-for-others");
    if !copy.exists() {
        fs::copy(BINARY, &copy).unwrap();
    }
    copy
}

/// A program, without anything of the tests' own environment that ours would heed.
pub(crate) fn bare(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let heeded = [
            "GANGPLANK_",
            "HARPER_",
            "GITHUB_",
            "CI_",
            "BUILDKITE",
            "CIRCLE_",
            "BITBUCKET_",
            "CLI_TARGET",
            "LC_",
        ];
        if heeded.iter().any(|prefix| text.starts_with(prefix))
            || ["CI", "LANG", "SSL_CERT_FILE", "TERM", "XDG_CONFIG_HOME"].contains(&&*text)
        {
            command.env_remove(&name);
        }
    }
    command.stdin(Stdio::null());
    // Nothing is kept unless a test says where.
    command.env("XDG_CACHE_HOME", "/proc/none");
    command
}

/// An answer, read to the end of its connection or its length.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn read(stream: TcpStream) -> Answer {
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(
                reader.read_line(&mut head).unwrap() > 0,
                "the head ends early: {head:?}"
            );
        }
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut answer = Answer {
            status,
            head,
            body: Vec::new(),
        };
        if answer.header("Transfer-Encoding").is_some() {
            loop {
                let mut size = String::new();
                reader.read_line(&mut size).unwrap();
                let size = usize::from_str_radix(size.trim(), 16).unwrap();
                let mut chunk = vec![0; size + 2];
                reader.read_exact(&mut chunk).unwrap();
                if size == 0 {
                    break;
                }
                answer.body.extend_from_slice(&chunk[..size]);
            }
        } else if let Some(length) = answer.header("Content-Length") {
            answer.body = vec![0; length.parse().unwrap()];
            reader.read_exact(&mut answer.body).unwrap();
        } else if status != 204 {
            reader.read_to_end(&mut answer.body).unwrap();
        }
        answer
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find_map(|(known, value)| known.eq_ignore_ascii_case(name).then(|| value.trim()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The code of a refusal, and its message.
    pub(crate) fn refusal(&self) -> (String, String) {
        let json = self.json();
        assert!(
            self.header("Content-Type")
                .unwrap()
                .starts_with("application/json")
        );
        (
            json["code"].as_str().unwrap().to_owned(),
            json["error"].as_str().unwrap().to_owned(),
        )
    }

    /// The events of a stream.
    pub(crate) fn events(&self) -> Vec<Record> {
        assert_eq!(self.status, 200, "{}", self.text());
        records(&self.text())
    }
}

/// One record of a stream.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Record {
    pub(crate) id: Option<u64>,
    pub(crate) event: String,
    pub(crate) data: Value,
}

pub(crate) fn records(text: &str) -> Vec<Record> {
    let blocks = text
        .split("\n\n")
        .filter(|block| !block.is_empty() && !block.starts_with(':'));
    let parse = |block: &str| {
        let field = |name: &str| {
            block
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .map(|value| value.trim_start().to_owned())
        };
        Record {
            id: field("id:").map(|id| id.parse().unwrap()),
            event: field("event:").unwrap(),
            data: serde_json::from_str(&field("data:").unwrap()).unwrap(),
        }
    };
    blocks.map(parse).collect()
}

/// A request with a length and `Connection: close`.
pub(crate) fn request(method: &str, path: &str, headers: &[&str], body: &[u8]) -> Vec<u8> {
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n");
    for header in headers {
        request.push_str(header);
        request.push_str("\r\n");
    }
    request.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    let mut request = request.into_bytes();
    request.extend_from_slice(body);
    request
}

pub(crate) const BOUNDARY: &str = "----HarperMultipart7f3a00112233445566778899";

/// The Content-Type header and the body of a form that deploys.
pub(crate) fn form(fields: &[(&str, &str)], payload: &[u8]) -> (String, Vec<u8>) {
    let mut body = Vec::new();
    for (name, value) in [("operation", "deploy_component")].iter().chain(fields) {
        let part = format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
        );
        body.extend_from_slice(part.as_bytes());
    }
    let head = "Content-Disposition: form-data; name=\"payload\"; filename=\"package.tar.gz\"\r\nContent-Type: application/gzip";
    body.extend_from_slice(format!("--{BOUNDARY}\r\n{head}\r\n\r\n").as_bytes());
    body.extend_from_slice(payload);
    body.extend_from_slice(format!("\r\n--{BOUNDARY}--\r\n").as_bytes());
    (
        format!("Content-Type: multipart/form-data; boundary={BOUNDARY}"),
        body,
    )
}

/// A tar of some files.
pub(crate) fn tar(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, name, content.as_bytes())
            .unwrap();
    }
    builder.into_inner().unwrap()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A small component without dependencies.
pub(crate) fn component() -> Vec<u8> {
    gzip(&tar(&[("./index.txt", "hello"), ("./sub/a.txt", "a")]))
}

/// A component that is too large to arrive with the head of its request.
pub(crate) fn noise() -> Vec<u8> {
    let noise: String = (0..200_000_u32)
        .map(|n| char::from((n.wrapping_mul(2_654_435_761) >> 25) as u8))
        .collect();
    tar(&[("./noise", &noise)])
}

/// The names of a process's threads.
pub(crate) fn threads_of(process: &Child) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", process.id())).unwrap();
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.map(|name| name.trim().to_owned()).collect()
}

/// Waits until something is there, or panics.
pub(crate) fn await_some<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
        // Not for a time but until the fact; this is how often it is looked for.
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What a directory holds, by name; nothing if it is not there.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A fresh certificate for `localhost` by openssl, its own authority, as two files: the key and the certificate.
pub(crate) fn certificate(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
    let key = dir.join(format!("{name}-key.pem"));
    let certificate = dir.join(format!("{name}-cert.pem"));
    let mut openssl = Command::new("openssl");
    openssl.args([
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
    ]);
    openssl.args([
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost",
        "-addext",
        "basicConstraints=critical,CA:FALSE",
    ]);
    openssl.arg("-keyout").arg(&key);
    let made = openssl.arg("-out").arg(&certificate).output().unwrap();
    let said = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{said}");
    (key, certificate)
}
