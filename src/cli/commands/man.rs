//! `man`: the manual page, made of the help texts.

use crate::cli::arguments::{CommandLine, Environment, FLAGS_HELP, Usage, finish};
use crate::cli::commands::help::{Flag, FlagValue, HelpBlock, HelpText};
use crate::cli::commands::{COMMANDS, Command, CommandSpec, EXIT_CODES, PURPOSE, Parse};

pub(super) const COMMAND: CommandSpec = CommandSpec {
    words: &["man"],
    usage: "man",
    summary: "the manual page",
    help: "\
usage: gangplank man

Prints the manual page: all commands with all their flags, what they read, and
how they end.
",
    example: "gangplank man > ~/.local/share/man/man1/gangplank.1",
    parse: Parse::Local(
        |line: CommandLine, _: Environment| -> Result<Command, Usage> {
            finish(line)?;
            Ok(Command::Help(page()))
        },
    ),
};

/// The day of the newest version in `CHANGELOG.md`; none before that is released.
const DAY: Option<[u8; 10]> = day(include_bytes!("../../../CHANGELOG.md"));

/// The day in the first heading of a changelog, `## 1.2.3 - 2026-01-31`.
const fn day(changelog: &[u8]) -> Option<[u8; 10]> {
    let (mut at, mut day) = (0, [0; 10]);
    while !(changelog[at] == b'#' && changelog[at + 1] == b'#') {
        at += 1;
    }
    while !(changelog[at] == b'-' && changelog[at + 1] == b' ') {
        at += 1;
    }
    let mut n = 0;
    while n < day.len() {
        day[n] = changelog[at + 2 + n];
        n += 1;
    }
    match day[0].is_ascii_digit() {
        true => Some(day),
        false => None,
    }
}

/// `mandoc -T lint` wants no longer lines in the source.
const LINE_MAX: usize = 80;

const DESCRIPTION: &str = "\
`gangplank deploy` packs a directory, sends it to a server and follows what becomes of it to its end. `gangplank serve` is that
server: it unpacks the upload, installs its dependencies, checks it, makes it live by one atomic rename, and restarts its processes.
A deployment that fails never touches what is live.

A command prints its result on stdout and its progress on stderr. Where a command takes a PROJECT or an ID, it may be left out in
a directory whose `gangplank.json` names the component.";

/// What is read of the environment, besides what stands with the flags.
const VARIABLES: [(&str, &str); 9] = [
    ("GANGPLANK_TARGET", "the server, as of `--target`"),
    ("GANGPLANK_TOKEN", "the access token"),
    ("GANGPLANK_TOKEN_FILE", "the file that holds it"),
    (
        "GANGPLANK_ROOT",
        "the root of the server of this machine; without `GANGPLANK_TARGET` it is the one that is asked",
    ),
    (
        "HARPER_CLI_TARGET, HARPER_CLI_USERNAME, HARPER_CLI_PASSWORD",
        "as above, for those who have them set; then `CLI_TARGET`, `CLI_TARGET_USERNAME` and `CLI_TARGET_PASSWORD`",
    ),
    (
        "XDG_CONFIG_HOME",
        "where the targets are kept (`~/.config`)",
    ),
    ("NO_COLOR", "no colours"),
    (
        "CI, GITHUB_ACTIONS, GITLAB_CI, BUILDKITE",
        "how progress is shown if `--progress` is not given, and which commit it is that is deployed",
    ),
    (
        "GANGPLANK_PROJECT, GANGPLANK_DEPLOYMENT_ID, GANGPLANK_PROCESS, GANGPLANK_SHARED",
        "are set for what a component runs",
    ),
];

const FILES: [(&str, &str); 6] = [
    (
        "gangplank.json",
        "in the directory: the component's name, the target, and how it is installed and found healthy",
    ),
    (
        ".gangplankignore",
        "in the directory: what is not sent, by the rules of gitignore(5)",
    ),
    ("Procfile", "in the directory: the processes, one a line"),
    (
        "~/.config/gangplank/targets.json",
        "the servers that `gangplank target` names",
    ),
    (
        "ROOT/components, ROOT/releases, ROOT/deployments, ROOT/logs, ROOT/shared",
        "at the server: links to what is live, releases, records with their events, logs, and data that stays",
    ),
    (
        "ROOT/tokens.json, ROOT/admin.token",
        "the hashes of access tokens, and the first token, which only the server's user may read",
    ),
];

const SEE_ALSO: &str = "systemd(1), gitignore(5), tar(1), curl(1)";

fn page() -> String {
    let version = env!("CARGO_PKG_VERSION");
    let day = DAY.unwrap_or_default();
    let day = std::str::from_utf8(&day)
        .unwrap_or_default()
        .trim_matches('\0');
    let mut page = RoffPage(format!(
        ".TH GANGPLANK 1 \"{day}\" \"gangplank {version}\"\n"
    ));
    // What is typed is not torn apart: no hyphens, and no wide spaces.
    page.request(".nh");
    page.request(".ad l");
    page.section("NAME");
    page.text(&format!("gangplank - {PURPOSE}"));
    page.section("SYNOPSIS");
    page.text("`gangplank` COMMAND [FLAGS]");
    page.section("DESCRIPTION");
    for (at, paragraph) in DESCRIPTION.split("\n\n").enumerate() {
        page.paragraph(at, &paragraph.replace('\n', " "));
    }
    page.section("COMMANDS");
    for command in COMMANDS {
        page.command(command);
    }
    page.section("FLAGS OF COMMANDS THAT ASK A SERVER");
    page.blocks(&HelpText::read(FLAGS_HELP).blocks, 0);
    page.section("ENVIRONMENT");
    page.definitions(&VARIABLES);
    page.section("FILES");
    page.definitions(&FILES);
    page.section("EXIT STATUS");
    let codes = EXIT_CODES.split(['\n']).flat_map(|line| line.split("  "));
    for (code, text) in codes.filter_map(|code| code.trim().split_once(' ')) {
        page.definition(&[code], text);
    }
    page.section("EXAMPLES");
    page.request(".nf");
    for example in COMMANDS.iter().flat_map(|command| command.example.lines()) {
        page.text(example);
    }
    page.request(".fi");
    page.section("SEE ALSO");
    page.text(SEE_ALSO);
    page.0
}

