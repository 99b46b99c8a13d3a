//! The benchmark: what a deployment costs, beside pipes of `tar` and rsync over ssh, in one run on one machine.
//!
//! It prints one table, each figure beside what is wanted of it and as soon as it is known, and never fails because of a
//! figure: a busy machine makes slow ones. Figures are medians of three runs, or of more of what takes a moment. Each run goes
//! into new directories, and what has many files is removed at the end of all, since removing a tree just before unpacking
//! measures the removal; before each run, what the last one wrote is put on disk. A program beside that is not there is named
//! and left out.
//! `quick` as an argument or in `GANGPLANK_BENCH` takes a tenth of the data; the names of [`PARTS`] there measure these alone.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod attic;
mod children;
mod data;
mod events;
mod link;
mod links;
mod machine;
mod pipes;
mod redeploys;
mod rsync;
mod server;
mod status;
mod table;
mod uploads;

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::attic::Attic;
use crate::events::Latency;

/// A quick row of events; some that come often; and many that come seldom.
const LATENCIES: [Latency; 3] = [
    Latency {
        watchers: 1,
        events: 2000,
        pause: 1,
        wanted: 2.0,
    },
    Latency {
        watchers: 100,
        events: 400,
        pause: 5,
        wanted: 5.0,
    },
    Latency {
        watchers: 1000,
        events: 40,
        pause: 50,
        wanted: 20.0,
    },
];

/// What can be measured alone.
const PARTS: [&str; 8] = [
    "uploads",
    "links",
    "redeploys",
    "server",
    "status",
    "at-once",
    "events",
    "lines",
];

/// Everything that a run makes; dropping it removes it.
struct Work(PathBuf);

impl Drop for Work {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // Re-executed as what an installation runs.
    match arguments.first().map(String::as_str) {
        Some("clock") => return events::clock(&arguments[1..]),
        Some("print") => return events::print(&arguments[1]),
        _ => {}
    }
    let more = std::env::var("GANGPLANK_BENCH").unwrap_or_default();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let words = [words, more.split_whitespace().collect()].concat();
    let quick = words.contains(&"quick");
    let all = !words.iter().any(|word| PARTS.contains(word));
    let asked = |part: &str| all || words.contains(&part);
    let name = format!("gangplank-bench-{}", std::process::id());
    let work = Work(std::env::temp_dir().join(name));
    std::fs::create_dir_all(&work.0).unwrap();
    leave_nothing(work.0.clone());
    let scale = if quick { 10 } else { 1 };
    if let Some(missing) = missing(&work.0, scale) {
        println!("not measured: {missing}");
        return;
    }
    println!("{}", machine::describe(&work.0));
    if quick {
        println!(
            "quick: a tenth of the data, so the figures of memory and speed are kinder than they should be"
        );
    }
    let begun = Instant::now();
    let mut attic = Attic::below(&work.0);
    table::head();
    if asked("uploads") {
        uploads::measure(&work.0, scale, &mut attic);
    }
    if asked("links") {
        links::measure(scale, &mut attic);
    }
    if asked("redeploys") {
        redeploys::measure(scale, &mut attic);
    }
    if asked("server") {
        server::measure(&work.0);
    }
    if asked("status") {
        status::measure(scale, &mut attic);
    }
    if asked("at-once") {
        uploads::at_once(scale, &mut attic);
    }
    if asked("events") {
        for of in LATENCIES {
            events::latency(&work.0, of);
        }
    }
    if asked("lines") {
        events::lines(&work.0, 1_000_000 / scale);
    }
    println!("all of it took {} s", begun.elapsed().as_secs());
}

/// Ends the servers and removes what was made if a signal ends the run.
fn leave_nothing(work: PathBuf) {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).unwrap();
    thread::spawn(move || {
        if signals.forever().next().is_some() {
            children::end_all();
            rsync::leave_nothing();
            // Who is being ended may still write; a removal that fails for that is tried again.
            for _ in 0..100 {
                if std::fs::remove_dir_all(&work).is_ok() {
                    break;
                }
                thread::sleep(Duration::from_millis(20));
            }
            std::process::exit(130);
        }
    });
}

/// Why it cannot be measured here, if it cannot.
fn missing(work: &Path, scale: u64) -> Option<String> {
    // What is there of one set at its end: mostly of the 30,000 files, of which each of three runs makes seven copies.
    let needed = (10 << 30) / scale;
    let free = machine::free(work);
    if free < needed {
        let (needed, free) = (needed >> 20, free >> 20);
        return Some(format!(
            "{} has {free} MiB free and {needed} MiB are needed; TMPDIR says where, GANGPLANK_BENCH=quick needs a tenth",
            work.parent().unwrap_or(work).display()
        ));
    }
    ["tar", "gzip"]
        .into_iter()
        .find(|program| !machine::runs(program))
        .map(|program| format!("there is no {program} to measure beside"))
}
