//! What ran when an earlier server ended is started again, each process from its own release.

use std::sync::Arc;

use crate::api::error::Error;
use crate::api::name::{DeploymentId, Project};
use crate::engine::processes::process::Process;
use crate::engine::processes::state::Types;
use crate::engine::processes::{Processes, state};
use crate::system::latch::Latch;
use crate::system::log;

/// However the start of what ran before ends, nobody waits for it any longer.
struct Resumed<'a>(&'a Latch);

impl Drop for Resumed<'_> {
    fn drop(&mut self) {
        self.0.open();
    }
}

impl Processes {
    /// Starts what ran when an earlier server ended, but for components with which the deployer goes on. What cannot be
    /// started is said in the log.
    pub fn resume(&self, but: &[Project]) {
        let _resumed = Resumed(&self.resumed);
        let found = match state::marks(self.setting.store.root()) {
            Ok(found) => found.to_run,
            Err(error) => return log::error(&error.to_string()),
        };
        for project in found.iter().filter(|project| !but.contains(project)) {
            self.resume_types(project, self.types_to_resume(project));
        }
        self.passed.drop_all(but);
        self.keep_sockets();
    }

    /// Starts what is to run of a component with which the deployer could not go on.
    pub fn resume_component(&self, project: &Project) {
        if !self.is_stopping() {
            self.resume_types(project, self.types_to_resume(project));
        }
    }

    /// What is to run of a component after a start.
    fn types_to_resume(&self, project: &Project) -> Types {
        let store = &self.setting.store;
        if self.is_stopped(project) {
            return Types::new();
        }
        let live = store.live(project);
        let before = state::read_before(store.root(), project).unwrap_or_default();
        if let Some(before) = before.filter(|before| Some(before.restarts) != live) {
            // The restart was undone, and that could not be written down.
            return before.types;
        }
        let is_there = |types: &Types| {
            let mut releases = types.values();
            releases.all(|id| store.release(project, *id).is_dir())
        };
        let why = match state::read(store.root(), project) {
            Ok(Some(types)) if is_there(&types) || live.is_none() => return types,
            Ok(Some(_)) => "a release that its processes ran from is gone".to_owned(),
            Ok(None) => return Types::new(),
            Err(error) => error.to_string(),
        };
        let Some(live) = live else {
            log::warn(&format!(
                "starting {project}: {why}, and nothing of it is live"
            ));
            return Types::new();
        };
        log::warn(&format!(
            "starting {project}: {why}; the live release {live} is started instead"
        ));
        self.types_of(project, live)
    }

    /// All types of a release's processes.
    pub(super) fn types_of(&self, project: &Project, release: DeploymentId) -> Types {
        match self.plan(project, release) {
            Ok(plan) => {
                let types = plan.types.into_iter();
                types.map(|one| (one.name, release)).collect()
            }
            Err(error) => {
                log::error(&format!("starting {project}: {error}"));
                Types::new()
            }
        }
    }

    pub(super) fn resume_types(&self, project: &Project, types: Types) {
        for (kind, release) in types {
            if let Err(error) = self.resume_one(project, &kind, release) {
                log::error(&format!("starting {kind} of {project}: {error}"));
            }
        }
    }

    pub(super) fn resume_one(
        &self,
        project: &Project,
        kind: &str,
        release: DeploymentId,
    ) -> Result<(), Error> {
        let plan = self.plan(project, release)?;
        let component = self.component(project);
        let found = plan.types.iter().find(|one| one.name == *kind);
        let Some(found) = found else {
            return Err(Error::new(
                "looking for it",
                format!("release {release} has no such process"),
            ));
        };
        let held = self.held(&plan, (project, &component), kind)?;
        if let Some(held) = &held {
            component.sockets().insert(kind.to_owned(), held.clone());
        }
        let launch = self.launch(project, &plan, found, held, None);
        if self.is_stopping() {
            return Ok(());
        }
        let is_stopping = || self.is_stopping();
        let process = Process::start_again(&launch, &component.output, &is_stopping)?;
        let before = component
            .processes()
            .insert(kind.to_owned(), Arc::clone(&process));
        if let Some(before) = before {
            before.stop();
        }
        // Who stops all may have looked just before it was there.
        if self.is_stopping() {
            process.stop();
        }
        Ok(())
    }
}
