//! Commands for a server and all its peers: `status --peers`, `restart`, `stop` and `start` with `--replicated`, and the file
//! that names the peers.

use std::fs;
use std::net::TcpListener;
use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::ports::nobodys;
use crate::test_server::{TempDir, TestServer, gangplank, gzip, tar};

const NAMES: [&str; 9] = [
    "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
];

/// A server that has its peers from a file.
struct Hosts {
    origin: TestServer,
    peers: Vec<TestServer>,
    _dir: TempDir,
}

impl Hosts {
    fn new(count: usize, more: &str) -> Hosts {
        let peers: Vec<TestServer> = (0..count).map(|_| TestServer::start()).collect();
        let dir = TempDir::new();
        let mut text = "# The peers\n\n".to_owned();
        for (peer, name) in peers.iter().zip(NAMES) {
            fs::write(dir.0.join(name), &peer.token).unwrap();
            // The file of the token is beside this one.
            text += &format!("{name} http://{} {name} # a host\n", peer.address);
        }
        let file = dir.0.join("peers");
        fs::write(&file, text + more).unwrap();
        let origin = TestServer::with(&["--peers-file", file.to_str().unwrap()], &[]);
        Hosts {
            origin,
            peers,
            _dir: dir,
        }
    }

    fn deploy(&self, files: &[(&str, &str)]) {
        let fields = [
            ("project", "demo"),
            ("replicated", "true"),
            ("restart", "auto"),
        ];
        let events = self
            .origin
            .deploy_live(&fields, &gzip(&tar(files)))
            .events();
        assert_eq!(events.last().unwrap().event, "done", "{events:#?}");
    }

    /// The exit code, stdout and stderr of a command.
    fn run(&self, words: &str) -> (Option<i32>, String, String) {
        let words: Vec<&str> = words.split(' ').collect();
        shown(self.origin.cli(&words))
    }

    fn all(&self) -> impl Iterator<Item = &TestServer> {
        std::iter::once(&self.origin).chain(&self.peers)
    }

    /// The process of the component on each host; none where it does not run.
    fn pids(&self) -> Vec<Option<u64>> {
        self.all()
            .map(|host| component(host)["processes"][0]["pid"].as_u64())
            .collect()
    }
}

