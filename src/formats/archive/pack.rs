//! The archive of a directory: [`PackPlan::write`] writes what was chosen as a tar.gz.
//!
//! The same tree gives the same tar, and the same bytes where the level is given: entries are sorted, what is in a directory right behind it, owners are 0 and nameless, and every
//! modification time is the same, since a checkout, a copy and a CI runner each give their own to the same files. (The
//! receiving side does not use them either.) Of a mode the permission bits go along.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{Mode, OFlags};
use tar::{EntryType, Header};

use crate::api::error::{Doing, Error, Refusal};
use crate::formats::archive::compressor::Compressor;
use crate::formats::archive::effort::Effort;
use crate::formats::archive::planned::{FileStamp, PackItem, PackKind, Planned};
use crate::formats::archive::reader::{TAR_BLOCK, fill};
use crate::formats::archive::supply::open_list;
use crate::formats::archive::visible;
use crate::formats::delta::listing::{ListedEntry, ListedKind, ListingLimits};

/// Every entry's modification time: 1980-01-01, the earliest that no archiver has trouble with.
const MTIME: u64 = 315_532_800;

/// How much of a file is read at once, and chosen for together.
const CHUNK: usize = 256 * 1024;

/// What stands around an entry's content and its names: its own header, those of a long name and of a long target, and what
/// fills up a block behind each of the three.
const ENTRY_MAX: u64 = 6 * 512;

/// What will be packed, in order.
pub struct PackPlan {
    pub(super) root: PathBuf,
    pub(super) mode: u32,
    pub(super) items: Planned,
    /// When it was begun.
    pub(super) begun: SystemTime,
    pub(super) warnings: Vec<String>,
    pub(super) secrets: Vec<String>,
    pub(super) holes: Vec<(String, u64)>,
    pub(super) total: u64,
}

impl PackPlan {
    /// All of a tree that is as its list says.
    ///
    /// # Errors
    /// When the list cannot be read.
    pub fn of_list(root: &Path, list: &Path) -> Result<PackPlan, Refusal> {
        let mut list = open_list(list, ListingLimits::NONE)?;
        let mut plan = PackPlan {
            root: root.to_path_buf(),
            mode: 0o755,
            items: Planned::default(),
            begun: SystemTime::now(),
            warnings: Vec::new(),
            secrets: Vec::new(),
            holes: Vec::new(),
            total: 0,
        };
        let doing = || format!("reading the list of {}", root.display());
        while let Some(ListedEntry { path, kind }) = list.next()? {
            let (mode, what) = match kind {
                ListedKind::Directory { mode } => (mode, PackKind::Directory),
                ListedKind::Symlink { target } => (0o777, PackKind::Symlink(target.into())),
                ListedKind::File(file) => {
                    plan.total += file.size;
                    (file.mode, PackKind::File(file.size))
                }
            };
            if path.is_empty() {
                plan.mode = mode;
                continue;
            }
            let item = PackItem {
                path,
                mode,
                what,
                stamp: FileStamp::default(),
                harmless: false,
            };
            plan.items.push(&item).doing(doing)?;
        }
        Ok(plan)
    }

    /// The uncompressed bytes of all regular files.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// How many regular files there are.
    pub fn files(&self) -> usize {
        self.items.files
    }

    /// The archive has hardly more bytes than this, however it is compressed.
    pub fn archive_max(&self) -> u64 {
        // The root is one more.
        let (entries, names) = self.items.extent();
        let around = (entries + 1).saturating_mul(ENTRY_MAX);
        self.total.saturating_add(names).saturating_add(around)
    }

    /// The names of what is left out because it is a secret.
    pub fn secrets(&self) -> &[String] {
        &self.secrets
    }

    /// What is left out and might be missed; each names its entry.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The files that have large holes, and the bytes of those: they are sent as zeros.
    pub fn holes(&self) -> &[(String, u64)] {
        &self.holes
    }

