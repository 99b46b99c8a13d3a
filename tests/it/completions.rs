//! What shells complete, each in its own way, and the manual page.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::needs::have;
use crate::test_server::{BINARY, TempDir, TestServer, bare, component, gangplank};
use crate::tidy::{code, rust_files, top};

fn printed(arguments: &[&str]) -> String {
    let output = gangplank().args(arguments).output().unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The words that complete a line, without what they are.
fn words(output: &Output) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stdout);
    let words = text.lines().map(|line| line.split('\t').next().unwrap());
    words.map(|word| word.trim().to_owned()).collect()
}

/// A server with a deployment whose message a shell must not run, and a directory for what these tests write.
struct Stage {
    server: TestServer,
    dir: TempDir,
    id: String,
}

impl Stage {
    fn set() -> Stage {
        let dir = TempDir::new();
        let server = TestServer::start();
        let trap = dir.0.join("trap").display().to_string();
        let message = format!("$(touch {trap}) `touch {trap}` '; touch {trap}; \" %F{{red}}");
        let fields = [("project", "harbor"), ("message", &*message)];
        let done = server.deploy_live(&fields, &component());
        let events = done.events();
        let id = events
            .iter()
            .find_map(|event| event.data["deployment_id"].as_str().map(str::to_owned));
        Stage {
            id: id.unwrap(),
            server,
            dir,
        }
    }

    /// A program that knows the server and finds gangplank by its name.
    fn program(&self, name: &str) -> Command {
        let bin = Path::new(BINARY).parent().unwrap();
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        let mut command = bare(name);
        command
            .env("PATH", path)
            .env("HOME", &self.dir.0)
            .env("XDG_CONFIG_HOME", self.dir.0.join("config"))
            .env("XDG_DATA_HOME", self.dir.0.join("data"))
            .env(
                "GANGPLANK_TARGET",
                format!("http://{}", self.server.address),
            )
            .env("GANGPLANK_TOKEN", &self.server.token)
            .env("LC_ALL", "C.UTF-8")
            .env("TERM", "dumb")
            .current_dir(&self.dir.0);
        command
    }

    fn script(&self, shell: &str, name: &str) -> String {
        let path = self.dir.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, printed(&["completions", shell])).unwrap();
        path.display().to_string()
    }

    /// What each shell has to find: the line, a word that is among those found, and one that is not.
    fn lines(&self) -> Vec<(&'static str, String, &'static str)> {
        fs::write(self.dir.0.join("token.txt"), "t").unwrap();
        vec![
            ("gangplank ro", "rollback".into(), "deploy"),
            ("gangplank deploy --pro", "--project".into(), "--restart"),
            ("gangplank list --output ya", "yaml".into(), "json"),
            (
                "gangplank list --progress=nd",
                "--progress=ndjson".into(),
                "bar",
            ),
            ("gangplank token add a --role re", "read".into(), "admin"),
            ("gangplank rollback harb", "harbor".into(), "rollback"),
            ("gangplank show 0", self.id.clone(), "harbor"),
            (
                "gangplank rollback harbor --to 0",
                self.id.clone(),
                "harbor",
            ),
            (
                "gangplank list --token-file tok",
                "token.txt".into(),
                "--token",
            ),
        ]
    }

    fn holds(&self, shell: &str, mut complete: impl FnMut(&str) -> Output) {
        for (line, expected, other) in self.lines() {
            let output = complete(line);
            let found = words(&output);
            // Bash replaces what stands behind the equals sign alone.
            let value = expected.rsplit('=').next().unwrap();
            let is_it = |word: &String| *word == expected || (shell == "bash" && word == value);
            assert!(found.iter().any(is_it), "{shell}: {line}: {output:?}");
            assert!(
                !found.iter().any(|word| word == other),
                "{shell}: {line}: {found:?}"
            );
            assert!(output.stderr.is_empty(), "{shell}: {line}: {output:?}");
        }
        assert!(!self.dir.0.join("trap").exists(), "{shell} ran a message");
    }
}

