//! What came of an archive that was cut: its contents, as records, so that whoever sends the tree again need not send them.

use std::fs::File;
use std::io::{self, BufRead, BufWriter, Read, Seek, Write};

use tar::EntryType;

use crate::api::error::{Doing, Error};
use crate::formats::archive::decoded::decoded;
use crate::formats::archive::reader::TarReader;
use crate::formats::delta::chunk::{CUT_FROM, ROOM, SEGMENT, cut_segment};
use crate::formats::delta::hash::ContentHash;
use crate::formats::delta::records::RecordWriter;
use crate::system::memory::{Pages, PagesReader};

const READ_AT_ONCE: usize = 64 << 10;

/// Writes the contents of a cut archive as records, as far as they came, and at most about so many bytes. Whatever else is
/// wrong with the archive ends it too: what is in there by its hash is what it is.
///
/// # Errors
/// When the archive cannot be read, or `out` does not take the records.
pub fn salvage(mut archive: &File, out: impl Write, most: u64) -> Result<(), Error> {
    let doing = || "keeping what came of an archive that was cut".to_owned();
    archive.rewind().doing(doing)?;
    let bytes = PagesReader::new(READ_AT_ONCE, archive);
    let mut salvage = Salvage {
        records: RecordWriter::new(BufWriter::new(out), 0),
        left: most,
        unwritten: None,
        room: None,
    };
    // Where it was cut, or is damaged, its reading fails.
    let read = decoded(bytes).and_then(|plain| salvage.all(TarReader::new(plain)));
    match (salvage.unwritten, read) {
        (Some(error), _) => Err(Error::new(doing(), error)),
        (None, _) => salvage.records.flush().doing(doing),
    }
}

struct Salvage<W: Write> {
    records: RecordWriter<W>,
    left: u64,
    /// Why nothing more is written.
    unwritten: Option<io::Error>,
    room: Option<Pages>,
}

impl<W: Write> Salvage<W> {
    fn all(&mut self, mut archive: TarReader<impl BufRead>) -> io::Result<()> {
        while let Some(entry) = archive.next()? {
            if matches!(entry.kind, EntryType::Regular | EntryType::Continuous) {
                self.file(&mut archive, entry.size)?;
            }
        }
        Ok(())
    }

    fn file(&mut self, content: &mut dyn Read, size: u64) -> io::Result<()> {
        let mut room = self.room.take().unwrap_or_else(|| Pages::new(ROOM));
        if size < CUT_FROM {
            // Below 1 MiB.
            let whole = &mut room[..size as usize];
            content.read_exact(whole)?;
            self.object(whole)?;
        } else {
            let mut at = 0;
            while at < size {
                let segment = (&mut *content).take(SEGMENT.min(size - at));
                cut_segment(segment, &mut room, &mut |chunk| self.object(chunk))?;
                at += SEGMENT;
            }
        }
        self.room = Some(room);
        Ok(())
    }

    fn object(&mut self, content: &[u8]) -> io::Result<()> {
        let full = || io::Error::other("there is no room for more");
        // No object is empty.
        if content.is_empty() {
            return Ok(());
        }
        self.left = self
            .left
            .checked_sub(content.len() as u64)
            .ok_or_else(full)?;
        let written = self.records.object(ContentHash::of(content), content);
        written.map_err(|error| {
            let told = io::Error::from(error.kind());
            self.unwritten = Some(error);
            told
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    use crate::formats::archive::testing::{Temporary, dir, file, gz, lz4, tar};
    use crate::formats::delta::records::{RecordScanner, content};
    use crate::system::memory::Room;

    fn noise(len: usize, seed: u32) -> String {
        let letter = |n: u32| {
            let mixed = (n ^ n >> 7).wrapping_mul(2_654_435_761).wrapping_add(seed);
            char::from(b'0' + (mixed >> 13) as u8 % 64)
        };
        (0..len as u32).map(letter).collect()
    }

    /// The contents that are salvaged of an archive.
    fn salvaged(archive: &[u8], most: u64) -> Vec<Vec<u8>> {
        let at = Temporary::new();
        let path = at.0.join("archive");
        fs::write(&path, archive).unwrap();
        let mut records = Vec::new();
        salvage(&File::open(&path).unwrap(), &mut records, most).unwrap();
        let (mut scanner, mut found) = (RecordScanner::at(0), Vec::new());
        let mut room = Room::default();
        scanner
            .push(&records, &mut |object| {
                let at = object.at as usize;
                let stored = &records[at..at + object.stored as usize];
                assert!(content(&object, stored, &mut room));
                found.push(room.to_vec());
            })
            .unwrap();
        assert_eq!(scanner.whole, records.len() as u64);
        found
    }

    #[test]
    fn what_came_whole_of_a_cut_archive_is_kept() {
        let (small, large) = (noise(40_000, 1), noise(3 << 20, 2));
        let entries = [
            dir("./", 0o755),
            file("a", &small),
            file("empty", ""),
            file("b", "bb"),
            file("large", &large),
            file("c", "ccc"),
        ];
        let archive = tar(&entries);
        let whole = salvaged(&archive, u64::MAX);
        assert_eq!(whole[..2], [small.as_bytes().to_vec(), b"bb".to_vec()]);
        let chunks = &whole[2..whole.len() - 1];
        assert!(chunks.len() > 10 && chunks.concat() == large.as_bytes());
        assert_eq!(whole.last().unwrap(), b"ccc");
        for packed in [archive.clone(), gz(&archive), lz4(&archive)] {
            assert_eq!(salvaged(&packed, u64::MAX), whole);
            // Cut in the middle of the large file: its chunks up to there.
            let cut = salvaged(&packed[..packed.len() / 2], u64::MAX);
            assert!((6..whole.len() - 3).contains(&cut.len()), "{}", cut.len());
            assert_eq!(cut[..cut.len() - 1], whole[..cut.len() - 1]);
            assert_eq!(salvaged(&packed, 50_000), whole[..2]);
        }
        for nothing in [&b""[..], b"x", &[0x1f, 0x8b], &gz(b"no tar")] {
            assert_eq!(salvaged(nothing, u64::MAX), Vec::<Vec<u8>>::new());
        }
    }
}
