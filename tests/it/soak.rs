//! Many clients that do everything at once, and kill -9 in between: at each rest all must be as the records say. `make soak
//! SECONDS=120` goes on for so long in each form, with `SEED=N` from a seed that was printed before.

mod check;
mod client;
pub(crate) mod random;

use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process};

use self::check::{Rest, children};
use self::client::{Client, Door, Known};
use self::random::Random;
use crate::ports::free_port;
use crate::test_server::{TempDir, TestServer, gangplank, kill_children_of};

const CLIENTS: usize = 20;

/// A root and whatever server is on it.
struct Host {
    flags: Vec<String>,
    /// The server; none while it is away. Who asks holds it.
    server: RwLock<Option<TestServer>>,
    /// Odd while a kill is on its way.
    kills: AtomicU64,
    /// What the servers before this one said.
    log: Mutex<String>,
    root: Arc<TempDir>,
}

impl Host {
    fn start(&self) -> TestServer {
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        TestServer::on(Arc::clone(&self.root), &flags, &[])
    }

    fn door(&self) -> Door {
        let server = self.server.read().unwrap();
        let server = server.as_ref().unwrap();
        Door {
            address: server.address.clone(),
            token: server.token.clone(),
        }
    }

    /// Kills the server and starts another one, perhaps after one that is killed while it starts. Gives what is wrong.
    fn kill(&self, random: &mut Random) -> Vec<String> {
        let pid = Pid::from_child(&self.server.read().unwrap().as_ref().unwrap().server);
        self.kills.fetch_add(1, Ordering::SeqCst);
        kill_process(pid, Signal::KILL).unwrap();
        // Every client has lost its connection.
        let mut server = self.server.write().unwrap();
        let old = server.take().unwrap();
        let log = Arc::clone(&old.log);
        drop(old);
        let mut faults = Vec::new();
        let log = log.lock().unwrap().clone();
        let panic = log.lines().find(|line| line.contains("panicked"));
        faults.extend(panic.map(str::to_owned));
        self.log
            .lock()
            .unwrap()
            .push_str(&format!("{log}--- killed\n"));
        if random.below(4) == 0 {
            let mut short = gangplank();
            short
                .args(["serve", "--root"])
                .arg(&self.root.0)
                .args(&self.flags);
            let mut short = short
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            std::thread::sleep(Duration::from_millis(random.below(80) as u64));
            short.kill().unwrap();
            short.wait().unwrap();
        }
        let left = children(&self.root.0);
        *server = Some(self.start());
        let now = children(&self.root.0);
        let survivors: Vec<_> = left.intersection(&now).collect();
        if !survivors.is_empty() {
            faults.push(format!("of the old server live {survivors:?}"));
        }
        self.kills.fetch_add(1, Ordering::SeqCst);
        faults
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(
            self.server
                .write()
                .unwrap_or_else(|poisoned| poisoned.into_inner())
                .take(),
        );
        kill_children_of(&self.root.0);
    }
}

/// Servers of which the first one deploys to the others.
fn hosts(count: usize) -> Vec<Host> {
    let make = |flags: Vec<String>| {
        let mut all = vec!["--listen".to_owned(), format!("127.0.0.1:{}", free_port())];
        // Little is kept, so that what is too much goes all the time.
        let keep = [
            "--keep-releases",
            "3",
            "--keep-payloads",
            "4",
            "--keep-deployments",
            "40",
        ];
        all.extend(keep.map(str::to_owned));
        all.extend(flags);
        let root = Arc::new(TempDir::new());
        let host = Host {
            flags: all,
            server: RwLock::new(None),
            kills: AtomicU64::new(0),
            log: Mutex::default(),
            root,
        };
        *host.server.write().unwrap() = Some(host.start());
        host
    };
    let peers: Vec<Host> = (1..count).map(|_| make(Vec::new())).collect();
    let mut flags = Vec::new();
    for (n, peer) in peers.iter().enumerate() {
        let token = peer.root.0.join("admin.token");
        flags.extend([
            "--peer".to_owned(),
            format!("peer{n}=http://{}", peer.door().address),
        ]);
        flags.extend([
            "--peer-token-file".to_owned(),
            format!("peer{n}={}", token.display()),
        ]);
    }
    let mut hosts = vec![make(flags)];
    hosts.extend(peers);
    hosts
}

struct Soak {
    hosts: Vec<Host>,
    projects: &'static [&'static str],
    replicated: Option<&'static str>,
    known: Known,
    over: AtomicBool,
    /// Who asks holds it; who looks at everything takes it alone.
    turn: RwLock<()>,
    faults: Mutex<Vec<String>>,
    asked: AtomicU64,
}

