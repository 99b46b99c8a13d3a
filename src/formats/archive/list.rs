//! The list of the tree that an archive makes, by the archive alone: what an installation has written meanwhile into the
//! release is not of it. The archive was unpacked before, so that what is wrong with it is known already.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::sync::{Mutex, PoisonError};

use flate2::{Compress, Compression, Crc, FlushCompress, Status};
use tar::EntryType;

use crate::api::error::{Doing, Error};
use crate::formats::archive::decoded::{DecodedArchive, decoded};
use crate::formats::archive::litter::{self, APPLE_DOUBLE};
use crate::formats::archive::path::Name;
use crate::formats::archive::reader::{TarEntry, TarReader, fill};
use crate::formats::delta::chunk::ROOM;
use crate::formats::delta::content;
use crate::formats::delta::hash::ContentHash;
use crate::formats::delta::listing::{ListedEntry, ListedKind, ListingWriter};
use crate::formats::delta::order::{self, Way};
use crate::system::memory::{Pages, PagesReader};

/// What a directory has that is only implied by the paths of others, and a root that no entry speaks of.
const IMPLIED: u32 = 0o755;

/// Where entries come in another order than the list's, the tree is kept in memory until it is written, some 250 bytes an
/// entry.
const ENTRIES_MAX: usize = 100_000;

/// Where they come in its order, as our own client sends them, only the list itself is kept, some 45 bytes an entry.
const IN_ORDER_MAX: usize = 300_000;

/// Hashes do not shrink, and paths do so at any level: of 11,512 files 7 makes 3 % less than 3 does and takes 5 ms longer, and
/// 8 takes three times as long for no less.
pub(super) const LIST_LEVEL: u32 = 7;

/// The least room for what the compressor gives at once.
const GZIP_ROOM: usize = 4 << 10;

const READ_AT_ONCE: usize = 64 << 10;

/// What compresses all lists, one at a time. It is kept, for it is some 370 KiB: whoever gives back so much at once makes
/// glibc keep twice as much of what is free from then on, in each of its arenas, which came to 8 MiB after many uploads.
static DEFLATE: Mutex<Option<Compress>> = Mutex::new(None);

/// What came of an archive.
pub enum ArchiveList {
    /// Its tree, and the list of that as gzip.
    Listed(ContentHash, Vec<u8>),
    /// It has more entries than are listed.
    TooMany,
    /// It was told to stop.
    Stopped,
}

/// The list of what an archive makes. `goes_on` is asked now and then.
///
/// # Errors
/// When the archive cannot be read or the list not be written.
pub fn list_archive(archive: &File, goes_on: &dyn Fn() -> bool) -> Result<ArchiveList, Error> {
    let doing = || "listing what an archive holds".to_owned();
    match in_order(archive, goes_on, IN_ORDER_MAX).doing(doing)? {
        Some(listed) => Ok(listed),
        None => in_any_order(archive, goes_on).doing(doing),
    }
}

type ArchiveEntries<'a> = TarReader<DecodedArchive<PagesReader<&'a File>>>;

fn entries_of(mut archive: &File) -> io::Result<ArchiveEntries<'_>> {
    archive.rewind()?;
    let bytes = PagesReader::new(READ_AT_ONCE, archive);
    Ok(TarReader::new(decoded(bytes)?))
}

/// How a pass through an archive ends.
enum PassEnd {
    All(ContentHash),
    OtherOrder,
    TooMany,
    Stopped,
}

/// Lists an archive whose entries come in the order of the list, its root first and each directory before what is in it. None
/// if one comes otherwise.
fn in_order(
    archive: &File,
    goes_on: &dyn Fn() -> bool,
    most: usize,
) -> io::Result<Option<ArchiveList>> {
    let (mut lister, mut way) = (Lister::default(), Way::default());
    let (mut last, mut entries) = (None::<Vec<u8>>, 0);
    let (end, list) = ListGzip::write(|gzip| {
        // Not before it is its turn: many wait for that after many uploads, and each would hold its buffers meanwhile.
        let mut reader = entries_of(archive)?;
        let mut writer = ListingWriter::new(gzip)?;
        while let Some(entry) = reader.next()? {
            if entries == most {
                return Ok(PassEnd::TooMany);
            }
            if !goes_on() {
                return Ok(PassEnd::Stopped);
            }
            if entry.kind == EntryType::Link {
                return Ok(PassEnd::OtherOrder);
            }
            let Some(listed) = lister.listed(&entry, &mut reader)? else {
                continue;
            };
            let is_directory = matches!(listed.kind, ListedKind::Directory { .. });
            let follows = match &last {
                None => listed.path.is_empty() && is_directory,
                Some(last) => {
                    order::compare(last, &listed.path).is_lt() && way.leads_to(&listed.path)
                }
            };
            if !follows {
                return Ok(PassEnd::OtherOrder);
            }
            writer.entry(&listed)?;
            if is_directory && last.is_some() {
                way.enter(&listed.path);
            }
            last = Some(listed.path);
            entries += 1;
        }
        Ok(match last {
            Some(_) => PassEnd::All(writer.end().0),
            None => PassEnd::OtherOrder,
        })
    })?;
    Ok(match end {
        PassEnd::All(tree) => Some(ArchiveList::Listed(tree, list)),
        PassEnd::OtherOrder => None,
        PassEnd::TooMany => Some(ArchiveList::TooMany),
        PassEnd::Stopped => Some(ArchiveList::Stopped),
    })
}

