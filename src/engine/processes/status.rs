//! What is known of what runs, and what `/proc` says of its memory.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::api::name::{DeploymentId, Project};
use crate::engine::processes::process::Process;
use crate::engine::processes::state::Marks;
use crate::engine::processes::{Processes, state};
use crate::system::host;

/// What is known of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProcessStatus {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its id while it runs.
    pub pid: Option<u32>,
    /// The release that it runs from.
    pub release_id: DeploymentId,
    /// For how long it has been running, in milliseconds.
    pub uptime_ms: Option<u64>,
    /// How often it was started again after it had exited.
    pub restarts: u64,
    /// The memory of its process group, in bytes.
    pub memory: Option<u64>,
    /// How it ended last, if it did.
    pub ended: Option<String>,
}

/// What runs at one moment: however many components are asked for, `/proc` is read once, and only if something runs; so is
/// the directory that says what is to run.
pub struct ProcessSnapshot<'a> {
    processes: &'a Processes,
    /// By the process group's id, in bytes.
    memory: OnceCell<HashMap<u32, u64>>,
    marks: OnceCell<Marks>,
}

impl Processes {
    /// What runs now.
    pub fn snapshot(&self) -> ProcessSnapshot<'_> {
        ProcessSnapshot {
            processes: self,
            memory: OnceCell::new(),
            marks: OnceCell::new(),
        }
    }
}

/// Room for a process's `stat`: 52 numbers and a name of at most 64 bytes.
const STAT_BYTES: usize = 2 << 10;

/// How long a process that was started may take to have its id.
pub(super) const START_MAX: Duration = Duration::from_secs(1);

/// The types of processes and the releases that they run from, in words.
pub fn by_release(all: &[ProcessStatus]) -> String {
    let mut releases: BTreeMap<DeploymentId, Vec<&str>> = BTreeMap::new();
    for one in all {
        releases.entry(one.release_id).or_default().push(&one.kind);
    }
    let words = releases.iter().map(|(id, types)| {
        let types = types.join(", ");
        format!("{types} of release {id}")
    });
    words.collect::<Vec<_>>().join(" and ")
}

impl Processes {
    /// What runs of a component that a release has nothing in the place of: it has neither processes nor a hook. What
    /// cannot be read fails in the restart.
    pub fn without_successor(
        &self,
        project: &Project,
        release: DeploymentId,
    ) -> Vec<ProcessStatus> {
        let plan = self.plan(project, release);
        match plan.is_ok_and(|plan| plan.types.is_empty()) && self.hook(project).is_none() {
            true => self.snapshot().status(project),
            false => Vec::new(),
        }
    }

    /// What runs of a component, in words; it was started if that was not before `begun`.
    pub fn what_runs(&self, project: &Project, begun: Instant) -> String {
        let until = Instant::now() + START_MAX;
        let all = self.component(project).all();
        all.iter().for_each(|one| one.started(until));
        let words = all.iter().map(|one| {
            let (facts, kind) = (one.facts(), &one.launch.kind);
            match facts.pid {
                Some(pid) if facts.since >= begun => format!("{kind} started (pid {pid})"),
                Some(pid) => format!("{kind} runs (pid {pid})"),
                None => {
                    let how = facts
                        .ended
                        .unwrap_or_else(|| "it does not start".to_owned());
                    format!("{kind} does not run ({how})")
                }
            }
        });
        let words: Vec<String> = words.collect();
        if !words.is_empty() {
            return words.join(", ");
        }
        match self.hook(project) {
            Some(_) => "its hook decides what runs".to_owned(),
            None => "nothing of it runs".to_owned(),
        }
    }
}

