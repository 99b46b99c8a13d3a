//! Every system call of a deployment can fail. Here each does, one after the other: the n-th call of its kind, counted over
//! all threads of the server, gets an error, and what is said, what is live and what runs must agree afterwards.
//!
//! `make inject` goes through all of them. One alone: `make inject ONLY=scenario:call:errno:n`, of which parts may be left out at
//! the end, be empty, or be several with commas between them; `brief,` in front takes one error of each call.

mod answer;
mod check;
mod known;
mod scene;
mod state;
mod tracer;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

pub(crate) use tracer::PROGRAM;

use check::{Injection, enough_misses};
use scene::{CALLS, SCENES, Scene};
use tracer::Tracer;
use world::World;

use crate::needs::{allows, have};

/// How many injections one server has to take: what it remembers of them is not to grow without bound.
const OF_ONE_WORLD: u32 = 60;
/// Tries to make a world: on a machine this busy a start may take too long.
const WORLDS: u32 = 3;

/// Which injections of a scene are asked for.
struct Filter {
    /// The classes of calls; none: all of them.
    calls: Vec<String>,
    errno: Option<String>,
    n: Option<u32>,
    /// Only the first error of each call.
    one_error: bool,
}

impl Filter {
    fn calls(calls: &[&str]) -> Filter {
        Filter {
            calls: calls.iter().map(|call| (*call).to_owned()).collect(),
            errno: None,
            n: None,
            one_error: true,
        }
    }

    /// `scenario:call:errno:n`, where `all` takes everything, and `brief` one error of each call.
    fn asked(asked: &[&str]) -> Filter {
        let part = |at: usize| {
            let part = asked.get(at).filter(|part| !part.is_empty());
            part.map(|part| (*part).to_owned())
        };
        Filter {
            calls: part(1)
                .iter()
                .flat_map(|calls| calls.split(',').map(str::to_owned))
                .collect(),
            errno: part(2),
            n: part(3).and_then(|n| n.parse().ok()),
            one_error: asked[0].starts_with("brief"),
        }
    }

    fn takes(&self, call: &str) -> bool {
        self.calls.is_empty() || self.calls.iter().any(|asked| asked == call)
    }

    fn errors<'a>(&self, all: &[&'a str]) -> Vec<&'a str> {
        let takes = |errno: &&&str| {
            let asked = self.errno.as_ref();
            asked.is_none_or(|asked| asked.split(',').any(|asked| asked == **errno))
        };
        let count = if self.one_error { 1 } else { all.len() };
        all.iter().filter(takes).take(count).copied().collect()
    }
}

/// What was found.
#[derive(Default)]
struct Report {
    ran: AtomicUsize,
    faults: Mutex<Vec<String>>,
}

/// One scene, with the world that it is played in.
struct Play<'a> {
    scene: Scene,
    world: Option<World>,
    played: u32,
    ran: usize,
    report: &'a Report,
}

