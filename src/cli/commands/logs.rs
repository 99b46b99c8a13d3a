//! `logs`: what the processes of a component print, line by line on stdout.

use serde_json::Value;

use crate::api::error::{Error, Exit};
use crate::api::operation::Fields;
use crate::cli::arguments::ClientOptions;
use crate::cli::commands::CommandError;
use crate::cli::commands::call::Call;
use crate::cli::commands::follow::{Following, Subject};
use crate::cli::commands::session::{NextNotice, Session};
use crate::cli::screen::print_line;
use crate::client::{NoResult, Notice, RequestStage, answer};
use crate::formats::sse::SseRecord;

pub(crate) fn run(
    session: &mut Session,
    fields: &Fields,
    follow: bool,
    options: &ClientOptions,
) -> Result<Option<Value>, CommandError> {
    if follow {
        return live(session, fields, options.raw_output).map(|()| None);
    }
    let ask = Call::Operation {
        fields,
        stream: false,
    };
    let value = Following::new(session, Subject::Reading, None).follow(ask)?;
    match &value {
        Value::String(text) if !options.output_given => {
            for line in text.lines() {
                if !printed(line, options.raw_output)? {
                    break;
                }
            }
            Ok(None)
        }
        _ => Ok(Some(value)),
    }
}

/// Until the stream ends, which one that is followed never does by itself, or nobody reads any more.
fn live(session: &mut Session, fields: &Fields, raw: bool) -> Result<(), CommandError> {
    let running = session
        .client
        .call(fields, true)
        .map_err(CommandError::usage)?;
    let mut status = 0;
    loop {
        match session.next(&running) {
            NextNotice::Notice(Notice::Record(record)) => match record.event.as_str() {
                "log" if printed(&line(&record), raw)? => {}
                "log" => return Ok(()),
                "done" => return Ok(()),
                "error" => return Err(answer::failed(&record.data, status).into()),
                _ => {}
            },
            NextNotice::Notice(Notice::Head(head)) => status = head,
            NextNotice::Notice(Notice::Answer(answer)) => return answer_of(&answer.judge()?, raw),
            NextNotice::Notice(Notice::Broken(stage, error)) => return Err(broken(stage, &error)),
            NextNotice::Notice(Notice::Ended) | NextNotice::Gone => {
                let message = "the log ended without its last event";
                return Err(NoResult::new(Exit::Unreachable, message).into());
            }
            NextNotice::Notice(_) | NextNotice::Tick => {}
            NextNotice::Signal => {
                let mut trouble =
                    CommandError::from(NoResult::new(Exit::Interrupted, "interrupted"));
                trouble.watch = false;
                return Err(trouble);
            }
        }
        if session.due() {
            session.tick();
        }
    }
}

/// A server that streams nothing has given all that there is.
fn answer_of(value: &Value, raw: bool) -> Result<(), CommandError> {
    for line in value.as_str().unwrap_or_default().lines() {
        if !printed(line, raw)? {
            break;
        }
    }
    Ok(())
}

fn broken(stage: RequestStage, error: &Error) -> CommandError {
    let what = match stage {
        RequestStage::Reading => "the log was cut: ",
        _ => "",
    };
    NoResult::new(Exit::Unreachable, format!("{what}{error}")).into()
}

/// `TYPE | line`.
fn line(record: &SseRecord) -> String {
    let Ok(value) = serde_json::from_str::<Value>(&record.data) else {
        return record.data.clone();
    };
    let part = |key| value.get(key).and_then(Value::as_str).unwrap_or_default();
    format!("{} | {}", part("type"), part("line"))
}

/// False if nobody reads any more.
fn printed(line: &str, raw: bool) -> Result<bool, CommandError> {
    match print_line(line, raw) {
        Ok(()) => Ok(true),
        Err(error) if error.io().is_some_and(is_unread) => Ok(false),
        Err(error) => Err(CommandError::usage(error)),
    }
}

/// Nobody reads stdout.
pub(crate) fn is_unread(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::BrokenPipe
}
