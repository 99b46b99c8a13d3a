//! Deployments at a Harper server whose answer is lost: none is sent twice, and each is followed to its end.

use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::harper::fake::{
    Exchange, FakeHarper, Shared, change_row, log, now_ms, succeed, success,
};
use crate::harper::{app, assert_exit, deploy, run, stderr, stdout};
use crate::test_server::{await_some, gangplank};

/// Ends a deployment in the background, after a while: its events, and then its record.
fn end_later(state: &Shared, id: &str, events: Vec<(&'static str, Value)>, status: &'static str) {
    let (state, id) = (state.clone(), id.to_owned());
    std::thread::spawn(move || {
        for (event, data) in events {
            std::thread::sleep(Duration::from_millis(30));
            if event != "done" {
                log(&state, &id, event, &data);
            }
        }
        let ended = json!({"status": status, "phase": status, "completed_at": now_ms()});
        change_row(&state, &id, &ended);
    });
}

/// Takes the upload, shows the first events, and breaks.
fn break_after(exchange: &mut Exchange, shown: usize, status: &'static str) {
    exchange.open();
    let id = exchange.begin_row();
    if !exchange.store(&id) {
        return;
    }
    let mut events = success(&id, &exchange.seen.fields);
    if status == "failed" {
        events.truncate(3);
        let error =
            json!({"message": "npm failed", "code": 500, "phase": "prepare", "deployment_id": id});
        events.push(("error", error));
        events.push(("_recorder_finished", json!({"status": "failed"})));
    }
    let rest = events.split_off(shown);
    for (event, data) in events {
        exchange.tell(&id, event, &data);
    }
    end_later(&exchange.state, &id, rest, status);
    exchange.cut();
}

fn uploads(harper: &FakeHarper) -> usize {
    let asked = harper.operations();
    asked
        .iter()
        .filter(|name| *name == "deploy_component")
        .count()
}

fn count(output: &Output, part: &str) -> usize {
    let shown = stderr(output);
    shown.lines().filter(|line| line.contains(part)).count()
}

#[test]
fn an_answer_that_is_lost_is_found_and_followed_and_nothing_is_sent_twice() {
    // Before the first event, and behind each of some.
    for shown in [0, 1, 2, 5] {
        let harper = FakeHarper::start("5.1.14", move |exchange| {
            break_after(exchange, shown, "success")
        });
        let output = deploy(&harper, &[]);
        assert_exit(&output, 0, "looking for the deployment");
        assert_eq!(uploads(&harper), 1);
        let result = stdout(&output);
        assert_eq!(result["message"], "Successfully deployed: hello");
        assert_eq!(
            result["deployment_id"],
            "2f1c1e9a-7d0a-4f55-9d8e-000000000001"
        );
        // Each event once, whichever connection brought it.
        for part in [
            "prepare...",
            "prepare done",
            "added 42 packages",
            "replicate done",
        ] {
            assert_eq!(count(&output, part), 1, "{shown}: {}", stderr(&output));
        }
        let list = harper
            .seen()
            .into_iter()
            .find(|seen| seen.operation == "list_deployments");
        let list = list.unwrap().fields;
        assert_eq!(
            (&list["project"], &list["limit"]),
            (&json!("hello"), &json!(5))
        );
        let since = list["since"].as_u64().unwrap();
        assert!(since <= now_ms() && since > now_ms() - 60_000, "{since}");
    }
}

#[test]
fn a_failure_whose_answer_was_lost_is_a_failure() {
    let harper = FakeHarper::start("5.1.14", |exchange| break_after(exchange, 2, "failed"));
    let output = deploy(&harper, &[]);
    assert_exit(&output, 1, "error: npm failed (500)");
    assert_eq!(uploads(&harper), 1);
}

#[test]
fn a_lost_end_behind_the_recorders_word_is_a_success() {
    let harper = FakeHarper::start("5.1.14", |exchange| {
        exchange.open();
        let id = exchange.begin_row();
        assert!(exchange.store(&id));
        for (event, data) in success(&id, &exchange.seen.fields) {
            if event != "done" {
                exchange.event(event, &data);
            }
        }
        // Its record is behind.
        exchange.cut();
    });
    let output = deploy(&harper, &[]);
    assert_exit(&output, 0, "");
    let id = "2f1c1e9a-7d0a-4f55-9d8e-000000000001";
    assert_eq!(stdout(&output)["deployment_id"], id);
}

#[test]
fn a_record_that_a_killed_server_left_is_no_success() {
    let harper = FakeHarper::start("5.1.14", |exchange| {
        exchange.open();
        let id = exchange.begin_row();
        assert!(exchange.store(&id));
        exchange.tell(
            &id,
            "phase",
            &json!({"phase": "prepare", "status": "start"}),
        );
        exchange.row(&id, &json!({"left": true}));
        exchange.cut();
    });
    let output = deploy(&harper, &[]);
    assert_exit(&output, 5, "its record says that it is pending");
    assert!(
        stderr(&output).contains("gangplank watch 2f1c1e9a"),
        "{output:?}"
    );
    assert_eq!(uploads(&harper), 1);
}

#[test]
fn a_deployment_of_which_there_is_no_record_is_unknown() {
    let harper = FakeHarper::start("5.1.14", |exchange| {
        exchange.open();
        exchange.payload();
        exchange.cut();
    });
    let output = deploy(&harper, &[]);
    assert_exit(&output, 5, "no record");
    assert_eq!(uploads(&harper), 1);
}

#[test]
fn a_deployment_that_may_not_be_looked_at_is_unknown() {
    let harper = FakeHarper::start("5.1.14", |exchange| break_after(exchange, 1, "success"));
    harper.state.lock().unwrap().secretive = true;
    assert_exit(&deploy(&harper, &[]), 5, "This operation is not authorized");
    assert_eq!(uploads(&harper), 1);
}

#[test]
fn somebody_elses_deployment_is_not_taken_for_ours() {
    let harper = FakeHarper::start("5.1.14", |exchange| {
        exchange.open();
        exchange.payload();
        for (hash, status) in [("00", "success"), ("11", "failed")] {
            let id = exchange.begin_row();
            exchange.row(&id, &json!({"payload_hash": hash, "status": status}));
        }
        exchange.cut();
    });
    assert_exit(&deploy(&harper, &[]), 5, "no record");
}

#[test]
fn a_server_that_is_killed_is_waited_for_and_asked_when_it_is_back() {
    // What its record says then, and how the command ends.
    let table = [
        (
            json!({"status": "success"}),
            0,
            "looking for the deployment",
        ),
        (
            json!({"left": true}),
            5,
            "its record says that it is pending",
        ),
    ];
    for (row, code, part) in table {
        let harper = FakeHarper::start("5.1.14", move |exchange| {
            exchange.open();
            let id = exchange.begin_row();
            assert!(exchange.store(&id));
            exchange.row(&id, &row);
            exchange.kill(Duration::from_millis(700));
        });
        let output = deploy(&harper, &[]);
        assert_exit(&output, code, part);
        assert_eq!(uploads(&harper), 1);
    }
    let harper = FakeHarper::start("5.1.14", |exchange| {
        exchange.open();
        exchange.payload();
        exchange.kill(Duration::from_secs(20));
    });
    let output = deploy(&harper, &["--retry-for", "1"]);
    assert_exit(&output, 5, "refused");
    assert_eq!(uploads(&harper), 1);
}

#[test]
fn an_upload_that_breaks_behind_its_last_byte_is_known_by_its_record() {
    let harper = FakeHarper::start("5.1.14", |exchange| {
        exchange.open();
        let id = exchange.begin_row();
        exchange.payload();
        let aborted = json!({"message": "aborted", "phase": "pending"});
        exchange.row(
            &id,
            &json!({"status": "failed", "completed_at": now_ms(), "error": aborted}),
        );
        exchange.cut();
    });
    assert_exit(&deploy(&harper, &[]), 3, "error: aborted");
    assert_eq!(uploads(&harper), 1);
}

#[test]
fn what_a_server_says_is_an_id_is_never_a_part_of_a_command() {
    let harper = FakeHarper::start("5.1.14", |exchange| {
        exchange.open();
        let id = exchange.begin_row();
        assert!(exchange.store(&id));
        exchange.row(&id, &json!({"deployment_id": "x; touch y"}));
        exchange.cut();
    });
    let output = deploy(&harper, &["--retry-for", "1"]);
    assert_exit(&output, 5, "its id is not one");
    assert!(!stderr(&output).contains("touch"), "{output:?}");
}

#[test]
fn who_stops_watching_is_not_told_of_what_harper_cannot_do() {
    let harper = FakeHarper::start("5.1.14", succeed);
    assert_exit(&deploy(&harper, &[]), 0, "");
    let id = "2f1c1e9a-7d0a-4f55-9d8e-000000000001";
    change_row(&harper.state, id, &json!({"status": "pending"}));
    let watch = gangplank()
        .args(["watch", id, "--target", &harper.target])
        .args(["--username", "admin", "--password", "secret"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let asked = || {
        let asked = harper.operations();
        asked.contains(&"get_deployment".to_owned()).then_some(())
    };
    await_some("the question for the events", asked);
    kill_process(Pid::from_child(&watch), Signal::INT).unwrap();
    let output = watch.wait_with_output().unwrap();
    change_row(&harper.state, id, &json!({"status": "success"}));
    assert_exit(&output, 130, &format!("gangplank watch {id}"));
    assert!(!stderr(&output).contains("cancel"), "{output:?}");
}

#[test]
fn an_upload_that_breaks_is_not_sent_again() {
    let harper = FakeHarper::start("5.1.14", |exchange| {
        exchange.open();
        exchange.begin_row();
        exchange.cut();
    });
    let app = app(50 << 20);
    let dir = app.0.join("hello");
    let output = run(
        &harper.target,
        &["deploy", dir.to_str().unwrap(), "--level", "0"],
    );
    assert_exit(&output, 3, "the upload broke");
    assert_eq!(
        harper.operations(),
        ["registration_info", "deploy_component"]
    );
}

#[test]
fn a_package_that_is_lost_is_found_by_its_name() {
    let harper = FakeHarper::start("5.1.14", |exchange| {
        exchange.open();
        exchange
            .seen
            .fields
            .insert("project".into(), "left-pad".into());
        let id = exchange.begin_row();
        exchange.row(&id, &json!({"package_identifier": "left-pad"}));
        let events = success(&id, &exchange.seen.fields);
        end_later(&exchange.state, &id, events, "success");
        exchange.cut();
    });
    let output = run(
        &harper.target,
        &["deploy", "package=left-pad", "project=left-pad"],
    );
    assert_exit(&output, 0, "looking for the deployment");
    assert_eq!(uploads(&harper), 1);
    let deploy = harper.deploy();
    assert_eq!(
        deploy.header("content-type").as_deref(),
        Some("application/json")
    );
    assert!(deploy.header("idempotency-key").is_none());
}

#[test]
fn a_deployment_is_watched_by_its_id_and_by_its_component() {
    let harper = FakeHarper::start("5.1.14", succeed);
    let id = "2f1c1e9a-7d0a-4f55-9d8e-000000000001";
    assert_exit(&deploy(&harper, &[]), 0, "");
    for word in [id, "hello"] {
        let output = run(&harper.target, &["watch", word]);
        assert_exit(&output, 0, "prepare done");
        assert_eq!(stdout(&output)["deployment_id"], id);
    }
    let unknown = "2f1c1e9a-7d0a-4f55-9d8e-00000000000f";
    assert_exit(
        &run(&harper.target, &["watch", unknown]),
        1,
        "No deployment found",
    );
    assert_exit(
        &run(&harper.target, &["watch", "nothing"]),
        1,
        "no deployment of nothing",
    );
    let old = FakeHarper::start("4.7.29", succeed);
    assert_exit(
        &run(&old.target, &["watch", id]),
        1,
        "Harper 4.7 cannot do that",
    );
}

#[test]
fn a_running_deployment_is_watched_to_its_end_whatever_its_first_record_says() {
    for (status, code) in [("success", 0), ("failed", 1)] {
        let harper = FakeHarper::start("5.1.14", succeed);
        let begun = AtomicBool::new(false);
        let id = "2f1c1e9a-7d0a-4f55-9d8e-000000000001";
        let row = json!({
            "deployment_id": id, "project": "hello", "status": "pending", "phase": "prepare", "started_at": now_ms(),
            "payload_hash": null, "completed_at": null, "user": "admin", "error": null, "package_identifier": null,
            "event_log": [{"t": 1, "event": "phase", "data": {"phase": "prepare", "status": "start"}}],
        });
        harper.state.lock().unwrap().rows.push(row);
        let state = harper.state.clone();
        let asked = harper.state.clone();
        // It ends when somebody watches.
        let ending = std::thread::spawn(move || {
            while !begun.load(Ordering::Relaxed) {
                let watched = |state: &Shared| {
                    state
                        .lock()
                        .unwrap()
                        .seen
                        .iter()
                        .any(|seen| seen.operation == "get_deployment")
                };
                begun.store(watched(&asked), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(10));
            }
            let mut events = vec![("phase", json!({"phase": "prepare", "status": "done"}))];
            // The log of a failure need not have its `error`: the record has.
            events.push(("_recorder_finished", json!({"status": status})));
            end_later(&state, id, events, status);
            if status == "failed" {
                change_row(
                    &state,
                    id,
                    &json!({"error": {"message": "npm failed", "phase": "prepare"}}),
                );
            }
        });
        let output = run(&harper.target, &["watch", id]);
        assert_exit(
            &output,
            code,
            if code == 0 {
                "prepare done"
            } else {
                "error: npm failed"
            },
        );
        ending.join().unwrap();
    }
}
