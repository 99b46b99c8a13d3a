//! The page, in a real browser: signing in, watching, acting, cuts, hostile texts, many lines, narrow screens, keys.

mod chromium;

use std::fs;
use std::io::{Read, Write};

use serde_json::{Value, json};

use crate::fleet_hosts::TestFleet;
use crate::page::chromium::Tab;
use crate::test_server::{Answer, TempDir, TestServer, await_some, form, gzip, request, tar};

/// A server, and a tab that is signed in at it by `gangplank ui`.
fn signed_in(host: &TestServer) -> Option<Tab> {
    // The code is good for a minute, which a browser may take to start.
    let tab = Tab::open("about:blank")?;
    tab.go(&address(host));
    tab.shows("Components");
    Some(tab)
}

/// What `gangplank ui` prints.
fn address(host: &TestServer) -> String {
    let printed = host.cli(&["ui", "--output", "text"]);
    assert!(printed.status.success());
    String::from_utf8(printed.stdout).unwrap().trim().to_owned()
}

fn deploy(
    host: &TestServer,
    project: &str,
    fields: &[(&str, &str)],
    files: &[(&str, &str)],
) -> Value {
    let mut all = vec![("project", project)];
    all.extend(fields);
    let answer = host.deploy(&all, &gzip(&tar(files))).json();
    assert!(answer["deployment_id"].is_string(), "{answer}");
    answer
}

fn id(answer: &Value) -> &str {
    answer["deployment_id"].as_str().unwrap()
}

/// Deploys in the background, with a command that installs until a file is there.
fn deploy_until(
    host: &TestServer,
    project: &str,
    command: &str,
) -> (std::thread::JoinHandle<Answer>, TempDir) {
    let dir = TempDir::new();
    let command = command.replace("FILE", dir.0.join("go").to_str().unwrap());
    let mut other = host.connect();
    let fields = [("project", project), ("install_command", command.as_str())];
    let (media, body) = form(&fields, &gzip(&tar(&[("./a", "a")])));
    let authorization = format!("Authorization: Bearer {}", host.token);
    let asked = request("POST", "/", &[&media, &authorization], &body);
    let waits = std::thread::spawn(move || {
        other.write_all(&asked).unwrap();
        Answer::read(other)
    });
    (waits, dir)
}

/// A command that prints so many lines, and then waits for the file.
fn lines(n: u32) -> String {
    format!(
        "i=0; while [ $i -lt {n} ]; do i=$((i+1)); echo \"line $i\"; done; until [ -e FILE ]; do sleep 0.02; done; echo last"
    )
}

#[test]
fn the_page_is_small_and_nothing_else_runs_in_it() {
    let host = TestServer::start();
    let mut all = Vec::new();
    for (path, kind) in [
        ("/", "text/html"),
        ("/page.css", "text/css"),
        ("/page.js", "text/javascript"),
    ] {
        // A link may stand on a page of somebody else.
        let answer = host.ask_as_anyone("GET", path, &["Sec-Fetch-Site: cross-site"], b"");
        assert_eq!(answer.status, 200, "{path}");
        assert!(
            answer.header("Content-Type").unwrap().starts_with(kind),
            "{path}"
        );
        let policy = answer.header("Content-Security-Policy").unwrap();
        assert!(
            policy.starts_with("default-src 'none';") && !policy.contains("unsafe"),
            "{policy}"
        );
        let tag = answer.header("ETag").unwrap().to_owned();
        for known in [
            tag.clone(),
            format!("W/{tag}"),
            format!("\"x\", W/{tag}"),
            "*".into(),
        ] {
            let again = host.ask_as_anyone("GET", path, &[&format!("If-None-Match: {known}")], b"");
            assert_eq!((again.status, again.body.len()), (304, 0), "{path} {known}");
        }
        let mut head = host.connect();
        head.write_all(&request("HEAD", path, &[], b"")).unwrap();
        let mut text = String::new();
        head.read_to_string(&mut text).unwrap();
        assert!(
            text.starts_with("HTTP/1.1 200") && text.ends_with("\r\n\r\n"),
            "{text}"
        );
        let wrong = host.ask_as_anyone("DELETE", path, &[], b"");
        assert_eq!(wrong.status, 405, "{path}");
        all.extend(answer.body);
    }
    let size = gzip(&all).len();
    assert!(size < 32 << 10, "{size} bytes");
    let text = String::from_utf8(all).unwrap();
    for word in [
        "http://",
        "https://",
        "innerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "style=\"",
        "onclick=",
    ] {
        assert!(!text.contains(word), "{word}");
    }
}

