//! The wire, shared by both ends: names and ids, events, operations, refusals, and the record of a deployment.

pub mod error;
pub mod event;
// The hosts and the leader of a rollout read and write these documents; what is not used yet comes with them.
#[allow(dead_code, unused_imports)]
pub mod fleet;
pub mod name;
pub mod notice;
pub mod operation;
pub mod output;
pub mod package;
pub mod record;
pub mod source;
