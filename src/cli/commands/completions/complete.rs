//! What may stand where the cursor is, as far as the help texts say it. Nobody is asked here.

use std::ffi::OsString;

use crate::api::operation::OperationName;
use crate::cli::arguments::FLAGS_TOPIC;
use crate::cli::commands::help::{Flag, FlagValue, UsageLine, shared_flags};
use crate::cli::commands::{COMMANDS, CommandSpec};

/// A word that may stand there, and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) word: String,
    pub(super) text: String,
}

impl Candidate {
    pub(super) fn new(word: impl Into<String>, text: impl Into<String>) -> Candidate {
        Candidate {
            word: word.into(),
            text: text.into(),
        }
    }
}

/// What kind of word may stand there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ValueKind {
    /// One of these; anything, if there are none.
    Words(Vec<Candidate>),
    Files,
    Directories,
    Projects,
    /// Of the component that the line names; else of all, and the components too, each for its newest one.
    Deployments,
    /// Servers by name.
    Targets,
}

const ANYTHING: ValueKind = ValueKind::Words(Vec::new());

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Completion {
    pub(super) kind: ValueKind,
    /// What stands before the value in the same word.
    pub(super) prefix: String,
    /// The line's own flags that say whom to ask.
    pub(super) shared: Vec<OsString>,
    /// The component that the line names.
    pub(super) project: Option<String>,
}

/// What the words before the cursor say.
#[derive(Default)]
struct ReadWords<'w> {
    arguments: Vec<&'w str>,
    used: Vec<&'w str>,
    /// The flag whose value is next.
    open: Option<&'w str>,
    shared: Vec<OsString>,
    project: Option<String>,
    /// Two dashes came.
    ended: bool,
}

