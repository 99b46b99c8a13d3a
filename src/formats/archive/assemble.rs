//! Making a tree by its list: each file's content comes from another tree that has it, or from records. Whatever it comes
//! from, its hash is that of the list, or the tree is refused.
//!
//! Two threads write while a third one, the caller's, may still receive records ([`Supply`]): they go through the list in
//! its order, which is the one in which objects are sent, and wait for what has not come yet. What takes a while is put on
//! disk meanwhile ([`EarlySync`]).

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::api::error::{Code, Error, Refusal};
use crate::formats::archive::early_sync::EarlySync;
use crate::formats::archive::extract::TreeWriter;
use crate::formats::archive::free_space::unwritten;
use crate::formats::archive::limits::{Limits, Owner};
use crate::formats::archive::making::{new_file, set_mode};
use crate::formats::archive::path::Name;
use crate::formats::archive::supply::{
    BaseTree, ListFile, Merged, ObjectPlace, Supply, open_dir, open_in, open_list,
};
use crate::formats::archive::tree::EntryKind;
use crate::formats::archive::visible;
use crate::formats::delta::chunk::CHUNK_MAX;
use crate::formats::delta::chunk_line::ChunkRef;
use crate::formats::delta::hash::ContentHash;
use crate::formats::delta::listing::{ListedFile, ListedKind, ListingLimits};
use crate::formats::delta::records::{OBJECT_MAX, StoredObject, content};
use crate::system::memory::Room;
use crate::system::threads;

/// The stack of a thread that writes: its buffers are on the heap.
const STACK: usize = 256 << 10;
/// As many threads write as a small host has cores.
const WRITERS: usize = 2;

/// What was made of a tree.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Assembled {
    /// The bytes of its files.
    pub bytes: u64,
    pub files: u64,
    /// Those that came from the base alone.
    pub reused_files: u64,
    pub reused_bytes: u64,
}

/// A file to be written.
struct FileJob {
    name: Name,
    file: ListedFile,
    /// The base has it at the same place.
    same: bool,
}

/// The list on its way, and the tree that is made.
struct Desk<'a> {
    list: ListFile,
    old: Merged,
    writer: TreeWriter<'a>,
    ended: bool,
    made: Assembled,
    /// The bytes that were written so far.
    written: u64,
}

impl Desk<'_> {
    /// The next file; what else comes before it is made.
    fn next(&mut self) -> Result<Option<FileJob>, Refusal> {
        while !self.ended {
            let Some(entry) = self.list.next()? else {
                self.ended = true;
                break;
            };
            let name = match entry.path.is_empty() {
                true => Name::root(),
                false => Name::parse(&entry.path)?,
            };
            match entry.kind {
                ListedKind::Directory { mode } => self.writer.directory(&name, mode)?,
                ListedKind::Symlink { target } => self.writer.symlink(&name, &target)?,
                ListedKind::File(file) => {
                    let same = self.old.has(&entry.path, &file)?;
                    self.writer.make_way(&name, EntryKind::File)?;
                    self.writer.files += 1;
                    return Ok(Some(FileJob { name, file, same }));
                }
            }
        }
        Ok(None)
    }
}

/// Tells those who wait that nothing comes any longer, however the receiving ends.
struct EndGuard<'a>(&'a Supply);

impl Drop for EndGuard<'_> {
    fn drop(&mut self) {
        self.0.end(None);
    }
}

/// Where a tree's content comes from.
pub struct Sources<'a> {
    pub list: &'a Path,
    pub base: Option<&'a BaseTree>,
    pub supply: &'a Supply,
    /// The files of records: what comes now, and what came earlier.
    pub records: &'a [&'a File],
}

