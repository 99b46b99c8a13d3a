//! The command line: its arguments, what it reads first, a command for each operation, and the screen.

mod arguments;
pub(crate) mod commands;
mod config;
pub(crate) mod screen;
mod session;
