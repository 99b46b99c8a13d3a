//! What the clients do, at random, and what they are told.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};

use super::random::Random;
use crate::test_server::{form, gzip, request, tar};

/// Longer than anything takes that a client asks for; what takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(40);

/// How many files a release has: whole or not is seen by all of them.
pub(super) const FILES: usize = 8;

/// Where a server is, and who may ask it.
#[derive(Clone)]
pub(super) struct Door {
    pub(super) address: String,
    pub(super) token: String,
}

/// What was asked and what came.
pub(super) struct Told {
    pub(super) asked: String,
    /// The status and the body; none where the connection broke.
    pub(super) answer: Option<(u16, String)>,
    pub(super) wants_stream: bool,
}

/// A component that was to be dropped.
pub(super) struct Drop {
    pub(super) host: usize,
    pub(super) project: String,
    pub(super) asked_at: u64,
    pub(super) answered_at: u64,
    /// None if nobody knows.
    pub(super) done: Option<bool>,
}

/// What all clients know.
#[derive(Default)]
pub(super) struct Known {
    /// Deployments of late, of any kind and component.
    ids: Mutex<VecDeque<String>>,
    pub(super) drops: Mutex<Vec<Drop>>,
    version: AtomicU32,
}

pub(super) fn now_ms() -> u64 {
    UNIX_EPOCH.elapsed().unwrap().as_millis() as u64
}

/// How a version is to end.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kind {
    Good,
    BadInstall,
    Unhealthy,
}

impl Door {
    /// Asks, and gives the answer if there is one: an error where the time was out.
    fn send(&self, request: &[u8]) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.write_all(request).ok()?;
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                return Some((0, format!("nothing came for {PATIENCE:?}")));
            }
            Err(_) => return None,
            Ok(_) => {}
        }
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let body = &answer[end + 4..];
        let body = match head.contains("\r\ntransfer-encoding: chunked") {
            true => whole(body)?,
            false => body.to_vec(),
        };
        let body = String::from_utf8_lossy(&body).into_owned();
        Some((status, body))
    }

    fn ask(&self, target: (&str, &str), headers: &[&str], body: &[u8]) -> Option<(u16, String)> {
        let authorization = format!("Authorization: Bearer {}", self.token);
        let mut all = vec![&*authorization];
        all.extend(headers);
        self.send(&request(target.0, target.1, &all, body))
    }

    pub(super) fn operate(&self, operation: &Value, live: bool) -> Option<(u16, String)> {
        let mut headers = vec!["Content-Type: application/json"];
        if live {
            headers.push("Accept: text/event-stream");
        }
        self.ask(("POST", "/"), &headers, operation.to_string().as_bytes())
    }

    pub(super) fn deploy(
        &self,
        known: &Known,
        kind: Kind,
        fields: &[(&str, &str)],
        headers: &[&str],
        more: &str,
    ) -> Option<(u16, String)> {
        let version = known.version.fetch_add(1, Ordering::Relaxed);
        let end = if kind == Kind::BadInstall {
            "exit 7"
        } else {
            "echo built"
        };
        let install = format!(": v{version}; {more} {end}");
        let mut all = vec![("install_command", install.as_str())];
        all.extend(fields);
        let (media, body) = form(&all, &payload(version, kind));
        let mut with = vec![&*media];
        with.extend(headers);
        self.ask(("POST", "/"), &with, &body)
    }
}

/// What chunks carry; nothing if the last one did not come.
fn whole(mut chunks: &[u8]) -> Option<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        let end = chunks.windows(2).position(|two| two == b"\r\n")?;
        let size = std::str::from_utf8(&chunks[..end]).ok()?;
        let size = usize::from_str_radix(size, 16).ok()?;
        let rest = &chunks[end + 2..];
        all.extend_from_slice(rest.get(..size)?);
        chunks = rest.get(size + 2..)?;
        if size == 0 {
            return Some(all);
        }
    }
}

/// A version of a component; every file says which.
fn payload(version: u32, kind: Kind) -> Vec<u8> {
    let text = version.to_string();
    let health = if kind == Kind::Unhealthy {
        "false"
    } else {
        "true"
    };
    let manifest = json!({"health": {"command": health}, "health_timeout": if kind == Kind::Unhealthy { 1 } else { 20 }});
    let mut files = vec![
        (
            "Procfile".to_owned(),
            "web: echo up; exec sleep 1000\n".to_owned(),
        ),
        ("gangplank.json".to_owned(), manifest.to_string()),
    ];
    files.extend((0..FILES).map(|n| (format!("d{}/f{n}", n % 3), text.clone())));
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(path, text)| (&**path, &**text))
        .collect();
    gzip(&tar(&files))
}

/// One of the clients.
pub(super) struct Client<'a> {
    pub(super) host: usize,
    pub(super) projects: &'a [&'a str],
    /// The component that is deployed to the peers too.
    pub(super) replicated: Option<&'a str>,
    pub(super) known: &'a Known,
    pub(super) random: Random,
}

