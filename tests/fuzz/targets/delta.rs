//! Deltas: a list that is accepted is written again as it was read; a tree that is made of a list and of records holds what
//! the list says and nothing else, and nothing outside of it is touched. However the records come, the outcome is the same.
#![no_main]

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use gangplank::api::error::{Code, Refusal};
use gangplank::formats::archive::{Assembled, Limits, Sources, assemble, demand};
use gangplank::formats::delta::hash::ContentHash;
use gangplank::formats::delta::listing::{ListedKind, ListingLimits, ListingReader, ListingWriter};
use gangplank::formats::delta::records::{RecordScanner, RecordWriter};
use gangplank_fuzz::Input;
use libfuzzer_sys::fuzz_target;

const CANARY: &[u8] = b"nobody touches it";

const LIMITS: Limits = Limits {
    max_payload: None,
    max_entries: 50,
    min_free_disk: 0,
};

const LISTED: ListingLimits = ListingLimits {
    max_entries: 50,
    max_bytes: 8 << 20,
};

fuzz_target!(|bytes: &[u8]| {
    let input = Input::new(bytes);
    // What stands behind two newlines is content.
    let end = input.text.windows(2).position(|two| two == b"\n\n");
    let (text, content) = input
        .text
        .split_at(end.map_or(input.text.len(), |end| end + 1));
    let text = [
        &b"gangplank-tree 1 sha256 fastcdc-16-64-256-64M\nd 755 .\n"[..],
        text,
    ]
    .concat();
    let text = hashed(&text, content);
    let Some(files) = read(&text) else { return };
    let records = records(content, &files);
    let first = outcome(&text, &[&records]);
    let pieces = input.pieces(&records);
    assert_eq!(
        first,
        outcome(&text, &pieces),
        "it depends on how it arrives"
    );
    if let Err(refusal) = first {
        let known = [
            Code::BadArchive,
            Code::StaleBase,
            Code::NoSpace,
            Code::UploadBroken,
        ];
        assert!(known.contains(&refusal.code), "{refusal}");
        assert!(!refusal.message.contains(char::is_control), "{refusal}");
    }
});

/// The text with the hash of the content in the place of each `HASH`: no random bytes have one.
fn hashed(text: &[u8], content: &[u8]) -> Vec<u8> {
    let mut writer = ListingWriter::new(Vec::new()).expect("memory");
    let root = ListedKind::Directory { mode: 0o755 };
    let entry = |path: &[u8], kind| gangplank::formats::delta::listing::ListedEntry {
        path: path.to_vec(),
        kind,
    };
    writer.entry(&entry(b"", root)).expect("memory");
    let file = gangplank::formats::delta::listing::ListedFile {
        mode: 0o644,
        size: content.len().min(1 << 19) as u64,
        hash: ContentHash::of(content),
        chunks: Vec::new(),
    };
    writer
        .entry(&entry(b"x", ListedKind::File(file)))
        .expect("memory");
    let (_, listed) = writer.end();
    let line = listed
        .split(|byte| *byte == b'\n')
        .nth(2)
        .unwrap_or_default();
    let hash = line.split(|byte| *byte == b' ').nth(3).unwrap_or_default();
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.windows(4).position(|four| four == b"HASH") {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(hash);
        rest = &rest[at + 4..];
    }
    out.extend_from_slice(rest);
    out
}

/// The hashes that an accepted list names.
fn read(text: &[u8]) -> Option<Vec<ContentHash>> {
    let mut reader = ListingReader::new(text, LISTED);
    let mut writer = ListingWriter::new(Vec::new()).ok()?;
    let mut hashes = Vec::new();
    while let Some(entry) = reader.next().ok()? {
        if let ListedKind::File(file) = &entry.kind {
            hashes.extend(file.objects().map(|object| object.hash));
        }
        writer.entry(&entry).ok()?;
    }
    let (tree, again) = writer.end();
    assert_eq!(again, text, "another text is the same list");
    assert_eq!(reader.tree(), Some(tree));
    Some(hashes)
}

/// The content for each of the hashes, whether it is that or not.
fn records(content: &[u8], hashes: &[ContentHash]) -> Vec<u8> {
    let mut writer = RecordWriter::new(Vec::new(), 1);
    for hash in hashes {
        if !content.is_empty() && content.len() < 1 << 20 {
            writer.object(*hash, content).expect("memory");
        }
    }
    writer.end().expect("memory")
}

fn outcome(text: &[u8], pieces: &[&[u8]]) -> Result<(Assembled, Vec<PathBuf>), Refusal> {
    let world = World::new();
    let (list, stored) = (world.0.join("list"), world.0.join("records"));
    let mut gzip = GzEncoder::new(File::create(&list).expect("a file"), Compression::fast());
    gzip.write_all(text)
        .and_then(|()| gzip.finish().map(drop))
        .expect("a file");
    fs::write(&stored, pieces.concat()).expect("a file");
    let demand = demand(&list, LISTED, None, &|_| false)?;
    let records = File::open(&stored).expect("a file");
    let sources = Sources {
        list: &list,
        base: None,
        supply: &demand.supply,
        records: &[&records],
    };
    let receive = || {
        let mut scanner = RecordScanner::at(0);
        for piece in pieces {
            scanner.push(piece, &mut |object| demand.supply.add(0, object))?;
        }
        Ok(())
    };
    let release = world.0.join("release");
    let made = assemble(&sources, &release, &LIMITS, None, receive).map(|(made, ())| made);
    assert_eq!(fs::read(world.0.join("canary")).expect("a canary"), CANARY);
    assert_eq!(fs::read_dir(&world.0).expect("a directory").count(), 4);
    Ok((made?, below(&release)))
}

/// All that is in a release, links not followed.
fn below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        let meta = fs::symlink_metadata(&path).expect("an entry");
        if meta.is_dir() {
            found.extend(below(&path));
        }
        let name = path.file_name().expect("a name");
        found.push(PathBuf::from(name));
    }
    found.sort();
    found
}

struct World(PathBuf);

impl World {
    fn new() -> World {
        use std::sync::atomic::{AtomicU64, Ordering};
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("gangplank-fuzz-delta-{}-{n}", std::process::id());
        let world = World(std::env::temp_dir().join(name));
        fs::create_dir_all(world.0.join("release")).expect("a directory");
        fs::write(world.0.join("canary"), CANARY).expect("a file");
        world
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
