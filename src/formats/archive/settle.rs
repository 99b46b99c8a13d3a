//! What can only be done once the whole tree is there: flattening, judging the links, applying the modes.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use crate::api::error::{Error, Refusal};
use crate::formats::archive::extract::{Tally, TreeWriter};
use crate::formats::archive::free_space::unwritten;
use crate::formats::archive::limits::Owner;
use crate::formats::archive::path::{bad, stays};
use crate::formats::archive::tree::{EntryKind, Id, LinkTarget, ROOT};
use crate::formats::archive::visible;

impl TreeWriter<'_> {
    /// What can only be done once everything is there.
    pub(super) fn finish(mut self, owner: Option<Owner>) -> Result<Tally, Refusal> {
        let top = self.flatten()?;
        self.judge_links(top)?;
        // Its sender has left out what matters, and it would replace what is live.
        if self.files == 0 {
            return Err(bad("there is no regular file in the archive"));
        }
        self.hand_over(top, owner)?;
        Ok(Tally {
            bytes: self.bytes,
            files: self.files,
        })
    }

    /// Moves everything up if all of it is under one directory and the archive has no entry for its root. The entry that is
    /// the root then.
    fn flatten(&mut self) -> Result<Id, Refusal> {
        let mut tops = self.tree.ids().filter(|&id| self.tree.parent(id) == ROOT);
        let (Some(top), None) = (tops.next(), tops.next()) else {
            return Ok(ROOT);
        };
        if self.rooted || self.tree.kind(top) != EntryKind::Directory {
            return Ok(ROOT);
        }
        // The directory may hold something of its own name, so it gets one that nothing in it has.
        let mut aside = b".flatten".to_vec();
        for number in 0_u64.. {
            if self.tree.find(top, &aside).is_none() {
                break;
            }
            // A number, so that it stays a short one, whatever the archive has.
            aside = format!(".flatten{number}").into_bytes();
        }
        let failed = |errno: Errno| {
            let what = format!("moving '{}' up", visible(self.tree.name(top)));
            unwritten(what, errno.into())
        };
        let root = &self.root;
        rustix::fs::renameat(root, self.tree.name(top), root, &aside).map_err(failed)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let from = rustix::fs::openat(root, &aside, flags, Mode::empty()).map_err(failed)?;
        for id in self.tree.ids() {
            if self.tree.parent(id) == top {
                let name = self.tree.name(id);
                rustix::fs::renameat(&from, name, root, name).map_err(failed)?;
            }
        }
        rustix::fs::unlinkat(root, &aside, AtFlags::REMOVEDIR).map_err(failed)?;
        Ok(top)
    }

    /// Refuses links that leave the release: by the text alone, through each other, and by what the file system says.
    pub(super) fn judge_links(&self, top: Id) -> Result<(), Refusal> {
        let shown = |id| visible(&self.tree.path(top, id));
        let read = |id| {
            let path = self.tree.path(top, id);
            rustix::fs::readlinkat(&self.root, path, Vec::new())
                .map(std::ffi::CString::into_bytes)
                .map_err(|errno| {
                    unwritten(format!("reading the link '{}'", shown(id)), errno.into())
                })
        };
        let mut canonical: Option<PathBuf> = None;
        let links = self.tree.ids();
        for id in links.filter(|&id| self.tree.kind(id) == EntryKind::Symlink) {
            let path = self.tree.path(top, id);
            let target = read(id)?;
            let why = match self.tree.leads(top, id, read)? {
                LinkTarget::Out => Some("leads out of the release"),
                LinkTarget::Around => Some("leads in a circle"),
                LinkTarget::Inside if !stays(&path, &target) => Some("leads out of the release"),
                LinkTarget::Inside => {
                    let root = match &canonical {
                        Some(root) => root,
                        None => canonical.insert(self.release.canonicalize().map_err(|error| {
                            Error::new(format!("finding {}", self.release.display()), error)
                        })?),
                    };
                    // What cannot be found leads nowhere.
                    match fs::canonicalize(root.join(OsStr::from_bytes(&path))) {
                        Ok(found) if !found.starts_with(root) => Some("leads out of the release"),
                        _ => None,
                    }
                }
            };
            if let Some(why) = why {
                let target = visible(&target);
                return Err(bad(format!("'{}': its target '{target}' {why}", shown(id))));
            }
        }
        Ok(())
    }

    /// Gives everything to its owner and the directories their modes, the deepest first: until its parents are open too,
    /// nobody else can reach one that is open already, nor put something else in the place of what is still to be given.
    fn hand_over(&self, top: Id, owner: Option<Owner>) -> Result<(), Refusal> {
        // Children come after their parents in the tree.
        for id in self.tree.ids().rev().chain([ROOT]) {
            let path = match id {
                ROOT => b".".to_vec(),
                // It was flattened away and lives on as the root.
                _ if id == top => continue,
                _ if owner.is_none() && self.tree.kind(id) != EntryKind::Directory => continue,
                _ => self.tree.path(top, id),
            };
            if let Some((user, group)) = owner {
                let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                rustix::fs::chownat(&self.root, &path, Some(user), Some(group), flags).map_err(
                    |errno| {
                        let what = format!("setting the owner of '{}'", visible(&path));
                        unwritten(what, errno.into())
                    },
                )?;
            }
            if let Some(mode) = self.directory_mode(top, id) {
                let mode = Mode::from_raw_mode(mode);
                rustix::fs::chmodat(&self.root, &path, mode, AtFlags::empty()).map_err(
                    |errno| {
                        let what = format!("setting the mode of '{}'", visible(&path));
                        unwritten(what, errno.into())
                    },
                )?;
            }
        }
        Ok(())
    }

    /// The mode that a directory gets; none for the rest, and for a release's own directory that no entry speaks of.
    fn directory_mode(&self, top: Id, id: Id) -> Option<u32> {
        if self.tree.kind(id) != EntryKind::Directory {
            return None;
        }
        match self.tree.mode(if id == ROOT { top } else { id }) {
            Some(mode) => Some(mode | 0o700),
            None if id == ROOT => None,
            // What a path only implies is the same wherever it is unpacked.
            None => Some(0o755),
        }
    }
}
