//! The stages of a deployment, as types that consume each other: [`Staged`] (unpacked) → `Ready` (installed and loaded) →
//! live. Dropping a stage undoes what it made, so a `?` on the way, or a panic, leaves what was live before and
//! nothing of what was not to be.

mod intake;
mod replicate;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::api::error::{Code, Refusal};
use crate::api::event::{Event, Phase};
use crate::api::name::{DeploymentId, Project};
use crate::api::operation::Restart;
use crate::engine::attempt::{Attempt, Facts, checkpoint};
use crate::engine::install::{self, Choice, InstallFailure, InstallRequest};
use crate::engine::manifest;
use crate::engine::peers::Peer;
use crate::engine::processes::{Processes, RestartRequest};
pub use crate::engine::stages::intake::Intake;
use crate::engine::stages::replicate::Fleet;
use crate::store::Store;
use crate::system::account::Account;
use crate::system::log;
use crate::system::stop::Stop;

/// A payload that was unpacked; dropping it removes the tree.
pub struct Staged(ReleaseTree);

/// A release directory of ours; dropping it removes it unless it is kept.
struct ReleaseTree {
    store: Arc<Store>,
    project: Project,
    id: DeploymentId,
    kept: bool,
}

impl ReleaseTree {
    fn path(&self) -> PathBuf {
        self.store.release(&self.project, self.id)
    }
}

impl Drop for ReleaseTree {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = self.store.remove_release(&self.project, self.id)
        {
            log::warn(&format!("deployment {}: {error}", self.id));
        }
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
    /// The servers that it deploys to.
    pub peers: Vec<Peer>,
    /// How long each of them may take to build.
    pub replicate_timeout: Duration,
}

/// A release that can run; dropping it removes it, unless it was there before.
pub struct Ready(ReleaseTree);

impl Ready {
    /// A release that an earlier deployment built.
    pub fn built(store: &Arc<Store>, project: &Project, id: DeploymentId) -> Ready {
        Ready(ReleaseTree {
            store: Arc::clone(store),
            project: project.clone(),
            id,
            kept: true,
        })
    }
}

/// What a deployment does past `extract`.
pub enum Work {
    /// Installs and loads what was unpacked, and then does with it what is wanted.
    Build(Staged, Then),
    /// Makes a release live that is there.
    Activate(Ready),
    /// Only restarts what is live.
    Restart,
}

/// What becomes of a release that was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It is kept, and is not live.
    Keep,
    /// It becomes live.
    Activate,
    /// It becomes live here and on every peer.
    Replicate {
        /// Peers that fail are left behind.
        ignores: bool,
    },
}

impl Builder {
    /// Takes a release through the phases that are left. `place` is what is held while there is something to build.
    ///
    /// # Errors
    /// Why it is not live. What was live before is so still, and nothing of a release that was being built stays.
    pub fn run<P>(&self, work: Work, attempt: &mut Attempt, place: P) -> Result<(), Refusal> {
        let (ready, then) = match work {
            Work::Restart => {
                if !attempt.commit() {
                    let why = format!("restarting {}: stopped", attempt.record().project);
                    return Err(Refusal::new(Code::Cancelled, why));
                }
                return self.restart(attempt, false);
            }
            Work::Activate(ready) => (ready, Then::Activate),
            Work::Build(staged, then) => {
                checkpoint("unpacked");
                let staged = self.install(staged, attempt)?;
                checkpoint("installed");
                let mut ready = self.load(staged, attempt)?;
                checkpoint("loaded");
                if then == Then::Keep {
                    return keep(&mut ready, attempt, &self.store);
                }
                (ready, then)
            }
        };
        // Who waits for peers holds up nobody, least of all the peers.
        drop(place);
        let mut fleet = match then {
            Then::Replicate { ignores } => self.replicate(attempt, &ready.0, ignores)?,
            _ => Fleet::none(),
        };
        let tree = self.activate(ready, attempt, &mut fleet);
        let ended = tree.and_then(|tree| match attempt.record().restart_mode {
            Some(_) => self.restart_all(attempt, &mut fleet, &tree),
            None => Ok(()),
        });
        fleet.report(attempt, ended.is_ok());
        ended
    }

