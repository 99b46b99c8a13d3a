//! The peers of a server, by flags and by a file.

use std::path::{Path, PathBuf};

use super::{FlagReader, is_name, pair};
use crate::cli::arguments::Usage;
use crate::client::Target;
use crate::engine::peers::PeerOptions;

impl FlagReader<'_> {
    /// The peers of the flags, and those of the file.
    pub(super) fn peers(&mut self) -> Result<Vec<PeerOptions>, Usage> {
        let mut peers: Vec<PeerOptions> = Vec::new();
        for (name, url) in self.all("--peer", pair)? {
            if peers.iter().any(|peer| peer.name == name) {
                return Err(Usage::new(format!("--peer {name} was given twice")));
            }
            peers.push(PeerOptions {
                name,
                url,
                token_file: None,
                ca: None,
            });
        }
        if let Some(file) = self.get("--peers-file", |path| Ok(PathBuf::from(path)))? {
            add_file(&file, &mut peers)?;
        }
        for flag in ["--peer-token-file", "--peer-ca"] {
            for (name, path) in self.all(flag, pair)? {
                let Some(peer) = peers.iter_mut().find(|peer| peer.name == name) else {
                    return Err(Usage::new(format!(
                        "{flag} {name}: no --peer has that name"
                    )));
                };
                let path = Some(PathBuf::from(path));
                if flag == "--peer-ca" {
                    peer.ca = path;
                } else {
                    peer.token_file = path;
                }
            }
        }
        Ok(peers)
    }
}

/// Adds the peers of a file.
fn add_file(file: &Path, peers: &mut Vec<PeerOptions>) -> Result<(), Usage> {
    let named = |why: String| Usage::new(format!("--peers-file {}{why}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| named(format!(": {error}")))?;
    let dir = file.parent().unwrap_or(Path::new(""));
    for (n, line) in text.lines().enumerate() {
        let peer = peer(line, dir).and_then(|peer| match peer {
            Some(peer) if peers.iter().any(|one| one.name == peer.name) => {
                Err(format!("the peer {} was given before", peer.name))
            }
            peer => Ok(peer),
        });
        peers.extend(peer.map_err(|why| named(format!(":{}: {why}", n + 1)))?);
    }
    Ok(())
}

/// A line of it: `NAME URL [TOKEN_FILE [CA_FILE]]`. A path is relative to the file's directory.
fn peer(line: &str, dir: &Path) -> Result<Option<PeerOptions>, String> {
    let words = line.split_whitespace();
    let words: Vec<&str> = words.take_while(|word| !word.starts_with('#')).collect();
    let (name, url, files) = match words[..] {
        [] => return Ok(None),
        [name, url, ref files @ ..] if files.len() <= 2 => (name, url, files),
        _ => return Err("expected NAME URL [TOKEN_FILE [CA_FILE]]".to_owned()),
    };
    if !is_name(name) {
        let name = name.escape_debug();
        return Err(format!(
            "'{name}' is not a name: it may have letters, digits, '-', '_' and '.'"
        ));
    }
    Target::parse(url).map_err(|error| error.to_string())?;
    let path = |n: usize| files.get(n).map(|file: &&str| dir.join(file));
    let (token_file, ca) = (path(0), path(1));
    for path in [&token_file, &ca].into_iter().flatten() {
        std::fs::File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(Some(PeerOptions {
        name: name.to_owned(),
        url: url.to_owned(),
        token_file,
        ca,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_peer_or_says_what_is_wrong() {
        let dir = std::env::temp_dir();
        for nothing in ["", "  ", "# two http://two"] {
            assert_eq!(peer(nothing, &dir), Ok(None), "{nothing}");
        }
        let two = peer("two  http://two:9925 # the second", &dir)
            .unwrap()
            .unwrap();
        assert_eq!((&*two.name, &*two.url), ("two", "http://two:9925"));
        assert_eq!((two.token_file, two.ca), (None, None));
        let wrong = [
            ("two", "expected NAME URL"),
            ("two http://two a b c", "expected NAME URL"),
            ("t/o http://two", "'t/o' is not a name"),
            ("two ftp://two", "ftp"),
            ("two http://two gangplank-has-no-such-file", "No such file"),
        ];
        for (line, part) in wrong {
            let why = peer(line, &dir).unwrap_err();
            assert!(why.contains(part), "{line}: {why}");
        }
    }
}
