//! A server to measure, its clients, and its own small figures.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::children::Running;
use crate::machine;
use crate::table::{Budget, alone, median};

/// The program that is measured.
const BINARY: &str = env!("CARGO_BIN_EXE_gangplank");

/// How often a server is started.
const STARTS: usize = 9;

/// How long a server may be busy with what a deployment leaves for later. It is measured as it is then.
const REST: Duration = Duration::from_secs(30);

/// A running server on a root of its own.
pub(crate) struct Server {
    child: Running,
    address: String,
    token: String,
    root: PathBuf,
}

impl Server {
    pub(crate) fn start(work: &Path) -> Server {
        Server::start_as(work, Path::new(BINARY))
    }

    /// Starts one of this binary.
    pub(crate) fn start_as(work: &Path, binary: &Path) -> Server {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let root = work.join(format!("root-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        Server::start_on(root, None, binary)
    }

    /// Starts one that finds programs in this directory before all others.
    pub(crate) fn start_with(work: &Path, programs: &Path) -> Server {
        Server::start_on(work.join("root"), Some(programs), Path::new(BINARY))
    }

    fn start_on(root: PathBuf, programs: Option<&Path>, binary: &Path) -> Server {
        let mut command = command(binary);
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
        // The lines behind the first one fit into the pipe, whose reading end must stay until they are written.
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let child = Running::new(child);
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
    pub(crate) fn first(&self, dir: &Path, run: usize) -> Command {
        let mut deploy = self.deploy(dir, "quiet");
        deploy.args(["--project", &format!("bench-{run}")]);
        deploy
    }

    /// A `deploy` to this server.
    pub(crate) fn deploy(&self, dir: &Path, progress: &str) -> Command {
        let mut command = self.client("deploy");
        command.args(["--progress", progress]).arg(dir);
        command
    }

    /// A command to this server over TCP, whose result nobody reads.
    pub(crate) fn client(&self, word: &str) -> Command {
        let mut command = command(Path::new(BINARY));
        command.arg(word);
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
        let begun = Instant::now();
        while quiet < 5 && begun.elapsed() < REST {
            thread::sleep(Duration::from_millis(100));
            let now = machine::processor_time(self.pid()).to_bits();
            quiet = if now == last { quiet + 1 } else { 0 };
            last = now;
        }
        rustix::fs::sync();
    }

    /// Removes what was the first deployment of this run.
    pub(crate) fn forget(&self, run: usize) {
        let mut client = self.client("drop");
        client.args(["--yes", "--purge", &format!("bench-{run}")]);
        client.stderr(Stdio::null());
        // One that is still busy with it is asked again; what stays then is removed with the row.
        for _ in 0..10 {
            if client.status().unwrap().success() {
                break;
            }
            thread::sleep(Duration::from_millis(500));
        }
        self.rest();
    }

    /// Where it keeps all that it has.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.pid()
    }
}

/// The program, without what the environment says to other clients and servers.
fn command(binary: &Path) -> Command {
    let mut command = Command::new(binary);
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
    let pid = client.id();
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        // Beside the one that waits: who looks for the end now and then would find it late.
        let peak = scope.spawn(|| {
            let mut peak = 0.0_f64;
            while !ended.load(Ordering::Relaxed) {
                // The high-water mark only grows, so the last look before the end is the peak, or close to it.
                peak = peak.max(machine::memory(pid, "VmHWM").unwrap_or(0.0));
                thread::park_timeout(Duration::from_millis(3));
            }
            peak
        });
        let status = client.wait().unwrap();
        ended.store(true, Ordering::Relaxed);
        peak.thread().unpark();
        assert!(status.success(), "a deployment failed");
        peak.join().unwrap()
    })
}

/// What is measured, and beside it what `make static` makes, where that was made.
pub(crate) fn binaries() -> Vec<(&'static str, PathBuf)> {
    let binary = PathBuf::from(BINARY);
    let target = binary.parent().and_then(Path::parent);
    let fixed = target.map(|target| target.join("static/gangplank"));
    let fixed = fixed.filter(|fixed| fixed.is_file());
    let fixed = fixed.map(|fixed| ("static: ", fixed));
    [("", binary)].into_iter().chain(fixed).collect()
}

/// Start, memory at rest, and the binary's size.
pub(crate) fn measure(work: &Path) {
    let binaries = binaries();
    if binaries.len() < 2 {
        println!("without a static binary: `make static` makes one");
    }
    for (which, binary) in binaries {
        let (mut fresh, mut again, mut idle) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..STARTS {
            let begun = Instant::now();
            let server = Server::start_as(work, &binary);
            fresh.push(begun.elapsed().as_secs_f64() * 1e3);
            idle.push(machine::memory(server.pid(), "VmRSS").unwrap());
            let root = server.root.clone();
            drop(server);
            let begun = Instant::now();
            let server = Server::start_on(root, None, &binary);
            again.push(begun.elapsed().as_secs_f64() * 1e3);
            drop(server);
        }
        let row = |what: &str, figure: f64, unit: &str, most: f64| {
            alone(&format!("{which}{what}"), figure, unit, Budget::Most(most));
        };
        row("start to listening, new root", median(fresh), "ms", 15.0);
        row("start to listening, again", median(again), "ms", 15.0);
        row("server RSS, idle after its start", median(idle), "MiB", 3.0);
        let size = std::fs::metadata(&binary).unwrap().len();
        let size = size as f64 / f64::from(1 << 20);
        row("binary, stripped", size, "MiB", 3.3);
    }
}
