//! Deltas and lists that lie: each is refused with its reason, and what was live is live.

use std::fs;

use serde_json::json;
use sha2::{Digest, Sha256};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use crate::delta::tree;
use crate::test_server::{Answer, BOUNDARY, TestServer, component, gzip, names};

const FIRST_LINE: &str = "gangplank-tree 1 sha256 fastcdc-16-64-256-64M\n";

/// A list of a root and these lines, and its tree.
pub(crate) fn list(lines: &str) -> (String, Vec<u8>) {
    let text = format!("{FIRST_LINE}d 755 .\n{lines}");
    let hash = Sha256::digest(&text);
    let tree = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    (tree, gzip(text.as_bytes()))
}

pub(crate) fn base64(content: &[u8]) -> String {
    STANDARD_NO_PAD.encode(Sha256::digest(content))
}

pub(crate) fn file(path: &str, content: &str) -> String {
    let hash = base64(content.as_bytes());
    format!("f 644 {} {hash} {path}\n", content.len())
}

/// A file that is large enough to be listed with its pieces.
pub(crate) fn large_file(path: &str, pieces: &[String]) -> String {
    let listed: Vec<String> = pieces
        .iter()
        .map(|piece| format!("{} {}", piece.len(), base64(piece.as_bytes())))
        .collect();
    let size: usize = pieces.iter().map(String::len).sum();
    let chunks = listed.join(" ");
    let hash = base64(chunks.as_bytes());
    format!("F 644 {size} {hash} {path}\n{chunks}\n")
}

/// A stored object, with the hash of another content if that is what it claims to be.
pub(crate) fn object(content: &str, claimed: &str) -> Vec<u8> {
    let len = (content.len() as u32).to_be_bytes();
    let hash = Sha256::digest(claimed);
    [&[0], &len[..], &len[..], &hash[..], content.as_bytes()].concat()
}

pub(crate) fn end(count: u32) -> Vec<u8> {
    [&[2], &count.to_be_bytes()[..]].concat()
}

pub(crate) fn delta(base: Option<&str>, tree: &str, list: &[u8], records: &[Vec<u8>]) -> Vec<u8> {
    let head = json!({"base": base, "tree": tree, "list": list.len()}).to_string();
    let length = (head.len() as u32).to_be_bytes();
    let start = [b"\x89GPD1\r\n\x1a", &length[..], head.as_bytes(), list].concat();
    [start, records.concat()].concat()
}

/// A delta whose list is what these lines make of its base's.
fn difference(base: Option<&str>, tree: &str, lines: &str, records: &[Vec<u8>]) -> Vec<u8> {
    let list = gzip(lines.as_bytes());
    let head = json!({"base": base, "tree": tree, "list": list.len(), "difference": true});
    let head = head.to_string();
    let length = (head.len() as u32).to_be_bytes();
    let start = [b"\x89GPD1\r\n\x1a", &length[..], head.as_bytes(), &list].concat();
    [start, records.concat()].concat()
}

pub(crate) fn prepare(host: &TestServer, project: &str, tree: &str, list: &[u8]) -> Answer {
    let (media, body) = prepare_form(project, tree, list);
    host.ask("POST", "/", &[&media], &body)
}

pub(crate) fn prepare_form(project: &str, tree: &str, list: &[u8]) -> (String, Vec<u8>) {
    let mut body = Vec::new();
    for (name, value) in [
        ("operation", "prepare_deployment"),
        ("project", project),
        ("tree", tree),
    ] {
        let part = format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
        );
        body.extend_from_slice(part.as_bytes());
    }
    let head = "Content-Disposition: form-data; name=\"manifest\"; filename=\"m\"";
    body.extend_from_slice(format!("--{BOUNDARY}\r\n{head}\r\n\r\n").as_bytes());
    body.extend_from_slice(list);
    body.extend_from_slice(format!("\r\n--{BOUNDARY}--\r\n").as_bytes());
    let media = format!("Content-Type: multipart/form-data; boundary={BOUNDARY}");
    (media, body)
}

