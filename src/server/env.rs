//! `get_env` and `set_env`: a component's environment, before its first deployment too.

use serde_json::{Map, Value, json};

use crate::api::error::Refusal;
use crate::api::name::Project;
use crate::api::operation::EnvChange;
use crate::server::auth::Caller;
use crate::server::state::ServerState;

/// Performs `get_env`.
pub(super) fn get_env(
    state: &ServerState,
    project: &Project,
    values: bool,
) -> Result<Value, Refusal> {
    let variables = state.env.variables(project)?;
    let names: Vec<&str> = variables.iter().map(|(name, _)| name.as_str()).collect();
    let mut answer = json!({ "project": project, "names": names });
    if values {
        let pairs = variables.iter();
        let pairs = pairs.map(|(name, value)| (name.to_string(), value.as_str().into()));
        answer["values"] = Value::Object(pairs.collect::<Map<_, _>>());
    }
    Ok(answer)
}

/// Performs `set_env`.
pub(super) fn set_env(
    state: &ServerState,
    change: &EnvChange,
    caller: &Caller,
) -> Result<Value, Refusal> {
    let (project, user) = (&change.project, caller.name());
    let changed = state.env.change(change, user.as_deref())?;
    let words = changed.words();
    let message = match words.is_empty() {
        true => format!("Nothing to change in the environment of {project}"),
        false => format!("Successfully changed the environment of {project}: {words}"),
    };
    if !words.is_empty() && state.known.store.live(project).is_some() {
        let by = user.map_or_else(String::new, |user| format!(" by {user}"));
        let note = format!("the environment is changed{by}: {words}");
        state.processes.note(project, "env", &note);
    }
    Ok(json!({
        "message": message,
        "project": project,
        "set": changed.set,
        "unset": changed.unset,
    }))
}
