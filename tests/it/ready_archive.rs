//! An archive that somebody else has made, sent as it is.

use std::fs;

use serde_json::json;

use crate::test_server::{TempDir, TestServer, gzip, tar};

#[test]
fn a_ready_archive_is_sent_as_it_is() {
    let host = TestServer::start();
    let dir = TempDir::new();
    let plain = tar(&[("./v", "1"), ("./.env", "kept")]);
    let table = [
        ("app-1.2.3.tgz", gzip(&plain), "app"),
        ("other.tar.gz", gzip(&plain), "other"),
        ("third-v2.0.tar", plain.clone(), "third"),
        // Its content tells what it is.
        ("odd", gzip(&plain), "odd"),
    ];
    for (name, bytes, project) in table {
        let file = dir.0.join(name);
        fs::write(&file, &bytes).unwrap();
        let mut command = host.cli_command(&["deploy", file.to_str().unwrap()]);
        let output = command.current_dir(&dir.0).output().unwrap();
        let shown = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{shown}");
        let said = shown.lines().next().unwrap();
        assert!(
            said.starts_with("Sending ") && said.contains(name) && said.contains(" as it is, "),
            "{shown}"
        );
        assert!(shown.contains("(100%)"), "{shown}");
        let list = json!({"operation": "list_deployments", "project": project});
        let record = host.operate(&list).json()["deployments"][0].clone();
        let id = record["deployment_id"].as_str().unwrap();
        assert_eq!(
            fs::read(host.path(&format!("deployments/{id}/payload"))).unwrap(),
            bytes
        );
        assert_eq!(
            fs::read_to_string(host.path(&format!("components/{project}/.env"))).unwrap(),
            "kept"
        );
    }
    // The component of the directory, and the flag before it.
    fs::write(dir.0.join("gangplank.json"), r#"{"project":"ours"}"#).unwrap();
    for (more, project) in [(&[][..], "ours"), (&["--project", "mine"][..], "mine")] {
        let mut command = host.cli_command(&["deploy", "app-1.2.3.tgz"]);
        let output = command.args(more).current_dir(&dir.0).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(host.path(&format!("components/{project}")).exists());
    }
}

#[test]
fn what_is_not_an_archive_is_refused_before_anything_is_sent() {
    let host = TestServer::start();
    let dir = TempDir::new();
    let table: [(&str, Vec<u8>, &str); 5] = [
        ("a.tgz", b"PK\x03\x04zip".to_vec(), "a zip archive"),
        ("b.tgz", b"text\n".to_vec(), "it is "),
        ("c.tgz", Vec::new(), "it is empty"),
        ("d.tgz", gzip(b"{\"a\":1}"), "what is compressed is JSON"),
        ("e.tgz", gzip(b"x")[..6].to_vec(), "e.tgz"),
    ];
    for (name, bytes, why) in table {
        let file = dir.0.join(name);
        fs::write(&file, bytes).unwrap();
        let output = host.cli(&["deploy", file.to_str().unwrap()]);
        let shown = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{shown}");
        assert!(
            shown.contains(why) && output.stdout.is_empty(),
            "{name}: {shown}"
        );
    }
    let list = json!({"operation": "list_deployments"});
    assert_eq!(host.operate(&list).json()["total"], 0);
}