    /// Writes the tar.gz, compressed as hard as `effort` says. `progress` is told how many bytes of the files have been
    /// written so far.
    ///
    /// # Errors
    /// A file that cannot be read or is not what it was when the plan was made, or `out`'s own error. The archive is not
    /// complete then, and cannot be taken for complete.
    pub fn write(
        &self,
        out: impl Write,
        effort: Effort<'_>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), Error> {
        let directory = File::open(&self.root).doing(|| self.doing(&[]))?;
        let mut writer = TarWriter {
            packed: Compressor::new(out, effort).doing(unwritten)?,
            chunk: vec![0; CHUNK],
            written: 0,
        };
        writer.header(b"./", EntryType::Directory, self.mode, 0, None)?;
        for item in self.items.items() {
            let item = item.doing(|| self.doing(&[]))?;
            let PackItem {
                mut path,
                mode,
                what,
                ..
            } = item;
            match what {
                PackKind::Directory => {
                    path.push(b'/');
                    writer.header(&path, EntryType::Directory, mode, 0, None)?;
                }
                PackKind::Symlink(target) => {
                    writer.header(&path, EntryType::Symlink, 0o777, 0, Some(&target))?;
                }
                PackKind::File(size) => {
                    writer.header(&path, EntryType::Regular, mode, size, None)?;
                    let file = self.open(&directory, &path)?;
                    writer.file(file, size, || self.doing(&path), progress)?;
                }
            }
        }
        writer.end()
    }

    /// Opens a file below the directory.
    pub(super) fn open(&self, directory: &File, path: &[u8]) -> Result<File, Error> {
        // A FIFO that has taken the file's place must not block, nor a link lead elsewhere.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(directory, path, flags, Mode::empty())
            .map_err(io::Error::from)
            .doing(|| self.doing(path))?;
        Ok(File::from(file))
    }

    pub(super) fn doing(&self, path: &[u8]) -> String {
        // Not `join`, which would put a slash behind the root.
        let mut full = self.root.clone();
        full.extend(Path::new(OsStr::from_bytes(path)));
        format!("packing {}", visible(full.as_os_str().as_bytes()))
    }
}

/// Writes tar into what compresses it.
struct TarWriter<'a, W: Write> {
    packed: Compressor<'a, W>,
    chunk: Vec<u8>,
    written: u64,
}

impl<W: Write> TarWriter<'_, W> {
    fn header(
        &mut self,
        path: &[u8],
        kind: EntryType,
        mode: u32,
        size: u64,
        target: Option<&[u8]>,
    ) -> Result<(), Error> {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(MTIME);
        header.set_size(size);
        // The slots for names of every kind of header: what does not fit goes before it, in an entry of its own.
        let fields = header.as_old_mut();
        let long_path = !fits(&mut fields.name, path);
        let long_target = target.is_some_and(|target| !fits(&mut fields.linkname, target));
        header.set_cksum();
        self.long(EntryType::GNULongLink, target.filter(|_| long_target))?;
        self.long(EntryType::GNULongName, Some(path).filter(|_| long_path))?;
        self.put(header.as_bytes())
    }

    /// GNU's entry for a name of any length.
    fn long(&mut self, kind: EntryType, name: Option<&[u8]>) -> Result<(), Error> {
        let Some(name) = name else { return Ok(()) };
        let mut header = Header::new_gnu();
        fits(&mut header.as_old_mut().name, b"././@LongLink");
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        // A NUL ends the name.
        header.set_size(name.len() as u64 + 1);
        header.set_cksum();
        self.put(header.as_bytes())?;
        self.put(name)?;
        self.put(&[0])?;
        self.pad(name.len() + 1)
    }

    fn file(
        &mut self,
        mut file: File,
        size: u64,
        doing: impl Fn() -> String,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), Error> {
        let changed = |what: &str| Err(Error::new(doing(), what));
        let metadata = file.metadata().doing(&doing)?;
        if !metadata.is_file() {
            return changed("it was replaced while it was packed");
        }
        let mut left = size;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            let read = fill(&mut file, &mut self.chunk[..most]).doing(&doing)?;
            if read < most {
                return changed("it became shorter while it was packed");
            }
            let start = left == size;
            let chunk = &self.chunk[..most];
            self.packed.choose(chunk, start).doing(unwritten)?;
            self.packed.write_all(chunk).doing(unwritten)?;
            left -= most as u64;
            self.written += most as u64;
            progress(self.written);
        }
        if file.read(&mut [0]).doing(&doing)? > 0 {
            return changed("it became longer while it was packed");
        }
        // The remainder is below a block.
        self.pad((size % TAR_BLOCK as u64) as usize)
    }

    fn pad(&mut self, len: usize) -> Result<(), Error> {
        self.put(&[0; TAR_BLOCK][..len.next_multiple_of(TAR_BLOCK) - len])
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.packed.write_all(bytes).doing(unwritten)
    }

    fn end(mut self) -> Result<(), Error> {
        self.put(&[0; 2 * TAR_BLOCK])?;
        self.packed.finish().doing(unwritten)?;
        Ok(())
    }
}

