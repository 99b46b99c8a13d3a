//! Deployments outlive everything: payloads, rollbacks, staged builds, cancelling, dropping, and a request that comes twice.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::test_server::{
    Answer, TestServer, await_some, component, form, gzip, names, noise, request, tar,
};

/// A version of the component `demo`: its release says which.
fn version(n: u32) -> Vec<u8> {
    gzip(&tar(&[("./version", &n.to_string())]))
}

fn deployed(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["deployment_id"].as_str().unwrap().to_owned()
}

/// Deploys versions 1 to `n`, and gives their ids.
fn versions(host: &TestServer, n: u32) -> Vec<String> {
    (1..=n)
        .map(|n| deployed(&host.deploy(&[("project", "demo")], &version(n))))
        .collect()
}

fn live(host: &TestServer) -> String {
    fs::read_to_string(host.path("components/demo/version")).unwrap()
}

fn ask(host: &TestServer, operation: &str, fields: &Value) -> Answer {
    let mut all = json!({ "operation": operation });
    for (name, value) in fields.as_object().unwrap() {
        all[name] = value.clone();
    }
    host.operate(&all)
}

fn is(answer: &Answer, status: u16, code: &str, part: &str) {
    let (found, why) = answer.refusal();
    assert_eq!((answer.status, found.as_str()), (status, code), "{why}");
    assert!(why.contains(part), "{part}: {why}");
}

#[test]
fn a_rollback_goes_one_further_back_each_time() {
    let host = TestServer::start();
    is(
        &ask(&host, "rollback_component", &json!({"project": "demo"})),
        404,
        "not_found",
        "nothing of it is live",
    );
    let ids = versions(&host, 3);
    for n in [2, 1] {
        let before = live(&host);
        let answer = ask(&host, "rollback_component", &json!({"project": "demo"}));
        let id = deployed(&answer);
        assert_eq!(live(&host), n.to_string());
        let record = host.record(&id);
        assert_eq!(record["release_id"], ids[n - 1]);
        assert_eq!(
            record["rollback_of"],
            ids[before.parse::<usize>().unwrap() - 1]
        );
        assert_eq!(
            (&record["status"], &record["payload_present"]),
            (&json!("success"), &json!(false))
        );
        let phases: Vec<&Value> = record["event_log"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|entry| entry["event"] == "phase" && entry["data"]["status"] == "start")
            .map(|entry| &entry["data"]["phase"])
            .collect();
        assert_eq!(phases, ["activate"], "no upload and no install");
        assert_eq!(answer.json()["rollback_of"], record["rollback_of"]);
    }
    is(
        &ask(&host, "rollback_component", &json!({"project": "demo"})),
        404,
        "not_found",
        "no earlier release",
    );
    let components = ask(&host, "get_components", &json!({})).json();
    assert_eq!(components["components"][0]["release_id"], ids[0]);

    // To a named one, forward too; and by the id of a rollback.
    let answer = ask(
        &host,
        "rollback_component",
        &json!({"project": "demo", "deployment_id": ids[2]}),
    );
    let to_three = deployed(&answer);
    assert_eq!(live(&host), "3");
    is(
        &ask(
            &host,
            "rollback_component",
            &json!({"project": "demo", "deployment_id": to_three}),
        ),
        409,
        "conflict",
        "live already",
    );
    // A new version is live after all that, and the one before it is what was live.
    deployed(&host.deploy(&[("project", "demo")], &version(4)));
    deployed(&ask(
        &host,
        "rollback_component",
        &json!({"project": "demo"}),
    ));
    assert_eq!(live(&host), "3");
}