/// Makes the tree in `release`, an empty directory, as [`unpack`](super::unpack()) does. `receive` is called meanwhile, tells
/// the supply what comes, and returns when nothing comes any longer.
///
/// # Errors
/// Why it could not be made. `stale_base` if something is not where it should be.
pub fn assemble<T>(
    sources: &Sources<'_>,
    release: &Path,
    limits: &Limits,
    owner: Option<Owner>,
    receive: impl FnOnce() -> Result<T, Refusal>,
) -> Result<(Assembled, T), Refusal> {
    let base = match sources.base {
        Some(base) => Some(open_dir(&base.dir)?),
        None => None,
    };
    let writer = TreeWriter::new(release, limits)?;
    let root = writer.root.try_clone();
    let workshop = Workshop {
        sources,
        base,
        root: root.map_err(|error| Error::new("opening the release", error))?,
        masked: writer.masked,
        desk: Mutex::new(Desk {
            list: open_list(sources.list, ListingLimits::NONE)?,
            old: Merged::open(sources.base)?,
            writer,
            ended: false,
            made: Assembled::default(),
            written: 0,
        }),
    };
    let (received, synced) = std::thread::scope(|scope| {
        let payload = sources.records.first().copied();
        let early = Arc::new(Mutex::new(EarlySync::new(scope, release, payload)));
        let workshop = &workshop;
        let mut writers = Vec::new();
        for n in 0..WRITERS {
            let early = Arc::clone(&early);
            let work = move || workshop.work(&early);
            writers.push(threads::spawn_scoped(
                scope,
                format!("assemble-{n}"),
                STACK,
                work,
            ));
        }
        let none = writers.iter().all(Result::is_err);
        let _ends = EndGuard(sources.supply);
        let received = receive();
        sources.supply.end(received.as_ref().err().cloned());
        if none {
            // What has come is there by now.
            workshop.work(&early);
        }
        for writer in writers.into_iter().flatten() {
            if let Err(panic) = writer.join() {
                std::panic::resume_unwind(panic);
            }
        }
        // The writers have ended, so that nobody else has it.
        let early = Arc::into_inner(early).map(Mutex::into_inner);
        let early = early.map(|early| early.unwrap_or_else(PoisonError::into_inner));
        (received, early.map_or(Ok(()), EarlySync::end))
    });
    let failed = sources.supply.failure();
    let received = match (received, failed) {
        (Ok(received), None) => received,
        // Whoever receives only knows that it is in vain.
        (_, Some(refusal)) | (Err(refusal), None) => return Err(refusal),
    };
    synced?;
    let desk = workshop
        .desk
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    desk.writer.finish(owner)?;
    Ok((desk.made, received))
}

/// What the writing threads share.
struct Workshop<'a> {
    sources: &'a Sources<'a>,
    base: Option<OwnedFd>,
    root: OwnedFd,
    masked: u32,
    desk: Mutex<Desk<'a>>,
}

/// What one of them has for itself.
#[derive(Default)]
pub(super) struct Rooms {
    stored: Room,
    pub(super) plain: Room,
}

impl<'a> Workshop<'a> {
    fn desk(&self) -> MutexGuard<'_, Desk<'a>> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes file after file, until there is none or all is in vain.
    fn work(&self, early: &Mutex<EarlySync<'_, '_>>) {
        let mut rooms = Rooms::default();
        let mut done = || -> Result<bool, Refusal> {
            let job = self.desk().next()?;
            let Some(job) = job else { return Ok(false) };
            let reused = self.file(&job, &mut rooms, early)?;
            let made = &mut self.desk().made;
            made.files += 1;
            made.bytes += job.file.size;
            if reused {
                made.reused_files += 1;
                made.reused_bytes += job.file.size;
            }
            Ok(true)
        };
        loop {
            match done() {
                Ok(true) if !self.sources.supply.is_in_vain() => {}
                Ok(_) => return,
                Err(refusal) => return self.sources.supply.fail(refusal),
            }
        }
    }

