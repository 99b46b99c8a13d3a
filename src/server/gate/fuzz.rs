//! The way in for fuzzing, which lives in a crate of its own (`tests/fuzz`): the strict reading and the writing anew, without
//! sockets. Compiled under `cfg(fuzzing)` alone.

use crate::server::gate::body;
use crate::server::gate::head::{self, Framing, From, Search};
use crate::server::gate::refused::Refused;

/// The status and the reason of a refusal.
pub type Why = (u16, String);

/// A head that went through.
#[derive(Debug, PartialEq, Eq)]
pub struct ParsedHead {
    /// Where it began in what arrived.
    pub begin: usize,
    /// Where it ended.
    pub end: usize,
    /// As the server behind gets it.
    pub forwarded: Vec<u8>,
    /// The length of its body; none if that comes in chunks.
    pub length: Option<u64>,
}

/// A body, as far as it arrived.
#[derive(Debug, PartialEq, Eq)]
pub struct ParsedBody {
    /// What goes on to the server behind, for each piece that arrived.
    pub chunks: Vec<Vec<u8>>,
    /// How many of the bytes were the body's.
    pub taken: usize,
    /// Whether it is complete.
    pub done: bool,
}

/// Reads a head as it arrives, piece by piece, and writes it anew for the server behind. Nothing if it does not end.
///
/// # Errors
/// The refusal.
pub fn head(
    pieces: &[&[u8]],
    peer: Option<&str>,
    listener: &'static str,
) -> Result<Option<ParsedHead>, Why> {
    let mut search = Search::default();
    let mut buffer = Vec::new();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        if let Some((begin, end)) = search.find(&buffer).map_err(plain)? {
            let head = head::ParsedHead::parse(&buffer[begin..end]).map_err(plain)?;
            let from = From {
                peer,
                listener,
                connection: 7,
            };
            return Ok(Some(ParsedHead {
                begin,
                end,
                forwarded: head.forward(&from),
                length: match head.framing {
                    Framing::Empty => Some(0),
                    Framing::Length(length) => Some(length),
                    Framing::Chunked => None,
                },
            }));
        }
    }
    Ok(None)
}

/// Reads a body of this length, or of chunks, as it arrives, piece by piece, and frames it anew.
///
/// # Errors
/// The refusal, and what had gone on before.
pub fn body(length: Option<u64>, pieces: &[&[u8]]) -> Result<ParsedBody, (Why, Vec<Vec<u8>>)> {
    let mut body = body::ParsedBody::new(match length {
        Some(0) => Framing::Empty,
        Some(length) => Framing::Length(length),
        None => Framing::Chunked,
    });
    let (mut chunks, mut taken) = (Vec::new(), 0);
    for piece in pieces {
        let mut out = Vec::new();
        match body.take(piece, &mut out) {
            Ok(took) => taken += took,
            Err(refused) => return Err((plain(refused), chunks)),
        }
        chunks.push(out);
        if body.done() {
            break;
        }
    }
    Ok(ParsedBody {
        chunks,
        taken,
        done: body.done(),
    })
}

fn plain(refused: Refused) -> Why {
    (refused.status, refused.why)
}
