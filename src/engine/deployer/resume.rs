//! Going on with what the end of an earlier server cut off: its release is live, and nobody judged its processes yet.

use std::sync::Arc;

use crate::api::error::{Error, Refusal};
use crate::api::event::{Entry, Event, Phase};
use crate::api::name::Project;
use crate::api::operation::Restart;
use crate::api::source::Provenance;
use crate::engine::attempt::Attempt;
use crate::engine::deployer::Deployer;
use crate::engine::deployer::running::{self, Busy, Hold, RunningDeployment};
use crate::engine::recover::{self, UnjudgedDeployment};
use crate::engine::spec::{DeployCaller, DeploySpec, Plan};
use crate::engine::stages::{CutOff, Work};
use crate::store::Switch;
use crate::system::log;
use crate::system::stop::{self, SharedStopper, Stop};

/// A deployment that the deployer has taken over and does not carry on yet. Its component is busy. Dropping it leaves
/// everything for the next start.
pub struct TakenOver {
    one: UnjudgedDeployment,
    stops: (SharedStopper, Stop),
    hold: Hold,
}

impl TakenOver {
    /// Its component.
    pub fn project(&self) -> &Project {
        &self.one.record.project
    }
}

impl Deployer {
    /// Takes a deployment over that an earlier server left, so that everybody finds it running.
    ///
    /// # Errors
    /// When that is not possible, with the deployment.
    pub fn take_over(
        &self,
        one: UnjudgedDeployment,
    ) -> Result<TakenOver, Box<(Refusal, UnjudgedDeployment)>> {
        match self.claim_again(&one) {
            Ok((stops, hold)) => Ok(TakenOver { one, stops, hold }),
            Err(refusal) => Err(Box::new((refusal, one))),
        }
    }

    fn claim_again(
        &self,
        one: &UnjudgedDeployment,
    ) -> Result<((SharedStopper, Stop), Hold), Refusal> {
        let record = &one.record;
        let (stopper, stop) = stop::pair()?;
        let stopper = SharedStopper::new(stopper);
        // It is live, so it is past the point where it could be stopped.
        stopper.disarm();
        let busy = Busy {
            deployment: Some(record.deployment_id),
            release: Some(record.release_id),
            key: record.idempotency_key.clone(),
            drops: false,
            ending: false,
        };
        let mut state = self.running.lock();
        let hold = running::claim(&self.running, &mut state, &record.project, busy)?;
        let running = RunningDeployment {
            live: Arc::downgrade(one.journal.live()),
            stopper: stopper.clone(),
            why: Arc::default(),
            connection: None,
            uploads: false,
        };
        state.running.insert(record.deployment_id, running);
        drop(state);
        Ok(((stopper, stop), hold))
    }

    /// The switch that it made; none if it only restarts what is live.
    fn unsettled(&self, one: &UnjudgedDeployment) -> Result<Option<Switch>, Error> {
        let record = &one.record;
        let first = record.event_log.entries().next();
        let switched = match first.map(Entry::meaning) {
            Some(Event::Deployment(opening)) => opening.phases.contains(&Phase::Activate),
            _ => false,
        };
        let previous = record
            .previous
            .filter(|before| *before != record.release_id);
        let store = &self.known.store;
        let switch = switched.then(|| store.unsettled(&record.project, previous));
        switch.transpose()
    }

    /// Carries on what was taken over, on a thread of its own.
    pub fn go_on(self: &Arc<Self>, taken: TakenOver) {
        let TakenOver { one, stops, hold } = taken;
        let record = one.record.clone();
        let switch = match self.unsettled(&one) {
            Ok(switch) => switch,
            Err(error) => {
                // Without a way back nobody judges it.
                log::error(&error.to_string());
                recover::end_live(&self.known.store, one);
                return self.builder.processes.resume_component(&record.project);
            }
        };
        let spec = DeploySpec {
            fleet: None,
            project: record.project.clone(),
            plan: Plan::Restart(record.release_id, None),
            package: None,
            restart: match record.restart_mode.as_deref() {
                mode if mode == Restart::Rolling.mode() => Restart::Rolling,
                mode if mode == Restart::Auto.mode() => Restart::Auto,
                _ => Restart::Immediate,
            },
            options: record.options.clone(),
            origin: None,
            provenance: Provenance::default(),
            caller: DeployCaller::default(),
        };
        let work = Work::CutOff(CutOff {
            switch,
            peer_results: one.peer_results,
        });
        let journal = (one.journal, one.record);
        let attempt = Attempt::reopen(self.known.clone(), journal, stops, Box::new(hold));
        if !self.start(spec, work, attempt) {
            self.builder.processes.resume_component(&record.project);
        }
    }
}
