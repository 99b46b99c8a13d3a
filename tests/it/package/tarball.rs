//! Tarballs by their URLs.

use std::io::Write;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::web::{Reply, Web, bytes, redirect};
use super::{
    component, deploy, everything, fails, is_nowhere, live, of, operation, set_env, succeeds,
    warnings,
};
use crate::needs::{have, is_debug_build};
use crate::test_server::{TempDir, TestServer, await_some, certificate, names, request};

fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_tarball_becomes_a_payload_as_any_other() {
    let host = TestServer::start();
    let payload = component("one");
    let hash = sha256(&payload);
    let sent = payload.clone();
    let web = Web::start(move |asked| match &*asked.path {
        "/x.tgz" => bytes(&sent),
        _ => bytes(&component("two")),
    });
    let url = web.url("x.tgz");
    let events = deploy(&host, &url, &[]);
    assert_eq!(events.last().unwrap().event, "done", "{events:#?}");
    let opening = &events[0].data;
    assert_eq!(
        opening["phases"],
        json!(["fetch", "extract", "install", "load", "activate"])
    );
    let phases: Vec<String> = of(&events, "phase")
        .iter()
        .map(|data| format!("{} {}", data["phase"], data["status"]).replace('"', ""))
        .collect();
    assert_eq!(
        phases[..4],
        ["fetch start", "fetch done", "extract start", "extract done"]
    );
    // Nothing tells whether somebody on the way has changed it.
    assert!(
        warnings(&events)[0].contains("others can change"),
        "{events:#?}"
    );
    let id = opening["deployment_id"].as_str().unwrap();
    let record = host.record(id);
    assert_eq!(record["package_identifier"], url);
    assert_eq!(record["payload_hash"], hash);
    assert_eq!(record["payload_size"], payload.len());
    let asked = json!({"operation": "get_deployment_payload", "deployment_id": id});
    assert_eq!(host.operate(&asked).body, payload);

    // Known by its hash it needs no warning, and what came before is rolled back to without another request.
    let upper = hash.to_ascii_uppercase();
    let events = deploy(
        &host,
        &format!("{url}#sha256={upper}"),
        &[("payload_sha256", upper.into())],
    );
    assert_eq!(events.last().unwrap().event, "done", "{events:#?}");
    assert!(warnings(&events).is_empty(), "{events:#?}");
    succeeds(&host, &web.url("two.tgz"), &[]);
    assert_eq!(live(&host), "two");
    let asked = web.asked().len();
    let answer = host.operate(&json!({"operation": "rollback_component", "project": "app"}));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!((live(&host), web.asked().len()), ("one".to_owned(), asked));
}

