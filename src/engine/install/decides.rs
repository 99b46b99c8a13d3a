//! All that decides what an installation makes, as one hash: with the same hash it need not be done again.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::api::error::Code;
use crate::engine::child_env::value_of;
use crate::engine::install::choice::MANAGERS;
use crate::engine::install::{InstallRequest, InstallStep, Installer, command, find};
use crate::formats::delta::hash::ContentHash;
use crate::system::files;

/// Files of a release that package managers read.
const FILES: &[&str] = &[
    "package.json",
    ".npmrc",
    ".yarnrc",
    ".yarnrc.yml",
    "pnpm-workspace.yaml",
    ".pnpmfile.cjs",
    ".pnpmfile.mjs",
    "bunfig.toml",
];
/// Their directories: what changes packages, and yarn itself.
const DIRS: &[&str] = &[
    "patches",
    ".yarn/patches",
    ".yarn/plugins",
    ".yarn/releases",
];
/// Files in the home of whoever installs that say from where, and how.
const HOME_FILES: &[&str] = &[".npmrc", ".yarnrc", ".yarnrc.yml", ".bunfig.toml"];
/// A lock file of ten thousand packages has a tenth of it.
const FILE_MAX: u64 = 64 << 20;
/// More patches than anybody has; beyond, it is installed.
const ENTRIES_MAX: usize = 10_000;
/// How long a program may take to say its version.
const VERSION_MAX: Duration = Duration::from_secs(10);
/// Where a package comes from the release itself, whose content is in no lock file.
const BY_PATH: &[&str] = &["file:", "link:", "portal:", "workspace:", "exec:"];

/// The hash of what decides what an installation makes. None if it cannot be known, or if it may be something else each time:
/// commands of somebody's own, scripts of packages, packages by path, workspaces, no lock file.
pub fn decides(request: &InstallRequest<'_>, installer: &Installer) -> Option<ContentHash> {
    let release = request.release;
    let (_, locks) = MANAGERS
        .iter()
        .find(|(name, _)| installer.words.first().is_some_and(|word| word == name))?;
    let modules = release.join("node_modules").symlink_metadata();
    if request.options.install_allow_scripts || modules.is_ok() {
        return None;
    }
    let mut parts = DecidingParts::default();
    let locked = locks.iter().filter(|lock| release.join(lock).is_file());
    if locked.count() == 0 {
        return None;
    }
    for lock in MANAGERS.iter().flat_map(|(_, locks)| *locks) {
        let content = parts.file(&release.join(lock))?;
        if has_path(&content) || find_in(&content, "\"link\": true") {
            return None;
        }
    }
    for name in FILES {
        let content = parts.file(&release.join(name))?;
        let judged = match *name {
            "package.json" => is_alone(&content),
            "pnpm-workspace.yaml" => !find_in(&content, "packages:") && !has_path(&content),
            _ => true,
        };
        if !judged || has_patch_elsewhere(&content) {
            return None;
        }
    }
    for name in DIRS {
        parts.dir(&release.join(name))?;
    }
    if let Some(home) = value_of(request.environment, "HOME") {
        for name in HOME_FILES {
            parts.file(&Path::new(home).join(name))?;
        }
    }
    parts.words(installer.words.iter().map(String::as_bytes));
    let variables = installer.variables.iter();
    parts.words(variables.flat_map(|(name, value)| [name.as_bytes(), value.as_bytes()]));
    let mut environment: Vec<_> = request.environment.iter().collect();
    // The last of several with one name counts, so that their order stays.
    environment.sort_by(|one, other| one.0.cmp(&other.0));
    let both = environment
        .into_iter()
        .flat_map(|(name, value)| [name, value]);
    parts.words(both.map(|text| text.as_encoded_bytes()));
    let account = request.account.map(|account| (account.uid, account.gid));
    let host = [
        std::env::consts::ARCH.to_owned(),
        std::env::consts::OS.to_owned(),
        format!("{account:?}"),
        version(request, &installer.words[0])?,
        match find(request, "node") {
            Some(_) => version(request, "node")?,
            None => "none".into(),
        },
    ];
    parts.words(host.iter().map(String::as_bytes));
    Some(ContentHash::of(&parts.0))
}

/// What is hashed, each part with its length.
#[derive(Default)]
struct DecidingParts(Vec<u8>);

impl DecidingParts {
    fn part(&mut self, bytes: &[u8]) {
        self.0.extend((bytes.len() as u64).to_le_bytes());
        self.0.extend(bytes);
    }

