//! The list of the tree that an archive makes, by the archive alone: what an installation has written meanwhile into the
//! release is not of it. The archive was unpacked before, so that what is wrong with it is known already.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use std::sync::{Mutex, PoisonError};

use flate2::{Compress, Compression, Crc, FlushCompress, Status};
use tar::EntryType;

use crate::api::error::{Doing, Error};
use crate::formats::archive::decoded::decoded;
use crate::formats::archive::litter::{self, APPLE_DOUBLE};
use crate::formats::archive::path::Name;
use crate::formats::archive::reader::{TarEntry, TarReader, fill};
use crate::formats::delta::chunk::ROOM;
use crate::formats::delta::content;
use crate::formats::delta::hash::ContentHash;
use crate::formats::delta::listing::{ListedEntry, ListedKind, ListingWriter};
use crate::formats::delta::order;
use crate::system::memory::Pages;

/// What a directory has that is only implied by the paths of others, and a root that no entry speaks of.
const IMPLIED: u32 = 0o755;

/// The tree is kept in memory until it is written, some 150 bytes an entry.
const ENTRIES_MAX: usize = 100_000;

/// Hashes do not shrink, and paths do so at any level.
pub(super) const LIST_LEVEL: u32 = 3;

/// The least room for what the compressor gives at once.
const GZIP_ROOM: usize = 4 << 10;

/// Less than what glibc maps by itself: see [`DEFLATE`].
const READ_AT_ONCE: usize = 64 << 10;

/// What compresses all lists, one at a time. It is kept, for it is some 370 KiB: whoever gives back so much at once makes
/// glibc keep twice as much of what is free from then on, in each of its arenas, which came to 8 MiB after many uploads.
static DEFLATE: Mutex<Option<Compress>> = Mutex::new(None);

/// The list of what an archive makes, as gzip, and its identity. None if it has too many entries for that. `goes_on`
/// is asked now and then.
///
/// # Errors
/// When the archive cannot be read or the list not be written.
pub fn list_archive(
    mut archive: &File,
    goes_on: &dyn Fn() -> bool,
) -> Result<Option<(ContentHash, Vec<u8>)>, Error> {
    let doing = || "listing what an archive holds".to_owned();
    archive.rewind().doing(doing)?;
    let bytes = BufReader::with_capacity(READ_AT_ONCE, archive);
    let mut reader = TarReader::new(decoded(bytes).doing(doing)?);
    let mut lister = Lister::default();
    while let Some(entry) = reader.next().doing(doing)? {
        if lister.entries.len() > ENTRIES_MAX || !goes_on() {
            return Ok(None);
        }
        lister.entry(&entry, &mut reader).doing(doing)?;
    }
    let written = ListGzip::write(|gzip| lister.write(gzip));
    written.doing(doing).map(Some)
}

/// A list as gzip, in memory.
struct ListGzip<'a> {
    deflate: &'a mut Compress,
    sum: Crc,
    gzip: Vec<u8>,
}

impl ListGzip<'_> {
    /// What was written, as gzip, and what else came of it.
    fn write<T>(
        write: impl FnOnce(&mut ListGzip<'_>) -> io::Result<T>,
    ) -> io::Result<(T, Vec<u8>)> {
        // Whatever a panic left in it is forgotten here.
        let mut kept = DEFLATE.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || Compress::new(Compression::new(LIST_LEVEL), false);
        let deflate = kept.get_or_insert_with(fresh);
        deflate.reset();
        let mut gzip = ListGzip {
            deflate,
            sum: Crc::new(),
            // Deflate, no flags, no time, no extra flags, made on an unknown system: the same bytes everywhere.
            gzip: vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255],
        };
        let written = write(&mut gzip)?;
        gzip.compress(&[], FlushCompress::Finish)?;
        let (sum, length) = (gzip.sum.sum(), gzip.sum.amount());
        let mut bytes = gzip.gzip;
        bytes.extend_from_slice(&sum.to_le_bytes());
        bytes.extend_from_slice(&length.to_le_bytes());
        Ok((written, bytes))
    }

    fn compress(&mut self, mut data: &[u8], flush: FlushCompress) -> io::Result<()> {
        loop {
            self.gzip.reserve(GZIP_ROOM);
            let before = self.deflate.total_in();
            let status = self
                .deflate
                .compress_vec(data, &mut self.gzip, flush)
                .map_err(io::Error::other)?;
            let taken = usize::try_from(self.deflate.total_in() - before);
            data = &data[taken.map_err(io::Error::other)?..];
            let is_finish = matches!(flush, FlushCompress::Finish);
            if status == Status::StreamEnd || (data.is_empty() && !is_finish) {
                return Ok(());
            }
        }
    }
}

impl Write for ListGzip<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.sum.update(data);
        self.compress(data, FlushCompress::None)?;
        Ok(data.len())
    }

    /// Does nothing: all is in memory.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Default)]
struct Lister {
    entries: HashMap<Vec<u8>, ListedKind>,
    /// The mode of the root, if the archive has one.
    root: Option<u32>,
    room: Option<Pages>,
}

