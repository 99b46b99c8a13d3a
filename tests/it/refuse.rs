//! Forms and uploads that are refused, and that nothing of them stays. What is refused of archives is in `archive`.

use std::io::Write;
use std::net::Shutdown;

use serde_json::json;

use crate::test_server::{
    Answer, BOUNDARY, TempDir, TestServer, await_some, component, form, gzip, names, noise,
    request, tar,
};

/// A body made of parts, each a head and a content.
fn parts(parts: &[(&str, &str)]) -> Vec<u8> {
    let mut body = String::new();
    for (head, content) in parts {
        body.push_str(&format!("--{BOUNDARY}\r\n{head}\r\n\r\n{content}\r\n"));
    }
    body.push_str(&format!("--{BOUNDARY}--\r\n"));
    body.into_bytes()
}

#[test]
fn forms_that_are_refused() {
    let host = TestServer::start();
    let operation = (
        "Content-Disposition: form-data; name=\"operation\"",
        "deploy_component",
    );
    let project = ("Content-Disposition: form-data; name=\"project\"", "demo");
    let payload = (
        "Content-Disposition: form-data; name=\"payload\"; filename=\"p\"",
        "x",
    );
    let field = |name: &str| format!("Content-Disposition: form-data; name=\"{name}\"");
    let many: Vec<String> = (0..64).map(|n| field(&format!("f{n}"))).collect();
    let mut too_many = vec![operation];
    too_many.extend(many.iter().map(|head| (head.as_str(), "x")));
    let (large, restart, timeout) = (
        "x".repeat((1 << 20) + 1),
        field("restart"),
        field("install_timeout"),
    );
    let other = field("other") + "; filename=\"p\"";
    let table: Vec<(&str, Vec<u8>, u16, &str, &str)> = vec![
        (
            "another name",
            parts(&[operation, project, (&other, "x")]),
            400,
            "bad_request",
            "other",
        ),
        ("no parts", parts(&[]), 400, "bad_request", ""),
        (
            "a broken head",
            parts(&[operation, ("no colon here", "x")]),
            400,
            "bad_request",
            "",
        ),
        (
            "a part without a name",
            parts(&[operation, ("Content-Disposition: form-data", "x")]),
            400,
            "bad_request",
            "name",
        ),
        ("too many fields", parts(&too_many), 413, "too_large", "64"),
        (
            "a field that is too large",
            parts(&[operation, (&field("project"), &large)]),
            413,
            "too_large",
            "project",
        ),
        (
            "a field twice",
            parts(&[operation, project, project]),
            400,
            "bad_request",
            "project",
        ),
        (
            "no payload",
            parts(&[operation, project]),
            400,
            "bad_request",
            "payload",
        ),
        (
            "faults at once",
            parts(&[operation, (&restart, "perhaps"), (&timeout, "soon")]),
            400,
            "bad_request",
            "'install_timeout'",
        ),
        (
            "an empty payload",
            parts(&[operation, project, (payload.0, "")]),
            400,
            "bad_request",
            "empty",
        ),
        (
            "a second file",
            parts(&[operation, project, payload, payload]),
            400,
            "bad_request",
            "second",
        ),
        (
            "a field after the file",
            parts(&[operation, project, payload, operation]),
            400,
            "bad_request",
            "follows",
        ),
        (
            "the file first",
            parts(&[payload, operation, project]),
            400,
            "bad_request",
            "the fields of a form come before its file",
        ),
        (
            "a field behind the file",
            parts(&[operation, payload, project]),
            400,
            "bad_request",
            "'project' is required (the fields of a form come before its file)",
        ),
        (
            "a file as a long text",
            parts(&[operation, project, (&field("payload"), &large)]),
            413,
            "too_large",
            "curl -F NAME=@FILE",
        ),
        (
            "a cut body",
            parts(&[operation, project, payload])[..300].to_vec(),
            400,
            "upload_broken",
            "",
        ),
    ];
    for (what, body, status, code, part) in table {
        // The rules about what follows the file need a payload that is none itself refused for.
        let body = replace(
            &body,
            b"\r\n\r\nx\r\n",
            &[b"\r\n\r\n".as_slice(), &tar(&[("./a", "a")]), b"\r\n"].concat(),
            what,
        );
        let media = format!("Content-Type: multipart/form-data; boundary={BOUNDARY}");
        let answer = host.ask("POST", "/", &[&media], &body);
        let (word, message) = answer.refusal();
        assert_eq!(
            (answer.status, word.as_str()),
            (status, code),
            "{what}: {message}"
        );
        assert!(message.contains(part), "{what}: {message}");
    }
    assert_eq!(names(&host.path("components")), Vec::<String>::new());
    assert_eq!(
        host.deploy(&[("project", "demo")], &component()).status,
        200
    );
}

