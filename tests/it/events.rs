//! The event stream: its form, its promise to end, and that it is the same for everybody.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::history::begin;
use crate::test_server::{
    Answer, TempDir, TestServer, await_some, component, form, noise, records, request,
};

fn watch(host: &TestServer, path: &str, headers: &[&str]) -> Answer {
    host.ask("GET", path, headers, b"")
}

#[test]
fn a_stream_has_its_form_and_ends_once() {
    let host = TestServer::start();
    let table = [("true", "done", 11), ("echo no; exit 1", "error", 7)];
    for (command, last, count) in table {
        let answer = host.deploy_live(
            &[("project", "demo"), ("install_command", command)],
            &component(),
        );
        let expected = [
            ("Content-Type", "text/event-stream"),
            ("Cache-Control", "no-cache"),
            ("X-Accel-Buffering", "no"),
        ];
        for (name, value) in expected {
            assert_eq!(answer.header(name), Some(value));
        }
        assert!(answer.text().starts_with(": stream open\n\n"));
        let events = answer.events();
        assert_eq!(events[0].event, "deployment");
        assert_eq!(
            events[0].data["phases"],
            json!(["extract", "install", "load", "activate"])
        );
        assert!(
            events
                .iter()
                .zip(1..)
                .all(|(record, id)| record.id == Some(id)),
            "{events:?}"
        );
        assert_eq!(
            events.len(),
            if command == "true" { count - 1 } else { count },
            "{events:?}"
        );
        let terminal: Vec<_> = events
            .iter()
            .filter(|record| ["done", "error"].contains(&&*record.event))
            .collect();
        assert_eq!(
            (terminal.len(), events.last().unwrap().event.as_str()),
            (1, last)
        );
        let mut open: Option<String> = None;
        for record in events.iter().filter(|record| record.event == "phase") {
            let phase = record.data["phase"].as_str().unwrap().to_owned();
            match record.data["status"].as_str().unwrap() {
                "start" => assert_eq!(open.replace(phase), None),
                _ => {
                    assert_eq!(open.take(), Some(phase));
                    assert!(record.data["elapsed_ms"].is_u64());
                }
            }
        }
        assert_eq!(open, None);
    }
}

#[test]
fn everybody_sees_the_same_now_and_later() {
    let host = TestServer::start();
    let command = "for i in 1 2 3 4 5 6 7 8 9; do echo $i; done";
    let live = host.deploy_live(
        &[("project", "demo"), ("install_command", command)],
        &component(),
    );
    let events = live.events();
    let id = events[0].data["deployment_id"].as_str().unwrap().to_owned();
    let path = format!("/deployments/{id}/events");
    assert_eq!(watch(&host, &path, &[]).text(), live.text());
    let again = json!({"operation": "get_deployment", "deployment_id": id}).to_string();
    let post = |headers: &[&str]| {
        let headers: Vec<&str> = headers
            .iter()
            .copied()
            .chain([
                "Content-Type: application/json",
                "Accept: text/event-stream",
            ])
            .collect();
        host.ask("POST", "/", &headers, again.as_bytes())
    };
    assert_eq!(post(&[]).text(), live.text());

    let last = events.len() as u64;
    for after in 0..last {
        let rest = &events[usize::try_from(after).unwrap()..];
        assert_eq!(
            watch(&host, &format!("{path}?from={after}"), &[]).events(),
            rest
        );
        let header = format!("Last-Event-ID: {after}");
        assert_eq!(watch(&host, &path, &[&header]).events(), rest);
        assert_eq!(
            watch(
                &host,
                &format!("{path}?from={after}"),
                &["Last-Event-ID: 1"]
            )
            .events(),
            rest
        );
    }
    for after in [last, last + 5, u64::MAX] {
        assert_eq!(
            watch(&host, &format!("{path}?from={after}"), &[]).status,
            204
        );
        assert_eq!(
            post(&[&format!("Last-Event-ID: {after}")]).events(),
            events[events.len() - 1..]
        );
    }
    for bad in ["x", "-1", "1.5"] {
        assert_eq!(
            watch(&host, &format!("{path}?from={bad}"), &[]).status,
            400,
            "{bad}"
        );
    }
    for unknown in [
        "/deployments/0/events",
        "/deployments/latest/events?project=none",
    ] {
        assert_eq!(watch(&host, unknown, &[]).status, 404, "{unknown}");
    }
    assert_eq!(
        host.record(&id)["event_log"].as_array().unwrap().len() as u64,
        last
    );
}

