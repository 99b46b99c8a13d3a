//! Where a client asks and as whom: targets by name, what a directory may say of them, and tokens.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::test_server::{TempDir, TestServer, bare, for_others, gangplank, is_root};

/// A user with settings of its own, in a directory.
struct User {
    home: TempDir,
}

impl User {
    fn new() -> User {
        User {
            home: TempDir::new(),
        }
    }

    fn command(&self, dir: &Path, words: &[&str]) -> Command {
        let mut command = gangplank();
        command.args(words).current_dir(dir);
        command.env("HOME", &self.home.0);
        command
    }

    fn run(&self, words: &[&str]) -> (i32, String, String) {
        told(self.command(&self.home.0, words).output().unwrap())
    }

    /// With something on stdin.
    fn fed(&self, words: &[&str], input: &str) -> (i32, String, String) {
        let mut command = self.command(&self.home.0, words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // Whoever refuses its words reads nothing.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        told(child.wait_with_output().unwrap())
    }

    fn file(&self) -> std::path::PathBuf {
        self.home.0.join(".config/gangplank/targets.json")
    }
}

/// The exit code, stdout and stderr.
fn told(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let code = output.status.code().unwrap();
    (code, text(output.stdout), text(output.stderr))
}

/// A directory with a component whose manifest says this.
fn app(manifest: Value) -> TempDir {
    TempDir::new().with(&[("a.txt", "a"), ("gangplank.json", &manifest.to_string())])
}

#[test]
fn a_server_is_named_once_and_asked_by_its_name() {
    let host = TestServer::start();
    let url = format!("http://{}", host.address);
    let user = User::new();
    let (code, out, said) = user.fed(
        &["target", "add", "prod", &url, "--token", "-"],
        &host.token,
    );
    assert_eq!((code, out), (0, format!("Added: prod, {url}\n")), "{said}");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&user.file()), 0o600);
    assert_eq!(mode(user.file().parent().unwrap()), 0o700);
    let token_file = user.home.0.join("token");
    fs::write(&token_file, format!("{}\n", host.token)).unwrap();
    // From then on the directory that it was added in does not matter.
    let (code, _, said) = user.run(&[
        "target",
        "add",
        "file",
        &url,
        "--token-file",
        ".config/../token",
    ]);
    assert_eq!(code, 0, "{said}");
    let (code, out, _) = user.run(&["target", "list"]);
    let shown: Value = serde_json::from_str(&out).unwrap();
    let file = format!("token in {}", token_file.display());
    let expected = json!({"targets": [
        {"name": "file", "url": url, "login": file},
        {"name": "prod", "url": url, "login": "token"},
    ]});
    assert_eq!((code, shown), (0, expected));
    for name in ["prod", "file"] {
        let mut command = user.command(Path::new("/"), &["list", "--target", name]);
        let (code, _, said) = told(command.output().unwrap());
        assert_eq!(code, 0, "{said}");
        let mut command = user.command(Path::new("/"), &["list"]);
        let (code, _, said) = told(command.env("GANGPLANK_TARGET", name).output().unwrap());
        assert_eq!(code, 0, "{said}");
    }
    // A directory has it as its default, which the environment and the command are stronger than.
    let dir = app(json!({"project": "demo", "target": "prod"}));
    let (code, _, said) = told(user.command(&dir.0, &["deploy"]).output().unwrap());
    assert_eq!(code, 0, "{said}");
    assert!(
        said.starts_with(&format!("Target prod of gangplank.json: {url}\n")),
        "{said}"
    );
    let elsewhere = user
        .command(Path::new("/"), &["deploy", dir.0.to_str().unwrap()])
        .output();
    assert_eq!(told(elsewhere.unwrap()).0, 0);
    for (words, variable) in [
        (&["list", "--target", "http://127.0.0.1:1"][..], None),
        (&["list"], Some("http://127.0.0.1:1")),
    ] {
        let mut command = user.command(&dir.0, words);
        command.envs(variable.map(|target| ("GANGPLANK_TARGET", target)));
        let (code, _, said) = told(command.output().unwrap());
        assert_eq!(code, 3, "{said}");
    }
    let (code, out, _) = user.run(&["target", "remove", "prod"]);
    assert_eq!((code, &*out), (0, "Removed: prod\n"));
    let (code, _, said) = told(user.command(&dir.0, &["list"]).output().unwrap());
    let expected = "error: reading the target \"prod\" of gangplank.json: no target has this name; the only one is file; \
                    `gangplank target add prod URL` adds it\n";
    assert_eq!((code, &*said), (2, expected));
}

