//! What other programs pack is unpacked as it was: the same tree goes through each of them, in each of their formats.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::test_server::{TempDir, TestServer, gzip, have};

/// Which names a format can hold.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
enum Names {
    /// Up to 100 bytes.
    V7,
    /// Longer ones, if they can be split at a slash.
    Ustar,
    /// Any text of Unicode.
    Text,
    /// Any bytes.
    Bytes,
}

/// What is still there of a tree when a program has packed it.
#[derive(Clone, Copy)]
struct Kept {
    symlinks: bool,
    hard_links: bool,
    empty: bool,
    /// All permissions; otherwise only whether a file may be run.
    modes: bool,
}

const ALL: Kept = Kept {
    symlinks: true,
    hard_links: true,
    empty: true,
    modes: true,
};

/// A directory `src` with something of everything, in a directory for what is made of it.
fn source(names: Names) -> TempDir {
    let temp = TempDir::new();
    let src = temp.0.join("src");
    let write = |path: &Path, mode: u32, content: &[u8]| {
        let path = src.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    };
    let noise: Vec<u8> = (0..300_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 23) as u8)
        .collect();
    let mut files: Vec<(PathBuf, u32)> = [
        ("index.txt", 0o644),
        (".hidden", 0o600),
        ("run.sh", 0o755),
        ("sub/tool", 0o711),
        ("read-only", 0o444),
        ("-dash and space, 'quotes'", 0o664),
        ("back\\slash", 0o644),
        ("first", 0o640),
    ]
    .map(|(path, mode)| (path.into(), mode))
    .into();
    let [l, m, n] = ["l".repeat(60), "m".repeat(60), "n".repeat(95)];
    if names >= Names::Ustar {
        files.push((format!("{l}/{m}/{n}").into(), 0o644));
    }
    let long = format!(
        "{}/{}/{}",
        "a".repeat(150),
        "b".repeat(150),
        "c".repeat(200)
    );
    if names >= Names::Text {
        files.push((long.clone().into(), 0o755));
        files.push(("gr\u{fc}n/na\u{ef}ve \u{65e5}\u{672c}.txt".into(), 0o644));
        symlink(&long, {
            fs::create_dir_all(&src).unwrap();
            src.join("to-long")
        })
        .unwrap();
    }
    if names >= Names::Bytes {
        files.push((OsStr::from_bytes(b"caf\xe9").into(), 0o644));
    }
    for (path, mode) in &files {
        write(path, *mode, path.as_os_str().as_bytes());
    }
    write(Path::new("sub/deeper/noise"), 0o644, &noise);
    write(Path::new("sub/nothing"), 0o644, b"");
    for (path, mode) in [("empty", 0o755), ("sub/shut/empty", 0o700)] {
        fs::create_dir_all(src.join(path)).unwrap();
        fs::set_permissions(src.join(path), Permissions::from_mode(mode)).unwrap();
    }
    for (path, target) in [
        ("to-file", "index.txt"),
        ("sub/up", "../index.txt"),
        ("to-directory", "sub/deeper/"),
        ("dangling", "not/yet/there"),
    ] {
        symlink(target, src.join(path)).unwrap();
    }
    for path in ["second", "sub/third"] {
        fs::hard_link(src.join("first"), src.join(path)).unwrap();
    }
    temp
}

/// A tree as lines: what is where, with its mode, its content, its target, and what else is the same file.
fn listing(root: &Path, kept: Kept) -> Vec<String> {
    let mut lines = Vec::new();
    let mut todo = vec![PathBuf::new()];
    let mut files: BTreeMap<PathBuf, fs::Metadata> = BTreeMap::new();
    while let Some(path) = todo.pop() {
        let full = root.join(&path);
        let metadata = fs::symlink_metadata(&full).unwrap();
        if metadata.is_symlink() {
            let target = fs::read_link(&full).unwrap();
            if kept.symlinks {
                lines.push(format!("{path:?} -> {target:?}"));
            }
        } else if metadata.is_dir() {
            let inside: Vec<_> = fs::read_dir(&full).unwrap().map(Result::unwrap).collect();
            let mode = metadata.mode() & 0o7777;
            match kept.modes {
                true => lines.push(format!("{path:?}/ {mode:o}")),
                false if inside.is_empty() && kept.empty => lines.push(format!("{path:?}/")),
                false => {}
            }
            todo.extend(inside.iter().map(|entry| path.join(entry.file_name())));
        } else {
            files.insert(path, metadata);
        }
    }
    let mut first: BTreeMap<u64, &Path> = BTreeMap::new();
    for (path, metadata) in &files {
        let mut hash = DefaultHasher::new();
        fs::read(root.join(path)).unwrap().hash(&mut hash);
        let mode = match kept.modes {
            // Its owner may always read and write it.
            true => format!("{:o}", metadata.mode() & 0o7777 | 0o600),
            false => format!("{}", metadata.mode() & 0o100 != 0),
        };
        let same = first.entry(metadata.ino()).or_insert(path);
        let same = if kept.hard_links { *same } else { path };
        lines.push(format!("{path:?} {mode} {:x} {same:?}", hash.finish()));
    }
    lines.sort();
    lines
}

