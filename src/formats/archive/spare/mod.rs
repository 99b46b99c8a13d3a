//! A spare: a private copy of a tree that nobody but the server has touched. It is made when nobody waits ([`copy_tree`]);
//! the next version of the tree is then made of it by changing only what differs ([`changes`](fn@changes), [`Changes::apply`](changes::Changes::apply)).
//!
//! That nobody has touched it is told by the stamp of each of its entries, which its index has in the order of the
//! list. Contents are not read again.
//!
//! | file | what for |
//! | --- | --- |
//! | `stamps` | the stamps of a tree, on disk |
//! | `copy` | the making of a spare |
//! | `changes` | what makes another tree of it, and whether it is as it was |
//! | `patch` | the making of the other tree |
//! | `content` | the new content of a file |
//! | `loose` | the copy of a tree that has no list |

mod changes;
mod content;
mod copy;
mod loose;
mod patch;
mod stamps;

pub use changes::{SpareTree, Unusable, changes};
pub use copy::{CopyEnd, copy_tree};
pub use loose::{LooseCopy, stamp_entries};
pub use patch::PatchSources;
pub use stamps::{has_tree, stamp_tree, stamped_tree};