#[test]
fn a_release_that_was_pruned_is_built_again_from_its_payload() {
    let host = TestServer::with(&["--keep-releases", "2", "--keep-payloads", "4"], &[]);
    let build = [
        ("project", "demo"),
        ("install_command", "echo built >> log"),
    ];
    let ids: Vec<String> = (1..=4)
        .map(|n| deployed(&host.deploy(&build, &version(n))))
        .collect();
    await_some("the pruning", || {
        (names(&host.path("releases/demo")) == ids[2..]).then_some(())
    });
    let fields = json!({"project": "demo", "deployment_id": ids[0]});
    let id = deployed(&ask(&host, "rollback_component", &fields));
    assert_eq!(live(&host), "1");
    assert_eq!(
        fs::read_to_string(host.path("components/demo/log")).unwrap(),
        "built\n"
    );
    let record = host.record(&id);
    assert_eq!(record["release_id"], ids[0]);
    let started: Vec<&Value> = record["event_log"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["event"] == "phase" && entry["data"]["status"] == "start")
        .map(|entry| &entry["data"]["phase"])
        .collect();
    assert_eq!(started, ["extract", "install", "load", "activate"]);

    // Neither tree nor payload: a clear refusal, and nothing changes.
    await_some("the pruning", || {
        (!host.path(&format!("releases/demo/{}", ids[1])).exists()).then_some(())
    });
    let freed = ask(
        &host,
        "delete_deployment_payload",
        &json!({"deployment_id": ids[1]}),
    )
    .json();
    assert!(freed["freed_bytes"].as_u64().unwrap() > 0, "{freed}");
    let fields = json!({"project": "demo", "deployment_id": ids[1]});
    is(
        &ask(&host, "rollback_component", &fields),
        404,
        "not_found",
        "no longer stored",
    );
    // A payload that is not what it was is not taken.
    fs::write(
        host.path(&format!("deployments/{}/payload", ids[2])),
        version(9),
    )
    .unwrap();
    await_some("the pruning", || {
        (!host.path(&format!("releases/demo/{}", ids[2])).exists()).then_some(())
    });
    let fields = json!({"project": "demo", "deployment_id": ids[2]});
    is(
        &ask(&host, "rollback_component", &fields),
        400,
        "bad_request",
        "SHA-256",
    );
    assert_eq!(live(&host), "1");
    assert!(!host.path(&format!("releases/demo/{}", ids[2])).exists());
}

/// A frame of lz4 that stores its only block.
fn lz4(plain: &[u8]) -> Vec<u8> {
    let stored = u32::try_from(plain.len()).unwrap() | 1 << 31;
    let head = [0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82];
    [&head, &stored.to_le_bytes()[..], plain, &[0; 4]].concat()
}

#[test]
fn a_payload_in_lz4_is_rolled_back_to_and_given_back_by_its_own_name() {
    let host = TestServer::start();
    let plain = |n: u32| tar(&[("./version", &n.to_string())]);
    let (first, second) = (plain(1), plain(2));
    let half = second.len() / 2;
    let ids = [
        (lz4(&first), "1"),
        ([lz4(&second[..half]), gzip(&second[half..])].concat(), "2"),
        (plain(3), "3"),
    ];
    let ids = ids.map(|(payload, version)| {
        let id = deployed(&host.deploy(&[("project", "demo")], &payload));
        assert_eq!(live(&host), version);
        (id, payload)
    });
    // Built again from the payload alone.
    for (n, (id, _)) in ids.iter().enumerate() {
        let release = host.path(&format!("releases/demo/{id}"));
        if n + 1 < ids.len() {
            fs::remove_dir_all(release).unwrap();
            let fields = json!({"project": "demo", "deployment_id": id});
            deployed(&ask(&host, "rollback_component", &fields));
            assert_eq!(live(&host), (n + 1).to_string());
        }
    }
    let given = |id: &str| {
        let answer = ask(
            &host,
            "get_deployment_payload",
            &json!({"deployment_id": id}),
        );
        let name = answer.header("Content-Disposition").unwrap().to_owned();
        (name.replace(id, "ID"), answer.body)
    };
    let named = |end: &str| format!("attachment; filename=\"deployment-ID.{end}\"");
    assert_eq!(given(&ids[0].0), (named("tar.lz4"), ids[0].1.clone()));
    assert_eq!(given(&ids[2].0), (named("tar"), ids[2].1.clone()));
    // Of two formats, which no other program reads: given as one.
    for _ in 0..2 {
        let (name, body) = given(&ids[1].0);
        let mut unpacked = Vec::new();
        let mut gzip = flate2::read::GzDecoder::new(&body[..]);
        gzip.read_to_end(&mut unpacked).unwrap();
        assert_eq!((name, unpacked), (named("tar.gz"), second.clone()));
    }
}

