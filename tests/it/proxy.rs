//! nginx in front: TLS outside, and a deployment's events through it line by line.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::ports::free_port;
use crate::recipes::recipe;
use crate::test_server::{TempDir, TestServer, await_some, certificate, component, have};

/// A running nginx.
pub(crate) struct Nginx(Child);

impl Drop for Nginx {
    fn drop(&mut self) {
        // Told so, its workers go with it.
        let pid = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.0.wait();
    }
}

/// Begins nginx in a directory, with one `location` block, and gives its port.
pub(crate) fn nginx(dir: &Path, location: &str) -> (Nginx, u16) {
    let (key, cert) = certificate(dir, "proxy");
    // Free just now; nobody but the system gives it to another one in between.
    let port = free_port();
    let at = dir.display();
    let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path {at}/{kind};\n"))
        .collect();
    let user = if rustix::process::geteuid().is_root() {
        "user root;"
    } else {
        ""
    };
    let config = format!(
        "{user} daemon off; pid {at}/pid; error_log {at}/error.log; events {{}}\n\
         http {{ access_log off; {temp}\n\
         server {{ listen 127.0.0.1:{port} ssl; server_name localhost;\n\
         ssl_certificate {}; ssl_certificate_key {};\n{location}\n}} }}",
        cert.display(),
        key.display()
    );
    let file = dir.join("nginx.conf");
    fs::write(&file, config).unwrap();
    let child = Command::new("nginx")
        .arg("-p")
        .arg(dir)
        .arg("-c")
        .arg(&file)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let nginx = Nginx(child);
    await_some("nginx", || {
        assert!(
            !dir.join("error.log").exists()
                || !fs::read_to_string(dir.join("error.log"))
                    .unwrap()
                    .contains("[emerg]")
        );
        TcpStream::connect(("127.0.0.1", port)).ok()
    });
    (nginx, port)
}

#[test]
fn events_come_through_nginx_line_by_line() {
    if !have("nginx") || !have("openssl") || !have("curl") {
        return;
    }
    let host = TestServer::start();
    let upstream = format!("http://{}", host.address);
    // As the README has it, by HTTP/1.1; and as nginx is by itself, by HTTP/1.0 and with buffers.
    let plain = format!("location / {{ proxy_pass {upstream}; }}");
    let shown = recipe("proxy").replace("http://127.0.0.1:9925", &upstream);
    assert!(shown.contains(&upstream));
    for (name, location) in [("shown", shown), ("plain", plain)] {
        let dir = TempDir::new();
        let payload = dir.0.join("payload");
        fs::write(&payload, component()).unwrap();
        let (_nginx, port) = nginx(&dir.0, &location);
        let at = dir.0.display();
        let command = format!(
            "for n in 1 2 3; do echo line-$n; while [ ! -e {at}/gate-$n ]; do sleep 0.01; done; done"
        );
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-N", "--noproxy", "*", "--cacert"]);
        curl.arg(dir.0.join("proxy-cert.pem"));
        curl.args(["-H", &format!("Authorization: Bearer {}", host.token)]);
        curl.args([
            "-H",
            "Accept: text/event-stream",
            "-F",
            "operation=deploy_component",
        ]);
        curl.args([
            "-F",
            &format!("project={name}"),
            "--form-string",
            &format!("install_command={command}"),
        ]);
        curl.args(["-F", &format!("payload=@{}", payload.display())]);
        let mut curl = curl
            .arg(format!("https://localhost:{port}/"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(curl.stdout.take().unwrap())
            .lines()
            .map(Result::unwrap);
        for n in 1..=3 {
            // The installation does not go on before this line is here.
            let line = format!("\"line\":\"line-{n}\"");
            assert!(lines.any(|found| found.contains(&line)), "{name}: {line}");
            fs::write(dir.0.join(format!("gate-{n}")), "").unwrap();
        }
        assert!(lines.any(|line| line == "event: done"), "{name}");
        assert!(curl.wait().unwrap().success());
    }
}
