//! The objects of a tree that is kept, for another server that lacks some of them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use crate::api::error::{Code, Doing, Error, Refusal};
use crate::formats::archive::assemble::{Rooms, read_object, read_record};
use crate::formats::archive::supply::{open_dir, open_in, open_list};
use crate::formats::archive::visible;
use crate::formats::delta::hash::ContentHash;
use crate::formats::delta::listing::{ListedKind, ListingLimits};
use crate::formats::delta::ranges::Ranges;
use crate::formats::delta::records::{DeltaHead, MAGIC, RecordScanner, RecordWriter, StoredObject};
use crate::system::memory::Pages;

/// What is read of records at once, to find them.
const READ_AT_ONCE: usize = 256 << 10;

/// A tree that is kept: its list, and where its content may be. What others have written into its directory is found in
/// the records, if these have it.
pub struct KeptTree<'a> {
    pub list: &'a Path,
    pub dir: &'a Path,
    /// What came as a delta, and what had come before it, each with the head of its file still before the records or
    /// without one.
    pub records: &'a [File],
}

/// Where the objects of some files of records are.
struct RecordIndex<'a> {
    files: &'a [File],
    objects: HashMap<ContentHash, (usize, StoredObject)>,
}

impl<'a> RecordIndex<'a> {
    fn of(files: &'a [File]) -> io::Result<RecordIndex<'a>> {
        let mut objects = HashMap::new();
        for (n, file) in files.iter().enumerate() {
            let mut scanner = RecordScanner::at(skip_head(file)?);
            let (mut file, mut buffer) = (file, Pages::new(READ_AT_ONCE));
            loop {
                let read = file.read(&mut buffer)?;
                let pushed = scanner.push(&buffer[..read], &mut |object| {
                    objects.entry(object.hash).or_insert((n, object));
                });
                // What is damaged ends it.
                if read == 0 || pushed.is_err() {
                    break;
                }
            }
        }
        Ok(RecordIndex { files, objects })
    }

    fn read(&self, hash: ContentHash, rooms: &mut Rooms) -> Result<bool, Refusal> {
        match self.objects.get(&hash) {
            Some((n, object)) => read_record(&self.files[*n], object, rooms),
            None => Ok(false),
        }
    }
}

/// Goes to the first record of a file, and says where that is.
fn skip_head(mut file: &File) -> io::Result<u64> {
    file.rewind()?;
    let mut magic = [0; MAGIC.len()];
    let has_head = file.read_exact(&mut magic).is_ok() && magic == MAGIC;
    if !has_head {
        file.rewind()?;
        return Ok(0);
    }
    let head = DeltaHead::read(&mut file)?;
    let list = i64::try_from(head.list).map_err(io::Error::other)?;
    file.seek(SeekFrom::Current(list))
}

impl KeptTree<'_> {
    fn index(&self) -> Result<RecordIndex<'_>, Error> {
        RecordIndex::of(self.records).doing(|| "reading what had come of a tree".into())
    }

    /// Whether the records bring all of these objects.
    ///
    /// # Errors
    /// When something cannot be read.
    pub fn brought(&self, wanted: &Ranges) -> Result<bool, Refusal> {
        let index = self.index()?;
        let mut list = open_list(self.list, ListingLimits::NONE)?;
        let (mut asks, mut number) = (wanted.asker(), 0);
        while let Some(entry) = list.next()? {
            let ListedKind::File(file) = &entry.kind else {
                continue;
            };
            for object in file.objects() {
                if asks(number) && !index.objects.contains_key(&object.hash) {
                    return Ok(false);
                }
                number += 1;
            }
        }
        Ok(true)
    }

    /// Writes the objects with these numbers as records, and their end. Each is hashed once more.
    ///
    /// # Errors
    /// `stale_base` if one is not here any longer, or what cannot be read or written. What was written until then has no
    /// end.
    pub fn write_objects<W: Write>(
        &self,
        wanted: &Ranges,
        (out, level): (W, u32),
    ) -> Result<W, Refusal> {
        let unwritten = |error| Error::new("sending a part of a tree", error);
        let dir = open_dir(self.dir).ok();
        let (mut list, mut records) = (
            open_list(self.list, ListingLimits::NONE)?,
            RecordWriter::new(out, level),
        );
        let (mut asks, mut number) = (wanted.asker(), 0);
        let (mut rooms, mut index) = (Rooms::default(), None);
        while let Some(entry) = list.next()? {
            let ListedKind::File(listed) = &entry.kind else {
                continue;
            };
            let (mut file, mut at) = (None, 0);
            for object in listed.objects() {
                if asks(number) {
                    let file = file.get_or_insert_with(|| open_in(dir.as_ref()?, &entry.path));
                    let file = file.as_ref();
                    let mut found =
                        file.is_some_and(|file| read_object(file, at, object, &mut rooms));
                    if !found {
                        let index = match &index {
                            Some(index) => index,
                            None => index.insert(self.index()?),
                        };
                        found = index.read(object.hash, &mut rooms)?;
                    }
                    if !found {
                        let path = visible(&entry.path);
                        let why = format!("sending a part of a tree: '{path}' is not what it was");
                        return Err(Refusal::new(Code::StaleBase, why));
                    }
                    records
                        .object(object.hash, &rooms.plain)
                        .map_err(unwritten)?;
                }
                number += 1;
                at += u64::from(object.len);
            }
        }
        Ok(records.end().map_err(unwritten)?)
    }
}
