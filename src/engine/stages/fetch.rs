//! Phase `fetch`: from a package to its payload.

use std::fs::File;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::api::error::{Code, Refusal};
use crate::engine::attempt::{Attempt, Facts};
use crate::engine::child_env;
use crate::engine::fetch::{FetchRequest, fetch};
use crate::engine::outcome::Failed;
use crate::engine::spec::DeploySpec;
use crate::engine::stages::{Builder, facts};
use crate::formats::archive::Limits;

/// Longer than any fetch: a year.
const FAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

impl Builder {
    /// Fetches the spec's package into the file of its payload. Gives what the phase says of it.
    pub fn fetch(
        &self,
        spec: &DeploySpec,
        limits: &Limits,
        attempt: &mut Attempt,
        file: &File,
    ) -> Result<Facts, Box<Failed>> {
        let project = &spec.project;
        let package = spec.package.as_ref().ok_or_else(|| {
            let why = format!("fetching the package of {project}: there is none");
            Refusal::new(Code::Internal, why)
        })?;
        let account = self.account.as_deref();
        let around = child_env::of(&self.store, project, &self.environment, account)?;
        let limit = spec.options.timeout().unwrap_or(self.install_timeout);
        let now = Instant::now();
        let stop = attempt.stop().clone();
        let request = FetchRequest {
            package,
            project,
            id: attempt.record().deployment_id,
            store: &self.store,
            limits,
            environment: &around.variables,
            account,
            limit,
            // One that no clock reaches is as good as none.
            deadline: now.checked_add(limit).unwrap_or(now + FAR),
            stop: &stop,
        };
        let source = fetch(&request, attempt, file)?;
        let mut said = json!({ "package": package.identifier() });
        if let Some(source) = source {
            said["source"] = json!(source);
        }
        Ok(facts(said))
    }
}
