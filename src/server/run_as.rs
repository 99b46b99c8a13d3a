//! The user of `--run-as`.

use std::fs;

use crate::api::error::{Doing, Error};
use crate::store::Store;
use crate::system::account::Account;
use crate::system::child;
use crate::system::host;

/// The user of `--run-as`, who must be able to go where the releases are.
pub(super) fn account(name: &str, store: &Store) -> Result<Account, Error> {
    let account = find_account(name)?;
    child::can_enter(&account, &store.releases_dir()).doing(|| {
        format!("running components as {name}: each directory up to there must let it through")
    })?;
    Ok(account)
}

pub(super) fn find_account(name: &str) -> Result<Account, Error> {
    let what = || format!("running components as {name}");
    if !host::is_root() {
        return Err(Error::new(
            what(),
            "only root can do so, and this server is not root",
        ));
    }
    let read = |path: &str| fs::read_to_string(path).doing(|| format!("reading {path}"));
    let found = Account::find(name, &read("/etc/passwd")?, &read("/etc/group")?);
    found.map_err(|why| Error::new(what(), why))
}
