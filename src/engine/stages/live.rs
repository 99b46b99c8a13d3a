//! A release that is live, up to the moment when the end of its deployment is on disk.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::api::error::{Code, Refusal};
use crate::api::event::PeerEvent;
use crate::api::name::{DeploymentId, Project};
use crate::engine::outcome::{Failed, Made};
use crate::engine::processes::RestartRequest;
use crate::engine::stages::Builder;
use crate::engine::stages::replicate::Fleet;
use crate::store::Switch;
use crate::system::log;
use crate::system::stop::Stop;

/// How long the processes of the release before are tried to be started again.
const RESTART_BACK_MAX: Duration = Duration::from_secs(30);
/// The first wait before another try; each further one is twice as long.
const RESTART_BACK_WAIT: Duration = Duration::from_millis(100);

/// A release that is live and not settled yet. It exists from the rename on. Dropping it takes everything back: the link
/// here, the processes here, and what the peers have made live; neither this release nor the one before is removed.
///
/// When something cannot be taken back, the log says so. The link is then decided by the next start, as the deployment has
/// failed; a peer is named in the results.
pub(super) struct Live<'a> {
    builder: &'a Builder,
    project: Project,
    release: DeploymentId,
    /// What was live before; none if nothing was.
    previous: Option<DeploymentId>,
    switch: Option<Switch>,
    /// The peers that follow.
    pub(super) fleet: Fleet<'a>,
    processes: ProcessesHere,
    since: Instant,
}

/// What was done with the processes here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ProcessesHere {
    /// They run as they ran.
    Untouched,
    /// New ones were not healthy, and the old ones were started again.
    PutBack,
    /// They are those of the new release.
    Replaced(RanBefore),
}

/// What ran before a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RanBefore {
    /// The processes of this release; none if they were of several, or of none.
    From(Option<DeploymentId>),
    /// Nothing, as somebody had stopped it.
    Stopped,
}

impl<'a> Live<'a> {
    pub(super) fn new(
        builder: &'a Builder,
        (project, release): (Project, DeploymentId),
        previous: Option<DeploymentId>,
        switch: Switch,
        fleet: Fleet<'a>,
    ) -> Live<'a> {
        Live {
            builder,
            project,
            release,
            previous: previous.filter(|before| *before != release),
            switch: Some(switch),
            fleet,
            processes: ProcessesHere::Untouched,
            since: Instant::now(),
        }
    }

    /// Makes the switch here survive a power loss.
    pub(super) fn sync(&self) -> Result<(), Refusal> {
        match &self.switch {
            Some(switch) => Ok(switch.sync()?),
            None => Ok(()),
        }
    }

    /// The processes here are those of the new release.
    pub(super) fn processes_replaced(&mut self, ran: RanBefore) {
        self.processes = ProcessesHere::Replaced(ran);
    }

    /// The processes here could not be replaced, and those from before run again.
    pub(super) fn processes_put_back(&mut self) {
        self.processes = ProcessesHere::PutBack;
    }

    /// Takes everything back, tells what happens at the peers, and says in the failure what came of it.
    pub(super) fn back(
        mut self,
        mut failed: Box<Failed>,
        tell: &mut dyn FnMut(PeerEvent),
    ) -> Box<Failed> {
        self.take_back(&mut failed, tell);
        failed
    }

    fn take_back(&mut self, failed: &mut Failed, tell: &mut dyn FnMut(PeerEvent)) {
        let Some(mut switch) = self.switch.take() else {
            return;
        };
        // Not the fault of what was deployed.
        let stopping = self.builder.processes.is_stopping();
        if stopping {
            failed.refusal.code = Code::Interrupted;
        }
        match switch.back() {
            Ok(()) => {
                if let (Some(previous), false) = (self.previous, stopping) {
                    failed.add("rolled_back_to", json!(previous));
                }
                self.put_processes_back();
                if self.processes != ProcessesHere::Untouched && !stopping {
                    failed.refusal.message += &self.what_is_live();
                }
            }
            Err(error) => {
                // Dropping it tries once more. The processes stay those of what is live.
                log::error(&error.to_string());
                failed.refusal.message += &format!("; and then {error}");
            }
        }
        drop(switch);
        self.fleet.undo(&self.project, tell);
        self.fleet.report(false).add_to(failed);
    }

    /// What is live and what runs, now that all is taken back.
    fn what_is_live(&self) -> String {
        let live = match self.previous {
            Some(previous) => format!("{previous} is live again"),
            None => format!("nothing of {} is live", self.project),
        };
        let runs = self.builder.processes.what_runs(&self.project, self.since);
        format!("; rolled back: {live}; {runs}")
    }

    fn put_processes_back(&self) {
        let processes = &self.builder.processes;
        let (ran, hook_alone) = match self.processes {
            ProcessesHere::Untouched => return,
            ProcessesHere::PutBack => (self.previous, true),
            ProcessesHere::Replaced(RanBefore::From(ran)) => (ran.or(self.previous), false),
            ProcessesHere::Replaced(RanBefore::Stopped) => (self.previous, false),
        };
        let stops = self.processes == ProcessesHere::Replaced(RanBefore::Stopped);
        if hook_alone && ran.is_none() {
            return;
        }
        let never = Stop::never();
        let request = |release| RestartRequest {
            project: &self.project,
            release,
            rolling: false,
            hook_limit: self.builder.install_timeout,
            stop: &never,
        };
        let (until, mut wait) = (Instant::now() + RESTART_BACK_MAX, RESTART_BACK_WAIT);
        loop {
            let back = match ran {
                Some(release) if hook_alone => return processes.restore(&request(release)),
                Some(release) if stops => processes
                    .stop_component(&self.project, release)
                    .map(drop)
                    .map_err(|refusal| refusal.message),
                Some(release) => processes
                    .restart(&request(release), &mut |_| Ok(()))
                    .map_err(|unhealthy| unhealthy.message),
                None => processes
                    .drop_component(&self.project)
                    .map_err(|error| error.to_string()),
            };
            let Err(why) = back else {
                return;
            };
            log::error(&format!("going back: {why}"));
            if processes.is_stopping() || Instant::now() + wait > until {
                return;
            }
            thread::sleep(wait);
            wait *= 2;
        }
    }
}

impl Made for Live<'_> {
    fn settle(mut self: Box<Self>) {
        if let Some(switch) = self.switch.take() {
            switch.settle();
        }
    }

    fn undo(mut self: Box<Self>, failed: &mut Failed) {
        // The journal takes nothing any longer, so nobody is told of the peers' events.
        self.take_back(failed, &mut |_| ());
    }
}

impl Drop for Live<'_> {
    fn drop(&mut self) {
        if self.switch.is_some() {
            let why = format!(
                "deploying {}: release {} is taken back",
                self.project, self.release
            );
            let mut failed = Box::<Failed>::from(Refusal::new(Code::Internal, why));
            self.take_back(&mut failed, &mut |_| ());
            log::warn(&failed.refusal.message);
        }
    }
}
