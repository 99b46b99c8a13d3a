//! Deltas: what is sent of a tree that the server has another version of, that the release is then what was to be sent,
//! byte for byte and mode for mode, and that an upload that was cut goes on.

mod chain;
mod cut;
mod edits;
pub(crate) mod hostile;
mod kept;
mod limits;
mod peers;
pub(crate) mod spare;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use flate2::read::GzDecoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::test_server::{TempDir, TestServer, await_some, component, gzip, tar};

/// A tree of more than 1 MiB: a smaller one is sent whole.
const FILES: usize = 60;
const FILE_LEN: usize = 20_000;

/// Bytes that deflate does not shrink.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut random = crate::soak::random::Random(seed);
    let words = (0..len.div_ceil(8)).flat_map(|_| random.next().to_le_bytes());
    words.take(len).collect()
}

/// Everything below a directory: kind, mode, and content or target.
pub(crate) fn walk(dir: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let mode = meta.permissions().mode() & 0o777;
            let what = if meta.is_dir() {
                open.push(path.clone());
                format!("d {mode:o}")
            } else if meta.is_symlink() {
                format!("l {}", fs::read_link(&path).unwrap().display())
            } else {
                let hash = Sha256::digest(fs::read(&path).unwrap());
                format!("f {mode:o} {} {hash:x?}", meta.len())
            };
            let name = path.strip_prefix(dir).unwrap().display().to_string();
            found.insert(name, what);
        }
    }
    found
}

/// A directory with files in it.
pub(crate) fn sample() -> TempDir {
    let source = TempDir::new();
    for n in 0..FILES {
        let dir = source.0.join(format!("d{}", n % 7));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(format!("f{n}")), noise(FILE_LEN, n as u64)).unwrap();
    }
    source
}

/// Deploys a directory by the client: the record, and what the client said.
pub(crate) fn deploy(host: &TestServer, source: &Path, more: &[&str]) -> (Value, String) {
    deploy_at(host, &host.address, source, more)
}

/// Deploys by another address of the host, as that of a proxy.
fn deploy_at(host: &TestServer, address: &str, source: &Path, more: &[&str]) -> (Value, String) {
    let dir = source.to_str().unwrap();
    let arguments = [
        "deploy",
        dir,
        "--project",
        "demo",
        "--yes",
        "--output",
        "json",
    ];
    let mut command = host.cli_command(&[&arguments, more].concat());
    command.env("GANGPLANK_TARGET", format!("http://{address}"));
    let done = command.output().unwrap();
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(done.status.success(), "{said}");
    let result: Value = serde_json::from_slice(&done.stdout).unwrap();
    (host.record(result["deployment_id"].as_str().unwrap()), said)
}

/// The live release is what the directory is.
pub(crate) fn is_live(host: &TestServer, source: &Path, what: &str) {
    let (live, wanted) = (walk(&host.path("components/demo")), walk(source));
    let differ = |one: &BTreeMap<String, String>, other: &BTreeMap<String, String>| {
        let missing = one
            .iter()
            .filter(|(path, is)| other.get(*path) != Some(*is));
        missing
            .map(|(path, is)| format!("{path} {is}"))
            .collect::<Vec<_>>()
    };
    assert!(
        live == wanted,
        "{what}: live {:?}, wanted {:?}",
        differ(&live, &wanted),
        differ(&wanted, &live)
    );
}

/// The tree of a deployment's payload, once the server knows it.
fn tree(host: &TestServer, id: &str) -> String {
    await_some("the tree", || {
        host.record(id)["tree"].as_str().map(str::to_owned)
    })
}