fn unwritten() -> String {
    "writing the archive".into()
}

/// Copies a name into a header's field as far as it fits; whether all of it did.
fn fits(field: &mut [u8], name: &[u8]) -> bool {
    let len = name.len().min(field.len());
    field[..len].copy_from_slice(&name[..len]);
    len == name.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;

    use rustix::fs::CWD;

    use crate::formats::archive::testing::{LIMITS, Source, Temporary, tree, unpack_at};
    use crate::formats::archive::{PackOptions, plan};

    fn packed(dir: &Path, options: &PackOptions, level: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        let plan = plan(dir, options).unwrap();
        plan.write(&mut bytes, Effort::Level(level), &mut |_| {})
            .unwrap();
        bytes
    }

    fn write(path: PathBuf, content: impl AsRef<[u8]>) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn chmod(path: PathBuf, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// A tree with something of everything that goes along.
    fn sample(root: &Path) {
        let long = format!("{}/{}", "d".repeat(120), "f".repeat(250));
        write(root.join("a.txt"), "text");
        write(root.join("a/b"), "");
        write(root.join("a-b"), vec![0_u8; 700_000]);
        write(root.join(".hidden"), "x");
        write(root.join(&long), "long");
        write(root.join("x".repeat(100)), "just fits");
        write(root.join("b\u{fc}cher"), "x");
        fs::create_dir(root.join("empty")).unwrap();
        symlink("a/b", root.join("in")).unwrap();
        symlink("../a.txt", root.join("a/up")).unwrap();
        symlink(&long, root.join("a link with a long target")).unwrap();
        chmod(root.join("a-b"), 0o755);
        chmod(root.join("a"), 0o750);
        chmod(root.to_path_buf(), 0o755);
        for path in ["a.txt", "a/b", ".hidden"] {
            chmod(root.join(path), 0o640);
        }
    }

    #[test]
    fn what_is_packed_comes_out_again() {
        let from = Temporary::new();
        sample(&from.0);
        for level in [0, 3, 9] {
            let bytes = packed(&from.0, &PackOptions::default(), level);
            let at = Temporary::new();
            let unpacked = unpack_at(&at.0, &mut Source::new(&bytes, 65_536), &LIMITS).unwrap();
            assert_eq!(tree(&at.0.join("release")), tree(&from.0));
            assert_eq!((unpacked.files, unpacked.unpacked_size), (7, 700_019));
        }
    }

    #[test]
    fn the_same_tree_gives_the_same_bytes() {
        let (one, two) = (Temporary::new(), Temporary::new());
        sample(&one.0);
        sample(&two.0);
        let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        let file = File::options()
            .write(true)
            .open(two.0.join("a.txt"))
            .unwrap();
        file.set_modified(old).unwrap();
        let options = PackOptions::default();
        let bytes = packed(&one.0, &options, 3);
        assert!(bytes == packed(&two.0, &options, 3));
        let mut paths = Vec::new();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(&bytes[..]));
        for entry in archive.entries().unwrap() {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!(
                (
                    header.uid().unwrap(),
                    header.gid().unwrap(),
                    header.mtime().unwrap()
                ),
                (0, 0, MTIME)
            );
            assert_eq!(header.username_bytes(), Some(&b""[..]));
            paths.push(String::from_utf8(entry.path_bytes().into_owned()).unwrap());
        }
        let expected = [
            "./",
            ".hidden",
            "a/",
            "a/b",
            "a/up",
            "a link with a long target",
            "a-b",
            "a.txt",
        ];
        assert_eq!(paths[..expected.len()], expected);
    }

    #[test]
    fn what_is_left_out() {
        let outer = Temporary::new();
        let root = outer.0.join("app");
        write(outer.0.join("secret"), "x");
        write(root.join("a"), "1");
        write(root.join("node_modules/m/index.js"), "22");
        write(root.join("lib/node_modules/m"), "333");
        write(root.join(".git/HEAD"), "4444");
        write(root.join("sub/.git"), "gitdir: elsewhere");
        symlink("../secret", root.join("out")).unwrap();
        symlink(outer.0.join("app/a"), root.join("absolute")).unwrap();
        symlink("lib/../../app/a", root.join("out and in")).unwrap();
        symlink("nothing\x1b[31m", root.join("dangling")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        symlink("node_modules/m", root.join("module")).unwrap();
        symlink("..", root.join("lib/up")).unwrap();
        symlink("lib/up/../secret", root.join("through")).unwrap();
        let _socket = UnixListener::bind(root.join("socket")).unwrap();
        rustix::fs::mknodat(
            CWD,
            root.join("fifo"),
            rustix::fs::FileType::Fifo,
            Mode::RWXU,
            0,
        )
        .unwrap();

        let plan = plan(&root, &PackOptions::default()).unwrap();
        let warnings = plan.warnings().join("\n");
        let table = [
            "link 'out' to '../secret': it leads out",
            "link 'absolute' to",
            "link 'out and in' to",
            "link 'dangling' to 'nothing^[[31m': it dangles",
            "link 'loop' to 'loop': it dangles",
            "link 'through' to 'lib/up/../secret': it leads out",
            "'socket': it is a socket",
            "'fifo': it is a FIFO",
        ];
        for part in table {
            assert!(warnings.contains(part), "{part} in {warnings}");
        }
        assert_eq!(plan.warnings().len(), table.len(), "{warnings}");
        let bytes = packed(&root, &PackOptions::default(), 3);
        let at = Temporary::new();
        unpack_at(&at.0, &mut Source::new(&bytes, 512), &LIMITS).unwrap();
        let lines: Vec<_> = tree(&at.0.join("release"))
            .iter()
            .map(|line| line.split(' ').next().unwrap().to_owned())
            .collect();
        assert_eq!(lines, ["a", "lib/", "lib/up", "module", "sub/"]);

        // Who wants no links at all gets none, and no word of those that lead out.
        let options = PackOptions {
            skip_symlinks: true,
            ..PackOptions::default()
        };
        let plan = super::super::plan(&root, &options).unwrap();
        assert_eq!((plan.files(), plan.warnings().len()), (1, 2));
        let at = Temporary::new();
        let bytes = packed(&root, &options, 3);
        unpack_at(&at.0, &mut Source::new(&bytes, 512), &LIMITS).unwrap();
        let lines = tree(&at.0.join("release"));
        let names = lines.iter().map(|line| line.split(' ').next());
        assert!(names.eq(["a", "lib/", "sub/"].map(Some)), "{lines:?}");

        let options = PackOptions {
            include_node_modules: true,
            include_git: true,
            ..PackOptions::default()
        };
        assert_eq!(
            crate::formats::archive::plan(&root, &options)
                .unwrap()
                .total(),
            1 + 2 + 3 + 4 + 17
        );
        assert_eq!(plan.total(), 1);
    }

    #[test]
    fn what_macos_leaves_stays_out_and_holes_are_told() {
        let at = Temporary::new();
        let root = at.0.join("app");
        write(root.join("index.html"), "1");
        write(root.join("._index.html"), "\0\x05\x16\x07attributes");
        write(root.join("._mine"), "\0\x05");
        write(root.join("img/.DS_Store"), "x");
        write(root.join("__MACOSX/index.html"), "x");
        write(root.join("disk.img"), "x");
        let disk = File::options().write(true).open(root.join("disk.img"));
        disk.unwrap().set_len(64 << 20).unwrap();
        let plan = plan(&root, &PackOptions::default()).unwrap();
        let shown = |item: io::Result<PackItem>| String::from_utf8(item.unwrap().path).unwrap();
        let names: Vec<String> = plan.items.items().map(shown).collect();
        assert_eq!(names, ["._mine", "disk.img", "img", "index.html"]);
        assert_eq!(plan.warnings(), [""; 0]);
        let [(name, holes)] = plan.holes() else {
            panic!("{:?}", plan.holes());
        };
        assert_eq!(name, "disk.img");
        assert!((63 << 20..64 << 20).contains(holes), "{holes}");
    }

    #[test]
    fn what_cannot_be_packed_is_named() {
        let at = Temporary::new();
        let with = |name: &str, make: &dyn Fn(&Path)| {
            let path = at.0.join(name);
            fs::create_dir(&path).unwrap();
            make(&path);
            path
        };
        let table = [
            (at.0.join("none"), "none: No such file"),
            (
                with("empty", &|_| {}),
                "empty: there is no file in it to pack",
            ),
            (
                with("modules", &|path| write(path.join("node_modules/x"), "")),
                "modules: there is no file",
            ),
            (
                with("directories", &|path| {
                    fs::create_dir_all(path.join("a/b")).unwrap();
                    symlink("b", path.join("a/l")).unwrap();
                    write(path.join(".DS_Store"), "x");
                    write(path.join("a/._b"), "\0\x05\x16\x07");
                }),
                "directories: there is no file in it to pack",
            ),
            (
                with("secrets", &|path| write(path.join(".env"), "A=1")),
                "left out '.env': it is a secret",
            ),
            (
                with("server", &|path| {
                    write(path.join("lock"), "");
                    write(path.join("tokens.json"), "{}");
                    write(path.join("index.html"), "");
                }),
                "server: it is the root of a gangplank server",
            ),
            (
                with("rules", &|path| {
                    symlink("none", path.join(".gangplankignore")).unwrap()
                }),
                "rules/.gangplankignore: No such file",
            ),
            (
                with("links", &|path| symlink("/", path.join("l")).unwrap()),
                "left out the link 'l'",
            ),
            (
                with("file", &|path| write(path.join("f"), "")).join("f"),
                "file/f: Not a directory",
            ),
        ];
        for (path, part) in table {
            let error = plan(&path, &PackOptions::default())
                .err()
                .unwrap()
                .to_string();
            assert!(error.contains(part), "{part} in {error}");
        }
    }

    #[test]
    fn what_changes_is_an_error() {
        type PackCase<'a> = (&'a str, &'a dyn Fn(&Path));
        let table: [PackCase<'_>; 5] = [
            ("shorter", &|path| fs::write(path, "1").unwrap()),
            ("longer", &|path| fs::write(path, "12345678").unwrap()),
            ("No such file", &|path| fs::remove_file(path).unwrap()),
            ("symbolic link", &|path| {
                fs::remove_file(path).unwrap();
                symlink("/etc/passwd", path).unwrap();
            }),
            ("replaced", &|path| {
                fs::remove_file(path).unwrap();
                fs::create_dir(path).unwrap();
            }),
        ];
        for (part, change) in table {
            let at = Temporary::new();
            write(at.0.join("file"), "1234");
            let plan = plan(&at.0, &PackOptions::default()).unwrap();
            change(&at.0.join("file"));
            let mut bytes = Vec::new();
            let error = plan
                .write(&mut bytes, Effort::Level(3), &mut |_| {})
                .unwrap_err()
                .to_string();
            assert!(
                error.contains(part) && error.contains("/file"),
                "{part} in {error}"
            );
            let release = Temporary::new();
            assert!(unpack_at(&release.0, &mut Source::new(&bytes, 512), &LIMITS).is_err());
        }
    }

    #[test]
    fn progress_counts_the_bytes_of_the_files() {
        let at = Temporary::new();
        write(at.0.join("a"), vec![1; 3 * CHUNK + 1]);
        write(at.0.join("b"), "1");
        write(at.0.join("c"), "");
        let plan = plan(&at.0, &PackOptions::default()).unwrap();
        let mut seen = Vec::new();
        plan.write(io::sink(), Effort::Level(3), &mut |bytes| seen.push(bytes))
            .unwrap();
        assert!(seen.is_sorted());
        assert_eq!(seen.last(), Some(&plan.total()));
        assert_eq!(seen.len(), 5);
    }
}
