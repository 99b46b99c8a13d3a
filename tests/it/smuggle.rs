//! Requests that could be understood in two ways: each gets one refusal, and nothing in it is taken for a second request.

use std::io::Write;
use std::net::Shutdown;

use crate::flood::{Server, answer, is};

/// What must never be asked.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";

fn once(answer: &str) {
    assert_eq!(answer.matches("HTTP/1.").count(), 1, "{answer:?}");
}

#[test]
fn ambiguous_framing() {
    let server = Server::start(&[]);
    let table = [
        (400, "Content-Length: 5\r\nContent-Length: 6\r\n"),
        (400, "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n"),
        (400, "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n"),
        (400, " Content-Length: 5\r\n"),
        (400, "Content-Length : 5\r\n"),
        (400, "X: y\r\n Content-Length: 5\r\n"),
        (400, "X: y\nContent-Length: 5\r\n"),
        (400, "X: y\rContent-Length: 5\r\n"),
        (400, "X: y\0\r\nContent-Length: 5\r\n"),
        (400, ": y\r\n"),
        (501, "Transfer-Encoding: xchunked\r\n"),
        (501, "Transfer-Encoding: chunked, identity\r\n"),
        (
            400,
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        ),
        (400, "Content-Length: -1\r\n"),
        (400, "Content-Length: +5\r\n"),
        (400, "Content-Length: 5, 5\r\n"),
    ];
    for (status, fields) in table {
        let request = format!("POST / HTTP/1.1\r\nHost: x\r\n{fields}\r\n0\r\n\r\n{SMUGGLED}");
        let answer = server.ask(request.as_bytes());
        is(&answer, status, "bad_http");
        once(&answer);
    }
    assert!(!server.log().contains(" GET /smuggled"), "{}", server.log());
}

#[test]
fn the_unread_rest_of_a_refused_upload() {
    let server = Server::start(&[]);
    let smuggled = SMUGGLED.repeat(2);
    let chunk = format!("{:x}\r\n{smuggled}\r\n", smuggled.len());
    let table = [
        // Within the body, behind it, and where a chunk should begin.
        (
            401,
            format!("Transfer-Encoding: chunked\r\n\r\n{chunk}0\r\n\r\n"),
        ),
        (
            401,
            format!("Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n{smuggled}"),
        ),
        (
            400,
            format!("Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n{smuggled}"),
        ),
        (
            401,
            format!("Content-Length: {}\r\n\r\n{smuggled}", smuggled.len()),
        ),
        (401, format!("Content-Length: 0\r\n\r\n{smuggled}")),
        (401, format!("\r\n{smuggled}")),
    ];
    for (status, request) in table {
        let head = "POST / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n";
        let answer = server.ask(format!("{head}{request}").as_bytes());
        is(
            &answer,
            status,
            if status == 400 {
                "bad_http"
            } else {
                "unauthorized"
            },
        );
        once(&answer);
    }
    assert!(!server.log().contains(" GET /smuggled"), "{}", server.log());
}

#[test]
fn chunks_that_are_none() {
    let server = Server::start(&[]);
    let head = format!(
        "POST / HTTP/1.1\r\nHost: x\r\n{}Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
        server.authorization()
    );
    for body in [
        "+5\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n",
        "5\nhello\n0\n\n",
        "5\r\nhello0\r\n\r\n",
        "0x5\r\nhello\r\n",
        "g\r\n",
    ] {
        let mut stream = server.connect();
        stream
            .write_all(format!("{head}{body}{SMUGGLED}").as_bytes())
            .unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let answer = answer(stream);
        is(&answer, 400, "bad_http");
        once(&answer);
    }
    assert!(!server.log().contains(" GET /smuggled"), "{}", server.log());
}

#[test]
fn a_client_cannot_speak_for_the_gate() {
    let server = Server::start(&[]);
    for name in [
        "Gangplank-Gate-Listener",
        "GANGPLANK-GATE-LISTENER",
        "Connection: Gangplank-Gate-Listener\r\nGangplank-Gate-Listener",
    ] {
        let request = format!(
            "POST / HTTP/1.1\r\nHost: x\r\n{name}: local\r\nContent-Type: application/json\r\nContent-Length: 30\r\n\r\n\
             {{\"operation\":\"get_components\"}}"
        );
        is(&server.ask(request.as_bytes()), 401, "unauthorized");
    }
}
