//! `get_logs`: what a component's processes print, as text, or line by line as events.

use std::time::Duration;

use serde_json::json;

use crate::api::error::{Code, Error, Refusal};
use crate::api::operation;
use crate::engine::processes::{LogFilter, LogFollower, Logged};
use crate::formats::sse;
use crate::server::answers::Outcome;
use crate::server::http::Answer;
use crate::server::options::RequestOptions;
use crate::server::pump::{Batch, LiveStream, StreamSource};
use crate::server::state::ServerState;

/// How many lines there are if nobody says.
const LINES: u64 = 100;
/// How many there are at most.
const LINES_MAX: u64 = 10_000;

/// Lines as events: those that are there, and then those that come.
struct LogLines {
    before: std::vec::IntoIter<Logged>,
    follower: Option<LogFollower>,
    filter: LogFilter,
}

/// Performs `get_logs`.
pub(super) fn get_logs(
    state: &ServerState,
    request: &operation::Logs,
    wanted: &RequestOptions,
) -> Result<Outcome, Refusal> {
    let project = &request.project;
    let filter = LogFilter::new(request.since, request.kind.clone());
    let known = state.known.store.live(project).is_some();
    let lines = usize::try_from(request.lines.unwrap_or(LINES).min(LINES_MAX)).unwrap_or(0);
    if !known
        && state
            .processes
            .tail(project, 1, &LogFilter::default())?
            .is_empty()
    {
        let why = format!("reading the output of {project}: there is no such component");
        return Err(Refusal::new(Code::NotFound, why));
    }
    if !wanted.events {
        return Ok(text(&state.processes.tail(project, lines, &filter)?));
    }
    let (lines, follower) = if request.follow {
        let (lines, follower) = state.processes.follow(project, lines, &filter)?;
        (lines, Some(follower))
    } else {
        (state.processes.tail(project, lines, &filter)?, None)
    };
    Ok(Outcome::Stream(LiveStream {
        watching: follower.is_some(),
        source: Box::new(LogLines {
            before: lines.into_iter(),
            follower,
            filter,
        }),
    }))
}

fn text(lines: &[Logged]) -> Outcome {
    let mut body = Vec::new();
    for one in lines {
        let words = [&one.time, &one.kind, &one.stream];
        for word in words {
            body.extend_from_slice(word.as_bytes());
            body.push(b' ');
        }
        body.extend_from_slice(one.line.as_bytes());
        body.push(b'\n');
    }
    Outcome::Answer(Answer {
        status: 200,
        content_type: "text/plain; charset=utf-8",
        headers: Vec::new(),
        body,
    })
}

impl StreamSource for LogLines {
    fn next(&mut self, records: &mut Vec<u8>, wait: Duration) -> Result<Batch, Error> {
        if let Some(line) = self.before.next() {
            frame(records, &line);
            return Ok(Batch::Records);
        }
        let Some(follower) = &mut self.follower else {
            sse::frame(records, None, "done", "{\"result\":{}}");
            return Ok(Batch::End);
        };
        let lines = follower.next(wait)?;
        let before = records.len();
        for line in lines.iter().filter(|line| self.filter.wants(line)) {
            frame(records, line);
        }
        Ok(match lines.is_empty() {
            false if records.len() == before => Batch::Nothing,
            false => Batch::Records,
            // Without a last event: it goes on with the next server.
            true if follower.ended() => Batch::End,
            true => Batch::Nothing,
        })
    }
}

fn frame(records: &mut Vec<u8>, one: &Logged) {
    let data = json!({
        "type": one.kind,
        "stream": one.stream,
        "line": one.line,
        "at": one.time,
    });
    sse::frame(records, None, "log", &data.to_string());
}
