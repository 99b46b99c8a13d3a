//! Judging an archive entry by entry and writing its tree.
//!
//! [`TarReader`] reads; what is written, and where, is decided here. Only what this archive has made itself is ever gone
//! through: a path's parents must be directories of the [`Tree`], files are created and never opened, so no link is
//! followed while writing. Directories stay private (0700) until the end, when links are judged and modes applied.

use std::io::{self, BufRead, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use tar::EntryType;

use crate::api::error::{Code, Refusal};
use crate::formats::archive::decoded::decoded;
use crate::formats::archive::feed::{Disconnected, Feed};
use crate::formats::archive::free_space::{FreeSpace, unwritten};
use crate::formats::archive::limits::{Limits, Owner};
use crate::formats::archive::litter::{self, APPLE_DOUBLE};
use crate::formats::archive::magic::Compressed;
use crate::formats::archive::making::{new_file, set_mode, unmade};
use crate::formats::archive::path::{Name, bad, bad_text};
use crate::formats::archive::reader::{NotTar, TAR_BLOCK, TarEntry, TarReader, fill};
use crate::formats::archive::sniff;
use crate::formats::archive::sparse::HOLE;
use crate::formats::archive::tree::{EntryKind, Id, ROOT, Tree};
use crate::formats::archive::visible;
use crate::system::memory::Pages;

/// What is collected of a file that comes in parts that are too small to be written.
const BUFFER: usize = HOLE;

/// Why an entry is refused whose content is a map of what it has.
const SPARSE: &str = "it is a sparse file";

/// What was made.
pub(super) struct Tally {
    /// The bytes of the regular files.
    pub(super) bytes: u64,
    /// How many regular files, hard links included.
    pub(super) files: u64,
}

/// Unpacks what `feed` gives into `release`, to the last byte of it.
pub(super) fn extract(
    mut feed: Feed,
    release: &Path,
    limits: &Limits,
    owner: Option<Owner>,
) -> Result<Tally, Refusal> {
    let mut writer = TreeWriter::new(release, limits)?;
    let start = feed.fill_buf().map_err(|error| writer.broken(&error))?;
    writer.compressed = Compressed::of(start);
    let plain = decoded(feed).map_err(|error| writer.broken(&error))?;
    let mut archive = TarReader::new(plain);
    while let Some(entry) = archive.next().map_err(|error| writer.broken(&error))? {
        writer.entry(&entry, &mut archive)?;
    }
    end(archive.into_inner(), &mut writer)?;
    writer.finish(owner)
}

/// Makes sure that the archive's end marker is there and nothing behind it. The tar reader stopped at the end of the bytes
/// or behind one block of zeros; a complete archive has a second one. Reading on also lets gzip check its sums.
fn end(mut rest: impl Read, writer: &mut TreeWriter<'_>) -> Result<(), Refusal> {
    let mut zeros = 0;
    loop {
        let read = rest
            .read(&mut writer.buffer)
            .map_err(|error| writer.broken(&error))?;
        if read == 0 {
            break;
        }
        if writer.buffer[..read].iter().any(|&byte| byte != 0) {
            return Err(bad("the archive is followed by something else"));
        }
        zeros += read as u64;
    }
    if zeros < TAR_BLOCK as u64 {
        return Err(bad("the archive is truncated: it has no end marker"));
    }
    if writer.seen == 0 {
        return Err(bad("the archive is empty"));
    }
    Ok(())
}

/// Writes the tree.
pub(super) struct TreeWriter<'a> {
    pub(super) release: &'a Path,
    pub(super) root: OwnedFd,
    pub(super) tree: Tree,
    pub(super) room: FreeSpace,
    most: u64,
    /// The permission bits that the process's umask, or a default ACL, takes away from a new file.
    pub(super) masked: u32,
    buffer: Pages,
    /// The last entry's name, for faults of what follows it.
    last: String,
    seen: u64,
    /// What the archive comes out of.
    compressed: Compressed,
    pub(super) rooted: bool,
    pub(super) bytes: u64,
    pub(super) files: u64,
}

