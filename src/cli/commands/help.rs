//! The help texts, read: which subcommands, arguments and flags each command has. Completions and the manual page are made
//! of it, so that nothing is listed a second time. This is how a help text has to be written for that:
//!
//! - A line of flags begins with two spaces. Its text begins in column 25, after two spaces, or on the next line, and goes on
//!   in lines that begin with more spaces.
//! - Flags that share a line have a comma between them. If the text has as many parts as there are flags, with semicolons
//!   between them, each flag has its part.
//! - Words to choose from stand behind a colon: `auto, text, json`, or `admin: everything; read: looking only`.
//! - A flag that a usage line names belongs to the subcommands of such lines alone.
//! - Flags of another command stand below a line such as "Flags of `deploy --fleet`:".

use crate::cli::arguments::FLAGS_HELP;
use crate::cli::commands::{COMMANDS, CommandSpec, Parse};

/// Where the text of a flag begins.
const TEXT_COLUMN: usize = 24;

/// A help text in its parts.
pub(super) struct HelpText<'h> {
    /// The usage lines, without the word `gangplank`.
    pub(super) usage: Vec<String>,
    pub(super) blocks: Vec<HelpBlock<'h>>,
}

pub(super) enum HelpBlock<'h> {
    Paragraph(String),
    Flags(FlagLine<'h>),
}

/// A line of flags, with its text.
pub(super) struct FlagLine<'h> {
    flags: &'h str,
    pub(super) text: String,
    /// The other command whose flags they are.
    of: Option<&'h str>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Flag {
    /// With its dashes.
    pub(super) name: String,
    pub(super) value: FlagValue,
    pub(super) text: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FlagValue {
    None,
    /// After an equals sign, or not at all.
    Optional(String),
    Needed(String),
}

/// A usage line, read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct UsageLine {
    /// Those that it is about.
    pub(super) subcommands: Vec<String>,
    /// What the arguments are called, and whether there may be more of the last one.
    pub(super) arguments: Vec<(String, bool)>,
    flags: Vec<Flag>,
}

impl<'h> HelpText<'h> {
    pub(super) fn read(help: &'h str) -> HelpText<'h> {
        let mut usage: Vec<String> = Vec::new();
        let mut lines = help.lines();
        for line in lines.by_ref().take_while(|line| !line.is_empty()) {
            let line = line.strip_prefix("usage:").unwrap_or(line).trim();
            match (line.strip_prefix("gangplank "), usage.last_mut()) {
                (None, Some(last)) => append(last, line),
                (call, _) => usage.push(call.unwrap_or(line).to_owned()),
            }
        }
        let mut blocks = Vec::new();
        let (mut of, mut follows) = (None, false);
        for line in lines {
            let heading = line.strip_prefix("Flags of `");
            of = heading
                .and_then(|rest| rest.split([' ', '`']).next())
                .or(of);
            match blocks.last_mut() {
                _ if line.is_empty() => {}
                _ if line.starts_with("  --") => {
                    let (flags, text) = parted(line);
                    let text = text.to_owned();
                    blocks.push(HelpBlock::Flags(FlagLine { flags, text, of }));
                }
                Some(HelpBlock::Flags(last)) if line.starts_with("   ") => {
                    append(&mut last.text, line.trim());
                }
                Some(HelpBlock::Paragraph(text)) if follows => append(text, line.trim()),
                _ => blocks.push(HelpBlock::Paragraph(line.to_owned())),
            }
            follows = !line.is_empty();
        }
        HelpText { usage, blocks }
    }

    fn flag_lines(&self) -> impl Iterator<Item = &FlagLine<'h>> {
        self.blocks.iter().filter_map(|block| match block {
            HelpBlock::Flags(line) => Some(line),
            HelpBlock::Paragraph(_) => None,
        })
    }
}

fn append(text: &mut String, more: &str) {
    if !text.is_empty() {
        text.push(' ');
    }
    text.push_str(more);
}

