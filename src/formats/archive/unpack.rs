//! Receiving a payload: it is stored, hashed and unpacked in one pass, while it arrives. The calling thread reads; `store`
//! hashes and stores; `extract` decodes and writes the tree. So the three cost as long as the slowest of them. What takes a
//! while is put on disk meanwhile ([`EarlySync`]), so that less is left for the moment before the release goes live. A small
//! payload is received first, then stored, and then unpacked, by the calling thread: two more would take longer to begin.

use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::path::Path;
use std::thread::{self, ScopedJoinHandle};

use sha2::{Digest, Sha256};

use crate::api::error::{Code, Error, Refusal};
use crate::formats::archive::early_sync::EarlySync;
use crate::formats::archive::extract::{Tally, extract};
use crate::formats::archive::feed::{self, Disconnected, Feed, Filler};
use crate::formats::archive::free_space::{FreeSpace, unwritten};
use crate::formats::archive::limits::{Limits, Owner};
use crate::system::{hex, threads};

/// What a payload was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// The SHA-256 of the bytes received, as lower-case hexadecimal digits.
    pub payload_hash: String,
    /// How many bytes were received.
    pub payload_size: u64,
    /// The bytes of all regular files of the tree; a hard link adds nothing.
    pub unpacked_size: u64,
    /// How many regular files there are, hard links included.
    pub files: u64,
}

/// If the other side has nothing to do, so much is handed over at once instead of waiting for a full buffer. Less would
/// wake it up more often than it is worth.
const HANDOVER: usize = 64 * 1024;

/// A payload that has ended by then is a small one. Few trees of a dozen files are larger, and it takes a tenth of a second
/// through 10 Mbit/s.
const SMALL: usize = 128 * 1024;

/// The stack of the thread that unpacks: its largest frame holds the tar reader's blocks and a path. Half would do, but it is as
/// large as that of a request, so that one can have the other's.
const EXTRACT_STACK: usize = 1 << 20;

/// The stack of the thread that stores: it has a hash on it.
const STORE_STACK: usize = 64 * 1024;

/// Stores what `source` gives in `payload`, if there is one, as received, and unpacks it into `release`, an existing, empty directory that
/// nobody else writes to. The tree is handed to `owner`, which only root can. `progress` is told how many bytes have been received. What was
/// written is not promised to be on disk.
///
/// # Errors
/// A [`Refusal`] for people and machines; the caller removes the release directory, which is always possible then. If
/// `source` fails, its failure is what is told: a [`Refusal`] inside its [`io::Error`] as it is, anything else as
/// `upload_broken`.
pub fn unpack(
    source: &mut dyn Read,
    payload: Option<&File>,
    release: &Path,
    limits: &Limits,
    owner: Option<Owner>,
    progress: &mut dyn FnMut(u64),
) -> Result<Unpacked, Refusal> {
    let stored = match payload {
        Some(file) => Some((FreeSpace::new(file, limits.min_free_disk)?, file)),
        None => None,
    };
    let (filler, [to_extract, to_store]) = feed::split();
    let mut receiving = Receiving {
        source,
        limits,
        filler,
        total: 0,
        ended: false,
    };
    let told = ReceiveError::refusal;
    receiving.piece(SMALL, progress).map_err(told)?;
    if receiving.ended {
        let size = receiving.end().map_err(told)?;
        let hash = store(to_store, stored)?;
        let tally = extract(to_extract, release, limits, owner)?;
        return Ok(unpacked(size, hash, tally));
    }
    thread::scope(|scope| {
        let doing = |error| Error::new("starting a thread to unpack the payload", error);
        let work = || extract(to_extract, release, limits, owner);
        let extracting = threads::spawn_scoped(scope, "extract", EXTRACT_STACK, work);
        let extracting = extracting.map_err(doing)?;
        let storing =
            threads::spawn_scoped(scope, "store", STORE_STACK, || store(to_store, stored));
        let storing = storing.map_err(doing)?;
        let mut early = EarlySync::new(scope, release, payload);
        let received = receiving.rest(&mut |bytes| {
            early.look(bytes);
            progress(bytes);
        });
        let (stored, extracted) = (ended(storing), ended(extracting));
        match (received, stored, extracted, early.end()) {
            (Err(ReceiveError::Refused(refusal)), ..)
            | (_, Err(refusal), ..)
            | (_, _, Err(refusal), _)
            | (.., Err(refusal)) => Err(refusal),
            (Ok(size), Ok(hash), Ok(tally), Ok(())) => Ok(unpacked(size, hash, tally)),
            // They only end well once they were told that the payload is complete.
            (Err(gone @ ReceiveError::Gone), ..) => Err(gone.refusal()),
        }
    })
}

