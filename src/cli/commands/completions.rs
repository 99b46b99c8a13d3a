//! `completions`: the scripts by which shells complete a command line, and the answer to what they ask.

mod ask;
mod complete;

use std::ffi::OsString;

use serde_json::Value;

use crate::cli::arguments::{CommandLine, Environment, Usage, finish, one_of};
use crate::cli::commands::{Command, CommandSpec, LocalJob, Parse};
use crate::cli::screen::OutputFormat;

pub(super) const COMMAND: CommandSpec = CommandSpec {
    words: &["completions"],
    usage: "completions SHELL",
    summary: "a script that completes commands in bash, zsh, fish",
    help: "\
usage: gangplank completions bash|zsh|fish
       gangplank completions --ask -- WORD...

Prints the script by which the shell completes commands, flags and their values,
components, deployments and targets. The script asks the program, and that the
server that the command line names, for a second at most. bash reads it from
~/.local/share/bash-completion/completions/gangplank, and zsh from the file
_gangplank in a directory of its fpath.

  --ask                 what completes the last WORD of a command line: a line
                        each, with a tab before what it is
",
    example: "gangplank completions fish > ~/.config/fish/completions/gangplank.fish",
    parse: Parse::Local(parse),
};

const SCRIPTS: [(&str, &str); 3] = [
    ("bash", include_str!("completions/gangplank.bash")),
    ("zsh", include_str!("completions/gangplank.zsh")),
    ("fish", include_str!("completions/gangplank.fish")),
];

fn parse(mut line: CommandLine, _: Environment) -> Result<Command, Usage> {
    if line.contains("--ask") {
        let words = line.take_after();
        finish(line)?;
        return Ok(Command::Local(LocalJob::new(move |_| {
            Ok((Value::from(answer(&words)), OutputFormat::Text))
        })));
    }
    let shell = one_of("completions", &mut line, &SCRIPTS.map(|(shell, _)| shell))?;
    finish(line)?;
    let script = SCRIPTS.iter().find(|(known, _)| *known == shell);
    let script = script.map_or("", |(_, script)| script);
    Ok(Command::Help(script.to_owned()))
}

/// A word of 20 characters stands beside it in the 80 of a terminal.
const TEXT_MAX: usize = 56;

/// What completes the last word, a line each.
fn answer(words: &[OsString]) -> String {
    let words: Vec<String> = words
        .iter()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let asked = complete::complete(&words);
    let prefix = &asked.prefix;
    let lines = ask::candidates(&asked).into_iter().map(|candidate| {
        let word = candidate.word;
        match candidate.text.as_str() {
            "" => format!("{prefix}{word}\n"),
            text => format!("{prefix}{word}\t{}\n", short(text)),
        }
    });
    match asked.kind {
        complete::ValueKind::Files => ":files\n".to_owned(),
        complete::ValueKind::Directories => ":directories\n".to_owned(),
        _ => lines.collect(),
    }
}

/// What a word is, as far as it has place beside it.
fn short(text: &str) -> String {
    let line = text.replace(char::is_control, " ");
    match line.char_indices().nth(TEXT_MAX) {
        Some((end, _)) => {
            let words = line[..end].rsplit_once(' ');
            let begun = words.map_or(&line[..end], |(words, _)| words);
            format!("{}...", begun.trim_end_matches([',', ';', ':']))
        }
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_fits_beside_its_word() {
        let long = "word; ".repeat(20);
        let table = [
            ("a\tb\x1b[31m\nc", "a b [31m c".to_owned()),
            (&*"é".repeat(TEXT_MAX), "é".repeat(TEXT_MAX)),
            (&*"é".repeat(TEXT_MAX + 1), "é".repeat(TEXT_MAX) + "..."),
            (&*long, format!("{}word...", "word; ".repeat(8))),
        ];
        for (text, expected) in table {
            assert_eq!(short(text), expected, "{text}");
        }
    }
}
