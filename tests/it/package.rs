//! Deployments of what the server fetches itself: tarballs, git repositories, packages of npm, and files of its own.

mod git;
mod npm;
mod tarball;
pub(crate) mod web;

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::test_server::{Record, TempDir, TestServer, gzip, names, tar};

/// Asks for a package's deployment, and follows it to its end.
fn deploy(host: &TestServer, package: &str, more: &[(&str, Value)]) -> Vec<Record> {
    let body = operation(package, more).to_string();
    let headers = [
        "Content-Type: application/json",
        "Accept: text/event-stream",
    ];
    host.ask("POST", "/", &headers, body.as_bytes()).events()
}

fn operation(package: &str, more: &[(&str, Value)]) -> Value {
    let mut operation =
        json!({"operation": "deploy_component", "project": "app", "package": package});
    for (name, value) in more {
        operation[*name] = value.clone();
    }
    operation
}

/// The record of a deployment that went well.
fn succeeds(host: &TestServer, package: &str, more: &[(&str, Value)]) -> Value {
    let events = deploy(host, package, more);
    let last = events.last().unwrap();
    assert_eq!(last.event, "done", "{package}: {events:#?}");
    assert_eq!(leftovers(host), Vec::<String>::new());
    host.record(last.data["result"]["deployment_id"].as_str().unwrap())
}

/// The code and the message of a deployment that failed in a phase. Nothing of it stays.
fn fails(
    host: &TestServer,
    package: &str,
    more: &[(&str, Value)],
    phase: &str,
) -> (String, String) {
    let before = fs::read_link(host.path("components/app")).ok();
    let events = deploy(host, package, more);
    let last = events.last().unwrap();
    assert_eq!(last.event, "error", "{package}: {events:#?}");
    assert_eq!(last.data["phase"], phase, "{last:?}");
    let id = last.data["deployment_id"].as_str().unwrap();
    let record = host.record(id);
    assert_eq!(record["error"]["code"], last.data["code"]);
    assert_eq!(record["payload_present"], false);
    assert!(!host.path(&format!("deployments/{id}/payload")).exists());
    assert!(!host.path(&format!("releases/app/{id}")).exists());
    assert_eq!(fs::read_link(host.path("components/app")).ok(), before);
    assert_eq!(leftovers(host), Vec::<String>::new());
    let text = |name: &str| last.data[name].as_str().unwrap().to_owned();
    (text("code"), text("message"))
}

/// What a fetch has left in the component's cache.
fn leftovers(host: &TestServer) -> Vec<String> {
    let mut found = names(&host.path("cache/app"));
    found.retain(|name| name == "fetch");
    found
}

fn of<'a>(events: &'a [Record], name: &str) -> Vec<&'a Value> {
    let all = events.iter().filter(|one| one.event == name);
    all.map(|one| &one.data).collect()
}

fn warnings(events: &[Record]) -> Vec<&str> {
    let all = of(events, "warning").into_iter();
    all.map(|data| data["message"].as_str().unwrap()).collect()
}

fn set_env(host: &TestServer, variables: Value) {
    let asked = json!({"operation": "set_env", "project": "app", "set": variables});
    assert_eq!(host.operate(&asked).status, 200);
}

/// Everything that a server has on disk and in its log, but for the operator's own files.
fn everything(host: &TestServer) -> Vec<(String, Vec<u8>)> {
    let mut found = vec![(
        "the log".to_owned(),
        host.log.lock().unwrap().clone().into_bytes(),
    )];
    let mut dirs = vec![host.path("")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let is_link = path.symlink_metadata().unwrap().is_symlink();
            let own = ["env", "admin.token", "tokens.json"];
            if is_link || own.iter().any(|name| path.ends_with(name)) {
                continue;
            }
            if path.is_dir() {
                dirs.push(path);
            } else if let Ok(content) = fs::read(&path) {
                found.push((path.display().to_string(), content));
            }
        }
    }
    found
}

/// Makes sure that a secret is nowhere.
fn is_nowhere(secret: &str, places: impl IntoIterator<Item = (String, Vec<u8>)>) {
    for (place, content) in places {
        let found = content
            .windows(secret.len())
            .any(|part| part == secret.as_bytes());
        assert!(!found, "{secret} is in {place}");
    }
}

