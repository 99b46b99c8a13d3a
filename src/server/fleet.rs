//! `get_fleet` and `change_fleet`: how components stand on the hosts of the fleet, and what the fleet wants of them.

pub(super) mod payload;
mod stream;

use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::error::{Code, Refusal};
use crate::api::name::Project;
use crate::api::operation::{FleetChange, FleetQuery};
use crate::engine::rollout::members::HostRemoval;
use crate::engine::rollout::publish::{FleetPublisher, Published};
use crate::engine::rollout::ticket::LiveHere;
use crate::engine::rollout::view::FleetView;
use crate::server::answers::{Outcome, json as answer};
use crate::server::auth::Caller;
use crate::server::fleet::stream::RolloutEvents;
use crate::server::options::RequestOptions;
use crate::server::pump::LiveStream;
use crate::server::state::ServerState;

/// The fleet that this server belongs to.
pub(super) fn of<'a>(
    state: &'a ServerState,
    what: &str,
) -> Result<&'a Arc<FleetPublisher>, Refusal> {
    state.fleet.get().ok_or_else(|| {
        let why =
            format!("{what}: this server belongs to no fleet; `serve --fleet` makes it join one");
        Refusal::new(Code::FleetUnavailable, why)
    })
}

/// Performs `get_fleet`.
pub(super) fn get_fleet(
    state: &ServerState,
    query: FleetQuery,
    options: &RequestOptions,
    caller: &Caller,
) -> Result<Outcome, Refusal> {
    let fleet = of(state, "looking at the fleet")?;
    if let (Some(project), true) = (&query.project, query.follow) {
        let events = RolloutEvents::new(fleet, project.clone(), query.deployment);
        if options.events {
            return Ok(Outcome::Stream(LiveStream {
                source: Box::new(events),
                watching: true,
            }));
        }
    }
    let projects = match query.project {
        Some(project) => vec![project],
        None => fleet.projects()?,
    };
    let mut reports = Vec::new();
    for project in projects {
        if !caller.is_barred_from(&project) {
            reports.push(FleetView::read(fleet.seat(), &project)?.report());
        }
    }
    let all = json!({ "projects": reports, "hosts": fleet.hosts()? });
    Ok(Outcome::Answer(answer(200, &all)))
}

/// Performs `change_fleet`.
pub(super) fn change_fleet(
    state: &ServerState,
    change: FleetChange,
    caller: &Caller,
) -> Result<Value, Refusal> {
    let fleet = of(state, "changing the fleet")?;
    let user = caller.name();
    match change {
        FleetChange::RollBack(project, message) => {
            let published = fleet.roll_back(&project, message, user)?;
            let message = format!("{project} goes back on all hosts");
            Ok(said(&message, project.as_str(), published))
        }
        FleetChange::PublishCurrent(project, adopts) => {
            let live = adopts.then(|| live_here(state, &project)).transpose()?;
            let published = fleet.publish_current(&project, live.as_ref(), user)?;
            let message = format!("{project} is published anew");
            Ok(said(&message, project.as_str(), published))
        }
        FleetChange::Remove(host) => {
            caller.is_unlimited("change_fleet")?;
            let message = match fleet.remove_host(&host)? {
                HostRemoval::Removed => format!(
                    "{host} belongs to the fleet no longer; it goes on as it is. Its user at etcd and the token of role \
                     'fleet' are not taken away by this. Done once more, the table of the fleet forgets it"
                ),
                HostRemoval::Forgotten => {
                    format!("{host} was removed before, and is forgotten now")
                }
            };
            Ok(json!({ "message": message, "host": host }))
        }
        FleetChange::Pin(project, is_pinned) => {
            if let Some(pins) = state.pins.get() {
                pins.set(&project, is_pinned);
            }
            let host = &fleet.seat().host_name();
            let message = match is_pinned {
                true => format!("The fleet leaves {project} on {host} alone until it is unpinned"),
                false => format!("{project} on {host} follows the fleet again"),
            };
            Ok(json!({ "message": message, "project": project }))
        }
    }
}

/// What is live on this host, with its payload, for a fleet whose etcd was emptied.
fn live_here(state: &ServerState, project: &Project) -> Result<LiveHere, Refusal> {
    let what = format!("publishing what is live of {project} on this host");
    let none = |why: &str| Refusal::new(Code::NotFound, format!("{what}: {why}"));
    let store = &state.known.store;
    let live = store.live(project).ok_or_else(|| none("nothing is"))?;
    let record = store.read_record(live)?;
    let record = record.ok_or_else(|| none("its record is not kept any longer"))?;
    let sha256 = record.payload_hash.clone().unwrap_or_default();
    let payload = state
        .deployer
        .payload_by_hash(&sha256, &|of| of == project)?;
    let why = "its payload is not here as a whole archive, so other hosts could not fetch it";
    let (_, size) = payload.ok_or_else(|| none(why))?;
    Ok(LiveHere {
        record,
        sha256,
        size,
    })
}

fn said(message: &str, project: &str, published: Published) -> Value {
    let generation = published.generation;
    json!({
        "message": format!("{message}: generation {generation}"),
        "project": project,
        "deployment_id": published.deployment_id,
        "generation": generation,
        "hosts": published.hosts,
    })
}
