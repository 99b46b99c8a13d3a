//! gangplank.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod error;
pub mod event;
pub mod journal;
pub mod log;
pub mod name;
pub mod operation;
pub mod record;
pub mod stop;
pub mod store;
pub mod tokens;

/// Runs the program.
pub fn run() -> std::process::ExitCode {
    error::Exit::Success.into()
}