impl<'a> TreeWriter<'a> {
    pub(super) fn new(release: &'a Path, limits: &Limits) -> Result<TreeWriter<'a>, Refusal> {
        let opening = || format!("opening the release {}", release.display());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, release, flags, Mode::empty())
            .map_err(|errno| unwritten(opening(), errno.into()))?;
        let room = FreeSpace::new(&root, limits.min_free_disk)?;
        let masked = masked(&root).map_err(|errno| unwritten(opening(), errno.into()))?;
        Ok(TreeWriter {
            release,
            root,
            tree: Tree::new(),
            room,
            most: limits.max_entries,
            masked,
            buffer: Pages::new(BUFFER),
            last: String::new(),
            seen: 0,
            compressed: Compressed::No,
            rooted: false,
            bytes: 0,
            files: 0,
        })
    }

    /// The refusal for what the tar reader, or what it is compressed with, did not like.
    fn broken(&self, error: &io::Error) -> Refusal {
        let inner = error.get_ref();
        let not_tar = inner.and_then(|inner| inner.downcast_ref());
        if let Some(what) = not_tar.and_then(|NotTar { start, .. }| sniff::name(start)) {
            let inside = self.compressed.inside();
            return bad(format!("the payload is {what}{inside}; send tar or tar.gz"));
        }
        let place = if self.seen == 0 {
            let kind = self.compressed.archive();
            format!("the payload is not a readable {kind} archive")
        } else {
            format!("the archive is damaged after '{}'", self.last)
        };
        let why = if inner.is_some_and(|inner| inner.is::<Disconnected>()) {
            return Refusal::new(Code::UploadBroken, "the payload is not complete");
        } else if error.kind() == io::ErrorKind::UnexpectedEof {
            "it is truncated".to_owned()
        } else {
            // The tar crate puts fields of the archive into some of its messages.
            visible(error.to_string().as_bytes())
        };
        bad(format!("{place}: {why}"))
    }

    pub(super) fn count(&self, entries: u64) -> Result<(), Refusal> {
        if entries > self.most {
            return Err(bad(format!(
                "the archive has more than {} entries",
                self.most
            )));
        }
        Ok(())
    }

    fn entry(&mut self, entry: &TarEntry, content: &mut impl BufRead) -> Result<(), Refusal> {
        self.seen += 1;
        self.count(self.seen)?;
        let (kind, size) = (entry.kind, entry.size);
        if kind == EntryType::XGlobalHeader {
            // Readers differ in what a name or a PAX header that stands before it belongs to.
            return if entry.described {
                Err(bad(
                    "a global PAX header stands between a name and its entry",
                ))
            } else {
                Ok(())
            };
        }
        let name = Name::parse(&entry.path)?;
        self.last.clone_from(&name.shown);
        let directory = kind == EntryType::Directory
            // Before POSIX a directory was a file whose name ends with a slash.
            || (matches!(kind, EntryType::Regular | EntryType::Continuous)
                && entry.path.ends_with(b"/"));
        let link = matches!(kind, EntryType::Symlink | EntryType::Link);
        let why = match kind {
            EntryType::Char | EntryType::Block => "it is a device node",
            EntryType::Fifo => "it is a FIFO",
            EntryType::GNUSparse => SPARSE,
            // Readers differ in whether the content of these follows, so what one checks another would not see.
            _ if directory && size > 0 => "a directory must not have content",
            _ if link && size > 0 => "a link must not have content",
            _ if directory || link => "",
            EntryType::Regular | EntryType::Continuous => "",
            _ => "its kind is unknown",
        };
        if !why.is_empty() {
            return Err(name.refuse(why));
        }
        records(entry, &name)?;
        if litter::by_name(&name.path) {
            return Ok(());
        }
        match kind {
            EntryType::Symlink => self.symlink(&name, target(entry, &name)?),
            EntryType::Link => self.hard_link(&name, target(entry, &name)?),
            _ if directory => self.directory(&name, mode(entry, &name)?),
            _ => self.file_or_litter(&name, entry, content),
        }
    }