impl Play<'_> {
    fn world(&mut self) -> &mut World {
        if self.played >= OF_ONE_WORLD {
            self.world = None;
        }
        if self.world.is_none() {
            self.played = 0;
            let mut made = World::new(self.scene);
            for _ in 1..WORLDS {
                if made.is_ok() {
                    break;
                }
                made = World::new(self.scene);
            }
            self.world = Some(made.unwrap_or_else(|why| panic!("{}: {why}", self.scene.name)));
        }
        self.world.as_mut().unwrap()
    }

    /// How often a class of calls is reached, at most.
    fn count(&mut self) -> impl Fn(&str) -> u64 + use<> {
        let mut all = Vec::new();
        for _ in 0..2 {
            let outcome = self.world().inject(None);
            assert_eq!(
                outcome.faults, [""; 0],
                "{} without an injection",
                self.scene.name
            );
            all.push(outcome.seen.counts);
        }
        move |call| {
            let of = |call: &str| {
                all.iter()
                    .filter_map(|one| one[call].as_u64())
                    .max()
                    .unwrap_or(0)
            };
            match call {
                "disk+" => ["create", "write", "mkdir", "symlink", "link"]
                    .map(of)
                    .iter()
                    .sum(),
                "fds+" => ["open", "pipe", "socket", "dup", "epoll", "pidfd"]
                    .map(of)
                    .iter()
                    .sum(),
                _ => of(call),
            }
        }
    }

    /// Lets the n-th call fail, and says whether it was reached.
    fn one(&mut self, injection: &Injection) -> bool {
        let outcome = self.world().inject(Some(injection));
        self.played += 1;
        let Some(hit) = outcome.seen.hits.first() else {
            if !outcome.faults.is_empty() {
                self.world = None;
            }
            return false;
        };
        self.ran += 1;
        if outcome.foreign {
            // What is left of it is not to be taken for what the next one leaves.
            self.world = None;
        }
        if !outcome.faults.is_empty() {
            self.world = None;
            let Injection { call, errno, n, .. } = injection;
            let line = nameless(&format!(
                "{}:{call}:{errno}:{n} | {hit} | {}",
                self.scene.name,
                outcome.faults.join("; ")
            ));
            eprintln!("FAULT {line}");
            self.report.faults.lock().unwrap().push(line);
        }
        true
    }

    fn all(&mut self, filter: &Filter) {
        let count = self.count();
        for (call, errors) in CALLS.iter().filter(|(call, _)| filter.takes(call)) {
            for errno in filter.errors(errors) {
                let injection = |n| Injection {
                    call: (*call).to_owned(),
                    errno: errno.to_owned(),
                    n,
                    of: "",
                };
                if let Some(n) = filter.n {
                    self.one(&injection(n));
                } else if count(call) > 0 {
                    self.until_missed(injection);
                }
            }
        }
    }

    /// The first call, the second one, and so on, until there is none of that number any more.
    fn until_missed(&mut self, injection: impl Fn(u32) -> Injection) {
        let goes_on = injection(1).goes_on();
        let (mut n, mut missed) = (1, 0);
        while missed < enough_misses(self.scene.side) {
            missed = if self.one(&injection(n)) {
                0
            } else {
                missed + 1
            };
            // Where all later calls fail too, one more or less makes little of a difference.
            n += if goes_on { 3 } else { 1 };
        }
    }
}

/// A line without the ids of deployments, so that the same fault is told in the same words.
fn nameless(line: &str) -> String {
    let words = line.split_inclusive(|char: char| !char.is_ascii_hexdigit() && char != '-');
    let words = words.map(|word| {
        let id = word.trim_end_matches(|char: char| !char.is_ascii_hexdigit());
        let long = id.len() == 36 && id.matches('-').count() == 4;
        if long {
            word.replace(id, "ID")
        } else {
            word.to_owned()
        }
    });
    words.collect()
}

/// Plays all scenes that are asked for, several at once: most of the time they wait.
fn play(jobs: &[(Scene, Filter)], report: &Report) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..workers() {
            scope.spawn(|| {
                while let Some((scene, filter)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let begun = Instant::now();
                    let mut play = Play {
                        scene: *scene,
                        world: None,
                        played: 0,
                        ran: 0,
                        report,
                    };
                    play.all(filter);
                    report.ran.fetch_add(play.ran, Ordering::Relaxed);
                    let taken = Duration::from_secs(begun.elapsed().as_secs());
                    eprintln!("{}: {} injections in {taken:?}", scene.name, play.ran);
                }
            });
        }
    });
}

/// What every run of the tests goes through: calls that each scene has few of, and that something hangs on.
const QUICK: &[(&str, &[&str])] = &[
    ("next", &["fsync", "rename", "symlink", "syncfs"]),
    ("restart", &["fsync", "pidfd"]),
    ("delta", &["fsync", "rename"]),
    ("spare", &["truncate"]),
    ("package", &["fsync"]),
    ("release", &["fsync"]),
    ("rollback", &["fsync"]),
    ("cancel", &["fsync"]),
    ("drop", &["fsync"]),
    ("origin", &["symlink", "syncfs"]),
];

fn can_inject() -> bool {
    have("python3")
        && allows(
            "Linux with seccomp's user notification, on a machine whose system calls are known here",
            Tracer::is_possible(),
        )
}

