//! Running one command in a release, which is not a deployment.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::api::error::{Code, Refusal};
use crate::api::name::{DeploymentId, Project};
use crate::api::operation::{CommandWords, RunCommand};
use crate::engine::child_env;
use crate::engine::command::{self, CommandLaunch, RunningCommand};
use crate::engine::deployer::running::{ActiveCommand, RunningDeployments};
use crate::engine::deployer::{Deployer, stopping_refusal};
use crate::engine::shared;
use crate::system::log;
use crate::system::stop::{self, SharedStopper};

/// Commands at once, of all components: each is somebody who waits, and may take as much of the machine as a deployment.
const COMMANDS_MAX: usize = 8;
/// Descriptors of a command: two pipes of its output, one to wait for its end, and two of its stop.
const DESCRIPTORS_EACH: usize = 5;
/// So much of a command is shown in a message.
const SHOWN_CHARS: usize = 60;
/// How long a command that is told to stop may take: a second to tidy up, twice, and the end of what it prints.
const STOP_MAX: Duration = Duration::from_secs(60);

/// The place of one command; dropping it gives it back.
struct CommandSlot {
    running: Arc<RunningDeployments>,
    number: u64,
}

impl Drop for CommandSlot {
    fn drop(&mut self) {
        self.running.lock().commands.remove(&self.number);
        self.running.changed.notify_all();
    }
}

impl Deployer {
    /// Runs a command in the live release of a component, or in one that is kept. That release stays as long as it runs.
    ///
    /// # Errors
    /// `not_found`, `conflict`, `busy`, `full`, or why it has not begun.
    pub fn run_command(
        &self,
        request: &RunCommand,
        user: Option<&str>,
    ) -> Result<RunningCommand, Refusal> {
        let (project, store) = (&request.project, &self.known.store);
        let what = format!("running {} in {project}", shown(&request.command));
        let release = match request.release {
            Some(id) => self.built_by(project, id, &what)?.deployment_id,
            None => store.live(project).ok_or_else(|| {
                let why = format!("{what}: nothing of it is live");
                Refusal::new(Code::NotFound, why)
            })?,
        };
        let why = Arc::default();
        let (stopper, stop) = stop::pair()?;
        let stopper = SharedStopper::new(stopper);
        let slot = self.command_slot((project, release), &stopper, &why, &what)?;
        let account = self.builder.account.clone();
        let around = child_env::of(
            store,
            project,
            &self.builder.environment,
            account.as_deref(),
        )?;
        shared::make(store, project, account.as_deref())?;
        // What is run may hold secrets.
        let by = user.map_or(String::new(), |user| format!(", for {user}"));
        log::info(&format!(
            "running a command in {project}, release {release}{by}"
        ));
        Ok(command::start(CommandLaunch {
            what,
            words: request.command.clone(),
            dir: store.release(project, release),
            environment: child_env::in_release(store, (project, release), around.variables),
            warnings: around.warnings,
            mark: store.server_mark().clone(),
            account,
            limit: request.timeout.map(Duration::from_millis),
            stops: (stopper, stop),
            why,
            hold: Box::new(slot),
        })?)
    }

    /// A place for a command, in a release that is there and stays.
    fn command_slot(
        &self,
        (project, release): (&Project, DeploymentId),
        stopper: &SharedStopper,
        why: &Arc<OnceLock<Code>>,
        what: &str,
    ) -> Result<CommandSlot, Refusal> {
        let store = &self.known.store;
        let refused = |code, why: &str| Err(Refusal::new(code, format!("{what}: {why}")));
        let mut state = self.running.lock();
        if state.stopping {
            return Err(stopping_refusal());
        }
        let busy = state.busy.get(project);
        if busy.is_some_and(|busy| busy.drops) {
            return refused(Code::Busy, "it is being dropped");
        }
        // It may be built again at this moment.
        let needed = busy.is_some_and(|busy| busy.release == Some(release));
        if needed && store.live(project) != Some(release) {
            return refused(Code::Busy, "a deployment makes that release live");
        }
        if !store.release(project, release).is_dir() {
            return refused(Code::NotFound, "that release is not kept any longer");
        }
        if state.commands.len() >= COMMANDS_MAX {
            let why = format!("{COMMANDS_MAX} commands run already; try again when one has ended");
            return refused(Code::Full, &why);
        }
        let number = state.commands_begun;
        state.commands_begun += 1;
        state.commands.insert(
            number,
            ActiveCommand {
                project: project.clone(),
                release,
                stopper: stopper.clone(),
                why: Arc::clone(why),
            },
        );
        Ok(CommandSlot {
            running: Arc::clone(&self.running),
            number,
        })
    }

    /// Ends the commands that run in a component whose releases are to go, and waits for that.
    pub(super) fn end_commands(&self, project: &Project) {
        let state = self.running.lock();
        let of = state
            .commands
            .values()
            .filter(|one| one.project == *project);
        of.for_each(|one| one.stop(Code::Cancelled));
        drop(state);
        let gone = self.running.wait(Instant::now() + STOP_MAX, |state| {
            state.commands.values().all(|one| one.project != *project)
        });
        if !gone {
            log::warn(&format!("a command in {project} does not end"));
        }
    }

    /// How many descriptors commands hold, about.
    pub fn command_descriptors(&self) -> usize {
        DESCRIPTORS_EACH * self.running.lock().commands.len()
    }
}

/// The beginning of a command, for whoever asked for it.
fn shown(command: &CommandWords) -> String {
    let text = match command {
        CommandWords::Line(line) => line.clone(),
        CommandWords::Words(words) => words.join(" "),
    };
    let mut chars = text.chars();
    let shown: String = chars.by_ref().take(SHOWN_CHARS).collect();
    let more = if chars.next().is_some() { "..." } else { "" };
    format!("'{shown}{more}'")
}
