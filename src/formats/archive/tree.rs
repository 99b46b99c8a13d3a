//! What an archive has made so far, as a compact tree: about 12 bytes an entry beside its own name's, plus a hash table of
//! indices, so that a million entries stay in tens of megabytes. It answers exactly (names are compared, not only hashes)
//! and its hash is keyed, so that no archive can make it slow.

use std::hash::{BuildHasher, RandomState};

use crate::api::error::{Code, Refusal};

/// An entry of the tree.
pub(super) type Id = u32;

/// The archive's own root.
pub(super) const ROOT: Id = 0;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EntryKind {
    Directory,
    File,
    Symlink,
}

#[derive(Clone, Copy)]
struct Node {
    parent: Id,
    name: u32,
    /// The permission bits that the archive gave, and [`GIVEN`] if it gave any; only directories need them later on.
    mode: u16,
    len: u8,
    kind: EntryKind,
}

/// Marks that a mode was given: without it a mode of 0 could not be told from none.
const GIVEN: u16 = 0x8000;

/// No entry: an empty place of the table.
const NONE: u32 = u32::MAX;

/// The longest name of one component: what Linux's file systems take, and what fits `Node::len`.
pub(super) const LONGEST_NAME: usize = 255;

/// How many links the kernel goes through before it gives up.
const LINKS_FOLLOWED: u32 = 40;

/// Where a symlink leads.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LinkTarget {
    /// To something inside, or to nothing.
    Inside,
    /// Out of the tree.
    Out,
    /// In a circle, or through more links than the kernel follows.
    Around,
}

/// The entries made so far.
pub(super) struct Tree {
    nodes: Vec<Node>,
    names: Vec<u8>,
    table: Vec<u32>,
    keys: RandomState,
}

impl Tree {
    pub(super) fn new() -> Tree {
        let root = Node {
            parent: ROOT,
            name: 0,
            mode: 0,
            len: 0,
            kind: EntryKind::Directory,
        };
        Tree {
            nodes: vec![root],
            names: Vec::new(),
            table: vec![NONE; 64],
            keys: RandomState::new(),
        }
    }

    /// How many entries there are, those included that were only implied by a path, without the root.
    pub(super) fn len(&self) -> u64 {
        self.nodes.len() as u64 - 1
    }

    pub(super) fn kind(&self, id: Id) -> EntryKind {
        self.nodes[id as usize].kind
    }

    pub(super) fn parent(&self, id: Id) -> Id {
        self.nodes[id as usize].parent
    }

    pub(super) fn name(&self, id: Id) -> &[u8] {
        let node = &self.nodes[id as usize];
        let start = node.name as usize;
        &self.names[start..start + usize::from(node.len)]
    }

    /// The mode that the archive gave, if it gave one.
    pub(super) fn mode(&self, id: Id) -> Option<u32> {
        let mode = self.nodes[id as usize].mode;
        (mode & GIVEN != 0).then(|| u32::from(mode & !GIVEN))
    }

    pub(super) fn set_mode(&mut self, id: Id, mode: u32) {
        // Only nine bits are ever kept, so the conversion is exact.
        self.nodes[id as usize].mode = (mode & 0o777) as u16 | GIVEN;
    }

    /// All entries but the root, in the order in which they were made: parents before their children.
    pub(super) fn ids(&self) -> impl DoubleEndedIterator<Item = Id> + use<> {
        // `insert` keeps the number of nodes below `NONE`.
        1..self.nodes.len() as u32
    }

    /// The path of an entry below `top`, which must be one of its parents.
    pub(super) fn path(&self, top: Id, id: Id) -> Vec<u8> {
        let mut chain = Vec::new();
        let mut at = id;
        while at != top && at != ROOT {
            chain.push(at);
            at = self.parent(at);
        }
        let mut path = Vec::new();
        for &id in chain.iter().rev() {
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(self.name(id));
        }
        path
    }

    pub(super) fn find(&self, parent: Id, name: &[u8]) -> Option<Id> {
        match self.table[self.place(parent, name)] {
            NONE => None,
            id => Some(id),
        }
    }

    /// Adds an entry that is not there yet. The name has at most [`LONGEST_NAME`] bytes.
    pub(super) fn insert(
        &mut self,
        parent: Id,
        name: &[u8],
        kind: EntryKind,
    ) -> Result<Id, Refusal> {
        let full = || Refusal::new(Code::BadArchive, "the archive has too many names");
        let id = u32::try_from(self.nodes.len()).map_err(|_| full())?;
        let start = u32::try_from(self.names.len()).map_err(|_| full())?;
        let len = u8::try_from(name.len()).map_err(|_| full())?;
        if id == NONE {
            return Err(full());
        }
        // Three quarters full is where probing gets long.
        if self.nodes.len() * 4 >= self.table.len() * 3 {
            self.grow();
        }
        let place = self.place(parent, name);
        self.table[place] = id;
        self.names.extend_from_slice(name);
        self.nodes.push(Node {
            parent,
            name: start,
            mode: 0,
            len,
            kind,
        });
        Ok(id)
    }

