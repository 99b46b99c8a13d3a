//! `deploy`: names the component, packs the directory, uploads it, and follows the deployment to its end.

mod busy;
mod commit;
mod naming;
mod options;
mod packing;
mod summary;

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::error::{Code, Doing, Error, Exit};
use crate::api::name::{DeploymentId, Project};
use crate::api::operation::{Fields, OperationCall, OperationName};
use crate::cli::arguments::{ClientOptions, CommandLine, Usage, value};
use crate::cli::commands::deploy::busy::BusyWait;
use crate::cli::commands::deploy::commit::FoundCommit;
pub(super) use crate::cli::commands::deploy::options::{DeployOptions, read};
use crate::cli::commands::deploy::summary::DeploymentSummary;
use crate::cli::commands::{CommandSpec, Context, Job, Parse, fleet};
use crate::cli::session::find::Purpose;
use crate::cli::session::follow::{FollowedRequest, Shown};
use crate::cli::session::missing::DeltaUpload;
use crate::cli::session::pack::UploadSource;
use crate::cli::session::server;
use crate::cli::session::{CommandError, Session};
use crate::client::NoResult;
use crate::client::cache::TreeCache;
use crate::formats::archive::DeployedTree;
use crate::system::hex;

pub(super) const COMMAND: CommandSpec = CommandSpec {
    words: &["deploy", "deploy_component"],
    usage: "deploy [DIR|FILE]",
    summary: "pack a directory, upload it, follow to the end",
    help: "\
usage: gangplank deploy [DIR|FILE.tgz] [FLAGS] [key=value...]

Sends DIR (.) without node_modules, .git, what .gangplankignore names and what
looks secret (.env, private keys), and follows the deployment to its end.

  --project NAME        or `project` of gangplank.json, or DIR's own name
  --package SPEC        in place of DIR: npm:NAME, https://..., git+https://...
  --restart[=rolling], --no-restart  its processes (Harper: not by default)
  --message TEXT        kept in the record, with the commit that CI or git names
  --no-activate, --wait do not make it live; let one that is running end first
  --fleet               to the hosts of the fleet; flags: `gangplank help fleet`
  --replicated, --ignore-replication-errors  to the peers; even if one fails
  --install-command CMD, --install-timeout 5m, --allow-scripts, --fresh-install
                        how; packages run scripts; even if nothing has changed
  --include-node-modules, --include-git, --include-env, --ignore-file F
                        send these too; rules in place of .gangplankignore
  --yes, --full, --rehash, --level 0..9, --idempotency-key K
                        do not ask; send all; read all; compression; known again
key=value words are fields of the operation, as Harper's CLI takes them.
",
    example: "gangplank deploy ./my-app --target https://apps.example",
    parse: Parse::Client(parse),
};

fn parse(line: CommandLine, client: &mut ClientOptions) -> Result<Job, Usage> {
    let options = read(line, client)?;
    Ok(Job::run(move |context| {
        let own = Context {
            screen: &mut *context.screen,
            ..context
        };
        let result = run(own, &options);
        let given = options.fields.get("project").and_then(Value::as_str);
        let dir = options.dir.as_deref().unwrap_or(Path::new("."));
        let summary = DeploymentSummary::of(&result, naming::project(dir, given).ok());
        if let Err(error) = summary.tell(&|name| std::env::var(name).ok()) {
            context.screen.warning(&error.to_string());
        }
        result.map(Some)
    }))
}

fn run(context: Context<'_>, options: &DeployOptions) -> Result<Value, CommandError> {
    let dir = options.dir.as_deref().unwrap_or(Path::new("."));
    if options.packs() && !options.yes {
        packing::refuse_odd_place(dir)?;
    }
    let mut fields = options.fields.clone();
    if fields.contains_key("package") {
        // Its name is the package's, unless one was given.
        let call = OperationCall::new(OperationName::DeployComponent.word(), fields);
        let key = key(options)?;
        let mut session = context.session()?;
        let call = fit(&mut session, &call, options)?;
        let request = FollowedRequest::Keyed {
            call: &call,
            key: &key,
        };
        return deploy(&mut session, &request, options.wait);
    }
    let given = fields.get("project").and_then(Value::as_str);
    let project = naming::project(dir, given).map_err(CommandError::usage)?;
    fields.insert("project".into(), project.as_str().into());
    let archive = match options.packs() && dir.is_file() {
        true => Some(packing::archive(context.screen, dir)?),
        false => None,
    };
    if let Some(archive) = &archive {
        fields
            .entry("payload_sha256")
            .or_insert_with(|| archive.sha256.as_str().into());
    }
    if !options.packs() {
        return activate(&mut context.session()?, fields, &project, options);
    }
    // The answer comes while the directory is looked through.
    let asked = server::ask_early(context.client);
    // What an archive is made of, the place where it lies does not say.
    let packed = Some(dir).filter(|_| archive.is_none());
    let commit = (!fields.contains_key("source")).then(|| FoundCommit::begin(packed));
    let mut kept = (None, None);
    let source = match &archive {
        Some(archive) => UploadSource::File(dir.to_owned(), archive.bytes),
        None => {
            if !options.full {
                let cache = TreeCache::of(context.client, project.as_str(), dir);
                let file = cache.as_ref().and_then(TreeCache::open);
                kept = (cache, file.and_then(DeployedTree::read));
            }
            let plan = packing::plan(context.screen, dir, &project, options, kept.1.as_ref())?;
            UploadSource::Plan(Arc::new(plan), options.level)
        }
    };
    if let Some(source) = commit.and_then(FoundCommit::end) {
        fields.insert("source".into(), json!(source));
    }
    let call = OperationCall::new(OperationName::DeployComponent.word(), fields);
    // From here on signals are caught, and end the upload in an orderly way.
    let mut session = context.session()?.having_asked(asked);
    let published = upload(&mut session, &call, source, kept, options)?;
    if published["published"] == "unknown" {
        return Err(unknown(&project, &published));
    }
    if !options.follows_rollout {
        return Ok(published);
    }
    let id = published["deployment_id"].as_str();
    let id = id.and_then(|id| id.parse::<DeploymentId>().ok());
    fleet::follow_rollout(&mut session, project, id)
}