/// Puts a real archive in the place of a payload that stands for one.
fn replace(body: &[u8], from: &[u8], to: &[u8], what: &str) -> Vec<u8> {
    if !["a second file", "a field after the file"].contains(&what) {
        return body.to_vec();
    }
    let at = body
        .windows(from.len())
        .position(|window| window == from)
        .unwrap();
    [&body[..at], to, &body[at + from.len()..]].concat()
}

#[test]
fn fields_that_are_refused_make_no_record() {
    let host = TestServer::start();
    let unknown = "01890000-0000-7000-8000-000000000000";
    let table: [(&[(&str, &str)], &str); 10] = [
        (&[], "'project' is required"),
        (&[("project", "my.app")], "project="),
        (&[("project", "../x")], "project="),
        (&[("project", "a"), ("package", "npm:x")], "payload"),
        (&[("project", "a"), ("restart", "soon")], "'restart'"),
        (
            &[("project", "a"), ("activate", "false"), ("restart", "true")],
            "'activate'",
        ),
        (
            &[("project", "a"), ("deployment_id", unknown)],
            "cannot go together",
        ),
        (&[("project", "a"), ("replicated", "yes")], "'replicated'"),
        (
            &[("project", "a"), ("install_allow_scripts", "yes")],
            "'install_allow_scripts'",
        ),
        (
            &[("project", "a"), ("payload_sha256", "12")],
            "'payload_sha256'",
        ),
    ];
    for (fields, part) in table {
        let answer = host.deploy_live(fields, &component());
        let (code, message) = answer.refusal();
        assert_eq!(
            (answer.status, code.as_str()),
            (400, "bad_request"),
            "{fields:?}: {message}"
        );
        assert!(message.contains(part), "{fields:?}: {message}");
    }
    assert_eq!(
        host.operate(&json!({"operation": "list_deployments"}))
            .json()["total"],
        0
    );
}

#[test]
fn a_payload_must_be_the_one_that_was_meant() {
    let host = TestServer::start();
    let wrong = "0".repeat(64);
    let answer = host.deploy(
        &[("project", "demo"), ("payload_sha256", &wrong)],
        &component(),
    );
    let (code, message) = answer.refusal();
    assert_eq!((answer.status, code.as_str()), (400, "bad_request"));
    assert!(
        message.contains("SHA-256") && message.contains(&wrong),
        "{message}"
    );
    assert_eq!(names(&host.path("components")), Vec::<String>::new());
    let right = answer.json()["error"]
        .as_str()
        .unwrap()
        .split(' ')
        .find(|word| word.len() == 64)
        .unwrap()
        .to_owned();
    assert_eq!(
        host.deploy(
            &[("project", "demo"), ("payload_sha256", &right)],
            &component()
        )
        .status,
        200
    );
}