#[test]
fn a_token_or_a_code_signs_in_and_a_revoked_session_says_so() {
    let host = TestServer::start();
    let Some(tab) = Tab::open(&format!("http://{}/", host.address)) else {
        return;
    };
    tab.until("document.activeElement.id === 'token'");
    tab.write("nonsense");
    tab.press("Enter");
    tab.shows("Login failed");
    tab.picture("sign-in");
    tab.ask("document.getElementById('token').value = ''");
    tab.write(&host.token);
    tab.press("Enter");
    tab.shows("Nothing is deployed here yet");
    assert_eq!(tab.ask("sessionStorage.length + localStorage.length"), 1);
    tab.click("Sign out");
    tab.shows("Access token");
    assert_eq!(tab.ask("sessionStorage.length + document.cookie.length"), 0);
    // A code is good once, and leaves the address at once.
    let with_code = address(&host);
    tab.go("about:blank");
    tab.go(&with_code);
    tab.shows("Nothing is deployed here yet");
    assert_eq!(tab.ask("location.hash"), "#/");
    let other = Tab::open(&with_code).unwrap();
    other.shows("The code was used already");
    // A session goes on after a reload, and ends when it is revoked: while the page looks on.
    tab.ask("location.reload()");
    tab.shows("Nothing is deployed here yet");
    let ended = host.cli(&["ui", "--end", "--output", "json"]);
    assert_eq!(
        serde_json::from_slice::<Value>(&ended.stdout).unwrap()["ended"],
        1
    );
    tab.shows("This session has ended or was revoked");
}

#[test]
fn a_session_begins_no_other_one_and_takes_away_none_of_another_token() {
    let host = TestServer::start();
    let post = |shown: Option<&str>, fields: &Value| {
        let shown = shown.map(|shown| format!("Authorization: Bearer {shown}"));
        let mut headers = vec!["Content-Type: application/json"];
        headers.extend(shown.as_deref());
        host.ask_as_anyone("POST", "/", &headers, fields.to_string().as_bytes())
    };
    let session = |token: &str| {
        let code = post(Some(token), &json!({"operation": "create_page_code"})).json();
        let redeem = json!({"operation": "create_page_session", "code": code["code"]});
        let answer = post(None, &redeem).json();
        answer["token"].as_str().unwrap().to_owned()
    };
    let root = host.path("");
    let added = host.cli(&[
        "token",
        "add",
        "look",
        "--role",
        "read",
        "--root",
        root.to_str().unwrap(),
    ]);
    let look = String::from_utf8(added.stdout).unwrap().trim().to_owned();
    let own = session(&host.token);
    // A stolen one would otherwise last for as long as the thief likes.
    let (code, why) = post(Some(&own), &json!({"operation": "create_page_code"})).refusal();
    assert_eq!(code, "forbidden");
    assert!(why.contains("begins no other one"), "{why}");
    let first = session(&look);
    for _ in 0..16 {
        session(&look);
    }
    let who = json!({"operation": "system_information"});
    assert_eq!(post(Some(&first), &who).status, 401);
    assert_eq!(post(Some(&own), &who).json()["caller"]["name"], "admin");
    // What is wrong with the sessions keeps no token out.
    fs::write(host.path("run/sessions.json"), "half").unwrap();
    assert_eq!(post(Some(&own), &who).status, 401);
    assert_eq!(post(Some(&host.token), &who).status, 200);
}

