//! `prepare_deployment`: what of a tree is missing here, by the list of it that comes as the file of a form.

use serde_json::{Value, json};

use crate::api::error::{Code, Refusal};
use crate::api::operation::Prepare;
use crate::server::form::{Bytes, RequestBody};
use crate::server::options::RequestOptions;
use crate::server::state::ServerState;

pub(super) fn prepare(
    state: &ServerState,
    prepare: &Prepare,
    request: RequestBody<'_>,
    options: &RequestOptions,
) -> Result<Value, Refusal> {
    let project = &prepare.project;
    let key = options.key.as_deref();
    let Some(tree) = &prepare.tree else {
        let found = state.deployer.anything(project, key)?;
        let missing = match (&found.base, found.partial) {
            (None, false) => "all",
            _ => "",
        };
        return Ok(json!({ "base": found.base, "missing": missing, "accepts": state.accepts() }));
    };
    let Some(list) = request.payload else {
        let why = format!("preparing a deployment of {project}: the list of its tree is missing");
        return Err(Refusal::new(Code::BadRequest, why));
    };
    let stop = state.deployer.stop_signal().clone();
    let mut list = Bytes::new(list, stop);
    let prepared = state.deployer.prepare(prepare, key, &mut list)?;
    Ok(json!({
        "tree": tree,
        "base": prepared.base,
        "missing": prepared.missing,
        "missing_bytes": prepared.missing_bytes,
        "accepts": state.accepts(),
    }))
}
