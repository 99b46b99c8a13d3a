//! Lists as tables: one row an item, columns as wide as what stands in them.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::cli::screen::lines;
use crate::cli::screen::units;
use crate::system::time;

/// How a field is shown.
#[derive(Debug, Clone, Copy)]
enum CellFormat {
    /// As it is.
    Text,
    /// Milliseconds since the epoch.
    Time,
    /// Milliseconds.
    Took,
    /// How many there are, or which.
    Count,
}

type Column = (&'static str, &'static str, CellFormat);

const DEPLOYMENTS: &[Column] = &[
    ("ID", "deployment_id", CellFormat::Text),
    ("PROJECT", "project", CellFormat::Text),
    ("STATUS", "status", CellFormat::Text),
    ("PHASE", "phase", CellFormat::Text),
    ("STARTED", "started_at", CellFormat::Time),
    ("TOOK", "elapsed_ms", CellFormat::Took),
    ("BY", "user", CellFormat::Text),
];

const COMPONENTS: &[Column] = &[
    ("PROJECT", "project", CellFormat::Text),
    ("DEPLOYMENT", "deployment_id", CellFormat::Text),
    ("RELEASE", "release_id", CellFormat::Text),
    ("SINCE", "since", CellFormat::Time),
    ("PROCESSES", "processes", CellFormat::Text),
    ("RELEASES", "releases", CellFormat::Count),
];

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

/// The value as a table with a line end, if it is a list.
pub(crate) fn table(value: &Value) -> Option<String> {
    let (name, items) = list(value)?;
    if items.is_empty() {
        return Some(format!("no {}\n", lines::visible(name)));
    }
    let has = |key: &str| items.iter().any(|item| item.contains_key(key));
    let mut rows = match name {
        "deployments" if has("started_at") => rows(DEPLOYMENTS, &items),
        "components" => {
            let marked: Vec<_> = items.iter().copied().map(marked).collect();
            rows(COMPONENTS, &marked.iter().collect::<Vec<_>>())
        }
        _ => any_rows(&items),
    };
    let mut out = aligned(&mut rows);
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

/// A component whose processes name their release only where that is not the live one.
fn marked(component: &Map<String, Value>) -> Map<String, Value> {
    let mut marked = component.clone();
    let live = component.get("release_id");
    if component.get("stopped") == Some(&Value::Bool(true)) {
        marked.insert("processes".into(), "stopped".into());
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
    let head = columns
        .iter()
        .map(|(title, ..)| (*title).to_owned())
        .collect();
    let body = items.iter().map(|item| {
        columns
            .iter()
            .map(|(_, key, show)| cell(item.get(*key).unwrap_or(&Value::Null), *show))
            .collect()
    });
    std::iter::once(head).chain(body).collect()
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
        (Value::String(text), _) => text.clone(),
        (Value::Array(items), _) => items.iter().map(item).collect::<Vec<_>>().join(","),
        (other, _) => item(other),
    };
    // A cell is one line, and an empty one would let the eye slip into the next column.
    if text.is_empty() {
        "-".to_owned()
    } else {
        lines::visible(&text.replace('\t', " ")).into_owned()
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
    facts.extend(text("release_id").map(|id| format!("of release {id}")));
    facts.extend(
        number("uptime_ms").map(|ms| format!("up {}", units::duration(Duration::from_millis(ms)))),
    );
    facts.extend((restarts > 0).then(|| format!("{restarts} restarts")));
    facts.extend(number("memory").map(units::size));
    Some(format!("{kind} ({})", facts.join(" ")))
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

fn aligned(rows: &mut [Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |text: &String| text.chars().count();
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            rows.iter()
                .map(|row| width(&row[column]))
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (text, column) in row.iter().zip(&widths) {
            line.push_str(text);
            // Two spaces between columns, so that a cell with one in it stays one.
            line.extend(std::iter::repeat_n(' ', column - width(text) + 2));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn deployments_are_a_table() {
        let value = json!({"deployments": [
            {"deployment_id": "0198-b", "project": "demo", "status": "installing", "phase": "install", "started_at": 1_795_508_171_000_u64,
             "elapsed_ms": null, "user": null, "files": 3},
            {"deployment_id": "0198-a", "project": "other\u{1b}", "status": "success", "phase": "activate", "started_at": 0, "elapsed_ms": 12_345, "user": "ci bot"},
        ], "total": 7});
        let expected = "\
ID      PROJECT  STATUS      PHASE     STARTED              TOOK   BY
0198-b  demo     installing  install   2026-11-24 08:16:11  -      -
0198-a  other^[  success     activate  1970-01-01 00:00:00  12.3s  ci bot
(2 of 7)
";
        assert_eq!(table(&value).unwrap(), expected);
    }

    #[test]
    fn components_and_others_are_tables() {
        let value = json!({"components": [
            {"project": "demo", "deployment_id": "d", "release_id": "r", "since": 0, "processes": [{"type": "web", "pid": 1}, {"type": "job"}], "releases": ["r", "q"]},
            {"project": "y", "processes": [{"type": "web", "pid": 1, "uptime_ms": 2000, "restarts": 3, "memory": 3145728}, {"type": "job", "pid": null, "uptime_ms": null, "restarts": 0, "memory": null}], "releases": 3},
            {"project": "x", "processes": [], "releases": 3},
            {"project": "z", "release_id": "r", "stopped": false, "processes": [{"type": "web", "pid": 1, "release_id": "q", "restarts": 0}, {"type": "job", "pid": null, "release_id": "r", "restarts": 1, "ended": "exit code 3"}], "releases": 3},
            {"project": "s", "release_id": "r", "stopped": true, "processes": [], "releases": 3},
        ]});
        let expected = "\
PROJECT  DEPLOYMENT  RELEASE  SINCE                PROCESSES                                                           RELEASES
demo     d           r        1970-01-01 00:00:00  web,job                                                             2
y        -           -        -                    web (pid 1 up 2.0s 3 restarts 3.0 MiB),job (not running)            3
x        -           -        -                    -                                                                   3
z        -           r        -                    web (pid 1 of release q),job (not running, exit code 3 1 restarts)  3
s        -           r        -                    stopped                                                             3
";
        assert_eq!(table(&value).unwrap(), expected);
        let value = json!({"tokens": [{"name": "ci", "role": "deploy"}, {"name": "a\nb", "projects": ["x", "y"], "made_at": 0}]});
        let rows = table(&value).unwrap();
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
    fn what_is_a_list() {
        assert_eq!(
            table(&json!({"deployments": [], "total": 0})).unwrap(),
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
            assert_eq!(table(&value), None, "{value}");
        }
    }
}