#[test]
fn a_deployment_is_watched_to_its_end_then_rolled_back_and_one_is_cancelled() {
    let host = TestServer::start();
    let first = deploy(&host, "shop", &[("message", "the first")], &[("./a", "1")]);
    let Some(tab) = signed_in(&host) else { return };
    tab.click("shop");
    tab.shows("the first");
    let (waits, dir) = deploy_until(&host, "shop", &lines(3));
    tab.shows("A deployment runs");
    tab.ask("document.querySelector('p.warn a').click()");
    tab.shows("line 3");
    tab.shows("running");
    tab.picture("deployment-running");
    fs::write(dir.0.join("go"), "").unwrap();
    tab.shows("Successfully deployed: shop");
    tab.shows("last");
    let second = waits.join().unwrap().json();
    assert_eq!(tab.ask("location.hash"), format!("#/d/{}", id(&second)));
    assert_eq!(
        tab.ask("[...document.querySelectorAll('.lines p:not(.note)')].map((one) => one.textContent).join()"),
        "line 1,line 2,line 3,last"
    );
    tab.picture("deployment-ended");
    // Back to the first, by a button that asks before.
    tab.click("shop");
    tab.click(&format!("Make {} live", &id(&first)[..13]));
    tab.confirm();
    tab.until(&format!(
        "location.hash.startsWith('#/d/') && location.hash !== '#/d/{}'",
        id(&second)
    ));
    tab.shows("Successfully");
    let live = host.path("components/shop").canonicalize().unwrap();
    assert!(live.ends_with(id(&first)), "{}", live.display());
    // A running one is cancelled.
    let (waits, _dir) = deploy_until(&host, "shop", &lines(1));
    tab.click("shop");
    tab.until("document.querySelector('p.warn a')?.click() || location.hash.startsWith('#/d/')");
    tab.shows("line 1");
    tab.click("Cancel the deployment");
    tab.confirm();
    tab.shows("cancelled");
    assert_eq!(waits.join().unwrap().json()["code"], "cancelled");
    tab.click("History");
    tab.shows("Took");
    tab.until("document.querySelectorAll('tbody tr').length === 4");
    tab.picture("history");
}

#[test]
fn a_cut_stream_goes_on_after_a_restart_with_each_line_once() {
    let host = TestServer::start();
    let root = std::sync::Arc::clone(&host.root);
    let Some(tab) = signed_in(&host) else { return };
    let (_waits, _dir) = deploy_until(&host, "demo", &lines(300));
    tab.click("demo");
    tab.shows("A deployment runs");
    tab.ask("document.querySelector('p.warn a').click()");
    tab.shows("line 300");
    // The server dies; the next one says that the deployment was interrupted, at the same address.
    let address = host.address.clone();
    drop(host);
    tab.shows("The stream of events was cut");
    let host = TestServer::on(root, &["--listen", &address], &[]);
    tab.shows("interrupted");
    tab.until("document.getElementById('trouble').hidden");
    let shown =
        "[...document.querySelectorAll('.lines p:not(.note)')].map((one) => one.textContent)";
    assert_eq!(
        tab.ask(&format!(
            "{shown}.join() === Array.from({{length: 300}}, (_, n) => `line ${{n + 1}}`).join()"
        )),
        true,
        "{}",
        tab.ask(shown)
    );
    drop(host);
}

#[test]
fn hostile_texts_are_texts_and_ten_thousand_lines_are_shown() {
    let host = TestServer::start();
    let evil = "<img src=x onerror=window.evil=1><script>window.evil=1</script>";
    let Some(tab) = signed_in(&host) else { return };
    let install = format!(
        "printf '%s\\n' '{evil}' >&2; seq 10000; printf '\\033[31mred\\342\\200\\256\\033[2K\\n'; exit 3"
    );
    let fields = [("message", evil), ("install_command", install.as_str())];
    let failed = deploy(&host, "evil", &fields, &[("./a", "a")]);
    let mut live = vec![("message", evil), ("restart", "true")];
    live.push(("install_command", "true"));
    let procfile = format!("web: echo '{evil}'; sleep 1000\n");
    deploy(&host, "evil", &live, &[("./Procfile", procfile.as_str())]);
    tab.click("History");
    tab.shows(evil);
    tab.click("Components");
    tab.click("evil");
    tab.until(&format!(
        "document.querySelector('.lines')?.textContent.includes({})",
        json!(evil)
    ));
    tab.picture("component");
    tab.ask(&format!("location.hash = '#/d/{}'", id(&failed)));
    tab.shows("install_failed");
    tab.until("document.querySelectorAll('.lines p:not(.note)').length === 10002");
    tab.until(&format!(
        "document.querySelector('.lines').textContent.includes({})",
        json!(evil)
    ));
    // As a terminal shows it: without its colours, and in the order that it has.
    tab.until("[...document.querySelectorAll('.lines p')].some((line) => line.textContent === 'red<U+202E>^[[2K')");
    tab.picture("ten-thousand-lines");
    assert_eq!(tab.ask("typeof window.evil"), "undefined");
    assert_eq!(
        tab.ask("document.querySelectorAll('main img, main script').length"),
        0
    );
    // It is alive: another page comes at once.
    tab.click("Components");
    tab.shows("1 of 1 up");
}

