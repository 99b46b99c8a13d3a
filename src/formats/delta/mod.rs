//! What of a tree another one lacks: [`listing`] says what is in a tree and gives it its identity, [`chunk`] cuts large
//! files where their content says so, and [`records`] is the payload that brings what is missing.
//!
//! | file | what for |
//! | --- | --- |
//! | `hash` | the SHA-256 of a content or a tree |
//! | `chunk` | where a large file is cut |
//! | `chunk_line` | the chunks of a large file, as text |
//! | `content` | what a list says of a file, out of its content |
//! | `listing` | the entries of a tree, in order, as text |
//! | `difference` | what of a list is another than in an older one |
//! | `order` | the order of paths, and the directories on the way |
//! | `records` | the head of a delta and the objects behind it |
//! | `ranges` | which of the objects of a tree, by their numbers |

pub mod chunk;
pub mod chunk_line;
pub mod content;
pub mod difference;
pub mod hash;
pub mod listing;
pub mod order;
pub mod ranges;
pub mod records;
