//! Formats, without knowledge of what they are for: archives, differences of trees, env files, ignore rules, multipart forms, Server-Sent Events.

pub mod archive;
pub mod cbor;
pub mod delta;
pub mod dotenv;
pub mod hmac;
pub mod ignore;
pub mod multipart;
pub mod signature;
pub mod sse;
