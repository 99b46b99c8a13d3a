//! What makes another tree of a spare, and whether the spare is as it was. Both are found in one pass through both lists.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering as Memory};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::api::error::Refusal;
use crate::formats::archive::spare::stamps::{Stamp, StampReader};
use crate::formats::archive::supply::{
    BaseTree, ListFile, Supply, open_dir, open_known_list, open_list,
};
use crate::formats::delta::chunk_line::ChunkRef;
use crate::formats::delta::hash::ContentHash;
use crate::formats::delta::listing::{ListedEntry, ListedFile, ListedKind, ListingLimits};
use crate::formats::delta::order;
use crate::system::threads;

/// As many threads look at the spare as a small host has cores.
const LOOKERS: usize = 2;
/// So many entries are looked at together.
const BATCH: usize = 256;
/// The batches on their way: the lists are read about as quickly as the entries are looked at.
const BATCHES: usize = 4;
/// A thread that looks has nothing but a batch.
const STACK: usize = 64 << 10;
/// What differs is kept in memory, a few hundred bytes an entry. Where more does, all is copied.
const CHANGES_MAX: usize = 10_000;

/// A spare, as it lies on disk.
#[derive(Debug, Clone)]
pub struct SpareTree {
    pub dir: PathBuf,
    pub list: PathBuf,
    pub index: PathBuf,
}

impl SpareTree {
    /// As where content comes from.
    pub fn base(&self) -> BaseTree {
        BaseTree {
            dir: self.dir.clone(),
            list: self.list.clone(),
        }
    }
}

/// Why nothing comes of a spare.
#[derive(Debug)]
pub enum Unusable {
    /// The spare is not what it was, or another tree is quicker made otherwise; the reason.
    Spare(String),
    /// The other tree cannot be made at all.
    Tree(Refusal),
}

/// One step from the spare to the other tree.
#[derive(Debug)]
pub(super) enum Change {
    Remove {
        path: Vec<u8>,
        directory: bool,
    },
    Directory {
        path: Vec<u8>,
        mode: u32,
        /// It is to be made.
        fresh: bool,
    },
    Symlink {
        path: Vec<u8>,
        target: Vec<u8>,
    },
    File {
        path: Vec<u8>,
        file: ListedFile,
        /// What is there now.
        old: Option<ListedFile>,
    },
}

/// What makes another tree of a spare.
pub struct Changes {
    /// The other tree.
    pub tree: ContentHash,
    /// Of its files.
    pub bytes: u64,
    pub files: u64,
    /// Where content is that the spare does not have at the same place.
    pub supply: Supply,
    pub(super) steps: Vec<Change>,
    /// A link comes, goes, or leads elsewhere.
    pub(super) links: bool,
}

/// Finds out what makes a tree of a spare, and looks whether the spare is as it was. `known` is the tree of the list, if
/// whoever wrote the list has found it out.
///
/// # Errors
/// Why nothing comes of it.
pub fn changes(
    spare: &SpareTree,
    tree: &str,
    (list, known): (&std::path::Path, Option<ContentHash>),
    limits: ListingLimits,
) -> Result<Changes, Unusable> {
    let unread = |refusal: Refusal| Unusable::Spare(refusal.message);
    let stamps = StampReader::open(&spare.index);
    let stamps = stamps.map_err(|error| Unusable::Spare(error.to_string()))?;
    if stamps.tree != tree {
        return Err(Unusable::Spare("it is of another tree".into()));
    }
    let root = open_dir(&spare.dir).map_err(unread)?;
    let old = open_list(&spare.list, ListingLimits::NONE);
    let mut old = OldTree {
        list: old.map_err(|error| Unusable::Spare(error.to_string()))?,
        stamps,
        batch: Vec::new(),
        next: None,
    };
    let list = match known {
        Some(_) => open_known_list(list, limits),
        None => open_list(list, limits),
    };
    let list = list.map_err(|error| Unusable::Tree(error.into()))?;
    let (send, receive) = bounded(BATCHES);
    let touched = AtomicBool::new(false);
    let found = std::thread::scope(|scope| {
        let mut lookers = 0;
        for n in 0..LOOKERS {
            let look = || look(&root, &receive, &touched);
            lookers +=
                usize::from(threads::spawn_scoped(scope, format!("look-{n}"), STACK, look).is_ok());
        }
        if lookers == 0 {
            return Err(Unusable::Spare(
                "no thread could be made that looks at it".into(),
            ));
        }
        // They end when it is dropped.
        let send = send;
        compare((list, known), &mut old, &send)
    })?;
    if old.list.tree().map(|found| found.to_string()).as_deref() != Some(tree)
        || !old.stamps.ended()
    {
        return Err(Unusable::Spare("its list or its index is damaged".into()));
    }
    match touched.into_inner() {
        true => Err(Unusable::Spare(
            "somebody has changed something in it".into(),
        )),
        false => Ok(found),
    }
}

type Batch = Vec<(Vec<u8>, Stamp)>;

/// Compares entries with their stamps.
fn look(root: &OwnedFd, batches: &Receiver<Batch>, touched: &AtomicBool) {
    for (path, stamp) in batches.iter().flatten() {
        if Stamp::of(root, &path).ok() != Some(stamp) {
            touched.store(true, Memory::Relaxed);
        }
    }
}

/// The spare's list, with the stamps.
struct OldTree {
    list: ListFile,
    stamps: StampReader,
    batch: Batch,
    next: Option<ListedEntry>,
}

