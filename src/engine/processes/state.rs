//! What is to run after the server's next start, on disk.
//!
//! `run/X.processes` says what is to run of a component, and `run/X.before` what ran before a restart that has not come to
//! its end: it is there only while a restart is on its way, or was when the server ended. `run/X.stopped` says that
//! somebody has stopped the component: while it is there, nothing of it is to run, whatever the others say.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::api::error::{Doing, Error};
use crate::api::name::{DeploymentId, Project};
use crate::system::files::{self, Durability, gone};

/// The types of a component's processes, and the release that each runs from.
pub(super) type Types = BTreeMap<String, DeploymentId>;

/// What ran before a restart.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Before {
    /// The release that the restart is to run.
    pub(super) restarts: DeploymentId,
    pub(super) types: Types,
}

/// No project's name has a dot.
const SUFFIX: &str = ".processes";
const SUFFIX_STOPPED: &str = ".stopped";

fn path(root: &Path, project: &Project) -> PathBuf {
    root.join("run").join(format!("{project}{SUFFIX}"))
}

fn path_before(root: &Path, project: &Project) -> PathBuf {
    root.join("run").join(format!("{project}.before"))
}

fn path_stopped(root: &Path, project: &Project) -> PathBuf {
    root.join("run").join(format!("{project}{SUFFIX_STOPPED}"))
}

/// Writes down whether somebody has stopped the component.
pub(super) fn write_stopped(root: &Path, project: &Project, stopped: bool) -> Result<(), Error> {
    replace(&path_stopped(root, project), stopped.then_some(&stopped))
}

/// Whether somebody has stopped the component. A damaged file says so, too.
pub(super) fn is_stopped(root: &Path, project: &Project) -> bool {
    path_stopped(root, project).exists()
}

/// Writes down what is to run, so that it holds across a power loss.
pub(super) fn write(root: &Path, project: &Project, types: &Types) -> Result<(), Error> {
    replace(&path(root, project), (!types.is_empty()).then_some(types))
}

/// Writes down what ran before a restart; none at its end.
pub(super) fn write_before(
    root: &Path,
    project: &Project,
    before: Option<&Before>,
) -> Result<(), Error> {
    replace(&path_before(root, project), before)
}

fn replace<T: Serialize>(path: &Path, value: Option<&T>) -> Result<(), Error> {
    let what = || format!("writing {}", path.display());
    let Some(value) = value else {
        return match fs::remove_file(path) {
            Ok(()) => path.parent().map_or(Ok(()), files::sync),
            removed => gone(removed),
        }
        .doing(what);
    };
    let text = serde_json::to_vec(value).doing(what)?;
    files::replace(path, &text, 0o600, Durability::PowerLoss).doing(what)
}

/// What is to run of a component; none if nothing is.
pub(super) fn read(root: &Path, project: &Project) -> Result<Option<Types>, Error> {
    read_file(&path(root, project))
}

/// What ran before the restart that is on its way, or was when the server ended.
pub(super) fn read_before(root: &Path, project: &Project) -> Result<Option<Before>, Error> {
    read_file(&path_before(root, project))
}

fn read_file<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let what = || format!("reading {}", path.display());
    match files::if_there(fs::read(path)).doing(what)? {
        Some(text) => serde_json::from_slice(&text).map(Some).doing(what),
        None => Ok(None),
    }
}

/// What the names alone say of all components, from one look at the directory.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// Of these something is to run.
    pub(super) to_run: BTreeSet<Project>,
    /// These somebody has stopped.
    pub(super) stopped: BTreeSet<Project>,
}

/// What is marked of all components.
pub(super) fn marks(root: &Path) -> Result<Marks, Error> {
    let dir = root.join("run");
    let what = || format!("reading {}", dir.display());
    let mut marks = Marks::default();
    for entry in fs::read_dir(&dir).doing(what)? {
        let name = entry.doing(what)?.file_name();
        let Some(name) = name.to_str() else { continue };
        for (suffix, marked) in [
            (SUFFIX, &mut marks.to_run),
            (SUFFIX_STOPPED, &mut marks.stopped),
        ] {
            let project = name.strip_suffix(suffix);
            marked.extend(project.and_then(|name| name.parse::<Project>().ok()));
        }
    }
    Ok(marks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ran_is_found_again() {
        let root = std::env::temp_dir().join(format!("gangplank-state-{}", std::process::id()));
        fs::create_dir_all(root.join("run")).unwrap();
        let (demo, other): (Project, Project) = ("demo".parse().unwrap(), "other".parse().unwrap());
        let id = DeploymentId::after(None, 1, [0; 10]);
        let types = Types::from([("web".to_owned(), id)]);
        write(&root, &demo, &types).unwrap();
        fs::write(root.join("run/other.processes"), "").unwrap();
        fs::write(root.join("run/gangplank.sock"), "").unwrap();
        let known = marks(&root).unwrap().to_run;
        assert_eq!(known, BTreeSet::from([demo.clone(), other.clone()]));
        assert_eq!(read(&root, &demo).unwrap(), Some(types.clone()));
        assert!(read(&root, &other).is_err());
        let before = Before {
            restarts: id,
            types,
        };
        write_before(&root, &demo, Some(&before)).unwrap();
        assert_eq!(read_before(&root, &demo).unwrap(), Some(before));
        write_stopped(&root, &demo, true).unwrap();
        assert!(is_stopped(&root, &demo) && !is_stopped(&root, &other));
        assert_eq!(
            marks(&root).unwrap().stopped,
            BTreeSet::from([demo.clone()])
        );
        for _ in 0..2 {
            write_stopped(&root, &demo, false).unwrap();
            write(&root, &demo, &Types::new()).unwrap();
            write_before(&root, &demo, None).unwrap();
        }
        assert!(!is_stopped(&root, &demo));
        assert_eq!(read(&root, &demo).unwrap(), None);
        assert_eq!(read_before(&root, &demo).unwrap(), None);
        fs::remove_dir_all(&root).unwrap();
    }
}
