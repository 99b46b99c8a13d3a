use super::*;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;
use std::time::Instant;

use crate::api::error::Exit;
use crate::api::operation::{AnswerShape, Fields};

/// One connection, served by a function on a thread.
fn serve<T: Send + 'static>(
    answer: impl FnOnce(TcpStream) -> T + Send + 'static,
) -> (Client, JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let thread = std::thread::spawn(move || answer(listener.accept().unwrap().0));
    (Client::new(Target::parse(&url).unwrap()).unwrap(), thread)
}

/// Reads a head, up to and with its blank line, byte by byte so that nothing of the body is taken.
fn head(stream: &mut impl Read) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

fn operation() -> OperationCall {
    let mut fields = Fields::new();
    fields.insert("restart".into(), true.into());
    OperationCall::new("deploy_component", fields)
}

fn notices(running: &InFlight) -> Vec<Notice> {
    let mut all = Vec::new();
    loop {
        match running.notices().recv_timeout(Duration::from_secs(20)) {
            Ok(notice) => all.push(notice),
            Err(crossbeam_channel::RecvTimeoutError::Disconnected) => return all,
            Err(_) => panic!("nothing happened any longer after {all:?}"),
        }
    }
}

fn last(running: &InFlight) -> Notice {
    notices(running).pop().unwrap()
}

fn call(client: &Client, stream: bool) -> InFlight {
    client.call(&operation(), stream).unwrap()
}

/// A payload that never ends in any test's time, and counts what was taken.
struct EndlessPayload(Arc<AtomicU64>);

impl Read for EndlessPayload {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0
            .fetch_add(buffer.len() as u64, std::sync::atomic::Ordering::Relaxed);
        Ok(buffer.len())
    }
}

fn refused_early(
    answer: impl FnOnce(TcpStream) -> TcpStream + Send + 'static,
) -> (u64, Notice, TcpStream) {
    let (client, thread) = serve(answer);
    let taken = Arc::new(AtomicU64::new(0));
    let payload = EndlessPayload(Arc::clone(&taken));
    let running = client.upload(&operation(), payload, "key").unwrap();
    let last = last(&running);
    let taken = taken.load(std::sync::atomic::Ordering::Relaxed);
    (taken, last, thread.join().unwrap())
}

const TOO_LARGE: &str = "HTTP/1.1 413 Payload Too Large\r\nContent-Type: application/json\r\nContent-Length: 36\r\n\r\n{\"error\":\"over\",\"code\":\"too_large\"}\n";

fn assert_too_large(last: &Notice) {
    let Notice::Answer(answer) = last else {
        panic!("{last:?}")
    };
    let failed = answer.judge(Some(AnswerShape::Json)).unwrap_err();
    assert_eq!((answer.status, failed.exit), (413, Exit::Refused));
    assert_eq!(failed.code.as_deref(), Some("too_large"));
}

#[test]
fn an_early_answer_ends_the_upload_when_the_server_stalls() {
    // The server reads the head alone, answers, and then neither reads nor closes.
    let (taken, last, _open) = refused_early(|mut stream| {
        head(&mut stream);
        stream.write_all(TOO_LARGE.as_bytes()).unwrap();
        stream
    });
    assert_too_large(&last);
    // What the sockets' buffers hold; nothing near an upload.
    assert!(taken < 64 << 20, "{taken}");
}

/// Until the client has not been able to write for a while.
fn await_stalled(stream: &TcpStream) {
    let (mut before, mut same) = (0, 0);
    while same < 20 {
        std::thread::sleep(Duration::from_millis(10));
        let mut buffer = vec![0; 16 << 20];
        let now = stream.peek(&mut buffer).unwrap();
        same = if now == before { same + 1 } else { 0 };
        before = now;
    }
}

