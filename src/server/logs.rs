//! `get_logs`: what a component's processes print, as text, or line by line as events.

use std::io;

use serde_json::json;

use crate::api::error::{Code, Refusal};
use crate::api::operation;
use crate::engine::processes::{LogFollower, Logged};
use crate::formats::sse;
use crate::server::answers::Outcome;
use crate::server::http::{Answer, EventStream, Exchange};
use crate::server::options::RequestOptions;
use crate::server::state::ServerState;
use crate::server::watch::HEARTBEAT_AFTER;
use crate::system::log;

/// How many lines there are if nobody says.
const LINES: u64 = 100;
/// How many there are at most: as many as fit into what is read of the files at once.
const LINES_MAX: u64 = 100_000;

/// Lines that are to be sent as events.
pub(super) struct LogStream {
    lines: Vec<Logged>,
    follower: Option<LogFollower>,
}

/// Performs `get_logs`.
pub(super) fn get_logs(
    state: &ServerState,
    request: &operation::Logs,
    wanted: &RequestOptions,
) -> Result<Outcome, Refusal> {
    let project = &request.project;
    let known = state.known.store.live(project).is_some();
    let lines = usize::try_from(request.lines.unwrap_or(LINES).min(LINES_MAX)).unwrap_or(0);
    if !known && state.processes.tail(project, 1)?.is_empty() {
        let why = format!("reading the output of {project}: there is no such component");
        return Err(Refusal::new(Code::NotFound, why));
    }
    if request.follow && wanted.events {
        let (lines, follower) = state.processes.follow(project, lines)?;
        return Ok(Outcome::Logs(LogStream {
            lines,
            follower: Some(follower),
        }));
    }
    let lines = state.processes.tail(project, lines)?;
    if wanted.events {
        return Ok(Outcome::Logs(LogStream {
            lines,
            follower: None,
        }));
    }
    let text: String = lines.iter().map(text).collect();
    Ok(Outcome::Answer(Answer {
        status: 200,
        content_type: "text/plain; charset=utf-8",
        headers: Vec::new(),
        body: text.into_bytes(),
    }))
}

fn text(one: &Logged) -> String {
    let Logged {
        time,
        kind,
        stream,
        line,
    } = one;
    format!("{time} {kind} {stream} {line}\n")
}

impl LogStream {
    /// Sends the lines, and goes on with those that come until the client is gone.
    pub(super) fn answer(self, exchange: Exchange) -> (u16, io::Result<()>) {
        (200, self.send(exchange))
    }

    fn send(self, exchange: Exchange) -> io::Result<()> {
        let mut stream = exchange.stream(self.follower.is_some())?;
        stream.send(sse::OPEN)?;
        send(&mut stream, &self.lines)?;
        if let Some(mut follower) = self.follower {
            loop {
                let lines = follower
                    .next(HEARTBEAT_AFTER)
                    .inspect_err(|error| log::error(&error.to_string()))
                    .map_err(io::Error::other)?;
                if lines.is_empty() && follower.ended() {
                    // Without a last event: it goes on with the next server.
                    return stream.end();
                }
                if lines.is_empty() {
                    stream.send(sse::HEARTBEAT)?;
                } else {
                    send(&mut stream, &lines)?;
                }
            }
        }
        let mut record = Vec::new();
        sse::frame(&mut record, None, "done", "{\"result\":{}}");
        stream.send(&record)?;
        stream.end()
    }
}

fn send(stream: &mut EventStream, lines: &[Logged]) -> io::Result<()> {
    let mut records = Vec::new();
    for one in lines {
        let data = json!({
            "type": one.kind,
            "stream": one.stream,
            "line": one.line,
            "time": one.time,
        });
        sse::frame(&mut records, None, "log", &data.to_string());
    }
    if records.is_empty() {
        return Ok(());
    }
    stream.send(&records)
}
