//! A small server that speaks as Harper 5.1.14 and as 4.7.29 do, from what was seen of them on the wire: their heads,
//! their framing, the order of their events, what they refuse and how.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// The user whom it knows: `admin` with the password `secret`.
pub(crate) const BASIC: &str = "Basic YWRtaW46c2VjcmV0";

/// What is written between the head and the first event.
const OPEN: &[u8] = b": stream open\n\n";

/// A request, as far as it was read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub(crate) head: String,
    pub(crate) operation: String,
    /// The fields of a form as they were written, or those of JSON.
    pub(crate) fields: Map<String, Value>,
    /// The whole body, where it is not a form.
    pub(crate) body: Vec<u8>,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found
                .eq_ignore_ascii_case(name)
                .then(|| value.trim().to_owned())
        })
    }

    fn streams(&self) -> bool {
        self.header("accept")
            .is_some_and(|accept| accept.contains("text/event-stream"))
    }
}

/// What all connections share.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) seen: Vec<Seen>,
    /// The deployments, newest first.
    pub(crate) rows: Vec<Value>,
    /// Who gives no credentials is let in, as at its unix socket.
    trusting: bool,
    /// Nobody may see the deployments.
    pub(crate) secretive: bool,
    /// Nobody listens.
    down: bool,
}

pub(crate) type Shared = Arc<Mutex<State>>;

type Deploy = dyn Fn(&mut Exchange) + Send + Sync;

/// A running one. It ends with the tests.
pub(crate) struct FakeHarper {
    pub(crate) target: String,
    pub(crate) state: Shared,
}

impl FakeHarper {
    /// A server of this version; what it does with a deployment is said by a function that is called when the file part
    /// begins, or when the body has been read if it is not a form.
    pub(crate) fn start(
        version: &str,
        deploy: impl Fn(&mut Exchange) + Send + Sync + 'static,
    ) -> FakeHarper {
        // Not where other tests ask for a port: it stays its own while nobody listens.
        let listener = TcpListener::bind("127.0.0.2:0").unwrap();
        let target = format!("http://{}", listener.local_addr().unwrap());
        let state = Shared::default();
        let (shared, version) = (Arc::clone(&state), version.to_owned());
        let deploy: Arc<Deploy> = Arc::new(deploy);
        std::thread::spawn(move || listen(listener, &version, &shared, &deploy));
        FakeHarper { target, state }
    }

    /// It answers at a unix socket too, and asks for no credentials there: each connection is passed on.
    pub(crate) fn also_at(&self, socket: &std::path::Path) {
        let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
        let address = self.target.strip_prefix("http://").unwrap().to_owned();
        let local = Arc::clone(&self.state);
        local.lock().unwrap().trusting = true;
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let client = stream.unwrap();
                let server = TcpStream::connect(&address).unwrap();
                let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                });
                let (mut from, mut to) = (server, client);
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Both);
                });
            }
        });
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state.lock().unwrap().seen.clone()
    }

    /// The operations that were asked for, in their order.
    pub(crate) fn operations(&self) -> Vec<String> {
        let seen = self.seen().into_iter();
        seen.map(|seen| seen.operation).collect()
    }

    /// The one request that was a map of CBOR.
    pub(crate) fn deploy_cbor(&self) -> Seen {
        let mut seen = self.seen();
        seen.retain(|seen| seen.operation == "cbor");
        assert_eq!(seen.len(), 1);
        seen.remove(0)
    }

    /// The one deployment that was asked for.
    pub(crate) fn deploy(&self) -> Seen {
        let mut seen = self.seen();
        seen.retain(|seen| seen.operation == "deploy_component");
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen.remove(0)
    }
}

fn listen(listener: TcpListener, version: &str, state: &Shared, deploy: &Arc<Deploy>) {
    let address = listener.local_addr().unwrap();
    let mut listening = Some(listener);
    while let Some(listener) = &listening {
        let stream = listener.accept().unwrap().0;
        if state.lock().unwrap().down {
            drop(stream);
            drop(listening.take());
            while state.lock().unwrap().down {
                std::thread::sleep(Duration::from_millis(10));
            }
            listening = Some(TcpListener::bind(address).unwrap());
            continue;
        }
        let (shared, version, deploy) = (Arc::clone(state), version.to_owned(), Arc::clone(deploy));
        std::thread::spawn(move || serve(stream, &version, shared, &*deploy));
    }
}

