//! The targets of this user, by name: `targets.json` in the user's own directory of settings.
//!
//! A token in it belongs to the URL beside it. It is read with the URL, as one [`SavedTarget`], and nothing else has it.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::api::error::{Doing, Error};
use crate::api::name::Secret;
use crate::system::files::{self, Durability, if_there, read_up_to};
use crate::system::nearest::nearest;
use crate::system::{host, paths};

const FILE: &str = "targets.json";

/// A thousand targets with their tokens.
const FILE_LEN_MAX: u64 = 1 << 20;

/// The longest name of a target: as of a component.
const NAME_LEN_MAX: usize = 63;

/// A server that this user has named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SavedTarget {
    /// As it was given; it may hold a password.
    pub(crate) url: Secret,
    pub(crate) token: Option<Secret>,
    pub(crate) token_file: Option<PathBuf>,
    pub(crate) ca_cert: Option<PathBuf>,
}

/// All of them, by name.
pub(crate) type SavedTargets = BTreeMap<String, SavedTarget>;

/// The file as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TargetsText {
    targets: BTreeMap<String, TargetText>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TargetText {
    url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ca_cert: Option<PathBuf>,
}

impl From<TargetText> for SavedTarget {
    fn from(text: TargetText) -> SavedTarget {
        SavedTarget {
            url: Secret::new(text.url),
            token: text.token.map(Secret::new),
            token_file: text.token_file,
            ca_cert: text.ca_cert,
        }
    }
}

impl From<&SavedTarget> for TargetText {
    fn from(saved: &SavedTarget) -> TargetText {
        TargetText {
            url: saved.url.reveal().to_owned(),
            token: saved.token.as_ref().map(|token| token.reveal().to_owned()),
            token_file: saved.token_file.clone(),
            ca_cert: saved.ca_cert.clone(),
        }
    }
}

/// Whether a text can be the name of a target. No URL can, but for a host without a dot and without a port.
pub(crate) fn is_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.len() <= NAME_LEN_MAX
        && text.bytes().all(fits)
}

/// Why a name stands for nothing, and which names there are.
pub(crate) fn absent(name: &str, known: &SavedTargets) -> String {
    let names: Vec<&str> = known.keys().map(String::as_str).collect();
    match (nearest(name, names.iter().copied()), names.as_slice()) {
        (_, []) => "no target has this name, and none was added yet".to_owned(),
        (Some(nearest), _) => format!("no target has this name; did you mean {nearest}?"),
        (None, [only]) => format!("no target has this name; the only one is {only}"),
        (None, names) => format!("no target has this name; there are {}", names.join(", ")),
    }
}

/// As [`absent`], and how to add it.
pub(crate) fn unknown(name: &str, known: &SavedTargets) -> String {
    let why = absent(name, known);
    let comma = if why.ends_with('?') { "" } else { ";" };
    format!("{why}{comma} `gangplank target add {name} URL` adds it")
}

/// Where it is damaged. A name may be said; a value never, since it may be a secret.
fn damage(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let names = ["unknown field", "missing field"]
        .iter()
        .any(|start| text.starts_with(start));
    let what = match names {
        true => text,
        false => format!(
            "it is damaged at line {} column {}",
            error.line(),
            error.column()
        ),
    };
    format!("{what}; mend it, or remove it and add the targets again")
}

/// The file of this user's targets.
#[derive(Debug)]
pub(crate) struct TargetsFile(PathBuf);

impl TargetsFile {
    /// Finds its place.
    ///
    /// # Errors
    /// When no variable says where it is.
    pub(crate) fn of_user() -> Result<TargetsFile, Error> {
        Ok(TargetsFile(paths::config_dir()?.join(FILE)))
    }

    /// The file in a directory of settings.
    #[cfg(test)]
    pub(crate) fn at(dir: PathBuf) -> TargetsFile {
        TargetsFile(dir.join(FILE))
    }

    /// All targets, and a warning if others may read them.
    ///
    /// # Errors
    /// When the file is damaged, or somebody else may have changed it.
    pub(crate) fn read(&self) -> Result<(SavedTargets, Option<String>), Error> {
        let doing = || format!("reading the targets in {}", self.0.display());
        let Some(file) = if_there(File::open(&self.0)).doing(doing)? else {
            return Ok((SavedTargets::new(), None));
        };
        let warning = self.judge(&file.metadata().doing(doing)?)?;
        let text = read_up_to(file, FILE_LEN_MAX).doing(doing)?;
        let text = text.ok_or_else(|| Error::new(doing(), "it is over 1 MiB"))?;
        let read: TargetsText =
            serde_json::from_slice(&text).map_err(|error| Error::new(doing(), damage(&error)))?;
        let all = read.targets.into_iter();
        Ok((
            all.map(|(name, text)| (name, text.into())).collect(),
            warning,
        ))
    }

    /// Refuses what others may change: they could have written another host beside the token.
    fn judge(&self, metadata: &Metadata) -> Result<Option<String>, Error> {
        let (path, mode) = (self.0.display(), metadata.permissions().mode() & 0o777);
        let refused = |why: String| Err(Error::new(format!("reading the targets in {path}"), why));
        if !metadata.is_file() {
            return refused("it is not a regular file".to_owned());
        }
        if metadata.uid() != host::user_id() && !host::is_root() {
            return refused(format!("it belongs to another user ({})", metadata.uid()));
        }
        if mode & 0o022 != 0 {
            return refused(format!(
                "others may write it (mode {mode:03o}): look whether it is still as you wrote it, then `chmod 600 {path}`"
            ));
        }
        let open = mode & 0o044 != 0;
        Ok(open.then(|| {
            format!(
                "others may read {path} (mode {mode:03o}), which holds tokens: `chmod 600 {path}`"
            )
        }))
    }

