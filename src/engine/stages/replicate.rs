//! One deployment on every peer: all build, then all switch, then all restart; and what one of them cannot, none does.

use std::thread;

use crossbeam_channel::bounded;
use serde_json::json;

use crate::api::error::{Code, Refusal};
use crate::api::event::{Event, PeerEvent, Phase};
use crate::api::name::DeploymentId;
use crate::api::operation::Restart;
use crate::engine::attempt::{Attempt, Facts};
use crate::engine::peers::{Build, OnPeerEvent, Peer, StageRequest};
use crate::engine::stages::{Builder, ReleaseTree};
use crate::system::log;
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
    /// What was live there before, once its build is live.
    before: Option<Option<DeploymentId>>,
    /// Its processes were to be those of its build.
    restarted: bool,
    error: Option<String>,
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

    /// Asks those members that still go along at once, passes on what happens meanwhile, and writes down who failed.
    fn each<T: Send>(
        &mut self,
        attempt: &mut Attempt,
        whom: impl Fn(&Member<'a>) -> bool,
        work: impl Fn(&Member<'a>, OnPeerEvent<'_>) -> Result<T, String> + Sync,
    ) -> Vec<(usize, T)> {
        let whom = |member: &Member<'a>| member.goes_along() && whom(member);
        let asked = self.ask(attempt, whom, work);
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
        attempt: &mut Attempt,
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
            pass_on(attempt, &receiver);
            let ended = asked.into_iter().map(|(n, thread)| {
                let (result, at) = match thread.map(thread::ScopedJoinHandle::join) {
                    Ok(Ok(ended)) => ended,
                    Ok(Err(panic)) => std::panic::resume_unwind(panic),
                    Err(error) => (Err(format!("there is no thread for it: {error}")), now_ms()),
                };
                (n, result, at)
            });
            ended.collect()
        })
    }

    /// Takes back, all at once, what those members have made live.
    fn undo(
        &mut self,
        attempt: &mut Attempt,
        tree: &ReleaseTree,
        whom: impl Fn(&Member<'a>) -> bool,
    ) {
        let stop = Stop::never();
        let whom = |member: &Member<'a>| member.before.is_some() && whom(member);
        let asked = self.ask(attempt, whom, |member, tell| {
            let before = member.before.flatten();
            // Processes that nobody touched still run from the release before.
            let restart = member.restarted;
            let peer = member.peer;
            peer.undo(&tree.project, before, restart, &stop, tell)
        });
        for (n, undone, at) in asked {
            let member = &mut self.members[n];
            member.before = None;
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

    /// Writes down how the peers did, for the result or for the error.
    pub(super) fn report(&self, attempt: &mut Attempt, well: bool) {
        if self.members.is_empty() {
            return;
        }
        let results = self.members.iter().map(|member| {
            let completed = member.completed_at.max(member.started_at);
            // Who only built it is no success of a deployment that failed elsewhere.
            let kept = (!well).then_some("built, but not made live");
            let error = member.error.as_deref().or(kept);
            json!({
                "node": member.peer.name(),
                "status": if error.is_none() { "success" } else { "failed" },
                "error": error,
                "started_at": member.started_at,
                "completed_at": completed,
            })
        });
        let failed = self.members.iter().filter(|member| member.error.is_some());
        let failed: Vec<&str> = failed.map(|member| member.peer.name()).collect();
        if !failed.is_empty() {
            attempt.add_to_error("failed_peers", json!(failed));
        }
        attempt.peers(results.collect());
    }
}

/// Passes on what happens at peers, until nobody tells any more.
fn pass_on(attempt: &mut Attempt, events: &crossbeam_channel::Receiver<PeerEvent>) {
    for event in events {
        if let Err(error) = attempt.emit(&Event::Peer(event)) {
            // The next thing that is written says so, too, and ends the deployment.
            log::warn(&error.to_string());
        }
    }
}

impl Builder {
    /// Runs phase `replicate`: every peer builds what was built here.
    pub(super) fn replicate(
        &self,
        attempt: &mut Attempt,
        tree: &ReleaseTree,
        ignores: bool,
    ) -> Result<Fleet<'_>, Refusal> {
        let stop = attempt.stop().clone();
        attempt.phase(Phase::Replicate, |attempt| {
            let at = now_ms();
            let member = |peer| Member {
                peer,
                started_at: at,
                completed_at: at,
                build: None,
                before: None,
                restarted: false,
                error: None,
            };
            let mut fleet = Fleet {
                members: self.peers.iter().map(member).collect(),
                ignores,
            };
            let record = attempt.record();
            let (options, sha256) = (
                record.options.clone(),
                record.payload_hash.clone().unwrap_or_default(),
            );
            let payload = self.store.payload(tree.id);
            let stage = StageRequest {
                project: &tree.project,
                origin: tree.id,
                payload: &payload,
                sha256: &sha256,
                options: &options,
                timeout: self.replicate_timeout,
            };
            let staged = fleet.each(
                attempt,
                |_| true,
                |member, tell| member.peer.stage(&stage, &stop, tell),
            );
            for (n, build) in staged {
                fleet.members[n].build = Some(build);
            }
            if stop.stopped() {
                fleet.report(attempt, false);
                let why = format!("replicating {}: stopped", tree.project);
                return Err(Refusal::new(Code::Cancelled, why));
            }
            fleet
                .verdict(&format!("replicating {}", tree.project))
                .inspect_err(|_| fleet.report(attempt, false))?;
            Ok((fleet, Facts::new()))
        })
    }

    /// Makes the builds of the peers live, all at once.
    pub(super) fn activate_fleet(
        &self,
        attempt: &mut Attempt,
        fleet: &mut Fleet<'_>,
        tree: &ReleaseTree,
    ) -> Result<(), Refusal> {
        // It is too late to stop: what has begun is carried through.
        let stop = Stop::never();
        let live = fleet.each(
            attempt,
            |_| true,
            |member, tell| {
                let build = member.build()?;
                member.peer.activate(&tree.project, build, &stop, tell)
            },
        );
        for (n, build) in live {
            fleet.members[n].before = Some(build.previous);
        }
        fleet.verdict(&format!("activating {}", tree.project))
    }

    /// Restarts what is live at the peers: all at once, or one after the other, the next only when the one before is healthy.
    /// One that is left behind has live again what ran there before: its next start must not begin what failed.
    pub(super) fn restart_fleet(
        &self,
        attempt: &mut Attempt,
        fleet: &mut Fleet<'_>,
        tree: &ReleaseTree,
    ) -> Result<(), Refusal> {
        let rolling = attempt.record().restart_mode.as_deref() == Restart::Rolling.mode();
        let stop = Stop::never();
        let project = &tree.project;
        let timeout = self.replicate_timeout;
        let what = format!("restarting {project}");
        let names: Vec<&str> = self.peers.iter().map(Peer::name).collect();
        let at_once = if rolling { 1 } else { names.len().max(1) };
        for turn in names.chunks(at_once) {
            let is_it = |member: &Member<'_>| turn.contains(&member.peer.name());
            for member in fleet.members.iter_mut().filter(|member| is_it(member)) {
                member.restarted = true;
            }
            fleet.each(attempt, is_it, |member, tell| {
                let build = (member.build()?, rolling);
                member.peer.restart(project, build, timeout, &stop, tell)
            });
            fleet.verdict(&what)?;
            fleet.undo(attempt, tree, |member| !member.goes_along());
        }
        Ok(())
    }

    /// Takes back what the peers have made live.
    pub(super) fn undo_fleet(
        &self,
        attempt: &mut Attempt,
        fleet: &mut Fleet<'_>,
        tree: &ReleaseTree,
    ) {
        fleet.undo(attempt, tree, |_| true);
    }
}
