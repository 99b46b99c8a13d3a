//! `fleet`: how components stand on the hosts of a fleet, and what is done to the fleet.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::api::error::{Doing, Error};
use crate::api::fleet::HostName;
use crate::api::name::{DeploymentId, Project};
use crate::api::operation::{Fields, FleetChange, FleetQuery, Operation, OperationCall, WaveSize};
use crate::cli::arguments::{ClientOptions, CommandLine, Usage, one_of, value};
use crate::cli::commands::{CommandSpec, Job, Parse};
use crate::cli::session::follow::FollowedRequest;
use crate::cli::session::{CommandError, Session};
use crate::formats::signature;

pub(super) const COMMAND: CommandSpec = CommandSpec {
    words: &["fleet"],
    usage: "fleet [PROJECT]",
    summary: "how it stands on the hosts of a fleet",
    help: "\
usage: gangplank fleet [PROJECT] [--follow] [FLAGS]
       gangplank fleet publish-current|pin|unpin PROJECT [--adopt]
       gangplank fleet remove HOST
       gangplank fleet key FILE

Shows how components stand on the hosts of the server's fleet, or follows a
rollout; exit code 1 if not all hosts are live at its end. publish-current: what
is wanted, above what any host has heard of (--adopt: what is live here, if etcd
was emptied); unpin: follow the fleet again; remove: done twice, the host is
forgotten; key: a pair for serve --fleet-key FILE and --fleet-trust FILE.pub.

Flags of `deploy --fleet`:
  --canary N, --wave N|P%  hosts that go first (1); at once after that (25%)
  --soak 10s            how long a wave is looked at before the next one
  --max-failures N      more of them stop it (0)
  --host-timeout 10m    a host that takes longer has failed
  --label K=V           only hosts with this label; may be repeated
  --replace, --rollback-on-failure, --adopt  one goes on; it stops; empty etcd
  --detach              do not wait for the hosts
",
    example: "gangplank deploy --fleet --canary 2 --wave 10% --soak 30s",
    parse: Parse::Client(parse),
};

/// What is done instead of showing. A component may not have such a name here; `fleet` without a name shows it all the same.
const ACTIONS: [&str; 5] = ["publish-current", "pin", "unpin", "remove", "key"];

fn parse(mut line: CommandLine, _: &mut ClientOptions) -> Result<Job, Usage> {
    let mut peeked = line.clone();
    let word = peeked.subcommand()?;
    if word.is_some_and(|word| ACTIONS.contains(&&*word)) {
        return action(line);
    }
    let follow = line.contains("--follow");
    let project = value::at_most_one("PROJECT", line, value::project)?;
    if !follow {
        let query = FleetQuery {
            project,
            ..FleetQuery::default()
        };
        return Ok(Job::Operation(Operation::GetFleet(query).into()));
    }
    let project = project.ok_or_else(|| Usage::new("--follow needs a PROJECT"))?;
    Ok(Job::run(move |context| {
        follow_rollout(&mut context.session()?, project, None).map(Some)
    }))
}

fn action(mut line: CommandLine) -> Result<Job, Usage> {
    let action = one_of("fleet", &mut line, &ACTIONS)?;
    let change = match action {
        "key" => {
            let file = value::one("FILE", line, |text| Ok(PathBuf::from(text)))?;
            return Ok(Job::run(move |_| {
                make_key(&file).map(Some).map_err(CommandError::usage)
            }));
        }
        "remove" => {
            let host = value::one("HOST", line, |text| {
                text.parse::<HostName>().map_err(str::to_owned)
            })?;
            FleetChange::Remove(host)
        }
        _ => {
            let adopt = action == "publish-current" && line.contains("--adopt");
            let project = value::one("PROJECT", line, value::project)?;
            match action {
                "pin" => FleetChange::Pin(project, true),
                "unpin" => FleetChange::Pin(project, false),
                _ => FleetChange::PublishCurrent(project, adopt),
            }
        }
    };
    Ok(Job::Operation(Operation::ChangeFleet(change).into()))
}

