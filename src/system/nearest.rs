//! The word that somebody meant who wrote another one.

/// The word that was probably meant, if one of these is near.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let all = known.into_iter();
    let nearest = all.map(|known| (distance(word, known), known)).min();
    // A third of the letters may differ, one in a short word; what is further away is a guess.
    let near = |distance: usize, known: &str| distance <= (known.len().max(word.len()) / 3).max(1);
    nearest.and_then(|(distance, known)| near(distance, known).then_some(known))
}

/// How many letters have to be changed, added or left out, or neighbours to change places, to make one word of the other.
fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let mut rows = vec![(0..=other.len()).collect::<Vec<usize>>()];
    for (line, letter) in one.iter().enumerate() {
        let above = &rows[line];
        let mut row = vec![line + 1];
        for (at, against) in other.iter().enumerate() {
            let changed = above[at] + usize::from(letter != against);
            let mut least = changed.min(above[at + 1] + 1).min(row[at] + 1);
            let swapped =
                line > 0 && at > 0 && *letter == other[at - 1] && one[line - 1] == *against;
            if swapped {
                least = least.min(rows[line - 1][at - 1] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[one.len()][other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_near() {
        let known = ["deploy", "show", "stop", "start", "status", "env", "op"];
        let table = [
            ("deplyo", Some("deploy")),
            ("depoly", Some("deploy")),
            ("Deploy", Some("deploy")),
            ("stat", Some("start")),
            ("shwo", Some("show")),
            ("sho", Some("show")),
            ("en", Some("env")),
            ("x", None),
            ("", None),
            ("teleport", None),
        ];
        for (word, expected) in table {
            assert_eq!(nearest(word, known), expected, "{word}");
        }
    }
}
