//! Processes: the new version runs and is healthy, or the old one does.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::ports::free_port;
use crate::test_server::{Answer, Record, TestServer, await_some, gzip, have, names, request, tar};

/// A component with these files.
pub(crate) fn payload(files: &[(&str, &str)]) -> Vec<u8> {
    gzip(&tar(files))
}

fn restart(host: &TestServer, files: &[(&str, &str)]) -> Vec<Record> {
    let fields = [("project", "demo"), ("restart", "true")];
    host.deploy_live(&fields, &payload(files)).events()
}

/// Deploys and restarts, which must go well, and gives the deployment.
pub(crate) fn up(host: &TestServer, files: &[(&str, &str)]) -> String {
    let events = restart(host, files);
    let last = events.last().unwrap();
    assert_eq!(last.event, "done", "{events:#?}");
    assert_eq!(
        last.data["result"]["message"],
        "Successfully deployed: demo, restarted"
    );
    last.data["result"]["deployment_id"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// Deploys and restarts, which must not go well, and gives the error.
pub(crate) fn down(host: &TestServer, files: &[(&str, &str)]) -> Value {
    let events = restart(host, files);
    let last = events.last().unwrap();
    assert_eq!(last.event, "error", "{events:#?}");
    last.data.clone()
}

pub(crate) fn ask(host: &TestServer, operation: &str) -> Answer {
    host.operate(&json!({"operation": operation, "project": "demo"}))
}

/// What is known of the component's processes.
pub(crate) fn processes(host: &TestServer) -> Vec<Value> {
    let components = ask(host, "get_components").json();
    let component = components["components"]
        .as_array()
        .unwrap()
        .first()
        .cloned();
    component.map_or(Vec::new(), |one| {
        one["processes"].as_array().unwrap().clone()
    })
}

fn pid(host: &TestServer) -> String {
    processes(host)[0]["pid"]
        .as_u64()
        .expect("it runs")
        .to_string()
}

/// Whether a process is there, and is not dead and uncollected.
pub(crate) fn lives(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().unwrap().trim_start();
    !state.is_empty() && !state.starts_with(['Z', 'X'])
}

const SLEEPS: &str = "web: sleep 1000\n";

#[test]
fn a_restart_replaces_the_processes() {
    let host = TestServer::start();
    fs::write(host.path("env/demo"), "GREETING='hello there'\n").unwrap();
    let procfile = "web: echo \"$GREETING $GANGPLANK_PROJECT $GANGPLANK_DEPLOYMENT_ID $GANGPLANK_TOKEN\"; sleep 1000\nworker: exec sleep 1001\n";
    let events = restart(&host, &[("./Procfile", procfile)]);
    let first = events[0].data["deployment_id"].as_str().unwrap().to_owned();
    assert_eq!(
        events[0].data["phases"],
        json!(["extract", "install", "load", "activate", "restart"])
    );
    let of_web: Vec<&str> = events
        .iter()
        .filter(|event| event.event == "process" && event.data["type"] == "web")
        .map(|event| event.data["status"].as_str().unwrap())
        .collect();
    assert_eq!(
        of_web,
        [
            "started",
            "waiting for 2 s without an exit, or READY=1",
            "healthy"
        ]
    );
    assert_eq!(events.last().unwrap().event, "done", "{events:#?}");
    let running = processes(&host);
    let types: Vec<&Value> = running.iter().map(|one| &one["type"]).collect();
    assert_eq!(types, ["web", "worker"]);
    for one in &running {
        assert_eq!(
            (&one["release_id"], &one["restarts"]),
            (&json!(first), &json!(0))
        );
        assert!(
            one["memory"].as_u64().unwrap() > 100_000 && one["uptime_ms"].as_u64().unwrap() >= 1000,
            "{one}"
        );
        assert!(lives(&one["pid"].to_string()));
    }
    let log = host.operate(&json!({"operation": "get_logs", "project": "demo"}));
    let line = format!(" web stdout hello there demo {first} \n");
    assert!(log.text().contains(&line), "{}", log.text());

    let second = up(&host, &[("./Procfile", SLEEPS)]);
    for one in &running {
        assert!(!lives(&one["pid"].to_string()), "{one} is left");
    }
    let running = processes(&host);
    assert_eq!(
        (running.len(), &running[0]["release_id"]),
        (1, &json!(second))
    );

    // By itself: a deployment with one phase.
    let before = pid(&host);
    let answer = ask(&host, "restart_component");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let record = host.record(answer.json()["deployment_id"].as_str().unwrap());
    assert_eq!(
        (&record["release_id"], &record["phase"]),
        (&json!(second), &json!("restart"))
    );
    assert!(!lives(&before) && lives(&pid(&host)));

    // Back to the first release, with its processes.
    let back = host
        .operate(&json!({"operation": "rollback_component", "project": "demo", "restart": true}));
    assert_eq!(back.status, 200, "{}", back.text());
    assert_eq!(processes(&host).len(), 2);
    let last = pid(&host);
    assert_eq!(ask(&host, "drop_component").status, 200);
    assert!(!lives(&last) && processes(&host).is_empty());
}

#[test]
fn nothing_to_restart_is_a_warning() {
    let host = TestServer::start();
    let events = restart(&host, &[("./a", "a")]);
    let warned = events.iter().any(|event| event.event == "warning");
    let skipped = events
        .iter()
        .filter(|event| event.data["phase"] == "restart")
        .collect::<Vec<_>>();
    assert!(
        warned && skipped.len() == 1 && skipped[0].data["status"] == "skipped",
        "{events:#?}"
    );
    assert_eq!(
        events.last().unwrap().data["result"]["message"],
        "Successfully deployed: demo"
    );
}

#[test]
fn what_is_not_healthy_is_rolled_back() {
    let host = TestServer::start();
    // Nothing was there before: nothing is live then.
    let error = down(&host, &[("./Procfile", "web: echo no >&2; exit 3\n")]);
    assert_eq!(
        (&error["code"], &error["phase"]),
        (&json!("unhealthy"), &json!("restart"))
    );
    assert_eq!(
        error["process_output"],
        json!([{"type": "web", "stream": "stderr", "line": "no"}])
    );
    let id = error["deployment_id"].as_str().unwrap();
    assert_eq!(host.record(id)["status"], "failed");
    assert!(!host.path("components/demo").exists() && processes(&host).is_empty());

    let first = up(
        &host,
        &[
            ("./Procfile", "web: sleep 1000\nold: sleep 1001\n"),
            ("./v", "1"),
        ],
    );
    let port = free_port();
    let silent =
        format!(r#"{{"health": {{"http": "http://127.0.0.1:{port}/"}}, "health_timeout": "1s"}}"#);
    let table: [(&[(&str, &str)], &str); 6] = [
        (
            &[("./Procfile", "web: exit 3\n")],
            "web ended before it was healthy (exit code 3)",
        ),
        (&[("./Procfile", "web: sleep 1; exit 4\n")], "(exit code 4)"),
        (
            &[("./Procfile", "web: sleep 1000\nbad: kill -9 $$\n")],
            "bad ended before it was healthy (signal 9)",
        ),
        (
            &[("./Procfile", "web: no-such-program\n")],
            "(exit code 127)",
        ),
        (
            &[("./Procfile", SLEEPS), ("./gangplank.json", &silent)],
            "timed out",
        ),
        (
            &[
                ("./Procfile", SLEEPS),
                (
                    "./gangplank.json",
                    r#"{"health": {"command": "echo sick; exit 7"}, "health_timeout": 1}"#,
                ),
            ],
            "exit code 7, sick",
        ),
    ];
    for (files, why) in table {
        let error = down(&host, files);
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(why), "{message}");
        let record = host.record(error["deployment_id"].as_str().unwrap());
        assert_eq!(record["status"], "rolled_back", "{record}");
        assert_eq!(
            fs::read_to_string(host.path("components/demo/v")).unwrap(),
            "1"
        );
        let running = processes(&host);
        assert_eq!(running.len(), 2, "{running:?}");
        for one in running {
            assert_eq!(one["release_id"], first);
            assert!(lives(&one["pid"].to_string()), "{one}");
        }
    }
    // What failed its health is no release to go back to.
    up(&host, &[("./Procfile", SLEEPS), ("./v", "2")]);
    assert_eq!(ask(&host, "rollback_component").status, 200);
    assert_eq!(
        fs::read_to_string(host.path("components/demo/v")).unwrap(),
        "1"
    );
}

#[test]
fn health_by_url_by_command_and_by_word() {
    if !have("python3") {
        return;
    }
    let host = TestServer::start();
    let port = free_port();
    // It listens only after a while.
    let server = format!("web: sleep 0.5; exec python3 -m http.server --bind 127.0.0.1 {port}\n");
    let health = format!(r#"{{"health": {{"http": "http://127.0.0.1:{port}/"}}}}"#);
    up(
        &host,
        &[("./Procfile", &server), ("./gangplank.json", &health)],
    );
    TcpStream::connect(("127.0.0.1", port)).unwrap();
    let touch = "web: sleep 0.3; touch ready; sleep 1000\n";
    up(
        &host,
        &[
            ("./Procfile", touch),
            (
                "./gangplank.json",
                r#"{"health": {"command": "test -e ready"}}"#,
            ),
        ],
    );
    assert!(
        TcpStream::connect(("127.0.0.1", port)).is_err(),
        "the old one is stopped"
    );

    let notify = "import os, socket, time\n\
        s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
        name = os.environ['NOTIFY_SOCKET'].replace('@', '\\0')\n\
        time.sleep(0.3)\n\
        s.sendto(b'STATUS=up\\nREADY=1\\n', name)\n\
        time.sleep(1000)\n";
    let files = [
        ("./Procfile", "web: python3 notify.py\n"),
        ("./notify.py", notify),
    ];
    let begun = Instant::now();
    up(&host, &files);
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "its word counts before the two seconds"
    );
    up(
        &host,
        &[
            files[0],
            files[1],
            ("./gangplank.json", r#"{"health": {"notify": true}}"#),
        ],
    );
    let error = down(
        &host,
        &[
            ("./Procfile", SLEEPS),
            (
                "./gangplank.json",
                r#"{"health": {"notify": true}, "health_timeout": 1}"#,
            ),
        ],
    );
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("waited for READY=1"),
        "{error}"
    );
}

#[test]
fn a_process_comes_back_from_its_own_release() {
    let host = TestServer::start();
    let first = up(&host, &[("./Procfile", "web: echo v1; sleep 1000\n")]);
    // Live without a restart: what runs stays what it is.
    let answer = host.deploy(
        &[("project", "demo")],
        &payload(&[("./Procfile", "web: echo v2; sleep 1000\n")]),
    );
    assert_eq!(answer.status, 200);
    let before = pid(&host);
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(before.parse().unwrap()).unwrap(),
        Signal::KILL,
    )
    .unwrap();
    let after = await_some("the process again", || {
        let one = processes(&host).remove(0);
        let pid = one["pid"].as_u64()?.to_string();
        (pid != before).then_some((pid, one))
    });
    assert_eq!(after.1["release_id"], first);
    assert_eq!(
        (&after.1["restarts"], &after.1["ended"]),
        (&json!(1), &json!("signal 9"))
    );
    let text = await_some("its output", || {
        let text = ask(&host, "get_logs").text();
        (text.matches("v1").count() == 2).then_some(text)
    });
    assert!(!text.contains("v2"), "{text}");
}

#[test]
fn processes_outlive_no_server_and_come_back_with_it() {
    let mut host = TestServer::start();
    // It ignores what is polite, and forks something away from its group.
    let seconds = 1_000_000 + std::process::id();
    let stubborn =
        format!("web: trap '' TERM; setsid sleep {seconds} & while :; do sleep 0.1; done\n");
    let release = up(&host, &[("./Procfile", &stubborn)]);
    let before = pid(&host);
    host.server.kill().unwrap();
    host.server.wait().unwrap();
    assert!(lives(&before), "nobody is there to stop it");
    let mut host = TestServer::on(Arc::clone(&host.root), &["--grace", "6"], &[]);
    assert!(
        !lives(&before),
        "the start ends what was left, before it listens"
    );
    let after = await_some("the process again", || {
        let running = processes(&host);
        running.first().filter(|one| one["pid"].is_u64()).cloned()
    });
    assert_eq!(after["release_id"], release);
    let begun = Instant::now();
    host.signal(Signal::TERM);
    assert_eq!(host.server.wait().unwrap().code(), Some(0));
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "{:?}",
        begun.elapsed()
    );
    assert!(!lives(&after["pid"].to_string()));
    let sleeps = |marker: &str| {
        names(Path::new("/proc")).iter().any(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(marker)
        })
    };
    assert!(
        !sleeps(&format!("sleep\0{seconds}")),
        "what forked away is left"
    );
    let host = TestServer::on(Arc::clone(&host.root), &[], &[]);
    await_some("the process again", || {
        processes(&host)
            .first()
            .filter(|one| one["pid"].is_u64())
            .map(drop)
    });
}

