//! The benchmark: what a deployment costs, beside pipes of `tar`, in one run on one machine.
//!
//! It prints one table and never fails for a figure: a machine that is busy makes slow ones. Each figure is the median of
//! three runs, each into new directories, since removing a tree just before unpacking in its place measures the removal.
//! `GANGPLANK_BENCH=quick` takes data sets of a tenth of the size.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod data;
mod server;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::data::Set;
use crate::server::{BINARY, Server};

/// How often each figure is taken.
const RUNS: usize = 3;
/// Events whose way to the watcher is timed.
const EVENTS: usize = 2000;

fn main() {
    // Re-executed as the thing that is installed: prints its clock, line by line.
    if std::env::args().nth(1).as_deref() == Some("clock") {
        return clock();
    }
    let work = std::env::temp_dir().join(format!("gangplank-bench-{}", std::process::id()));
    std::fs::create_dir_all(&work).unwrap();
    let scale = if std::env::var("GANGPLANK_BENCH").is_ok_and(|word| word == "quick") {
        10
    } else {
        1
    };
    println!(
        "{:<44} {:>10} {:>10} {:>10}  budget",
        "what", "ours", "pipe", "ratio"
    );
    uploads(&work, scale);
    small_figures(&work);
    latency(&work, 1);
    latency(&work, 100);
    lines(&work, 1_000_000 / scale);
    let _ = std::fs::remove_dir_all(&work);
}