/// One request, and the connection that its answer goes to.
pub(crate) struct Exchange {
    pub(crate) seen: Seen,
    pub(crate) state: Shared,
    stream: TcpStream,
    /// What of the body was read and not used.
    rest: Vec<u8>,
    body: Option<ChunkedBody>,
    boundary: String,
    chunked: bool,
}

impl Exchange {
    /// Reads the payload to its end, and gives its bytes; none if it ended too early.
    pub(crate) fn payload(&mut self) -> Option<Vec<u8>> {
        let closing = format!("\r\n--{}--\r\n", self.boundary).into_bytes();
        let mut bytes = std::mem::take(&mut self.rest);
        let mut buffer = vec![0; 64 << 10];
        while !bytes.ends_with(&closing) {
            match self.body.as_mut().unwrap().read(&mut buffer) {
                Ok(0) | Err(_) => return None,
                Ok(n) => bytes.extend_from_slice(&buffer[..n]),
            }
        }
        bytes.truncate(bytes.len() - closing.len());
        // Up to the end of the chunked body, so that closing the connection loses nothing.
        while self.body.as_mut().unwrap().read(&mut buffer).unwrap_or(0) > 0 {}
        Some(bytes)
    }

    /// The head of an event stream, and its first comment.
    pub(crate) fn open(&mut self) {
        self.chunked = true;
        self.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\nx-accel-buffering: no\r\n\
              Server-Timing: db;dur=1.234\r\nTransfer-Encoding: chunked\r\n\r\n",
        );
        self.chunk(OPEN);
    }

    pub(crate) fn event(&mut self, name: &str, data: &Value) {
        self.chunk(format!("event: {name}\ndata: {data}\n\n").as_bytes());
    }

    /// The stream comes to its end.
    pub(crate) fn end(&mut self) {
        self.write(b"0\r\n\r\n");
    }

    /// The connection breaks.
    pub(crate) fn cut(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }

    /// The server is killed, and comes back after a while.
    pub(crate) fn kill(&mut self, away: Duration) {
        self.state.lock().unwrap().down = true;
        let address = self.stream.local_addr().unwrap();
        while TcpStream::connect(address).is_ok() {}
        let state = Arc::clone(&self.state);
        std::thread::spawn(move || {
            std::thread::sleep(away);
            state.lock().unwrap().down = false;
        });
        self.cut();
    }

    /// Until the client has gone.
    pub(crate) fn await_gone(&mut self) {
        let _ = self
            .stream
            .set_read_timeout(Some(Duration::from_millis(20)));
        let mut byte = [0];
        loop {
            match self.stream.peek(&mut byte) {
                Ok(0) => return,
                Ok(_) => std::thread::sleep(Duration::from_millis(20)),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }

    fn chunk(&mut self, bytes: &[u8]) {
        let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
        chunk.extend_from_slice(bytes);
        chunk.extend_from_slice(b"\r\n");
        self.write(&chunk);
    }

    fn write(&mut self, bytes: &[u8]) {
        // The client may be gone, as a test may want it.
        let _ = self.stream.write_all(bytes);
    }

    /// An answer that is not a stream.
    pub(crate) fn answer(&mut self, status: u16, content_type: Option<&str>, body: &str) {
        let content_type = content_type.map(|text| format!("content-type: {text}\r\n"));
        let date = http_date();
        let head = format!(
            "HTTP/1.1 {status} Status\r\n{}Server-Timing: db;dur=0.512\r\ncontent-length: {}\r\nDate: {date}\r\n\
             Connection: keep-alive\r\nKeep-Alive: timeout=30\r\n\r\n{body}",
            content_type.unwrap_or_default(),
            body.len()
        );
        self.write(head.as_bytes());
    }

    pub(crate) fn json(&mut self, status: u16, body: &Value) {
        self.answer(
            status,
            Some("application/json; charset=utf-8"),
            &body.to_string(),
        );
    }

    /// What is refused before a stream begins: a record of an event stream, where one was asked for.
    pub(crate) fn refuse(&mut self, status: u16, error: &str) {
        let body = json!({ "error": error });
        if !self.seen.streams() {
            return self.json(status, &body);
        }
        // Wrong credentials are refused before anybody has set the type.
        let kind = (error != "Login failed").then_some("text/event-stream");
        self.answer(status, kind, &format!("data: {body}\n\n"));
    }

    /// Keeps a deployment, as the first byte of the file does, and gives its id.
    pub(crate) fn begin_row(&mut self) -> String {
        let mut state = self.state.lock().unwrap();
        let id = format!("2f1c1e9a-7d0a-4f55-9d8e-{:012x}", state.rows.len() + 1);
        let row = json!({
            "deployment_id": id, "project": self.seen.fields["project"].as_str().unwrap().trim_matches('"'), "package_identifier": null,
            "payload_hash": null, "payload_size": null, "status": "pending", "phase": "pending", "event_log": [],
            "peer_results": [], "origin_node": "h", "restart_mode": null, "started_at": now_ms(),
            "completed_at": null, "user": "admin", "rollback_of": null, "error": null,
            "payload_blob_present": false,
        });
        state.rows.insert(0, row);
        id
    }

    /// Changes a row.
    pub(crate) fn row(&self, id: &str, change: &Value) {
        change_row(&self.state, id, change);
    }

    /// Reads the payload into the row.
    pub(crate) fn store(&mut self, id: &str) -> bool {
        let Some(payload) = self.payload() else {
            self.row(id, &json!({"status": "failed", "completed_at": now_ms(), "error": {"message": "aborted", "phase": "pending"}}));
            return false;
        };
        let hash: String = Sha256::digest(&payload)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        self.row(
            id,
            &json!({"payload_hash": hash, "payload_size": payload.len(), "payload_blob_present": true, "phase": "prepare"}),
        );
        true
    }

    /// Shows an event and keeps it in the row's log.
    pub(crate) fn tell(&mut self, id: &str, event: &str, data: &Value) {
        self.event(event, data);
        log(&self.state, id, event, data);
    }
}

/// Adds to a row's log.
pub(crate) fn log(state: &Shared, id: &str, event: &str, data: &Value) {
    let mut state = state.lock().unwrap();
    let row = state.rows.iter_mut().find(|row| row["deployment_id"] == id);
    let log = row.unwrap()["event_log"].as_array_mut().unwrap();
    log.push(json!({"t": now_ms(), "event": event, "data": data}));
}

pub(crate) fn change_row(state: &Shared, id: &str, change: &Value) {
    let mut state = state.lock().unwrap();
    let row = state.rows.iter_mut().find(|row| row["deployment_id"] == id);
    let row = row.unwrap().as_object_mut().unwrap();
    row.extend(change.as_object().unwrap().clone());
}

/// A deployment that succeeds, with its answer.
pub(crate) fn succeed(exchange: &mut Exchange) {
    exchange.open();
    let id = exchange.begin_row();
    if !exchange.store(&id) {
        return;
    }
    for (event, data) in success(&id, &exchange.seen.fields) {
        match event {
            "done" => exchange.event(event, &data),
            _ => exchange.tell(&id, event, &data),
        }
    }
    exchange.row(
        &id,
        &json!({"status": "success", "phase": "success", "completed_at": now_ms()}),
    );
    exchange.end();
}

/// The events of a deployment that succeeds, in their order.
pub(crate) fn success(id: &str, fields: &Map<String, Value>) -> Vec<(&'static str, Value)> {
    let project = fields["project"].as_str().unwrap().trim_matches('"');
    let restart = fields.get("restart").is_some();
    let message = match restart {
        true => format!("Successfully deployed: {project}, restarting Harper"),
        false => format!("Successfully deployed: {project}"),
    };
    let phase = |phase: &str, status: &str| ("phase", json!({"phase": phase, "status": status}));
    let line = |line: &str| {
        (
            "install",
            json!({"manager": "npm", "stream": "stdout", "line": line}),
        )
    };
    let mut events = vec![
        phase("prepare", "start"),
        line("added 42 packages in 3s"),
        line(""),
        phase("prepare", "done"),
        phase("replicate", "start"),
        phase("replicate", "done"),
    ];
    if restart {
        events.extend([phase("restart", "start"), phase("restart", "done")]);
    }
    events.extend([
        phase("success", "done"),
        ("_recorder_finished", json!({"status": "success"})),
        (
            "done",
            json!({"result": {"message": message, "deployment_id": id}}),
        ),
    ]);
    events
}

/// The client closes after each answer, so a connection has one request.
fn serve(stream: TcpStream, version: &str, state: Shared, deploy: &Deploy) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let head = head(&mut reader);
    let mut exchange = Exchange {
        seen: Seen {
            head,
            ..Seen::default()
        },
        state,
        stream,
        rest: Vec::new(),
        body: None,
        boundary: String::new(),
        chunked: false,
    };
    let kind = exchange.seen.header("content-type").unwrap_or_default();
    let legacy = version.starts_with("4.");
    if let Some((_, boundary)) = kind.split_once("boundary=") {
        exchange.boundary = boundary.to_owned();
        exchange.body = Some(ChunkedBody { reader, left: 0 });
        if !legacy {
            read_fields(&mut exchange);
        }
    } else {
        exchange.seen.body = whole(&exchange.seen, reader);
        if kind == "application/json" {
            exchange.seen.fields = serde_json::from_slice(&exchange.seen.body).unwrap();
        }
        let name = exchange.seen.fields.get("operation");
        exchange.seen.operation = name.and_then(Value::as_str).unwrap_or("cbor").to_owned();
    }
    let seen = exchange.seen.clone();
    exchange.state.lock().unwrap().seen.push(seen);
    if legacy && kind.starts_with("multipart/") {
        return exchange.refuse(415, &format!("Unsupported Media Type: {kind}"));
    }
    match exchange.seen.header("authorization") {
        None if exchange.state.lock().unwrap().trusting => {}
        None => return exchange.refuse(401, "Must login"),
        Some(given) if given != BASIC => return exchange.refuse(401, "Login failed"),
        Some(_) => {}
    }
    operate(&mut exchange, version, legacy, deploy);
}