/// Runs a packer in a directory. What it prints.
fn run(dir: &Path, program: &str, arguments: &[&str]) -> Vec<u8> {
    let home = dir.join("../home");
    let mut command = Command::new(program);
    command.args(arguments).current_dir(dir);
    command.env("LC_ALL", "C.UTF-8").env("HOME", &home);
    command
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("npm_config_cache", home.join("npm"))
        .env("npm_config_offline", "true")
        .env("npm_config_update_notifier", "false");
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    output.stdout
}

/// Deploys what a program has packed, and compares what is live with what it was made of.
fn taken(host: &TestServer, what: &str, payload: &[u8], src: &Path, kept: Kept) {
    // A package.json would have its dependencies installed, which is another matter.
    let fields = [("project", "demo"), ("install_command", "true")];
    let answer = host.deploy(&fields, payload);
    assert_eq!(answer.status, 200, "{what}: {}", answer.text());
    let wanted = listing(src, kept);
    let everything = Kept {
        modes: kept.modes,
        ..ALL
    };
    let found = listing(
        &fs::canonicalize(host.path("components/demo")).unwrap(),
        everything,
    );
    let missing: Vec<_> = wanted.iter().filter(|line| !found.contains(line)).collect();
    let surplus: Vec<_> = found.iter().filter(|line| !wanted.contains(line)).collect();
    assert!(
        missing.is_empty() && surplus.is_empty(),
        "{what}: missing {missing:#?}, surplus {surplus:#?}"
    );
}

/// Packs a tree with a hole in a file, which is refused with the file's name.
fn hole(host: &TestServer, program: &str, arguments: &[&str]) {
    let temp = source(Names::V7);
    let src = temp.0.join("src");
    let mut file = File::create(src.join("sub/hole")).unwrap();
    file.set_len(4 << 20).unwrap();
    file.write_all(b"x").unwrap();
    let payload = run(&src, program, arguments);
    let answer = host.deploy(&[("project", "demo")], &payload);
    let (code, message) = answer.refusal();
    assert_eq!(code, "bad_archive", "{program} {arguments:?}: {message}");
    let expected = "'./sub/hole': it is a sparse file";
    assert!(
        message.contains(expected),
        "{program} {arguments:?}: {message}"
    );
}

