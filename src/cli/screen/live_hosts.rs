//! What is live on several hosts, as a table.

use serde_json::{Map, Value};

use crate::cli::screen::layout::{Fit, Rows};
use crate::cli::screen::lines;
use crate::system::time;

/// A tree is the same wherever the same is live, and the ids of the deployments differ.
const FIT: &[Fit] = &[
    Fit::ShortTime("SINCE"),
    Fit::Wrap("NOTE", 32),
    Fit::Drop("SINCE"),
    Fit::Cut("PROJECT", 10),
    Fit::Cut("HOST", 12),
    Fit::Wrap("NOTE", 16),
];

/// How much of a tree's hash tells it from the others.
const TREE_SHOWN: usize = 12;

/// A row for each component on each host, and one for each host that has none or does not answer. None if these are not
/// hosts with what is live there.
pub(super) fn table(hosts: &[&Map<String, Value>], width: Option<usize>) -> Option<String> {
    if hosts.iter().any(|host| !host.contains_key("reachable")) {
        return None;
    }
    let head = [
        "HOST",
        "REACHABLE",
        "PROJECT",
        "TREE",
        "SINCE",
        "UP",
        "NOTE",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for host in hosts {
        let text = |key: &str| shown(host.get(key));
        let reachable = host.get("reachable") == Some(&Value::Bool(true));
        let is_reachable = if reachable { "yes" } else { "no" };
        let components = host.get("components").and_then(Value::as_array);
        let begin = [text("host"), is_reachable.to_owned()];
        let row = |rest: [String; 5]| begin.iter().cloned().chain(rest).collect::<Vec<_>>();
        let none = || "-".to_owned();
        match components.filter(|all| reachable && !all.is_empty()) {
            None => rows.push(row([none(), none(), none(), none(), text("error")])),
            Some(all) => rows.extend(all.iter().map(|one| {
                let tree: String = shown(one.get("tree")).chars().take(TREE_SHOWN).collect();
                let since = one["since"].as_u64().map_or_else(none, time::plain);
                row([shown(one.get("project")), tree, since, up(one), none()])
            })),
        }
    }
    Some(Rows(rows).lines(FIT, width))
}

/// How many of its processes run.
fn up(component: &Value) -> String {
    if component["stopped"] == true {
        return "stopped".to_owned();
    }
    match component["processes"].as_array() {
        Some(all) if !all.is_empty() => {
            let up = all.iter().filter(|one| !one["pid"].is_null()).count();
            format!("{up}/{}", all.len())
        }
        _ => "-".to_owned(),
    }
}

fn shown(value: Option<&Value>) -> String {
    match value.and_then(Value::as_str) {
        None | Some("") => "-".to_owned(),
        Some(text) => lines::message(text).join(" "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_component_of_each_host_has_a_row_that_fits() {
        let web = |pid: Value| json!({"type": "web", "pid": pid});
        let component = |project: &str, more: Value| {
            let mut one = json!({"project": project, "tree": "ab".repeat(32), "since": 5000});
            one.as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            one
        };
        let hosts = json!([
            {"host": "one", "reachable": true, "components": [
                component("demo", json!({"processes": [web(json!(7)), web(json!(null))]})),
                component("site", json!({"processes": [], "tree": null})),
            ]},
            {"host": "two", "reachable": true, "components": [
                component("demo", json!({"processes": [], "stopped": true})),
            ]},
            {"host": "three", "reachable": true, "components": []},
            {"host": "four", "reachable": false, "error": "connecting to http://10.20.30.40:9925:\nConnection refused (os error 111)"},
        ]);
        let all: Vec<_> = hosts
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one.as_object().unwrap())
            .collect();
        let wide = table(&all, None).unwrap();
        let rows: Vec<Vec<&str>> = wide
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(
            rows[0],
            [
                "HOST",
                "REACHABLE",
                "PROJECT",
                "TREE",
                "SINCE",
                "UP",
                "NOTE"
            ]
        );
        assert_eq!(
            rows[1][..4],
            ["one", "yes", "demo", "abababababab"],
            "{wide}"
        );
        assert!(
            rows[1].contains(&"1/2") && rows[3].contains(&"stopped"),
            "{wide}"
        );
        assert_eq!(rows[4], ["three", "yes", "-", "-", "-", "-", "-"], "{wide}");
        assert!(
            rows[5].ends_with(&["111)"]) && rows[5][..2] == ["four", "no"],
            "{wide}"
        );
        let narrow = table(&all, Some(80)).unwrap();
        assert!(narrow.lines().all(|line| line.len() <= 80), "{narrow}");
        // Other lists of hosts are not of this kind.
        assert_eq!(
            table(&[json!({"host": "x"}).as_object().unwrap()], None),
            None
        );
    }
}