/// Built and stored, and perhaps wanted by the fleet, perhaps not.
fn unknown(project: &Project, published: &Value) -> CommandError {
    let message = format!(
        "whether {project} was published to the fleet is not known, since etcd's answer was lost; the server goes on finding \
         out, and `gangplank fleet {project}` shows it"
    );
    let mut failed = NoResult::new(Exit::Unknown, message);
    failed.code = Some(Code::OutcomeUnknown.word().to_owned());
    let id = published["deployment_id"].as_str();
    failed.deployment_id = id.map(str::to_owned);
    let mut trouble = CommandError::from(failed);
    trouble.watch = false;
    trouble
}

/// Makes live what was built before.
fn activate(
    session: &mut Session,
    fields: Fields,
    project: &Project,
    options: &DeployOptions,
) -> Result<Value, CommandError> {
    let name = OperationName::DeployComponent.word();
    let fitted = fit(session, &OperationCall::new(name, fields), options)?;
    let mut fields = fitted.fields().clone();
    // Whatever else it is, the server judges.
    let id = fields.get("deployment_id").and_then(Value::as_str);
    if let Some(Ok(word)) = id.map(value::deployment) {
        let id = session.find(&word, Some(project), Purpose::Change)?;
        fields.insert("deployment_id".into(), id.to_string().into());
    }
    let call = OperationCall::new(name, fields);
    deploy(session, &FollowedRequest::Operation(&call), options.wait)
}

fn upload(
    session: &mut Session,
    call: &OperationCall,
    source: UploadSource,
    kept: (Option<TreeCache>, Option<DeployedTree>),
    options: &DeployOptions,
) -> Result<Value, CommandError> {
    let key = key(options)?;
    let call = fit(session, call, options)?;
    // The hosts of a fleet know a payload by its SHA-256, so it is sent whole.
    let is_whole = options.full || call.fields().get("fleet") == Some(&Value::from(true));
    let delta = match &source {
        UploadSource::Plan(plan, _) => DeltaUpload::new(plan, is_whole, kept, options.rehash),
        UploadSource::File(..) => None,
    };
    let request = FollowedRequest::Upload {
        call: &call,
        source,
        delta: delta.as_ref(),
        key: &key,
    };
    let done = deploy(session, &request, options.wait)?;
    if let Some(delta) = &delta {
        session.deployed(delta, done["tree"].as_str());
    }
    Ok(done)
}

/// The operation as the server takes it.
fn fit(
    session: &mut Session,
    call: &OperationCall,
    options: &DeployOptions,
) -> Result<OperationCall, CommandError> {
    let call = session.fit(call)?;
    if options.idempotency_key.is_some() {
        session.warn_of_key();
    }
    Ok(call)
}

/// The key that was given, or a new one.
fn key(options: &DeployOptions) -> Result<String, CommandError> {
    match &options.idempotency_key {
        Some(key) => Ok(key.clone()),
        None => new_key().map_err(CommandError::usage),
    }
}

/// Deploys; with `wait`, as soon as nobody else deploys this component.
fn deploy(
    session: &mut Session,
    request: &FollowedRequest,
    wait: bool,
) -> Result<Value, CommandError> {
    let mut waited = BusyWait::default();
    loop {
        let delta = match request {
            FollowedRequest::Upload { delta, .. } => *delta,
            _ => None,
        };
        let followed = session.follow_with(request.clone(), &mut |screen, shown| {
            match shown {
                // It is tried in another way.
                Shown::Record(record)
                    if delta.is_some_and(|delta| delta.is_retried_for(record)) => {}
                Shown::Record(record) => {
                    screen.record(record.id.as_deref(), &record.event, &record.data);
                }
                Shown::Again => {}
            }
            true
        });
        let trouble = match followed {
            Err(trouble) if delta.is_some_and(|delta| delta.goes_another_way(&trouble.failed)) => {
                if let Some(said) = delta.and_then(DeltaUpload::go_another_way) {
                    session.screen.remark(said);
                }
                continue;
            }
            Err(trouble) if wait && is_busy(&trouble) => {
                delta.inspect(|delta| delta.was_busy());
                trouble
            }
            Err(mut trouble) if is_busy(&trouble) => {
                trouble.failed.message += "; --wait waits for its end, and then deploys";
                return Err(trouble);
            }
            result => {
                return result.inspect_err(|error| session.warn_of_live(error));
            }
        };
        if !waited.for_other(session, trouble.failed.deployment_id) {
            let message = "interrupted while waiting: nothing was deployed";
            let mut trouble = CommandError::from(NoResult::new(Exit::Interrupted, message));
            trouble.watch = false;
            return Err(trouble);
        }
    }
}

/// Another deployment of this component is running, which is told before the upload.
fn is_busy(trouble: &CommandError) -> bool {
    trouble.failed.code.as_deref() == Some(Code::Busy.word()) && !trouble.shown
}

/// 128 random bits as hex: nobody else's.
fn new_key() -> Result<String, Error> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).doing(|| "making an idempotency key".into())?;
    Ok(hex::encode(random))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ() {
        let (one, two) = (new_key().unwrap(), new_key().unwrap());
        assert!(one != two && one.len() == 32);
    }
}
