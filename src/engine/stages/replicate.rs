//! One deployment on every peer: all build, then all switch, then all restart; and what one of them cannot, none does.

use std::thread;

use crossbeam_channel::bounded;
use serde_json::{Value, json};

use crate::api::error::{Code, Error, Refusal};
use crate::api::event::{Event, PeerEvent, Phase};
use crate::api::name::Project;
use crate::api::operation::Restart;
use crate::api::record::Record;
use crate::engine::attempt::{Attempt, Facts};
use crate::engine::held_tree::HeldTree;
use crate::engine::outcome::Failed;
use crate::engine::peers::{Build, OnPeerEvent, Peer, StagePayload, StageRequest, WholePayload};
use crate::engine::spec::DeploySpec;
use crate::engine::stages::{Builder, ReleaseTree, Whole};
use crate::engine::trees;
use crate::system::stop::Stop;
use crate::system::threads;
use crate::system::time::now_ms;

/// The stack of a thread that talks to a peer.
const STACK_BYTES: usize = 256 << 10;
/// Events of peers between two turns of the deployment's own thread: it has nothing else to do meanwhile.
const EVENTS: usize = 64;

/// The peers of one deployment.
pub(super) struct Fleet<'a> {
    members: Vec<Member<'a>>,
    /// Failed peers are left behind.
    ignores: bool,
}

/// One peer, and how far it is.
struct Member<'a> {
    peer: &'a Peer,
    started_at: u64,
    completed_at: u64,
    /// Its build, once there is one.
    build: Option<Build>,
    /// The deployment that made it live there, until that is taken back.
    live: Option<Build>,
    /// Its processes were to be those of its build.
    restarted: bool,
    error: Option<String>,
    /// It was said that it is left behind.
    told: bool,
}

impl Member<'_> {
    /// What it has built.
    fn build(&self) -> Result<&Build, String> {
        let none = || format!("there is no build of {}", self.peer.name());
        self.build.as_ref().ok_or_else(none)
    }

    /// It still goes along.
    fn goes_along(&self) -> bool {
        self.error.is_none()
    }

    /// Writes down what came of taking it back.
    fn taken_back(&mut self, undone: Result<(), String>) {
        self.error = Some(match (self.error.take(), undone) {
            (None, Ok(())) => "rolled back, because another one failed".to_owned(),
            (None, Err(why)) => format!("not rolled back: {why}"),
            (Some(error), Ok(())) => format!("{error}; rolled back"),
            (Some(error), Err(why)) => format!("{error}; not rolled back: {why}"),
        });
    }
}

/// What came of asking one member: its number, the answer, and when it came.
type PeerAnswer<T> = (usize, Result<T, String>, u64);

