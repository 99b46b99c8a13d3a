//! `logs`: what the processes of a component print, line by line on stdout.

use serde_json::Value;

use crate::cli::ClientOptions;
use crate::client::{Failed, Notice, Stage, answer};
use crate::error::{Error, Exit};
use crate::operation::Fields;
use crate::screen::print_line;
use crate::sse::Record;
use crate::user::Trouble;
use crate::user::ask::Ask;
use crate::user::follow::{Following, Subject};
use crate::user::session::{Next, Session};

pub(crate) fn run(
    session: &mut Session,
    fields: &Fields,
    follow: bool,
    options: &ClientOptions,
) -> Result<Option<Value>, Trouble> {
    if follow {
        return live(session, fields, options.raw_output).map(|()| None);
    }
    let ask = Ask::Call {
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
fn live(session: &mut Session, fields: &Fields, raw: bool) -> Result<(), Trouble> {
    let running = session.client.call(fields, true).map_err(Trouble::usage)?;
    let mut status = 0;
    loop {
        match session.next(&running) {
            Next::Notice(Notice::Record(record)) => match record.event.as_str() {
                "log" if printed(&line(&record), raw)? => {}
                "log" => return Ok(()),
                "done" => return Ok(()),
                "error" => return Err(answer::failed(&record.data, status).into()),
                _ => {}
            },
            Next::Notice(Notice::Head(head)) => status = head,
            Next::Notice(Notice::Answer(answer)) => return answer_of(&answer.judge()?, raw),
            Next::Notice(Notice::Broken(stage, error)) => return Err(broken(stage, &error)),
            Next::Notice(Notice::Ended) | Next::Gone => {
                let message = "the log ended without its last event";
                return Err(Failed::new(Exit::Unreachable, message).into());
            }
            Next::Notice(_) | Next::Tick => {}
            Next::Signal => {
                let mut trouble = Trouble::from(Failed::new(Exit::Interrupted, "interrupted"));
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
fn answer_of(value: &Value, raw: bool) -> Result<(), Trouble> {
    for line in value.as_str().unwrap_or_default().lines() {
        if !printed(line, raw)? {
            break;
        }
    }
    Ok(())
}

fn broken(stage: Stage, error: &Error) -> Trouble {
    let what = match stage {
        Stage::Reading => "the log was cut: ",
        _ => "",
    };
    Failed::new(Exit::Unreachable, format!("{what}{error}")).into()
}

/// `TYPE | line`.
fn line(record: &Record) -> String {
    let Ok(value) = serde_json::from_str::<Value>(&record.data) else {
        return record.data.clone();
    };
    let part = |key| value.get(key).and_then(Value::as_str).unwrap_or_default();
    format!("{} | {}", part("type"), part("line"))
}

/// False if nobody reads any more.
fn printed(line: &str, raw: bool) -> Result<bool, Trouble> {
    match print_line(line, raw) {
        Ok(()) => Ok(true),
        Err(error) if error.io().is_some_and(is_unread) => Ok(false),
        Err(error) => Err(Trouble::usage(error)),
    }
}

/// Nobody reads stdout.
pub(crate) fn is_unread(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::BrokenPipe
}
