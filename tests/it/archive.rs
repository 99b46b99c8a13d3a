//! Payloads as archives: what must not be unpacked and leaves nothing, what is odd and right, and what other programs pack.

mod raw;
mod tools;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::archive::raw::{
    Raw, bare, dir, entry, file, hard, link, long, moded, pax, rooted, seal, sized, sparse,
};
use crate::test_server::{
    Answer, BOUNDARY, TempDir, TestServer, await_some, form, gzip, names, tar,
};

/// A gibibyte, which no name has.
const HUGE: u64 = 1 << 30;

/// What the server may take, in KiB, whatever it is sent.
const MEMORY: u64 = 24 * 1024;

/// A server whose root lies in a directory with things that are not to be touched.
struct World {
    host: Option<TestServer>,
    root: Arc<TempDir>,
    outside: TempDir,
}

impl World {
    fn new(flags: &[&str]) -> World {
        let outside = TempDir::new().with(&[("canary", "alive"), ("aviary/canary", "alive")]);
        let root = Arc::new(TempDir(outside.0.join("root")));
        fs::create_dir(&root.0).unwrap();
        let mut world = World {
            host: None,
            root,
            outside,
        };
        world.restart(flags);
        world
    }

    fn restart(&mut self, flags: &[&str]) {
        // Whatever an earlier deployment left is to stay, so that all that changes is this one's.
        let mut all = vec![
            "--keep-releases",
            "1000",
            "--keep-payloads",
            "1000",
            "--keep-deployments",
            "1000",
        ];
        all.extend(flags);
        self.host = None;
        self.host = Some(TestServer::on(Arc::clone(&self.root), &all, &[]));
    }

    fn host(&self) -> &TestServer {
        self.host.as_ref().unwrap()
    }

    fn outside(&self, name: &str) -> String {
        self.outside.0.join(name).to_str().unwrap().to_owned()
    }

    /// Everything there is but the deployments' records, a line each.
    fn listing(&self) -> BTreeSet<String> {
        // The mark of a deployment goes a moment after its end is told.
        let run = self.root.0.join("run");
        let is_mark = |name: &String| name.len() == 36;
        await_some("the marks to go", || {
            (!names(&run).iter().any(is_mark)).then_some(())
        });
        let mut lines = BTreeSet::new();
        let mut todo = vec![self.outside.0.clone()];
        while let Some(path) = todo.pop() {
            let metadata = fs::symlink_metadata(&path).unwrap();
            let mut line = format!(
                "{} {:o} inode {}",
                path.display(),
                metadata.mode(),
                metadata.ino()
            );
            if metadata.is_dir() {
                if path != self.root.0.join("deployments") {
                    todo.extend(
                        fs::read_dir(&path)
                            .unwrap()
                            .map(|entry| entry.unwrap().path()),
                    );
                }
            } else {
                // A directory's own numbers are told by what is in it.
                line += &format!(" links {} size {}", metadata.nlink(), metadata.len());
            }
            if metadata.is_symlink() {
                line += &format!(" -> {}", fs::read_link(&path).unwrap().display());
            }
            if metadata.is_file() && metadata.len() < 4096 {
                line += &format!(" {:?}", fs::read(&path).unwrap());
            }
            lines.insert(line);
        }
        lines
    }

    /// Deploys something good, which must go live.
    fn go_on(&self, what: &str) {
        let good = gzip(&tar(&[("./what", what)]));
        let answer = self.host().deploy(&[("project", "demo")], &good);
        assert_eq!(answer.status, 200, "after {what}: {}", answer.text());
        let live = fs::read_to_string(self.root.0.join("components/demo/what"));
        assert_eq!(live.unwrap(), what);
    }

