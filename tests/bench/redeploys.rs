//! Redeployments of which little has changed, beside rsync with `--link-dest` to a daemon of its own, into a new directory
//! too: what they take, what the client sends, and the memory of both.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::attic::Attic;
use crate::data::Set;
use crate::link;
use crate::machine;
use crate::rsync::Daemon;
use crate::server::{self, Server};
use crate::table::{Budget, line, median};

/// How often each figure is taken; of what takes a moment, more often.
const RUNS: [usize; 2] = [3, 9];

/// What is changed of a large file: a megabyte.
const CHANGED: u64 = 1_000_000;

/// How long the stand-in of npm takes, in seconds: a third of what npm takes for as many packages.
const INSTALL: u32 = 2;

/// How many packages it installs.
const PACKAGES: u64 = 71;

/// What is deployed again.
struct Redeploy {
    name: &'static str,
    set: Set,
    /// Seconds from the client's start to its end, and what it sends.
    wanted: (f64, Budget),
    /// The same for a client that remembers nothing of the tree.
    afresh: Option<(f64, u64)>,
    kind: Kind,
}

/// What is particular about it.
#[derive(PartialEq)]
enum Kind {
    /// A line is added to a small file.
    Files,
    /// A part of a large file is written anew.
    Large,
    /// As files, but it has a lock file, which stays as it is.
    Installed,
}

fn redeploys(scale: u64) -> [Redeploy; 5] {
    let large = (1 << 30) / scale;
    [
        Redeploy {
            name: "12 files",
            set: Set::of(12, 64 << 10, 10),
            wanted: (0.010, Budget::None),
            afresh: None,
            kind: Kind::Files,
        },
        Redeploy {
            name: "11,512 files, 97 MB",
            set: Set::of(11_512 / scale, 97_000_000 / scale, 9),
            wanted: (0.15, Budget::Most(2e3)),
            afresh: Some((0.3, 500_000)),
            kind: Kind::Files,
        },
        Redeploy {
            name: "30,000 files, 78 MB",
            set: Set::of(30_000 / scale, 78_000_000 / scale, 9),
            wanted: (0.3, Budget::Most(4e3)),
            afresh: None,
            kind: Kind::Files,
        },
        Redeploy {
            name: "1 GiB in one file, 1 MB changed",
            set: Set::of(1, large, 0),
            wanted: (0.3, Budget::Most(large as f64 * 0.002)),
            afresh: None,
            kind: Kind::Large,
        },
        Redeploy {
            name: "an app, its 71 packages as before",
            set: Set::of(60, 2_000_000, 9),
            wanted: (0.5, Budget::None),
            afresh: None,
            kind: Kind::Installed,
        },
    ]
}

impl Redeploy {
    /// Changes it as for this run.
    fn change(&self, dir: &Path, run: usize, scale: u64) {
        let first = dir.join("d00/f0");
        if self.kind != Kind::Large {
            // The size changes too: rsync does not look into a file for which only the time is another one within a second.
            let mut file = OpenOptions::new().append(true).open(first).unwrap();
            return writeln!(file, "changed in run {run}").unwrap();
        }
        let file = File::options().write(true).open(first).unwrap();
        let size = file.metadata().unwrap().len();
        let piece: Vec<u8> = (0..CHANGED / scale)
            .map(|n| (n ^ n >> 8) as u8 ^ run as u8)
            .collect();
        file.write_all_at(&piece, size / 3).unwrap();
    }
}

/// What is measured beside each other.
struct Rivals<'a> {
    server: &'a Server,
    daemon: Option<&'a Daemon>,
    redeploy: &'a Redeploy,
    dir: &'a Path,
    client_peak: f64,
}

impl Rivals<'_> {
    fn deploy(&mut self, change: impl FnOnce(&mut Command)) -> f64 {
        let mut deploy = self.server.deploy(self.dir, "quiet");
        deploy.args(["--project", "bench"]);
        change(&mut deploy);
        self.server.rest();
        let begun = Instant::now();
        let peak = server::peak(deploy.spawn().unwrap());
        self.client_peak = self.client_peak.max(peak);
        begun.elapsed().as_secs_f64()
    }

    fn rsync(&self, run: usize, through: Option<&link::Link>) -> Option<f64> {
        let (to, like) = (format!("copy-{run}"), run.checked_sub(1));
        let like = like.map(|run| format!("copy-{run}"));
        rustix::fs::sync();
        let begun = Instant::now();
        self.daemon?.copy(self.dir, &to, like.as_deref(), through);
        Some(begun.elapsed().as_secs_f64())
    }
}

/// Prints what each redeployment costs.
pub(crate) fn measure(scale: u64, attic: &mut Attic) {
    for redeploy in redeploys(scale) {
        let here = attic.new_dir();
        let dir = here.join("component");
        redeploy.set.write(&dir);
        let server = match redeploy.kind {
            Kind::Installed => Server::start_with(&here, &install(&here, &dir)),
            _ => Server::start(&here),
        };
        let daemon = Daemon::start(&here);
        if let Err(why) = &daemon {
            println!("without rsync: {why}");
        }
        let mut rivals = Rivals {
            server: &server,
            daemon: daemon.as_ref().ok(),
            redeploy: &redeploy,
            dir: &dir,
            client_peak: 0.0,
        };
        println!("{}, deployed again", redeploy.name);
        one(&mut rivals, scale);
        drop(server);
        drop(daemon);
        attic.retire(here, redeploy.set.has_few_files());
    }
}