    /// Where `link` leads if `top` is the root and `target` reads a symlink's target: component by component as the kernel
    /// would go, through other links too, and lexically on where nothing is, because something may come there later.
    pub(super) fn leads<E>(
        &self,
        top: Id,
        link: Id,
        mut target: impl FnMut(Id) -> Result<Vec<u8>, E>,
    ) -> Result<LinkTarget, E> {
        let mut at = Vec::new();
        let mut parent = self.parent(link);
        while parent != top && parent != ROOT {
            at.push(Some(parent));
            parent = self.parent(parent);
        }
        at.reverse();
        let mut todo = Vec::new();
        push_components(&mut todo, &target(link)?);
        let mut followed = 0;
        while let Some(component) = todo.pop() {
            if component == b".." {
                if at.pop().is_none() {
                    return Ok(LinkTarget::Out);
                }
                continue;
            }
            let here = at.last().copied().unwrap_or(Some(top));
            let child = here.and_then(|id| self.find(id, &component));
            match child {
                Some(id) if self.kind(id) == EntryKind::Symlink => {
                    followed += 1;
                    if followed > LINKS_FOLLOWED {
                        return Ok(LinkTarget::Around);
                    }
                    push_components(&mut todo, &target(id)?);
                }
                other => at.push(other),
            }
        }
        Ok(LinkTarget::Inside)
    }

    /// Where the entry is in the table, or where it would be put.
    fn place(&self, parent: Id, name: &[u8]) -> usize {
        // The table's length is a power of two.
        let mask = self.table.len() - 1;
        let mut place = self.keys.hash_one((parent, name)) as usize & mask;
        loop {
            match self.table[place] {
                NONE => return place,
                id if self.parent(id) == parent && self.name(id) == name => return place,
                _ => place = (place + 1) & mask,
            }
        }
    }

    fn grow(&mut self) {
        self.table = vec![NONE; self.table.len() * 2];
        for id in self.ids() {
            let place = self.place(self.parent(id), self.name(id));
            self.table[place] = id;
        }
    }
}

/// Puts the components of a target on the stack, the first one on top.
fn push_components(todo: &mut Vec<Vec<u8>>, target: &[u8]) {
    let components = target.split(|&byte| byte == b'/').rev();
    todo.extend(
        components
            .filter(|component| !matches!(*component, b"" | b"."))
            .map(<[u8]>::to_vec),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::convert::Infallible;

    #[test]
    fn what_was_put_in_is_found_at_any_size() {
        let mut tree = Tree::new();
        let directory = tree.insert(ROOT, b"d", EntryKind::Directory).unwrap();
        for number in 0..10_000 {
            let name = format!("f{number}");
            tree.insert(directory, name.as_bytes(), EntryKind::File)
                .unwrap();
        }
        assert_eq!(tree.len(), 10_001);
        let id = tree.find(directory, b"f9999").unwrap();
        assert_eq!(tree.path(ROOT, id), b"d/f9999");
        assert_eq!(tree.path(directory, id), b"f9999");
        assert_eq!(
            (tree.find(ROOT, b"f9999"), tree.find(directory, b"")),
            (None, None)
        );
        assert_eq!(tree.mode(id), None);
        tree.set_mode(id, 0o4000);
        assert_eq!(tree.mode(id), Some(0));
        assert_eq!(
            std::mem::size_of::<Node>(),
            12,
            "a million entries are to stay small"
        );
    }

    /// A tree of directories (`d/`), files and links (`name -> target`), and where its last link leads from `top`.
    fn leads(top: &str, entries: &[&str]) -> LinkTarget {
        let mut tree = Tree::new();
        let mut targets = HashMap::new();
        let mut last = ROOT;
        for entry in entries {
            let (path, target) = entry
                .split_once(" -> ")
                .map_or((*entry, None), |(path, target)| (path, Some(target)));
            let mut at = ROOT;
            let parts: Vec<_> = path.trim_end_matches('/').split('/').collect();
            for (index, part) in parts.iter().enumerate() {
                let kind = match target {
                    Some(_) if index + 1 == parts.len() => EntryKind::Symlink,
                    None if index + 1 == parts.len() && !path.ends_with('/') => EntryKind::File,
                    _ => EntryKind::Directory,
                };
                at = tree
                    .find(at, part.as_bytes())
                    .unwrap_or_else(|| tree.insert(at, part.as_bytes(), kind).unwrap());
            }
            if let Some(target) = target {
                targets.insert(at, target.as_bytes().to_vec());
                last = at;
            }
        }
        let top = if top.is_empty() {
            ROOT
        } else {
            tree.find(ROOT, top.as_bytes()).unwrap()
        };
        let judged = tree.leads(top, last, |id| Ok::<_, Infallible>(targets[&id].clone()));
        let Ok(judged) = judged;
        judged
    }

    #[test]
    fn links_are_followed_as_the_kernel_would() {
        let table: [(&str, &[&str], LinkTarget); 15] = [
            ("", &["a -> b"], LinkTarget::Inside),
            ("", &["a -> ."], LinkTarget::Inside),
            ("", &["a -> .."], LinkTarget::Out),
            ("", &["d/a -> .."], LinkTarget::Inside),
            ("", &["d/a -> ../.."], LinkTarget::Out),
            ("", &["d/a -> .././x/../../d/a"], LinkTarget::Out),
            ("", &["a -> gone/../.."], LinkTarget::Out),
            ("", &["a -> gone/deep/../.."], LinkTarget::Inside),
            // The name alone looks harmless; through the other link it leads out.
            (
                "",
                &["a/b/up -> ../..", "x -> a/b/up/../outside"],
                LinkTarget::Out,
            ),
            (
                "",
                &["a/b/up -> ../..", "x -> a/b/up/a"],
                LinkTarget::Inside,
            ),
            ("", &["f", "x -> f/../.."], LinkTarget::Out),
            ("", &["a -> a"], LinkTarget::Around),
            ("", &["a -> b", "b -> a"], LinkTarget::Around),
            // Flattened, the directory above is not there any longer.
            ("p", &["p/d/", "p/a -> d"], LinkTarget::Inside),
            ("p", &["p/d/", "p/a -> ../p/d"], LinkTarget::Out),
        ];
        for (top, entries, expected) in table {
            assert_eq!(leads(top, entries), expected, "{entries:?}");
        }
    }
}
