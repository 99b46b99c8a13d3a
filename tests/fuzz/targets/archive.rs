//! Archives: whatever one holds, nothing but its release and its stored payload is written, and a release that was accepted
//! holds nothing but directories, files and links that stay inside. However it arrives, the outcome is the same.
#![no_main]

use std::collections::HashMap;
use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use gangplank::api::error::{Code, Refusal};
use gangplank::formats::archive::{Limits, Unpacked, unpack};
use gangplank_fuzz::craft::Archive;
use libfuzzer_sys::fuzz_target;

const CANARY: &[u8] = b"nobody touches it";

/// Linux's number for too many links on the way; the standard library has no stable name for it yet.
const ELOOP: i32 = 40;

/// Fewer than an input can bring, so that the limit is met too.
const ENTRIES: u64 = 100;

fuzz_target!(|archive: Archive| {
    let bytes = archive.bytes();
    let first = outcome(&bytes, archive.steps.0);
    let second = outcome(&bytes, archive.steps.1);
    assert_eq!(first, second, "it depends on how it arrives");
    match first {
        Err(refusal) => {
            let known = [Code::BadArchive, Code::BadRequest];
            assert!(known.contains(&refusal.code), "{refusal}");
            assert!(!refusal.message.contains(char::is_control), "{refusal}");
        }
        Ok((unpacked, _)) => assert_eq!(unpacked.payload_size, bytes.len() as u64),
    }
});

/// Gives some bytes at once.
struct Source<'a> {
    bytes: &'a [u8],
    step: usize,
}

impl Read for Source<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let len = into.len().min(self.step).min(self.bytes.len());
        into[..len].copy_from_slice(&self.bytes[..len]);
        self.bytes = &self.bytes[len..];
        Ok(len)
    }
}

/// What it is unpacked to, as a sorted list, or why not.
fn outcome(bytes: &[u8], step: u16) -> Result<(Unpacked, Vec<String>), Refusal> {
    let world = World::new();
    let limits = Limits {
        max_payload: None,
        max_entries: ENTRIES,
        min_free_disk: 0,
    };
    let mut source = Source {
        bytes,
        // At least some hundredth: each read is a turn of two threads.
        step: usize::from(step).max(bytes.len() / 128).max(1),
    };
    let payload = File::create(world.inner.join("payload")).expect("a file");
    let release = world.inner.join("release");
    let unpacked = unpack(
        &mut source,
        Some(&payload),
        &release,
        &limits,
        None,
        &mut |_| {},
    );
    world.untouched();
    let unpacked = unpacked?;
    assert!(fs::read(world.inner.join("payload")).expect("it is stored") == bytes);
    let mut found = Found::default();
    found.walk(&release, Path::new(""));
    found.judge(&release, &unpacked);
    found.lines.sort();
    Ok((unpacked, found.lines))
}

/// A directory in a directory, with things beside the release that must stay as they are.
struct World {
    outer: PathBuf,
    inner: PathBuf,
}

impl World {
    fn new() -> World {
        // In memory, where there is such a place.
        let memory = Path::new("/dev/shm");
        let temporary = std::env::temp_dir();
        let base = if memory.is_dir() { memory } else { &temporary };
        let outer = base.join(format!("gangplank-fuzz-{}", std::process::id()));
        // An earlier process of this number may have been killed.
        let _ = fs::remove_dir_all(&outer);
        let inner = outer.join("inner");
        fs::create_dir_all(inner.join("release")).expect("a directory");
        for at in [&outer, &inner] {
            let canary = at.join("canary");
            fs::write(&canary, CANARY).expect("a file");
            fs::set_permissions(&canary, Permissions::from_mode(0o640)).expect("a mode");
        }
        World { outer, inner }
    }

