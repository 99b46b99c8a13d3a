//! What a client is told, if it is told anything.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::test_server::{TestServer, request};

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Told {
    /// It went well, and the deployment if there is one.
    Success(Option<String>),
    /// It did not.
    Failure(String, Option<String>),
    /// The connection broke, or was never answered.
    Nothing(String),
    /// What must not be.
    Wrong(String),
}

impl Told {
    pub(super) fn deployment(&self) -> Option<&str> {
        match self {
            Told::Success(id) | Told::Failure(_, id) => id.as_deref(),
            _ => None,
        }
    }
}

/// Sends a request with the server's token, and reads all of the answer: the status, whether it is a stream, its body.
pub(super) fn ask(
    host: &TestServer,
    headers: &[&str],
    target: (&str, &str),
    body: &[u8],
    patience: Duration,
) -> Result<(u16, bool, String), String> {
    let text = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(&host.address).map_err(text)?;
    let authorization = format!("Authorization: Bearer {}", host.token);
    let mut all = vec![&*authorization];
    all.extend(headers);
    let sent = stream.write_all(&request(target.0, target.1, &all, body));
    let deadline = Instant::now() + patience;
    let mut answer = Vec::new();
    let mut buffer = [0; 16 << 10];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(format!("no answer within {patience:?}"));
        }
        stream.set_read_timeout(Some(left)).map_err(text)?;
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => answer.extend_from_slice(&buffer[..len]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            // An answer that came before all was sent.
            Err(_) if !answer.is_empty() => break,
            Err(error) => return Err(text(sent.err().unwrap_or(error))),
        }
    }
    parse(&answer).ok_or_else(|| format!("a broken answer of {} bytes", answer.len()))
}

fn parse(answer: &[u8]) -> Option<(u16, bool, String)> {
    let text = String::from_utf8_lossy(answer);
    let (head, mut body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let head = head.to_ascii_lowercase();
    let live = head.contains("text/event-stream");
    if !head.contains("transfer-encoding: chunked") {
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let whole = length.is_none_or(|length| length.parse() == Ok(body.len()));
        return whole.then(|| (status, live, body.to_owned()));
    }
    let mut whole = String::new();
    loop {
        let (size, rest) = body.split_once("\r\n")?;
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            return Some((status, live, whole));
        }
        whole.push_str(rest.get(..size)?);
        body = rest.get(size + 2..)?;
    }
}

/// The events of a stream with an end, or what is wrong with it.
pub(super) fn ends(body: &str) -> Vec<(String, Value)> {
    let blocks = body.split("\n\n");
    let events = blocks.filter_map(|block| {
        let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
        let (event, data) = (field("event: ")?, field("data: ")?);
        Some((event.to_owned(), serde_json::from_str(data).ok()?))
    });
    events
        .filter(|(event, _)| event == "done" || event == "error")
        .collect()
}

/// What a client takes from an answer.
pub(super) fn told(answer: Result<(u16, bool, String), String>) -> Told {
    let (status, live, body) = match answer {
        Ok(answer) => answer,
        Err(why) => return Told::Nothing(why),
    };
    let id = |value: &Value| value["deployment_id"].as_str().map(str::to_owned);
    let failure = |value: &Value, message: &str| {
        let code = value["code"].as_str().unwrap_or("no code");
        let message = value[message].as_str().unwrap_or("no message");
        Told::Failure(format!("{status} {code}: {message}"), id(value))
    };
    if live {
        return match &*ends(&body) {
            [(event, data)] if event == "done" => Told::Success(id(&data["result"])),
            [(_, data)] => failure(data, "message"),
            other => Told::Wrong(format!("a stream has {} ends", other.len())),
        };
    }
    match serde_json::from_str::<Value>(&body) {
        Ok(value) if status == 200 => Told::Success(id(&value)),
        Ok(value) => failure(&value, "error"),
        Err(_) => Told::Wrong(format!("{status} with {body:?}")),
    }
}