#[test]
fn a_deployment_that_is_known_already_ends_the_upload() {
    // Its events begin with those of a stream that would not have ended it, and the client may be waiting for room.
    for stalled in [false, true] {
        let (taken, last, _open) = refused_early(move |mut stream| {
            head(&mut stream);
            let begun =
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n: stream open\n\n";
            stream.write_all(begun.as_bytes()).unwrap();
            if stalled {
                await_stalled(&stream);
            }
            let events = "id: 1\nevent: deployment\ndata: {}\n\nid: 2\nevent: done\ndata: {}\n\n";
            stream.write_all(events.as_bytes()).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            stream
        });
        assert!(matches!(last, Notice::Ended), "{last:?}");
        assert!(taken < 64 << 20, "{taken}");
    }
}

#[test]
fn an_early_answer_is_seen_while_a_write_waits_for_room() {
    let (_, last, _open) = refused_early(|mut stream| {
        head(&mut stream);
        await_stalled(&stream);
        stream.write_all(TOO_LARGE.as_bytes()).unwrap();
        stream
    });
    assert_too_large(&last);
}

#[test]
fn an_early_answer_is_seen_when_the_server_drains_or_half_closes() {
    let (_, last, _open) = refused_early(|mut stream| {
        head(&mut stream);
        stream.write_all(TOO_LARGE.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut drain = stream.try_clone().unwrap();
        let mut buffer = vec![0; 64 * 1024];
        while drain.read(&mut buffer).is_ok_and(|n| n > 0) {}
        stream
    });
    assert_too_large(&last);
}

#[test]
fn a_stream_that_begins_during_the_upload_does_not_end_it() {
    // As a Harper server does: the head and the first record go out before the payload has arrived.
    let (client, thread) = serve(|mut stream| {
        head(&mut stream);
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n: stream open\n\n")
            .unwrap();
        let mut body = Vec::new();
        let mut buffer = [0; 64 << 10];
        while !body.ends_with(b"0\r\n\r\n") {
            let n = stream.read(&mut buffer).unwrap();
            assert!(n > 0, "the upload ended after {} bytes", body.len());
            body.extend_from_slice(&buffer[..n]);
        }
        stream
            .write_all(b"event: done\ndata: {\"result\":{}}\n\n")
            .unwrap();
        body.len()
    });
    let payload = std::io::repeat(b'x').take(8 << 20);
    let running = client.upload(&operation(), payload, "key").unwrap();
    let all = notices(&running);
    assert!(
        all.iter()
            .any(|notice| matches!(notice, Notice::Records(records) if records.iter().any(|record| record.event == "done"))),
        "{all:?}"
    );
    assert!(thread.join().unwrap() > 8 << 20);
}

#[test]
fn an_upload_into_a_closed_connection_is_broken_while_sending() {
    let (_, last, _open) = refused_early(|mut stream| {
        head(&mut stream);
        stream.shutdown(std::net::Shutdown::Both).unwrap();
        stream
    });
    let Notice::Broken(stage, error) = last else {
        panic!("{last:?}")
    };
    assert_eq!(stage, RequestStage::Sending, "{error}");
}

#[test]
fn a_whole_upload_is_sent_as_a_form_with_its_key() {
    let (client, thread) = serve(|mut stream| {
        let head = head(&mut stream);
        let mut body = Vec::new();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let size = usize::from_str_radix(line.trim(), 16).unwrap();
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk).unwrap();
            if size == 0 {
                break;
            }
            body.extend_from_slice(&chunk[..size]);
        }
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n: stream open\n\nevent: done\ndata: {\"result\":1}\n\n")
            .unwrap();
        (head, String::from_utf8_lossy(&body).into_owned())
    });
    let running = client
        .upload(&operation(), &b"PAYLOAD"[..], "my-key")
        .unwrap();
    let seen = notices(&running);
    assert!(
        matches!(&seen[..], [Notice::Sent, Notice::Head(200), Notice::Records(records), Notice::Ended] if records[0].event == "done"),
        "{seen:?}"
    );
    let (head, body) = thread.join().unwrap();
    let head = head.to_ascii_lowercase();
    for part in [
        "post / http/1.1",
        "transfer-encoding: chunked",
        "accept: text/event-stream",
        "idempotency-key: my-key",
        "content-type: multipart/form-data; boundary=",
        concat!("user-agent: gangplank/", env!("CARGO_PKG_VERSION")),
    ] {
        assert!(head.contains(part), "{part} in {head}");
    }
    for part in [
        "name=\"operation\"\r\n\r\ndeploy_component\r\n",
        "name=\"restart\"\r\n\r\ntrue\r\n",
        "PAYLOAD\r\n--",
    ] {
        assert!(body.contains(part), "{part} in {body}");
    }
}