fn unpacked(payload_size: u64, payload_hash: String, tally: Tally) -> Unpacked {
    Unpacked {
        payload_hash,
        payload_size,
        unpacked_size: tally.bytes,
        files: tally.files,
    }
}

/// What a thread has made of it; a panic goes on here.
fn ended<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    match thread.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Why the receiving ended early.
enum ReceiveError {
    Refused(Refusal),
    /// Another thread has ended, and says why itself.
    Gone,
}

impl ReceiveError {
    fn refusal(self) -> Refusal {
        match self {
            ReceiveError::Refused(refusal) => refusal,
            ReceiveError::Gone => Refusal::new(
                Code::Internal,
                "unpacking the payload ended before the payload did",
            ),
        }
    }
}

impl From<Disconnected> for ReceiveError {
    fn from(_: Disconnected) -> ReceiveError {
        ReceiveError::Gone
    }
}

impl From<Refusal> for ReceiveError {
    fn from(refusal: Refusal) -> ReceiveError {
        ReceiveError::Refused(refusal)
    }
}

/// A payload while it is received.
struct Receiving<'a> {
    source: &'a mut dyn Read,
    limits: &'a Limits,
    filler: Filler,
    total: u64,
    /// There is no more of it.
    ended: bool,
}

impl Receiving<'_> {
    /// Fills one buffer and hands it over: once it has so many bytes and somebody waits for them, as it is.
    fn piece(&mut self, enough: usize, progress: &mut dyn FnMut(u64)) -> Result<(), ReceiveError> {
        let mut buffer = self.filler.empty()?;
        let mut len = 0;
        while len < buffer.len() && !(len >= enough && self.filler.starving()) {
            let read = read(self.source, &mut buffer[len..])?;
            if read == 0 {
                self.ended = true;
                break;
            }
            len += read;
            self.total += read as u64;
            fits(self.limits.max_payload, self.total)?;
            progress(self.total);
        }
        if len > 0 {
            self.filler.send(buffer, len)?;
        }
        Ok(())
    }

    /// Receives what is left, and says how many bytes all of it has.
    fn rest(mut self, progress: &mut dyn FnMut(u64)) -> Result<u64, ReceiveError> {
        while !self.ended {
            self.piece(HANDOVER, progress)?;
        }
        self.end()
    }

    fn end(self) -> Result<u64, ReceiveError> {
        if self.total == 0 {
            return Err(Refusal::new(Code::BadRequest, "the payload is empty").into());
        }
        self.filler.end()?;
        Ok(self.total)
    }
}

/// Hashes the payload, and stores it if it has a file. The hash.
fn store(mut payload: Feed, mut stored: Option<(FreeSpace, &File)>) -> Result<String, Refusal> {
    let mut hash = Sha256::new();
    // Whoever receives says why there is no more: what was hashed is of no use then.
    while let Ok(bytes @ [_, ..]) = payload.fill_buf() {
        if let Some((room, file)) = &mut stored {
            room.take(bytes.len() as u64)?;
            file.write_all(bytes)
                .map_err(|error| unwritten("storing the payload", error))?;
        }
        hash.update(bytes);
        let len = bytes.len();
        payload.consume(len);
    }
    Ok(hex::encode(hash.finalize()))
}

fn read(source: &mut dyn Read, into: &mut [u8]) -> Result<usize, Refusal> {
    loop {
        match source.read(into) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Refusal::of_reading("receiving the payload", &error)),
            Ok(read) => return Ok(read),
        }
    }
}

/// Refuses a payload that has at least so many bytes and may not.
///
/// # Errors
/// The refusal, `too_large`.
pub fn fits(max_payload: Option<u64>, least: u64) -> Result<(), Refusal> {
    match max_payload {
        Some(most) if least > most => Err(too_large(most)),
        _ => Ok(()),
    }
}

