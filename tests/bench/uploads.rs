//! First deployments of each data set, beside the pipes and rsync, and the memory that they take.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::attic::Attic;
use crate::data::{Set, sets};
use crate::machine;
use crate::pipes;
use crate::rsync::Sshd;
use crate::server::{self, Server};
use crate::table::{Budget, alone, line, median};

/// How often each figure is taken; of what takes a moment, more often.
const RUNS: [usize; 2] = [3, 15];

/// No run of a set is begun after that: a slow machine shows fewer.
const LONG: Duration = Duration::from_secs(60);

/// What is larger is copied through `gzip -1` once: nothing depends on how long that takes, and it takes longer than all others.
const LARGE: u64 = 300_000_000;

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

    /// A process's time is told in ticks of 10 ms: a mean of many small ones says more than one of them.
    fn figures(&self) -> [f64; 3] {
        let mean = self.processor.iter().sum::<f64>() / self.processor.len() as f64;
        [median(self.wall.clone()), median(self.synced.clone()), mean]
    }
}

/// Another way to copy a tree.
struct Beside {
    name: &'static str,
    way: Way,
    cost: Cost,
    /// Whether ours is to be ahead of it.
    behind: bool,
}

/// How.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// Through this compressor.
    Pipe(Option<&'static str>),
    Rsync,
}

/// What all sets were copied with.
struct Rivals {
    sshd: Option<Sshd>,
    has_zstd: bool,
}

impl Rivals {
    fn find(work: &Path) -> Rivals {
        let sshd = Sshd::start(work);
        if let Err(why) = &sshd {
            println!("without rsync over ssh: {why}");
        }
        let has_zstd = machine::runs("zstd");
        if !has_zstd {
            println!("without tar|zstd -1|tcp: there is no zstd");
        }
        Rivals {
            sshd: sshd.ok(),
            has_zstd,
        }
    }

    fn all(&self, set: &Set) -> Vec<Beside> {
        let all = [
            (PLAIN, Way::Pipe(None), false),
            ("tar|gzip -1|tcp|tar", Way::Pipe(Some("gzip")), false),
            (
                "tar|zstd -1|tcp|tar",
                Way::Pipe(Some("zstd")),
                set.ahead_of_zstd,
            ),
            ("rsync over ssh", Way::Rsync, true),
        ];
        all.into_iter()
            .filter(|(_, way, _)| match way {
                Way::Pipe(Some("zstd")) => self.has_zstd,
                Way::Pipe(_) => true,
                Way::Rsync => self.sshd.is_some(),
            })
            .map(|(name, way, behind)| Beside {
                name,
                way,
                cost: Cost::default(),
                behind,
            })
            .collect()
    }

    fn copy(&self, beside: &mut Beside, from: &Path, to: &Path) {
        let cost = &mut beside.cost;
        match (beside.way, &self.sshd) {
            (Way::Pipe(compressor), _) => cost.of(None, || pipes::copy(from, to, compressor)),
            (Way::Rsync, Some(sshd)) => cost.of(Some(sshd.pid()), || sshd.copy(from, to)),
            (Way::Rsync, None) => {}
        }
    }
}

/// The most that was seen, in MiB.
#[derive(Default)]
struct Peaks {
    server: f64,
    client: f64,
    idle: f64,
}

/// Prints what each set costs.
pub(crate) fn measure(work: &Path, scale: u64, attic: &mut Attic) {
    let rivals = Rivals::find(work);
    let mut peaks = Peaks::default();
    for set in sets(scale) {
        one(&set, &rivals, &mut peaks, attic);
    }
    let rows = [
        ("server RSS, peak of all deployments", peaks.server, 16.0),
        ("client RSS, peak of all deployments", peaks.client, 16.0),
        ("server RSS, idle after deployments", peaks.idle, 8.0),
    ];
    for (what, figure, most) in rows {
        alone(what, figure, "MiB", Budget::Most(most));
    }
}