#[test]
fn a_payload_has_a_tree_that_its_list_proves() {
    let host = TestServer::start();
    let done = host.deploy(&[("project", "demo")], &component()).json();
    let id = done["deployment_id"].as_str().unwrap();
    let tree = tree(&host, id);
    let list = fs::File::open(host.path("deployments").join(id).join("manifest")).unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut GzDecoder::new(list), &mut text).unwrap();
    let hash = Sha256::digest(&text);
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(tree, hash);
    let paths: Vec<&str> = text
        .lines()
        .skip(1)
        .map(|line| line.rsplit(' ').next().unwrap())
        .collect();
    assert_eq!(paths, [".", "index.txt", "sub", "sub/a.txt"]);
    let components = host.operate(&json!({"operation": "get_components"})).json();
    assert_eq!(components["components"][0]["tree"], tree.as_str());
    // The same tree has the same name, whoever packs it.
    let other = gzip(&tar(&[("sub/a.txt", "a"), ("index.txt", "hello")]));
    let done = host.deploy(&[("project", "other")], &other).json();
    let again = self::tree(&host, done["deployment_id"].as_str().unwrap());
    assert_eq!(again, tree);
}

#[test]
fn a_change_sends_the_change_and_the_release_is_the_source() {
    let host = TestServer::start();
    let source = sample();
    let path = |name: &str| source.0.join(name);
    fs::write(path("d0/large"), noise(3 << 20, 77)).unwrap();
    let (record, _) = deploy(&host, &source.0, &[]);
    assert_eq!(record["payload_kind"], "tar");
    tree(&host, record["deployment_id"].as_str().unwrap());
    /// What is done, and how many bytes it may take.
    type Change<'a> = (&'a str, &'a dyn Fn(), u64);
    let mode = |name: &str, mode| fs::set_permissions(path(name), fs::Permissions::from_mode(mode));
    let changes: [Change<'_>; 20] = [
        (
            "one file is another",
            &|| fs::write(path("d1/f1"), "new").unwrap(),
            600,
        ),
        ("nothing", &|| (), 600),
        ("a mode", &|| mode("d1/f1", 0o755).unwrap(), 600),
        ("a mode of a directory", &|| mode("d1", 0o700).unwrap(), 600),
        (
            "an empty file and an empty directory",
            &|| {
                fs::write(path("empty"), "").unwrap();
                fs::create_dir(path("nothing")).unwrap();
            },
            600,
        ),
        ("a link", &|| symlink("d1/f1", path("link")).unwrap(), 600),
        (
            "another target",
            &|| {
                fs::remove_file(path("link")).unwrap();
                symlink("d2/f2", path("link")).unwrap();
            },
            600,
        ),
        (
            "a file is a directory",
            &|| {
                fs::remove_file(path("d1/f1")).unwrap();
                fs::create_dir(path("d1/f1")).unwrap();
                fs::write(path("d1/f1/in"), "in").unwrap();
            },
            600,
        ),
        (
            "a directory is a link",
            &|| {
                fs::remove_dir_all(path("d1/f1")).unwrap();
                symlink("../d2", path("d1/f1")).unwrap();
            },
            600,
        ),
        (
            "a link is a file",
            &|| {
                fs::remove_file(path("d1/f1")).unwrap();
                fs::write(path("d1/f1"), "file").unwrap();
            },
            600,
        ),
        (
            "a file is a link",
            &|| {
                fs::remove_file(path("d1/f1")).unwrap();
                symlink("f8", path("d1/f1")).unwrap();
            },
            600,
        ),
        (
            "a link is a directory",
            &|| {
                fs::remove_file(path("d1/f1")).unwrap();
                fs::create_dir(path("d1/f1")).unwrap();
            },
            600,
        ),
        (
            "a directory is a file",
            &|| {
                fs::remove_dir(path("d1/f1")).unwrap();
                fs::write(path("d1/f1"), "again").unwrap();
            },
            600,
        ),
        (
            "a directory is moved",
            &|| fs::rename(path("d3"), path("moved")).unwrap(),
            // A line for each file.
            1000,
        ),
        (
            "two files change places",
            &|| {
                fs::rename(path("d4/f4"), path("aside")).unwrap();
                fs::rename(path("d5/f5"), path("d4/f4")).unwrap();
                fs::rename(path("aside"), path("d5/f5")).unwrap();
            },
            600,
        ),
        (
            "a file comes twice",
            &|| fs::copy(path("d4/f4"), path("twice")).map(|_| ()).unwrap(),
            600,
        ),
        (
            "much is gone",
            &|| fs::remove_dir_all(path("moved")).unwrap(),
            600,
        ),
        (
            "the middle of a large file",
            &|| {
                let mut large = fs::read(path("d0/large")).unwrap();
                large[1_500_000] ^= 1;
                fs::write(path("d0/large"), large).unwrap();
            },
            600_000,
        ),
        (
            "a byte before a large file",
            &|| {
                let large = fs::read(path("d0/large")).unwrap();
                fs::write(path("d0/large"), [b"x", &large[..]].concat()).unwrap();
            },
            600_000,
        ),
        (
            "zeros",
            &|| fs::write(path("zeros"), vec![0; 8 << 20]).unwrap(),
            300_000,
        ),
    ];
    for (what, change, most) in changes {
        change();
        let (record, said) = deploy(&host, &source.0, &[]);
        is_live(&host, &source.0, what);
        assert_eq!(record["payload_kind"], "delta", "{what}: {said}");
        let size = record["payload_size"].as_u64().unwrap();
        assert!(size <= most, "{what}: {size} bytes, {said}");
        assert!(said.contains(", reused "), "{what}: {said}");
        let files = record["files"].as_u64().unwrap();
        assert!(
            record["reused_files"].as_u64().unwrap() + 2 >= files,
            "{what}: {record}"
        );
    }
    // What is sent whole is no other tree.
    let before = deploy(&host, &source.0, &[]).0["tree"].clone();
    let (full, said) = deploy(&host, &source.0, &["--full"]);
    assert_eq!(full["payload_kind"], "tar", "{said}");
    assert_eq!(before, tree(&host, full["deployment_id"].as_str().unwrap()));
}

