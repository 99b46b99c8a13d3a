//! What must hold whenever nobody asks for anything.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::client::{Door, Drop, FILES, Kind, Known};
use crate::test_server::names;

/// How long a deployment may take to end that was running when the clients stopped.
const SOON: Duration = Duration::from_secs(20);

const ENDED: [&str; 5] = ["success", "failed", "cancelled", "rolled_back", "staged"];

/// A server at rest, as it is looked at.
pub(super) struct Rest<'a> {
    pub(super) host: usize,
    pub(super) root: &'a Path,
    pub(super) door: &'a Door,
    pub(super) known: &'a Known,
    /// What is live is changed by others, too, who leave no record here.
    pub(super) follows: Option<&'a str>,
}

/// Whether a process is there, and is not dead and uncollected; and when it was started.
fn started(pid: &str) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    // The 22nd field of all, the name being the second.
    let start = fields.nth(18)?.to_owned();
    (!["Z", "X"].contains(&state)).then_some(start)
}

/// A process that a root's server has started: its number and its start.
pub(super) type Child = (String, String);

pub(super) fn children(root: &Path) -> BTreeSet<Child> {
    let id = fs::read_to_string(root.join("id")).unwrap_or_default();
    let mark = format!("GANGPLANK_CHILD={}", id.lines().next().unwrap_or("none"));
    let is_its = |pid: &String| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment
            .split(|byte| *byte == 0)
            .any(|one| one == mark.as_bytes())
    };
    let all = names(Path::new("/proc")).into_iter().filter(is_its);
    all.filter_map(|pid| started(&pid).map(|start| (pid, start)))
        .collect()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

