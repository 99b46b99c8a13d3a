//! What runs beside the bench for longer than a call: it ends with the bench, also where a signal ends that.

use std::process::Child;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::machine;

/// The children that run, for [`end_all`].
static RUNNING: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// How long one may take to end what it has started itself.
const GRACE: Duration = Duration::from_secs(20);

/// A child that ends when this is dropped.
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn new(child: Child) -> Running {
        RUNNING.lock().unwrap().push(child.id());
        Running(child)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.lock().unwrap().retain(|pid| *pid != self.0.id());
        signal(self.0.id(), Signal::TERM);
        let begun = Instant::now();
        while begun.elapsed() < GRACE {
            if let Ok(Some(_)) = self.0.try_wait() {
                return;
            }
            thread::sleep(Duration::from_millis(2));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Ends all of them, for a run that ends early.
pub(crate) fn end_all() {
    let running = RUNNING.lock().unwrap().clone();
    for pid in &running {
        signal(*pid, Signal::TERM);
    }
    let begun = Instant::now();
    for pid in running {
        // Nobody waits for them any longer: who has ended is a zombie, and has no memory.
        while machine::memory(pid, "VmRSS").is_some() && begun.elapsed() < GRACE {
            thread::sleep(Duration::from_millis(20));
        }
        signal(pid, Signal::KILL);
    }
}

fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    // One that has ended by itself needs no more.
    let _ = pid.map(|pid| kill_process(pid, signal));
}
