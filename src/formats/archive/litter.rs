//! What macOS leaves in every directory that it looks at, and in every archive that it makes: no part of what is deployed.

/// Whether a path is litter by its name alone: Finder's `.DS_Store`, and the tree `__MACOSX` beside what was archived.
pub(super) fn by_name(path: &[u8]) -> bool {
    let mut components = path.split(|&byte| byte == b'/');
    last(path) == b".DS_Store" || components.any(|component| component == b"__MACOSX")
}

/// Whether a file may hold the attributes of the file that has the rest of its name. Only [`APPLE_DOUBLE`] tells: somebody
/// may name a file so that is meant to be there.
pub(super) fn may_be_apple_double(path: &[u8]) -> bool {
    last(path).starts_with(b"._")
}

fn last(path: &[u8]) -> &[u8] {
    let mut components = path.rsplit(|&byte| byte == b'/');
    components.next().unwrap_or_default()
}

/// How AppleDouble begins, the format in which macOS keeps attributes where a file system has no place for them.
pub(super) const APPLE_DOUBLE: [u8; 4] = [0, 5, 0x16, 7];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_some_of_it() {
        let table = [
            (".DS_Store", true, false),
            ("a/.DS_Store", true, false),
            ("__MACOSX", true, false),
            ("__MACOSX/a/._b", true, true),
            ("a/__MACOSX/b", true, false),
            ("a.DS_Store", false, false),
            (".DS_Store/a", false, false),
            ("MACOSX", false, false),
            ("a/._b", false, true),
            ("._b/a", false, false),
        ];
        for (path, litter, perhaps) in table {
            let found = (
                by_name(path.as_bytes()),
                may_be_apple_double(path.as_bytes()),
            );
            assert_eq!(found, (litter, perhaps), "{path}");
        }
    }
}