#[test]
fn what_others_write_into_a_release_never_reaches_another_one() {
    let host = TestServer::start();
    let source = sample();
    let (first, _) = deploy(&host, &source.0, &[]);
    tree(&host, first["deployment_id"].as_str().unwrap());
    for round in 0..2 {
        let live = host.path("components/demo");
        for dir in 0..7 {
            for file in fs::read_dir(live.join(format!("d{dir}"))).unwrap().take(3) {
                let path = file.unwrap().path();
                let mut text = fs::read(&path).unwrap();
                text[100] ^= 1;
                // In place, and of the same size.
                fs::write(&path, text).unwrap();
            }
        }
        fs::write(source.0.join("d0/f0"), format!("round {round}")).unwrap();
        let (record, said) = deploy(&host, &source.0, &[]);
        is_live(&host, &source.0, "after others wrote");
        assert_eq!(record["payload_kind"], "delta", "{said}");
        assert!(said.contains("sending more"), "{said}");
    }
}

#[test]
fn a_base_that_is_not_here_is_refused_before_the_file() {
    let host = TestServer::start();
    let done = host.deploy(&[("project", "demo")], &component()).json();
    let base = tree(&host, done["deployment_id"].as_str().unwrap());
    let count = || {
        let all = host
            .operate(&json!({"operation": "list_deployments"}))
            .json();
        all["deployments"].as_array().unwrap().len()
    };
    let before = count();
    let none = "0".repeat(64);
    // One component's tree is not here for another one.
    for (project, base) in [("demo", none.as_str()), ("other", base.as_str())] {
        let fields = [("project", project), ("base", base)];
        let refused = host.deploy(&fields, &component());
        assert_eq!(
            (refused.status, refused.refusal().0.as_str()),
            (409, "stale_base")
        );
    }
    assert_eq!(count(), before);
    let fields = [("project", "demo"), ("base", base.as_str())];
    assert_eq!(
        host.deploy(&fields, &component()).status,
        200,
        "a tar with a base is a tar"
    );
}
