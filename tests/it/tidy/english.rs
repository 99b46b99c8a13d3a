//! Texts are plain English.

use super::{production, rust_files, top};

#[test]
fn nothing_is_no_thing() {
    let mut found = Vec::new();
    for file in rust_files(&top().join("src")) {
        for (number, line) in production(&file).lines().enumerate() {
            let mut words = vec![""];
            let all = line.split(|c: char| !c.is_alphabetic());
            words.extend(all.filter(|word| !word.is_empty()));
            let is_no = words.windows(4).any(|words| {
                let [subject, verb, no, noun] = words else {
                    return false;
                };
                // "There is no such component" and "it is no longer there" are plain English.
                !subject.eq_ignore_ascii_case("there")
                    && ["is", "are", "was", "were"].contains(verb)
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
    // "Is not a directory", never "is no directory".
    assert!(found.is_empty(), "{}", found.join("\n"));
}
