//! Judging an archive entry by entry and writing its tree.
//!
//! The tar crate reads; what is written, and where, is decided here. Only what this archive has made itself is ever gone
//! through: a path's parents must be directories of the [`Tree`], files are created and never opened, so no link is
//! followed while writing. Directories stay private (0700) until the end, when links are judged and modes applied.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use tar::{Archive, Entry, EntryType};

use crate::api::error::{Code, Refusal};
use crate::formats::archive::feed::{BUFFER, Budgeted, Disconnected, Feed, GzipMembers};
use crate::formats::archive::free_space::{FreeSpace, unwritten};
use crate::formats::archive::path::{Name, bad, bad_text};
use crate::formats::archive::tree::{EntryKind, Id, ROOT, Tree};
use crate::formats::archive::unpack::{Limits, Owner};
use crate::formats::archive::visible;

/// What one entry's headers may take: long names and PAX records are kept in memory, and a bomb of them compresses 1000:1.
/// Real ones have at most some KiB.
const HEADERS: u64 = 256 * 1024;

/// What may be read beside a file's own bytes while they are read.
const SLACK: u64 = 1024;

/// Why an entry is refused whose content is a map of what it has.
const SPARSE: &str = "it is a sparse file";

/// A tar header, and half of an end marker.
const TAR_BLOCK: u64 = 512;

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
    let gzip = feed
        .fill_buf()
        .is_ok_and(|start| start.starts_with(&[0x1f, 0x8b]));
    let plain: Box<dyn Read> = if gzip {
        Box::new(GzipMembers::new(feed))
    } else {
        Box::new(feed)
    };
    let allowance = Rc::new(Cell::new(0));
    let mut archive = Archive::new(Budgeted::new(plain, Rc::clone(&allowance)));
    let mut writer = TreeWriter::new(release, limits)?;
    let mut entries = archive.entries().map_err(|error| writer.broken(&error))?;
    // Where the next entry's own header is, if no header that describes it comes before.
    let mut next = 0;
    loop {
        allowance.set(HEADERS);
        let Some(entry) = entries.next() else { break };
        let mut entry = entry.map_err(|error| writer.broken(&error))?;
        allowance.set(entry.size().saturating_add(SLACK));
        let described = entry.raw_header_position() != next;
        writer.entry(&mut entry, described)?;
        let end = entry.raw_file_position().saturating_add(entry.size());
        next = end.checked_next_multiple_of(TAR_BLOCK).unwrap_or(u64::MAX);
    }
    allowance.set(u64::MAX);
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
    if zeros < TAR_BLOCK {
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
    room: FreeSpace,
    most: u64,
    /// The permission bits that the process's umask, or a default ACL, takes away from a new file.
    masked: u32,
    buffer: Vec<u8>,
    /// The last entry's name, for faults of what follows it.
    last: String,
    seen: u64,
    pub(super) rooted: bool,
    pub(super) bytes: u64,
    pub(super) files: u64,
}

