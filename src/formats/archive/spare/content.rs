//! The new content of a file of a spare: out of what came, of what the spare has elsewhere, of the file itself, and of the
//! tree that the difference is to, where that is another one than the spare's. That one's contents are judged by their hashes.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use rustix::fs::copy_file_range;

use crate::api::error::{Code, Refusal};
use crate::formats::archive::assemble::{Rooms, read_object, read_record};
use crate::formats::archive::free_space::unwritten;
use crate::formats::archive::spare::changes::differing;
use crate::formats::archive::supply::{ObjectPlace, Supply, open_in};
use crate::formats::archive::visible;
use crate::formats::delta::chunk_line::ChunkRef;
use crate::formats::delta::listing::ListedFile;

/// A file that is to have another content.
pub(super) struct ContentGoal<'a> {
    pub(super) path: &'a [u8],
    pub(super) file: &'a ListedFile,
    pub(super) old: Option<&'a ListedFile>,
}

/// A piece of another file that is copied as it is.
struct CopiedPiece {
    path: Vec<u8>,
    at: u64,
    to: u64,
    len: u64,
}

/// Where the content of the spare's files comes from.
pub(super) struct Contents<'a> {
    pub(super) root: &'a OwnedFd,
    /// The tree that is looked in where the spare lacks something.
    pub(super) base: Option<&'a OwnedFd>,
    pub(super) supply: &'a Supply,
    pub(super) records: &'a [&'a File],
    pub(super) rooms: Rooms,
    /// Called when a piece of a file is written.
    pub(super) step: &'a dyn Fn(),
}

impl Contents<'_> {
    fn place(&self, target: &ContentGoal<'_>, object: ChunkRef) -> Result<ObjectPlace, Refusal> {
        let gone = || {
            let path = visible(target.path);
            let why = format!("making '{path}': its content is not here, and did not come");
            Refusal::new(Code::StaleBase, why)
        };
        match self.supply.find(object.hash)? {
            None | Some(ObjectPlace::Wanted) => Err(gone()),
            Some(place) => Ok(place),
        }
    }

    /// Whether a large file becomes what it is to be by writing what came to where it belongs.
    pub(super) fn stays(&self, target: &ContentGoal<'_>) -> Result<bool, Refusal> {
        let Some(old) = target.old.filter(|old| !old.chunks.is_empty()) else {
            return Ok(false);
        };
        for (_, object) in differing(target.file, Some(old)) {
            if !matches!(self.place(target, object)?, ObjectPlace::Records(..)) {
                return Ok(false);
            }
        }
        Ok(!target.file.chunks.is_empty())
    }

    /// Writes into a file what it does not have at the same place. Says whether nothing of it had to come.
    pub(super) fn write(
        &mut self,
        target: &ContentGoal<'_>,
        mut to: &File,
    ) -> Result<bool, Refusal> {
        let writing = |error| unwritten(format!("writing '{}'", visible(target.path)), error);
        let mut reused = true;
        for (at, object) in differing(target.file, target.old) {
            reused &= self.object(target, object)?;
            to.seek(SeekFrom::Start(at)).map_err(writing)?;
            to.write_all(&self.rooms.plain).map_err(writing)?;
            (self.step)();
        }
        to.set_len(target.file.size).map_err(writing)?;
        Ok(reused)
    }

    /// Makes the whole content in a new file. Says whether nothing of it had to come.
    pub(super) fn make(&mut self, target: &ContentGoal<'_>, to: &File) -> Result<bool, Refusal> {
        let large = !target.file.chunks.is_empty();
        let whole = ContentGoal {
            old: None,
            ..*target
        };
        if !large {
            return self.write(&whole, to);
        }
        let writing = |error| unwritten(format!("writing '{}'", visible(target.path)), error);
        let (mut reused, mut run) = (true, None::<CopiedPiece>);
        let mut moved = differing(target.file, target.old).peekable();
        for (at, object) in differing(target.file, None) {
            let len = u64::from(object.len);
            let from = match moved.next_if(|(new, _)| *new == at) {
                None => Some((target.path, at)),
                Some(_) => match self.place(target, object)? {
                    ObjectPlace::Base(path, from) if !self.supply.is_of_second(path) => {
                        Some((self.supply.path(path), from))
                    }
                    _ => None,
                },
            };
            match (from, &mut run) {
                (Some((path, from)), Some(run)) if run.path == path && run.at + run.len == from => {
                    run.len += len;
                }
                (from, _) => {
                    self.copy(run.take(), to).map_err(writing)?;
                    run = from.map(|(path, from)| CopiedPiece {
                        path: path.to_vec(),
                        at: from,
                        to: at,
                        len,
                    });
                    if run.is_none() {
                        reused &= self.object(target, object)?;
                        to.write_all_at(&self.rooms.plain, at).map_err(writing)?;
                    }
                }
            }
        }
        self.copy(run, to).map_err(writing)?;
        to.set_len(target.file.size).map_err(writing)?;
        Ok(reused)
    }

    /// Reads an object, and says whether it was here.
    fn object(&mut self, target: &ContentGoal<'_>, object: ChunkRef) -> Result<bool, Refusal> {
        let (read, was_here) = match self.place(target, object)? {
            ObjectPlace::Records(records, stored) => {
                let file = self
                    .records
                    .get(records)
                    .filter(|_| stored.len == object.len);
                let read = file.map(|file| read_record(file, &stored, &mut self.rooms));
                (read.transpose()?.unwrap_or(false), false)
            }
            ObjectPlace::Base(path, at) => {
                let tree = match self.supply.is_of_second(path) {
                    true => self.base,
                    false => Some(self.root),
                };
                let file = tree.and_then(|tree| open_in(tree, self.supply.path(path)));
                let read = file.is_some_and(|file| read_object(&file, at, object, &mut self.rooms));
                (read, true)
            }
            ObjectPlace::Wanted => (false, false),
        };
        if read {
            return Ok(was_here);
        }
        let why = format!(
            "making '{}': its content is something else",
            visible(target.path)
        );
        Err(Refusal::new(Code::BadArchive, why))
    }

    /// Copies a piece of one of the spare's files, which the file system does alone where it can.
    fn copy(&self, run: Option<CopiedPiece>, mut to: &File) -> io::Result<()> {
        let Some(run) = run else { return Ok(()) };
        let gone = || io::Error::from(io::ErrorKind::NotFound);
        let mut from = open_in(self.root, &run.path).ok_or_else(gone)?;
        let (mut at, mut dest, mut left) = (run.at, run.to, run.len);
        while left > 0 {
            let len = usize::try_from(left).unwrap_or(usize::MAX);
            match copy_file_range(&from, Some(&mut at), to, Some(&mut dest), len) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(copied) => left -= copied as u64,
                Err(rustix::io::Errno::INTR) => {}
                // Not every file system does that, nor does every kernel between two of them.
                Err(_) => break,
            }
        }
        from.seek(SeekFrom::Start(at))?;
        to.seek(SeekFrom::Start(dest))?;
        match io::copy(&mut from.take(left), &mut to)? == left {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}
