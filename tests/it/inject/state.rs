//! What is so at a server: what is live, what runs, what is there.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::answer::ask;
use crate::test_server::{TestServer, names};

/// Files by their paths, with their content; links with what they lead to.
pub(super) type Tree = BTreeMap<String, String>;

pub(super) fn tree(dir: &Path) -> Tree {
    fn walk(dir: &Path, below: &str, found: &mut Tree) {
        for name in names(dir) {
            let (path, below) = (dir.join(&name), format!("{below}{name}"));
            if let Ok(target) = fs::read_link(&path) {
                found.insert(below, format!("-> {}", target.display()));
            } else if path.is_dir() {
                walk(&path, &format!("{below}/"), found);
            } else {
                found.insert(below, fs::read_to_string(&path).unwrap_or_default());
            }
        }
    }
    let mut found = Tree::new();
    walk(dir, "", &mut found);
    found
}

/// A process of a component.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Running {
    pub(super) pid: Option<u64>,
    pub(super) release: String,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct State {
    /// The release that is live, by the link.
    pub(super) live: Option<String>,
    pub(super) tree: Tree,
    pub(super) releases: Vec<String>,
    pub(super) deployments: Vec<String>,
    pub(super) processes: Vec<Running>,
}

const PATIENCE: Duration = Duration::from_secs(5);

pub(super) fn operate(host: &TestServer, operation: &Value) -> Result<(u16, Value), String> {
    let headers = ["Content-Type: application/json"];
    let body = operation.to_string();
    let (status, _, body) = ask(host, &headers, ("POST", "/"), body.as_bytes(), PATIENCE)?;
    let body = serde_json::from_str(&body).map_err(|error| format!("{error}: {body}"))?;
    Ok((status, body))
}

pub(super) fn look(host: &TestServer, project: &str) -> Result<State, String> {
    let link = fs::read_link(host.path("components").join(project)).ok();
    let live = link.and_then(|link| Some(link.file_name()?.to_str()?.to_owned()));
    let (status, answer) = operate(host, &json!({"operation": "get_components"}))?;
    if status != 200 {
        return Err(format!("get_components: {answer}"));
    }
    let components = answer["components"].as_array().cloned().unwrap_or_default();
    let component = components.iter().find(|one| one["project"] == project);
    let processes = component.and_then(|one| one["processes"].as_array().cloned());
    let running = |one: &Value| Running {
        pid: one["pid"].as_u64(),
        release: one["release_id"].as_str().unwrap_or_default().to_owned(),
    };
    Ok(State {
        live,
        tree: tree(&host.path("components").join(project)),
        releases: names(&host.path("releases").join(project))
            .into_iter()
            .filter(|name| !name.starts_with('.'))
            .collect(),
        deployments: names(&host.path("deployments")),
        processes: processes.unwrap_or_default().iter().map(running).collect(),
    })
}

/// Whether a process is there, and is not dead and uncollected.
pub(super) fn lives(pid: u64) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().unwrap().trim_start();
    !state.is_empty() && !state.starts_with(['Z', 'X'])
}

/// Waits until something is so, for a bounded time, and gives what was seen last.
pub(super) fn settled<T>(
    limit: Duration,
    mut look: impl FnMut() -> T,
    is_so: impl Fn(&T) -> bool,
) -> T {
    let end = Instant::now() + limit;
    loop {
        let seen = look();
        if is_so(&seen) || Instant::now() >= end {
            return seen;
        }
        // How often it is looked at, until the fact.
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// What a server has of the system: threads, descriptors and children, by what they are, and what lies about in its root.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Resources(pub(super) BTreeMap<String, usize>);

impl Resources {
    pub(super) fn of(host: &TestServer) -> Resources {
        let mut found = Resources::default();
        let proc = format!("/proc/{}", host.server.id());
        for task in names(Path::new(&format!("{proc}/task"))) {
            let read = |what: &str| fs::read_to_string(format!("{proc}/task/{task}/{what}"));
            // Who has gone meanwhile is not there.
            let Ok(name) = read("comm") else { continue };
            found.add(format!("thread {}", name.trim()));
            let children = read("children").unwrap_or_default();
            for _ in children.split_whitespace() {
                found.add("child".to_owned());
            }
        }
        for fd in names(Path::new(&format!("{proc}/fd"))) {
            let Ok(target) = fs::read_link(format!("{proc}/fd/{fd}")) else {
                continue;
            };
            let target = target.display().to_string();
            let kind = target.split(":[").next().unwrap();
            found.add(format!("descriptor {kind}"));
        }
        let mut dirs = vec!["components".to_owned(), "deployments".into()];
        for of_components in ["releases", "store"] {
            let all = names(&host.path(of_components));
            dirs.extend(all.iter().map(|name| format!("{of_components}/{name}")));
        }
        for dir in dirs {
            let all = names(&host.path(&dir));
            for name in all.iter().filter(|name| name.starts_with('.')) {
                found.add(format!("{dir}/{name}"));
            }
        }
        // A mark in `run` may stay: the next start looks after what could not be written.
        let run = names(&host.path("run"));
        for name in run.iter().filter(|name| name.len() != 36) {
            found.add(format!("run/{name}"));
        }
        found
    }

    /// What there is of a server that nobody asks for anything: looked at until it stays so.
    pub(super) fn at_rest(host: &TestServer) -> Resources {
        let mut last = Resources::of(host);
        let again = || {
            std::thread::sleep(Duration::from_millis(30));
            let now = Resources::of(host);
            (std::mem::replace(&mut last, now.clone()), now)
        };
        settled(PATIENCE, again, |(last, now)| last == now).1
    }

    fn add(&mut self, what: String) {
        *self.0.entry(what).or_default() += 1;
    }

    /// Whether nobody works on anything: only threads that are always there.
    pub(super) fn idle(&self) -> bool {
        let works = [
            "deploy-",
            "http-",
            "extract",
            "gate-full",
            "peer-",
            "run-as",
            "spare-",
        ];
        let working = |name: &str| {
            let connection = name
                .strip_prefix("gate-")
                .is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()));
            connection || works.iter().any(|start| name.starts_with(start))
        };
        !self
            .0
            .keys()
            .any(|one| one.strip_prefix("thread ").is_some_and(working))
    }

    /// What there is more of than before.
    pub(super) fn beyond(&self, before: &Resources) -> Vec<String> {
        let mut found = Vec::new();
        for (what, now) in &self.0 {
            let before = before.0.get(what).copied().unwrap_or_default();
            if *now > before {
                found.push(format!("{what}: {now} instead of {before}"));
            }
        }
        found
    }
}
