//! The stages of a deployment, as types that consume each other: [`Staged`] (unpacked) → [`Ready`] (installed and loaded) →
//! `Live` (the link leads to it) → kept, once the end of the deployment is on disk. Dropping a stage undoes what it made, so
//! a `?` on the way, or a panic, leaves what was live before and nothing of what was not to be.
//!
//! | stage | what a drop undoes |
//! | --- | --- |
//! | [`Staged`], [`Ready`] | the release's directory, if this deployment made it |
//! | `Live` | the link, the processes, what the peers made live; both releases stay |
//!
//! | file | what for |
//! | --- | --- |
//! | `fetch` | from a package to its payload |
//! | `intake` | from a payload to [`Staged`] |
//! | `build` | from [`Staged`] to [`Ready`] |
//! | `live` | `Live`, and the way back |
//! | `replicate` | the peers of one deployment |
//! | `release` | what is run once before the release goes live |

mod build;
mod cut_off;
mod fetch;
mod intake;
mod live;
mod release;
mod replicate;
mod restart_everywhere;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::api::error::{Code, Error, Refusal};
use crate::api::event::{Event, Phase};
use crate::api::name::{DeploymentId, Project};
use crate::api::operation::Restart;
use crate::engine::attempt::{Attempt, Facts};
use crate::engine::checkpoint::checkpoint;
use crate::engine::outcome::{Failed, Made, Outcome, Success};
use crate::engine::peers::{Peer, WholePayload};
use crate::engine::processes::{Processes, RestartRequest, Unhealthy, by_release};
use crate::engine::reuse::InstalledByDeployment;
use crate::engine::rollout::publish::Published;
use crate::engine::spec::{DeploySpec, Plan, Then};
pub use crate::engine::stages::cut_off::CutOff;
pub use crate::engine::stages::intake::Intake;
use crate::engine::stages::live::{Live, RanBefore};
use crate::engine::stages::replicate::Fleet;
use crate::store::Store;
use crate::system::account::Account;
use crate::system::log;
use crate::system::stop::Stop;

/// A payload that was unpacked; dropping it removes the tree.
pub struct Staged(ReleaseTree);

/// A release that can run; dropping it removes it, unless it was there before.
pub struct Ready(ReleaseTree);

/// A release directory of ours; dropping it removes it unless it is kept.
struct ReleaseTree {
    store: Arc<Store>,
    project: Project,
    id: DeploymentId,
    kept: bool,
    /// All of it is on disk.
    synced: bool,
}

impl ReleaseTree {
    fn path(&self) -> PathBuf {
        self.store.release(&self.project, self.id)
    }
}

impl Drop for ReleaseTree {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if let Err(error) = self.store.remove_release(&self.project, self.id) {
            // It stands under a hidden name, which the next start removes, or is one release too many, which retention
            // counts.
            log::warn(&format!("deployment {}: {error}", self.id));
        }
    }
}

impl Ready {
    /// A release that an earlier deployment built.
    pub fn built(store: &Arc<Store>, project: &Project, id: DeploymentId) -> Ready {
        Ready(ReleaseTree {
            store: Arc::clone(store),
            project: project.clone(),
            id,
            kept: true,
            synced: false,
        })
    }
}

impl Made for Ready {
    fn settle(mut self: Box<Self>) {
        self.0.kept = true;
    }

    fn undo(self: Box<Self>, _: &mut Failed) {}
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
    /// Whether what was installed is used again.
    pub reuses: bool,
    /// What running deployments installed.
    pub installed: InstalledByDeployment,
}

/// Opens the payload of a deployment as an archive, and says its SHA-256.
pub type Whole<'a> = &'a (dyn Fn(&Project, DeploymentId) -> Result<WholePayload, Refusal> + Sync);

/// With what a deployment goes on past `extract`.
pub enum Work {
    /// A payload that was unpacked.
    Unpacked(Staged),
    /// A release that was built.
    Built(Ready),
    /// What is live already.
    Live,
    /// What is live already, and was made so by a deployment that the end of an earlier server cut off.
    CutOff(CutOff),
}

