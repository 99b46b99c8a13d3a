//! What is too much of the past goes, and nothing that somebody needs by then.

use std::fs::{self, File};
use std::os::unix::fs::{OpenOptionsExt, chown};
use std::os::unix::process::CommandExt;
use std::sync::Arc;

use serde_json::json;

use crate::needs::is_root;
use crate::test_server::{
    TempDir, TestServer, await_some, bare, component, for_others, gzip, names, tar,
};

fn deployed(host: &TestServer, fields: &[(&str, &str)], payload: &[u8]) -> String {
    let done = host.deploy(fields, payload);
    assert_eq!(done.status, 200, "{}", done.text());
    done.json()["deployment_id"].as_str().unwrap().to_owned()
}

#[test]
fn what_a_rollback_has_made_live_meanwhile_stays() {
    let host = TestServer::with(&["--keep-releases", "2"], &[]);
    let version = |n: u32| gzip(&tar(&[("version", &n.to_string())]));
    let deploy = |n| deployed(&host, &[("project", "demo")], &version(n));
    // The next deployment would keep the tree of this one from being found out.
    let listed = |n| {
        let id = deploy(n);
        await_some("the tree", || {
            host.record(&id)["tree"].is_string().then_some(())
        });
        id
    };
    let (first, second) = (listed(1), listed(2));
    // Whoever removes what is too much looks into the payloads before, and waits here.
    let payload = host.path("deployments").join(&second).join("payload");
    let (aside, fifo) = (host.path("aside"), host.path("fifo"));
    fs::rename(&payload, &aside).unwrap();
    assert!(bare("mkfifo").arg(&fifo).status().unwrap().success());
    fs::hard_link(&fifo, &payload).unwrap();
    let third = deploy(3);
    let back =
        json!({"operation": "rollback_component", "project": "demo", "deployment_id": first});
    let answer = host.operate(&back);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let waits = await_some("who removes what is too much", || {
        let mut options = File::options();
        let nonblock = rustix::fs::OFlags::NONBLOCK.bits() as i32;
        options.write(true).custom_flags(nonblock).open(&fifo).ok()
    });
    fs::rename(&aside, &payload).unwrap();
    drop(waits);
    // The rollback's own end removes what is too much then.
    // It is set aside under another name first.
    await_some("the end of the second", || {
        (names(&host.path("releases/demo")) == [&*first, &*third]).then_some(())
    });
    let live = fs::read_to_string(host.path("components/demo/version")).unwrap();
    assert_eq!(live, "1");
}

#[test]
fn a_release_whose_directories_were_closed_goes_all_the_same() {
    if !is_root() {
        return;
    }
    let (root, others) = (Arc::new(TempDir::new()), TempDir::new());
    let nobody = crate::run_as::NOBODY;
    chown(&root.0, Some(nobody), Some(nobody)).unwrap();
    let mut command = bare(for_others(&others.0).to_str().unwrap());
    command.uid(nobody).gid(nobody).env("HOME", &root.0);
    let host = TestServer::launch(command, root, &["--keep-releases", "1"]);
    let closes = "mkdir -p a/b/c d && touch a/b/c/file d/file && chmod 0 a/b/c && chmod 555 a a/b && chmod 444 d";
    let fields = [("project", "demo"), ("install_command", closes)];
    let first = deployed(&host, &fields, &component());
    for _ in 0..2 {
        deployed(&host, &fields, &component());
    }
    let is_left = |name: &String| name.trim_start_matches('.') == first;
    await_some("the end of the first", || {
        let names = names(&host.path("releases/demo"));
        (!names.iter().any(is_left)).then_some(())
    });
    let said = host.log.lock().unwrap();
    assert!(!said.contains("Permission denied"), "{said}");
}