/// A line of flags: these, and what of their text stands on it.
fn parted(line: &str) -> (&str, &str) {
    let line = line.trim();
    if let Some((flags, text)) = line.split_once("  ") {
        return (flags, text.trim_start());
    }
    // The line lost its two spaces.
    match line.split_at_checked(TEXT_COLUMN - 2) {
        Some((flags, text)) if flags.ends_with(' ') => (flags.trim_end(), text),
        _ => (line, ""),
    }
}

impl FlagLine<'_> {
    pub(super) fn flags(&self) -> Vec<Flag> {
        let all: Vec<&str> = self.flags.split(", ").collect();
        let parts: Vec<&str> = self.text.split("; ").collect();
        let each = all.iter().enumerate().map(|(at, flag)| {
            let own = parts.get(at).filter(|_| parts.len() == all.len());
            Flag::read(flag, own.unwrap_or(&&*self.text))
        });
        each.collect()
    }
}

impl Flag {
    fn read(flag: &str, text: &str) -> Flag {
        let (name, value) = match (flag.split_once("[="), flag.split_once(' ')) {
            (Some((name, value)), _) => {
                let value = value.trim_end_matches(']').to_owned();
                (name, FlagValue::Optional(value))
            }
            (None, Some((name, value))) => (name, FlagValue::Needed(value.to_owned())),
            (None, None) => (flag, FlagValue::None),
        };
        let (name, text) = (name.to_owned(), text.to_owned());
        Flag { name, value, text }
    }

    pub(super) fn may_be_repeated(&self) -> bool {
        self.text.contains("may be repeated")
    }
}

impl UsageLine {
    /// Reads what follows the word `gangplank`.
    pub(super) fn read(line: &str) -> UsageLine {
        // What stands behind two dashes is for another program.
        let line = line.split(" -- ").next().unwrap_or_default();
        let mut words = line.split(' ').skip(1).peekable();
        let mut read = UsageLine::default();
        let is_lower = |word: &&str| {
            let fits = |c: char| c.is_ascii_lowercase() || c == '-' || c == '|';
            word.starts_with(|c: char| c.is_ascii_lowercase()) && word.chars().all(fits)
        };
        if let Some(word) = words.next_if(is_lower) {
            read.subcommands = word.split('|').map(str::to_owned).collect();
        }
        let bare = |word: &str| word.trim_matches(['[', ']', '.']).to_owned();
        while let Some(word) = words.next() {
            let name = bare(word);
            if name.starts_with("--") {
                let takes = |next: &&str| {
                    !word.ends_with([']', '.'])
                        && !next.starts_with("--")
                        && !next.starts_with(['[', '|'])
                };
                let value = words
                    .next_if(takes)
                    .map(|value| FlagValue::Needed(bare(value)));
                let (value, text) = (value.unwrap_or(FlagValue::None), String::new());
                read.flags.push(Flag { name, value, text });
            } else if name != "|" && name != "FLAGS" {
                read.arguments
                    .push((name, word.ends_with("...") || word.ends_with("...]")));
            }
        }
        read
    }

    fn names(&self, flag: &Flag) -> bool {
        self.flags.iter().any(|named| named.name == flag.name)
    }

    pub(super) fn is_of(&self, subcommand: Option<&str>) -> bool {
        match subcommand {
            Some(word) => self.subcommands.iter().any(|known| known == word),
            None => self.subcommands.is_empty(),
        }
    }
}

impl CommandSpec {
    pub(super) fn usage_lines(&self) -> Vec<UsageLine> {
        let usage = HelpText::read(self.help).usage;
        usage.iter().map(|line| UsageLine::read(line)).collect()
    }

