//! What the kernel says: of the machine, of memory, of processor time, and what time it is.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// One line about the machine, without which the figures mean nothing.
pub(crate) fn describe(work: &Path) -> String {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("unknown", |rest| rest.trim_start_matches(['\t', ':', ' ']));
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "gangplank {version}; {cores} cores, {model}; in {}",
        work.display()
    )
}

/// Bytes free on the disk.
pub(crate) fn free(path: &Path) -> u64 {
    let stat = rustix::fs::statvfs(path).unwrap();
    stat.f_bavail * stat.f_frsize
}

/// Whether a program is there.
pub(crate) fn runs(program: &str) -> bool {
    let mut command = Command::new(program);
    let command = command
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// A line of `/proc/PID/status`, in MiB; none once the process has ended.
pub(crate) fn memory(pid: u32, name: &str) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with(name))?;
    let kibibytes: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes / 1024.0)
}

/// How many threads a process has.
pub(crate) fn threads(pid: u32) -> f64 {
    fs::read_dir(format!("/proc/{pid}/task")).unwrap().count() as f64
}

/// Begins the measure of a process's peak anew.
pub(crate) fn forget_peak(pid: u32) {
    // What the kernel does with a 5 is told in proc(5).
    fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
}

/// Seconds of processor time that a process and the children that it waited for have used.
pub(crate) fn processor_time(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name may hold anything, so the fields are counted from its closing parenthesis: the 12th to 15th behind it.
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks = fields
        .split(' ')
        .skip(11)
        .take(4)
        .map(|field| field.parse::<f64>().unwrap());
    // The kernel tells it in hundredths on every architecture.
    ticks.sum::<f64>() / 100.0
}

/// The clock that all processes of this machine share, in nanoseconds.
pub(crate) fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap()
}
