//! From a payload that was unpacked to a release that can run.

use serde_json::json;

use crate::api::error::Refusal;
use crate::api::event::{Event, Phase};
use crate::engine::attempt::{Attempt, Facts};
use crate::engine::child_env::{self, ChildEnv};
use crate::engine::install::{self, Choice, InstallRequest, Installer};
use crate::engine::manifest;
use crate::engine::outcome::Failed;
use crate::engine::reuse::{self, InstalledModules};
use crate::engine::shared;
use crate::engine::stages::{Builder, Ready, Staged, facts};

impl Builder {
    /// Links the release to the component's shared data. What is wrong with it fails before the installation, as all that is
    /// read of the release for that.
    pub(super) fn share(
        &self,
        mut staged: Staged,
        attempt: &mut Attempt,
    ) -> Result<Staged, Box<Failed>> {
        let release = staged.0.path();
        let account = self.account.as_deref();
        let linked = manifest::manifest(&release).and_then(|manifest| {
            staged.0.synced &= manifest.shared.is_empty();
            let project = &staged.0.project;
            shared::link(&self.store, project, &release, &manifest.shared, account)
        });
        match linked {
            Ok(warnings) => {
                for warning in warnings {
                    attempt.emit(&Event::Warning(warning))?;
                }
                Ok(staged)
            }
            Err(refusal) => attempt.phase(Phase::Install, |_| Err(refusal.into())),
        }
    }

    /// What is around what the component runs.
    fn child_env(&self, staged: &Staged) -> Result<ChildEnv, Refusal> {
        let account = self.account.as_deref();
        child_env::of(&self.store, &staged.0.project, &self.environment, account)
    }

    /// Installs the dependencies.
    pub(super) fn install(
        &self,
        mut staged: Staged,
        attempt: &mut Attempt,
    ) -> Result<Staged, Box<Failed>> {
        let (options, stop) = (attempt.record().options.clone(), attempt.stop().clone());
        let release = staged.0.path();
        let child_env = match self.child_env(&staged) {
            Ok(child_env) => child_env,
            Err(refusal) => return attempt.phase(Phase::Install, |_| Err(refusal.into())),
        };
        let request = InstallRequest {
            options: &options,
            default_timeout: self.install_timeout,
            release: &release,
            project: &staged.0.project,
            id: staged.0.id,
            mark: self.store.server_mark(),
            shared: &shared::dir(&self.store, &staged.0.project),
            environment: &child_env.variables,
            account: self.account.as_deref(),
            stop: &stop,
        };
        let (choice, warnings) = match install::choose(&request) {
            Ok(chosen) => chosen,
            Err(refusal) => return attempt.phase(Phase::Install, |_| Err(refusal.into())),
        };
        for warning in warnings {
            attempt.emit(&Event::Warning(warning))?;
        }
        match choice {
            Choice::Skip(why) => attempt.skip(Phase::Install, &why)?,
            Choice::Run(installer) => {
                staged.0.synced = false;
                let key = match self.reuses {
                    true => install::decides(&request, &installer),
                    false => None,
                };
                let store = &self.store;
                let from = key
                    .filter(|_| !options.fresh_install)
                    .and_then(|key| reuse::take_over(store, &staged.0.project, &release, key));
                let deployment = attempt.record().deployment_id;
                let beside = key.and_then(|_| reuse::stamp_beside(&release));
                match from {
                    Some(from) => attempt.skip(Phase::Install, &format!("reused from {from}"))?,
                    None => run_installer(&request, &installer, attempt)?,
                }
                // What an installation changes elsewhere would be missing where only its modules are.
                let is_same = beside.is_some() && reuse::stamp_beside(&release) == beside;
                if key.is_some() && !is_same {
                    reuse::not_kept(&staged.0.project, "more than node_modules was changed");
                }
                let stamp = reuse::stamp_of(&release).filter(|_| is_same);
                if let (Some(key), Some(stamp)) = (key, stamp) {
                    let installed = InstalledModules {
                        key,
                        from: from.unwrap_or(deployment),
                        release: staged.0.id,
                        stamp,
                    };
                    self.installed.remember(deployment, installed);
                }
            }
        }
        Ok(staged)
    }

    /// Makes sure that the release can run.
    pub(super) fn load(
        &self,
        mut staged: Staged,
        attempt: &mut Attempt,
    ) -> Result<Ready, Box<Failed>> {
        let (options, stop) = (attempt.record().options.clone(), attempt.stop().clone());
        attempt.phase(Phase::Load, |attempt| {
            let release = staged.0.path();
            let manifest = manifest::manifest(&release)?;
            staged.0.synced &= manifest.check.is_none();
            let project = &staged.0.project;
            self.processes.check_sockets(&manifest)?;
            manifest::package(&release)?;
            manifest.judges(&manifest::processes(&release)?)?;
            let child_env = self.child_env(&staged)?;
            for warning in child_env.warnings {
                attempt.emit(&Event::Warning(warning))?;
            }
            let request = InstallRequest {
                options: &options,
                default_timeout: self.install_timeout,
                release: &release,
                project,
                id: staged.0.id,
                mark: self.store.server_mark(),
                shared: &shared::dir(&self.store, project),
                environment: &child_env.variables,
                account: self.account.as_deref(),
                stop: &stop,
            };
            let ran = install::check(&request, &manifest, &mut |lines| attempt.emit_lines(lines));
            ran?;
            Ok(((), Facts::new()))
        })?;
        Ok(Ready(staged.0))
    }
}

/// Runs what installs.
fn run_installer(
    request: &InstallRequest<'_>,
    installer: &Installer,
    attempt: &mut Attempt,
) -> Result<(), Box<Failed>> {
    attempt.phase(Phase::Install, |attempt| {
        let ran = install::run(request, installer, &mut |lines| attempt.emit_lines(lines));
        let lines = ran?;
        for warning in install::warnings(request) {
            attempt.emit(&Event::Warning(warning))?;
        }
        let said = json!({ "manager": installer.manager, "lines": lines });
        Ok(((), facts(said)))
    })
}
