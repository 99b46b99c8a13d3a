//! The rules of the house, as tests: which room knows which, and what stands nowhere.

mod circles;
mod english;
mod operations;
mod sizes;

use std::fs;
use std::path::{Path, PathBuf};

/// The folders, from the bottom up: each uses only those before it. `server` and `cli` meet in `lib.rs` alone.
const FOLDERS: [&str; 8] = [
    "api", "system", "formats", "store", "client", "engine", "server", "cli",
];

/// The one folder of each large foreign crate. `formats` has rustix too: a tree is packed and written relative to open
/// directories, with a call for each kind of entry, and passing those on would say nothing.
const FOREIGN: &[(&str, &[&str])] = &[
    ("tiny_http", &["server"]),
    ("httparse", &["server"]),
    ("rustls", &["server", "client"]),
    ("ureq", &["client"]),
    ("tar", &["formats"]),
    ("flate2", &["formats"]),
    ("pico_args", &["cli"]),
    ("rustix", &["system", "formats"]),
    ("signal_hook", &["system"]),
    ("listenfd", &["system"]),
    ("uuid", &["api"]),
    ("ring", &["formats"]),
];

/// All that lies at the top; the rest has a place below it.
const TOP: [&str; 10] = [
    "Cargo.toml",
    "Cargo.lock",
    "Makefile",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    ".gitignore",
    ".ci",
    "src",
    "tests",
];

#[test]
fn nothing_else_lies_at_the_top() {
    for entry in fs::read_dir(top()).unwrap() {
        let name = entry.unwrap().file_name();
        let name = name.to_string_lossy();
        let is_made = [".git", "target"].contains(&&*name);
        assert!(is_made || TOP.contains(&&*name), "{name}");
    }
}

pub(crate) fn top() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// The folder that a file is in; none for `lib.rs` and `main.rs`.
fn folder_of(file: &Path) -> Option<String> {
    let inside = file.strip_prefix(top().join("src")).unwrap();
    let mut parts = inside.iter().map(|part| part.to_str().unwrap().to_owned());
    match (parts.next(), parts.next()) {
        (Some(folder), Some(_)) => Some(folder),
        _ => None,
    }
}

/// The text of a file without its tests; nothing of a file that is there for tests alone.
fn production(file: &Path) -> String {
    let inside = file.strip_prefix(top()).unwrap_or(file);
    let for_tests = inside
        .with_extension("")
        .iter()
        .any(|part| part == "tests" || part == "testing");
    if for_tests {
        return String::new();
    }
    let text = fs::read_to_string(file).unwrap();
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    text[..end].to_owned()
}

/// The code of a file without its tests and comments.
pub(crate) fn code(file: &Path) -> String {
    production(file)
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .map(|line| format!("{line}\n"))
        .collect()
}

fn place(folder: &str) -> usize {
    FOLDERS
        .iter()
        .position(|one| *one == folder)
        .unwrap_or_else(|| panic!("the folder {folder} is not one of {FOLDERS:?}"))
}

