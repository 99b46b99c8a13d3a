//! Archives made by hand for the tests, good and evil, and the directories to unpack them into.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::Header;

use crate::api::error::Refusal;
use crate::formats::archive::lz4::Lz4;
use crate::formats::archive::{Limits, Unpacked, unpack};

/// A directory that is removed at the end.
pub(super) struct Temporary(pub(super) PathBuf);

impl Temporary {
    pub(super) fn new() -> Temporary {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "gangplank-archive-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Temporary(path)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // A test that left something unremovable fails: that is part of what is promised.
        match fs::remove_dir_all(&self.0) {
            Err(error) if !std::thread::panicking() => panic!("{}: {error}", self.0.display()),
            _ => {}
        }
    }
}

/// What a decoder reads of `packed`, which it gets in pieces of this size.
pub(super) fn by_pieces<'a, D: Read>(
    packed: &'a [u8],
    piece: usize,
    decoder: impl Fn(BufReader<&'a [u8]>) -> D,
) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    decoder(BufReader::with_capacity(piece, packed)).read_to_end(&mut text)?;
    Ok(text)
}

/// What a decoder reads of `packed` as a whole, and in pieces of some sizes, which give the same.
pub(super) fn whole_and_by_pieces<'a, D: Read>(
    packed: &'a [u8],
    pieces: [usize; 3],
    decoder: impl Fn(BufReader<&'a [u8]>) -> D,
) -> io::Result<Vec<u8>> {
    let whole = by_pieces(packed, 1 << 20, &decoder);
    for piece in pieces {
        let again = by_pieces(packed, piece, &decoder);
        assert_eq!(again.as_ref().ok(), whole.as_ref().ok(), "by {piece}");
    }
    whole
}

/// One entry: its header as told, its content padded.
pub(super) fn entry(kind: u8, path: &[u8], mode: u32, target: &[u8], data: &[u8]) -> Vec<u8> {
    sized(kind, path, mode, target, data, data.len() as u64)
}

/// An entry that claims to have `size` bytes.
pub(super) fn sized(
    kind: u8,
    path: &[u8],
    mode: u32,
    target: &[u8],
    data: &[u8],
    size: u64,
) -> Vec<u8> {
    let mut header = Header::new_gnu();
    let old = header.as_old_mut();
    old.name[..path.len()].copy_from_slice(path);
    old.linkname[..target.len()].copy_from_slice(target);
    old.linkflag = [kind];
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// A regular file.
pub(super) fn file(path: &str, data: &str) -> Vec<u8> {
    entry(b'0', path.as_bytes(), 0o644, b"", data.as_bytes())
}

/// A directory.
pub(super) fn dir(path: &str, mode: u32) -> Vec<u8> {
    entry(b'5', path.as_bytes(), mode, b"", b"")
}

/// A symlink.
pub(super) fn link(path: &str, target: &str) -> Vec<u8> {
    entry(b'2', path.as_bytes(), 0o777, target.as_bytes(), b"")
}

/// A hard link.
pub(super) fn hard(path: &str, target: &str) -> Vec<u8> {
    entry(b'1', path.as_bytes(), 0o644, target.as_bytes(), b"")
}

/// GNU's sparse file: one byte at the end of a terabyte.
pub(super) fn sparse(path: &str) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.set_path(path).unwrap();
    header.set_entry_type(tar::EntryType::GNUSparse);
    header.set_mode(0o644);
    header.set_size(1);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.set_real_size(1 << 40);
    gnu.sparse[0].set_offset((1 << 40) - 1);
    gnu.sparse[0].set_length(1);
    header.set_cksum();
    [header.as_bytes().to_vec(), vec![0; 512]].concat()
}

/// A PAX header with these records, before the entry that it describes.
pub(super) fn pax(kind: u8, records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut data = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut len = rest + 1;
        while len != rest + len.to_string().len() {
            len = rest + len.to_string().len();
        }
        data.extend_from_slice(format!("{len} {key}=").as_bytes());
        data.extend_from_slice(value);
        data.push(b'\n');
    }
    entry(kind, b"pax", 0o644, b"", &data)
}

/// The archive of these entries, with its end marker.
pub(super) fn tar(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = entries.concat();
    bytes.extend_from_slice(&[0; 1024]);
    bytes
}

/// Bytes without any pattern, the same each time.
pub(super) fn random(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.push((state >> 32) as u8);
    }
    bytes
}

/// Lines that differ in a number.
pub(super) fn text(len: usize) -> Vec<u8> {
    let lines = (0..).map(|number| format!("line {number} of a text that shrinks well\n"));
    lines.flat_map(String::into_bytes).take(len).collect()
}

/// One frame of lz4.
pub(super) fn lz4(plain: &[u8]) -> Vec<u8> {
    let mut frame = Lz4::new(Vec::new()).unwrap();
    frame.write_all(plain).unwrap();
    frame.finish().unwrap()
}

/// One gzip member.
pub(super) fn gz(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

/// Gives its bytes in reads of at most `step`, then fails or ends.
pub(super) struct Source<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) step: usize,
    pub(super) failure: Option<io::Error>,
}

impl<'a> Source<'a> {
    pub(super) fn new(bytes: &'a [u8], step: usize) -> Source<'a> {
        Source {
            bytes,
            step,
            failure: None,
        }
    }
}

impl Read for Source<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.bytes.is_empty() {
            return self.failure.take().map_or(Ok(0), Err);
        }
        let len = into.len().min(self.step).min(self.bytes.len());
        into[..len].copy_from_slice(&self.bytes[..len]);
        self.bytes = &self.bytes[len..];
        Ok(len)
    }
}

/// No limits worth the name.
pub(super) const LIMITS: Limits = Limits {
    max_payload: None,
    max_entries: 1_000_000,
    min_free_disk: 0,
};

/// Unpacks into `at/release` and stores at `at/payload`.
pub(super) fn unpack_at(
    at: &Path,
    source: &mut dyn Read,
    limits: &Limits,
) -> Result<Unpacked, Refusal> {
    let release = at.join("release");
    fs::create_dir(&release).unwrap();
    let payload = File::create(at.join("payload")).unwrap();
    unpack(source, Some(&payload), &release, limits, None, &mut |_| {})
}

/// A tree as sorted lines: `path/ mode`, `path mode content`, `path -> target`. The modes of links do not count.
pub(super) fn tree(root: &Path) -> Vec<String> {
    fn walk(root: &Path, at: &Path, lines: &mut Vec<String>) {
        for child in fs::read_dir(root.join(at)).unwrap() {
            let path = at.join(child.unwrap().file_name());
            let full = root.join(&path);
            let metadata = fs::symlink_metadata(&full).unwrap();
            let mode = metadata.permissions().mode() & 0o7777;
            let shown = path.display();
            if metadata.is_dir() {
                lines.push(format!("{shown}/ {mode:o}"));
                walk(root, &path, lines);
            } else if metadata.is_symlink() {
                lines.push(format!(
                    "{shown} -> {}",
                    fs::read_link(&full).unwrap().display()
                ));
            } else {
                let content = fs::read(&full).unwrap();
                lines.push(format!(
                    "{shown} {mode:o} {}",
                    String::from_utf8_lossy(&content)
                ));
            }
        }
    }
    let mut lines = Vec::new();
    walk(root, Path::new(""), &mut lines);
    lines.sort();
    lines
}