#[test]
fn limits_hold() {
    let host = TestServer::with(&["--max-payload", "1K", "--max-entries", "10"], &[]);
    let answer = host.deploy(&[("project", "demo")], &noise());
    assert_eq!(
        (answer.status, answer.refusal().0.as_str()),
        (413, "too_large"),
        "{}",
        answer.text()
    );
    let files: Vec<(String, &str)> = (0..11).map(|n| (format!("./{n}"), "")).collect();
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(name, content)| (name.as_str(), *content))
        .collect();
    let answer = host.deploy(&[("project", "demo")], &gzip(&tar(&files)));
    assert_eq!(answer.status, 422, "{}", answer.text());
    assert!(answer.refusal().1.contains("10 entries"));
    assert_eq!(names(&host.path("releases/demo")), Vec::<String>::new());

    let full = TestServer::with(&["--min-free-disk", "1000000G"], &[]);
    let answer = full.deploy(&[("project", "demo")], &component());
    assert_eq!(
        (answer.status, answer.refusal().0.as_str()),
        (507, "no_space"),
        "{}",
        answer.text()
    );
}

#[test]
fn what_cannot_fit_is_refused_before_its_bytes() {
    let limited = TestServer::with(&["--max-payload", "1M"], &[]);
    let full = TestServer::with(&["--min-free-disk", "1K"], &[]);
    let (media, whole) = form(&[("project", "demo")], b"");
    // All of the form that stands before the payload's bytes, and nothing of them.
    let end = format!("\r\n--{BOUNDARY}--\r\n");
    let fields = &whole[..whole.len() - end.len()];
    let around = whole.len();
    let table: [(&TestServer, u64, bool, u16, &str); 4] = [
        // By the head alone: more than all the fields that there may be.
        (&limited, 1 << 40, false, 413, "too_large"),
        // By the length that is left when the fields are read.
        (
            &limited,
            (1 << 20) + 2048 + around as u64,
            true,
            413,
            "too_large",
        ),
        (&full, 1 << 60, true, 507, "no_space"),
        (&limited, 1 << 20, false, 401, "unauthorized"),
    ];
    for (host, declared, with_fields, status, code) in table {
        let token = if status == 401 { "0" } else { &host.token };
        let head = format!(
            "POST / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n{media}\r\nContent-Length: {declared}\r\n\r\n"
        );
        let mut stream = host.connect();
        stream.write_all(head.as_bytes()).unwrap();
        if with_fields {
            stream.write_all(fields).unwrap();
        }
        let answer = Answer::read(stream);
        assert_eq!(
            (answer.status, answer.refusal().0.as_str()),
            (status, code),
            "{declared}: {}",
            answer.text()
        );
        assert_eq!(names(&host.path("deployments")), Vec::<String>::new());
    }
    // What just fits by its declared length is judged by its bytes.
    let payload = vec![b'x'; 1 << 20];
    assert_eq!(limited.deploy(&[("project", "demo")], &payload).status, 422);
    // Our client stops sending, and shows the answer.
    let dir = TempDir::new().with(&[("small", "x")]);
    let file = std::fs::File::create(dir.0.join("large")).unwrap();
    file.set_len(3 << 30).unwrap();
    let begun = std::time::Instant::now();
    let output = limited.cli(&[
        "deploy",
        "--project",
        "demo",
        "--level",
        "0",
        "--full",
        dir.0.to_str().unwrap(),
    ]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("(too_large)"), "{stderr}");
    assert!(begun.elapsed().as_secs() < 20, "it sent it all");
}

#[test]
fn a_client_that_goes_away_during_the_upload_leaves_nothing() {
    let host = TestServer::start();
    let (media, body) = form(&[("project", "demo")], &noise());
    let authorization = format!("Authorization: Bearer {}", host.token);
    let whole = request("POST", "/", &[&authorization, &media], &body);
    let mut stream = host.connect();
    stream.write_all(&whole[..whole.len() / 2]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let answer = Answer::read(stream);
    assert_eq!(
        (answer.status, answer.refusal().0.as_str()),
        (400, "upload_broken")
    );
    let id = answer.json()["deployment_id"].as_str().unwrap().to_owned();
    let record = await_some("the record to end", || {
        let record = host.record(&id);
        (record["status"] == "failed").then_some(record)
    });
    assert_eq!(record["error"]["code"], "upload_broken");
    assert_eq!(names(&host.path("releases/demo")), Vec::<String>::new());
    assert_eq!(
        host.deploy(&[("project", "demo")], &component()).status,
        200
    );
}