#[test]
fn a_component_is_stopped_and_started_and_its_log_follows() {
    let host = TestServer::start();
    let says = host.path("says");
    let procfile = format!("web: touch {0}; exec tail -n +1 -f {0}\n", says.display());
    deploy(
        &host,
        "app",
        &[("restart", "true")],
        &[("./Procfile", procfile.as_str())],
    );
    let Some(tab) = signed_in(&host) else { return };
    tab.click("app");
    tab.shows("web");
    let mut file = fs::OpenOptions::new().append(true).open(&says).unwrap();
    writeln!(file, "the first line").unwrap();
    tab.shows("the first line");
    writeln!(file, "the second line").unwrap();
    tab.shows("the second line");
    tab.click("Stop");
    tab.confirm();
    tab.shows("Its processes are stopped");
    tab.click("Start");
    tab.until("!document.body.innerText.includes('Its processes are stopped')");
    tab.click("Restart");
    tab.confirm();
    tab.until("location.hash.startsWith('#/d/')");
    tab.shows("web");
    tab.shows("success");
    // Who may only look is offered nothing that would be refused.
    let added = host.cli(&[
        "token",
        "add",
        "looker",
        "--role",
        "read",
        "--root",
        host.root.0.to_str().unwrap(),
    ]);
    let token = String::from_utf8(added.stdout).unwrap();
    tab.click("Sign out");
    tab.until("document.activeElement.id === 'token'");
    tab.write(token.trim());
    tab.press("Enter");
    tab.click("app");
    tab.shows("looker · read");
    tab.shows("Processes");
    assert_eq!(
        tab.ask(
            "[...document.querySelectorAll('main button')].map((one) => one.textContent).join()"
        ),
        "Older"
    );
}