/// A server of HTTP that answers with its version, on the socket that it is given. Told to end, it answers whom it has
/// accepted first.
pub(crate) const HELD: &str = r#"
import os, signal, socket
assert os.environ['LISTEN_FDS'] == '1' and int(os.environ['LISTEN_PID']) == os.getpid()
s = socket.socket(fileno=3)
s.settimeout(0.1)
ending = []
signal.signal(signal.SIGTERM, lambda *_: ending.append(1))
body = open('version').read()
answer = 'HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s' % (len(body), body)
open('ready', 'w').close()
while not ending:
    try:
        c, _ = s.accept()
    except socket.timeout:
        continue
    c.settimeout(10)
    c.recv(65536)
    c.sendall(answer.encode())
    c.close()
"#;

/// The same for node.
const HELD_NODE: &str = r#"
const http = require('http'), fs = require('fs');
if (process.env.LISTEN_FDS !== '1' || +process.env.LISTEN_PID !== process.pid) process.exit(9);
const version = fs.readFileSync('version', 'utf8');
const server = http.createServer((q, r) => { r.setHeader('Connection', 'close'); r.end(version); });
server.listen({ fd: 3 }, () => fs.writeFileSync('ready', ''));
process.on('SIGTERM', () => server.close(() => process.exit(0)));
"#;