impl<'w> ReadWords<'w> {
    /// Reads them by the flags of the command with any subcommand.
    fn read(before: &[&'w str], flags: &[Flag]) -> ReadWords<'w> {
        let mut read = ReadWords::default();
        let asks = shared_flags();
        let mut take = |flag: &str, value: Option<&str>| {
            if flag == "--project" {
                read.project = value.map(str::to_owned);
            }
            if asks.iter().any(|known| known.name == flag) {
                read.shared.push(flag.into());
                read.shared.extend(value.map(OsString::from));
            }
        };
        let (mut arguments, mut used) = (Vec::new(), Vec::new());
        let mut words = before.iter();
        while let Some(word) = words.next() {
            if *word == "--" {
                read.ended = true;
                break;
            }
            if !word.starts_with("--") {
                arguments.push(*word);
                continue;
            }
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (*word, None),
            };
            used.push(name);
            let flag = flags.iter().find(|flag| flag.name == name);
            let needs = matches!(flag.map(|flag| &flag.value), Some(FlagValue::Needed(_)));
            match (value, needs) {
                (None, true) => match words.next() {
                    Some(value) => take(name, Some(value)),
                    None => read.open = Some(name),
                },
                _ => take(name, value),
            }
        }
        ReadWords {
            arguments,
            used,
            ..read
        }
    }
}

/// What completes the last of the words that follow `gangplank`.
pub(super) fn complete(words: &[String]) -> Completion {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (current, before) = words.split_last().unwrap_or((&"", &[]));
    let plain = |kind| Completion {
        kind,
        prefix: String::new(),
        shared: Vec::new(),
        project: None,
    };
    let Some((command, before)) = before.split_first() else {
        return plain(match current.starts_with('-') {
            true => listed(&[
                ("--help", "what there is"),
                ("--version", "which one this is"),
            ]),
            false => commands(true),
        });
    };
    if *command == "help" {
        return plain(match before {
            [] => commands(false),
            _ => ANYTHING,
        });
    }
    let Ok(spec) = CommandSpec::of(command) else {
        return plain(ANYTHING);
    };
    let usage = spec.usage_lines();
    let mut every = spec.flag_list(None);
    for line in &usage {
        let own = line.subcommands.first();
        every.extend(spec.flag_list(own.map(String::as_str)));
    }
    let mut read = ReadWords::read(before, &every);
    let subcommand = read.arguments.first().copied().filter(|word| {
        let mut all = usage.iter().flat_map(|line| &line.subcommands);
        all.any(|known| known == word)
    });
    let flags = spec.flag_list(subcommand);
    let mut arguments = read.arguments.as_slice();
    if subcommand.is_some() {
        arguments = &arguments[1..];
    }
    let lines: Vec<&UsageLine> = usage.iter().filter(|line| line.is_of(subcommand)).collect();
    let first = lines.first().and_then(|line| line.arguments.first());
    if let (Some((name, _)), Some(word)) = (first, arguments.first()) {
        if name == "PROJECT" {
            read.project.get_or_insert_with(|| (*word).to_owned());
        }
    }
    let of_flag = |name: &str| {
        let flag = every.iter().find(|flag| flag.name == name);
        flag.map_or(ANYTHING, |flag| value_of(flag, spec.words[0]))
    };
    let valued = current.split_once('=');
    let (kind, prefix) = match (read.open, valued) {
        _ if read.ended => (ValueKind::Files, String::new()),
        (Some(flag), _) => (of_flag(flag), String::new()),
        (None, Some((flag, _))) if flag.starts_with("--") => (of_flag(flag), format!("{flag}=")),
        _ if current.starts_with('-') => (flag_words(&flags, &read.used), String::new()),
        _ => (argument(spec, &usage, &lines, arguments), String::new()),
    };
    Completion {
        kind,
        prefix,
        shared: read.shared,
        project: read.project,
    }
}

fn listed(words: &[(&str, &str)]) -> ValueKind {
    let all = words.iter();
    ValueKind::Words(
        all.map(|(word, text)| Candidate::new(*word, *text))
            .collect(),
    )
}

fn commands(with_help: bool) -> ValueKind {
    let mut all: Vec<Candidate> = COMMANDS
        .iter()
        .map(|command| Candidate::new(command.words[0], command.summary))
        .collect();
    all.push(match with_help {
        true => Candidate::new("help", "what a command does"),
        false => Candidate::new(FLAGS_TOPIC, "of every command that asks a server"),
    });
    ValueKind::Words(all)
}

/// The flags that may still come.
fn flag_words(flags: &[Flag], used: &[&str]) -> ValueKind {
    let left = flags
        .iter()
        .filter(|flag| flag.may_be_repeated() || !used.contains(&flag.name.as_str()));
    let mut all: Vec<Candidate> = Vec::new();
    for flag in left {
        all.push(Candidate::new(&flag.name, &flag.text));
        if let FlagValue::Optional(value) = &flag.value {
            all.push(Candidate::new(format!("{}={value}", flag.name), &flag.text));
        }
    }
    all.push(Candidate::new("--help", "all of it"));
    ValueKind::Words(all)
}

/// What the next argument may be, by the usage lines that fit.
fn argument(
    spec: &CommandSpec,
    usage: &[UsageLine],
    lines: &[&UsageLine],
    before: &[&str],
) -> ValueKind {
    let at = before.len();
    let mut found = ANYTHING;
    for line in lines {
        let repeated = line.arguments.last().filter(|(_, repeats)| *repeats);
        if let Some((name, _)) = line.arguments.get(at).or(repeated) {
            found = named(name, spec.words[0]);
        }
    }
    let subcommands = usage.iter().flat_map(|line| &line.subcommands);
    let is_first = at == 0 && lines.iter().all(|line| line.subcommands.is_empty());
    match found {
        ValueKind::Words(mut words) if is_first => {
            words.extend(subcommands.map(|word| Candidate::new(word, "")));
            ValueKind::Words(words)
        }
        found => found,
    }
}

/// What the value of a flag may be.
fn value_of(flag: &Flag, command: &str) -> ValueKind {
    let name = match &flag.value {
        FlagValue::None => return ANYTHING,
        FlagValue::Optional(value) => return listed(&[(value, &flag.text)]),
        FlagValue::Needed(name) => name,
    };
    // The name of a flag says more than what its value is called.
    match (&*flag.name, name.split_once("..")) {
        ("--project", _) => return ValueKind::Projects,
        ("--target", _) => return ValueKind::Targets,
        (_, Some((low, high))) => {
            let ends = (low.parse::<u8>(), high.parse::<u8>());
            if let (Ok(low), Ok(high)) = ends {
                let all = (low..=high).map(|n| Candidate::new(n.to_string(), ""));
                return ValueKind::Words(all.collect());
            }
        }
        _ => {}
    }
    match choices(&flag.text) {
        choices if !choices.is_empty() => ValueKind::Words(choices),
        _ => named(name, command),
    }
}

/// The words to choose from, as the text of a flag has them.
fn choices(text: &str) -> Vec<Candidate> {
    let is_word = |word: &str| {
        let fits = |c: char| c.is_ascii_lowercase() || c == '_';
        !word.is_empty() && word.chars().all(fits)
    };
    let explained: Option<Vec<Candidate>> = text
        .split("; ")
        .map(|part| {
            let (word, text) = part.split_once(": ")?;
            is_word(word).then(|| Candidate::new(word, text))
        })
        .collect();
    if let Some(explained) = explained.filter(|all| all.len() > 1) {
        return explained;
    }
    let listed = text.split_once(": ").map_or("", |(_, listed)| listed);
    let words = listed.split(", ").take_while(|word| is_word(word));
    let all: Vec<Candidate> = words.map(|word| Candidate::new(word, "")).collect();
    if all.len() > 1 { all } else { Vec::new() }
}

/// What something of this name in a help text may be.
fn named(name: &str, command: &str) -> ValueKind {
    match (name, command) {
        ("PROJECT", _) => ValueKind::Projects,
        ("ID", _) | ("ID|PROJECT", _) => ValueKind::Deployments,
        ("DIR", _) => ValueKind::Directories,
        ("F" | "FILE" | "DIR|FILE.tgz", _) => ValueKind::Files,
        ("NAME", "target") => ValueKind::Targets,
        ("NAME", "op") => {
            let all = OperationName::ALL.iter();
            ValueKind::Words(all.map(|name| Candidate::new(name.word(), "")).collect())
        }
        // Standard input.
        ("-", _) => listed(&[("-", "")]),
        _ => ANYTHING,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completion(line: &str) -> Completion {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        complete(&words)
    }

    fn words(line: &str) -> Vec<String> {
        match completion(line).kind {
            ValueKind::Words(all) => all.into_iter().map(|one| one.word).collect(),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn kinds() {
        use ValueKind::{Deployments, Directories, Files, Projects, Targets};
        let table = [
            ("deploy ", Files),
            ("deploy --project ", Projects),
            ("deploy --project=", Projects),
            ("deploy --ignore-file ", Files),
            ("deploy . --target ", Targets),
            ("list --token-file ", Files),
            ("serve --root ", Directories),
            ("rollback ", Projects),
            ("rollback my-app --to ", Deployments),
            ("show ", Deployments),
            ("watch --next ", Deployments),
            ("env set ", Projects),
            ("env set my-app --from ", Files),
            ("fleet pin ", Projects),
            ("fleet ", Projects),
            ("fleet key ", Files),
            ("target remove ", Targets),
            ("run my-app -- ", Files),
            ("sync --from berlin ", Projects),
            ("deploy --package ", ANYTHING),
            ("deploy --message ", ANYTHING),
            ("rollback a ", ANYTHING),
            ("nonsense ", ANYTHING),
            ("help deploy ", ANYTHING),
            ("logs --since ", ANYTHING),
        ];
        for (line, kind) in table {
            assert_eq!(completion(line).kind, kind, "{line}");
        }
    }

    #[test]
    fn words_to_choose_from_are_those_that_the_parser_takes() {
        let formats = ["auto", "text", "json", "yaml"];
        let table: [(&str, &[&str]); 9] = [
            ("list --output ", &formats),
            ("run --output ", &formats),
            ("token list --output=", &formats),
            ("token add --role ", &["admin", "deploy", "read", "fleet"]),
            (
                "deploy --progress ",
                &[
                    "auto",
                    "bar",
                    "plain",
                    "ndjson",
                    "github",
                    "gitlab",
                    "buildkite",
                    "quiet",
                ],
            ),
            ("deploy --restart=", &["rolling"]),
            (
                "list --status ",
                &["success", "failed", "cancelled", "rolled_back", "staged"],
            ),
            ("completions ", &["bash", "zsh", "fish"]),
            ("env ", &["list", "get", "set", "unset"]),
        ];
        for (line, expected) in table {
            assert_eq!(words(line), expected, "{line}");
        }
        assert_eq!(words("deploy --level ").len(), 10);
        assert!(words("op ").contains(&"list_deployments".to_owned()));
        for (line, flag) in [
            ("list", "--output"),
            ("list", "--progress"),
            ("token add a", "--role"),
        ] {
            let arguments = format!("{line} {flag} ?");
            let arguments = arguments.split(' ').map(OsString::from).collect();
            let said = crate::cli::commands::parse(arguments, &|_| None).unwrap_err();
            let all = words(&format!("{line} {flag} "));
            let said = said.to_string().replace(" and ", ", ");
            assert!(said.contains(&all.join(", ")), "{said}");
        }
    }

    #[test]
    fn commands_and_flags_have_what_they_are() {
        assert!(
            words("").contains(&"install-service".to_owned())
                && words("").contains(&"help".to_owned())
        );
        assert!(words("help ").contains(&"flags".to_owned()));
        assert_eq!(words("-"), ["--help", "--version"]);
        let flags = words("deploy --restart --p");
        assert!(
            flags.contains(&"--project".to_owned()) && !flags.contains(&"--restart".to_owned())
        );
        assert!(words("serve --peer a=b --").contains(&"--peer".to_owned()));
        let ValueKind::Words(all) = completion("rollback --").kind else {
            panic!("no flags")
        };
        let to = all.iter().find(|one| one.word == "--to");
        assert_eq!(to.unwrap().text, "the release of this deployment instead");
    }

    #[test]
    fn whom_to_ask_stands_in_the_line() {
        let asked = completion("rollback my-app --target prod --token=x --to --target y ");
        assert_eq!(asked.shared, ["--target", "prod", "--token", "x"]);
        assert_eq!(asked.project.as_deref(), Some("my-app"));
        let asked = completion("list --target prod --project my-app --status ");
        assert_eq!(
            (asked.shared.len(), asked.project.as_deref()),
            (2, Some("my-app"))
        );
        assert_eq!(completion("list --output=j").prefix, "--output=");
    }
}
