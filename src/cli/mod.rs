//! The command line: its arguments, a command for each operation, and the screen.

pub mod arguments;
pub mod commands;
pub mod screen;
