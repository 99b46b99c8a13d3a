//! Facts on their way out: a deployment's events as a stream, or its end as a plain answer.

use std::io;
use std::time::Duration;

use crate::api::error::Refusal;
use crate::api::event::{Event, Upload};
use crate::formats::sse;
use crate::server::http::{Answer, Exchange};
use crate::server::router::{failed, json};
use crate::store::journal::{Follower, Step};
use crate::system::log;

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
            crate::api::error::Code::Internal,
            "reading the end of a deployment: its journal has none",
        )),
    }
}
