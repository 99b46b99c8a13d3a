//! Deployments of each data set, beside the pipes and rsync, and the memory that they take.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::data::{Set, sets};
use crate::link;
use crate::machine;
use crate::pipes;
use crate::rsync::Sshd;
use crate::server::{self, Server};
use crate::table::{Budget, alone, line, median};

/// How often each figure is taken.
const RUNS: usize = 3;

/// Clients that upload at once.
const AT_ONCE: u64 = 64;

/// What all others are measured by: the least that a copy over TCP takes.
const PLAIN: &str = "tar|tcp|tar";

/// What one way of copying cost, in seconds.
#[derive(Default)]
struct Cost {
    wall: Vec<f64>,
    /// The same, until all of it is on disk.
    synced: Vec<f64>,
    processor: Vec<f64>,
}

impl Cost {
    fn of(&mut self, server: Option<u32>, work: impl FnOnce()) {
        rustix::fs::sync();
        // Of the bench itself too: it is the connection between the pipes.
        let used = || {
            let own = machine::processor_time(std::process::id());
            own + server.map_or(0.0, machine::processor_time)
        };
        let (before, begun) = (used(), Instant::now());
        work();
        self.wall.push(begun.elapsed().as_secs_f64());
        self.processor.push(used() - before);
        rustix::fs::sync();
        self.synced.push(begun.elapsed().as_secs_f64());
    }

    fn medians(self) -> [f64; 3] {
        [self.wall, self.synced, self.processor].map(median)
    }
}

/// Another way to copy a tree.
struct Beside {
    name: &'static str,
    cost: Cost,
    /// Whether ours is to be ahead of it.
    behind: bool,
}

/// Prints what each set costs.
pub(crate) fn measure(work: &Path, scale: u64) {
    let sshd = Sshd::start(work);
    if let Err(why) = &sshd {
        println!("without rsync over ssh: {why}");
    }
    let has_zstd = machine::runs("zstd");
    if !has_zstd {
        println!("without tar|zstd -1|tcp: there is no zstd");
    }
    let (mut server_peak, mut client_peak, mut idle) = (0.0_f64, 0.0_f64, 0.0_f64);
    for set in sets(scale) {
        let here = work.join("set");
        let dir = here.join("component");
        set.write(&dir);
        let server = Server::start(&here);
        let zstd = has_zstd.then_some(Some("zstd"));
        let compressors = [None, Some("gzip")].into_iter().chain(zstd);
        let mut ours = Cost::default();
        let mut beside: Vec<(Beside, Option<&str>)> = compressors
            .map(|compressor| {
                let (name, behind) = match compressor {
                    None => (PLAIN, false),
                    Some("zstd") => ("tar|zstd -1|tcp|tar", set.ahead_of_zstd),
                    _ => ("tar|gzip -1|tcp|tar", false),
                };
                let cost = Cost::default();
                (Beside { name, cost, behind }, compressor)
            })
            .collect();
        let mut synced = Cost::default();
        for run in 0..RUNS {
            // In turn, so that a machine that slows down slows all of them.
            ours.of(Some(server.pid()), || {
                let client = server.first(&set, &dir, run).spawn().unwrap();
                client_peak = client_peak.max(server::peak(client));
            });
            for (n, (beside, compressor)) in beside.iter_mut().enumerate() {
                let into = here.join(format!("beside-{n}-{run}"));
                beside
                    .cost
                    .of(None, || pipes::copy(&dir, &into, *compressor));
            }
            if let Ok(sshd) = &sshd {
                let into = here.join(format!("rsync-{run}"));
                synced.of(Some(sshd.pid()), || sshd.copy(&dir, &into));
            }
        }
        let mut beside: Vec<Beside> = beside.into_iter().map(|(beside, _)| beside).collect();
        if sshd.is_ok() {
            beside.push(Beside {
                name: "rsync over ssh",
                cost: synced,
                behind: true,
            });
        }
        let peak = machine::memory(server.pid(), "VmHWM").unwrap();
        server_peak = server_peak.max(peak);
        // The time after which a server that has nothing to do is at rest.
        std::thread::sleep(Duration::from_secs(1));
        idle = idle.max(machine::memory(server.pid(), "VmRSS").unwrap());
        report(&set, ours, beside);
        if set.through_link {
            through_link(&server, &set, &dir);
        }
        drop(server);
        // The next set finds the disk as this one did: what is removed is gone before it begins.
        std::fs::remove_dir_all(&here).unwrap();
        rustix::fs::sync();
    }
    let budget = Budget::Most(16.0);
    alone(
        "server RSS, peak of all deployments",
        server_peak,
        "MiB",
        budget,
    );
    alone(
        "client RSS, peak of all deployments",
        client_peak,
        "MiB",
        budget,
    );
    alone(
        "server RSS, idle after deployments",
        idle,
        "MiB",
        Budget::Most(8.0),
    );
}