#[test]
fn a_payload_that_fails_is_not_sent_as_if_it_were_whole() {
    struct FailingPayload;
    impl Read for FailingPayload {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("changed while it was packed"))
        }
    }
    let (client, thread) = serve(|mut stream| {
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        all
    });
    let running = client.upload(&operation(), FailingPayload, "key").unwrap();
    let Notice::Broken(stage, error) = last(&running) else {
        panic!("no failure")
    };
    assert_eq!(stage, RequestStage::Payload);
    assert!(error.to_string().contains("changed while"), "{error}");
    drop(running);
    assert!(!thread.join().unwrap().ends_with(b"0\r\n\r\n"));
}

/// Serves one plain call with these bytes, in these pieces, and closes.
fn answered(pieces: Vec<Vec<u8>>, stream: bool) -> (Vec<Notice>, String) {
    let (client, thread) = serve(move |mut stream| {
        let head = head(&mut stream);
        let body = serde_json::to_vec(operation().fields()).unwrap();
        stream.read_exact(&mut vec![0; body.len()]).unwrap();
        for piece in pieces {
            stream.write_all(&piece).unwrap();
            stream.flush().unwrap();
        }
        head
    });
    let seen = notices(&call(&client, stream));
    (seen, thread.join().unwrap())
}

const STREAM_HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n";

#[test]
fn streams_may_be_split_anywhere() {
    let body: String = [
        ": stream open\n\nid: 1\nevent: pha",
        "se\ndata: {\"a\":\"\u{e4}\"}\n",
        "\n",
        "",
    ]
    .map(|chunk| format!("{:x}\r\n{chunk}\r\n", chunk.len()))
    .concat();
    let whole = format!("{STREAM_HEAD}{body}").into_bytes();
    for size in [1, 2, 3, 7, whole.len()] {
        let pieces = whole.chunks(size).map(<[u8]>::to_vec).collect();
        let (seen, _) = answered(pieces, true);
        let [Notice::Head(200), Notice::Records(records), Notice::Ended] = &seen[..] else {
            panic!("{size}: {seen:?}")
        };
        let [record] = &records[..] else {
            panic!("{size}: {records:?}")
        };
        assert_eq!(record.id.as_deref(), Some("1"));
        assert_eq!(
            (&*record.event, &*record.data),
            ("phase", "{\"a\":\"\u{e4}\"}")
        );
    }
}

#[test]
fn cut_streams_are_told_from_ended_ones() {
    let record = "9\r\ndata: 1\n\n\r\n";
    let table = [
        (format!("{STREAM_HEAD}{record}0\r\n\r\n"), true),
        (format!("{STREAM_HEAD}{record}"), false),
        (format!("{STREAM_HEAD}{record}ff\r\ndata"), false),
        (
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n".into(),
            true,
        ),
    ];
    for (bytes, clean) in table {
        let (seen, _) = answered(vec![bytes.clone().into_bytes()], true);
        match seen.last() {
            Some(Notice::Ended) => assert!(clean, "{bytes}"),
            Some(Notice::Broken(RequestStage::Reading, _)) => assert!(!clean, "{bytes}"),
            _ => panic!("{seen:?}"),
        }
    }
}