pub(crate) fn get(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    std::io::Read::read_to_string(&mut stream, &mut text)?;
    let (head, body) = text
        .split_once("\r\n\r\n")
        .ok_or(std::io::ErrorKind::UnexpectedEof)?;
    if !head.starts_with("HTTP/1.1 200") {
        return Err(std::io::Error::other(head.to_owned()));
    }
    Ok(body.to_owned())
}

fn redeploys_under_load(program: &str, file: &str, code: &str) {
    if !have(program) {
        return;
    }
    let host = TestServer::start();
    let port = free_port();
    let manifest = format!(
        r#"{{"sockets": {{"web": "127.0.0.1:{port}"}}, "health": {{"command": "test -e ready"}}}}"#
    );
    let procfile = format!("web: {program} {file}\n");
    let deploy = |n: u32| {
        let version = n.to_string();
        let path = format!("./{file}");
        let files = [
            ("./Procfile", procfile.as_str()),
            ("./gangplank.json", &manifest),
            (&path, code),
            ("./version", &version),
        ];
        up(&host, &files)
    };
    deploy(0);
    let (done, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let load = || -> Result<(), String> {
            while !done.load(Ordering::Relaxed) {
                get(port).map_err(|error| format!("after {answered:?} answers: {error}"))?;
                answered.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        };
        let loads: Vec<_> = (0..4).map(|_| scope.spawn(load)).collect();
        for n in 1..=10 {
            deploy(n);
            assert!(get(port).is_ok_and(|body| body == n.to_string() || n > 0));
        }
        done.store(true, Ordering::Relaxed);
        for load in loads {
            assert_eq!(load.join().unwrap(), Ok(()));
        }
    });
    assert_eq!(get(port).unwrap(), "10");
    assert!(answered.load(Ordering::Relaxed) > 100, "{answered:?}");
    // A version that does not come up changes nothing, and refuses nobody.
    let bad = [
        ("./Procfile", "web: exit 1\n"),
        ("./gangplank.json", manifest.as_str()),
    ];
    down(&host, &bad);
    assert_eq!(get(port).unwrap(), "10");
    assert_eq!(ask(&host, "drop_component").status, 200);
    assert!(get(port).is_err(), "the socket is closed");
}

