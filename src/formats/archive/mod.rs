//! Archives, both ways: [`plan`] and [`PackPlan::write`] make a tar.gz or tar.lz4 of a directory, [`unpack()`] stores a tar that
//! arrives and unpacks it in the same pass. The only room that knows the formats tar, gzip, deflate and lz4.
//!
//! What it guarantees:
//! - **Packing**: the same tree gives the same tar, whoever packs it and whenever; with a given level the same bytes. What changes or cannot be read while
//!   it is packed is an error, and what was written until then is not a complete archive. Files that deflate would not
//!   shrink pass it by as stored blocks.
//! - **Unpacking**: nothing is written outside the release, no link leads out of it, and everything that is refused is
//!   refused with the name of the entry and the reason. An archive is complete (its end marker was seen, its checksums are
//!   right, nothing follows) or refused. The memory does not grow with the payload's size, nor with that of an entry.
//!
//! What arrives is written twice, as the payload and as the tree: what runs may write into its release, so the payload cannot
//! be made again from there, and blocks that two files could share begin at multiples of 4 KiB, which contents in a payload
//! seldom do.
//!
//! | file | what for |
//! | --- | --- |
//! | `assemble` | makes a tree by its list, out of another tree and of what came |
//! | `spare` | a copy of a tree, of which the next one is made |
//! | `supply` | where the content of a tree is |
//! | `choose` | walks a directory and decides what is packed |
//! | `incoming` | stores and hashes a payload while it is read |
//! | `making` | one file of a tree, and what could not be made |
//! | `decoded` | the plain bytes of an archive, whatever it is compressed with |
//! | `salvage` | what came of an archive that was cut |
//! | `list` | the list of the tree that an archive makes |
//! | `objects` | sends a part of a tree that is kept |
//! | `scan` | reads a directory for its list, and sends what of it is missing |
//! | `secrets` | what is left out because it is a secret |
//! | `pack` | writes the archive of what was chosen |
//! | `planned` | what was chosen, entry by entry |
//! | `spool` | bytes that are written once and read again |
//! | `stamped` | the list of a directory as it was read last, with what tells whether its files are the same |
//! | `stored` | what a stored archive is called, and one format for what came in two |
//! | `effort` | how hard to compress: as hard as the link is slow |
//! | `compressor` | lz4 or gzip, by what the link is worth |
//! | `lz4` | a frame of lz4 |
//! | `gzip` | the one gzip member that mixes deflated and stored blocks |
//! | `unpack` | receives a payload: limits, hash, the threads |
//! | `buffers` | the memory that uploads share |
//! | `feed` | the bytes on their way from one thread to the others |
//! | `early_sync` | puts on disk what has come while the rest arrives |
//! | `gunzip` | out of gzip |
//! | `unlz4` | out of lz4 |
//! | `sequences` | a block of lz4 |
//! | `magic` | what something is compressed with, by its first bytes |
//! | `reader` | the entries of a tar, with what the headers before them say |
//! | `reading` | what files hold, by two threads |
//! | `rescan` | one pass through a directory, beside what was kept of it |
//! | `ready` | an archive that is sent as it is |
//! | `relist` | the list of a tree, by that of another one and their difference |
//! | `sniff` | the names of what was sent instead of a tar |
//! | `extract` | judges entry by entry and writes the tree |
//! | `sparse` | a file that keeps its holes |
//! | `litter` | what macOS leaves beside files |
//! | `path` | which names and link targets are taken |
//! | `settle` | what comes last: flattening, links, modes |
//! | `tree` | what was made so far, compactly, and where links lead |
//! | `free_space` | how much may still be written to the disk |
//! | `limits` | what a payload may cost |

mod assemble;
mod buffers;
mod choose;
mod compressor;
mod decoded;
mod early_sync;
mod effort;
mod extract;
mod feed;
mod found;
mod free_space;
mod gunzip;
mod gzip;
mod incoming;
mod limits;
mod list;
mod litter;
mod lz4;
mod magic;
mod making;
mod objects;
mod pack;
pub(in crate::formats) mod path;
mod planned;
mod reader;
mod reading;
mod ready;
mod relist;
mod rescan;
mod salvage;
mod scan;
mod secrets;
mod sequences;
mod settle;
mod sniff;
mod spare;
mod sparse;
mod spool;
mod stamped;
mod stored;
mod supply;
#[cfg(test)]
mod testing;
mod tree;
mod unlz4;
mod unpack;

pub use assemble::{Assembled, Sources, assemble};
pub use choose::{PackOptions, plan, plan_again};
pub use decoded::accepts;
pub use effort::{Effort, Outflow};
pub use incoming::IncomingPayload;
pub use limits::{Limits, Owner};
pub use list::{ArchiveList, list_archive};
pub use objects::KeptTree;
pub use pack::PackPlan;
pub use ready::{ReadyArchive, ready};
pub use relist::relist;
pub use salvage::salvage;
pub use scan::{ScannedTree, Selection};
pub use spare::{
    CopyEnd, LooseCopy, PatchSources, SpareTree, Unusable, changes, copy_tree, has_tree,
    stamp_entries, stamp_tree, stamped_tree,
};
pub use spool::Spool;
pub use stamped::DeployedTree;
pub use stored::{as_gzip, extension};
pub use supply::{BaseTree, Supply, changed, demand, unzip_list};
#[cfg(any(test, fuzzing))]
pub use unpack::Unpacked;
pub use unpack::{fits, unpack};

/// The longest part of a name that a message shows: a terminal's line or two.
const SHOWN: usize = 200;

/// A name from a file system or an archive, fit for a message: whoever chose it must not be able to write control
/// characters into a terminal or a log.
fn visible(name: &[u8]) -> String {
    let mut shown = String::new();
    for character in String::from_utf8_lossy(name).chars() {
        if shown.len() >= SHOWN {
            shown.push_str("...");
            break;
        }
        match character {
            '\0'..='\x1f' => {
                shown.push('^');
                shown.push(char::from(character as u8 + b'@'));
            }
            '\x7f' => shown.push_str("^?"),
            _ if character.is_control() => shown.extend(character.escape_unicode()),
            _ => shown.push(character),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shown_without_their_control_characters() {
        let long = vec![b'x'; 5000];
        let table: [(&[u8], &str); 6] = [
            (b"a/b c", "a/b c"),
            (b"\x1b[31m\n\0", "^[[31m^J^@"),
            (b"\x7f", "^?"),
            ("\u{9b}31m".as_bytes(), "\\u{9b}31m"),
            (b"\xff", "\u{fffd}"),
            ("b\u{fc}cher".as_bytes(), "b\u{fc}cher"),
        ];
        for (name, expected) in table {
            assert_eq!(visible(name), expected);
        }
        assert_eq!(visible(&long).len(), SHOWN + 3);
    }
}
