//! The wire, shared by both ends: names and ids, events, operations, refusals, the record of a deployment, and the
//! description of it all.

pub mod error;
pub mod event;
pub mod fleet;
pub mod json;
pub mod name;
pub mod notice;
pub mod openapi;
pub mod operation;
pub mod output;
pub mod package;
pub mod record;
pub mod source;
