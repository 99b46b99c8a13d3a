//! What is to run after the server's next start, on disk; and what `/proc` says of the memory of what runs.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use crate::api::error::{Doing, Error};
use crate::api::name::{DeploymentId, Project};
use crate::system::files::{self, Durability};

/// The types of a component's processes, and the release that each runs from.
pub(super) type Types = BTreeMap<String, DeploymentId>;

/// No project's name has a dot.
const SUFFIX: &str = ".processes";

fn path(root: &Path, project: &Project) -> PathBuf {
    root.join("run").join(format!("{project}{SUFFIX}"))
}

/// Writes down what is to run; nothing removes the file.
pub(super) fn write(root: &Path, project: &Project, types: &Types) -> Result<(), Error> {
    let path = path(root, project);
    let what = || format!("writing {}", path.display());
    if types.is_empty() {
        return files::gone(fs::remove_file(&path)).doing(what);
    }
    let text = serde_json::to_vec(types).doing(what)?;
    files::replace(&path, &text, 0o600, Durability::None).doing(what)
}

/// What is to run, of all components.
pub(super) fn read_all(root: &Path) -> Result<Vec<(Project, Types)>, Error> {
    let dir = root.join("run");
    let what = || format!("reading {}", dir.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(&dir).doing(what)? {
        let name = entry.doing(what)?.file_name();
        let project = name.to_str().and_then(|name| name.strip_suffix(SUFFIX));
        let Some(project) = project.and_then(|name| name.parse::<Project>().ok()) else {
            continue;
        };
        let file = dir.join(&name);
        let text = fs::read(&file).doing(|| format!("reading {}", file.display()))?;
        // One that a power loss left empty says nothing; its component is started by the next deployment.
        if let Ok(types) = serde_json::from_slice(&text) {
            found.push((project, types));
        }
    }
    Ok(found)
}

/// The resident memory of each process group, in bytes, by the group's id.
pub(super) fn memory_of_groups() -> HashMap<u32, u64> {
    let mut groups = HashMap::new();
    let Ok(entries) = fs::read_dir("/proc") else {
        return groups;
    };
    for entry in entries.flatten() {
        let dir = entry.path();
        let Some((group, bytes)) = group_of(&dir).zip(resident(&dir)) else {
            continue;
        };
        *groups.entry(group).or_insert(0) += bytes;
    }
    groups
}

fn group_of(dir: &Path) -> Option<u32> {
    let stat = fs::read_to_string(dir.join("stat")).ok()?;
    // The name, in brackets, may hold anything. Behind it come the state, the parent and the group.
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(2)?
        .parse()
        .ok()
}

fn resident(dir: &Path) -> Option<u64> {
    let status = fs::read_to_string(dir.join("status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ran_is_found_again() {
        let root = std::env::temp_dir().join(format!("gangplank-state-{}", std::process::id()));
        fs::create_dir_all(root.join("run")).unwrap();
        let (demo, id) = (
            "demo".parse().unwrap(),
            DeploymentId::after(None, 1, [0; 10]),
        );
        let types = Types::from([("web".to_owned(), id)]);
        write(&root, &demo, &types).unwrap();
        fs::write(root.join("run/other.processes"), "").unwrap();
        fs::write(root.join("run/gangplank.sock"), "").unwrap();
        assert_eq!(read_all(&root).unwrap(), [(demo.clone(), types)]);
        write(&root, &demo, &Types::new()).unwrap();
        write(&root, &demo, &Types::new()).unwrap();
        assert_eq!(read_all(&root).unwrap(), []);
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn our_own_group_has_memory() {
        let group = group_of(Path::new("/proc/self")).unwrap();
        assert!(memory_of_groups()[&group] > 1 << 20);
    }
}
