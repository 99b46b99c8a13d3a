//! gangplank.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod archive;
pub mod attempt;
pub mod child;
pub mod cli;
pub mod client;
pub mod deploy;
pub mod error;
pub mod event;
pub mod http;
pub mod install;
pub mod journal;
pub mod log;
pub mod manifest;
pub mod multipart;
pub mod name;
pub mod operation;
pub mod place;
pub mod record;
pub mod recover;
pub mod retain;
pub mod screen;
pub mod serve;
pub mod sse;
pub mod stop;
pub mod store;
pub mod tokens;
pub mod user;
pub mod worker;

/// Runs the program.
pub fn run() -> std::process::ExitCode {
    match user::start(std::env::args_os().skip(1).collect()) {
        user::Next::End(exit) => exit.into(),
        user::Next::Serve(options) => match serve::serve(&options) {
            Ok(()) => error::Exit::Success.into(),
            Err(error) => {
                log::error(&error.to_string());
                error::Exit::Refused.into()
            }
        },
    }
}