#[test]
fn the_page_fits_a_phone_and_is_used_by_keys_alone() {
    let host = TestServer::start();
    let long = "a-component-with-the-longest-name-that-a-component-may-have-abc";
    deploy(
        &host,
        long,
        &[(
            "message",
            "a message without any place to break it: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        )],
        &[("./a", "a")],
    );
    let made = deploy(
        &host,
        long,
        &[("install_command", "seq 50")],
        &[("./a", "b")],
    );
    let Some(tab) = signed_in(&host) else { return };
    for dark in [false, true] {
        tab.dark(dark);
        tab.size(360, 740);
        for (name, at) in [
            ("list", "#/".into()),
            ("one", format!("#/c/{long}")),
            ("past", "#/history".into()),
            ("run", format!("#/d/{}", id(&made))),
        ] {
            tab.ask(&format!("location.hash = '{at}'"));
            tab.until("!document.body.innerText.includes('Loading') && document.querySelector('section')?.innerText.length > 9");
            let width = "document.documentElement.scrollWidth";
            assert_eq!(tab.ask(width), 360, "{name}");
            tab.picture(&format!("phone-{name}{}", if dark { "-dark" } else { "" }));
        }
    }
    tab.size(1100, 800);
    tab.ask(&format!("location.hash = '#/c/{long}'"));
    tab.shows("Releases that are kept");
    tab.picture("component-dark");
    // What has the focus is seen, and each thing that can have it says what it is.
    let unnamed = "[...document.querySelectorAll('a, button, input, select, [role=log], [role=img]')].filter((one) => \
                   one.checkVisibility() && !(one.textContent || one.labels?.length || one.ariaLabel)).length";
    assert_eq!(tab.ask(unnamed), 0);
    assert_eq!(tab.ask("document.querySelectorAll('h1').length"), 1);
    // By keys alone: on to the button that makes the first release live, and yes.
    let before = host.path("components").join(long).canonicalize().unwrap();
    await_some("the button, by keys", || {
        tab.press("Tab");
        let label = tab.ask("document.activeElement.textContent");
        (label == "Make live").then_some(())
    });
    tab.press("Enter");
    tab.until("document.getElementById('ask').open");
    assert_eq!(tab.ask("document.activeElement.textContent"), "Cancel");
    tab.press("Tab");
    tab.press("Enter");
    tab.until("location.hash.startsWith('#/d/')");
    await_some("the first release", || {
        (host.path("components").join(long).canonicalize().unwrap() != before).then_some(())
    });
}

/// A server, the peer that it replicates to, and what it knows that by.
fn with_peer() -> (TestServer, TestServer, TempDir) {
    let two = TestServer::start();
    let files = TempDir::new().with(&[("token", &two.token)]);
    let (url, token) = (
        format!("two=http://{}", two.address),
        format!("two={}", files.0.join("token").display()),
    );
    let host = TestServer::with(&["--peer", &url, "--peer-token-file", &token], &[]);
    (host, two, files)
}

#[test]
fn a_component_is_stopped_and_started_on_all_hosts_and_each_is_shown() {
    let (host, two, _files) = with_peer();
    let Some(tab) = signed_in(&host) else { return };
    let fields = [("replicated", "true"), ("restart", "true")];
    deploy(
        &host,
        "app",
        &fields,
        &[("./Procfile", "web: sleep 1000\n")],
    );
    tab.click("app");
    let rows = |text: &str| {
        format!(
            "[...document.querySelectorAll('table[aria-label=Hosts] tbody tr')].filter((row) => row.textContent.includes('{text}')).length === 2"
        )
    };
    tab.until(&rows("1 of 1 up"));
    tab.picture("hosts");
    let all = "document.querySelector('[role=group] input')";
    for (button, done) in [("Stop", "stopped"), ("Start", "1 of 1 up")] {
        // What was chosen stays chosen while the page is drawn anew.
        tab.until(&format!("({all}.checked || {all}.click(), {all}.checked)"));
        tab.click(button);
        if button == "Stop" {
            tab.until("document.getElementById('ask-text').textContent.includes('On this host and 1 peer.')");
            tab.confirm();
        }
        tab.until(&rows(done));
    }
    drop(two);
    tab.click("Look again");
    tab.shows("not reached");
}

#[test]
fn an_upload_and_peers_are_shown_and_record_and_payload_are_downloaded() {
    let (host, _two, _files) = with_peer();
    let Some(tab) = signed_in(&host) else { return };
    // Half of an upload is there, and the page says how much.
    let payload = crate::test_server::noise();
    let (media, body) = form(&[("project", "demo"), ("replicated", "true")], &payload);
    let authorization = format!("Authorization: Bearer {}", host.token);
    let asked = request("POST", "/", &[&media, &authorization], &body);
    let mut upload = host.connect();
    let (first, rest) = asked.split_at(asked.len() / 2);
    upload.write_all(first).unwrap();
    let id = await_some("the deployment", || {
        let list = json!({"operation": "list_deployments", "limit": 1});
        let list = host.operate(&list).json();
        let id = list["deployments"][0]["deployment_id"].as_str();
        id.map(str::to_owned)
    });
    tab.ask(&format!("location.hash = '#/d/{id}'"));
    tab.shows("extract");
    // An upload event comes with a piece of the body, at most so often: one that comes at once after the last gives none.
    let mut pieces = rest.chunks(rest.len().div_ceil(1000));
    await_some("the bytes on the page", || {
        upload.write_all(pieces.next()?).unwrap();
        let shown = tab.text().contains("Received");
        shown.then_some(())
    });
    for piece in pieces {
        upload.write_all(piece).unwrap();
    }
    assert_eq!(Answer::read(upload).status, 200);
    tab.shows("Peers");
    tab.until("[...document.querySelectorAll('td')].some((one) => one.textContent === 'two')");
    tab.shows("Record");
    tab.picture("peers");
    let to = TempDir::new();
    tab.downloads_to(&to.0);
    tab.click("Download the record");
    let record = to.0.join(format!("deployment-{id}.json"));
    let record = await_some("the record", || {
        fs::read(&record).ok().filter(|text| !text.is_empty())
    });
    let record: Value = serde_json::from_slice(&record).unwrap();
    assert_eq!(record["deployment_id"], id);
    tab.click("Download the payload");
    let file = to.0.join(format!("deployment-{id}.tar"));
    await_some("the payload as it was sent", || {
        fs::read(&file).ok().filter(|bytes| *bytes == payload)
    });
}

#[test]
fn the_fleet_is_shown_with_its_hosts_as_they_stand() {
    let Some(fleet) = TestFleet::new() else {
        return;
    };
    let (one, two) = (fleet.host("one"), fleet.host("two"));
    fleet.publish(1, ("one", &one), "first");
    fleet.await_status("one", 1, "live");
    fleet.await_status("two", 1, "live");
    let Some(tab) = signed_in(&one) else { return };
    tab.click("Fleet");
    tab.shows("Live on 2 of 2 hosts");
    tab.picture("fleet");
    // One that goes is off as soon as its lease has run out.
    drop(two);
    tab.shows("off");
    // Who belongs to no fleet has no such page.
    let alone = TestServer::start();
    let tab = signed_in(&alone).unwrap();
    assert_eq!(tab.ask("document.getElementById('fleet').hidden"), true);
}
