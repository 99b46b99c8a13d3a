//! From the processes of one release to those of another, and back if the new ones are not healthy.
//!
//! A type without a held socket is stopped before its new process starts: two of them could not have one port. A type with a
//! held socket is started beside its old process, and that one is stopped when the new one is healthy, so that somebody
//! listens all the time.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::api::error::{Code, Error};
use crate::api::event::ProcessEvent;
use crate::api::name::{DeploymentId, Project};
use crate::engine::manifest::{Health, ProcessType};
use crate::engine::processes::health::{AwaitedProcess, ReadySocket};
use crate::engine::processes::process::{Launch, Process, stop_all};
use crate::engine::processes::state::{Before, Types};
use crate::engine::processes::status::START_MAX;
use crate::engine::processes::{ComponentProcesses, HeldSocket, ProcessPlan, Processes, state};
use crate::system::log;
use crate::system::stop::Stop;

/// What is as good as no limit, and within what a clock can count.
const HEALTH_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// What is to run.
pub struct RestartRequest<'a> {
    /// The component.
    pub project: &'a Project,
    /// The release that it is to run from.
    pub release: DeploymentId,
    /// One process type after the other.
    pub rolling: bool,
    /// How long an operator's hook may take.
    pub hook_limit: Duration,
    /// Ends a hook early.
    pub stop: &'a Stop,
}

/// A line of what failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OutputLine {
    /// The process type.
    #[serde(rename = "type")]
    pub kind: String,
    /// `stdout` or `stderr`.
    pub stream: &'static str,
    /// What was printed.
    pub line: String,
}

/// Why the new processes do not run. Those that ran before do again.
#[derive(Debug)]
pub struct Unhealthy {
    /// `unhealthy`, unless it was not for the processes: a disk that is full, a bug.
    pub code: Code,
    /// What was being done and why it failed.
    pub message: String,
    /// The last lines of what failed.
    pub output: Vec<OutputLine>,
}

/// Takes what happens; its error ends the restart.
pub type OnProcessEvent<'a> = &'a mut dyn FnMut(ProcessEvent) -> Result<(), Error>;

impl Processes {
    /// Whether there is anything to restart: a hook, or processes, those that are to be or those that are.
    ///
    /// # Errors
    /// When the release's files cannot be read.
    pub fn has_any(&self, project: &Project, release: DeploymentId) -> Result<bool, Error> {
        self.resumed.wait();
        if self.hook(project).is_some() || !self.component(project).all().is_empty() {
            return Ok(true);
        }
        Ok(!self.plan(project, release)?.types.is_empty())
    }

    /// Replaces the processes of a component by those of a release. If they are not healthy, those that ran before run again.
    ///
    /// # Errors
    /// Why they are not, with the last lines of what failed.
    pub fn restart(
        &self,
        order: &RestartRequest<'_>,
        emit: OnProcessEvent<'_>,
    ) -> Result<(), Unhealthy> {
        self.resumed.wait();
        let running = self.component(order.project).all().into_iter();
        let before = running.map(|one| (one.launch.kind.clone(), one.launch.release));
        self.replace_all(order, before.collect(), emit)
    }

    /// Does a restart again that the end of an earlier server cut off: nothing of the component runs yet. If the processes
    /// are not healthy, those run that ran before the restart; where that is not known, those of `previous`, the release
    /// that was live before.
    ///
    /// # Errors
    /// Why they are not, with the last lines of what failed.
    pub fn finish_restart(
        &self,
        order: &RestartRequest<'_>,
        previous: Option<DeploymentId>,
        emit: OnProcessEvent<'_>,
    ) -> Result<(), Unhealthy> {
        self.resumed.wait();
        let before = self.before_restart(order, previous);
        self.replace_all(order, before.clone(), emit)
            .inspect_err(|_| {
                if !self.is_stopping() {
                    self.resume_types(order.project, before);
                }
            })
    }

    /// What ran before a restart that was cut off.
    fn before_restart(&self, order: &RestartRequest<'_>, previous: Option<DeploymentId>) -> Types {
        let root = self.setting.store.root();
        let known = state::read_before(root, order.project).unwrap_or_default();
        if let Some(before) = known.filter(|before| before.restarts == order.release) {
            return before.types;
        }
        let is_new = |types: &Types| types.values().all(|id| *id == order.release);
        match (state::read(root, order.project), previous) {
            // Nothing was to run, or the restart had not begun.
            (Ok(None), _) => Types::new(),
            (Ok(Some(types)), None) => types,
            (Ok(Some(types)), Some(_)) if !is_new(&types) => types,
            (_, Some(previous)) => self.types_of(order.project, previous),
            (Err(_), None) => self.types_of(order.project, order.release),
        }
    }

