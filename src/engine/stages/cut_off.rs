//! Phase `restart` of a deployment that the end of an earlier server cut off.

use std::time::Instant;

use serde_json::{Value, json};

use crate::api::event::{Event, Phase};
use crate::engine::attempt::{Attempt, Facts};
use crate::engine::outcome::{Failed, Made, Outcome, Success};
use crate::engine::spec::DeploySpec;
use crate::engine::stages::live::{Live, RanBefore};
use crate::engine::stages::replicate::Fleet;
use crate::engine::stages::{Builder, skip_restart};
use crate::store::Switch;
use crate::system::stop::Stop;

/// What an earlier server had done.
pub struct CutOff {
    /// The switch that it made; none if it only restarted what is live.
    pub switch: Option<Switch>,
    /// What is known of the peers.
    pub peer_results: Vec<Value>,
}

impl Builder {
    /// Starts the processes of the live release and judges them. If they are not healthy, what was live before is so again.
    pub(super) fn finish(
        &self,
        spec: &DeploySpec,
        cut_off: CutOff,
        attempt: &mut Attempt,
    ) -> Outcome<'_> {
        let begun = Instant::now();
        let record = attempt.record();
        let (release, previous) = (record.release_id, record.previous);
        let mut live = cut_off.switch.map(|switch| {
            let of = (spec.project.clone(), release);
            Live::new(self, of, previous, switch, Fleet::none())
        });
        let before = previous.filter(|id| live.is_some() && *id != release);
        let why =
            "the server ended while it waited for the processes; it starts and judges them again";
        let ran = match self.processes.is_stopped(&spec.project) {
            true => RanBefore::Stopped,
            false => RanBefore::From(before),
        };
        let mut judged = false;
        let told = attempt.emit(&Event::Warning(why.to_owned()));
        let restarted = match told {
            Err(error) => Err(error.into()),
            Ok(()) if !self.has_any(spec, release) => skip_restart(attempt, spec.restart)
                .map(|()| false)
                .map_err(Into::into),
            Ok(()) => attempt.phase(Phase::Restart, |attempt| {
                let never = Stop::never();
                let request = self.restart_request(spec, release, &never);
                let emit = &mut |event| attempt.emit(&Event::Process(event));
                judged = true;
                let restarted = self.processes.finish_restart(&request, before, emit);
                restarted.map_err(|unhealthy| self.unhealthy(unhealthy))?;
                Ok((true, Facts::new()))
            }),
        };
        match restarted {
            Ok(restarted) => {
                if let Some(live) = &mut live {
                    live.processes_replaced(ran);
                }
                let made: Box<dyn Made + '_> = match live {
                    Some(live) => Box::new(live),
                    None => Box::new(()),
                };
                Ok(Success {
                    made,
                    staged: false,
                    restarted,
                    peer_results: cut_off.peer_results,
                    published_unknown: false,
                })
            }
            Err(failed) => {
                let failed = self.undone(failed, live, &cut_off.peer_results, (attempt, begun));
                if !judged {
                    // A full disk, perhaps: what ran runs all the same.
                    self.processes.resume_component(&spec.project);
                }
                Err(failed)
            }
        }
    }

    fn undone(
        &self,
        failed: Box<Failed>,
        live: Option<Live<'_>>,
        peer_results: &[Value],
        (attempt, begun): (&mut Attempt, Instant),
    ) -> Box<Failed> {
        let mut failed = match live {
            Some(mut live) => {
                live.processes_put_back();
                live.back(failed, &mut attempt.peer_events())
            }
            None => self.say_what_runs(failed, &attempt.record().project, begun),
        };
        if !peer_results.is_empty() {
            failed.add("peer_results", json!(peer_results));
        }
        failed
    }
}
