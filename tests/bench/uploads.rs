//! Deployments of each data set, beside the pipes, and the memory that they take.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::data::{Set, sets};
use crate::machine;
use crate::pipes;
use crate::server::{self, Server};
use crate::table::{Budget, alone, line, median};

/// How often each figure is taken.
const RUNS: usize = 3;

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
}

/// Prints what each set costs.
pub(crate) fn measure(work: &Path, scale: u64) {
    let (mut server_peak, mut client_peak, mut idle) = (0.0_f64, 0.0_f64, 0.0_f64);
    for (n, set) in sets(scale).into_iter().enumerate() {
        let dir = work.join(format!("set-{n}"));
        set.write(&dir);
        let server = Server::start(work);
        let (mut ours, mut gzip, mut plain) = (Cost::default(), Cost::default(), Cost::default());
        for run in 0..RUNS {
            // In turn, so that a machine that slows down slows all three.
            ours.of(Some(server.pid()), || {
                let client = server.deploy(&dir, "quiet").spawn().unwrap();
                client_peak = client_peak.max(server::peak(client));
            });
            let into = |kind: &str| work.join(format!("{kind}-{n}-{run}"));
            gzip.of(None, || pipes::copy(&dir, &into("gzip"), true));
            plain.of(None, || pipes::copy(&dir, &into("plain"), false));
        }
        let peak = machine::memory(server.pid(), "VmHWM").unwrap();
        server_peak = server_peak.max(peak);
        // The time after which a server that has nothing to do is at rest.
        std::thread::sleep(Duration::from_secs(1));
        idle = idle.max(machine::memory(server.pid(), "VmRSS").unwrap());
        report(&set, ours, gzip, plain);
    }
    let budget = Budget::Most(Some(32.0), Some(16.0));
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
        Budget::Most(Some(6.0), Some(4.0)),
    );
}

fn report(set: &Set, ours: Cost, gzip: Cost, plain: Cost) {
    let [ours, gzip, plain] = [ours, gzip, plain].map(|cost| {
        let Cost {
            wall,
            synced,
            processor,
        } = cost;
        [wall, synced, processor].map(median)
    });
    let pipes = [
        ("to tar|gzip -1|tcp|tar", gzip, set.to_gzip),
        ("to tar|tcp|tar", plain, set.to_plain),
    ];
    println!("{}", set.name);
    for (pipe, beside, (first, then)) in pipes {
        let budget = Budget::Most(first, then);
        // A process's time is told in ticks of 10 ms, so that of the smallest set says nothing.
        let told = if beside[2] < 0.05 { 2 } else { 3 };
        for (kind, at, budget) in [
            ("", 0, budget),
            (", all on disk", 1, Budget::None),
            (", CPU", 2, Budget::None),
        ]
        .into_iter()
        .take(told)
        {
            let ratio = ours[at] / beside[at];
            let seconds = |seconds: f64| format!("{seconds:.3} s");
            let what = format!("  {pipe}{kind}");
            line(
                &what,
                &seconds(ours[at]),
                &seconds(beside[at]),
                Some(ratio),
                ratio,
                budget,
            );
        }
    }
}
