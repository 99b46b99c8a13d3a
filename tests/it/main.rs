//! The integration tests: the real binary, driven over real sockets.
#![allow(clippy::unwrap_used)]

mod cli;
mod clients;
mod deploy;
mod events;
mod harbor;
mod lifecycle;
mod refuse;
mod serve;
mod tidy;
