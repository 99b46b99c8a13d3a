//! One deployment on every peer: all build, then all switch, then all restart; and what one of them cannot, none does.

use std::thread;
use std::time::Duration;

use crossbeam_channel::bounded;
use serde_json::json;

use crate::attempt::{Attempt, Facts};
use crate::deploy::{Builder, Tree};
use crate::error::{Code, Refusal};
use crate::event::{Event, PeerEvent, Phase, now_ms};
use crate::log;
use crate::name::DeploymentId;
use crate::operation::Restart;
use crate::peers::{Build, Peer, Stage, Tell};
use crate::stop::{self, Stop};

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
    /// Its build, as long as it goes along.
    build: Option<Build>,
    /// What was live there before, once its build is live.
    before: Option<Option<DeploymentId>>,
    error: Option<String>,
}

impl Member<'_> {
    fn fail(&mut self, why: String) {
        self.error = Some(why);
        self.completed_at = now_ms();
    }
}

impl<'a> Fleet<'a> {
    /// Nobody, for a deployment that is only for this server.
    pub(super) fn none() -> Fleet<'a> {
        Fleet {
            members: Vec::new(),
            ignores: true,
        }
    }

    /// Asks all members that still go along at once, and passes on what happens meanwhile.
    fn each<T: Send>(
        &mut self,
        attempt: &mut Attempt,
        work: impl Fn(&Peer, &Build, Tell<'_>) -> Result<T, String> + Sync,
    ) -> Vec<(usize, T)> {
        let (sender, receiver) = bounded::<PeerEvent>(EVENTS);
        let mut done = Vec::new();
        thread::scope(|scope| {
            let mut threads = Vec::new();
            for (n, member) in self.members.iter().enumerate() {
                let (Some(build), None) = (&member.build, &member.error) else {
                    continue;
                };
                let (sender, work, peer) = (sender.clone(), &work, member.peer);
                let spawned = thread::Builder::new()
                    .name(format!("peer-{}", peer.name()))
                    .stack_size(STACK_BYTES)
                    .spawn_scoped(scope, move || {
                        // Nobody listens any more if the disk took no event: the work goes on to its end.
                        work(peer, build, &|event| drop(sender.send(event)))
                    });
                threads.push((n, spawned));
            }
            drop(sender);
            pass_on(attempt, &receiver);
            for (n, thread) in threads {
                let result = match thread.map(thread::ScopedJoinHandle::join) {
                    Ok(Ok(result)) => result,
                    Ok(Err(panic)) => std::panic::resume_unwind(panic),
                    Err(error) => Err(format!("there is no thread for it: {error}")),
                };
                done.push((n, result));
            }
        });
        let mut well = Vec::new();
        for (n, result) in done {
            match result {
                Ok(value) => well.push((n, value)),
                Err(why) => self.members[n].fail(why),
            }
        }
        well
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
    pub(super) fn report(&self, attempt: &mut Attempt) {
        if self.members.is_empty() {
            return;
        }
        let results = self.members.iter().map(|member| {
            let completed = member.completed_at.max(member.started_at);
            json!({
                "node": member.peer.name(),
                "status": if member.error.is_none() { "success" } else { "failed" },
                "error": member.error,
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
        tree: &Tree,
        ignores: bool,
    ) -> Result<Fleet<'_>, Refusal> {
        let stop = attempt.stop().clone();
        attempt.phase(Phase::Replicate, |attempt| {
            let at = now_ms();
            let member = |peer| Member {
                peer,
                started_at: at,
                completed_at: at,
                // Not yet anything of its own: the place where it will be.
                build: Some(Build {
                    id: tree.id,
                    previous: None,
                }),
                before: None,
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
            let stage = Stage {
                project: &tree.project,
                origin: tree.id,
                payload: &payload,
                sha256: &sha256,
                options: &options,
                timeout: self.replicate_timeout,
            };
            let staged = fleet.each(attempt, |peer, _, tell| peer.stage(&stage, &stop, tell));
            for (n, build) in staged {
                fleet.members[n].build = Some(build);
                fleet.members[n].completed_at = now_ms();
            }
            if stop.stopped() {
                fleet.report(attempt);
                let why = format!("replicating {}: stopped", tree.project);
                return Err(Refusal::new(Code::Cancelled, why));
            }
            fleet
                .verdict(&format!("replicating {}", tree.project))
                .inspect_err(|_| fleet.report(attempt))?;
            Ok((fleet, Facts::new()))
        })
    }

    /// Makes the builds of the peers live, all at once.
    pub(super) fn activate_fleet(
        &self,
        attempt: &mut Attempt,
        fleet: &mut Fleet<'_>,
        tree: &Tree,
    ) -> Result<(), Refusal> {
        // It is too late to stop: what has begun is carried through.
        let (_stopper, stop) = stop::pair()?;
        let live = fleet.each(attempt, |peer, build, tell| {
            peer.activate(&tree.project, build, &stop, tell)
        });
        for (n, build) in live {
            fleet.members[n].before = Some(build.previous);
            fleet.members[n].completed_at = now_ms();
        }
        fleet.verdict(&format!("activating {}", tree.project))
    }

    /// Restarts what is live at the peers: all at once, or one after the other, the next only when the one before is healthy.
    pub(super) fn restart_fleet(
        &self,
        attempt: &mut Attempt,
        fleet: &mut Fleet<'_>,
        tree: &Tree,
    ) -> Result<(), Refusal> {
        let rolling = attempt.record().restart_mode.as_deref() == Restart::Rolling.mode();
        let (_stopper, stop) = stop::pair()?;
        let project = &tree.project;
        let timeout = self.replicate_timeout;
        let what = format!("restarting {project}");
        let restart = |peer: &Peer, tell: Tell<'_>, stop: &Stop| {
            peer.restart(project, rolling, timeout, stop, tell)
        };
        if !rolling {
            for (n, ()) in fleet.each(attempt, |peer, _, tell| restart(peer, tell, &stop)) {
                fleet.members[n].completed_at = now_ms();
            }
            return fleet.verdict(&what);
        }
        let names: Vec<String> = fleet
            .members
            .iter()
            .map(|member| member.peer.name().to_owned())
            .collect();
        for (turn, name) in names.iter().enumerate() {
            let one = |peer: &Peer, _: &Build, tell: Tell<'_>| match peer.name() == name {
                true => restart(peer, tell, &stop),
                false => Ok(()),
            };
            fleet.each(attempt, one);
            fleet.members[turn].completed_at = now_ms();
            fleet.verdict(&what)?;
        }
        Ok(())
    }

    /// Takes back what the peers have made live.
    pub(super) fn undo_fleet(&self, attempt: &mut Attempt, fleet: &mut Fleet<'_>, tree: &Tree) {
        let restart = attempt.record().restart_mode.is_some();
        let Ok((_stopper, stop)) = stop::pair() else {
            return log::error("taking back at the peers: no descriptor is left");
        };
        let (sender, receiver) = bounded::<PeerEvent>(EVENTS);
        let wait: Duration = Duration::from_millis(1);
        for member in &mut fleet.members {
            let Some(before) = member.before else {
                continue;
            };
            let tell = |event: PeerEvent| drop(sender.send_timeout(event, wait));
            let undone = member
                .peer
                .undo(&tree.project, before, restart, &stop, &tell);
            let why = match undone {
                Ok(()) => "rolled back, because another one failed".to_owned(),
                Err(why) => format!("not rolled back: {why}"),
            };
            let error = member.error.take();
            member.fail(error.map_or(why.clone(), |error| format!("{error}; {why}")));
        }
        drop(sender);
        pass_on(attempt, &receiver);
    }
}
