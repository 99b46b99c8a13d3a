//! What must hold after each injection.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::answer::{Told, ask, ends};
use super::scene::{Action, Side};
use super::state::{Resources, State, lives, look, operate, settled};
use super::tracer::Seen;
use super::world::{BACKGROUND, PATIENCE, World};
use crate::test_server::TestServer;

/// How long calls go on to fail where all of them do.
const FULL: Duration = Duration::from_secs(2);

/// When nobody works on anything any more, nothing is going to change.
const SOON: Duration = Duration::from_millis(500);

const ENDED: [&str; 5] = ["success", "failed", "cancelled", "rolled_back", "staged"];

/// One call that is to fail.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Injection {
    pub(super) call: String,
    pub(super) errno: String,
    pub(super) n: u32,
    /// A part of the path of the files that count; of all if it is empty.
    pub(super) of: &'static str,
}

impl Injection {
    fn line(&self) -> String {
        let (call, on) = match self.call.strip_suffix('+') {
            Some(call) => (call, " on"),
            None => (&*self.call, ""),
        };
        format!("{call} {} {}{on} of={}", self.errno, self.n, self.of)
    }

    pub(super) fn goes_on(&self) -> bool {
        self.call.ends_with('+')
    }

    /// Whether it is what crates of others make of it, and we live with: tiny_http panics without a descriptor, and is started
    /// again by a thread whose name its threads inherit; ureq panics without a thread, and its call has failed by that. A
    /// release, or a tree that was made for a while, that cannot be removed for want of descriptors stays, and the log says so.
    fn is_foreign(&self, fault: &str) -> bool {
        match &*self.call {
            "dup" => fault.contains("tiny_http") || fault.contains("left: thread gate-"),
            "clone" => fault.contains("std/src/thread/functions.rs"),
            "fds+" => {
                fault.contains("tiny_http")
                    || fault.contains("left: thread gate-")
                    || fault.contains("std/src/thread/functions.rs")
                    || fault.contains("failed, and there are")
                    || fault.contains("dropped, and")
                    || fault.contains("left: store/demo/.tree-")
            }
            _ => false,
        }
    }

    /// Whether the client may be left without an answer: nobody can answer on a broken connection.
    fn may_be_silent(&self) -> bool {
        ["send", "recv"].contains(&&*self.call)
    }
}

/// What came of one injection.
pub(super) struct Outcome {
    pub(super) seen: Seen,
    /// Whether it went well all the same; none if nobody can say.
    pub(super) success: Option<bool>,
    pub(super) faults: Vec<String>,
    /// There were others, which are not ours.
    pub(super) foreign: bool,
}

/// A deployment by all that is known of it.
struct Deployment {
    status: String,
    release: String,
    /// Its release may stay: it was live, or about to be.
    stays: bool,
}

impl World {
    /// Lets one call fail in the scene, and looks at everything. Without an injection it only counts.
    pub(super) fn inject(&mut self, injection: Option<&Injection>) -> Outcome {
        self.begin();
        let mut faults = Vec::new();
        self.wait_idle();
        let before: Result<Vec<State>, String> = self
            .hosts
            .iter()
            .map(|host| look(host, &self.project))
            .collect();
        let before = match before {
            Ok(before) => before,
            Err(why) => {
                return Outcome {
                    seen: self.tracer.disarm(),
                    success: None,
                    faults: vec![format!("before: {why}")],
                    foreign: false,
                };
            }
        };
        let logs: Vec<usize> = self
            .hosts
            .iter()
            .map(|host| host.log.lock().unwrap().len())
            .collect();
        let spare = self.spare();
        let (told, seen) = self.run(injection);
        if injection.is_none() && spare.is_some_and(|spare| !self.is_made_of(spare)) {
            faults.push("the spare was not used".to_owned());
        }
        let success = self.agree(injection, &before, &told, &mut faults);
        if let Some(success) = success {
            self.is_whole(success, &before, &mut faults);
        }
        if self.scene.action == Action::Rollback && success.is_some_and(|(success, _)| success) {
            let target = self.past[self.past.len() - 2].clone();
            self.past.push(target);
        }
        self.version += 1;
        if let Err(why) = self.deploys().and_then(|()| {
            if self.scene.first {
                self.drops()
            } else {
                Ok(())
            }
        }) {
            faults.push(format!("afterwards: {why}"));
        }
        self.nothing_is_left(&mut faults);
        for (host, from) in self.hosts.iter().zip(logs) {
            if let Some(line) = host.log.lock().unwrap()[from..]
                .lines()
                .find(|line| line.contains("panicked"))
            {
                faults.push(format!("a panic: {line}"));
            }
        }
        let all = faults.len();
        faults.retain(|fault| !injection.is_some_and(|one| one.is_foreign(fault)));
        Outcome {
            seen,
            success: success.map(|(success, _)| success),
            foreign: faults.len() < all,
            faults,
        }
    }