#[test]
fn payloads_are_given_back_as_they_came() {
    let host = TestServer::start();
    let payload = noise();
    let id = deployed(&host.deploy(&[("project", "demo")], &payload));
    let answer = ask(
        &host,
        "get_deployment_payload",
        &json!({"deployment_id": id}),
    );
    assert_eq!(
        (answer.status, answer.header("Content-Type")),
        (200, Some("application/octet-stream"))
    );
    let disposition = format!("attachment; filename=\"deployment-{id}.tar\"");
    assert_eq!(answer.header("Content-Disposition"), Some(&*disposition));
    assert_eq!(
        answer.header("Content-Length"),
        Some(&*payload.len().to_string())
    );
    assert!(answer.body == payload);
    let freed = |id: &str| {
        ask(
            &host,
            "delete_deployment_payload",
            &json!({"deployment_id": id}),
        )
        .json()["freed_bytes"]
            .clone()
    };
    assert_eq!(freed(&id), payload.len());
    assert_eq!(freed(&id), 0);
    assert_eq!(host.record(&id)["payload_present"], false);
    is(
        &ask(
            &host,
            "get_deployment_payload",
            &json!({"deployment_id": id}),
        ),
        404,
        "not_found",
        "no longer stored",
    );
    let unknown = "01890000-0000-7000-8000-000000000000";
    for operation in [
        "get_deployment_payload",
        "delete_deployment_payload",
        "cancel_deployment",
    ] {
        is(
            &ask(&host, operation, &json!({"deployment_id": unknown})),
            404,
            "not_found",
            unknown,
        );
    }
}

#[test]
fn a_staged_build_is_live_when_somebody_says_so() {
    let host = TestServer::start();
    let answer = host.deploy(&[("project", "demo"), ("activate", "false")], &version(1));
    let staged = deployed(&answer);
    assert_eq!(answer.json()["staged"], true);
    assert!(!host.path("components/demo").exists());
    assert_eq!(host.record(&staged)["status"], "staged");
    let fields = |project: &str| json!({"project": project, "deployment_id": staged});
    is(
        &ask(&host, "deploy_component", &fields("other")),
        409,
        "conflict",
        "a deployment of demo",
    );
    let id = deployed(&ask(&host, "deploy_component", &fields("demo")));
    assert_eq!(live(&host), "1");
    assert_eq!(host.record(&id)["release_id"], staged);
    assert_eq!(
        host.record(&staged)["status"],
        "staged",
        "it stays what it was"
    );
    // Once more is a success that does nothing.
    let again = deployed(&ask(&host, "deploy_component", &fields("demo")));
    let record = host.record(&again);
    assert_eq!(record["release_id"], staged);
    let log = record["event_log"].as_array().unwrap();
    let phases: Vec<&Value> = log.iter().filter(|one| one["event"] == "phase").collect();
    assert_eq!(phases.len(), 1, "{record}");
    assert_eq!(
        (&phases[0]["data"]["phase"], &phases[0]["data"]["status"]),
        (&json!("activate"), &json!("skipped"))
    );
    assert_eq!(live(&host), "1");
    deployed(&host.deploy(&[("project", "demo")], &version(2)));
    deployed(&ask(
        &host,
        "rollback_component",
        &json!({"project": "demo"}),
    ));
    assert_eq!(live(&host), "1");
    // One that failed has nothing to be activated.
    let answer = host.deploy(
        &[("project", "demo"), ("install_command", "false")],
        &version(2),
    );
    let failed = answer.json()["deployment_id"].clone();
    is(
        &ask(
            &host,
            "deploy_component",
            &json!({"project": "demo", "deployment_id": failed}),
        ),
        409,
        "conflict",
        "no release",
    );
}

/// Begins a deployment and gives the lines of its stream, up to one that has `part`.
pub(crate) fn begin(
    host: &TestServer,
    project: &str,
    command: &str,
    part: &str,
) -> (String, BufReader<TcpStream>) {
    let (media, body) = form(
        &[("project", project), ("install_command", command)],
        &component(),
    );
    let authorization = format!("Authorization: Bearer {}", host.token);
    let mut stream = host.connect();
    let asked = request(
        "POST",
        "/",
        &[&authorization, &media, "Accept: text/event-stream"],
        &body,
    );
    stream.write_all(&asked).unwrap();
    let mut reader = BufReader::new(stream);
    let (mut line, mut id) = (String::new(), String::new());
    loop {
        line.clear();
        assert!(reader.read_line(&mut line).unwrap() > 0, "no {part}");
        if let Some((_, rest)) = line.split_once("\"deployment_id\":\"") {
            id = rest.split('"').next().unwrap().to_owned();
        }
        if line.contains(part) {
            return (id, reader);
        }
    }
}

