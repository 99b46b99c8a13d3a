//! The stages of a deployment, as types that consume each other: [`Staged`] (unpacked) → `Ready` (installed and loaded) →
//! live. Dropping a stage undoes what it made, so a `?` on the way, or a panic, leaves what was live before and
//! nothing of what was not to be.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::account::Account;
use crate::archive::{self, Limits};
use crate::attempt::{Attempt, Facts, checkpoint};
use crate::error::{Code, Refusal};
use crate::event::{Event, Phase, Upload};
use crate::install::{self, Choice, Failed, Request};
use crate::log;
use crate::manifest;
use crate::name::{DeploymentId, Project};
use crate::operation::Restart;
use crate::processes::{Order, Processes};
use crate::stop;
use crate::store::Store;

/// Watchers are told of an upload at most so often: ten times a second.
const UPLOAD_EVERY: Duration = Duration::from_millis(100);

/// A payload that was unpacked; dropping it removes the tree.
pub struct Staged(Tree);

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

/// How a payload is received.
pub struct Intake<'a> {
    /// The root.
    pub store: &'a Arc<Store>,
    /// What it may cost.
    pub limits: &'a Limits,
    /// Whose the tree is, if not the server's own user's.
    pub owner: Option<&'a Account>,
}

impl Intake<'_> {
    /// Runs phase `extract`: stores, hashes and unpacks the payload while it arrives. If there is an expected SHA-256, the
    /// payload must have it.
    ///
    /// # Errors
    /// What is wrong with the payload, or with the disk; nothing of it stays then.
    pub fn receive(
        &self,
        attempt: &mut Attempt,
        source: &mut dyn Read,
        expected: Option<&str>,
    ) -> Result<Staged, Refusal> {
        let id = attempt.record().deployment_id;
        attempt.phase(Phase::Extract, |attempt| {
            let mut payload = Payload {
                store: Arc::clone(self.store),
                id,
                kept: false,
            };
            let file = self.store.create_payload(id)?;
            let (tree, facts) = self.unpack(attempt, source, Some(&file), expected)?;
            payload.kept = true;
            Ok((Staged(tree), facts))
        })
    }

    /// Runs phase `extract` again for a release that was removed, from its stored payload.
    ///
    /// # Errors
    /// When the payload is not what it was, or the disk does not take the tree, of which nothing stays then.
    pub fn rebuild(
        &self,
        attempt: &mut Attempt,
        payload: &mut File,
        expected: Option<&str>,
    ) -> Result<Staged, Refusal> {
        attempt.phase(Phase::Extract, |attempt| {
            let (tree, facts) = self.unpack(attempt, payload, None, expected)?;
            Ok((Staged(tree), facts))
        })
    }

    fn unpack(
        &self,
        attempt: &mut Attempt,
        source: &mut dyn Read,
        payload: Option<&File>,
        expected: Option<&str>,
    ) -> Result<(Tree, Facts), Refusal> {
        let (project, id) = (
            attempt.record().project.clone(),
            attempt.record().release_id,
        );
        let tree = Tree {
            store: Arc::clone(self.store),
            project: project.clone(),
            id,
            kept: false,
        };
        let release = self.store.create_release(&project, id)?;
        let owner = self.owner.map(|account| (account.uid, account.gid));
        let mut told = Instant::now();
        let unpacked = archive::unpack(
            source,
            payload,
            &release,
            self.limits,
            owner,
            &mut |bytes| {
                checkpoint("received");
                if told.elapsed() >= UPLOAD_EVERY {
                    told = Instant::now();
                    attempt.upload(Upload { bytes, total: None });
                }
            },
        )?;
        checkpoint("stored");
        if let Some(expected) = expected
            && expected != unpacked.payload_hash
        {
            let why = format!(
                "checking the payload of {project}: its SHA-256 is {} and not {expected} as it should be",
                unpacked.payload_hash
            );
            return Err(Refusal::new(Code::BadRequest, why));
        }
        let facts = json!({
            "payload_hash": unpacked.payload_hash,
            "payload_size": unpacked.payload_size,
            "unpacked_size": unpacked.unpacked_size,
            "files": unpacked.files,
        });
        Ok((tree, self::facts(facts)))
    }
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
    /// What runs of what is live.
    pub processes: Arc<Processes>,
}

/// A release that can run; dropping it removes it, unless it was there before.
pub struct Ready(Tree);

impl Ready {
    /// A release that an earlier deployment built.
    pub fn built(store: &Arc<Store>, project: &Project, id: DeploymentId) -> Ready {
        Ready(Tree {
            store: Arc::clone(store),
            project: project.clone(),
            id,
            kept: true,
        })
    }
}

/// What a deployment does past `extract`.
pub enum Work {
    /// Installs and loads what was unpacked, and then makes it live, or only keeps it.
    Build(Staged, bool),
    /// Makes a release live that is there.
    Activate(Ready),
    /// Only restarts what is live.
    Restart,
}