    /// Judges a refusal, and that nothing is left of what was refused.
    fn refused(
        &self,
        what: &str,
        answer: &Answer,
        expected: (u16, &str, &str),
        before: &BTreeSet<String>,
    ) {
        let (status, code, part) = expected;
        let (word, message) = answer.refusal();
        assert_eq!(
            (answer.status, word.as_str()),
            (status, code),
            "{what}: {message}"
        );
        assert!(
            message.contains(part),
            "{what}: '{part}' is not in: {message}"
        );
        assert!(
            !message.chars().any(char::is_control),
            "{what}: {message:?}"
        );
        assert!(message.len() < 1024, "{what}: {message}");
        let id = answer.json()["deployment_id"].as_str().unwrap().to_owned();
        let record = self.host().record(&id);
        assert_eq!(record["status"], "failed", "{what}: {record}");
        assert_eq!(record["error"]["code"], code, "{what}: {record}");
        assert_eq!(
            record["error"]["message"],
            message.as_str(),
            "{what}: {record}"
        );
        let left = names(&self.root.0.join("deployments").join(id));
        assert_eq!(left, ["events.ndjson", "record.json"], "{what}");
        let after = self.listing();
        let gone: Vec<_> = before.difference(&after).collect();
        let new: Vec<_> = after.difference(before).collect();
        assert!(
            gone.is_empty() && new.is_empty(),
            "{what}: gone {gone:#?}, new {new:#?}"
        );
    }

