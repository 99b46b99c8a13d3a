//! What is to be told of the ends of deployments: `notify/RECEIVER/ID` is there from the end of a deployment until the
//! receiver has taken it, or it is given up. So a restart of the server loses none, and may send one twice.

use std::fs;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::api::error::{Doing, Error};
use crate::api::name::DeploymentId;
use crate::api::notice;
use crate::api::record::Record;
use crate::store::{Store, ids, names};
use crate::system::files::{self, Durability, gone, if_there};
use crate::system::log;
use crate::system::trees::remove_tree;

/// How many may wait for one receiver: a busy server's in the ten minutes for which one is tried, and 4 MiB of disk.
const WAITING_MAX: usize = 1000;

/// Who is told, and who waits for something to tell.
#[derive(Debug, Default)]
pub(super) struct Notices {
    /// The directories of the receivers; none before they are known.
    receivers: OnceLock<Vec<String>>,
    /// How many have come. It only grows.
    come: Mutex<u64>,
    changed: Condvar,
}

impl Store {
    /// Says who is told, each by a name of a directory. What waits for others is removed.
    ///
    /// # Errors
    /// When there is no place for what is to be told.
    pub fn tell(&self, receivers: Vec<String>) -> Result<(), Error> {
        let dir = self.notices_dir();
        for name in names(&dir)? {
            if !receivers.contains(&name) {
                let path = dir.join(&name);
                log::warn(&format!(
                    "no --notify has the receiver of {}; removing it, and the {} that wait there",
                    path.display(),
                    ids(&path).map_or(0, |ids| ids.len())
                ));
                gone(remove_tree(&path)).doing(|| format!("removing {}", path.display()))?;
            }
        }
        for name in &receivers {
            let path = dir.join(name);
            files::make_dirs(&path, 0o700).doing(|| format!("making {}", path.display()))?;
        }
        // There is one server of a root.
        let _ = self.notices.receivers.set(receivers);
        Ok(())
    }

    /// Puts down what is to be told of the end of a deployment. What the disk does not take is not told, and said in the log:
    /// no deployment fails or waits because of it.
    pub fn put_notice(&self, record: &Record) {
        let receivers = self.notices.receivers.get().into_iter().flatten();
        let mut put = false;
        for receiver in receivers {
            match self.put_one(receiver, record) {
                Ok(()) => put = true,
                Err(error) => log::error(&format!(
                    "nobody is told of the end of deployment {}: {error}",
                    record.deployment_id
                )),
            }
        }
        if put {
            *self
                .notices
                .come
                .lock()
                .unwrap_or_else(PoisonError::into_inner) += 1;
            self.notices.changed.notify_all();
        }
    }

    fn put_one(&self, receiver: &str, record: &Record) -> Result<(), Error> {
        let path = self.notice(receiver, record.deployment_id);
        let what = || format!("writing {}", path.display());
        if self.notices(receiver)?.len() >= WAITING_MAX {
            let why = format!("{WAITING_MAX} wait for that receiver already");
            return Err(Error::new(what(), why));
        }
        let text = notice::of(record).to_string();
        files::replace(&path, text.as_bytes(), 0o600, Durability::PowerLoss).doing(what)
    }

    /// The deployments whose ends a receiver is to be told of, oldest first.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn notices(&self, receiver: &str) -> Result<Vec<DeploymentId>, Error> {
        ids(&self.notices_dir().join(receiver))
    }

    /// What is to be told of one; none if that is done.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read_notice(&self, receiver: &str, id: DeploymentId) -> Result<Option<Vec<u8>>, Error> {
        let path = self.notice(receiver, id);
        if_there(fs::read(&path)).doing(|| format!("reading {}", path.display()))
    }

    /// Forgets what was told, or is not told any longer.
    ///
    /// # Errors
    /// When it stays.
    pub fn remove_notice(&self, receiver: &str, id: DeploymentId) -> Result<(), Error> {
        let path = self.notice(receiver, id);
        gone(fs::remove_file(&path)).doing(|| format!("removing {}", path.display()))
    }

    /// Waits until there are more notices than those that were `seen`, or for so long.
    pub fn await_notices(&self, seen: &mut u64, limit: Option<Duration>) {
        let until = limit.map(|limit| Instant::now() + limit);
        let mut come = self
            .notices
            .come
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        while *come == *seen {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            come = match left {
                Some(Duration::ZERO) => break,
                Some(left) => {
                    let waited = self.notices.changed.wait_timeout(come, left);
                    waited.map_or_else(|poisoned| poisoned.into_inner().0, |(come, _)| come)
                }
                None => {
                    let waited = self.notices.changed.wait(come);
                    waited.unwrap_or_else(PoisonError::into_inner)
                }
            };
        }
        *seen = *come;
    }

    fn notices_dir(&self) -> PathBuf {
        self.root().join("notify")
    }

    fn notice(&self, receiver: &str, id: DeploymentId) -> PathBuf {
        self.notices_dir().join(receiver).join(id.to_string())
    }
}
