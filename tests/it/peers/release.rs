//! Release lines on every host, and the way back.

use std::fs;

use serde_json::{Value, json};

use super::{cluster, deploy, fails, live, payload, processes, results};
use crate::test_server::{TestServer, await_some};

/// Writes down who is released, whether it is a peer, and what is live there meanwhile.
const RELEASE: &str = "release: echo \"$GANGPLANK_DEPLOYMENT_ID ${GANGPLANK_ORIGIN-none} \
                       $(cat ../../../components/demo/v)\" >>$GANGPLANK_SHARED/ran";

/// What was released on a host, but for the ids.
fn released(host: &TestServer) -> Vec<String> {
    let text = fs::read_to_string(host.path("shared/demo/ran")).unwrap_or_default();
    let words = text.lines().map(|line| line.split_once(' ').unwrap().1);
    words.map(str::to_owned).collect()
}

#[test]
fn each_host_runs_its_own_release_line_before_anything_is_live() {
    let cluster = cluster(2, &[]);
    deploy(&cluster.origin, &[], &payload(&[("./v", "1")]));
    let procfile = format!("{RELEASE}\nweb: sleep 1000\n");
    let events = deploy(
        &cluster.origin,
        &[("restart", "auto")],
        &payload(&[("./Procfile", &procfile), ("./v", "2")]),
    );
    let last = events.last().unwrap();
    assert_eq!(last.event, "done", "{events:#?}");
    let id = last.data["result"]["deployment_id"].as_str().unwrap();
    let node = cluster.origin.record(id)["origin_node"].clone();
    let node = node.as_str().unwrap();
    assert_eq!(released(&cluster.origin), ["none 1"]);
    for peer in &cluster.peers {
        assert_eq!(released(peer), [format!("{node} 1")]);
    }
    for server in cluster.peers.iter().chain([&cluster.origin]) {
        assert_eq!(live(server).as_deref(), Some("2"));
        assert_eq!(processes(server).as_array().unwrap().len(), 1);
    }
    // One peer fails: nothing is live anywhere, and the others have no more than run theirs.
    let root = cluster.peers[1].root.0.display().to_string();
    let bad = format!("{RELEASE}; case $PWD in {root}*) echo broken; exit 7;; esac\n");
    let error = fails(
        &cluster,
        &deploy(
            &cluster.origin,
            &[("restart", "auto")],
            &payload(&[("./Procfile", &bad), ("./v", "3")]),
        ),
    );
    assert_eq!(
        (&error["code"], &error["phase"], &error["failed_peers"]),
        (
            &json!("replicate_failed"),
            &json!("release"),
            &json!(["three"])
        ),
        "{error}"
    );
    let told = results(&error);
    assert!(
        told[0].2 == "built, but not made live" && told[1].2.contains("exit code 7"),
        "{told:?}"
    );
    for server in cluster.peers.iter().chain([&cluster.origin]) {
        assert_eq!(live(server).as_deref(), Some("2"));
        assert_eq!(released(server).len(), 2);
    }
    // The peer's own record says which of its phases it was.
    let list = json!({"operation": "list_deployments", "limit": 1});
    let newest = cluster.peers[1].operate(&list).json()["deployments"][0].clone();
    assert_eq!(newest["error"]["code"], "release_failed", "{newest}");
    // The origin itself fails: no peer is even asked.
    let bad = "release: [ -n \"$GANGPLANK_ORIGIN\" ] || exit 6; echo x x >>$GANGPLANK_SHARED/ran\n";
    let bad = payload(&[("./Procfile", bad), ("./v", "4")]);
    let error = fails(&cluster, &deploy(&cluster.origin, &[], &bad));
    assert_eq!(
        (&error["code"], &error["phase"]),
        (&json!("release_failed"), &json!("release")),
        "{error}"
    );
    for server in cluster.peers.iter().chain([&cluster.origin]) {
        assert_eq!(live(server).as_deref(), Some("2"));
        assert_eq!(released(server).len(), 2);
    }
    // One that fails is left behind, if that is what is wanted.
    let bad = format!("{RELEASE}; case $PWD in {root}*) exit 7;; esac\n");
    let events = deploy(
        &cluster.origin,
        &[("ignore_replication_errors", "true")],
        &payload(&[("./Procfile", &bad), ("./v", "5")]),
    );
    assert_eq!(events.last().unwrap().event, "done", "{events:#?}");
    assert_eq!(
        [&cluster.origin, &cluster.peers[0], &cluster.peers[1]].map(live),
        [Some("5".into()), Some("5".into()), Some("2".into())]
    );
}

#[test]
fn a_cancel_reaches_the_release_lines_of_the_peers() {
    let cluster = cluster(2, &[]);
    deploy(&cluster.origin, &[], &payload(&[("./v", "1")]));
    let waits =
        "release: [ -z \"$GANGPLANK_ORIGIN\" ] || { touch $GANGPLANK_SHARED/began; sleep 1000; }\n";
    let waits = payload(&[("./Procfile", waits), ("./v", "2")]);
    std::thread::scope(|scope| {
        let deploying = scope.spawn(|| deploy(&cluster.origin, &[], &waits));
        for peer in &cluster.peers {
            let began = peer.path("shared/demo/began");
            await_some("its release line", || began.exists().then_some(()));
        }
        let list = json!({"operation": "list_deployments", "limit": 1});
        let newest = cluster.origin.operate(&list).json()["deployments"][0].clone();
        assert_eq!(newest["status"], "releasing", "{newest}");
        let cancel =
            json!({"operation": "cancel_deployment", "deployment_id": newest["deployment_id"]});
        let cancelled = cluster.origin.operate(&cancel);
        assert_eq!(cancelled.status, 200, "{}", cancelled.text());
        let events = deploying.join().unwrap();
        assert_eq!(fails(&cluster, &events)["code"], "cancelled");
        for peer in &cluster.peers {
            // The origin ends once it has told the peers: their own ends follow.
            let newest = await_some("the end at a peer", || {
                let newest = peer.operate(&list).json()["deployments"][0].clone();
                (newest["status"] != "releasing").then_some(newest)
            });
            assert_eq!(newest["status"], "cancelled", "{newest}");
            assert_eq!(live(peer).as_deref(), Some("1"));
        }
    });
}