#[test]
fn a_delta_that_lies_is_refused_and_changes_nothing() {
    let host = TestServer::start();
    let fields = [("project", "demo")];
    let first = host.deploy(&fields, &component()).json();
    let id = first["deployment_id"].as_str().unwrap();
    let base = tree(&host, id);
    let (one, one_list) = list(&file("a", "new"));
    let good = || [object("new", "new"), end(1)];
    let (out, out_list) = list(&format!("l ../../x\0link\n{}", file("z", "new")));
    let (up, up_list) = list(&file("../a", "new"));
    let (below, below_list) = list(&format!("l sub\0a\n{}", file("a/b", "new")));
    let (huge, huge_list) = list(&format!("f 644 9{} {} a\n", "0".repeat(18), base64(b"")));
    let (empty, empty_list) = list("");
    let (lone, lone_list) = list(&file("index.txt", "hello"));
    let mut longer = delta(None, &one, &one_list, &good());
    longer.push(0);
    let whole = delta(None, &one, &one_list, &good());
    let none = "0".repeat(64);
    let table: Vec<(&str, Vec<u8>, u16, &str)> = vec![
        (
            "another tree",
            delta(None, &none, &one_list, &good()),
            422,
            "bad_archive",
        ),
        (
            "a lying object",
            delta(None, &one, &one_list, &[object("NEW", "new"), end(1)]),
            422,
            "bad_archive",
        ),
        (
            "no object",
            delta(None, &one, &one_list, &[end(0)]),
            409,
            "stale_base",
        ),
        (
            "another object",
            delta(None, &one, &one_list, &[object("x", "x"), end(1)]),
            409,
            "stale_base",
        ),
        (
            "a wrong count",
            delta(None, &one, &one_list, &[object("new", "new"), end(2)]),
            422,
            "bad_archive",
        ),
        ("something behind it", longer, 422, "bad_archive"),
        (
            "no end",
            whole[..whole.len() - 5].to_vec(),
            400,
            "upload_broken",
        ),
        ("half a list", whole[..100].to_vec(), 400, "upload_broken"),
        (
            "a base that is not here",
            delta(Some(&none), &one, &one_list, &good()),
            409,
            "stale_base",
        ),
        (
            "a list that is not here",
            delta(None, &one, b"", &good()),
            409,
            "stale_base",
        ),
        (
            "a link that leads out",
            delta(None, &out, &out_list, &good()),
            422,
            "bad_archive",
        ),
        (
            "a path that leads out",
            delta(None, &up, &up_list, &good()),
            422,
            "bad_archive",
        ),
        (
            "a file in a link",
            delta(None, &below, &below_list, &good()),
            422,
            "bad_archive",
        ),
        (
            "more than the disk",
            delta(None, &huge, &huge_list, &good()),
            507,
            "no_space",
        ),
        (
            "nothing",
            delta(None, &empty, &empty_list, &[end(0)]),
            422,
            "bad_archive",
        ),
        (
            "a base that has it not",
            delta(Some(&base), &one, &one_list, &[end(0)]),
            409,
            "stale_base",
        ),
    ];
    for (what, payload, status, code) in table {
        let refused = host.deploy(&fields, &payload);
        let found = (refused.status, refused.json()["code"].clone());
        assert_eq!(found, (status, json!(code)), "{what}: {}", refused.text());
        assert_eq!(
            fs::read_to_string(host.path("components/demo/index.txt")).unwrap(),
            "hello"
        );
        assert_eq!(names(&host.path("releases/demo")), [id], "{what}");
    }
    // What another component has is neither used nor told.
    let stolen = host.deploy(
        &[("project", "other")],
        &delta(Some(&base), &lone, &lone_list, &[end(0)]),
    );
    assert_eq!(stolen.json()["code"], "stale_base");
    assert_eq!(
        prepare(&host, "other", &lone, &lone_list).json()["missing"],
        "0"
    );
    let used = host.deploy(&fields, &delta(Some(&base), &lone, &lone_list, &[end(0)]));
    assert_eq!(used.status, 200, "{}", used.text());
    assert_eq!(host.deploy(&fields, &whole).status, 200);
    assert_eq!(
        fs::read_to_string(host.path("components/demo/a")).unwrap(),
        "new"
    );
}

