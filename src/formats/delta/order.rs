//! The order of paths: a directory's content follows it at once, since a slash sorts before every other byte. So a reader
//! that keeps the directories on the way knows whether an entry's directory was there.

use std::cmp::Ordering;

/// Compares two paths.
pub fn compare(one: &[u8], other: &[u8]) -> Ordering {
    // No name has a NUL in it.
    let weight = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    let same = one.iter().zip(other).take_while(|(a, b)| a == b).count();
    let (one, other) = (one.get(same).map(weight), other.get(same).map(weight));
    one.cmp(&other)
}

/// The directories that lead to where a reader is.
#[derive(Debug, Default)]
pub struct Way {
    path: Vec<u8>,
    lengths: Vec<usize>,
}

impl Way {
    /// Goes on to an entry. False if the directory that holds it is not on the way.
    pub fn leads_to(&mut self, path: &[u8]) -> bool {
        while let Some(length) = self.lengths.last() {
            if path.len() > *length
                && path.starts_with(&self.path[..*length])
                && path[*length] == b'/'
            {
                break;
            }
            self.lengths.pop();
        }
        let depth = self.lengths.last().map_or(0, |length| length + 1);
        !path[depth.min(path.len())..].contains(&b'/')
    }

    /// The entry that it leads to is a directory.
    pub fn enter(&mut self, path: &[u8]) {
        self.path.clear();
        self.path.extend_from_slice(path);
        self.lengths.push(path.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_followed_by_what_is_in_it() {
        let mut paths = ["b", "a-b", "a/b", "a", "a/b/c", "a.txt", "a/b-c", ""];
        paths.sort_by(|a, b| compare(a.as_bytes(), b.as_bytes()));
        assert_eq!(
            paths,
            ["", "a", "a/b", "a/b/c", "a/b-c", "a-b", "a.txt", "b"]
        );
    }

    #[test]
    fn the_way_leads_through_directories_alone() {
        let mut way = Way::default();
        let table = [
            ("a", true, true),
            ("a/b", true, true),
            ("a/b/c", true, false),
            ("a/b/c/d", false, false),
            ("a/x", true, false),
            ("ab", true, true),
            ("ab/c/d", false, false),
            ("ab/c", true, false),
            ("a/y", false, false),
        ];
        for (path, leads, directory) in table {
            assert_eq!(way.leads_to(path.as_bytes()), leads, "{path}");
            if directory {
                way.enter(path.as_bytes());
            }
        }
    }
}