#[test]
fn what_is_wrong_with_a_tarball_is_named() {
    let host = TestServer::with(&["--max-payload", "1M"], &[]);
    let web = Web::start(|asked| match &*asked.path {
        "/none" => Reply::Answer(404, vec![], vec![]),
        "/forbidden" => Reply::Answer(403, vec![], vec![]),
        "/html" => Reply::Answer(
            200,
            vec!["Content-Type: text/html; charset=x".into()],
            b"<p>".to_vec(),
        ),
        "/page" => bytes(b"<!doctype html><p>Sign in"),
        "/zip" => bytes(b"PK\x03\x04 and more"),
        "/empty" => bytes(b""),
        "/cut" => Reply::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nten bytes!".to_vec()),
        "/cut-chunk" => Reply::Raw(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nten bytes!".to_vec(),
        ),
        "/mute" => Reply::Raw(Vec::new()),
        "/noise" => Reply::Raw(b"220 ftp ready\r\n".to_vec()),
        "/5g" => Reply::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5368709120\r\n\r\nx".to_vec()),
        "/flood" => Reply::Flood,
        "/file" => redirect("file:///etc/passwd"),
        "/loop" => redirect("/loop"),
        "/nowhere" => redirect(""),
        "/good" => bytes(&component("good")),
        _ => panic!("{asked:?}"),
    });
    let wrong = format!("good#sha256={}", "0".repeat(64));
    let table = [
        ("none", "fetch_failed", "answered 404"),
        ("forbidden", "fetch_failed", "GANGPLANK_FETCH_AUTHORIZATION"),
        (
            "html",
            "fetch_failed",
            "an HTML page and not a tarball; a git repository is written git+https://",
        ),
        ("cut", "fetch_failed", "after 10 of 100 bytes"),
        ("cut-chunk", "fetch_failed", "after"),
        ("mute", "fetch_failed", ""),
        ("noise", "fetch_failed", ""),
        ("5g", "too_large", "1048576"),
        ("flood", "too_large", "1048576"),
        ("file", "fetch_failed", "something other than HTTP"),
        ("loop", "fetch_failed", "more than 5 times"),
        ("nowhere", "fetch_failed", "not a URL"),
        (&wrong, "fetch_failed", "its SHA-256 is"),
    ];
    for (path, code, part) in table {
        let (found, why) = fails(&host, &web.url(path), &[], "fetch");
        assert_eq!(found, code, "{path}: {why}");
        assert!(why.contains(part), "{path}: {why}");
    }
    assert_eq!(
        web.asked().iter().filter(|one| one.path == "/loop").count(),
        6
    );
    // What came and is not a payload is judged as one that was sent.
    for (path, code, part) in [
        ("page", "bad_archive", "an HTML page"),
        ("zip", "bad_archive", "a zip archive"),
        ("empty", "bad_request", "empty"),
    ] {
        let (found, why) = fails(&host, &web.url(path), &[], "extract");
        assert!(found == code && why.contains(part), "{path}: {found} {why}");
    }
    let other = json!("0".repeat(64));
    let (code, why) = fails(
        &host,
        &web.url("good"),
        &[("payload_sha256", other)],
        "extract",
    );
    assert!(code == "bad_request" && why.contains("SHA-256"), "{why}");
    let (code, why) = fails(&host, "https://localhost:1/x.tgz", &[], "fetch");
    assert!(
        code == "fetch_failed" && why.contains("localhost:1"),
        "{why}"
    );
    let (code, why) = fails(&host, "https://nobody.invalid/x.tgz", &[], "fetch");
    assert!(
        code == "fetch_failed" && why.contains("nobody.invalid"),
        "{why}"
    );
    let (code, why) = fails(
        &host,
        &format!("https://{}/x.tgz", web.address),
        &[],
        "fetch",
    );
    assert_eq!(code, "fetch_failed", "{why}");
    succeeds(&host, &web.url("good"), &[]);
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_refused() {
    if !have("openssl") {
        return;
    }
    let dir = TempDir::new();
    let (key, certificate) = certificate(&dir.0, "x");
    let files = [&certificate, &key].map(|file| file.to_str().unwrap());
    let tls = TestServer::with(&["--tls-cert", files[0], "--tls-key", files[1]], &[]);
    let host = TestServer::start();
    let port = tls.address.rsplit(':').next().unwrap();
    let url = format!("https://localhost:{port}/health");
    let (code, why) = fails(&host, &url, &[], "fetch");
    assert!(
        code == "fetch_failed" && why.contains("invalid peer certificate"),
        "{why}"
    );
}

#[test]
fn the_certificates_that_the_environment_names_are_trusted_and_no_others() {
    if !have("openssl") {
        return;
    }
    let dir = TempDir::new();
    let own = certificate(&dir.0, "own");
    let other = certificate(&dir.0, "other").1;
    let plain = Web::start(|_| bytes(&component("plain")));
    let away = plain.url("x.tgz");
    let web = Web::start(move |asked| match &*asked.path {
        "/away" => redirect(&away),
        "/cut" => Reply::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc".to_vec()),
        _ => bytes(&component("over TLS")),
    });
    let port = web.behind_tls(&own);
    let url = |path: &str| format!("https://localhost:{port}/{path}");
    let host = TestServer::start();
    let trusted = |file: &std::path::Path| json!({ "SSL_CERT_FILE": file });

    set_env(&host, trusted(&own.1));
    let record = succeeds(&host, &url("x.tgz"), &[]);
    assert_eq!(
        (live(&host), &record["package_identifier"]),
        ("over TLS".into(), &url("x.tgz").into())
    );
    let events = deploy(&host, &url("x.tgz"), &[]);
    assert!(warnings(&events).is_empty(), "{events:#?}");
    let (code, why) = fails(&host, &url("cut"), &[], "fetch");
    assert!(
        code == "fetch_failed" && why.contains("after 3 of 100 bytes"),
        "{why}"
    );
    // Without TLS: told, and never with credentials.
    let events = deploy(&host, &url("away"), &[]);
    assert!(
        warnings(&events)[0].contains("was redirected"),
        "{events:#?}"
    );
    assert_eq!(live(&host), "plain");
    let mut variables = trusted(&own.1);
    variables["GANGPLANK_FETCH_AUTHORIZATION"] = "Bearer s3cret".into();
    set_env(&host, variables);
    let (_, why) = fails(&host, &url("away"), &[], "fetch");
    assert!(why.contains("credentials do not go"), "{why}");
    assert_eq!(plain.asked().len(), 1);

    for (file, part) in [
        (other, "invalid peer certificate"),
        (
            dir.0.join("nothing"),
            "nothing (SSL_CERT_FILE): No such file",
        ),
        (own.0, "(SSL_CERT_FILE): there is none in it"),
        (dir.0.clone(), "(SSL_CERT_FILE): Is a directory"),
    ] {
        set_env(&host, trusted(&file));
        let (code, why) = fails(&host, &url("x.tgz"), &[], "fetch");
        assert!(code == "fetch_failed" && why.contains(part), "{why}");
    }
}

#[test]
fn a_disk_that_would_get_too_full_takes_no_tarball() {
    let web = Web::start(|_| {
        Reply::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1099511627776000\r\n\r\nx".to_vec())
    });
    let host = TestServer::start();
    let (code, why) = fails(&host, &web.url("x.tgz"), &[], "fetch");
    assert!(
        code == "no_space" && why.contains("1099511627776000"),
        "{why}"
    );
}

#[test]
fn credentials_go_to_the_first_host_alone() {
    let host = TestServer::start();
    let other = Web::start(|_| bytes(&component("other")));
    let elsewhere = other.url("there.tgz");
    let web = Web::start(move |asked| match &*asked.path {
        "/away" => redirect(&elsewhere),
        "/near" => redirect("/there.tgz"),
        _ => bytes(&component("here")),
    });
    set_env(
        &host,
        json!({"GANGPLANK_FETCH_AUTHORIZATION": "Bearer s3cret-token"}),
    );
    let of_all = |web: &Web| -> Vec<Option<String>> {
        web.asked()
            .into_iter()
            .map(|one| one.authorization)
            .collect()
    };
    let token = || Some("Bearer s3cret-token".to_owned());
    succeeds(&host, &web.url("near"), &[]);
    assert_eq!(of_all(&web), [token(), token()]);
    succeeds(&host, &web.url("away"), &[]);
    assert_eq!(of_all(&web)[2..], [token()]);
    assert_eq!(of_all(&other), [None]);
    // A URL's own are stronger, and are shown nowhere.
    let url = web
        .url("x.tgz?sig=s3cret-query")
        .replace("http://", "http://bob:s3cret%21@");
    let record = succeeds(&host, &url, &[]);
    assert_eq!(
        of_all(&web)[3..],
        [Some("Basic Ym9iOnMzY3JldCE=".to_owned())]
    );
    assert_eq!(
        record["package_identifier"],
        format!("{}?...", web.url("x.tgz"))
    );
    let (_, why) = fails(
        &host,
        &url.replace(&web.address, "127.0.0.1:1"),
        &[],
        "fetch",
    );
    assert!(!why.contains("s3cret"), "{why}");
    for secret in ["s3cret", "Ym9iOnMzY3JldCE="] {
        is_nowhere(secret, everything(&host));
    }
}

#[test]
fn what_comes_too_slowly_is_given_up_in_time() {
    let host = TestServer::start();
    let web = Web::start(|asked| match &*asked.path {
        "/drip" => Reply::Drip,
        _ => Reply::Silence,
    });
    for path in ["drip", "silent"] {
        let begun = std::time::Instant::now();
        let limit = [("install_timeout", json!(700))];
        let (code, why) = fails(&host, &web.url(path), &limit, "fetch");
        assert!(
            code == "fetch_failed" && why.contains("timed out after 0.7s"),
            "{why}"
        );
        assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
    }
}

/// Begins a deployment and gives its id once the server asks for the package.
fn begun(host: &TestServer, web: &Web, package: &str) -> String {
    let body = operation(package, &[]).to_string();
    let authorization = format!("Authorization: Bearer {}", host.token);
    let headers = [authorization.as_str(), "Content-Type: application/json"];
    let mut stream = host.connect();
    stream
        .write_all(&request("POST", "/", &headers, body.as_bytes()))
        .unwrap();
    let id = await_some("the deployment", || {
        let list = json!({"operation": "list_deployments", "project": "app"});
        let list = host.operate(&list).json();
        let newest = &list["deployments"][0];
        let running = newest["status"] == "fetching" && !web.asked().is_empty();
        running.then(|| newest["deployment_id"].as_str().unwrap().to_owned())
    });
    // It goes on without whoever asked for it.
    drop(stream);
    id
}

#[test]
fn a_fetch_can_be_cancelled_and_the_next_one_works() {
    let host = TestServer::start();
    let web = Web::start(|_| Reply::Silence);
    let id = begun(&host, &web, &web.url("x.tgz"));
    let busy = host.deploy(&[("project", "app")], &component("x"));
    assert_eq!(busy.refusal().0, "busy");
    let answer = host.operate(&json!({"operation": "cancel_deployment", "deployment_id": id}));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let record = host.record(&id);
    assert_eq!(
        (&record["status"], &record["phase"]),
        (&json!("cancelled"), &json!("fetch"))
    );
    assert!(!host.path(&format!("deployments/{id}/payload")).exists());
    assert_eq!(
        host.deploy(&[("project", "app")], &component("x")).status,
        200
    );
}

#[test]
fn a_server_that_is_killed_while_it_fetches_leaves_nothing_of_it() {
    if !is_debug_build() {
        return;
    }
    // In the midst of a tarball, and with all of it there.
    for checkpoint in [None, Some("fetched")] {
        let dir = TempDir::new();
        let reached = dir.0.join("reached");
        let asked = format!("fetched={}", reached.display());
        let environment = checkpoint.map(|_| ("GANGPLANK_TEST_CHECKPOINT", &*asked));
        let mut host = TestServer::with(&[], environment.as_slice());
        let web = Web::start(move |_| match checkpoint {
            None => Reply::Drip,
            Some(_) => bytes(&component("x")),
        });
        let id = begun(&host, &web, &web.url("x.tgz"));
        if checkpoint.is_some() {
            await_some("the checkpoint", || reached.exists().then_some(()));
        }
        host.server.kill().unwrap();
        host.server.wait().unwrap();
        let root = std::sync::Arc::clone(&host.root);
        std::fs::create_dir_all(root.0.join("cache/app/fetch/tree/.git")).unwrap();
        drop(host);
        let host = TestServer::on(root, &[], &[]);
        let record = host.record(&id);
        assert_eq!(record["status"], "failed");
        assert_eq!(record["error"]["code"], "interrupted");
        assert_eq!(record["payload_present"], false);
        assert!(!host.path(&format!("deployments/{id}/payload")).exists());
        assert!(names(&host.path("cache/app")).is_empty());
        assert_eq!(
            host.deploy(&[("project", "app")], &component("x")).status,
            200
        );
    }
}

#[test]
fn one_key_fetches_once() {
    let host = TestServer::start();
    let web = Web::start(|asked| match &*asked.path {
        "/bad" => Reply::Answer(500, vec![], vec![]),
        _ => bytes(&component("x")),
    });
    let send = |package: &str, key: &str| {
        let key = format!("Idempotency-Key: {key}");
        let headers = ["Content-Type: application/json", key.as_str()];
        let body = operation(package, &[]).to_string();
        host.ask("POST", "/", &headers, body.as_bytes())
    };
    let id = |answer: crate::test_server::Answer| -> Value {
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["deployment_id"].clone()
    };
    let first = id(send(&web.url("x.tgz"), "k"));
    assert_eq!(id(send(&web.url("x.tgz"), "k")), first);
    assert_eq!(web.asked().len(), 1);
    let (code, why) = send(&web.url("y.tgz"), "k").refusal();
    assert!(code == "conflict" && why.contains("package"), "{why}");
    // What could not be fetched is tried again.
    for _ in 0..2 {
        assert_eq!(send(&web.url("bad"), "k2").status, 502);
    }
    assert_eq!(web.asked().len(), 3);
}

#[test]
fn the_cli_and_harpers_habits_deploy_a_package() {
    let host = TestServer::start();
    let web = Web::start(|_| bytes(&component("x")));
    let url = web.url("pad.tgz");
    let output = host.cli(&[
        "deploy",
        "--package",
        &url,
        "--progress",
        "plain",
        "--output",
        "json",
    ]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    // Its name is the package's.
    assert_eq!(result["project"], "pad");
    assert!(
        said.contains("fetch...") && said.contains("fetch done ("),
        "{said}"
    );
    let package = format!("package={url}");
    let output = host.cli(&["deploy", &package, "project=other"]);
    assert_eq!(output.status.code(), Some(0));
    let output = host.cli(&["deploy", "--package", &web.url("none/my.app.tgz")]);
    assert_eq!(output.status.code(), Some(1));
    let output = host.cli(&["deploy", "/tmp", "--package", &url]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("/tmp cannot go with --package"), "{said}");
}

#[test]
fn a_peer_gets_the_payload_and_fetches_nothing() {
    let peer = TestServer::start();
    let dir = TempDir::new().with(&[("token", &peer.token)]);
    let flags = [
        "--peer".to_owned(),
        format!("two=http://{}", peer.address),
        "--peer-token-file".to_owned(),
        format!("two={}", dir.0.join("token").display()),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let host = TestServer::with(&flags, &[]);
    let web = Web::start(|_| bytes(&component("both")));
    let url = web.url("x.tgz").replace("http://", "http://bob:s3cret@");
    let record = succeeds(&host, &url, &[("replicated", json!(true))]);
    assert_eq!(web.asked().len(), 1);
    assert_eq!(
        (live(&host), live(&peer)),
        ("both".to_owned(), "both".to_owned())
    );
    let list = json!({"operation": "list_deployments"});
    // One that builds, and one that makes it live.
    let there = peer.operate(&list).json()["deployments"][1].clone();
    assert_eq!(there["payload_hash"], record["payload_hash"]);
    assert_eq!(there["package_identifier"], Value::Null);
    is_nowhere("s3cret", everything(&host));
    is_nowhere("s3cret", everything(&peer));
}
