//! Formats, without knowledge of what they are for: archives, multipart forms, Server-Sent Events.

pub mod archive;
pub mod multipart;
pub mod sse;