    fn words<'a>(&mut self, words: impl Iterator<Item = &'a [u8]>) {
        let words: Vec<&[u8]> = words.collect();
        self.0.extend((words.len() as u64).to_le_bytes());
        words.into_iter().for_each(|word| self.part(word));
    }

    /// Adds a file, and gives its content: an empty one if it is not there. None if it cannot be read.
    fn file(&mut self, path: &Path) -> Option<Vec<u8>> {
        let meta = files::if_there(fs::metadata(path)).ok()?;
        let Some(meta) = meta else {
            self.part(b"none");
            return Some(Vec::new());
        };
        // Nothing else is waited for.
        if !meta.is_file() {
            return None;
        }
        let file = files::open_at_once(path).ok()?;
        let content = files::read_up_to(file, FILE_MAX).ok()??;
        self.part(&ContentHash::of(&content).0);
        Some(content)
    }

    /// Adds the files of a directory, and of those in it.
    fn dir(&mut self, dir: &Path) -> Option<()> {
        let mut left = vec![dir.to_owned()];
        let mut found = Vec::new();
        while let Some(dir) = left.pop() {
            let Some(entries) = files::if_there(fs::read_dir(&dir)).ok()? else {
                continue;
            };
            for entry in entries {
                let entry = entry.ok()?;
                let kind = entry.file_type().ok()?;
                match (kind.is_dir(), kind.is_file()) {
                    (true, _) => left.push(entry.path()),
                    (_, true) => found.push(entry.path()),
                    _ => return None,
                }
            }
            if left.len() + found.len() > ENTRIES_MAX {
                return None;
            }
        }
        found.sort();
        self.part(&(found.len() as u64).to_le_bytes());
        for path in found {
            let name = path.strip_prefix(dir).ok()?;
            self.part(name.as_os_str().as_encoded_bytes());
            self.file(&path)?;
        }
        Some(())
    }
}

fn find_in(content: &[u8], word: &str) -> bool {
    String::from_utf8_lossy(content).contains(word)
}

fn has_path(content: &[u8]) -> bool {
    let text = String::from_utf8_lossy(content);
    BY_PATH.iter().any(|word| text.contains(word))
}

/// Whether all packages that a package.json names come from elsewhere.
fn is_alone(content: &[u8]) -> bool {
    let Ok(package) = serde_json::from_slice::<Value>(content) else {
        return false;
    };
    let is_path = |value: &Value| {
        let text = value.as_str().unwrap_or_default();
        text.starts_with(['.', '/']) || text.starts_with("~/")
    };
    let dependencies = [
        "dependencies",
        "devDependencies",
        "optionalDependencies",
        "peerDependencies",
    ];
    let mut named = dependencies
        .iter()
        .filter_map(|name| package[*name].as_object());
    let by_path = named.any(|named| named.values().any(is_path));
    package.get("workspaces").is_none() && !by_path && !has_path(content)
}

/// Whether it names a patch that is not in the directories of patches.
fn has_patch_elsewhere(content: &[u8]) -> bool {
    let text = String::from_utf8_lossy(content);
    let apart = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | '{' | '}');
    let mut words = text.split(apart);
    text.contains("patchedDependencies")
        && words.any(|word| {
            let word = word.strip_prefix("./").unwrap_or(word);
            word.ends_with(".patch") && (!word.starts_with("patches/") || word.contains(".."))
        })
}

/// The version that a program says it has, in the release.
fn version(request: &InstallRequest<'_>, program: &str) -> Option<String> {
    let found = find(request, program)?;
    let step = InstallStep {
        what: format!("asking {program} for its version"),
        manager: program,
        timeout: VERSION_MAX,
        codes: (Code::InstallFailed, Code::InstallTimeout),
    };
    let mut said = found.to_string_lossy().into_owned();
    let command = command(request, &found, &["--version".to_owned()]);
    let ran = step.run(request, command, &mut |lines| {
        for line in lines {
            said.push('\n');
            said.push_str(&line.line);
        }
        Ok(())
    });
    ran.is_ok_and(|lines| lines > 0).then_some(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_by_path_are_seen() {
        let table = [
            (r#"{"dependencies":{"a":"^1"},"main":"./x.js"}"#, true),
            (r#"{"dependencies":{"a":"~1.2"}}"#, true),
            (r#"{"dependencies":{"a":"github:a/b"}}"#, true),
            (r#"{"dependencies":{"a":"./a"}}"#, false),
            (r#"{"devDependencies":{"a":"../a.tgz"}}"#, false),
            (r#"{"optionalDependencies":{"a":"/a"}}"#, false),
            (r#"{"peerDependencies":{"a":"~/a"}}"#, false),
            (r#"{"dependencies":{"a":"file:a"}}"#, false),
            (r#"{"overrides":{"a":{"b":"link:b"}}}"#, false),
            (r#"{"dependencies":{"a":"workspace:*"}}"#, false),
            (r#"{"workspaces":["a"]}"#, false),
            ("{", false),
        ];
        for (package, alone) in table {
            assert_eq!(is_alone(package.as_bytes()), alone, "{package}");
        }
    }

    #[test]
    fn patches_elsewhere_are_seen() {
        let table = [
            (
                r#"{"pnpm":{"patchedDependencies":{"a@1":"patches/a.patch"}}}"#,
                false,
            ),
            ("patchedDependencies:\n  a@1: ./patches/a.patch\n", false),
            (r#"{"patchedDependencies":{"a@1":"own/a.patch"}}"#, true),
            ("patchedDependencies:\n  a: patches/../a.patch\n", true),
            (r#"{"main":"own/a.patch"}"#, false),
        ];
        for (text, elsewhere) in table {
            assert_eq!(has_patch_elsewhere(text.as_bytes()), elsewhere, "{text}");
        }
    }
}