    fn replace_all(
        &self,
        order: &RestartRequest<'_>,
        before: Types,
        emit: OnProcessEvent<'_>,
    ) -> Result<(), Unhealthy> {
        let (project, root) = (order.project, self.setting.store.root());
        if let Some(hook) = self.hook(project) {
            let release = self.setting.store.release(project, order.release);
            let of = (project, &*release);
            self.run_hook(&hook, of, order.hook_limit, order.stop, emit)?;
            // Whoever has a hook has something else that runs the processes.
            self.drop_component(project)?;
            return Ok(());
        }
        let plan = self.plan(project, order.release)?;
        let component = self.component(project);
        let _needed = component.need(before.values().copied().chain([order.release]));
        let before = Before {
            restarts: order.release,
            types: before,
        };
        state::write_before(root, project, Some(&before))?;
        let types = plan.types.iter();
        let types = types.map(|one| (one.name.clone(), plan.release)).collect();
        // From here on it is the new ones that the next start runs, as the next start finds the new release live.
        state::write(root, project, &types)?;
        let mut turn = RestartPlan {
            processes: self,
            project,
            component: &component,
            plan: &plan,
            sockets: component.sockets().clone(),
            started: Vec::new(),
            stopped: Vec::new(),
            replaced: Vec::new(),
            emit,
        };
        // A bug must not leave half of the processes running.
        let run = catch_unwind(AssertUnwindSafe(|| turn.run(order.rolling)));
        let outcome = run.unwrap_or_else(|_| Err(bug(project)));
        match &outcome {
            // Sockets that no type has any longer are closed, when the last process that had them is gone.
            Ok(()) => *component.sockets() = std::mem::take(&mut turn.sockets),
            Err(_) => turn.undo(),
        }
        let written = match &outcome {
            Ok(()) => state::write_stopped(root, project, false),
            Err(_) => state::write(root, project, &before.types),
        };
        self.keep_sockets();
        // If it is not written what runs, the next start finds in the other file what ran before.
        let written = written.and_then(|()| state::write_before(root, project, None));
        if let Err(error) = written {
            log::error(&error.to_string());
        }
        outcome
    }
}

fn bug(project: &Project) -> Unhealthy {
    Unhealthy {
        code: Code::Internal,
        message: format!("restarting {project}: a bug, of which the server's log has more"),
        output: Vec::new(),
    }
}

/// A restart on its way.
struct RestartPlan<'a> {
    processes: &'a Processes,
    project: &'a Project,
    component: &'a ComponentProcesses,
    plan: &'a ProcessPlan,
    /// What is held once it is through.
    sockets: std::collections::HashMap<String, HeldSocket>,
    started: Vec<Arc<Process>>,
    stopped: Vec<Arc<Process>>,
    /// Old ones in whose place there is a new one already, whether they were stopped or not.
    replaced: Vec<Arc<Process>>,
    emit: OnProcessEvent<'a>,
}

