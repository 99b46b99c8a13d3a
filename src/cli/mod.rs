//! The command line: its arguments, a command for each operation, and the screen.

mod arguments;
pub(crate) mod commands;
pub(crate) mod screen;
mod session;
