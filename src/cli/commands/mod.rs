//! The commands, a file each: what its help says, how its arguments are read, and what it does. To add one, write its file
//! as its neighbours are, and name it in [`COMMANDS`].
//!
//! Here is the one place that says what went wrong and how the program ends. Stdout gets the result alone, and only if
//! there is one.

mod cancel;
mod completions;
mod deploy;
mod drop;
mod env;
mod failure;
mod fleet;
mod help;
mod install_service;
mod job;
mod list;
mod logs;
mod man;
mod op;
mod payload;
mod restart;
mod rollback;
mod run;
mod serve;
mod show;
mod start;
mod status;
mod stop;
mod sync;
mod target;
mod token;
mod ui;
mod watch;

use std::ffi::OsString;
use std::process::ExitCode;

use serde_json::Value;

use crate::api::error::{Code, Exit};
use crate::api::name::DeploymentId;
use crate::cli::arguments::{
    self, ClientOptions, CommandLine, Environment, FLAGS_HELP, FLAGS_TOPIC, Forms, Usage, finish,
};
use crate::cli::commands::job::{Context, Job, JobEnd, LocalJob, here, word_or_here};
use crate::cli::screen::{OutputFormat, Progress, Screen, print_result};
use crate::cli::session::connect::LoginHint;
use crate::cli::session::{CommandError, connect};
use crate::client::NoResult;
use crate::client::kind::ServerKind;
use crate::engine::settings::ServeOptions;
use crate::system::nearest::nearest;

/// All commands, in the order in which the help lists them.
const COMMANDS: &[CommandSpec] = &[
    serve::COMMAND,
    deploy::COMMAND,
    watch::COMMAND,
    list::COMMAND,
    show::COMMAND,
    rollback::COMMAND,
    cancel::COMMAND,
    payload::COMMAND,
    status::COMMAND,
    restart::COMMAND,
    stop::COMMAND,
    start::COMMAND,
    drop::COMMAND,
    env::COMMAND,
    run::COMMAND,
    logs::COMMAND,
    sync::COMMAND,
    ui::COMMAND,
    fleet::COMMAND,
    op::COMMAND,
    target::COMMAND,
    token::COMMAND,
    install_service::COMMAND,
    completions::COMMAND,
    man::COMMAND,
];

/// How the program ends, two spaces between one code and the next.
const EXIT_CODES: &str = "  0 success  1 the server said no  2 wrong usage, or something local
  3 server not reached, or upload broken  4 not authorised
  5 outcome unknown  6 busy  130 interrupted
";

/// What it is for.
const PURPOSE: &str = "deploy a directory to a server, and watch it live";

/// A command.
struct CommandSpec {
    /// Its word, and others that mean the same.
    words: &'static [&'static str],
    /// How the list of all commands shows it.
    usage: &'static str,
    summary: &'static str,
    /// Its help, but for the example, and for the options that all client commands have.
    help: &'static str,
    example: &'static str,
    parse: Parse,
}

/// How a command's arguments are read.
enum Parse {
    Client(fn(CommandLine, &mut ClientOptions) -> Result<Job, Usage>),
    Local(fn(CommandLine, Environment) -> Result<Command, Usage>),
}

impl CommandSpec {
    fn of(word: &str) -> Result<&'static CommandSpec, Usage> {
        let mut all = COMMANDS.iter();
        all.find(|command| command.words.contains(&word))
            .ok_or_else(|| {
                let words = COMMANDS.iter().flat_map(|command| command.words);
                let hint = match nearest(word, words.copied()) {
                    Some(nearest) => format!("did you mean {nearest}?"),
                    None => "`gangplank help` lists them".to_owned(),
                };
                Usage::new(format!("unknown command {word:?}; {hint}"))
            })
    }

    fn help(&self) -> String {
        let shared = match self.parse {
            Parse::Client(_) => {
                "\nmore flags: `gangplank help flags` (--target, --token-file, --output, ...)"
            }
            Parse::Local(_) => "",
        };
        format!("{}{shared}\nexample:\n  {}\n", self.help, self.example)
    }

    /// Every text that names a flag of the command.
    fn flags(&self) -> String {
        let shared = match self.parse {
            Parse::Client(_) => FLAGS_HELP,
            Parse::Local(_) => "",
        };
        // Some stand in the help of another command.
        let list = self.flag_list(None).into_iter().map(|flag| flag.name);
        let names: Vec<String> = list.collect();
        format!("{} {shared} {}", self.help, names.join(" "))
    }
}

