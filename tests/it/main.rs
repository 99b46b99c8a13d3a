//! The integration tests: the real binary, driven over real sockets.
// A test panics where something is not as it should be, tells what it saw, and has its cases in tables.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::type_complexity)]

mod archive;
mod browser;
mod ci_commands;
mod cli;
mod clients;
mod crash;
mod damage;
mod deploy;
mod env;
mod events;
mod flood;
mod history;
mod inject;
mod lifecycle;
mod list;
mod needs;
mod old_kernel;
mod packing;
mod peers;
mod power;
mod processes;
mod provenance;
mod proxy;
mod reattach;
mod recipes;
mod refuse;
mod release;
mod run_as;
mod serve;
mod service;
mod shared;
mod small;
mod smuggle;
mod soak;
mod stop_start;
mod strangers;
mod switch;
mod sync;
mod target;
mod test_server;
mod tidy;
mod tls;
mod upset;
mod what_runs;