#[test]
fn what_cannot_be_a_target_is_told() {
    let user = User::new();
    assert_eq!(user.run(&["target", "add", "prod", "https://h"]).0, 0);
    let before = fs::read(user.file()).unwrap();
    let table: [(&[&str], &str); 14] = [
        (
            &["target", "add", "prod", "https://h"],
            "it is there already: `gangplank target remove prod` first",
        ),
        (&["target", "add", "a.b", "https://h"], "cannot be the name"),
        (&["target", "add", "a", "https://h:x"], "the port must be"),
        (&["target", "add", "a"], "the URL of the target is missing"),
        (&["target", "add"], "the NAME of the target is missing"),
        (
            &["target", "add", "a", "h", "b"],
            "unexpected argument \"b\"",
        ),
        (
            &["target", "add", "a", "h", "--tokn", "x"],
            "did you mean --token?",
        ),
        (
            &["target", "add", "a", "h", "--token-file", "/nonexistent"],
            "/nonexistent: No such file",
        ),
        (
            &["target", "add", "a", "h", "--ca-cert", "/dev/null"],
            "there is none in it",
        ),
        (
            &["target", "add", "a", "h", "--token", "-"],
            "the token in stdin: it is empty",
        ),
        (
            &["target", "add", "a", "u:p@h", "--token", "t"],
            "cannot go with a token",
        ),
        (
            &["target", "remove", "prdo"],
            "no target has this name; did you mean prod?",
        ),
        (&["target", "rm", "prod"], "unknown target command \"rm\""),
        (
            &["list", "--target", "prdo"],
            "did you mean prod? `gangplank target add prdo URL` adds it, or write a host as https://prdo",
        ),
    ];
    for (words, why) in table {
        let (code, out, said) = user.run(words);
        assert_eq!((code, &*out), (2, ""), "{words:?}: {said}");
        assert!(said.contains(why), "{words:?}: {said}");
    }
    assert_eq!(fs::read(user.file()).unwrap(), before);
    // Others may have read the tokens; or written another host beside one.
    let open = |mode| fs::set_permissions(user.file(), Permissions::from_mode(mode)).unwrap();
    open(0o644);
    let (code, _, said) = user.run(&["target", "list"]);
    assert_eq!(code, 0);
    assert!(
        said.starts_with("warning: others may read") && said.contains("chmod 600"),
        "{said}"
    );
    open(0o666);
    let (code, _, said) = user.run(&["list", "--target", "prod"]);
    assert_eq!(code, 2);
    assert!(said.contains("others may write it (mode 666)"), "{said}");
    open(0o600);
    fs::write(user.file(), "{\"targets\": {\"prod\": \"hunter2\"}}").unwrap();
    for words in [
        &["target", "list"][..],
        &["target", "add", "a", "h"],
        &["list", "--target", "prod"],
    ] {
        let (code, _, said) = user.run(words);
        assert_eq!(code, 2, "{said}");
        assert!(
            said.contains("targets.json: it is damaged at line 1"),
            "{said}"
        );
        assert!(!said.contains("hunter2"), "{said}");
    }
    // Who names a host needs no file.
    assert_eq!(user.run(&["list", "--target", "http://127.0.0.1:1"]).0, 3);
    let mut homeless = gangplank();
    homeless.args(["target", "list"]).env_remove("HOME");
    let (code, _, said) = told(homeless.output().unwrap());
    assert_eq!(code, 2);
    assert!(said.contains("neither XDG_CONFIG_HOME nor HOME"), "{said}");
}