#[test]
fn nobody_is_refused_while_a_python_server_is_redeployed() {
    redeploys_under_load("python3", "server.py", HELD);
}

#[test]
fn nobody_is_refused_while_a_node_server_is_redeployed() {
    redeploys_under_load("node", "server.js", HELD_NODE);
}

#[test]
fn output_is_followed_as_it_comes() {
    let host = TestServer::start();
    let gate = host.path("gate");
    let procfile = format!(
        "web: seq 150; while [ ! -e {} ]; do sleep 0.01; done; echo more >&2; sleep 1000\n",
        gate.display()
    );
    up(&host, &[("./Procfile", &procfile)]);
    let lines = |n: u64| {
        let asked = json!({"operation": "get_logs", "project": "demo", "lines": n});
        host.operate(&asked)
            .text()
            .lines()
            .map(|line| line.rsplit(' ').next().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(lines(3), ["148", "149", "150"]);
    assert_eq!(lines(100).len(), 100);
    let body =
        json!({"operation": "get_logs", "project": "demo", "lines": 2, "follow": true}).to_string();
    let authorization = format!("Authorization: Bearer {}", host.token);
    let headers = [
        authorization.as_str(),
        "Content-Type: application/json",
        "Accept: text/event-stream",
    ];
    let mut stream = host.connect();
    stream
        .write_all(&request("POST", "/", &headers, body.as_bytes()))
        .unwrap();
    let mut data = BufReader::new(stream)
        .lines()
        .map(Result::unwrap)
        .filter_map(|line| {
            line.strip_prefix("data: ")
                .map(|data| serde_json::from_str::<Value>(data).unwrap())
        });
    assert_eq!(data.next().unwrap()["line"], "149");
    assert_eq!(data.next().unwrap()["line"], "150");
    fs::write(&gate, "").unwrap();
    let more = data.next().unwrap();
    assert_eq!(
        (&more["line"], &more["stream"], &more["type"]),
        (&json!("more"), &json!("stderr"), &json!("web"))
    );
    // As every event does, under this name.
    assert!(more["at"].as_str().unwrap().ends_with('Z'), "{more}");
    let unknown = host.operate(&json!({"operation": "get_logs", "project": "none"}));
    assert_eq!(unknown.status, 404);
    let cli = host.cli(&["logs", "demo", "--lines", "1"]);
    assert!(String::from_utf8(cli.stdout).unwrap().ends_with("more\n"));
}

#[test]
fn a_flood_of_output_is_bounded() {
    let host = TestServer::start();
    up(
        &host,
        &[(
            "./Procfile",
            "web: yes \"$(head -c 1000 /dev/zero | tr '\\0' x)\" | head -c 100000000; echo end; sleep 1000\n",
        )],
    );
    let size = || -> u64 {
        let files = names(&host.path("logs/demo"));
        files
            .iter()
            .map(|name| {
                // It may be put aside at this moment.
                fs::metadata(host.path("logs/demo").join(name)).map_or(0, |meta| meta.len())
            })
            .sum()
    };
    await_some("the whole flood", || {
        let text = host
            .operate(&json!({"operation": "get_logs", "project": "demo", "lines": 1}))
            .text();
        (size() > 30 << 20 && text.len() < 700).then_some(())
    });
    assert!(size() <= 41 << 20, "{}", size());
}

#[test]
fn an_operators_hook_decides() {
    let host = TestServer::start();
    let hook = host.path("hooks/demo/restart");
    fs::create_dir_all(hook.parent().unwrap()).unwrap();
    let said = host.path("said");
    let script = format!(
        "#!/bin/sh\necho \"restarting $1\"\nenv | grep -q GANGPLANK_CHILD && echo marked\ncat \"$1/v\" >> {}\n! grep -q bad \"$1/v\"\n",
        said.display()
    );
    fs::write(&hook, script).unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    let events = restart(&host, &[("./Procfile", SLEEPS), ("./v", "one ")]);
    assert_eq!(events.last().unwrap().event, "done", "{events:#?}");
    let lines: Vec<&str> = events
        .iter()
        .filter(|event| event.event == "process")
        .map(|event| event.data["line"].as_str().unwrap())
        .collect();
    assert!(
        lines.len() == 1 && lines[0].starts_with("restarting /"),
        "{lines:?}"
    );
    assert!(processes(&host).is_empty(), "it is the hook's affair");
    let error = down(&host, &[("./v", "bad ")]);
    assert!(
        error["message"].as_str().unwrap().contains("exit code 1"),
        "{error}"
    );
    assert_eq!(
        host.record(error["deployment_id"].as_str().unwrap())["status"],
        "rolled_back"
    );
    assert_eq!(
        fs::read_to_string(host.path("components/demo/v")).unwrap(),
        "one "
    );
    assert_eq!(
        fs::read_to_string(&said).unwrap(),
        "one bad one ",
        "it was told to go back, too"
    );
}

#[test]
fn rolling_goes_one_type_after_the_other() {
    let host = TestServer::start();
    let files = [("./Procfile", "a: sleep 1000\nb: sleep 1001\n")];
    up(&host, &files);
    let events = host
        .deploy_live(
            &[("project", "demo"), ("restart", "rolling")],
            &payload(&files),
        )
        .events();
    assert_eq!(events.last().unwrap().event, "done", "{events:#?}");
    let order: Vec<String> = events
        .iter()
        .filter(|event| {
            event.event == "process"
                && ["started", "healthy", "stopped"]
                    .contains(&event.data["status"].as_str().unwrap())
        })
        .map(|event| {
            format!(
                "{} {}",
                event.data["type"].as_str().unwrap(),
                event.data["status"].as_str().unwrap()
            )
        })
        .collect();
    assert_eq!(
        order,
        [
            "a stopped",
            "a started",
            "a healthy",
            "b stopped",
            "b started",
            "b healthy"
        ]
    );
}

#[test]
fn bad_files_are_refused_before_anything_changes() {
    let host = TestServer::start();
    let first = up(&host, &[("./Procfile", SLEEPS)]);
    let before = pid(&host);
    let table: [(&[(&str, &str)], &str); 3] = [
        (
            &[("./Procfile", "web: sleep 1\nworker:\n")],
            "Procfile: line 2",
        ),
        (
            &[
                ("./Procfile", SLEEPS),
                ("./gangplank.json", "{\n\"helth\": 1}"),
            ],
            "gangplank.json: line 2",
        ),
        (
            &[("./Procfile", SLEEPS), ("./package.json", "{")],
            "package.json: line 1",
        ),
    ];
    for (files, why) in table {
        let error = down(&host, files);
        assert_eq!(error["code"], "load_failed");
        assert!(error["message"].as_str().unwrap().contains(why), "{error}");
    }
    fs::write(host.path("env/demo"), "A=1\nno assignment\n").unwrap();
    let error = down(&host, &[("./Procfile", SLEEPS)]);
    assert!(
        error["message"].as_str().unwrap().contains("demo: line 2"),
        "{error}"
    );
    assert_eq!(pid(&host), before);
    assert_eq!(processes(&host)[0]["release_id"], first);
}

#[test]
fn what_exits_later_is_started_again_and_what_ignores_a_word_is_killed() {
    let host = TestServer::start();
    // Healthy by the time it exits: that is for its keeper.
    up(&host, &[("./Procfile", "web: sleep 2.5; exit 1\n")]);
    await_some("the process again", || {
        let one = processes(&host).remove(0);
        (one["restarts"].as_u64()? > 0 && one["ended"] == "exit code 1").then_some(())
    });
    up(
        &host,
        &[(
            "./Procfile",
            "web: trap '' TERM; while :; do sleep 0.1; done\n",
        )],
    );
    let stubborn = pid(&host);
    let begun = Instant::now();
    up(&host, &[("./Procfile", SLEEPS)]);
    let took = begun.elapsed();
    assert!(
        took > Duration::from_secs(9) && took < Duration::from_secs(30),
        "{took:?}"
    );
    assert!(!lives(&stubborn));
}

#[test]
fn processes_run_as_the_user_that_was_asked_for() {
    if !crate::test_server::is_root() {
        return;
    }
    let host = TestServer::with(&["--run-as", "nobody"], &[]);
    fs::write(host.path("env/demo"), "SECRET=x\n").unwrap();
    up(
        &host,
        &[(
            "./Procfile",
            "web: echo \"$HOME $SECRET\"; touch mine; exec sleep 1000\n",
        )],
    );
    let status = fs::read_to_string(format!("/proc/{}/status", pid(&host))).unwrap();
    let ids: Vec<&str> = status
        .lines()
        .filter(|line| line.starts_with("Uid:") || line.starts_with("Gid:"))
        .collect();
    assert_eq!(
        ids,
        [
            "Uid:\t65534\t65534\t65534\t65534",
            "Gid:\t65534\t65534\t65534\t65534"
        ]
    );
    // The user's own home does not exist, so it has another.
    let home = host.root.0.canonicalize().unwrap().join("cache/demo/home");
    let said = format!("{} x\n", home.display());
    assert!(ask(&host, "get_logs").text().contains(&said));
    assert!(host.path("components/demo/mine").exists());
}