    /// What the server's memory was at most, in KiB.
    fn peak(&self) -> u64 {
        let path = format!("/proc/{}/status", self.host().server.id());
        let status = fs::read_to_string(path).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmHWM:"))
            .unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

/// Archives that are refused: what each shows, its bytes, and what the refusal must say.
type Table = Vec<(&'static str, Vec<u8>, &'static str)>;

/// Refuses a table, each row for a component that is live and for one that never was, and deploys after each.
fn all_refused(world: &World, table: Table) {
    world.go_on("first");
    for (what, payload, part) in table {
        let before = world.listing();
        for project in ["demo", "fresh"] {
            let answer = world.host().deploy(&[("project", project)], &payload);
            world.refused(what, &answer, (422, "bad_archive", part), &before);
        }
        world.go_on(what);
    }
    let peak = world.peak();
    assert!(peak < MEMORY, "{peak} KiB");
}

/// The path of a file below `n` directories.
fn deep(n: usize) -> Vec<u8> {
    let mut path = b"./".to_vec();
    path.extend(b"d/".repeat(n));
    path.push(b'f');
    path
}

#[test]
fn names_that_lead_out_are_refused() {
    let world = World::new(&[]);
    let evil = world.outside("evil");
    let canary = world.outside("canary");
    // From `releases/demo/ID` four up is beside the root.
    let up = "../../../..";
    let x = |name: &str| file(name, "x");
    let too_long = [b"x".repeat(200).as_slice(); 6].join(&b'/')[..1025].to_vec();
    let table: Table = vec![
        (
            "..",
            rooted(&[x(&format!("{up}/evil"))]),
            "evil': a path must not contain '..'",
        ),
        (
            ".. behind a name",
            rooted(&[x("./a/../../evil")]),
            "'./a/../../evil': a path must not",
        ),
        (
            ".. that would stay",
            rooted(&[x("./a/../b")]),
            "'./a/../b': a path must not contain '..'",
        ),
        (
            ".. as a directory",
            rooted(&[moded(b'5', "../", "", 0o777, b"")]),
            "'../': a path must not",
        ),
        (
            ".. for a link",
            rooted(&[link("../evil", "x")]),
            "'../evil': a path must not",
        ),
        (
            ".. without a root",
            bare(&[x("../evil")]),
            "'../evil': a path must not",
        ),
        (
            ".. as a long name",
            rooted(&[long(b'L', b"../evil"), x("good")]),
            "'../evil': a path must",
        ),
        (
            ".. as PAX",
            rooted(&[pax(&[("path", b"../evil")]), x("good")]),
            "'../evil': a path must",
        ),
        (
            "absolute",
            rooted(&[x(&evil)]),
            "/evil': the path is absolute",
        ),
        (
            "absolute, over something",
            rooted(&[x(&canary)]),
            "/canary': the path is absolute",
        ),
        (
            "absolute, a directory",
            rooted(&[dir(&evil)]),
            "/evil': the path is absolute",
        ),
        (
            "absolute, a link",
            rooted(&[link(&evil, "x")]),
            "/evil': the path is absolute",
        ),
        (
            "absolute, many slashes",
            rooted(&[x(&format!("//{evil}"))]),
            "/evil': the path is absolute",
        ),
        (
            "absolute as PAX",
            rooted(&[pax(&[("path", evil.as_bytes())]), x("good")]),
            "/evil': the path is absolute",
        ),
        (
            "a newline",
            rooted(&[x("./a\nb")]),
            "'./a^Jb': the name contains a newline",
        ),
        (
            "a newline, long",
            rooted(&[long(b'L', b"a\nb"), x("good")]),
            "'a^Jb': the name contains",
        ),
        (
            "a newline, PAX",
            rooted(&[pax(&[("path", b"a\nb")]), x("good")]),
            "the name contains a newline",
        ),
        (
            "a NUL, long",
            rooted(&[long(b'L', b"a\0b"), x("good")]),
            "'a^@b': the name contains a NUL",
        ),
        (
            "a NUL, PAX",
            rooted(&[pax(&[("path", b"a\0b")]), x("good")]),
            "'a^@b': the name contains",
        ),
        (
            "a NUL in a target",
            rooted(&[pax(&[("linkpath", b"a\0b")]), link("l", "a")]),
            "'l': its target 'a^@b'",
        ),
        (
            "a newline in a target",
            rooted(&[link("l", "a\nb")]),
            "'l': its target 'a^Jb'",
        ),
        (
            "65 levels",
            rooted(&[long(b'L', &deep(64)), x("good")]),
            "deeper than 64 directories",
        ),
        (
            "65 levels, PAX",
            rooted(&[pax(&[("path", &deep(64))]), x("good")]),
            "deeper than 64",
        ),
        (
            "65 levels, implied one by one",
            rooted(&[
                long(b'L', &deep(63)),
                x("good"),
                long(b'L', &[&deep(63)[..127], b"/e/f"].concat()),
                x("good"),
            ]),
            "deeper than 64",
        ),
        (
            "2,500 levels",
            rooted(&[long(b'L', &deep(2499)), x("good")]),
            "longer than 1024 bytes",
        ),
        (
            "2,500 levels, PAX",
            rooted(&[pax(&[("path", &deep(2499))]), x("good")]),
            "longer than 1024",
        ),
        (
            "1,025 bytes",
            rooted(&[long(b'L', &too_long), x("good")]),
            "longer than 1024 bytes",
        ),
        (
            "a target of 1,025 bytes",
            rooted(&[long(b'K', &too_long), link("l", "x")]),
            "'l': its target",
        ),
        (
            "a part of 256 bytes",
            rooted(&[long(b'L', &[b'x'; 256]), x("good")]),
            "longer than 255",
        ),
        ("no name", rooted(&[x("")]), "it has no name"),
        (
            "a link as the root",
            bare(&[link("./", up), x("./evil")]),
            "'./': the archive's root must be",
        ),
        (
            "a link as the root, later",
            rooted(&[link(".", "aviary")]),
            "'.': the archive's root must be",
        ),
        (
            "a hard link as the root",
            bare(&[x("a"), hard(".", "a")]),
            "'.': the archive's root must",
        ),
        (
            "a file as the root",
            bare(&[x(".")]),
            "'.': the archive's root must be a directory",
        ),
    ];
    all_refused(&world, table);
}

#[test]
fn links_that_lead_out_are_refused() {
    let world = World::new(&[]);
    let canary = world.outside("canary");
    let aviary = world.outside("aviary");
    let up = "../../../..";
    let x = |name: &str| file(name, "x");
    let to_canary = format!("{up}/canary");
    let to_aviary = format!("{up}/aviary");
    let table: Table = vec![
        (
            "absolute",
            rooted(&[link("./out", &canary)]),
            "'./out': its target '/",
        ),
        (
            "absolute, inside",
            rooted(&[link("out", &world.outside("root"))]),
            "'out': its target '/",
        ),
        (
            "relative",
            rooted(&[link("./out", &to_canary)]),
            "'out': its target '../../../../canary' leads out",
        ),
        (
            "relative, dangling",
            rooted(&[link("d/out", "../../gone")]),
            "'d/out': its target '../../gone' leads",
        ),
        (
            "relative, just out",
            rooted(&[link("out", "..")]),
            "'out': its target '..' leads out",
        ),
        (
            "out and in again",
            rooted(&[link("out", "../demo")]),
            "'out': its target '../demo' leads out",
        ),
        (
            "a chain",
            rooted(&[link("a", "."), link("b", "a/..")]),
            "'b': its target 'a/..' leads out",
        ),
        (
            "a chain backwards",
            rooted(&[link("b", "a/.."), link("a", ".")]),
            "'b': its target 'a/..' leads",
        ),
        (
            "a chain of three",
            rooted(&[
                link("d/e/up", "../.."),
                link("d/a", "e/up/d/e/.."),
                link("b", "d/a/../../x"),
            ]),
            "'b': its target 'd/a/../../x' leads out",
        ),
        (
            "a chain over what is not there",
            rooted(&[link("a", "gone"), link("b", "a/../../x")]),
            "'b': its target 'a/../../x' leads out",
        ),
        (
            "a link that is changed afterwards",
            rooted(&[
                x("d/e/f"),
                link("a", "d/e"),
                link("b", "a/../x"),
                link("a", "."),
            ]),
            "'b': its target 'a/../x' leads out",
        ),
        (
            "a circle",
            rooted(&[link("a", "b"), link("b", "a")]),
            "'a': its target 'b' leads in a circle",
        ),
        (
            "written through",
            rooted(&[link("l", &to_aviary), x("l/evil")]),
            "'l/evil': 'l' is a link",
        ),
        (
            "written through, absolute",
            rooted(&[link("d/l", "x"), x("d/l/evil")]),
            "'d/l/evil': 'd/l' is a link",
        ),
        (
            "written through, inside",
            rooted(&[dir("d/"), link("l", "d"), x("l/x")]),
            "'l/x': 'l' is a link",
        ),
        (
            "a directory through it",
            rooted(&[link("l", &to_aviary), dir("l/evil/")]),
            "'l/evil/': 'l' is a link",
        ),
        (
            "a link through it",
            rooted(&[link("l", "d"), link("l/evil", "x")]),
            "'l/evil': 'l' is a link",
        ),
        (
            "a hard link through it",
            rooted(&[x("f"), link("l", &to_aviary), hard("l/evil", "f")]),
            "'l/evil': 'l' is a link",
        ),
        (
            "the link itself",
            rooted(&[link("l", &to_canary), x("l")]),
            "'l': the archive has this path twice",
        ),
        (
            "the link as a directory",
            rooted(&[link("l", &to_aviary), dir("l/"), x("l/evil")]),
            "'l/': the archive has",
        ),
        (
            "hard, absolute",
            rooted(&[hard("h", &canary), x("h")]),
            "'h': its target '/",
        ),
        (
            "hard, relative",
            rooted(&[hard("h", &to_canary), x("h")]),
            "'h': its target '../../../../canary'",
        ),
        (
            "hard, long",
            rooted(&[long(b'K', to_canary.as_bytes()), hard("h", "x")]),
            "'h': its target '../",
        ),
        (
            "hard, through a link",
            rooted(&[link("l", &to_aviary), hard("h", "l/canary")]),
            "'h': it is a hard link to 'l/canary'",
        ),
        (
            "hard, through a link that stays",
            rooted(&[x("d/f"), link("l", "d"), hard("h", "l/f")]),
            "'h': it is a hard link to 'l/f'",
        ),
        (
            "hard, to a link",
            rooted(&[link("l", &to_canary), hard("h", "l")]),
            "'h': it is a hard link to 'l'",
        ),
        (
            "hard, to a directory",
            rooted(&[dir("d/"), hard("h", "d")]),
            "'h': it is a hard link to 'd'",
        ),
        (
            "hard, to what comes later",
            rooted(&[hard("h", "f"), x("f")]),
            "'h': it is a hard link to 'f'",
        ),
        (
            "hard, to nothing",
            rooted(&[hard("./h", "./gone")]),
            "'./h': it is a hard link to './gone'",
        ),
        (
            "hard, to itself only",
            rooted(&[hard("h", "h")]),
            "'h': it is a hard link to 'h'",
        ),
        (
            "flattened",
            bare(&[x("p/a"), link("p/b", "../p/a")]),
            "'b': its target '../p/a' leads out",
        ),
        (
            "flattened, a chain",
            bare(&[link("p/a", "."), link("p/b", "a/../p")]),
            "'b': its target 'a/../p'",
        ),
        (
            "flattened, deeper",
            bare(&[link("p/d/a", "../../p")]),
            "'d/a': its target '../../p' leads out",
        ),
    ];
    assert!(aviary.len() < 100);
    all_refused(&world, table);
}

#[test]
fn kinds_that_are_no_content_are_refused() {
    let world = World::new(&[]);
    let x = |name: &str| file(name, "x");
    let table: Table = vec![
        (
            "a character device",
            rooted(&[entry(b'3', "./null", "", b"")]),
            "'./null': it is a device node",
        ),
        (
            "a block device",
            rooted(&[entry(b'4', "./disk", "", b"")]),
            "'./disk': it is a device node",
        ),
        (
            "a FIFO",
            rooted(&[entry(b'6', "./pipe", "", b"")]),
            "'./pipe': it is a FIFO",
        ),
        (
            "a kind that nobody knows",
            rooted(&[entry(b'Z', "./z", "", b"")]),
            "'./z': its kind is unknown",
        ),
        (
            "a volume's label",
            rooted(&[entry(b'V', "label", "", b"")]),
            "'label': its kind is unknown",
        ),
        (
            "a part of a file",
            rooted(&[entry(b'M', "part", "", b"")]),
            "'part': its kind is unknown",
        ),
        (
            "sparse, GNU",
            rooted(&[sparse("./hole")]),
            "'./hole': it is a sparse file",
        ),
        (
            "sparse, PAX 0.0",
            rooted(&[
                pax(&[("GNU.sparse.size", b"9"), ("GNU.sparse.numblocks", b"0")]),
                x("./hole"),
            ]),
            "'./hole': it is a sparse file",
        ),
        (
            "sparse, PAX 1.0",
            rooted(&[
                pax(&[
                    ("GNU.sparse.major", b"1"),
                    ("GNU.sparse.minor", b"0"),
                    ("GNU.sparse.name", b"./d/hole"),
                    ("GNU.sparse.realsize", b"1099511627776"),
                ]),
                x("./d/GNUSparseFile.0/hole"),
            ]),
            "'./d/hole': it is a sparse file",
        ),
        (
            "a file and a link",
            rooted(&[x("a"), link("a", "b")]),
            "'a': the archive has this path twice",
        ),
        (
            "a file and a directory",
            rooted(&[x("a"), dir("./a/")]),
            "'./a/': the archive has this path twice",
        ),
        (
            "a file with something in it",
            rooted(&[x("a"), x("a/b")]),
            "'a/b': 'a' is a file",
        ),
        (
            "a directory and a file",
            rooted(&[dir("a"), x("a")]),
            "'a': the archive has this path twice",
        ),
        (
            "an implied one and a file",
            rooted(&[x("a/b"), x("a")]),
            "'a': the archive has this path twice",
        ),
        (
            "a directory and a link",
            rooted(&[dir("a"), link("a", "b")]),
            "'a': the archive has this path twice",
        ),
        (
            "a directory and a hard link",
            rooted(&[x("f"), dir("a"), hard("a", "f")]),
            "'a': the archive has",
        ),
        (
            "a link and a hard link",
            rooted(&[x("f"), link("a", "f"), hard("a", "f")]),
            "'a': the archive has",
        ),
        (
            "a directory with content",
            rooted(&[entry(b'5', "d", "", b"x")]),
            "'d': a directory must not have",
        ),
        (
            "a link with content",
            rooted(&[entry(b'2', "l", "d", b"x")]),
            "'l': a link must not have content",
        ),
    ];
    all_refused(&world, table);
}

#[test]
fn archives_that_are_not_whole_are_refused() {
    let world = World::new(&[]);
    let good = bare(&[file("./index.txt", "hello")]);
    let zipped = gzip(&good);
    let with = |bytes: &[u8], more: &[u8]| [bytes, more].concat();
    let wrong = |at: usize| {
        let mut bytes = zipped.clone();
        bytes[zipped.len() - at] ^= 1;
        bytes
    };
    let mut junk_size = file("./junk", "x");
    junk_size[124..130].copy_from_slice(b"whales");
    seal(&mut junk_size);
    let mut junk_mode = file("./junk", "x");
    junk_mode[100..107].copy_from_slice(b"rwxr-xr");
    seal(&mut junk_mode);
    let mut wrong_header = file("./junk", "x");
    wrong_header[0] = b'-';
    let table: Table = vec![
        (
            "a size beyond the end",
            rooted(&[sized(b'0', "./big", 1 << 20, b"x")]),
            "'./big': its content is truncated",
        ),
        (
            "a size beyond any disk",
            rooted(&[sized(b'0', "./big", 1 << 62, b"x")]),
            "'./big': its content is truncated",
        ),
        (
            "a size beyond numbers",
            rooted(&[sized(b'0', "./big", u64::MAX, b"x")]),
            "'./big': its content is truncated",
        ),
        (
            "a size of PAX",
            rooted(&[pax(&[("size", b"1048576")]), file("./big", "x")]),
            "'./big': its content is",
        ),
        (
            "a size that is none",
            rooted(&[junk_size]),
            "the archive is damaged after './'",
        ),
        (
            "a mode that is none",
            rooted(&[junk_mode]),
            "'./junk': its mode is not octal",
        ),
        (
            "a header's sum",
            rooted(&[wrong_header]),
            "damaged after './': the sum of a header is wrong",
        ),
        (
            "a name of nothing",
            rooted(&[long(b'L', b"name")]),
            "a header describes an entry that does not come",
        ),
        (
            "cut in a header",
            good[..300].to_vec(),
            "not a readable tar or tar.gz archive",
        ),
        (
            "cut in a file",
            good[..514].to_vec(),
            "'./index.txt': its content is truncated",
        ),
        (
            "cut in the padding",
            good[..600].to_vec(),
            "the archive is damaged after './index.txt'",
        ),
        (
            "no end marker",
            good[..1024].to_vec(),
            "truncated: it has no end marker",
        ),
        (
            "half an end marker",
            good[..1536].to_vec(),
            "truncated: it has no end marker",
        ),
        (
            "no end marker, gzip",
            gzip(&good[..1024]),
            "truncated: it has no end marker",
        ),
        (
            "garbage behind the end",
            with(&good, b"garbage"),
            "followed by something else",
        ),
        (
            "garbage behind the end, gzip",
            gzip(&with(&good, b"garbage")),
            "followed by something else",
        ),
        (
            "garbage behind many zeros",
            gzip(&[&good[..], &[0; 70_000], b"x"].concat()),
            "followed by something",
        ),
        (
            "a second archive",
            with(&good, &good),
            "followed by something else",
        ),
        (
            "a second archive, gzip",
            with(&zipped, &zipped),
            "followed by something else",
        ),
        (
            "garbage behind the gzip",
            with(&zipped, b"garbage"),
            "something that is not gzip follows it",
        ),
        (
            "half a member behind the gzip",
            with(&zipped, &zipped[..10]),
            "damaged after './index.txt'",
        ),
        (
            "a wrong CRC",
            wrong(8),
            "damaged after './index.txt': its checksum is wrong",
        ),
        (
            "a wrong length",
            wrong(1),
            "damaged after './index.txt': its checksum is wrong",
        ),
        (
            "no CRC",
            zipped[..zipped.len() - 8].to_vec(),
            "damaged after './index.txt': it is truncated",
        ),
        ("cut gzip", zipped[..30].to_vec(), "it is truncated"),
        (
            "a head of gzip only",
            zipped[..10].to_vec(),
            "not a readable tar or tar.gz archive: it is truncated",
        ),
        ("empty gzip", gzip(b""), "truncated"),
        ("nothing but an end", vec![0; 1024], "the archive is empty"),
        (
            "zip",
            b"PK\x03\x04".repeat(256),
            "the payload is a zip archive; send tar or tar.gz",
        ),
        (
            "text",
            b"this is no archive, whatever it is called ".repeat(50),
            "the payload is text; send tar or tar.gz",
        ),
    ];
    all_refused(&world, table);
}

/// A gzip member of `n` mebibytes of one byte, the cheap way: members of one, again and again.
fn bomb(byte: u8, mebibytes: usize) -> Vec<u8> {
    // The best compression: a thousand to one.
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&vec![byte; 1 << 20]).unwrap();
    encoder.finish().unwrap().repeat(mebibytes)
}

/// Sends a form that declares a gigabyte, of which some megabytes are sent, and reads the answer before the rest.
fn begin(host: &TestServer, start: &[u8]) -> Answer {
    let (media, body) = form(&[("project", "demo")], b"");
    let tail = format!("\r\n--{BOUNDARY}--\r\n").len();
    let head = format!(
        "POST / HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {}\r\n{media}\r\nContent-Length: {HUGE}\r\n\r\n",
        host.token
    );
    let mut stream = host.connect();
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&body[..body.len() - tail]).unwrap();
    stream.write_all(start).unwrap();
    for _ in 0..8 {
        // Who has refused may stop reading whenever it likes.
        if stream.write_all(&vec![b'x'; 1 << 20]).is_err() {
            break;
        }
    }
    Answer::read(stream)
}

