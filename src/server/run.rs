//! `run_component`: one command in a release, whose output is the answer.
//!
//! It is a stream whatever the client accepts: it ends the command when its client goes, and nothing else would.

use std::time::Duration;

use serde_json::json;

use crate::api::error::{Error, Refusal};
use crate::api::event::{Event, Failure};
use crate::api::operation::RunCommand;
use crate::api::output::OUTPUT;
use crate::engine::command::{CommandNews, RunningCommand};
use crate::formats::sse;
use crate::server::answers::Outcome;
use crate::server::auth::Caller;
use crate::server::pump::{Batch, LiveStream, StreamSource};
use crate::server::state::ServerState;

/// How often it is looked whether the client of a silent command is still there.
const LOOK: Duration = Duration::from_millis(500);

/// Performs `run_component`.
pub(super) fn run(
    state: &ServerState,
    run: &RunCommand,
    caller: &Caller,
) -> Result<Outcome, Refusal> {
    let command = state.deployer.run_command(run, caller.name().as_deref())?;
    Ok(Outcome::Stream(LiveStream {
        watching: false,
        source: Box::new(CommandStream(command)),
    }))
}

/// What a command prints, and how it ends.
struct CommandStream(RunningCommand);

impl StreamSource for CommandStream {
    fn next(&mut self, records: &mut Vec<u8>, wait: Duration) -> Result<Batch, Error> {
        let event = match self.0.next(wait.min(LOOK)) {
            None => return Ok(Batch::Nothing),
            Some(CommandNews::Output(output)) => {
                sse::frame(records, None, OUTPUT, &json!(output).to_string());
                return Ok(Batch::Records);
            }
            Some(CommandNews::Warning(message)) => Event::Warning(message),
            Some(CommandNews::Exited(code)) => Event::Done(json!({ "exit_code": code })),
            Some(CommandNews::Failed(refusal)) => Event::Error(Box::new(Failure {
                message: refusal.message,
                code: refusal.code.word().to_owned(),
                ..Failure::default()
            })),
        };
        sse::frame(records, None, event.name(), event.data().get());
        Ok(match event {
            Event::Warning(_) => Batch::Records,
            _ => Batch::End,
        })
    }
}
