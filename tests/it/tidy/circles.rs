//! Which file uses which: no circles, no name twice, nothing public that no other file uses.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::{code, production, rust_files, top};

/// How many items are public and used by their own file alone. It may only fall.
const NEEDLESSLY_PUBLIC: usize = 3;

/// A module by the names on its path, `["server", "gate", "head"]`.
type Module = Vec<String>;

fn modules() -> BTreeMap<Module, PathBuf> {
    let src = top().join("src");
    let mut modules = BTreeMap::new();
    for file in rust_files(&src) {
        let inside = file.strip_prefix(&src).unwrap().with_extension("");
        let mut module: Module = inside
            .iter()
            .map(|part| part.to_str().unwrap().to_owned())
            .collect();
        if module.last().is_some_and(|name| name == "mod") {
            module.pop();
        }
        modules.insert(module, file);
    }
    modules
}

/// The words of code, and the signs that paths are made of.
fn tokens(code: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = code;
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let len = if is_word(first) {
            rest.find(|c| !is_word(c)).unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        if !first.is_whitespace() {
            tokens.push(&rest[..len]);
        }
        rest = &rest[len..];
    }
    tokens
}

/// Reads one path with its branches, `a::{b, c::d}`, and gives where it ends.
fn path(tokens: &[&str], mut at: usize, mut begun: Module, paths: &mut Vec<Module>) -> usize {
    while tokens.get(at) == Some(&"::") {
        at += 1;
        match tokens.get(at) {
            Some(&"{") => {
                at += 1;
                while at < tokens.len() && tokens[at] != "}" {
                    if tokens[at] == "," {
                        at += 1;
                        continue;
                    }
                    let mut branch = begun.clone();
                    branch.push(tokens[at].to_owned());
                    at = path(tokens, at + 1, branch, paths);
                    // A name of its own, `as other`.
                    while at < tokens.len() && tokens[at] != "," && tokens[at] != "}" {
                        at += 1;
                    }
                }
                return at + 1;
            }
            Some(word) if word.starts_with(|c: char| c.is_alphabetic() || c == '_') => {
                begun.push((*word).to_owned());
                at += 1;
            }
            _ => break,
        }
    }
    paths.push(begun);
    at
}

/// What a module's code names, as paths from the top.
fn named(module: &Module, code: &str) -> Vec<Module> {
    let tokens = tokens(code);
    let mut paths = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let parent = &module[..module.len() - 1];
        let start = match tokens[at] {
            "crate" => Vec::new(),
            "super" => parent.to_vec(),
            "self" => module.clone(),
            // A module of its own, if it is one.
            other => [&module[..], &[other.to_owned()]].concat(),
        };
        if tokens.get(at + 1) == Some(&"::") {
            at = path(&tokens, at + 1, start, &mut paths);
        } else {
            at += 1;
        }
    }
    paths
}

/// Which module uses which.
fn arrows() -> BTreeMap<Module, BTreeSet<Module>> {
    let modules = modules();
    let mut arrows: BTreeMap<Module, BTreeSet<Module>> = BTreeMap::new();
    for (module, file) in &modules {
        let code = code(file);
        for mut path in named(module, &code) {
            while !path.is_empty() && !modules.contains_key(&path) {
                path.pop();
            }
            if !path.is_empty() && path != *module {
                arrows.entry(module.clone()).or_default().insert(path);
            }
        }
    }
    arrows
}

/// Whatever can be reached from a module.
fn reached(from: &Module, arrows: &BTreeMap<Module, BTreeSet<Module>>) -> BTreeSet<Module> {
    let mut reached = BTreeSet::new();
    let mut next = vec![from];
    while let Some(module) = next.pop() {
        for other in arrows.get(module).into_iter().flatten() {
            if reached.insert(other.clone()) {
                next.push(other);
            }
        }
    }
    reached
}

#[test]
fn files_use_one_another_in_one_direction() {
    let mut arrows = arrows();
    // What was written for one thing and split for its length: a part may use the whole that it is a part of.
    for (module, others) in &mut arrows {
        others.retain(|other| !module.starts_with(other));
    }
    let in_circles: Vec<String> = arrows
        .keys()
        .filter(|module| reached(module, &arrows).contains(*module))
        .map(|module| module.join("/"))
        .collect();
    assert!(
        in_circles.is_empty(),
        "these use one another in circles: {}",
        in_circles.join(", ")
    );
}

#[test]
fn a_path_is_read_with_its_branches() {
    let module = ["a".to_owned(), "b".to_owned()].to_vec();
    let code =
        "use crate::x::{self, y::{Z, W as V}, U}; use super::c::D; self::e(); f::g(); h.i::<J>()";
    let found: Vec<String> = named(&module, code)
        .iter()
        .map(|path| path.join("::"))
        .collect();
    assert_eq!(
        found,
        [
            "x::self",
            "x::y::Z",
            "x::y::W",
            "x::U",
            "a::c::D",
            "a::b::e",
            "a::b::f::g",
            "a::b::i"
        ]
    );
}

/// The names of the items of some kinds that a text declares, and whether everybody may use them.
fn declared(text: &str, kinds: &[&str]) -> Vec<(String, bool)> {
    let mut names = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line
            .trim_start()
            .split([' ', '<', '(', ':', ';', '{'])
            .collect();
        let public = words[0] == "pub";
        let visible = ["pub", "const", "unsafe", "super)", "crate)", "in"];
        let Some(at) = words.iter().position(|word| kinds.contains(word)) else {
            continue;
        };
        if words[..at].iter().all(|word| visible.contains(word)) && words.len() > at + 1 {
            names.push((words[at + 1].to_owned(), public));
        }
    }
    names
}

#[test]
fn no_name_of_a_type_stands_for_two_things() {
    let mut seen: BTreeMap<String, PathBuf> = BTreeMap::new();
    for file in rust_files(&top().join("src")) {
        let text = fs::read_to_string(&file).unwrap();
        for (name, _) in declared(&text, &["struct", "enum", "trait", "union"]) {
            if let Some(other) = seen.insert(name.clone(), file.clone()) {
                panic!("{name} is in {} and in {}", other.display(), file.display());
            }
        }
    }
    assert!(seen.len() > 200, "{} types", seen.len());
}

/// Whether a word stands anywhere in a text.
fn has_word(text: &str, word: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        !text[..at].ends_with(is_word) && !text[at + word.len()..].starts_with(is_word)
    })
}

#[test]
fn what_is_public_is_used_by_another_file() {
    let mut texts: Vec<(PathBuf, String)> = Vec::new();
    for dir in ["src", "tests/fuzz", "tests/bench"] {
        for file in rust_files(&top().join(dir)) {
            let text = fs::read_to_string(&file).unwrap();
            texts.push((file, text));
        }
    }
    let mut needless = Vec::new();
    for file in rust_files(&top().join("src")) {
        // A type may have to be public because a public function gives it.
        for (name, public) in declared(&production(&file), &["fn", "static"]) {
            let used = |(other, text): &(PathBuf, String)| other != &file && has_word(text, &name);
            if public && !texts.iter().any(used) {
                needless.push(format!("{}: {name}", short(&file)));
            }
        }
    }
    assert!(
        needless.len() <= NEEDLESSLY_PUBLIC,
        "public, and used by their own file alone: {}",
        needless.join(", ")
    );
}

fn short(file: &Path) -> String {
    file.strip_prefix(top())
        .unwrap_or(file)
        .display()
        .to_string()
}