    /// Writes a file, and says whether all of it came from the base.
    fn file(
        &self,
        job: &FileJob,
        rooms: &mut Rooms,
        early: &Mutex<EarlySync<'_, '_>>,
    ) -> Result<bool, Refusal> {
        let writing = |error| unwritten(format!("writing '{}'", job.name.shown), error);
        let mut file = new_file(&self.root, &job.name, job.file.mode)?;
        let same = match (&self.base, job.same) {
            (Some(base), true) => open_in(base, &job.name.path),
            _ => None,
        };
        let (mut at, mut reused) = (0, true);
        for object in job.file.objects() {
            let found = match &same {
                Some(same) => read_object(same, at, object, rooms),
                None => false,
            };
            if !found {
                reused &= self.supplied(object, rooms, &job.name)?;
            }
            let mut taken = 0;
            let mut take = |bytes| {
                let mut desk = self.desk();
                desk.written += bytes;
                taken = desk.written;
                desk.writer.room.take(bytes)
            };
            file.write(&rooms.plain, &mut take, &writing)?;
            early
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .look(taken);
            at += u64::from(object.len);
        }
        let file = file.end().map_err(writing)?;
        if job.file.mode & self.masked != 0 {
            set_mode(&file, &job.name, job.file.mode)?;
        }
        Ok(reused)
    }

    /// Gets an object's content from where it is by now, and says whether that is the base.
    fn supplied(&self, object: ChunkRef, rooms: &mut Rooms, name: &Name) -> Result<bool, Refusal> {
        let stale = |why: &str| {
            let why = format!("making '{}': {why}", name.shown);
            Err(Refusal::new(Code::StaleBase, why))
        };
        match self.sources.supply.find(object.hash)? {
            None | Some(ObjectPlace::Wanted) => stale("its content is not here, and did not come"),
            Some(ObjectPlace::Base(path, at)) => {
                let path = self.sources.supply.path(path);
                let file = self.base.as_ref().and_then(|base| open_in(base, path));
                match file.is_some_and(|file| read_object(&file, at, object, rooms)) {
                    true => Ok(true),
                    false => stale(&format!("'{}' is not what it was", visible(path))),
                }
            }
            Some(ObjectPlace::Records(records, stored)) => {
                let file = self.sources.records.get(records);
                let file =
                    file.ok_or_else(|| Refusal::new(Code::Internal, "there are no such records"))?;
                if stored.len != object.len || !read_record(file, &stored, rooms)? {
                    if records > 0 {
                        // Nobody sent it now, so that it is not the sender's fault.
                        return stale("what an earlier upload brought of it is something else");
                    }
                    let why = format!(
                        "making '{}': what came as its content is something else",
                        name.shown
                    );
                    return Err(Refusal::new(Code::BadArchive, why));
                }
                Ok(false)
            }
        }
    }
}

/// Reads an object of a file into the room for it, if that is what is there.
pub(super) fn read_object(file: &File, at: u64, object: ChunkRef, rooms: &mut Rooms) -> bool {
    let plain = rooms.plain.resize(object.len as usize);
    file.read_exact_at(plain, at).is_ok() && ContentHash::of(plain) == object.hash
}

/// Reads an object of a file of records; false if it is not what its hash says.
pub(super) fn read_record(
    file: &File,
    object: &StoredObject,
    rooms: &mut Rooms,
) -> Result<bool, Refusal> {
    let stored = rooms.stored.resize(object.stored as usize);
    file.read_exact_at(stored, object.at)
        .map_err(|error| Error::new("reading what has come", error))?;
    Ok(content(object, stored, &mut rooms.plain))
}

