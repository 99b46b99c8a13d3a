//! What of a directory is packed: [`plan`] walks it, by the rules of its ignore files and by what is left out by default.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::SystemTime;

use rustix::fs::{Access, AtFlags, CWD, FileType, statat};

use crate::api::error::{Doing, Error};
use crate::formats::archive::found::{EntryStat, FoundEntry, Names, open_directory, strange};
use crate::formats::archive::pack::PackPlan;
use crate::formats::archive::path::{Name, stays};
use crate::formats::archive::planned::{PackItem, PackKind, Planned};
use crate::formats::archive::reader::fill;
use crate::formats::archive::rescan::OldEntries;
use crate::formats::archive::stamped::DeployedTree;
use crate::formats::archive::{litter, secrets, sparse, visible};
use crate::formats::ignore::{IgnoreRules, IgnoreVerdict};
use crate::system::files::read_up_to;

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
    plan_again(dir, options, None)
}

/// As [`plan`], and a file that was sent before, and looks as it did then, is not opened to find out what it is.
///
/// # Errors
/// As [`plan`].
pub fn plan_again(
    dir: &Path,
    options: &PackOptions,
    kept: Option<&DeployedTree>,
) -> Result<PackPlan, Error> {
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
        known: OldEntries::new(kept),
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
    let opened = open_directory(CWD, walk.plan.root.as_os_str());
    walk.enter(PathBuf::new(), opened, top)?;
    while let Some(level) = walk.levels.last_mut() {
        let Some(name) = level.names.next() else {
            walk.levels.pop();
            continue;
        };
        let found = FoundEntry {
            path: level.path.join(&name),
            stat: statat(&*level.directory, &name, AtFlags::SYMLINK_NOFOLLOW),
            directory: Rc::clone(&level.directory),
            name,
        };
        let scope = level.scope.clone();
        walk.entry(&found, scope)?;
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

/// A directory on the way.
struct WalkLevel {
    path: PathBuf,
    /// What is in it is looked up from here, which is quicker than by its path.
    directory: Rc<OwnedFd>,
    /// What is still to be looked at.
    names: Names,
    /// The rules that hold in it.
    scope: Option<Rc<Scope>>,
}

/// What is known of the content of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Judged {
    /// It was not asked for, or there is none.
    No,
    Secret,
    /// It can be read, and holds no private key.
    Harmless,
    /// The same, when it was sent last; and it has not been touched since.
    AsBefore,
}

/// On the way through a directory.
struct Walk<'a> {
    options: &'a PackOptions,
    /// The one that was named; the directory may hold it.
    ignore_file: Option<PathBuf>,
    /// Where it is.
    levels: Vec<WalkLevel>,
    /// What was sent last.
    known: OldEntries<'a>,
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
    fn enter(
        &mut self,
        path: PathBuf,
        opened: io::Result<OwnedFd>,
        above: Option<Rc<Scope>>,
    ) -> Result<(), Error> {
        let doing = || self.doing(&path);
        let directory = opened.doing(doing)?;
        let names = Names::read(&directory).doing(doing)?;
        let is_top = path.as_os_str().is_empty();
        let replaced = is_top && self.options.ignore_file.is_some();
        let has_rules = !replaced && names.has(IGNORE_FILE.as_bytes());
        let scope = match has_rules {
            true => Some(self.rules(&path, above)?),
            false => above,
        };
        self.levels.push(WalkLevel {
            path,
            directory: Rc::new(directory),
            names,
            scope,
        });
        Ok(())
    }

    fn entry(&mut self, found: &FoundEntry, scope: Option<Rc<Scope>>) -> Result<(), Error> {
        let path = &found.path;
        let stat = found.stat.map_err(io::Error::from);
        let look = EntryStat::of(&stat.doing(|| self.doing(path))?);
        let Some(judged) = self.goes_along(found, look, scope.as_ref())? else {
            return Ok(());
        };
        self.take(found, look, judged)?;
        match look.kind {
            FileType::Directory => {
                let opened = open_directory(&*found.directory, &found.name);
                self.enter(path.clone(), opened, scope)
            }
            _ => Ok(()),
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

    /// Whether something goes along; and if it does, what its content was found to be.
    fn goes_along(
        &mut self,
        found: &FoundEntry,
        look: EntryStat,
        scope: Option<&Rc<Scope>>,
    ) -> Result<Option<Judged>, Error> {
        let (path, name) = (&found.path, &found.name);
        let is_directory = look.kind == FileType::Directory;
        let bytes = path.as_os_str().as_bytes();
        let is_ignore_file = name == IGNORE_FILE
            || self.ignore_file.is_some() && self.ignore_file == Some(self.full(path));
        if is_ignore_file || litter::by_name(bytes) {
            return Ok(None);
        }
        let verdict = verdict(scope, bytes, is_directory);
        // Only a rule that spells a name brings back what is left out by default: `!*/` is not about `.git`.
        let named = verdict == Some(IgnoreVerdict::In { named: true });
        if verdict == Some(IgnoreVerdict::Out) || (self.options.leaves_out(name) && !named) {
            return Ok(None);
        }
        if look.kind == FileType::RegularFile && self.is_apple_double(found)? {
            return Ok(None);
        }
        if is_directory && is_server_root(&self.full(path)) {
            let warning = format!(
                "left out '{}': it is the root of a gangplank server",
                visible(bytes)
            );
            self.plan.warnings.push(warning);
            return Ok(None);
        }
        if named || self.options.include_secrets {
            return Ok(Some(Judged::No));
        }
        let judged = self.judge(found, look)?;
        if judged == Judged::Secret {
            let slash = if is_directory { "/" } else { "" };
            self.plan.secrets.push(format!("{}{slash}", visible(bytes)));
            return Ok(None);
        }
        Ok(Some(judged))
    }

    fn take(&mut self, found: &FoundEntry, look: EntryStat, judged: Judged) -> Result<(), Error> {
        let path = &found.path;
        let bytes = path.as_os_str().as_bytes();
        // What the receiving side refuses by its name is known before the upload.
        Name::parse(bytes)
            .map_err(|refused| Error::new(self.doing(Path::new("")), refused.message))?;
        let what = match look.kind {
            FileType::Directory => PackKind::Directory,
            FileType::RegularFile => {
                if !matches!(judged, Judged::Harmless | Judged::AsBefore) {
                    self.readable(found)?;
                }
                self.plan.total += look.size;
                self.note_holes(found, look)?;
                PackKind::File(look.size)
            }
            FileType::Symlink if self.options.skip_symlinks => return Ok(()),
            FileType::Symlink => match self.link(path)? {
                Ok(target) => PackKind::Symlink(target),
                Err(warning) => {
                    self.plan.warnings.push(warning);
                    return Ok(());
                }
            },
            other => {
                let what = strange(other);
                let warning = format!("left out '{}': it is a {what}", visible(bytes));
                self.plan.warnings.push(warning);
                return Ok(());
            }
        };
        let item = PackItem {
            path: bytes.to_vec(),
            mode: look.mode,
            what,
            stamp: look.stamp,
            harmless: matches!(judged, Judged::Harmless | Judged::AsBefore),
        };
        self.plan
            .items
            .push(&item)
            .doing(|| "keeping what is found".into())
    }

    /// Whether it is a secret by its name or, a file, by what is in it.
    fn judge(&mut self, found: &FoundEntry, look: EntryStat) -> Result<Judged, Error> {
        let (path, name) = (&found.path, found.name.as_bytes());
        if secrets::by_name(name) {
            return Ok(Judged::Secret);
        }
        if look.kind != FileType::RegularFile || look.size == 0 {
            return Ok(Judged::No);
        }
        let path_bytes = path.as_os_str().as_bytes();
        if self.known.harmless_at(path_bytes, look.size, &look.stamp) {
            return Ok(Judged::AsBefore);
        }
        let file = found.open();
        let secret = file
            .and_then(|file| secrets::is_private_key(name, file))
            .doing(|| self.doing(path))?;
        Ok(match secret {
            true => Judged::Secret,
            false => Judged::Harmless,
        })
    }

    /// Whether a file is what macOS keeps beside another one.
    fn is_apple_double(&self, found: &FoundEntry) -> Result<bool, Error> {
        let bytes = found.path.as_os_str().as_bytes();
        if !litter::may_be_apple_double(bytes) {
            return Ok(false);
        }
        let mut start = [0; litter::APPLE_DOUBLE.len()];
        let read = found
            .open()
            .and_then(|mut file| fill(&mut file, &mut start));
        let len = read.doing(|| self.doing(&found.path))?;
        Ok(start[..len] == litter::APPLE_DOUBLE)
    }

    fn note_holes(&mut self, found: &FoundEntry, look: EntryStat) -> Result<(), Error> {
        // Looking into the file is only worth it where the disk has less than the file.
        if look.size.saturating_sub(look.on_disk) < HOLES_NOTED {
            return Ok(());
        }
        let file = found.open().doing(|| self.doing(&found.path))?;
        let holes = sparse::holes(&file, look.size);
        if holes >= HOLES_NOTED {
            let shown = visible(found.path.as_os_str().as_bytes());
            self.plan.holes.push((shown, holes));
        }
        Ok(())
    }

    /// Finds out before the upload, and not in its middle, that a file must not be read.
    fn readable(&self, found: &FoundEntry) -> Result<(), Error> {
        let flags = AtFlags::EACCESS;
        rustix::fs::accessat(&*found.directory, &found.name, Access::READ_OK, flags)
            .map_err(io::Error::from)
            .doing(|| self.doing(&found.path))
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
