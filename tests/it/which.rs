//! Which deployment and which component are meant: by the beginning of an id, by `latest`, by a component, and by the
//! directory that a command is given in.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use crate::test_server::{TempDir, TestServer};

/// A directory with a component that its manifest names.
fn app(name: &str) -> TempDir {
    let manifest = json!({"project": name}).to_string();
    TempDir::new().with(&[("a.txt", "a"), ("gangplank.json", &manifest)])
}

fn run(host: &TestServer, dir: &Path, words: &[&str]) -> (i32, String, String) {
    let output = host.cli_command(words).current_dir(dir).output().unwrap();
    let Output {
        status,
        stdout,
        stderr,
    } = output;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

fn deploy(host: &TestServer, dir: &Path) -> String {
    let (code, out, said) = run(host, dir, &["deploy"]);
    assert_eq!(code, 0, "{said}");
    let result: Value = serde_json::from_str(&out).unwrap();
    result["deployment_id"].as_str().unwrap().to_owned()
}

#[test]
fn a_deployment_by_the_beginning_of_its_id_by_its_component_and_as_the_latest() {
    let host = TestServer::start();
    let (one, two) = (app("one"), app("two"));
    let mut of_one = vec![deploy(&host, &one.0)];
    of_one.push(deploy(&host, &one.0));
    // Two of three in a row begin alike, since a beginning holds for a minute.
    of_one.push(deploy(&host, &one.0));
    let of_two = deploy(&host, &two.0);
    let shown = |dir: &Path, words: &[&str]| {
        let (code, out, said) = run(&host, dir, &[&["show"], words].concat());
        assert_eq!(code, 0, "{words:?}: {said}");
        let record: Value = serde_json::from_str(&out).unwrap();
        record["deployment_id"].as_str().unwrap().to_owned()
    };
    let nowhere = Path::new("/");
    for id in of_one.iter().chain([&of_two]) {
        assert_eq!(shown(nowhere, &[id]), *id);
        assert_eq!(shown(nowhere, &[&id[..23]]), *id);
    }
    assert_eq!(shown(nowhere, &["one"]), of_one[2]);
    assert_eq!(shown(nowhere, &["latest"]), of_two);
    assert_eq!(shown(&one.0, &[]), of_one[2]);
    assert_eq!(shown(&one.0, &["two"]), of_two);
    let alike = of_one.windows(2).find(|two| two[0][..8] == two[1][..8]);
    let alike = alike.expect("a beginning holds for a minute");
    let (code, out, said) = run(&host, nowhere, &["show", &alike[0][..8]]);
    assert_eq!((code, &*out), (1, ""));
    assert!(
        alike
            .iter()
            .all(|id| said.contains(&format!("  {id}  one  success\n"))),
        "{said}"
    );
    // A component that is called as an id begins makes that beginning mean two.
    let twin = app(&of_two[..23]);
    let of_twin = deploy(&host, &twin.0);
    assert_eq!(shown(&twin.0, &["latest"]), of_twin);
    let (code, _, said) = run(&host, nowhere, &["show", &of_two[..23]]);
    assert_eq!(code, 1);
    assert!(said.contains(&of_two) && said.contains(&of_twin), "{said}");
    assert_eq!(shown(nowhere, &[&of_two[..24]]), of_two);
    // What changes something says what it was done to, and takes no newest of several components.
    let to = &of_one[0];
    let (code, _, said) = run(&host, nowhere, &["rollback", "one", "--to", &to[..23]]);
    assert_eq!(code, 0, "{said}");
    assert!(
        said.contains(&format!("{} is deployment {to} of one\n", &to[..23])),
        "{said}"
    );
    let (code, _, said) = run(&host, nowhere, &["cancel", "two"]);
    assert_eq!(code, 1, "{said}");
    assert!(
        said.starts_with(&format!("the newest deployment of two is {of_two}\n")),
        "{said}"
    );
    for words in [
        &["cancel", "latest"][..],
        &["payload", "latest", "--delete"],
    ] {
        let (code, _, said) = run(&host, nowhere, words);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains("name the one that is meant"), "{said}");
    }
    let (code, _, said) = run(
        &host,
        &one.0,
        &["deploy", &format!("deployment_id={}", &of_one[1][..23])],
    );
    assert_eq!(code, 0, "{said}");
    let live = fs::read_link(host.path("components/one")).unwrap();
    assert_eq!(live.file_name().unwrap().to_str().unwrap(), of_one[1]);
    let out = one.0.join("out.tgz");
    let (code, _, said) = run(
        &host,
        nowhere,
        &["payload", "two", "--out", out.to_str().unwrap()],
    );
    assert_eq!((code, out.exists()), (0, true), "{said}");
    let (code, _, said) = run(&host, nowhere, &["watch", &of_two[..24]]);
    assert_eq!(code, 0, "{said}");
    let (code, _, said) = run(&host, &two.0, &["watch"]);
    assert_eq!(code, 0, "{said}");
    let (code, _, said) = run(&host, nowhere, &["show", "0000000"]);
    assert_eq!(code, 1);
    assert!(
        said.contains("the beginning of an id needs 8 characters or more"),
        "{said}"
    );
}