#[test]
fn bash_completes_flags_components_and_ids() {
    if !have("bash") {
        return;
    }
    let stage = Stage::set();
    let script = stage.script("bash", "gangplank.bash");
    // As bash itself calls the function; where it would complete a path, `compopt` is asked for that.
    let harness = r#"
        source "$1"
        compopt() { compgen -f -- "$word"; }
        COMP_LINE=$2 COMP_POINT=${#2} word=${2##*[ =]}
        complete -p gangplank >/dev/null || exit
        _gangplank gangplank "$word" ""
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    stage.holds("bash", |line| {
        let mut bash = stage.program("bash");
        bash.args(["--norc", "-c", harness, "bash", &script, line]);
        bash.output().unwrap()
    });
}

#[test]
fn fish_completes_flags_components_and_ids_and_says_what_they_are() {
    if !have("fish") {
        return;
    }
    let stage = Stage::set();
    stage.script("fish", "config/fish/completions/gangplank.fish");
    stage.holds("fish", |line| {
        let mut fish = stage.program("fish");
        fish.args(["-c", "complete -C $argv[1]", line]);
        fish.output().unwrap()
    });
    let mut fish = stage.program("fish");
    let output = fish
        .args(["-c", "complete -C 'gangplank rollback --t'"])
        .output();
    let said = String::from_utf8(output.unwrap().stdout).unwrap();
    assert!(
        said.contains("--to\tthe release of this deployment instead"),
        "{said}"
    );
}

#[test]
fn zsh_completes_flags_components_and_ids() {
    if !have("zsh") {
        return;
    }
    let stage = Stage::set();
    stage.script("zsh", "functions/_gangplank");
    // A terminal for an inner shell, in which a key completes and another one prints what there is to choose from: `compadd` is
    // asked for what fits, as the completer itself does it.
    let inner = r#"
        PS1= ; fpath=($HOME/functions $fpath)
        autoload -Uz compinit && compinit -D -u
        compadd() {
            local -a fits
            # What only looks, adds nothing.
            if [[ " $* " == *" -"[ADO]" "* ]]; then builtin compadd "$@"; return; fi
            builtin compadd -O fits "$@"
            print -rl -- "${(@)fits/#/word:}" >> $HOME/found
            builtin compadd "$@"
        }
        done-now() { zle complete-word; print -r -- end >> $HOME/found; }
        zle -C complete-word complete-word _main_complete
        zle -N done-now
        bindkey '^T' done-now
        print ready > $HOME/ready
    "#;
    fs::write(stage.dir.0.join("inner.zsh"), inner).unwrap();
    let harness = r#"
        zmodload zsh/zpty
        zpty shell 'zsh -f -i'
        zpty -w shell 'stty -echo; source $HOME/inner.zsh'
        # As long as it takes, but not for ever.
        wait-for() { repeat 3000; do [[ -s $1 ]] && grep -q "$2" $1 && return; zpty -rt shell more; sleep 0.01; done; exit 9; }
        wait-for $HOME/ready ready
        for line in "$@"; do
            : > $HOME/found
            zpty -wn shell "$line"$'\x14'
            wait-for $HOME/found '^end$'
            print -r -- "line:$line"
            grep '^word:' $HOME/found
            zpty -wn shell $'\x15'
        done
        zpty -d shell
        exit 0
    "#;
    let lines = stage.lines();
    let mut zsh = stage.program("zsh");
    zsh.args(["-f", "-c", harness, "zsh"]);
    zsh.args(lines.iter().map(|(line, ..)| line));
    let output = zsh.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    stage.holds("zsh", |line| {
        let found = text
            .split("line:")
            .find_map(|part| part.strip_prefix(&format!("{line}\n")));
        let found = found.unwrap_or_else(|| panic!("{line}: {text}"));
        let mut output = output.clone();
        output.stderr.clear();
        output.stdout = found.replace("word:", "").into_bytes();
        output
    });
}

#[test]
fn who_does_not_answer_is_not_waited_for_and_nothing_is_said() {
    // It takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("http://{}", silent.local_addr().unwrap());
    let nobody = TempDir::new();
    let table = [
        vec!["rollback", "--target", &silent, ""],
        vec!["show", ""],
        vec!["show", "--target", "no:such:thing", ""],
        vec!["list", "--token-file", "-", "--project", ""],
        vec!["list", "--target", ""],
        vec!["nonsense", ""],
        vec![],
    ];
    for line in table {
        let begun = Instant::now();
        let mut command = gangplank();
        command.args(["completions", "--ask", "--"]).args(&line);
        command.env("GANGPLANK_ROOT", &nobody.0);
        command.env("XDG_CONFIG_HOME", &nobody.0);
        let output = command.stdin(Stdio::piped()).output().unwrap();
        assert!(output.status.success(), "{line:?}: {output:?}");
        assert!(output.stderr.is_empty(), "{line:?}: {output:?}");
        assert!(
            output.stdout.is_empty() || line.is_empty(),
            "{line:?}: {output:?}"
        );
        // A second, on a machine that has other things to do.
        assert!(begun.elapsed() < Duration::from_secs(20), "{line:?}");
    }
}

#[test]
fn targets_are_completed_by_name_and_the_one_in_the_line_is_asked() {
    let stage = Stage::set();
    let add = [
        "target",
        "add",
        "prod",
        &format!("http://{}", stage.server.address),
        "--token",
        "-",
    ];
    let mut added = stage
        .program(BINARY)
        .args(add)
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    writeln!(added.stdin.take().unwrap(), "{}", stage.server.token).unwrap();
    assert!(added.wait().unwrap().success());
    let ask = |line: &[&str]| {
        let mut command = stage.program(BINARY);
        command
            .env_remove("GANGPLANK_TARGET")
            .env_remove("GANGPLANK_TOKEN");
        command.args(["completions", "--ask", "--"]).args(line);
        words(&command.output().unwrap())
    };
    assert_eq!(ask(&["list", "--target", ""]), ["prod"]);
    assert_eq!(ask(&["target", "remove", ""]), ["prod"]);
    assert_eq!(ask(&["rollback", "--target", "prod", ""]), ["harbor"]);
    assert_eq!(
        ask(&["rollback", "--target=prod", "harbor", "--to", ""]),
        [&*stage.id, "latest"]
    );
    assert!(ask(&["rollback", ""]).is_empty());
}

/// The texts that are a flag and nothing else.
fn flags_of(code: &str) -> impl Iterator<Item = &str> {
    let is_flag = |text: &&str| {
        let fits = |c: u8| c.is_ascii_lowercase() || c == b'-';
        text.len() > 2 && text.starts_with("--") && text.bytes().all(fits)
    };
    code.split('"').filter(is_flag)
}

/// The other way round is a unit test beside the table.
#[test]
fn each_flag_that_a_command_reads_is_completed() {
    let commands = top().join("src/cli/commands");
    let offered = |line: &[&str]| -> BTreeSet<String> {
        let words: Vec<&str> = ["completions", "--ask", "--"]
            .into_iter()
            .chain(line.iter().copied())
            .chain(["--"])
            .collect();
        let text = printed(&words);
        text.lines()
            .map(|line| line.split('\t').next().unwrap().to_owned())
            .collect()
    };
    let mut all = 0;
    for file in rust_files(&commands) {
        let under = file.strip_prefix(&commands).unwrap().with_extension("");
        let word = under.iter().next().unwrap().to_str().unwrap();
        let word = word.replace('_', "-");
        let mut lines = vec![vec![&*word]];
        lines.extend(["add", "set", "unset"].map(|subcommand| vec![&*word, subcommand]));
        // It reads the flags of `deploy --fleet` too.
        lines.extend((word == "fleet").then_some(vec!["deploy"]));
        let known: BTreeSet<String> = lines.iter().flat_map(|line| offered(line)).collect();
        let text = code(&file);
        if known.is_empty() || !text.contains("CommandLine") {
            // It is not a command, or it reads none of the words: its flags are those of git, say.
            continue;
        }
        for literal in flags_of(&text) {
            all += 1;
            let path = file.display();
            assert!(
                known.contains(literal),
                "{path}: {literal} is not completed"
            );
        }
    }
    assert!(all > 50, "only {all} flags were found in the sources");
    let shared = offered(&["list"]);
    for literal in flags_of(&code(&top().join("src/cli/arguments/client.rs"))) {
        assert!(shared.contains(literal), "{literal} is not completed");
    }
}

#[test]
fn mandoc_has_nothing_against_the_manual_page() {
    if !have("mandoc") {
        return;
    }
    let dir = TempDir::new();
    let page = dir.0.join("gangplank.1");
    fs::write(&page, printed(&["man"])).unwrap();
    let mandoc = |arguments: &[&str]| bare("mandoc").args(arguments).arg(&page).output().unwrap();
    let lint = mandoc(&["-T", "lint"]);
    let said = [lint.stdout, lint.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    // A version that is not released has no day.
    let changelog = fs::read_to_string(top().join("CHANGELOG.md")).unwrap();
    let heading = changelog.lines().find(|line| line.starts_with("## "));
    let undated = heading.unwrap().ends_with("unreleased");
    let mut bad = said
        .lines()
        .filter(|line| !(undated && line.contains("missing date")));
    assert_eq!(bad.next(), None);
    let shown = mandoc(&["-T", "ascii", "-O", "width=78"]);
    let text = String::from_utf8(shown.stdout).unwrap();
    // Bold letters are printed twice.
    let bold = text
        .char_indices()
        .filter(|(_, c)| *c == '\x08')
        .map(|(at, _)| at);
    let bold: Vec<usize> = bold.collect();
    let text: String = text
        .char_indices()
        .filter(|(at, _)| !bold.contains(at) && !bold.contains(&(at + 1)))
        .map(|(_, c)| c)
        .collect();
    for section in [
        "NAME",
        "SYNOPSIS",
        "DESCRIPTION",
        "COMMANDS",
        "ENVIRONMENT",
        "FILES",
        "EXIT STATUS",
        "EXAMPLES",
        "SEE ALSO",
    ] {
        assert!(
            text.lines().any(|line| line == section),
            "{section} in {text}"
        );
    }
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    for part in [
        "--retry-for SECONDS",
        "gangplank deploy ./my-app --target https://apps.example",
        "~/.config/gangplank/targets.json",
        "130",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn man_shows_the_manual_page_at_80_columns() {
    if !have("man") {
        return;
    }
    let dir = TempDir::new();
    let page = dir.0.join("gangplank.1");
    fs::write(&page, printed(&["man"])).unwrap();
    let mut man = bare("man");
    man.env("MANWIDTH", "80")
        .env("LC_ALL", "C.UTF-8")
        .arg("--warnings");
    let shown = man.arg("-l").arg(&page).output().unwrap();
    assert!(
        shown.status.success() && shown.stderr.is_empty(),
        "{shown:?}"
    );
    let text = String::from_utf8(shown.stdout).unwrap();
    let example = "       gangplank deploy ./my-app --target https://apps.example";
    assert!(text.lines().any(|line| line == example), "{text}");
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
}