impl RestartPlan<'_> {
    fn run(&mut self, rolling: bool) -> Result<(), Unhealthy> {
        let types: Vec<&ProcessType> = self.plan.types.iter().collect();
        let size = if rolling { 1 } else { types.len().max(1) };
        for batch in types.chunks(size) {
            self.replace(batch)?;
        }
        // What the new release does not have any longer goes last.
        let gone =
            |process: &Arc<Process>| !types.iter().any(|one| one.name == process.launch.kind);
        let gone: Vec<_> = self.component.all().into_iter().filter(gone).collect();
        self.stop(gone)?;
        self.sockets
            .retain(|kind, _| self.plan.manifest.sockets.contains_key(kind));
        Ok(())
    }

    /// Replaces the processes of some types.
    fn replace(&mut self, types: &[&ProcessType]) -> Result<(), Unhealthy> {
        let (held, plain): (Vec<&ProcessType>, Vec<&ProcessType>) = types
            .iter()
            .partition(|one| self.plan.manifest.sockets.contains_key(&one.name));
        let old = |types: &[&ProcessType], component: &ComponentProcesses| {
            let processes = component.processes();
            let of = types.iter().filter_map(|one| processes.get(&one.name));
            of.cloned().collect::<Vec<_>>()
        };
        let old_held = old(&held, self.component);
        self.stop(old(&plain, self.component))?;
        let deadline = Instant::now() + self.plan.manifest.health_timeout.min(HEALTH_MAX);
        let mut waited = Vec::new();
        for one in types {
            waited.push(self.start(one)?);
        }
        let all: Vec<_> = waited.iter().map(|one| Arc::clone(&one.process)).collect();
        for mut one in waited {
            let (kind, pid) = (one.process.launch.kind.clone(), one.process.facts().pid);
            self.tell(&kind, pid, format!("waiting for {}", one.awaits()))?;
            let is_stopping = || self.processes.is_stopping();
            one.healthy(&all, deadline, &is_stopping)
                .map_err(|(why, of)| self.unhealthy(&why, &of))?;
            self.tell(&kind, one.process.facts().pid, "healthy".to_owned())?;
        }
        self.stop(old_held)
    }

    fn start(&mut self, of: &ProcessType) -> Result<AwaitedProcess, Unhealthy> {
        if self.processes.is_stopping() {
            return Err(Unhealthy {
                code: Code::Interrupted,
                message: format!("restarting {}: the server is stopping", self.project),
                output: Vec::new(),
            });
        }
        let held = self
            .processes
            .held(self.plan, (self.project, self.component), &of.name)?;
        if let Some(held) = &held {
            self.sockets.insert(of.name.clone(), held.clone());
        }
        let health = match &self.plan.manifest.health {
            // The old process would answer in its place.
            Some(Health::Http(_)) if held.is_some() => None,
            health => health.clone(),
        };
        let ready = ReadySocket::new(self.processes.setting.account.as_deref())?;
        let notify = Some(ready.variable());
        let launch = self
            .processes
            .launch(self.project, self.plan, of, held, notify);
        let process = Process::start(launch, &self.component.output)?;
        self.started.push(Arc::clone(&process));
        let old = self
            .component
            .processes()
            .insert(of.name.clone(), Arc::clone(&process));
        self.replaced.extend(old);
        // Its id is there in a moment, or the reason why not.
        process.started(Instant::now() + START_MAX);
        self.tell(&of.name, process.facts().pid, "started".to_owned())?;
        Ok(AwaitedProcess {
            process,
            ready,
            health,
        })
    }

    /// Stops old processes, all at once.
    fn stop(&mut self, old: Vec<Arc<Process>>) -> Result<(), Unhealthy> {
        for process in &old {
            let pid = process.facts().pid;
            self.tell(&process.launch.kind, pid, "stopping".to_owned())?;
        }
        stop_all(&old);
        for process in &old {
            let mut processes = self.component.processes();
            // The new one of a held socket is there already.
            let known = processes.get(&process.launch.kind);
            if known.is_some_and(|known| Arc::ptr_eq(known, process)) {
                processes.remove(&process.launch.kind);
            }
            drop(processes);
            self.stopped.push(Arc::clone(process));
            self.tell(&process.launch.kind, None, "stopped".to_owned())?;
        }
        Ok(())
    }

    fn tell(&mut self, kind: &str, pid: Option<u32>, status: String) -> Result<(), Unhealthy> {
        (self.emit)(ProcessEvent {
            kind: kind.to_owned(),
            pid,
            status,
            line: None,
        })?;
        Ok(())
    }

    fn unhealthy(&self, why: &str, of: &Process) -> Unhealthy {
        let tail = of.facts().tail.into_iter();
        Unhealthy {
            code: Code::Unhealthy,
            message: format!("restarting {}: {why}", self.project),
            output: tail
                .map(|(stream, line)| OutputLine {
                    kind: of.launch.kind.clone(),
                    stream,
                    line,
                })
                .collect(),
        }
    }

    /// Stops what was started, and starts again what was stopped, each from the release that it ran from.
    fn undo(&mut self) {
        stop_all(&self.started);
        let mut processes: BTreeMap<String, Arc<Process>> =
            std::mem::take(&mut self.component.processes());
        let is_new =
            |process: &Arc<Process>| self.started.iter().any(|new| Arc::ptr_eq(new, process));
        processes.retain(|_, process| !is_new(process));
        let was_stopped = |old: &Arc<Process>| self.stopped.iter().any(|one| Arc::ptr_eq(one, old));
        for old in self.replaced.iter().filter(|old| !was_stopped(old)) {
            processes.insert(old.launch.kind.clone(), Arc::clone(old));
        }
        for old in &self.stopped {
            if self.processes.is_stopping() {
                break;
            }
            let launch = Launch {
                notify: None,
                ..old.launch.clone()
            };
            let is_stopping = || self.processes.is_stopping();
            match Process::start_again(&launch, &self.component.output, &is_stopping) {
                Ok(process) => {
                    processes.insert(old.launch.kind.clone(), process);
                }
                Err(error) => log::error(&format!(
                    "starting {} of {} again: {error}",
                    old.launch.kind, self.project
                )),
            }
        }
        self.component.processes().clone_from(&processes);
        // Who stops all may have looked just before they were there.
        if self.processes.is_stopping() {
            let all: Vec<_> = processes.into_values().collect();
            stop_all(&all);
        }
    }
}
