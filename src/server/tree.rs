//! `get_tree` and `get_objects`: what a deployment's payload holds, and parts of that, for a server that lacks them.

use std::fs::File;
use std::io::{self, Write};

use crate::api::error::{Code, Doing, Refusal};
use crate::api::name::DeploymentId;
use crate::engine::deployer::not_found;
use crate::engine::held_tree::HeldTree;
use crate::formats::delta::ranges::Ranges;
use crate::server::answers::Outcome;
use crate::server::http::FileAnswer;
use crate::server::state::ServerState;

/// The tree of a deployment that has ended.
fn held(state: &ServerState, id: DeploymentId) -> Result<HeldTree, Refusal> {
    if state.deployer.is_running(id) {
        let why = format!("reading the tree of deployment {id}: it is still running");
        return Err(Refusal::new(Code::Conflict, why));
    }
    let store = &state.known.store;
    let one = store.read_summary(id)?.ok_or_else(|| not_found(id))?;
    HeldTree::open(store, &one.project, one.release_id)?.ok_or_else(|| {
        let why = format!("reading the tree of deployment {id}: its list is not here");
        Refusal::new(Code::NotFound, why)
    })
}

pub(super) fn get_tree(state: &ServerState, id: DeploymentId) -> Result<Outcome, Refusal> {
    let held = held(state, id)?;
    let what = || format!("reading {}", held.list().display());
    let list = File::open(held.list()).doing(what)?;
    let length = list.metadata().doing(what)?.len();
    Ok(Outcome::File(Box::new(FileAnswer {
        file: list,
        length,
        part: None,
        name: format!("manifest-{id}.gz"),
        hold: None,
    })))
}

pub(super) fn get_objects(
    state: &ServerState,
    id: DeploymentId,
    objects: &str,
) -> Result<Outcome, Refusal> {
    let Some(wanted) = Ranges::parse(objects) else {
        let why = "'objects' must be numbers in ascending order, such as 0-11,417, or 'all'";
        return Err(Refusal::new(Code::BadRequest, why));
    };
    let held = held(state, id)?;
    Ok(Outcome::Parts(Box::new(move |send| {
        held.write_objects(&wanted, Parts(send))
    })))
}

/// Sends what is written, part by part.
struct Parts<'a>(&'a mut dyn FnMut(&[u8]) -> io::Result<()>);

impl Write for Parts<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Nothing would be the end of what is sent.
        if !bytes.is_empty() {
            (self.0)(bytes)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