    /// Reads all targets, changes them, and writes them, whole or not at all.
    ///
    /// # Errors
    /// As of [`TargetsFile::read`], when the change is refused, or when the file cannot be written.
    pub(crate) fn change(
        &self,
        change: impl FnOnce(&mut SavedTargets) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let doing = || format!("writing the targets in {}", self.0.display());
        let dir = self.0.parent().unwrap_or(Path::new("/"));
        files::make_dirs(dir, 0o700).doing(doing)?;
        // Two who add one at once add both.
        let _lock = files::lock(&dir.join("targets.lock")).doing(doing)?;
        let (mut all, _) = self.read()?;
        change(&mut all)?;
        let targets = all.iter().map(|(name, saved)| (name.clone(), saved.into()));
        let text = TargetsText {
            targets: targets.collect(),
        };
        let mut text = serde_json::to_vec_pretty(&text).doing(doing)?;
        text.push(b'\n');
        // A link to it, as people have who keep their settings elsewhere, stays one.
        let path = fs::canonicalize(&self.0).unwrap_or_else(|_| self.0.clone());
        files::replace(&path, &text, 0o600, Durability::PowerLoss).doing(doing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;

    fn saved(url: &str) -> SavedTarget {
        SavedTarget {
            url: Secret::new(url),
            token: Some(Secret::new("hunter2")),
            token_file: None,
            ca_cert: Some("/ca.pem".into()),
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn names() {
        for name in ["prod", "a", "9", "eu-west_2", &"x".repeat(63)] {
            assert!(is_name(name), "{name}");
        }
        let urls = [
            "", "-a", "_", "h:1", "a.b", "http://h", "unix:/s", "a b", "é", "/x",
        ];
        for text in urls.into_iter().chain([&*"x".repeat(64)]) {
            assert!(!is_name(text), "{text}");
        }
    }

    #[test]
    fn targets_are_kept_and_nobody_else_reads_them() {
        let top = std::env::temp_dir().join(format!("gangplank-targets-{}", std::process::id()));
        let _ = fs::remove_dir_all(&top);
        let file = TargetsFile(top.join("config/gangplank/targets.json"));
        assert_eq!(file.read().unwrap(), (SavedTargets::new(), None));
        for name in ["one", "two"] {
            let add = |all: &mut SavedTargets| {
                all.insert(name.to_owned(), saved("https://h"));
                Ok(())
            };
            file.change(add).unwrap();
        }
        assert_eq!(
            (mode(&file.0), mode(file.0.parent().unwrap())),
            (0o600, 0o700)
        );
        let (all, warning) = file.read().unwrap();
        assert_eq!((all.len(), warning), (2, None));
        assert_eq!(all["two"], saved("https://h"));
        assert!(!format!("{all:?}").contains("hunter2"));
        // A change that is refused changes nothing.
        let refused = |all: &mut SavedTargets| {
            all.clear();
            Err(Error::new("changing", "no"))
        };
        assert!(file.change(refused).is_err());
        assert_eq!(file.read().unwrap().0, all);
        // A link stays one.
        let link = TargetsFile(top.join("targets.json"));
        std::os::unix::fs::symlink(&file.0, &link.0).unwrap();
        link.change(|all| {
            all.remove("one");
            Ok(())
        })
        .unwrap();
        assert!(fs::symlink_metadata(&link.0).unwrap().is_symlink());
        assert_eq!(file.read().unwrap().0.len(), 1);
        fs::remove_dir_all(&top).unwrap();
    }

    #[test]
    fn a_file_that_is_damaged_or_open_to_others_is_told() {
        let path = std::env::temp_dir().join(format!("gangplank-open-t-{}", std::process::id()));
        let file = TargetsFile(path.clone());
        let good = r#"{"targets": {"a": {"url": "https://h", "token": "hunter2"}}}"#;
        let table = [
            (good, 0o600, Ok(None)),
            (good, 0o400, Ok(None)),
            (good, 0o644, Ok(Some("chmod 600"))),
            (good, 0o620, Err("others may write it")),
            (good, 0o602, Err("others may write it")),
            ("", 0o600, Err("mend it, or remove it")),
            (
                r#"{"targets": "hunter2"}"#,
                0o600,
                Err("it is damaged at line 1"),
            ),
            (
                r#"{"targets": {"a": {}}}"#,
                0o600,
                Err("missing field `url`"),
            ),
            (
                r#"{"targets": {"a": {"url": "h", "tokn": "hunter2"}}}"#,
                0o600,
                Err("unknown field `tokn`"),
            ),
        ];
        for (text, mode, expected) in table {
            let _ = fs::remove_file(&path);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            match (file.read(), expected) {
                (Ok((_, said)), Ok(expected)) => {
                    assert_eq!(said.is_some(), expected.is_some(), "{text} {mode:o}");
                    assert!(said.is_none_or(|said| said.contains(expected.unwrap())));
                }
                (Err(error), Err(why)) => {
                    let said = error.to_string();
                    assert!(said.contains(why) && !said.contains("hunter2"), "{said}");
                }
                (read, _) => panic!("{text} {mode:o}: {read:?}"),
            }
        }
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn an_unknown_name_says_which_there_are() {
        let mut all = SavedTargets::new();
        assert_eq!(
            unknown("prdo", &all),
            "no target has this name, and none was added yet; `gangplank target add prdo URL` adds it"
        );
        all.insert("dev".into(), saved("h"));
        all.insert("prod".into(), saved("h"));
        let said = unknown("prdo", &all);
        assert!(
            said.contains("no target has this name; did you mean prod?"),
            "{said}"
        );
    }
}
