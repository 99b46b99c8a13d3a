//! What of a directory is sent, entry by entry in the order of [`order`](crate::formats::delta::order): a tree of any size
//! takes little memory.

use std::io::{self, BufReader, Read, Write};

use crate::formats::archive::spool::{Spool, SpoolReader};

/// What a file system says of a file that tells whether it is the one that it was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FileStamp {
    /// Nanoseconds since 1970.
    pub changed: i64,
    /// Of the inode: nobody can put this one back.
    pub inode_changed: i64,
    pub inode: u64,
    pub device: u64,
}

pub(super) struct PackItem {
    /// Relative to the root.
    pub(super) path: Vec<u8>,
    pub(super) mode: u32,
    pub(super) what: PackKind,
    /// A file's.
    pub(super) stamp: FileStamp,
    /// It is a file that was looked into, and holds no secret.
    pub(super) harmless: bool,
}

pub(super) enum PackKind {
    Directory,
    File(u64),
    Symlink(Box<[u8]>),
}

/// The numbers before the path: kind, whether it is harmless, mode, size, stamp, and two lengths.
const HEAD: usize = 1 + 1 + 4 + 8 + 4 * 8 + 2 + 2;

#[derive(Default)]
pub(super) struct Planned {
    spool: Spool,
    pub(super) files: usize,
    entries: u64,
}

impl Planned {
    /// # Errors
    /// The disk's own.
    pub(super) fn push(&mut self, item: &PackItem) -> io::Result<()> {
        let (kind, size, target) = match &item.what {
            PackKind::Directory => (0, 0, &[][..]),
            PackKind::File(size) => (1, *size, &[][..]),
            PackKind::Symlink(target) => (2, 0, &target[..]),
        };
        self.files += usize::from(kind == 1);
        self.entries += 1;
        let mut head = Vec::with_capacity(HEAD);
        let stamp = &item.stamp;
        head.push(kind);
        head.push(u8::from(item.harmless));
        head.extend_from_slice(&item.mode.to_ne_bytes());
        head.extend_from_slice(&size.to_ne_bytes());
        head.extend_from_slice(&stamp.changed.to_ne_bytes());
        head.extend_from_slice(&stamp.inode_changed.to_ne_bytes());
        head.extend_from_slice(&stamp.inode.to_ne_bytes());
        head.extend_from_slice(&stamp.device.to_ne_bytes());
        for text in [&item.path[..], target] {
            let len = u16::try_from(text.len()).map_err(io::Error::other)?;
            head.extend_from_slice(&len.to_ne_bytes());
        }
        self.spool.write_all(&head)?;
        self.spool.write_all(&item.path)?;
        self.spool.write_all(target)
    }

    /// How many entries there are, and a bound of the bytes of all their names.
    pub(super) fn extent(&self) -> (u64, u64) {
        (self.entries, self.spool.len())
    }

    pub(super) fn items(&self) -> PlannedItems<'_> {
        PlannedItems {
            left: self.spool.len(),
            from: self.spool.reader(),
        }
    }
}

/// Goes through a plan.
pub(super) struct PlannedItems<'a> {
    from: BufReader<SpoolReader<&'a Spool>>,
    left: u64,
}

impl PlannedItems<'_> {
    fn read<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.from.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn item(&mut self) -> io::Result<PackItem> {
        let [kind, harmless] = self.read()?;
        let mode = u32::from_ne_bytes(self.read()?);
        let size = u64::from_ne_bytes(self.read()?);
        let stamp = FileStamp {
            changed: i64::from_ne_bytes(self.read()?),
            inode_changed: i64::from_ne_bytes(self.read()?),
            inode: u64::from_ne_bytes(self.read()?),
            device: u64::from_ne_bytes(self.read()?),
        };
        let path_len = u16::from_ne_bytes(self.read()?);
        let target_len = u16::from_ne_bytes(self.read()?);
        let mut path = vec![0; usize::from(path_len)];
        self.from.read_exact(&mut path)?;
        let mut target = vec![0; usize::from(target_len)];
        self.from.read_exact(&mut target)?;
        self.left -= (HEAD + path.len() + target.len()) as u64;
        let what = match kind {
            0 => PackKind::Directory,
            1 => PackKind::File(size),
            _ => PackKind::Symlink(target.into()),
        };
        Ok(PackItem {
            path,
            mode,
            what,
            stamp,
            harmless: harmless != 0,
        })
    }
}

impl Iterator for PlannedItems<'_> {
    type Item = io::Result<PackItem>;

    fn next(&mut self) -> Option<io::Result<PackItem>> {
        (self.left > 0).then(|| self.item())
    }
}
