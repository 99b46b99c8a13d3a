//! One process, kept running: a thread that starts it, writes down what it prints, and starts it again when it exits.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;

use crate::api::error::{Doing, Error};
use crate::api::name::{DeploymentId, Project};
use crate::engine::processes::line;
use crate::engine::processes::output::OutputLog;
use crate::system::account::Account;
use crate::system::child::{
    self, Ended, Line, PROCESS, RunOptions, ServerMark, SurvivorScope, random,
};
use crate::system::log;
use crate::system::stop::{self, SharedStopper, Stop};
use crate::system::threads;

/// Between SIGTERM and SIGKILL.
pub(super) const STOP_GRACE: Duration = Duration::from_secs(10);
/// The first pause before a process that exited is started again; each further one is twice as long, up to the last.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));
/// After so long up, the pauses begin with the first one again.
const STEADY: Duration = Duration::from_secs(60);
/// How long it is tried to start again what ran before: a machine that has no thread for so long has none for more either.
const START_AGAIN_MAX: Duration = Duration::from_secs(10);
const START_AGAIN_WAIT: Duration = Duration::from_millis(100);
/// Lines that are kept for the error of a restart that fails.
const TAIL_LINES: usize = 20;
/// The thread copies lines and waits; its buffers are on the heap.
const STACK_BYTES: usize = 256 << 10;

/// What a process is started from, each time anew.
#[derive(Debug, Clone)]
pub(super) struct Launch {
    pub(super) project: Project,
    /// The process type.
    pub(super) kind: String,
    /// What `sh` runs.
    pub(super) line: String,
    /// The deployment that built its release.
    pub(super) release: DeploymentId,
    /// Its release's directory.
    pub(super) dir: PathBuf,
    /// What its environment says of the server.
    pub(super) mark: ServerMark,
    /// Everything in its environment.
    pub(super) environment: Vec<(OsString, OsString)>,
    /// The socket where somebody waits for the first word of it.
    pub(super) notify: Option<String>,
    pub(super) account: Option<Arc<Account>>,
    /// What it listens on, if that is held for it.
    pub(super) socket: Option<Arc<TcpListener>>,
    /// How often any process was started again.
    pub(super) all_restarts: Arc<AtomicU64>,
}

/// What is known of a process.
#[derive(Debug, Clone)]
pub(super) struct ProcessFacts {
    /// Its id while it runs.
    pub(super) pid: Option<u32>,
    /// When it was started last.
    pub(super) since: Instant,
    /// How often it was started again.
    pub(super) restarts: u64,
    /// How it ended last, if it did.
    pub(super) ended: Option<String>,
    /// What it printed last.
    pub(super) tail: VecDeque<(&'static str, String)>,
}

#[derive(Debug)]
struct ProcessState {
    facts: Mutex<ProcessFacts>,
    changed: Condvar,
}

impl ProcessState {
    fn lock(&self) -> MutexGuard<'_, ProcessFacts> {
        // Facts may be old after a panic, and are not wrong.
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut ProcessFacts)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

/// A process that is kept running until it is stopped.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) launch: Launch,
    shared: Arc<ProcessState>,
    stopper: SharedStopper,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Process {
    /// Starts it. What goes wrong with that is told as its end.
    ///
    /// # Errors
    /// When there is no thread or no descriptor for it.
    pub(super) fn start(launch: Launch, output: &Arc<OutputLog>) -> Result<Arc<Process>, Error> {
        let (stopper, stop) = stop::pair()?;
        let facts = ProcessFacts {
            pid: None,
            since: Instant::now(),
            restarts: 0,
            ended: None,
            tail: VecDeque::new(),
        };
        let shared = Arc::new(ProcessState {
            facts: Mutex::new(facts),
            changed: Condvar::new(),
        });
        let keeper = Supervisor {
            launch: launch.clone(),
            output: Arc::clone(output),
            shared: Arc::clone(&shared),
            stop,
            name: format!("{}-{}", launch.kind, random()?),
        };
        let name = format!("process-{}", launch.kind);
        let thread = threads::spawn(name, STACK_BYTES, move || keeper.keep())
            .doing(|| format!("making a thread for {} of {}", launch.kind, launch.project))?;
        Ok(Arc::new(Process {
            launch,
            shared,
            stopper: SharedStopper::new(stopper),
            thread: Mutex::new(Some(thread)),
        }))
    }

    /// Starts what ran before, and tries that for a while: it is not to stay away because of one moment in which there was
    /// no thread or no descriptor for it.
    ///
    /// # Errors
    /// As [`Process::start`], if that has not changed, or the server is stopping.
    pub(super) fn start_again(
        launch: &Launch,
        output: &Arc<OutputLog>,
        is_stopping: &dyn Fn() -> bool,
    ) -> Result<Arc<Process>, Error> {
        let until = Instant::now() + START_AGAIN_MAX;
        loop {
            match Process::start(launch.clone(), output) {
                Err(error) if Instant::now() < until && !is_stopping() => {
                    let what = format!("starting {} of {}", launch.kind, launch.project);
                    log::warn(&format!("{what} again: {error}; it is tried once more"));
                    thread::sleep(START_AGAIN_WAIT);
                }
                started => return started,
            }
        }
    }

    pub(super) fn facts(&self) -> ProcessFacts {
        self.shared.lock().clone()
    }

    /// Whether it runs.
    pub(super) fn is_up(&self) -> bool {
        self.shared.lock().pid.is_some()
    }

    /// Waits until something changes, at most so long.
    pub(super) fn wait(&self, time: Duration) {
        let facts = self.shared.lock();
        // Whoever waits looks again anyway.
        drop(self.shared.changed.wait_timeout(facts, time));
    }

    /// Waits until it has an id, or the reason why not is known, at most until then.
    pub(super) fn started(&self, until: Instant) {
        let known = |facts: &ProcessFacts| facts.pid.is_some() || facts.ended.is_some();
        while !known(&self.facts()) && Instant::now() < until {
            self.wait(Duration::from_millis(10));
        }
    }

    /// Tells it to end, and does not wait for that.
    pub(super) fn tell_to_stop(&self) {
        self.stopper.stop();
    }

    /// Waits until it has ended after it was told to, at most until then, and says whether it has.
    pub(super) fn stop_until(&self, deadline: Instant) -> bool {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        while thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            if Instant::now() >= deadline {
                return false;
            }
            self.wait(Duration::from_millis(10));
        }
        *thread = None;
        true
    }

