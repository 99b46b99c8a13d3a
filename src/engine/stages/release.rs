//! Phase `release`: what a release wants to be run once before it goes live, here and at the peers.

use serde_json::json;

use crate::api::event::Phase;
use crate::engine::attempt::Attempt;
use crate::engine::child_env;
use crate::engine::install::{self, InstallRequest};
use crate::engine::manifest;
use crate::engine::outcome::{Failed, Outcome};
use crate::engine::shared;
use crate::engine::spec::DeploySpec;
use crate::engine::stages::replicate::Fleet;
use crate::engine::stages::{Builder, Ready, ReleaseTree, facts};

impl Builder {
    /// Runs the `release:` line of the Procfile here and then, all at once, at the peers; nothing where there is none. What
    /// fails keeps everything as it was: nothing is live yet, here or there.
    pub(super) fn release<'a>(
        &'a self,
        spec: &DeploySpec,
        mut ready: Ready,
        attempt: &mut Attempt,
        mut fleet: Fleet<'a>,
    ) -> Result<(Ready, Fleet<'a>), Box<Failed>> {
        if !spec.releases() {
            return Ok((ready, fleet));
        }
        let line = match manifest::release(&ready.0.path()) {
            Ok(None) => return Ok((ready, fleet)),
            Ok(Some(line)) => Ok(line),
            Err(refusal) => Err(refusal),
        };
        // It may write into the release.
        ready.0.synced = false;
        attempt.phase(Phase::Release, |attempt| {
            let released = line
                .map_err(Into::into)
                .and_then(|line| self.release_here(spec, &ready.0, &line, attempt))
                .and_then(|lines| {
                    self.release_peers(attempt, &spec.project, &mut fleet)?;
                    Ok(lines)
                });
            match released {
                Ok(lines) => Ok(((ready, fleet), facts(json!({ "lines": lines })))),
                Err(mut failed) => {
                    fleet.report(false).add_to(&mut failed);
                    Err(failed)
                }
            }
        })
    }

    /// Runs it and leaves the release as it is, for the server that decides when it goes live.
    pub(super) fn release_alone(
        &self,
        spec: &DeploySpec,
        ready: Ready,
        attempt: &mut Attempt,
    ) -> Outcome<'_> {
        let (ready, _) = self.release(spec, ready, attempt, Fleet::none())?;
        self.stage("releasing", ready, attempt)
    }

    fn release_here(
        &self,
        spec: &DeploySpec,
        tree: &ReleaseTree,
        line: &str,
        attempt: &mut Attempt,
    ) -> Result<u64, Box<Failed>> {
        let (release, project) = (tree.path(), &tree.project);
        let manifest = manifest::manifest(&release)?;
        let account = self.account.as_deref();
        let child_env = child_env::of(&self.store, project, &self.environment, account)?;
        shared::make(&self.store, project, account)?;
        let stop = attempt.stop().clone();
        let request = InstallRequest {
            options: &spec.options,
            default_timeout: self.install_timeout,
            release: &release,
            project,
            id: tree.id,
            mark: self.store.server_mark(),
            shared: &shared::dir(&self.store, project),
            environment: &child_env.variables,
            account,
            stop: &stop,
        };
        let limit = install::timeout(&request, &manifest);
        let ran = install::release(
            &request,
            (line, limit),
            spec.origin.as_deref(),
            &mut |lines| attempt.emit_lines(lines),
        );
        Ok(ran?)
    }
}