impl ProcessSnapshot<'_> {
    /// What is known of a component's processes, by type.
    pub fn status(&self, project: &Project) -> Vec<ProcessStatus> {
        let component = self.processes.components().get(project).cloned();
        let all = component.map_or(Vec::new(), |component| component.all());
        all.iter().map(|process| self.of(process)).collect()
    }

    /// Whether somebody has stopped a component.
    pub fn is_stopped(&self, project: &Project) -> bool {
        self.marks().stopped.contains(project)
    }

    /// What is to run of a component and could not be started by this server.
    pub fn missing(&self, project: &Project) -> Vec<ProcessStatus> {
        let marks = self.marks();
        if marks.stopped.contains(project) || !marks.to_run.contains(project) {
            return Vec::new();
        }
        let root = self.processes.setting.store.root();
        let types = state::read(root, project).unwrap_or_default();
        let mut types = types.unwrap_or_default();
        let known = self.processes.component(project);
        types.retain(|kind, _| !known.processes().contains_key(kind));
        let missing = types.into_iter().map(|(kind, release_id)| ProcessStatus {
            kind,
            pid: None,
            release_id,
            uptime_ms: None,
            restarts: 0,
            memory: None,
            ended: Some("it could not be started".to_owned()),
        });
        missing.collect()
    }

    fn marks(&self) -> &Marks {
        let read = || state::marks(self.processes.setting.store.root());
        self.marks.get_or_init(|| read().unwrap_or_default())
    }

    fn of(&self, process: &Arc<Process>) -> ProcessStatus {
        let facts = process.facts();
        let up = u64::try_from(facts.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let memory = |pid| self.memory.get_or_init(memory_of_groups).get(&pid).copied();
        ProcessStatus {
            kind: process.launch.kind.clone(),
            pid: facts.pid,
            release_id: process.launch.release,
            uptime_ms: facts.pid.map(|_| up),
            restarts: facts.restarts,
            memory: facts.pid.and_then(memory),
            ended: facts.ended,
        }
    }
}

/// The resident memory of each process group, in bytes, by the group's id.
fn memory_of_groups() -> HashMap<u32, u64> {
    let mut groups = HashMap::new();
    let Ok(entries) = fs::read_dir("/proc") else {
        return groups;
    };
    let page = host::page_size();
    let mut text = [0; STAT_BYTES];
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.parse::<u32>().ok());
        let of_group = pid.and_then(|pid| {
            let mut file = File::open(format!("/proc/{pid}/stat")).ok()?;
            // The system makes it whole for one reading, and makes it again for each.
            let read = file.read(&mut text).ok()?;
            group_and_pages(&text[..read])
        });
        if let Some((group, pages)) = of_group {
            *groups.entry(group).or_insert(0) += pages * page;
        }
    }
    groups
}

/// The group of a process and its resident pages, from its `stat`: half of what its `status` takes to be made and read.
fn group_and_pages(stat: &[u8]) -> Option<(u32, u64)> {
    // The name, in brackets, may hold anything. Behind it come the state, the parent, the group, and eighteen fields further
    // the pages.
    let behind = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let mut fields = std::str::from_utf8(&stat[behind..])
        .ok()?
        .split_whitespace();
    let group = fields.nth(2)?.parse().ok()?;
    Some((group, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_and_its_pages_stand_behind_the_name() {
        let rest = "S 1 77 77 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 900 4096000 250 18446744073709551615 1 1";
        let table = [
            (format!("12 (sleep) {rest}"), Some((77, 250))),
            (format!("12 (a) R 1 9 (b) {rest}"), Some((77, 250))),
            ("12 (sleep) S 1 77 77 0".to_owned(), None),
            ("12 sleep S 1 77".to_owned(), None),
            (String::new(), None),
        ];
        for (stat, expected) in table {
            assert_eq!(group_and_pages(stat.as_bytes()), expected, "{stat}");
        }
    }

    #[test]
    fn our_own_group_has_memory() {
        let stat = fs::read("/proc/self/stat").unwrap();
        let (group, _) = group_and_pages(&stat).unwrap();
        assert!(memory_of_groups()[&group] > 1 << 20);
    }
}
