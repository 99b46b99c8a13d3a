//! The commands about one component or one deployment, with servers that answer what they are told.

use super::again::{BUSY, DONE, Do, ENDED, app, one, scripted, told};
use super::*;

#[test]
fn a_payload_is_there_when_it_is_whole() {
    let dir = app("payload");
    let out = dir.0.join("out.tgz");
    let command = format!("payload {DEPLOYMENT} --out {}", out.display());
    let answer = |length: Option<usize>| {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nConnection: close\r\n\
                    Content-Disposition: attachment; filename=\"x\"\r\n";
        let length = length.map_or(String::new(), |length| {
            format!("Content-Length: {length}\r\n")
        });
        format!("{head}{length}\r\n{}", "x".repeat(300_000))
    };
    let gone =
        "HTTP/1.1 404 X\r\nContent-Length: 32\r\n\r\n{\"error\":\"x\",\"code\":\"not_found\"}";
    let table = [
        (answer(Some(300_001)), Some(Exit::Unreachable)),
        // Whether this one was cut, nobody knows.
        (answer(None), Some(Exit::Unreachable)),
        (gone.to_owned(), Some(Exit::Refused)),
        (answer(Some(300_000)), None),
    ];
    for (answer, exit) in table {
        let (target, thread) = scripted(vec![Do::Answer(answer.leak())]);
        let (result, _) = told(&command, &target);
        let request = thread.join().unwrap().pop().unwrap();
        assert!(
            request.contains("\"operation\":\"get_deployment_payload\""),
            "{request}"
        );
        assert_eq!(
            result.as_ref().err().map(|trouble| trouble.failed.exit),
            exit,
            "{result:?}"
        );
        assert_eq!(out.exists(), exit.is_none());
    }
    assert_eq!(std::fs::read(&out).unwrap(), vec![b'x'; 300_000]);
    let mut names: Vec<_> = std::fs::read_dir(&dir.0)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["a", "out.tgz"]);
    let (result, _) = told(
        &format!("payload {DEPLOYMENT} --out /nonexistent/x"),
        "http://127.0.0.1:1",
    );
    assert_eq!(result.unwrap_err().failed.exit, Exit::Usage);
}

#[test]
fn status_is_of_all_or_of_one() {
    let answer = concat!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n",
        "{\"components\":[{\"project\":\"one\"},{\"project\":\"two\"}]}"
    );
    for (command, left) in [
        ("status", Some(2)),
        ("status two", Some(1)),
        ("status three", None),
    ] {
        let (target, thread) = scripted(vec![Do::Answer(answer)]);
        let (result, _) = told(command, &target);
        thread.join().unwrap();
        match left {
            Some(left) => assert_eq!(
                result.unwrap().unwrap()["components"]
                    .as_array()
                    .unwrap()
                    .len(),
                left
            ),
            None => assert_eq!(result.unwrap_err().failed.exit, Exit::Refused),
        }
    }
}

#[test]
fn who_waits_goes_on_waiting_when_the_server_goes_and_comes_back() {
    let dir = app("return");
    let (target, thread) = scripted(vec![Do::Answer(BUSY), Do::Answer(ENDED)]);
    let (mut options, request) = read(&format!("{} --wait", dir.deploy()), &target);
    options.retry_for = None;
    let asking = std::thread::spawn(move || {
        ask(&options, request, &mut Screen::new(Progress::Quiet, false))
    });
    thread.join().unwrap();
    let listener = TcpListener::bind(target.strip_prefix("http://").unwrap()).unwrap();
    one(&listener, Do::Answer(DONE));
    let end = value_of(asking.join().unwrap().unwrap());
    assert_eq!(end["message"], "m");
}

#[test]
fn a_deployment_is_found_by_a_word_at_any_server_that_has_a_list() {
    let id = |n: &str| format!("01976e6c-1c2b-7000-8000-{n:0>12}");
    let row = |n: &str, project: &str| {
        format!(
            "{{\"deployment_id\":\"{}\",\"project\":\"{project}\",\"status\":\"success\"}}",
            id(n)
        )
    };
    let list = |rows: &[String], total: usize| {
        json_answer(&format!(
            "{{\"deployments\":[{}],\"total\":{total}}}",
            rows.join(",")
        ))
    };
    let (a, b, c) = (row("1", "a"), row("2", "b"), row("f", "deadbeef"));
    let none = || list(&[], 0);
    let one = |row: &String| list(std::slice::from_ref(row), 1);
    type Answers = Vec<&'static str>;
    let table: Vec<(&str, Answers, Result<&str, &str>)> = vec![
        // Every page is looked at, and a row that came twice is one.
        (
            "show 01976e6c",
            vec![
                list(std::slice::from_ref(&b), 201),
                list(std::slice::from_ref(&b), 201),
                none(),
            ],
            Ok("2"),
        ),
        ("show 01976E6C-1C2B", vec![one(&b), none()], Ok("2")),
        (
            "show 01976e6c",
            vec![list(&[b.clone(), a.clone()], 2), none()],
            Err("may mean several deployments"),
        ),
        (
            "show 0abcdef0",
            vec![list(&[b.clone(), a.clone()], 2), none()],
            Err("begins with 0abcdef0"),
        ),
        // A component whose name looks like the beginning of an id.
        ("show deadbeef", vec![one(&a), one(&c)], Ok("f")),
        (
            "show 01976e6c",
            vec![one(&a), one(&c)],
            Err("may mean several deployments"),
        ),
        ("show a", vec![one(&a)], Ok("1")),
        (
            "show a",
            vec![none()],
            Err("no component a has a deployment here, and the beginning of an id"),
        ),
        (
            "show latest",
            vec![list(&[b.clone(), a.clone()], 2), none()],
            Ok("2"),
        ),
        (
            "show latest",
            vec![none(), none()],
            Err("there is no deployment yet"),
        ),
        (
            "cancel latest",
            vec![list(&[b.clone(), a.clone()], 2)],
            Err("`latest` may be of b, of a or another"),
        ),
        (
            "cancel latest",
            vec![list(&[b.clone(), b.clone()], 2), none()],
            Ok("2"),
        ),
        (
            "payload latest --delete",
            vec![list(&[a.clone(), b.clone()], 2)],
            Err("`latest` may be of a, of b"),
        ),
        ("rollback a --to latest", vec![one(&a), none()], Ok("1")),
    ];
    let done = json_answer("{\"message\":\"m\",\"deployment_id\":\"i\",\"status\":\"s\"}");
    for (command, mut answers, expected) in table {
        if expected.is_ok() {
            answers.push(done);
        }
        let (target, thread) = scripted(answers.into_iter().map(Do::Answer).collect());
        let (result, shown) = told(command, &target);
        let mut requests = thread.join().unwrap();
        match expected {
            Ok(n) => {
                result.unwrap();
                let last = requests.pop().unwrap();
                assert!(last.contains(&id(n)), "{command}: {last}");
                let said = shown.iter().any(|line| line.contains(&id(n)));
                assert_eq!(said, !command.starts_with("show"), "{command}: {shown:?}");
            }
            Err(why) => {
                let failed = result.unwrap_err().failed;
                assert_eq!(failed.exit, Exit::Refused);
                assert!(
                    failed.message.contains(why),
                    "{command}: {}",
                    failed.message
                );
            }
        }
        for request in requests {
            assert!(
                request.contains("\"list_deployments\""),
                "{command}: {request}"
            );
            let scope = command.starts_with("rollback");
            assert!(!scope || request.contains("\"project\":"), "{request}");
        }
    }
}