fn report(set: &Set, ours: Cost, beside: Vec<Beside>) {
    let ours = ours.medians();
    println!("{}", set.name);
    for Beside { name, cost, behind } in beside {
        let cost = cost.medians();
        // A process's time is told in ticks of 10 ms, so that of the smallest set says nothing.
        let told = if cost[2] < 0.05 { 2 } else { 3 };
        let kinds = ["", ", all on disk", ", CPU"];
        for (at, kind) in kinds.into_iter().enumerate().take(told) {
            let budget = match (at, behind) {
                (0, true) => Budget::Most(1.0),
                (0, false) if name == PLAIN => Budget::Most(set.wanted),
                (2, false) if name == PLAIN => Budget::Most(1.7),
                _ => Budget::None,
            };
            let ratio = ours[at] / cost[at];
            let seconds = |seconds: f64| format!("{seconds:.3} s");
            let what = format!("  to {name}{kind}");
            line(
                &what,
                &seconds(ours[at]),
                &seconds(cost[at]),
                Some(ratio),
                ratio,
                budget,
            );
        }
    }
}

/// Prints what a set costs where the link is what is slow, beside what the link takes for the bytes of `gzip -6`.
fn through_link(server: &Server, set: &Set, dir: &Path) {
    let link = link::start(server.address(), Some(link::RATE));
    let mut ours = Cost::default();
    for run in 0..RUNS {
        let mut deploy = server.first(set, dir, RUNS + run);
        deploy.env("GANGPLANK_TARGET", format!("http://{}", link.address));
        ours.of(None, || {
            server::peak(deploy.spawn().unwrap());
        });
    }
    let [ours, ..] = ours.medians();
    let least = pipes::gzipped(dir) as f64 / link::RATE as f64;
    let seconds = |seconds: f64| format!("{seconds:.3} s");
    line(
        "  by 100 Mbit/s, to its gzip -6",
        &seconds(ours),
        &seconds(least),
        Some(ours / least),
        ours / least,
        Budget::Most(1.1),
    );
}

/// Prints the server's memory while many upload at once, and when it has had time to rest.
pub(crate) fn at_once(work: &Path, scale: u64) {
    let here = work.join("at-once");
    let dir = here.join("component");
    let set = Set::of(10, 24_000_000 / scale, 5);
    set.write(&dir);
    let server = Server::start(&here);
    let clients: Vec<_> = (0..AT_ONCE)
        .map(|n| {
            let mut deploy = server.deploy(&dir, "quiet");
            deploy.args([
                "--project",
                &format!("bench-{n}"),
                "--install-command",
                "true",
            ]);
            deploy.spawn().unwrap()
        })
        .collect();
    for mut client in clients {
        assert!(client.wait().unwrap().success(), "a deployment failed");
    }
    let peak = machine::memory(server.pid(), "VmHWM").unwrap();
    std::thread::sleep(Duration::from_secs(10));
    let rest = machine::memory(server.pid(), "VmRSS").unwrap();
    let of = format!("server RSS, peak of {AT_ONCE} uploads at once");
    alone(&of, peak, "MiB", Budget::Most(32.0));
    alone("  ten seconds later", rest, "MiB", Budget::Most(8.0));
    drop(server);
    std::fs::remove_dir_all(&here).unwrap();
}