fn too_large(most: u64) -> Refusal {
    Refusal::new(
        Code::TooLarge,
        format!("the payload is larger than the {most} bytes that this server accepts"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::archive::buffers::LARGE;
    use crate::formats::archive::testing::{
        LIMITS, Source, Temporary, dir, entry, file, gz, hard, link, lz4, pax, sized, sparse, tar,
        tree, unpack_at,
    };
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn unpacked(bytes: &[u8]) -> Result<(Unpacked, Vec<String>), Refusal> {
        let at = Temporary::new();
        let unpacked = unpack_at(&at.0, &mut Source::new(bytes, 65_536), &LIMITS)?;
        assert_eq!(fs::read(at.0.join("payload")).unwrap(), bytes);
        Ok((unpacked, tree(&at.0.join("release"))))
    }

    fn named(kind: u8, name: &[u8]) -> Vec<u8> {
        entry(kind, b"././@LongLink", 0o644, b"", &[name, b"\0"].concat())
    }

    #[test]
    fn what_is_accepted() {
        /// What it shows, the entries, the tree.
        type UnpackCase = (&'static str, Vec<Vec<u8>>, Vec<String>);
        let long = format!("{}/{}", "d".repeat(200), "f".repeat(200));
        let deep = vec!["d"; 64].join("/");
        let table: Vec<UnpackCase> = vec![
            (
                "one file is not flattened",
                vec![file("a", "1")],
                vec!["a 644 1".into()],
            ),
            (
                "one directory is",
                vec![
                    file("package/package.json", "{}"),
                    file("package/lib/x", "1"),
                ],
                vec![
                    "lib/ 755".into(),
                    "lib/x 644 1".into(),
                    "package.json 644 {}".into(),
                ],
            ),
            (
                "with something of its own name in it",
                vec![
                    dir("a/", 0o755),
                    file("a/a/a", "1"),
                    file("a/.flatten", "2"),
                ],
                vec![".flatten 644 2".into(), "a/ 755".into(), "a/a 644 1".into()],
            ),
            (
                "not with an entry for the root",
                vec![dir("./", 0o755), file("./a/b", "1")],
                vec!["a/ 755".into(), "a/b 644 1".into()],
            ),
            (
                "nor beside something else",
                vec![file("a/b", "1"), link("c", "a/b")],
                vec!["a/ 755".into(), "a/b 644 1".into(), "c -> a/b".into()],
            ),
            (
                "modes",
                vec![
                    dir("./", 0o755),
                    dir("shut", 0),
                    file("shut/in", "1"),
                    dir("open", 0o7777),
                    entry(b'0', b"none", 0, b"", b""),
                    entry(b'0', b"all", 0o7777, b"", b""),
                    entry(b'0', b"run", 0o111, b"", b""),
                ],
                vec![
                    "all 777 ".into(),
                    "none 600 ".into(),
                    "open/ 777".into(),
                    "run 711 ".into(),
                    "shut/ 700".into(),
                    "shut/in 644 1".into(),
                ],
            ),
            (
                "links that stay inside, dangling ones too",
                vec![
                    file("d/f", "1"),
                    link("d/up", "../d/f"),
                    link("here", "."),
                    link("gone", "nowhere/at/all"),
                    link("d/gone", "../gone/x"),
                ],
                vec![
                    "d/ 755".into(),
                    "d/f 644 1".into(),
                    "d/gone -> ../gone/x".into(),
                    "d/up -> ../d/f".into(),
                    "gone -> nowhere/at/all".into(),
                    "here -> .".into(),
                ],
            ),
            (
                "hard links",
                vec![
                    file("./a", "1"),
                    hard("b", "./a"),
                    hard("d/c", "b"),
                    hard("a", "a"),
                ],
                vec![
                    "a 644 1".into(),
                    "b 644 1".into(),
                    "d/ 755".into(),
                    "d/c 644 1".into(),
                ],
            ),
            (
                "the later of the same kind",
                vec![
                    dir("./", 0o755),
                    file("a", "one"),
                    hard("b", "a"),
                    file("./a", "two"),
                    link("l", "a"),
                    link("l", "b"),
                    dir("d", 0o700),
                    file("d/x", ""),
                    dir("d", 0o750),
                ],
                vec![
                    "a 644 two".into(),
                    "b 644 one".into(),
                    "d/ 750".into(),
                    "d/x 644 ".into(),
                    "l -> b".into(),
                ],
            ),
            (
                "global PAX headers",
                vec![pax(b'g', &[("comment", b"0123")]), file("x/a", "1")],
                vec!["a 644 1".into()],
            ),
            (
                "PAX and GNU names",
                vec![
                    dir("./", 0o755),
                    pax(b'x', &[("path", long.as_bytes()), ("mtime", b"1.5")]),
                    file("short", "1"),
                    named(b'K', long.as_bytes()),
                    named(b'L', b"link"),
                    link("l", "t"),
                ],
                vec![
                    format!("{}/ 755", "d".repeat(200)),
                    format!("{long} 644 1"),
                    format!("link -> {long}"),
                ],
            ),
            (
                "64 deep",
                vec![dir(".", 0o755), named(b'L', deep.as_bytes()), file("x", "")],
                (1..64)
                    .map(|n| format!("{}/ 755", vec!["d"; n].join("/")))
                    .chain([format!("{deep} 644 ")])
                    .collect(),
            ),
            (
                "values with newlines, whole or made to look like another record",
                vec![
                    dir("./", 0o755),
                    pax(
                        b'x',
                        &[
                            ("SCHILY.acl.access", b"user::rw-\nuser:nobody:r--\n"),
                            ("comment", b"A\n22 linkpath=/etc/evil\n18 path=../evil\n"),
                            ("path", b"real"),
                        ],
                    ),
                    file("made-up", "1"),
                    pax(b'g', &[("comment", b"A\n22 linkpath=/etc/evil\n")]),
                    pax(b'x', &[("comment", b"A\n22 linkpath=/etc/evil\n")]),
                    link("l", "real"),
                    pax(b'x', &[("size", b"2")]),
                    sized(b'0', b"two", 0o644, b"", b"22", 0),
                ],
                vec!["l -> real".into(), "real 644 1".into(), "two 644 22".into()],
            ),
            (
                "what macOS leaves is dropped and hinders no flattening",
                vec![
                    file("._app", "\0\x05\x16\x07attributes"),
                    dir("app", 0o755),
                    file("app/._index.html", "\0\x05\x16\x07"),
                    file("app/index.html", "1"),
                    file("app/._mine", "\0\x05\x16"),
                    file("app/._its", "\0\x05\x16\x08"),
                    file("app/.DS_Store", "x"),
                    file("app/img/.DS_Store", "x"),
                    dir("__MACOSX", 0o755),
                    file("__MACOSX/app/x", "1"),
                    link("__MACOSX/l", "x"),
                ],
                vec![
                    "._its 644 \0\x05\x16\x08".into(),
                    "._mine 644 \0\x05\x16".into(),
                    "index.html 644 1".into(),
                ],
            ),
            (
                "a first name that looks like something else",
                vec![dir("./", 0o755), file("{a}", "1"), file("PK\x03\x04", "2")],
                vec!["PK\x03\x04 644 2".into(), "{a} 644 1".into()],
            ),
            (
                "old ways",
                vec![
                    dir("./", 0o755),
                    entry(0, b"old", 0o644, b"", b"1"),
                    entry(b'7', b"contiguous", 0o644, b"", b"2"),
                    entry(0, b"dir/", 0o755, b"", b""),
                    file("a//b/./c", "3"),
                ],
                vec![
                    "a/ 755".into(),
                    "a/b/ 755".into(),
                    "a/b/c 644 3".into(),
                    "contiguous 644 2".into(),
                    "dir/ 755".into(),
                    "old 644 1".into(),
                ],
            ),
        ];
        for (what, entries, mut expected) in table {
            expected.sort();
            let plain = tar(&entries);
            for bytes in [plain.clone(), gz(&plain)] {
                let (unpacked, found) =
                    unpacked(&bytes).unwrap_or_else(|refusal| panic!("{what}: {refusal}"));
                assert_eq!(found, expected, "{what}");
                let files = expected.iter().filter(|line| {
                    !line.contains(" -> ") && !line.split(' ').next().unwrap().ends_with('/')
                });
                assert_eq!(unpacked.files, files.count() as u64, "{what}");
            }
        }
    }

    #[test]
    fn flattening_finds_a_name_that_nothing_has() {
        let taken = (0..81).map(|n| file(&format!("p/.flatten{}", "_".repeat(n)), ""));
        let numbers = (0..300).map(|n| file(&format!("p/.flatten{n}"), ""));
        let mut names = taken.chain(numbers).collect::<Vec<_>>();
        names.extend((81..248).flat_map(|n| {
            let path = format!("p/.flatten{}", "_".repeat(n));
            [named(b'L', path.as_bytes()), file("x", "")]
        }));
        assert_eq!(unpacked(&tar(&names)).unwrap().1.len(), 300 + 248);
    }

    #[test]
    fn what_is_refused() {
        let up = |path: &str, target: &str| link(path, target);
        let long = "x".repeat(100);
        let too_long = [long.as_str(); 11].join("/");
        let deep = vec!["d"; 65].join("/");
        let huge = "y".repeat(256);
        let good = file("a", "1");
        let mut table: Vec<(Vec<Vec<u8>>, &str)> = vec![
            (vec![file("/etc/x", "")], "'/etc/x': the path is absolute"),
            (
                vec![file("../x", "")],
                "'../x': a path must not contain '..'",
            ),
            (
                vec![file("a/../x", "")],
                "'a/../x': a path must not contain",
            ),
            (vec![dir("..", 0o755)], "'..': a path"),
            (
                vec![file("a\nb", "")],
                "'a^Jb': the name contains a newline",
            ),
            (
                vec![pax(b'x', &[("path", b"a\0b")]), good.clone()],
                "contains a NUL",
            ),
            (
                vec![pax(b'x', &[("path", b"a\nb")]), good.clone()],
                "'a^Jb': the name contains a newline",
            ),
            (
                vec![named(b'L', too_long.as_bytes()), good.clone()],
                "longer than 1024",
            ),
            (
                vec![named(b'L', deep.as_bytes()), good.clone()],
                "deeper than 64",
            ),
            (
                vec![named(b'L', huge.as_bytes()), good.clone()],
                "longer than 255",
            ),
            (vec![file("", "")], "it has no name"),
            (vec![file(".", "")], "root must be a directory"),
            (vec![link("./", "a")], "root must be a directory"),
            // Links that leave.
            (
                vec![good.clone(), link("b", "/etc/passwd")],
                "'/etc/passwd': the path is absolute",
            ),
            (
                vec![good.clone(), up("b", "..")],
                "'b': its target '..' leads out",
            ),
            (
                vec![good.clone(), up("d/b", "../../x")],
                "'d/b': its target '../../x' leads out",
            ),
            (vec![good.clone(), up("b", "gone/../../x")], "leads out"),
            (
                vec![
                    good.clone(),
                    link("d/e/l1", "../.."),
                    link("x", "d/e/l1/../outside"),
                ],
                "'x': its target 'd/e/l1/../outside' leads out",
            ),
            (
                vec![good.clone(), link("b", "c"), link("c", "b")],
                "leads in a circle",
            ),
            (
                vec![file("p/a", ""), link("p/b", "../p/a")],
                "'b': its target '../p/a' leads out",
            ),
            (
                vec![good.clone(), link("b", "")],
                "it is a link without a target",
            ),
            (vec![good.clone(), link("b", "x\ny")], "contains a newline"),
            // Writing through links, and over other kinds.
            (
                vec![link("l", "d"), file("l/x", "")],
                "'l/x': 'l' is a link",
            ),
            (
                vec![dir("d", 0o755), link("l", "d"), dir("l/x", 0o755)],
                "'l' is a link",
            ),
            (vec![good.clone(), file("a/b", "")], "'a/b': 'a' is a file"),
            (
                vec![link("l", "d"), file("l", "")],
                "'l': the archive has this path twice",
            ),
            (
                vec![good.clone(), link("a", "b")],
                "'a': the archive has this path twice",
            ),
            (
                vec![good.clone(), dir("a", 0o755)],
                "'a': the archive has this path twice",
            ),
            (
                vec![dir("a", 0o755), file("a", "")],
                "'a': the archive has this path twice",
            ),
            (
                vec![file("a/b", ""), hard("a", "a/b")],
                "'a': the archive has this path twice",
            ),
            // Hard links.
            (
                vec![hard("b", "a"), good.clone()],
                "'b': it is a hard link to 'a'",
            ),
            (
                vec![dir("d", 0o755), hard("b", "d")],
                "'b': it is a hard link to 'd'",
            ),
            (
                vec![link("l", "x"), hard("b", "l")],
                "'b': it is a hard link to 'l'",
            ),
            (
                vec![good.clone(), hard("b", "/etc/passwd")],
                "'b': its target '/etc/passwd'",
            ),
            (
                vec![good.clone(), hard("b", "../a")],
                "'b': its target '../a'",
            ),
            (
                vec![file("d/a", ""), link("l", "d"), hard("b", "l/a")],
                "hard link to 'l/a'",
            ),
            // Kinds.
            (
                vec![entry(b'3', b"x", 0o644, b"", b"")],
                "'x': it is a device",
            ),
            (
                vec![entry(b'4', b"x", 0o644, b"", b"")],
                "'x': it is a device",
            ),
            (
                vec![entry(b'6', b"x", 0o644, b"", b"")],
                "'x': it is a FIFO",
            ),
            (vec![sparse("x")], "'x': it is a sparse file"),
            (
                vec![pax(b'x', &[("GNU.sparse.major", b"1")]), good.clone()],
                "'a': it is a sparse",
            ),
            (
                vec![entry(b'Z', b"x", 0o644, b"", b"")],
                "'x': its kind is unknown",
            ),
            (
                vec![entry(b'V', b"x", 0o644, b"", b"")],
                "'x': its kind is unknown",
            ),
            (
                vec![entry(b'5', b"x", 0o644, b"", b"1")],
                "'x': a directory must not have content",
            ),
            (
                vec![entry(b'0', b"x/", 0o644, b"", b"1")],
                "'x/': a directory must not",
            ),
            (
                vec![entry(b'2', b"x", 0o644, b"y", b"1")],
                "'x': a link must not have content",
            ),
            (
                vec![good.clone(), entry(b'1', b"x", 0o644, b"a", b"1")],
                "'x': a link must not",
            ),
            (
                vec![
                    named(b'L', b"b"),
                    pax(b'g', &[("comment", b"x")]),
                    good.clone(),
                ],
                "a global PAX header stands between",
            ),
            (vec![], "the archive is empty"),
            (
                vec![dir("./", 0o755), dir("a/b", 0o755), link("l", "a")],
                "there is no regular file in the archive",
            ),
            (
                vec![pax(b'g', &[("comment", b"x")])],
                "there is no regular file",
            ),
            (
                vec![
                    file("a/.DS_Store", "x"),
                    file("__MACOSX/a/x", "x"),
                    file("a/._x", "\0\x05\x16\x07rest"),
                ],
                "there is no regular file",
            ),
            (
                vec![good.clone(), b"nonsense".repeat(64)],
                "the archive is damaged after 'a'",
            ),
            (
                vec![named(b'L', b"b"), named(b'L', b"c"), good.clone()],
                "two headers of one kind",
            ),
            (vec![named(b'L', b"b")], "an entry that does not come"),
        ];
        let mut bad_mode = file("x", "");
        bad_mode[100..107].copy_from_slice(b"rwxr-xr");
        bad_mode[148..156].copy_from_slice(b"        ");
        let sum: u32 = bad_mode[..512].iter().map(|&byte| u32::from(byte)).sum();
        bad_mode[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        table.push((vec![bad_mode], "'x': its mode is not octal"));
        for (entries, part) in table {
            for bytes in [tar(&entries), gz(&tar(&entries))] {
                let refusal = unpacked(&bytes).expect_err(part);
                assert_eq!(refusal.code, Code::BadArchive, "{refusal}");
                assert!(refusal.message.contains(part), "{part} in {refusal}");
            }
        }
    }

    #[test]
    fn what_is_not_whole_is_refused() {
        let one = file("a", "content");
        let whole = tar(std::slice::from_ref(&one));
        let zipped = gz(&whole);
        let with = |bytes: &[u8], more: &[u8]| [bytes, more].concat();
        let mut wrong_sum = zipped.clone();
        let at = wrong_sum.len() - 6;
        wrong_sum[at] ^= 1;
        let table: Vec<(Vec<u8>, &str)> = vec![
            (one.clone(), "no end marker"),
            (with(&one, &[0; 512]), "no end marker"),
            (with(&one, &[0; 1023]), "no end marker"),
            (one[..700].to_vec(), "damaged after 'a': it is truncated"),
            (one[..515].to_vec(), "'a': its content is truncated"),
            (with(&one, &one[..300]), "damaged after 'a'"),
            (with(&whole, b"x"), "followed by something else"),
            (with(&whole, &one), "followed by something else"),
            (gz(&one), "no end marker"),
            (gz(&with(&whole, &[0, 1])), "followed by something else"),
            (zipped[..zipped.len() - 1].to_vec(), "truncated"),
            (zipped[..40].to_vec(), "truncated"),
            (wrong_sum, "damaged after 'a'"),
            (with(&zipped, b"x"), "something that is not gzip follows"),
            (with(&zipped, b"\x1f\x8b"), "truncated"),
            (b"hello".to_vec(), "the payload is text; send tar or tar.gz"),
            (b"\x01".repeat(600), "not a readable tar or tar.gz"),
            (vec![0], "not a readable tar or tar.gz"),
            (
                b"PK\x03\x04".repeat(200),
                "is a zip archive; send tar or tar.gz",
            ),
            (
                gz(&b"PK\x03\x04".repeat(200)),
                "is a zip archive in gzip; send",
            ),
            (gz(&zipped), "is gzip in gzip; send tar or tar.gz"),
            (
                b"<!doctype html>\n<p>".repeat(99),
                "is an HTML page; send tar",
            ),
        ];
        for (bytes, part) in table {
            let refusal = unpacked(&bytes).expect_err(part);
            assert_eq!(refusal.code, Code::BadArchive, "{refusal}");
            assert!(refusal.message.contains(part), "{part} in {refusal}");
        }
        let packed = lz4(&whole);
        let table: Vec<(Vec<u8>, &str)> = vec![
            (lz4(&one), "no end marker"),
            (lz4(&with(&whole, &one)), "followed by something else"),
            (
                packed[..packed.len() - 1].to_vec(),
                "damaged after 'a': it is truncated",
            ),
            (
                packed[..10].to_vec(),
                "not a readable tar.lz4 archive: it is truncated",
            ),
            (
                packed[..5].to_vec(),
                "not a readable tar.lz4 archive: it is truncated",
            ),
            (
                with(&packed[..4], &[0; 99]),
                "tar.lz4 archive: its lz4 header is invalid",
            ),
            (
                with(&packed, b"x"),
                "damaged after 'a': something that is not lz4 follows",
            ),
            (lz4(&packed), "is an lz4 file in lz4; send"),
            (gz(&packed), "is an lz4 file in gzip; send"),
            (lz4(b"{}"), "is JSON in lz4; send"),
            (
                b"\x02\x21\x4c\x18".repeat(200),
                "is an lz4 file of the legacy format; send",
            ),
        ];
        for (bytes, part) in table {
            let refusal = unpacked(&bytes).expect_err(part);
            assert_eq!(refusal.code, Code::BadArchive, "{refusal}");
            assert!(refusal.message.contains(part), "{part} in {refusal}");
        }
        let halves = with(&gz(&whole[..900]), &gz(&whole[900..]));
        let mixed = [lz4(&whole[..700]), gz(&whole[700..900]), lz4(&whole[900..])].concat();
        for bytes in [
            halves,
            mixed,
            packed.clone(),
            with(&packed, &[0; 99]),
            with(&zipped, &[0; 99]),
            with(&whole, &[0; 9000]),
        ] {
            assert_eq!(unpacked(&bytes).unwrap().1, ["a 644 content"]);
        }
    }

    #[test]
    fn bombs_of_names_stop_early() {
        // A gigabyte of name each, of which a megabyte is sent: who reads on would ask for more than there is.
        let name = vec![b'x'; 1 << 20];
        for kind in [b'L', b'K', b'x', b'g', b'X'] {
            let bytes = sized(kind, b"bomb", 0o644, b"", &name, 1 << 30);
            let refusal = unpacked(&[file("a", ""), bytes].concat()).unwrap_err();
            assert_eq!(refusal.code, Code::BadArchive);
            let wanted = ["headers are too large", "kind is unknown"];
            assert!(
                wanted.iter().any(|part| refusal.message.contains(part)),
                "{refusal}"
            );
        }
    }

    #[test]
    fn reads_of_any_size_give_the_same() {
        let content = "0123456789".repeat(70_000);
        let plain = tar(&[
            file("p/a", "1"),
            file("p/big", &content),
            link("p/l", "big"),
        ]);
        for bytes in [plain.clone(), gz(&plain)] {
            for step in [1, 7, 511, 65_536, usize::MAX] {
                let at = Temporary::new();
                let release = at.0.join("release");
                fs::create_dir(&release).unwrap();
                let payload = File::create(at.0.join("payload")).unwrap();
                let mut seen = 0;
                let unpacked = unpack(
                    &mut Source::new(&bytes, step),
                    Some(&payload),
                    &release,
                    &LIMITS,
                    None,
                    &mut |received| {
                        assert!(received > seen);
                        seen = received;
                    },
                )
                .unwrap();
                let hash: String = Sha256::digest(&bytes)
                    .iter()
                    .map(|b| format!("{b:02x}"))
                    .collect();
                let expected = Unpacked {
                    payload_hash: hash,
                    payload_size: bytes.len() as u64,
                    unpacked_size: 700_001,
                    files: 2,
                };
                assert_eq!((unpacked, seen), (expected, bytes.len() as u64));
                assert_eq!(fs::read(at.0.join("payload")).unwrap(), bytes);
                let lines = tree(&release);
                assert_eq!(
                    lines,
                    [
                        "a 644 1".into(),
                        format!("big 644 {content}"),
                        "l -> big".into()
                    ]
                );
            }
        }
    }

    #[test]
    fn sizes_count_what_is_there() {
        let entries = [
            file("a", "12345"),
            file("a", "123"),
            hard("b", "a"),
            file("a", "1"),
        ];
        let (unpacked, _) = unpacked(&tar(&entries)).unwrap();
        // `b` keeps the three bytes of the second `a`.
        assert_eq!((unpacked.unpacked_size, unpacked.files), (4, 2));
    }

    #[test]
    fn limits_hold() {
        let two = tar(&[file("a", "1"), file("b", "2")]);
        let size = two.len() as u64;
        let limits = |max_payload, max_entries, min_free_disk| Limits {
            max_payload,
            max_entries,
            min_free_disk,
        };
        let implied = tar(&[dir("./", 0o755), file("a/b/c/d", "")]);
        let table: Vec<(&[u8], Limits, Option<Code>)> = vec![
            (&two, limits(Some(size), 2, 0), None),
            (&two, limits(Some(size - 1), 2, 0), Some(Code::TooLarge)),
            (&two, limits(Some(0), 2, 0), Some(Code::TooLarge)),
            (&two, limits(None, 1, 0), Some(Code::BadArchive)),
            (&two, limits(None, 2, u64::MAX), Some(Code::NoSpace)),
            (&implied, limits(None, 4, 0), None),
            (&implied, limits(None, 3, 0), Some(Code::BadArchive)),
            (b"", limits(None, 2, 0), Some(Code::BadRequest)),
        ];
        for (bytes, limits, expected) in table {
            for step in [1, 65_536] {
                let at = Temporary::new();
                let result = unpack_at(&at.0, &mut Source::new(bytes, step), &limits);
                assert_eq!(
                    result.err().map(|refusal| refusal.code),
                    expected,
                    "{limits:?}"
                );
            }
        }
    }

    #[test]
    fn a_source_that_fails_says_why() {
        let whole = tar(&[file("a", "1")]);
        let own = Refusal::new(Code::TooLarge, "a second file");
        let table = [
            (io::Error::other(own.clone()), own),
            (
                io::Error::new(io::ErrorKind::UnexpectedEof, "the line went dead"),
                Refusal::new(
                    Code::UploadBroken,
                    "receiving the payload: the line went dead",
                ),
            ),
        ];
        for (failure, expected) in table {
            for bytes in [&whole[..], &whole[..600], &gz(&whole)[..20], b""] {
                let at = Temporary::new();
                let mut source = Source::new(bytes, 512);
                source.failure = Some(match failure.get_ref().unwrap().downcast_ref::<Refusal>() {
                    Some(refusal) => io::Error::other(refusal.clone()),
                    None => io::Error::new(failure.kind(), "the line went dead"),
                });
                let refusal = unpack_at(&at.0, &mut source, &LIMITS).unwrap_err();
                assert_eq!(refusal, expected);
            }
        }
    }

    /// A source without an end: an archive that is refused must stop the reading.
    #[test]
    fn a_refusal_stops_the_reading() {
        struct Endless(u64);
        impl Read for Endless {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                into.fill(b'x');
                self.0 += into.len() as u64;
                Ok(into.len())
            }
        }
        let at = Temporary::new();
        let mut source = Endless(0);
        let refusal = unpack_at(&at.0, &mut source, &LIMITS).unwrap_err();
        assert_eq!(refusal.code, Code::BadArchive);
        assert!(source.0 <= 8 * LARGE as u64, "{}", source.0);
    }

    #[test]
    fn the_root_gets_its_mode_and_what_is_refused_can_be_removed() {
        let table = [
            (vec![dir("./", 0o750), file("a", "")], 0o750),
            (vec![dir("p", 0o711), file("p/a", "")], 0o711),
            (vec![dir("p", 0), file("p/a", "")], 0o700),
        ];
        for (entries, expected) in table {
            let at = Temporary::new();
            unpack_at(&at.0, &mut Source::new(&tar(&entries), 512), &LIMITS).unwrap();
            let mode = fs::metadata(at.0.join("release"))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o7777, expected);
        }
        let at = Temporary::new();
        let entries = [
            dir("d", 0),
            dir("d/e", 0),
            file("d/e/f", ""),
            file("/x", ""),
        ];
        assert!(unpack_at(&at.0, &mut Source::new(&tar(&entries), 512), &LIMITS).is_err());
        let mode = fs::metadata(at.0.join("release/d/e"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o700);
    }
}
