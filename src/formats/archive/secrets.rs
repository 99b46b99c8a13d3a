//! What stays out of a release because it is a secret: others can read a release, and its archive is kept.

use std::io::{self, Read};

/// Endings of the files that show which settings there are, without secrets in them.
const SAMPLES: [&[u8]; 4] = [b".example", b".sample", b".template", b".defaults"];

/// How ssh-keygen calls its private keys.
const KEYS: [&[u8]; 3] = [b"id_rsa", b"id_ecdsa", b"id_ed25519"];

const BEGIN: &[u8] = b"-----BEGIN ";

/// In so many bytes a private key comes, behind the certificates that it may stand with.
const SEARCHED: u64 = 64 * 1024;

/// Whether a name alone tells a secret: a file of settings such as `.env`, or a private key of ssh.
pub(super) fn by_name(name: &[u8]) -> bool {
    let settings = name == b".env" || name.starts_with(b".env.");
    (settings && !SAMPLES.iter().any(|end| name.ends_with(end))) || KEYS.contains(&name)
}

/// Whether a file holds a private key in PEM. One that is not called so is looked into only if it begins as PEM.
pub(super) fn is_private_key(name: &[u8], mut file: impl Read) -> io::Result<bool> {
    let mut text = Vec::new();
    // Enough for the mark, and for a byte order mark and a few blank lines before it.
    file.by_ref().take(32).read_to_end(&mut text)?;
    let start = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text);
    let called_so = [&b".pem"[..], b".key"]
        .iter()
        .any(|end| name.ends_with(end));
    if !called_so && !start.trim_ascii_start().starts_with(BEGIN) {
        return Ok(false);
    }
    file.take(SEARCHED).read_to_end(&mut text)?;
    Ok(text.split(|byte| *byte == b'\n').any(|line| {
        let line = line.trim_ascii();
        let label = line
            .strip_prefix(BEGIN)
            .and_then(|rest| rest.strip_suffix(b"-----"));
        label.is_some_and(|label| {
            label.ends_with(b"PRIVATE KEY") || label.ends_with(b"PRIVATE KEY BLOCK")
        })
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_secrets() {
        let table = [
            (".env", true),
            (".env.production", true),
            (".env.local", true),
            (".env.example", false),
            (".env.local.example", false),
            (".env.sample", false),
            (".env.template", false),
            (".env.defaults", false),
            (".envrc", false),
            ("a.env", false),
            ("id_rsa", true),
            ("id_ecdsa", true),
            ("id_ed25519", true),
            ("id_rsa.pub", false),
        ];
        for (name, secret) in table {
            assert_eq!(by_name(name.as_bytes()), secret, "{name}");
        }
    }

    #[test]
    fn private_keys_are_known_by_how_they_begin() {
        let begin = |label: &str| format!("-----BEGIN {label}-----\nMII\n");
        let chain = begin("CERTIFICATE").repeat(100);
        let table = [
            ("a", begin("PRIVATE KEY"), true),
            ("a", begin("RSA PRIVATE KEY"), true),
            ("a", begin("EC PRIVATE KEY"), true),
            ("a", begin("OPENSSH PRIVATE KEY"), true),
            ("a", begin("ENCRYPTED PRIVATE KEY"), true),
            ("a", begin("PGP PRIVATE KEY BLOCK"), true),
            ("a", begin("EC PARAMETERS") + &begin("EC PRIVATE KEY"), true),
            (
                "a",
                format!("\u{feff}\r\n{}", begin("PRIVATE KEY").replace('\n', "\r\n")),
                true,
            ),
            ("a.pem", chain.clone() + &begin("PRIVATE KEY"), true),
            (
                "a.pem",
                format!("Bag Attributes\n    x\n{}", begin("PRIVATE KEY")),
                true,
            ),
            ("a.pem", chain, false),
            ("a", begin("PUBLIC KEY"), false),
            ("a.md", format!("# How to\n{}", begin("PRIVATE KEY")), false),
            ("a", "-----BEGIN ".into(), false),
            ("a", String::new(), false),
        ];
        for (name, text, key) in table {
            let found = is_private_key(name.as_bytes(), text.as_bytes()).unwrap();
            assert_eq!(found, key, "{name}: {text:.60}");
        }
    }
}
