//! The rules of the house, as tests: which room knows which, and what stands nowhere.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The shelves from the bottom up. A room knows rooms of lower shelves only; words may know one another.
const SHELVES: &[&[&str]] = &[
    &[
        "account",
        "error",
        "event",
        "handover",
        "name",
        "operation",
        "place",
        "record",
        "stop",
    ],
    &[
        "archive",
        "child",
        "index",
        "journal",
        "log",
        "manifest",
        "multipart",
        "sse",
        "store",
        "tokens",
    ],
    &["client", "install", "attempt"],
    &["peers", "processes"],
    &["deploy", "recover", "retain"],
    &["worker"],
    &["cli"],
    &["gate", "http", "serve", "screen", "user"],
    &["lib", "main"],
];

/// Rooms of one shelf that know each other all the same, and why that is right: `serve` speaks HTTP, `user` shows.
const NEIGHBOURS: &[(&str, &str)] = &[
    ("serve", "gate"),
    ("serve", "http"),
    ("user", "screen"),
    ("cli", "screen"),
];

/// Rooms of lower shelves that a room must not know: the server's and the user's edges are two programs in one.
const STRANGERS: &[(&str, &[&str])] = &[
    ("serve", &["client", "screen", "user"]),
    (
        "user",
        &[
            "http", "serve", "store", "worker", "deploy", "attempt", "recover", "retain", "journal",
        ],
    ),
    (
        "client",
        &["store", "journal", "tokens", "child", "archive"],
    ),
];

/// The one room of each big foreign crate.
const FOREIGN: &[(&str, &[&str])] = &[
    ("tiny_http", &["http"]),
    ("ureq", &["client"]),
    ("tar", &["archive"]),
    ("flate2", &["archive"]),
    ("pico_args", &["cli"]),
    ("indicatif", &["screen"]),
    ("httparse", &["gate"]),
    ("rustls", &["gate"]),
    ("memchr", &["multipart", "child", "sse", "gate"]),
];

fn top() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
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

fn room_of(file: &Path) -> String {
    let inside = file.strip_prefix(top().join("src")).unwrap();
    let first = inside
        .components()
        .next()
        .unwrap()
        .as_os_str()
        .to_str()
        .unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// The code of a file without its tests and comments.
fn code(file: &Path) -> String {
    if file
        .file_name()
        .is_some_and(|name| name == "tests.rs" || name == "craft.rs")
    {
        return String::new();
    }
    let text = fs::read_to_string(file).unwrap();
    let text = text
        .split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap()
        .to_owned();
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .map(|line| format!("{line}\n"))
        .collect()
}

fn shelf(room: &str) -> usize {
    SHELVES
        .iter()
        .position(|rooms| rooms.contains(&room))
        .unwrap_or_else(|| panic!("the room {room} stands on no shelf: put it into the table"))
}

#[test]
fn rooms_know_only_what_stands_below_them() {
    for file in rust_files(&top().join("src")) {
        let room = room_of(&file);
        let from = shelf(&room);
        for (at, _) in code(&file).match_indices("crate::") {
            let code = code(&file);
            let other: String = code[at + "crate::".len()..]
                .chars()
                .take_while(|c| c.is_ascii_lowercase() || *c == '_')
                .collect();
            if other.is_empty()
                || other == room
                || !SHELVES.iter().any(|rooms| rooms.contains(&other.as_str()))
            {
                continue;
            }
            let to = shelf(&other);
            let words = from == 0 && to == 0;
            let neighbours = NEIGHBOURS.contains(&(room.as_str(), other.as_str()));
            assert!(
                to < from || words || neighbours,
                "{} knows {other}, which does not stand below it",
                file.display()
            );
            let strange = STRANGERS
                .iter()
                .any(|(known, strangers)| *known == room && strangers.contains(&other.as_str()));
            assert!(!strange, "{} must not know {other}", file.display());
        }
    }
}

#[test]
fn big_foreign_crates_have_one_room_each() {
    for file in rust_files(&top().join("src")) {
        let (room, code) = (room_of(&file), code(&file));
        for (name, rooms) in FOREIGN {
            let used =
                code.contains(&format!("use {name}::")) || code.contains(&format!(" {name}::"));
            assert!(
                !used || rooms.contains(&room.as_str()),
                "{} uses {name}",
                file.display()
            );
        }
    }
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
fn files_and_functions_stay_small() {
    let mut large = BTreeMap::new();
    for file in rust_files(&top().join("src")) {
        let lines = code(&file).lines().count();
        if lines > 400 {
            large.insert(file.clone(), lines);
        }
        let code = code(&file);
        let mut begun: Option<(usize, usize, String)> = None;
        for (number, line) in code.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let is_function = line
                .trim_start()
                .split(' ')
                .take_while(|word| *word != "fn")
                .all(|word| {
                    word.starts_with("pub")
                        || ["const", "unsafe", "super)", "crate)", "in"].contains(&word)
                })
                && line.contains("fn ");
            match &begun {
                None if is_function => begun = Some((number, indent, line.trim().to_owned())),
                Some((first, at, name)) if line.trim() == "}" && indent == *at => {
                    assert!(
                        number - first <= 70,
                        "{}: {name} has {} lines",
                        file.display(),
                        number - first
                    );
                    begun = None;
                }
                // A declaration without a body.
                Some((_, at, _)) if indent == *at && line.ends_with(';') => begun = None,
                _ => {}
            }
        }
    }
    assert!(large.is_empty(), "files over 400 lines of code: {large:?}");
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
