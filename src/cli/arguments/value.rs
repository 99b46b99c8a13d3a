//! Values: of flags, with the flag named in every refusal, and of Harper's `key=value` words.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use crate::api::name::{DeploymentId, Project, Secret};
use crate::api::operation::{Fields, ForPeers, Restart, typed};
use crate::api::source;
use crate::cli::arguments::{ClientOptions, CommandLine, Usage, finish_words, leftover};
use crate::cli::screen::OutputFormat;
use crate::system::time;

/// The one argument that a command takes, which cannot be left out.
pub(crate) fn one<T>(what: &str, line: CommandLine, read: Read<T>) -> Result<T, Usage> {
    let one = at_most_one(what, line, read)?;
    one.ok_or_else(|| Usage::new(format!("{what} is missing")))
}

pub(crate) fn at_most_one<T>(
    what: &str,
    line: CommandLine,
    read: Read<T>,
) -> Result<Option<T>, Usage> {
    let mut rest = finish_words(line)?.into_iter();
    let Some(word) = rest.next() else {
        return Ok(None);
    };
    if let Some(more) = rest.next() {
        return Err(leftover(&more));
    }
    let word = word.into_string().map_err(|word| leftover(&word))?;
    named(what, &word, read).map(Some)
}

type Read<T> = fn(&str) -> Result<T, String>;

pub(crate) fn word(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

/// A deployment, as somebody asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DeploymentWord {
    /// By its whole id.
    Id(DeploymentId),
    /// By the beginning of its id, as the newest of all, or as the newest of a component.
    Other(String),
}

/// The newest deployment.
pub(crate) const LATEST: &str = "latest";

/// The shortest beginning of an id: the ids of a minute begin alike with so many digits.
const BEGINNING_MIN: usize = 8;

pub(crate) fn deployment(text: &str) -> Result<DeploymentWord, String> {
    if let Ok(id) = text.parse() {
        return Ok(DeploymentWord::Id(id));
    }
    // What is the beginning of an id could be the name of a component too.
    match text.parse::<Project>() {
        Ok(_) => Ok(DeploymentWord::Other(text.to_owned())),
        Err(_) => Err(format!(
            "neither a deployment's id or its first {BEGINNING_MIN} characters or more, nor `{LATEST}`, nor a component"
        )),
    }
}

/// The digits of a word that can be the beginning of an id.
pub(crate) fn beginning(word: &str) -> Option<String> {
    let is_part = |byte: u8| byte.is_ascii_hexdigit() || byte == b'-';
    let digits = word.replace('-', "").to_ascii_lowercase();
    (word.bytes().all(is_part) && digits.len() >= BEGINNING_MIN).then_some(digits)
}

pub(crate) fn project(text: &str) -> Result<Project, String> {
    text.parse().map_err(|_| {
        "not a component name (letters, digits, '-' and '_', at most 63, the first one a letter or a digit)".into()
    })
}

/// A flag's text, after a space or an equals sign.
pub(crate) fn text(
    arguments: &mut CommandLine,
    flag: &'static str,
) -> Result<Option<String>, Usage> {
    let value = arguments.opt_value_from_fn(flag, |value| Ok::<_, String>(value.to_owned()));
    match value {
        Ok(Some(value)) if value.is_empty() => Err(Usage::new(format!("{flag} needs a value"))),
        Ok(value) => Ok(value),
        Err(pico_args::Error::NonUtf8Argument) => {
            Err(Usage::new(format!("the value of {flag} is not UTF-8")))
        }
        Err(_) => Err(Usage::new(format!("{flag} needs a value"))),
    }
}

/// `--message`: why.
pub(crate) fn message(arguments: &mut CommandLine) -> Result<Option<String>, Usage> {
    let text = text(arguments, "--message")?;
    let message = text.map(|text| source::message(&text)).transpose();
    Ok(message.map_err(Usage::new)?.flatten())
}

