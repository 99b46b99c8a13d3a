//! A restart at every peer of what is live there: nothing is built, switched or taken back.

use serde_json::{Value, json};

use crate::api::event::Phase;
use crate::engine::attempt::{Attempt, Facts};
use crate::engine::outcome::Failed;
use crate::engine::spec::DeploySpec;
use crate::engine::stages::Builder;
use crate::engine::stages::replicate::{Fleet, PeerReport};

impl Fleet<'_> {
    /// How the peers did where nothing but restarts was asked for, and one of the hosts failed.
    pub(super) fn report_of_restarts(&self) -> PeerReport {
        let why = "not restarted, because another host failed";
        self.report_with(|restarted| (!restarted).then_some(why))
    }
}

impl Builder {
    /// Runs phase `replicate` of a restart: the peers restart what is live there.
    pub(super) fn replicate_restart(
        &self,
        spec: &DeploySpec,
        attempt: &mut Attempt,
        ignores: bool,
    ) -> Result<Vec<Value>, Box<Failed>> {
        attempt.phase(Phase::Replicate, |attempt| {
            let mut fleet = self.all_peers(ignores);
            match self.restart_peers(spec, attempt, &mut fleet) {
                Ok(()) => Ok((fleet.report(true).results, Facts::new())),
                Err(refusal) => {
                    let mut failed = Box::<Failed>::from(refusal);
                    let record = attempt.record();
                    let here = json!({"node": record.origin_node, "status": "success"});
                    failed.add("origin_result", here);
                    fleet.report_of_restarts().add_to(&mut failed);
                    Err(failed)
                }
            }
        })
    }
}
