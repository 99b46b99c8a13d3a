//! The making of another tree of a spare: only what differs is written, and only that has to go to the disk.
//!
//! New contents are made aside first, while everything that they may be copied from is in its place. Then what goes is
//! removed, the deepest first, and what comes takes its place, links last. Every name is looked up beneath a directory that
//! was reached without a link.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, mkdirat, renameat, symlinkat, unlinkat};

use crate::api::error::{Code, Doing, Error, Refusal};
use crate::formats::archive::assemble::{Assembled, Rooms};
use crate::formats::archive::extract::TreeWriter;
use crate::formats::archive::free_space::{FreeSpace, unwritten};
use crate::formats::archive::limits::{Limits, Owner};
use crate::formats::archive::spare::changes::{Change, Changes, SpareTree, differing};
use crate::formats::archive::spare::content::{ContentGoal, Contents};
use crate::formats::archive::spare::copy::{chmod, give};
use crate::formats::archive::supply::{BaseTree, open_dir, open_list};
use crate::formats::archive::tree::{EntryKind, ROOT};
use crate::formats::archive::visible;
use crate::formats::delta::listing::{ListedKind, ListingLimits};
use crate::system::files;

/// Where so many files change, all of the file system goes to the disk at once.
const SYNCED_ONE_BY_ONE: usize = 200;

/// What a spare becomes another tree with.
pub struct PatchSources<'a> {
    pub spare: &'a SpareTree,
    /// Another tree that may have what the spare lacks, and that others may have written to.
    pub base: Option<&'a BaseTree>,
    /// The list of the other tree.
    pub list: &'a Path,
    /// An empty directory on the same file system.
    pub aside: &'a Path,
    /// The files of records.
    pub records: &'a [&'a File],
}

impl Changes {
    /// Makes the other tree of the spare, and puts on disk what is new of it. The spare is of no tree any longer if that
    /// fails. `step` is called between what would be cut by a crash.
    ///
    /// # Errors
    /// Why it could not be made.
    pub fn apply(
        &mut self,
        sources: &PatchSources<'_>,
        (limits, owner): (&Limits, Option<Owner>),
        step: &dyn Fn(),
    ) -> Result<Assembled, Refusal> {
        self.supply.end(None);
        self.supply.look_in(&sources.spare.base(), sources.base)?;
        let root = open_dir(&sources.spare.dir)?;
        let base = sources.base.map(|base| open_dir(&base.dir)).transpose()?;
        let mut patch = Patch {
            room: FreeSpace::new(&root, limits.min_free_disk)?,
            aside: sources.aside,
            root: &root,
            owner,
            one_by_one: self.steps.len() <= SYNCED_ONE_BY_ONE,
            touched: BTreeSet::new(),
            made: Assembled {
                bytes: self.bytes,
                files: self.files,
                reused_files: self.files,
                reused_bytes: self.bytes,
            },
        };
        let mut contents = Contents {
            root: &root,
            base: base.as_ref(),
            supply: &self.supply,
            records: sources.records,
            rooms: Rooms::default(),
            step,
        };
        patch.contents(&self.steps, &mut contents)?;
        step();
        patch.removals(&self.steps)?;
        step();
        patch.places(&self.steps)?;
        if self.links {
            judge_links(sources, limits)?;
        }
        step();
        patch.to_disk()?;
        match patch.made.files {
            0 => Err(Refusal::new(
                Code::BadArchive,
                "there is no regular file in the tree",
            )),
            _ => Ok(patch.made),
        }
    }
}

struct Patch<'a> {
    room: FreeSpace,
    root: &'a OwnedFd,
    aside: &'a Path,
    owner: Option<Owner>,
    one_by_one: bool,
    /// The directories in which names have come or gone.
    touched: BTreeSet<Vec<u8>>,
    made: Assembled,
}

/// A path's directory and the name in it.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// What has a file made of it in a step.
fn target(step: &Change) -> Option<ContentGoal<'_>> {
    let Change::File { path, file, old } = step else {
        return None;
    };
    Some(ContentGoal {
        path,
        file,
        old: old.as_ref(),
    })
}

/// Whether only the mode of a file is another one.
fn same_content(target: &ContentGoal<'_>) -> bool {
    target.old.is_some_and(|old| old.same_content(target.file))
}