fn in_any_order(archive: &File, goes_on: &dyn Fn() -> bool) -> io::Result<ArchiveList> {
    let mut reader = entries_of(archive)?;
    let mut lister = Lister::default();
    while let Some(entry) = reader.next()? {
        if lister.entries.len() > ENTRIES_MAX {
            return Ok(ArchiveList::TooMany);
        }
        if !goes_on() {
            return Ok(ArchiveList::Stopped);
        }
        lister.entry(&entry, &mut reader)?;
    }
    let (tree, list) = ListGzip::write(|gzip| lister.write(gzip))?;
    Ok(ArchiveList::Listed(tree, list))
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
        let mut kept = DEFLATE.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || Compress::new(Compression::new(LIST_LEVEL), false);
        // Back comes only one that has given all that it made: zlib-rs 0.6 panics later on if another one is reset.
        let mut deflate = kept.take().unwrap_or_else(fresh);
        deflate.reset();
        let mut gzip = ListGzip {
            deflate: &mut deflate,
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
        *kept = Some(deflate);
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
        let Some(ListedEntry { path, kind }) = self.listed(entry, from)? else {
            return Ok(());
        };
        match kind {
            ListedKind::Directory { mode } if path.is_empty() => self.root = Some(mode),
            kind => {
                self.imply(&path);
                self.entries.insert(path, kind);
            }
        }
        Ok(())
    }

    /// An entry as it is listed; none of what is left out.
    fn listed(&mut self, entry: &TarEntry, from: &mut dyn Read) -> io::Result<Option<ListedEntry>> {
        if entry.kind == EntryType::XGlobalHeader {
            return Ok(None);
        }
        let name = Name::parse(&entry.path).map_err(io::Error::other)?;
        if litter::by_name(&name.path) {
            return Ok(None);
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
            _ if is_directory => ListedKind::Directory {
                mode: ListedEntry::directory_mode(mode),
            },
            _ => match self.file(&name, entry, mode, from)? {
                Some(file) => file,
                None => return Ok(None),
            },
        };
        let path = name.path;
        Ok(Some(ListedEntry { path, kind }))
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
    use crate::system::files;

    /// An archive of these: a directory, a file, or a hard link to the first file.
    fn archive(paths: &[(&str, EntryType)]) -> File {
        let file = files::nameless(&std::env::temp_dir()).unwrap();
        let mut builder = tar::Builder::new(file);
        for (path, kind) in paths {
            let content: &[u8] = match kind {
                EntryType::Regular => path.as_bytes(),
                _ => b"",
            };
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o755);
            header.set_size(content.len() as u64);
            if *kind == EntryType::Link {
                builder.append_link(&mut header, path, "a/b").unwrap();
            } else {
                builder.append_data(&mut header, path, content).unwrap();
            }
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn an_archive_in_order_is_listed_as_it_comes_and_any_other_comes_to_the_same() {
        const D: EntryType = EntryType::Directory;
        const F: EntryType = EntryType::Regular;
        let whole = [("./", D), ("a", D), ("a/b", F), ("a-b", F), ("c", F)];
        let table: [(&[(&str, EntryType)], bool); 6] = [
            (&whole, true),
            (
                &[("./", D), ("c", F), ("a-b", F), ("a", D), ("a/b", F)],
                false,
            ),
            // Its directory is only implied.
            (&[("./", D), ("a/b", F), ("a-b", F), ("c", F)], false),
            // The second one counts.
            (
                &[
                    ("./", D),
                    ("a", D),
                    ("a/b", F),
                    ("a-b", F),
                    ("c", F),
                    ("c", F),
                ],
                false,
            ),
            (&[("a", D), ("a/b", F), ("a-b", F), ("c", F)], false),
            (
                &[
                    ("./", D),
                    ("a", D),
                    ("a/b", F),
                    ("a-b", F),
                    ("c", F),
                    ("d", EntryType::Link),
                ],
                false,
            ),
        ];
        let go = || true;
        let listed = |found: ArchiveList| match found {
            ArchiveList::Listed(tree, list) => (tree, list),
            _ => panic!("not listed"),
        };
        let wanted = listed(in_any_order(&archive(&whole), &go).unwrap());
        for (paths, is_in_order) in table {
            let archive = archive(paths);
            let found = in_order(&archive, &go, 99).unwrap();
            assert_eq!(found.is_some(), is_in_order, "{paths:?}");
            let found = listed(list_archive(&archive, &go).unwrap());
            let is_same = !paths.iter().any(|(path, _)| *path == "d");
            assert_eq!(found == wanted, is_same, "{paths:?}");
        }
        let ends =
            |most, goes_on: &dyn Fn() -> bool| match in_order(&archive(&whole), goes_on, most)
                .unwrap()
            {
                Some(ArchiveList::Listed(..)) => "listed",
                Some(ArchiveList::TooMany) => "too many",
                Some(ArchiveList::Stopped) => "stopped",
                None => "otherwise",
            };
        assert_eq!(
            (ends(5, &go), ends(4, &go), ends(5, &|| false)),
            ("listed", "too many", "stopped")
        );
    }

    #[test]
    fn each_list_is_gzip_of_its_own_whatever_became_of_the_one_before() {
        let mut state = 7_u32;
        let mut noise = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let noise: Vec<u8> = (0..300_000).map(|_| noise()).collect();
        let not_of_it = noise.clone();
        let table = [Vec::new(), vec![b'a'], vec![b'a'; 300_000], noise];
        for text in table {
            let failed: io::Result<((), _)> = ListGzip::write(|out| {
                out.write_all(&not_of_it)?;
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