impl Lister {
    fn entry(&mut self, entry: &TarEntry, from: &mut dyn Read) -> io::Result<()> {
        if entry.kind == EntryType::XGlobalHeader {
            return Ok(());
        }
        let name = Name::parse(&entry.path).map_err(io::Error::other)?;
        if litter::by_name(&name.path) {
            return Ok(());
        }
        let mode = entry.mode.unwrap_or(IMPLIED);
        let is_directory = entry.kind == EntryType::Directory || entry.path.ends_with(b"/");
        let kind = match entry.kind {
            EntryType::Symlink => ListedKind::Symlink {
                target: entry.target.clone().unwrap_or_default(),
            },
            EntryType::Link => {
                let target = entry.target.as_deref().unwrap_or_default();
                let target = Name::parse(target).map_err(io::Error::other)?;
                match self.entries.get(&target.path) {
                    Some(file) => file.clone(),
                    None => return Err(io::Error::other("a hard link leads to nothing")),
                }
            }
            _ if is_directory && name.path.is_empty() => {
                self.root = Some(ListedEntry::directory_mode(mode));
                return Ok(());
            }
            _ if is_directory => ListedKind::Directory {
                mode: ListedEntry::directory_mode(mode),
            },
            _ => match self.file(&name, entry, mode, from)? {
                Some(file) => file,
                None => return Ok(()),
            },
        };
        self.imply(&name.path);
        self.entries.insert(name.path, kind);
        Ok(())
    }

    /// A file, unless it is what macOS keeps beside another one.
    fn file(
        &mut self,
        name: &Name,
        entry: &TarEntry,
        mode: u32,
        mut from: &mut dyn Read,
    ) -> io::Result<Option<ListedKind>> {
        let mut start = [0; APPLE_DOUBLE.len()];
        let mut len = 0;
        if litter::may_be_apple_double(&name.path) {
            let most = usize::try_from(entry.size).unwrap_or(usize::MAX);
            len = fill(&mut from, &mut start[..most.min(APPLE_DOUBLE.len())])?;
            if start[..len] == APPLE_DOUBLE {
                return Ok(None);
            }
        }
        let mut whole = (&start[..len]).chain(from);
        let mode = ListedEntry::file_mode(mode);
        let room = self.room.get_or_insert_with(|| Pages::new(ROOM));
        let file = content::listed(mode, entry.size, &mut whole, room)?;
        Ok(Some(ListedKind::File(file)))
    }

    /// Adds the directories that lead to an entry.
    fn imply(&mut self, path: &[u8]) {
        for (at, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            if !self.entries.contains_key(&path[..at]) {
                let implied = ListedKind::Directory { mode: IMPLIED };
                self.entries.insert(path[..at].to_vec(), implied);
            }
        }
    }

    /// As the archive is flattened: all that is under one directory is the tree, if it has no root of its own.
    fn top(&self) -> Option<Vec<u8>> {
        let mut tops = self
            .entries
            .iter()
            .filter(|(path, _)| !path.contains(&b'/'));
        match (tops.next(), tops.next(), self.root) {
            (Some((top, ListedKind::Directory { .. })), None, None) => Some(top.clone()),
            _ => None,
        }
    }

    fn write(mut self, out: impl Write) -> io::Result<ContentHash> {
        let top = self.top();
        let mut mode = self.root.unwrap_or(IMPLIED);
        if let Some(ListedKind::Directory { mode: of_top }) =
            top.as_ref().and_then(|top| self.entries.remove(top))
        {
            mode = of_top;
        }
        let skipped = top.map_or(0, |top| top.len() + 1);
        let mut entries: Vec<(Vec<u8>, ListedKind)> = self.entries.into_iter().collect();
        entries.sort_unstable_by(|(a, _), (b, _)| order::compare(a, b));
        let mut writer = ListingWriter::new(out)?;
        writer.entry(&ListedEntry {
            path: Vec::new(),
            kind: ListedKind::Directory { mode },
        })?;
        for (path, kind) in entries {
            let path = path[skipped..].to_vec();
            writer.entry(&ListedEntry { path, kind })?;
        }
        let (tree, _) = writer.end();
        Ok(tree)
    }
}

#[cfg(test)]
mod tests {
    use flate2::read::GzDecoder;

    use super::*;

    #[test]
    fn each_list_is_gzip_of_its_own_whatever_became_of_the_one_before() {
        let mut state = 7_u32;
        let mut noise = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let noise: Vec<u8> = (0..300_000).map(|_| noise()).collect();
        let table = [Vec::new(), vec![b'a'], vec![b'a'; 300_000], noise];
        for text in table {
            let failed: io::Result<((), _)> = ListGzip::write(|out| {
                out.write_all(b"what is not of the next one")?;
                Err(io::Error::other("it ends early"))
            });
            assert!(failed.is_err());
            let pieces = |out: &mut ListGzip<'_>| {
                text.chunks(70_000)
                    .try_for_each(|piece| out.write_all(piece))
            };
            let ((), gzip) = ListGzip::write(pieces).unwrap();
            let mut read = Vec::new();
            GzDecoder::new(&gzip[..]).read_to_end(&mut read).unwrap();
            assert!(read == text, "{} bytes", text.len());
        }
    }
}