    /// Writes a file, unless it is what macOS keeps beside another one.
    fn file_or_litter(
        &mut self,
        name: &Name,
        entry: &TarEntry,
        content: &mut impl BufRead,
    ) -> Result<(), Refusal> {
        if !litter::may_be_apple_double(&name.path) {
            return self.file(name, entry, content);
        }
        let mut start = [0; APPLE_DOUBLE.len()];
        let most = usize::try_from(entry.size).unwrap_or(usize::MAX);
        let most = most.min(start.len());
        let len = fill(content, &mut start[..most]).map_err(|error| self.broken(&error))?;
        if start[..len] == APPLE_DOUBLE {
            return Ok(());
        }
        self.file(name, entry, &mut (&start[..len]).chain(content))
    }

    /// The directory that holds the entry, made where it is only implied, and the entry's own name in it.
    fn place<'n>(&mut self, name: &'n Name) -> Result<(Id, &'n [u8]), Refusal> {
        let mut parent = ROOT;
        let mut at = 0;
        let mut components = name.components();
        let mut component = components
            .next()
            .ok_or_else(|| name.refuse("the archive's root must be a directory"))?;
        for following in components {
            let end = at + component.len();
            parent = match self.tree.find(parent, component) {
                Some(id) if self.tree.kind(id) == EntryKind::Directory => id,
                Some(id) => {
                    let what = match self.tree.kind(id) {
                        EntryKind::Symlink => "is a link, and nothing is written through links",
                        _ => "is a file",
                    };
                    let through = visible(&name.path[..end]);
                    return Err(name.refuse(format!("'{through}' {what}")));
                }
                None => self.make_directory(name, &name.path[..end], parent, component)?,
            };
            at = end + 1;
            component = following;
        }
        Ok((parent, component))
    }

    fn add(&mut self, parent: Id, component: &[u8], kind: EntryKind) -> Result<Id, Refusal> {
        let id = self.tree.insert(parent, component, kind)?;
        self.count(self.tree.len())?;
        Ok(id)
    }

    fn make_directory(
        &mut self,
        name: &Name,
        path: &[u8],
        parent: Id,
        component: &[u8],
    ) -> Result<Id, Refusal> {
        let id = self.add(parent, component, EntryKind::Directory)?;
        self.room.take(1)?;
        rustix::fs::mkdirat(&self.root, path, Mode::RWXU)
            .map_err(|errno| unmade(name, "making the directory", errno))?;
        Ok(id)
    }

    pub(super) fn directory(&mut self, name: &Name, mode: u32) -> Result<(), Refusal> {
        if name.path.is_empty() {
            self.rooted = true;
            self.tree.set_mode(ROOT, mode);
            return Ok(());
        }
        let (parent, component) = self.place(name)?;
        let id = match self.tree.find(parent, component) {
            Some(id) if self.tree.kind(id) == EntryKind::Directory => id,
            Some(_) => return Err(twice(name)),
            None => self.make_directory(name, &name.path, parent, component)?,
        };
        self.tree.set_mode(id, mode);
        Ok(())
    }

    /// Makes way for a file or a link that the archive has already brought: as with `tar -r`, the later one counts. It is
    /// unlinked, so that a hard link to the earlier one keeps what it linked to.
    pub(super) fn make_way(&mut self, name: &Name, kind: EntryKind) -> Result<(), Refusal> {
        let (parent, component) = self.place(name)?;
        let Some(id) = self.tree.find(parent, component) else {
            self.add(parent, component, kind)?;
            return self.room.take(1);
        };
        if self.tree.kind(id) != kind {
            return Err(twice(name));
        }
        let failed = |errno| unmade(name, "replacing its earlier version", errno);
        if kind == EntryKind::File {
            let old = rustix::fs::statat(&self.root, &name.path, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(failed)?;
            self.files -= 1;
            if old.st_nlink == 1 {
                self.bytes -= u64::try_from(old.st_size).unwrap_or(0);
            }
        }
        rustix::fs::unlinkat(&self.root, &name.path, AtFlags::empty()).map_err(failed)
    }

    fn file(
        &mut self,
        name: &Name,
        entry: &TarEntry,
        content: &mut impl BufRead,
    ) -> Result<(), Refusal> {
        let mode = mode(entry, name)? | 0o600;
        self.make_way(name, EntryKind::File)?;
        let mut file = new_file(&self.root, name, mode)?;
        let writing = |error| unwritten(format!("writing '{}'", name.shown), error);
        let mut left = entry.size;
        while left > 0 {
            let ready = content.fill_buf().map_err(|error| self.broken(&error))?;
            // The rest at once, or a part that holes can be found in.
            let rest = usize::try_from(left).unwrap_or(usize::MAX);
            let whole = match ready.len() < rest {
                true => ready.len() / HOLE * HOLE,
                false => rest,
            };
            if whole > 0 {
                let room = &mut self.room;
                file.write(&ready[..whole], &mut |bytes| room.take(bytes), &writing)?;
                content.consume(whole);
                left -= whole as u64;
                continue;
            }
            let most = rest.min(BUFFER);
            let len = fill(content, &mut self.buffer[..most]);
            let len = len.map_err(|error| self.broken(&error))?;
            if len < most {
                return Err(name.refuse("its content is truncated"));
            }
            let room = &mut self.room;
            file.write(&self.buffer[..len], &mut |bytes| room.take(bytes), &writing)?;
            left -= len as u64;
        }
        let file = file.end().map_err(writing)?;
        if mode & self.masked != 0 {
            set_mode(&file, name, mode)?;
        }
        self.bytes += entry.size;
        self.files += 1;
        Ok(())
    }

    pub(super) fn symlink(&mut self, name: &Name, target: &[u8]) -> Result<(), Refusal> {
        if let Some(why) = bad_text(target) {
            return Err(name.refuse(format!("its target '{}': {why}", visible(target))));
        }
        self.make_way(name, EntryKind::Symlink)?;
        rustix::fs::symlinkat(target, &self.root, &name.path)
            .map_err(|errno| unmade(name, "making the link", errno))
    }

    fn hard_link(&mut self, name: &Name, target: &[u8]) -> Result<(), Refusal> {
        let Name { shown, path } = Name::parse(target)
            .map_err(|refusal| name.refuse(format!("its target {}", refusal.message)))?;
        let mut at = Some(ROOT);
        for component in path.split(|&byte| byte == b'/') {
            at = at.and_then(|id| self.tree.find(id, component));
        }
        if at.is_none_or(|id| self.tree.kind(id) != EntryKind::File) {
            return Err(name.refuse(format!(
                "it is a hard link to '{shown}', which is not a file that came before it"
            )));
        }
        if path == name.path {
            // A link to itself is there already.
            return Ok(());
        }
        self.make_way(name, EntryKind::File)?;
        rustix::fs::linkat(&self.root, &path, &self.root, &name.path, AtFlags::empty())
            .map_err(|errno| unmade(name, "making the hard link", errno))?;
        self.files += 1;
        Ok(())
    }
}

