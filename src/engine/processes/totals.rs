//! How many processes and components there are, for whoever watches the server and asks every few seconds: neither `/proc` nor
//! a file of each component is read for it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::api::error::Error;
use crate::api::name::Project;
use crate::engine::processes::{ComponentProcesses, Processes, state};

/// How many processes and components there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProcessTotals {
    /// Processes that run.
    pub up: usize,
    /// Processes that are to run and do not at the moment.
    pub down: usize,
    /// How often any process was started again after it had exited, since the server's start.
    pub restarts: u64,
    /// Components all of whose processes run.
    pub components_up: usize,
    /// Components of which something is to run that does not at the moment.
    pub components_down: usize,
    /// Components that somebody has stopped.
    pub components_stopped: usize,
    /// Components that are live without processes of theirs.
    pub components_idle: usize,
}

impl Processes {
    /// How many processes and components there are now.
    ///
    /// # Errors
    /// When a directory cannot be read.
    pub fn totals(&self) -> Result<ProcessTotals, Error> {
        let store = &self.setting.store;
        let mut marks = state::marks(store.root())?;
        let mut totals = ProcessTotals {
            restarts: self.restarts.load(Ordering::Relaxed),
            components_stopped: marks.stopped.len(),
            ..ProcessTotals::default()
        };
        let components: Vec<(Project, Arc<ComponentProcesses>)> = self
            .components()
            .iter()
            .map(|(project, one)| (project.clone(), Arc::clone(one)))
            .collect();
        for (project, component) in components {
            let all = component.all();
            if all.is_empty() || marks.stopped.contains(&project) {
                continue;
            }
            let up = all.iter().filter(|process| process.is_up()).count();
            totals.up += up;
            totals.down += all.len() - up;
            match up == all.len() {
                true => totals.components_up += 1,
                false => totals.components_down += 1,
            }
            marks.to_run.remove(&project);
        }
        // Nothing of these could be started yet.
        for project in marks.to_run.difference(&marks.stopped) {
            let types = state::read(store.root(), project).ok().flatten();
            totals.down += types.map_or(1, |types| types.len());
            totals.components_down += 1;
        }
        let others = totals.components_up + totals.components_down + totals.components_stopped;
        totals.components_idle = store.count_live()?.saturating_sub(others);
        Ok(totals)
    }
}