impl<'a> Fleet<'a> {
    /// Nobody, for a deployment that is only for this server.
    pub(super) fn none() -> Fleet<'a> {
        Fleet {
            members: Vec::new(),
            ignores: true,
        }
    }

    /// Asks those members that have not failed yet, all at once, passes on what happens meanwhile, and writes down who failed.
    fn each<T: Send>(
        &mut self,
        pass_on: &mut dyn FnMut(PeerEvent),
        whom: impl Fn(&Member<'a>) -> bool,
        work: impl Fn(&Member<'a>, OnPeerEvent<'_>) -> Result<T, String> + Sync,
    ) -> Vec<(usize, T)> {
        let whom = |member: &Member<'a>| member.goes_along() && whom(member);
        let asked = self.ask(pass_on, whom, work);
        let mut well = Vec::new();
        for (n, result, at) in asked {
            self.members[n].completed_at = at;
            match result {
                Ok(value) => well.push((n, value)),
                Err(why) => self.members[n].error = Some(why),
            }
        }
        well
    }

    fn ask<T: Send>(
        &self,
        pass_on: &mut dyn FnMut(PeerEvent),
        whom: impl Fn(&Member<'a>) -> bool,
        work: impl Fn(&Member<'a>, OnPeerEvent<'_>) -> Result<T, String> + Sync,
    ) -> Vec<PeerAnswer<T>> {
        let (sender, receiver) = bounded::<PeerEvent>(EVENTS);
        thread::scope(|scope| {
            let mut asked = Vec::new();
            for (n, member) in self.members.iter().enumerate().filter(|(_, one)| whom(one)) {
                let (sender, work) = (sender.clone(), &work);
                let name = format!("peer-{}", member.peer.name());
                let work = move || {
                    // Nobody listens any longer if the disk took no event: the work goes on to its end.
                    let result = work(member, &|event| drop(sender.send(event)));
                    (result, now_ms())
                };
                let spawned = threads::spawn_scoped(scope, name, STACK_BYTES, work);
                asked.push((n, spawned));
            }
            drop(sender);
            receiver.into_iter().for_each(&mut *pass_on);
            let ended = asked.into_iter().map(|(n, thread)| {
                let (result, at) = match thread.map(thread::ScopedJoinHandle::join) {
                    Ok(Ok(ended)) => ended,
                    Ok(Err(panic)) => std::panic::resume_unwind(panic),
                    // Without a thread it is done here, in turn, and nobody is told of its events: what is to be taken back
                    // must be.
                    Err(_) => (work(&self.members[n], &|_| ()), now_ms()),
                };
                (n, result, at)
            });
            ended.collect()
        })
    }

    /// Takes back, all at once, what the members have made live.
    pub(super) fn undo(&mut self, project: &Project, pass_on: &mut dyn FnMut(PeerEvent)) {
        self.undo_some(project, pass_on, |_| true);
    }

    fn undo_some(
        &mut self,
        project: &Project,
        pass_on: &mut dyn FnMut(PeerEvent),
        whom: impl Fn(&Member<'a>) -> bool,
    ) {
        let whom = |member: &Member<'a>| member.live.is_some() && whom(member);
        let asked = self.ask(pass_on, whom, |member, tell| {
            let Some(build) = &member.live else {
                return Ok(());
            };
            // Processes that nobody touched still run from the release before.
            let restart = member.restarted;
            member
                .peer
                .undo(project, build, restart, &Stop::never(), tell)
        });
        for (n, undone, at) in asked {
            let member = &mut self.members[n];
            member.live = None;
            member.completed_at = at;
            member.taken_back(undone);
        }
    }

    /// Goes on, or not, as the failures and the request say.
    fn verdict(&self, what: &str) -> Result<(), Refusal> {
        let failed = self.members.iter().filter_map(|member| {
            let why = member.error.as_ref()?;
            Some(format!("{}: {why}", member.peer.name()))
        });
        let failed: Vec<String> = failed.collect();
        let none_left = !self.members.is_empty() && failed.len() == self.members.len();
        if failed.is_empty() || self.ignores && !none_left {
            return Ok(());
        }
        let why = format!("{what}: {}", failed.join("; "));
        Err(Refusal::new(Code::ReplicateFailed, why))
    }

    /// Says of each peer that has failed since that the deployment goes on without it.
    fn warn(&mut self, attempt: &mut Attempt) -> Result<(), Error> {
        for member in self.members.iter_mut().filter(|member| !member.told) {
            let Some(why) = &member.error else { continue };
            let name = member.peer.name();
            attempt.emit(&Event::Warning(format!(
                "the peer {name} is left behind: {why}"
            )))?;
            member.told = true;
        }
        Ok(())
    }

    /// How the peers did, in a deployment that went well or not.
    pub(super) fn report(&self, well: bool) -> PeerReport {
        // A peer that only built it has no success in a deployment that failed elsewhere.
        self.report_with(|_| (!well).then_some("built, but not made live"))
    }

    /// How the peers did; `why` says, of a peer that was restarted or not, what is wrong where nothing failed.
    pub(super) fn report_with(&self, why: impl Fn(bool) -> Option<&'static str>) -> PeerReport {
        let results = self.members.iter().map(|member| {
            let completed = member.completed_at.max(member.started_at);
            let error = member.error.as_deref().or_else(|| why(member.restarted));
            json!({
                "node": member.peer.name(),
                "status": if error.is_none() { "success" } else { "failed" },
                "error": error,
                "started_at": member.started_at,
                "completed_at": completed,
            })
        });
        let failed = self.members.iter().filter(|member| member.error.is_some());
        PeerReport {
            results: results.collect(),
            failed: failed.map(|member| member.peer.name().to_owned()).collect(),
        }
    }
}

/// How the peers did.
pub(super) struct PeerReport {
    /// One result a peer.
    pub(super) results: Vec<Value>,
    failed: Vec<String>,
}

impl PeerReport {
    /// Says it in a failure.
    pub(super) fn add_to(self, failed: &mut Failed) {
        if !self.failed.is_empty() {
            failed.add("failed_peers", json!(self.failed));
        }
        if !self.results.is_empty() {
            failed.add("peer_results", self.results.into());
        }
    }
}

impl Builder {
    /// The record of the payload. Where nothing was unpacked here, it is that of the deployment that built the release.
    fn built(&self, record: &Record) -> Result<Record, Error> {
        let built = match record.payload_hash {
            Some(_) => None,
            None => self.store.read_record(record.release_id)?,
        };
        Ok(built.unwrap_or_else(|| record.clone()))
    }

    /// What the peers are to have.
    fn payload<'p>(
        &'p self,
        tree: &ReleaseTree,
        built: &'p Record,
        whole: &'p (dyn Fn() -> Result<WholePayload, Refusal> + Sync),
    ) -> Result<StagePayload<'p>, Refusal> {
        let path = self.store.payload(tree.id);
        let head = trees::delta_head(&path)?;
        let held = match &built.tree {
            Some(_) => HeldTree::open(&self.store, &tree.project, tree.id)?,
            None => None,
        };
        // One that came as a delta, and was packed since, is another payload than the one that came.
        let came_as_delta = built.payload_kind.as_deref() == Some("delta");
        let is_what_came = came_as_delta == head.is_some();
        Ok(StagePayload {
            store: &self.store,
            path,
            sha256: built.payload_hash.as_deref().filter(|_| is_what_came),
            head,
            tree: built.tree.as_deref().zip(held),
            whole,
        })
    }

    /// All peers, of which none has done anything yet.
    pub(super) fn all_peers(&self, ignores: bool) -> Fleet<'_> {
        let at = now_ms();
        let member = |peer| Member {
            peer,
            started_at: at,
            completed_at: at,
            build: None,
            live: None,
            restarted: false,
            error: None,
            told: false,
        };
        Fleet {
            members: self.peers.iter().map(member).collect(),
            ignores,
        }
    }

    /// Runs phase `replicate`: every peer builds what was built here.
    pub(super) fn replicate(
        &self,
        attempt: &mut Attempt,
        tree: &ReleaseTree,
        (ignores, whole): (bool, Whole<'_>),
    ) -> Result<Fleet<'_>, Box<Failed>> {
        let stop = attempt.stop().clone();
        attempt.phase(Phase::Replicate, |attempt| {
            let mut fleet = self.all_peers(ignores);
            let record = attempt.record();
            let (options, provenance) = (record.options.clone(), record.provenance());
            let built = self.built(record)?;
            let whole = || whole(&tree.project, tree.id);
            let payload = self.payload(tree, &built, &whole)?;
            let stage = StageRequest {
                project: &tree.project,
                origin: record.deployment_id,
                payload,
                options: &options,
                provenance: &provenance,
                timeout: self.replicate_timeout,
            };
            let staged = fleet.each(
                &mut attempt.peer_events(),
                |_| true,
                |member, tell| member.peer.stage(&stage, &stop, tell),
            );
            for (n, build) in staged {
                fleet.members[n].build = Some(build);
            }
            let verdict = if stop.stopped() {
                let why = format!("replicating {}: stopped", tree.project);
                Err(Refusal::new(Code::Cancelled, why))
            } else {
                fleet.verdict(&format!("replicating {}", tree.project))
            };
            match verdict {
                Ok(()) => {
                    fleet.warn(attempt)?;
                    Ok((fleet, Facts::new()))
                }
                Err(refusal) => {
                    let mut failed = Box::<Failed>::from(refusal);
                    fleet.report(false).add_to(&mut failed);
                    Err(failed)
                }
            }
        })
    }

    /// Lets the peers run what the release wants to be run before it goes live, all at once.
    pub(super) fn release_peers(
        &self,
        attempt: &mut Attempt,
        project: &Project,
        fleet: &mut Fleet<'_>,
    ) -> Result<(), Refusal> {
        let stop = attempt.stop().clone();
        let origin = attempt.record().origin_node.clone();
        let timeout = self.replicate_timeout;
        fleet.each(
            &mut attempt.peer_events(),
            |_| true,
            |member, tell| {
                let build = member.build()?;
                let of = (project, build, &*origin);
                member.peer.release(of, timeout, &stop, tell)
            },
        );
        if stop.stopped() {
            let why = format!("releasing {project}: stopped");
            return Err(Refusal::new(Code::Cancelled, why));
        }
        fleet.verdict(&format!("releasing {project}"))?;
        Ok(fleet.warn(attempt)?)
    }

    /// Makes the builds of the peers live, all at once.
    pub(super) fn activate_peers(
        &self,
        attempt: &mut Attempt,
        project: &Project,
        fleet: &mut Fleet<'_>,
    ) -> Result<(), Refusal> {
        // It is too late to stop: what has begun is carried through.
        let restarts = attempt.record().restart_mode.is_some();
        let origin = attempt.record().origin_node.clone();
        let provenance = attempt.record().provenance();
        let mut tell = attempt.peer_events();
        let made = fleet.each(
            &mut |event| {
                // That processes run on from another release is true there only until they are restarted.
                if !(restarts && event.event == "warning") {
                    tell(event);
                }
            },
            |_| true,
            |member, tell| {
                let build = member.build()?;
                let of = (project, build, &*origin, &provenance);
                member.peer.activate(of, &Stop::never(), tell)
            },
        );
        for (n, build) in made {
            fleet.members[n].live = Some(build);
        }
        drop(tell);
        fleet.verdict(&format!("activating {project}"))?;
        Ok(fleet.warn(attempt)?)
    }

    /// Restarts what is live at the peers: all at once, or one after the other, the next only when the one before is healthy.
    /// One that is left behind has live again what ran there before: its next start must not begin what failed.
    pub(super) fn restart_peers(
        &self,
        spec: &DeploySpec,
        attempt: &mut Attempt,
        fleet: &mut Fleet<'_>,
    ) -> Result<(), Refusal> {
        let rolling = spec.restart == Restart::Rolling;
        let project = &spec.project;
        let timeout = self.replicate_timeout;
        let own = attempt.record().deployment_id;
        let what = format!("restarting {project}");
        let names: Vec<&str> = self.peers.iter().map(Peer::name).collect();
        let at_once = if rolling { 1 } else { names.len().max(1) };
        for turn in names.chunks(at_once) {
            let is_it = |member: &Member<'_>| turn.contains(&member.peer.name());
            for member in fleet.members.iter_mut().filter(|member| is_it(member)) {
                member.restarted = true;
            }
            fleet.each(&mut attempt.peer_events(), is_it, |member, tell| {
                let id = member.build.as_ref().map_or(own, |build| build.id);
                let never = Stop::never();
                member
                    .peer
                    .restart(project, (id, rolling), timeout, &never, tell)
            });
            fleet.verdict(&what)?;
            fleet.undo_some(project, &mut attempt.peer_events(), |member| {
                !member.goes_along()
            });
            fleet.warn(attempt)?;
        }
        Ok(())
    }
}