impl Rest<'_> {
    fn operate(&self, operation: &Value) -> Result<Value, String> {
        match self.door.operate(operation, false) {
            Some((200, body)) => serde_json::from_str(&body).map_err(|error| error.to_string()),
            other => Err(format!("{operation}: {other:?}")),
        }
    }

    /// All that is wrong.
    pub(super) fn faults(&self, projects: &[&str]) -> Vec<String> {
        let mut faults = Vec::new();
        let end = Instant::now() + SOON;
        while let Some(why) = self.unrest() {
            if Instant::now() > end {
                faults.push(format!("after {SOON:?}: {why}"));
                break;
            }
            // How often it is looked at, until the fact.
            std::thread::sleep(Duration::from_millis(20));
        }
        let records = self.records(&mut faults);
        for project in projects {
            let of_it: Vec<&Value> = records
                .iter()
                .filter(|one| one["project"] == *project)
                .collect();
            self.is_right(project, &of_it, &mut faults);
        }
        for fault in &mut faults {
            *fault = format!("host {}: {fault}", self.host);
        }
        faults
    }

    /// What is still on its way.
    fn unrest(&self) -> Option<String> {
        let list = match self.operate(&json!({"operation": "list_deployments", "limit": 1000})) {
            Ok(list) => list,
            Err(why) => return Some(why),
        };
        let is_open = |one: &&Value| !ENDED.contains(&text(one, "status"));
        if let Some(open) = list["deployments"]
            .as_array()
            .into_iter()
            .flatten()
            .find(is_open)
        {
            return Some(format!("the list says {open}"));
        }
        let marks = names(&self.root.join("run"));
        if let Some(mark) = marks
            .iter()
            .find(|name| name.len() == 36 || name.ends_with(".before"))
        {
            return Some(format!("run/{mark} is there"));
        }
        let mut places = ["components", "deployments"].map(str::to_owned).to_vec();
        places.extend(
            names(&self.root.join("releases"))
                .iter()
                .map(|one| format!("releases/{one}")),
        );
        places.iter().find_map(|place| {
            let dot = names(&self.root.join(place))
                .into_iter()
                .find(|name| name.starts_with('.'))?;
            Some(format!("{place}/{dot} is there"))
        })
    }

    /// The records on disk in the order of their ids, each of which agrees with its journal and with what is answered.
    fn records(&self, faults: &mut Vec<String>) -> Vec<Value> {
        let mut records = Vec::new();
        let all = names(&self.root.join("deployments")).into_iter();
        for id in all.filter(|id| !id.starts_with('.')) {
            let record = self.record(&id);
            // What is too much of the past is removed after the end of a deployment is told.
            let is_there = self.root.join("deployments").join(&id).exists();
            match record {
                Ok(record) => records.push(record),
                Err(_) if !is_there => {}
                Err(why) => faults.push(format!("deployment {id}: {why}")),
            }
        }
        records
    }

    fn record(&self, id: &str) -> Result<Value, String> {
        let dir = self.root.join("deployments").join(id);
        let read = |name: &str| {
            fs::read_to_string(dir.join(name)).map_err(|error| format!("{name}: {error}"))
        };
        let record: Value =
            serde_json::from_str(&read("record.json")?).map_err(|error| error.to_string())?;
        let status = text(&record, "status");
        let journal = read("events.ndjson")?;
        let entries: Result<Vec<Value>, _> = journal.lines().map(serde_json::from_str).collect();
        let entries = entries.map_err(|error| format!("its journal: {error}: {journal}"))?;
        if !entries.iter().zip(1..).all(|(entry, id)| entry["id"] == id) {
            return Err(format!("its journal has gaps: {journal}"));
        }
        let is_end = |one: &&Value| ["done", "error"].contains(&text(one, "event"));
        let ends: Vec<&Value> = entries.iter().filter(is_end).collect();
        let end = match &*ends {
            [end] if entries.last() == Some(end) => text(end, "event"),
            _ => return Err(format!("its journal does not have one end: {journal}")),
        };
        if !ENDED.contains(&status) || (end == "done") != ["success", "staged"].contains(&status) {
            return Err(format!(
                "its record says {status}, and its journal: {journal}"
            ));
        }
        let code = &ends[0]["data"]["code"];
        if end == "error" && record["error"]["code"] != *code {
            return Err(format!(
                "its record says {}, and its journal {code}",
                record["error"]
            ));
        }
        let told = self.operate(&json!({"operation": "get_deployment", "deployment_id": id}))?;
        if told["status"] != record["status"] || told["completed_at"] != record["completed_at"] {
            return Err(format!(
                "{} is told, and {status} is on disk",
                told["status"]
            ));
        }
        Ok(record)
    }

    /// What is live of a component is whole and is what its records say, and so is what runs.
    fn is_right(&self, project: &str, records: &[&Value], faults: &mut Vec<String>) {
        let link = fs::read_link(self.root.join("components").join(project)).ok();
        let live = link.as_ref().and_then(|link| link.file_name()?.to_str());
        if let (Some(live), Some(link)) = (live, &link) {
            if *link != Path::new("../releases").join(project).join(live) {
                faults.push(format!("{project} leads to {}", link.display()));
            }
            if let Err(why) = self.is_whole(project, live, records) {
                faults.push(format!("{project} {live}: {why}"));
            }
        }
        let succeeded = records
            .iter()
            .rev()
            .filter(|one| one["status"] == "success");
        let mut succeeded = succeeded.map(|one| &**one);
        if self.follows != Some(project) {
            let switched = succeeded.clone().find(|one| !is_restart(one));
            if let Some(why) = self.is_expected(project, live, switched) {
                faults.push(format!("{project}: live is {live:?}, and {why}"));
            }
        }
        let restarted = succeeded.find(|one| !one["restart_mode"].is_null() || is_restart(one));
        if let Err(why) = self.runs(project, restarted) {
            faults.push(format!("{project}: {why}"));
        }
    }

    fn is_whole(&self, project: &str, release: &str, records: &[&Value]) -> Result<(), String> {
        let dir = self.root.join("releases").join(project).join(release);
        let read = |n: usize| fs::read_to_string(dir.join(format!("d{}/f{n}", n % 3)));
        let versions: Result<BTreeSet<String>, _> = (0..FILES).map(read).collect();
        let versions = versions.map_err(|error| format!("is not whole: {error}"))?;
        let [version] = &*versions.iter().collect::<Vec<_>>() else {
            return Err(format!("is of several versions: {versions:?}"));
        };
        let built = records.iter().find(|one| one["deployment_id"] == release);
        let command = built.map(|one| text(&one["options"], "install_command"));
        match command {
            Some(command) if !command.starts_with(&format!(": v{version};")) => Err(format!(
                "is version {version}, and was installed by {command}"
            )),
            _ => Ok(()),
        }
    }

    /// Whether something is the release of the deployment that decides about it, or nothing after a drop.
    fn is_expected(
        &self,
        project: &str,
        found: Option<&str>,
        by: Option<&Value>,
    ) -> Option<String> {
        let Some(by) = by else {
            // Nothing succeeded, or that is forgotten.
            return None;
        };
        let drops = self.known.drops.lock().unwrap();
        let (begun, ended) = (by["started_at"].as_u64()?, by["completed_at"].as_u64()?);
        let may = |one: &&Drop| {
            one.host == self.host
                && one.project == project
                && one.done != Some(false)
                && one.answered_at >= begun
        };
        let is_gone = drops
            .iter()
            .filter(may)
            .any(|one| one.done == Some(true) && one.asked_at > ended);
        let may_be_gone = drops.iter().any(|one| may(&one));
        let release = text(by, "release_id");
        match found {
            Some(found) if found == release && !is_gone => None,
            None if may_be_gone => None,
            _ => Some(format!(
                "deployment {} of release {release} decides (dropped since: {is_gone}, perhaps: {may_be_gone})",
                text(by, "deployment_id")
            )),
        }
    }

    /// What runs lives, and comes from the release that the last restart left.
    fn runs(&self, project: &str, restarted: Option<&Value>) -> Result<(), String> {
        let mut last = String::new();
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end {
            let components = self.operate(&json!({"operation": "get_components"}))?;
            let all = components["components"].as_array();
            let component = all.and_then(|all| all.iter().find(|one| one["project"] == project));
            let none = Vec::new();
            let processes = component
                .and_then(|one| one["processes"].as_array())
                .unwrap_or(&none);
            let lives = |one: &Value| {
                one["pid"]
                    .as_u64()
                    .is_some_and(|pid| started(&pid.to_string()).is_some())
            };
            let releases: BTreeSet<&str> = processes
                .iter()
                .map(|one| text(one, "release_id"))
                .collect();
            let release = releases.first().copied();
            if !processes.iter().all(lives) || releases.len() > 1 {
                last = format!("its processes are {processes:?}");
            } else if self.follows == Some(project) {
                return Ok(());
            } else if let Some(why) = self.is_expected(project, release, restarted) {
                last = format!("{release:?} runs, and {why}");
            } else {
                return Ok(());
            }
            // A start goes on in the background.
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(last)
    }

    /// A deployment works, and is live and runs then; gives the version's release.
    pub(super) fn deploys(&self, project: &str, replicated: bool) -> Result<(), String> {
        let mut fields = vec![("project", project), ("restart", "true")];
        if replicated {
            fields.push(("replicated", "true"));
        }
        let answer = self.door.deploy(self.known, Kind::Good, &fields, &[], "");
        let Some((200, body)) = answer else {
            return Err(format!(
                "host {}: the next deployment of {project}: {answer:?}",
                self.host
            ));
        };
        let answer: Value = serde_json::from_str(&body).map_err(|error| error.to_string())?;
        let link = fs::read_link(self.root.join("components").join(project)).ok();
        if link.as_ref().and_then(|link| link.file_name()?.to_str())
            != answer["deployment_id"].as_str()
        {
            return Err(format!(
                "host {}: deployed {answer}, and live is {link:?}",
                self.host
            ));
        }
        Ok(())
    }

    /// The version that is live.
    pub(super) fn version(&self, project: &str) -> Option<String> {
        fs::read_to_string(self.root.join("components").join(project).join("d0/f0")).ok()
    }
}

fn is_restart(record: &Value) -> bool {
    record["kind"] == "restart"
}
