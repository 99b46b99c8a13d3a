//! A server to measure, and what the kernel says of it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_gangplank");

/// A running server on a root of its own.
pub(crate) struct Server {
    child: Child,
    address: String,
    token: String,
}

impl Server {
    pub(crate) fn start(work: &Path) -> Server {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let root: PathBuf = work.join(format!("root-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        let mut command = Command::new(BINARY);
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--root"])
            .arg(&root);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let line = BufReader::new(child.stdout.take().unwrap())
            .lines()
            .next()
            .unwrap()
            .unwrap();
        let address = line
            .strip_prefix("listening on http://")
            .unwrap()
            .to_owned();
        let token = std::fs::read_to_string(root.join("admin.token"))
            .unwrap()
            .trim()
            .to_owned();
        Server {
            child,
            address,
            token,
        }
    }

    /// A client of this server.
    pub(crate) fn client(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command
            .args(arguments)
            .env("GANGPLANK_TARGET", format!("http://{}", self.address));
        command.env("GANGPLANK_TOKEN", &self.token);
        command
    }

    /// The lines of the newest deployment's events, once there is one.
    pub(crate) fn watch(&self, project: &str) -> impl Iterator<Item = String> + Send + use<> {
        let path = format!("/deployments/latest/events?project={project}");
        loop {
            // A refusal has no stream: the deployment has not begun. It is looked for without wearing the server out.
            if let Ok(mut lines) = crate::get_lines(&self.address, &self.token, &path)
                && lines.any(|line| line == ": stream open")
            {
                return lines;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// A line of `/proc/PID/status`, in KiB.
    pub(crate) fn memory(&self, name: &str) -> u64 {
        memory(self.child.id(), name).unwrap()
    }
}

/// A line of `/proc/PID/status`, in KiB; none once the process has ended.
pub(crate) fn memory(pid: u32, name: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// The clock that all processes of this machine share.
pub(crate) fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap()
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
