//! `logs`: what the processes of a component print, line by line on stdout.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use serde_json::Value;

use crate::api::error::Error;
use crate::api::json;
use crate::api::operation::{Logs, Operation, OperationCall};
use crate::cli::arguments::{ClientOptions, CommandLine, Usage, value};
use crate::cli::commands::{CommandSpec, Context, Job, Parse, here};
use crate::cli::screen::{is_unread, print_line};
use crate::cli::session::CommandError;
use crate::cli::session::follow::{FollowedRequest, Shown};
use crate::system::time::now_ms;

pub(super) const COMMAND: CommandSpec = CommandSpec {
    words: &["logs"],
    usage: "logs PROJECT",
    summary: "what its processes print",
    help: "\
usage: gangplank logs [PROJECT] [FLAGS]

Prints what the processes of a component have printed, and when each was started
and how it ended.

  --lines N             the last N lines (100)
  --follow              and what they print from now on
  --since T             only what was printed since so long: 30s, 10m or seconds
  --type TYPE           only this process type, such as web
",
    example: "gangplank logs my-app --follow",
    parse: Parse::Client(parse),
};

/// So many lines are asked for after a connection broke; those of them that were printed are left out.
const AGAIN: u64 = 10_000;

/// So many of the printed lines are remembered for that.
const REMEMBERED: usize = 1000;

fn parse(mut line: CommandLine, _: &mut ClientOptions) -> Result<Job, Usage> {
    let follow = line.contains("--follow");
    let lines = value::parsed(&mut line, "--lines", value::number)?;
    let since = value::parsed(&mut line, "--since", value::some_duration)?;
    let since = since.map(|ago| {
        let ago = u64::try_from(ago.as_millis()).unwrap_or(u64::MAX);
        now_ms().saturating_sub(ago)
    });
    let kind = value::text(&mut line, "--type")?;
    let project = value::at_most_one("PROJECT", line, value::project)?;
    Ok(Job::run(move |context| {
        let project = project.map_or_else(here, Ok)?;
        let logs = |lines| {
            OperationCall::from(Operation::GetLogs(Logs {
                project: project.clone(),
                lines,
                follow,
                since,
                kind: kind.clone(),
            }))
        };
        run(context, follow, [logs(lines), logs(Some(AGAIN))])
    }))
}

/// Asks for lines as events, so that "there are none" is said, and is not an empty answer that anybody could give.
fn run(
    context: Context<'_>,
    follow: bool,
    [first, again]: [OperationCall; 2],
) -> Result<Option<Value>, CommandError> {
    let options = context.options;
    let mut printer = LogPrinter {
        follow,
        raw: options.raw_output,
        text: (options.output_given && !follow).then(String::new),
        seen: SeenLines::default(),
        failed: None,
    };
    let mut session = context.session()?;
    session.fit(&first)?;
    let request = FollowedRequest::Lines {
        first: &first,
        again: follow.then_some(&again),
    };
    if follow {
        session.screen.waits_for("waiting for the first line");
    }
    let value = session.follow_with(request, &mut |screen, shown| {
        if follow {
            screen.gives_way();
        }
        printer.show(shown)
    })?;
    // A server that streams nothing gives all lines at once.
    for line in value.as_str().unwrap_or_default().lines() {
        if !printer.print(line) {
            break;
        }
    }
    match printer.failed {
        Some(error) if error.io().is_some_and(is_unread) => Ok(None),
        Some(error) => Err(CommandError::usage(error)),
        None => Ok(printer.text.map(Value::from)),
    }
}

/// Prints the lines of a log, none twice.
struct LogPrinter {
    follow: bool,
    raw: bool,
    /// Where the lines are collected, if they are one result.
    text: Option<String>,
    seen: SeenLines,
    failed: Option<Error>,
}

impl LogPrinter {
    /// False if nobody reads any further.
    fn show(&mut self, shown: Shown<'_>) -> bool {
        let record = match shown {
            Shown::Record(record) if record.event == "log" => record,
            Shown::Record(_) => return true,
            Shown::Again => {
                self.seen.begin_again();
                return true;
            }
        };
        let Ok(value) = json::from_text::<Value>(&record.data) else {
            return self.print(&record.data);
        };
        let part = |key| value.get(key).and_then(Value::as_str).unwrap_or_default();
        // Servers before this version say `time`.
        let at = if value.get("at").is_some() {
            "at"
        } else {
            "time"
        };
        if !self.seen.is_new(part(at), &record.data) {
            return true;
        }
        let line = match self.follow {
            true => format!("{} | {}", part("type"), part("line")),
            false => [at, "type", "stream", "line"].map(part).join(" "),
        };
        self.print(&line)
    }

    fn print(&mut self, line: &str) -> bool {
        if let Some(text) = &mut self.text {
            text.extend([line, "\n"]);
            return true;
        }
        self.failed = print_line(line, self.raw).err();
        self.failed.is_none()
    }
}

/// The newest lines that were printed: their times, and a number made of each.
#[derive(Default)]
struct SeenLines {
    newest: VecDeque<(String, u64)>,
    /// What of them may come again since the connection was made anew, and how often.
    again: HashMap<u64, usize>,
    /// Lines from before this time are not new.
    oldest: String,
}

impl SeenLines {
    fn begin_again(&mut self) {
        self.again.clear();
        for (_, number) in &self.newest {
            *self.again.entry(*number).or_default() += 1;
        }
        self.oldest = self
            .newest
            .front()
            .map(|(time, _)| time.clone())
            .unwrap_or_default();
    }

    fn is_new(&mut self, time: &str, line: &str) -> bool {
        let mut hasher = DefaultHasher::new();
        line.hash(&mut hasher);
        let number = hasher.finish();
        if let Some(count) = self.again.get_mut(&number).filter(|count| **count > 0) {
            *count -= 1;
            return false;
        }
        // Times are RFC 3339 in UTC with milliseconds, so that they are in order as texts.
        if time < self.oldest.as_str() {
            return false;
        }
        if self.newest.len() == REMEMBERED {
            self.newest.pop_front();
        }
        self.newest.push_back((time.to_owned(), number));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_come_again_are_not_printed_again() {
        let mut seen = SeenLines::default();
        let mut new = |lines: &[(&str, &str)]| -> Vec<bool> {
            lines
                .iter()
                .map(|(time, line)| seen.is_new(time, line))
                .collect()
        };
        // The same line twice within a millisecond is two lines.
        assert_eq!(
            new(&[("2", "a"), ("2", "a"), ("3", "b"), ("2", "late")]),
            [true; 4]
        );
        seen.begin_again();
        let mut new = |lines: &[(&str, &str)]| -> Vec<bool> {
            lines
                .iter()
                .map(|(time, line)| seen.is_new(time, line))
                .collect()
        };
        let again = [
            ("1", "z"),
            ("2", "a"),
            ("2", "a"),
            ("2", "late"),
            ("3", "b"),
            ("3", "b"),
            ("4", "c"),
        ];
        assert_eq!(new(&again), [false, false, false, false, false, true, true]);
    }
}