fn last(reader: BufReader<TcpStream>) -> String {
    let lines: Vec<String> = reader.lines().map_while(Result::ok).collect();
    lines.join("\n")
}

#[test]
fn a_cancel_ends_the_whole_family_and_frees_the_component() {
    let host = TestServer::with(&["--max-deploys", "1"], &[]);
    let first = deployed(&host.deploy(&[("project", "demo")], &version(1)));
    // In the installation, with a child of its own that ignores what is polite.
    let pids = host.path("pids");
    let command = format!(
        "trap '' TERM; sh -c 'trap \"\" TERM; echo $$ >> {0}; while :; do sleep 0.1; done' & echo $$ >> {0}; while :; do sleep 0.1; done",
        pids.display()
    );
    let (id, reader) = begin(
        &host,
        "demo",
        &command,
        "\"phase\":\"install\",\"status\":\"start\"",
    );
    let family = await_some("the family", || {
        let text = fs::read_to_string(&pids).ok()?;
        (text.lines().count() == 2).then_some(text)
    });
    // One that waits for a place meanwhile.
    let (queued, waiting) = begin(
        &host,
        "other",
        "true",
        "\"phase\":\"queue\",\"status\":\"start\"",
    );
    assert_eq!(host.record(&queued)["status"], "queued");
    let answer = ask(
        &host,
        "cancel_deployment",
        &json!({"deployment_id": queued}),
    );
    assert_eq!(
        (answer.status, &answer.json()["status"]),
        (200, &json!("cancelled")),
        "{}",
        answer.text()
    );
    assert!(last(waiting).contains("\"code\":\"cancelled\""));

    let answer = ask(&host, "cancel_deployment", &json!({"deployment_id": id}));
    assert_eq!(
        (answer.status, &answer.json()["status"]),
        (200, &json!("cancelled")),
        "{}",
        answer.text()
    );
    for pid in family.lines() {
        // One that is dead and that nobody has collected yet is gone.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat.rsplit(')').next().unwrap().trim_start();
        assert!(
            state.is_empty() || state.starts_with(['Z', 'X']),
            "{pid} is left: {stat}"
        );
    }
    let end = last(reader);
    assert!(
        end.contains("event: error") && end.contains("\"code\":\"cancelled\""),
        "{end}"
    );
    assert_eq!(host.record(&id)["status"], "cancelled");
    assert_eq!(names(&host.path("releases/demo")), [first]);
    is(
        &ask(&host, "cancel_deployment", &json!({"deployment_id": id})),
        409,
        "conflict",
        "has ended already",
    );
    deployed(&host.deploy(&[("project", "demo")], &version(2)));
}

/// The beginning of an upload that does not go on.
fn half_an_upload(host: &TestServer, key: &str) -> TcpStream {
    let (media, body) = form(&[("project", "demo")], &noise());
    let authorization = format!("Authorization: Bearer {}", host.token);
    let key = format!("Idempotency-Key: {key}");
    let whole = request("POST", "/", &[&authorization, &media, &key], &body);
    let mut stream = host.connect();
    stream.write_all(&whole[..whole.len() / 2]).unwrap();
    stream
}

fn extracting(host: &TestServer) -> String {
    await_some("the upload", || {
        let list = ask(host, "list_deployments", &json!({"status": "extracting"})).json();
        list["deployments"][0]["deployment_id"]
            .as_str()
            .map(str::to_owned)
    })
}

#[test]
fn a_cancel_ends_an_upload_whose_client_is_silent() {
    let host = TestServer::start();
    let stream = half_an_upload(&host, "k");
    let id = extracting(&host);
    is(
        &ask(
            &host,
            "get_deployment_payload",
            &json!({"deployment_id": id}),
        ),
        409,
        "conflict",
        "still running",
    );
    is(
        &ask(
            &host,
            "delete_deployment_payload",
            &json!({"deployment_id": id}),
        ),
        409,
        "conflict",
        "still running",
    );
    let begun = Instant::now();
    let answer = ask(&host, "cancel_deployment", &json!({"deployment_id": id}));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "it did not wait for the client"
    );
    is(&Answer::read(stream), 409, "cancelled", "");
    assert!(names(&host.path("releases")).is_empty());
    assert!(!host.path(&format!("deployments/{id}/payload")).exists());
}

