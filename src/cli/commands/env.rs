//! `env`: shows and changes a component's environment.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::api::error::{Doing, Error, Exit};
use crate::api::name::{Project, Secret, VariableName};
use crate::api::operation::{EnvChange, ForPeers, Operation, Restart};
use crate::cli::arguments::{
    ClientOptions, CommandLine, Usage, finish_words, leftover, one_of, value,
};
use crate::cli::commands::{CommandSpec, Context, Job, Parse, here};
use crate::cli::screen::{OutputFormat, print_bytes};
use crate::cli::session::CommandError;
use crate::client::NoResult;
use crate::formats::dotenv::{BadEnvLine, EnvText, written};
use crate::system::files::{open_at_once, read_up_to};

/// The longest file that is read: as long as the server's own may be.
const FILE_LEN_MAX: u64 = 1 << 20;

/// Of the names of what was changed a record has so many characters, which is far below what a message may have.
const NAMES_LEN_MAX: usize = 1000;

pub(super) const COMMAND: CommandSpec = CommandSpec {
    words: &["env"],
    usage: "env list|get|set|unset",
    summary: "a component's environment",
    help: "\
usage: gangplank env list [PROJECT] [FLAGS]
       gangplank env get [PROJECT] [KEY]... [FLAGS]
       gangplank env set [PROJECT] [KEY=VALUE]... [--from F] [--restart] [FLAGS]
       gangplank env unset [PROJECT] KEY... [--restart] [FLAGS]

The environment of everything that a component runs, before its first
deployment too. `list` has the names, `get` the values: of one KEY alone, else
of all as lines that `--from` reads. A process that runs has a change after its
next restart. Where gangplank.json names the component it may be left out, and a
first word in capitals is a KEY.

  --project NAME        the component, in place of a first word
  --from F              set: the KEY=VALUE lines of F, or of stdin if it is -
  --restart             restart the component's processes then
",
    example: "gangplank env set my-app --from .env --restart",
    parse: Parse::Client(parse),
};

fn parse(mut line: CommandLine, options: &mut ClientOptions) -> Result<Job, Usage> {
    let action = one_of("env", &mut line, &["list", "get", "set", "unset"])?;
    let is_change = matches!(action, "set" | "unset");
    let from = match action {
        "set" => value::path(&mut line, "--from")?,
        _ => None,
    };
    let stdin = Some(Path::new("-"));
    if from.as_deref() == stdin && options.token_file.as_deref() == stdin {
        return Err(Usage::new("--from and --token-file cannot both be stdin"));
    }
    let restart = is_change && line.contains("--restart");
    let project = value::parsed(&mut line, "--project", value::project)?;
    let words = finish_words(line)?;
    if action == "set" {
        return set(project, words, from, restart);
    }
    if action == "list" && words.len() + usize::from(project.is_some()) > 1 {
        return Err(leftover(&words[words.len() - 1]));
    }
    if action == "unset" && words.is_empty() {
        return Err(Usage::new("KEY is missing"));
    }
    Ok(Job::run(move |context| {
        let parted = parted(action, project, words);
        let (project, words) = parted.map_err(CommandError::usage)?;
        let project = match project {
            Some(project) => project,
            None if action == "unset" => unset_here(&words[0])?,
            None => here()?,
        };
        let names = words.into_iter().map(name).collect::<Result<Vec<_>, _>>();
        let names = names.map_err(CommandError::usage)?;
        match action {
            "list" => list(context, project).map(Some),
            "get" => get(context, project, &names),
            _ => {
                let change = EnvChange {
                    project,
                    set: [].into(),
                    unset: names,
                };
                run(context, change, None, restart)
            }
        }
    }))
}