fn shown(output: Output) -> (Option<i32>, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

fn component(host: &TestServer) -> Value {
    let components = host.operate(&json!({"operation": "get_components"})).json();
    components["components"][0].clone()
}

/// The first two words of each row of the table of hosts.
fn rows(shown: &str) -> Vec<(String, String)> {
    let lines = shown.lines().skip_while(|line| !line.starts_with("HOST "));
    let lines = lines.take_while(|line| !line.starts_with("error"));
    let words = lines.map(|line| line.split_whitespace().map(str::to_owned));
    words
        .filter_map(|mut words| Some((words.next()?, words.next()?)))
        .collect()
}

fn results(shown: &str) -> Vec<String> {
    rows(shown)
        .into_iter()
        .skip(1)
        .map(|(_, result)| result)
        .collect()
}

/// It is healthy at once.
const RUNS: [(&str, &str); 2] = [
    ("./Procfile", "web: sleep 1000\n"),
    ("./gangplank.json", r#"{"health": {"command": "true"}}"#),
];

#[test]
fn status_with_peers_is_one_table_in_which_who_is_off_has_a_row() {
    // Connections to the one are refused, and the other one takes them and says nothing.
    let refusing = nobodys();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let hosts = Hosts::new(1, "");
    hosts.deploy(&RUNS);
    let more = format!(
        "off http://{refusing}\nsilent http://{}\n",
        silent.local_addr().unwrap()
    );
    let with_more = Hosts::new(0, &more);
    with_more
        .origin
        .deploy_live(
            &[("project", "demo"), ("restart", "auto")],
            &gzip(&tar(&RUNS)),
        )
        .events();

    let (code, text, _) = hosts.run("status --peers --output text");
    let table = rows(&text);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(table[0], ("HOST".into(), "REACHABLE".into()), "{text}");
    assert_eq!(table[2], ("two".into(), "yes".into()), "{text}");
    assert_eq!(
        (table.len(), text.matches("  1/1").count()),
        (3, 2),
        "{text}"
    );
    // The same tree is live on both.
    let tree = component(&hosts.origin)["tree"].as_str().unwrap()[..12].to_owned();
    assert_eq!(text.matches(&tree).count(), 2, "{text}");

    let begun = Instant::now();
    let (code, json, shown) = with_more.run("status demo --peers");
    assert_eq!(code, Some(0), "{shown}");
    // One that waited for the silent one as for an answer would take two minutes.
    assert!(begun.elapsed() < Duration::from_secs(60));
    let json: Value = serde_json::from_str(&json).unwrap();
    let found = json["hosts"].as_array().unwrap();
    let reachable: Vec<&Value> = found.iter().map(|host| &host["reachable"]).collect();
    assert_eq!(reachable, [true, false, false], "{json}");
    assert_eq!(found[0]["components"][0]["project"], "demo", "{json}");
    let why = |n: usize| found[n]["error"].as_str().unwrap();
    assert!(
        why(1).contains("refused") && why(2).contains("timed out"),
        "{json}"
    );

    // The exit code is that of `status`: of what should run, on any of the hosts.
    let (code, _, shown) = hosts.run("status nothing --peers");
    assert!(
        code == Some(1) && shown.contains("no component nothing is deployed"),
        "{shown}"
    );
    let admin = hosts.peers[0].cli(&["stop", "demo"]);
    assert_eq!(admin.status.code(), Some(0));
    let (code, text, _) = hosts.run("status demo --peers --output text");
    assert!(code == Some(0) && text.contains("  stopped"), "{text}");
}

#[test]
fn restart_stop_and_start_reach_every_peer_and_end_with_a_table() {
    let mut hosts = Hosts::new(2, "");
    hosts.deploy(&RUNS);
    let before = hosts.pids();
    for words in [
        "restart demo --replicated",
        "restart demo --replicated --rolling",
    ] {
        let (code, json, shown) = hosts.run(words);
        assert_eq!(code, Some(0), "{shown}");
        assert_eq!(results(&shown), ["success"; 3], "{shown}");
        let result: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(
            result["peer_results"].as_array().unwrap().len(),
            2,
            "{json}"
        );
        let record = hosts
            .origin
            .record(result["deployment_id"].as_str().unwrap());
        assert_eq!(
            (&record["kind"], &record["status"]),
            (&json!("restart"), &json!("success"))
        );
        assert_eq!(record["peer_results"], result["peer_results"]);
    }
    let after = hosts.pids();
    assert!(
        before
            .iter()
            .zip(&after)
            .all(|(a, b)| b.is_some() && a != b),
        "{after:?}"
    );

    let (code, json, shown) = hosts.run("stop demo --replicated");
    assert_eq!(
        (code, results(&shown)),
        (Some(0), vec!["success".to_owned(); 3]),
        "{shown}"
    );
    assert!(json.contains("peer_results"), "{json}");
    assert!(hosts.all().all(|host| component(host)["stopped"] == true));
    let (code, _, shown) = hosts.run("start demo --replicated");
    assert_eq!(
        (code, results(&shown)),
        (Some(0), vec!["success".to_owned(); 3]),
        "{shown}"
    );
    assert!(hosts.all().all(|host| component(host)["stopped"] == false));
    // Without a stream it is the same answer.
    let stop = json!({"operation": "stop_component", "project": "demo", "replicated": true});
    let answer = hosts.origin.operate(&stop).json();
    assert_eq!(answer["peer_results"][1]["status"], "success", "{answer}");

    // One that is off is told of, and the others have done it; it may be left behind.
    drop(hosts.peers.pop());
    for word in ["stop", "start", "restart"] {
        let words = format!("{word} demo --replicated");
        let (code, _, shown) = hosts.run(&words);
        assert_eq!(code, Some(1), "{shown}");
        assert!(shown.contains("(replicate_failed)"), "{shown}");
        assert_eq!(
            results(&shown)[..3],
            ["success", "success", "failed"],
            "{shown}"
        );
        let (code, _, shown) = hosts.run(&(words + " --ignore-replication-errors"));
        assert_eq!(code, Some(0), "{shown}");
        assert_eq!(
            results(&shown)[..3],
            ["success", "success", "failed"],
            "{shown}"
        );
        let stopped = word == "stop";
        assert!(
            hosts
                .all()
                .all(|host| component(host)["stopped"] == stopped),
            "{word}"
        );
    }
    // What is not here is asked of nobody.
    let (code, _, shown) = hosts.run("stop nothing --replicated");
    assert!(code == Some(1) && shown.contains("(not_found)"), "{shown}");
}

#[test]
fn a_replicated_operation_takes_the_same_role_and_needs_peers() {
    let hosts = Hosts::new(1, "");
    hosts.deploy(&RUNS);
    let mut add = gangplank();
    add.args(["token", "add", "looks", "--role", "read", "--root"]);
    let (_, made, _) = shown(add.arg(&hosts.origin.root.0).output().unwrap());
    let made = made.trim().to_owned();
    let alone = TestServer::start();
    alone
        .deploy_live(&[("project", "demo")], &gzip(&tar(&RUNS)))
        .events();
    for (word, doing) in [
        ("restart", "restarting"),
        ("stop", "stopping"),
        ("start", "starting"),
    ] {
        let words = [word, "demo", "--replicated"];
        let mut command = hosts.origin.cli_command(&words);
        let (code, _, refused) = shown(command.env("GANGPLANK_TOKEN", &made).output().unwrap());
        assert!(
            code != Some(0) && refused.contains("needs the role 'deploy'"),
            "{refused}"
        );
        let (code, _, refused) = shown(alone.cli(&words));
        let why = format!(
            "error: {doing} demo: this server has no peers to replicate to (replicate_failed)\n"
        );
        assert_eq!((code, refused), (Some(1), why));
    }
    let mut command = hosts.origin.cli_command(&["status", "--peers"]);
    let (code, seen, _) = shown(command.env("GANGPLANK_TOKEN", &made).output().unwrap());
    assert!(code == Some(0) && seen.contains("\"two\""), "{seen}");
    assert!(hosts.pids().iter().all(Option::is_some));
}

#[test]
fn a_peers_file_that_is_wrong_is_refused_at_the_start_with_its_line() {
    let dir = TempDir::new().with(&[("token", "x")]);
    let file = dir.0.join("peers");
    let table = [
        (
            "two http://two token\n\nthree\n",
            ":3: expected NAME URL [TOKEN_FILE [CA_FILE]]",
        ),
        (
            "two http://two\ntwo http://three\n",
            ":2: the peer two was given before",
        ),
        ("one http://one\n", ":1: the peer one was given before"),
        ("# all\nt=o http://two\n", ":2: 't=o' is not a name"),
        ("two http://two lost\n", ":1: "),
    ];
    for (text, why) in table {
        fs::write(&file, text).unwrap();
        let root = dir.0.join("root");
        let mut command = gangplank();
        command.args([
            "serve",
            "--root",
            root.to_str().unwrap(),
            "--peer",
            "one=http://one",
        ]);
        let (code, _, refused) = shown(command.arg("--peers-file").arg(&file).output().unwrap());
        let why = format!("--peers-file {}{why}", file.display());
        assert!(
            code != Some(0) && refused.contains(&why),
            "{text}: {refused}"
        );
        assert!(!root.exists());
    }
}

#[test]
fn a_deployment_on_ten_hosts_ends_with_one_table() {
    let hosts = Hosts::new(9, "");
    let dir = TempDir::new().with(&[("app/v", "1")]);
    let app = dir.0.join("app");
    let words = [
        "deploy",
        app.to_str().unwrap(),
        "--project",
        "demo",
        "--replicated",
        "--progress",
        "plain",
    ];
    let (code, json, text) = shown(hosts.origin.cli(&words));
    assert_eq!(code, Some(0), "{text}");
    let table = rows(&text);
    let names: Vec<&str> = table.iter().skip(2).map(|(name, _)| &**name).collect();
    assert_eq!(names, NAMES, "{text}");
    assert_eq!(results(&text), ["success"; 10], "{text}");
    assert_eq!(text.matches("RESULT").count(), 1, "{text}");
    let lines = text.lines().skip_while(|line| !line.starts_with("HOST "));
    assert!(
        lines.clone().count() == 11 && lines.clone().all(|line| line.len() <= 80),
        "{text}"
    );
    let result: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        result["peer_results"].as_array().unwrap().len(),
        9,
        "{json}"
    );

    let (code, text, _) = hosts.run("status demo --peers --output text");
    let table = rows(&text);
    assert_eq!((code, table.len()), (Some(0), 11), "{text}");
    assert!(
        table
            .iter()
            .skip(1)
            .all(|(_, reachable)| reachable == "yes"),
        "{text}"
    );
    assert!(text.lines().all(|line| line.len() <= 80), "{text}");
}
