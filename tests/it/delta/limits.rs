//! What deltas may cost is judged before it is read, and whose the files are is right when they are live.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::{fs, iter};

use crate::delta::hostile::{self, prepare, prepare_form};
use crate::delta::{deploy, is_live, sample, tree};
use crate::test_server::{Answer, PATIENCE, TestServer, await_some, form, is_root, request};

/// The first bytes of a request, and then nothing.
fn begun(host: &TestServer, (media, body): (&str, &[u8]), sent: usize) -> TcpStream {
    let authorization = format!("Authorization: Bearer {}", host.token);
    let whole = request("POST", "/", &[&authorization, media], body);
    let head = whole.len() - body.len();
    let mut stream = host.connect();
    stream.write_all(&whole[..head + sent]).unwrap();
    stream
}

#[test]
fn what_is_too_much_is_refused_before_it_is_read() {
    let host = TestServer::with(&["--max-payload", "65536", "--max-entries", "10"], &[]);
    let fields = [("project", "demo")];
    let (tree, list) = hostile::list(&hostile::file("a", "new"));
    let large = vec![b'x'; 100_000];
    // More than the disk, more than a payload may have, more entries than a tree may have.
    let bytes = format!("f 644 9{} {} a\n", "0".repeat(18), hostile::base64(b""));
    let (huge, huge_list) = hostile::list(&bytes);
    let lines: String = (10..30)
        .map(|n| hostile::file(&format!("f{n}"), "new"))
        .collect();
    let (many, many_list) = hostile::list(&lines);
    let table = [
        (
            "the disk",
            hostile::delta(None, &huge, &huge_list, &[]),
            507,
            "no_space",
        ),
        (
            "the entries",
            hostile::delta(None, &many, &many_list, &[]),
            422,
            "bad_archive",
        ),
        (
            "the payload",
            hostile::delta(None, &tree, &list, &[large]),
            413,
            "too_large",
        ),
    ];
    for (what, start, status, code) in table {
        // Whoever sends it has not sent the end of it when the answer is there.
        let payload: Vec<u8> = start
            .iter()
            .copied()
            .chain(iter::repeat_n(0, 30_000))
            .collect();
        let (media, body) = form(&fields, &payload);
        let mut stream = begun(&host, (&media, &body), body.len() - 29_000);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.flush().unwrap();
        let answer = Answer::read(stream);
        let found = (answer.status, answer.refusal().0);
        assert_eq!(
            found,
            (status, code.to_owned()),
            "{what}: {}",
            answer.text()
        );
    }
    // A list that is longer than any of so many entries.
    let mut random = crate::delta::noise(40_000, 1);
    random.truncate(13_000);
    let refused = prepare(&host, "demo", &tree, &random);
    assert_eq!(
        (refused.status, refused.refusal().0.as_str()),
        (413, "too_large")
    );
    assert!(!host.path("components/demo").exists());
    assert_eq!(crate::test_server::names(&host.path("store/demo")), [""; 0]);
}

/// Whether the server has said something.
fn is_answered(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let said = stream.peek(&mut [0]);
    stream.set_nonblocking(false).unwrap();
    said.is_ok()
}

#[test]
fn two_are_prepared_at_once_and_a_third_one_is_told_to_come_again() {
    let host = TestServer::start();
    let (tree, list) = hostile::list(&hostile::file("a", "new"));
    let (media, body) = prepare_form("demo", &tree, &list);
    let begin = || begun(&host, (&media, &body), body.len() - 40);
    let mut held = [begin(), begin()];
    let refused = await_some("a refusal", || {
        // Who asks has a place for a moment, for which one of the two may have been refused: that one comes again.
        for stream in held.iter_mut().filter(|stream| is_answered(stream)) {
            *stream = begin();
        }
        let answer = prepare(&host, "demo", &tree, &list);
        (answer.status != 200).then_some(answer)
    });
    assert_eq!(
        (refused.status, refused.refusal().0.as_str()),
        (503, "full")
    );
    assert!(refused.header("Retry-After").is_some());
    // What they lack comes, and there is a place again.
    for mut stream in held {
        stream.write_all(&body[body.len() - 40..]).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    await_some("a place", || {
        (prepare(&host, "demo", &tree, &list).status == 200).then_some(())
    });
}

#[test]
fn a_delta_belongs_to_whom_it_runs_as() {
    /// Every Linux has this one.
    const NOBODY: u32 = 65534;
    if !is_root() {
        return;
    }
    let host = TestServer::with(&["--run-as", "nobody"], &[]);
    let source = sample();
    let (first, _) = deploy(&host, &source.0, &[]);
    tree(&host, first["deployment_id"].as_str().unwrap());
    let mode = |name: &str, mode| {
        let mode = fs::Permissions::from_mode(mode);
        fs::set_permissions(source.0.join(name), mode).unwrap();
    };
    fs::write(source.0.join("d1/f1"), "another one").unwrap();
    fs::create_dir(source.0.join("new")).unwrap();
    fs::write(source.0.join("new/secret"), "s").unwrap();
    std::os::unix::fs::symlink("d1", source.0.join("link")).unwrap();
    mode("new/secret", 0o600);
    mode("new", 0o700);
    mode("d2/f2", 0o755);
    mode("d3/f3", 0o640);
    let (record, _) = deploy(&host, &source.0, &[]);
    assert_eq!(record["payload_kind"], "delta");
    is_live(&host, &source.0, "a delta of another user's");
    let live = host.path("components/demo").canonicalize().unwrap();
    for name in iter::once(String::new()).chain(crate::delta::walk(&live).into_keys()) {
        let meta = fs::symlink_metadata(live.join(&name)).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (NOBODY, NOBODY), "{name}");
    }
}

#[test]
fn a_list_does_not_take_the_disk_below_what_stays_free() {
    let host = TestServer::with(&["--min-free-disk", "100000G"], &[]);
    // It asks for nothing but its own place.
    let (tree, list) = hostile::list("");
    let answer = prepare(&host, "demo", &tree, &list);
    assert_eq!(answer.status, 507, "{}", answer.text());
    assert_eq!(answer.refusal().0, "no_space");
    let left: Vec<_> = fs::read_dir(host.path("store/demo")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}
