//! `status`: what is live, of all components or of one.

use serde_json::Value;

use crate::api::error::Exit;
use crate::api::operation::Operation;
use crate::cli::arguments::{ClientOptions, CommandLine, Usage, value};
use crate::cli::commands::{CommandSpec, Job, Parse};
use crate::cli::screen::print_result;
use crate::cli::session::CommandError;
use crate::client::NoResult;

pub(super) const COMMAND: CommandSpec = CommandSpec {
    words: &["status"],
    usage: "status [PROJECT]",
    summary: "what is live",
    help: "\
usage: gangplank status [PROJECT] [FLAGS]

Shows what is live, since when, and which processes run. With PROJECT the exit
code is 1 if something does not run that should; what was stopped should not.

  --peers               on this host and all its peers; one that is off is said
                        to be so, and is not a failure
",
    example: "gangplank status my-app --output text",
    parse: Parse::Client(parse),
};

fn parse(mut line: CommandLine, _: &mut ClientOptions) -> Result<Job, Usage> {
    let peers = line.contains("--peers");
    let project = value::at_most_one("PROJECT", line, value::project)?;
    Ok(Job::run(move |context| {
        let output = context.options.output;
        let operation = Operation::GetComponents(peers);
        let value = context.session()?.call(&operation.into())?;
        let name = project.as_ref().map(|project| project.as_str());
        let value = match peers {
            true => only_on_hosts(value, name)?,
            false => only(value, name)?,
        };
        match name.and_then(|name| down(&value, name)) {
            None => Ok(Some(value)),
            Some(message) => {
                print_result(&value, output).map_err(CommandError::usage)?;
                Err(NoResult::new(Exit::Refused, message).into())
            }
        }
    }))
}

/// What does not run and should, in words: here, or on each of the hosts.
fn down(value: &Value, project: &str) -> Option<String> {
    let Some(hosts) = value["hosts"].as_array() else {
        let down = processes_down(value)?;
        return Some(format!("{project}: {down}"));
    };
    let words = hosts.iter().filter_map(|host| {
        let name = host["host"].as_str().unwrap_or_default();
        Some(format!("{project} on {name}: {}", processes_down(host)?))
    });
    let words: Vec<String> = words.collect();
    (!words.is_empty()).then(|| words.join("; "))
}

fn processes_down(value: &Value) -> Option<String> {
    let processes = value.pointer("/components/0/processes")?.as_array()?;
    let down = processes.iter().filter(|one| one["pid"].is_null());
    let text = |one: &Value, key: &str| one[key].as_str().map(str::to_owned);
    let words = down.filter_map(|one| {
        let how = text(one, "ended").map_or(String::new(), |how| format!(" ({how})"));
        Some(format!("{}{how}", text(one, "type")?))
    });
    let words: Vec<String> = words.collect();
    let verb = if words.len() == 1 { "does" } else { "do" };
    (!words.is_empty()).then(|| format!("{} {verb} not run", words.join(", ")))
}

/// The hosts, each with its components; if one is named, with it alone.
fn only_on_hosts(mut value: Value, project: Option<&str>) -> Result<Value, CommandError> {
    let Some(Value::Array(mut hosts)) = value.get_mut("hosts").map(Value::take) else {
        let message = "the server does not say what is live at its peers: it is an older one";
        return Err(NoResult::new(Exit::Refused, message.to_owned()).into());
    };
    if let Some(project) = project {
        let mut found = false;
        for host in &mut hosts {
            if let Some(all) = host["components"].as_array_mut() {
                all.retain(|one| one["project"].as_str() == Some(project));
                found |= !all.is_empty();
            }
        }
        if !found {
            let message = format!("no component {project} is deployed on a host that answers");
            return Err(NoResult::new(Exit::Refused, message).into());
        }
    }
    Ok(serde_json::json!({ "hosts": hosts }))
}

/// The components; if one is named, it alone.
fn only(mut value: Value, project: Option<&str>) -> Result<Value, CommandError> {
    let Some(project) = project else {
        return Ok(value);
    };
    // A Harper server answers with a tree of files, a directory for each component.
    if let Some(entries) = value.get("entries").and_then(Value::as_array) {
        let name = |entry: &&Value| entry.get("name").and_then(Value::as_str) == Some(project);
        if let Some(entry) = entries.iter().find(name) {
            return Ok(entry.clone());
        }
    }
    let all = value.get_mut("components").and_then(Value::as_array_mut);
    let found = all.is_some_and(|all| {
        all.retain(|component| component.get("project").and_then(Value::as_str) == Some(project));
        !all.is_empty()
    });
    if !found {
        let message = format!("no component {project} is deployed");
        return Err(NoResult::new(Exit::Refused, message).into());
    }
    Ok(value)
}
