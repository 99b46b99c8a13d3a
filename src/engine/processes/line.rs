//! From the line of a `Procfile` to the command that runs it.

use std::process::Command;

/// Words that a shell must run itself, so that `exec` before them would fail or change what they mean.
const SHELL_WORDS: &[&str] = &[
    "alias", "bg", "break", "case", "cd", "command", "continue", "do", "done", "elif", "else",
    "esac", "eval", "exec", "exit", "export", "fc", "fg", "fi", "for", "function", "getopts",
    "hash", "if", "in", "jobs", "local", "read", "readonly", "return", "select", "set", "shift",
    "source", "then", "time", "times", "trap", "type", "ulimit", "umask", "unalias", "unset",
    "until", "wait", "while", ".", ":", "!", "[[",
];

/// Moves the listening socket from standard input, where we can put it without `unsafe`, to descriptor 3, where the systemd
/// convention has it, and tells of it.
const HAND_OVER: &str =
    "exec 3<&0 0</dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; exec sh -c \"$1\"";

/// The shell command of a line; with a socket as its standard input that the line's program is to listen on, if it `listens`.
pub(super) fn command(line: &str, listens: bool) -> Command {
    let line = direct(line);
    let mut command = Command::new("sh");
    if listens {
        command.args(["-c", HAND_OVER, "sh", &line]);
    } else {
        command.args(["-c", &line]);
    }
    command
}

/// The line with `exec` before it if it is one simple command: the shell then becomes that command instead of waiting beside
/// it, so that signals reach it, and its process id is the one that `LISTEN_PID` names.
fn direct(line: &str) -> String {
    let line = line.trim();
    let first = line.split_whitespace().next().unwrap_or_default();
    let simple =
        !line.contains([';', '&', '|', '(', ')', '{', '}', '\n', '`']) || only_expansions(line);
    let plain = !SHELL_WORDS.contains(&first) && !first.contains('=') && !first.is_empty();
    if simple && plain {
        format!("exec {line}")
    } else {
        line.to_owned()
    }
}

/// Whether the only braces are those of `${NAME}`.
fn only_expansions(line: &str) -> bool {
    let mut rest = line.to_owned();
    while let Some(start) = rest.find("${") {
        let Some(end) = rest[start..].find('}') else {
            return false;
        };
        rest.replace_range(start..=start + end, "");
    }
    !rest.contains([';', '&', '|', '(', ')', '{', '}', '\n', '`'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simple_commands_become_the_process() {
        let table = [
            ("node server.js", "exec node server.js"),
            ("  ./run --port $PORT ", "exec ./run --port $PORT"),
            (
                "node s.js --port ${PORT:-80}",
                "exec node s.js --port ${PORT:-80}",
            ),
            ("PORT=80 node s.js", "PORT=80 node s.js"),
            ("exec node s.js", "exec node s.js"),
            ("cd sub", "cd sub"),
            ("a && b", "a && b"),
            ("a; b", "a; b"),
            ("a | b", "a | b"),
            ("(a)", "(a)"),
            ("{ a; }", "{ a; }"),
            ("a $(b)", "a $(b)"),
            ("while true", "while true"),
            ("", ""),
        ];
        for (line, expected) in table {
            assert_eq!(direct(line), expected, "{line}");
        }
    }
}
