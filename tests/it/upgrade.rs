//! From one server of a root to the next: nobody is refused, two never run at once, and who fails in between harms nothing.

use std::collections::BTreeMap;
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::Signal;

use crate::needs::have;
use crate::ports::free_port;
use crate::processes::{HELD, get, up};
use crate::test_server::{
    BINARY, PATIENCE, TempDir, TestServer, await_some, component, form, gangplank, request, tar,
};

const TAKE_OVER: &[&str] = &["--take-over", "--grace", "20"];

/// Deploys a component whose socket is held.
fn up_held(host: &TestServer, port: u16) {
    let manifest = format!(
        r#"{{"sockets": {{"web": "127.0.0.1:{port}"}}, "health": {{"command": "test -e ready"}}}}"#
    );
    let files = [
        ("./Procfile", "web: python3 server.py\n"),
        ("./gangplank.json", &manifest),
        ("./server.py", HELD),
        ("./version", "1"),
    ];
    up(host, &files);
}

fn health(mut stream: impl Read + Write) -> std::io::Result<()> {
    stream.write_all(&request("GET", "/health", &[], b""))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    match text.starts_with("HTTP/1.1 200 ") {
        true => Ok(()),
        false => Err(std::io::Error::other(text)),
    }
}

/// Asks over TCP, over the unix socket, and twice what the component answers, all the time while something is done. Each
/// loop must be answered to its last request.
fn under_load(
    mut host: TestServer,
    port: u16,
    work: impl FnOnce(&mut TestServer) -> TestServer,
) -> TestServer {
    let (done, answered) = (AtomicBool::new(false), [const { AtomicU64::new(0) }; 4]);
    let (address, local) = (host.address.clone(), host.path("run/gangplank.sock"));
    let ask = |number: usize| match number {
        0 => health(std::net::TcpStream::connect(&address)?),
        1 => health(UnixStream::connect(&local)?),
        _ => get(port).map(drop),
    };
    std::thread::scope(|scope| {
        let each = |number: usize| {
            let (done, answered, ask) = (&done, &answered, &ask);
            scope.spawn(move || -> Result<(), String> {
                while !done.load(Ordering::Relaxed) {
                    ask(number).map_err(|error| format!("loop {number}: {error}"))?;
                    answered[number].fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        };
        let loops: Vec<_> = (0..4).map(each).collect();
        let await_more = || {
            for one in &answered {
                let before = one.load(Ordering::Relaxed);
                let more = || (one.load(Ordering::Relaxed) >= before + 5).then_some(());
                // A loop that ended with a failure says so below.
                if !loops.iter().any(|one| one.is_finished()) {
                    await_some("more answers", more);
                }
            }
        };
        await_more();
        let result = work(&mut host);
        await_more();
        done.store(true, Ordering::Relaxed);
        for one in loops {
            assert_eq!(one.join().unwrap(), Ok(()));
        }
        result
    })
}

#[test]
fn a_new_server_takes_over_from_one_that_serves_and_nobody_is_refused() {
    if !have("python3") {
        return;
    }
    let mut host = TestServer::with(&["--grace", "20"], &[]);
    let port = free_port();
    up_held(&host, port);
    let address = host.address.clone();
    for _ in 0..3 {
        host = under_load(host, port, |host| {
            let next = TestServer::on(Arc::clone(&host.root), TAKE_OVER, &[]);
            // Its end was the beginning of the other one.
            assert_eq!(host.server.wait().unwrap().code(), Some(0));
            next
        });
        assert_eq!(host.address, address);
    }
    assert_eq!(get(port).unwrap(), "1");
}

#[test]
fn a_server_that_serves_is_not_replaced_by_one_that_was_not_told_to() {
    let host = TestServer::start();
    let flags = ["serve", "--listen", "127.0.0.1:0", "--root"];
    let other = gangplank().args(flags).arg(&host.root.0).output().unwrap();
    assert_eq!(other.status.code(), Some(1));
    let said = String::from_utf8_lossy(&other.stderr);
    assert!(said.contains("another server is using it"), "{said}");
    assert!(said.contains("--take-over"), "{said}");
    assert_eq!(host.ask("GET", "/health", &[], b"").status, 200);
}

#[test]
fn a_new_server_takes_over_from_one_that_is_stopping_and_nobody_is_refused() {
    let mut host = TestServer::with(&["--grace", "20"], &[]);
    // Stopping takes until the file is there.
    let gate = host.path("gate");
    let line = format!(
        "web: trap '' TERM; while [ ! -e {} ]; do sleep 0.02; done\n",
        gate.display()
    );
    up(&host, &[("./Procfile", &line)]);
    host.signal(Signal::TERM);
    await_some("the refusal of a server that stops", || {
        let answer = host.operate(&serde_json::json!({"operation": "get_components"}));
        (answer.status == 503).then_some(())
    });
    let (root, log) = (Arc::clone(&host.root), Arc::clone(&host.log));
    let next = std::thread::spawn(move || TestServer::on(root, &[], &[]));
    // From here on the old one accepts nobody.
    let waits = await_some("a request that waits", || {
        let mut stream = host.connect();
        stream
            .set_read_timeout(Some(std::time::Duration::from_millis(200)))
            .unwrap();
        stream
            .write_all(&request("GET", "/health", &[], b""))
            .unwrap();
        let waits = stream.read(&mut [0]).is_err();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        waits.then_some(stream)
    });
    std::fs::write(gate, "").unwrap();
    let next = next.join().unwrap();
    assert_eq!(next.address, host.address);
    let mut text = String::new();
    (&waits).read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
    assert_eq!(
        host.server.wait().unwrap().code(),
        Some(0),
        "{}",
        log.lock().unwrap()
    );
}

#[test]
fn a_server_that_is_told_to_stop_and_started_again_at_once_refuses_nobody() {
    if !have("python3") {
        return;
    }
    // It serves on for a fortieth of that.
    let grace = &["--grace", "400"];
    let mut host = TestServer::with(grace, &[]);
    let port = free_port();
    up_held(&host, port);
    for _ in 0..3 {
        host = under_load(host, port, |host| {
            host.signal(Signal::TERM);
            let next = TestServer::on(Arc::clone(&host.root), grace, &[]);
            assert_eq!(host.server.wait().unwrap().code(), Some(0));
            next
        });
    }
    // Nobody comes: it ends.
    let mut host = TestServer::with(&["--grace", "1"], &[]);
    host.signal(Signal::TERM);
    assert_eq!(host.server.wait().unwrap().code(), Some(0));
}

#[test]
fn what_is_being_deployed_ends_before_the_new_server_begins() {
    let mut host = TestServer::with(&["--grace", "60"], &[]);
    let gate = host.path("gate");
    let command = format!(
        "touch {0}.there; while [ ! -e {0} ]; do sleep 0.02; done",
        gate.display()
    );
    std::thread::scope(|scope| {
        let fields = [("project", "demo"), ("install_command", &*command)];
        let host_ref = &host;
        let deployment = scope.spawn(move || host_ref.deploy_live(&fields, &component()));
        await_some("the installation", || {
            host.path("gate.there").exists().then_some(())
        });
        let root = Arc::clone(&host.root);
        let next = scope.spawn(move || TestServer::on(root, TAKE_OVER, &[]));
        await_some("the handover", || {
            let log = host.log.lock().unwrap();
            log.contains("a new server takes over").then_some(())
        });
        // The old one still serves, and lets others begin.
        let other = [("project", "other")];
        assert_eq!(host.deploy(&other, &component()).status, 200);
        std::fs::write(&gate, "").unwrap();
        let last = deployment.join().unwrap().events().pop().unwrap();
        assert_eq!(last.event, "done", "{last:?}");
        let next = next.join().unwrap();
        assert_eq!(next.ask("GET", "/health", &[], b"").status, 200);
    });
    assert_eq!(host.server.wait().unwrap().code(), Some(0));
}

#[test]
fn an_upload_that_does_not_end_is_cut_off_after_the_grace() {
    let mut host = TestServer::with(&["--grace", "2"], &[]);
    let (media, body) = form(&[("project", "demo")], &tar(&[("./a", "b")]));
    let authorization = format!("Authorization: Bearer {}", host.token);
    let whole = request("POST", "/", &[&authorization, &media], &body);
    let mut upload = host.connect();
    upload.write_all(&whole[..whole.len() - 100]).unwrap();
    await_some("the deployment", || {
        let list = host.operate(&serde_json::json!({"operation": "list_deployments"}));
        (list.json()["total"] == 1).then_some(())
    });
    let next = TestServer::on(Arc::clone(&host.root), TAKE_OVER, &[]);
    assert_eq!(host.server.wait().unwrap().code(), Some(0));
    let list = next.operate(&serde_json::json!({"operation": "list_deployments"}));
    let record = &list.json()["deployments"][0];
    assert_eq!(record["status"], "failed", "{record}");
}

#[test]
fn a_new_server_that_cannot_start_leaves_the_old_one_as_it_is() {
    let host = TestServer::start();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let table: [&[&str]; 3] = [
        &["--listen", &address],
        &["--run-as", "nobody-of-that-name"],
        &["--tls-cert", "/none", "--tls-key", "/none"],
    ];
    for flags in table {
        let mut next = gangplank();
        next.args(["serve", "--take-over", "--root"])
            .arg(&host.root.0);
        let next = next.args(flags).output().unwrap();
        assert_eq!(next.status.code(), Some(1), "{flags:?}");
        assert_eq!(
            host.ask("GET", "/health", &[], b"").status,
            200,
            "{flags:?}"
        );
    }
    assert!(!host.log.lock().unwrap().contains("takes over"));
}

#[test]
fn killed_in_the_middle_neither_leaves_a_root_that_cannot_be_served() {
    let line = "web: trap '' TERM; while :; do sleep 0.02; done\n";
    for kills_new in [false, true] {
        let mut host = TestServer::with(&["--grace", "5"], &[]);
        up(&host, &[("./Procfile", line)]);
        let mut next = gangplank();
        next.args(["serve", "--listen", "127.0.0.1:0", "--take-over", "--root"]);
        next.arg(&host.root.0)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut next = next.spawn().unwrap();
        await_some("the handover", || {
            let log = host.log.lock().unwrap();
            log.contains("a new server takes over").then_some(())
        });
        match kills_new {
            true => next.kill().unwrap(),
            false => host.server.kill().unwrap(),
        }
        host.server.wait().unwrap();
        let pid = |host: &TestServer| {
            let status = host.operate(&serde_json::json!({"operation": "get_components"}));
            status.json()["components"][0]["processes"][0]["pid"].as_u64()
        };
        if kills_new {
            next.wait().unwrap();
            let third = TestServer::on(Arc::clone(&host.root), &[], &[]);
            await_some("the process", || pid(&third));
            continue;
        }
        // The new one has the sockets, and ends what the old one left.
        await_some("the answer of the new one", || {
            let stream = std::net::TcpStream::connect(&host.address).ok()?;
            health(stream).ok()
        });
        let new = await_some("the process", || pid(&host));
        let count = processes_of(&host);
        assert_eq!(count, [new], "two servers' processes run");
        next.kill().unwrap();
        next.wait().unwrap();
    }
}

/// The leaders of what the servers of a root have started.
fn processes_of(host: &TestServer) -> Vec<u64> {
    let id = std::fs::read_to_string(host.root.0.join("id")).unwrap();
    let mark = format!("GANGPLANK_CHILD={}", id.lines().next().unwrap());
    let mut found = Vec::new();
    for pid in crate::test_server::names(std::path::Path::new("/proc")) {
        let (environment, stat) = (
            std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default(),
            std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default(),
        );
        let group = stat.split(' ').nth(4).map(str::to_owned);
        let has = environment
            .split(|byte| *byte == 0)
            .any(|one| one == mark.as_bytes());
        if has && group.as_ref() == Some(&pid) {
            found.push(pid.parse().unwrap());
        }
    }
    found
}

/// A server that gets a socket from its supervisor.
fn activated(host: Option<&TestServer>, sockets: &[(&str, &OwnedFd)], notify: &str) -> TestServer {
    // Each but the first is put in the place of the first by a shell of its own: there is one way to pass one safely.
    let mut script = String::from("import os, sys, socket\n");
    script.push_str("s = socket.socket(fileno=0)\n_, fds, _, _ = socket.recv_fds(s, 1, 64)\n");
    script.push_str("os.dup2(os.open('/dev/null', os.O_RDONLY), 0)\n");
    script.push_str("fds = [os.dup2(os.dup(f), 100 + n, False) for n, f in enumerate(fds)]\n");
    script.push_str("for n, f in enumerate(fds): os.dup2(f, 3 + n)\n");
    script.push_str(
        "os.environ['LISTEN_PID'] = str(os.getpid())\nos.execv(sys.argv[1], sys.argv[1:])\n",
    );
    let (here, there) = UnixStream::pair().unwrap();
    let borrowed: Vec<_> = sockets.iter().map(|(_, socket)| socket.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
    let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
    assert!(control.push(rustix::net::SendAncillaryMessage::ScmRights(&borrowed)));
    let flags = rustix::net::SendFlags::empty();
    let bytes = [std::io::IoSlice::new(b"x")];
    rustix::net::sendmsg(&here, &bytes, &mut control, flags).unwrap();
    let names: Vec<&str> = sockets.iter().map(|(name, _)| *name).collect();
    let mut command: Command = crate::test_server::bare("python3");
    command
        .args(["-c", &script, BINARY])
        .env("LISTEN_FDS", sockets.len().to_string())
        .env("LISTEN_FDNAMES", names.join(":"))
        .env("NOTIFY_SOCKET", notify)
        .stdin(Stdio::from(OwnedFd::from(there)));
    let root = host.map_or_else(|| Arc::new(TempDir::new()), |host| Arc::clone(&host.root));
    TestServer::launch(command, root, &["--grace", "20"])
}

/// A supervisor that keeps sockets.
struct Supervisor {
    socket: UnixDatagram,
    kept: BTreeMap<String, Vec<OwnedFd>>,
    dir: TempDir,
}

impl Supervisor {
    fn new() -> Supervisor {
        let dir = TempDir::new();
        let socket = UnixDatagram::bind(dir.0.join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let kept = BTreeMap::new();
        Supervisor { socket, kept, dir }
    }

    fn name(&self) -> String {
        self.dir.0.join("notify").to_str().unwrap().to_owned()
    }

    /// Does what it is told until it is told this.
    fn until(&mut self, word: &str) {
        loop {
            let mut bytes = [0; 300];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut into = [IoSliceMut::new(&mut bytes)];
            let flags = RecvFlags::CMSG_CLOEXEC;
            let length = recvmsg(&self.socket, &mut into, &mut control, flags)
                .unwrap()
                .bytes;
            let passed = control.drain().find_map(|one| match one {
                RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
                _ => None,
            });
            let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
            let name = text.split_once("FDNAME=").map(|(_, name)| name.to_owned());
            match (name, passed) {
                (Some(name), Some(socket)) => self.kept.entry(name).or_default().push(socket),
                (Some(name), None) => drop(self.kept.remove(&name)),
                _ => {}
            }
            if text == word {
                return;
            }
        }
    }
}

#[test]
fn a_supervisor_keeps_the_sockets_over_a_restart_and_nobody_is_refused() {
    if !have("python3") {
        return;
    }
    let mut supervisor = Supervisor::new();
    let opened = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = opened.local_addr().unwrap().to_string();
    let opened = OwnedFd::from(opened);
    let mut host = activated(None, &[("gangplank.socket", &opened)], &supervisor.name());
    assert_eq!(host.address, address);
    supervisor.until("READY=1");
    let port = free_port();
    up_held(&host, port);
    for _ in 0..2 {
        host = under_load(host, port, |host| {
            host.signal(Signal::TERM);
            supervisor.until("STOPPING=1");
            assert_eq!(host.server.wait().unwrap().code(), Some(0));
            // Nobody is there; who comes waits.
            let mut sockets = vec![("gangplank.socket", &opened)];
            for (name, kept) in &supervisor.kept {
                sockets.push((name, kept.last().unwrap()));
            }
            let next = activated(Some(host), &sockets, &supervisor.name());
            assert_eq!(next.address, address);
            next
        });
        supervisor.until("READY=1");
        let names: Vec<&str> = supervisor.kept.keys().map(String::as_str).collect();
        assert_eq!(names, ["held.demo.web", "listen"]);
    }
    // What is gone is let go.
    let dropped =
        host.operate(&serde_json::json!({"operation": "drop_component", "project": "demo"}));
    assert_eq!(dropped.status, 200);
    host.signal(Signal::TERM);
    supervisor.until("STOPPING=1");
    assert!(!supervisor.kept.contains_key("held.demo.web"));
}