/// Says what was found; what is known already is no news.
fn judge(report: Report, begun: Instant) {
    let faults = report.faults.into_inner().unwrap();
    let ran = report.ran.into_inner();
    let taken = Duration::from_secs(begun.elapsed().as_secs());
    eprintln!(
        "{ran} injections in {taken:?}, {} with a fault",
        faults.len()
    );
    assert!(ran > 0, "nothing was injected");
    let new = faults.iter().filter(|line| !known::is_known(line));
    let new: Vec<&String> = new.collect();
    assert!(new.is_empty(), "{} faults are new: {new:#?}", new.len());
}

#[test]
fn a_call_that_fails_leaves_live_what_is_said_to_be_live() {
    if !can_inject() {
        return;
    }
    let begun = Instant::now();
    let report = Report::default();
    let scene = |name: &str| SCENES.into_iter().find(|scene| scene.name == name);
    let jobs: Vec<(Scene, Filter)> = QUICK
        .iter()
        .map(|(name, calls)| (scene(name).unwrap(), Filter::calls(calls)))
        .collect();
    play(&jobs, &report);
    judge(report, begun);
}

#[test]
fn a_large_file_that_is_half_patched_is_made_anew() {
    if !can_inject() {
        return;
    }
    let scene = SCENES.into_iter().find(|scene| scene.name == "spare");
    let mut world = World::new(scene.unwrap()).unwrap();
    // Two pieces of it change: the second one does not get onto the disk, and then all of it does not.
    for (call, errno, n) in [
        ("write", "EIO", 2),
        ("write", "ENOSPC", 2),
        ("fsync", "EIO", 1),
    ] {
        let outcome = world.inject(Some(&Injection {
            call: call.to_owned(),
            errno: errno.to_owned(),
            n,
            of: "/store/demo/spare/large",
        }));
        let what = format!("{call} {errno}: {:?}", outcome.seen.hits);
        assert_eq!(outcome.seen.hits.len(), 1, "{what}");
        assert_eq!(outcome.faults, [""; 0], "{what}");
        assert_eq!(outcome.success, Some(true), "{what}");
    }
}

#[test]
fn a_deployment_that_cannot_begin_leaves_nothing() {
    if !can_inject() {
        return;
    }
    let scene = SCENES.into_iter().find(|scene| scene.name == "next-plain");
    let mut world = World::new(scene.unwrap()).unwrap();
    // There is no descriptor for the journal, nor for what would remove it; or its first line does not get onto the disk.
    for (call, errno, n) in [
        ("open+", "EMFILE", 1),
        ("open+", "EMFILE", 2),
        ("open", "ENOSPC", 1),
        ("mkdir", "EIO", 1),
        ("write", "ENOSPC", 1),
    ] {
        let outcome = world.inject(Some(&Injection {
            call: call.to_owned(),
            errno: errno.to_owned(),
            n,
            of: "/deployments/",
        }));
        let what = format!("{call} {errno} {n}: {:?}", outcome.seen.hits);
        assert!(!outcome.seen.hits.is_empty(), "{what}");
        assert_eq!(outcome.faults, [""; 0], "{what}");
    }
}

#[test]
fn every_call_of_every_scene_may_fail() {
    let Ok(asked) = std::env::var("GANGPLANK_INJECT") else {
        // `make inject` asks for it: it takes many minutes.
        return;
    };
    if !can_inject() {
        return;
    }
    let begun = Instant::now();
    let report = Report::default();
    let asked: Vec<&str> = asked.split(':').collect();
    let scene = |scene: &Scene| {
        let mut names = asked[0]
            .strip_prefix("brief,")
            .unwrap_or(asked[0])
            .split(',');
        names.any(|name| ["", "all", "brief", scene.name].contains(&name))
    };
    let scenes = SCENES.into_iter().filter(scene);
    let jobs: Vec<(Scene, Filter)> = scenes.map(|scene| (scene, Filter::asked(&asked))).collect();
    play(&jobs, &report);
    judge(report, begun);
}

fn workers() -> usize {
    let asked = std::env::var("GANGPLANK_INJECT_WORKERS").ok();
    asked.and_then(|asked| asked.parse().ok()).unwrap_or(3)
}
