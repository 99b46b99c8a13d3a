//! The wire, shared by both ends: names and ids, events, operations, refusals, and the record of a deployment.

pub mod error;
pub mod event;
pub mod fleet;
pub mod name;
pub mod notice;
pub mod operation;
pub mod output;
pub mod package;
pub mod record;
pub mod source;
