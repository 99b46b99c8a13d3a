//! The SHA-256 of a content, or of the list of a tree.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use sha2::{Digest, Sha256};

use crate::system::hex;

/// How many bytes a hash has.
pub const HASH_LEN: usize = 32;

/// How many letters it has in a list: base64 without the sign at its end.
pub(super) const HASH_TEXT_LEN: usize = 43;

/// A SHA-256. It is shown as hexadecimal digits, as `sha256sum` does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentHash(pub [u8; HASH_LEN]);

impl ContentHash {
    pub fn of(bytes: &[u8]) -> ContentHash {
        Sha256::digest(bytes).into()
    }

    /// As a list has it, which takes two thirds of the letters that hexadecimal digits take.
    pub(super) fn write_to(self, text: &mut Vec<u8>) {
        let at = text.len();
        text.resize(at + HASH_TEXT_LEN, 0);
        // The room is exactly what 32 bytes take.
        let _ = STANDARD_NO_PAD.encode_slice(self.0, &mut text[at..]);
    }

    pub(super) fn from_text(text: &[u8]) -> Option<ContentHash> {
        // The decoder panics where its output has no room.
        if text.len() != HASH_TEXT_LEN {
            return None;
        }
        let mut hash = [0; HASH_LEN];
        match STANDARD_NO_PAD.decode_slice_unchecked(text, &mut hash) {
            Ok(HASH_LEN) => Some(ContentHash(hash)),
            _ => None,
        }
    }
}

impl From<sha2::digest::Output<Sha256>> for ContentHash {
    fn from(digest: sha2::digest::Output<Sha256>) -> ContentHash {
        ContentHash(digest.into())
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not a hash.
#[derive(Debug, PartialEq, Eq)]
pub struct NotAHash;

impl FromStr for ContentHash {
    type Err = NotAHash;

    fn from_str(text: &str) -> Result<ContentHash, NotAHash> {
        let bytes = text.as_bytes();
        let mut hash = [0; HASH_LEN];
        if bytes.len() != 2 * HASH_LEN {
            return Err(NotAHash);
        }
        for (byte, pair) in hash.iter_mut().zip(bytes.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(ContentHash(hash))
    }
}

/// In lower case, so that each hash has one text.
fn digit(letter: u8) -> Result<u8, NotAHash> {
    match letter {
        b'0'..=b'9' => Ok(letter - b'0'),
        b'a'..=b'f' => Ok(letter - b'a' + 10),
        _ => Err(NotAHash),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_has_two_texts_and_no_third() {
        let hash = ContentHash::of(b"x");
        let hex = hash.to_string();
        assert_eq!(hex.parse(), Ok(hash));
        let mut text = Vec::new();
        hash.write_to(&mut text);
        assert_eq!(ContentHash::from_text(&text), Some(hash));
        for bad in ["", "12", &hex[1..], &hex.to_uppercase(), &format!("{hex}0")] {
            assert_eq!(bad.parse::<ContentHash>(), Err(NotAHash), "{bad}");
        }
        let mut padded = text.clone();
        padded.push(b'=');
        // The last letter has two bits that belong to nothing.
        let mut odd = text.clone();
        *odd.last_mut().unwrap() = b'/';
        let long = text.repeat(2);
        for bad in [&text[1..], &padded, &odd, &long, b""] {
            assert_eq!(ContentHash::from_text(bad), None);
        }
    }
}
