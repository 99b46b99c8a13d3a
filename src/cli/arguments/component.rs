//! The commands about one component or one deployment: each is an operation with a few fields.

use std::path::PathBuf;

use pico_args::Arguments;
use serde_json::Value;

use crate::api::name::{DeploymentId, Project};
use crate::api::operation::Fields;
use crate::cli::arguments::{ClientRequest, Usage, finish, finish_words, leftover, value};

pub(crate) fn rollback(mut arguments: Arguments) -> Result<ClientRequest, Usage> {
    let mut fields = operation("rollback_component");
    let to = value::parsed(&mut arguments, "--to", deployment)?;
    let restart = value::restart(&mut arguments)?;
    fields.insert("project".into(), one("PROJECT", arguments, project)?);
    fields.extend(to.map(|id| ("deployment_id".into(), id)));
    fields.extend(restart.map(|restart| ("restart".into(), restart)));
    Ok(ClientRequest::Operation(fields))
}

pub(crate) fn cancel(arguments: Arguments) -> Result<ClientRequest, Usage> {
    let mut fields = operation("cancel_deployment");
    fields.insert("deployment_id".into(), one("ID", arguments, deployment)?);
    Ok(ClientRequest::Operation(fields))
}

pub(crate) fn payload(mut arguments: Arguments) -> Result<ClientRequest, Usage> {
    let out: Option<PathBuf> = value::path(&mut arguments, "--out")?;
    let delete = arguments.contains("--delete");
    if delete && out.is_some() {
        return Err(Usage::new("--out and --delete cannot go together"));
    }
    let mut fields = operation(match delete {
        true => "delete_deployment_payload",
        false => "get_deployment_payload",
    });
    fields.insert("deployment_id".into(), one("ID", arguments, deployment)?);
    Ok(match delete {
        true => ClientRequest::Operation(fields),
        false => ClientRequest::Payload { fields, out },
    })
}

pub(crate) fn drop(arguments: Arguments) -> Result<ClientRequest, Usage> {
    let mut fields = operation("drop_component");
    fields.insert("project".into(), one("PROJECT", arguments, project)?);
    Ok(ClientRequest::Operation(fields))
}

pub(crate) fn restart(mut arguments: Arguments) -> Result<ClientRequest, Usage> {
    let mut fields = operation("restart_component");
    if arguments.contains("--rolling") {
        fields.insert("rolling".into(), true.into());
    }
    fields.insert("project".into(), one("PROJECT", arguments, project)?);
    Ok(ClientRequest::Operation(fields))
}

pub(crate) fn status(arguments: Arguments) -> Result<ClientRequest, Usage> {
    let project = at_most_one("PROJECT", arguments, project)?;
    let project = project.and_then(|project| project.as_str().map(str::to_owned));
    let fields = operation("get_components");
    Ok(ClientRequest::Status { fields, project })
}

pub(crate) fn logs(mut arguments: Arguments) -> Result<ClientRequest, Usage> {
    let mut fields = operation("get_logs");
    let follow = arguments.contains("--follow");
    if follow {
        fields.insert("follow".into(), true.into());
    }
    if let Some(lines) = value::parsed(&mut arguments, "--lines", value::number)? {
        fields.insert("lines".into(), lines.into());
    }
    fields.insert("project".into(), one("PROJECT", arguments, project)?);
    Ok(ClientRequest::Logs { fields, follow })
}

pub(crate) fn sync(mut arguments: Arguments) -> Result<ClientRequest, Usage> {
    let mut fields = operation("sync");
    let from = value::text(&mut arguments, "--from")?;
    let from =
        from.ok_or_else(|| Usage::new("`sync` needs --from NAME, a peer of the server's"))?;
    fields.insert("from".into(), from.into());
    let project = at_most_one("PROJECT", arguments, project)?;
    fields.extend(project.map(|project| ("project".into(), project)));
    Ok(ClientRequest::Operation(fields))
}

pub(crate) fn list(mut arguments: Arguments) -> Result<ClientRequest, Usage> {
    let mut fields = operation("list_deployments");
    for (flag, name) in [("--project", "project"), ("--status", "status")] {
        if let Some(value) = value::text(&mut arguments, flag)? {
            fields.insert(name.into(), value.into());
        }
    }
    if let Some(limit) = value::parsed(&mut arguments, "--limit", value::number)? {
        fields.insert("limit".into(), limit.into());
    }
    finish(arguments)?;
    Ok(ClientRequest::List(fields))
}

fn operation(name: &str) -> Fields {
    let mut fields = Fields::new();
    fields.insert("operation".into(), name.into());
    fields
}

type Read = fn(&str) -> Result<Value, String>;

fn deployment(text: &str) -> Result<Value, String> {
    let id = text.parse::<DeploymentId>();
    id.map(|id| id.to_string().into())
        .map_err(|_| "not the id of a deployment".into())
}

fn project(text: &str) -> Result<Value, String> {
    let project = text.parse::<Project>();
    project
        .map(|project| project.as_str().into())
        .map_err(|_| "not the name of a component".into())
}

fn one(what: &str, arguments: Arguments, read: Read) -> Result<Value, Usage> {
    let one = at_most_one(what, arguments, read)?;
    one.ok_or_else(|| Usage::new(format!("{what} is missing")))
}

fn at_most_one(what: &str, arguments: Arguments, read: Read) -> Result<Option<Value>, Usage> {
    let mut rest = finish_words(arguments)?.into_iter();
    let Some(word) = rest.next() else {
        return Ok(None);
    };
    if let Some(more) = rest.next() {
        return Err(leftover(&more));
    }
    let word = word.into_string().map_err(|word| leftover(&word))?;
    value::named(what, &word, read).map(Some)
}
