//! What the standard library lacks: child processes, accounts, stopping by disconnect, the log, files, threads, waiting, time.

pub mod account;
pub mod child;
pub mod files;
pub mod hex;
pub mod log;
pub mod paths;
pub mod poll;
pub mod signals;
pub mod stop;
pub mod threads;
pub mod time;
