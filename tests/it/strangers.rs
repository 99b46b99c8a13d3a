//! Who may ask, and what a stranger learns: pages in a browser, tokens of other components, bodies that cost memory.

use std::fs;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::test_server::{Answer, TestServer, await_some, component, form, gangplank, request};

/// A token of the server's root, with a role and perhaps for some components alone.
pub(crate) fn token(host: &TestServer, name: &str, role: &str, projects: &[&str]) -> String {
    let mut command = gangplank();
    command.args(["token", "add", name, "--role", role, "--root"]);
    command.arg(&host.root.0);
    for project in projects {
        command.args(["--project", project]);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn ask(host: &TestServer, token: &str, operation: &Value) -> Answer {
    let authorization = format!("Authorization: Bearer {token}");
    let headers = [authorization.as_str(), "Content-Type: application/json"];
    host.ask_as_anyone("POST", "/", &headers, operation.to_string().as_bytes())
}

/// What a browser sends of a form on a page: the heads of Chromium and Firefox, for one case each.
#[test]
fn a_page_of_another_site_cannot_use_the_password_that_a_browser_keeps() {
    let host = TestServer::start();
    let basic = format!(
        "Authorization: Basic {}",
        STANDARD.encode(format!("admin:{}", host.token))
    );
    let marker = host.path("marker");
    let command = format!("touch {}", marker.display());
    let fields = [("project", "a"), ("install_command", command.as_str())];
    let (media, body) = form(&fields, &component());
    let own = &host.address;
    let name = format!("localhost:{}", own.rsplit(':').next().unwrap());
    let ask = |host_header: &str, heads: &[String]| {
        let heads = heads.join("\r\n");
        let length = body.len();
        let head = format!(
            "POST / HTTP/1.1\r\nHost: {host_header}\r\n{basic}\r\n{media}\r\nUser-Agent: Mozilla/5.0 (X11)\r\n\
             Content-Length: {length}\r\n{heads}\r\n\r\n"
        );
        // Without further heads there is one line end too many.
        let head = head.replace("\r\n\r\n\r\n", "\r\n\r\n");
        early(&host, &[head.as_bytes(), &body].concat())
    };
    let site = |site: &str| format!("Sec-Fetch-Site: {site}");
    let origin = |origin: &str| format!("Origin: {origin}");
    let refused = [
        // A form on another site, in browsers that say both, and in those that say one.
        vec![origin("https://evil.example"), site("cross-site")],
        vec![origin("https://evil.example")],
        vec![site("cross-site")],
        // Out of a file, a sandbox, or after a redirect.
        vec![origin("null"), site("cross-site")],
        vec![origin("null")],
        // Another port of the same machine, another name for it, and another scheme's port.
        vec![origin("http://127.0.0.1:1"), site("same-site")],
        vec![origin("http://127.0.0.1:1")],
        vec![origin(&format!("http://{name}"))],
        vec![origin("https://127.0.0.1")],
        vec![site("same-site")],
        vec![site("")],
        // What a page cannot send, but a careless program.
        vec![origin(&format!("http://{own}")), site("cross-site")],
        vec![site("SAME-ORIGIN")],
    ];
    for heads in &refused {
        let answer = ask(own, heads);
        let (code, message) = answer.refusal();
        assert_eq!(
            (answer.status, code.as_str()),
            (403, "forbidden"),
            "{heads:?}"
        );
        assert!(message.contains("another site"), "{message}");
        assert!(!marker.exists(), "{heads:?}");
    }
    let allowed = [
        (own, vec![]),
        (own, vec![site("none")]),
        (
            own,
            vec![origin(&format!("http://{own}")), site("same-origin")],
        ),
        (own, vec![origin(&format!("http://{own}"))]),
        (
            &name,
            vec![origin(&format!("HTTP://{}", name.to_uppercase()))],
        ),
    ];
    for (host_header, heads) in &allowed {
        let answer = ask(host_header, heads);
        assert_eq!(answer.status, 200, "{heads:?}: {}", answer.text());
        fs::remove_file(&marker).unwrap();
    }
    // Watching, too, and on the unix socket behind a proxy.
    for path in ["/deployments/latest/events", "/health", "/nowhere"] {
        let headers = [basic.as_str(), "Sec-Fetch-Site: cross-site"];
        assert_eq!(
            host.ask_as_anyone("GET", path, &headers, b"").status,
            403,
            "{path}"
        );
    }
    let mut local =
        std::os::unix::net::UnixStream::connect(host.path("run/gangplank.sock")).unwrap();
    let ask = request("POST", "/", &[&media, "Origin: http://evil.example"], &body);
    std::io::Write::write_all(&mut local, &ask).unwrap();
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut local, &mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
}

#[test]
fn a_browser_is_not_asked_for_a_password_that_it_would_keep() {
    let host = TestServer::start();
    let table: [(&[&str], bool); 6] = [
        (&[], true),
        (&["User-Agent: curl/8.5.0"], true),
        (
            &["User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36"],
            false,
        ),
        (&["Sec-Fetch-Site: none", "Sec-Fetch-Mode: navigate"], false),
        (&["Sec-Fetch-Mode: cors"], false),
        (&["Origin: http://test"], false),
    ];
    for (headers, basic) in table {
        for path in ["/", "/deployments/latest/events"] {
            let method = if path == "/" { "POST" } else { "GET" };
            let answer = host.ask_as_anyone(method, path, headers, b"");
            assert_eq!(answer.status, 401, "{headers:?}");
            let ways = answer.header("WWW-Authenticate").unwrap();
            assert!(ways.starts_with("Bearer "), "{ways}");
            assert_eq!(ways.contains("Basic"), basic, "{headers:?}: {ways}");
        }
    }
    let wrong = ["Authorization: Bearer wrong", "Sec-Fetch-Site: none"];
    let answer = host.ask_as_anyone("POST", "/", &wrong, b"");
    assert_eq!(answer.refusal().1, "Login failed");
    assert!(!answer.head.contains("Basic"), "{}", answer.head);
}

#[test]
fn a_limited_token_does_not_learn_what_else_there_is() {
    let host = TestServer::start();
    let deployed = |project: &str| {
        let answer = host.deploy(&[("project", project)], &component());
        answer.json()["deployment_id"].as_str().unwrap().to_owned()
    };
    let own = deployed("mine");
    let theirs = deployed("theirs");
    let unknown = {
        let mut id = theirs.clone();
        id.replace_range(id.len() - 6.., "000000");
        id
    };
    for role in ["read", "deploy", "admin"] {
        let limited = token(&host, &format!("limited-{role}"), role, &["mine"]);
        // The same answer for what is somebody else's and for what there is not, but for the name.
        let same = |theirs_asked: &Value, unknown_asked: &Value| {
            let (a, b) = (
                ask(&host, &limited, theirs_asked),
                ask(&host, &limited, unknown_asked),
            );
            assert_eq!(a.status, b.status, "{theirs_asked}");
            let plain = |answer: &Answer| {
                let text = answer.text();
                text.replace(&theirs, "ID")
                    .replace(&unknown, "ID")
                    .replace("theirs", "none")
            };
            assert_eq!(plain(&a), plain(&b), "{theirs_asked}");
            if a.status != 403 {
                assert_eq!(a.refusal().0, "not_found", "{theirs_asked}");
            }
        };
        for operation in [
            "get_deployment",
            "cancel_deployment",
            "get_deployment_payload",
            "get_tree",
            "get_objects",
            "delete_deployment_payload",
        ] {
            let asked =
                |id: &str| json!({"operation": operation, "deployment_id": id, "objects": "all"});
            same(&asked(&theirs), &asked(&unknown));
        }
        for operation in [
            "deploy_component",
            "rollback_component",
            "restart_component",
            "stop_component",
            "start_component",
            "drop_component",
            "get_logs",
        ] {
            let asked = |project: &str| json!({"operation": operation, "project": project});
            same(&asked("theirs"), &asked("none"));
        }
        // Of its own component, to the release of another one.
        for operation in ["deploy_component", "rollback_component"] {
            let asked =
                |id: &str| json!({"operation": operation, "project": "mine", "deployment_id": id});
            same(&asked(&theirs), &asked(&unknown));
        }
        let authorization = format!("Authorization: Bearer {limited}");
        let get = |path: &str| host.ask_as_anyone("GET", path, &[&authorization], b"");
        for (a, b) in [
            (
                format!("/deployments/{theirs}/events"),
                format!("/deployments/{unknown}/events"),
            ),
            (
                "/deployments/latest/events?project=theirs".to_owned(),
                "/deployments/latest/events?project=none".to_owned(),
            ),
        ] {
            let (a, b) = (get(&a), get(&b));
            assert_eq!((a.status, b.status), (404, 404));
            assert_eq!(
                a.text()
                    .replace(&theirs, &unknown)
                    .replace("theirs", "none"),
                b.text()
            );
        }
        // The newest of its own, though another one is newer.
        let latest = get("/deployments/latest/events");
        assert_eq!(latest.json()["deployment_id"], own);
        let system = ask(&host, &limited, &json!({"operation": "system_information"})).json();
        assert_eq!(system["deployments_stored"], 1, "{system}");
        for (operation, list) in [
            ("list_deployments", "deployments"),
            ("get_components", "components"),
        ] {
            let found = ask(&host, &limited, &json!({"operation": operation})).json();
            assert_eq!(found[list].as_array().unwrap().len(), 1, "{found}");
            assert!(!found.to_string().contains("theirs"), "{found}");
        }
    }
    assert_eq!(
        fs::read_to_string(host.path("components/theirs/index.txt")).unwrap(),
        "hello"
    );
}

/// The most memory that the server has had, in KiB.
fn peak(host: &TestServer) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", host.server.id())).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn json_costs_its_bytes_and_little_more() {
    let full = 8 << 20;
    let fill = |start: &str, unit: &str, end: &str| {
        let count = (full - start.len() - end.len()) / unit.len();
        format!("{start}{}{end}", unit.repeat(count))
    };
    let fields: String = (0..600_000).map(|n| format!("\"{n:06}\":1,")).collect();
    // A body, and the status that says how far it came.
    let table = [
        (
            fill(r#"{"operation":"get_components","x":["#, "{},", "1]}"),
            200,
        ),
        (
            fill(r#"{"operation":"get_components","x":["#, "[],", "1]}"),
            200,
        ),
        (
            fill(r#"{"operation":"get_components","x":["#, "0,", "1]}"),
            200,
        ),
        (
            fill(r#"{"operation":"get_components","project":["#, "0,", "1]}"),
            413,
        ),
        (
            fill(r#"{"operation":"get_components","x":""#, "y", r#""}"#),
            200,
        ),
        (fill(r#"{"operation":"get_components","x":"#, "[", ""), 400),
        (
            fill(
                r#"{"operation":"get_components","project":"#,
                r#"{"a":"#,
                "",
            ),
            400,
        ),
        (
            fill(
                r#"{"operation":"deploy_component","project":"a","install_command":""#,
                "x",
                r#""}"#,
            ),
            413,
        ),
        (
            format!(r#"{{"operation":"get_components",{fields}"x":1}}"#),
            413,
        ),
        (
            fill(
                r#"{"operation":"deploy_component","project":"a","payload":""#,
                "AAAA",
                r#""}"#,
            ),
            422,
        ),
    ];
    for (body, status) in &table {
        // Each on a server of its own: what the one before gave back, the allocator may have kept.
        let host = TestServer::start();
        let reader = token(&host, "reader", "read", &[]);
        let small = json!({"operation": "get_components"});
        assert_eq!(ask(&host, &host.token, &small).status, 200);
        let before = peak(&host);
        let start = &body[..60];
        let media = "Content-Type: application/json";
        let answer = host.ask("POST", "/", &[media], body.as_bytes());
        assert_eq!(answer.status, *status, "{start}: {}", answer.text());
        // The body, and what passes it on. Without bounds it was up to 300 MiB.
        let grown = peak(&host) - before;
        assert!(grown < 13 << 10, "{start}: {grown} KiB more");
        // Nobody who may only look gets to send it.
        let authorization = format!("Authorization: Bearer {reader}");
        let head = [authorization.as_str(), media];
        let answer = early(&host, &request("POST", "/", &head, body.as_bytes()));
        let expected = if start.contains("deploy_component") {
            403
        } else {
            413
        };
        assert_eq!(answer.status, expected, "{start}: {}", answer.text());
    }
}

/// Sends a request that may be answered before it is through.
fn early(host: &TestServer, request: &[u8]) -> Answer {
    let mut stream = host.connect();
    // The answer may close the way.
    let _ = std::io::Write::write_all(&mut stream, request);
    Answer::read(stream)
}

#[test]
fn names_and_texts_that_hurt_are_refused() {
    let host = TestServer::start();
    for name in ["__proto__", "constructor", "prototype"] {
        let mut asked = json!({"operation": "get_components"});
        asked[name] = json!({"admin": true});
        let (code, message) = host.operate(&asked).refusal();
        assert_eq!(code, "bad_request");
        assert!(
            message.contains(name) && message.contains("not allowed"),
            "{message}"
        );
        let answer = host.deploy(&[("project", "a"), (name, "x")], &component());
        let (code, message) = answer.refusal();
        assert_eq!(code, "bad_request");
        assert!(
            message.contains(name) && message.contains("not allowed"),
            "{message}"
        );
    }
    let nul = host.deploy(
        &[("project", "a"), ("install_command", "echo \0")],
        &component(),
    );
    let (code, message) = nul.refusal();
    assert_eq!(
        (nul.status, code.as_str()),
        (400, "bad_request"),
        "{message}"
    );
    assert!(
        message.contains("'install_command'") && message.contains("NUL"),
        "{message}"
    );
    let long = "x".repeat(128 << 10);
    let long = host.deploy(
        &[("project", "a"), ("install_command", &long)],
        &component(),
    );
    let (code, message) = long.refusal();
    assert_eq!(
        (long.status, code.as_str()),
        (400, "bad_request"),
        "{message}"
    );
    assert_eq!(
        host.operate(&json!({"operation": "list_deployments"}))
            .json()["total"],
        0
    );
}

#[test]
fn base64_comes_as_tools_write_it() {
    let host = TestServer::start();
    let plain = STANDARD.encode(component());
    let wrapped: String = plain
        .as_bytes()
        .chunks(76)
        .map(|line| format!("{}\n", std::str::from_utf8(line).unwrap()))
        .collect();
    let table = [
        plain.clone(),
        wrapped,
        plain.replace('+', "-").replace('/', "_"),
        plain.trim_end_matches('=').to_owned(),
    ];
    for payload in table {
        let answer = host
            .operate(&json!({"operation": "deploy_component", "project": "a", "payload": payload}));
        assert_eq!(answer.status, 200, "{payload}: {}", answer.text());
    }
    let body = format!("\u{feff}{}", json!({"operation": "get_components"}));
    let answer = host.ask(
        "POST",
        "/",
        &["Content-Type: application/json"],
        body.as_bytes(),
    );
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[test]
fn a_revoked_token_ends_the_streams_that_are_open() {
    let host = TestServer::start();
    let gate = host.path("gate");
    let command = format!(
        "while [ ! -e {} ]; do sleep 0.01; done; echo secret",
        gate.display()
    );
    let (revoked, kept) = (
        token(&host, "revoked", "read", &[]),
        token(&host, "kept", "read", &[]),
    );
    std::thread::scope(|scope| {
        let fields = [("project", "a"), ("install_command", command.as_str())];
        let host = &host;
        let deploy = scope.spawn(move || host.deploy(&fields, &component()));
        let id = await_some("the installation", || {
            let list = json!({"operation": "list_deployments", "status": "installing"});
            let list = host.operate(&list).json();
            list["deployments"][0]["deployment_id"]
                .as_str()
                .map(str::to_owned)
        });
        let watch = |token: &str| {
            let authorization = format!("Authorization: Bearer {token}");
            let path = format!("/deployments/{id}/events");
            let mut stream = host.connect();
            let head = request("GET", &path, &[&authorization], b"");
            std::io::Write::write_all(&mut stream, &head).unwrap();
            std::io::Read::read_exact(&mut stream, &mut [0; 16]).unwrap();
            stream
        };
        let (mut cut, mut whole) = (watch(&revoked), watch(&kept));
        let mut command = gangplank();
        command
            .args(["token", "revoke", "revoked", "--root"])
            .arg(&host.root.0);
        assert!(command.output().unwrap().status.success());
        // Without its end, and without what comes after; others go on.
        let mut text = String::new();
        std::io::Read::read_to_string(&mut cut, &mut text).unwrap();
        assert!(
            !text.contains("event: done") && !text.ends_with("0\r\n\r\n"),
            "{text}"
        );
        fs::write(&gate, "").unwrap();
        assert_eq!(deploy.join().unwrap().status, 200);
        let mut text = String::new();
        std::io::Read::read_to_string(&mut whole, &mut text).unwrap();
        assert!(
            text.contains("secret") && text.contains("event: done"),
            "{text}"
        );
    });
}
