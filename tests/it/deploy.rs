//! Deployments that end well, and what they leave.

use std::fs;
use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::test_server::{
    Answer, TestServer, await_some, component, form, gzip, names, noise, request, tar,
};

fn live(host: &TestServer, project: &str, file: &str) -> String {
    fs::read_to_string(host.path("components").join(project).join(file)).unwrap()
}

#[test]
fn every_way_of_sending_and_packing_a_payload_works() {
    let host = TestServer::start();
    let files = [("./index.txt", "hello"), ("./sub/a.txt", "a")];
    let plain = tar(&files);
    let mut members = gzip(&plain[..700]);
    members.extend(gzip(&plain[700..]));
    let flattened = tar(&[("package/index.txt", "hello"), ("package/sub/a.txt", "a")]);
    for payload in [plain.clone(), gzip(&plain), members, gzip(&flattened)] {
        let answer = host.deploy(&[("project", "demo")], &payload);
        let json = answer.json();
        assert_eq!(answer.status, 200, "{json}");
        assert_eq!(json["message"], "Successfully deployed: demo");
        assert_eq!(json["project"], "demo");
        let id = json["deployment_id"].as_str().unwrap();
        let link = fs::read_link(host.path("components/demo")).unwrap();
        assert_eq!(link.to_str().unwrap(), format!("../releases/demo/{id}"));
        assert_eq!(
            (
                live(&host, "demo", "index.txt"),
                live(&host, "demo", "sub/a.txt")
            ),
            ("hello".into(), "a".into())
        );
        assert_eq!(
            fs::read(host.path("deployments").join(id).join("payload")).unwrap(),
            payload
        );
        let record = host.record(id);
        assert_eq!(
            (&record["status"], &record["payload_size"]),
            (&json!("success"), &json!(payload.len()))
        );
        assert_eq!(
            (&record["user"], &record["payload_present"]),
            (&json!("admin"), &json!(true))
        );
    }
    let body = json!({"operation": "deploy_component", "project": "coded", "payload": STANDARD.encode(gzip(&plain))});
    assert_eq!(host.operate(&body).status, 200);
    assert_eq!(live(&host, "coded", "index.txt"), "hello");
    // As programs write it: wrapped, for URLs, without padding, behind a byte order mark.
    let text = STANDARD.encode(gzip(&plain));
    let wrapped: Vec<&str> = text
        .as_bytes()
        .chunks(76)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    let url = text.replace('+', "-").replace('/', "_");
    for payload in [
        wrapped.join("\n") + "\n",
        wrapped.join("\r\n"),
        url.trim_end_matches('=').to_owned(),
    ] {
        let body = json!({"operation": "deploy_component", "project": "coded", "payload": payload});
        let answer = host.operate(&body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let body = format!("\u{feff}{body}");
        let json = ["Content-Type: application/json"];
        assert_eq!(host.ask("POST", "/", &json, body.as_bytes()).status, 200);
    }
    let body =
        json!({"operation": "deploy_component", "project": "coded", "payload": format!("!{text}")});
    let (code, message) = host.operate(&body).refusal();
    assert_eq!(code, "bad_request");
    assert!(message.contains("it is not base64"), "{message}");
    let components = host.operate(&json!({"operation": "get_components"})).json();
    assert_eq!(components["components"].as_array().unwrap().len(), 2);
    assert_eq!(
        components["components"][1]["releases"]
            .as_array()
            .unwrap()
            .len(),
        4
    );
}

#[test]
fn a_request_may_come_a_byte_at_a_time() {
    let host = TestServer::start();
    let (media, body) = form(&[("project", "slow")], &component());
    let authorization = format!("Authorization: Bearer {}", host.token);
    let mut stream = host.connect();
    stream.set_nodelay(true).unwrap();
    for byte in request("POST", "/", &[&authorization, &media], &body) {
        stream.write_all(&[byte]).unwrap();
    }
    assert_eq!(Answer::read(stream).status, 200);
    assert_eq!(live(&host, "slow", "index.txt"), "hello");
}

#[test]
fn a_payload_full_of_near_boundaries_arrives_as_it_is() {
    let host = TestServer::start();
    let near = "\r\n------HarperMultipart7f3a0011223344556677889\r\n--\r\n".repeat(20_000);
    let answer = host.deploy(&[("project", "near")], &tar(&[("./near", &near)]));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(live(&host, "near", "near"), near);
}

#[test]
fn every_line_of_an_installation_is_an_event() {
    let host = TestServer::start();
    let long = 1 << 20;
    let table = [
        (r"printf 'a\r\nb\n\nlast'", vec!["a", "b", "", "last"]),
        (r"printf '\303'; sleep 0.05; printf '\244\n'", vec!["ä"]),
        (r"printf 'x\377y\n'", vec!["x\u{fffd}y"]),
    ];
    for (command, lines) in table {
        let answer = host.deploy_live(
            &[("project", "lines"), ("install_command", command)],
            &component(),
        );
        let seen: Vec<String> = answer
            .events()
            .into_iter()
            .filter(|record| record.event == "install")
            .map(|record| record.data["line"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(seen, lines, "{command}");
    }
    let command = format!("head -c {long} /dev/zero | tr '\\0' x; echo; echo end >&2");
    let answer = host.deploy_live(
        &[("project", "lines"), ("install_command", &command)],
        &component(),
    );
    let pieces: Vec<_> = answer
        .events()
        .into_iter()
        .filter(|record| record.event == "install")
        .collect();
    let (out, err): (Vec<_>, Vec<_>) = pieces
        .iter()
        .partition(|piece| piece.data["stream"] == "stdout");
    assert_eq!(
        out.iter()
            .map(|piece| piece.data["line"].as_str().unwrap().len())
            .sum::<usize>(),
        long
    );
    assert!(
        out[..out.len() - 1]
            .iter()
            .all(|piece| piece.data["continued"] == true)
    );
    assert!(out.last().unwrap().data.get("continued").is_none());
    assert_eq!((err.len(), &err[0].data["line"]), (1, &json!("end")));
}

#[test]
fn a_failing_deployment_never_touches_what_is_live() {
    let host = TestServer::start();
    let first = host.deploy(&[("project", "demo")], &component()).json();
    let next = |extra: &[(&str, &str)], files: &[(&str, &str)]| {
        let fields: Vec<_> = [("project", "demo")].iter().chain(extra).copied().collect();
        host.deploy(&fields, &tar(files))
    };
    let table: [(&[(&str, &str)], &[(&str, &str)], &str, u16, &str); 6] = [
        (
            &[("install_command", "echo out; echo err >&2; exit 7")],
            &[("./x", "")],
            "install_failed",
            422,
            "exit code 7",
        ),
        (
            &[("install_command", "sleep 60"), ("install_timeout", "200")],
            &[("./x", "")],
            "install_timeout",
            422,
            "timed out",
        ),
        (
            &[],
            &[("./gangplank.json", "{\n\"chek\": 1}")],
            "load_failed",
            422,
            "gangplank.json",
        ),
        (
            &[],
            &[("./Procfile", "web: node x\nworker\n")],
            "load_failed",
            422,
            "Procfile",
        ),
        (
            &[],
            &[("./gangplank.json", r#"{"check":"exit 3"}"#)],
            "load_failed",
            422,
            "exit code 3",
        ),
        (
            &[],
            &[("./package.json", "{"), ("./node_modules/x", "")],
            "load_failed",
            422,
            "package.json",
        ),
    ];
    for (extra, files, code, status, part) in table {
        let answer = next(extra, files);
        let (word, message) = answer.refusal();
        assert_eq!((answer.status, word.as_str()), (status, code), "{message}");
        assert!(message.contains(part), "{message}");
        let json = answer.json();
        let id = json["deployment_id"].as_str().unwrap();
        let record = host.record(id);
        assert_eq!(
            (&record["status"], &record["error"]["code"]),
            (&json!("failed"), &json!(code))
        );
        assert_eq!(record["error"]["phase"], json["phase"]);
        assert_eq!(live(&host, "demo", "index.txt"), "hello");
        assert_eq!(
            names(&host.path("releases/demo")),
            [first["deployment_id"].as_str().unwrap()]
        );
    }
    let failed = next(
        &[("install_command", "echo out; echo err >&2; exit 7")],
        &[("./x", "")],
    )
    .json();
    let lines = failed["install_output"]["lines"].as_array().unwrap();
    assert_eq!(lines.len(), 2);
    assert!(
        lines
            .iter()
            .any(|line| line["stream"] == "stderr" && line["line"] == "err")
    );
}

#[test]
fn a_component_is_deployed_once_at_a_time_and_others_wait_their_turn() {
    let host = TestServer::with(&["--max-deploys", "1"], &[]);
    let gate = host.path("gate");
    let hold = format!("while [ ! -e {} ]; do sleep 0.01; done", gate.display());
    std::thread::scope(|scope| {
        let first = scope.spawn(|| {
            host.deploy(
                &[("project", "one"), ("install_command", &hold)],
                &component(),
            )
        });
        let running = await_some("the first to install", || {
            let list = host
                .operate(&json!({"operation": "list_deployments", "status": "installing"}))
                .json();
            list["deployments"][0]["deployment_id"]
                .as_str()
                .map(str::to_owned)
        });
        // Refused by its fields, while its payload is still to come.
        let (media, body) = form(&[("project", "one")], &noise());
        let authorization = format!("Authorization: Bearer {}", host.token);
        let whole = request("POST", "/", &[&authorization, &media], &body);
        let mut stream = host.connect();
        stream.write_all(&whole[..whole.len() / 2]).unwrap();
        let busy = Answer::read(stream);
        assert_eq!((busy.status, busy.refusal().0.as_str()), (409, "busy"));
        assert_eq!(busy.json()["deployment_id"], running.as_str());

        let second = scope.spawn(|| host.deploy_live(&[("project", "two")], &component()));
        await_some("the second to wait", || {
            let list = host
                .operate(&json!({"operation": "list_deployments", "project": "two"}))
                .json();
            (list["deployments"][0]["phase"] == "queue").then_some(())
        });
        fs::write(&gate, "").unwrap();
        assert_eq!(first.join().unwrap().status, 200);
        let events = second.join().unwrap().events();
        let queue: Vec<_> = events
            .iter()
            .filter(|record| record.data["phase"] == "queue")
            .collect();
        assert_eq!(queue.len(), 2, "{queue:?}");
        assert_eq!(events.last().unwrap().event, "done");
    });
    assert_eq!(host.deploy(&[("project", "one")], &component()).status, 200);
}