/// Whether the peers do it, too.
pub(crate) fn for_peers(arguments: &mut CommandLine) -> ForPeers {
    ForPeers {
        replicated: arguments.contains("--replicated"),
        ignores: arguments.contains("--ignore-replication-errors"),
    }
}

/// A flag's path, which need not be UTF-8 after a space.
pub(crate) fn path(
    arguments: &mut CommandLine,
    flag: &'static str,
) -> Result<Option<PathBuf>, Usage> {
    let bytes = |value: &OsStr| Ok::<_, String>(PathBuf::from(value));
    match text(&mut arguments.clone(), flag) {
        Ok(_) => Ok(text(arguments, flag)?.map(PathBuf::from)),
        Err(refused) => match arguments.opt_value_from_os_str(flag, bytes) {
            Ok(Some(path)) if !path.as_os_str().is_empty() => Ok(Some(path)),
            _ => Err(refused),
        },
    }
}

/// `--restart`, alone or with its value after an equals sign, or `--no-restart`: what follows it is never its value.
pub(crate) fn restart(arguments: &mut CommandLine) -> Result<Option<Restart>, Usage> {
    let alone = arguments.contains("--restart");
    let valued = parsed(arguments, "--restart", |text| match text {
        "true" => Ok(Restart::Immediate),
        "false" => Ok(Restart::No),
        "rolling" => Ok(Restart::Rolling),
        "auto" => Ok(Restart::Auto),
        _ => Err("expected true, false, rolling or auto".to_owned()),
    })?;
    if arguments.contains("--no-restart") {
        return match alone || valued.is_some() {
            true => Err(Usage::new("--restart and --no-restart cannot go together")),
            false => Ok(Some(Restart::No)),
        };
    }
    if alone && valued.is_some() {
        return Err(Usage::new("the flag --restart was given twice"));
    }
    Ok(valued.or(alone.then_some(Restart::Immediate)))
}

/// A flag's value, read by a function whose error says what it should be.
pub(crate) fn parsed<T>(
    arguments: &mut CommandLine,
    flag: &'static str,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, Usage> {
    let value = text(arguments, flag)?;
    value.map(|value| named(flag, &value, &read)).transpose()
}

/// Reads a value and names where it came from if it makes no sense.
pub(crate) fn named<T>(
    name: &str,
    value: &str,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<T, Usage> {
    read(value).map_err(|why| Usage::new(format!("{name} {value:?}: {why}")))
}

/// A whole number.
pub(crate) fn number(text: &str) -> Result<u64, String> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(number) if digits => Ok(number),
        _ => Err("not a whole number from 0 up".into()),
    }
}

/// A whole number that is not 0.
pub(crate) fn count(text: &str) -> Result<usize, String> {
    match number(text)
        .ok()
        .and_then(|number| usize::try_from(number).ok())
    {
        Some(number) if number > 0 => Ok(number),
        _ => Err("not a whole number from 1 up".into()),
    }
}

/// A size in bytes, `K`, `M` and `G` by 1024.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let (digits, factor) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 1 << 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 1 << 20),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    let size = number(digits)
        .ok()
        .and_then(|number| number.checked_mul(factor));
    size.ok_or_else(|| "not a size such as 1048576, 1024K, 64M or 2G".into())
}

/// A size that is not 0.
pub(crate) fn some_bytes(text: &str) -> Result<u64, String> {
    match bytes(text)? {
        0 => Err("must be above 0".into()),
        size => Ok(size),
    }
}

/// A time: `30s`, `5m`, `2h`, or a number of seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    time::duration(text).ok_or_else(|| "not a time such as 30, 30s, 5m or 2h".into())
}

/// A time that is not 0.
pub(crate) fn some_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("must be above 0".into()),
        time => Ok(time),
    }
}

/// `key=value` words.
pub(crate) type Words = Vec<(String, String)>;

