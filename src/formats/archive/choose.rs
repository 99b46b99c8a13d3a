//! What of a directory is packed: [`plan`] walks it, by the rules of its ignore files and by what is left out by default.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::SystemTime;

use rustix::fs::{Access, AtFlags, CWD};

use crate::api::error::{Doing, Error};
use crate::formats::archive::pack::PackPlan;
use crate::formats::archive::path::{Name, stays};
use crate::formats::archive::planned::{FileStamp, PackItem, PackKind, Planned};
use crate::formats::archive::reader::fill;
use crate::formats::archive::{litter, secrets, sparse, visible};
use crate::formats::ignore::{IgnoreRules, IgnoreVerdict};
use crate::system::files::{open_at_once, read_up_to};

/// Holds the rules of what is left out, in any directory.
const IGNORE_FILE: &str = ".gangplankignore";

/// A file of rules that is longer is something else.
const IGNORE_FILE_MAX: u64 = 1 << 20;

/// What a server's root has, and with it everybody's tokens.
const ROOT_MARKS: [&str; 2] = ["lock", "tokens.json"];

/// Holes of so many bytes are worth a word: their zeros take time to read.
const HOLES_NOTED: u64 = 1 << 20;

/// What goes along that is left out by default, and what says what else is left out.
#[derive(Debug, Clone, Default)]
pub struct PackOptions {
    /// Everything named `node_modules`, at any depth.
    pub include_node_modules: bool,
    /// Everything named `.git`, at any depth.
    pub include_git: bool,
    /// Files of secret settings, and private keys.
    pub include_secrets: bool,
    /// No symlink goes along, wherever it leads.
    pub skip_symlinks: bool,
    /// Has the rules for the whole directory, in place of the ignore file at its top.
    pub ignore_file: Option<PathBuf>,
}

impl PackOptions {
    fn leaves_out(&self, name: &OsStr) -> bool {
        (name == "node_modules" && !self.include_node_modules)
            || (name == ".git" && !self.include_git)
    }
}

/// Walks `dir` and decides what will be packed.
///
/// # Errors
/// No such directory, no file in it to pack, or something in it that cannot be read; the error names the path.
pub fn plan(dir: &Path, options: &PackOptions) -> Result<PackPlan, Error> {
    let doing = || format!("packing {}", dir.display());
    let begun = SystemTime::now();
    let root = dir.canonicalize().doing(doing)?;
    let metadata = fs::metadata(&root).doing(doing)?;
    if is_server_root(&root) {
        let why = "it is the root of a gangplank server, with the tokens of all its users";
        return Err(Error::new(doing(), why));
    }
    let mut walk = Walk {
        options,
        ignore_file: None,
        levels: Vec::new(),
        plan: PackPlan {
            root,
            mode: metadata.permissions().mode() & 0o777,
            items: Planned::default(),
            begun,
            warnings: Vec::new(),
            secrets: Vec::new(),
            holes: Vec::new(),
            total: 0,
        },
    };
    let mut top = None;
    if let Some(file) = &options.ignore_file {
        top = Some(Scope::read(file, 0, None)?);
        walk.ignore_file = file.canonicalize().ok();
    }
    walk.enter(PathBuf::new(), top)?;
    while let Some(level) = walk.levels.last_mut() {
        let Some(name) = level.names.next() else {
            walk.levels.pop();
            continue;
        };
        let (path, scope) = (level.path.join(&name), level.scope.clone());
        walk.entry(path, &name, scope)?;
    }
    let mut plan = walk.plan;
    plan.warnings.sort_unstable();
    plan.secrets.sort_unstable();
    if plan.files() == 0 {
        let secrets = plan
            .secrets
            .iter()
            .map(|name| format!("left out '{name}': it is a secret"));
        let left_out: Vec<String> = plan.warnings.iter().cloned().chain(secrets).collect();
        let left_out = match left_out.as_slice() {
            [] => String::new(),
            some => format!(" ({})", some.join("; ")),
        };
        let why = format!("there is no file in it to pack{left_out}");
        return Err(Error::new(doing(), why));
    }
    Ok(plan)
}