fn operate(exchange: &mut Exchange, version: &str, legacy: bool, deploy: &Deploy) {
    let text = |exchange: &Exchange, field: &str| {
        let value = exchange.seen.fields.get(field).and_then(Value::as_str);
        value.unwrap_or_default().to_owned()
    };
    match exchange.seen.operation.as_str() {
        "registration_info" => {
            exchange.json(200, &json!({"version": version, "deprecated": true}));
        }
        "deploy_component" | "cbor" => deploy(exchange),
        "drop_component" => {
            let message = format!("Successfully dropped: {}", text(exchange, "project"));
            exchange.json(200, &json!({ "message": message }));
        }
        "get_components" => exchange.json(
            200,
            &json!({"name": "components", "entries": [{"name": "hello", "entries": [{"name": "config.yaml", "size": 4}]}]}),
        ),
        "list_deployments" if exchange.state.lock().unwrap().secretive => {
            exchange.refuse(403, "This operation is not authorized");
        }
        "list_deployments" if !legacy => {
            let (project, since) = (text(exchange, "project"), &exchange.seen.fields);
            let since = since.get("since").and_then(Value::as_u64).unwrap_or(0);
            let rows = exchange.state.lock().unwrap().rows.clone();
            let fits = |row: &&Value| {
                (project.is_empty() || row["project"] == project.as_str())
                    && row["started_at"].as_u64().unwrap() >= since
            };
            let rows: Vec<Value> = rows.iter().filter(fits).cloned().collect();
            let total = rows.len();
            exchange.json(200, &json!({"deployments": rows, "total": total}));
        }
        "get_deployment" if !legacy => get_deployment(exchange, &text(exchange, "deployment_id")),
        other => {
            let error = format!("Operation '{other}' not found");
            exchange.refuse(400, &error);
        }
    }
}