/// What the user wants.
#[derive(Debug)]
enum Command {
    /// Print this text on stdout.
    Help(String),
    Serve(Box<ServeOptions>),
    /// Ask nobody.
    Local(LocalJob),
    /// Ask a server.
    Client(Box<ClientOptions>, Job),
}

/// What is left to be done when the arguments were read.
#[derive(Debug)]
pub(crate) enum Next {
    /// Nothing: the program ends like this.
    End(ExitCode),
    /// Run the server.
    Serve(Box<ServeOptions>),
}

/// Reads the arguments, the program's own name not among them, and does what they say but for running the server.
pub(crate) fn start(arguments: Vec<OsString>) -> Next {
    let nothing = arguments.is_empty();
    // Known before the arguments are, which may be what is wrong.
    let forms = Forms::asked(&arguments);
    let environment = |name: &str| std::env::var(name).ok();
    match parse(arguments, &environment) {
        Ok(Command::Serve(options)) => Next::Serve(options),
        Ok(Command::Local(job)) => Next::End(run_local(job, &forms).into()),
        Ok(Command::Help(text)) => Next::End(print(&Value::from(text), OutputFormat::Text).into()),
        Ok(Command::Client(options, job)) => Next::End(run(&options, job)),
        Err(usage) => {
            if nothing {
                let mut screen = Screen::new(Progress::Plain, false);
                for line in usage_text().lines() {
                    screen.remark(line);
                }
            } else {
                say_local(&usage.to_string(), &forms);
            }
            Next::End(Exit::Usage.into())
        }
    }
}

fn parse(words: Vec<OsString>, environment: Environment) -> Result<Command, Usage> {
    let environment = |name: &str| environment(name).filter(|value| !value.is_empty());
    let mut line = CommandLine::new(words);
    let Some(name) = line.subcommand()? else {
        return without_command(line);
    };
    if name == "help" {
        let about = line.subcommand()?;
        finish(line)?;
        return Ok(Command::Help(match about {
            None => overview(),
            Some(about) if is_topic(&about) => FLAGS_HELP.to_owned(),
            Some(about) => CommandSpec::of(&about)?.help(),
        }));
    }
    let spec = CommandSpec::of(&name)?;
    if line.contains(["-h", "--help"]) {
        return Ok(Command::Help(spec.help()));
    }
    let command = match spec.parse {
        Parse::Local(parse) => parse(line, &environment),
        Parse::Client(parse) => arguments::client(&mut line).and_then(|mut options| {
            let job = parse(line, &mut options)?;
            Ok(Command::Client(Box::new(options), job))
        }),
    };
    command.map_err(|usage| usage.explained(&spec.flags()))
}

/// Whether it is the one word of `help` that is not a command, or nearly so.
fn is_topic(about: &str) -> bool {
    CommandSpec::of(about).is_err() && nearest(about, [FLAGS_TOPIC]).is_some()
}

fn without_command(mut line: CommandLine) -> Result<Command, Usage> {
    let version = line.contains(["-V", "--version"]);
    let help = line.contains(["-h", "--help"]);
    finish(line).map_err(|usage| match usage.is_about_one_of(FLAGS_HELP) {
        true => Usage::new("the command comes first, then its flags: gangplank COMMAND [FLAGS]"),
        false => usage.explained("--version --help"),
    })?;
    if help {
        Ok(Command::Help(overview()))
    } else if version {
        let version = env!("CARGO_PKG_VERSION");
        Ok(Command::Help(format!("gangplank {version}\n")))
    } else {
        Err(Usage::new("no command was given"))
    }
}

/// The few lines for who gave no command.
fn usage_text() -> String {
    let mut text = "usage: gangplank COMMAND [FLAGS]\ncommands:".to_owned();
    let mut width = "commands:".len();
    for (at, command) in COMMANDS.iter().enumerate() {
        let comma = if at + 1 < COMMANDS.len() { "," } else { "" };
        let word = format!(" {}{comma}", command.words[0]);
        if width + word.len() > 80 {
            text += "\n         ";
            width = 9;
        }
        width += word.len();
        text += &word;
    }
    text + "\n`gangplank help` says more, `gangplank help COMMAND` all.\n"
}

/// All commands.
fn overview() -> String {
    let lines = COMMANDS
        .iter()
        .map(|command| format!("  {:<22}  {}\n", command.usage, command.summary));
    format!(
        "\
gangplank: {PURPOSE}

usage: gangplank COMMAND [FLAGS]

{}
`gangplank help COMMAND` and `gangplank COMMAND --help` say more; `gangplank
help flags` has what all commands take that ask a server.

exit codes:
{EXIT_CODES}
example:
  gangplank serve &  gangplank deploy ./my-app
",
        lines.collect::<String>()
    )
}

