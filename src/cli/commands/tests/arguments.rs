//! What the arguments of each command mean, and what is refused.

use super::*;
use crate::cli::screen::OutputFormat;
use crate::engine::peers::PeerOptions;
use crate::engine::settings::Listen;
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

fn with(environment: &[(&str, &str)], words: &[&str]) -> Result<Command, Usage> {
    let environment = |name: &str| {
        let found = environment.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    parse(words.iter().map(OsString::from).collect(), &environment)
}

fn line(text: &str) -> Result<Command, Usage> {
    with(&[], &text.split_whitespace().collect::<Vec<_>>())
}

fn deploy(text: &str) -> (ClientOptions, deploy::DeployOptions) {
    let words = text.split_whitespace().skip(1).map(OsString::from);
    let mut line = CommandLine::new(words.collect());
    let mut options = crate::cli::arguments::client(&mut line).unwrap();
    let deploy = deploy::read(line, &mut options).unwrap();
    (options, deploy)
}

#[test]
fn what_is_wrong_is_named() {
    let table = [
        ("", "no command"),
        ("nope", "\"nope\"; `gangplank help` lists them"),
        ("deplyo", "did you mean deploy?"),
        ("--target prod list", "the command comes first"),
        ("--target=prod list", "the command comes first"),
        ("flag", "unknown command \"flag\""),
        ("help rollbakc", "did you mean rollback?"),
        ("env lst", "unknown env command \"lst\"; did you mean list?"),
        ("env nope", "it is one of: list, get, set, unset"),
        ("env", "env needs one of: list, get, set, unset"),
        ("token ad", "did you mean add?"),
        ("token", "token needs one of: add, list, revoke"),
        ("help nope", "\"nope\""),
        ("help list more", "\"more\""),
        ("--nope", "--nope"),
        ("--version more", "\"more\""),
        ("list --nope", "--nope"),
        ("list --nope=hunter2", "unknown flag --nope"),
        ("list more", "\"more\""),
        ("list --limit x", "--limit \"x\""),
        (
            "list --status live",
            "--status \"live\": not a status of a deployment; expected one of pending, fetching",
        ),
        ("list --limit -1", "--limit \"-1\""),
        ("list --limit", "--limit needs"),
        ("list --project a --project b", "--project"),
        ("list --output xml", "--output \"xml\""),
        ("list --progress loud", "--progress \"loud\""),
        ("list --retry-for soon", "--retry-for \"soon\""),
        ("list --token a --token-file b", "cannot go together"),
        ("watch a b", "\"b\""),
        ("op", "NAME"),
        ("op a b", "\"b\""),
        ("op a operation=b", "operation="),
        ("op a b=1 b=2", "b= was given twice"),
        ("op a skip_symlinks=false", "skip_symlinks"),
        ("op a json=yes", "json=yes"),
        ("deploy a b", "\"b\""),
        ("deploy --wait=yes", "--wait"),
        ("rollback a b", "\"b\""),
        ("rollback a.b", "PROJECT \"a.b\""),
        ("rollback a --to b.c", "--to \"b.c\""),
        ("rollback a --restart=down", "--restart \"down\""),
        ("rollback a --nope", "--nope"),
        ("cancel a.b", "ID \"a.b\""),
        (
            "payload a.b",
            "ID \"a.b\": neither a deployment's id or its first 8",
        ),
        ("payload --delete", "ID is missing"),
        ("payload a --out b --delete", "cannot go together"),
        ("payload a --out", "--out needs"),
        ("status a b", "\"b\""),
        ("status --rolling", "--rolling"),
        ("restart a --rolling=x", "--rolling"),
        ("drop a --restart", "--restart"),
        ("logs a --lines few", "--lines \"few\""),
        ("sync a", "--from"),
        ("sync --from a b c", "\"c\""),
        ("deploy --level 10", "--level \"10\""),
        ("deploy --level", "--level needs"),
        ("deploy --restart=sideways", "--restart \"sideways\""),
        ("deploy --restart --restart=rolling", "twice"),
        ("deploy --restart --no-restart", "cannot go together"),
        ("deploy --install-timeout 0", "--install-timeout \"0\""),
        ("deploy --install-timeout 1d", "--install-timeout \"1d\""),
        ("deploy --idempotency-key \u{e4}", "--idempotency-key"),
        ("deploy payload=x", "payload="),
        ("deploy skip_symlinks=1", "skip_symlinks=1"),
        ("deploy skip_node_modules=1", "skip_node_modules=1"),
        ("deploy . deployment_id=x", "deployment_id="),
        ("serve --peer a", "--peer"),
        ("serve --peer a=b --peer a=c", "twice"),
        ("serve --peer a=b --peer-ca c=d", "no --peer has that name"),
        ("serve --sync-from a", "no --peer has that name"),
        ("deploy --wat", "unknown flag --wat; did you mean --wait?"),
        ("deploy --restrat=rolling", "did you mean --restart?"),
        ("serve --max-deploy 3", "did you mean --max-deploys?"),
        ("list --tokn x", "did you mean --token?"),
        ("list more", "unexpected argument \"more\""),
        ("watch a.b", "ID or PROJECT \"a.b\": neither"),
        ("env unset", "KEY is missing"),
        ("env set", "KEY=VALUE or --from is missing"),
        ("env set a", "KEY=VALUE or --from is missing"),
        ("env set a.b A=1", "PROJECT \"a.b\""),
        ("env set A=1 hunter2", "has no '='"),
        ("env set --from - --token-file -", "cannot both be stdin"),
        ("env list a b", "\"b\""),
        ("env list a --project b", "\"a\""),
        ("serve --tls-cert c", "--tls-key"),
        ("serve more", "\"more\""),
        ("serve --listen 9925", "--listen \"9925\""),
        ("serve --listen h:", "port"),
        ("serve --listen h:65536", "port"),
        ("serve --listen ::1:80", "--listen"),
        ("serve --listen [::g]:80", "--listen"),
        ("serve --listen unix:", "path"),
        ("serve --max-deploys 0", "--max-deploys \"0\""),
        ("serve --max-payload 2T", "--max-payload \"2T\""),
        ("serve --max-payload 0", "--max-payload \"0\""),
        ("serve --max-payload 99999999999999999999", "--max-payload"),
        ("serve --min-free-disk 20000000000G", "--min-free-disk"),
        ("serve --max-json-body K", "--max-json-body \"K\""),
        ("serve --max-entries 0", "--max-entries"),
        ("serve --max-connections 0", "--max-connections"),
        ("serve --keep-releases 0", "--keep-releases"),
        ("serve --keep-payloads 0", "--keep-payloads"),
        ("serve --keep-deployments +1", "--keep-deployments"),
        ("serve --install-timeout 0s", "--install-timeout"),
        ("serve --grace -1", "--grace"),
    ];
    for (text, part) in table {
        let refused = line(text).expect_err(text).to_string();
        assert!(refused.contains(part), "{text}: {refused}");
        assert!(!refused.contains("hunter2"), "{refused}");
    }
}

#[test]
fn help_has_an_example_for_each_command() {
    let words = COMMANDS.iter().flat_map(|command| command.words);
    for command in words {
        for text in [
            format!("{command} --help"),
            format!("{command} -h"),
            format!("help {command}"),
        ] {
            let Ok(Command::Help(help)) = line(&text) else {
                panic!("{text}")
            };
            assert!(help.contains("\nexample:\n"), "{text}");
            // A terminal of 80 columns and 24 rows, of which the prompt takes one. `serve` has too many flags for that.
            let wide = help.lines().find(|line| line.chars().count() > 80);
            assert_eq!(wide, None, "{text}");
            let rows = help.lines().count();
            assert!(rows < 24 || *command == "serve", "{text} has {rows} lines");
        }
    }
    assert!(matches!(line("help flag"), Ok(Command::Help(_))));
    let Ok(Command::Help(flags)) = line("help flags") else {
        panic!("no help of the flags")
    };
    assert!(flags.contains("--token-file") && flags.lines().all(|line| line.len() <= 80));
    assert!(flags.lines().count() < 24);
    for text in ["help", "--help", "-h"] {
        assert!(matches!(line(text), Ok(Command::Help(help)) if help.contains("watch ID|PROJECT")));
    }
    let Ok(Command::Help(all)) = line("help") else {
        panic!("no help")
    };
    let rows = all
        .lines()
        .filter(|row| row.starts_with("  ") && !row.contains("  1 "));
    let rows = rows.take(super::super::COMMANDS.len());
    for row in rows {
        // What a command is called is not run into by what it does.
        assert!(row.len() <= 80 && row.get(24..26) == Some("  "), "{row}");
    }
    let version = format!("gangplank {}\n", env!("CARGO_PKG_VERSION"));
    assert!(matches!(line("--version"), Ok(Command::Help(text)) if text == version));
}

#[test]
fn a_deploy_with_flags() {
    let (_, options) = deploy(
        "deploy ./x --project p --restart=rolling --install-command make --install-timeout 5m --allow-scripts --fresh-install \
         --no-activate --include-node-modules --include-git --idempotency-key k --level 9 --replicated \
         --ignore-replication-errors --include-env --ignore-file f --yes",
    );
    assert_eq!(
        json!(options.fields),
        json!({
            "project": "p", "restart": "rolling", "install_command": "make",
            "install_timeout": 300_000, "install_allow_scripts": true, "fresh_install": true, "activate": false, "replicated": true,
            "ignore_replication_errors": true,
        })
    );
    assert_eq!(options.dir, Some(PathBuf::from("./x")));
    assert!(options.include_node_modules && options.include_git && options.packs());
    assert!(options.include_env && options.yes);
    assert_eq!(options.ignore_file, Some(PathBuf::from("f")));
    assert_eq!(
        (options.idempotency_key.as_deref(), options.level),
        (Some("k"), Some(9))
    );
    let table = [
        ("deploy", json!("auto")),
        ("deploy --no-restart", json!(false)),
        ("deploy --restart=auto", json!("auto")),
        ("deploy restart=rolling", json!("rolling")),
        ("deploy --no-activate", json!(null)),
        ("deploy activate=false", json!(null)),
    ];
    for (text, restart) in table {
        let (_, options) = deploy(text);
        let found = options.fields.get("restart").cloned();
        assert_eq!(found.unwrap_or_default(), restart, "{text}");
    }
    let (_, bare) = deploy("deploy_component --restart .");
    assert_eq!(bare.fields["restart"], json!(true));
    assert_eq!((bare.dir, bare.level), (Some(PathBuf::from(".")), None));
}

#[test]
fn a_deploy_with_words() {
    let (options, deploy) = deploy(
        "deploy project=123 restart=true install_timeout=500 install_command=true target=h username=u password=p \
         rejectUnauthorized=false json=true skip_node_modules=false skip_symlinks=false --project flag other=a=b",
    );
    assert_eq!(
        json!(deploy.fields),
        json!({
            "project": "flag", "restart": true, "install_timeout": 500,
            "install_command": "true", "other": "a=b",
        })
    );
    assert!(deploy.include_node_modules && options.insecure && !deploy.skip_symlinks);
    assert_eq!(options.target.as_deref(), Some("h"));
    assert_eq!(options.username.as_deref(), Some("u"));
    assert_eq!(options.password.unwrap().reveal(), "p");
    assert_eq!(options.output, OutputFormat::Json);
}

#[test]
fn a_word_of_harpers_leaves_links_out() {
    let (_, deploy) = deploy("deploy skip_symlinks=true");
    assert!(deploy.skip_symlinks && !deploy.fields.contains_key("skip_symlinks"));
}

#[test]
fn flags_are_stronger_than_words_and_paths_may_hold_equals_signs() {
    let (options, deploy) = deploy("deploy ./a=b json=true target=w --output yaml --target f");
    assert_eq!(options.output, OutputFormat::Yaml);
    assert_eq!(options.target.as_deref(), Some("f"));
    assert_eq!(deploy.dir, Some(PathBuf::from("./a=b")));
}

#[test]
fn operations_by_their_arguments() {
    let id = "01976e6c-1c2b-7000-8000-000000000000";
    let operations = [
        (
            "list --project p --status failed --limit 5",
            json!({"operation": "list_deployments", "project": "p", "status": "failed", "limit": 5}),
        ),
        ("list", json!({"operation": "list_deployments"})),
        (
            "show ID",
            json!({"operation": "get_deployment", "deployment_id": id}),
        ),
        (
            "show -- ID",
            json!({"operation": "get_deployment", "deployment_id": id}),
        ),
        (
            "op get_logs project=p lines=5 follow=true",
            json!({"operation": "get_logs", "project": "p", "lines": 5, "follow": true}),
        ),
        ("op x -- a=-b", json!({"operation": "x", "a": "-b"})),
        (
            "rollback p --to ID --restart=rolling",
            json!({"operation": "rollback_component", "project": "p", "deployment_id": id, "restart": "rolling"}),
        ),
        (
            "rollback p",
            json!({"operation": "rollback_component", "project": "p", "restart": "auto"}),
        ),
        (
            "rollback p --no-restart",
            json!({"operation": "rollback_component", "project": "p"}),
        ),
        (
            "rollback --restart p",
            json!({"operation": "rollback_component", "project": "p", "restart": true}),
        ),
        (
            "cancel ID",
            json!({"operation": "cancel_deployment", "deployment_id": id}),
        ),
        (
            "payload ID --delete",
            json!({"operation": "delete_deployment_payload", "deployment_id": id}),
        ),
        (
            "restart p --rolling",
            json!({"operation": "restart_component", "project": "p", "rolling": true}),
        ),
        (
            "sync --from peer",
            json!({"operation": "sync", "from": "peer"}),
        ),
        (
            "sync p --from peer",
            json!({"operation": "sync", "from": "peer", "project": "p"}),
        ),
    ];
    for (text, expected) in operations {
        let Ok(Command::Client(_, Job::Operation(call))) = line(&text.replace("ID", id)) else {
            panic!("{text}")
        };
        assert_eq!(json!(call.fields()), expected, "{text}");
    }
    for text in [
        "logs p --follow --lines 7",
        "payload ID --out f",
        "status p",
        "status",
        "watch p",
        "watch ID",
        "watch",
        "show latest",
        "cancel 01976e6c",
        "cancel",
        "restart",
        "env set A=1",
        "env get",
        "env unset A",
        "rollback p --to latest",
        "deploy --wait",
    ] {
        let command = line(&text.replace("ID", id));
        assert!(
            matches!(command, Ok(Command::Client(_, Job::Run(_)))),
            "{text}"
        );
    }
    assert!(deploy("deploy --wait").1.wait && !deploy("deploy").1.wait);
    assert_eq!(
        deploy("deploy -- --odd").1.dir,
        Some(PathBuf::from("--odd"))
    );
}

fn serve(environment: &[(&str, &str)], text: &str) -> Result<ServeOptions, Usage> {
    let words: Vec<&str> = text.split_whitespace().collect();
    match with(environment, &words)? {
        Command::Serve(options) => Ok(*options),
        other => panic!("{other:?}"),
    }
}

#[test]
fn peers_by_flags_and_by_variables() {
    let peer = |name: &str, url: &str, token: Option<&str>, ca: Option<&str>| PeerOptions {
        name: name.into(),
        url: url.into(),
        token_file: token.map(PathBuf::from),
        ca: ca.map(PathBuf::from),
    };
    let flags = "serve --peer two=http://2 --peer=three=https://3:1 --peer-token-file two=/t --peer-ca three=/c --sync-from two";
    let options = serve(&[("GANGPLANK_PEER", "x=y")], flags).unwrap();
    let expected = [
        peer("two", "http://2", Some("/t"), None),
        peer("three", "https://3:1", None, Some("/c")),
    ];
    assert_eq!(options.peers, expected);
    assert_eq!(options.sync_from.as_deref(), Some("two"));
    let variables = [
        ("GANGPLANK_PEER", "a=b, c=d"),
        ("GANGPLANK_PEER_TOKEN_FILE", "c=/t"),
    ];
    let options = serve(&variables, "serve").unwrap();
    assert_eq!(
        options.peers,
        [peer("a", "b", None, None), peer("c", "d", Some("/t"), None)]
    );
}

#[test]
fn the_server_by_flags_by_variables_and_by_default() {
    let options = serve(&[("GANGPLANK_GRACE", "")], "serve").unwrap();
    let cores = options.max_deploys;
    assert!(cores > 0);
    let expected = ServeOptions {
        root: None,
        listen: Vec::new(),
        take_over: false,
        tls: None,
        max_deploys: cores,
        max_payload: None,
        max_json_body: 8 << 20,
        min_free_disk: 64 << 20,
        max_entries: 1_000_000,
        max_connections: 256,
        keep_releases: 5,
        keep_payloads: 5,
        keep_deployments: 200,
        install_timeout: Duration::from_secs(3600),
        spare: true,
        run_as: None,
        privileged_sockets: true,
        grace: Duration::from_secs(10),
        peers: Vec::new(),
        replicate_timeout: Duration::from_secs(600),
        sync_from: None,
        notify: Vec::new(),
        notify_secret_file: None,
        fleet: None,
    };
    assert_eq!(options, expected);
    let variables = [
        ("GANGPLANK_ROOT", "/r"),
        ("GANGPLANK_LISTEN", "[::1]:0, unix:/s"),
        ("GANGPLANK_MAX_PAYLOAD", "2G"),
        ("GANGPLANK_GRACE", "1m"),
        ("GANGPLANK_NO_PRIVILEGED_SOCKETS", "true"),
    ];
    let options = serve(
        &variables,
        "serve --max-payload 3k --min-free-disk=0 --grace 0",
    )
    .unwrap();
    assert_eq!(options.root, Some(PathBuf::from("/r")));
    assert_eq!(
        options.listen,
        [Listen::Tcp("[::1]:0".into()), Listen::Unix("/s".into())]
    );
    assert_eq!(
        (options.max_payload, options.min_free_disk),
        (Some(3072), 0)
    );
    assert_eq!(options.grace, Duration::ZERO);
    assert!(!options.privileged_sockets);
    let options = serve(&[], "serve --no-privileged-sockets").unwrap();
    assert!(!options.privileged_sockets && options.spare);
    assert!(!serve(&[], "serve --no-spare").unwrap().spare);
    let options = serve(
        &variables,
        "serve --root /x --listen localhost:1 --listen 0.0.0.0:2",
    )
    .unwrap();
    assert_eq!(options.root, Some(PathBuf::from("/x")));
    assert_eq!(
        options.listen,
        [
            Listen::Tcp("localhost:1".into()),
            Listen::Tcp("0.0.0.0:2".into())
        ]
    );
    let refused = serve(&[("GANGPLANK_MAX_DEPLOYS", "many")], "serve")
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("GANGPLANK_MAX_DEPLOYS \"many\""),
        "{refused}"
    );
}
