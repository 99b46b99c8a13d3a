//! The stages of a deployment, as types that consume each other: [`Staged`] (unpacked) → `Ready` (installed and loaded) →
//! live. Dropping a stage undoes what it made, so a `?` on the way, or a panic, leaves what was live before and
//! nothing of what was not to be.

use std::ffi::OsString;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::account::Account;
use crate::archive::{self, Limits};
use crate::attempt::{Attempt, Facts};
use crate::error::{Code, Refusal};
use crate::event::{Event, Phase, Upload};
use crate::install::{self, Choice, Failed, Request};
use crate::log;
use crate::manifest;
use crate::name::{DeploymentId, Project};
use crate::store::Store;

/// Watchers are told of an upload at most so often: ten times a second.
const UPLOAD_EVERY: Duration = Duration::from_millis(100);

/// A payload that was stored and unpacked; dropping it removes both.
pub struct Staged {
    tree: Tree,
    payload: Payload,
}

/// A release directory of ours; dropping it removes it unless it is kept.
struct Tree {
    store: Arc<Store>,
    project: Project,
    id: DeploymentId,
    kept: bool,
}

impl Tree {
    fn path(&self) -> PathBuf {
        self.store.release(&self.project, self.id)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = self.store.remove_release(&self.project, self.id)
        {
            log::warn(&format!("deployment {}: {error}", self.id));
        }
    }
}

/// A payload's file; dropping it removes it unless it is kept. It is kept as soon as it arrived whole, since a deployment
/// whose installation failed may be looked at or tried again.
struct Payload {
    store: Arc<Store>,
    id: DeploymentId,
    kept: bool,
}

impl Drop for Payload {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = self.store.remove_payload(self.id)
        {
            log::warn(&format!("deployment {}: {error}", self.id));
        }
    }
}

/// Runs phase `extract`: stores, hashes and unpacks the payload while it arrives. The tree is the `owner`'s, if there is one.
///
/// # Errors
/// What is wrong with the payload, or with the disk; nothing of it stays then.
pub fn extract(
    attempt: &mut Attempt,
    store: &Arc<Store>,
    source: &mut dyn Read,
    expected_sha256: Option<&str>,
    limits: &Limits,
    owner: Option<&Account>,
) -> Result<Staged, Refusal> {
    let (project, id) = (
        attempt.record().project.clone(),
        attempt.record().deployment_id,
    );
    attempt.phase(Phase::Extract, |attempt| {
        let payload = Payload { store: Arc::clone(store), id, kept: false };
        let file = store.create_payload(id)?;
        let tree = Tree { store: Arc::clone(store), project: project.clone(), id, kept: false };
        let release = store.create_release(&project, id)?;
        let mut told = Instant::now();
        let unpacked = archive::unpack(source, &file, &release, limits, owner.map(|account| (account.uid, account.gid)), &mut |bytes| {
            if told.elapsed() >= UPLOAD_EVERY {
                told = Instant::now();
                attempt.upload(Upload { bytes, total: None });
            }
        })?;
        if let Some(expected) = expected_sha256
            && expected != unpacked.payload_hash
        {
            let why = format!(
                "checking the payload of {project}: its SHA-256 is {} and not {expected} as payload_sha256 says",
                unpacked.payload_hash
            );
            return Err(Refusal::new(Code::BadRequest, why));
        }
        let mut staged = Staged { tree, payload };
        staged.payload.kept = true;
        let facts = json!({
            "payload_hash": unpacked.payload_hash,
            "payload_size": unpacked.payload_size,
            "unpacked_size": unpacked.unpacked_size,
            "files": unpacked.files,
        });
        Ok((staged, self::facts(facts)))
    })
}

/// What every build needs beside its release.
pub struct Builder {
    /// The root.
    pub store: Arc<Store>,
    /// The time limit where neither the request nor the manifest has one.
    pub install_timeout: Duration,
    /// The environment of what is run.
    pub environment: Vec<(OsString, OsString)>,
    /// Who it runs as, if not as the server's own user.
    pub account: Option<Arc<Account>>,
}

/// A release that can run; dropping it removes it.
struct Ready(Tree);