#[test]
fn bombs_of_names_are_refused_at_once() {
    let world = World::new(&[]);
    world.go_on("first");
    let table = [
        (b'L', "its headers are too large"),
        (b'K', "its headers are too large"),
        (b'x', "its headers are too large"),
        (b'g', "its headers are too large"),
        (b'Z', "'bomb': its kind is unknown"),
        (b'5', "'bomb': a directory must not have content"),
        (b'2', "'bomb': a link must not have content"),
    ];
    for (kind, part) in table {
        let header = sized(kind, "bomb", HUGE - 1, b"");
        let what = format!("a bomb of {}", char::from(kind));
        let expected = (422, "bad_archive", part);
        let start = [file("a", "x"), header].concat();
        // What is not there cannot have been waited for.
        let before = world.listing();
        let answer = begin(world.host(), &start);
        world.refused(&what, &answer, expected, &before);
        let zipped = [gzip(&start), bomb(b'x', 1024)].concat();
        let answer = world.host().deploy(&[("project", "demo")], &zipped);
        world.refused(&what, &answer, expected, &before);
        world.go_on(&what);
    }
    // A gzip header that says that a name follows, which never ends.
    let before = world.listing();
    let answer = begin(world.host(), &[0x1f, 0x8b, 8, 8, 0, 0, 0, 0, 0, 255]);
    let expected = (422, "bad_archive", "not a readable tar or tar.gz archive");
    world.refused("a bomb of gzip", &answer, expected, &before);
    world.go_on("a bomb of gzip");
    let peak = world.peak();
    assert!(peak < MEMORY, "{peak} KiB");
}

