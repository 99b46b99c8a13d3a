//! Our CLI against Harper servers before 5.1: one request of CBOR, one answer.

use serde_json::json;

use crate::harper::fake::{Exchange, FakeHarper};
use crate::harper::{app, assert_exit, deploy, run, stderr, stdout};
use crate::test_server::gangplank;

fn legacy(deploy: impl Fn(&mut Exchange) + Send + Sync + 'static) -> FakeHarper {
    FakeHarper::start("4.7.29", deploy)
}

#[test]
fn an_older_server_gets_one_map_of_cbor_and_answers_once() {
    let harper = legacy(|exchange| {
        exchange.json(
            200,
            &json!({"message": "Successfully deployed: hello, restarting HarperDB"}),
        );
    });
    let output = deploy(&harper, &["--restart", "--install-timeout", "30s"]);
    assert_exit(
        &output,
        0,
        "Harper 4.7 tells nothing until the deployment has ended; then it restarts",
    );
    let message = "Successfully deployed: hello, restarting HarperDB";
    assert_eq!(stdout(&output), json!({ "message": message }));
    let asked = harper.deploy_cbor();
    assert_eq!(
        asked.header("content-type").as_deref(),
        Some("application/cbor")
    );
    assert_eq!(asked.header("accept").as_deref(), Some("application/json"));
    assert!(asked.header("idempotency-key").is_none());
    let head = b"\xa5\x69operation\x70deploy_component";
    assert!(asked.body.starts_with(head), "{:?}", &asked.body[..40]);
    let has = |part: &[u8]| asked.body.windows(part.len()).any(|found| found == part);
    assert!(has(b"\x67project\x65hello"));
    assert!(has(b"\x67restart\xf5"));
    assert!(has(b"\x6finstall_timeout\x19\x75\x30"));
    // The payload is last, a byte string of a length that is known, and gzip.
    let at = asked
        .body
        .windows(8)
        .position(|part| part == b"\x67payload")
        .unwrap()
        + 8;
    let (length, payload) = match asked.body[at] {
        0x58 => (usize::from(asked.body[at + 1]), &asked.body[at + 2..]),
        0x59 => {
            let length = [asked.body[at + 1], asked.body[at + 2]];
            (
                usize::from(u16::from_be_bytes(length)),
                &asked.body[at + 3..],
            )
        }
        other => panic!("{other:x}"),
    };
    assert_eq!(payload.len(), length);
    assert!(payload.starts_with(b"\x1f\x8b"));
}

#[test]
fn a_large_payload_arrives_whole() {
    let harper =
        legacy(|exchange| exchange.json(200, &json!({"message": "Successfully deployed: hello"})));
    let app = app(5 << 20);
    let dir = app.0.join("hello");
    let output = run(&harper.target, &["deploy", dir.to_str().unwrap()]);
    assert_exit(&output, 0, "(100%)");
    assert!(harper.deploy_cbor().body.len() > 5 << 20);
}

#[test]
fn the_reasons_of_an_older_server_are_told() {
    let table = [
        (500, "npm failed", 1),
        (400, "'project' is required", 1),
        (403, "This operation is not authorized", 4),
    ];
    for (status, error, code) in table {
        let harper = legacy(move |exchange| exchange.json(status, &json!({ "error": error })));
        let output = deploy(&harper, &[]);
        assert_exit(&output, code, &format!("error: {error}"));
        let warned = stderr(&output).contains("what is there may be the release that failed");
        assert_eq!(warned, status == 500);
    }
    let harper = legacy(|exchange| exchange.json(200, &json!({"message": "m"})));
    let app = app(9);
    let dir = app.0.join("hello");
    let arguments = [
        "deploy",
        dir.to_str().unwrap(),
        "--username",
        "admin",
        "--password",
        "wrong",
    ];
    assert_exit(&run(&harper.target, &arguments), 4, "Login failed");
}

#[test]
fn an_answer_of_an_older_server_that_is_lost_is_unknown() {
    let harper = legacy(|exchange| exchange.cut());
    let output = deploy(&harper, &[]);
    assert_exit(&output, 5, "this server keeps no record of it");
    assert_eq!(harper.operations(), ["registration_info", "cbor"]);
}

#[test]
fn a_payload_that_cannot_be_kept_says_where() {
    let harper = legacy(|exchange| exchange.json(200, &json!({"message": "m"})));
    let app = app(9);
    let output = gangplank()
        .args(["deploy", app.0.join("hello").to_str().unwrap()])
        .args(["--target", &harper.target])
        .args(["--username", "admin", "--password", "secret"])
        .env("TMPDIR", "/nowhere")
        .output()
        .unwrap();
    let part = "making a temporary file in /nowhere (TMPDIR): No such file";
    assert_exit(&output, 2, part);
}

#[test]
fn a_package_for_an_older_server_is_asked_for_without_events() {
    let harper =
        legacy(|exchange| exchange.json(200, &json!({"message": "Successfully deployed: pad"})));
    let output = run(
        &harper.target,
        &["deploy", "package=left-pad", "project=pad"],
    );
    assert_exit(&output, 0, "");
    let asked = harper.deploy();
    assert_eq!(asked.header("accept").as_deref(), Some("application/json"));
    assert_eq!(asked.fields["package"], "left-pad");
}