fn row(what: &str, ours: &str, pipe: &str, ratio: &str, budget: &str) {
    println!("{what:<44} {ours:>10} {pipe:>10} {ratio:>10}  {budget}");
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Our deploy of each data set, beside what it does the work of and beside the limit.
fn uploads(work: &Path, scale: u64) {
    let (mut server_peak, mut client_peak) = (0, 0);
    for set in Set::all(scale) {
        let dir = work.join(set.name.replace(' ', "-"));
        set.write(&dir);
        let server = Server::start(work);
        let mut times = [Vec::new(), Vec::new(), Vec::new()];
        for run in 0..RUNS {
            // In turn, so that a machine that slows down slows all three.
            times[0].push(timed(|| {
                client_peak = client_peak.max(deploy(&server, &dir))
            }));
            let into =
                |name: &str| work.join(format!("{name}-{}-{run}", set.name.replace(' ', "-")));
            times[1].push(timed(|| {
                pipe(&dir, &into("gzip"), Some(("gzip -1", "gzip -d")))
            }));
            times[2].push(timed(|| pipe(&dir, &into("plain"), None)));
        }
        server_peak = server_peak.max(server.memory("VmHWM"));
        let [ours, gzip, plain] = times.map(median);
        let seconds = |time: f64| format!("{time:.2} s");
        row(
            &format!("{}, to tar|gzip -1|tcp|tar", set.name),
            &seconds(ours),
            &seconds(gzip),
            &format!("{:.2}", ours / gzip),
            set.against_gzip,
        );
        row(
            &format!("{}, to tar|tcp|tar", set.name),
            &seconds(ours),
            &seconds(plain),
            &format!("{:.2}", ours / plain),
            set.against_plain,
        );
    }
    row(
        "server peak RSS",
        &mebibytes(server_peak),
        "",
        "",
        "<= 32 MiB, then 16",
    );
    row(
        "client peak RSS",
        &mebibytes(client_peak),
        "",
        "",
        "<= 32 MiB, then 16",
    );
}

fn timed(work: impl FnOnce()) -> f64 {
    // What the run before left to be written must not be paid for by this one: a deployment ends on disk, a pipe does not.
    rustix::fs::sync();
    let begun = Instant::now();
    work();
    begun.elapsed().as_secs_f64()
}

fn mebibytes(kibibytes: u64) -> String {
    format!("{:.1} MiB", kibibytes as f64 / 1024.0)
}

/// Deploys, and gives the client's peak memory in KiB.
fn deploy(server: &Server, dir: &Path) -> u64 {
    let mut client = server.client(&["deploy", "--project", "bench", "--progress", "quiet"]);
    let mut client = client.arg(dir).stdout(Stdio::null()).spawn().unwrap();
    let mut peak = 0;
    loop {
        // The high-water mark only grows, so the last look before the end is the peak.
        peak = peak.max(server::memory(client.id(), "VmHWM").unwrap_or(0));
        if let Some(status) = client.try_wait().unwrap() {
            assert!(status.success(), "the deployment failed");
            return peak;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// `tar -c | [compress |] tcp | [decompress |] tar -x`: two shells, and a connection between them.
fn pipe(from: &Path, to: &Path, gzip: Option<(&str, &str)>) {
    std::fs::create_dir_all(to).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let out = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (input, _) = listener.accept().unwrap();
    let (pack, unpack) = match gzip {
        Some((compress, decompress)) => (
            format!("tar -c . | {compress}"),
            format!("{decompress} | tar -x"),
        ),
        None => ("tar -c .".to_owned(), "tar -x".to_owned()),
    };
    let shell = |dir: &Path, line: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", line]).current_dir(dir);
        command
    };
    let end = out.try_clone().unwrap();
    let mut sender = shell(from, &pack)
        .stdout(std::os::fd::OwnedFd::from(out))
        .spawn()
        .unwrap();
    let mut receiver = shell(to, &unpack)
        .stdin(std::os::fd::OwnedFd::from(input))
        .spawn()
        .unwrap();
    assert!(sender.wait().unwrap().success());
    end.shutdown(Shutdown::Write).unwrap();
    assert!(receiver.wait().unwrap().success());
}

fn small_figures(work: &Path) {
    let mut starts = Vec::new();
    let mut idle = Vec::new();
    for _ in 0..RUNS {
        let begun = Instant::now();
        let server = Server::start(work);
        starts.push(begun.elapsed().as_secs_f64() * 1000.0);
        idle.push(server.memory("VmRSS") as f64);
    }
    row(
        "start to listening",
        &format!("{:.1} ms", median(starts)),
        "",
        "",
        "<= 30 ms",
    );
    row(
        "server idle RSS",
        &mebibytes(median(idle) as u64),
        "",
        "",
        "<= 6 MiB, then 4",
    );
    let size = std::fs::metadata(BINARY).unwrap().len();
    row(
        "binary",
        &mebibytes(size / 1024),
        "",
        "",
        "<= 4 MiB, then 3",
    );
}

/// Prints the monotonic clock, a line each millisecond.
fn clock() {
    for _ in 0..EVENTS {
        println!("{}", server::monotonic_ns());
        // The pause between two events is what is measured, not a wait for something.
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// How long an event takes from the program that prints it to a watcher, with so many watchers.
fn latency(work: &Path, watchers: usize) {
    let server = Server::start(work);
    let component = work.join("small");
    data::Set::all(10)[0].write(&component);
    let gate = work.join(format!("gate-{watchers}"));
    let command = format!(
        "while [ ! -e {} ]; do sleep 0.01; done; {} clock",
        gate.display(),
        std::env::current_exe().unwrap().display()
    );
    let mut client = server.client(&[
        "deploy",
        "--project",
        "bench",
        "--progress",
        "quiet",
        "--install-command",
        &command,
    ]);
    let mut deploy = client
        .arg(&component)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let watching: Vec<_> = (0..watchers)
        .map(|_| {
            let mut lines = server.watch("bench");
            // There once it has seen the installation begin.
            lines
                .find(|line| line.contains(r#""phase":"install","status":"start""#))
                .unwrap();
            std::thread::spawn(move || {
                let mut times = Vec::with_capacity(EVENTS);
                for line in lines {
                    let now = server::monotonic_ns();
                    let stamp = line
                        .rsplit_once(r#""line":""#)
                        .and_then(|(_, rest)| rest.strip_suffix("\"}"));
                    times.extend(
                        stamp
                            .and_then(|stamp| stamp.parse::<u64>().ok())
                            .map(|then| now - then),
                    );
                    if line == "event: done" {
                        break;
                    }
                }
                times
            })
        })
        .collect();
    std::fs::write(&gate, "").unwrap();
    let mut times: Vec<u64> = watching
        .into_iter()
        .flat_map(|thread| thread.join().unwrap())
        .collect();
    assert!(deploy.wait().unwrap().success());
    assert_eq!(times.len(), EVENTS * watchers, "a watcher missed events");
    times.sort_unstable();
    let at = |share: f64| {
        format!(
            "{:.2} ms",
            times[(times.len() as f64 * share) as usize] as f64 / 1e6
        )
    };
    row(
        &format!("event to {watchers} watchers, p50"),
        &at(0.5),
        "",
        "",
        "",
    );
    row(
        &format!("event to {watchers} watchers, p99"),
        &at(0.99),
        "",
        "",
        "<= 5 ms",
    );
}

/// Lines of an installation a second, from its output to that of a plain client.
fn lines(work: &Path, count: u64) {
    let server = Server::start(work);
    let component = work.join("small");
    let command = format!("seq {count}");
    let mut rates = Vec::new();
    for _ in 0..RUNS {
        let mut client = server.client(&[
            "deploy",
            "--project",
            "bench",
            "--progress",
            "plain",
            "--install-command",
            &command,
        ]);
        let begun = Instant::now();
        let mut deploy = client
            .arg(&component)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut shown, mut last) = (0_u64, String::new());
        for line in BufReader::new(deploy.stderr.take().unwrap()).lines() {
            last = line.unwrap();
            shown += u64::from(last.starts_with("  | "));
        }
        assert!(deploy.wait().unwrap().success(), "{last}");
        rates.push(shown as f64 / begun.elapsed().as_secs_f64());
    }
    row(
        "install lines a second to a plain client",
        &format!("{:.0}", median(rates)),
        "",
        "",
        ">= 100000",
    );
}

/// Reads a stream's head, and nothing behind it.
fn skip_head(stream: &mut TcpStream) -> io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(())
}

/// Sends a `GET` that answers with events, and gives the lines of the stream with those of its chunks.
fn get_lines(
    address: &str,
    token: &str,
    path: &str,
) -> io::Result<impl Iterator<Item = String> + Send + use<>> {
    let mut stream = TcpStream::connect(address)?;
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    skip_head(&mut stream)?;
    Ok(BufReader::new(stream).lines().map_while(Result::ok))
}
