//! Processes that start, or do not, on one of the hosts.

use serde_json::json;

use super::{cluster, deploy, fails, live, payload, processes, results};
use crate::test_server::{TestServer, names};

const SLEEPS: &str = "web: sleep 1000\n";

#[test]
fn what_is_not_healthy_somewhere_is_rolled_back_everywhere() {
    let cluster = cluster(2, &[]);
    let good = [("./Procfile", SLEEPS), ("./v", "1")];
    for mode in ["true", "rolling"] {
        let events = deploy(&cluster.origin, &[("restart", mode)], &payload(&good));
        assert_eq!(events.last().unwrap().event, "done", "{events:#?}");
        let root = cluster.peers[1].root.0.display().to_string();
        let bad = format!("web: case $PWD in {root}*) exit 8;; esac; sleep 1000\n");
        let events = deploy(
            &cluster.origin,
            &[("restart", mode)],
            &payload(&[("./Procfile", &bad), ("./v", "2")]),
        );
        let error = fails(&cluster, &events);
        assert_eq!(
            (&error["code"], &error["failed_peers"]),
            (&json!("replicate_failed"), &json!(["two", "three"])),
            "{error}"
        );
        let record = cluster
            .origin
            .record(error["deployment_id"].as_str().unwrap());
        assert_eq!(record["status"], "rolled_back", "{record}");
        let told = results(&record);
        assert!(
            told[0]
                .2
                .contains("rolled back, because another one failed"),
            "{told:?}"
        );
        assert!(
            told[1].2.contains("exit code 8") && told[1].2.contains("rolled back"),
            "{told:?}"
        );
        for server in cluster.peers.iter().chain([&cluster.origin]) {
            assert_eq!(live(server).as_deref(), Some("1"), "{mode}");
            let components = server
                .operate(&json!({"operation": "get_components"}))
                .json();
            let process = &components["components"][0]["processes"][0];
            assert!(
                process["pid"].is_u64() && process["restarts"] == 0,
                "{mode}: {components}"
            );
        }
    }
}

fn pids(peers: &[TestServer]) -> Vec<u64> {
    let pid = |peer| processes(peer)[0]["pid"].as_u64().unwrap();
    peers.iter().map(pid).collect()
}

#[test]
fn a_peer_that_is_left_behind_has_live_what_runs_there() {
    let cluster = cluster(2, &[]);
    for (mode, v) in [("true", "2"), ("rolling", "3")] {
        let good = [("./Procfile", SLEEPS), ("./v", "1")];
        deploy(&cluster.origin, &[("restart", mode)], &payload(&good));
        let root = cluster.peers[0].root.0.display().to_string();
        let bad = format!("web: case $PWD in {root}*) exit 8;; esac; sleep 1000\n");
        let fields = [("restart", mode), ("ignore_replication_errors", "true")];
        let events = deploy(
            &cluster.origin,
            &fields,
            &payload(&[("./Procfile", &bad), ("./v", v)]),
        );
        let last = events.last().unwrap();
        assert_eq!(last.event, "done", "{events:#?}");
        let told = results(&last.data["result"]);
        assert!(
            told[0].2.contains("exit code 8") && told[0].2.ends_with("; rolled back"),
            "{told:?}"
        );
        assert_eq!(told[1].1, "success", "{told:?}");
        assert_eq!(
            [&cluster.origin, &cluster.peers[0], &cluster.peers[1]].map(live),
            [Some(v.into()), Some("1".into()), Some(v.into())],
            "{mode}"
        );
        assert!(processes(&cluster.peers[0])[0]["pid"].is_u64(), "{mode}");
        // Whatever happens at a peer is passed on, what is taken back too, in its own order.
        let ends = events.iter().filter(|one| {
            let of_two = one.event == "peer" && one.data["peer"] == "two";
            of_two && (one.data["event"] == "done" || one.data["event"] == "error")
        });
        let ends: Vec<&str> = ends.filter_map(|one| one.data["event"].as_str()).collect();
        assert_eq!(ends, ["done", "done", "error", "done"], "{mode}");
    }
}

#[test]
fn what_was_not_restarted_runs_on_when_it_is_taken_back() {
    let cluster = cluster(2, &[]);
    let good = [("./Procfile", SLEEPS), ("./v", "1")];
    deploy(&cluster.origin, &[("restart", "true")], &payload(&good));
    let running = pids(&cluster.peers);
    // The origin itself cannot run it: its peers have switched by then, and restarted nothing.
    let root = cluster.origin.root.0.display().to_string();
    let bad = format!("web: case $PWD in {root}*) exit 8;; esac; sleep 1000\n");
    let events = deploy(
        &cluster.origin,
        &[("restart", "true")],
        &payload(&[("./Procfile", &bad), ("./v", "2")]),
    );
    let error = fails(&cluster, &events);
    assert_eq!(error["code"], "unhealthy", "{error}");
    assert_eq!(error["failed_peers"], json!(["two", "three"]), "{error}");
    for server in cluster.peers.iter().chain([&cluster.origin]) {
        assert_eq!(live(server).as_deref(), Some("1"));
    }
    assert_eq!(pids(&cluster.peers), running);
}

#[test]
fn a_first_deployment_that_fails_somewhere_leaves_nothing_live() {
    let cluster = cluster(1, &[]);
    let root = cluster.peers[0].root.0.display().to_string();
    let bad = format!("web: case $PWD in {root}*) exit 8;; esac; sleep 1000\n");
    let error = fails(
        &cluster,
        &deploy(
            &cluster.origin,
            &[("restart", "true")],
            &payload(&[("./Procfile", &bad), ("./v", "1")]),
        ),
    );
    assert!(
        error["message"].as_str().unwrap().contains("exit code 8"),
        "{error}"
    );
    for server in [&cluster.origin, &cluster.peers[0]] {
        assert_eq!(live(server), None);
        let components = server
            .operate(&json!({"operation": "get_components"}))
            .json();
        assert_eq!(components["components"], json!([]));
    }
}

#[test]
fn a_first_deployment_that_is_taken_back_takes_only_what_it_made() {
    let cluster = cluster(1, &[]);
    let peer = &cluster.peers[0];
    // Somebody has staged a build there.
    let staged = peer.deploy(
        &[("project", "demo"), ("activate", "false")],
        &payload(&[("./v", "staged")]),
    );
    assert_eq!(staged.status, 200, "{}", staged.text());
    let staged = staged.json()["deployment_id"].as_str().unwrap().to_owned();
    let root = peer.root.0.display().to_string();
    let bad = format!("web: case $PWD in {root}*) exit 8;; esac; sleep 1000\n");
    fails(
        &cluster,
        &deploy(
            &cluster.origin,
            &[("restart", "true")],
            &payload(&[("./Procfile", &bad), ("./v", "1")]),
        ),
    );
    assert_eq!(live(peer), None);
    assert_eq!(names(&peer.path("releases/demo")), [&*staged]);
    let activated = peer.operate(&json!({
        "operation": "deploy_component", "project": "demo", "deployment_id": staged
    }));
    assert_eq!(activated.status, 200, "{}", activated.text());
    assert_eq!(live(peer).as_deref(), Some("staged"));
}
