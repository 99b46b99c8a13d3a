//! The options that every client command takes.

use std::path::PathBuf;
use std::time::Duration;

use pico_args::Arguments;

use crate::api::name::Secret;
use crate::cli::arguments::{Usage, value};
use crate::cli::screen::{OutputFormat, Progress};

/// Where to, as whom, and how it is shown. The environment is not looked at yet.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// `--target`, or the word `target=`.
    pub target: Option<String>,
    /// `--token`
    pub token: Option<Secret>,
    /// `--token-file`
    pub token_file: Option<PathBuf>,
    /// `--username`, or the word.
    pub username: Option<String>,
    /// `--password`, or the word.
    pub password: Option<Secret>,
    /// `--ca-cert`
    pub ca_cert: Option<PathBuf>,
    /// The word `rejectUnauthorized=false`.
    pub insecure: bool,
    /// `--output`
    pub output: OutputFormat,
    /// Whether `--output` was given, so that no word changes it.
    pub output_given: bool,
    /// `--progress`
    pub progress: Progress,
    /// `--raw-output`
    pub raw_output: bool,
    /// `--retry-for`
    pub retry_for: Option<Duration>,
}

pub(crate) fn parse(arguments: &mut Arguments) -> Result<ClientOptions, Usage> {
    let output = value::parsed(arguments, "--output", |text| {
        text.parse()
            .map_err(|_| "none of auto, text, json and yaml".to_owned())
    })?;
    let progress = value::parsed(arguments, "--progress", |text| {
        let all = "none of auto, bar, plain, ndjson, github and quiet";
        text.parse().map_err(|_| all.to_owned())
    })?;
    let options = ClientOptions {
        target: value::text(arguments, "--target")?,
        token: value::text(arguments, "--token")?.map(Secret::new),
        token_file: value::path(arguments, "--token-file")?,
        username: value::text(arguments, "--username")?,
        password: value::text(arguments, "--password")?.map(Secret::new),
        ca_cert: value::path(arguments, "--ca-cert")?,
        insecure: false,
        output: output.unwrap_or(OutputFormat::Auto),
        output_given: output.is_some(),
        progress: progress.unwrap_or(Progress::Auto),
        raw_output: arguments.contains("--raw-output"),
        retry_for: value::parsed(arguments, "--retry-for", value::duration)?,
    };
    if options.token.is_some() && options.token_file.is_some() {
        return Err(Usage::new("--token and --token-file cannot go together"));
    }
    Ok(options)
}
