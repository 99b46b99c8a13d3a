//! Phase `fetch`: what a deployment names instead of bringing it is fetched, and becomes the deployment's payload.
//!
//! | file | what for |
//! | --- | --- |
//! | `npm` | a package, by `npm pack` |
//! | `git` | a repository, by `git` |
//! | `tarball` | a tarball, by the client of this program |
//! | `local` | a directory or a tarball of the server's own |
//! | `step` | one command of these, with its lines, its time and an eye on the disk |
//! | `payload` | the payload's file, and what it may cost |
//! | `workspace` | where the programs work |
//! | `redact` | what takes credentials out of the lines of others |
//!
//! Everything here is the user's of `--run-as`: programs run as that user, and files are opened as that user, so that a link
//! that somebody puts into the way leads to nothing that the user could not have read anyway.
//!
//! Who may deploy runs code on this host, so a URL may lead wherever the host's network does: it gives nobody more.

mod git;
mod local;
mod npm;
mod payload;
mod redact;
mod step;
mod tarball;
mod workspace;

use std::ffi::OsString;
use std::fs::File;
use std::time::{Duration, Instant};

use crate::api::error::{Code, Refusal};
use crate::api::event::Event;
use crate::api::name::{DeploymentId, Project};
use crate::api::package::{PackageSource, PackageSpec};
use crate::api::source::SourceRevision;
use crate::engine::attempt::Attempt;
use crate::engine::fetch::payload::FetchedPayload;
pub use crate::engine::fetch::workspace::remove_leftovers;
use crate::engine::outcome::Failed;
use crate::formats::archive::Limits;
use crate::store::Store;
use crate::system::account::Account;
use crate::system::stop::Stop;

/// What is fetched, and how.
pub struct FetchRequest<'a> {
    pub package: &'a PackageSpec,
    pub project: &'a Project,
    pub id: DeploymentId,
    pub store: &'a Store,
    /// What a payload may cost.
    pub limits: &'a Limits,
    /// The environment of what the component runs.
    pub environment: &'a [(OsString, OsString)],
    /// Who it runs as, if not as the server's own user.
    pub account: Option<&'a Account>,
    /// How long it may take.
    pub limit: Duration,
    /// When that is over.
    pub deadline: Instant,
    pub stop: &'a Stop,
}

impl FetchRequest<'_> {
    /// What is being done, for messages.
    fn doing(&self) -> String {
        format!("fetching {}", self.package.identifier())
    }

    fn failed(&self, why: impl std::fmt::Display) -> Refusal {
        Refusal::new(Code::FetchFailed, format!("{}: {why}", self.doing()))
    }

    fn no_space(&self, why: &str) -> Refusal {
        Refusal::new(Code::NoSpace, format!("{}: {why}", self.doing()))
    }

    fn gets_full(&self) -> Refusal {
        let kept = self.limits.min_free_disk;
        self.no_space(&format!("the disk would have less than {kept} bytes left"))
    }

    fn timed_out(&self) -> Refusal {
        // As short as it was written: "30s", "0.5s".
        self.failed(format!("timed out after {}s", self.limit.as_secs_f64()))
    }

    fn stopped(&self) -> Refusal {
        Refusal::new(Code::Cancelled, format!("{}: stopped", self.doing()))
    }
}

/// Fetches a package into the file of the payload. Gives what came, if it has a version or a commit.
///
/// # Errors
/// `fetch_failed`, `too_large`, `no_space` or `cancelled`, and never anything that is secret.
pub fn fetch(
    request: &FetchRequest<'_>,
    attempt: &mut Attempt,
    file: &File,
) -> Result<Option<SourceRevision>, Box<Failed>> {
    if request.package.is_unverified() {
        let identifier = request.package.identifier();
        attempt.emit(&Event::Warning(format!(
            "{identifier} comes over a connection that others can change, without a hash or a commit to know it by"
        )))?;
    }
    let mut payload = FetchedPayload::new(request, file);
    match &request.package.source {
        PackageSource::Npm { name, range } => {
            npm::fetch(request, (name, range.as_deref()), attempt, &mut payload)
        }
        PackageSource::Git { url, reference } => {
            git::fetch(request, (url, reference.as_deref()), attempt, &mut payload)
        }
        PackageSource::Tarball { url, sha256 } => {
            tarball::fetch(request, (url, sha256.as_deref()), attempt, &mut payload)?;
            Ok(None)
        }
        PackageSource::File(path) => {
            local::fetch(request, path, attempt, &mut payload)?;
            Ok(None)
        }
    }
}
