//! A real browser that knows the password: a page of another site makes it send the form that deploys.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::needs::have;
use crate::test_server::{TempDir, TestServer, component};

/// A browser starts in two seconds; a busy machine takes several times that.
const ENOUGH: Duration = Duration::from_secs(14);

/// What the two small servers have seen, and how many forms were answered.
#[derive(Default)]
struct Seen {
    /// The names by which the browser asked with the password.
    known: HashSet<String>,
    /// The head of each form, and the first line of its answer.
    forms: Vec<(String, String)>,
}

/// Waits for a fact, at most as long as the test may take.
fn until(begun: Instant, mut is_so: impl FnMut() -> bool) -> bool {
    while !is_so() {
        if begun.elapsed() > ENOUGH {
            return false;
        }
        // How often it is looked for.
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

/// Reads a request: its head, and its body by its length.
fn read(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("Content-Length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    reader.read_exact(&mut body).ok()?;
    Some((head, body))
}

fn page(stream: &mut TcpStream, status: &str, text: &str) {
    let length = text.len();
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: text/html\r\nConnection: close");
    // A browser that has gone is seen by what does not come.
    let _ =
        stream.write_all(format!("{head}\r\nContent-Length: {length}\r\n\r\n{text}").as_bytes());
}

/// Answers each connection on a thread of its own, as a browser opens some before it needs them.
fn serve(listener: TcpListener, answer: impl Fn(TcpStream) + Send + Sync + 'static) {
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let answer = Arc::clone(&answer);
            std::thread::spawn(move || answer(stream));
        }
    });
}

/// Passes a form on to the server as it is, and the answer back.
fn pass_on(server: &str, mut browser: TcpStream, head: String, body: &[u8], seen: &Mutex<Seen>) {
    let mut server = TcpStream::connect(server).unwrap();
    server.write_all(head.as_bytes()).unwrap();
    server.write_all(body).unwrap();
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).unwrap();
    let text = String::from_utf8_lossy(&answer);
    let first = text.lines().next().unwrap_or_default().to_owned();
    let _ = browser.write_all(&answer);
    seen.lock().unwrap().forms.push((head, first));
}

/// A form that deploys, in a window of its own.
fn form(to: &str, project: &str, marker: &str) -> String {
    let payload = STANDARD.encode(component());
    let fields = [
        ("operation", "deploy_component"),
        ("project", project),
        ("install_command", &format!("touch {marker}")),
        ("payload", &payload),
    ];
    let inputs: String = fields
        .iter()
        .map(|(name, value)| format!("<input name={name} value='{value}'>"))
        .collect();
    format!(
        "<form method=post enctype=multipart/form-data action='http://{to}/' target={project}>{inputs}</form>"
    )
}

/// Sends every form of the page.
const SUBMIT: &str = "for (const form of document.forms) form.submit();";