fn is_server_root(dir: &Path) -> bool {
    let is_file = |mark| fs::symlink_metadata(dir.join(mark)).is_ok_and(|found| found.is_file());
    ROOT_MARKS.into_iter().all(is_file)
}

/// The rules of one ignore file, and of those above it.
struct Scope {
    /// Where a path below that file's directory begins.
    start: usize,
    rules: IgnoreRules,
    above: Option<Rc<Scope>>,
}

impl Scope {
    fn read(file: &Path, start: usize, above: Option<Rc<Scope>>) -> Result<Rc<Scope>, Error> {
        let doing = || format!("reading {}", visible(file.as_os_str().as_bytes()));
        let text = File::open(file).and_then(|file| read_up_to(file, IGNORE_FILE_MAX));
        let text = text.doing(doing)?;
        let text = text.ok_or_else(|| Error::new(doing(), "it is over 1 MiB"))?;
        Ok(Rc::new(Scope {
            start,
            rules: IgnoreRules::parse(&text),
            above,
        }))
    }
}

/// What the nearest ignore file says that says anything.
fn verdict(scope: Option<&Rc<Scope>>, path: &[u8], is_directory: bool) -> Option<IgnoreVerdict> {
    let mut scope = scope;
    while let Some(one) = scope {
        let said = one.rules.verdict(&path[one.start..], is_directory);
        if said.is_some() {
            return said;
        }
        scope = one.above.as_ref();
    }
    None
}

/// The names in a directory, in order, as compactly as a directory of a hundred thousand files needs it.
#[derive(Default)]
struct Names {
    text: Vec<u8>,
    /// Where they are in the text, the next one last.
    places: Vec<(u32, u16)>,
}

impl Names {
    fn push(&mut self, name: &[u8]) {
        // No name has more than 255 bytes, so that some 16 million of them fit.
        let place = (self.text.len() as u32, name.len() as u16);
        self.places.push(place);
        self.text.extend_from_slice(name);
    }

    fn name(&self, (at, len): (u32, u16)) -> &[u8] {
        &self.text[at as usize..][..usize::from(len)]
    }

    fn sort(&mut self) {
        let mut places = std::mem::take(&mut self.places);
        places.sort_unstable_by(|one, other| self.name(*other).cmp(self.name(*one)));
        self.places = places;
    }

    fn has(&self, name: &[u8]) -> bool {
        let found = self
            .places
            .binary_search_by(|place| name.cmp(self.name(*place)));
        found.is_ok()
    }

    fn next(&mut self) -> Option<OsString> {
        let place = self.places.pop()?;
        Some(OsString::from_vec(self.name(place).to_vec()))
    }
}

/// A directory on the way.
struct WalkLevel {
    path: PathBuf,
    /// What is still to be looked at.
    names: Names,
    /// The rules that hold in it.
    scope: Option<Rc<Scope>>,
}

fn stamp(metadata: &Metadata) -> FileStamp {
    // Until the year 2262.
    let time =
        |seconds: i64, nanos: i64| seconds.saturating_mul(1_000_000_000).saturating_add(nanos);
    FileStamp {
        changed: time(metadata.mtime(), metadata.mtime_nsec()),
        inode_changed: time(metadata.ctime(), metadata.ctime_nsec()),
        inode: metadata.ino(),
        device: metadata.dev(),
    }
}

/// On the way through a directory.
struct Walk<'a> {
    options: &'a PackOptions,
    /// The one that was named; the directory may hold it.
    ignore_file: Option<PathBuf>,
    /// Where it is.
    levels: Vec<WalkLevel>,
    plan: PackPlan,
}

