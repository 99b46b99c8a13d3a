//! `run`: one command in a release, as if it ran here: its output, and its exit code.

use std::ffi::OsString;

use serde_json::{Value, json};

use crate::api::error::{Error, Exit};
use crate::api::event::{Event, Stream};
use crate::api::json;
use crate::api::operation::{CommandWords, Operation, OperationCall, RunCommand};
use crate::api::output::{CommandOutput, OUTPUT};
use crate::cli::arguments::value::DeploymentWord;
use crate::cli::arguments::{ClientOptions, CommandLine, Usage, finish_words, leftover, value};
use crate::cli::commands::{CommandSpec, Context, Job, Parse, here};
use crate::cli::screen::{
    OutputFormat, Progress, Screen, is_unread, print_bytes, print_error_bytes, print_result,
};
use crate::cli::session::CommandError;
use crate::cli::session::find::Purpose;
use crate::cli::session::follow::{FollowedRequest, Shown};
use crate::client::NoResult;
use crate::formats::sse::SseRecord;

pub(super) const COMMAND: CommandSpec = CommandSpec {
    words: &["run"],
    usage: "run PROJECT -- CMD",
    summary: "run one command in its release",
    help: "\
usage: gangplank run [PROJECT] [FLAGS] -- CMD [ARGUMENT...]

Runs a command in the live release, with all that its processes have in their
environment, prints what it prints, and ends with its exit code (128 and the
number of a signal that ended it). It has no input, and ends with this client.
One word alone is a line for the shell; several go to the program as they are.

  --release ID          in this release, which must be kept
  --timeout T           end it after so long: 30s, 10m or seconds
  --output json         its exit code and output as one result (yaml too)
",
    example: "gangplank run my-app -- bin/migrate --dry-run",
    parse: Parse::Client(parse),
};

/// As a shell tells of a program whose output nobody reads.
const UNREAD: u8 = 128 + 13;

fn parse(mut line: CommandLine, _: &mut ClientOptions) -> Result<Job, Usage> {
    let release = value::parsed(&mut line, "--release", value::deployment)?;
    let timeout = value::parsed(&mut line, "--timeout", value::some_duration)?;
    let timeout = timeout.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    let mut command = line.take_after();
    let mut words = finish_words(line)?;
    // Without `--` the first word is the component.
    if command.is_empty() && !words.is_empty() {
        command = words.split_off(1);
    }
    if let Some(more) = words.get(1) {
        return Err(leftover(more));
    }
    let project = words.first().map(|word| {
        let word = word.to_string_lossy();
        value::named("PROJECT", &word, value::project)
    });
    let project = project.transpose()?;
    let command = words_of(command)?;
    Ok(Job::command(move |context| {
        let run = RunCommand {
            project: project.map_or_else(here, Ok)?,
            command,
            release: None,
            timeout,
        };
        run_command(context, run, release.as_ref())
    }))
}

/// One word is a line for the shell.
fn words_of(words: Vec<OsString>) -> Result<CommandWords, Usage> {
    let words: Result<Vec<String>, OsString> =
        words.into_iter().map(OsString::into_string).collect();
    let words = words.map_err(|_| Usage::new("CMD is not UTF-8"))?;
    match <[String; 1]>::try_from(words) {
        Ok([line]) => Ok(CommandWords::Line(line)),
        Err(words) if words.is_empty() => {
            let why = "CMD is missing: gangplank run PROJECT -- CMD";
            Err(Usage::new(why))
        }
        Err(words) => Ok(CommandWords::Words(words)),
    }
}

fn run_command(
    context: Context<'_>,
    mut run: RunCommand,
    release: Option<&DeploymentWord>,
) -> Result<u8, CommandError> {
    let Context {
        client,
        options,
        screen,
    } = context;
    let collects = matches!(options.output, OutputFormat::Json | OutputFormat::Yaml);
    let mut printer = OutputPrinter {
        collected: collects.then(<[Vec<u8>; 2]>::default),
        screen,
        failed: None,
    };
    // What is printed is the command's alone; what goes wrong is said at the end.
    let mut quiet = Screen::new(Progress::Quiet, options.raw_output);
    let context = Context {
        client,
        options,
        screen: &mut quiet,
    };
    let mut session = context.session()?;
    if let Some(word) = release {
        run.release = Some(session.find(word, Some(&run.project), Purpose::Look)?);
    }
    let call = OperationCall::from(Operation::Run(run));
    let request = FollowedRequest::Operation(&call);
    let ended = session.follow_with(request, &mut |_, shown| match shown {
        Shown::Record(record) => printer.record(record),
        Shown::Again => true,
    });
    match printer.failed {
        Some(error) if error.io().is_some_and(is_unread) => return Ok(UNREAD),
        Some(error) => return Err(CommandError::usage(error)),
        None => {}
    }
    let result = ended.map_err(explained)?;
    let code = result.get("exit_code").and_then(Value::as_u64);
    let code = code.and_then(|code| u8::try_from(code).ok());
    let code = code.ok_or_else(|| {
        NoResult::new(
            Exit::Unknown,
            "the server does not say how the command ended",
        )
    })?;
    if let Some([out, err]) = printer.collected {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let result = json!({ "exit_code": code, "stdout": text(out), "stderr": text(err) });
        print_result(&result, options.output).map_err(CommandError::usage)?;
    }
    Ok(code)
}

/// A command that has no end here is not a deployment that could be looked at.
fn explained(mut error: CommandError) -> CommandError {
    error.shown = false;
    error.watch = false;
    error.failed.message += match error.failed.exit {
        Exit::Interrupted => ": the command is ended",
        Exit::Unknown => "; it is not known how far the command came",
        _ => "",
    };
    error
}

/// Prints what the command prints.
struct OutputPrinter<'a> {
    /// Stdout and stderr, if they are a result.
    collected: Option<[Vec<u8>; 2]>,
    /// For what the server says.
    screen: &'a mut Screen,
    failed: Option<Error>,
}

impl OutputPrinter<'_> {
    /// False if nobody reads any further.
    fn record(&mut self, record: &SseRecord) -> bool {
        let output = match record.event == OUTPUT {
            true => json::from_text::<CommandOutput>(&record.data).ok(),
            false => None,
        };
        if let Some(output) = output {
            return self.print(&output);
        }
        if let Event::Warning(message) = Event::parse(&record.event, &record.data) {
            self.screen.warning(&message);
            self.screen.flush();
        }
        true
    }

    fn print(&mut self, output: &CommandOutput) -> bool {
        let bytes = output.bytes();
        if let Some(collected) = &mut self.collected {
            collected[usize::from(output.stream == Stream::Stderr)].extend(bytes);
            return true;
        }
        let printed = match output.stream {
            Stream::Stdout => print_bytes(&bytes),
            Stream::Stderr => print_error_bytes(&bytes),
        };
        self.failed = printed.err();
        self.failed.is_none()
    }
}
