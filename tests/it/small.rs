//! The small, full, broken host: what is missing is said, nothing half made stays, and the next deployment works once the cause
//! is gone.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::delta;
use crate::needs::allows;
use crate::test_server::{
    Answer, BINARY, BOUNDARY, TempDir, TestServer, await_some, bare, component, form, gzip, have,
    is_root, may, names, tar,
};

/// Bytes that do not shrink, in one file of a tar.
fn large(mib: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut noise = Vec::with_capacity(mib << 20);
    while noise.len() < mib << 20 {
        // A linear congruence is noise enough for deflate.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        noise.extend_from_slice(&state.to_be_bytes()[..4]);
    }
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(noise.len() as u64);
    header.set_mode(0o644);
    builder
        .append_data(&mut header, "./noise", &noise[..])
        .unwrap();
    builder.into_inner().unwrap()
}

/// Deploys in chunks, so that no length is declared, and reads the answer, whenever it comes.
fn deploy_undeclared(host: &TestServer, project: &str, payload: &[u8]) -> Answer {
    let (media, body) = form(&[("project", project)], payload);
    let token = &host.token;
    let head = format!(
        "POST / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n{media}\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    let mut stream = host.connect();
    let mut send = || -> std::io::Result<()> {
        stream.write_all(head.as_bytes())?;
        for chunk in body.chunks(64 << 10) {
            write!(stream, "{:x}\r\n", chunk.len())?;
            stream.write_all(chunk)?;
            stream.write_all(b"\r\n")?;
        }
        stream.write_all(b"0\r\n\r\n")
    };
    // An answer that came early may close the way.
    let _ = send();
    Answer::read(stream)
}

/// The newest deployment failed like this, its release and its payload are gone, and the first one is live.
fn nothing_stays(host: &TestServer, first: &str, code: &str) {
    let list = host
        .operate(&json!({"operation": "list_deployments"}))
        .json();
    let newest = &list["deployments"][0];
    assert_eq!(
        (&newest["status"], &newest["error"]["code"]),
        (&json!("failed"), &json!(code)),
        "{list}"
    );
    assert_eq!(newest["payload_present"], json!(false));
    let id = newest["deployment_id"].as_str().unwrap();
    assert!(!names(&host.path(&format!("deployments/{id}"))).contains(&"payload".to_owned()));
    assert_eq!(names(&host.path("releases/demo")), [first]);
    assert_eq!(
        fs::read_to_string(host.path("components/demo/index.txt")).unwrap(),
        "hello"
    );
}

fn deployed(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["deployment_id"].as_str().unwrap().to_owned()
}

/// Mounts of our own need a privilege that containers often do not give.
const MOUNTS: &[&str] = &["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"];

/// A server on a file system of its own, in its own mount namespace: it is gone with it. `size` is as for a tmpfs.
fn mounted(size: &str, flags: &[&str]) -> TestServer {
    let root = Arc::new(TempDir::new());
    let mut command = bare("unshare");
    let script = format!(
        "mount -t tmpfs -o size={size} none '{}' && exec \"$0\" \"$@\"",
        root.0.display()
    );
    command.args(["-m", "sh", "-c", &script, BINARY]);
    TestServer::launch(command, root, flags)
}

fn remount(host: &TestServer, how: &str) {
    let pid = host.server.id().to_string();
    // What the server does when nobody waits may just write there.
    await_some("the mount", || {
        let done = Command::new("nsenter")
            .args(["-m", "-t", &pid, "mount", "-o", &format!("remount,{how}")])
            .arg(&host.root.0)
            .stderr(Stdio::null())
            .status()
            .unwrap();
        done.success().then_some(())
    });
}

#[test]
fn the_disk_s_last_bytes_are_not_taken() {
    if !is_root() || !have("unshare") || !may(MOUNTS) {
        return;
    }
    let host = mounted("128m", &["--min-free-disk", "64M"]);
    let first = deployed(&host.deploy(&[("project", "demo")], &component()));
    let answer = deploy_undeclared(&host, "demo", &large(48));
    let (code, why) = answer.refusal();
    assert_eq!((answer.status, code.as_str()), (507, "no_space"), "{why}");
    assert!(why.contains("less than 67108864 bytes left"), "{why}");
    nothing_stays(&host, &first, "no_space");
    deployed(&host.deploy(&[("project", "demo")], &component()));
}

#[test]
fn a_spare_takes_no_room_that_a_release_needs() {
    if !is_root() || !have("unshare") || !may(MOUNTS) {
        return;
    }
    // A release, its payload and its spare have 27 MB.
    let (host, source) = (mounted("32m", &["--min-free-disk", "0"]), TempDir::new());
    let change = |files: std::ops::Range<u64>, seed| {
        for n in files {
            let noise = delta::noise(1_000_000, n + seed);
            fs::write(source.0.join(format!("f{n}")), noise).unwrap();
        }
    };
    let deploy = |what: &str| {
        delta::deploy(&host, &source.0, &[]);
        delta::is_live(&host, &source.0, what);
    };
    change(0..9, 0);
    deploy("the first");
    delta::spare::spare(&host);
    // What changes is to be made beside the spare, for which there is no room, and then without it.
    change(0..3, 10);
    deploy("what the spare has no room for");
    assert!(!host.path("store/demo/spare").exists());
    assert!(!host.path("store/demo/.spare-work").exists());
}

#[test]
fn a_disk_that_is_really_full_and_one_that_cannot_be_written() {
    if !is_root() || !have("unshare") || !have("nsenter") || !may(MOUNTS) {
        return;
    }
    let host = mounted("48m", &["--min-free-disk", "0"]);
    let first = deployed(&host.deploy(&[("project", "demo")], &component()));
    // Payload and tree are more than there is, each of them is not.
    let answer = deploy_undeclared(&host, "demo", &large(32));
    assert_eq!(
        (answer.status, answer.refusal().0.as_str()),
        (507, "no_space"),
        "{}",
        answer.text()
    );
    nothing_stays(&host, &first, "no_space");
    // An installation that fills it.
    let fill = [
        ("project", "demo"),
        ("install_command", "head -c 60000000 /dev/zero > fill"),
    ];
    let answer = host.deploy(&fill, &component());
    assert_eq!(answer.status, 422, "{}", answer.text());
    let left = names(&host.path("releases/demo"));
    assert_eq!(left, std::slice::from_ref(&first));
    let second = deployed(&host.deploy(&[("project", "demo")], &component()));

    remount(&host, "ro");
    let answer = host.deploy(&[("project", "demo")], &component());
    let (code, why) = answer.refusal();
    assert_eq!((answer.status, code.as_str()), (500, "internal"), "{why}");
    assert!(why.contains("Read-only file system"), "{why}");
    assert_eq!(host.ask("GET", "/health", &[], b"").status, 200);
    remount(&host, "rw");
    let third = deployed(&host.deploy(&[("project", "demo")], &component()));
    let list = host
        .operate(&json!({"operation": "list_deployments"}))
        .json();
    let statuses: Vec<&Value> = list["deployments"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["status"])
        .collect();
    assert_eq!(
        statuses,
        ["success", "success", "failed", "failed", "success"],
        "{list}"
    );
    assert_eq!(names(&host.path("releases/demo")), [first, second, third]);
}

#[test]
fn a_root_that_goes_and_comes_back() {
    let host = TestServer::start();
    let first = deployed(&host.deploy(&[("project", "demo")], &component()));
    let (root, aside) = (host.root.0.clone(), host.root.0.with_extension("aside"));
    fs::rename(&root, &aside).unwrap();
    let answer = host.deploy(&[("project", "demo")], &component());
    assert_eq!(answer.status, 503, "{}", answer.text());
    await_some("the line of log", || {
        let log = host.log.lock().unwrap();
        log.contains("asking the server behind the gate")
            .then_some(())
    });
    fs::rename(&aside, &root).unwrap();
    let second = deployed(&host.deploy(&[("project", "demo")], &component()));
    assert_eq!(names(&host.path("releases/demo")), [first, second]);
}

#[test]
fn what_is_not_installed_is_named() {
    let dir = TempDir::new().with(&[("bin/.keep", "")]);
    let bin = dir.0.join("bin");
    let host = TestServer::with(&[], &[("PATH", bin.to_str().unwrap())]);
    let package = gzip(&tar(&[(
        "./package.json",
        r#"{"name":"x","dependencies":{"y":"1"}}"#,
    )]));
    let answer = host.deploy(&[("project", "a")], &package);
    let (code, why) = answer.refusal();
    assert_eq!((answer.status, code.as_str()), (422, "install_failed"));
    assert!(why.contains("npm is not installed on the server"), "{why}");
    let answer = host.deploy(&[("project", "a"), ("install_command", "true")], &package);
    let (code, why) = answer.refusal();
    assert_eq!((answer.status, code.as_str()), (422, "install_failed"));
    assert!(why.contains("sh is not installed on the server"), "{why}");
    // A program that is there, whose interpreter is not.
    fs::write(bin.join("npm"), "#!/no/such/node\n").unwrap();
    fs::set_permissions(
        bin.join("npm"),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let answer = host.deploy(&[("project", "a")], &package);
    assert_eq!(answer.refusal().0, "install_failed", "{}", answer.text());
    // What needs neither goes on.
    deployed(&host.deploy(&[("project", "a")], &component()));
}

/// A control group of the old kind or of the new one, where this machine lets one be made.
struct Group(PathBuf);

impl Group {
    fn make(controller: &str, file: [&str; 2], value: &str) -> Option<Group> {
        let name = format!("gangplank-it-{}-{controller}", std::process::id());
        let places = [
            (
                PathBuf::from("/sys/fs/cgroup").join(controller).join(&name),
                file[0],
            ),
            (PathBuf::from("/sys/fs/cgroup").join(&name), file[1]),
        ];
        for (place, file) in places {
            if !place
                .parent()
                .is_some_and(|parent| parent.join("cgroup.procs").exists())
            {
                continue;
            }
            let group = Group(place);
            if fs::create_dir(&group.0).is_ok() && fs::write(group.0.join(file), value).is_ok() {
                return Some(group);
            }
        }
        allows(&format!("a control group for {controller}"), false);
        None
    }

    /// A server in it.
    fn start(&self, flags: &[&str]) -> TestServer {
        let mut command = bare("sh");
        let script = format!(
            "echo $$ > '{}' && exec \"$0\" \"$@\"",
            self.0.join("cgroup.procs").display()
        );
        command.args(["-c", &script, BINARY]);
        TestServer::launch(command, Arc::new(TempDir::new()), flags)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The last process may take a moment to leave.
        for _ in 0..1000 {
            if fs::remove_dir(&self.0).is_ok() || !self.0.exists() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

#[test]
fn sixty_four_mib_of_memory_are_enough() {
    let Some(group) = Group::make("memory", ["memory.limit_in_bytes", "memory.max"], "64M") else {
        return;
    };
    let host = group.start(&[]);
    // More than the memory, in which the pages of its files count, too.
    let payload = gzip(&large(72));
    let answer = host.deploy_live(&[("project", "large")], &payload);
    assert_eq!(answer.events().last().unwrap().event, "done");
    let many: Vec<(String, &str)> = (0..5_000)
        .map(|n| (format!("./d{}/f{n}", n % 100), "x"))
        .collect();
    let many: Vec<(&str, &str)> = many
        .iter()
        .map(|(name, text)| (name.as_str(), *text))
        .collect();
    deployed(&host.deploy(&[("project", "many")], &gzip(&tar(&many))));
}

#[test]
fn a_thread_that_cannot_be_made_is_a_refusal() {
    let Some(group) = Group::make("pids", ["pids.max", "pids.max"], "max") else {
        return;
    };
    let host = group.start(&[]);
    assert_eq!(host.ask("GET", "/health", &[], b"").status, 200);
    let threads = names(format!("/proc/{}/task", host.server.id()).as_ref()).len();
    // None at all at first, then one by one a few more than there were.
    for limit in std::iter::once(1).chain(threads..threads + 5) {
        fs::write(group.0.join("pids.max"), limit.to_string()).unwrap();
        for _ in 0..3 {
            let answer = host.ask("GET", "/health", &[], b"");
            if answer.status == 503 {
                assert_eq!(answer.refusal().0, "full");
                assert!(answer.header("Retry-After").is_some());
            } else {
                assert_eq!((answer.status, limit > 1), (200, true), "{}", answer.text());
            }
        }
    }
    fs::write(group.0.join("pids.max"), "max").unwrap();
    await_some("the server to have threads again", || {
        (host.ask("GET", "/health", &[], b"").status == 200).then_some(())
    });
    deployed(&host.deploy(&[("project", "demo")], &component()));
}

#[test]
fn the_boundary_of_a_form_that_never_comes_costs_no_memory() {
    let host = TestServer::start();
    let (media, whole) = form(&[("project", "demo")], b"");
    let end = format!("\r\n--{BOUNDARY}--\r\n");
    let mut body = whole[..whole.len() - end.len()].to_vec();
    // A payload that is all beginnings of a boundary.
    let almost = format!("\r\n--{}", &BOUNDARY[..BOUNDARY.len() - 1]);
    while body.len() < 24 << 20 {
        body.extend_from_slice(almost.as_bytes());
    }
    let authorization = format!("Authorization: Bearer {}", host.token);
    let request = crate::test_server::request("POST", "/", &[&authorization, &media], &body);
    let mut stream = host.connect();
    let _ = stream.write_all(&request);
    let answer = Answer::read(stream);
    assert_eq!(answer.status, 422, "{}", answer.text());
    let status = fs::read_to_string(format!("/proc/{}/status", host.server.id())).unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kib < 32 << 10, "{kib} KiB");
}