impl Builder {
    /// Takes a release through the phases that are left. `permit` is what is held while there is something to build.
    ///
    /// # Errors
    /// Why it is not live. What was live before is so still, and nothing of a release that was being built stays.
    pub fn run<P>(
        &self,
        spec: &DeploySpec,
        work: Work,
        attempt: &mut Attempt,
        (permit, whole): (P, Whole<'_>),
    ) -> Outcome<'_> {
        let ready = match work {
            Work::Live => return self.restart_alone(spec, attempt),
            Work::CutOff(cut_off) => return self.finish(spec, cut_off, attempt),
            Work::Built(ready) => ready,
            Work::Unpacked(staged) => {
                checkpoint("unpacked");
                let staged = self.share(staged, attempt)?;
                let staged = self.install(staged, attempt)?;
                checkpoint("installed");
                let ready = self.load(staged, attempt)?;
                checkpoint("loaded");
                ready
            }
        };
        match spec.plan {
            Plan::Build(Then::Stage) => return self.stage("staging", ready, attempt),
            Plan::Build(Then::Publish) => return self.publish(spec, ready, attempt),
            Plan::Release(_) => return self.release_alone(spec, ready, attempt),
            _ => {}
        }
        // Who waits for peers holds up nobody, least of all the peers.
        drop(permit);
        let fleet = match spec.plan.replication() {
            Some(how) => self.replicate(attempt, &ready.0, (how.ignores, whole))?,
            None => Fleet::none(),
        };
        let (ready, fleet) = self.release(spec, ready, attempt, fleet)?;
        let live = self.activate(ready, attempt, fleet)?;
        let (live, restarted) = match spec.restart {
            Restart::No => (self.leave_processes(attempt, live)?, false),
            _ => self.restart(spec, attempt, live)?,
        };
        Ok(Success {
            staged: false,
            restarted,
            peer_results: live.fleet.report(true).results,
            published_unknown: false,
            made: Box::new(live),
        })
    }