#[test]
fn a_request_that_comes_twice_deploys_once() {
    let host = TestServer::start();
    let post = |project: &str, key: &str, payload: &[u8], accept: &str| {
        let (media, body) = form(&[("project", project)], payload);
        host.ask(
            "POST",
            "/",
            &[&media, &format!("Idempotency-Key: {key}"), accept],
            &body,
        )
    };
    let first = post("demo", "one", &version(1), "Accept: */*");
    let id = deployed(&first);
    // Whatever its payload is: it is not looked at.
    let again = post("demo", "one", &version(2), "Accept: */*");
    assert_eq!(again.text(), first.text());
    let live_again = post("demo", "one", &version(2), "Accept: text/event-stream").events();
    assert_eq!(live_again[0].data["deployment_id"], id);
    assert_eq!(live_again.last().unwrap().event, "done");
    assert_eq!(live(&host), "1");
    assert_eq!(
        host.record(&id)["idempotency_key"].as_str().unwrap().len(),
        64
    );
    // The key belongs to its component, and another key is another request.
    assert_ne!(
        deployed(&post("other", "one", &version(1), "Accept: */*")),
        id
    );
    assert_ne!(
        deployed(&post("demo", "two", &version(3), "Accept: */*")),
        id
    );
    for bad in ["", "a b", &"x".repeat(129)] {
        is(
            &post("demo", bad, &version(1), "Accept: */*"),
            400,
            "bad_request",
            "Idempotency-Key",
        );
    }
    // A failure is an answer too.
    let fail = [("project", "demo"), ("install_command", "exit 3")];
    let (media, body) = form(&fail, &version(1));
    let failing = || host.ask("POST", "/", &[&media, "Idempotency-Key: fails"], &body);
    let (one, two) = (failing(), failing());
    assert_eq!((one.status, two.status, one.text()), (422, 422, two.text()));

    // An upload that has not ended is replaced, and one that broke does not count.
    let stream = half_an_upload(&host, "three");
    let replaced = extracting(&host);
    let id = deployed(&post("demo", "three", &version(5), "Accept: */*"));
    assert_ne!(id, replaced);
    is(&Answer::read(stream), 400, "upload_broken", "");
    assert_eq!(host.record(&replaced)["error"]["code"], "upload_broken");
    assert_eq!(live(&host), "5");
    assert_eq!(
        deployed(&post("demo", "three", &version(6), "Accept: */*")),
        id
    );

    // While it runs, too: the second one follows the first.
    let gate = host.path("gate");
    let hold = format!("while [ ! -e {} ]; do sleep 0.01; done", gate.display());
    let (media, body) = form(
        &[("project", "demo"), ("install_command", &hold)],
        &version(7),
    );
    let running = || host.ask("POST", "/", &[&media, "Idempotency-Key: four"], &body);
    std::thread::scope(|scope| {
        let one = scope.spawn(running);
        await_some("the installation", || {
            let list = ask(&host, "list_deployments", &json!({"status": "installing"})).json();
            (list["total"] == 1).then_some(())
        });
        let two = scope.spawn(running);
        fs::write(&gate, "").unwrap();
        assert_eq!(
            deployed(&one.join().unwrap()),
            deployed(&two.join().unwrap())
        );
    });
}

#[test]
fn a_dropped_component_is_gone_and_its_records_are_not() {
    let host = TestServer::start();
    versions(&host, 2);
    let answer = ask(&host, "drop_component", &json!({"project": "demo"}));
    assert_eq!(answer.json()["message"], "Successfully dropped: demo");
    assert!(names(&host.path("releases")).is_empty() && names(&host.path("components")).is_empty());
    assert_eq!(
        ask(&host, "list_deployments", &json!({})).json()["total"],
        2
    );
    is(
        &ask(&host, "drop_component", &json!({"project": "demo"})),
        404,
        "not_found",
        "no such component",
    );
    deployed(&host.deploy(&[("project", "demo")], &version(3)));
    let (id, reader) = begin(
        &host,
        "demo",
        "while :; do sleep 0.1; done",
        "\"phase\":\"install\",\"status\":\"start\"",
    );
    is(
        &ask(&host, "drop_component", &json!({"project": "demo"})),
        409,
        "busy",
        &id,
    );
    ask(&host, "cancel_deployment", &json!({"deployment_id": id}));
    drop(reader);
    assert_eq!(live(&host), "3");
}