impl Walk<'_> {
    fn full(&self, path: &Path) -> PathBuf {
        self.plan.root.join(path)
    }

    fn doing(&self, path: &Path) -> String {
        self.plan.doing(path.as_os_str().as_bytes())
    }

    /// Goes on with what is in a directory.
    fn enter(&mut self, directory: PathBuf, above: Option<Rc<Scope>>) -> Result<(), Error> {
        let doing = || self.doing(&directory);
        let mut names = Names::default();
        for entry in fs::read_dir(self.full(&directory)).doing(doing)? {
            names.push(entry.doing(doing)?.file_name().as_bytes());
        }
        names.sort();
        let is_top = directory.as_os_str().is_empty();
        let replaced = is_top && self.options.ignore_file.is_some();
        let has_rules = !replaced && names.has(IGNORE_FILE.as_bytes());
        let scope = match has_rules {
            true => Some(self.rules(&directory, above)?),
            false => above,
        };
        let path = directory;
        self.levels.push(WalkLevel { path, names, scope });
        Ok(())
    }

    fn entry(
        &mut self,
        path: PathBuf,
        name: &OsStr,
        scope: Option<Rc<Scope>>,
    ) -> Result<(), Error> {
        let metadata = fs::symlink_metadata(self.full(&path)).doing(|| self.doing(&path))?;
        if !self.goes_along(&path, name, &metadata, scope.as_ref())? {
            return Ok(());
        }
        let is_directory = metadata.is_dir();
        self.take(&path, &metadata)?;
        match is_directory {
            true => self.enter(path, scope),
            false => Ok(()),
        }
    }

    /// The rules of a directory that has its own.
    fn rules(&self, directory: &Path, above: Option<Rc<Scope>>) -> Result<Rc<Scope>, Error> {
        let file = directory.join(IGNORE_FILE);
        // A link leads to a file too.
        let metadata = fs::metadata(self.full(&file)).doing(|| self.doing(&file))?;
        if !metadata.is_file() {
            return Err(Error::new(self.doing(&file), "it is not a regular file"));
        }
        let start = match directory.as_os_str().len() {
            0 => 0,
            len => len + 1,
        };
        Scope::read(&self.full(&file), start, above)
    }

    fn goes_along(
        &mut self,
        path: &Path,
        name: &OsStr,
        metadata: &Metadata,
        scope: Option<&Rc<Scope>>,
    ) -> Result<bool, Error> {
        let bytes = path.as_os_str().as_bytes();
        let is_ignore_file = name == IGNORE_FILE || self.ignore_file == Some(self.full(path));
        if is_ignore_file || litter::by_name(bytes) {
            return Ok(false);
        }
        let verdict = verdict(scope, bytes, metadata.is_dir());
        // Only a rule that spells a name brings back what is left out by default: `!*/` is not about `.git`.
        let named = verdict == Some(IgnoreVerdict::In { named: true });
        if verdict == Some(IgnoreVerdict::Out) || (self.options.leaves_out(name) && !named) {
            return Ok(false);
        }
        if metadata.is_file() && self.is_apple_double(path)? {
            return Ok(false);
        }
        if metadata.is_dir() && is_server_root(&self.full(path)) {
            let warning = format!(
                "left out '{}': it is the root of a gangplank server",
                visible(bytes)
            );
            self.plan.warnings.push(warning);
            return Ok(false);
        }
        if !named && !self.options.include_secrets && self.is_secret(path, name, metadata)? {
            let slash = if metadata.is_dir() { "/" } else { "" };
            self.plan.secrets.push(format!("{}{slash}", visible(bytes)));
            return Ok(false);
        }
        Ok(true)
    }

    fn take(&mut self, path: &Path, metadata: &Metadata) -> Result<(), Error> {
        let bytes = path.as_os_str().as_bytes();
        let kind = metadata.file_type();
        // What the receiving side refuses by its name is known before the upload.
        Name::parse(bytes)
            .map_err(|refused| Error::new(self.doing(Path::new("")), refused.message))?;
        let what = if kind.is_dir() {
            PackKind::Directory
        } else if kind.is_file() {
            self.readable(path)?;
            self.plan.total += metadata.len();
            self.note_holes(path, metadata)?;
            PackKind::File(metadata.len())
        } else if kind.is_symlink() {
            if self.options.skip_symlinks {
                return Ok(());
            }
            match self.link(path)? {
                Ok(target) => PackKind::Symlink(target),
                Err(warning) => {
                    self.plan.warnings.push(warning);
                    return Ok(());
                }
            }
        } else {
            let what = strange(metadata);
            let warning = format!("left out '{}': it is a {what}", visible(bytes));
            self.plan.warnings.push(warning);
            return Ok(());
        };
        let item = PackItem {
            path: bytes.to_vec(),
            mode: metadata.permissions().mode() & 0o777,
            what,
            stamp: stamp(metadata),
        };
        self.plan
            .items
            .push(&item)
            .doing(|| "keeping what is found".into())
    }

    /// Whether it is a secret by its name or, a file, by what is in it.
    fn is_secret(&self, path: &Path, name: &OsStr, metadata: &Metadata) -> Result<bool, Error> {
        if secrets::by_name(name.as_bytes()) {
            return Ok(true);
        }
        if !metadata.is_file() || metadata.len() == 0 {
            return Ok(false);
        }
        let file = open_at_once(&self.full(path));
        file.and_then(|file| secrets::is_private_key(name.as_bytes(), file))
            .doing(|| self.doing(path))
    }

    /// Whether a file is what macOS keeps beside another one.
    fn is_apple_double(&self, path: &Path) -> Result<bool, Error> {
        let bytes = path.as_os_str().as_bytes();
        if !litter::may_be_apple_double(bytes) {
            return Ok(false);
        }
        let mut start = [0; litter::APPLE_DOUBLE.len()];
        let read = open_at_once(&self.full(path)).and_then(|mut file| fill(&mut file, &mut start));
        let len = read.doing(|| self.doing(path))?;
        Ok(start[..len] == litter::APPLE_DOUBLE)
    }

    fn note_holes(&mut self, path: &Path, metadata: &Metadata) -> Result<(), Error> {
        // Looking into the file is only worth it where the disk has less than the file.
        let on_disk = metadata.blocks().saturating_mul(512);
        if metadata.len().saturating_sub(on_disk) < HOLES_NOTED {
            return Ok(());
        }
        let bytes = path.as_os_str().as_bytes();
        let file = open_at_once(&self.full(path)).doing(|| self.doing(path))?;
        let holes = sparse::holes(&file, metadata.len());
        if holes >= HOLES_NOTED {
            self.plan.holes.push((visible(bytes), holes));
        }
        Ok(())
    }

    /// Finds out before the upload, and not in its middle, that a file must not be read.
    fn readable(&self, path: &Path) -> Result<(), Error> {
        rustix::fs::accessat(CWD, self.full(path), Access::READ_OK, AtFlags::EACCESS)
            .map_err(io::Error::from)
            .doing(|| self.doing(path))
    }

    /// The target of a link that stays inside, or the warning about one that does not.
    fn link(&self, path: &Path) -> Result<Result<Box<[u8]>, String>, Error> {
        let full = self.full(path);
        let doing = || self.doing(path);
        let target = fs::read_link(&full).doing(doing)?;
        let shown = || {
            format!(
                "left out the link '{}' to '{}'",
                visible(path.as_os_str().as_bytes()),
                visible(target.as_os_str().as_bytes())
            )
        };
        let out = || Ok(Err(format!("{}: it leads out of the directory", shown())));
        let text = target.as_os_str().as_bytes();
        if text.starts_with(b"/") || !stays(path.as_os_str().as_bytes(), text) {
            return out();
        }
        match full.canonicalize() {
            Ok(found) if found.starts_with(&self.plan.root) => {
                Ok(Ok(target.into_os_string().into_vec().into()))
            }
            Ok(_) => out(),
            Err(error) => Ok(Err(format!("{}: it dangles ({error})", shown()))),
        }
    }
}

fn strange(metadata: &Metadata) -> &'static str {
    let kind = metadata.file_type();
    if kind.is_socket() {
        "socket"
    } else if kind.is_fifo() {
        "FIFO"
    } else {
        "device"
    }
}
