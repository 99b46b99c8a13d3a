//! What comes up: how long an event takes to a watcher, and how many lines a second reach a client.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::data::SMALL;
use crate::machine::now_ns;
use crate::server::{self, Server};
use crate::table::{Budget, alone, line, median};

/// Events whose way is timed, a millisecond apart.
const EVENTS: usize = 2000;
/// How often the flood is let loose.
const RUNS: usize = 3;

/// The installation that prints what time it is, a line a millisecond, once `gate` is there.
pub(crate) fn clock(gate: &str) {
    while !Path::new(gate).exists() {
        thread::sleep(Duration::from_millis(1));
    }
    for _ in 0..EVENTS {
        println!("{}", now_ns());
        thread::sleep(Duration::from_millis(1));
    }
}

/// The installation that prints so many lines, as long as a package manager's.
pub(crate) fn print(count: &str) {
    let mut out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    for n in 0..count.parse::<u64>().unwrap() {
        writeln!(out, "added some-package@1.{n} from the cache").unwrap();
    }
    out.flush().unwrap();
}

/// How long an event takes from the program that prints it to each of so many watchers.
pub(crate) fn latency(work: &Path, watchers: usize) {
    let server = Server::start(work);
    let component = component(work);
    let gate = work.join(format!("gate-{watchers}"));
    let mut deploy = server.deploy(&component, "quiet");
    deploy
        .arg("--install-command")
        .arg(own("clock", &gate.display().to_string()));
    let mut deploy = deploy.spawn().unwrap();

    let watching: Vec<_> = (0..watchers)
        .map(|_| {
            let watcher = Watcher::join(&server);
            thread::spawn(move || watcher.times())
        })
        .collect();
    File::create(&gate).unwrap();
    let mut times = Vec::new();
    for thread in watching {
        times.extend(thread.join().unwrap());
    }
    assert!(deploy.wait().unwrap().success(), "the deployment failed");
    assert_eq!(times.len(), EVENTS * watchers, "a watcher missed events");
    times.sort_unstable();
    let at = |times: &[u64], percent: usize| times[times.len() * percent / 100] as f64 / 1e6;
    let beside = through_a_pipe(&gate);
    let of = if watchers == 1 {
        "1 watcher".to_owned()
    } else {
        format!("{watchers} watchers")
    };
    let (first, then) = if watchers == 1 {
        (Some(5.0), None)
    } else {
        (None, Some(5.0))
    };
    for (percent, budget) in [(50, Budget::None), (99, Budget::Most(first, then))] {
        let (ours, beside) = (at(&times, percent), at(&beside, percent));
        let ms = |ms: f64| format!("{ms:.2} ms");
        line(
            &format!("event to {of}, p{percent}, to a pipe"),
            &ms(ours),
            &ms(beside),
            None,
            ours,
            budget,
        );
    }
}

/// The same lines through one pipe and nothing else: what the machine alone takes, busy as it is.
fn through_a_pipe(gate: &Path) -> Vec<u64> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let mut child = command
        .arg("clock")
        .arg(gate)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let times = lines.map(|line| now_ns().saturating_sub(line.unwrap().parse().unwrap()));
    let mut times: Vec<u64> = times.collect();
    assert!(child.wait().unwrap().success());
    times.sort_unstable();
    times
}

/// How many lines of an installation a second reach a plain client.
pub(crate) fn lines(work: &Path, count: u64) {
    let server = Server::start(work);
    let component = component(work);
    let (mut printed, mut arrived) = (Vec::new(), Vec::new());
    for run in 0..RUNS {
        let path = work.join(format!("lines-{run}"));
        let mut deploy = server.deploy(&component, "plain");
        deploy
            .arg("--install-command")
            .arg(own("print", &count.to_string()));
        let begun = Instant::now();
        let client = deploy
            .stderr(File::create(&path).unwrap())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        server::peak(client);
        let seconds = begun.elapsed().as_secs_f64();
        let shown = BufReader::new(File::open(&path).unwrap())
            .lines()
            .map(Result::unwrap);
        let shown = shown.filter(|line| line.starts_with("  | ")).count();
        printed.push(count as f64 / seconds);
        arrived.push(shown as f64 * 100.0 / count as f64);
    }
    alone(
        "install lines to a plain client",
        median(printed),
        "/s",
        Budget::Least(100_000.0),
    );
    alone(
        "  of which the client was shown",
        median(arrived),
        "%",
        Budget::None,
    );
}

fn component(work: &Path) -> std::path::PathBuf {
    let dir = work.join("component");
    if !dir.exists() {
        SMALL.write(&dir);
    }
    dir
}

/// The command line that runs this program as something else.
fn own(mode: &str, argument: &str) -> String {
    let program = std::env::current_exe().unwrap();
    format!("'{}' {mode} '{argument}'", program.display())
}

/// Reads a deployment's events as they come off the wire.
struct Watcher(BufReader<Stamped>);

/// A connection that remembers when it last gave something.
struct Stamped {
    stream: TcpStream,
    at: u64,
}

impl Read for Stamped {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.read(buffer);
        self.at = now_ns();
        read
    }
}

impl Watcher {
    /// Watches the newest deployment, and has seen its installation begin.
    fn join(server: &Server) -> Watcher {
        // A deployment that has not begun yet is asked for again; ten seconds are enough for any machine.
        for _ in 0..1000 {
            let mut newest = Watcher::ask(server, "/deployments/latest/events?project=bench");
            let lines = std::iter::from_fn(|| newest.line());
            let location = lines
                .filter_map(|line| Some(line.strip_prefix("Location: ..")?.trim().to_owned()))
                .next();
            if let Some(rest) = location {
                let mut watcher = Watcher::ask(server, &format!("/deployments{rest}"));
                while let Some(line) = watcher.line() {
                    if line.contains(r#""phase":"install","status":"start""#) {
                        return watcher;
                    }
                }
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("there is no installation to watch");
    }

    fn ask(server: &Server, path: &str) -> Watcher {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\r\n",
            server.token()
        );
        stream.write_all(request.as_bytes()).unwrap();
        Watcher(BufReader::with_capacity(1 << 16, Stamped { stream, at: 0 }))
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.0.read_line(&mut line).unwrap();
        (read > 0).then_some(line)
    }

    /// How long each event took, in nanoseconds.
    fn times(mut self) -> Vec<u64> {
        let mut times = Vec::with_capacity(EVENTS);
        while let Some(line) = self.line() {
            let printed = line
                .rsplit_once(r#""line":""#)
                .map(|(_, rest)| rest.trim_end_matches(['}', '"', '\r', '\n']));
            if let Some(printed) = printed.and_then(|printed| printed.parse::<u64>().ok()) {
                times.push(self.0.get_ref().at.saturating_sub(printed));
            }
        }
        times
    }
}
