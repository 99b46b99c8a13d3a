//! A deployment's events: to whoever began it, to whoever watches, and as the plain answer at its end.

use std::io;
use std::time::Duration;

use crate::api::error::{Code, Refusal};
use crate::api::event::{Event, Upload};
use crate::api::name::DeploymentId;
use crate::api::record::Summary;
use crate::formats::sse;
use crate::server::answers::{Outcome, failed, json};
use crate::server::auth::{Caller, visible};
use crate::server::http::{Answer, Exchange};
use crate::server::options::{self, RequestOptions};
use crate::server::state::ServerState;
use crate::store::journal::{Follower, Step};
use crate::system::log;

/// Answers `GET /deployments/WHICH/events`.
pub(super) fn watch(
    state: &ServerState,
    exchange: &Exchange,
    which: &str,
    caller: &Caller,
) -> Result<Outcome, Refusal> {
    if which == "latest" {
        // It does not resume: the newest deployment may be another one by then.
        let id = latest(state, exchange.query("project"))?;
        visible(&state.known.store, id, caller, "watching")?;
        return Ok(watched(state.workers.follow(id, 0)?));
    }
    let Ok(id) = which.parse::<DeploymentId>() else {
        return Err(Refusal::new(
            Code::NotFound,
            format!("No deployment found with id '{}'", which.escape_debug()),
        ));
    };
    visible(&state.known.store, id, caller, "watching")?;
    let after = options::resume(exchange)?.unwrap_or(0);
    let follower = state.workers.follow(id, after)?;
    if after > 0 && follower.at_end()? {
        // An EventSource stops at this instead of asking again and again.
        let nothing = Answer {
            status: 204,
            content_type: "text/event-stream",
            headers: Vec::new(),
            body: Vec::new(),
        };
        return Ok(Outcome::Answer(nothing));
    }
    Ok(watched(follower))
}

/// The newest deployment, of a component or of all.
fn latest(state: &ServerState, project: Option<&str>) -> Result<DeploymentId, Refusal> {
    let is_of = |one: &Summary| project.is_none_or(|project| one.project.as_str() == project);
    let found = state.known.index.look(|all| {
        let newest = all.iter().rev().find(|(_, one)| is_of(one));
        newest.map(|(id, _)| *id)
    });
    found.ok_or_else(|| {
        let of = project
            .map(|project| format!(" of '{}'", project.escape_debug()))
            .unwrap_or_default();
        Refusal::new(Code::NotFound, format!("No deployment{of} found"))
    })
}

/// Replays and follows; if nothing comes after the event that was asked for, the terminal one is sent again.
pub(super) fn replay(
    state: &ServerState,
    id: DeploymentId,
    after: u64,
) -> Result<Outcome, Refusal> {
    let follower = state.workers.follow(id, after)?;
    if after == 0 || !follower.at_end()? {
        return Ok(watched(follower));
    }
    let last = state.workers.follow(id, 0)?.last()?;
    Ok(watched(state.workers.follow(id, last.saturating_sub(1))?))
}

/// Events to somebody who began nothing.
fn watched(follower: Follower) -> Outcome {
    Outcome::Events(Events {
        follower,
        watching: true,
    })
}

pub(super) fn outcome(follower: Follower, options: &RequestOptions) -> Result<Outcome, Refusal> {
    if options.events {
        return Ok(Outcome::Events(Events {
            follower,
            watching: false,
        }));
    }
    Ok(Outcome::Answer(plain(follower)?))
}

/// Waits for a deployment's end and makes the plain answer of it.
pub(super) fn plain(mut follower: Follower) -> Result<Answer, Refusal> {
    let mut last = None;
    loop {
        match follower.next(HEARTBEAT_AFTER)? {
            Step::Entry(entry) => last = Some(entry),
            Step::Upload(_) | Step::Idle => {}
            Step::End => break,
        }
    }
    match last.map(|entry| entry.meaning()) {
        Some(Event::Done(result)) => Ok(json(200, &result)),
        Some(Event::Error(failure)) => Ok(failed(*failure)),
        _ => Err(Refusal::new(
            Code::Internal,
            "reading the end of a deployment: its journal has none",
        )),
    }
}

/// A comment goes out after so much silence: below the 30 s and 60 s after which proxies give up.
pub(super) const HEARTBEAT_AFTER: Duration = Duration::from_secs(15);
/// Entries that are there already go out together up to so many bytes: one write for a burst, and none waits.
const BURST_BYTES: usize = 32 << 10;

/// Events that are to be sent.
pub(super) struct Events {
    pub(super) follower: Follower,
    /// To somebody who only watches: such connections are at most half of all.
    pub(super) watching: bool,
}

impl Events {
    /// Sends the stream up to its end, and gives the status that it had.
    pub(super) fn answer(self, exchange: Exchange) -> (u16, io::Result<()>) {
        (200, self.send(exchange))
    }

    fn send(self, exchange: Exchange) -> io::Result<()> {
        let Events {
            mut follower,
            watching,
        } = self;
        let mut stream = exchange.stream(watching)?;
        stream.send(sse::OPEN)?;
        let mut records = Vec::new();
        loop {
            records.clear();
            let mut wait = HEARTBEAT_AFTER;
            let ended = loop {
                match follower
                    .next(wait)
                    .inspect_err(|error| log::error(&error.to_string()))
                    .map_err(io::Error::other)?
                {
                    Step::Entry(entry) => {
                        sse::frame(&mut records, Some(entry.id), &entry.event, entry.data.get())
                    }
                    Step::Upload(upload) => frame_upload(&mut records, upload),
                    Step::Idle => break false,
                    Step::End => break true,
                }
                if records.len() >= BURST_BYTES {
                    break false;
                }
                wait = Duration::ZERO;
            };
            if !records.is_empty() {
                stream.send(&records)?;
            } else if !ended {
                stream.send(sse::HEARTBEAT)?;
            }
            if ended {
                // A client that has seen the end may close before the stream does; nothing is lost by then.
                let _ = stream.end();
                return Ok(());
            }
        }
    }
}

fn frame_upload(records: &mut Vec<u8>, upload: Upload) {
    let event = Event::Upload(upload);
    sse::frame(records, None, event.name(), event.data().get());
}