#[test]
fn a_strangers_directory_gets_no_token_of_the_environment() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let user = User::new();
    let (code, _, said) = user.run(&["target", "add", "bare", &format!("http://{address}")]);
    assert_eq!(code, 0, "{said}");
    let asked = |dir: &TempDir, words: &[&str]| {
        let mut command = user.command(&dir.0, words);
        command.env("GANGPLANK_TOKEN", "hunter2");
        command.env("HARPER_CLI_USERNAME", "hunter2");
        command.env("HARPER_CLI_PASSWORD", "hunter2");
        command
    };
    // A URL of the directory's is not asked at all.
    for target in [
        format!("http://{address}"),
        address.clone(),
        format!("u@{address}"),
    ] {
        let dir = app(json!({"target": target}));
        for words in [&["list"][..], &["deploy"], &["status"]] {
            let (code, _, said) = told(asked(&dir, words).output().unwrap());
            assert_eq!(code, 2, "{said}");
            assert!(
                said.contains("only the name of a target may stand there"),
                "{said}"
            );
        }
    }
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "somebody was asked");
    listener.set_nonblocking(false).unwrap();
    // A name is, without what the environment holds; the command itself may say that it is meant.
    let dir = app(json!({"target": "bare"}));
    let login = "HTTP/1.1 401 X\r\nContent-Length: 44\r\n\r\n{\"error\":\"Must login\",\"code\":\"unauthorized\"}";
    for (words, sent, advice) in [
        (
            &["list"][..],
            false,
            "GANGPLANK_TOKEN is not sent to a target that gangplank.json names: give --target bare",
        ),
        (
            &["list", "--target", "bare"],
            true,
            "`gangplank token list` on the server's host",
        ),
    ] {
        let mut command = asked(&dir, words);
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stream = listener.accept().unwrap().0;
        let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
        while !request.ends_with(b"}") {
            let n = stream.read(&mut buffer).unwrap();
            assert!(n > 0);
            request.extend_from_slice(&buffer[..n]);
        }
        stream.write_all(login.as_bytes()).unwrap();
        let (code, _, said) = told(child.wait_with_output().unwrap());
        assert_eq!(code, 4, "{said}");
        assert!(said.contains(advice), "{said}");
        let request = String::from_utf8(request).unwrap();
        assert_eq!(request.contains("hunter2"), sent, "{request}");
        assert_eq!(
            request.to_ascii_lowercase().contains("authorization:"),
            sent,
            "{request}"
        );
    }
}

#[test]
fn a_token_comes_from_a_file_or_from_stdin() {
    let host = TestServer::start();
    let user = User::new();
    let url = format!("http://{}", host.address);
    let list = ["list", "--target", &url];
    let token = format!("\u{feff}\"{}\"\r\n", host.token);
    let (code, _, said) = user.fed(&[&list[..], &["--token-file", "-"]].concat(), &token);
    assert_eq!(code, 0, "{said}");
    let file = user.home.0.join("token");
    let table = [
        (Some(&*token), 0, ""),
        (Some(&*host.token), 0, ""),
        (
            Some("wrong"),
            4,
            "`gangplank token list` on the server's host shows which tokens it knows",
        ),
        (Some(""), 2, "token: it is empty"),
        (
            Some("a\nb\n"),
            2,
            "token: it has 2 lines, and a token is one",
        ),
        (Some("a b"), 2, "token: it holds blanks"),
        (None, 2, "token: No such file"),
    ];
    for (content, expected, why) in table {
        let _ = fs::remove_file(&file);
        if let Some(content) = content {
            fs::write(&file, content).unwrap();
        }
        let flag = user.run(&[&list[..], &["--token-file", "token"]].concat());
        let mut command = user.command(&user.home.0, &list);
        command.env("GANGPLANK_TOKEN_FILE", &file);
        let variable = told(command.output().unwrap());
        for (code, _, said) in [flag, variable] {
            assert_eq!(code, expected, "{content:?}: {said}");
            assert!(said.contains(why), "{content:?}: {said}");
        }
    }
    let mut command = user.command(&user.home.0, &list);
    let (code, _, said) = told(command.env("GANGPLANK_TOKEN", "a\nb").output().unwrap());
    assert_eq!(code, 2);
    assert!(
        said.contains("the token in GANGPLANK_TOKEN: it has 2 lines"),
        "{said}"
    );
    // Who says nothing is told how to.
    let (code, _, said) = user.run(&list);
    assert_eq!(code, 4);
    assert!(
        said.starts_with("error: Must login; say who asks by --token-file FILE"),
        "{said}"
    );
    assert!(said.contains("`gangplank token add NAME`"), "{said}");
}

