//! A directory or a tarball of the server's own, as the user of `--run-as` may read it.

use std::fs::File;
use std::io;
use std::path::Path;

use crate::api::error::{Error, Refusal};
use crate::api::event::Event;
use crate::engine::attempt::Attempt;
use crate::engine::fetch::FetchRequest;
use crate::engine::fetch::payload::{FetchedPayload, PayloadWriter};
use crate::formats::archive::{self, Effort, PackOptions};
use crate::system::child::act_as;
use crate::system::files;

/// How hard a directory is compressed that does not go over a network.
const LEVEL: u32 = 1;

/// Takes what is at a path.
pub(super) fn fetch(
    request: &FetchRequest<'_>,
    path: &Path,
    attempt: &mut Attempt,
    payload: &mut FetchedPayload<'_>,
) -> Result<(), Refusal> {
    let is_dir = act_as(request.account, || Ok(path.metadata()?.is_dir()));
    if is_dir.map_err(|error| request.failed(error))? {
        // As `gangplank deploy` would take it from there.
        return pack(request, path, PackOptions::default(), attempt, payload);
    }
    let file = open_file(request, path)?;
    payload.expect(file.metadata().ok().map(|meta| meta.len()))?;
    payload.copy(file, attempt)?;
    payload.tell(attempt);
    Ok(())
}

/// Opens a regular file as the user.
pub(super) fn open_file(request: &FetchRequest<'_>, path: &Path) -> Result<File, Refusal> {
    let opened = act_as(request.account, || {
        let file = files::open_at_once(path)?;
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(io::Error::other(
                "it is neither a directory nor a regular file",
            )),
        }
    });
    opened.map_err(|error| request.failed(error))
}

/// Makes the payload of a directory, as the user.
pub(super) fn pack(
    request: &FetchRequest<'_>,
    dir: &Path,
    options: PackOptions,
    attempt: &mut Attempt,
    payload: &mut FetchedPayload<'_>,
) -> Result<(), Refusal> {
    let packed = {
        let attempt = &mut *attempt;
        act_as(request.account, move || {
            let plan = match archive::plan(dir, &options) {
                Ok(plan) => plan,
                Err(error) => return Ok(Err(error)),
            };
            let out = io::BufWriter::new(PayloadWriter { payload, attempt });
            let written = plan.write(out, Effort::Level(LEVEL), &mut |_| {});
            let left_out = plan
                .secrets()
                .iter()
                .map(|name| format!("'{name}' is left out as a secret"));
            let warnings: Vec<String> = plan.warnings().iter().cloned().chain(left_out).collect();
            Ok(written.map(|()| warnings))
        })
    };
    let warnings = packed
        .map_err(|error| request.failed(error))?
        .map_err(|error| refused(request, &error))?;
    for warning in warnings {
        attempt.emit(&Event::Warning(warning))?;
    }
    Ok(())
}

/// What the payload refused, or why the directory cannot be packed.
fn refused(request: &FetchRequest<'_>, error: &Error) -> Refusal {
    let inner = error.io().and_then(io::Error::get_ref);
    match inner.and_then(|inner| inner.downcast_ref::<Refusal>()) {
        Some(refusal) => refusal.clone(),
        None => request.failed(error),
    }
}