impl OldTree {
    /// Goes on to the next entry.
    fn step(&mut self, send: &Sender<Batch>) -> Result<(), Unusable> {
        let next = self
            .list
            .next()
            .map_err(|refusal| Unusable::Spare(refusal.message))?;
        if let Some(entry) = &next {
            let stamp = self.stamps.next();
            let stamp = stamp.ok_or_else(|| Unusable::Spare("its index is too short".into()))?;
            self.batch.push((entry.path.clone(), stamp));
        }
        if self.batch.len() == BATCH || next.is_none() {
            let gone = |_| Unusable::Spare("nobody looks at it any longer".into());
            send.send(std::mem::take(&mut self.batch)).map_err(gone)?;
        }
        self.next = next;
        Ok(())
    }
}

/// What is found while two lists are compared.
#[derive(Default)]
struct ListDifference {
    steps: Vec<Change>,
    wanted: HashSet<ContentHash>,
    files: u64,
    links: bool,
}

fn compare(
    (mut new, known): (ListFile, Option<ContentHash>),
    old: &mut OldTree,
    send: &Sender<Batch>,
) -> Result<Changes, Unusable> {
    let mut found = ListDifference::default();
    old.step(send)?;
    while let Some(entry) = new.next().map_err(Unusable::Tree)? {
        found.files += u64::from(matches!(entry.kind, ListedKind::File(_)));
        loop {
            let Some(before) = &old.next else {
                found.step(None, entry);
                break;
            };
            match order::compare(&before.path, &entry.path) {
                Ordering::Less => {
                    found.gone(before);
                    old.step(send)?;
                }
                Ordering::Equal => {
                    found.step(Some(&before.kind), entry);
                    old.step(send)?;
                    break;
                }
                Ordering::Greater => {
                    found.step(None, entry);
                    break;
                }
            }
        }
        if found.steps.len() > CHANGES_MAX {
            return Err(Unusable::Spare("too much differs".into()));
        }
    }
    while let Some(before) = &old.next {
        found.gone(before);
        old.step(send)?;
    }
    let no_end = || Unusable::Spare("the list has no end".into());
    Ok(Changes {
        tree: known.or_else(|| new.tree()).ok_or_else(no_end)?,
        bytes: new.bytes,
        files: found.files,
        supply: Supply::wanting(found.wanted),
        steps: found.steps,
        links: found.links,
    })
}

impl ListDifference {
    fn gone(&mut self, entry: &ListedEntry) {
        self.links |= matches!(entry.kind, ListedKind::Symlink { .. });
        self.steps.push(Change::Remove {
            path: entry.path.clone(),
            directory: matches!(entry.kind, ListedKind::Directory { .. }),
        });
    }

    /// What makes an entry of what is at its place.
    fn step(&mut self, before: Option<&ListedKind>, entry: ListedEntry) {
        if before == Some(&entry.kind) {
            return;
        }
        let path = entry.path;
        let mut before = before;
        // What becomes something of another kind goes first, and so does a link that leads elsewhere.
        match (before, &entry.kind) {
            (None, _)
            | (Some(ListedKind::Directory { .. }), ListedKind::Directory { .. })
            | (Some(ListedKind::File(_)), ListedKind::File(_)) => {}
            (Some(kind), _) => {
                let kind = kind.clone();
                self.gone(&ListedEntry {
                    path: path.clone(),
                    kind,
                });
                before = None;
            }
        }
        self.steps.push(match entry.kind {
            ListedKind::Directory { mode } => Change::Directory {
                path,
                mode,
                fresh: before.is_none(),
            },
            ListedKind::Symlink { target } => {
                self.links = true;
                Change::Symlink { path, target }
            }
            ListedKind::File(file) => {
                let old = match before {
                    Some(ListedKind::File(old)) => Some(old.clone()),
                    _ => None,
                };
                let new = differing(&file, old.as_ref());
                self.wanted.extend(new.map(|(_, object)| object.hash));
                Change::File { path, file, old }
            }
        });
    }
}

/// The objects of a file that another one does not have at the same place, and where each begins.
pub(super) fn differing<'a>(
    file: &'a ListedFile,
    old: Option<&'a ListedFile>,
) -> impl Iterator<Item = (u64, ChunkRef)> + 'a {
    let placed = |file: &'a ListedFile| {
        file.objects().scan(0, |at, object| {
            let begins = *at;
            *at += u64::from(object.len);
            Some((begins, object))
        })
    };
    let mut before = old.into_iter().flat_map(placed).peekable();
    placed(file).filter(move |(at, object)| {
        while before.next_if(|(old, _)| old < at).is_some() {}
        before.peek() != Some(&(*at, *object))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_at_the_same_place_stays() {
        let file = |chunks: &[(u32, u8)]| {
            let chunk = |(len, byte): &(u32, u8)| ChunkRef {
                len: *len,
                hash: ContentHash([*byte; 32]),
            };
            let size = chunks.iter().map(|(len, _)| u64::from(*len)).sum();
            ListedFile::of_chunks(0o644, size, chunks.iter().map(chunk).collect())
        };
        type Row = (&'static [(u32, u8)], &'static [(u32, u8)], &'static [u64]);
        let table: [Row; 5] = [
            (&[(4, 1), (5, 2)], &[(4, 1), (5, 2)], &[]),
            (&[(4, 1), (5, 2)], &[(4, 1), (5, 3)], &[4]),
            (&[(4, 1), (5, 2)], &[(1, 9), (4, 1), (5, 2)], &[0, 1, 5]),
            (&[(4, 1), (5, 2), (6, 3)], &[(9, 7), (6, 3)], &[0]),
            (&[(4, 1)], &[(4, 1), (1, 1)], &[4]),
        ];
        for (old, new, expected) in table {
            let (old, new) = (file(old), file(new));
            let at: Vec<u64> = differing(&new, Some(&old)).map(|(at, _)| at).collect();
            assert_eq!(at, expected, "{new:?}");
        }
    }
}
