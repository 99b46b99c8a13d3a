//! Deltas: a list that is accepted is written again as it was read; a tree that is made of a list and of records holds what
//! the list says and nothing else, and nothing outside of it is touched. However the records come, the outcome is the same,
//! and so it is if the tree is made of a spare of another one.
#![no_main]

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use gangplank::api::error::{Code, Refusal};
use gangplank::formats::archive::{
    Assembled, Limits, PatchSources, Sources, SpareTree, Unusable, assemble, changes, demand,
    stamp_tree,
};
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
    let Some((tree, files)) = read(&text) else {
        return;
    };
    let records = records(content, &files);
    let first = outcome(&text, &[&records]);
    let second = outcome(&text, &input.pieces(&records));
    // Two threads write: which of several faults is met first is chance.
    assert_eq!(
        first.as_ref().ok(),
        second.as_ref().ok(),
        "it depends on how it arrives"
    );
    let before = earlier(&text, input.steps());
    let third = of_spare(&before, (&tree, &text), &records);
    if let (Ok((_, made)), Some(third)) = (&first, &third) {
        let third = third.as_ref().map(|(_, made)| made);
        assert_eq!(third.ok(), Some(made), "it depends on what was before");
    }
    if let (Err(refusal), Some(third)) = (&first, &third) {
        assert!(third.is_err(), "a spare makes of it what is {refusal}");
    }
    let all = [first, second].into_iter().chain(third);
    for refusal in all.filter_map(Result::err) {
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

/// Another version of a list: some entries are not there, or are of another kind.
fn earlier(text: &[u8], choices: &[usize]) -> Vec<u8> {
    let mut choices = choices.iter().chain([&4]).cycle();
    let mut lines = text.split_inclusive(|byte| *byte == b'\n');
    let mut before: Vec<u8> = lines.by_ref().take(2).flatten().copied().collect();
    for line in lines {
        let path = line.rsplit(|byte| matches!(byte, b' ' | 0)).next();
        let path = path.unwrap_or_default();
        match choices.next().map_or(0, |choice| choice % 8) {
            0 => {}
            1 => before.extend([b"d 755 ", path].concat()),
            2 => before.extend([b"l a\0", path].concat()),
            3 => before.extend([&b"f 644 0 "[..], EMPTY, b" ", path].concat()),
            _ => before.extend(line),
        }
    }
    before
}

/// The hash of an empty file.
const EMPTY: &[u8] = b"47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU";

/// What comes of a list where there is a spare of an earlier one; none if there can be no spare of that.
fn of_spare(before: &[u8], (tree, text): (&str, &[u8]), stored: &[u8]) -> Option<Outcome> {
    let (old, _) = read(before)?;
    let world = World::new();
    let at = |name: &str| world.0.join(name);
    let (base, list) = (at("list"), at("new list"));
    zipped(&base, before);
    zipped(&list, text);
    fs::write(at("records"), stored).expect("a file");
    let records = File::open(at("records")).expect("a file");
    let spare = SpareTree {
        dir: at("release"),
        list: base.clone(),
        index: at("index"),
    };
    {
        let demand = demand(&base, LISTED, None, &|_| false).ok()?;
        let sources = Sources {
            list: &base,
            base: None,
            supply: &demand.supply,
            records: &[&records],
        };
        let receive = || {
            let mut scanner = RecordScanner::at(0);
            scanner.push(stored, &mut |object| demand.supply.add(0, object))
        };
        assemble(&sources, &spare.dir, &LIMITS, None, receive).ok()?;
    }
    stamp_tree(&spare.dir, &spare.list, &spare.index, &|| true).expect("stamps");
    let mut changes = match changes(&spare, &old, (&list, None), LISTED) {
        Ok(changes) => changes,
        Err(Unusable::Tree(refusal)) => return Some(Err(refusal)),
        Err(Unusable::Spare(why)) => panic!("{why}"),
    };
    assert_eq!(changes.tree.to_string(), tree);
    RecordScanner::at(0)
        .push(stored, &mut |object| changes.supply.add(0, object))
        .expect("records");
    fs::create_dir(at("aside")).expect("a directory");
    let sources = PatchSources {
        base: None,
        spare: &spare,
        list: &list,
        aside: &at("aside"),
        records: &[&records],
    };
    let made = changes.apply(&sources, (&LIMITS, None), &|| ());
    assert_eq!(fs::read(at("canary")).expect("a canary"), CANARY);
    assert_eq!(fs::read_dir(&world.0).expect("a directory").count(), 7);
    Some(made.map(|made| (made, below(&spare.dir))))
}

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

/// The tree of an accepted list, and the hashes that it names.
fn read(text: &[u8]) -> Option<(String, Vec<ContentHash>)> {
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
    Some((tree.to_string(), hashes))
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

/// What was made and what is there then, or why nothing was made.
type Outcome = Result<(Assembled, Vec<(PathBuf, Vec<u8>)>), Refusal>;

/// Writes a list as it is stored.
fn zipped(path: &Path, text: &[u8]) {
    let mut gzip = GzEncoder::new(File::create(path).expect("a file"), Compression::fast());
    gzip.write_all(text)
        .and_then(|()| gzip.finish().map(drop))
        .expect("a file");
}

fn outcome(text: &[u8], pieces: &[&[u8]]) -> Outcome {
    let world = World::new();
    let (list, stored) = (world.0.join("list"), world.0.join("records"));
    zipped(&list, text);
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

/// All that is in a release, links not followed: each path with its mode, and the content or the target.
fn below(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        let meta = fs::symlink_metadata(&path).expect("an entry");
        let mut is = format!("{:o} ", meta.permissions().mode()).into_bytes();
        let name = PathBuf::from(path.file_name().expect("a name"));
        if meta.is_dir() {
            let inside = below(&path);
            found.extend(inside.into_iter().map(|(one, is)| (name.join(one), is)));
        } else if meta.is_symlink() {
            let to = fs::read_link(&path).expect("a link");
            is.extend(to.into_os_string().into_encoded_bytes());
        } else {
            is.extend(fs::read(&path).expect("a file"));
        }
        found.push((name, is));
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
