//! First deployments through links of different speeds: what is compressed with what, and how long that takes beside the best
//! that any fixed level does, and on a slow link beside what `gzip -6` would take.
//!
//! A link is a proxy of ours. Clients reach it by an address of this machine that is not a loopback one, so that they take it
//! for a host elsewhere, or, as a tunnel, by the loopback. Two processors are shared by a client, a server and the proxy: the
//! quickest links are not as quick as they say, and what they really gave stands in the last column of their level 0.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::attic::Attic;
use crate::data::Set;
use crate::link::{self, Link, MEGABIT};
use crate::pipes;
use crate::server::{self, Server};
use crate::table::{Budget, line, median};

/// How often each figure is taken.
const RUNS: usize = 3;

/// What nothing can be sent more quickly than, but for so much.
const WANTED: f64 = 1.1;

/// The links on which what counts is what is sent.
const SLOW: [u64; 1] = [100];

/// The links on which what counts is the processor, too; in Mbit/s.
const QUICK: [u64; 4] = [1000, 2500, 5000, 10_000];

/// The fixed levels beside the choice of the client.
const LEVELS: [&str; 2] = ["0", "1"];

/// One way of sending.
#[derive(Clone, Copy)]
enum Sender {
    /// The client finds out itself, and knows nothing of the link yet.
    Unknown,
    /// It knows the link of an earlier deployment.
    Known,
    Level(&'static str),
}

/// What a deployment through a link showed.
struct Sent {
    seconds: f64,
    bytes: u64,
    codec: &'static str,
}

/// A server, a set, and what counts its deployments.
struct Sending<'a> {
    server: &'a Server,
    dir: &'a Path,
    /// Removing a large tree would make the next one slow: ext4 passes over what was freed a moment ago.
    forgets: bool,
    deployments: usize,
}

/// Prints what each link costs.
pub(crate) fn measure(scale: u64, attic: &mut Attic) {
    let elsewhere = link::own_address();
    if elsewhere.is_none() {
        println!("without links to elsewhere: this machine has no address but the loopback");
    }
    let sets = [
        (
            "11,512 files, 100 MB",
            Set::of(11_512 / scale, 100_000_000 / scale, 9),
            &SLOW[..],
        ),
        (
            "a JavaScript app, 76 MB",
            Set::of(1893 / scale, 76_000_000 / scale, 5),
            &SLOW[..],
        ),
        (
            "256 MB of text",
            Set::of(8, (256 << 20) / scale, 10),
            &QUICK[..],
        ),
    ];
    for (name, set, links) in sets {
        let here = attic.new_dir();
        let dir = here.join("component");
        set.write(&dir);
        let server = Server::start(&here);
        let mut sending = Sending {
            server: &server,
            dir: &dir,
            forgets: set.has_few_files(),
            deployments: 0,
        };
        let slow = links == SLOW;
        let least = slow.then(|| pipes::gzipped(&dir));
        println!("{name}, through a link");
        for megabits in links {
            if let Some(address) = elsewhere {
                let link = link::start_at(address, server.address(), Some(megabits * MEGABIT));
                sending.rows(&format!("{megabits} Mbit/s"), &link, least);
            }
            if slow {
                let link = link::start(server.address(), Some(megabits * MEGABIT));
                sending.rows(&format!("a tunnel of {megabits}"), &link, least);
            }
        }
        drop(server);
        attic.retire(here, set.has_few_files());
    }
}

impl Sending<'_> {
    /// The rows of one link; `least` is what of all is to be sent on a slow one.
    fn rows(&mut self, name: &str, link: &Link, least: Option<u64>) {
        let mut senders = vec![Sender::Unknown, Sender::Known];
        if least.is_none() {
            senders.extend(LEVELS.map(Sender::Level));
        }
        let mut shown: Vec<Vec<Sent>> = senders.iter().map(|_| Vec::new()).collect();
        for run in 0..RUNS {
            let cache = self
                .dir
                .with_extension(format!("cache-{}-{run}", self.deployments));
            for (sender, shown) in senders.iter().zip(&mut shown) {
                shown.push(self.send(*sender, link, &cache));
            }
        }
        let medians: Vec<f64> = shown
            .iter()
            .map(|shown| median(shown.iter().map(|sent| sent.seconds).collect()))
            .collect();
        let best = match least {
            Some(bytes) => bytes as f64 / link.rate() as f64,
            None => medians[2..].iter().copied().fold(f64::INFINITY, f64::min),
        };
        for ((sender, shown), seconds) in senders.iter().zip(&shown).zip(medians) {
            let (who, budget) = match sender {
                Sender::Unknown => ("unknown".to_owned(), Budget::Most(WANTED)),
                Sender::Known => ("known".to_owned(), Budget::Most(WANTED)),
                Sender::Level(level) => (format!("--level {level}"), Budget::None),
            };
            let Sent { bytes, codec, .. } = shown[shown.len() - 1];
            let what = format!("  {name}, {who}: {codec} {:.1} MB", bytes as f64 / 1e6);
            let told = |seconds: f64| format!("{seconds:.3} s");
            let ratio = seconds / best;
            line(
                &what,
                &told(seconds),
                &told(best),
                Some(ratio),
                ratio,
                budget,
            );
        }
    }

    fn send(&mut self, sender: Sender, link: &Link, cache: &Path) -> Sent {
        let run = self.deployments;
        self.deployments += 1;
        let mut deploy: Command = self.server.first(self.dir, run);
        deploy.env("GANGPLANK_TARGET", format!("http://{}", link.address));
        deploy.env("XDG_CACHE_HOME", cache);
        if let Sender::Level(level) = sender {
            deploy.args(["--level", level]);
        }
        rustix::fs::sync();
        let (before, begun) = (link.sent(), Instant::now());
        server::peak(deploy.spawn().unwrap());
        let seconds = begun.elapsed().as_secs_f64();
        let bytes = link.sent() - before;
        let codec = codec(self.server.root());
        self.server.rest();
        if self.forgets {
            self.server.forget(run);
        }
        Sent {
            seconds,
            bytes,
            codec,
        }
    }
}

/// What the newest payload begins with.
fn codec(root: &Path) -> &'static str {
    let mut deployments: Vec<PathBuf> = fs::read_dir(root.join("deployments"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    deployments.sort();
    let newest = deployments.last().unwrap().join("payload");
    let mut magic = [0; 4];
    File::open(newest).unwrap().read_exact(&mut magic).unwrap();
    match magic {
        [0x1f, 0x8b, ..] => "gzip",
        [0x04, 0x22, 0x4d, 0x18] => "lz4",
        _ => "tar",
    }
}
