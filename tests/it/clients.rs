//! Other people's clients: curl, node, and Harper's own CLI by its bytes.

use std::fs;
use std::io::{Read, Write};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::test_server::{
    Answer, BOUNDARY, TestServer, certificate, component, form, gangplank, have, names, noise,
    records,
};

#[test]
fn curl_deploys_and_watches() {
    if !have("curl") {
        return;
    }
    let host = TestServer::start();
    let payload = host.path("p.tgz");
    fs::write(&payload, component()).unwrap();
    let url = format!("http://{}/", host.address);
    let authorization = format!("Authorization: Bearer {}", host.token);
    let file = format!("payload=@{}", payload.display());
    let form = [
        "-F",
        "operation=deploy_component",
        "-F",
        "project=curled",
        "-F",
        &file,
    ];
    let curl = |more: &[&str]| {
        let output = Command::new("curl")
            .args(["-sS", "-H", &authorization])
            .args(more)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    let plain: Value = serde_json::from_str(&curl(&[&form[..], &[&url]].concat())).unwrap();
    assert_eq!(plain["message"], "Successfully deployed: curled");
    let live = curl(
        &[
            &["-N", "-H", "Accept: text/event-stream"],
            &form[..],
            &[&url],
        ]
        .concat(),
    );
    assert_eq!(records(&live).last().unwrap().event, "done");
    let watched = curl(&[
        "-NL",
        &format!("{url}deployments/latest/events?project=curled"),
    ]);
    assert_eq!(watched, live);
}

#[test]
fn node_deploys_with_fetch_and_formdata() {
    if !have("node") {
        return;
    }
    let host = TestServer::start();
    let payload = host.path("p.tgz");
    fs::write(&payload, component()).unwrap();
    let script = r#"
        const [url, token, file] = process.argv.slice(1);
        const form = new FormData();
        form.set("operation", "deploy_component");
        form.set("project", "noded");
        form.set("payload", new Blob([require("node:fs").readFileSync(file)]), "p.tgz");
        const headers = { Authorization: `Bearer ${token}`, Accept: "text/event-stream" };
        fetch(url, { method: "POST", headers, body: form }).then(async (answer) => process.stdout.write(await answer.text()));
    "#;
    let mut node = Command::new("node");
    node.args([
        "-e",
        script,
        &format!("http://{}/", host.address),
        &host.token,
    ])
    .arg(&payload);
    let output = node.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        records(&text).last().unwrap().event,
        "done",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(host.path("components/noded/index.txt").exists());
}

#[test]
fn the_bytes_of_harpers_cli_deploy() {
    let host = TestServer::start();
    let probe = host
        .operate(&json!({"operation": "registration_info"}))
        .json();
    let version = probe["version"].as_str().unwrap();
    let numbers: Vec<u32> = version
        .split(['.', '+'])
        .take(2)
        .map(|part| part.parse().unwrap())
        .collect();
    assert!(numbers >= vec![5, 1], "{version}");

    // Chunked, never with a length; the project last, as it is when it comes from the directory's name.
    let (_, body) = form(
        &[("install_allow_scripts", "true"), ("project", "harper")],
        &component(),
    );
    let mut request = format!(
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}\r\n\
         Authorization: Bearer {}\r\nAccept: text/event-stream\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
        host.token
    )
    .into_bytes();
    for chunk in body.chunks(97) {
        request.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        request.extend_from_slice(chunk);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"0\r\n\r\n");
    let mut stream = host.connect();
    stream.write_all(&request).unwrap();
    let events = Answer::read(stream).events();
    assert_eq!(
        events.last().unwrap().data["result"]["message"],
        "Successfully deployed: harper"
    );
}

#[test]
fn npm_installs_when_nobody_says_otherwise() {
    if !have("npm") {
        return;
    }
    let host = TestServer::start();
    let package = r#"{"name":"demo","version":"1.0.0","dependencies":{"lib":"file:lib","gone":"file:../gone"},
        "scripts":{"preinstall":"touch ran"}}"#;
    let lib = r#"{"name":"lib","version":"1.0.0"}"#;
    let payload =
        crate::test_server::tar(&[("./package.json", package), ("./lib/package.json", lib)]);
    let events = host.deploy_live(&[("project", "npm")], &payload).events();
    assert_eq!(events.last().unwrap().event, "done", "{events:?}");
    assert!(
        events
            .iter()
            .any(|record| record.event == "install" && record.data["manager"] == "npm")
    );
    assert!(
        host.path("components/npm/node_modules/lib/package.json")
            .exists()
    );
    let warned = |record: &&crate::test_server::Record| {
        let text = record.data["message"].as_str().unwrap_or_default();
        record.event == "warning" && text.contains("node_modules/gone leads to")
    };
    assert_eq!(events.iter().filter(warned).count(), 1, "{events:?}");
    assert!(
        !host.path("components/npm/ran").exists(),
        "scripts run only where they are allowed"
    );
}

