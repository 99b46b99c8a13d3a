//! TLS on the TCP listeners.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::process::Signal;
use serde_json::Value;

use crate::test_server::{
    Answer, TempDir, TestServer, await_some, certificate, component, form, gangplank, have, names,
    noise, records, request,
};

/// A server with a certificate of its own.
struct Secure {
    host: TestServer,
    key: PathBuf,
    certificate: PathBuf,
    dir: TempDir,
}

impl Secure {
    fn start(flags: &[&str]) -> Secure {
        let dir = TempDir::new();
        let (key, certificate) = certificate(&dir.0, "server");
        let mut all = vec!["--tls-cert", certificate.to_str().unwrap()];
        all.extend(["--tls-key", key.to_str().unwrap()]);
        all.extend(flags);
        let host = TestServer::with(&all, &[]);
        Secure {
            host,
            key,
            certificate,
            dir,
        }
    }

    fn url(&self) -> String {
        let port = self.host.address.rsplit_once(':').unwrap().1;
        format!("https://localhost:{port}")
    }

    fn curl(&self, trusted: &Path, arguments: &[&str]) -> Output {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--max-time", "60", "--noproxy", "*", "--cacert"]);
        curl.arg(trusted).args(arguments).output().unwrap()
    }
}

#[test]
fn deployments_and_their_events_go_through_tls() {
    if !have("openssl") || !have("curl") {
        return;
    }
    let secure = Secure::start(&[]);
    let (host, url) = (&secure.host, secure.url());
    let ours = gangplank()
        .args(["deploy", "--project", "demo", "--progress", "plain"])
        .args(["--install-command", "seq 20000", "--target", &url])
        .arg("--ca-cert")
        .arg(&secure.certificate)
        .arg(secure.dir.0.to_str().unwrap())
        .env("GANGPLANK_TOKEN", &host.token)
        .output()
        .unwrap();
    let stderr = String::from_utf8(ours.stderr).unwrap();
    assert_eq!(ours.status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("  | 20000\n"), "{stderr}");
    assert!(host.path("components/demo/server-cert.pem").exists());

    // An upload in many records, with events as its answer.
    let (media, body) = form(
        &[("project", "large"), ("install_command", "true")],
        &noise(),
    );
    let file = secure.dir.0.join("body");
    fs::write(&file, &body).unwrap();
    let authorization = format!("Authorization: Bearer {}", host.token);
    let data = format!("@{}", file.display());
    let curl = secure.curl(
        &secure.certificate,
        &[
            "-N",
            "-H",
            &authorization,
            "-H",
            &media,
            "-H",
            "Accept: text/event-stream",
            "--data-binary",
            &data,
            &url,
        ],
    );
    let said = String::from_utf8(curl.stdout).unwrap();
    assert_eq!(records(&said).last().unwrap().event, "done", "{said}");
    assert_eq!(
        fs::metadata(host.path("components/large/noise"))
            .unwrap()
            .len(),
        200_000
    );
    // TLS 1.2, too, and the client's address is the socket's.
    let curl = secure.curl(
        &secure.certificate,
        &["--tls-max", "1.2", &format!("{url}/health")],
    );
    assert_eq!(curl.stdout, b"gangplank is running.");
    await_some("the line of log", || {
        let log = host.log.lock().unwrap();
        log.contains("127.0.0.1 GET /health 200").then_some(())
    });
}

#[test]
fn who_speaks_plainly_to_tls_is_told_and_nonsense_is_ended() {
    if !have("openssl") {
        return;
    }
    let secure = Secure::start(&[]);
    let mut stream = secure.host.connect();
    stream
        .write_all(&request("GET", "/health", &[], b""))
        .unwrap();
    let answer = Answer::read(stream);
    let (code, why) = answer.refusal();
    assert_eq!((answer.status, code.as_str()), (400, "bad_http"));
    assert!(why.contains("https"), "{why}");

    // Behind the byte that begins a session is anything but one.
    let mut stream = secure.host.connect();
    stream.write_all(b"\x16\x03\x01\x00\x05nonsense").unwrap();
    let mut alert = Vec::new();
    let _ = stream.read_to_end(&mut alert);
    // A record of type 21, if it got here before the end.
    assert!(alert.is_empty() || alert[0] == 21, "{alert:?}");

    // The unix socket stays what it is.
    let local = gangplank()
        .args(["list", "--output", "json", "--target"])
        .arg(format!(
            "unix:{}",
            secure.host.path("run/gangplank.sock").display()
        ))
        .output()
        .unwrap();
    let listed: Value = serde_json::from_slice(&local.stdout).unwrap();
    assert_eq!(listed["total"], 0);
}