fn one(rivals: &mut Rivals<'_>, scale: u64) {
    let server = rivals.server;
    rivals.deploy(|_| ());
    rivals.rsync(0, None);
    server.rest();
    machine::forget_peak(server.pid());
    rivals.client_peak = 0.0;
    let (mut ours, mut afresh, mut rsync) = (Vec::new(), Vec::new(), Vec::new());
    // The last run of each goes through what counts, and the one before it, too: a client remembers a tree for each address.
    let (link, theirs) = (
        link::start(server.address(), None),
        rivals.daemon.map(Daemon::link),
    );
    let (mut remembered, mut forgotten) = (0, 0);
    let runs = RUNS[usize::from(rivals.redeploy.set.is_small())];
    for run in 1..=runs + 2 {
        rivals.redeploy.change(rivals.dir, run, scale);
        let through = run > runs;
        let counted = run == runs + 2;
        let before = link.sent();
        let wall = rivals.deploy(|deploy| {
            if through {
                deploy.env("GANGPLANK_TARGET", format!("http://{}", link.address));
            }
        });
        remembered = link.sent() - before;
        let theirs = rivals.rsync(run, theirs.as_ref().filter(|_| counted));
        if !through {
            ours.push(wall);
            rsync.extend(theirs);
        }
        if rivals.redeploy.afresh.is_none() {
            continue;
        }
        rivals.redeploy.change(rivals.dir, runs + 2 + run, scale);
        let other = link::start(server.address(), None);
        let wall = rivals.deploy(|deploy| {
            deploy.env(
                "XDG_CACHE_HOME",
                rivals.dir.with_extension(format!("{run}")),
            );
            if counted {
                deploy.env("GANGPLANK_TARGET", format!("http://{}", other.address));
            }
        });
        if counted {
            forgotten = other.sent();
        } else if !through {
            afresh.push(wall);
        }
    }
    let (wanted, most) = rivals.redeploy.wanted;
    let sent = (remembered, theirs.map(|theirs| theirs.sent()));
    report("", ours, rsync, wanted, sent, most);
    if let Some((wanted, most)) = rivals.redeploy.afresh {
        let most = Budget::Most(most as f64);
        report(
            ", afresh",
            afresh,
            Vec::new(),
            wanted,
            (forgotten, None),
            most,
        );
    }
    let peaks = [
        ("client", rivals.client_peak),
        ("server", machine::memory(server.pid(), "VmHWM").unwrap()),
    ];
    for (who, peak) in peaks {
        let (what, figure) = (format!("  {who} RSS, peak"), format!("{peak:.2} MiB"));
        line(&what, &figure, "", None, peak, Budget::Most(16.0));
    }
}

/// Prints what it took beside what rsync took, and what was sent.
fn report(
    how: &str,
    ours: Vec<f64>,
    rsync: Vec<f64>,
    wanted: f64,
    (sent, theirs): (u64, Option<u64>),
    most: Budget,
) {
    let ours = median(ours);
    let seconds = |seconds: f64| format!("{seconds:.3} s");
    let what = format!("  wall{how}");
    line(&what, &seconds(ours), "", None, ours, Budget::Most(wanted));
    if !rsync.is_empty() {
        let rsync = median(rsync);
        let ratio = ours / rsync;
        let (ours, rsync) = (seconds(ours), seconds(rsync));
        let ahead = Budget::Most(1.0);
        line(
            "  to rsync --link-dest",
            &ours,
            &rsync,
            Some(ratio),
            ratio,
            ahead,
        );
    }
    let bytes = |bytes: u64| format!("{bytes} B");
    let what = format!("  sent by the client{how}");
    let ratio = theirs.map(|theirs| sent as f64 / theirs as f64);
    let theirs = theirs.map_or(String::new(), bytes);
    line(&what, &bytes(sent), &theirs, ratio, sent as f64, most);
}

/// Makes an app of a directory, with a lock file and the packages that it names, and a stand-in for npm that installs these.
/// rsync copies them with the rest. Gives the directory of the stand-in.
fn install(here: &Path, dir: &Path) -> PathBuf {
    let packages = here.join("packages");
    Set::of(PACKAGES * 100, PACKAGES * 500_000, 9).write(&packages);
    for package in fs::read_dir(&packages).unwrap() {
        let package = package.unwrap();
        let name = package.file_name().into_string().unwrap();
        let manifest = format!(r#"{{ "name": "{name}", "version": "1.0.0" }}"#);
        fs::write(package.path().join("package.json"), manifest).unwrap();
    }
    let programs = here.join("programs");
    fs::create_dir_all(&programs).unwrap();
    let npm = format!(
        "case $1 in --version) echo 10.9.0 ;; *) sleep {INSTALL} && cp -R '{}' node_modules ;; esac",
        packages.display()
    );
    for (name, script) in [("npm", &*npm), ("node", "echo v22.0.0")] {
        let file = programs.join(name);
        fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let manifest = r#"{ "name": "bench", "version": "1.0.0", "dependencies": { "d00": "1.0.0" } }"#;
    fs::write(dir.join("package.json"), manifest).unwrap();
    let lock = r#"{ "name": "bench", "lockfileVersion": 3, "packages": {} }"#;
    fs::write(dir.join("package-lock.json"), lock).unwrap();
    let copied = Command::new("cp")
        .arg("-R")
        .arg(&packages)
        .arg(dir.join("node_modules"))
        .status();
    assert!(copied.unwrap().success(), "cp failed");
    programs
}