#[test]
fn the_directory_says_which_component_is_meant() {
    let host = TestServer::start();
    let dir = app("mine").with(&[("Procfile", "web: exec sleep 1000\n")]);
    deploy(&host, &dir.0);
    deploy(&host, &dir.0);
    let good = |words: &[&str]| {
        let (code, out, said) = run(&host, &dir.0, words);
        assert_eq!(code, 0, "{words:?}: {said}");
        out
    };
    for words in [
        &["stop"][..],
        &["start"],
        &["restart"],
        &["logs"],
        &["watch"],
        &["show"],
        &["rollback"],
        &["env", "set", "PORT=1", "HOST=h"],
        &["env", "list"],
        &["env", "unset", "HOST"],
    ] {
        good(words);
    }
    assert_eq!(good(&["env", "get", "PORT"]), "1\n");
    assert_eq!(good(&["env", "get"]), good(&["env", "get", "mine"]));
    assert_eq!(good(&["env", "get", "--project", "mine", "PORT"]), "1\n");
    // A word in small letters is a component, and an empty answer would be no hint that it is not.
    let (code, out, said) = run(&host, &dir.0, &["env", "get", "port"]);
    assert_eq!(
        (code, &*out, &*said),
        (0, "", "the environment of port is empty\n")
    );
    // `status` is of all, here too.
    let other = app("other");
    deploy(&host, &other.0);
    let all: Value = serde_json::from_str(&good(&["status"])).unwrap();
    assert_eq!(all["components"].as_array().unwrap().len(), 2);
    // Where nobody says it, it is asked for.
    for words in [
        &["stop"][..],
        &["show"],
        &["watch"],
        &["drop"],
        &["env", "get"],
        &["env", "unset", "A"],
    ] {
        let (code, _, said) = run(&host, Path::new("/"), words);
        assert_eq!(code, 2, "{words:?}: {said}");
        assert!(
            said.contains("there is no gangplank.json here that names one"),
            "{said}"
        );
    }
    for (dir, why) in [(Path::new("/"), "KEY or PROJECT is"), (&dir.0, "KEY is")] {
        let (code, _, said) = run(&host, dir, &["env", "unset", "mine"]);
        assert_eq!(code, 2);
        assert!(said.contains(&format!("{why} missing")), "{said}");
    }
    // What removes something is named, or meant by a flag.
    let (code, _, said) = run(&host, &dir.0, &["drop"]);
    assert_eq!(code, 2);
    assert!(
        said.contains("nothing was dropped: gangplank.json names mine"),
        "{said}"
    );
    let (code, _, said) = run(&host, &dir.0, &["payload", "--delete"]);
    assert_eq!(code, 2);
    assert!(said.contains("ID is missing"), "{said}");
    assert!(host.path("components/mine").exists());
    good(&["drop", "--yes"]);
    assert!(!host.path("components/mine").exists());
    fs::write(dir.0.join("gangplank.json"), "{\"project\": \"a.b\"}").unwrap();
    let (code, _, said) = run(&host, &dir.0, &["stop"]);
    assert_eq!(code, 2);
    assert!(
        said.contains("gangplank.json: \"a.b\" is not a valid project name"),
        "{said}"
    );
}