    fn untouched(&self) {
        assert_eq!(names(&self.outer), ["canary", "inner"]);
        assert_eq!(names(&self.inner), ["canary", "payload", "release"]);
        for at in [&self.outer, &self.inner] {
            let canary = at.join("canary");
            assert_eq!(fs::read(&canary).expect("a file"), CANARY);
            let metadata = fs::symlink_metadata(&canary).expect("a file");
            assert_eq!((metadata.mode() & 0o7777, metadata.nlink()), (0o640, 1));
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // The caller of `unpack` is promised that it can remove what is there.
        if let Err(error) = fs::remove_dir_all(&self.outer) {
            panic!("{}: {error}", self.outer.display());
        }
    }
}

fn names(at: &Path) -> Vec<String> {
    let entries = fs::read_dir(at).expect("a directory");
    let name = |entry: io::Result<fs::DirEntry>| entry.expect("an entry").file_name();
    let mut names: Vec<_> = entries
        .map(|entry| name(entry).to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// What a release holds.
#[derive(Default)]
struct Found {
    lines: Vec<String>,
    links: Vec<PathBuf>,
    files: u64,
    /// Names and sizes by inode.
    inodes: HashMap<u64, (u64, u64, u64)>,
}

impl Found {
    fn walk(&mut self, release: &Path, at: &Path) {
        for entry in fs::read_dir(release.join(at)).expect("a directory") {
            let path = at.join(entry.expect("an entry").file_name());
            let full = release.join(&path);
            let metadata = fs::symlink_metadata(&full).expect("it is there");
            let mode = metadata.mode() & 0o7777;
            let shown = path.as_os_str().as_encoded_bytes().escape_ascii();
            assert!(!path.as_os_str().as_encoded_bytes().contains(&b'\n'));
            if metadata.is_dir() {
                assert_eq!((mode & 0o700, mode & 0o7000), (0o700, 0), "{shown}");
                self.lines.push(format!("{shown}/ {mode:o}"));
                self.walk(release, &path);
            } else if metadata.is_file() {
                assert_eq!((mode & 0o600, mode & 0o7000), (0o600, 0), "{shown}");
                let sum = fs::read(&full).expect("a file");
                let sum = sum.iter().fold(sum.len() as u64, |sum, &byte| {
                    sum.wrapping_mul(31).wrapping_add(u64::from(byte))
                });
                self.lines.push(format!("{shown} {mode:o} {sum:x}"));
                self.files += 1;
                let inode = self.inodes.entry(metadata.ino()).or_default();
                *inode = (inode.0 + 1, metadata.nlink(), metadata.len());
            } else {
                assert!(metadata.is_symlink(), "{shown} is something else");
                let target = fs::read_link(&full).expect("a link");
                let target = target.as_os_str().as_encoded_bytes().escape_ascii();
                self.lines.push(format!("{shown} -> {target}"));
                self.links.push(path);
            }
        }
    }

    fn judge(&self, release: &Path, unpacked: &Unpacked) {
        assert_eq!(self.files, unpacked.files);
        let sizes = self.inodes.values().map(|(_, _, size)| size).sum::<u64>();
        assert_eq!(sizes, unpacked.unpacked_size);
        for (names, links, _) in self.inodes.values() {
            assert_eq!(names, links, "a file has a name outside");
        }
        let root = release.canonicalize().expect("it is there");
        for link in &self.links {
            let target = fs::read_link(release.join(link)).expect("a link");
            assert!(target.is_relative());
            let shown = format!("{} -> {}", link.display(), target.display());
            assert!(stays(link, &target), "{shown} leads out by its text");
            match release.join(link).canonicalize() {
                Ok(found) => assert!(found.starts_with(&root), "{shown} leads out"),
                Err(error) => {
                    // A circle is refused; what leads nowhere may stay.
                    assert_ne!(
                        error.raw_os_error(),
                        Some(ELOOP),
                        "{shown} leads in a circle"
                    );
                }
            }
        }
    }
}

/// Whether a path from a link's place goes above the release at any point.
fn stays(link: &Path, target: &Path) -> bool {
    let mut depth = link.components().count() - 1;
    for component in target.components() {
        match component {
            std::path::Component::ParentDir if depth == 0 => return false,
            std::path::Component::ParentDir => depth -= 1,
            std::path::Component::CurDir => {}
            _ => depth += 1,
        }
    }
    true
}
