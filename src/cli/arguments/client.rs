//! The options that every client command takes.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::api::name::Secret;
use crate::cli::arguments::{CommandLine, Usage, value};
use crate::cli::screen::{OutputFormat, Progress};

/// What `gangplank help flags` says.
pub(crate) const FLAGS_HELP: &str = "\
usage: gangplank COMMAND [FLAGS]

Every command that asks a server takes these. Variables are weaker than flags.

  --target URL|NAME     http://h:9925, https://h, unix:/path/to.sock, or a name
                        of `gangplank target`; https and port 9925 if not said.
                        Else GANGPLANK_TARGET, else \"target\" of gangplank.json,
                        else the socket of this machine's root (GANGPLANK_ROOT)
  --token-file F        file that holds the access token, - is stdin; else
                        GANGPLANK_TOKEN, GANGPLANK_TOKEN_FILE
  --token T             the token itself, which others see in the process list
  --username U, --password P
                        the same as name and password
  --ca-cert F           trust the certificates of this PEM file, and only them
  --output KIND         the result on stdout: auto, text, json, yaml
  --progress KIND       on stderr: auto, bar, plain, ndjson, github,
                        gitlab, buildkite, quiet
  --raw-output          control characters of the install output as they are
  --retry-for SECONDS   how long a broken connection is tried again (60); if
                        given, a server never reached is waited for too

HARPER_CLI_TARGET, HARPER_CLI_USERNAME, HARPER_CLI_PASSWORD are read, too, then
the CLI_TARGET family. Variables named for proxies are not used.
";

/// The words by which the help of a command finds them.
pub(crate) const FLAGS_TOPIC: &str = "flags";

/// Where to, as whom, and how it is shown. The environment is not looked at yet.
#[derive(Debug, Clone)]
pub(crate) struct ClientOptions {
    /// `--target`, or the word `target=`.
    pub(crate) target: Option<String>,
    /// It was the word, which names a host to Harper's users.
    pub(crate) target_word: bool,
    /// The directory whose manifest counts; the working directory if none was named.
    pub(crate) dir: Option<PathBuf>,
    /// `--token`
    pub(crate) token: Option<Secret>,
    /// `--token-file`
    pub(crate) token_file: Option<PathBuf>,
    /// `--username`, or the word.
    pub(crate) username: Option<String>,
    /// `--password`, or the word.
    pub(crate) password: Option<Secret>,
    /// `--ca-cert`
    pub(crate) ca_cert: Option<PathBuf>,
    /// The word `rejectUnauthorized=false`.
    pub(crate) insecure: bool,
    /// `--output`
    pub(crate) output: OutputFormat,
    /// Whether `--output` was given, so that no word changes it.
    pub(crate) output_given: bool,
    /// `--progress`
    pub(crate) progress: Progress,
    /// `--raw-output`
    pub(crate) raw_output: bool,
    /// `--retry-for`
    pub(crate) retry_for: Option<Duration>,
}

/// In which forms the result and the errors are wanted, as far as that can be told of words that may be wrong.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Forms {
    pub(crate) output: OutputFormat,
    /// JSON lines if they were asked for, else plain ones.
    pub(crate) progress: Progress,
}

impl Forms {
    /// What these words ask for.
    pub(crate) fn asked(words: &[OsString]) -> Forms {
        let end = words.iter().position(|word| word == "--");
        let words = &words[..end.unwrap_or(words.len())];
        let after = |flag: &str| {
            words.iter().enumerate().find_map(|(at, word)| {
                let word = word.to_str()?;
                match word.strip_prefix(flag)? {
                    "" => words.get(at + 1)?.to_str(),
                    value => value.strip_prefix('='),
                }
            })
        };
        let json = words.iter().any(|word| word == "json=true");
        let output = after("--output").and_then(|word| word.parse().ok());
        let is_ndjson = after("--progress") == Some("ndjson");
        Forms {
            output: output.unwrap_or(if json {
                OutputFormat::Json
            } else {
                OutputFormat::Auto
            }),
            progress: if is_ndjson {
                Progress::Ndjson
            } else {
                Progress::Plain
            },
        }
    }
}

pub(crate) fn parse(line: &mut CommandLine) -> Result<ClientOptions, Usage> {
    let output = value::parsed(line, "--output", str::parse)?;
    let progress = value::parsed(line, "--progress", str::parse)?;
    let options = ClientOptions {
        target: value::text(line, "--target")?,
        target_word: false,
        dir: None,
        token: value::text(line, "--token")?.map(Secret::new),
        token_file: value::path(line, "--token-file")?,
        username: value::text(line, "--username")?,
        password: value::text(line, "--password")?.map(Secret::new),
        ca_cert: value::path(line, "--ca-cert")?,
        insecure: false,
        output: output.unwrap_or(OutputFormat::Auto),
        output_given: output.is_some(),
        progress: progress.unwrap_or(Progress::Auto),
        raw_output: line.contains("--raw-output"),
        retry_for: value::parsed(line, "--retry-for", value::duration)?,
    };
    if options.token.is_some() && options.token_file.is_some() {
        return Err(Usage::new("--token and --token-file cannot go together"));
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_known_of_words_that_are_wrong() {
        use OutputFormat::{Auto, Json, Yaml};
        use Progress::{Ndjson, Plain};
        let table: [(&[&str], OutputFormat, Progress); 8] = [
            (&["deploy", "--wat"], Auto, Plain),
            (&["deploy", "--wat", "--output", "json"], Json, Plain),
            (&["--output=yaml", "--progress=ndjson"], Yaml, Ndjson),
            (&["--progress", "ndjson", "--output"], Auto, Ndjson),
            (&["--output", "xml"], Auto, Plain),
            (&["json=true", "--wat"], Json, Plain),
            (&["json=true", "--output", "yaml"], Yaml, Plain),
            (&["run", "x", "--", "--output", "json"], Auto, Plain),
        ];
        for (words, output, progress) in table {
            let asked: Vec<OsString> = words.iter().map(OsString::from).collect();
            assert_eq!(
                Forms::asked(&asked),
                Forms { output, progress },
                "{words:?}"
            );
        }
    }
}