fn set(
    mut project: Option<Project>,
    words: Vec<OsString>,
    from: Option<PathBuf>,
    restart: bool,
) -> Result<Job, Usage> {
    let mut words = words.into_iter().peekable();
    // No name of a component has an equals sign.
    let has_component = words
        .peek()
        .is_some_and(|word| !word.as_encoded_bytes().contains(&b'='));
    if project.is_none() && has_component {
        project = words.next().map(|word| component(&word)).transpose()?;
    }
    let set = words.map(pair).collect::<Result<Vec<_>, _>>()?;
    if set.is_empty() && from.is_none() {
        return Err(Usage::new("KEY=VALUE or --from is missing"));
    }
    let set = set.into_iter().collect();
    Ok(Job::run(move |context| {
        let change = EnvChange {
            project: project.map_or_else(here, Ok)?,
            set,
            unset: Vec::new(),
        };
        run(context, change, from, restart)
    }))
}

fn component(word: &OsStr) -> Result<Project, Usage> {
    let text = word.to_str().ok_or_else(|| leftover(word))?;
    value::named("PROJECT", text, value::project)
}

/// Parts the component from the variables after it. Where the directory has a component, a first word in capitals is one of
/// these; so is the only word of `unset`.
fn parted(
    action: &str,
    project: Option<Project>,
    mut words: Vec<OsString>,
) -> Result<(Option<Project>, Vec<OsString>), Usage> {
    if project.is_some() || words.len() <= usize::from(action == "unset") {
        return Ok((project, words));
    }
    if action != "list" && is_in_capitals(&words[0]) && here().is_ok() {
        return Ok((None, words));
    }
    let first = words.remove(0);
    Ok((Some(component(&first)?), words))
}

/// The component of the working directory, for `unset` with one word: it may be one whose variable was forgotten.
fn unset_here(word: &OsStr) -> Result<Project, CommandError> {
    match here() {
        Ok(project) if *word == *project.as_str() => Err(CommandError::usage("KEY is missing")),
        Err(mut error) if error.failed.message.starts_with("PROJECT is missing") => {
            error.failed.message.insert_str(0, "KEY or ");
            Err(error)
        }
        project => project,
    }
}

fn is_in_capitals(word: &OsStr) -> bool {
    let fits = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_';
    let bytes = word.as_encoded_bytes();
    bytes.iter().all(fits) && bytes.iter().any(u8::is_ascii_uppercase)
}

/// A name; what stands after an equals sign may be a secret and is not named.
fn name(word: OsString) -> Result<VariableName, Usage> {
    let text = word.to_str().filter(|text| !text.contains('='));
    let text = text.ok_or_else(|| leftover(&word))?;
    text.parse()
        .map_err(|why| Usage::new(format!("{text:?}: {why}")))
}

fn pair(word: OsString) -> Result<(VariableName, Secret), Usage> {
    let text = word.to_str();
    let text = text.ok_or_else(|| Usage::new("a KEY=VALUE is not UTF-8"))?;
    // Without an equals sign it may be a value that lost its key.
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| Usage::new("an argument of env set has no '=': expected KEY=VALUE"))?;
    let key = key.parse().map_err(|why: &str| Usage::new(why))?;
    Ok((key, Secret::new(value)))
}

fn list(context: Context<'_>, project: Project) -> Result<Value, CommandError> {
    let is_text = context.options.output == OutputFormat::Text;
    let answer = context
        .session()?
        .call(&Operation::GetEnv(project, false).into())?;
    let names = answer.get("names").and_then(Value::as_array);
    let lines = names.into_iter().flatten().filter_map(Value::as_str);
    let lines: Vec<&str> = lines.collect();
    match is_text {
        true => Ok(lines.join("\n").into()),
        false => Ok(answer),
    }
}

