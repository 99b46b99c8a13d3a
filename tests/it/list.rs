//! Listings and records: bounded, whatever a deployment printed, and sent as they are read.

use std::fs;

use serde_json::json;

use crate::test_server::{TestServer, await_some, component};

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

#[test]
fn a_long_listing_is_capped_and_sent_as_it_is_read() {
    let host = TestServer::start();
    let id = host.deploy(&[("project", "demo")], &component()).json()["deployment_id"]
        .as_str()
        .unwrap()
        .to_owned();
    // A thousand and more of the past, which a start reads.
    let record = fs::read_to_string(host.path(&format!("deployments/{id}/record.json"))).unwrap();
    let root = std::sync::Arc::clone(&host.root);
    let first = u128::from_str_radix(&id.replace('-', ""), 16).unwrap();
    for n in 1..1100_u128 {
        // The time is in the first 48 bits.
        let hex = format!("{:032x}", first - (n << 80));
        let parts = [
            &hex[..8],
            &hex[8..12],
            &hex[12..16],
            &hex[16..20],
            &hex[20..],
        ];
        let old = parts.join("-");
        let dir = host.path(&format!("deployments/{old}"));
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("record.json"), record.replace(&id, &old)).unwrap();
    }
    drop(host);
    let host = TestServer::on(root, &["--keep-deployments", "5000"], &[]);
    let ask = |fields: serde_json::Value| {
        let mut operation = json!({"operation": "list_deployments"});
        operation
            .as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        host.operate(&operation)
    };
    await_some("the index", || {
        (ask(json!({"limit": 1})).json()["total"] == 1100).then_some(())
    });
    let table = [
        (json!({}), 100, true),
        (json!({"limit": 3}), 3, false),
        (json!({"limit": 5000}), 1000, true),
        (
            json!({"limit": u64::MAX, "include_events": true}),
            1000,
            true,
        ),
        (json!({"limit": 5000, "offset": 1000}), 100, true),
        (json!({"limit": 5000, "offset": 1100}), 0, false),
    ];
    for (fields, count, in_pieces) in table {
        let answer = ask(fields.clone());
        let found = answer.json();
        assert_eq!(found["total"], 1100, "{fields}");
        assert_eq!(
            found["deployments"].as_array().unwrap().len(),
            count,
            "{fields}"
        );
        assert_eq!(
            answer.header("Transfer-Encoding").is_some(),
            in_pieces,
            "{fields}"
        );
        assert_eq!(
            answer.header("Content-Length").is_none(),
            in_pieces,
            "{fields}"
        );
    }
    // One that is damaged hides no other.
    fs::write(
        host.path(&format!("deployments/{id}/record.json")),
        "{\"half",
    )
    .unwrap();
    let answer = ask(json!({"limit": 3}));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["deployments"].as_array().unwrap().len(), 2);
}