fn one(set: &Set, rivals: &Rivals, peaks: &mut Peaks, attic: &mut Attic) {
    let here = attic.new_dir();
    let dir = here.join("component");
    set.write(&dir);
    let server = Server::start(&here);
    let mut ours = Cost::default();
    let mut beside = rivals.all(set);
    let runs = RUNS[usize::from(set.is_small())];
    let begun = Instant::now();
    for run in 0..runs {
        if run > 0 && begun.elapsed() > LONG {
            break;
        }
        // In turn, so that a machine that slows down slows all of them.
        ours.of(Some(server.pid()), || {
            let client = server.first(&dir, run).spawn().unwrap();
            peaks.client = peaks.client.max(server::peak(client));
        });
        // What it does later on, a spare tree above all, is not to slow down the others.
        server.rest();
        if set.has_few_files() {
            server.forget(run);
        }
        for (n, beside) in beside.iter_mut().enumerate() {
            if run > 0 && set.bytes() > LARGE && beside.way == Way::Pipe(Some("gzip")) {
                continue;
            }
            let into = here.join(format!("beside-{n}-{run}"));
            rivals.copy(beside, &dir, &into);
            if set.has_few_files() {
                std::fs::remove_dir_all(&into).unwrap();
            }
        }
    }
    let peak = machine::memory(server.pid(), "VmHWM").unwrap();
    peaks.server = peaks.server.max(peak);
    // The time after which a server that has nothing to do is at rest.
    std::thread::sleep(Duration::from_secs(1));
    let idle = machine::memory(server.pid(), "VmRSS").unwrap();
    peaks.idle = peaks.idle.max(idle);
    report(set, &ours, &beside);
    drop(server);
    attic.retire(here, set.has_few_files());
}

fn report(set: &Set, ours: &Cost, beside: &[Beside]) {
    let runs = ours.wall.len();
    let ours = ours.figures();
    let seconds = |seconds: f64| format!("{seconds:.3} s");
    println!("{}, {runs} times", set.name);
    if let Some(most) = set.wanted_wall {
        let wall = seconds(ours[0]);
        line("  wall", &wall, "", None, ours[0], Budget::Most(most));
    }
    for Beside {
        name, cost, behind, ..
    } in beside
    {
        // So few ticks say nothing.
        let told = if cost.processor.iter().sum::<f64>() < 0.1 {
            2
        } else {
            3
        };
        let cost = cost.figures();
        let kinds = ["", ", all on disk", ", CPU"];
        for (at, kind) in kinds.into_iter().enumerate().take(told) {
            let budget = match (at, behind) {
                (0, true) => Budget::Most(1.0),
                (0, false) if *name == PLAIN => Budget::Most(set.wanted),
                (2, false) if *name == PLAIN => Budget::Most(1.7),
                _ => Budget::None,
            };
            let ratio = ours[at] / cost[at];
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

/// Prints the server's memory while many upload at once, and when it has had time to rest.
pub(crate) fn at_once(scale: u64, attic: &mut Attic) {
    let here = attic.new_dir();
    let dir = here.join("component");
    let set = Set::of(10, 24_000_000 / scale, 5);
    set.write(&dir);
    for (which, binary) in server::binaries() {
        let server = Server::start_as(&here, &binary);
        let clients: Vec<_> = (0..AT_ONCE)
            .map(|n| {
                let mut deploy = server.deploy(&dir, "quiet");
                deploy.args(["--project", &format!("bench-{n}")]);
                deploy.spawn().unwrap()
            })
            .collect();
        for mut client in clients {
            assert!(client.wait().unwrap().success(), "a deployment failed");
        }
        let peak = machine::memory(server.pid(), "VmHWM").unwrap();
        std::thread::sleep(Duration::from_secs(10));
        let rest = machine::memory(server.pid(), "VmRSS").unwrap();
        let of = format!("{which}server RSS, peak of {AT_ONCE} uploads");
        alone(&of, peak, "MiB", Budget::Most(32.0));
        alone("  ten seconds later", rest, "MiB", Budget::Most(8.0));
        let root = server.root().to_owned();
        drop(server);
        std::fs::remove_dir_all(root).unwrap();
    }
    attic.retire(here, true);
}
