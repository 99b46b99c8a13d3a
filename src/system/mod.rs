//! What the standard library lacks: child processes, accounts, stopping by disconnect, files, the log, and where a root is.

pub mod account;
pub mod child;
pub mod files;
pub mod log;
pub mod paths;
pub mod signals;
pub mod stop;
