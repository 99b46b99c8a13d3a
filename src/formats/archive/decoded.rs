//! The plain bytes of an archive, whatever it is compressed with: that is told by its first bytes.

use std::io::{self, BufRead};

use crate::formats::archive::gunzip::{self, GzipMembers};

/// What a server takes as a payload, for whoever sends one to it.
pub const ACCEPTS: [&str; 3] = ["tar", "gzip", "delta"];

/// What is in a payload.
///
/// # Errors
/// When its beginning cannot be read.
pub(super) fn decoded<'a>(mut packed: impl BufRead + 'a) -> io::Result<Box<dyn BufRead + 'a>> {
    Ok(match packed.fill_buf()?.starts_with(&gunzip::MAGIC) {
        true => Box::new(GzipMembers::new(packed)),
        false => Box::new(packed),
    })
}
