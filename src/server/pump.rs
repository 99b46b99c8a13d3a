//! The pump of every live stream: it opens the stream, sends what its source has in bursts, breaks a silence with a comment,
//! and closes the stream at the source's end.

use std::io;
use std::time::Duration;

use crate::api::error::Error;
use crate::formats::sse;
use crate::server::auth::Access;
use crate::server::http::{EventStream, Exchange, KEPT_BUFFER, PULSE};
use crate::server::request_log::RequestLog;
use crate::system::log;

/// Records that are there already go out together up to so many bytes: one write for a burst, and none waits.
pub(super) const BURST_BYTES: usize = 32 << 10;

/// What a source had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Batch {
    /// One record or more; there may be further ones at once.
    Records,
    /// Nothing for as long as was asked.
    Nothing,
    /// The last records, if there were any left.
    End,
}

/// Where the records of a live stream come from.
pub(super) trait StreamSource: Send {
    /// Adds what comes within `wait` to `records`: one record, or the few that come with it.
    ///
    /// # Errors
    /// When it cannot go on. The stream is cut off then, so that its reader does not take that for an end.
    fn next(&mut self, records: &mut Vec<u8>, wait: Duration) -> Result<Batch, Error>;

    /// Whether [`StreamSource::take_over`] is to be asked when there is nothing.
    fn is_shared(&self) -> bool {
        false
    }

    /// Takes a stream over that has all that there is, to go on with it elsewhere; or gives it back.
    fn take_over(&mut self, stream: Box<OpenStream>) -> Result<(), Box<OpenStream>> {
        Err(stream)
    }
}

/// A stream that has begun, with all that is needed to go on with it.
pub(super) struct OpenStream {
    pub(super) events: EventStream,
    /// Where the caller's token is revoked, it is cut off.
    pub(super) access: Access,
    log: RequestLog,
}

impl OpenStream {
    /// Ends it when all is sent.
    pub(super) fn end(self) {
        self.events.close();
        self.log.end(200, true);
    }

    /// Ends it so that its client does not take that for the end.
    pub(super) fn cut_off(self) {
        drop(self.events);
        self.log.end(200, false);
    }
}

/// A stream that is to be sent.
pub(super) struct LiveStream {
    pub(super) source: Box<dyn StreamSource>,
    /// To somebody who only watches: such connections are at most half of all.
    pub(super) watching: bool,
}

impl LiveStream {
    /// For somebody who only watches.
    pub(super) fn watched(source: impl StreamSource + 'static) -> LiveStream {
        LiveStream {
            source: Box::new(source),
            watching: true,
        }
    }

    /// Sends the stream up to its end, or until somebody takes it over. Where the caller's token is revoked meanwhile, it is
    /// cut off: nothing is sent after that, and a silent stream ends within its pulse.
    pub(super) fn send(self, exchange: Exchange, access: Access, log: RequestLog) {
        let begun = exchange
            .stream("text/event-stream", self.watching)
            .and_then(|mut events| events.send(sse::OPEN).map(|()| events));
        match begun {
            Ok(events) => self.go_on(Box::new(OpenStream {
                events,
                access,
                log,
            })),
            Err(_) => log.end(200, false),
        }
    }

    /// Goes on with a stream that has begun.
    pub(super) fn go_on(mut self, mut stream: Box<OpenStream>) {
        let (mut records, mut refused) = (Vec::new(), false);
        loop {
            let shared = self.source.is_shared() && !refused;
            let wait = if shared { Duration::ZERO } else { PULSE };
            match self.turn(&mut stream, &mut records, wait) {
                Err(_) => return stream.cut_off(),
                Ok(Batch::End) => return stream.end(),
                Ok(Batch::Nothing) if shared => match self.source.take_over(stream) {
                    Ok(()) => return,
                    Err(back) => (stream, refused) = (back, true),
                },
                Ok(_) => refused = false,
            }
        }
    }

    /// Sends what comes within `wait`, and breaks a silence.
    fn turn(
        &mut self,
        stream: &mut OpenStream,
        records: &mut Vec<u8>,
        wait: Duration,
    ) -> io::Result<Batch> {
        records.clear();
        records.shrink_to(KEPT_BUFFER);
        let ended = self
            .gather(records, wait)
            .inspect_err(|error| log::error(&error.to_string()))
            .map_err(io::Error::other)?;
        if !stream.access.holds() {
            return Err(io::Error::other("the token was revoked"));
        }
        if !records.is_empty() {
            stream.events.send(records)?;
        } else if !ended && !wait.is_zero() {
            stream.events.idle()?;
        }
        if ended {
            // A client that has seen the end may close before the stream does; nothing is lost by then.
            let _ = stream.events.finish();
        }
        Ok(match ended {
            true => Batch::End,
            false if records.is_empty() => Batch::Nothing,
            false => Batch::Records,
        })
    }

    /// Waits for the first record, and takes those that are there behind it. Says whether that was the end.
    fn gather(&mut self, records: &mut Vec<u8>, mut wait: Duration) -> Result<bool, Error> {
        while records.len() < BURST_BYTES {
            match self.source.next(records, wait)? {
                Batch::Records => wait = Duration::ZERO,
                Batch::Nothing => break,
                Batch::End => return Ok(true),
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its pieces one by one; an empty one is a silence.
    struct Pieces(std::vec::IntoIter<Vec<u8>>);

    impl StreamSource for Pieces {
        fn next(&mut self, records: &mut Vec<u8>, _: Duration) -> Result<Batch, Error> {
            let Some(piece) = self.0.next() else {
                return Ok(Batch::End);
            };
            records.extend_from_slice(&piece);
            Ok(match piece.is_empty() {
                true => Batch::Nothing,
                false => Batch::Records,
            })
        }
    }

    #[test]
    fn a_burst_goes_out_at_once_and_is_bounded() {
        let (small, large) = (vec![b'a'; 10], vec![b'b'; BURST_BYTES]);
        // What the source has, and what each turn sends.
        let table = [
            (vec![], vec![(0, true)]),
            (vec![small.clone(), small.clone()], vec![(20, true)]),
            (
                vec![small.clone(), vec![], small.clone()],
                vec![(10, false), (10, true)],
            ),
            (vec![vec![], small.clone()], vec![(0, false), (10, true)]),
            (
                vec![large.clone(), small.clone()],
                vec![(BURST_BYTES, false), (10, true)],
            ),
        ];
        for (pieces, turns) in table {
            let source = Box::new(Pieces(pieces.into_iter()));
            let mut stream = LiveStream {
                source,
                watching: false,
            };
            for (bytes, ended) in turns {
                let mut records = Vec::new();
                assert_eq!(stream.gather(&mut records, PULSE).unwrap(), ended);
                assert_eq!(records.len(), bytes);
            }
        }
    }
}
