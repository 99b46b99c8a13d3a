//! The `release:` line of a Procfile: run once for each deployment, before anything of it is live.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::test_server::{Record, TempDir, TestServer, await_some, gzip, names, tar};

/// Writes down that it ran, for which release, with what of its environment, and what was live.
const NOTES: &str = "echo \"$GANGPLANK_DEPLOYMENT_ID $WHO ${GANGPLANK_ORIGIN-none} \
                     $(cat ../../../components/app/v 2>/dev/null || echo nothing)\" >>$GANGPLANK_SHARED/ran";

fn payload(release: &str, v: &str) -> Vec<u8> {
    let procfile = format!("web: sleep 1000\nrelease: {release}\n");
    gzip(&tar(&[("./Procfile", &procfile), ("./v", v)]))
}

fn deploy(host: &TestServer, more: &[(&str, &str)], payload: &[u8]) -> Vec<Record> {
    let mut fields = vec![("project", "app")];
    fields.extend(more);
    host.deploy_live(&fields, payload).events()
}

fn ran(host: &TestServer) -> Vec<String> {
    let text = fs::read_to_string(host.path("shared/app/ran")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn live(host: &TestServer) -> Option<String> {
    fs::read_to_string(host.path("components/app/v")).ok()
}

/// The id of a deployment that went well.
fn done(events: &[Record]) -> String {
    let last = events.last().unwrap();
    assert_eq!(last.event, "done", "{events:#?}");
    let id = &last.data["result"]["deployment_id"];
    id.as_str().unwrap().to_owned()
}

/// The end of one that did not.
fn failed(events: &[Record]) -> Value {
    let last = events.last().unwrap();
    assert_eq!(last.event, "error", "{events:#?}");
    last.data.clone()
}

/// The phases that began, in their order.
fn begun(events: &[Record]) -> Vec<String> {
    let phases = events
        .iter()
        .filter(|one| one.event == "phase" && one.data["status"] == "start");
    phases
        .map(|one| one.data["phase"].as_str().unwrap().to_owned())
        .collect()
}

fn operate(host: &TestServer, operation: Value) -> Value {
    let answer = host.operate(&operation);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

#[test]
fn a_release_line_is_run_once_for_each_deployment_and_before_it_is_live() {
    let host = TestServer::start();
    fs::create_dir_all(host.path("env")).unwrap();
    fs::write(host.path("env/app"), "WHO=me\nGANGPLANK_ORIGIN=wrong\n").unwrap();
    let first = deploy(&host, &[("restart", "auto")], &payload(NOTES, "1"));
    assert_eq!(begun(&first)[2..], ["release", "activate", "restart"]);
    let one = done(&first);
    assert_eq!(ran(&host), [format!("{one} me none nothing")]);
    // It is not kept running, and is not a type.
    let components = operate(&host, json!({"operation": "get_components"}));
    let processes = components["components"][0]["processes"].as_array().unwrap();
    let types: Vec<&Value> = processes.iter().map(|one| &one["type"]).collect();
    assert_eq!(types, ["web"]);
    let second = format!("echo out; echo err >&2; {NOTES}");
    let second = deploy(&host, &[], &payload(&second, "2"));
    let two = done(&second);
    assert_eq!(ran(&host)[1..], [format!("{two} me none 1")]);
    let lines = second.iter().filter(|one| one.event == "install");
    let mut lines: Vec<&str> = lines
        .map(|one| one.data["line"].as_str().unwrap())
        .collect();
    lines.sort_unstable();
    assert_eq!(lines, ["err", "out"]);
    // Going back and restarting run nothing.
    operate(
        &host,
        json!({"operation": "rollback_component", "project": "app"}),
    );
    operate(
        &host,
        json!({"operation": "restart_component", "project": "app"}),
    );
    assert_eq!((ran(&host).len(), live(&host)), (2, Some("1".into())));
    // What is staged is released when it becomes live, each time that it is asked for.
    let staged = deploy(&host, &[("activate", "false")], &payload(NOTES, "3"));
    let three = done(&staged);
    assert_eq!((ran(&host).len(), live(&host)), (2, Some("1".into())));
    operate(
        &host,
        json!({"operation": "deploy_component", "project": "app", "deployment_id": three}),
    );
    assert_eq!(ran(&host)[2..], [format!("{three} me none 1")]);
    assert_eq!(live(&host).as_deref(), Some("3"));
    // A peer's origin has had it run before.
    let activate = |origin: &str, activates: bool| {
        operate(
            &host,
            json!({
                "operation": "deploy_component", "project": "app", "deployment_id": two,
                "origin": origin, "activate": activates,
            }),
        )
    };
    let answer = activate("one", false);
    assert_eq!(
        (&answer["staged"], &answer["release_id"]),
        (&json!(true), &json!(two))
    );
    assert_eq!(ran(&host)[3..], [format!("{two} me one 3")]);
    assert_eq!(live(&host).as_deref(), Some("3"));
    activate("one", true);
    assert_eq!((ran(&host).len(), live(&host)), (4, Some("2".into())));
}

#[test]
fn a_release_line_that_fails_keeps_everything_as_it_was() {
    let host = TestServer::start();
    done(&deploy(&host, &[("restart", "auto")], &payload(NOTES, "1")));
    let pid = || {
        let components = operate(&host, json!({"operation": "get_components"}));
        components["components"][0]["processes"][0]["pid"].clone()
    };
    let before = pid();
    let answer = host.deploy(
        &[("project", "app"), ("restart", "auto")],
        &payload("echo no table; exit 3", "2"),
    );
    let error = answer.json();
    assert_eq!(
        (answer.status, &error["code"], &error["phase"]),
        (422, &json!("release_failed"), &json!("release"))
    );
    let message = error["error"].as_str().unwrap();
    assert!(
        message.starts_with("releasing app with 'echo no table; exit 3'")
            && message.ends_with("exit code 3"),
        "{message}"
    );
    let line = &error["install_output"]["lines"][0];
    assert_eq!(line["line"], "no table", "{error}");
    let record = host.record(error["deployment_id"].as_str().unwrap());
    assert_eq!(record["status"], "failed");
    // Its time is over.
    let limit = [("install_timeout", "300")];
    let error = failed(&deploy(&host, &limit, &payload("sleep 1000", "3")));
    let message = error["message"].as_str().unwrap();
    assert!(
        error["code"] == "release_failed" && message.contains("timed out"),
        "{error}"
    );
    // The CLI.
    let dir = TempDir::new().with(&[("Procfile", "release: echo oh; exit 4\n")]);
    let dir = dir.0.to_str().unwrap();
    let output = host.cli(&["deploy", "--project", "app", "--progress", "plain", dir]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in ["release: using echo", "oh", "release ERROR", "exit code 4"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!((live(&host), pid()), (Some("1".into()), before));
    assert_eq!(names(&host.path("releases/app")).len(), 1);
}

#[test]
fn a_release_line_on_its_way_is_cancelled_and_a_killed_server_ends_it() {
    let root = Arc::new(TempDir::new());
    let mut host = TestServer::on(Arc::clone(&root), &[], &[]);
    done(&deploy(&host, &[], &payload("true", "1")));
    let waits = "touch $GANGPLANK_SHARED/began; sleep 1000";
    let begin = |host: &TestServer| {
        let began = host.path("shared/app/began");
        let mut command = host.cli_command(&["deploy", "--project", "app", "--no-restart"]);
        let procfile = format!("release: {waits}\n");
        let dir = TempDir::new().with(&[("Procfile", &procfile), ("v", "2")]);
        let client = command.arg(&dir.0).stderr(Stdio::null()).spawn().unwrap();
        await_some("its release line", || began.exists().then_some(()));
        fs::remove_file(began).unwrap();
        let list = json!({"operation": "list_deployments", "limit": 1});
        let newest = operate(host, list)["deployments"][0].clone();
        assert_eq!(newest["status"], "releasing", "{newest}");
        let id = newest["deployment_id"].as_str().unwrap().to_owned();
        (id, client)
    };
    let (id, mut client) = begin(&host);
    operate(
        &host,
        json!({"operation": "cancel_deployment", "deployment_id": id}),
    );
    assert_eq!(client.wait().unwrap().code(), Some(1));
    assert_eq!(host.record(&id)["status"], "cancelled");
    let (id, mut client) = begin(&host);
    host.server.kill().unwrap();
    host.server.wait().unwrap();
    let host = TestServer::on(root, &[], &[]);
    let record = host.record(&id);
    assert_eq!(
        (&record["status"], &record["error"]["code"]),
        (&json!("failed"), &json!("interrupted")),
        "{record}"
    );
    assert_eq!(live(&host).as_deref(), Some("1"));
    assert_eq!(names(&host.path("releases/app")).len(), 1);
    assert!(!is_run(waits), "it outlives the server");
    // Its address is another one now, so the client would look for it in vain.
    client.kill().unwrap();
    client.wait().unwrap();
    done(&deploy(&host, &[], &payload(NOTES, "2")));
    assert_eq!(live(&host).as_deref(), Some("2"));
}

/// Whether a shell runs this line.
fn is_run(line: &str) -> bool {
    names(Path::new("/proc")).into_iter().any(|pid| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words
            .split(|byte| *byte == 0)
            .any(|word| word == line.as_bytes())
    })
}
