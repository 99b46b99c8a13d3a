//! How quick the link to each server was the last time, in the directory of the [`cache`](crate::client::cache): so that the next
//! upload begins with the right codec. Nothing depends on it: what is not as it was shows itself within the first mebibyte.

use std::fs::File;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::client::Client;
use crate::system::files::{Durability, make_dirs, read_up_to, replace};
use crate::system::{hex, paths};

const FILE: &str = "links";
/// So many targets are remembered, those that were measured last: a line of some 30 bytes each.
const KEPT: usize = 64;
/// What is longer is something else.
const FILE_MAX: u64 = 8 << 10;

/// What is remembered of the link to one target.
#[derive(Debug)]
pub(crate) struct LinkSpeed {
    file: PathBuf,
    target: String,
}

impl LinkSpeed {
    /// None where this user has no such directory.
    pub(crate) fn of(client: &Client) -> Option<LinkSpeed> {
        let dir = paths::cache_dir().ok()?;
        Some(LinkSpeed::at(&dir, &client.target.to_string()))
    }

    fn at(dir: &Path, target: &str) -> LinkSpeed {
        let hash = hex::encode(Sha256::digest(target.as_bytes()));
        LinkSpeed {
            file: dir.join(FILE),
            target: hash[..16].to_owned(),
        }
    }

    /// How many bytes a second it took.
    pub(crate) fn known(&self) -> Option<u64> {
        let speed = |line: String| line.split_once(' ')?.1.parse().ok();
        let own = self.lines().into_iter().find(|line| self.is_own(line));
        own.and_then(speed).filter(|speed| *speed > 0)
    }

    /// It took so many now.
    pub(crate) fn keep(&self, speed: u64) {
        let others = self.lines().into_iter().filter(|line| !self.is_own(line));
        let own = format!("{} {speed}", self.target);
        let lines: Vec<String> = [own].into_iter().chain(others).take(KEPT).collect();
        let text = lines.join("\n") + "\n";
        let dir = self.file.parent().unwrap_or(Path::new("."));
        // Without it the next upload begins as the first one did.
        let _ = make_dirs(dir, 0o700)
            .and_then(|()| replace(&self.file, text.as_bytes(), 0o600, Durability::None));
    }

    fn is_own(&self, line: &str) -> bool {
        let of = line.split_once(' ').map(|(of, _)| of);
        of == Some(&*self.target)
    }

    fn lines(&self) -> Vec<String> {
        let read = File::open(&self.file).and_then(|file| read_up_to(file, FILE_MAX));
        let text = read.ok().flatten().unwrap_or_default();
        String::from_utf8_lossy(&text)
            .lines()
            .map(str::to_owned)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_links_that_were_measured_last_are_remembered() {
        let dir = std::env::temp_dir().join(format!("gangplank-links-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let of = |n: usize| LinkSpeed::at(&dir.join("cache"), &format!("https://host-{n}"));
        assert_eq!(of(0).known(), None);
        for n in 0..KEPT + 2 {
            of(n).keep(n as u64 + 1);
        }
        of(3).keep(12_500_000);
        let known: Vec<_> = (0..KEPT + 2).map(|n| of(n).known()).collect();
        assert_eq!(known[..5], [None, None, Some(3), Some(12_500_000), Some(5)]);
        assert_eq!(known[KEPT + 1], Some(KEPT as u64 + 2));
        let metadata = fs::metadata(&of(0).file).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        assert!(metadata.len() < FILE_MAX, "{}", metadata.len());
        // What is damaged is as good as nothing, and replaced.
        let names = [of(7).target, of(8).target];
        let damaged = [
            String::new(),
            "\0\u{fffd} x\n\n".to_owned(),
            format!("{} -1\n{} 0\n", names[0], names[1]),
            format!("{} 99999999999999999999999\n{}", names[0], names[1]),
            "x".repeat(100_000),
        ];
        for text in damaged {
            fs::write(&of(0).file, text).unwrap();
            assert_eq!((of(7).known(), of(8).known()), (None, None));
            of(7).keep(5);
            assert_eq!(of(7).known(), Some(5));
        }
        fs::remove_dir_all(&dir).unwrap();
        // A file in the way of the directory is no trouble.
        fs::write(&dir, "").unwrap();
        of(1).keep(1);
        assert_eq!(of(1).known(), None);
        fs::remove_file(&dir).unwrap();
    }
}
