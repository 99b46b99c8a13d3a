//! What everything that a component runs finds around it: the server's own environment without what is the server's alone,
//! a home, the programs that were installed, and on top of it what the operator has set.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::api::error::{Doing, Error, Refusal};
use crate::api::name::{DeploymentId, Project};
use crate::engine::env;
use crate::engine::shared::{self, SHARED};
use crate::store::Store;
use crate::system::account::Account;
use crate::system::child::{self, DEPLOYMENT, PROJECT};
use crate::system::directory::Directory;

/// What every shell takes where there is no PATH.
pub(super) const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// The mode of `ROOT/cache`: whoever runs a component has to get through it.
const WAY: u32 = 0o755;
/// The mode of a component's own directory there.
pub(super) const PRIVATE: u32 = 0o700;

/// Variables of an environment.
pub(super) type Variables = Vec<(OsString, OsString)>;

/// The environment of a component's children, and what its operator should know of them.
pub(super) struct ChildEnv {
    pub(super) variables: Variables,
    pub(super) warnings: Vec<String>,
}

/// Where what a component's package managers keep is; it may be deleted at any time.
pub(super) fn cache(store: &Store, project: &Project) -> PathBuf {
    store.root().join("cache").join(project.as_str())
}

/// The environment of what a component runs as a user, made from the server's.
///
/// # Errors
/// When the operator's file is not understood, or a home cannot be made.
pub(super) fn of(
    store: &Store,
    project: &Project,
    servers: &Variables,
    account: Option<&Account>,
) -> Result<ChildEnv, Refusal> {
    let env = env::read(store, project)?;
    // What Python prints is seen when it is printed, not when a buffer is full.
    let mut variables: Variables = vec![("PYTHONUNBUFFERED".into(), "1".into())];
    variables.extend(servers.iter().cloned());
    let own = env.variables.into_iter();
    variables.extend(own.map(|(name, value)| (name.as_str().into(), value.into())));
    let home = value_of(&variables, "HOME").map(PathBuf::from);
    let has_home = home.is_some_and(|home| child::can_write(account, &home));
    if !has_home {
        let place = cache(store, project);
        make_home(store, project, account).doing(|| format!("making {}/home", place.display()))?;
        let own = [
            ("HOME", "home"),
            ("npm_config_cache", "npm"),
            ("YARN_CACHE_FOLDER", "yarn"),
            // Below it is the store.
            ("PNPM_HOME", "pnpm"),
            ("PIP_CACHE_DIR", "pip"),
        ];
        for (name, dir) in own {
            if name == "HOME" || value_of(&variables, name).is_none() {
                variables.push((name.into(), place.join(dir).into()));
            }
        }
    }
    Ok(ChildEnv {
        variables,
        warnings: env.warnings,
    })
}

fn make_home(store: &Store, project: &Project, account: Option<&Account>) -> std::io::Result<()> {
    let owner = account.map(|account| (account.uid, account.gid));
    let own = open_cache(store, project, account)?;
    own.enter_or_make("home", PRIVATE, owner).map(drop)
}

/// The directory of [`cache`], which is made for the user that the component runs as.
pub(super) fn open_cache(
    store: &Store,
    project: &Project,
    account: Option<&Account>,
) -> std::io::Result<Directory> {
    let owner = account.map(|account| (account.uid, account.gid));
    let caches = Directory::open(store.root())?.enter_or_make("cache", WAY, None)?;
    caches.enter_or_make(project.as_str(), PRIVATE, owner)
}

/// The value that counts: of several with one name the last.
pub(super) fn value_of<'a>(variables: &'a [(OsString, OsString)], name: &str) -> Option<&'a OsStr> {
    let mut all = variables.iter().rev();
    all.find(|(known, _)| known == name)
        .map(|(_, value)| &**value)
}

/// The PATH of these variables.
pub(super) fn path_of(variables: &[(OsString, OsString)]) -> &OsStr {
    value_of(variables, "PATH").unwrap_or(OsStr::new(DEFAULT_PATH))
}

/// Where a program is, by the PATH of these variables. Asked before it is started, since a missing interpreter or directory
/// would look the same afterwards.
pub(super) fn find(variables: &[(OsString, OsString)], program: &str) -> Option<PathBuf> {
    std::env::split_paths(path_of(variables))
        // A relative entry would be looked up in the server's own directory.
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(program))
        .find(|file| {
            std::fs::metadata(file)
                .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        })
}

/// The PATH for what runs in a release: the programs that were installed there come first.
pub(super) fn path_in(release: &Path, variables: &[(OsString, OsString)]) -> OsString {
    let mut path = release.join("node_modules/.bin").into_os_string();
    path.push(":");
    path.push(path_of(variables));
    path
}

/// On top of what is around what a component runs: the programs of a release, and whose release it is.
pub(super) fn in_release(
    store: &Store,
    (project, release): (&Project, DeploymentId),
    mut around: Variables,
) -> Variables {
    let path = path_in(&store.release(project, release), &around);
    around.push(("PATH".into(), path));
    let mark = store.server_mark().variable();
    let marks = [
        (mark.0, mark.1.to_owned()),
        (DEPLOYMENT, release.to_string().into()),
        (PROJECT, project.as_str().into()),
        (SHARED, shared::dir(store, project).into()),
    ];
    around.extend(marks.map(|(key, value)| (key.into(), value)));
    around
}

/// Removes what a component's package managers keep.
///
/// # Errors
/// When something of it stays.
pub(super) fn remove_cache(store: &Store, project: &Project) -> Result<(), Error> {
    let place = cache(store, project);
    let removed = crate::system::trees::remove_tree(&place);
    crate::system::files::gone(removed).doing(|| format!("removing {}", place.display()))
}