/// Follows a rollout to its end, over broken connections too: it is shown as it stands then.
pub(super) fn follow_rollout(
    session: &mut Session<'_>,
    project: Project,
    deployment: Option<DeploymentId>,
) -> Result<Value, CommandError> {
    let query = FleetQuery {
        project: Some(project),
        deployment,
        follow: true,
    };
    let call = OperationCall::from(Operation::GetFleet(query));
    session.follow(FollowedRequest::Lines {
        first: &call,
        again: Some(&call),
    })
}

/// The flags of a deployment to the fleet, as fields; whether its rollout is followed. None if it is not for the fleet.
pub(super) fn deploy_flags(line: &mut CommandLine) -> Result<(Fields, bool), Usage> {
    let mut fields = Fields::new();
    let is_fleet = line.contains("--fleet");
    let detach = line.contains("--detach");
    let seconds = |line: &mut CommandLine, flag| {
        let time = value::parsed(line, flag, value::duration)?;
        Ok(time.map(|time| Value::from(time.as_secs())))
    };
    let number = |line: &mut CommandLine, flag| {
        let number = value::parsed(line, flag, value::number)?;
        Ok(number.map(Value::from))
    };
    let wave = value::parsed(line, "--wave", |text| {
        let wave = WaveSize::parse(text).ok_or("must be a number of hosts, or 1% to 100%")?;
        Ok(wave.text())
    })?;
    let mut labels = BTreeMap::new();
    while let Some((name, label)) = value::parsed(line, "--label", label)? {
        labels.insert(name, label);
    }
    let flag = |given: bool| given.then_some(Value::Bool(true));
    let all = [
        ("canary", number(line, "--canary")?),
        ("wave", wave.map(Value::from)),
        ("max_failures", number(line, "--max-failures")?),
        ("soak", seconds(line, "--soak")?),
        ("host_timeout", seconds(line, "--host-timeout")?),
        ("labels", (!labels.is_empty()).then(|| json!(labels))),
        ("replace", flag(line.contains("--replace"))),
        ("adopt", flag(line.contains("--adopt"))),
        (
            "rollback_on_failure",
            flag(line.contains("--rollback-on-failure")),
        ),
    ];
    for (name, value) in all {
        if let Some(value) = value {
            fields.insert(name.to_owned(), value);
        }
    }
    match (is_fleet, fields.keys().next()) {
        (true, _) => {
            fields.insert("fleet".to_owned(), true.into());
        }
        (false, Some(name)) => {
            let flag = name.trim_end_matches('s').replace('_', "-");
            let flag = if name == "max_failures" {
                "max-failures"
            } else {
                &flag
            };
            return Err(Usage::new(format!("--{flag} goes with --fleet alone")));
        }
        (false, None) if detach => return Err(Usage::new("--detach goes with --fleet alone")),
        (false, None) => {}
    }
    Ok((fields, !detach))
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, label)) if !name.is_empty() => Ok((name.to_owned(), label.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

/// Makes a pair of keys: the one that signs in the file, for its owner alone, the one that checks beside it.
fn make_key(file: &Path) -> Result<Value, Error> {
    let public_file = {
        let mut name = file.as_os_str().to_owned();
        name.push(".pub");
        PathBuf::from(name)
    };
    let (secret, public) = signature::generate().doing(|| "making a key".into())?;
    for (path, text, mode) in [(file, secret, 0o600), (&*public_file, public, 0o644)] {
        let what = || format!("writing {}", path.display());
        let mut options = OpenOptions::new();
        // A key that is there is somebody's.
        options.write(true).create_new(true).mode(mode);
        let mut file = options.open(path).doing(what)?;
        file.write_all(text.as_bytes()).doing(what)?;
    }
    let (file, public_file) = (
        file.display().to_string(),
        public_file.display().to_string(),
    );
    let message = format!(
        "Made {file}, which signs: serve --fleet-key {file} where deployments are published, and nowhere else; {public_file} \
         checks: serve --fleet-trust {public_file} on every host"
    );
    Ok(json!({"message": message, "key": file, "trust": public_file}))
}
