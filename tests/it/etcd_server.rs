//! A real etcd, of one node or of three, on free ports of this machine, for the tests of what uses one.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::needs::have;
use crate::ports::free_port;

/// Longer than anything here takes on a busy machine; what reaches it has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Some nodes that know each other. They end, and their data goes, with it.
pub(crate) struct EtcdServer {
    dir: PathBuf,
    flags: Vec<String>,
    scheme: &'static str,
    nodes: Vec<EtcdNode>,
    /// Who asks, once there are users.
    token: Option<String>,
}

struct EtcdNode {
    process: Option<Child>,
    client: u16,
    peer: u16,
}

impl Drop for EtcdServer {
    fn drop(&mut self) {
        for at in 0..self.nodes.len() {
            self.kill(at);
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl EtcdServer {
    /// One node; none, and the test is listed as not run, where there is no etcd.
    pub(crate) fn start() -> Option<EtcdServer> {
        EtcdServer::with(1, &[])
    }

    /// So many nodes, with these flags.
    pub(crate) fn with(nodes: usize, flags: &[&str]) -> Option<EtcdServer> {
        if !have("etcd") {
            return None;
        }
        let scheme = match flags.iter().any(|flag| flag.starts_with("--cert-file")) {
            true => "https",
            false => "http",
        };
        // A port may be taken between its choice and its use.
        for _ in 0..3 {
            let mut server = EtcdServer::on_new_ports(nodes, flags, scheme);
            (0..nodes).for_each(|at| server.launch(at));
            if (0..nodes).all(|at| server.stands(at)) {
                return Some(server);
            }
        }
        panic!("etcd did not start");
    }

    fn on_new_ports(nodes: usize, flags: &[&str], scheme: &'static str) -> EtcdServer {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        // etcd syncs each write, which memory takes at once.
        let memory = PathBuf::from("/dev/shm");
        let base = if memory.is_dir() {
            memory
        } else {
            std::env::temp_dir()
        };
        let dir = base.join(format!("gangplank-etcd-{}-{n}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        let nodes = (0..nodes).map(|_| EtcdNode {
            process: None,
            client: free_port(),
            peer: free_port(),
        });
        EtcdServer {
            dir,
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            scheme,
            nodes: nodes.collect(),
            token: None,
        }
    }

    fn data(&self, at: usize) -> PathBuf {
        self.dir.join(format!("n{at}"))
    }

    fn cluster(&self) -> String {
        let nodes = self.nodes.iter().enumerate();
        let nodes = nodes.map(|(at, node)| format!("n{at}=http://127.0.0.1:{}", node.peer));
        nodes.collect::<Vec<_>>().join(",")
    }

    fn launch(&mut self, at: usize) {
        let (client, peer) = (self.nodes[at].client, self.nodes[at].peer);
        let client = format!("{}://127.0.0.1:{client}", self.scheme);
        let peer = format!("http://127.0.0.1:{peer}");
        let log = fs::File::create(self.dir.join(format!("n{at}.log"))).unwrap();
        let process = Command::new("etcd")
            .args(["--name", &format!("n{at}"), "--data-dir"])
            .arg(self.data(at))
            .args([
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
            ])
            .args([
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
            ])
            .args(["--initial-cluster", &self.cluster()])
            // Quicker elections than between places, and slow enough for a busy machine.
            .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
            .args(["--bcrypt-cost", "4"])
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.nodes[at].process = Some(process);
    }

    /// Waits until a node answers, and says whether it does.
    fn stands(&mut self, at: usize) -> bool {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            let process = self.nodes[at].process.as_mut().unwrap();
            if process.try_wait().unwrap().is_some() {
                return false;
            }
            let answers = match self.scheme {
                "https" => TcpStream::connect(("127.0.0.1", self.nodes[at].client)).is_ok(),
                _ => {
                    let range = json!({"key": "YQ==", "count_only": true});
                    self.try_ask(at, "/v3/kv/range", &range)
                        .is_some_and(|(status, _)| status == 200)
                }
            };
            if answers {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }

    /// Where the nodes are, as `--fleet etcd=` takes it.
    pub(crate) fn urls(&self) -> String {
        let urls = (0..self.nodes.len()).map(|at| self.url(at));
        urls.collect::<Vec<_>>().join(",")
    }

    /// Where a node is.
    pub(crate) fn url(&self, at: usize) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.nodes[at].client)
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self, at: usize) {
        if let Some(mut process) = self.nodes[at].process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// SIGTERM, and its end.
    pub(crate) fn stop(&mut self, at: usize) {
        self.signal(at, "-TERM");
        if let Some(mut process) = self.nodes[at].process.take() {
            let _ = process.wait();
        }
    }

    /// Sends a node a signal by its name: `-STOP`, `-CONT`.
    pub(crate) fn signal(&self, at: usize, signal: &str) {
        let id = self.nodes[at].process.as_ref().unwrap().id().to_string();
        let sent = Command::new("kill").args([signal, &id]).status().unwrap();
        assert!(sent.success());
    }

    /// The id of a node's process.
    pub(crate) fn process_id(&self, at: usize) -> u32 {
        self.nodes[at].process.as_ref().unwrap().id()
    }

    /// Whether it was neither killed nor stopped.
    pub(crate) fn is_running(&self, at: usize) -> bool {
        self.nodes[at].process.is_some()
    }

    /// Starts a node that was killed or stopped, on what it had.
    pub(crate) fn start_again(&mut self, at: usize) {
        self.launch(at);
        assert!(self.stands(at), "etcd did not start again");
    }

    /// A snapshot of what the only node holds.
    pub(crate) fn snapshot(&self) -> PathBuf {
        let file = self.dir.join("snapshot");
        let _ = fs::remove_file(&file);
        self.control(&["snapshot", "save", file.to_str().unwrap()]);
        file
    }

    /// Ends the only node and starts it on a snapshot; on nothing if there is none.
    pub(crate) fn restore(&mut self, snapshot: Option<PathBuf>) {
        self.kill(0);
        fs::remove_dir_all(self.data(0)).unwrap();
        if let Some(snapshot) = snapshot {
            let (data, cluster) = (self.data(0), self.cluster());
            let peer = format!("http://127.0.0.1:{}", self.nodes[0].peer);
            self.control(&[
                "snapshot",
                "restore",
                snapshot.to_str().unwrap(),
                "--name",
                "n0",
                "--initial-cluster",
                &cluster,
                "--initial-advertise-peer-urls",
                &peer,
                "--data-dir",
                data.to_str().unwrap(),
            ]);
        }
        self.start_again(0);
    }

    fn control(&self, arguments: &[&str]) {
        let done = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.url(0)])
            .args(arguments)
            .output()
            .unwrap();
        assert!(done.status.success(), "{done:?}");
    }

    /// Asks a node, and gives its JSON.
    pub(crate) fn ask(&self, at: usize, path: &str, body: &Value) -> Value {
        let (status, answer) = self.try_ask(at, path, body).expect("etcd answers");
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    /// Asks a node, and gives its status and its JSON; none if it does not answer.
    pub(crate) fn try_ask(&self, at: usize, path: &str, body: &Value) -> Option<(u16, Value)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.nodes[at].client)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let body = body.to_string();
        let token = self.token.as_ref();
        let token = token.map_or_else(String::new, |token| format!("Authorization: {token}\r\n"));
        let request = format!(
            "POST {path} HTTP/1.0\r\nHost: etcd\r\n{token}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, serde_json::from_str(body).unwrap_or_default()))
    }

    /// From now on asks as `root`, once there are users.
    pub(crate) fn as_root(&mut self) {
        let root = json!({"name": "root", "password": "secret"});
        let answer = self.ask(0, "/v3/auth/authenticate", &root);
        self.token = answer["token"].as_str().map(str::to_owned);
    }

    /// Turns users on: `root`, and `host` with these rights, each on what begins so: `("gangplank/desired/", "READ")`.
    pub(crate) fn with_users(&self, rights: &[(&str, &str)]) {
        let base64 = |text: &str| {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD.encode(text)
        };
        for name in ["root", "host"] {
            self.ask(0, "/v3/auth/role/add", &json!({"name": name}));
            self.ask(
                0,
                "/v3/auth/user/add",
                &json!({"name": name, "password": "secret"}),
            );
            self.ask(
                0,
                "/v3/auth/user/grant",
                &json!({"user": name, "role": name}),
            );
        }
        for (prefix, right) in rights {
            let end = format!("{}0", prefix.strip_suffix('/').unwrap());
            let permission =
                json!({"permType": right, "key": base64(prefix), "range_end": base64(&end)});
            self.ask(
                0,
                "/v3/auth/role/grant",
                &json!({"name": "host", "perm": permission}),
            );
        }
        self.ask(0, "/v3/auth/enable", &json!({}));
    }
}
