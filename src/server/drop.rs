//! `drop_component`: a component stops, and is removed with its releases.

use serde_json::{Value, json};

use crate::api::error::{Code, Refusal};
use crate::api::name::Project;
use crate::server::state::ServerState;
use crate::system::log;

/// Performs `drop_component`.
pub(super) fn drop_component(state: &ServerState, project: &Project) -> Result<Value, Refusal> {
    let store = &state.known.store;
    let _hold = state.workers.hold(project)?;
    if store.live(project).is_none() && store.releases(project)?.is_empty() {
        let why = format!("dropping {project}: there is no such component");
        return Err(Refusal::new(Code::NotFound, why));
    }
    state.processes.drop_component(project)?;
    store.drop_component(project)?;
    log::info(&format!("{project} is dropped"));
    Ok(json!({ "message": format!("Successfully dropped: {project}"), "project": project }))
}