#[test]
fn a_replicated_rollback_goes_back_on_every_host_or_on_none() {
    let cluster = cluster(2, &[]);
    let procfile = format!("{RELEASE}\nweb: sleep 100\n");
    for v in ["1", "2"] {
        let files = [("./v", v), ("./Procfile", &procfile)];
        let events = deploy(&cluster.origin, &[("restart", "auto")], &payload(&files));
        assert_eq!(events.last().unwrap().event, "done", "{events:#?}");
    }
    // One of them has what the others never had, and has lost the release before.
    let more = payload(&[("./v", "3"), ("./Procfile", &procfile)]);
    cluster.peers[1].deploy_live(&[("project", "demo"), ("restart", "auto")], &more);
    let hosts = || [&cluster.origin, &cluster.peers[0], &cluster.peers[1]];
    let all_live = || hosts().map(|host| live(host).unwrap());
    assert_eq!(all_live(), ["2", "2", "3"]);

    let output = cluster.origin.cli(&["rollback", "demo", "--replicated"]);
    let shown = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{shown}");
    assert_eq!(all_live(), ["1", "1", "1"], "{shown}");
    let table = shown.lines().skip_while(|line| !line.starts_with("HOST "));
    assert_eq!(
        table.filter(|line| line.contains(" success ")).count(),
        3,
        "{shown}"
    );
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    let record = cluster
        .origin
        .record(result["deployment_id"].as_str().unwrap());
    assert_eq!(record["kind"], "rollback");
    assert_eq!(results(&record).len(), 2, "{record}");
    // What runs is what is live, and nothing was released again.
    for (host, ran) in hosts().into_iter().zip([2, 2, 3]) {
        let processes = processes(host);
        let of: Vec<&Value> = processes.as_array().unwrap().iter().collect();
        assert!(of.len() == 1 && of[0]["pid"].is_u64(), "{processes}");
        let link = fs::read_link(host.path("components/demo")).unwrap();
        let live = link.file_name().unwrap().to_str().unwrap();
        assert_eq!(of[0]["release_id"], live, "{processes}");
        assert_eq!(released(host).len(), ran, "{shown}");
    }

    // A host that cannot go back keeps all as they are, unless it may be left behind.
    let second = payload(&[("./v", "4"), ("./Procfile", "web: sleep 100\n")]);
    let events = deploy(&cluster.origin, &[("restart", "auto")], &second);
    assert_eq!(events.last().unwrap().event, "done", "{events:#?}");
    let mut cluster = cluster;
    drop(cluster.peers.pop());
    let rollback = |more: &[&str]| {
        let words = [&["rollback", "demo", "--replicated"], more].concat();
        let output = cluster.origin.cli(&words);
        let shown = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), shown)
    };
    let (code, shown) = rollback(&[]);
    assert!(
        code == Some(1) && shown.contains("(replicate_failed)"),
        "{shown}"
    );
    let both = || [&cluster.origin, &cluster.peers[0]].map(|host| live(host).unwrap());
    assert_eq!(both(), ["4", "4"], "{shown}");
    let (code, shown) = rollback(&["--ignore-replication-errors"]);
    assert_eq!(code, Some(0), "{shown}");
    assert!(
        shown.contains("warning: the peer three is left behind: "),
        "{shown}"
    );
    assert_eq!(both(), ["2", "2"], "{shown}");

    // Without a payload there is nothing for the peers to get.
    let list = cluster.origin.cli(&["list", "--output", "json"]);
    let list: Value = serde_json::from_slice(&list.stdout).unwrap();
    let oldest = list["deployments"].as_array().unwrap().last().unwrap();
    let oldest = oldest["deployment_id"].as_str().unwrap();
    let deleted = cluster.origin.cli(&["payload", oldest, "--delete"]);
    assert_eq!(deleted.status.code(), Some(0));
    let (code, shown) = rollback(&["--to", oldest]);
    let why = format!("rolling back demo: the payload of deployment {oldest} is no longer stored");
    assert!(code == Some(1) && shown.contains(&why), "{shown}");
    assert_eq!(both(), ["2", "2"], "{shown}");

    // And without peers nobody gets it.
    let alone = TestServer::start();
    for v in ["1", "2"] {
        alone.deploy_live(&[("project", "demo")], &payload(&[("./v", v)]));
    }
    let output = alone.cli(&["rollback", "demo", "--replicated"]);
    let shown = String::from_utf8(output.stderr).unwrap();
    let why =
        "error: rolling back demo: this server has no peers to replicate to (replicate_failed)\n";
    assert_eq!((output.status.code(), &*shown), (Some(1), why));
    assert_eq!(live(&alone).as_deref(), Some("2"));
}