    /// Keeps a release that is not live.
    fn stage(&self, what: &str, ready: Ready, attempt: &mut Attempt) -> Outcome<'_> {
        attempt.commit(what)?;
        self.sync(&ready.0, attempt)?;
        Ok(Success {
            made: Box::new(ready),
            staged: true,
            restarted: false,
            peer_results: Vec::new(),
            published_unknown: false,
        })
    }

    /// Keeps a release that is not live, and makes it what the fleet wants: this host goes when it is its turn, as all do.
    fn publish(&self, spec: &DeploySpec, ready: Ready, attempt: &mut Attempt) -> Outcome<'_> {
        attempt.commit("publishing")?;
        self.sync(&ready.0, attempt)?;
        let published_unknown = attempt.phase(Phase::Replicate, |attempt| {
            let record = attempt.record();
            let ticket = spec.fleet.as_ref().ok_or_else(|| {
                let why = format!("publishing {}: it has no ticket", spec.project);
                Refusal::new(Code::Internal, why)
            })?;
            let payload = self.store.payload(record.deployment_id);
            match ticket.publish(record, &payload) {
                Ok(Published {
                    generation, hosts, ..
                }) => {
                    let said = json!({"generation": generation, "hosts": hosts});
                    Ok((false, facts(said)))
                }
                // The release stays: if it is wanted after all, this host has it.
                Err(refusal) if refusal.code == Code::OutcomeUnknown => {
                    attempt.emit(&Event::Warning(refusal.message))?;
                    Ok((true, facts(json!({"published": "unknown"}))))
                }
                Err(refusal) => Err(refusal.into()),
            }
        })?;
        Ok(Success {
            made: Box::new(ready),
            staged: true,
            restarted: false,
            peer_results: Vec::new(),
            published_unknown,
        })
    }

    /// The order is what makes it hold across a power loss: the release is on disk, then the intent to switch is in the
    /// journal, then the link is renamed, and only then the deployment is told to be live. A start finds the link at the
    /// old release or at a whole new one.
    fn activate<'a>(
        &'a self,
        ready: Ready,
        attempt: &mut Attempt,
        fleet: Fleet<'a>,
    ) -> Result<Live<'a>, Box<Failed>> {
        // From here on a cancel comes too late.
        attempt.commit("activating")?;
        let previous = attempt.record().previous;
        attempt.phase(Phase::Activate, |attempt| {
            let Ready(mut tree) = ready;
            self.sync(&tree, attempt)?;
            checkpoint("synced");
            let switch = self.store.switch(&tree.project, Some(tree.id))?;
            // The guard of the link has it from here on, and neither release goes.
            tree.kept = true;
            let project = tree.project.clone();
            let release = (project.clone(), tree.id);
            let mut live = Live::new(self, release, previous, switch, fleet);
            checkpoint("switched");
            let done = live
                .sync()
                .and_then(|()| self.activate_peers(attempt, &project, &mut live.fleet));
            match done {
                Ok(()) => Ok((live, Facts::new())),
                Err(refusal) => Err(live.back(refusal.into(), &mut attempt.peer_events())),
            }
        })
    }

    /// Puts a release and its deployment on disk, the journal among it.
    fn sync(&self, tree: &ReleaseTree, attempt: &Attempt) -> Result<(), Error> {
        let deployment = attempt.record().deployment_id;
        match tree.synced {
            true => self.store.sync_deployment(deployment),
            false => self.store.sync(&tree.project, tree.id, deployment),
        }
    }

    /// Restarts the processes here and then those of the peers. What fails in one place is taken back everywhere.
    fn restart<'a>(
        &'a self,
        spec: &DeploySpec,
        attempt: &mut Attempt,
        mut live: Live<'a>,
    ) -> Result<(Live<'a>, bool), Box<Failed>> {
        let release = attempt.record().release_id;
        let mut restarted = false;
        if self.has_any(spec, release) {
            let ran = match self.processes.is_stopped(&spec.project) {
                true => RanBefore::Stopped,
                false => RanBefore::From(self.runs_from(&spec.project)),
            };
            live = attempt.phase(Phase::Restart, |attempt| {
                match self.restart_here(spec, attempt, release) {
                    Ok(()) => {
                        live.processes_replaced(ran);
                        Ok((live, Facts::new()))
                    }
                    Err(failed) => {
                        live.processes_put_back();
                        Err(live.back(failed, &mut attempt.peer_events()))
                    }
                }
            })?;
            restarted = true;
        } else if let Err(error) = skip_restart(attempt, spec.restart) {
            return Err(live.back(error.into(), &mut attempt.peer_events()));
        } else if spec.restart == Restart::Auto {
            // The peers have the same release.
            return Ok((live, false));
        }
        match self.restart_peers(spec, attempt, &mut live.fleet) {
            Ok(()) => Ok((live, restarted)),
            Err(refusal) => Err(live.back(refusal.into(), &mut attempt.peer_events())),
        }
    }

    /// Restarts what is live, here and then at the peers if that is wanted, and nothing else.
    fn restart_alone(&self, spec: &DeploySpec, attempt: &mut Attempt) -> Outcome<'_> {
        attempt.commit("restarting")?;
        let release = attempt.record().release_id;
        if matches!(spec.plan, Plan::Activate(_)) {
            attempt.skip(Phase::Activate, "it is live already")?;
        }
        // A rollback to what is live is refused before, so that this is a restart.
        let replication = match spec.plan {
            Plan::Restart(_, how) => how,
            _ => None,
        };
        let restarted = spec.restart != Restart::No && self.has_any(spec, release);
        if restarted {
            let begun = Instant::now();
            attempt.phase(Phase::Restart, |attempt| {
                let restarted = self.restart_here(spec, attempt, release);
                restarted.map_err(|failed| {
                    let mut failed = self.say_what_runs(failed, &spec.project, begun);
                    if let Some(how) = replication {
                        let peers = self.all_peers(how.ignores);
                        peers.report_of_restarts().add_to(&mut failed);
                    }
                    failed
                })?;
                Ok(((), Facts::new()))
            })?;
        } else if spec.restart != Restart::No {
            skip_restart(attempt, spec.restart)?;
        }
        let peer_results = match replication {
            Some(how) => self.replicate_restart(spec, attempt, how.ignores)?,
            None => Vec::new(),
        };
        Ok(Success {
            made: Box::new(()),
            staged: false,
            restarted,
            peer_results,
            published_unknown: false,
        })
    }

    /// Whether there is anything to restart. What cannot be read fails in the phase.
    fn has_any(&self, spec: &DeploySpec, release: DeploymentId) -> bool {
        let found = self.processes.has_any(&spec.project, release);
        found.unwrap_or(true)
    }

    /// The one release that the processes run from; none if there are none, or if they run from several.
    fn runs_from(&self, project: &Project) -> Option<DeploymentId> {
        let releases = self.processes.snapshot().status(project).into_iter();
        let releases: BTreeSet<DeploymentId> = releases.map(|one| one.release_id).collect();
        releases.first().copied().filter(|_| releases.len() == 1)
    }

    /// Says which processes go on from another release than the one that is live now.
    fn leave_processes<'a>(
        &self,
        attempt: &mut Attempt,
        live: Live<'a>,
    ) -> Result<Live<'a>, Box<Failed>> {
        let (project, release) = (
            attempt.record().project.clone(),
            attempt.record().release_id,
        );
        let mut running = self.processes.snapshot().status(&project);
        running.retain(|one| one.release_id != release);
        if running.is_empty() {
            return Ok(live);
        }
        let verb = if running.len() == 1 { "runs" } else { "run" };
        let of = by_release(&running);
        let warning = format!("{of} still {verb}, since nothing was restarted");
        match attempt.emit(&Event::Warning(warning)) {
            Ok(()) => Ok(live),
            Err(error) => Err(live.back(error.into(), &mut attempt.peer_events())),
        }
    }

    /// Says in a failure what runs now.
    fn say_what_runs(
        &self,
        mut failed: Box<Failed>,
        project: &Project,
        begun: Instant,
    ) -> Box<Failed> {
        if !self.processes.is_stopping() {
            let what = self.processes.what_runs(project, begun);
            failed.refusal.message += &format!("; {what}");
        }
        failed
    }

    /// Replaces the processes by those of a release. Those that ran before run again if the new ones are not healthy.
    fn restart_here(
        &self,
        spec: &DeploySpec,
        attempt: &mut Attempt,
        release: DeploymentId,
    ) -> Result<(), Box<Failed>> {
        let gone = self.processes.without_successor(&spec.project, release);
        if !gone.is_empty() {
            let verb = if gone.len() == 1 { "is" } else { "are" };
            let of = by_release(&gone);
            let warning =
                format!("{of} {verb} stopped: release {release} has neither processes nor a hook");
            attempt.emit(&Event::Warning(warning))?;
        }
        if self.processes.is_stopped(&spec.project) {
            let warning = format!("{} was stopped; it is started again", spec.project);
            attempt.emit(&Event::Warning(warning))?;
        }
        let never = Stop::never();
        let request = self.restart_request(spec, release, &never);
        let emit = &mut |event| attempt.emit(&Event::Process(event));
        let restarted = self.processes.restart(&request, emit);
        restarted.map_err(|unhealthy| self.unhealthy(unhealthy))
    }

    fn restart_request<'a>(
        &self,
        spec: &'a DeploySpec,
        release: DeploymentId,
        never: &'a Stop,
    ) -> RestartRequest<'a> {
        RestartRequest {
            project: &spec.project,
            release,
            rolling: spec.restart == Restart::Rolling,
            hook_limit: spec.options.timeout().unwrap_or(self.install_timeout),
            stop: never,
        }
    }

    fn unhealthy(&self, unhealthy: Unhealthy) -> Box<Failed> {
        let refusal = Refusal::new(unhealthy.code, unhealthy.message);
        let mut failed = Box::<Failed>::from(refusal);
        failed.add("process_output", json!(unhealthy.output));
        if self.processes.is_stopping() {
            // Not the fault of what was deployed.
            failed.refusal.code = Code::Interrupted;
        }
        failed
    }
}

/// Skips the phase. Only who has asked for a restart in so many words is warned.
fn skip_restart(attempt: &mut Attempt, restart: Restart) -> Result<(), Error> {
    let why = "the component has neither processes nor a hook";
    if restart != Restart::Auto {
        attempt.emit(&Event::Warning(format!("nothing was restarted: {why}")))?;
    }
    attempt.skip(Phase::Restart, why)
}

fn facts(value: serde_json::Value) -> Facts {
    match value {
        serde_json::Value::Object(facts) => facts,
        _ => Facts::new(),
    }
}
