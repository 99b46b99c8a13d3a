//! `deploy`: names the component, packs the directory, uploads it, and follows the deployment to its end.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::api::error::{Code, Doing, Error, Exit};
use crate::api::name::{DeploymentId, Project};
use crate::cli::arguments::DeployOptions;
use crate::cli::commands::CommandError;
use crate::cli::commands::call::Call;
use crate::cli::commands::follow::{Following, Subject};
use crate::cli::commands::session::Session;
use crate::cli::screen::{Screen, units};
use crate::client::{Client, DeploymentRef, NoResult};
use crate::formats::archive::{self, PackOptions};
use crate::system::files::{if_there, read_up_to};
use crate::system::hex;

/// The component's own settings.
const MANIFEST: &str = "gangplank.json";

/// Between two tries where there is nothing to wait for.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A manifest that is longer is none.
const MANIFEST_MAX: u64 = 1 << 20;

pub(crate) fn run(
    client: &Client,
    options: &DeployOptions,
    retry_for: Option<Duration>,
    screen: &mut Screen,
) -> Result<Value, CommandError> {
    let dir = options.dir.as_deref().unwrap_or(Path::new("."));
    let mut fields = options.fields.clone();
    let given = fields.get("project").and_then(Value::as_str);
    let project = project(dir, given).map_err(CommandError::usage)?;
    fields.insert("project".into(), project.as_str().into());
    if !options.packs() {
        let mut session = Session::new(client, screen, retry_for)?;
        let fields = &fields;
        let ask = Call::Operation {
            fields,
            stream: true,
        };
        return deploy(&mut session, &ask, options.wait);
    }
    let pack_options = PackOptions {
        include_node_modules: options.include_node_modules,
        include_git: options.include_git,
    };
    let plan = archive::plan(dir, &pack_options).map_err(CommandError::usage)?;
    for warning in plan.warnings() {
        screen.warning(warning);
    }
    for (name, bytes) in plan.holes() {
        let holes = units::size(*bytes);
        screen.warning(&format!(
            "'{name}' has holes of {holes}, which are sent as zeros"
        ));
    }
    let key = match &options.idempotency_key {
        Some(key) => key.clone(),
        None => new_key().map_err(CommandError::usage)?,
    };
    let mut session = Session::new(client, screen, retry_for)?;
    let ask = Call::Upload {
        fields: &fields,
        plan: Arc::new(plan),
        level: options.level,
        key: &key,
    };
    deploy(&mut session, &ask, options.wait)
}

/// Deploys; with `wait`, as soon as nobody else deploys this component.
fn deploy(session: &mut Session, ask: &Call, wait: bool) -> Result<Value, CommandError> {
    let mut waited = BusyWait::default();
    loop {
        let trouble = match Following::new(session, Subject::Deployment, None).follow(ask.clone()) {
            Err(trouble) if wait && is_busy(&trouble) => trouble,
            result => return result,
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

/// For whom it was waited, and how long it is waited where there is nothing to follow.
#[derive(Default)]
struct BusyWait {
    last: Option<DeploymentId>,
    pause: Duration,
}

impl BusyWait {
    /// Waits until the other deployment has ended; false if a signal came.
    fn for_other(&mut self, session: &mut Session, id: Option<String>) -> bool {
        let id: Option<DeploymentId> = id.and_then(|id| id.parse().ok());
        let again = id.is_none() || id == self.last;
        // One that has ended and still keeps the component, or cannot be followed, is not asked for without a pause.
        self.pause = match again {
            true => (self.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX),
            false => Duration::ZERO,
        };
        self.last = id;
        let Some(id) = id else {
            session
                .screen
                .remark("waiting for another deployment of this component");
            return session.pause(self.pause);
        };
        if again {
            if !session.pause(self.pause) {
                return false;
            }
        } else {
            session
                .screen
                .remark(&format!("waiting for deployment {id} to end"));
        }
        let following = Following::new(session, Subject::Others, Some(id.to_string()));
        match following.follow(Call::Watch(DeploymentRef::Deployment(id))) {
            Err(trouble) => trouble.failed.exit != Exit::Interrupted,
            Ok(_) => true,
        }
    }
}

/// The component: as it was given, else as its manifest says, else by the directory's own name.
fn project(dir: &Path, given: Option<&str>) -> Result<Project, Error> {
    let doing = || format!("deploying {}", dir.display());
    let canonical = dir.canonicalize().doing(doing)?;
    if !canonical.is_dir() {
        return Err(Error::new(doing(), "it is no directory"));
    }
    let (name, from) = match (given, manifest_project(&canonical)?) {
        (Some(name), _) => (name.to_owned(), "it was given"),
        (None, Some(name)) => (name, "gangplank.json says so"),
        (None, None) => {
            let name = canonical.file_name().unwrap_or_default();
            (
                name.to_string_lossy().into_owned(),
                "the directory is called so",
            )
        }
    };
    name.parse().map_err(|_| {
        let why = format!(
            "{name:?} ({from}) is no valid project name: letters, digits, '-' and '_', at most 63, the first one a \
             letter or a digit; name one with --project NAME"
        );
        Error::new(doing(), why)
    })
}

fn manifest_project(dir: &Path) -> Result<Option<String>, Error> {
    let path = dir.join(MANIFEST);
    let doing = || format!("reading {}", path.display());
    let Some(file) = if_there(File::open(&path)).doing(doing)? else {
        return Ok(None);
    };
    let text = read_up_to(file, MANIFEST_MAX)
        .doing(doing)?
        .ok_or_else(|| Error::new(doing(), "it is over 1 MiB"))?;
    let manifest: Value = serde_json::from_slice(&text).doing(doing)?;
    match manifest.get("project") {
        None => Ok(None),
        Some(Value::String(name)) => Ok(Some(name.clone())),
        Some(_) => Err(Error::new(doing(), "'project' is no text")),
    }
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
    use std::fs;

    #[test]
    fn the_component_has_a_name() {
        let root = std::env::temp_dir().join(format!("gangplank-name-{}", std::process::id()));
        let (good, bad) = (root.join("my-app"), root.join("my.app"));
        fs::create_dir_all(&good).unwrap();
        fs::create_dir_all(&bad).unwrap();
        let name = |dir: &Path, given| project(dir, given).map(|name| name.to_string());
        let refused = |dir: &Path, given| name(dir, given).unwrap_err().to_string();
        assert_eq!(name(&good, None).unwrap(), "my-app");
        assert_eq!(name(&good.join("../my-app/."), None).unwrap(), "my-app");
        assert_eq!(name(&bad, Some("x")).unwrap(), "x");
        assert!(refused(&bad, None).contains("--project"));
        assert!(refused(&good, Some("a b")).contains("--project"));
        assert!(refused(Path::new("/"), None).contains("--project"));
        assert!(refused(&root.join("none"), Some("x")).contains("none"));
        fs::write(good.join("gangplank.json"), r#"{"project":"other"}"#).unwrap();
        assert_eq!(name(&good, None).unwrap(), "other");
        assert_eq!(name(&good, Some("x")).unwrap(), "x");
        assert!(refused(&good.join("gangplank.json"), None).contains("no directory"));
        for (text, why) in [
            ("{", "gangplank.json"),
            (r#"{"project":1}"#, "no text"),
            (r#"{"project":"a.b"}"#, "--project"),
        ] {
            fs::write(good.join("gangplank.json"), text).unwrap();
            assert!(refused(&good, None).contains(why), "{text}");
        }
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn keys_differ() {
        let (one, two) = (new_key().unwrap(), new_key().unwrap());
        assert!(one != two && one.len() == 32);
    }
}