#[test]
fn plain_answers_come_whole() {
    let table = [
        (
            "HTTP/1.1 401 Unauthorized\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n{\"error\":\"Must login\"}",
            Exit::Unauthorized,
        ),
        (
            "HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 12\r\n\r\n<h1>Bad</h1>",
            Exit::Unreachable,
        ),
        (
            "HTTP/1.1 301 Moved\r\nLocation: http://other/\r\nContent-Length: 0\r\n\r\n",
            Exit::Unreachable,
        ),
        // Cut, but a refusal all the same.
        (
            "HTTP/1.1 413 X\r\nContent-Length: 99\r\n\r\n{\"error\":\"over\"}",
            Exit::Refused,
        ),
    ];
    for (bytes, exit) in table {
        let (seen, head) = answered(vec![bytes.as_bytes().to_vec()], false);
        let Some(Notice::Answer(answer)) = seen.last() else {
            panic!("{seen:?}")
        };
        assert_eq!(
            answer.judge(Some(AnswerShape::Json)).unwrap_err().exit,
            exit,
            "{bytes}"
        );
        assert!(
            head.contains("application/json") && !head.contains("event-stream"),
            "{head}"
        );
    }
    let cut = "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{\"a\":1}";
    let (seen, _) = answered(vec![cut.into()], false);
    assert!(
        matches!(seen.last(), Some(Notice::Broken(RequestStage::Reading, _))),
        "{seen:?}"
    );
    let (seen, _) = answered(Vec::new(), false);
    assert!(
        matches!(seen.last(), Some(Notice::Broken(RequestStage::Waiting, _))),
        "{seen:?}"
    );
}

#[test]
fn credentials_are_sent_and_never_shown() {
    let bearer = TargetCredentials::Bearer(Secret::new("hunter2"));
    let basic = TargetCredentials::Basic {
        username: "admin".into(),
        password: Secret::new("hunter2"),
    };
    let table = [
        (bearer, "Bearer hunter2"),
        (basic, "Basic YWRtaW46aHVudGVyMg=="),
    ];
    for (credentials, value) in table {
        let (client, thread) = serve(|mut stream| head(&mut stream));
        let client = client.with_credentials(&credentials).unwrap();
        let last = last(&call(&client, true));
        let head = thread.join().unwrap().to_ascii_lowercase();
        let line = format!("authorization: {value}\r\n").to_ascii_lowercase();
        assert!(head.contains(&line), "{head}");
        for shown in [
            format!("{client:?}"),
            format!("{last:?}"),
            format!("{credentials:?}"),
        ] {
            assert!(
                !shown.contains("hunter2") && !shown.contains("YWRt"),
                "{shown}"
            );
        }
    }
    let target = Target::parse("http://h").unwrap();
    for bad in ["", "a b", "a\nb", "\u{e4}"] {
        let client = Client::new(target.clone()).unwrap();
        let token = TargetCredentials::Bearer(Secret::new(bad));
        assert!(client.with_credentials(&token).is_err(), "{bad:?}");
    }
}

#[test]
fn a_unix_socket_and_the_events_of_a_deployment() {
    let dir = std::env::temp_dir().join(format!("gangplank-client-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let path = dir.join("s.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let head = head(&mut stream);
        stream.write_all(STREAM_HEAD.as_bytes()).unwrap();
        stream.write_all(b"0\r\n\r\n").unwrap();
        head
    });
    let client = Client::new(Target::unix(&path)).unwrap();
    let which = DeploymentRef::Latest("demo".parse().unwrap());
    let seen = notices(&client.events(&which, 0).unwrap());
    assert!(
        matches!(&seen[..], [Notice::Head(200), Notice::Ended]),
        "{seen:?}"
    );
    let head = thread.join().unwrap();
    assert!(
        head.starts_with("GET /deployments/latest/events?project=demo HTTP/1.1\r\n"),
        "{head}"
    );
    fs::remove_dir_all(&dir).unwrap();
    let Notice::Broken(stage, error) = last(&client.events(&which, 0).unwrap()) else {
        panic!("no failure")
    };
    assert_eq!(stage, RequestStage::Connecting);
    assert!(error.to_string().contains("gangplank serve"), "{error}");
}