/// A row, or its events: those that were kept, then those that come, and `done` with the row as it was in the beginning.
fn get_deployment(exchange: &mut Exchange, id: &str) {
    let find = |state: &Shared| {
        let state = state.lock().unwrap();
        let mut rows = state.rows.iter();
        rows.find(|row| row["deployment_id"] == id).cloned()
    };
    let first = find(&exchange.state);
    let error = format!("No deployment found with id '{id}'");
    if !exchange.seen.streams() {
        return match first {
            Some(row) => exchange.json(200, &row),
            None => exchange.refuse(400, &error),
        };
    }
    exchange.open();
    let Some(first) = first else {
        exchange.event("error", &json!({"message": error, "code": 400}));
        return exchange.end();
    };
    let mut at = 0;
    loop {
        let row = find(&exchange.state).unwrap();
        let log = row["event_log"].as_array().unwrap();
        for entry in &log[at..] {
            exchange.event(entry["event"].as_str().unwrap(), &entry["data"]);
        }
        at = log.len();
        let ended = row["status"] != "pending" || row["left"] == true;
        if ended {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    exchange.event("done", &json!({ "result": first }));
    exchange.end();
}

fn head(reader: &mut impl BufRead) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).unwrap_or(0) == 0 {
            break;
        }
    }
    head
}

