//! The list of a tree, made of that of its base and of what it has that the base's has not.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;

use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;

use crate::api::error::{Code, Doing, Refusal};
use crate::formats::archive::supply::{BaseTree, open_known_list};
use crate::formats::delta::difference;
use crate::formats::delta::hash::ContentHash;
use crate::formats::delta::listing::ListingLimits;

/// Whoever deploys waits for it, and hashes, which a list is full of, hardly shrink more at any other level.
const LEVEL: u32 = 1;

/// Reads a difference, as gzip, to its end, and writes the list that comes of it, as gzip. Gives the tree of that list; what
/// it says is not judged here.
///
/// # Errors
/// What is wrong with the difference, or that the base's list is gone, or the disk's own.
pub fn relist(
    base: &BaseTree,
    difference: impl Read,
    limits: ListingLimits,
    path: &Path,
) -> Result<ContentHash, Refusal> {
    let mut old = open_known_list(&base.list, ListingLimits::NONE)
        .map_err(|error| Refusal::new(Code::StaleBase, error.to_string()))?;
    let file = File::create(path).doing(|| format!("making {}", path.display()))?;
    let mut out = GzEncoder::new(BufWriter::new(file), Compression::new(LEVEL));
    let mut lines = BufReader::new(GzDecoder::new(BufReader::new(difference)));
    let tree = difference::apply(&mut old, &mut lines, limits, &mut out)?;
    let mut behind = lines.into_inner().into_inner();
    let behind = behind.fill_buf();
    let behind = behind.map_err(|error| Refusal::of_reading("receiving the payload", &error))?;
    if !behind.is_empty() {
        let why = "something follows the difference of two lists";
        return Err(Refusal::new(Code::BadArchive, why));
    }
    let finished = out.finish().and_then(|mut file| file.flush());
    finished.doing(|| format!("writing {}", path.display()))?;
    Ok(tree)
}
