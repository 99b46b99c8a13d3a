use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::api::error::Code;

/// A directory that goes with its owner.
struct ManifestDir(PathBuf);

impl ManifestDir {
    fn new() -> ManifestDir {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir =
            std::env::temp_dir().join(format!("gangplank-manifest-{}-{n}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        ManifestDir(dir)
    }

    fn with(file: &str, text: impl AsRef<[u8]>) -> ManifestDir {
        let dir = ManifestDir::new();
        std::fs::write(dir.0.join(file), text).unwrap();
        dir
    }
}

impl Drop for ManifestDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Expects a refusal that names the file, the line if there is one, and the reason.
fn refused<T: fmt::Debug>(result: Result<T, Refusal>, what: &str, start: &str, part: &str) {
    let refusal = result.expect_err(what);
    assert_eq!(refusal.code, Code::LoadFailed, "{what}");
    assert!(refusal.message.starts_with(start), "{what}: {refusal}");
    assert!(refusal.message.contains(part), "{what}: {refusal}");
}

#[test]
fn what_is_missing_says_nothing() {
    let dir = ManifestDir::new();
    assert_eq!(manifest(&dir.0), Ok(Manifest::default()));
    assert_eq!(
        manifest(&dir.0).unwrap().health_timeout,
        Duration::from_secs(30)
    );
    assert_eq!(package(&dir.0), Ok(None));
    assert_eq!(procfile(&dir.0), Ok(None));
}

#[test]
fn a_whole_manifest() {
    let dir = ManifestDir::with(
        "gangplank.json",
        r#"{"project": "demo", "install_command": "make", "install_timeout": "5m", "check": "node --check x.js",
            "health": {"http": "http://127.0.0.1:8080/health"}, "health_timeout": 7,
            "sockets": {"web": "0.0.0.0:8080", "api": "[::1]:81", "x": "localhost:1"}}"#,
    );
    let found = manifest(&dir.0).unwrap();
    assert_eq!(found.project.unwrap().as_str(), "demo");
    assert_eq!(found.install_command.as_deref(), Some("make"));
    assert_eq!(found.install_timeout, Some(Duration::from_secs(300)));
    assert_eq!(found.check.as_deref(), Some("node --check x.js"));
    assert_eq!(
        found.health,
        Some(Health::Http("http://127.0.0.1:8080/health".into()))
    );
    assert_eq!(found.health_timeout, Duration::from_secs(7));
    assert_eq!(found.sockets.len(), 3);
}

#[test]
fn manifests() {
    let table = [
        ("{}", Manifest::default()),
        (
            "\u{feff}{\"check\": null, \"install_timeout\": null}",
            Manifest::default(),
        ),
        (
            r#"{"health": {"notify": true}, "install_timeout": 30}"#,
            Manifest {
                health: Some(Health::Notify),
                install_timeout: Some(Duration::from_secs(30)),
                ..Manifest::default()
            },
        ),
        (
            r#"{"health": {"command": "true"}, "health_timeout": "2h"}"#,
            Manifest {
                health: Some(Health::Command("true".into())),
                health_timeout: Duration::from_secs(7200),
                ..Manifest::default()
            },
        ),
    ];
    for (text, expected) in table {
        assert_eq!(
            manifest(&ManifestDir::with("gangplank.json", text).0),
            Ok(expected),
            "{text}"
        );
    }
}

#[test]
fn refused_manifests() {
    let long = format!("{{}}{}", " ".repeat(1 << 20));
    let table = [
        ("{\n\"projct\": \"x\"}", 2, "unknown field `projct`"),
        ("{\"projct\": \"x\"}", 1, "; did you mean `project`?"),
        (
            "{\"instal_command\": \"x\"}",
            1,
            "; did you mean `install_command`?",
        ),
        ("{\n\n\"check\": \"x\",}", 3, "trailing comma"),
        ("", 1, "EOF"),
        ("[1]", 1, "invalid type"),
        ("{} x", 1, "trailing characters"),
        ("{\"project\": \"my.app\"}", 1, "my.app"),
        (
            "{\"check\": \"x\",\n\"check\": \"y\"}",
            2,
            "duplicate field",
        ),
        ("{\"check\": \"\"}", 1, "must not be empty"),
        ("{\"install_command\": \" \"}", 1, "must not be empty"),
        (
            "{\"install_command\": \"a\\u0000\"}",
            1,
            "must not hold a NUL",
        ),
        ("{\"install_command\": [\"a\"]}", 1, "invalid type"),
        ("{\"install_timeout\": 0}", 1, "a time above zero"),
        ("{\"install_timeout\": -5}", 1, "a time above zero"),
        ("{\"install_timeout\": 1.5}", 1, "a time above zero"),
        ("{\"install_timeout\": \"soon\"}", 1, "a time above zero"),
        ("{\"health_timeout\": null}", 1, "a time above zero"),
        ("{\"health\": {\"tcp\": 1}}", 1, "unknown variant `tcp`"),
        (
            "{\"health\": {\"notify\": false}}",
            1,
            "'notify' can only be true",
        ),
        ("{\"health\": {\"http\": \"/health\"}}", 1, "http://"),
        ("{\"health\": {\"command\": \"\"}}", 1, "must not be empty"),
        (
            "{\"health\": {\"http\": \"http://a\", \"notify\": true}}",
            1,
            "",
        ),
        (
            "{\"sockets\": {\"we b\": \"1.2.3.4:5\"}}",
            1,
            "\"we b\" is not a process type",
        ),
        (
            "{\"sockets\": {\"web\": \"8080\"}}",
            1,
            "\"8080\" is not an address",
        ),
        ("{\"sockets\": {\"web\": \"a:0\"}}", 1, "is not an address"),
        (
            "{\"sockets\": {\"web\": \"1.2.3.4:0\"}}",
            1,
            "is not an address",
        ),
        ("{\"sockets\": {\"web\": \"a:+1\"}}", 1, "is not an address"),
        ("{\"sockets\": {\"web\": \":80\"}}", 1, "is not an address"),
        (
            "{\"sockets\": {\"web\": \"a b:80\"}}",
            1,
            "is not an address",
        ),
        (
            "{\"sockets\": {\"web\": \"a:66000\"}}",
            1,
            "is not an address",
        ),
    ];
    for (text, line, part) in table {
        let start = format!("reading gangplank.json: line {line}: ");
        refused(
            manifest(&ManifestDir::with("gangplank.json", text).0),
            text,
            &start,
            part,
        );
    }
    let dir = ManifestDir::with("gangplank.json", long);
    refused(
        manifest(&dir.0),
        "long",
        "reading gangplank.json: ",
        "longer than 1048576",
    );
    let dir = ManifestDir::with("gangplank.json", b"{\n\"a\": \"\xff\"}");
    refused(
        manifest(&dir.0),
        "latin",
        "reading gangplank.json: line 2: ",
        "not UTF-8",
    );
}

#[test]
fn only_regular_files_are_read() {
    let dir = ManifestDir::new();
    std::fs::create_dir(dir.0.join("package.json")).unwrap();
    refused(
        package(&dir.0),
        "directory",
        "reading package.json: ",
        "not a regular file",
    );
    rustix::fs::mknodat(
        rustix::fs::CWD,
        dir.0.join("Procfile"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    refused(
        procfile(&dir.0),
        "fifo",
        "reading Procfile: ",
        "not a regular file",
    );
    std::fs::write(dir.0.join("real"), "{}").unwrap();
    std::os::unix::fs::symlink("real", dir.0.join("gangplank.json")).unwrap();
    assert!(manifest(&dir.0).is_ok());

    // What only the server may read stays unread, whatever an installation has put into the release.
    let outside = ManifestDir::with("secret", "web: node\n");
    std::fs::remove_file(dir.0.join("Procfile")).unwrap();
    for target in [outside.0.join("secret"), "../../etc/passwd".into()] {
        std::os::unix::fs::symlink(&target, dir.0.join("Procfile")).unwrap();
        refused(
            procfile(&dir.0),
            "link out",
            "reading Procfile: ",
            "leads out of the release",
        );
        std::fs::remove_file(dir.0.join("Procfile")).unwrap();
    }
}

fn engine(name: &str, version: Option<&str>, on_fail: Option<&str>) -> Engine {
    Engine {
        name: name.into(),
        version: version.map(Into::into),
        on_fail: on_fail.map(Into::into),
    }
}

#[test]
fn packages() {
    let table = [
        ("{}", Package::default()),
        (
            "{\"scripts\": null, \"devEngines\": null, \"packageManager\": null}",
            Package::default(),
        ),
        // What is not needed may be anything, and the last of two counts.
        (
            "{\"name\": 7, \"scripts\": {\"test\": []}, \"scripts\": {\"start\": \"node .\", \"x\": 1}}",
            Package {
                start: Some("node .".into()),
                ..Package::default()
            },
        ),
        (
            "{\"packageManager\": \"pnpm@9.1.0+sha512.abc\"}",
            Package {
                package_manager: Some("pnpm@9.1.0+sha512.abc".into()),
                ..Package::default()
            },
        ),
        (
            "{\"devEngines\": {\"runtime\": 1, \"packageManager\": {\"name\": \"yarn\", \"version\": \"^4\", \"x\": 1}}}",
            Package {
                engines: vec![engine("yarn", Some("^4"), None)],
                ..Package::default()
            },
        ),
        (
            "{\"devEngines\": {\"packageManager\": [{\"name\": \"yarn\"}, {\"name\": \"npm\", \"onFail\": \"warn\"}]}}",
            Package {
                engines: vec![
                    engine("yarn", None, None),
                    engine("npm", None, Some("warn")),
                ],
                ..Package::default()
            },
        ),
    ];
    for (text, expected) in table {
        assert_eq!(
            package(&ManifestDir::with("package.json", text).0),
            Ok(Some(expected)),
            "{text}"
        );
    }
}

#[test]
fn refused_packages() {
    let table = [
        ("", 1, "EOF"),
        (
            "{\n  \"name\": \"x\"\n  \"y\": 1\n}",
            3,
            "expected `,` or `}`",
        ),
        ("[]", 1, "invalid type"),
        (
            "{\n\"packageManager\": 7}",
            2,
            "'packageManager' must be a string",
        ),
        (
            "{\n\"scripts\": {\n\"start\": []}}",
            3,
            "'scripts.start' must be a string",
        ),
        ("{\n\"scripts\": 7}", 2, "invalid type"),
        ("{\"devEngines\": \n\"x\"}", 2, "invalid type"),
        (
            "{\"devEngines\": {\n\"packageManager\": \"npm\"}}",
            2,
            "'devEngines.packageManager'",
        ),
        (
            "{\"devEngines\": {\n\"packageManager\": {}}}",
            2,
            "'devEngines.packageManager'",
        ),
    ];
    for (text, line, part) in table {
        let start = format!("reading package.json: line {line}: ");
        refused(
            package(&ManifestDir::with("package.json", text).0),
            text,
            &start,
            part,
        );
    }
}

#[test]
fn procfiles() {
    let table: &[(&str, &[(&str, &str)])] = &[
        ("", &[]),
        ("# none\n\n", &[]),
        ("web: node server.js", &[("web", "node server.js")]),
        (
            "web:a\r\n  # b\r\n\r\nwork-er_2 :  b: c # d \n",
            &[("web", "a"), ("work-er_2", "b: c # d")],
        ),
    ];
    for (text, expected) in table {
        let found = procfile(&ManifestDir::with("Procfile", text).0)
            .unwrap()
            .unwrap();
        let found = found
            .iter()
            .map(|kind| (&*kind.name, &*kind.line))
            .collect::<Vec<_>>();
        assert_eq!(found, *expected, "{text:?}");
    }
}

#[test]
fn what_is_released_is_not_a_process() {
    let package = r#"{"scripts":{"start":"node ."}}"#;
    let web = ("web", "node .");
    let table = [
        ("web: a\nrelease: b c\n", Some("b c"), vec![("web", "a")]),
        ("release: b\n", Some("b"), vec![web]),
        ("Release: b\n", None, vec![("Release", "b")]),
        ("# nothing\n", None, vec![]),
    ];
    for (text, released, expected) in table {
        let dir = ManifestDir::with("Procfile", text);
        std::fs::write(dir.0.join("package.json"), package).unwrap();
        assert_eq!(release(&dir.0).unwrap().as_deref(), released, "{text:?}");
        let found = processes(&dir.0).unwrap();
        let found: Vec<_> = found.iter().map(|one| (&*one.name, &*one.line)).collect();
        assert_eq!(found, expected, "{text:?}");
    }
}

#[test]
fn refused_procfiles() {
    let long = format!("{}: a", "x".repeat(64));
    let table = [
        ("web", 1, "expected 'type: command'"),
        ("web: a\n\nworker:\n", 3, "'worker' has no command"),
        ("we b: a", 1, "\"we b\" is not a process type"),
        (": a", 1, "\"\" is not a process type"),
        ("../x: a", 1, "is not a process type"),
        (&long, 1, "is not a process type"),
        ("web: a\n# x\nweb: b", 3, "'web' is there twice"),
        ("web: a\nb: \0", 2, "a NUL"),
    ];
    for (text, line, part) in table {
        let start = format!("reading Procfile: line {line}: ");
        refused(
            procfile(&ManifestDir::with("Procfile", text).0),
            text,
            &start,
            part,
        );
    }
}
