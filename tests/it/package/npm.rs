//! Packages of npm's registry.

use std::io::Write;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::Digest as _;

use super::web::{Reply, Web, bytes};
use super::{deploy, everything, fails, is_nowhere, of, set_env, succeeds};
use crate::needs::have;
use crate::test_server::{TempDir, TestServer, gzip, tar};

/// The tarball of a package, as npm makes them.
fn packed(version: &str) -> Vec<u8> {
    let package = json!({
        "name": "pad", "version": version, "scripts": {"prepack": "touch /tmp/gangplank-it-prepack"},
    });
    gzip(&tar(&[
        ("package/package.json", &package.to_string()),
        ("package/index.txt", version),
    ]))
}

/// A registry with `pad` in three versions and `@org/broken`, whose tarball is not what it says.
fn registry(token: Option<&'static str>) -> Web {
    let address = std::sync::Arc::new(std::sync::OnceLock::<String>::new());
    let own = std::sync::Arc::clone(&address);
    let web = Web::start(move |asked| {
        if token.is_some() && asked.authorization.as_deref() != token {
            return Reply::Answer(401, vec![], b"{}".to_vec());
        }
        let one = |name: &str, version: &str, hash: &[u8]| {
            let integrity = format!("sha512-{}", STANDARD.encode(sha2::Sha512::digest(hash)));
            let tarball = format!("http://{}/tar/{name}/{version}.tgz", own.get().unwrap());
            json!({"name": name, "version": version, "dist": {"tarball": tarball, "integrity": integrity}})
        };
        let packument = |name: &str, versions: &[(&str, Vec<u8>)]| {
            let all: serde_json::Map<String, Value> = versions
                .iter()
                .map(|(version, hash)| ((*version).to_owned(), one(name, version, hash)))
                .collect();
            let latest = versions.last().unwrap().0;
            let text = json!({"name": name, "dist-tags": {"latest": latest, "next": versions[0].0}, "versions": all});
            let json = "Content-Type: application/json".to_owned();
            Reply::Answer(200, vec![json], text.to_string().into_bytes())
        };
        match &*asked.path {
            "/pad" => packument(
                "pad",
                &["1.0.0", "1.3.0", "2.0.0"].map(|one| (one, packed(one))),
            ),
            "/@org%2fbroken" => packument("@org/broken", &[("1.0.0", b"other".to_vec())]),
            path if path.starts_with("/tar/") => {
                let version = path.rsplit('/').next().unwrap().trim_end_matches(".tgz");
                bytes(&packed(version))
            }
            _ => Reply::Answer(404, vec![], b"{}".to_vec()),
        }
    });
    address.set(web.address.clone()).unwrap();
    web
}

/// A server whose npm knows this registry, and keeps nothing of other tests.
fn host(home: &TempDir) -> TestServer {
    let environment = [
        ("HOME", home.0.to_str().unwrap()),
        // What is wrong here stays wrong, however long it is waited for.
        ("npm_config_fetch_retry_mintimeout", "10"),
        ("npm_config_fetch_retry_maxtimeout", "10"),
    ];
    TestServer::with(&[], &environment)
}

#[test]
fn a_version_that_the_range_takes_is_deployed() {
    if !have("npm") {
        return;
    }
    let (home, web) = (TempDir::new(), registry(None));
    let host = host(&home);
    set_env(&host, json!({"npm_config_registry": web.url("")}));
    for (package, version) in [
        ("pad", "2.0.0"),
        ("npm:pad@^1.0.0", "1.3.0"),
        ("pad@next", "1.0.0"),
    ] {
        let record = succeeds(&host, package, &[]);
        assert_eq!(super::live(&host), version, "{package}");
        assert_eq!(record["source"]["commit"], version);
        assert_eq!(record["package_identifier"], package);
    }
    let events = deploy(&host, "pad@1.3.0", &[]);
    let lines: Vec<String> = of(&events, "install")
        .iter()
        .map(|line| line["line"].to_string())
        .collect();
    assert!(
        lines.iter().any(|line| line.contains("npm http fetch")),
        "{lines:?}"
    );
    assert!(!std::path::Path::new("/tmp/gangplank-it-prepack").exists());
    for (package, part) in [
        ("none", "404"),
        ("pad@^9", "No matching version"),
        ("@org/broken", ""),
    ] {
        let (code, why) = fails(&host, package, &[], "fetch");
        assert_eq!(code, "fetch_failed", "{why}");
        assert!(
            why.contains("npm: ") && why.contains(part),
            "{package}: {why}"
        );
    }
}

#[test]
fn the_token_of_the_environment_is_the_registrys() {
    if !have("npm") {
        return;
    }
    let (home, web) = (TempDir::new(), registry(Some("Bearer npm_s3cret")));
    let host = host(&home);
    set_env(&host, json!({"npm_config_registry": web.url("")}));
    let (_, why) = fails(&host, "pad", &[], "fetch");
    assert!(why.contains("npm: "), "{why}");
    set_env(&host, json!({"NPM_TOKEN": "npm_s3cret"}));
    succeeds(&host, "pad", &[]);
    assert_eq!(super::live(&host), "2.0.0");
    is_nowhere("npm_s3cret", everything(&host));
    // A user who says what it is for is not spoken over.
    let text = format!("//{}/:_authToken=${{NPM_TOKEN}}\n", web.address);
    std::fs::File::create(home.0.join(".npmrc"))
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    succeeds(&host, "pad@1.0.0", &[]);
}

#[test]
fn a_host_without_the_program_says_so() {
    let dir = TempDir::new();
    let host = TestServer::with(&[], &[("PATH", dir.0.to_str().unwrap())]);
    for (package, program) in [("pad", "npm"), ("git://127.0.0.1:1/x", "git")] {
        let (code, why) = fails(&host, package, &[], "fetch");
        let part = format!("{program} is not installed on the server");
        assert!(code == "fetch_failed" && why.contains(&part), "{why}");
    }
}