/// Prints values: one alone as it is, and several as lines that read back the same, unless another form is asked for.
fn get(
    context: Context<'_>,
    project: Project,
    names: &[VariableName],
) -> Result<Option<Value>, CommandError> {
    let output = context.options.output;
    let call = Operation::GetEnv(project.clone(), true).into();
    let mut session = context.session()?;
    let answer = session.call(&call)?;
    let empty = Map::new();
    let all = answer.get("values").and_then(Value::as_object);
    let all = all.unwrap_or(&empty);
    let mut chosen = Map::new();
    for name in names {
        let value = all.get(name.as_str()).ok_or_else(|| {
            let why = format!("{name} is not set in the environment of {project}");
            NoResult::new(Exit::Refused, why)
        })?;
        chosen.insert(name.to_string(), value.clone());
    }
    if names.is_empty() {
        chosen = all.clone();
        if chosen.is_empty() {
            // It may be a variable that was meant.
            let remark = format!("the environment of {project} is empty");
            session.screen.remark(&remark);
        }
    }
    if !matches!(output, OutputFormat::Auto | OutputFormat::Text) {
        return Ok(Some(chosen.into()));
    }
    let mut text = String::new();
    for (name, value) in &chosen {
        let value = value.as_str().unwrap_or_default();
        match name.parse::<VariableName>() {
            Ok(name) if names.len() != 1 => text += &written(&name, value),
            _ => text += value,
        }
        text.push('\n');
    }
    print_bytes(text.as_bytes()).map_err(CommandError::usage)?;
    Ok(None)
}

/// Sends a change; a variable of the command line is stronger than the file's.
fn run(
    context: Context<'_>,
    mut change: EnvChange,
    from: Option<PathBuf>,
    restart: bool,
) -> Result<Option<Value>, CommandError> {
    if let Some(from) = from {
        let (set, warnings) = read(&from).map_err(CommandError::usage)?;
        for warning in warnings {
            context.screen.warning(&warning);
        }
        for (name, value) in set {
            change.set.entry(name).or_insert(value);
        }
    }
    let project = change.project.clone();
    let mut session = context.session()?;
    let answer = session.call(&Operation::SetEnv(change).into())?;
    if !restart {
        return Ok(Some(answer));
    }
    if let Some(message) = answer.get("message").and_then(Value::as_str) {
        session.screen.remark(message);
    }
    let restart = Operation::Restart(
        project,
        Restart::Immediate,
        names(&answer),
        ForPeers::default(),
    );
    session.call(&restart.into()).map(Some)
}

/// What a restart is for: the names of what was changed, which its record may say.
fn names(answer: &Value) -> Option<String> {
    let part = |key: &str| {
        let names = answer.get(key).and_then(Value::as_array)?.iter();
        let names: Vec<&str> = names.filter_map(Value::as_str).collect();
        (!names.is_empty()).then(|| format!("{key} {}", names.join(", ")))
    };
    let parts: Vec<String> = ["set", "unset"].into_iter().filter_map(part).collect();
    let all = format!("environment: {}", parts.join("; "));
    (!parts.is_empty()).then(|| all.chars().take(NAMES_LEN_MAX).collect())
}

/// Variables, and what is to be warned of.
type FromFile = (Vec<(VariableName, Secret)>, Vec<String>);

fn read(from: &Path) -> Result<FromFile, Error> {
    let is_stdin = from == Path::new("-");
    let name = match is_stdin {
        true => "stdin".to_owned(),
        false => from.display().to_string(),
    };
    let what = || format!("reading {name}");
    let source: Box<dyn Read> = match is_stdin {
        true => Box::new(io::stdin().lock()),
        false => Box::new(open_at_once(from).doing(what)?),
    };
    let bytes = read_up_to(source, FILE_LEN_MAX).doing(what)?;
    let bytes = bytes
        .ok_or_else(|| Error::new(what(), format!("it is longer than {FILE_LEN_MAX} bytes")))?;
    let text = String::from_utf8(bytes).map_err(|_| Error::new(what(), "it is not UTF-8"))?;
    let read = EnvText::read(&text)
        .map_err(|BadEnvLine { line, why }| Error::new(what(), format!("line {line}: {why}")))?;
    let warnings = read.notes().map(|line| {
        format!("{name}: line {line}: the text from '#' on is a part of the value; a comment has a line of its own")
    });
    let variables = read.variables().into_iter();
    let variables = variables.map(|(name, value)| (name.clone(), Secret::new(value)));
    Ok((variables.collect(), warnings.collect()))
}