/// Ends the clients however the test ends.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Soak {
    fn ask(&self, n: usize, seed: u64) {
        let host = n % self.hosts.len();
        let mut client = Client {
            host,
            projects: self.projects,
            replicated: self.replicated.filter(|_| host == 0),
            known: &self.known,
            random: Random(seed.wrapping_add(1 + n as u64)),
        };
        let host = &self.hosts[host];
        while !self.over.load(Ordering::SeqCst) {
            let _turn = self.turn.read().unwrap();
            let before = host.kills.load(Ordering::SeqCst);
            let server = host.server.read().unwrap();
            let server = server.as_ref().unwrap();
            let door = Door {
                address: server.address.clone(),
                token: server.token.clone(),
            };
            let told = client.act(&door);
            self.asked.fetch_add(1, Ordering::Relaxed);
            if before & 1 == 0 && host.kills.load(Ordering::SeqCst) == before {
                self.faults.lock().unwrap().extend(told.fault());
            }
        }
    }

    /// Looks at everything while nobody asks for anything.
    fn look(&self) {
        let _turn = self.turn.write().unwrap();
        let mut faults = self.faults.lock().unwrap();
        let doors: Vec<Door> = self.hosts.iter().map(Host::door).collect();
        let rests: Vec<Rest<'_>> = self
            .hosts
            .iter()
            .zip(&doors)
            .enumerate()
            .map(|(n, (host, door))| Rest {
                host: n,
                root: &host.root.0,
                door,
                known: &self.known,
                follows: self.replicated.filter(|_| n > 0),
            })
            .collect();
        faults.extend(rests.iter().flat_map(|rest| rest.faults(self.projects)));
        for project in self.projects {
            let is_replicated = self.replicated == Some(*project);
            for rest in rests.iter().filter(|rest| !is_replicated || rest.host == 0) {
                faults.extend(rest.deploys(project, is_replicated).err());
            }
            let versions: Vec<_> = rests.iter().map(|rest| rest.version(project)).collect();
            if is_replicated && versions.iter().any(|version| *version != versions[0]) {
                faults.push(format!("{project} is of several versions: {versions:?}"));
            }
        }
        for (n, host) in self.hosts.iter().enumerate().filter(|_| !faults.is_empty()) {
            let server = host.server.read().unwrap();
            let before = host.log.lock().unwrap().clone();
            let log = before + &server.as_ref().unwrap().log.lock().unwrap();
            eprintln!(
                "--- the log of host {n}, in {}:\n{log}",
                host.root.0.display()
            );
        }
    }

    fn run(&self, seed: u64, time: Duration) {
        let end = Instant::now() + time;
        std::thread::scope(|scope| {
            let _over = Over(&self.over);
            for n in 0..CLIENTS {
                scope.spawn(move || self.ask(n, seed));
            }
            let mut random = Random(seed);
            let mut kills = 0;
            while Instant::now() < end {
                std::thread::sleep(Duration::from_millis(300 + random.below(2_500) as u64));
                let victim = random.below(self.hosts.len());
                let faults = self.hosts[victim].kill(&mut random);
                self.faults.lock().unwrap().extend(faults);
                kills += 1;
                self.look();
                let faults = std::mem::take(&mut *self.faults.lock().unwrap());
                assert!(
                    faults.is_empty(),
                    "seed {seed}, kill {kills}:\n{}",
                    faults.join("\n")
                );
            }
            let asked = self.asked.load(Ordering::Relaxed);
            eprintln!("soak: seed {seed}: {asked} requests, {kills} kills");
        });
    }
}

fn soak(hosts_count: usize, projects: &'static [&'static str], replicated: Option<&'static str>) {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let seed = number("GANGPLANK_SOAK_SEED")
        .unwrap_or_else(|| UNIX_EPOCH.elapsed().unwrap().as_millis() as u64);
    let seconds = number("GANGPLANK_SOAK").unwrap_or(5);
    eprintln!("soak: {hosts_count} servers, seed {seed}, {seconds} s");
    let soak = Soak {
        hosts: hosts(hosts_count),
        projects,
        replicated,
        known: Known::default(),
        over: AtomicBool::new(false),
        turn: RwLock::new(()),
        faults: Mutex::default(),
        asked: AtomicU64::new(0),
    };
    soak.run(seed, Duration::from_secs(seconds));
}

#[test]
fn many_clients_and_kills_leave_what_the_records_say() {
    soak(1, &["a", "b"], None);
}

#[test]
fn servers_that_deploy_to_each_other_and_are_killed_agree_afterwards() {
    soak(3, &["a", "b"], Some("a"));
}