/// Says what is wrong here, where no server was asked.
fn say_local(message: &str, forms: &Forms) {
    let mut screen = Screen::new(forms.progress, false);
    screen.error(message, None);
    let failed = NoResult::new(Exit::Usage, message);
    failure::print(&failed, forms.output, &mut screen);
}

fn run_local(LocalJob(job): LocalJob, forms: &Forms) -> Exit {
    let mut screen = Screen::new(forms.progress, false);
    match job(&mut screen) {
        Ok((value, output)) => {
            screen.finish();
            print(&value, output)
        }
        Err(error) => {
            drop(screen);
            say_local(&error.to_string(), forms);
            Exit::Usage
        }
    }
}

fn run(options: &ClientOptions, job: Job) -> ExitCode {
    let mut screen = Screen::new(options.progress, options.raw_output);
    let result = ask(options, job, &mut screen);
    screen.finish();
    let exit = match result {
        Ok(JobEnd::Exit(code)) => return code.into(),
        Ok(JobEnd::Result(Some(value))) => match print_result(&value, options.output) {
            Ok(()) => Exit::Success,
            Err(error) => {
                // What was asked for is done, whether its result can be shown or not.
                let done = value.get("message").and_then(Value::as_str);
                let done = done.unwrap_or("the server has answered");
                screen.error(&format!("{done}, but {error}"), None);
                Exit::Usage
            }
        },
        Ok(JobEnd::Result(None)) => Exit::Success,
        Err(failed) => {
            say(&failed, options, &mut screen);
            failure::print(&failed.failed, options.output, &mut screen);
            failed.failed.exit
        }
    };
    exit.into()
}

/// Does it, and says what came of it.
fn ask(options: &ClientOptions, job: Job, screen: &mut Screen) -> Result<JobEnd, CommandError> {
    let connection = connect::connection(options, screen)?;
    let context = Context {
        client: &connection.client,
        options,
        screen,
    };
    let result = match job {
        Job::Operation(call) => {
            let call = context
                .session()
                .and_then(|mut session| session.call(&call));
            call.map(|result| JobEnd::Result(Some(result)))
        }
        Job::Run(job) => job(context).map(JobEnd::Result),
        Job::Command(job) => job(context).map(JobEnd::Exit),
    };
    result.map_err(|mut trouble| {
        let failed = &mut trouble.failed;
        if let Some(hint) = about_login(failed, &connection.login) {
            failed.message += &format!("; {hint}");
        }
        trouble.cancel = matches!(connection.client.kind(), None | Some(ServerKind::Gangplank));
        trouble
    })
}

/// How to say who asks, where the server does not know it. Harper's code is the status alone.
fn about_login<'h>(failed: &NoResult, hint: &'h LoginHint) -> Option<&'h str> {
    let hint = match failed.code.as_deref() {
        None => hint.foreign.as_deref(),
        Some(code) => (code == Code::Unauthorized.word()).then_some(&*hint.own),
    };
    hint.filter(|_| failed.exit == Exit::Unauthorized)
}

fn print(value: &Value, output: OutputFormat) -> Exit {
    match print_result(value, output) {
        Ok(()) => Exit::Success,
        Err(error) => {
            Screen::new(Progress::Quiet, false).error(&error.to_string(), None);
            Exit::Usage
        }
    }
}

/// One error, with the way to go on, so that `--progress quiet` has both.
fn say(trouble: &CommandError, options: &ClientOptions, screen: &mut Screen) {
    if trouble.shown {
        return;
    }
    let failed = &trouble.failed;
    let mut message = failed.message.clone();
    if trouble.watch {
        // What is not an id is never a part of a command that somebody copies.
        let id = failed.deployment_id.as_deref();
        message += &match id.and_then(|id| id.parse::<DeploymentId>().ok()) {
            Some(id) => {
                let target = connect::target_flag(options);
                let mut hint = format!(
                    "; deployment {id} may go on\nfollow it with: gangplank watch {id}{target}"
                );
                if failed.exit == Exit::Interrupted && trouble.cancel {
                    hint += &format!("\nstop it with: gangplank cancel {id}{target}");
                }
                hint
            }
            None => "; a deployment may go on, `gangplank list` shows it".to_owned(),
        };
    }
    screen.error(&message, failed.code.as_deref());
}

#[cfg(test)]
mod tests;