    /// Restarts the processes here and on the peers. What fails in one place is taken back everywhere.
    fn restart_all(
        &self,
        attempt: &mut Attempt,
        fleet: &mut Fleet<'_>,
        tree: &ReleaseTree,
    ) -> Result<(), Refusal> {
        if let Err(refusal) = self.restart(attempt, true) {
            self.undo_fleet(attempt, fleet, tree);
            return Err(refusal);
        }
        let Err(refusal) = self.restart_fleet(attempt, fleet, tree) else {
            return Ok(());
        };
        self.undo_fleet(attempt, fleet, tree);
        let previous = self.switch_back(attempt)?;
        let order = RestartRequest {
            project: &tree.project,
            release: previous.unwrap_or(tree.id),
            rolling: false,
            hook_limit: self.install_timeout,
            stop: &attempt.stop().clone(),
        };
        let back = match previous {
            Some(_) => self.processes.restart(&order, &mut |_| Ok(())),
            None => Ok(self.processes.drop_component(&tree.project)?),
        };
        if let Err(unhealthy) = back {
            log::error(&format!("going back: {}", unhealthy.message));
        }
        Err(refusal)
    }

    /// Makes live again what was before, or nothing, and says what that is.
    fn switch_back(&self, attempt: &mut Attempt) -> Result<Option<DeploymentId>, Refusal> {
        let record = attempt.record();
        let (project, release) = (record.project.clone(), record.release_id);
        let previous = record.previous.filter(|before| *before != release);
        self.store.switch_back(&project, previous)?;
        if let Some(previous) = previous {
            attempt.add_to_error("rolled_back_to", json!(previous));
        }
        Ok(previous)
    }

    /// Restarts the processes. If the new ones are not healthy and the release was `switched` to, the one before is live
    /// again.
    fn restart(&self, attempt: &mut Attempt, switched: bool) -> Result<(), Refusal> {
        let record = attempt.record();
        let (project, release) = (record.project.clone(), record.release_id);
        // What cannot be read fails in the phase, where the switch is undone.
        if !self.processes.has_any(&project, release).unwrap_or(true) {
            let why = "the component has neither processes nor a hook";
            attempt.emit(&Event::Warning(format!("nothing was restarted: {why}")))?;
            return Ok(attempt.skip(Phase::Restart, why)?);
        }
        let rolling = record.restart_mode.as_deref() == Restart::Rolling.mode();
        let limit = record.options.timeout().unwrap_or(self.install_timeout);
        let stop = Stop::never();
        let order = |release| RestartRequest {
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
            if switched && let Some(previous) = self.switch_back(attempt)? {
                self.processes.restore(&order(previous));
            }
            attempt.add_to_error("process_output", json!(unhealthy.output));
            if self.processes.is_stopping() {
                // Not the fault of what was deployed.
                attempt.forget_rollback();
                return Err(Refusal::new(Code::Interrupted, unhealthy.message));
            }
            Err(Refusal::new(unhealthy.code, unhealthy.message))
        })?;
        attempt.restarted();
        Ok(())
    }

    fn install(&self, staged: Staged, attempt: &mut Attempt) -> Result<Staged, Refusal> {
        let (options, stop) = (attempt.record().options.clone(), attempt.stop().clone());
        let release = staged.0.path();
        let request = InstallRequest {
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
            let request = InstallRequest {
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
    fn activate(
        &self,
        ready: Ready,
        attempt: &mut Attempt,
        fleet: &mut Fleet<'_>,
    ) -> Result<ReleaseTree, Refusal> {
        let Ready(mut tree) = ready;
        // From here on a cancel comes too late.
        if !attempt.commit() {
            return Err(Refusal::new(
                Code::Cancelled,
                format!("activating {}: stopped", tree.project),
            ));
        }
        attempt.phase(Phase::Activate, |attempt| {
            let deployment = attempt.record().deployment_id;
            self.store.sync(&tree.project, tree.id, deployment)?;
            attempt.sync()?;
            checkpoint("synced");
            self.store.switch(&tree.project, tree.id)?;
            checkpoint("switched");
            // Live from here on: nothing that fails later may remove it.
            tree.kept = true;
            if let Err(refusal) = self.activate_fleet(attempt, fleet, &tree) {
                self.undo_fleet(attempt, fleet, &tree);
                self.switch_back(attempt)?;
                return Err(refusal);
            }
            Ok((tree, Facts::new()))
        })
    }
}

/// Keeps a release that is not to be live.
fn keep(ready: &mut Ready, attempt: &mut Attempt, store: &Store) -> Result<(), Refusal> {
    if !attempt.commit() {
        let why = format!("staging {}: stopped", ready.0.project);
        return Err(Refusal::new(Code::Cancelled, why));
    }
    let deployment = attempt.record().deployment_id;
    store.sync(&ready.0.project, ready.0.id, deployment)?;
    ready.0.kept = true;
    attempt.stage();
    Ok(())
}

fn keep_output(attempt: &mut Attempt, ran: Result<u64, InstallFailure>) -> Result<u64, Refusal> {
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
