//! The fields of what is about a fleet.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::api::operation::reader::FieldReader;
use crate::api::operation::{FleetChange, FleetOptions, FleetQuery, Operation, WaveSize};

impl FieldReader<'_> {
    /// How a deployment goes to the fleet; none if it does not.
    pub(super) fn fleet_options(&mut self) -> Option<FleetOptions> {
        if !self.boolean("fleet").unwrap_or(false) {
            return None;
        }
        let wave = match self.get("wave").cloned() {
            None => None,
            Some(value) => {
                let text = value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned);
                let wave = WaveSize::parse(&text);
                wave.or_else(|| {
                    self.fault("'wave' must be a number of hosts, or 1% to 100%".into())
                })
            }
        };
        Some(FleetOptions {
            canary: self.number("canary"),
            wave,
            max_failures: self.number("max_failures"),
            soak_s: self.number("soak"),
            host_timeout_s: self.number("host_timeout"),
            labels: self.labels(),
            rollback_on_failure: self.boolean("rollback_on_failure").unwrap_or(false),
            replace: self.boolean("replace").unwrap_or(false),
            adopt: self.boolean("adopt").unwrap_or(false),
        })
    }

    fn labels(&mut self) -> BTreeMap<String, String> {
        let mut labels = BTreeMap::new();
        match self.unfolded("labels") {
            None => {}
            Some(Value::Object(members)) => {
                for (name, value) in members {
                    match value.as_str() {
                        Some(text) => {
                            labels.insert(name, text.to_owned());
                        }
                        None => self.faults.push("'labels' must have texts".into()),
                    }
                }
            }
            Some(_) => self.faults.push("'labels' must be an object".into()),
        }
        labels
    }

    pub(in crate::api::operation) fn get_fleet(&mut self) -> Option<Operation> {
        let project = match self.get("project") {
            None => None,
            Some(_) => Some(self.project()?),
        };
        let follow = self.boolean("follow").unwrap_or(false);
        if follow && project.is_none() {
            return self.fault("'follow' needs 'project'".into());
        }
        Some(Operation::GetFleet(FleetQuery {
            deployment: self.id("deployment_id", false),
            follow,
            project,
        }))
    }

    pub(in crate::api::operation) fn change_fleet(&mut self) -> Option<Operation> {
        let action = self.text("action").unwrap_or_default();
        let change = match &*action {
            "rollback" => FleetChange::RollBack(self.project()?, self.message()),
            "publish_current" => {
                let adopt = self.boolean("adopt").unwrap_or(false);
                FleetChange::PublishCurrent(self.project()?, adopt)
            }
            "pin" => FleetChange::Pin(self.project()?, true),
            "unpin" => FleetChange::Pin(self.project()?, false),
            "remove" => match self.text("host").unwrap_or_default().parse() {
                Ok(host) => FleetChange::Remove(host),
                Err(why) => return self.fault(format!("'host': {why}")),
            },
            _ => {
                return self.fault(
                    "'action' must be one of rollback, publish_current, remove, pin, unpin".into(),
                );
            }
        };
        Some(Operation::ChangeFleet(change))
    }
}