/// Parts `key=value` words from the rest. `./a=b` is a path, since no key has a slash.
pub(crate) fn split(words: Vec<OsString>) -> Result<(Words, Vec<OsString>), Usage> {
    let (mut pairs, mut rest) = (Vec::new(), Vec::new());
    for word in words {
        let Some(key) = key_of(&word) else {
            rest.push(word);
            continue;
        };
        let key = key.to_owned();
        match word.into_string() {
            Ok(text) => pairs.push((key.clone(), text[key.len() + 1..].to_owned())),
            Err(_) => return Err(Usage::new(format!("the value of {key} is not UTF-8"))),
        }
    }
    Ok((pairs, rest))
}

fn key_of(word: &OsStr) -> Option<&str> {
    let bytes = word.as_encoded_bytes();
    let end = bytes.iter().position(|byte| *byte == b'=')?;
    let key = std::str::from_utf8(&bytes[..end]).ok()?;
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    (!key.is_empty() && key.bytes().all(fits)).then_some(key)
}

/// What the words say about packing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PackingWords {
    pub(crate) skip_node_modules: Option<bool>,
    pub(crate) skip_symlinks: Option<bool>,
}

impl PackingWords {
    pub(crate) fn any(self) -> bool {
        self.skip_node_modules.is_some() || self.skip_symlinks.is_some()
    }
}

/// Adds the words to the fields of an operation, but for those that Harper's CLI keeps for itself: they are weaker than
/// the flags that mean the same.
pub(crate) fn add(
    words: Words,
    fields: &mut Fields,
    options: &mut ClientOptions,
) -> Result<PackingWords, Usage> {
    let mut packing = PackingWords::default();
    for (key, value) in words {
        match key.as_str() {
            "target" => {
                options.target_word |= options.target.is_none();
                options.target.get_or_insert(value);
            }
            "username" => {
                options.username.get_or_insert(value);
            }
            "password" => {
                options.password.get_or_insert(Secret::new(value));
            }
            "rejectUnauthorized" => options.insecure = !boolean(&key, &value)?,
            "json" => {
                if boolean(&key, &value)? && !options.output_given {
                    options.output = OutputFormat::Json;
                }
            }
            "skip_node_modules" => packing.skip_node_modules = Some(boolean(&key, &value)?),
            "skip_symlinks" => packing.skip_symlinks = Some(boolean(&key, &value)?),
            "operation" => {
                return Err(Usage::new(
                    "operation=... cannot be given: the command says it",
                ));
            }
            _ => {
                let value = typed(&key, &value);
                if fields.insert(key.clone(), value).is_some() {
                    return Err(Usage::new(format!("{key}= was given twice")));
                }
            }
        }
    }
    Ok(packing)
}

fn boolean(key: &str, value: &str) -> Result<bool, Usage> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(Usage::new(format!("{key}={value}: neither true nor false"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployment_by_a_word() {
        let id = "01976e6c-1c2b-7000-8000-000000000000";
        assert_eq!(deployment(id), Ok(DeploymentWord::Id(id.parse().unwrap())));
        let table = [
            ("01976e6c", Some("01976e6c")),
            ("01976e6c-1c2b", Some("01976e6c1c2b")),
            ("01976E6C1C", Some("01976e6c1c")),
            ("01976e6", None),
            ("0197-6e6", None),
            ("0197-6e6c", Some("01976e6c")),
            ("deadbeef", Some("deadbeef")),
            ("latest", None),
            ("my-app", None),
        ];
        for (word, digits) in table {
            assert_eq!(deployment(word), Ok(DeploymentWord::Other(word.into())));
            assert_eq!(beginning(word).as_deref(), digits, "{word}");
        }
        for word in ["", "a.b", "-a", "a b", &"a".repeat(64)] {
            assert!(
                deployment(word).unwrap_err().contains("nor a component"),
                "{word}"
            );
        }
    }
}