impl Client<'_> {
    fn learn(&self, answer: Option<&(u16, String)>) {
        let id = answer.and_then(|(_, body)| body.split_once("\"deployment_id\":\""));
        let Some(id) = id.and_then(|(_, rest)| rest.get(..36)) else {
            return;
        };
        let mut ids = self.known.ids.lock().unwrap();
        ids.push_back(id.to_owned());
        // More would be gone from the server.
        if ids.len() > 30 {
            ids.pop_front();
        }
    }

    fn any_id(&mut self) -> String {
        let ids = self.known.ids.lock().unwrap();
        if ids.is_empty() {
            return "latest".to_owned();
        }
        ids[self.random.below(ids.len())].clone()
    }

    /// Does one thing.
    pub(super) fn act(&mut self, door: &Door) -> Told {
        let project = self.projects[self.random.below(self.projects.len())];
        let live = self.random.below(2) == 0;
        let restart = self.random.below(2) == 0;
        let replicated = self.replicated == Some(project);
        let (name, operation) = match self.random.below(100) {
            0..48 => return self.deploy(door, project, live),
            48..55 => (
                "deploy_component",
                json!({"deployment_id": self.any_id(), "restart": restart}),
            ),
            55..62 => ("restart_component", json!({})),
            62..70 => {
                let mut asked = json!({"restart": restart, "replicated": replicated});
                if self.random.below(2) == 0 {
                    asked["deployment_id"] = self.any_id().into();
                }
                ("rollback_component", asked)
            }
            70..77 => return self.cancel(door, project),
            77..79 => return self.drop_it(door, project),
            79..84 => (
                "list_deployments",
                json!({"limit": 20, "include_events": restart}),
            ),
            84..87 => ("get_components", Value::Null),
            87..90 => ("get_logs", json!({"lines": 20})),
            90..93 => (
                "get_deployment_payload",
                json!({"deployment_id": self.any_id()}),
            ),
            93..97 => ("get_deployment", json!({"deployment_id": self.any_id()})),
            _ => {
                let path = format!("/deployments/{}/events", self.any_id());
                let answer = door.ask(("GET", &path), &[], b"");
                return Told {
                    asked: format!("GET {path}"),
                    answer,
                    wants_stream: true,
                };
            }
        };
        let mut operation = operation;
        let of_deployment = name.starts_with("get_deployment");
        if !of_deployment && !operation.is_null() {
            operation["project"] = project.into();
        }
        let mut asked = json!({"operation": name});
        for (key, value) in operation.as_object().into_iter().flatten() {
            asked[key] = value.clone();
        }
        let streams = live
            && ![
                "list_deployments",
                "get_components",
                "get_deployment_payload",
            ]
            .contains(&name);
        let answer = door.operate(&asked, streams);
        self.learn(answer.as_ref().filter(|_| name.ends_with("_component")));
        Told {
            asked: asked.to_string(),
            answer,
            wants_stream: streams,
        }
    }

    fn deploy(&mut self, door: &Door, project: &str, live: bool) -> Told {
        let mut fields = vec![("project", project)];
        let kind = match self.random.below(10) {
            0 => Kind::BadInstall,
            1 => Kind::Unhealthy,
            _ => Kind::Good,
        };
        match self.random.below(6) {
            0 if kind != Kind::Unhealthy => fields.push(("activate", "false")),
            1 | 2 if kind != Kind::Unhealthy => {}
            _ => fields.push(("restart", "true")),
        }
        if self.replicated == Some(project) {
            fields.push(("replicated", "true"));
        }
        let more = ["", "", "sleep 0.2;", "setsid sleep 300 & sleep 0.01;"][self.random.below(4)];
        let key = format!("Idempotency-Key: {project}-{}", self.random.below(200));
        let mut headers = Vec::new();
        if self.random.below(5) == 0 {
            headers.push(&*key);
        }
        if live {
            headers.push("Accept: text/event-stream");
        }
        let answer = door.deploy(self.known, kind, &fields, &headers, more);
        self.learn(answer.as_ref());
        Told {
            asked: format!("deploy {fields:?} {headers:?}"),
            answer,
            wants_stream: live,
        }
    }

    /// Cancels what runs, or what has ended.
    fn cancel(&mut self, door: &Door, project: &str) -> Told {
        let list = json!({"operation": "list_deployments", "project": project, "limit": 1});
        let list = door.operate(&list, false);
        let newest = list.and_then(|(_, body)| serde_json::from_str::<Value>(&body).ok());
        let id = newest
            .and_then(|list| Some(list["deployments"][0]["deployment_id"].as_str()?.to_owned()));
        let id = id.unwrap_or_else(|| self.any_id());
        let asked = json!({"operation": "cancel_deployment", "deployment_id": id});
        Told {
            asked: asked.to_string(),
            answer: door.operate(&asked, false),
            wants_stream: false,
        }
    }

    fn drop_it(&mut self, door: &Door, project: &str) -> Told {
        let asked = json!({"operation": "drop_component", "project": project});
        let asked_at = now_ms();
        let answer = door.operate(&asked, false);
        let done = answer.as_ref().map(|(status, _)| *status == 200);
        self.known.drops.lock().unwrap().push(Drop {
            host: self.host,
            project: project.to_owned(),
            asked_at,
            answered_at: now_ms(),
            done,
        });
        Told {
            asked: asked.to_string(),
            answer,
            wants_stream: false,
        }
    }
}

impl Told {
    /// What is wrong with an answer of a server that nobody has killed meanwhile.
    pub(super) fn fault(&self) -> Option<String> {
        let why = match &self.answer {
            None => "the connection broke".to_owned(),
            Some((0, why)) => why.clone(),
            Some((500, body)) => format!("500 {body}"),
            Some((200, body)) if self.wants_stream && !self.asked.contains("get_logs") => {
                let ends = ["event: done\n", "event: error\n"];
                let ends: usize = ends.iter().map(|end| body.matches(end).count()).sum();
                if ends == 1 {
                    return None;
                }
                format!("a stream with {ends} ends: {body}")
            }
            Some(_) => return None,
        };
        Some(format!("{}: {why}", self.asked))
    }
}