fn whole(seen: &Seen, reader: BufReader<TcpStream>) -> Vec<u8> {
    let mut body = Vec::new();
    match seen.header("content-length") {
        Some(length) => {
            let length: u64 = length.parse().unwrap();
            reader.take(length).read_to_end(&mut body).unwrap();
        }
        None if seen.header("transfer-encoding").is_some() => {
            let mut chunked = ChunkedBody { reader, left: 0 };
            chunked.read_to_end(&mut body).unwrap();
        }
        None => {}
    }
    body
}

/// Reads the fields of a form, up to where the file begins.
fn read_fields(exchange: &mut Exchange) {
    let begin = b"name=\"payload\"; filename=\"package.tar.gz\"";
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    let at = loop {
        let found = bytes.windows(begin.len()).position(|part| part == begin);
        let end = found.and_then(|at| {
            let end = bytes[at..].windows(4).position(|part| part == b"\r\n\r\n");
            end.map(|end| (at, end))
        });
        if let Some((at, end)) = end {
            break at + end + 4;
        }
        let n = exchange.body.as_mut().unwrap().read(&mut buffer).unwrap();
        assert!(n > 0, "the form has no file");
        bytes.extend_from_slice(&buffer[..n]);
    };
    exchange.rest = bytes.split_off(at);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    for part in text.split(&format!("--{}\r\n", exchange.boundary)) {
        let Some((head, value)) = part.split_once("\r\n\r\n") else {
            continue;
        };
        let name = head.split('"').nth(1).unwrap_or_default();
        let value = value.strip_suffix("\r\n").unwrap_or(value);
        if name != "payload" {
            let fields = &mut exchange.seen.fields;
            fields.insert(name.to_owned(), value.into());
        }
    }
    let name = exchange.seen.fields["operation"].as_str().unwrap();
    exchange.seen.operation = name.to_owned();
}

/// A body in chunks.
struct ChunkedBody {
    reader: BufReader<TcpStream>,
    left: usize,
}

impl Read for ChunkedBody {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.left == 0 {
            let mut line = String::new();
            self.reader.read_line(&mut line)?;
            let size = usize::from_str_radix(line.trim(), 16);
            self.left = size.map_err(std::io::Error::other)?;
            if self.left == 0 {
                self.reader.read_line(&mut line)?;
                return Ok(0);
            }
        }
        let room = self.left.min(buffer.len());
        let n = self.reader.read(&mut buffer[..room])?;
        if n == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= n;
        if self.left == 0 {
            self.reader.read_exact(&mut [0; 2])?;
        }
        Ok(n)
    }
}

pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

/// As every server writes it, in whole seconds.
fn http_date() -> String {
    let output = std::process::Command::new("date")
        .args(["-u", "+%a, %d %b %Y %H:%M:%S GMT"])
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