#[test]
fn harpers_older_variables_are_read_last() {
    let host = TestServer::start();
    let user = User::new();
    let listed = |variables: &[(&str, &str)]| {
        let mut command = user.command(&user.home.0, &["list"]);
        told(command.envs(variables.iter().copied()).output().unwrap())
    };
    let older = [
        ("CLI_TARGET", &*host.address),
        ("CLI_TARGET_USERNAME", "admin"),
        ("CLI_TARGET_PASSWORD", &*host.token),
    ];
    let (code, _, said) = listed(&older);
    assert_eq!(code, 0, "{said}");
    let newer = [("HARPER_CLI_TARGET", "http://127.0.0.1:1")];
    assert_eq!(listed(&[&older[..], &newer].concat()).0, 3);
    let wrong = [
        ("HARPER_CLI_USERNAME", "admin"),
        ("HARPER_CLI_PASSWORD", "x"),
    ];
    assert_eq!(listed(&[&older[..], &wrong].concat()).0, 4);
}

#[test]
fn a_root_that_cannot_be_used_says_what_to_do() {
    let at = TempDir::new().with(&[("file", "")]);
    let file = at.0.join("file");
    for (root, why) in [
        (
            "/proc/none/none",
            "nothing can be made there; name another place with --root",
        ),
        (
            file.to_str().unwrap(),
            "it is not a directory; name another place",
        ),
    ] {
        let mut command = gangplank();
        command.args(["serve", "--listen", "127.0.0.1:0", "--root", root]);
        let (code, _, said) = told(command.output().unwrap());
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(&format!("opening the root {root}")), "{said}");
        assert!(said.contains(why), "{said}");
    }
    // Nobody listens, on a root that is there and on one that is not.
    for root in [at.0.clone(), at.0.join("none")] {
        let mut command = gangplank();
        let socket = format!("unix:{}/run/gangplank.sock", root.display());
        command
            .args(["list", "--target", &socket])
            .env("HOME", &at.0);
        let (code, _, said) = told(command.output().unwrap());
        assert_eq!(code, 3, "{said}");
        let serve = format!("start one with `gangplank serve --root {}`", root.display());
        assert!(said.contains(&serve), "{said}");
    }
    if !is_root() {
        return;
    }
    // Of another user's root nothing is to be had but by a token.
    let host = TestServer::start();
    fs::set_permissions(&host.root.0, Permissions::from_mode(0o755)).unwrap();
    let root = host.root.0.to_str().unwrap();
    let (list, tokens) = (["list"], ["token", "list", "--root", root]);
    let serve = ["serve", "--listen", "127.0.0.1:0", "--root", root];
    for (words, expected, why) in [
        (
            &list[..],
            3,
            "it is root's: ask as that user, or ask with a token, by --target",
        ),
        (
            &serve,
            1,
            "is root's; run the server as that user, or name another place",
        ),
        (&tokens, 2, "run this as the user of the server"),
    ] {
        let mut command = bare(for_others(&at.0).to_str().unwrap());
        // The checkout may be a place that others may not enter.
        command.args(words).current_dir(&at.0);
        command.env("GANGPLANK_ROOT", root);
        let (code, _, said) = told(command.uid(65534).gid(65534).output().unwrap());
        assert_eq!(code, expected, "{words:?}: {said}");
        assert!(said.contains(why), "{words:?}: {said}");
    }
}
