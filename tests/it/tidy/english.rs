//! Texts are plain English.

use super::{production, rust_files, top};

/// How often a text or a comment says "is no directory" instead of "is not a directory". It may only fall.
const IS_NO: usize = 130;

#[test]
fn nothing_is_no_thing() {
    let mut found = Vec::new();
    for file in rust_files(&top().join("src")) {
        for (number, line) in production(&file).lines().enumerate() {
            let words: Vec<&str> = line
                .split(|c: char| !c.is_alphabetic())
                .filter(|word| !word.is_empty())
                .collect();
            let is_no = words.windows(3).any(|words| {
                let [verb, no, noun] = words else {
                    return false;
                };
                // "It is no longer there" is plain English.
                ["is", "are", "was", "were"].contains(verb)
                    && *no == "no"
                    && noun.starts_with(|c: char| c.is_lowercase())
                    && !["longer", "more", "less"].contains(noun)
            });
            if is_no {
                let file = file.strip_prefix(top()).unwrap();
                found.push(format!(
                    "{}:{}: {}",
                    file.display(),
                    number + 1,
                    line.trim()
                ));
            }
        }
    }
    assert!(
        found.len() <= IS_NO,
        "{} times:\n{}",
        found.len(),
        found.join("\n")
    );
}