#[test]
fn a_place_that_is_not_there_is_refused_through_tls() {
    if !have("openssl") || !have("curl") {
        return;
    }
    let secure = Secure::start(&["--max-connections", "4"]);
    let health = format!("{}/health", secure.url());
    let authorization = format!("Authorization: Bearer {}", secure.host.token);
    // Who has asked gives way to nobody.
    let (file, gate) = (secure.dir.0.join("payload"), secure.dir.0.join("gate"));
    fs::write(&file, component()).unwrap();
    let hold = format!("while [ ! -e {} ]; do sleep 0.01; done", gate.display());
    let deployments: Vec<_> = (0..4)
        .map(|n| {
            let mut curl = Command::new("curl");
            curl.args(["-sS", "-N", "--noproxy", "*", "--cacert"]);
            curl.arg(&secure.certificate).args(["-H", &authorization]);
            curl.args(["-F", "operation=deploy_component"]);
            curl.args(["-F", &format!("project=p{n}")]);
            // A semicolon has a meaning of its own for -F.
            curl.args(["--form-string", &format!("install_command={hold}")]);
            curl.args(["-F", &format!("payload=@{}", file.display())]);
            curl.arg(secure.url())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    await_some("four deployments", || {
        (names(&secure.host.path("deployments")).len() == 4).then_some(())
    });
    let refused = await_some("a refusal", || {
        let curl = secure.curl(&secure.certificate, &["-i", &health]);
        let said = String::from_utf8(curl.stdout).unwrap();
        said.starts_with("HTTP/1.1 503").then_some(said)
    });
    assert!(
        refused.contains("Retry-After: 5") && refused.contains("\"full\""),
        "{refused}"
    );
    fs::write(&gate, "").unwrap();
    for deployment in deployments {
        let output = deployment.wait_with_output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.contains("Successfully deployed"), "{said}");
    }
}

#[test]
fn a_certificate_that_does_not_do_stops_the_start() {
    if !have("openssl") {
        return;
    }
    let dir = TempDir::new().with(&[("empty", ""), ("text", "no certificate")]);
    let (key, cert) = certificate(&dir.0, "one");
    let (other_key, _) = certificate(&dir.0, "other");
    let path = |name: &str| dir.0.join(name);
    let table = [
        (path("none"), key.clone(), "none: No such file"),
        (path("text"), key.clone(), "no PEM certificate"),
        (cert.clone(), path("none"), "none: No such file"),
        (cert.clone(), path("empty"), "no PEM private key"),
        (cert.clone(), cert.clone(), "no PEM private key"),
        (key.clone(), key.clone(), "no PEM certificate"),
        (cert.clone(), other_key, "do not belong together"),
    ];
    for (cert, key, why) in table {
        let output = gangplank()
            .args(["serve", "--listen", "127.0.0.1:0", "--root"])
            .arg(path("root"))
            .arg("--tls-cert")
            .arg(&cert)
            .arg("--tls-key")
            .arg(&key)
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(why), "{why}: {stderr}");
        assert!(!path("root").exists(), "nothing was begun");
    }
    let alone = gangplank()
        .args(["serve", "--tls-key", "k"])
        .output()
        .unwrap();
    assert_eq!(alone.status.code(), Some(2));
    assert!(
        String::from_utf8(alone.stderr)
            .unwrap()
            .contains("--tls-cert")
    );
}