impl Builder {
    /// Takes a staged release through the phases `install`, `load` and `activate`.
    ///
    /// # Errors
    /// Why it is not live. What was live before is so still, and nothing of the release stays.
    pub fn run(&self, staged: Staged, attempt: &mut Attempt) -> Result<(), Refusal> {
        let ready = self.load(self.install(staged, attempt)?, attempt)?;
        self.activate(ready, attempt)
    }

    fn install(&self, staged: Staged, attempt: &mut Attempt) -> Result<Staged, Refusal> {
        let (options, stop) = (attempt.record().options.clone(), attempt.stop().clone());
        let release = staged.tree.path();
        let request = Request {
            options: &options,
            default_timeout: self.install_timeout,
            release: &release,
            project: &staged.tree.project,
            id: staged.tree.id,
            root: self.store.root(),
            environment: &self.environment,
            account: self.account.as_deref(),
            stop: &stop,
        };
        let (choice, warnings) = match install::choose(&request) {
            Ok(chosen) => chosen,
            Err(refusal) => return attempt.phase(Phase::Install, |_| Err(refusal)),
        };
        for warning in warnings {
            attempt.emit(&Event::Warning(warning))?;
        }
        match choice {
            Choice::Skip(why) => attempt.skip(Phase::Install, &why)?,
            Choice::Run(installer) => attempt.phase(Phase::Install, |attempt| {
                let manager = installer.manager.clone();
                let ran = install::run(&request, &installer, &mut |line| {
                    attempt.emit(&Event::Install(line))
                });
                let lines = keep_output(attempt, ran)?;
                Ok(((), facts(json!({ "manager": manager, "lines": lines }))))
            })?,
        }
        Ok(staged)
    }

    fn load(&self, staged: Staged, attempt: &mut Attempt) -> Result<Ready, Refusal> {
        let (options, stop) = (attempt.record().options.clone(), attempt.stop().clone());
        attempt.phase(Phase::Load, |attempt| {
            let release = staged.tree.path();
            let project = &staged.tree.project;
            let manifest = manifest::manifest(&release)?;
            manifest::package(&release)?;
            manifest::procfile(&release)?;
            let environment = self.store.root().join("env").join(project.as_str());
            manifest::environment(&environment)?;
            if manifest::is_open_to_others(&environment) {
                let warning = format!(
                    "{} can be read by others than its owner",
                    environment.display()
                );
                attempt.emit(&Event::Warning(warning))?;
            }
            let request = Request {
                options: &options,
                default_timeout: self.install_timeout,
                release: &release,
                project,
                id: staged.tree.id,
                root: self.store.root(),
                environment: &self.environment,
                account: self.account.as_deref(),
                stop: &stop,
            };
            let ran = install::check(&request, &manifest, &mut |line| {
                attempt.emit(&Event::Install(line))
            });
            keep_output(attempt, ran)?;
            Ok(((), Facts::new()))
        })?;
        Ok(Ready(staged.tree))
    }

    /// The order is what makes it hold across a power loss: the release is on disk, then the intent to switch is in the
    /// journal, then the link is renamed, and only then the deployment is told to be live. A start finds the link at the
    /// old release or at a whole new one.
    fn activate(&self, ready: Ready, attempt: &mut Attempt) -> Result<(), Refusal> {
        let Ready(mut tree) = ready;
        if attempt.stop().stopped() {
            return Err(Refusal::new(
                Code::Cancelled,
                format!("activating {}: stopped", tree.project),
            ));
        }
        attempt.phase(Phase::Activate, |attempt| {
            self.store.sync()?;
            attempt.sync()?;
            self.store.switch(&tree.project, tree.id)?;
            // Live from here on: nothing that fails later may remove it.
            tree.kept = true;
            Ok(((), Facts::new()))
        })
    }
}

fn keep_output(attempt: &mut Attempt, ran: Result<u64, Failed>) -> Result<u64, Refusal> {
    ran.map_err(|failed| {
        attempt.keep_output(failed.output);
        failed.refusal
    })
}

fn facts(value: serde_json::Value) -> Facts {
    match value {
        serde_json::Value::Object(facts) => facts,
        _ => Facts::new(),
    }
}
