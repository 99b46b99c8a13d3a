//! The pump of every live stream: it opens the stream, sends what its source has in bursts, breaks a silence with a comment,
//! and closes the stream at the source's end.

use std::io;
use std::time::Duration;

use crate::api::error::Error;
use crate::formats::sse;
use crate::server::auth::Access;
use crate::server::http::{Exchange, KEPT_BUFFER, PULSE};
use crate::system::log;

/// Records that are there already go out together up to so many bytes: one write for a burst, and none waits.
const BURST_BYTES: usize = 32 << 10;

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
}

/// A stream that is to be sent.
pub(super) struct LiveStream {
    pub(super) source: Box<dyn StreamSource>,
    /// To somebody who only watches: such connections are at most half of all.
    pub(super) watching: bool,
}

impl LiveStream {
    /// Sends the stream up to its end. Where the caller's token is revoked meanwhile, it is cut off: nothing is sent after
    /// that, and a silent stream ends within its pulse.
    pub(super) fn send(mut self, exchange: Exchange, access: &mut Access) -> io::Result<()> {
        let mut stream = exchange.stream("text/event-stream", self.watching)?;
        stream.send(sse::OPEN)?;
        let mut records = Vec::new();
        loop {
            records.clear();
            records.shrink_to(KEPT_BUFFER);
            let gathered = self.gather(&mut records);
            let ended = gathered
                .inspect_err(|error| log::error(&error.to_string()))
                .map_err(io::Error::other)?;
            if !access.holds() {
                return Err(io::Error::other("the token was revoked"));
            }
            if !records.is_empty() {
                stream.send(&records)?;
            } else if !ended {
                stream.idle()?;
            }
            if ended {
                // A client that has seen the end may close before the stream does; nothing is lost by then.
                let _ = stream.end();
                return Ok(());
            }
        }
    }

    /// Waits for the first record, and takes those that are there behind it. Says whether that was the end.
    fn gather(&mut self, records: &mut Vec<u8>) -> Result<bool, Error> {
        let mut wait = PULSE;
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
                assert_eq!(stream.gather(&mut records).unwrap(), ended);
                assert_eq!(records.len(), bytes);
            }
        }
    }
}
