//! Lists as tables: one row an item, columns as wide as what stands in them.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::cli::screen::layout::{Fit, Rows};
use crate::cli::screen::lines;
use crate::cli::screen::live_hosts;
use crate::cli::screen::units;
use crate::system::time;

/// How a field is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CellFormat {
    /// As it is.
    Text,
    /// As it is; without it there is no column.
    Optional,
    /// Its first line; without it there is no column.
    Line,
    /// Of a deployment's id as much as tells it from the others.
    Id,
    /// As an id; without it there is no column.
    OptionalId,
    /// How many peers went well, of how many; without any there is no column.
    Peers,
    /// The commit, and whether there was more than it; without it there is no column.
    Commit,
    /// The generation of the fleet; without it there is no column.
    Generation,
    /// Milliseconds since the epoch.
    Time,
    /// Milliseconds.
    Took,
    /// Each on a line of its own, where a terminal reads it.
    Lines,
    /// How many there are, or which.
    Count,
}

type Column = (&'static str, &'static str, CellFormat);

/// The last five only where there is something to be said.
const DEPLOYMENTS: &[Column] = &[
    ("ID", "deployment_id", CellFormat::Id),
    ("PROJECT", "project", CellFormat::Text),
    ("KIND", "kind", CellFormat::Text),
    ("STATUS", "status", CellFormat::Text),
    ("PHASE", "phase", CellFormat::Text),
    ("STARTED", "started_at", CellFormat::Time),
    ("TOOK", "elapsed_ms", CellFormat::Took),
    ("BY", "user", CellFormat::Optional),
    ("PEERS", "peer_results", CellFormat::Peers),
    ("FLEET", "fleet", CellFormat::Generation),
    ("COMMIT", "source", CellFormat::Commit),
    ("MESSAGE", "message", CellFormat::Line),
];

/// The year of a time goes early, since one line says little of the past; who needs more asks for JSON.
const DEPLOYMENTS_FIT: &[Fit] = &[
    Fit::Drop("PHASE"),
    Fit::Drop("BY"),
    Fit::ShortTime("STARTED"),
    Fit::Cut("MESSAGE", 12),
    Fit::Cut("PROJECT", 12),
    Fit::Drop("TOOK"),
    Fit::Drop("MESSAGE"),
    Fit::Drop("PEERS"),
    Fit::Drop("FLEET"),
    Fit::Drop("COMMIT"),
    Fit::Drop("STARTED"),
];

const COMPONENTS: &[Column] = &[
    ("PROJECT", "project", CellFormat::Text),
    ("DEPLOYMENT", "deployment_id", CellFormat::Id),
    ("RELEASE", "release_id", CellFormat::OptionalId),
    ("FLEET", "fleet", CellFormat::Generation),
    ("SINCE", "since", CellFormat::Time),
    ("RELEASES", "releases", CellFormat::Count),
    ("PROCESSES", "processes", CellFormat::Lines),
];

const COMPONENTS_FIT: &[Fit] = &[
    Fit::ShortTime("SINCE"),
    Fit::Drop("RELEASES"),
    Fit::Cut("PROJECT", 16),
    Fit::Wrap("PROCESSES", 20),
    Fit::Cut("PROJECT", 10),
];

const TARGETS_FIT: &[Fit] = &[
    Fit::Wrap("CA_CERT", 20),
    Fit::Wrap("LOGIN", 20),
    Fit::Cut("NAME", 12),
    Fit::Wrap("CA_CERT", 10),
    Fit::Cut("URL", 20),
];

const FLEET_FIT: &[Fit] = &[
    Fit::Drop("PHASE"),
    Fit::Wrap("MESSAGE", 24),
    Fit::Cut("HOST", 12),
    Fit::Cut("PROJECT", 12),
];