#[test]
fn a_difference_that_lies_is_refused_and_a_true_one_is_live() {
    let host = TestServer::start();
    let fields = [("project", "demo")];
    let first = host.deploy(&fields, &component()).json();
    let id = first["deployment_id"].as_str().unwrap();
    let base = tree(&host, id);
    let kept = file("index.txt", "hello");
    let (new, _) = list(&[&file("a", "new"), &kept[..]].concat());
    let right = format!("+ {}- sub\n", file("a", "new"));
    let good = || [object("new", "new"), end(1)];
    let with = |lines: &str| difference(Some(&base), &new, lines, &good());
    let none = "0".repeat(64);
    let whole = with(&right);
    // The lengths of the magic, the head, and the list.
    let start = whole.len() - good().concat().len();
    let mut longer = whole.clone();
    longer.insert(start, 0);
    let list_len = gzip(right.as_bytes()).len();
    let said = format!("\"list\":{list_len}");
    let at = longer
        .windows(said.len())
        .position(|text| text == said.as_bytes());
    let more = format!("\"list\":{}", list_len + 1);
    assert_eq!(more.len(), said.len());
    longer[at.unwrap()..][..more.len()].copy_from_slice(more.as_bytes());
    let escape = format!("+ {}- sub\n", file("../a", "new"));
    let table: Vec<(&str, Vec<u8>, u16, &str)> = vec![
        (
            "another tree",
            with(&format!("+ {}", file("a", "new"))),
            422,
            "bad_archive",
        ),
        (
            "what was not there",
            with("- nothing\n"),
            422,
            "bad_archive",
        ),
        ("a path that leads out", with(&escape), 422, "bad_archive"),
        ("no line", with("x"), 422, "bad_archive"),
        (
            "no base",
            difference(None, &new, &right, &good()),
            422,
            "bad_archive",
        ),
        (
            "another base",
            difference(Some(&none), &new, &right, &good()),
            409,
            "stale_base",
        ),
        (
            "something behind the difference",
            longer,
            422,
            "bad_archive",
        ),
        (
            "half a difference",
            whole[..start - 20].to_vec(),
            400,
            "upload_broken",
        ),
        (
            "no object",
            difference(Some(&base), &new, &right, &[end(0)]),
            409,
            "stale_base",
        ),
    ];
    for (what, payload, status, code) in table {
        let refused = host.deploy(&fields, &payload);
        let found = (refused.status, refused.json()["code"].clone());
        assert_eq!(found, (status, json!(code)), "{what}: {}", refused.text());
        assert_eq!(names(&host.path("releases/demo")), [id], "{what}");
    }
    let other = host.deploy(&[("project", "other")], &whole);
    assert_eq!(
        other.json()["code"],
        "stale_base",
        "another component's base"
    );
    let done = host.deploy(&fields, &whole);
    assert_eq!(done.status, 200, "{}", done.text());
    assert_eq!(names(&host.path("components/demo")), ["a", "index.txt"]);
    // The base of what comes next is the list that came of it.
    let back = difference(Some(&new), &list(&kept).0, "- a\n", &[end(0)]);
    let done = host.deploy(&fields, &back);
    assert_eq!(done.status, 200, "{}", done.text());
    assert_eq!(names(&host.path("components/demo")), ["index.txt"]);
}

#[test]
fn a_list_is_judged_and_says_what_is_missing() {
    let host = TestServer::with(&["--max-entries", "3"], &[]);
    let fields = [("project", "demo")];
    let first = host.deploy(&fields, &component()).json();
    let base = tree(&host, first["deployment_id"].as_str().unwrap());
    let lines = [file("a", "new"), file("b", "hello"), file("c", "new")].concat();
    let (tree, good) = list(&lines);
    let mut answer = prepare(&host, "demo", &tree, &good).json();
    answer.as_object_mut().unwrap().remove("accepts");
    let wanted = json!({"tree": tree, "base": base, "missing": "0", "missing_bytes": 3});
    assert_eq!(answer, wanted);
    let (many, many_list) = list(&[lines, file("d", "x")].concat());
    let table = [
        (many.as_str(), &many_list[..], 422),
        (&"0".repeat(64), &good[..], 422),
        (&tree, b"not gzip", 422),
        (&tree, &good[..20], 422),
        ("abc", &good[..], 400),
    ];
    for (tree, list, status) in table {
        let refused = prepare(&host, "demo", tree, list);
        assert_eq!(refused.status, status, "{}", refused.text());
    }
}