const _: () = assert!(CHUNK_MAX <= OBJECT_MAX);

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use crate::formats::archive::testing::{LIMITS, Source, Temporary, tree, unpack_at};
    use crate::formats::archive::{
        ArchiveList, Effort, PackOptions, ScannedTree, demand, list_archive, plan,
    };
    use crate::formats::delta::records::{DeltaHead, MAGIC, RecordScanner};

    const ANY: ListingLimits = ListingLimits::NONE;

    fn scan(dir: &Path) -> ScannedTree {
        let plan = plan(dir, &PackOptions::default()).unwrap();
        ScannedTree::read(Arc::new(plan), None, true, &AtomicBool::new(false)).unwrap()
    }

    fn listed(dir: &Path) -> Vec<u8> {
        let (list, mut bytes) = (scan(dir).list().unwrap(), Vec::new());
        std::io::Read::read_to_end(&mut list.reader(), &mut bytes).unwrap();
        bytes
    }

    fn write(path: PathBuf, content: impl AsRef<[u8]>) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn noise(len: usize, seed: u32) -> Vec<u8> {
        let byte = |n: u32| (n.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 13) as u8;
        (0..len as u32).map(|n| byte(n ^ n >> 7)).collect()
    }

    /// A tree with something of everything.
    fn sample(root: &Path) {
        write(root.join("a/b"), "text");
        write(root.join("a-b"), noise(700_000, 1));
        write(root.join("big"), noise(3 << 20, 2));
        write(root.join("zeros"), vec![0; 2 << 20]);
        write(root.join("empty/file"), "");
        write(root.join("same"), "text");
        fs::create_dir(root.join("empty/directory")).unwrap();
        symlink("a/b", root.join("link")).unwrap();
        let mode =
            |path, mode| fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode));
        mode("a", 0o750).unwrap();
        mode("same", 0o444).unwrap();
        mode("a-b", 0o755).unwrap();
    }

    /// Sends `dir` to who has `base`, and makes it at `to`. Gives what was made, and how many bytes were sent.
    fn sent(dir: &Path, base: Option<&Path>, to: &Path) -> Result<(Assembled, usize), Refusal> {
        let at = Temporary::new();
        let new = scan(dir);
        let base = base.map(|base| {
            let list = at.0.join("old");
            fs::write(&list, listed(base)).unwrap();
            let dir = base.to_path_buf();
            BaseTree { dir, list }
        });
        let list = at.0.join("new");
        fs::write(&list, listed(dir)).unwrap();
        let asked = |base| demand(&list, ANY, base, &|_| false).unwrap();
        let demand = asked(base.as_ref());
        assert_eq!(demand.tree, new.tree());
        let (missing, _) = asked(base.as_ref()).supply.missing(&list).unwrap();
        let head = DeltaHead {
            base: None,
            tree: new.tree().to_string(),
            list: 0,
            difference: false,
        };
        let mut delta = Vec::new();
        new.write_delta(&head, &missing, (&mut delta, 1), &mut |_| ())
            .unwrap();
        let mut rest = delta.strip_prefix(&MAGIC).unwrap();
        assert_eq!(DeltaHead::read(&mut rest).unwrap(), head);
        let stored = at.0.join("records");
        fs::write(&stored, rest).unwrap();
        let (records, supply) = (File::open(&stored).unwrap(), demand.supply);
        let sources = Sources {
            list: &list,
            base: base.as_ref(),
            supply: &supply,
            records: &[&records],
        };
        fs::create_dir(to).unwrap();
        let receive = || {
            let mut scanner = RecordScanner::at(0);
            for piece in rest.chunks(10_000) {
                scanner.push(piece, &mut |object| supply.add(0, object))?;
            }
            Ok(())
        };
        let (made, ()) = assemble(&sources, to, &LIMITS, None, receive)?;
        Ok((made, rest.len()))
    }

    #[test]
    fn a_tree_comes_out_as_it_went_in_and_has_the_list_of_its_archive() {
        let from = Temporary::new();
        sample(&from.0);
        let at = Temporary::new();
        let (made, _) = sent(&from.0, None, &at.0.join("made")).unwrap();
        let mut packed = Vec::new();
        let plan = plan(&from.0, &PackOptions::default()).unwrap();
        plan.write(&mut packed, Effort::Level(1), &mut |_| ())
            .unwrap();
        let unpacked = unpack_at(&at.0, &mut Source::new(&packed, 65_536), &LIMITS).unwrap();
        assert_eq!(tree(&at.0.join("made")), tree(&at.0.join("release")));
        assert_eq!(
            (made.files, made.bytes),
            (unpacked.files, unpacked.unpacked_size)
        );
        assert_eq!(
            (made.reused_files, made.reused_bytes),
            (1, 0),
            "the empty one needs nothing"
        );
        let payload = File::open(at.0.join("payload")).unwrap();
        let ArchiveList::Listed(listed, _) = list_archive(&payload, &|| true).unwrap() else {
            panic!("not listed");
        };
        assert_eq!(listed, scan(&from.0).tree());
    }

    #[test]
    fn what_another_tree_has_is_not_sent_wherever_it_is() {
        let (old, new) = (Temporary::new(), Temporary::new());
        sample(&old.0);
        sample(&new.0);
        fs::rename(new.0.join("a-b"), new.0.join("moved")).unwrap();
        fs::rename(new.0.join("same"), new.0.join("other")).unwrap();
        let mut big = fs::read(new.0.join("big")).unwrap();
        big[2_000_000] ^= 1;
        fs::write(new.0.join("big"), big).unwrap();
        write(new.0.join("new"), "new");
        let at = Temporary::new();
        let (made, bytes) = sent(&new.0, Some(&old.0), &at.0.join("made")).unwrap();
        assert!(bytes < 300_000, "{bytes}");
        assert_eq!(made.files - made.reused_files, 2);
        let again = Temporary::new();
        sent(&new.0, None, &again.0.join("made")).unwrap();
        assert_eq!(tree(&at.0.join("made")), tree(&again.0.join("made")));
    }

    #[test]
    fn a_tree_that_cannot_be_made_says_why_and_not_that_the_rest_came_in_vain() {
        let (from, at) = (Temporary::new(), Temporary::new());
        write(from.0.join("file"), "text");
        let list = at.0.join("list");
        fs::write(&list, listed(&from.0)).unwrap();
        let records = at.0.join("records");
        fs::write(&records, "TEXT").unwrap();
        let records = File::open(&records).unwrap();
        let supply = demand(&list, ANY, None, &|_| false).unwrap().supply;
        let sources = Sources {
            list: &list,
            base: None,
            supply: &supply,
            records: &[&records],
        };
        let in_vain = "it is in vain";
        let receive = || -> Result<(), Refusal> {
            let (len, stored) = (4, 4);
            let hash = ContentHash::of(b"text");
            supply.add(
                0,
                StoredObject {
                    hash,
                    len,
                    stored,
                    at: 0,
                    deflated: false,
                },
            );
            // More comes, until it is known that none of it is of any use.
            while !supply.is_in_vain() {
                std::thread::yield_now();
            }
            Err(Refusal::new(Code::Internal, in_vain))
        };
        let to = at.0.join("made");
        fs::create_dir(&to).unwrap();
        let refused = assemble(&sources, &to, &LIMITS, None, receive).unwrap_err();
        assert_eq!(refused.code, Code::BadArchive, "{refused}");
        let why = "making 'file': what came as its content is something else";
        assert_eq!(refused.message, why);
    }

    #[test]
    fn what_others_wrote_into_the_base_is_never_taken() {
        let (old, new) = (Temporary::new(), Temporary::new());
        sample(&old.0);
        sample(&new.0);
        write(new.0.join("new"), "new");
        let base = Temporary::new();
        sample(&base.0);
        let stale = |change: &dyn Fn()| {
            let list = Temporary::new();
            let (new_list, old_list) = (list.0.join("new"), list.0.join("old"));
            fs::write(&new_list, listed(&new.0)).unwrap();
            fs::write(&old_list, listed(&base.0)).unwrap();
            change();
            let tree = BaseTree {
                dir: base.0.clone(),
                list: old_list,
            };
            let supply = demand(&new_list, ANY, Some(&tree), &|_| false)
                .unwrap()
                .supply;
            let sources = Sources {
                list: &new_list,
                base: Some(&tree),
                supply: &supply,
                records: &[],
            };
            let to = list.0.join("made");
            fs::create_dir(&to).unwrap();
            let refused = assemble(&sources, &to, &LIMITS, None, || Ok(())).unwrap_err();
            assert_eq!(refused.code, Code::StaleBase, "{refused}");
        };
        stale(&|| ());
        fs::write(new.0.join("new"), "text").unwrap();
        stale(&|| fs::write(base.0.join("a/b"), "TEXT").unwrap());
        stale(&|| fs::write(base.0.join("big"), "short").unwrap());
        stale(&|| {
            fs::rename(base.0.join("a"), base.0.join("elsewhere")).unwrap();
            symlink("elsewhere", base.0.join("a")).unwrap();
        });
    }
}