#[test]
fn gnu_tar() {
    if !have("tar") {
        return;
    }
    let version = run(Path::new("/"), "tar", &["--version"]);
    assert!(String::from_utf8_lossy(&version).contains("GNU tar"));
    let host = TestServer::start();
    let table: [(Names, &[&str]); 9] = [
        (Names::Bytes, &["--format=gnu", "-cf", "-", "."]),
        (Names::Bytes, &["--format=gnu", "-czf", "-", "."]),
        (Names::Bytes, &["--format=oldgnu", "-cf", "-", "."]),
        (Names::Bytes, &["--format=posix", "-czf", "-", "."]),
        (Names::Ustar, &["--format=ustar", "-cf", "-", "."]),
        (Names::V7, &["--format=v7", "-cf", "-", "."]),
        (
            Names::Bytes,
            &[
                "--format=posix",
                "--sort=name",
                "--mtime=@0",
                "--owner=0",
                "--group=0",
                "--numeric-owner",
                "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime",
                "-cf",
                "-",
                ".",
            ],
        ),
        // Without an entry for the root: flattened.
        (Names::Bytes, &["-czf", "-", "-C", "..", "src"]),
        (
            Names::Bytes,
            &["--format=posix", "-cf", "-", "-C", "..", "./src"],
        ),
    ];
    for (names, arguments) in table {
        let temp = source(names);
        let src = temp.0.join("src");
        let payload = run(&src, "tar", arguments);
        taken(&host, &format!("tar {arguments:?}"), &payload, &src, ALL);
    }
    // Nor for any one directory: not flattened.
    let temp = source(Names::Bytes);
    let src = temp.0.join("src");
    let payload = run(&src, "sh", &["-c", "tar -cf - -- * .h*"]);
    fs::set_permissions(
        &src,
        fs::metadata(host.path("releases")).unwrap().permissions(),
    )
    .unwrap();
    taken(&host, "tar *", &payload, &src, ALL);
    // Appended to: the later version counts.
    let archive = temp.0.join("appended.tar");
    fs::write(&archive, &payload).unwrap();
    fs::write(src.join("index.txt"), "changed").unwrap();
    run(
        &src,
        "tar",
        &["-rf", archive.to_str().unwrap(), "index.txt"],
    );
    taken(&host, "tar -r", &fs::read(&archive).unwrap(), &src, ALL);
    // The file's name in gzip's header.
    run(&src, "sh", &["-c", "tar -cf ../src.tar ."]);
    let payload = run(&temp.0, "gzip", &["-9c", "src.tar"]);
    taken(&host, "gzip", &payload, &src, ALL);
    hole(&host, "tar", &["-S", "--format=gnu", "-cf", "-", "."]);
    hole(&host, "tar", &["-S", "--format=posix", "-cf", "-", "."]);
}

#[test]
fn lz4() {
    if !have("tar") || !have("lz4") {
        return;
    }
    let host = TestServer::start();
    let temp = source(Names::Bytes);
    let src = temp.0.join("src");
    run(&src, "sh", &["-c", "tar -cf ../src.tar ."]);
    // Blocks of each size, alone or linked, and with all that a head may have.
    let table: [&[&str]; 6] = [
        &["-1"],
        &["-9", "-B4", "-BD"],
        &["-B5", "-BX", "--no-frame-crc"],
        &["-B6", "-BD", "--content-size"],
        &["-12", "-B7"],
        &["--fast=9", "-BD", "-BX"],
    ];
    for arguments in table {
        let payload = run(&temp.0, "lz4", &[arguments, &["-c", "src.tar"]].concat());
        taken(&host, &format!("lz4 {arguments:?}"), &payload, &src, ALL);
    }
    let payload = run(&temp.0, "lz4", &["-l", "-c", "src.tar"]);
    let (code, message) = host.deploy(&[("project", "demo")], &payload).refusal();
    assert_eq!(code, "bad_archive", "{message}");
    let expected = "is an lz4 file of the legacy format; send tar or tar.gz";
    assert!(message.contains(expected), "{message}");
}

#[test]
fn bsdtar() {
    if !have("bsdtar") {
        return;
    }
    let host = TestServer::start();
    let table: [(Names, &[&str]); 8] = [
        (Names::Text, &["-cf", "-", "."]),
        (Names::Text, &["-czf", "-", "."]),
        (Names::Text, &["--format=pax", "-cf", "-", "."]),
        (Names::Bytes, &["--format=gnutar", "-cf", "-", "."]),
        (Names::Ustar, &["--format=ustar", "-cf", "-", "."]),
        (Names::V7, &["--format=v7", "-cf", "-", "."]),
        (Names::Text, &["-czf", "-", "-C", "..", "src"]),
        (
            Names::Text,
            &["--format=pax", "-cf", "-", "-C", "..", "./src"],
        ),
    ];
    for (names, arguments) in table {
        let temp = source(names);
        let src = temp.0.join("src");
        let payload = run(&src, "bsdtar", arguments);
        taken(&host, &format!("bsdtar {arguments:?}"), &payload, &src, ALL);
    }
    // It looks for holes without being asked.
    hole(&host, "bsdtar", &["-cf", "-", "."]);
}

