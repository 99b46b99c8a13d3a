//! Where the root is when nobody says: the one answer for the server that owns it and for the client that looks for its
//! socket; and where a user's own settings are. Only the environment and the user's id are asked, never the disk.

use std::path::{Path, PathBuf};

use crate::api::error::Error;
use crate::system::host;

/// The root of this user, from the process's own environment.
///
/// # Errors
/// When there is no variable to find it by.
pub fn default_root() -> Result<PathBuf, Error> {
    let env = |name: &str| std::env::var_os(name).map(PathBuf::from);
    root(&env, host::is_root())
}

/// This user's own directory of settings, from the process's own environment.
///
/// # Errors
/// When there is no variable to find it by.
pub fn config_dir() -> Result<PathBuf, Error> {
    config(&|name| std::env::var_os(name).map(PathBuf::from))
}

/// Where this user's commands keep what can be found out again, from the process's own environment.
///
/// # Errors
/// When there is no variable to find it by.
pub fn cache_dir() -> Result<PathBuf, Error> {
    own(
        &|name| std::env::var_os(name).map(PathBuf::from),
        ("XDG_CACHE_HOME", ".cache"),
    )
}

/// The root of the superuser.
pub const SYSTEM_ROOT: &str = "/var/lib/gangplank";

/// The name of the unix socket that every root has.
pub const SOCKET: &str = "gangplank.sock";

/// The unix socket of a root.
pub fn socket(root: &Path) -> PathBuf {
    root.join("run").join(SOCKET)
}

fn root(env: &dyn Fn(&str) -> Option<PathBuf>, superuser: bool) -> Result<PathBuf, Error> {
    // An empty variable counts as none, and what has to be absolute and is not is passed over, as the XDG rules have it.
    let set = |name| env(name).filter(|path| !path.as_os_str().is_empty());
    let absolute = |name| set(name).filter(|path| path.is_absolute());
    if let Some(root) = set("GANGPLANK_ROOT") {
        return Ok(root);
    }
    if superuser {
        return Ok(PathBuf::from(SYSTEM_ROOT));
    }
    if let Some(data) = absolute("XDG_DATA_HOME") {
        return Ok(data.join("gangplank"));
    }
    match absolute("HOME") {
        Some(home) => Ok(home.join(".local/share/gangplank")),
        None => Err(Error::new(
            "finding the default root",
            "neither GANGPLANK_ROOT nor XDG_DATA_HOME nor HOME says where it is",
        )),
    }
}

fn config(env: &dyn Fn(&str) -> Option<PathBuf>) -> Result<PathBuf, Error> {
    own(env, ("XDG_CONFIG_HOME", ".config"))
}

/// A directory of this user's: gangplank's below what a variable names, or below a name in the home.
fn own(
    env: &dyn Fn(&str) -> Option<PathBuf>,
    (variable, name): (&str, &str),
) -> Result<PathBuf, Error> {
    let absolute = |name| env(name).filter(|path| path.is_absolute());
    let home = || Some(absolute("HOME")?.join(name));
    match absolute(variable).or_else(home) {
        Some(dir) => Ok(dir.join("gangplank")),
        None => Err(Error::new(
            "finding this user's own files",
            format!("neither {variable} nor HOME says where they are"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_settings() {
        type Set<'a> = &'a [(&'a str, &'a str)];
        let table: &[(Set, Option<&str>)] = &[
            (
                &[("XDG_CONFIG_HOME", "/c"), ("HOME", "/h")],
                Some("/c/gangplank"),
            ),
            (
                &[("XDG_CONFIG_HOME", "c"), ("HOME", "/h")],
                Some("/h/.config/gangplank"),
            ),
            (
                &[("XDG_CONFIG_HOME", ""), ("HOME", "/h")],
                Some("/h/.config/gangplank"),
            ),
            (&[("HOME", "h")], None),
            (&[], None),
        ];
        for (set, expected) in table {
            let env = |name: &str| {
                let found = set.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| PathBuf::from(value))
            };
            assert_eq!(config(&env).ok(), expected.map(PathBuf::from), "{set:?}");
        }
    }

    #[test]
    fn the_default_root() {
        type Set<'a> = &'a [(&'a str, &'a str)];
        let table: &[(Set, bool, &str)] = &[
            (&[("GANGPLANK_ROOT", "/r"), ("HOME", "/h")], true, "/r"),
            (&[("GANGPLANK_ROOT", "r")], false, "r"),
            (
                &[("GANGPLANK_ROOT", ""), ("XDG_DATA_HOME", "/d")],
                true,
                "/var/lib/gangplank",
            ),
            (
                &[("XDG_DATA_HOME", "/d"), ("HOME", "/h")],
                false,
                "/d/gangplank",
            ),
            (
                &[("XDG_DATA_HOME", "d"), ("HOME", "/h")],
                false,
                "/h/.local/share/gangplank",
            ),
            (&[("HOME", "/h")], false, "/h/.local/share/gangplank"),
        ];
        for (set, superuser, expected) in table {
            let env = |name: &str| {
                let found = set.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| PathBuf::from(value))
            };
            assert_eq!(
                root(&env, *superuser).unwrap(),
                Path::new(expected),
                "{set:?}"
            );
        }
        assert!(
            root(&|_| None, false)
                .unwrap_err()
                .to_string()
                .contains("HOME")
        );
        assert_eq!(socket(Path::new("/r")), Path::new("/r/run/gangplank.sock"));
    }
}
