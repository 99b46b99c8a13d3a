//! Shared data: what stays from release to release, in `ROOT/shared/X`. The release has links to it.
//!
//! The links are made after `extract` and before `install`. What the first payload has at such a place is moved there by one
//! rename, before the link is made; so a kill in between leaves the data in one of the two places, and the release that is
//! half made goes with its deployment.

use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::api::error::{Code, Doing, Error, Refusal};
use crate::api::name::Project;
use crate::engine::checkpoint::checkpoint;
use crate::store::Store;
use crate::system::account::Account;
use crate::system::directory::{Directory, Owner, same};

/// The mode of what is made for shared data: the user of the component's processes alone has it.
const PRIVATE: u32 = 0o700;
/// The mode of directories that a release needs above its links, as of all its directories.
const RELEASE_DIR: u32 = 0o755;
/// The deepest path, as in an archive.
const LEVELS_MAX: usize = 64;

/// The variable that says where a component's shared data is.
pub(super) const SHARED: &str = "GANGPLANK_SHARED";

/// A path of shared data: relative, without `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct SharedPath {
    parts: Vec<String>,
    /// It ends with a slash: a directory, which is made.
    is_dir: bool,
}

impl TryFrom<String> for SharedPath {
    type Error = String;

    fn try_from(text: String) -> Result<SharedPath, String> {
        let wrong = |why: &str| Err(format!("the shared path {text:?} {why}"));
        let is_dir = text.ends_with('/');
        let inner = text.strip_suffix('/').unwrap_or(&text);
        if text.starts_with('/') {
            return wrong("must be relative to the component");
        }
        if inner.bytes().any(|byte| byte < b' ') {
            return wrong("has a control character");
        }
        let parts: Vec<String> = inner.split('/').map(str::to_owned).collect();
        if parts.iter().any(|part| matches!(&**part, "" | "." | "..")) {
            return wrong("must not be empty or have an empty part, '.' or '..'");
        }
        if parts.len() > LEVELS_MAX || inner.len() > 1024 {
            return wrong("is too long");
        }
        Ok(SharedPath { parts, is_dir })
    }
}

impl SharedPath {
    /// Whether one of two paths is the other one or lies in it.
    pub fn contains(&self, other: &SharedPath) -> bool {
        let both = self.parts.iter().zip(&other.parts);
        both.clone().count() > 0 && both.into_iter().all(|(one, other)| one == other)
    }

    /// The path as the manifest has it.
    pub fn text(&self) -> String {
        self.parts.join("/")
    }
}

/// Where a component's shared data is.
pub(super) fn dir(store: &Store, project: &Project) -> PathBuf {
    store.root().join("shared").join(project.as_str())
}

/// Makes the directory of a component's shared data, if it is missing. A mode that the operator gave it stays.
///
/// # Errors
/// When it cannot be made.
pub(super) fn make(
    store: &Store,
    project: &Project,
    account: Option<&Account>,
) -> Result<(), Error> {
    open(store, project, owner(account)).map(drop)
}

fn open(store: &Store, project: &Project, owner: Option<Owner>) -> Result<Directory, Error> {
    let what = || format!("making {}", dir(store, project).display());
    let root = Directory::open(store.root()).doing(what)?;
    let all = root
        .enter_or_make("shared", RELEASE_DIR, None)
        .doing(what)?;
    let made = all.enter_or_make(project.as_str(), PRIVATE, owner);
    made.doing(what)
}

fn owner(account: Option<&Account>) -> Option<Owner> {
    account.map(|account| (account.uid, account.gid))
}

/// Makes the links of a release to the shared data, and returns what its owner should know.
///
/// # Errors
/// `load_failed`, naming the path, or the disk's refusal.
pub(super) fn link(
    store: &Store,
    project: &Project,
    release: &Path,
    paths: &[SharedPath],
    account: Option<&Account>,
) -> Result<Vec<String>, Refusal> {
    let owner = owner(account);
    let data = open(store, project, owner)?;
    // A root that is moved as a whole takes its links along, unless the releases are elsewhere.
    let dir = dir(store, project);
    let target = match (release.canonicalize(), dir.strip_prefix(store.root())) {
        (Ok(found), Ok(inside)) if found == release => Path::new("../../..").join(inside),
        _ => dir,
    };
    let mut warnings = Vec::new();
    for path in paths {
        let what = || format!("sharing {} of {project}", path.text());
        let made = one(&data, release, path, owner, &target);
        let differs = made.map_err(|error| {
            let refusal = Refusal::from(Error::new(what(), error));
            match refusal.code {
                Code::Internal => Refusal::new(Code::LoadFailed, refusal.message),
                _ => refusal,
            }
        })?;
        if differs {
            warnings.push(format!(
                "{} is shared and stays as it is; what the payload has there differs and was left out",
                path.text()
            ));
        }
    }
    Ok(warnings)
}

/// Makes one link, and says whether the payload had something else there that was left out.
fn one(
    data: &Directory,
    release: &Path,
    path: &SharedPath,
    owner: Option<Owner>,
    target: &Path,
) -> io::Result<bool> {
    let Some((name, above)) = path.parts.split_last() else {
        return Ok(false);
    };
    let mut here = Directory::open(release)?;
    let mut there = data.enter(".")?;
    for part in above {
        here = here.enter_or_make(part, RELEASE_DIR, owner)?;
        there = there.enter_or_make(part, PRIVATE, owner)?;
    }
    let sent = here.is_dir(name)?;
    let mut differs = false;
    match (there.is_dir(name)?, sent) {
        // The first payload seeds it.
        (None, Some(_)) => here.move_to(name, &there)?,
        (None, None) if path.is_dir => {
            there.enter_or_make(name, PRIVATE, owner)?;
        }
        (None, None) => {}
        (Some(_), Some(is_dir)) => {
            let sent = here.path(name);
            let empty = is_dir && std::fs::read_dir(&sent)?.next().is_none();
            differs = !empty && !same(&sent, &there.path(name))?;
            here.remove(name)?;
        }
        (Some(_), None) => {}
    }
    checkpoint("seeded");
    let mut to: PathBuf = match target.is_absolute() {
        true => PathBuf::new(),
        false => above.iter().map(|_| "..").collect(),
    };
    to.push(target);
    to.push(path.text());
    here.link(&to, name)?;
    checkpoint("linked");
    Ok(differs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_relative_and_stay_inside() {
        let read = |text: &str| SharedPath::try_from(text.to_owned());
        for text in ["data/", "app.db", "a/b/c", ".hidden/", "a b"] {
            assert!(read(text).is_ok(), "{text}");
        }
        for text in [
            "", "/", "/data", "..", "a/../b", "a//b", "./a", "a/.", "a\0b", "a\nb",
        ] {
            assert!(read(text).is_err(), "{text:?}");
        }
        assert!(read("data/").unwrap().is_dir);
        assert!(!read("data").unwrap().is_dir);
    }

    #[test]
    fn paths_that_contain_one_another_are_found() {
        let read = |text: &str| SharedPath::try_from(text.to_owned()).unwrap();
        let table = [
            ("data/", "data/x", true),
            ("data/x", "data", true),
            ("data", "data/", true),
            ("data", "data2", false),
            ("a/b", "a/c", false),
        ];
        for (one, other, contains) in table {
            assert_eq!(read(one).contains(&read(other)), contains, "{one} {other}");
        }
    }
}