#[test]
fn nobody_listening_is_a_failure_to_connect() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let client = Client::new(Target::parse(&url).unwrap()).unwrap();
    let last = last(&call(&client, false));
    assert!(
        matches!(last, Notice::Broken(RequestStage::Connecting, _)),
        "{last:?}"
    );
}

#[test]
fn dropping_a_request_ends_it() {
    let (client, thread) = serve(|mut stream| {
        head(&mut stream);
        stream.write_all(STREAM_HEAD.as_bytes()).unwrap();
        // Ends when the client's side does.
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    });
    let running = call(&client, true);
    assert!(matches!(
        running.notices().recv().unwrap(),
        Notice::Head(200)
    ));
    let begun = Instant::now();
    drop(running);
    thread.join().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn roots_are_certificates() {
    let file = std::env::temp_dir().join(format!("gangplank-roots-{}", std::process::id()));
    for text in [
        "",
        "nothing",
        "-----BEGIN CERTIFICATE-----\n%\n-----END CERTIFICATE-----\n",
    ] {
        fs::write(&file, text).unwrap();
        let client = Client::new(Target::parse("h").unwrap()).unwrap();
        assert!(client.with_roots(&file).is_err(), "{text}");
    }
    fs::remove_file(&file).unwrap();
}

/// A server of TLS for `localhost`, and the file that its certificate is in; none if openssl is missing.
fn secure(dir: &Path) -> Option<Arc<rustls::ServerConfig>> {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let mut openssl = std::process::Command::new("openssl");
    openssl.args("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost".split(' '));
    openssl.args(["-addext", "subjectAltName=DNS:localhost"]);
    openssl.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
    openssl.args(["-keyout", "key.pem", "-out", "cert.pem"]);
    if !crate::needs::have("openssl") {
        return None;
    }
    assert!(openssl.current_dir(dir).output().unwrap().status.success());
    let certificate = CertificateDer::from_pem_file(dir.join("cert.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(dir.join("key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let config = builder
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key);
    Some(Arc::new(config.unwrap()))
}

#[test]
fn a_deployment_that_is_known_already_ends_the_upload_through_tls() {
    let dir = std::env::temp_dir().join(format!("gangplank-known-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let Some(config) = secure(&dir) else { return };
    let known = "id: 1\nevent: deployment\ndata: {}\n\nid: 2\nevent: done\ndata: {}\n\n";
    let refused = "event: error\ndata: {\"message\":\"m\",\"code\":400}\n\n";
    for (pause, events) in [
        (false, known),
        (true, known),
        (false, refused),
        (true, refused),
    ] {
        let config = Arc::clone(&config);
        let (client, thread) = serve(move |stream| {
            let raw = stream.try_clone().unwrap();
            let session = rustls::ServerConnection::new(config).unwrap();
            let mut stream = rustls::StreamOwned::new(session, stream);
            head(&mut stream);
            let begun =
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n: stream open\n\n";
            stream.write_all(begun.as_bytes()).unwrap();
            if pause {
                await_stalled(&raw);
            }
            stream.write_all(events.as_bytes()).unwrap();
            stream.conn.send_close_notify();
            stream.flush().unwrap();
            stream
        });
        let port = client
            .target
            .url("/")
            .rsplit_once(':')
            .unwrap()
            .1
            .to_owned();
        let url = format!("https://localhost:{}", port.trim_end_matches('/'));
        let client = Client::new(Target::parse(&url).unwrap()).unwrap();
        let client = client.with_roots(&dir.join("cert.pem")).unwrap();
        let taken = Arc::new(AtomicU64::new(0));
        let running = client
            .upload(&operation(), EndlessPayload(Arc::clone(&taken)), "key")
            .unwrap();
        let all = notices(&running);
        assert!(
            all.iter()
                .any(|notice| matches!(notice, Notice::Records(records) if records.iter().any(|record| ["done", "error"].contains(&&*record.event)))),
            "{all:?}"
        );
        let _open = thread.join().unwrap();
        assert!(taken.load(std::sync::atomic::Ordering::Relaxed) < 64 << 20);
    }
    fs::remove_dir_all(&dir).unwrap();
}
