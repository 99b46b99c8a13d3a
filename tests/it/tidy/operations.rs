//! An operation has an address: one word names its file under `server/`, its file under `cli/commands/` and its test.

use std::fs;

use super::{rust_files, top};

/// Each word, and the operations on the wire that it stands for. What no command of its own sends has only the first file.
const OPERATIONS: [(&str, &[&str], bool); 21] = [
    ("cancel", &["cancel_deployment"], true),
    ("deploy", &["deploy_component"], true),
    ("drop", &["drop_component"], true),
    ("env", &["get_env", "set_env"], true),
    ("fleet", &["get_fleet", "change_fleet"], true),
    ("list", &["list_deployments"], true),
    ("logs", &["get_logs"], true),
    (
        "payload",
        &["get_deployment_payload", "delete_deployment_payload"],
        true,
    ),
    ("prepare", &["prepare_deployment"], false),
    ("restart", &["restart_component"], true),
    ("rollback", &["rollback_component"], true),
    ("run", &["run_component"], true),
    ("show", &["get_deployment"], true),
    ("start", &["start_component"], true),
    ("status", &["get_components"], true),
    ("stop", &["stop_component"], true),
    ("sync", &["sync"], true),
    (
        "system",
        &["registration_info", "system_information"],
        false,
    ),
    ("tree", &["get_tree", "get_objects"], false),
    ("ui", &["create_page_code", "end_page_sessions"], true),
    // `GET /deployments/ID/events`
    ("watch", &[], true),
];

/// The operations on the wire, by the one table that names them.
fn on_the_wire() -> Vec<String> {
    let text = fs::read_to_string(top().join("src/api/operation/call.rs")).unwrap();
    let table = text.split_once("\noperations! {").unwrap().1;
    let table = table.split_once("\n}").unwrap().0;
    // The first text of each row.
    let names: Vec<String> = table
        .lines()
        .filter_map(|row| Some(row.split('"').nth(1)?.to_owned()))
        .collect();
    assert!(names.len() > 10, "{names:?}");
    names
}

#[test]
fn an_operation_has_an_address() {
    let mut tests = String::new();
    for file in rust_files(&top().join("tests/it")) {
        if !file.starts_with(top().join("tests/it/tidy")) {
            tests.push_str(&fs::read_to_string(&file).unwrap());
        }
    }
    let known: Vec<&str> = OPERATIONS
        .iter()
        .flat_map(|(_, names, _)| names.iter().copied())
        .collect();
    for name in on_the_wire() {
        assert!(
            known.contains(&name.as_str()),
            "the operation {name} has no word in {}",
            file!()
        );
    }
    for (word, names, has_command) in OPERATIONS {
        let file = top().join("src/server").join(word).with_extension("rs");
        assert!(file.exists(), "{} is missing", file.display());
        let command = top()
            .join("src/cli/commands")
            .join(word)
            .with_extension("rs");
        assert!(
            !has_command || command.exists(),
            "{} is missing",
            command.display()
        );
        // By its name on the wire, or by its command.
        let words = names.iter().chain(has_command.then_some(&word));
        assert!(
            words
                .clone()
                .any(|name| tests.contains(&format!("\"{name}\""))),
            "no test asks for {word}"
        );
    }
}

#[test]
fn the_drawing_has_every_status_of_a_deployment() {
    let guide = fs::read_to_string(top().join("src/guide.rs")).unwrap();
    let drawing = super::between(&guide, "```text", '`')[0];
    let events = fs::read_to_string(top().join("src/api/event.rs")).unwrap();
    let statuses = events.split_once("pub enum Status {").unwrap().1;
    let statuses = statuses.split_once('}').unwrap().0;
    for line in statuses.lines().filter(|line| line.ends_with(',')) {
        let mut status = String::new();
        for c in line.trim().trim_end_matches(',').chars() {
            if c.is_uppercase() && !status.is_empty() {
                status.push('_');
            }
            status.push(c.to_ascii_lowercase());
        }
        assert!(
            drawing.contains(&status),
            "{status} is missing in the drawing of src/guide.rs"
        );
    }
}
