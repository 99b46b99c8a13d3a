//! A rollout as a stream: an event for each change of a host, and at the end whether all are live.
//!
//! It is made of what stands in etcd, which has no history: who comes late sees how the hosts stand, and then what changes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::api::error::{Code, Error, Refusal};
use crate::api::event::{Event, Failure};
use crate::api::name::{DeploymentId, Project};
use crate::engine::rollout::publish::FleetPublisher;
use crate::engine::rollout::view::{FleetNews, FleetView, Woken};
use crate::formats::sse;
use crate::server::pump::{Batch, StreamSource};
use crate::system::stop::Stop;

/// After trouble with the store; it doubles.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// The events of a rollout.
pub(super) struct RolloutEvents {
    fleet: Arc<FleetPublisher>,
    project: Project,
    /// The deployment that is followed; the one that is wanted when it begins, if none was named.
    deployment: Option<DeploymentId>,
    news: Option<FleetNews>,
    /// What was told of each host, and of the rollout.
    told: BTreeMap<String, Value>,
    is_old: bool,
    pause: Duration,
    stop: Stop,
}

impl RolloutEvents {
    pub(super) fn new(
        fleet: &Arc<FleetPublisher>,
        project: Project,
        deployment: Option<DeploymentId>,
    ) -> RolloutEvents {
        RolloutEvents {
            fleet: Arc::clone(fleet),
            project,
            deployment,
            news: None,
            told: BTreeMap::new(),
            is_old: true,
            pause: PAUSE,
            stop: Stop::never(),
        }
    }

    /// Reads how it stands, and adds what is new.
    fn look(&mut self, records: &mut Vec<u8>) -> Result<Batch, Refusal> {
        let view = FleetView::read(self.fleet.seat(), &self.project)?;
        if self.news.is_none() {
            self.news = Some(FleetNews::begin(self.fleet.seat(), &view)?);
        }
        self.is_old = false;
        let deployment = self.deployment.or_else(|| view.deployment());
        let Some(deployment) = deployment else {
            let why = format!("following {}: the fleet wants nothing of it", self.project);
            return Ok(ends(
                records,
                failure(Refusal::new(Code::NotFound, why), None),
            ));
        };
        self.deployment = Some(deployment);
        let report = view.report();
        let mut batch = Batch::Nothing;
        for host in view.rows() {
            let name = host["host"].as_str().unwrap_or_default().to_owned();
            if self.told.get(&name) != Some(&host) {
                add(records, "host", &host);
                self.told.insert(name, host);
                batch = Batch::Records;
            }
        }
        let mut summary = Map::new();
        for key in [
            "project",
            "generation",
            "rollout",
            "reason",
            "live",
            "expected",
        ] {
            summary.insert(key.to_owned(), report[key].clone());
        }
        let summary = Value::Object(summary);
        if self.told.get("") != Some(&summary) {
            add(records, "rollout", &summary);
            self.told.insert(String::new(), summary);
            batch = Batch::Records;
        }
        Ok(match view.end(deployment) {
            None => batch,
            Some(Ok(message)) => {
                let result = json!({
                    "message": message,
                    "deployment_id": deployment,
                    "projects": [report],
                });
                ends(records, Event::Done(result))
            }
            Some(Err(refusal)) => ends(records, failure(refusal, Some(&report))),
        })
    }
}

fn add(records: &mut Vec<u8>, name: &str, data: &Value) {
    sse::frame(records, None, name, &data.to_string());
}

fn ends(records: &mut Vec<u8>, event: Event) -> Batch {
    sse::frame(records, None, event.name(), event.data().get());
    Batch::End
}

fn failure(refusal: Refusal, report: Option<&Value>) -> Event {
    let mut more = Map::new();
    if let Some(report) = report {
        more.insert("projects".to_owned(), json!([report]));
    }
    Event::Error(Box::new(Failure {
        message: refusal.message,
        code: refusal.code.word().to_owned(),
        more,
        ..Failure::default()
    }))
}

impl StreamSource for RolloutEvents {
    fn next(&mut self, records: &mut Vec<u8>, wait: Duration) -> Result<Batch, Error> {
        if !self.is_old {
            match self.news.as_ref().map(|news| news.wait(wait, &self.stop)) {
                Some(Woken::Time) => return Ok(Batch::Nothing),
                Some(Woken::News) => {}
                Some(Woken::Cut | Woken::Stopped) | None => self.news = None,
            }
            self.is_old = true;
        }
        match self.look(records) {
            Ok(batch) => {
                self.pause = PAUSE;
                Ok(batch)
            }
            Err(refusal) => {
                // It is looked at again until it is back: the rollout does not depend on who watches.
                let is_first = self.pause == PAUSE;
                std::thread::sleep(self.pause.min(wait));
                self.pause = (self.pause * 2).min(PAUSE_MAX);
                self.news = None;
                if is_first {
                    add(records, "warning", &json!({ "message": refusal.message }));
                    return Ok(Batch::Records);
                }
                Ok(Batch::Nothing)
            }
        }
    }
}