#[test]
fn who_resumes_past_what_runs_still_sees_the_end() {
    let host = TestServer::start();
    let gate = host.path("gate");
    let hold = format!("while [ ! -e {} ]; do sleep 0.01; done", gate.display());
    let fields = [("project", "demo"), ("install_command", hold.as_str())];
    std::thread::scope(|scope| {
        let deploy = scope.spawn(|| host.deploy(&fields, &component()));
        await_some("the installation", || {
            let list = json!({"operation": "list_deployments", "status": "installing"});
            (host.operate(&list).json()["total"] == 1).then_some(())
        });
        let token = &host.token;
        let watchers = [7, 1_000_000, u64::MAX].map(|after| {
            let mut stream = host.connect();
            let head = format!(
                "GET /deployments/latest/events?from={after} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
            );
            let head = head.replace("latest", &newest(&host));
            stream.write_all(head.as_bytes()).unwrap();
            stream
        });
        std::fs::write(&gate, "").unwrap();
        for stream in watchers {
            let events = Answer::read(stream).events();
            let last = events.last().unwrap();
            assert_eq!(last.event, "done", "{events:?}");
        }
        assert_eq!(deploy.join().unwrap().status, 200);
    });
}

#[test]
fn who_watches_an_upload_sees_how_far_it_is() {
    let host = TestServer::start();
    let payload = noise();
    let (media, body) = form(&[("project", "demo")], &payload);
    let authorization = format!("Authorization: Bearer {}", host.token);
    let headers = [&*authorization, &media, "Accept: text/event-stream"];
    let asked = request("POST", "/", &headers, &body);
    let mut upload = host.connect();
    let (begun, rest) = asked.split_at(asked.len() - payload.len());
    upload.write_all(begun).unwrap();
    let newest = await_some("the deployment", || {
        let list = host.operate(&json!({"operation": "list_deployments"}));
        (list.json()["total"] == 1).then(|| newest(&host))
    });
    let mut watcher = host.connect();
    let path = format!("/deployments/{newest}/events");
    watcher
        .write_all(&request("GET", &path, &[&authorization], b""))
        .unwrap();
    let mut lines = BufReader::new(watcher).lines().map(Result::unwrap);
    let (seen, is_seen) = std::sync::mpsc::channel();
    let (first, own) = std::thread::scope(|scope| {
        let told = scope.spawn(move || {
            lines.find(|line| line == "event: upload").unwrap();
            let first = lines.next().unwrap();
            seen.send(()).unwrap();
            (first, lines.collect::<Vec<_>>().join("\n"))
        });
        // It goes on slowly, and at full speed once somebody was told how far it is.
        let pace = Duration::from_millis(20);
        let mut pieces = rest.chunks(1000);
        while is_seen.recv_timeout(pace).is_err() {
            let piece = pieces.next().expect("nobody was told of the upload");
            upload.write_all(piece).unwrap();
        }
        for piece in pieces {
            upload.write_all(piece).unwrap();
        }
        let own = Answer::read(upload);
        let (first, rest) = told.join().unwrap();
        assert!(rest.contains("event: done"), "{rest}");
        (first, own)
    });
    let first: serde_json::Value =
        serde_json::from_str(first.strip_prefix("data: ").unwrap()).unwrap();
    let bytes = first["bytes"].as_u64().unwrap();
    assert!(
        (1..payload.len() as u64 + 1).contains(&bytes),
        "{bytes} of {}",
        payload.len()
    );
    // The connection that uploads knows it, and nothing of it is kept.
    for text in [own.text(), watch(&host, &path, &[]).text()] {
        assert!(text.contains("event: done") && !text.contains("event: upload"));
    }
}

