//! An archive that is ready to be sent: what it is, by its content, before anything is sent.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::api::error::{Doing, Error};
use crate::formats::archive::decoded::decoded;
use crate::formats::archive::magic::Compressed;
use crate::formats::archive::sniff;
use crate::system::hex;
use crate::system::memory::Pages;

/// A header of tar.
const BLOCK: usize = 512;
/// What is hashed at once.
const PIECE: usize = 128 << 10;

/// A file that is sent as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadyArchive {
    /// Its size.
    pub bytes: u64,
    /// The SHA-256 of its bytes, in hex.
    pub sha256: String,
}

/// Looks at a file.
///
/// # Errors
/// When it cannot be read, or is neither tar nor tar.gz nor tar.lz4.
pub fn ready(path: &Path) -> Result<ReadyArchive, Error> {
    let doing = || format!("reading {}", path.display());
    let start = start_of(File::open(path).doing(doing)?).doing(doing)?;
    let compressed = Compressed::of(&start);
    let file = BufReader::new(File::open(path).doing(doing)?);
    let inside = decoded(file).and_then(start_of).doing(doing)?;
    if !is_header(&inside) {
        let what = match inside.is_empty() {
            true => "empty",
            false => sniff::name(&inside).unwrap_or("not an archive"),
        };
        let inside = match compressed {
            Compressed::No => "it is",
            Compressed::Gzip | Compressed::Lz4 => "what is compressed is",
        };
        let why = format!("{inside} {what}; a directory, a tar or a tar.gz can be deployed");
        return Err(Error::new(doing(), why));
    }
    let mut file = File::open(path).doing(doing)?;
    let (mut hash, mut bytes, mut piece) = (Sha256::new(), 0, Pages::new(PIECE));
    loop {
        match file.read(&mut piece).doing(doing)? {
            0 => break,
            read => {
                hash.update(&piece[..read]);
                bytes += read as u64;
            }
        }
    }
    Ok(ReadyArchive {
        bytes,
        sha256: hex::encode(hash.finalize()),
    })
}

fn start_of(source: impl Read) -> io::Result<Vec<u8>> {
    let mut start = Vec::new();
    source.take(BLOCK as u64).read_to_end(&mut start)?;
    Ok(start)
}

/// Whether a block is a header of tar: its checksum is right.
fn is_header(block: &[u8]) -> bool {
    let Some(stored) = block.get(148..156).filter(|_| block.len() == BLOCK) else {
        return false;
    };
    let digits: String = stored
        .iter()
        .map(|byte| char::from(*byte))
        .filter(char::is_ascii_digit)
        .collect();
    // The checksum's own place counts as spaces.
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    let own: u64 = stored.iter().map(|byte| u64::from(*byte)).sum();
    u64::from_str_radix(&digits, 8) == Ok(sum - own + 8 * u64::from(b' '))
}