impl Patch<'_> {
    fn failed(path: &[u8], error: io::Error) -> Refusal {
        unwritten(format!("making '{}'", visible(path)), error)
    }

    /// Makes all contents: those of files that stay where they are come last, since others may be copied from them.
    fn contents(&mut self, steps: &[Change], contents: &mut Contents<'_>) -> Result<(), Refusal> {
        let mut staying = Vec::new();
        for (n, target) in steps
            .iter()
            .enumerate()
            .filter_map(|(n, step)| Some((n, target(step)?)))
        {
            if same_content(&target) {
                continue;
            }
            if contents.stays(&target)? {
                staying.push(target);
                continue;
            }
            self.room.take(target.file.size)?;
            let mut options = File::options();
            options.write(true).create_new(true).mode(0o600);
            let file = options.open(self.aside.join(n.to_string()));
            let file = file.map_err(|error| Self::failed(target.path, error))?;
            let reused = contents.make(&target, &file)?;
            self.settle(&target, &file, reused)?;
        }
        for target in staying {
            let new = differing(target.file, target.old);
            self.room
                .take(new.map(|(_, object)| u64::from(object.len)).sum())?;
            let file = files::change_file_in(self.root, target.path);
            let file = file.map_err(|error| Self::failed(target.path, error))?;
            let reused = contents.write(&target, &file)?;
            self.settle(&target, &file, reused)?;
        }
        Ok(())
    }

    /// Gives a file with a new content its mode and its owner, and puts it on disk.
    fn settle(
        &mut self,
        target: &ContentGoal<'_>,
        file: &File,
        reused: bool,
    ) -> Result<(), Refusal> {
        if !reused {
            self.made.reused_files -= 1;
            self.made.reused_bytes -= target.file.size;
        }
        let settled = self
            .mode(target, file)
            .and_then(|()| match self.one_by_one {
                true => file.sync_all(),
                false => Ok(()),
            });
        settled.map_err(|error| Self::failed(target.path, error))
    }

    fn mode(&self, target: &ContentGoal<'_>, file: &File) -> io::Result<()> {
        if let Some((user, group)) = self.owner {
            std::os::unix::fs::fchown(file, Some(user), Some(group))?;
        }
        Ok(rustix::fs::fchmod(
            file,
            Mode::from_raw_mode(target.file.mode),
        )?)
    }

    /// The directory that a path is in, where something changes.
    fn parent<'p>(&mut self, path: &'p [u8]) -> io::Result<(File, &'p [u8])> {
        let (parent, name) = split(path);
        self.touched.insert(parent.to_vec());
        Ok((files::open_dir_in(self.root, parent)?, name))
    }

    fn removals(&mut self, steps: &[Change]) -> Result<(), Refusal> {
        for step in steps.iter().rev() {
            let Change::Remove { path, directory } = step else {
                continue;
            };
            let flags = match directory {
                true => AtFlags::REMOVEDIR,
                false => AtFlags::empty(),
            };
            let (parent, name) = self
                .parent(path)
                .map_err(|error| Self::failed(path, error))?;
            unlinkat(parent, name, flags).map_err(|errno| Self::failed(path, errno.into()))?;
            self.touched.remove(path);
        }
        Ok(())
    }

    /// Puts everything in its place: directories come before what is in them, and links after all else.
    fn places(&mut self, steps: &[Change]) -> Result<(), Refusal> {
        for (n, step) in steps.iter().enumerate() {
            let (path, placed) = match step {
                Change::Remove { .. } | Change::Symlink { .. } => continue,
                Change::Directory { path, mode, fresh } => {
                    (path, self.directory(path, *mode, *fresh))
                }
                Change::File { path, .. } => (path, self.file(n, step)),
            };
            placed.map_err(|error| Self::failed(path, error))?;
        }
        for step in steps {
            let Change::Symlink { path, target } = step else {
                continue;
            };
            self.room.take(1)?;
            let linked = self.parent(path).and_then(|(parent, name)| {
                symlinkat(OsStr::from_bytes(target), parent, name)?;
                give(self.root, path, self.owner)
            });
            linked.map_err(|error| Self::failed(path, error))?;
        }
        Ok(())
    }

    fn directory(&mut self, path: &[u8], mode: u32, fresh: bool) -> io::Result<()> {
        if fresh {
            let (parent, name) = self.parent(path)?;
            mkdirat(parent, name, Mode::RWXU)?;
            give(self.root, path, self.owner)?;
        }
        self.touched.insert(path.to_vec());
        Ok(chmod(self.root, path, mode)?)
    }

    fn file(&mut self, n: usize, step: &Change) -> io::Result<()> {
        let Some(target) = target(step) else {
            return Ok(());
        };
        if same_content(&target) {
            let file = files::open_file_in(self.root, target.path)?;
            self.mode(&target, &file)?;
            return file.sync_all();
        }
        let aside = self.aside.join(n.to_string());
        if !fs::exists(&aside)? {
            // It stays where it is.
            return Ok(());
        }
        let (parent, name) = self.parent(target.path)?;
        Ok(renameat(CWD, aside, parent, name)?)
    }

    fn to_disk(&self) -> Result<(), Refusal> {
        let what = || "putting the release on disk".to_owned();
        if !self.one_by_one {
            files::sync_file_system(self.root).doing(what)?;
            return Ok(());
        }
        for path in &self.touched {
            let dir = files::open_dir_in(self.root, path);
            dir.and_then(|dir| dir.sync_all()).doing(what)?;
        }
        Ok(())
    }
}

/// Refuses links that leave the tree, as an archive's are refused.
fn judge_links(sources: &PatchSources<'_>, limits: &Limits) -> Result<(), Refusal> {
    let mut writer = TreeWriter::new(&sources.spare.dir, limits)?;
    let mut list = open_list(sources.list, ListingLimits::NONE)?;
    let lost = || Error::new("judging the links of a tree", "an entry has no directory");
    while let Some(entry) = list.next()? {
        let kind = match entry.kind {
            ListedKind::Directory { .. } if entry.path.is_empty() => continue,
            ListedKind::Directory { .. } => EntryKind::Directory,
            ListedKind::File(_) => EntryKind::File,
            ListedKind::Symlink { .. } => EntryKind::Symlink,
        };
        let (parent, name) = split(&entry.path);
        let mut at = ROOT;
        for part in parent
            .split(|byte| *byte == b'/')
            .filter(|part| !part.is_empty())
        {
            at = writer.tree.find(at, part).ok_or_else(lost)?;
        }
        writer.tree.insert(at, name, kind)?;
    }
    writer.judge_links(ROOT)
}