#[test]
fn what_unpacks_to_much_takes_disk_as_allowed_and_no_memory() {
    let mut world = World::new(&["--max-entries", "1000"]);
    world.go_on("first");
    // What fits is a file like any other.
    let size = 48 << 20;
    let zeros = [
        gzip(&sized(b'0', "./zeros", size, b"")),
        bomb(0, 48),
        gzip(&[0; 1024]),
    ]
    .concat();
    let answer = world.host().deploy(&[("project", "demo")], &zeros);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let found = fs::metadata(world.root.0.join("components/demo/zeros")).unwrap();
    assert_eq!(found.len(), size);
    // Zeros behind the end are padding, however many.
    let padded = [gzip(&tar(&[("./what", "padded")])), bomb(0, 48)].concat();
    let answer = world.host().deploy(&[("project", "demo")], &padded);
    assert_eq!(answer.status, 200, "{}", answer.text());
    // Entries.
    let many: Vec<Vec<u8>> = (0..5000).map(|n| file(&format!("./{n}"), "")).collect();
    let before = world.listing();
    let answer = world
        .host()
        .deploy(&[("project", "demo")], &gzip(&bare(&many)));
    let expected = (422, "bad_archive", "more than 1000 entries");
    world.refused("entries", &answer, expected, &before);
    let peak = world.peak();
    assert!(peak < MEMORY, "{peak} KiB");
    // What does not fit is stopped where the operator said. What others write to this disk or remove from it meanwhile is less
    // than what is free for the payload, and than what the tree has above that.
    let free = rustix::fs::statvfs(&world.root.0).unwrap();
    let least = (free.f_bavail * free.f_frsize).saturating_sub(320 << 20);
    let least = least.to_string();
    world.restart(&["--min-free-disk", &least]);
    let holes = [
        gzip(&sized(b'0', "./zeros", 640 << 20, b"")),
        bomb(0, 640),
        gzip(&[0; 1024]),
    ]
    .concat();
    let answer = world.host().deploy(&[("project", "demo")], &holes);
    assert_eq!(answer.status, 200, "zeros take no room: {}", answer.text());
    let found = fs::metadata(world.root.0.join("components/demo/zeros")).unwrap();
    assert_eq!((found.len(), found.blocks()), (640 << 20, 0));
    let bomb = [
        gzip(&sized(b'0', "./data", 640 << 20, b"")),
        bomb(b'x', 640),
        gzip(&[0; 1024]),
    ]
    .concat();
    let before = world.listing();
    let answer = world.host().deploy(&[("project", "demo")], &bomb);
    let expected = (507, "no_space", "the disk would have less than");
    world.refused("a bomb", &answer, expected, &before);
    let peak = world.peak();
    assert!(peak < MEMORY, "{peak} KiB");
    world.restart(&[]);
    world.go_on("the bomb");
}