    /// The flags of the command with a subcommand, or with none.
    pub(super) fn flag_list(&self, subcommand: Option<&str>) -> Vec<Flag> {
        let lines = self.usage_lines();
        let belongs = |flag: &Flag| {
            let mut naming = lines.iter().filter(|line| line.names(flag)).peekable();
            naming.peek().is_none() || naming.any(|line| line.is_of(subcommand))
        };
        let mut all: Vec<Flag> = Vec::new();
        for command in COMMANDS {
            let of = |line: &&FlagLine<'_>| match line.of {
                Some(of) => self.words.contains(&of),
                None => command.words == self.words,
            };
            let help = HelpText::read(command.help);
            all.extend(help.flag_lines().filter(of).flat_map(FlagLine::flags));
        }
        if let Parse::Client(_) = self.parse {
            // What all commands have says what values it takes; the text of a command need not.
            let shared = shared_flags();
            all.retain(|own| shared.iter().all(|flag| flag.name != own.name));
            all.extend(shared);
        }
        for flag in lines.iter().flat_map(|line| &line.flags) {
            if all.iter().all(|known| known.name != flag.name) {
                all.push(flag.clone());
            }
        }
        all.retain(belongs);
        all
    }
}

/// The flags of every command that asks a server.
pub(super) fn shared_flags() -> Vec<Flag> {
    let help = HelpText::read(FLAGS_HELP);
    help.flag_lines().flat_map(FlagLine::flags).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Command, parse};
    use super::*;
    use std::ffi::OsString;

    fn names(word: &str, subcommand: Option<&str>) -> Vec<String> {
        let spec = CommandSpec::of(word).unwrap();
        let all = spec.flag_list(subcommand).into_iter();
        all.map(|flag| flag.name).collect()
    }

    fn refusal(words: &[&str]) -> String {
        let words = words.iter().map(OsString::from).collect();
        match parse(words, &|_| None) {
            Err(usage) => usage.to_string(),
            Ok(command) => {
                let is_help = matches!(command, Command::Help(_));
                format!("nothing is refused, help: {is_help}")
            }
        }
    }

    #[test]
    fn a_help_text_has_its_flags() {
        let needed = |value: &str| FlagValue::Needed(value.to_owned());
        let table = [
            (
                "  --end                 stop",
                vec![("--end", FlagValue::None, "stop more")],
            ),
            (
                "  --min-free-disk BYTES left",
                vec![("--min-free-disk", needed("BYTES"), "left more")],
            ),
            (
                "  --no-activate, --wait do not; let it",
                vec![
                    ("--no-activate", FlagValue::None, "do not"),
                    ("--wait", FlagValue::None, "let it more"),
                ],
            ),
            (
                "  --restart[=rolling], --no-restart  its",
                vec![
                    (
                        "--restart",
                        FlagValue::Optional("rolling".into()),
                        "its more",
                    ),
                    ("--no-restart", FlagValue::None, "its more"),
                ],
            ),
            (
                "  --yes, --level 0..9, --idempotency-key K",
                vec![
                    ("--yes", FlagValue::None, "more"),
                    ("--level", needed("0..9"), "more"),
                    ("--idempotency-key", needed("K"), "more"),
                ],
            ),
        ];
        for (line, expected) in table {
            let text = format!(
                "usage: gangplank x\n\nText.\n\n{line}\n                        more\nend\n"
            );
            let help = HelpText::read(&text);
            let flags: Vec<Flag> = help.flag_lines().flat_map(FlagLine::flags).collect();
            let flags: Vec<_> = flags
                .iter()
                .map(|flag| (&*flag.name, flag.value.clone(), &*flag.text))
                .collect();
            assert_eq!(flags, expected, "{line}");
            assert_eq!(
                (help.usage, help.blocks.len()),
                (vec!["x".to_owned()], 3),
                "{line}"
            );
        }
    }

    #[test]
    fn a_usage_line_has_its_parts() {
        type Arguments = &'static [(&'static str, bool)];
        let table: [(&str, &[&str], Arguments, &[&str]); 7] = [
            (
                "deploy [DIR|FILE.tgz] [FLAGS] [key=value...]",
                &[],
                &[("DIR|FILE.tgz", false), ("key=value", true)],
                &[],
            ),
            (
                "payload [ID] [--out FILE | --delete] [FLAGS]",
                &[],
                &[("ID", false)],
                &["--out FILE", "--delete"],
            ),
            (
                "env unset [PROJECT] KEY... [--restart]",
                &["unset"],
                &[("PROJECT", false), ("KEY", true)],
                &["--restart"],
            ),
            (
                "fleet publish-current|pin PROJECT",
                &["publish-current", "pin"],
                &[("PROJECT", false)],
                &[],
            ),
            (
                "target add NAME URL [--token-file F | --token -]",
                &["add"],
                &[("NAME", false), ("URL", false)],
                &["--token-file F", "--token -"],
            ),
            (
                "token add NAME [--project P]... [--root DIR]",
                &["add"],
                &[("NAME", false)],
                &["--project P", "--root DIR"],
            ),
            (
                "run [PROJECT] [FLAGS] -- CMD [ARGUMENT...]",
                &[],
                &[("PROJECT", false)],
                &[],
            ),
        ];
        for (line, subcommands, arguments, flags) in table {
            let read = UsageLine::read(line);
            assert_eq!(read.subcommands, subcommands, "{line}");
            let found: Vec<_> = read
                .arguments
                .iter()
                .map(|(name, more)| (&**name, *more))
                .collect();
            assert_eq!(found, arguments, "{line}");
            let flags: Vec<Flag> = flags.iter().map(|flag| Flag::read(flag, "")).collect();
            assert_eq!(read.flags, flags, "{line}");
        }
    }

    #[test]
    fn a_flag_belongs_to_its_subcommand() {
        assert!(names("token", Some("add")).contains(&"--role".to_owned()));
        assert_eq!(names("token", Some("list")), ["--root", "--output"]);
        assert!(names("deploy", None).contains(&"--canary".to_owned()));
        assert!(!names("fleet", None).contains(&"--canary".to_owned()));
        assert!(names("sync", None).contains(&"--from".to_owned()));
        assert!(!names("env", Some("list")).contains(&"--from".to_owned()));
    }

    /// The other way round, that each flag of the parser is in the help, is what `tests/it/completions.rs` looks at.
    #[test]
    fn each_flag_of_the_help_is_one_of_the_parser_and_takes_what_it_says() {
        for spec in COMMANDS {
            let mut subcommands: Vec<Option<String>> = vec![None];
            for line in spec.usage_lines() {
                subcommands.extend(line.subcommands.into_iter().map(Some));
            }
            let flags = subcommands
                .iter()
                .flat_map(|subcommand| spec.flag_list(subcommand.as_deref()));
            for flag in flags {
                let name = &*flag.name;
                let (word, expected) = match flag.value {
                    FlagValue::Needed(_) => (name.to_owned(), format!("{name} needs a value")),
                    FlagValue::Optional(_) => {
                        (format!("{name}=?"), format!("{name} \"?\": expected"))
                    }
                    FlagValue::None => (
                        format!("{name}=?"),
                        format!("the flag {name} was given twice, or with a value"),
                    ),
                };
                let said = subcommands.iter().map(|subcommand| {
                    let mut words = vec![spec.words[0]];
                    words.extend(subcommand.as_deref());
                    // So that the first flag that is missed is not one that is needed.
                    let arguments = ["a", "b", "--from", "a"];
                    let few = [0, 1, 2, 4].map(|n| {
                        let words = [&*words, &arguments[..n], &[&*word]].concat();
                        refusal(&words)
                    });
                    few.join("\n")
                });
                let said: Vec<String> = said.collect();
                assert!(
                    said.iter().any(|said| said.contains(&expected)),
                    "{} {name}: {said:#?}",
                    spec.words[0]
                );
            }
        }
    }
}
