//! Deltas that build on each other, as long as their payloads are kept.

use std::fs;

use crate::delta::edits::payload;
use crate::delta::{hostile, tree};
use crate::test_server::{TestServer, await_some, gzip, names, tar};

/// More than may build on each other.
const COUNT: u32 = 12;

/// The tree of a version, and its list.
fn list(n: u32) -> (String, Vec<u8>) {
    let lines = [
        hostile::file("same", "the same"),
        hostile::file("v", &n.to_string()),
    ];
    hostile::list(&lines.concat())
}

fn is_delta(host: &TestServer, id: &str) -> bool {
    let stored = fs::read(host.path("deployments").join(id).join("payload")).unwrap();
    stored.starts_with(b"\x89GPD1")
}

/// Deploys versions that each begin from the one before, and gives the ids.
fn deployed(host: &TestServer) -> Vec<String> {
    let fields = [("project", "demo")];
    let first = gzip(&tar(&[("same", "the same"), ("v", "0")]));
    let mut ids = Vec::new();
    for n in 0..COUNT {
        let bytes = match n {
            0 => first.clone(),
            n => {
                let ((base, _), (tree, list)) = (self::list(n - 1), self::list(n));
                let content = n.to_string();
                let records = [hostile::object(&content, &content), hostile::end(1)];
                hostile::delta(Some(&base), &tree, &list, &records)
            }
        };
        let done = host.deploy(&fields, &bytes);
        assert_eq!(done.status, 200, "{n}: {}", done.text());
        let id = done.json()["deployment_id"].as_str().unwrap().to_owned();
        assert_eq!(tree(host, &id), list(n).0);
        ids.push(id);
    }
    ids
}

#[test]
fn a_long_chain_begins_anew_and_each_payload_is_that_of_its_time() {
    let host = TestServer::with(&["--keep-releases", "2", "--keep-payloads", "100"], &[]);
    let ids = deployed(&host);
    // It is packed after its end, when nobody waits.
    await_some("an archive in the chain", || {
        ids[1..].iter().any(|id| !is_delta(&host, id)).then_some(())
    });
    let longest = ids.split(|id| !is_delta(&host, id)).map(<[String]>::len);
    assert!(longest.max().unwrap() <= 8);
    for (n, id) in (0..).zip(&ids) {
        let holds = payload(&host, id);
        let v = holds["v"].clone();
        assert_eq!(holds.len(), 2, "{holds:?}");
        let size = u32::to_string(&n).len();
        assert!(v.starts_with(&format!("f 644 {size} ")), "{v}");
    }
}

#[test]
fn what_builds_on_a_payload_that_goes_stands_alone() {
    let flags = ["--keep-releases", "2", "--keep-payloads", "2"];
    let host = TestServer::with(&flags, &[]);
    let ids = deployed(&host);
    let has_payload = |id: &String| host.path("deployments").join(id).join("payload").exists();
    await_some("the end of the retention", || {
        (ids.iter().filter(|id| has_payload(id)).count() == 2).then_some(())
    });
    let kept: Vec<&String> = ids.iter().filter(|id| has_payload(id)).collect();
    assert!(kept == ids[ids.len() - 2..].iter().collect::<Vec<_>>());
    let contents: Vec<_> = kept.iter().map(|id| payload(&host, id)).collect();
    assert!(contents.iter().all(|holds| holds.len() == 2));
    assert!(contents[0]["v"] != contents[1]["v"]);
    assert!(contents[0]["same"] == contents[1]["same"]);
    // Nothing of the making stays.
    assert!(
        names(&host.path("store/demo"))
            .iter()
            .all(|name| !name.starts_with('.'))
    );
}

/// Deploys a version that begins from another one, and gives its id.
fn deployed_on(host: &TestServer, base: u32, n: u32) -> String {
    let ((base, _), (tree, list)) = (list(base), list(n));
    let content = n.to_string();
    let records = [hostile::object(&content, &content), hostile::end(1)];
    let delta = hostile::delta(Some(&base), &tree, &list, &records);
    let done = host.deploy(&[("project", "demo")], &delta);
    assert_eq!(done.status, 200, "{n}: {}", done.text());
    done.json()["deployment_id"].as_str().unwrap().to_owned()
}

#[test]
fn what_builds_on_a_release_whose_payload_has_gone_stands_alone_before_that_goes() {
    let flags = ["--keep-releases", "1", "--keep-payloads", "1"];
    let host = TestServer::with(&flags, &[]);
    let first = gzip(&tar(&[("same", "the same"), ("v", "0")]));
    let done = host.deploy(&[("project", "demo")], &first).json();
    let first = done["deployment_id"].as_str().unwrap();
    tree(&host, first);
    let has_payload = |id: &str| host.path("deployments").join(id).join("payload").exists();
    deployed_on(&host, 0, 1);
    await_some("the end of the payload", || {
        (!has_payload(first)).then_some(())
    });
    // Somebody whose last deployment was the first one.
    let last = deployed_on(&host, 0, 2);
    await_some("the end of the release", || {
        (!host.path("releases/demo").join(first).exists()).then_some(())
    });
    assert!(payload(&host, &last)["v"].starts_with("f 644 1 "));
}

#[test]
fn a_payload_that_has_lost_its_base_is_read_out_of_its_own_release() {
    let host = TestServer::start();
    let first = gzip(&tar(&[("same", "the same"), ("v", "0")]));
    let done = host.deploy(&[("project", "demo")], &first).json();
    let first = done["deployment_id"].as_str().unwrap();
    tree(&host, first);
    let next = deployed_on(&host, 0, 1);
    fs::remove_file(host.path("deployments").join(first).join("payload")).unwrap();
    fs::remove_dir_all(host.path("releases/demo").join(first)).unwrap();
    assert!(is_delta(&host, &next));
    assert_eq!(payload(&host, &next).len(), 2);
}