impl Builder {
    /// Takes a release through the phases that are left.
    ///
    /// # Errors
    /// Why it is not live. What was live before is so still, and nothing of a release that was being built stays.
    pub fn run(&self, work: Work, attempt: &mut Attempt) -> Result<(), Refusal> {
        let ready = match work {
            Work::Restart => {
                if !attempt.commit() {
                    let why = format!("restarting {}: stopped", attempt.record().project);
                    return Err(Refusal::new(Code::Cancelled, why));
                }
                return self.restart(attempt, false);
            }
            Work::Activate(ready) => ready,
            Work::Build(staged, activates) => {
                checkpoint("unpacked");
                let staged = self.install(staged, attempt)?;
                checkpoint("installed");
                let mut ready = self.load(staged, attempt)?;
                checkpoint("loaded");
                if !activates {
                    return keep(&mut ready, attempt, &self.store);
                }
                ready
            }
        };
        self.activate(ready, attempt)?;
        if attempt.record().restart_mode.is_some() {
            self.restart(attempt, true)?;
        }
        Ok(())
    }

    /// Restarts the processes. If the new ones are not healthy and the release was `switched` to, the one before is live
    /// again.
    fn restart(&self, attempt: &mut Attempt, switched: bool) -> Result<(), Refusal> {
        let record = attempt.record();
        let (project, release) = (record.project.clone(), record.release_id);
        let previous = record.previous.filter(|before| *before != release);
        if !self.processes.has_any(&project, release)? {
            let why = "the component has neither processes nor a hook";
            attempt.emit(&Event::Warning(format!("nothing was restarted: {why}")))?;
            return Ok(attempt.skip(Phase::Restart, why)?);
        }
        let rolling = record.restart_mode.as_deref() == Restart::Rolling.mode();
        let limit = record.options.timeout().unwrap_or(self.install_timeout);
        let (_stopper, stop) = stop::pair()?;
        let order = |release| Order {
            project: &project,
            release,
            rolling,
            hook_limit: limit,
            stop: &stop,
        };
        attempt.phase(Phase::Restart, |attempt| {
            let emit = &mut |event| attempt.emit(&Event::Process(event));
            let unhealthy = match self.processes.restart(&order(release), emit) {
                Ok(()) => return Ok(((), Facts::new())),
                Err(unhealthy) => unhealthy,
            };
            if switched {
                self.store.switch_back(&project, previous)?;
                if let Some(previous) = previous {
                    let told = serde_json::Value::from(previous.to_string());
                    attempt.add_to_error("rolled_back_to", told);
                    self.processes.restore(&order(previous));
                }
            }
            attempt.add_to_error("process_output", json!(unhealthy.output));
            Err(Refusal::new(Code::Unhealthy, unhealthy.message))
        })?;
        attempt.restarted();
        Ok(())
    }

    fn install(&self, staged: Staged, attempt: &mut Attempt) -> Result<Staged, Refusal> {
        let (options, stop) = (attempt.record().options.clone(), attempt.stop().clone());
        let release = staged.0.path();
        let request = Request {
            options: &options,
            default_timeout: self.install_timeout,
            release: &release,
            project: &staged.0.project,
            id: staged.0.id,
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
            let release = staged.0.path();
            let project = &staged.0.project;
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
                id: staged.0.id,
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
        Ok(Ready(staged.0))
    }

    /// The order is what makes it hold across a power loss: the release is on disk, then the intent to switch is in the
    /// journal, then the link is renamed, and only then the deployment is told to be live. A start finds the link at the
    /// old release or at a whole new one.
    fn activate(&self, ready: Ready, attempt: &mut Attempt) -> Result<(), Refusal> {
        let Ready(mut tree) = ready;
        // From here on a cancel comes too late.
        if !attempt.commit() {
            return Err(Refusal::new(
                Code::Cancelled,
                format!("activating {}: stopped", tree.project),
            ));
        }
        attempt.phase(Phase::Activate, |attempt| {
            self.store.sync()?;
            attempt.sync()?;
            checkpoint("synced");
            self.store.switch(&tree.project, tree.id)?;
            checkpoint("switched");
            // Live from here on: nothing that fails later may remove it.
            tree.kept = true;
            Ok(((), Facts::new()))
        })
    }
}

/// Keeps a release that is not to be live.
fn keep(ready: &mut Ready, attempt: &mut Attempt, store: &Store) -> Result<(), Refusal> {
    if !attempt.commit() {
        let why = format!("staging {}: stopped", ready.0.project);
        return Err(Refusal::new(Code::Cancelled, why));
    }
    store.sync()?;
    ready.0.kept = true;
    attempt.stage();
    Ok(())
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