#[test]
fn our_client_speaks_https_and_trusts_only_whom_it_is_told() {
    if !have("openssl") || !have("python3") {
        return;
    }
    let dir = crate::test_server::TempDir::new();
    let (key, certificate) = certificate(&dir.0, "server");
    // A server that reads a chunked upload to its end and answers with a stream of two records.
    let script = r#"
import http.server, ssl, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        length = self.headers.get("Content-Length")
        if length:
            # The client asks first what it talks to.
            self.rfile.read(int(length))
            answer = b'{"version":"5.1.14+gangplank.0.1.0"}'
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)
            return
        total = 0
        while (size := int(self.rfile.readline(), 16)):
            total += size
            self.rfile.read(size + 2)
        self.rfile.readline()
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.wfile.write(b': stream open\n\nevent: done\ndata: {"result":{"message":"%d bytes"}}\n\n' % total)
    def log_message(self, *words):
        pass
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_port, flush=True)
server.serve_forever()
"#;
    let mut python = Command::new("python3");
    python
        .args(["-c", script])
        .arg(&certificate)
        .arg(&key)
        .stdout(std::process::Stdio::piped());
    let mut server = python.spawn().unwrap();
    let mut port = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(server.stdout.take().unwrap()),
        &mut port,
    )
    .unwrap();
    let target = format!("https://localhost:{}", port.trim());
    let app = dir.0.join("app");
    fs::create_dir(&app).unwrap();
    fs::write(app.join("a"), vec![7; 300_000]).unwrap();
    let deploy = |more: &[&str]| {
        let mut command = crate::test_server::gangplank();
        command
            .arg("deploy")
            .arg(&app)
            .args(["--target", &target, "--token", "t"])
            .args(more)
            .output()
            .unwrap()
    };
    let (trusting, wary) = (
        deploy(&["--ca-cert", certificate.to_str().unwrap()]),
        deploy(&[]),
    );
    server.kill().unwrap();
    server.wait().unwrap();
    let shown = String::from_utf8_lossy(&trusting.stderr);
    assert_eq!(trusting.status.code(), Some(0), "{shown}");
    assert!(String::from_utf8_lossy(&trusting.stdout).contains("bytes"));
    let shown = String::from_utf8_lossy(&wary.stderr);
    assert_eq!(wary.status.code(), Some(3), "{shown}");
    assert!(shown.contains("certificate"), "{shown}");
}

#[test]
fn a_login_of_a_harper_client_gives_the_token_and_a_wrong_one_counts() {
    let host = TestServer::start();
    let login = |fields: &Value| {
        let body = fields.to_string();
        let json = ["Content-Type: application/json"];
        host.ask_as_anyone("POST", "/", &json, body.as_bytes())
    };
    let with = |name: &str, token: &str| json!({"operation": "create_authentication_tokens", "username": name, "password": token});
    let answer = login(&with("admin", &host.token));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json(), json!({ "operation_token": host.token }));
    // Nothing else is answered to somebody without credentials.
    let answer = login(&json!({"operation": "get_components"}));
    assert_eq!(
        (answer.status, answer.refusal().1),
        (401, "Must login".to_owned())
    );
    let large = json!({"operation": "create_authentication_tokens", "more": "x".repeat(5000)});
    assert_eq!(login(&large).status, 401);
    for wrong in [
        with("admin", "no"),
        with("other", &host.token),
        with("", ""),
    ] {
        let answer = login(&wrong);
        assert_eq!(answer.status, 401, "{}", answer.text());
        assert_eq!(answer.refusal().1, "invalid credentials");
    }
    let tries: Vec<u16> = (0..8).map(|_| login(&with("admin", "no")).status).collect();
    assert_eq!(tries, [401, 401, 401, 401, 401, 401, 401, 429]);
    assert_eq!(login(&with("admin", &host.token)).status, 200);
}

#[test]
fn a_login_that_dribbles_is_not_waited_for() {
    let host = TestServer::start();
    let mut stream = host.connect();
    let head = "POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{";
    let begun = Instant::now();
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
    // Others get a minute.
    assert!(
        begun.elapsed() < Duration::from_secs(30),
        "{:?}",
        begun.elapsed()
    );
}

/// How many deployments there are, without what is only on its way there.
fn deployments(host: &TestServer) -> usize {
    let mut all = names(&host.path("deployments"));
    all.retain(|name| !name.starts_with('.'));
    all.len()
}