#[test]
fn folders_use_only_those_before_them() {
    let mut wrong = Vec::new();
    for file in rust_files(&top().join("src")) {
        let Some(folder) = folder_of(&file) else {
            continue;
        };
        let code = code(&file);
        for (at, _) in code.match_indices("crate::") {
            let other: String = code[at + "crate::".len()..]
                .chars()
                .take_while(|c| c.is_ascii_lowercase() || *c == '_')
                .collect();
            let strange = folder == "cli" && other == "server";
            if FOLDERS.contains(&other.as_str()) && (place(&other) > place(&folder) || strange) {
                wrong.push(format!("{} uses {other}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn large_foreign_crates_have_one_folder_each() {
    let mut wrong = Vec::new();
    for file in rust_files(&top().join("src")) {
        let code = code(&file);
        for (name, folders) in FOREIGN {
            let used = code.match_indices(&format!("{name}::")).any(|(at, _)| {
                let before = code[..at].chars().next_back();
                !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
            });
            let folder = folder_of(&file).unwrap_or_default();
            if used && !folders.contains(&folder.as_str()) {
                wrong.push(format!("{} uses {name}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_says_what_it_is_for_and_leaves_nothing_for_later() {
    let left: Vec<String> = [
        "TO DO",
        "FIX ME",
        "XX X",
        "to do!(",
        "unimplemented !(",
        "dbg !(",
    ]
    .iter()
    .map(|word| word.replace(' ', ""))
    .collect();
    for file in rust_files(&top().join("src"))
        .into_iter()
        .chain(rust_files(&top().join("tests")))
    {
        let text = fs::read_to_string(&file).unwrap();
        let tests = file.file_name().is_some_and(|name| name == "tests.rs");
        assert!(
            tests || text.starts_with("//!"),
            "{} does not say what it is for",
            file.display()
        );
        for word in &left {
            assert!(
                !text.contains(word.as_str()),
                "{} has {word}",
                file.display()
            );
        }
    }
}

#[test]
fn the_tree_is_synchronous_and_the_changelog_knows_the_version() {
    let lock = fs::read_to_string(top().join("Cargo.lock")).unwrap();
    for runtime in ["tokio", "async-std", "smol", "futures-executor", "hyper"] {
        assert!(
            !lock.contains(&format!("name = \"{runtime}\"")),
            "{runtime} is in the tree"
        );
    }
    let changelog = fs::read_to_string(top().join("CHANGELOG.md")).unwrap();
    let newest = changelog
        .lines()
        .find(|line| line.starts_with("## "))
        .unwrap();
    assert!(
        newest.starts_with(concat!("## ", env!("CARGO_PKG_VERSION"))),
        "{newest}"
    );
}

/// What stands between two texts, each time that the first one occurs.
fn between<'a>(text: &'a str, start: &str, end: char) -> Vec<&'a str> {
    text.match_indices(start)
        .filter_map(|(at, _)| text[at + start.len()..].split_once(end))
        .map(|(inside, _)| inside)
        .collect()
}

#[test]
fn a_test_that_needs_something_says_so_and_ci_installs_it() {
    let ci = fs::read_to_string(top().join(".ci/run")).unwrap();
    let asked = format!("have({}", '"');
    let silent = ["skip", "ped:"].concat();
    for dir in ["src", "tests"] {
        for file in rust_files(&top().join(dir)) {
            let text = fs::read_to_string(&file).unwrap();
            for program in between(&text, &asked, '"') {
                assert!(
                    ci.contains(&format!("\n  {program} ")),
                    "{} needs {program}, which .ci/run does not install",
                    file.display()
                );
            }
            assert!(
                !text.contains(&format!("{}{silent}", '"')),
                "{} does not run a test without listing it by tests/it/needs.rs",
                file.display()
            );
        }
    }
}

/// Where a text has an `if let` or `while let` with a second condition, which Rust 1.85 does not know and clippy does not tell.
fn let_chains(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let conditions = ["if ", "while "].iter().flat_map(|word| {
        let at = text.match_indices(word).map(|(at, _)| at);
        at.map(|at| at + word.len()).collect::<Vec<_>>()
    });
    for from in conditions {
        let (mut depth, mut is_let, mut is_bound, mut is_chain) = (0, false, false, false);
        let rest = &text[from..];
        for (at, c) in rest.char_indices() {
            match c {
                '(' | '[' => depth += 1,
                ')' | ']' => depth -= 1,
                '{' | ';' if depth <= 0 && (is_bound || !is_let || c == ';') => {
                    if is_let && is_chain {
                        found.push(rest[..at].split_whitespace().collect::<Vec<_>>().join(" "));
                    }
                    break;
                }
                _ if depth > 0 => {}
                'l' if rest[at..].starts_with("let ") => is_let = true,
                '=' if rest[at..].starts_with("= ") => is_bound = true,
                '&' if rest[at..].starts_with("&& ") => is_chain = true,
                _ => {}
            }
        }
    }
    found
}

#[test]
fn nothing_is_newer_than_the_oldest_rust_that_builds_it() {
    let sample = "if let Some(a) = b\n && c {} if a && b { let c = 1; } if a && let Some(b) = c {} \
                  while let Some((a, _)) = b.filter(|b| b && c) {} if let A { b } = c && d {}";
    assert_eq!(let_chains(sample).len(), 3, "{:?}", let_chains(sample));
    let mut found = Vec::new();
    for folder in ["src", "tests/it", "tests/bench"] {
        for file in rust_files(&top().join(folder)) {
            let text = fs::read_to_string(&file).unwrap();
            let code: Vec<&str> = text
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
                .collect();
            let chains = let_chains(&code.join("\n")).into_iter();
            // This file shows some.
            if !file.ends_with("it/tidy.rs") {
                found.extend(chains.map(|chain| format!("{}: {chain}", file.display())));
            }
        }
    }
    assert!(
        found.is_empty(),
        "let-chains came with Rust 1.88: {found:#?}"
    );
}