fn newest(host: &TestServer) -> String {
    let list = host
        .operate(&json!({"operation": "list_deployments"}))
        .json();
    list["deployments"][0]["deployment_id"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[test]
fn the_latest_is_redirected_to_the_deployment_that_it_means() {
    let host = TestServer::start();
    let deploy = |project| {
        let answer = host.deploy(&[("project", project)], &component());
        answer.json()["deployment_id"].as_str().unwrap().to_owned()
    };
    let (first, second) = (deploy("a"), deploy("b"));
    // What is asked, and where it points: relative, as a proxy with a prefix needs it.
    let table = [
        ("/deployments/latest/events", &second, "..", ""),
        ("/deployments/latest/events?project=b", &second, "..", ""),
        ("/deployments/latest/events?project=a", &first, "..", ""),
        (
            "/deployments/latest/events?from=3",
            &second,
            "..",
            "?from=3",
        ),
        ("/deployments/latest/events/?project=a", &first, "../..", ""),
    ];
    for (path, id, up, query) in table {
        let answer = watch(&host, path, &["Last-Event-ID: 4"]);
        assert_eq!(answer.status, 307, "{path}: {}", answer.text());
        let location = format!("{up}/{id}/events{query}");
        assert_eq!(answer.header("Location"), Some(location.as_str()), "{path}");
        assert_eq!(&answer.json()["deployment_id"], id);
    }
    assert_eq!(
        watch(&host, "/deployments/latest/events?from=x", &[]).status,
        400
    );
    // An EventSource that comes back with the last id stops there.
    let events = watch(&host, &format!("/deployments/{first}/events"), &[]).events();
    let last = format!("Last-Event-ID: {}", events.len());
    let path = format!("/deployments/{first}/events");
    assert_eq!(watch(&host, &path, &[&last]).status, 204);
    // Our own client goes where it points.
    let watched = host.cli(&["watch", "a", "--output", "json"]);
    assert_eq!(watched.status.code(), Some(0), "{watched:?}");
    let result: serde_json::Value = serde_json::from_slice(&watched.stdout).unwrap();
    assert_eq!(result["deployment_id"], first);
}

#[test]
fn slashes_too_many_are_none() {
    let host = TestServer::start();
    let id = host.deploy(&[("project", "a")], &component()).json()["deployment_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let table = [
        ("GET", "//health".to_owned(), 200),
        ("GET", "/health/".to_owned(), 200),
        ("GET", format!("//deployments//{id}/events"), 200),
        ("GET", format!("/deployments/{id}/events//"), 200),
        ("GET", "//".to_owned(), 200),
        ("POST", "//".to_owned(), 415),
        ("GET", "/healthy".to_owned(), 404),
        ("GET", "/deployments//events".to_owned(), 404),
    ];
    for (method, path, status) in table {
        let answer = host.ask(method, &path, &[], b"");
        assert_eq!(answer.status, status, "{method} {path}");
    }
}

#[test]
fn a_client_of_http_1_0_gets_the_stream_unchunked() {
    let host = TestServer::start();
    assert_eq!(
        host.deploy(&[("project", "demo")], &component()).status,
        200
    );
    let mut stream = host.connect();
    let token = &host.token;
    let head =
        format!("GET /deployments/latest/events HTTP/1.0\r\nAuthorization: Bearer {token}\r\n\r\n");
    let head = head.replace("latest", &newest(&host));
    stream.write_all(head.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(!head.contains("chunked"), "{head}");
    assert!(body.starts_with(": stream open\n\n"), "{body}");
    assert_eq!(records(body).last().unwrap().event, "done");
}

#[test]
fn a_comment_breaks_a_long_silence() {
    let host = TestServer::start();
    let gate = host.path("gate");
    let hold = format!("while [ ! -e {} ]; do sleep 0.05; done", gate.display());
    let installing = r#""phase":"install","status":"start""#;
    let (id, stream) = begin(&host, "quiet", &hold, installing);
    let mut lines = stream.lines().map(Result::unwrap);
    let silent = Instant::now();
    // Whoever began it, and two who watch.
    let path = format!("/deployments/{id}/events");
    let authorization = format!("Authorization: Bearer {}", host.token);
    let mut watchers = ["HTTP/1.1", "HTTP/1.0"].map(|version| {
        let asked = request("GET", &path, &[&authorization], b"");
        let asked = String::from_utf8(asked).unwrap();
        let mut stream = host.connect();
        let asked = asked.replace("HTTP/1.1", version);
        stream.write_all(asked.as_bytes()).unwrap();
        let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
        lines.find(|line| line.contains(installing)).unwrap();
        lines
    });
    for lines in [&mut lines].into_iter().chain(&mut watchers) {
        lines.find(|line| line.starts_with(':')).unwrap();
        let after = silent.elapsed();
        assert!(
            after > Duration::from_secs(14) && after < Duration::from_secs(25),
            "{after:?}"
        );
    }
    std::fs::write(&gate, "").unwrap();
    for lines in [&mut lines].into_iter().chain(&mut watchers) {
        lines.find(|line| line == "event: done").unwrap();
    }
}

#[test]
fn a_watcher_that_never_reads_holds_nobody_up() {
    let host = TestServer::start();
    let gate = host.path("gate");
    let command = format!(
        "while [ ! -e {} ]; do sleep 0.01; done; seq 200000",
        gate.display()
    );
    std::thread::scope(|scope| {
        let deploy = scope.spawn(|| {
            host.deploy(
                &[("project", "loud"), ("install_command", &command)],
                &component(),
            )
        });
        await_some("the installation", || {
            let list = host
                .operate(&json!({"operation": "list_deployments", "status": "installing"}))
                .json();
            (list["total"] == 1).then_some(())
        });
        let mut stuck = host.connect();
        let token = &host.token;
        let head = format!(
            "GET /deployments/latest/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
        );
        let head = head.replace("latest", &newest(&host));
        stuck.write_all(head.as_bytes()).unwrap();
        // It is there as soon as it was sent the first bytes, and reads no more after them.
        stuck.read_exact(&mut [0; 16]).unwrap();
        std::fs::write(&gate, "").unwrap();
        assert_eq!(deploy.join().unwrap().status, 200);
    });
}

#[test]
fn who_reads_late_or_in_small_pieces_misses_nothing_and_sees_nothing_twice() {
    let host = TestServer::start();
    let gate = host.path("gate");
    let command = format!(
        "while [ ! -e {} ]; do sleep 0.01; done; seq 20000",
        gate.display()
    );
    let fields = [("project", "loud"), ("install_command", &*command)];
    let host = &host;
    std::thread::scope(|scope| {
        let deploy = scope.spawn(|| host.deploy(&fields, &component()));
        await_some("the installation", || {
            let list = host
                .operate(&json!({"operation": "list_deployments", "status": "installing"}))
                .json();
            (list["total"] == 1).then_some(())
        });
        let path = format!("/deployments/{}/events", newest(host));
        // A unix socket has room for a tenth of what comes, and this client gets it without chunks.
        let watch_unread = || {
            let mut stream = UnixStream::connect(host.path("run/gangplank.sock")).unwrap();
            let asked = format!("GET {path} HTTP/1.0\r\n\r\n");
            stream.write_all(asked.as_bytes()).unwrap();
            // It is there as soon as it was sent the first bytes.
            stream.read_exact(&mut [0]).unwrap();
            stream
        };
        let (mut late, mut slow) = (watch_unread(), watch_unread());
        let of_quick = path.clone();
        let quick = scope.spawn(move || watch(host, &of_quick, &[]).events());
        let slow = scope.spawn(move || {
            let (mut text, mut piece) = (Vec::new(), [0; 1000]);
            while let Ok(read @ 1..) = slow.read(&mut piece) {
                text.extend_from_slice(&piece[..read]);
            }
            text
        });
        std::fs::write(&gate, "").unwrap();
        assert_eq!(deploy.join().unwrap().status, 200);
        let all = watch(host, &path, &[]).events();
        assert!(all.len() > 20_000);
        let mut text = Vec::new();
        late.read_to_end(&mut text).unwrap();
        for (who, text) in [("late", text), ("slow", slow.join().unwrap())] {
            let text = String::from_utf8(text).unwrap();
            let (_, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(records(body) == all, "{who}");
        }
        assert!(quick.join().unwrap() == all, "quick");
    });
}

#[test]
fn a_panic_ends_the_stream_and_the_record_and_frees_the_component() {
    let root = Arc::new(TempDir::new());
    for phase in ["extract", "install", "load", "activate"] {
        let host = TestServer::on(Arc::clone(&root), &[], &[("GANGPLANK_TEST_PANIC", phase)]);
        let fields = [("project", "demo"), ("install_command", "true")];
        if phase == "extract" {
            // Its panic is on the request's own thread, which has no answer then; the record is what tells.
            let (media, body) = form(&fields, &component());
            let authorization = format!("Authorization: Bearer {}", host.token);
            let mut stream = host.connect();
            stream
                .write_all(&request("POST", "/", &[&authorization, &media], &body))
                .unwrap();
            assert_eq!(Answer::read(stream).status, 500);
        } else {
            let events = host.deploy_live(&fields, &component()).events();
            let last = events.last().unwrap();
            assert_eq!(
                (last.event.as_str(), &last.data["code"]),
                ("error", &json!("internal")),
                "{phase}"
            );
            assert_eq!(last.data["phase"], phase);
        }
        let list = host
            .operate(&json!({"operation": "list_deployments"}))
            .json();
        assert_eq!(
            list["deployments"][0]["error"]["code"], "internal",
            "{phase}: {list}"
        );
        assert!(!host.path("components/demo").exists());
        assert!(
            crate::test_server::names(&host.path("releases/demo")).is_empty(),
            "{phase}"
        );
        let again = host.deploy(&fields, &component()).status;
        assert_eq!(again, 500, "the component is free again, to fail again");
    }
    let host = TestServer::on(root, &[], &[]);
    assert_eq!(
        host.deploy(&[("project", "demo")], &component()).status,
        200
    );
}