/// A proxy before the server asks for the password, which the server itself never does, so that the browser keeps it. The
/// page of another site then sends the form to the proxy's own address, and by a name for it, of which the browser says its
/// origin alone. The same form on a page of the proxy's own site deploys: so the password arrives, and the form is right.
#[test]
fn a_page_in_a_browser_that_knows_the_password_deploys_nothing() {
    if !have("chromium") {
        return;
    }
    let begun = Instant::now();
    let host = TestServer::start();
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    let site = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy_address = proxy.local_addr().unwrap();
    let site_address = site.local_addr().unwrap();
    let by_number = proxy_address.to_string();
    let by_name = format!("deploy.test:{}", proxy_address.port());
    let seen = Arc::new(Mutex::new(Seen::default()));
    let marker = |project: &str| host.path(&format!("marker-{project}"));
    let form = |to: &str, project: &str| form(to, project, marker(project).to_str().unwrap());
    let own = format!("{}<script>{SUBMIT}</script>", form(&by_number, "own"));
    let (server, known) = (host.address.clone(), Arc::clone(&seen));
    serve(proxy, move |mut stream| {
        let Some((head, body)) = read(&mut stream) else {
            return;
        };
        let has_password = head.contains("\r\nAuthorization: Basic ");
        if head.starts_with("POST ") {
            pass_on(&server, stream, head, &body, &known);
        } else if head.starts_with("GET /own ") {
            page(&mut stream, "200 OK", &own);
        } else if has_password {
            page(&mut stream, "200 OK", "");
            let name = head.lines().find_map(|line| line.strip_prefix("Host: "));
            known.lock().unwrap().known.insert(name.unwrap().to_owned());
        } else {
            let asks = "401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"proxy\"";
            page(&mut stream, asks, "");
        }
    });
    // Each name has a password of its own in the browser. The page waits for what the proxy has seen, and then acts.
    let (login, token) = (by_name.clone(), &host.token);
    let attack = format!(
        "{}{}<script>
           async function attack() {{
             for (const host of ['{by_number}', '{login}']) {{
               window.open('http://admin:{token}@' + host + '/login');
               await fetch('/known/' + host);
             }}
             {SUBMIT}
             await fetch('/refused');
             window.open('http://{by_number}/own');
           }}
           attack();
         </script>",
        form(&by_number, "by-number"),
        form(&by_name, "by-name")
    );
    let known = Arc::clone(&seen);
    serve(site, move |mut stream| {
        let Some((head, _)) = read(&mut stream) else {
            return;
        };
        let path = head.split(' ').nth(1).unwrap_or_default();
        if let Some(name) = path.strip_prefix("/known/") {
            until(begun, || known.lock().unwrap().known.contains(name));
        } else if path == "/refused" {
            until(begun, || known.lock().unwrap().forms.len() == 2);
        }
        let is_page = path == "/";
        page(&mut stream, "200 OK", if is_page { &attack } else { "" });
    });

    let profile = TempDir::new();
    let mut browser = Command::new("chromium");
    browser.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-popup-blocking",
    ]);
    browser.args([
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
    ]);
    browser.args([
        "--disable-sync",
        "--disable-dev-shm-usage",
        "--no-proxy-server",
    ]);
    // Whatever else it would look up is not there.
    browser.arg(
        "--host-resolver-rules=MAP deploy.test 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
    );
    browser.arg(format!("--user-data-dir={}", profile.0.display()));
    browser.arg("--remote-debugging-port=0");
    browser.arg(format!("http://localhost:{}/", site_address.port()));
    let mut browser = browser
        .env("HOME", &profile.0)
        .env("TMPDIR", &profile.0)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let answered = until(begun, || seen.lock().unwrap().forms.len() == 3);
    // With what it has started.
    let group = rustix::process::Pid::from_child(&browser);
    rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap();
    browser.wait().unwrap();
    let forms = std::mem::take(&mut seen.lock().unwrap().forms);
    assert!(answered, "three forms were to come: {forms:#?}");

    let password = STANDARD.encode(format!("admin:{}", host.token));
    for (head, _) in &forms {
        assert!(
            head.contains(&format!("\r\nAuthorization: Basic {password}\r\n")),
            "{head}"
        );
    }
    let site = |head: &str, site: &str| head.contains(&format!("\r\nSec-Fetch-Site: {site}\r\n"));
    let (refused, allowed) = (&forms[..2], &forms[2]);
    for (head, answer) in refused {
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}: {head}");
    }
    assert!(
        refused.iter().any(|(head, _)| site(head, "cross-site")),
        "{refused:#?}"
    );
    assert!(
        refused
            .iter()
            .any(|(head, _)| !head.contains("\r\nSec-Fetch-")),
        "{refused:#?}"
    );
    assert!(
        site(&allowed.0, "same-origin") && allowed.1.starts_with("HTTP/1.1 200 "),
        "{allowed:?}"
    );
    for (project, deployed) in [("by-number", false), ("by-name", false), ("own", true)] {
        assert_eq!(marker(project).exists(), deployed, "{project}");
    }
    let list = host
        .operate(&json!({"operation": "list_deployments"}))
        .json();
    assert_eq!(
        (&list["total"], &list["deployments"][0]["project"]),
        (&json!(1), &json!("own"))
    );
    let log = host.log.lock().unwrap();
    let told = log
        .lines()
        .filter(|line| line.contains("POST / ") && line.contains(" 403 "));
    assert_eq!(told.count(), 2, "{log}");
}
