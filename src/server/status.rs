//! `get_components`: what is live, and which processes run, here and at the peers.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::api::error::Refusal;
use crate::api::event::Status;
use crate::api::fleet::FleetGeneration;
use crate::api::name::{DeploymentId, Project};
use crate::api::operation::Operation;
use crate::client::follow::Subject;
use crate::engine::peers::all::ask_all;
use crate::server::auth::Caller;
use crate::server::state::ServerState;
use crate::store::Component;
use crate::store::index::All;

pub(super) fn get_components(state: &ServerState, caller: &Caller) -> Result<Value, Refusal> {
    let mut components = state.known.store.components()?;
    components.retain(|component| !caller.is_barred_from(&component.project));
    let running = state.processes.snapshot();
    let origins = state.known.index.look(|all| Origins::of(&components, all));
    let components = components.into_iter().map(|component| {
        let mut processes = running.status(&component.project);
        processes.extend(running.missing(&component.project));
        let release = component.release_id;
        json!({
            "project": component.project,
            // The one that built it, if the one that made it live is not known any longer.
            "deployment_id": origins.made_live.get(&component.project).unwrap_or(&release),
            "release_id": release,
            "tree": origins.trees.get(&release),
            "fleet": fleet(state, origins.made_live.get(&component.project)),
            "since": component.since,
            "processes": processes,
            "stopped": running.is_stopped(&component.project),
            "releases": component.releases,
        })
    });
    Ok(json!({ "components": components.collect::<Vec<_>>() }))
}

/// What the fleet wanted by the deployment that made a release live; nothing if it was not the fleet's.
fn fleet(state: &ServerState, made_live: Option<&DeploymentId>) -> Option<FleetGeneration> {
    // Of a server without a fleet no record is read.
    let (_, id) = (state.fleet.get()?, made_live?);
    state.known.store.read_record(*id).ok()??.fleet
}

/// A peer that has not answered by then is taken for one that is off.
const PEER_TIMEOUT: Duration = Duration::from_secs(3);

/// What is live here, and on this host and all its peers, asked at once.
pub(super) fn with_peers(state: &ServerState, caller: &Caller) -> Result<Value, Refusal> {
    let mut value = get_components(state, caller)?;
    let here = json!({
        "host": state.deployer.node(),
        "reachable": true,
        "components": value["components"],
    });
    let asked = (Subject::Reading, &Operation::GetComponents(false));
    let replies = ask_all(state.deployer.peers(), asked, PEER_TIMEOUT);
    let peers = replies.into_iter().map(|reply| match reply.answer {
        Ok(mut answer) => {
            let mut components = answer["components"].take();
            if let Some(all) = components.as_array_mut() {
                all.retain(|one| {
                    let name = one["project"].as_str().unwrap_or_default();
                    let project = name.parse::<Project>();
                    project.is_ok_and(|project| !caller.is_barred_from(&project))
                });
            }
            json!({"host": reply.peer, "reachable": true, "components": components})
        }
        Err(why) => json!({"host": reply.peer, "reachable": false, "error": why}),
    });
    value["hosts"] = std::iter::once(here).chain(peers).collect();
    Ok(value)
}

/// Where the live releases come from, as far as it is known.
#[derive(Debug, Default, PartialEq, Eq)]
struct Origins {
    /// The newest deployment that made the live release the live one.
    made_live: HashMap<Project, DeploymentId>,
    /// The tree that a release was built from.
    trees: HashMap<DeploymentId, Box<str>>,
}

impl Origins {
    /// All deployments are looked at once, however many components there are.
    fn of(components: &[Component], all: &All) -> Origins {
        let mut origins = Origins::default();
        let live: HashMap<&Project, DeploymentId> = components
            .iter()
            .map(|one| (&one.project, one.release_id))
            .collect();
        for (id, one) in all {
            if one.status == Status::Success && live.get(&one.project) == Some(&one.release_id) {
                origins.made_live.insert(one.project.clone(), *id);
            }
        }
        for release in live.into_values() {
            let tree = all.get(&release).and_then(|one| one.tree.clone());
            origins.trees.extend(tree.map(|tree| (release, tree)));
        }
        origins
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::record::Summary;

    #[test]
    fn the_newest_success_of_the_live_release_is_the_one_that_made_it_live() {
        let mut last = None;
        let mut id = || {
            last = Some(DeploymentId::after(last, 1, [0; 10]));
            last.unwrap()
        };
        let (built, newer, back, failed, other) = (id(), id(), id(), id(), id());
        let project = |name: &str| name.parse::<Project>().unwrap();
        let summary = |name: &str, status, release_id, tree: Option<&str>| Summary {
            project: project(name),
            status,
            started_at: 1,
            release_id,
            previous: None,
            payload: None,
            tree: tree.map(Into::into),
            key: None,
        };
        let (success, failure) = (Status::Success, Status::Failed);
        let all = All::from([
            (built, summary("a", success, built, Some("t1"))),
            (newer, summary("a", success, newer, Some("t2"))),
            (back, summary("a", success, built, None)),
            (failed, summary("a", failure, built, None)),
            (other, summary("b", success, built, None)),
        ]);
        let component = |name: &str, release_id| Component {
            project: project(name),
            release_id,
            since: 1,
            releases: Vec::new(),
        };
        // The live release of a component, the deployment that made it live, and its tree.
        let table = [
            ("a", built, Some(back), Some("t1")),
            ("a", newer, Some(newer), Some("t2")),
            ("a", failed, None, None),
            ("c", built, None, Some("t1")),
        ];
        for (name, release, made_live, tree) in table {
            let found = Origins::of(&[component(name, release)], &all);
            assert_eq!(found.made_live.get(&project(name)).copied(), made_live);
            assert_eq!(found.trees.get(&release).map(|tree| &**tree), tree);
        }
    }
}