/// The mode of something in what is live.
fn mode(root: &Path, path: &str) -> u32 {
    let path = root.join("components/demo").join(path);
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn odd_archives_are_taken_and_modes_tamed() {
    let world = World::new(&[]);
    let root = &world.root.0;
    let live = root.join("components/demo");
    let deploy = |what: &str, payload: &[u8]| {
        let answer = world.host().deploy(&[("project", "demo")], payload);
        assert_eq!(answer.status, 200, "{what}: {}", answer.text());
    };
    let modes = [
        moded(b'5', "./", "", 0o1777, b""),
        moded(b'0', "./setuid", "", 0o4755, b"x"),
        moded(b'0', "./setgid", "", 0o2711, b"x"),
        moded(b'0', "./sticky", "", 0o1644, b"x"),
        moded(b'0', "./all", "", 0o7777, b"x"),
        moded(b'0', "./none", "", 0, b"x"),
        moded(b'5', "./shut/", "", 0, b""),
        moded(b'5', "./shut/in/", "", 0o7000, b""),
        moded(b'0', "./shut/in/f", "", 0o444, b"x"),
        moded(b'5', "./shared/", "", 0o3775, b""),
        // Of odd types in the mode's number only the permissions count.
        moded(b'0', "./typed", "", 0o120_640, b"x"),
        hard("./linked", "./setuid"),
    ];
    deploy("modes", &rooted(&modes));
    let table = [
        ("", 0o777),
        ("setuid", 0o755),
        ("linked", 0o755),
        ("setgid", 0o711),
        ("sticky", 0o644),
        ("all", 0o777),
        ("none", 0o600),
        ("shut", 0o700),
        ("shut/in", 0o700),
        ("shut/in/f", 0o644),
        ("shared", 0o775),
        ("typed", 0o640),
    ];
    for (path, expected) in table {
        // A path that ends with a slash goes through `components/demo`, the link.
        let path = if path.is_empty() { "." } else { path };
        assert_eq!(mode(root, path), expected, "{path}: {:o}", mode(root, path));
    }
    let plain = rooted(&[file("./a", "one"), link("./l", "a"), dir("./empty/")]);
    let members: Vec<u8> = plain.chunks(100).flat_map(gzip).collect();
    deploy("a member for every hundred bytes", &members);
    assert_eq!(fs::read_to_string(live.join("l")).unwrap(), "one");
    assert_eq!(names(&live), ["a", "empty", "l"]);
    let long_name = [b"n".repeat(200).as_slice(); 6].join(&b'/')[..1024].to_vec();
    let edge = rooted(&[
        long(b'L', &deep(63)),
        file("x", "deep"),
        long(b'L', &long_name),
        file("x", "long"),
        long(b'K', &long_name),
        link("to-long", "x"),
    ]);
    deploy("as deep and as long as may be", &edge);
    let path = String::from_utf8(deep(63)).unwrap();
    assert_eq!(fs::read_to_string(live.join(path)).unwrap(), "deep");
    assert_eq!(fs::read_to_string(live.join("to-long")).unwrap(), "long");
    let raw = Raw {
        kind: b'0',
        name: b"./caf\xe9 \xff",
        target: b"",
        mode: 0o644,
        size: 1,
        content: b"x",
    };
    deploy("a name that is no UTF-8", &rooted(&[raw.bytes()]));
    assert_eq!(fs::read_dir(&live).unwrap().count(), 1);
}