/// A row for each component on each host of a fleet; where nothing is wanted, one for each host.
fn fleet(value: &Value) -> Option<Vec<Vec<String>>> {
    let projects = value.get("projects")?.as_array()?;
    let hosts = value.get("hosts")?.as_array()?;
    let cell = |of: &Value, key: &str| match &of[key] {
        Value::Null => "-".to_owned(),
        Value::String(text) => lines::message(text).join(" "),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        other => other.to_string(),
    };
    if projects.is_empty() {
        let mut rows = vec![
            ["HOST", "ALIVE", "VERSION", "URL"]
                .map(str::to_owned)
                .to_vec(),
        ];
        let keys = ["host", "alive", "version", "url"];
        rows.extend(
            hosts
                .iter()
                .map(|host| keys.map(|key| cell(host, key)).to_vec()),
        );
        return Some(rows);
    }
    let head = ["PROJECT", "HOST", "STATE", "GENERATION", "PHASE", "MESSAGE"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for project in projects {
        let name = cell(project, "project");
        let summary = format!(
            "{}, {} of {} live",
            cell(project, "rollout"),
            project["live"],
            project["expected"]
        );
        let generation = cell(project, "generation");
        let reason = cell(project, "reason");
        rows.push(vec![
            name.clone(),
            "-".to_owned(),
            summary,
            generation,
            "-".to_owned(),
            reason,
        ]);
        for host in project["hosts"].as_array().into_iter().flatten() {
            let keys = ["host", "state", "generation", "phase", "message"];
            let cells = keys.map(|key| cell(host, key));
            rows.push(std::iter::once(name.clone()).chain(cells).collect());
        }
    }
    Some(rows)
}

/// The list in an answer: its name and its items, if the answer is one and hardly anything else.
fn list(value: &Value) -> Option<(&str, Vec<&Map<String, Value>>)> {
    let mut lists = value
        .as_object()?
        .iter()
        .filter(|(key, _)| !matches!(key.as_str(), "total" | "limit" | "offset"));
    let (name, items) = lists.next()?;
    if lists.next().is_some() {
        return None;
    }
    let items: Option<Vec<_>> = items.as_array()?.iter().map(Value::as_object).collect();
    Some((name, items?))
}

/// The value as a table with a line end, if it is a list; it is to fit into so many columns.
pub(crate) fn table(value: &Value, width: Option<usize>) -> Option<String> {
    if let Some(rows) = fleet(value) {
        return Some(Rows(rows).lines(FLEET_FIT, width));
    }
    let (name, items) = list(value)?;
    if items.is_empty() {
        return Some(format!("no {}\n", lines::visible(name)));
    }
    if let Some(table) = (name == "hosts")
        .then(|| live_hosts::table(&items, width))
        .flatten()
    {
        return Some(table);
    }
    let has = |key: &str| items.iter().any(|item| item.contains_key(key));
    let (rows, steps) = match name {
        "deployments" if has("started_at") => {
            let timed: Vec<_> = items.iter().copied().map(timed).collect();
            let timed: Vec<_> = timed.iter().collect();
            (rows(DEPLOYMENTS, &timed), DEPLOYMENTS_FIT)
        }
        "components" => {
            let marked: Vec<_> = items.iter().copied().map(marked).collect();
            let marked: Vec<_> = marked.iter().collect();
            (rows(COMPONENTS, &marked), COMPONENTS_FIT)
        }
        "targets" => (any_rows(&items), TARGETS_FIT),
        _ => (any_rows(&items), &[] as &[Fit]),
    };
    let mut out = Rows(rows).lines(steps, width);
    let total = value
        .get("total")
        .and_then(Value::as_u64)
        .unwrap_or_default();
    // A `usize` always fits here.
    if total > items.len() as u64 {
        out.push_str(&format!("({} of {total})\n", items.len()));
    }
    Some(out)
}

/// A deployment that says how long it took, if it has ended.
fn timed(deployment: &Map<String, Value>) -> Map<String, Value> {
    let mut timed = deployment.clone();
    let number = |key: &str| deployment.get(key).and_then(Value::as_u64);
    if let (None, Some(begun), Some(ended)) = (
        number("elapsed_ms"),
        number("started_at"),
        number("completed_at"),
    ) {
        timed.insert("elapsed_ms".into(), ended.saturating_sub(begun).into());
    }
    timed
}

/// A component that names its release only where another deployment built it, and the release of its processes only where
/// that is not the live one.
fn marked(component: &Map<String, Value>) -> Map<String, Value> {
    let mut marked = component.clone();
    let live = component.get("release_id");
    if component.get("stopped") == Some(&Value::Bool(true)) {
        marked.insert("processes".into(), "stopped".into());
    }
    if live == component.get("deployment_id") {
        marked.remove("release_id");
    }
    if let Some(Value::Array(processes)) = marked.get_mut("processes") {
        for process in processes.iter_mut().filter_map(Value::as_object_mut) {
            if process.get("release_id") == live {
                process.remove("release_id");
            }
        }
    }
    marked
}

fn rows(columns: &[Column], items: &[&Map<String, Value>]) -> Vec<Vec<String>> {
    let is_said = |(_, key, show): &&Column| {
        let said = |item: &&Map<String, Value>| match item.get(*key) {
            None | Some(Value::Null) => false,
            Some(Value::Array(items)) => !items.is_empty(),
            Some(_) => true,
        };
        match show {
            CellFormat::Optional
            | CellFormat::OptionalId
            | CellFormat::Line
            | CellFormat::Peers
            | CellFormat::Generation
            | CellFormat::Commit => items.iter().any(said),
            _ => true,
        }
    };
    let columns: Vec<&Column> = columns.iter().filter(is_said).collect();
    let ids = |item: &&Map<String, Value>| Some(item.get("deployment_id")?.as_str()?.to_owned());
    let ids = short_ids(items.iter().filter_map(ids));
    let head = columns
        .iter()
        .map(|(title, ..)| (*title).to_owned())
        .collect();
    let body = items.iter().map(|item| {
        columns
            .iter()
            .map(|(_, key, show)| match (item.get(*key), show) {
                (Some(Value::String(id)), CellFormat::Id) if ids => short_id(id),
                (value, _) => cell(value.unwrap_or(&Value::Null), *show),
            })
            .collect()
    });
    std::iter::once(head).chain(body).collect()
}

/// How much of an id tells the millisecond in which its deployment began.
const ID_SHOWN: usize = 13;

/// The beginning of an id, which is taken wherever an id is asked for.
fn short_id(id: &str) -> String {
    lines::visible(id).chars().take(ID_SHOWN).collect()
}

/// Whether the beginnings of these ids tell them apart: of two that began in one millisecond they do not.
fn short_ids(ids: impl Iterator<Item = String>) -> bool {
    let ids: BTreeSet<String> = ids.collect();
    let short: BTreeSet<String> = ids.iter().map(|id| short_id(id)).collect();
    ids.len() == short.len()
}

/// A list that we know nothing of has the columns of all its items, in the order in which they come.
fn any_rows(items: &[&Map<String, Value>]) -> Vec<Vec<String>> {
    let mut keys: Vec<&String> = Vec::new();
    for key in items.iter().flat_map(|item| item.keys()) {
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    // What an item is called comes first.
    keys.sort_by_key(|key| *key != "name");
    let head = keys
        .iter()
        .map(|key| lines::visible(key).to_uppercase())
        .collect();
    let body = items.iter().map(|item| {
        keys.iter()
            .map(|key| {
                let show = match key.as_str() {
                    "at" | "since" => CellFormat::Time,
                    key if key.ends_with("_at") => CellFormat::Time,
                    key if key.ends_with("_ms") => CellFormat::Took,
                    _ => CellFormat::Text,
                };
                cell(item.get(*key).unwrap_or(&Value::Null), show)
            })
            .collect()
    });
    std::iter::once(head).chain(body).collect()
}

fn cell(value: &Value, show: CellFormat) -> String {
    let text = match (value, show) {
        (Value::Null, _) => String::new(),
        (Value::Array(items), CellFormat::Count) => items.len().to_string(),
        (Value::Number(number), CellFormat::Time | CellFormat::Took) => {
            match (number.as_u64(), show) {
                (Some(ms), CellFormat::Time) => time::plain(ms),
                (Some(ms), _) => units::duration(Duration::from_millis(ms)),
                (None, _) => number.to_string(),
            }
        }
        (Value::String(text), CellFormat::Line) => text.lines().next().unwrap_or("").to_owned(),
        (Value::String(text), CellFormat::OptionalId) => short_id(text),
        (Value::String(text), _) => text.clone(),
        (Value::Array(items), CellFormat::Peers) if items.is_empty() => String::new(),
        (Value::Array(items), CellFormat::Peers) => {
            let well = items.iter().filter(|one| one["status"] == "success");
            format!("{}/{}", well.count(), items.len())
        }
        (Value::Object(source), CellFormat::Commit) => commit(source),
        (Value::Object(fleet), CellFormat::Generation) => match fleet.get("generation") {
            Some(generation) => generation.to_string(),
            None => String::new(),
        },
        (Value::Array(items), _) => {
            let items: Vec<String> = items.iter().map(item).collect();
            match show {
                CellFormat::Lines => {
                    return or_dash(
                        items
                            .iter()
                            .map(|one| in_cell(one))
                            .collect::<Vec<_>>()
                            .join("\n"),
                    );
                }
                _ => items.join(","),
            }
        }
        (other, _) => item(other),
    };
    or_dash(in_cell(&text))
}

/// A text in one line.
fn in_cell(text: &str) -> String {
    lines::visible(&text.replace('\t', " ")).into_owned()
}

/// An empty cell would let the eye slip into the next column.
fn or_dash(text: String) -> String {
    match text.is_empty() {
        true => "-".to_owned(),
        false => text,
    }
}

/// The beginning of a commit, as git shows it, with a plus sign where there was more than it.
fn commit(source: &Map<String, Value>) -> String {
    let text = |key: &str| source.get(key).and_then(Value::as_str);
    let commit = text("commit").or(text("branch")).unwrap_or_default();
    let is_hash = commit.len() >= 20 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    let shown: String = commit.chars().take(if is_hash { 7 } else { 16 }).collect();
    match source.get("dirty") == Some(&Value::Bool(true)) {
        true => shown + "+",
        false => shown,
    }
}

/// A process in a cell: its type, and what is known of it.
fn process(value: &Value) -> Option<String> {
    let kind = value.get("type")?.as_str()?;
    let restarts = value.get("restarts")?.as_u64()?;
    let number = |name: &str| value.get(name).and_then(Value::as_u64);
    let text = |name: &str| value.get(name).and_then(Value::as_str);
    let mut facts = Vec::new();
    match number("pid") {
        Some(pid) => facts.push(format!("pid {pid}")),
        None => {
            let ended = text("ended").map_or(String::new(), |how| format!(", {how}"));
            facts.push(format!("not running{ended}"));
        }
    }
    facts.extend(text("release_id").map(|id| format!("of release {}", short_id(id))));
    facts.extend(
        number("uptime_ms").map(|ms| format!("up {}", units::duration(Duration::from_millis(ms)))),
    );
    facts.extend(
        (restarts > 0)
            .then(|| format!("{restarts} restart{}", if restarts == 1 { "" } else { "s" })),
    );
    facts.extend(number("memory").map(units::size));
    Some(format!("{kind} ({})", facts.join(", ")))
}

/// An item of a list within a cell: a process is its type, anything else is what it is.
fn item(value: &Value) -> String {
    if let Some(process) = process(value) {
        return process;
    }
    let named = ["type", "name", "node", "id"]
        .iter()
        .find_map(|key| value.get(key)?.as_str());
    match (named.or_else(|| value.as_str()), value) {
        (Some(name), _) => name.to_owned(),
        (None, other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployments() -> Value {
        json!({"deployments": [
            {"deployment_id": "01a217d7-3436-7000-8000-00000000000b", "project": "demo", "kind": "deploy", "status": "installing", "phase": "install",
             "started_at": 1_795_508_171_000_u64, "elapsed_ms": null, "user": null, "files": 3, "peer_results": []},
            {"deployment_id": "01a217d7-3435-7000-8000-00000000000a", "project": "other\u{1b}", "kind": "rollback", "status": "success", "phase": "activate",
             "started_at": 0, "elapsed_ms": 12_345, "user": "ci bot", "source": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": true}},
            {"deployment_id": "01a217d7-3434-7000-8000-00000000000a", "project": "other", "status": "failed", "phase": "replicate",
             "started_at": 5000, "completed_at": 7000, "message": "fix the door\n\nat last", "peer_results": [{"status": "success"}, {"status": "failed"}]},
        ], "total": 7})
    }

    #[test]
    fn deployments_are_a_table() {
        let expected = "\
ID             PROJECT  KIND      STATUS      PHASE      STARTED              TOOK   BY      PEERS  COMMIT    MESSAGE
01a217d7-3436  demo     deploy    installing  install    2026-11-24 08:16:11  -      -       -      -         -
01a217d7-3435  other^[  rollback  success     activate   1970-01-01 00:00:00  12.3s  ci bot  -      0123456+  -
01a217d7-3434  other    -         failed      replicate  1970-01-01 00:00:05  2.0s   -       1/2    -         fix the door
(2 of 7)
";
        let found = table(&deployments(), None).unwrap();
        assert_eq!(found, expected.replace("(2", "(3"));
    }

    #[test]
    fn deployments_fit_a_terminal() {
        let mut value = deployments();
        let expected = "\
ID             PROJECT  KIND      STATUS   STARTED      TOOK   PEERS  COMMIT
01a217d7-3436  demo     deploy    loading  11-24 08:16  -      -      -
01a217d7-3435  other^[  rollback  success  01-01 00:00  12.3s  -      0123456+
01a217d7-3434  other    -         failed   01-01 00:00  2.0s   1/2    -
(3 of 7)
";
        let all = value["deployments"].as_array_mut().unwrap();
        all[0]["status"] = "loading".into();
        all[2]["message"] = Value::Null;
        assert_eq!(table(&value, Some(80)).unwrap(), expected);
        // The longest name there is, and a message.
        value["deployments"][0]["project"] = "p".repeat(63).into();
        value["deployments"][0]["status"] = "rolled_back".into();
        value["deployments"][2]["message"] = "why ".repeat(100).into();
        for width in [60, 80, 100, 132, 200] {
            let found = table(&value, Some(width)).unwrap();
            let longest = found.lines().map(str::len).max().unwrap();
            assert!(longest <= width, "{longest} of {width}: {found}");
        }
        // What may be left out is left out last of all where nothing else helps.
        let narrow = table(&value, Some(80)).unwrap();
        assert!(
            narrow.contains("pppppppppp..") && narrow.contains("COMMIT"),
            "{narrow}"
        );
    }

    #[test]
    fn ids_that_began_in_one_millisecond_are_told_apart() {
        let one =
            |end: &str| json!({"deployment_id": format!("01a217d7-3436-{end}"), "started_at": 0});
        let value = json!({"deployments": [one("a"), one("b")]});
        let found = table(&value, None).unwrap();
        assert!(
            found.contains("01a217d7-3436-a ") && found.contains("01a217d7-3436-b "),
            "{found}"
        );
    }

    #[test]
    fn components_and_others_are_tables() {
        let (one, two) = (
            "01a217d7-3436-7000-8000-00000000000b",
            "01a217d7-3437-7000-8000-00000000000b",
        );
        let value = json!({"components": [
            {"project": "demo", "deployment_id": one, "release_id": one, "since": 0, "processes": [{"type": "web", "pid": 1}, {"type": "job"}], "releases": ["r", "q"]},
            {"project": "y", "processes": [{"type": "web", "pid": 1, "uptime_ms": 2000, "restarts": 3, "memory": 3145728}, {"type": "job", "pid": null, "uptime_ms": null, "restarts": 0, "memory": null}], "releases": 3},
            {"project": "x", "processes": [], "releases": 3},
            {"project": "z", "deployment_id": two, "release_id": one, "since": 1_795_508_171_000_u64, "stopped": false, "processes": [{"type": "web", "pid": 1, "release_id": two, "restarts": 0}, {"type": "job", "pid": null, "release_id": one, "restarts": 1, "ended": "exit code 3"}], "releases": 3},
            {"project": "s", "deployment_id": one, "release_id": one, "stopped": true, "processes": [], "releases": 3},
        ]});
        let expected = "\
PROJECT  DEPLOYMENT     RELEASE        SINCE                RELEASES  PROCESSES
demo     01a217d7-3436  -              1970-01-01 00:00:00  2         web, job
y        -              -              -                    3         web (pid 1, up 2.0s, 3 restarts, 3.0 MiB), job (not running)
x        -              -              -                    3         -
z        01a217d7-3437  01a217d7-3436  2026-11-24 08:16:11  3         web (pid 1, of release 01a217d7-3437), job (not running, exit code 3, 1 restart)
s        01a217d7-3436  -              -                    3         stopped
";
        assert_eq!(table(&value, None).unwrap(), expected);
        let expected = "\
PROJECT  DEPLOYMENT     RELEASE        SINCE        PROCESSES
demo     01a217d7-3436  -              01-01 00:00  web
                                                    job
y        -              -              -            web (pid 1, up 2.0s, 3
                                                      restarts, 3.0 MiB)
                                                    job (not running)
x        -              -              -            -
z        01a217d7-3437  01a217d7-3436  11-24 08:16  web (pid 1, of release
                                                      01a217d7-3437)
                                                    job (not running, exit code
                                                      3, 1 restart)
s        01a217d7-3436  -              -            stopped
";
        assert_eq!(table(&value, Some(80)).unwrap(), expected);
        let value = json!({"tokens": [{"name": "ci", "role": "deploy"}, {"name": "a\nb", "projects": ["x", "y"], "made_at": 0}]});
        let rows = table(&value, None).unwrap();
        let mut rows = rows.lines();
        assert_eq!(
            rows.next().unwrap().split_whitespace().collect::<Vec<_>>(),
            ["NAME", "ROLE", "PROJECTS", "MADE_AT"]
        );
        assert_eq!(
            rows.next().unwrap().split_whitespace().collect::<Vec<_>>(),
            ["ci", "deploy", "-", "-"]
        );
        assert!(rows.next().unwrap().starts_with("a^Jb"));
    }

    #[test]
    fn targets_fit_into_the_terminal() {
        let path = "token in /home/somebody/.config/tokens/of/the/servers/production.token";
        let value = json!({"targets": [
            {"name": "prod", "url": "https://apps.example:9925", "login": path},
            {"name": "dev", "url": "http://127.0.0.1:9925", "login": "-"},
        ]});
        let expected = "\
NAME  URL                        LOGIN
prod  https://apps.example:9925  token in
                                   /home/somebody/.config/tokens/of/the/servers/
                                   production.token
dev   http://127.0.0.1:9925      -
";
        assert_eq!(table(&value, Some(80)).unwrap(), expected);
    }

    #[test]
    fn what_is_a_list() {
        assert_eq!(
            table(&json!({"deployments": [], "total": 0}), None).unwrap(),
            "no deployments\n"
        );
        let none = [
            json!({"message": "x", "deployments": []}),
            json!({"a": 1}),
            json!({}),
            json!([]),
            json!({"a": [1]}),
            json!("x"),
        ];
        for value in none {
            assert_eq!(table(&value, None), None, "{value}");
        }
    }
}
