//! What comes up: how long an event takes to a watcher, and how many lines a second reach a client.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use crate::data::SMALL;
use crate::machine::{self, now_ns};
use crate::server::{self, Server};
use crate::table::{Budget, alone, line, median};

/// How often the flood is let loose.
const RUNS: usize = 3;

/// How many watch, and what they watch.
#[derive(Clone, Copy)]
pub(crate) struct Latency {
    pub(crate) watchers: usize,
    pub(crate) events: usize,
    /// Milliseconds from one event to the next.
    pub(crate) pause: u64,
    /// The milliseconds in which 99 of 100 events are to be there.
    pub(crate) wanted: f64,
}

/// The installation that prints what time it is, line by line with a pause between, once `gate` is there.
pub(crate) fn clock(arguments: &[String]) {
    let [gate, events, pause] = arguments else {
        panic!("the clock needs a gate, a number of events and a pause");
    };
    let pause = Duration::from_millis(pause.parse().unwrap());
    while !Path::new(gate).exists() {
        thread::sleep(Duration::from_millis(1));
    }
    for _ in 0..events.parse().unwrap() {
        println!("{}", now_ns());
        thread::sleep(pause);
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
pub(crate) fn latency(work: &Path, of: Latency) {
    let server = Server::start(work);
    let component = component(work);
    let gate = work.join(format!("gate-{}", of.watchers));
    let clock = [
        gate.display().to_string(),
        of.events.to_string(),
        of.pause.to_string(),
    ];
    let mut deploy = server.deploy(&component, "quiet");
    deploy
        .args(["--project", "bench", "--install-command"])
        .arg(own("clock", &clock));
    let mut deploy = deploy.spawn().unwrap();

    let first = Watcher::join(&server);
    let memory = || machine::memory(server.pid(), "VmRSS").unwrap();
    let (before, threads) = (memory(), machine::threads(server.pid()));
    let more = (1..of.watchers).map(|_| Watcher::join(&server));
    let watchers: Vec<_> = [first].into_iter().chain(more).collect();
    let joined = memory();
    let threads = machine::threads(server.pid()) - threads;
    File::create(&gate).unwrap();
    let mut times = read_all(watchers);
    let each = (memory().max(joined) - before) * 1024.0 / of.watchers as f64;
    assert!(deploy.wait().unwrap().success(), "the deployment failed");
    assert_eq!(
        times.len(),
        of.events * of.watchers,
        "a watcher missed events"
    );
    times.sort_unstable();
    let at = |times: &[u64], percent: usize| times[times.len() * percent / 100] as f64 / 1e6;
    let beside = through_a_pipe(&clock);
    let name = match of.watchers {
        1 => "1 watcher".to_owned(),
        many => format!("{many} watchers"),
    };
    for (percent, budget) in [(50, Budget::None), (99, Budget::Most(of.wanted))] {
        let (ours, beside) = (at(&times, percent), at(&beside, percent));
        let ms = |ms: f64| format!("{ms:.2} ms");
        line(
            &format!("event to {name}, p{percent}, to a pipe"),
            &ms(ours),
            &ms(beside),
            None,
            ours,
            budget,
        );
    }
    if of.watchers > 100 {
        alone("  memory for each", each, "KiB", Budget::Most(24.0));
        let each = threads / of.watchers as f64;
        alone("  threads for each", each, "", Budget::Most(1.0));
    }
}

/// The same lines through one pipe and nothing else: what the machine alone takes, busy as it is.
fn through_a_pipe(clock: &[String]) -> Vec<u64> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let mut child = command
        .arg("clock")
        .args(clock)
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
            .args(["--project", "bench", "--install-command"])
            .arg(own("print", &[count.to_string()]));
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
        Budget::Least(300_000.0),
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
fn own(mode: &str, arguments: &[String]) -> String {
    let program = std::env::current_exe().unwrap();
    let arguments: String = arguments.iter().map(|one| format!(" '{one}'")).collect();
    format!("'{}' {mode}{arguments}", program.display())
}

/// Reads a deployment's events as they come off the wire.
struct Watcher(BufReader<TcpStream>);

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
        Watcher(BufReader::new(stream))
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.0.read_line(&mut line).unwrap();
        (read > 0).then_some(line)
    }
}

/// How long each event took to each watcher, in nanoseconds. One thread reads all of them, since a thread for each would be
/// what is measured.
fn read_all(watchers: Vec<Watcher>) -> Vec<u64> {
    let epoll = epoll::create(CreateFlags::CLOEXEC).unwrap();
    let mut connections: Vec<(TcpStream, Vec<u8>)> = Vec::new();
    for Watcher(reader) in watchers {
        let came = reader.buffer().to_vec();
        let stream = reader.into_inner();
        let place = EventData::new_u64(connections.len() as u64);
        epoll::add(&epoll, &stream, place, EventFlags::IN).unwrap();
        connections.push((stream, came));
    }
    let (mut open, mut times) = (connections.len(), Vec::new());
    let mut ready = Vec::with_capacity(64);
    let mut buffer = [0; 16 << 10];
    while open > 0 {
        epoll::wait(&epoll, spare_capacity(&mut ready), None).unwrap();
        for event in ready.drain(..) {
            let place = usize::try_from(event.data.u64()).unwrap();
            let (stream, came) = &mut connections[place];
            let read = stream.read(&mut buffer).unwrap();
            let now = now_ns();
            if read == 0 {
                epoll::delete(&epoll, &*stream).unwrap();
                open -= 1;
                continue;
            }
            came.extend_from_slice(&buffer[..read]);
            let whole = came.iter().rposition(|byte| *byte == b'\n');
            let lines: Vec<u8> = came.drain(..whole.map_or(0, |at| at + 1)).collect();
            let lines = String::from_utf8(lines).unwrap();
            times.extend(lines.lines().filter_map(printed).map(|at| now - at));
        }
    }
    times
}

/// When the line of an event was printed.
fn printed(line: &str) -> Option<u64> {
    let (_, rest) = line.rsplit_once(r#""line":""#)?;
    rest.trim_end_matches(['}', '"', '\r', '\n']).parse().ok()
}