/// A map of CBOR as Harper's clients before 5.1 write it: texts and truth values, and a payload as bytes.
fn cbor(members: &[(&str, Cbor<'_>)]) -> Vec<u8> {
    let text = |text: &str| {
        let len = u8::try_from(text.len()).unwrap();
        [&[0x78, len], text.as_bytes()].concat()
    };
    let mut body = vec![0xb9, 0, u8::try_from(members.len()).unwrap()];
    for (name, value) in members {
        body.extend(text(name));
        match value {
            Cbor::Text(value) => body.extend(text(value)),
            Cbor::True => body.push(0xf5),
            Cbor::Bytes(bytes) => {
                body.push(0x5a);
                body.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
                body.extend_from_slice(bytes);
            }
        }
    }
    body
}

enum Cbor<'a> {
    Text(&'a str),
    True,
    Bytes(&'a [u8]),
}

#[test]
fn bodies_of_cbor_are_taken_as_older_harper_clients_send_them() {
    use Cbor::{Bytes, Text, True};
    let host = TestServer::with(&["--max-payload", "1M"], &[]);
    let payload = noise();
    let send = |token: &str, body: &[u8]| {
        let authorization = format!("Authorization: Bearer {token}");
        let media = "Content-Type: application/cbor";
        host.ask_as_anyone("POST", "/", &[&authorization, media], body)
    };
    let whole = |project: &str| {
        // The marker behind the payload is theirs.
        cbor(&[
            ("operation", Text("deploy_component")),
            ("project", Text(project)),
            ("target", Text("http://x")),
            ("install_allow_scripts", True),
            ("payload", Bytes(&payload)),
            ("cborEncode", True),
        ])
    };
    let answer = send(&host.token, &whole("first"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["message"], "Successfully deployed: first");
    // Without `project=` their client names the directory behind the payload.
    let late = |project: &str| {
        cbor(&[
            ("operation", Text("deploy_component")),
            ("payload", Bytes(&payload)),
            ("cborEncode", True),
            ("project", Text(project)),
        ])
    };
    let answer = send(&host.token, &late("second"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    for project in ["first", "second"] {
        let live = fs::metadata(host.path(&format!("components/{project}/noise")));
        assert!(live.unwrap().len() >= 200_000);
    }
    assert_eq!(
        deployments(&host),
        2,
        "nothing is left of what was kept for later"
    );
    // Who may not, and what is not right.
    let limited = host.root.0.to_str().unwrap();
    let limited = [
        "token",
        "add",
        "ci",
        "--project",
        "first",
        "--role",
        "deploy",
        "--root",
        limited,
    ];
    let limited = gangplank().args(limited).output().unwrap().stdout;
    let limited = String::from_utf8(limited).unwrap();
    assert_eq!(send(limited.trim(), &late("first")).status, 200);
    let large = vec![7; 2 << 20];
    let before = deployments(&host);
    let table: [(&str, &str, Vec<u8>, u16, &str); 8] = [
        (
            "another's, before the payload",
            limited.trim(),
            whole("second"),
            404,
            "second",
        ),
        (
            "another's, behind the payload",
            limited.trim(),
            late("second"),
            404,
            "second",
        ),
        (
            "too large",
            &host.token,
            cbor(&[
                ("operation", Text("deploy_component")),
                ("project", Text("x")),
                ("payload", Bytes(&large)),
            ]),
            413,
            "larger than",
        ),
        (
            "too large, before the project",
            &host.token,
            cbor(&[
                ("operation", Text("deploy_component")),
                ("payload", Bytes(&large)),
                ("project", Text("x")),
            ]),
            413,
            "larger than",
        ),
        (
            "without a project",
            &host.token,
            cbor(&[
                ("operation", Text("deploy_component")),
                ("payload", Bytes(&payload)),
            ]),
            400,
            "'project' is required",
        ),
        ("not a map", &host.token, vec![0x80], 400, "is not a map"),
        (
            "the operation behind the payload",
            &host.token,
            cbor(&[
                ("payload", Bytes(b"x")),
                ("operation", Text("deploy_component")),
            ]),
            400,
            "after the payload",
        ),
        (
            "a payload that is a text",
            &host.token,
            cbor(&[
                ("operation", Text("deploy_component")),
                ("payload", Text("aGk=")),
            ]),
            400,
            "byte string",
        ),
    ];
    for (name, token, body, status, part) in table {
        let answer = send(token, &body);
        assert_eq!(answer.status, status, "{name}: {}", answer.text());
        assert!(answer.text().contains(part), "{name}: {}", answer.text());
    }
    assert_eq!(deployments(&host), before, "no record of a refusal");
    // What is cut, and what carries weight behind the payload, is not live.
    let cut = whole("third");
    assert_eq!(send(&host.token, &cut[..cut.len() - 20]).status, 400);
    let behind = cbor(&[
        ("operation", Text("deploy_component")),
        ("project", Text("third")),
        ("payload", Bytes(&payload)),
        ("restart", True),
    ]);
    let answer = send(&host.token, &behind);
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert!(
        answer.text().contains("'restart' follows the payload"),
        "{}",
        answer.text()
    );
    assert!(!host.path("components/third").exists());
}