#[test]
fn a_renewed_certificate_is_taken_without_a_restart() {
    if !have("openssl") || !have("curl") {
        return;
    }
    let secure = Secure::start(&[]);
    let health = format!("{}/health", secure.url());
    let running =
        |trusted: &Path| secure.curl(trusted, &[&health]).stdout == b"gangplank is running.";
    let before = secure.dir.0.join("before.pem");
    fs::copy(&secure.certificate, &before).unwrap();
    let (new_key, new) = certificate(&secure.dir.0, "new");
    assert!(running(&before) && !running(&new));
    fs::copy(&new_key, &secure.key).unwrap();
    fs::copy(&new, &secure.certificate).unwrap();
    secure.host.signal(Signal::HUP);
    await_some("the new certificate", || running(&new).then_some(()));
    assert!(!running(&before));

    fs::write(&secure.key, "half").unwrap();
    secure.host.signal(Signal::HUP);
    await_some("the line of log", || {
        let log = secure.host.log.lock().unwrap();
        log.contains("the one from before goes on").then_some(())
    });
    assert!(running(&new));
}

#[test]
fn a_certificate_that_is_in_the_named_file_is_trusted_for_its_names() {
    if !have("openssl") {
        return;
    }
    let dir = TempDir::new();
    // As `openssl req -x509` makes them: an authority's by their form, and the first two without further names.
    let table: [(&str, &[&str], &str, i32); 4] = [
        ("/CN=localhost", &[], "localhost", 0),
        ("/CN=elsewhere", &[], "localhost", 3),
        (
            "/CN=x",
            &["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
            "127.0.0.1",
            0,
        ),
        (
            "/CN=localhost",
            &["-addext", "subjectAltName=DNS:elsewhere"],
            "localhost",
            3,
        ),
    ];
    for (at, (subject, more, name, code)) in table.into_iter().enumerate() {
        let (key, cert) = (
            dir.0.join(format!("{at}.key")),
            dir.0.join(format!("{at}.pem")),
        );
        let mut openssl = Command::new("openssl");
        openssl.args("req -x509 -newkey rsa:2048 -nodes -days 2 -subj".split(' '));
        openssl.arg(subject).args(more).arg("-keyout").arg(&key);
        assert!(
            openssl
                .arg("-out")
                .arg(&cert)
                .output()
                .unwrap()
                .status
                .success()
        );
        let flags = [
            "--tls-cert",
            cert.to_str().unwrap(),
            "--tls-key",
            key.to_str().unwrap(),
        ];
        let host = TestServer::with(&flags, &[]);
        let port = host.address.rsplit_once(':').unwrap().1;
        let target = format!("https://{name}:{port}");
        let list = |file: &Path| {
            let list = [
                "list",
                "--target",
                &target,
                "--ca-cert",
                file.to_str().unwrap(),
            ];
            host.cli(&list)
        };
        let output = list(&cert);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{subject} {name}: {output:?}"
        );
        // One of the same names that is not in the file is not trusted.
        let other = certificate(&dir.0, &format!("other-{at}")).1;
        assert_eq!(list(&other).status.code(), Some(3), "{subject}");
        if code == 0 && at == 0 {
            let flag = format!("one={target}");
            let token = dir.0.join("token");
            fs::write(&token, &host.token).unwrap();
            let token = format!("one={}", token.display());
            let ca = format!("one={}", cert.display());
            let flags = [
                "--peer",
                &flag,
                "--peer-token-file",
                &token,
                "--peer-ca",
                &ca,
            ];
            let origin = TestServer::with(&flags, &[]);
            let app = TempDir::new().with(&[("a", "a")]);
            let deploy = [
                "deploy",
                app.0.to_str().unwrap(),
                "--project",
                "p",
                "--replicated",
            ];
            let output = origin.cli(&deploy);
            assert_eq!(output.status.code(), Some(0), "{output:?}");
        }
    }
}

#[test]
fn https_to_a_port_without_tls_is_told_as_such_and_so_is_a_proxy_that_is_not_used() {
    let host = TestServer::start();
    let target = format!("https://{}", host.address);
    let mut command = host.cli_command(&["list", "--target", &target]);
    let output = command
        .env("HTTPS_PROXY", "http://127.0.0.1:1")
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("does not speak TLS"), "{stderr}");
    assert!(stderr.contains("HTTPS_PROXY is set"), "{stderr}");
    let without = host.cli(&["list", "--target", &target]);
    assert!(!String::from_utf8_lossy(&without.stderr).contains("PROXY"));
}