    fn run(&self, injection: Option<&Injection>) -> (Vec<Told>, Seen) {
        let line = injection.map_or("count".to_owned(), Injection::line);
        let over = AtomicBool::new(false);
        let armed = AtomicBool::new(false);
        let arm = || {
            self.tracer.arm(&line);
            armed.store(true, Ordering::SeqCst);
        };
        let goes_on = injection.is_some_and(Injection::goes_on);
        std::thread::scope(|scope| {
            let acting = scope.spawn(|| {
                let told = self.act(&arm);
                over.store(true, Ordering::SeqCst);
                told
            });
            let mut seen = None;
            let end = Instant::now() + FULL;
            while goes_on && !over.load(Ordering::SeqCst) {
                if Instant::now() > end && armed.load(Ordering::SeqCst) {
                    // There is space again, and there are descriptors.
                    seen = Some(self.tracer.disarm());
                    break;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            let told = acting.join().unwrap();
            if !goes_on {
                self.wait_idle();
            }
            let seen = seen.unwrap_or_else(|| self.tracer.disarm());
            self.wait_idle();
            (told, seen)
        })
    }

    /// The answer, the record, the journal and the list agree. Whether it went well, and whether its release may stay if
    /// not; none if nobody can say.
    fn agree(
        &self,
        injection: Option<&Injection>,
        before: &[State],
        told: &[Told],
        faults: &mut Vec<String>,
    ) -> Option<(bool, bool)> {
        let mut outcome = None;
        let mut known = true;
        for (n, (host, before)) in self.hosts.iter().zip(before).enumerate() {
            let name = if n == 0 { "" } else { "peer: " };
            match of_host(host, before) {
                Ok(mut all) => {
                    if n == 0 && all.len() > 1 {
                        faults.push(format!("{} deployments of one request", all.len()));
                    }
                    if n == 0 {
                        outcome = all.pop();
                    }
                }
                Err(why) => {
                    known = false;
                    faults.push(format!("{name}{why}"));
                }
            }
            if let Some(why) = unended(host) {
                faults.push(format!("{name}{why}"));
            }
        }
        for one in told {
            match one {
                Told::Wrong(why) => faults.push(format!("the answer: {why}")),
                Told::Nothing(why) if !injection.is_some_and(Injection::may_be_silent) => {
                    faults.push(format!("the answer: {why}"));
                }
                _ => {}
            }
        }
        if !known {
            return None;
        }
        let first = &told[0];
        if self.scene.action == Action::Drop {
            return Some((matches!(first, Told::Success(_)), false));
        }
        let success = outcome.as_ref().is_some_and(|one| one.status == "success");
        let said = match first {
            Told::Success(_) => true,
            Told::Failure(..) => false,
            _ => success,
        };
        if said != success {
            let status = outcome.as_ref().map_or("nothing", |one| &one.status);
            faults.push(format!("the answer is {first:?} of {status}"));
        }
        if outcome.is_some() && matches!(first, Told::Failure(..)) && first.deployment().is_none() {
            faults.push(format!("the answer names no deployment: {first:?}"));
        }
        match (told.get(1), &outcome) {
            (Some(Told::Success(_)), Some(one)) if one.status != "cancelled" => {
                faults.push(format!("cancelled is {}", one.status));
            }
            _ => {}
        }
        let leads_elsewhere = |release: &String| {
            look(&self.hosts[0], &self.project).is_ok_and(|now| now.live.as_ref() != Some(release))
        };
        if success
            && outcome
                .as_ref()
                .is_some_and(|one| leads_elsewhere(&one.release))
        {
            faults.push("success, and the link leads elsewhere".to_owned());
        }
        Some((success, outcome.is_some_and(|one| one.stays)))
    }

    /// What is said to be live is, whole, and runs.
    fn is_whole(&self, (success, stays): (bool, bool), before: &[State], faults: &mut Vec<String>) {
        let wanted = self.tree(self.wanted(), self.scene.bad);
        for (n, (host, before)) in self.hosts.iter().zip(before).enumerate() {
            let name = if n == 0 { "" } else { "peer: " };
            let runs = |state: &State| {
                let healthy = state.processes.iter().all(|one| {
                    one.pid.is_some_and(lives) && Some(&one.release) == state.live.as_ref()
                });
                let count = usize::from(self.scene.restart && state.live.is_some());
                healthy && state.processes.len() == count
            };
            let now = settled(
                Duration::from_secs(3),
                || look(host, &self.project),
                |now| now.as_ref().is_ok_and(runs),
            );
            let now = match now {
                Ok(now) => now,
                Err(why) => {
                    faults.push(format!("{name}{why}"));
                    continue;
                }
            };
            if !runs(&now) {
                faults.push(format!(
                    "{name}live is {:?}, and {:?} runs",
                    now.live, now.processes
                ));
            }
            if self.scene.action == Action::Drop {
                if success && (now.live.is_some() || !now.releases.is_empty()) {
                    faults.push(format!("dropped, and {:?} is there", now.releases));
                }
                // Half a drop has nothing live; what is live is whole.
                if now.live.is_some() && now.tree != before.tree
                    || now.live.is_none() && !now.tree.is_empty()
                {
                    faults.push(format!("half dropped, and live is {}", version(&now)));
                }
                continue;
            }
            if success {
                if now.tree != wanted {
                    faults.push(format!("{name}success, and live is {}", version(&now)));
                }
                continue;
            }
            if now.live != before.live || now.tree != before.tree {
                let (now, before) = (version(&now), version(before));
                faults.push(format!(
                    "{name}failed, and live is {now} instead of {before}"
                ));
                continue;
            }
            let more = now.releases.len() > before.releases.len();
            if n == 0 && more && !stays {
                let (now, before) = (now.releases.len(), before.releases.len());
                faults.push(format!(
                    "{name}failed, and there are {now} releases instead of {before}"
                ));
            }
        }
    }

    /// No thread, descriptor, child or half a directory stays.
    fn nothing_is_left(&self, faults: &mut Vec<String>) {
        for (n, (host, idle)) in self.hosts.iter().zip(&self.idle).enumerate() {
            let now = settled(
                BACKGROUND,
                || Resources::of(host),
                |now| now.beyond(idle).is_empty(),
            );
            for what in now.beyond(idle) {
                let name = if n == 0 { "" } else { "peer: " };
                faults.push(format!("{name}left: {what}"));
            }
        }
    }
}

/// What is live, in words.
fn version(state: &State) -> String {
    match (&state.live, state.tree.get("v")) {
        (None, _) => "nothing".to_owned(),
        (Some(_), None) => "a link to nothing".to_owned(),
        (Some(_), Some(version)) => format!("version {version} with {} files", state.tree.len()),
    }
}

fn journal_ends(host: &TestServer, id: &str) -> usize {
    let journal = host.path("deployments").join(id).join("events.ndjson");
    let journal = fs::read_to_string(journal).unwrap_or_default();
    let is_end = |line: &&str| {
        let entry: Value = serde_json::from_str(line).unwrap_or_default();
        entry["event"] == "done" || entry["event"] == "error"
    };
    journal.lines().filter(is_end).count()
}

/// The deployments that a host has begun since, each with one end that all of it tells.
fn of_host(host: &TestServer, before: &State) -> Result<Vec<Deployment>, String> {
    let known: BTreeSet<&String> = before.deployments.iter().collect();
    let all = crate::test_server::names(&host.path("deployments"));
    let mut found = Vec::new();
    for id in all
        .iter()
        .filter(|id| !known.contains(id) && !id.starts_with('.'))
    {
        found.push(of_deployment(host, id)?);
    }
    Ok(found)
}

fn of_deployment(host: &TestServer, id: &str) -> Result<Deployment, String> {
    let get = json!({"operation": "get_deployment", "deployment_id": id});
    let is_over = |record: &Result<(u16, Value), String>| {
        record
            .as_ref()
            .is_ok_and(|(_, record)| ENDED.contains(&record["status"].as_str().unwrap_or_default()))
    };
    let (code, record) = settled(SOON, || operate(host, &get), is_over)?;
    let status = record["status"].as_str().unwrap_or_default().to_owned();
    if code != 200 || !ENDED.contains(&&*status) {
        return Err(format!(
            "its record says {code} {status} and its journal {} ends",
            journal_ends(host, id)
        ));
    }
    let path = format!("/deployments/{id}/events?from=0");
    let (_, _, body) = ask(host, &[], ("GET", &path), b"", PATIENCE)
        .map_err(|why| format!("its events: {why}"))?;
    let ends = ends(&body);
    let [(end, _)] = &*ends else {
        return Err(format!("its journal has {} ends", ends.len()));
    };
    if (end == "done") != ["success", "staged"].contains(&&*status) {
        return Err(format!(
            "the journal ends with {end}, and the record with {status}"
        ));
    }
    let on_disk =
        fs::read(host.path("deployments").join(id).join("record.json")).unwrap_or_default();
    let on_disk: Value = serde_json::from_slice(&on_disk).unwrap_or_default();
    // As long as the mark is there, the next start makes the record again.
    if on_disk["status"] != *status && !host.path("run").join(id).exists() {
        return Err(format!(
            "record.json says {}, and the record {status}",
            on_disk["status"]
        ));
    }
    let phase = record["phase"].as_str().unwrap_or_default();
    let release = record["release_id"].as_str().unwrap_or_default();
    Ok(Deployment {
        status,
        release: release.to_owned(),
        stays: ["activate", "restart"].contains(&phase),
    })
}

fn unended(host: &TestServer) -> Option<String> {
    let list = match operate(host, &json!({"operation": "list_deployments", "limit": 20})) {
        Ok((200, list)) => list,
        other => return Some(format!("list_deployments: {other:?}")),
    };
    let all = list["deployments"].as_array().cloned().unwrap_or_default();
    let status = |one: &Value| one["status"].as_str().unwrap_or_default().to_owned();
    let open = all
        .iter()
        .map(status)
        .find(|status| !ENDED.contains(&&**status))?;
    Some(format!("a list says {open}"))
}

/// Whether a scene's call can be there at all: the peer's own calls are those of two deployments.
pub(super) const fn enough_misses(side: Side) -> u32 {
    match side {
        Side::Alone => 3,
        Side::Origin | Side::Peer => 4,
    }
}