    /// Ends it and its whole group, and waits until that is so.
    pub(super) fn stop(&self) {
        self.tell_to_stop();
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // One that panicked has said so in the log, and its child is killed.
            let _ = thread.join();
        }
    }
}

/// Ends several at once.
pub(super) fn stop_all(processes: &[Arc<Process>]) {
    processes.iter().for_each(|process| process.tell_to_stop());
    processes.iter().for_each(|process| process.stop());
}

/// What the thread of a process has.
struct Supervisor {
    launch: Launch,
    output: Arc<OutputLog>,
    shared: Arc<ProcessState>,
    stop: Stop,
    /// Nobody else's: what descends from it is found by it.
    name: String,
}

impl Supervisor {
    fn keep(self) {
        let name = format!("process {} of {}", self.launch.kind, self.launch.project);
        let mut pause = PAUSE.0;
        // Only at first: later nobody listens there, and a process that cannot tell may take that for a failure.
        let mut notify = self.launch.notify.as_deref();
        loop {
            let begun = Instant::now();
            // The standard library panics where it has no descriptor for a new process: that ends a try, not the process.
            let run = catch_unwind(AssertUnwindSafe(|| self.run(notify.take())));
            let how = run.unwrap_or_else(|_| "it could not be started".to_owned());
            if self.stop.stopped() {
                self.shared.change(|facts| facts.pid = None);
                self.note("stopped");
                return;
            }
            self.shared.change(|facts| {
                facts.pid = None;
                facts.ended = Some(how.clone());
            });
            if begun.elapsed() >= STEADY {
                pause = PAUSE.0;
            }
            let seconds = pause.as_secs_f64();
            let ended = format!("ended ({how}) and is started again in {seconds} s");
            self.note(&ended);
            log::warn(&format!("{name} {ended}"));
            match self.stop.channel().recv_timeout(pause) {
                Err(RecvTimeoutError::Timeout) => {}
                _ => return,
            }
            pause = (pause * 2).min(PAUSE.1);
            self.shared.change(|facts| facts.restarts += 1);
            self.launch.all_restarts.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Runs it once, and says how it ended.
    fn run(&self, notify: Option<&str>) -> String {
        let launch = &self.launch;
        let mut command = line::command(&launch.line, launch.socket.is_some());
        let environment = launch.environment.iter();
        command
            .current_dir(&launch.dir)
            .env_clear()
            .envs(environment.map(|(key, value)| (key, value)))
            .env(PROCESS, &self.name)
            .envs(notify.map(|name| ("NOTIFY_SOCKET", name)));
        let stdin = match self.socket() {
            Ok(stdin) => stdin,
            Err(error) => return error.to_string(),
        };
        let started = |pid| {
            self.shared.change(|facts| {
                facts.pid = Some(pid);
                facts.since = Instant::now();
            });
            self.note(&format!("started (pid {pid})"));
        };
        let how = RunOptions {
            account: launch.account.as_deref(),
            limit: None,
            grace: STOP_GRACE,
            stdin,
            spares_family: false,
            started: Some(&started),
        };
        let ended = child::run(command, how, &self.stop, &mut |line| {
            self.take(line);
            Ok(())
        });
        // What left its group goes too: it would run beside the next one.
        if let Err(error) = child::end_survivors(&launch.mark, SurvivorScope::Process(&self.name)) {
            log::warn(&error.to_string());
        }
        match ended {
            Ok(Ended::Exited(status)) => exit(status),
            Ok(Ended::Stopped | Ended::TimedOut) => "stopped".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    fn socket(&self) -> std::io::Result<Stdio> {
        match &self.launch.socket {
            Some(socket) => Ok(Stdio::from(OwnedFd::from(socket.try_clone()?))),
            None => Ok(child::no_input()),
        }
    }

    /// Says in the component's log what has become of it, and which release it is of.
    fn note(&self, what: &str) {
        let text = format!("{what}, release {}", self.launch.release);
        self.output.note(&self.launch.kind, &text);
    }

    fn take(&self, line: Line) {
        self.output.write(&self.launch.kind, &line);
        let mut facts = self.shared.lock();
        if facts.tail.len() == TAIL_LINES {
            facts.tail.pop_front();
        }
        facts.tail.push_back((line.stream.word(), line.text));
    }
}

/// How a command ended, in words.
pub(super) fn exit(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}