/// A page in the language of man(7).
struct RoffPage(String);

impl RoffPage {
    fn request(&mut self, line: &str) {
        self.0 += line;
        self.0.push('\n');
    }

    fn section(&mut self, title: &str) {
        self.request(&format!(".SH \"{title}\""));
    }

    /// Text, in which what stands between backquotes is bold.
    fn text(&mut self, text: &str) {
        let mut line = String::new();
        for word in roff(text).split(' ').filter(|word| !word.is_empty()) {
            if !line.is_empty() && line.len() + 1 + word.len() > LINE_MAX {
                self.input_line(&line);
                line.clear();
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line += word;
        }
        if !line.is_empty() {
            self.input_line(&line);
        }
    }

    /// A line that is not a request, however it begins.
    fn input_line(&mut self, line: &str) {
        if line.starts_with(['.', '\'']) {
            self.0 += "\\&";
        }
        self.request(line);
    }

    /// A paragraph; the first one below a title needs no sign.
    fn paragraph(&mut self, at: usize, text: &str) {
        if at > 0 {
            self.request(".PP");
        }
        self.text(text);
    }

    /// Lines as they are.
    fn lines<'l>(&mut self, lines: impl Iterator<Item = &'l str>) {
        for (at, line) in lines.enumerate() {
            if at > 0 {
                self.request(".br");
            }
            self.text(line);
        }
    }

    fn definition(&mut self, names: &[&str], text: &str) {
        for (at, name) in names.iter().enumerate() {
            self.request(if at == 0 { ".TP" } else { ".TQ" });
            self.text(&format!("`{name}`"));
        }
        self.text(text);
    }

    fn definitions(&mut self, all: &[(&str, &str)]) {
        for (names, text) in all {
            let names: Vec<&str> = names.split(", ").collect();
            self.definition(&names, text);
        }
    }

    fn command(&mut self, command: &CommandSpec) {
        let help = HelpText::read(command.help);
        self.request(&format!(".SS \"gangplank {}\"", command.words[0]));
        let usage: Vec<String> = help
            .usage
            .iter()
            .map(|line| format!("gangplank {line}"))
            .collect();
        self.lines(usage.iter().map(String::as_str));
        self.blocks(&help.blocks, 1);
    }

    /// The parts of a help text, so many paragraphs below a title.
    fn blocks(&mut self, blocks: &[HelpBlock<'_>], above: usize) {
        for (at, block) in blocks.iter().enumerate() {
            match block {
                HelpBlock::Paragraph(text) => self.paragraph(above + at, text),
                HelpBlock::Flags(line) => {
                    for (at, flag) in line.flags().iter().enumerate() {
                        self.request(if at == 0 { ".TP" } else { ".TQ" });
                        self.text(&shown(flag));
                    }
                    self.text(&line.text);
                }
            }
        }
    }
}

fn shown(flag: &Flag) -> String {
    let name = &flag.name;
    match &flag.value {
        FlagValue::None => format!("`{name}`"),
        FlagValue::Optional(value) => format!("`{name}`[={value}]"),
        FlagValue::Needed(value) => format!("`{name}` {value}"),
    }
}

/// The text with nothing in it that acts, but for bold between backquotes.
fn roff(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    let mut bold = false;
    for character in text.chars() {
        match character {
            '`' => {
                bold = !bold;
                out += if bold { "\\fB" } else { "\\fR" };
            }
            '\\' => out += "\\e",
            // As it is typed, and not as a hyphen, an accent or a curved quote.
            '-' => out += "\\-",
            '~' => out += "\\(ti",
            '^' => out += "\\(ha",
            '\'' => out += "\\(aq",
            '"' => out += "\\(dq",
            character => out.push(character),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_text_acts() {
        let table = [
            (".SH x", "\\&.SH x\n"),
            ("a `b-c` d", "a \\fBb\\-c\\fR d\n"),
            ("\\fB ~^'\"", "\\efB \\(ti\\(ha\\(aq\\(dq\n"),
            ("", ""),
        ];
        for (text, expected) in table {
            let mut page = RoffPage(String::new());
            page.text(text);
            assert_eq!(page.0, expected, "{text}");
        }
        let mut page = RoffPage(String::new());
        page.text(&"word ".repeat(40));
        assert!(page.0.lines().count() > 1 && page.0.lines().all(|line| line.len() <= LINE_MAX));
    }

    #[test]
    fn the_page_has_every_command_and_every_flag() {
        let page = page();
        for command in COMMANDS {
            assert!(page.contains(&format!(".SS \"gangplank {}\"\n", command.words[0])));
            for flag in command.flag_list(None) {
                assert!(page.contains(&roff(&flag.name)), "{}", flag.name);
            }
        }
        for code in ["0", "1", "2", "3", "4", "5", "6", "130"] {
            assert!(page.contains(&format!(".TP\n\\fB{code}\\fR\n")), "{code}");
        }
    }
}
