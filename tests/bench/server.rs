//! A server to measure, its clients, and its own small figures.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::data::Set;
use crate::machine;
use crate::table::{Budget, alone, median};

/// The program that is measured.
const BINARY: &str = env!("CARGO_BIN_EXE_gangplank");

/// How often a server is started.
const STARTS: usize = 9;

/// The servers that run, for [`end_all`].
static RUNNING: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// A running server on a root of its own.
pub(crate) struct Server {
    child: Child,
    address: String,
    token: String,
    root: PathBuf,
}

impl Server {
    pub(crate) fn start(work: &Path) -> Server {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let root = work.join(format!("root-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        Server::start_on(root, None)
    }

    /// Starts one that finds programs in this directory before all others.
    pub(crate) fn start_with(work: &Path, programs: &Path) -> Server {
        Server::start_on(work.join("root"), Some(programs))
    }

    fn start_on(root: PathBuf, programs: Option<&Path>) -> Server {
        let mut command = command();
        if let Some(programs) = programs {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let path = [programs.to_owned()]
                .into_iter()
                .chain(std::env::split_paths(&path));
            command.env("PATH", std::env::join_paths(path).unwrap());
        }
        let command = command
            // Room for a thousand watchers, which are at most half of all.
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--max-connections",
                "2100",
                "--root",
            ])
            .arg(&root);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        RUNNING.lock().unwrap().push(child.id());
        // The lines behind the first one fit into the pipe, whose reading end must stay until they are written.
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut address = None;
        while let Some(Ok(line)) = lines.next() {
            if let Some(http) = line.strip_prefix("listening on http://") {
                address = Some(http.to_owned());
            }
            if line.starts_with("listening on unix:") {
                break;
            }
        }
        let address = address.expect("the server did not start");
        let token = std::fs::read_to_string(root.join("admin.token")).unwrap();
        let token = token.trim().to_owned();
        Server {
            child,
            address,
            token,
            root,
        }
    }

    /// The first deployment of a component: each run has one of its own.
    pub(crate) fn first(&self, set: &Set, dir: &Path, run: usize) -> Command {
        let mut deploy = self.deploy(dir, "quiet");
        deploy.args(["--project", &format!("bench-{run}")]);
        if !set.has_manifest {
            deploy.args(["--install-command", "true"]);
        }
        deploy
    }

    /// A `deploy` to this server over TCP, whose result nobody reads.
    pub(crate) fn deploy(&self, dir: &Path, progress: &str) -> Command {
        let mut command = command();
        command.args(["deploy", "--progress", progress]).arg(dir);
        command.env("GANGPLANK_TARGET", format!("http://{}", self.address));
        // What a client remembers of this server is not mixed with what the user's own remember.
        command.env("XDG_CACHE_HOME", self.root.with_extension("cache"));
        command
            .env("GANGPLANK_TOKEN", &self.token)
            .stdout(Stdio::null());
        command
    }

    /// Waits until it does nothing any longer: what a deployment leaves for later is done by then. That is half a second in
    /// which it takes no processor time, and before it the disk has what it wrote.
    pub(crate) fn rest(&self) {
        rustix::fs::sync();
        let (mut last, mut quiet) = (0, 0);
        while quiet < 5 {
            thread::sleep(Duration::from_millis(100));
            let now = machine::processor_time(self.pid()).to_bits();
            quiet = if now == last { quiet + 1 } else { 0 };
            last = now;
        }
        rustix::fs::sync();
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        RUNNING
            .lock()
            .unwrap()
            .retain(|pid| *pid != self.child.id());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ends all servers, for a run that ends early.
pub(crate) fn end_all() {
    for pid in RUNNING.lock().unwrap().iter() {
        let pid = i32::try_from(*pid).ok().and_then(Pid::from_raw);
        // One that has ended by itself needs no more.
        let _ = pid.map(|pid| kill_process(pid, Signal::KILL));
    }
}

/// The program, without what the environment says to other clients and servers.
fn command() -> Command {
    let mut command = Command::new(BINARY);
    for (name, _) in std::env::vars_os() {
        let bytes = name.as_encoded_bytes();
        if bytes.starts_with(b"GANGPLANK_") || bytes.starts_with(b"HARPER_CLI_") {
            command.env_remove(&name);
        }
    }
    command
}

/// Waits for a client and gives its peak memory in MiB.
pub(crate) fn peak(mut client: Child) -> f64 {
    let mut peak = 0.0_f64;
    loop {
        // The high-water mark only grows, so the last look before the end is the peak, or close to it.
        peak = peak.max(machine::memory(client.id(), "VmHWM").unwrap_or(0.0));
        if let Some(status) = client.try_wait().unwrap() {
            assert!(status.success(), "a deployment failed");
            return peak;
        }
        thread::sleep(Duration::from_millis(3));
    }
}

/// Start, memory at rest, and the binary's size.
pub(crate) fn measure(work: &Path) {
    let (mut fresh, mut again, mut idle) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let begun = Instant::now();
        let server = Server::start(work);
        fresh.push(begun.elapsed().as_secs_f64() * 1e3);
        idle.push(machine::memory(server.pid(), "VmRSS").unwrap());
        let root = server.root.clone();
        drop(server);
        let begun = Instant::now();
        drop(Server::start_on(root, None));
        again.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    let start = Budget::Most(15.0);
    alone("start to listening, new root", median(fresh), "ms", start);
    alone("start to listening, again", median(again), "ms", start);
    alone(
        "server RSS, idle after its start",
        median(idle),
        "MiB",
        Budget::Most(3.0),
    );
    let size = std::fs::metadata(BINARY).unwrap().len();
    let size = size as f64 / f64::from(1 << 20);
    alone("binary, stripped", size, "MiB", Budget::Most(3.3));
}