impl<'a> TreeWriter<'a> {
    fn new(release: &'a Path, limits: &Limits) -> Result<TreeWriter<'a>, Refusal> {
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
            buffer: vec![0; BUFFER],
            last: String::new(),
            seen: 0,
            rooted: false,
            bytes: 0,
            files: 0,
        })
    }

    /// The refusal for what the tar reader, or gzip below it, did not like.
    fn broken(&self, error: &io::Error) -> Refusal {
        let place = if self.seen == 0 {
            "the payload is no readable tar or tar.gz archive".to_owned()
        } else {
            format!("the archive is damaged after '{}'", self.last)
        };
        let why = if error
            .get_ref()
            .is_some_and(|inner| inner.is::<Disconnected>())
        {
            return Refusal::new(Code::UploadBroken, "the payload is not complete");
        } else if error.kind() == io::ErrorKind::UnexpectedEof {
            "it is truncated".to_owned()
        } else {
            // The tar crate puts names from the archive into some of its messages.
            visible(error.to_string().as_bytes())
        };
        bad(format!("{place}: {why}"))
    }

    fn count(&self, entries: u64) -> Result<(), Refusal> {
        if entries > self.most {
            return Err(bad(format!(
                "the archive has more than {} entries",
                self.most
            )));
        }
        Ok(())
    }

    fn entry<R: Read>(&mut self, entry: &mut Entry<'_, R>, described: bool) -> Result<(), Refusal> {
        self.seen += 1;
        self.count(self.seen)?;
        let kind = entry.header().entry_type();
        if kind == EntryType::XGlobalHeader {
            // The tar crate would give a name or a PAX header that stands before it to this one instead of to the next.
            return if described {
                Err(bad(
                    "a global PAX header stands between a name and its entry",
                ))
            } else {
                Ok(())
            };
        }
        let raw = entry.path_bytes().into_owned();
        let name = Name::parse(&raw)?;
        self.last.clone_from(&name.shown);
        let directory = kind == EntryType::Directory
            // Before POSIX a directory was a file whose name ends with a slash.
            || (matches!(kind, EntryType::Regular | EntryType::Continuous) && raw.ends_with(b"/"));
        let link = matches!(kind, EntryType::Symlink | EntryType::Link);
        let why = match kind {
            EntryType::Char | EntryType::Block => "it is a device node",
            EntryType::Fifo => "it is a FIFO",
            EntryType::GNUSparse => SPARSE,
            // Readers differ in whether the content of these follows, so what one checks another would not see.
            _ if directory && entry.size() > 0 => "a directory must not have content",
            _ if link && entry.size() > 0 => "a link must not have content",
            _ if directory || link => "",
            EntryType::Regular | EntryType::Continuous => "",
            _ => "its kind is unknown",
        };
        if !why.is_empty() {
            return Err(name.refuse(why));
        }
        // Not before: asked of an unknown kind, the tar crate would read all of its content into memory.
        records(entry, &name)?;
        match kind {
            EntryType::Symlink => self.symlink(&name, &target(entry, &name)?),
            EntryType::Link => self.hard_link(&name, &target(entry, &name)?),
            _ if directory => self.directory(&name, mode(entry, &name)?),
            _ => self.file(&name, entry),
        }
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

    fn directory(&mut self, name: &Name, mode: u32) -> Result<(), Refusal> {
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
    fn make_way(&mut self, name: &Name, kind: EntryKind) -> Result<(), Refusal> {
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

    fn file<R: Read>(&mut self, name: &Name, entry: &mut Entry<'_, R>) -> Result<(), Refusal> {
        let mode = mode(entry, name)? | 0o600;
        self.make_way(name, EntryKind::File)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.root, &name.path, flags, Mode::from_raw_mode(mode))
            .map_err(|errno| unmade(name, "making the file", errno))?;
        let mut file = File::from(file);
        let mut left = entry.size();
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(BUFFER).min(BUFFER);
            let read = entry
                .read(&mut self.buffer[..most])
                .map_err(|error| self.broken(&error))?;
            if read == 0 {
                return Err(name.refuse("its content is truncated"));
            }
            self.room.take(read as u64)?;
            file.write_all(&self.buffer[..read])
                .map_err(|error| unwritten(format!("writing '{}'", name.shown), error))?;
            left -= read as u64;
        }
        if mode & self.masked != 0 {
            rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))
                .map_err(|errno| unmade(name, "setting the mode", errno))?;
        }
        self.bytes += entry.size();
        self.files += 1;
        Ok(())
    }

    fn symlink(&mut self, name: &Name, target: &[u8]) -> Result<(), Refusal> {
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
                "it is a hard link to '{shown}', which is no file that came before it"
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

fn mode<R: Read>(entry: &Entry<'_, R>, name: &Name) -> Result<u32, Refusal> {
    let mode = entry.header().mode();
    let mode = mode.map_err(|_| name.refuse("its mode is no octal number"))?;
    Ok(mode & 0o777)
}

fn target<R: Read>(entry: &Entry<'_, R>, name: &Name) -> Result<Vec<u8>, Refusal> {
    let target = entry.link_name_bytes();
    Ok(target
        .ok_or_else(|| name.refuse("it is a link without a target"))?
        .into_owned())
}

/// Refuses PAX records that the tar crate passes over in silence, and those of sparse files, whose content is a map.
fn records<R: Read>(entry: &mut Entry<'_, R>, name: &Name) -> Result<(), Refusal> {
    let Ok(Some(records)) = entry.pax_extensions() else {
        return Ok(());
    };
    let mut sparse = false;
    // The entry's own name is a made-up one then, and the real one, if it is told, a record of its own.
    let mut real = None;
    for record in records {
        let record = record.map_err(|_| name.refuse("it has an unreadable PAX record"))?;
        sparse |= record.key_bytes().starts_with(b"GNU.sparse.");
        if record.key_bytes() == b"GNU.sparse.name" {
            real = Some(visible(record.value_bytes()));
        }
    }
    match real {
        Some(real) => Err(bad(format!("'{real}': {SPARSE}"))),
        None if sparse => Err(name.refuse(SPARSE)),
        None => Ok(()),
    }
}

fn twice(name: &Name) -> Refusal {
    name.refuse("the archive has this path twice, as different kinds")
}

/// The refusal for an entry that could not be made: some errors are the name's fault and not the server's.
fn unmade(name: &Name, what: &str, errno: Errno) -> Refusal {
    match errno {
        // `EXIST`: the file system takes two names for one that the archive tells apart. `ILSEQ`, `INVAL`: it does not take
        // the name at all. `MLINK`: a file has no more than some ten thousand links.
        Errno::EXIST | Errno::NAMETOOLONG | Errno::ILSEQ | Errno::INVAL | Errno::MLINK => {
            name.refuse(format!("{what}: {}", io::Error::from(errno)))
        }
        _ => unwritten(format!("{what} '{}'", name.shown), errno.into()),
    }
}
