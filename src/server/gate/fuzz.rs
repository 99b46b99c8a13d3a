//! The way in for fuzzing, which lives in a crate of its own (`tests/fuzz`): the strict reading, without sockets. Compiled
//! under `cfg(fuzzing)` alone.

use crate::server::gate::body::IncomingBody;
use crate::server::gate::head::{Framing, RequestHead, Search};
use crate::server::gate::refused::Refused;

/// The status and the reason of a refusal.
pub type Why = (u16, String);

/// The number of the connection that [`head`] tells the server behind.
pub const CONNECTION: u64 = 7;

/// A head that went through.
#[derive(Debug, PartialEq, Eq)]
pub struct Head {
    /// Where it began in what arrived.
    pub begin: usize,
    /// Where it ended.
    pub end: usize,
    /// As the server behind gets it.
    pub forwarded: Vec<u8>,
    /// The length of its body; none if that comes in chunks.
    pub length: Option<u64>,
    /// The length that it declared.
    pub declared: Option<u64>,
    /// Its client waits for word before it sends the body.
    pub expects: bool,
}

/// A body, as far as it arrived.
#[derive(Debug, PartialEq, Eq)]
pub struct Body {
    /// Its data.
    pub data: Vec<u8>,
    /// How many of the bytes were the body's.
    pub taken: usize,
    /// Whether it is complete.
    pub done: bool,
}

/// Reads a head as it arrives, piece by piece, and writes it anew for the server behind. Nothing if it does not end.
///
/// # Errors
/// The refusal.
pub fn head(pieces: &[&[u8]]) -> Result<Option<Head>, Why> {
    let mut search = Search::default();
    let mut buffer = Vec::new();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        if let Some((begin, end)) = search.find(&buffer).map_err(why)? {
            let head = RequestHead::parse(&buffer[begin..end]).map_err(why)?;
            return Ok(Some(Head {
                begin,
                end,
                forwarded: head.forward(CONNECTION),
                length: match head.framing {
                    Framing::Empty => Some(0),
                    Framing::Length(length) => Some(length),
                    Framing::Chunked => None,
                },
                declared: head.declared,
                expects: head.expects,
            }));
        }
    }
    Ok(None)
}

/// Reads a body of this length, or of chunks, as it arrives, piece by piece.
///
/// # Errors
/// The refusal, and the data of the pieces before it.
pub fn body(length: Option<u64>, pieces: &[&[u8]]) -> Result<Body, (Why, Vec<u8>)> {
    let mut body = IncomingBody::new(match length {
        Some(0) => Framing::Empty,
        Some(length) => Framing::Length(length),
        None => Framing::Chunked,
    });
    let (mut data, mut taken) = (Vec::new(), 0);
    for piece in pieces {
        let mut piece = piece.to_vec();
        match body.decode(&mut piece) {
            Ok(decoded) => {
                data.extend_from_slice(&piece[..decoded.data]);
                taken += decoded.taken;
            }
            Err(refused) => return Err((why(refused), data)),
        }
        if body.done() {
            break;
        }
    }
    let done = body.done();
    Ok(Body { data, taken, done })
}

fn why(refused: Refused) -> Why {
    (refused.status, refused.why)
}
