//! What a payload is that is not tar: naming it saves its sender the search.

/// The word for what begins with these bytes, if it is known.
pub(super) fn name(start: &[u8]) -> Option<&'static str> {
    let known = MAGIC.iter().find(|(magic, _)| start.starts_with(magic));
    known.map(|(_, name)| *name).or_else(|| text(start))
}

/// First bytes, the longer before the shorter of one beginning.
const MAGIC: &[(&[u8], &str)] = &[
    (b"PK\x03\x04", "a zip archive"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"PK\x07\x08", "a zip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a rar archive"),
    (b"\xfd7zXZ\0", "an xz file"),
    (b"BZh", "a bzip2 file"),
    (b"\x28\xb5\x2f\xfd", "a zstd file"),
    (b"\x04\x22\x4d\x18", "an lz4 file"),
    (b"\x02\x21\x4c\x18", "an lz4 file of the legacy format"),
    (b"LZIP", "an lzip file"),
    (b"\x5d\0\0", "an lzma file"),
    (b"\x1f\x8b", "gzip"),
    (b"\x1f\x9d", "a file of compress (.Z)"),
    (b"070701", "a cpio archive"),
    (b"070702", "a cpio archive"),
    (b"070707", "a cpio archive"),
    (b"\xc7\x71", "a cpio archive"),
    (b"\x71\xc7", "a cpio archive"),
    (b"!<arch>\n", "an ar archive or a Debian package"),
    (b"\xed\xab\xee\xdb", "an RPM package"),
    (b"\x7fELF", "a program"),
    (b"%PDF", "a PDF file"),
    (b"\x89PNG", "a PNG image"),
    (b"version https://git-lfs.github.com/", "a Git LFS pointer"),
];

/// What a text is, if it is one.
fn text(start: &[u8]) -> Option<&'static str> {
    let start = start.strip_prefix("\u{feff}".as_bytes()).unwrap_or(start);
    let control = |byte: &u8| byte.is_ascii_control() && !byte.is_ascii_whitespace();
    if start.iter().any(control) {
        return None;
    }
    let cut = match std::str::from_utf8(start) {
        Ok(text) => text,
        // The last character may go on behind what is looked at.
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&start[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return None,
    };
    let begin = cut.trim_start().chars().take(16).collect::<String>();
    let begin = begin.to_ascii_lowercase();
    let begins = |words: &[&str]| words.iter().any(|word| begin.starts_with(word));
    if begins(&["<!doctype", "<html", "<head", "<body"]) {
        Some("an HTML page")
    } else if begins(&["<"]) {
        Some("XML")
    } else if begins(&["{", "["]) {
        Some("JSON")
    } else if begins(&["#!"]) {
        Some("a script")
    } else if begins(&["h4sia"]) {
        Some("a gzip file in base64")
    } else {
        Some("text")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_named() {
        let table: &[(&[u8], Option<&str>)] = &[
            (b"PK\x03\x04\x14\0", Some("a zip archive")),
            (b"7z\xbc\xaf\x27\x1c", Some("a 7z archive")),
            (b"\xfd7zXZ\0\0", Some("an xz file")),
            (b"BZh91AY&SY", Some("a bzip2 file")),
            (b"\x28\xb5\x2f\xfd\x24", Some("a zstd file")),
            (b"0707010000", Some("a cpio archive")),
            (b"\xc7\x71\0", Some("a cpio archive")),
            (b"\x1f\x8b\x08", Some("gzip")),
            (b"  <!DOCTYPE html>", Some("an HTML page")),
            (b"\xef\xbb\xbf<HTML>", Some("an HTML page")),
            (b"<?xml version='1.0'?>", Some("XML")),
            (b"\n{\"a\":1}", Some("JSON")),
            (
                b"version https://git-lfs.github.com/spec/v1\n",
                Some("a Git LFS pointer"),
            ),
            (b"H4sIAAAAAAAAA+3R", Some("a gzip file in base64")),
            (b"#!/bin/sh\n", Some("a script")),
            (b"hello \xc3", Some("text")),
            (b"hello \xff", None),
            (b"\0\x01", None),
        ];
        for (start, expected) in table {
            assert_eq!(name(start), *expected, "{}", start.escape_ascii());
        }
    }
}