#[test]
fn requests_at_once_with_one_key_make_one_deployment() {
    let host = TestServer::start();
    let (media, body) = form(
        &[("project", "demo"), ("install_command", "sleep 0.2")],
        &version(1),
    );
    for round in 0..3 {
        let key = format!("Idempotency-Key: round-{round}");
        let post = || host.ask("POST", "/", &[&media, &key], &body);
        let answers: Vec<Answer> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(post)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        let (done, replaced): (Vec<_>, Vec<_>) =
            answers.iter().partition(|answer| answer.status == 200);
        let mut ids: Vec<String> = done.into_iter().map(deployed).collect();
        ids.dedup();
        assert_eq!(ids.len(), 1, "{answers:?}");
        for answer in replaced {
            assert_eq!(answer.refusal().0, "upload_broken");
        }
    }
}

#[test]
fn a_key_that_asks_for_something_else_is_refused_and_says_what_differs() {
    let host = TestServer::start();
    let ids = versions(&host, 2);
    let key = "Idempotency-Key: once";
    let post = |fields: &[(&str, &str)], payload: &[u8]| {
        let (media, body) = form(fields, payload);
        host.ask("POST", "/", &[&media, key], &body)
    };
    let operate = |key: &str, operation: &str, fields: &Value| {
        let mut all = json!({ "operation": operation, "project": "demo" });
        for (name, value) in fields.as_object().unwrap() {
            all[name] = value.clone();
        }
        let headers = ["Content-Type: application/json", key];
        host.ask("POST", "/", &headers, all.to_string().as_bytes())
    };
    let sha256 = |n: u32| {
        use sha2::{Digest, Sha256};
        let digest = Sha256::digest(version(n));
        digest
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    let (right, wrong) = (sha256(3), sha256(4));
    let plain = [
        ("project", "demo"),
        ("install_command", "true"),
        ("payload_sha256", right.as_str()),
    ];
    let third = deployed(&post(&plain, &version(3)));
    assert_eq!(deployed(&post(&plain, &version(3))), third);
    assert_eq!(
        deployed(&post(&plain[..2], &version(3))),
        third,
        "without a hash"
    );

    let staged = [&plain[..], &[("activate", "false")]].concat();
    let restarted = [&plain[..], &[("restart", "true")]].concat();
    let other_command = [("project", "demo"), ("install_command", "echo")];
    let other_payload = [
        ("project", "demo"),
        ("install_command", "true"),
        ("payload_sha256", wrong.as_str()),
    ];
    let both = [("project", "demo"), ("activate", "false")];
    let replicated = [&plain[..], &[("replicated", "true")]].concat();
    let table: [(&[(&str, &str)], &str); 6] = [
        (&staged, "another activate"),
        (&restarted, "another restart"),
        (&other_command, "another options"),
        (&other_payload, "another payload_sha256"),
        (&both, "another activate, options"),
        (&replicated, "another replicated"),
    ];
    for (fields, part) in table {
        let answer = post(fields, &version(4));
        is(&answer, 409, "conflict", part);
        assert_eq!(answer.json()["deployment_id"], third);
    }
    for (operation, fields) in [
        ("rollback_component", json!({})),
        ("restart_component", json!({})),
        ("deploy_component", json!({"deployment_id": ids[0]})),
    ] {
        is(
            &operate(key, operation, &fields),
            409,
            "conflict",
            "another operation",
        );
    }
    assert_eq!(
        (
            live(&host).as_str(),
            ask(&host, "list_deployments", &json!({})).json()["total"].as_u64()
        ),
        ("3", Some(3))
    );

    // A rollback joins itself, by the id of the release or without one, and not one to another release.
    let key = "Idempotency-Key: back";
    let back = deployed(&operate(key, "rollback_component", &json!({})));
    for fields in [
        json!({}),
        json!({"deployment_id": ids[1]}),
        json!({"deployment_id": back}),
    ] {
        assert_eq!(
            deployed(&operate(key, "rollback_component", &fields)),
            back,
            "{fields}"
        );
    }
    let fields = json!({"deployment_id": ids[0]});
    is(
        &operate(key, "rollback_component", &fields),
        409,
        "conflict",
        "another deployment_id",
    );
    let kinds = [(&third, "deploy"), (&back, "rollback")];
    for (id, kind) in kinds {
        assert_eq!(host.record(id)["kind"], kind);
    }
}
