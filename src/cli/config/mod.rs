//! What the client reads before it asks anybody: the directory's own manifest, the targets of this user, and tokens.

pub(crate) mod manifest;
pub(crate) mod targets;
pub(crate) mod token;