/// The permission bits that are missing from a file that was made with all of them.
fn masked(root: &OwnedFd) -> Result<u32, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let probe = rustix::fs::openat(root, ".probe", flags, Mode::from_raw_mode(0o777))?;
    let mode = rustix::fs::fstat(&probe)?.st_mode;
    rustix::fs::unlinkat(root, ".probe", AtFlags::empty())?;
    Ok(0o777 & !mode)
}

fn mode(entry: &TarEntry, name: &Name) -> Result<u32, Refusal> {
    let mode = entry
        .mode
        .ok_or_else(|| name.refuse("its mode is not octal"))?;
    Ok(mode & 0o777)
}

fn target<'e>(entry: &'e TarEntry, name: &Name) -> Result<&'e [u8], Refusal> {
    let target = entry.target.as_deref();
    target.ok_or_else(|| name.refuse("it is a link without a target"))
}

/// Refuses PAX records that cannot be read, and those of sparse files, whose content is a map.
fn records(entry: &TarEntry, name: &Name) -> Result<(), Refusal> {
    let pax = &entry.pax;
    if pax.unreadable {
        return Err(name.refuse("it has an unreadable PAX record"));
    }
    match &pax.sparse_name {
        Some(real) => Err(bad(format!("'{}': {SPARSE}", visible(real)))),
        None if pax.sparse => Err(name.refuse(SPARSE)),
        None => Ok(()),
    }
}

fn twice(name: &Name) -> Refusal {
    name.refuse("the archive has this path twice, as different kinds")
}