/// The arguments of all that runs for a server.
fn arguments_of_children(host: &TestServer) -> Vec<(String, Vec<u8>)> {
    let id = fs::read_to_string(host.path("id")).unwrap();
    let mark = format!("GANGPLANK_CHILD={}", id.lines().next().unwrap());
    let mut found = Vec::new();
    for pid in names(Path::new("/proc")) {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        if environment
            .split(|byte| *byte == 0)
            .any(|one| one == mark.as_bytes())
        {
            let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            found.push((format!("the arguments of {pid}"), arguments));
        }
    }
    found
}

/// A small component.
fn component(content: &str) -> Vec<u8> {
    gzip(&tar(&[("./index.txt", content)]))
}

fn live(host: &TestServer) -> String {
    fs::read_to_string(host.path("components/app/index.txt")).unwrap()
}

#[test]
fn what_is_not_a_package_is_refused_before_there_is_a_record() {
    let host = TestServer::start();
    let table = [
        ("--upload-pack=touch /tmp/x", "must not begin with a dash"),
        ("git+ssh://-oProxyCommand=hunter2/x", "must have a host"),
        ("ext::sh -c id", "must be a name"),
        (
            "git+https://u:hunter2@h/r#--x",
            "a branch, a tag or a commit",
        ),
        ("https://u:hunter2@h/../x", "'..'"),
        ("ftp://u:hunter2@h/x", "one of these schemes"),
        ("./dir", "is a path"),
        ("/srv/x.tgz", "is a path"),
        ("a\nb", "control characters"),
        ("", "not allowed to be empty"),
    ];
    for (package, part) in table {
        let answer = host.operate(&operation(package, &[]));
        assert_eq!(answer.status, 400, "{package}");
        let (code, why) = answer.refusal();
        assert_eq!(code, "bad_request");
        assert!(
            why.contains("'package'") && why.contains(part),
            "{package}: {why}"
        );
        assert!(!why.contains("hunter2"), "{why}");
    }
    // With a payload, with a release, and with a name that it does not have itself.
    let answer = host.deploy(
        &[("project", "app"), ("package", "left-pad")],
        &component("x"),
    );
    assert!(
        answer.refusal().1.contains("cannot go together"),
        "{}",
        answer.text()
    );
    let id = "01976e6c-1c2b-7000-8000-000000000000";
    let answer = host.operate(&operation("left-pad", &[("deployment_id", id.into())]));
    assert!(
        answer.refusal().1.contains("cannot go with"),
        "{}",
        answer.text()
    );
    let answer = host.operate(&operation(
        "https://h/my.app.tgz",
        &[("project", Value::Null)],
    ));
    assert!(
        answer.refusal().1.contains("'project' is required"),
        "{}",
        answer.text()
    );
    assert!(names(&host.path("deployments")).is_empty());
}

#[test]
fn a_file_of_the_servers_own_is_for_who_is_on_the_server() {
    let host = TestServer::start();
    let dir = TempDir::new().with(&[
        ("index.txt", "own"),
        (".env", "SECRET=1"),
        ("node_modules/x", "x"),
    ]);
    fs::write(dir.0.join("x.tgz"), component("packed")).unwrap();
    let package = format!("file:{}", dir.0.display());
    let answer = host.operate(&operation(&package, &[]));
    assert_eq!(answer.status, 403, "{}", answer.text());
    assert!(answer.refusal().1.contains("unix socket"));
    let on_the_server = |package: &str| {
        let mut command: Command = crate::test_server::gangplank();
        let target = format!("unix:{}", host.path("run/gangplank.sock").display());
        command.args([
            "deploy",
            "--package",
            package,
            "--project",
            "app",
            "--target",
            &target,
        ]);
        command.output().unwrap()
    };
    for (package, content) in [
        (package.clone(), "own"),
        (format!("{package}/x.tgz"), "packed"),
    ] {
        let output = on_the_server(&package);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert_eq!(live(&host), content);
        // As `gangplank deploy` would have sent it.
        assert!(!host.path("components/app/.env").exists());
        assert!(!host.path("components/app/node_modules").exists());
    }
    // A FIFO blocks nobody.
    let made = Command::new("mkfifo")
        .arg(dir.0.join("fifo"))
        .status()
        .unwrap();
    assert!(made.success());
    for (name, part) in [
        ("fifo", "neither a directory nor"),
        ("none", "No such file"),
    ] {
        let output = on_the_server(&format!("{package}/{name}"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains(part) && said.contains("fetch_failed"),
            "{said}"
        );
    }
}