#[test]
fn python() {
    if !have("python3") {
        return;
    }
    let script = "
import sys, tarfile
mode, layout, name = sys.argv[1:]
with tarfile.open(fileobj=sys.stdout.buffer, mode=mode, format=getattr(tarfile, layout)) as tar:
    tar.add('.', arcname=name)
";
    let host = TestServer::start();
    let table = [
        (Names::Bytes, "w|", "GNU_FORMAT", "."),
        (Names::Bytes, "w|gz", "PAX_FORMAT", "."),
        (Names::Bytes, "w|gz", "GNU_FORMAT", "demo-1.0"),
        (Names::Bytes, "w|", "PAX_FORMAT", "demo-1.0"),
        (Names::Ustar, "w|gz", "USTAR_FORMAT", "."),
    ];
    for (names, mode, layout, name) in table {
        let temp = source(names);
        let src = temp.0.join("src");
        let payload = run(&src, "python3", &["-c", script, mode, layout, name]);
        taken(
            &host,
            &format!("tarfile {mode} {layout} {name}"),
            &payload,
            &src,
            ALL,
        );
    }
}

#[test]
fn git_archive() {
    if !have("git") {
        return;
    }
    let host = TestServer::start();
    let temp = source(Names::Bytes);
    let src = temp.0.join("src");
    let commit = "git -c init.defaultBranch=main init -q && git add -A && \
        git -c user.name=n -c user.email=e -c commit.gpgSign=false commit -q -m m";
    run(&src, "sh", &["-c", commit]);
    let kept = Kept {
        hard_links: false,
        empty: false,
        modes: false,
        ..ALL
    };
    let table: [&[&str]; 3] = [
        &["archive", "HEAD"],
        &["archive", "--format=tar.gz", "HEAD"],
        &["archive", "--format=tar.gz", "--prefix=demo-1.0/", "HEAD"],
    ];
    let payloads = table.map(|arguments| (arguments, run(&src, "git", arguments)));
    fs::remove_dir_all(src.join(".git")).unwrap();
    for (arguments, payload) in payloads {
        // The global header that git writes before everything else: PAX's `g`.
        assert!(arguments.len() > 2 || payload[156] == b'g');
        taken(&host, &format!("git {arguments:?}"), &payload, &src, kept);
    }
}

#[test]
fn npm_pack() {
    if !have("npm") {
        return;
    }
    let host = TestServer::start();
    let temp = source(Names::Text);
    let src = temp.0.join("src");
    let package = r#"{"name":"demo","version":"1.0.0","bin":{"demo":"run.sh"}}"#;
    fs::write(src.join("package.json"), package).unwrap();
    let name = run(&src, "npm", &["pack", "--silent", "--ignore-scripts"]);
    let name = String::from_utf8(name).unwrap();
    let payload = fs::read(src.join(name.trim())).unwrap();
    fs::remove_file(src.join(name.trim())).unwrap();
    let kept = Kept {
        symlinks: false,
        hard_links: true,
        empty: false,
        modes: false,
    };
    taken(&host, "npm pack", &payload, &src, kept);
}

#[test]
fn node_tar() {
    if !have("node") || !have("npm") {
        return;
    }
    // npm brings the library along.
    let script = "
const [root, options] = process.argv.slice(1);
const paths = [root + '/npm', '/usr/share/nodejs/npm'];
const tar = require(require.resolve('tar', { paths }));
tar.c({ cwd: process.cwd(), file: '../node.tar', sync: true, ...JSON.parse(options) }, ['.']);
";
    let root = run(Path::new("/"), "npm", &["root", "-g"]);
    let root = String::from_utf8(root).unwrap();
    let host = TestServer::start();
    let table = [
        "{}",
        r#"{"gzip":true,"portable":true}"#,
        r#"{"gzip":true,"prefix":"package"}"#,
        r#"{"noPax":true}"#,
    ];
    for options in table {
        // Without PAX it has no place for what ustar does not hold.
        let names = if options.contains("noPax") {
            Names::Ustar
        } else {
            Names::Text
        };
        let temp = source(names);
        let src = temp.0.join("src");
        run(&src, "node", &["-e", script, root.trim(), options]);
        let payload = fs::read(temp.0.join("node.tar")).unwrap();
        // What it calls portable is not writable for others.
        let modes = !options.contains("portable");
        let kept = Kept { modes, ..ALL };
        taken(
            &host,
            &format!("node's tar {options}"),
            &payload,
            &src,
            kept,
        );
        // Another program may compress it too.
        if !options.contains("gzip") {
            taken(
                &host,
                &format!("node's tar {options}, gzip"),
                &gzip(&payload),
                &src,
                kept,
            );
        }
    }
}
