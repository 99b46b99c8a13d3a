//! The plain bytes of an archive, whatever it is compressed with: that is told by its first bytes.

use std::io::{self, BufRead, Read};

use crate::formats::archive::gunzip::GzipMembers;
use crate::formats::archive::magic::Compressed;
use crate::formats::archive::unlz4::Lz4Frames;

/// What a server takes as a payload, for whoever sends one to it.
const ACCEPTS: [&str; 4] = ["tar", "gzip", "delta", "lz4"];

/// What a server takes as a payload. One that passes payloads `on` to other servers says nothing of what older ones do not read.
pub fn accepts(passes_on: bool) -> &'static [&'static str] {
    match passes_on {
        true => &ACCEPTS[..3],
        false => &ACCEPTS,
    }
}

/// The plain bytes of a payload. Where gzip ends lz4 may go on, and the other way round: a client that finds out on the way that
/// the link is slower than it was last time goes over to deflate.
pub(super) struct DecodedArchive<R: BufRead>(Decoding<R>);

enum Decoding<R: BufRead> {
    Plain(R),
    Gzip(GzipMembers<R>),
    Lz4(Lz4Frames<R>),
    /// All of it was read.
    Ended,
}

/// What is in a payload.
///
/// # Errors
/// When its beginning cannot be read.
pub(super) fn decoded<R: BufRead>(mut packed: R) -> io::Result<DecodedArchive<R>> {
    let compressed = Compressed::of(packed.fill_buf()?);
    Ok(DecodedArchive(match compressed {
        Compressed::No => Decoding::Plain(packed),
        Compressed::Gzip => Decoding::Gzip(GzipMembers::new(packed)),
        Compressed::Lz4 => Decoding::Lz4(Lz4Frames::new(packed)),
    }))
}

impl<R: BufRead> DecodedArchive<R> {
    /// Goes over to what follows where one kind has ended.
    fn turn(&mut self) -> io::Result<()> {
        loop {
            let ended = match &mut self.0 {
                Decoding::Gzip(members) => members.fill_buf()?.is_empty(),
                Decoding::Lz4(frames) => frames.fill_buf()?.is_empty(),
                Decoding::Plain(_) | Decoding::Ended => false,
            };
            if !ended {
                return Ok(());
            }
            self.0 = match std::mem::replace(&mut self.0, Decoding::Ended) {
                Decoding::Gzip(members) => {
                    let mut rest = members.into_inner();
                    match rest.fill_buf()?.is_empty() {
                        true => Decoding::Ended,
                        false => Decoding::Lz4(Lz4Frames::new(rest)),
                    }
                }
                Decoding::Lz4(frames) => {
                    let mut rest = frames.into_inner();
                    match rest.fill_buf()?.is_empty() {
                        true => Decoding::Ended,
                        false => Decoding::Gzip(GzipMembers::new(rest)),
                    }
                }
                other => other,
            };
        }
    }
}

impl<R: BufRead> BufRead for DecodedArchive<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.turn()?;
        match &mut self.0 {
            Decoding::Plain(bytes) => bytes.fill_buf(),
            Decoding::Gzip(members) => members.fill_buf(),
            Decoding::Lz4(frames) => frames.fill_buf(),
            Decoding::Ended => Ok(&[]),
        }
    }

    fn consume(&mut self, amount: usize) {
        match &mut self.0 {
            Decoding::Plain(bytes) => bytes.consume(amount),
            Decoding::Gzip(members) => members.consume(amount),
            Decoding::Lz4(frames) => frames.consume(amount),
            Decoding::Ended => {}
        }
    }
}

impl<R: BufRead> Read for DecodedArchive<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut available = self.fill_buf()?;
        let read = available.read(into)?;
        self.consume(read);
        Ok(read)
    }
}
