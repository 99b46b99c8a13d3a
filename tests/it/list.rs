//! Listings and records: bounded, whatever a deployment printed, and sent as they are read.

use std::fs;

use serde_json::json;

use crate::test_server::{TestServer, component};

/// An install that prints lines of 8 KiB, all of them control characters: six times as long in JSON.
const NOISY: &str =
    r"head -c 8192 /dev/zero | tr '\0' '\001' > l; for n in $(seq 300); do cat l; echo; done; rm l";

#[test]
fn a_record_is_bounded_in_bytes_whatever_an_install_prints() {
    let host = TestServer::start();
    for (name, end, status) in [("good", "", 200), ("bad", "; exit 3", 422)] {
        let command = format!("{NOISY}{end}");
        let answer = host.deploy(
            &[("project", name), ("install_command", &command)],
            &component(),
        );
        assert_eq!(answer.status, status, "{}", answer.text());
        let id = answer.json()["deployment_id"].as_str().unwrap().to_owned();
        let on_disk = fs::read(host.path(&format!("deployments/{id}/record.json"))).unwrap();
        let record = host.record(&id);
        let log = record["event_log"].as_array().unwrap();
        let bytes = record["event_log"].to_string().len();
        assert!(
            log.len() <= 200 && bytes <= 64 << 10,
            "{} entries, {bytes} bytes",
            log.len()
        );
        assert!(on_disk.len() < 256 << 10, "{} bytes", on_disk.len());
        // The first, one marker with the true count, and the last.
        assert_eq!(log[0]["event"], "deployment");
        let marker = log
            .iter()
            .position(|one| one["event"] == "truncated")
            .unwrap();
        let before = log[marker - 1]["id"].as_u64().unwrap();
        let dropped = log[marker]["data"]["dropped_events"].as_u64().unwrap();
        assert_eq!(log[marker]["id"], before + dropped);
        assert_eq!(log[marker + 1]["id"], before + dropped + 1);
        let last = if status == 200 { "done" } else { "error" };
        assert_eq!(log.last().unwrap()["event"], last);
    }
    let list = json!({"operation": "list_deployments", "include_events": true});
    let listed = host.operate(&list);
    assert_eq!(listed.json()["total"], 2);
    assert!(listed.body.len() < 512 << 10, "{}", listed.body.len());
}
