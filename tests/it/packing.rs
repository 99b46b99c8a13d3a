//! What of a directory arrives in the release, and what is said and asked before it is sent.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use crate::test_server::{BINARY, TempDir, TestServer, bare, gangplank, gzip, have, names, tar};

const KEY: &str = "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\n";

/// The files and links below a directory.
fn files(dir: &Path) -> BTreeSet<String> {
    fn walk(dir: &Path, below: &str, found: &mut BTreeSet<String>) {
        for name in names(dir) {
            let path = dir.join(&name);
            match path.symlink_metadata().unwrap().is_dir() {
                true => walk(&path, &format!("{below}{name}/"), found),
                false => drop(found.insert(format!("{below}{name}"))),
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(dir, "", &mut found);
    found
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Deploys a directory as `app`, and gives what arrived and what was said.
fn arrives(host: &TestServer, dir: &Path, flags: &[&str]) -> (BTreeSet<String>, String) {
    let mut command = host.cli_command(&["deploy", "--project", "app"]);
    let output = command.arg(dir).args(flags).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    (files(&host.path("components/app/")), said(&output))
}

fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.into_iter().map(str::to_owned).collect()
}

#[test]
fn what_gangplankignore_names_stays_behind_and_gitignore_says_nothing() {
    let host = TestServer::start();
    let dir = TempDir::new().with(&[
        (
            ".gangplankignore",
            "*.log\n!keep.log\n/build/\ncache/\nsub/deep/x\n",
        ),
        (".gitignore", "dist/\n"),
        ("dist/index.js", "built"),
        ("a.log", ""),
        ("keep.log", ""),
        ("build/out", ""),
        ("sub/build/out", ""),
        ("sub/cache/x", ""),
        ("sub/deep/x", ""),
        ("sub/deep/y", ""),
        ("sub/.gangplankignore", "*.tmp\n!b.log\n/deep/y\n"),
        ("sub/a.log", ""),
        ("sub/b.log", ""),
        ("sub/c.tmp", ""),
        ("c.tmp", ""),
    ]);
    let (arrived, said) = arrives(&host, &dir.0, &[]);
    let expected = set([
        ".gitignore",
        "c.tmp",
        "dist/index.js",
        "keep.log",
        "sub/b.log",
        "sub/build/out",
    ]);
    assert_eq!(arrived, expected, "{said}");
    assert!(
        said.lines().any(|line| line == "Packing 6 files, 11 B"),
        "{said}"
    );
}

#[test]
fn what_is_ignored_need_not_be_readable_and_is_not_told() {
    let host = TestServer::start();
    let dir = TempDir::new().with(&[
        (".gangplankignore", "out\nlocal/\n.env\n"),
        ("a", ""),
        (".env", "A=1"),
        ("local/name\nwith a newline", ""),
    ]);
    symlink("/etc", dir.0.join("out")).unwrap();
    let (arrived, said) = arrives(&host, &dir.0, &[]);
    assert_eq!(arrived, set(["a"]));
    assert!(!said.contains("left out"), "{said}");
}

#[test]
fn another_ignore_file_takes_the_place_of_the_one_at_the_top() {
    let host = TestServer::start();
    let dir = TempDir::new().with(&[
        (".gangplankignore", "a\n"),
        ("deploy.ignore", "b\n"),
        ("a", ""),
        ("b", ""),
        ("c/.gangplankignore", "a\n"),
        ("c/a", ""),
        ("c/b", ""),
        ("c/c", ""),
    ]);
    let rules = dir.0.join("deploy.ignore");
    let rules = rules.to_str().unwrap();
    let (arrived, _) = arrives(&host, &dir.0, &["--ignore-file", rules]);
    assert_eq!(arrived, set(["a", "c/c"]));
    let mut command = host.cli_command(&["deploy", "--ignore-file", "/no/such/file"]);
    let output = command
        .arg(&dir.0)
        .args(["--project", "app"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        said(&output).contains("reading /no/such/file: "),
        "{}",
        said(&output)
    );
}

fn secrets() -> TempDir {
    TempDir::new().with(&[
        ("index.js", "1"),
        (".env", "A=1"),
        (".env.production", "A=1"),
        (".env.example", "A="),
        (".env.local.sample", "A="),
        (".env.template", "A="),
        (".env.defaults", "A="),
        ("sub/.env", "A=1"),
        ("sub/id_rsa", "k"),
        ("sub/id_ed25519", "k"),
        ("sub/id_ecdsa", "k"),
        ("sub/id_rsa.pub", "p"),
        ("certs/server.key", KEY),
        ("certs/plain", KEY),
        ("certs/server.pem", "-----BEGIN CERTIFICATE-----\nMII\n"),
        ("README", &format!("Make a key:\n{KEY}")),
    ])
}

const HARMLESS: [&str; 8] = [
    "index.js",
    ".env.example",
    ".env.local.sample",
    ".env.template",
    ".env.defaults",
    "sub/id_rsa.pub",
    "certs/server.pem",
    "README",
];

#[test]
fn secrets_stay_behind_and_one_line_names_them() {
    let host = TestServer::start();
    let dir = secrets();
    let (arrived, said) = arrives(&host, &dir.0, &[]);
    assert_eq!(arrived, set(HARMLESS), "{said}");
    let lines: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("left out"))
        .collect();
    let [line] = lines.as_slice() else {
        panic!("{said}");
    };
    for part in [
        ".env,",
        ".env.production",
        "sub/.env",
        "sub/id_rsa;",
        "sub/id_ed25519",
        "sub/id_ecdsa",
        "certs/server.key",
        "certs/plain",
        "gangplank env set app --from .env",
        "--include-env",
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }
    let (arrived, said) = arrives(&host, &dir.0, &["--include-env"]);
    assert_eq!(arrived, files(&dir.0));
    assert!(!said.contains("left out"), "{said}");
}

#[test]
fn a_rule_that_names_a_secret_sends_it_and_one_that_names_everything_does_not() {
    let host = TestServer::start();
    let dir = secrets();
    for (name, content) in [
        ("node_modules/m", "m"),
        (".git/HEAD", "r"),
        ("sub/.git", "r"),
    ] {
        fs::create_dir_all(dir.0.join(name).parent().unwrap()).unwrap();
        fs::write(dir.0.join(name), content).unwrap();
    }
    let rules = dir.0.join(".gangplankignore");
    // How one lists what is to be sent.
    fs::write(&rules, "*\n!*\n!*/\n!.*\n!**/*\n").unwrap();
    let (arrived, said) = arrives(&host, &dir.0, &[]);
    assert_eq!(arrived, set(HARMLESS), "{said}");
    fs::write(&rules, "!/.env\n!certs/*.key\n!node_modules/\n").unwrap();
    let (arrived, said) = arrives(&host, &dir.0, &[]);
    let mut expected = set(HARMLESS);
    expected.extend(set([".env", "certs/server.key", "node_modules/m"]));
    assert_eq!(arrived, expected, "{said}");
    assert!(
        said.contains("left out as secret: .env.production, certs/plain, "),
        "{said}"
    );
}

#[test]
fn a_servers_root_stays_behind() {
    let host = TestServer::start();
    let dir = TempDir::new().with(&[
        ("a", ""),
        ("data/root/lock", ""),
        ("data/root/tokens.json", "{}"),
        ("data/root/admin.token", "t"),
        ("data/lock", ""),
        ("other/tokens.json", ""),
    ]);
    let (arrived, said) = arrives(&host, &dir.0, &["--include-env"]);
    assert_eq!(arrived, set(["a", "data/lock", "other/tokens.json"]));
    assert!(
        said.contains("left out 'data/root': it is the root of a gangplank server"),
        "{said}"
    );
    // The server's own.
    let output = host
        .cli_command(&["deploy", "--project", "app"])
        .arg(&host.root.0)
        .output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(2));
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(
        why.contains("it is the root of a gangplank server, with the tokens"),
        "{why}"
    );
}

#[test]
fn the_same_rules_leave_out_what_git_leaves_out() {
    if !have("git") {
        return;
    }
    let dir = TempDir::new();
    let cases = include_str!("../../src/formats/ignore/cases.txt");
    let mut judged = 0;
    for (number, case) in cases.split("\n\n").enumerate() {
        let lines = case.lines().filter(|line| !line.starts_with("//"));
        let (paths, rules): (Vec<_>, Vec<_>) = lines.partition(|line| line.starts_with("  "));
        for path in paths {
            judged += 1;
            let path = path.trim_start().split_once(' ').unwrap().1;
            let (kind, file) = match path.strip_suffix('/') {
                Some(_) => ("directories", format!("{path}inside")),
                None => ("files", path.to_owned()),
            };
            let top = dir.0.join(format!("{number}-{kind}"));
            let file = top.join(file);
            // What stands in the way of another case's path is judged by that one.
            if fs::create_dir_all(file.parent().unwrap()).is_ok() && !file.is_dir() {
                fs::write(&file, "").unwrap();
            }
            for name in [".gitignore", ".gangplankignore"] {
                fs::write(top.join(name), rules.join("\n")).unwrap();
            }
        }
    }
    assert!(judged > 100, "{judged}");
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        command.current_dir(&dir.0).env("HOME", "/nonexistent");
        command
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .args(arguments)
            .output()
            .unwrap()
    };
    assert!(git(&["init", "-q"]).status.success());
    let listed = git(&[
        "ls-files",
        "-z",
        "--others",
        "--exclude-per-directory=.gitignore",
    ]);
    assert!(listed.status.success(), "{}", said(&listed));
    let listed = String::from_utf8(listed.stdout).unwrap();
    let is_rules =
        |path: &&str| path.ends_with("/.gitignore") || path.ends_with("/.gangplankignore");
    let expected: BTreeSet<String> = listed
        .split_terminator('\0')
        .filter(|path| !is_rules(path))
        .map(str::to_owned)
        .collect();
    let host = TestServer::start();
    let (mut arrived, _) = arrives(&host, &dir.0, &[]);
    arrived.retain(|path| !is_rules(&path.as_str()));
    assert!(expected.len() > 50, "{expected:?}");
    assert_eq!(arrived, expected);
}

#[test]
fn the_root_and_the_home_directory_are_sent_only_with_yes() {
    let host = TestServer::start();
    let home = TempDir::new().with(&[("index.html", "1")]);
    let link = TempDir::new();
    symlink(&home.0, link.0.join("home")).unwrap();
    let deploy = |dir: &Path, flags: &[&str]| {
        let mut command = host.cli_command(&["deploy", "--project", "app"]);
        command
            .env("HOME", &home.0)
            .arg(dir)
            .args(flags)
            .output()
            .unwrap()
    };
    for (dir, why) in [
        (Path::new("/"), "it is the root of the file system"),
        (&home.0, "it is your home directory"),
        (&link.0.join("home"), "it is your home directory"),
    ] {
        let output = deploy(dir, &[]);
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(
            said(&output).contains(why) && said(&output).contains("--yes"),
            "{}",
            said(&output)
        );
    }
    // Without DIR it is the working directory.
    let mut command = host.cli_command(&["deploy", "--project", "app"]);
    let output = command
        .current_dir(&home.0)
        .env("HOME", &home.0)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert_eq!(names(&host.path("components")), [""; 0]);
    let output = deploy(&home.0, &["--yes"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(files(&host.path("components/app/")), set(["index.html"]));
}

#[test]
fn more_than_a_gibibyte_is_asked_for_on_a_terminal() {
    if !have("script") {
        return;
    }
    let dir = TempDir::new().with(&[("small/a", "")]);
    fs::create_dir(dir.0.join("large")).unwrap();
    let file = fs::File::create(dir.0.join("large/disk")).unwrap();
    file.set_len((1 << 30) + 1).unwrap();
    // Nobody listens there, so that what is sent ends soon.
    let deploy = |flags: &str, answer: &str| {
        let line = format!("{BINARY} deploy --project app --target http://127.0.0.1:1 {flags}");
        let mut command = bare("script");
        command
            .args(["-qec", &line, "/dev/null"])
            .current_dir(&dir.0);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // It may have ended without a question.
        let _ = child.stdin.take().unwrap().write_all(answer.as_bytes());
        let output = child.wait_with_output().unwrap();
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), shown)
    };
    for (flags, answer, code, asked) in [
        ("large", "n\n", 2, true),
        ("large", "\n", 2, true),
        ("large", "y\n", 3, true),
        ("large", "Yes\n", 3, true),
        ("large --yes", "", 3, false),
        ("small", "", 3, false),
    ] {
        let (ended, shown) = deploy(flags, answer);
        assert_eq!(ended, Some(code), "{flags} {answer:?}: {shown}");
        assert_eq!(
            shown.contains("Send 1.00 GiB? (y/N)"),
            asked,
            "{flags}: {shown}"
        );
        assert_eq!(
            shown.contains("nothing was sent"),
            code == 2,
            "{flags}: {shown}"
        );
    }
    // Where nobody can answer, nobody is asked.
    let mut command = gangplank();
    command.args([
        "deploy",
        "--project",
        "app",
        "--target",
        "http://127.0.0.1:1",
    ]);
    let output = command.arg(dir.0.join("large")).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(!said(&output).contains("(y/N)"), "{}", said(&output));
}

/// A tar of files that have modes, and of nothing else: their directories are only implied.
fn with_modes(files: &[(&str, u32)]) -> Vec<u8> {
    let mut builder = ::tar::Builder::new(Vec::new());
    for (path, mode) in files {
        let mut header = ::tar::Header::new_gnu();
        header.set_size(1);
        header.set_mode(*mode);
        builder.append_data(&mut header, path, &b"x"[..]).unwrap();
    }
    gzip(&builder.into_inner().unwrap())
}

#[test]
fn a_release_is_as_its_files_say_and_the_rest_is_private_under_any_umask() {
    for umask in ["000", "077"] {
        // Who begins with the settings makes their directory.
        let root = Arc::new(TempDir::new().with(&[("env/app", "PASSWORD=secret\n")]));
        fs::set_permissions(root.0.join("env"), fs::Permissions::from_mode(0o755)).unwrap();
        let mut command = bare("sh");
        let script = format!("umask {umask} && exec \"$0\" \"$@\"");
        command.args(["-c", &script, BINARY]);
        let host = TestServer::launch(command, Arc::clone(&root), &[]);
        let payload = with_modes(&[
            ("public/css/site.css", 0o644),
            ("public/all", 0o666),
            ("bin/run", 0o755),
            ("mine", 0o600),
            ("ours", 0o640),
        ]);
        let answer = host.deploy(&[("project", "app")], &payload);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let id = answer.json()["deployment_id"].as_str().unwrap().to_owned();
        let release = host.path("releases/app").join(&id);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        for (path, expected) in [
            ("", 0o755),
            ("public", 0o755),
            ("public/css", 0o755),
            ("bin", 0o755),
            ("public/css/site.css", 0o644),
            ("public/all", 0o666),
            ("bin/run", 0o755),
            ("mine", 0o600),
            ("ours", 0o640),
        ] {
            let found = mode(&release.join(path));
            assert_eq!(found, expected, "umask {umask}: {path} has {found:o}");
        }
        for (path, expected) in [
            (format!("deployments/{id}"), 0o700),
            (format!("deployments/{id}/payload"), 0o600),
            (format!("deployments/{id}/record.json"), 0o600),
            ("deployments".to_owned(), 0o700),
            ("env".to_owned(), 0o700),
            ("tokens.json".to_owned(), 0o600),
        ] {
            let found = mode(&host.path(&path));
            assert_eq!(found, expected, "umask {umask}: {path} has {found:o}");
        }
        let shared = with_shared();
        let answer = host.deploy(&[("project", "data")], &shared);
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(mode(&host.path("shared/data")), 0o700, "umask {umask}");
        // A mode that the operator gives stays.
        fs::set_permissions(host.path("shared/data"), fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(host.deploy(&[("project", "data")], &shared).status, 200);
        assert_eq!(mode(&host.path("shared/data")), 0o755, "umask {umask}");
    }
}

fn with_shared() -> Vec<u8> {
    gzip(&tar(&[("./gangplank.json", r#"{"shared": ["uploads/"]}"#)]))
}
