//! Words of the command line to values, for all commands: what they share.
//!
//! Whatever is not understood is refused and named: an unknown flag with the nearest known one, a flag given twice, a
//! leftover argument, a value that makes no sense. No value of a secret is ever named. Nothing is looked up here but the
//! environment that is handed in.

mod client;
pub(crate) mod value;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::ops::{Deref, DerefMut};

use pico_args::Arguments;

use crate::system::nearest::nearest;

pub(crate) use crate::cli::arguments::client::{
    ClientOptions, FLAGS_HELP, FLAGS_TOPIC, Forms, parse as client,
};

/// The words after a command's name. Flags are taken out of it one by one; what is left in the end are its arguments.
#[derive(Clone)]
pub(crate) struct CommandLine {
    flags: Arguments,
    /// What stands after `--`, where nothing is a flag.
    after: Vec<OsString>,
}

impl CommandLine {
    pub(crate) fn new(mut words: Vec<OsString>) -> CommandLine {
        let after = match words.iter().position(|word| word == "--") {
            Some(at) => words.split_off(at).split_off(1),
            None => Vec::new(),
        };
        CommandLine {
            flags: Arguments::from_vec(words),
            after,
        }
    }

    /// Takes what stands after `--`.
    pub(crate) fn take_after(&mut self) -> Vec<OsString> {
        std::mem::take(&mut self.after)
    }

    /// The next word, if it is not a flag.
    pub(crate) fn subcommand(&mut self) -> Result<Option<String>, Usage> {
        let word = self.flags.subcommand();
        word.map_err(|error| Usage::new(error.to_string()))
    }
}

impl Deref for CommandLine {
    type Target = Arguments;

    fn deref(&self) -> &Arguments {
        &self.flags
    }
}

impl DerefMut for CommandLine {
    fn deref_mut(&mut self) -> &mut Arguments {
        &mut self.flags
    }
}

/// Wrong usage, in one sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Usage {
    message: String,
    /// A flag that was left over; why is known once the command's help has been looked at.
    flag: Option<String>,
}

impl Usage {
    pub(crate) fn new(message: impl Into<String>) -> Usage {
        Usage {
            message: message.into(),
            flag: None,
        }
    }

    /// Whether it is about a flag that a help text names.
    pub(crate) fn is_about_one_of(&self, help: &str) -> bool {
        let flag = self.flag.as_deref();
        flag.is_some_and(|flag| flags_in(help).contains(&flag))
    }

    /// With what is wrong about a leftover flag, by the flags that a help text names.
    pub(crate) fn explained(self, help: &str) -> Usage {
        let Some(flag) = self.flag else {
            return self;
        };
        let known = flags_in(help);
        if known.contains(&flag.as_str()) {
            return Usage::new(format!(
                "the flag {flag} was given twice, or with a value that it does not take"
            ));
        }
        Usage::new(match nearest(&flag, known) {
            Some(nearest) => format!("unknown flag {flag}; did you mean {nearest}?"),
            None => format!("unknown flag {flag}"),
        })
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Usage {}

/// The flags that a help text names.
fn flags_in(help: &str) -> Vec<&str> {
    let is_end = |c: char| !(c.is_ascii_alphanumeric() || c == '-');
    let words = help.split(is_end).filter(|word| word.starts_with("--"));
    words.filter(|word| word.len() > 2).collect()
}

/// The subcommand of a command, which is one of these.
pub(crate) fn one_of<'a>(
    command: &str,
    line: &mut CommandLine,
    known: &[&'a str],
) -> Result<&'a str, Usage> {
    let all = known.join(", ");
    let Some(word) = line.subcommand()? else {
        return Err(Usage::new(format!("{command} needs one of: {all}")));
    };
    if let Some(known) = known.iter().find(|known| **known == word) {
        return Ok(known);
    }
    Err(Usage::new(match nearest(&word, known.iter().copied()) {
        Some(nearest) => format!("unknown {command} command {word:?}; did you mean {nearest}?"),
        None => format!("unknown {command} command {word:?}; it is one of: {all}"),
    }))
}

/// The environment, by name. A variable that is set to nothing counts as not set.
pub(crate) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What is left when all flags are taken; a flag among it is one too many.
pub(crate) fn finish_words(line: CommandLine) -> Result<Vec<OsString>, Usage> {
    let mut rest = line.flags.finish();
    let mut words = rest.iter();
    match words.find(|word| word.len() > 1 && word.as_encoded_bytes().starts_with(b"-")) {
        Some(flag) => Err(leftover(flag)),
        None => {
            rest.extend(line.after);
            Ok(rest)
        }
    }
}

/// Nothing may be left.
pub(crate) fn finish(line: CommandLine) -> Result<(), Usage> {
    match finish_words(line)?.first() {
        Some(word) => Err(leftover(word)),
        None => Ok(()),
    }
}

pub(crate) fn leftover(word: &OsStr) -> Usage {
    // What stands after the equals sign may be a secret.
    let text = word.to_string_lossy();
    let shown = text.split('=').next().unwrap_or_default();
    if shown.starts_with('-') {
        Usage {
            message: format!("unknown flag {shown}"),
            flag: Some(shown.to_owned()),
        }
    } else {
        Usage::new(format!("unexpected argument {shown:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leftover_flag_is_told_with_the_nearest_known_one() {
        let help =
            "usage: x [FLAGS]\n  --wait, --restart[=rolling]\n  --token-file F  (--output KIND)";
        let table = [
            ("--wat", "unknown flag --wat; did you mean --wait?"),
            (
                "--restrat=rolling",
                "unknown flag --restrat; did you mean --restart?",
            ),
            (
                "--tokenfile",
                "unknown flag --tokenfile; did you mean --token-file?",
            ),
            ("--outptu", "unknown flag --outptu; did you mean --output?"),
            ("--zzz", "unknown flag --zzz"),
            ("-x", "unknown flag -x"),
            (
                "--wait=yes",
                "the flag --wait was given twice, or with a value that it does not take",
            ),
        ];
        for (word, expected) in table {
            let said = leftover(word.as_ref()).explained(help).to_string();
            assert_eq!(said, expected, "{word}");
        }
        assert_eq!(
            leftover("a=b".as_ref()).to_string(),
            "unexpected argument \"a\""
        );
    }

    #[test]
    fn what_stands_after_two_dashes_is_an_argument() {
        let words = ["--wait", "a", "--", "--b", "--"].map(OsString::from);
        let mut line = CommandLine::new(words.to_vec());
        assert!(line.contains("--wait"));
        assert_eq!(finish_words(line).unwrap(), ["a", "--b", "--"]);
    }
}
