//! What the standard library lacks: child processes, accounts, stopping by disconnect, the log, files, trees, sockets, threads,
//! waiting, time, and what the system says of its host.

pub mod account;
pub mod child;
pub mod directory;
pub mod files;
pub mod hex;
pub mod host;
pub mod jitter;
pub mod kernel;
pub mod latch;
pub mod log;
pub mod memory;
pub mod nearest;
pub mod notify;
pub mod passing;
pub mod paths;
pub mod poll;
pub mod signals;
pub mod socket;
pub mod stop;
pub mod threads;
pub mod time;
pub mod trees;
