//! The operator's own way to restart: an executable at `ROOT/hooks/X/restart`, told the release's path, whose exit code decides.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::api::error::{Code, Error, Refusal};
use crate::api::event::ProcessEvent;
use crate::api::name::Project;
use crate::engine::processes::process::exit;
use crate::engine::processes::restart::{OnProcessEvent, OutputLine, RestartRequest, Unhealthy};
use crate::engine::processes::{Processes, is_executable};
use crate::engine::shared::{self, SHARED};
use crate::system::child::{self, Ended, RunOptions};
use crate::system::log;
use crate::system::stop::Stop;

/// What a hook is called in events.
const KIND: &str = "hook";
/// Lines of a hook that are kept for its error.
const TAIL_LINES: usize = 20;

impl Processes {
    /// A component's hook, if it has one.
    pub(super) fn hook(&self, project: &Project) -> Option<PathBuf> {
        let hooks = self.setting.store.root().join("hooks");
        let hook = hooks.join(project.as_str()).join("restart");
        is_executable(&hook).then_some(hook)
    }

    /// Tells a hook that another release is live again, since nobody else tells what it restarts.
    pub fn restore(&self, order: &RestartRequest<'_>) {
        let Some(hook) = self.hook(order.project) else {
            return;
        };
        let release = self.setting.store.release(order.project, order.release);
        let of = (order.project, &*release);
        let restored = self.run_hook(&hook, of, order.hook_limit, order.stop, &mut |_| Ok(()));
        if let Err(unhealthy) = restored {
            log::error(&format!("going back: {}", unhealthy.message));
        }
    }

    /// Runs a hook with a release. It is the operator's and may start daemons: it carries no mark, and what it leaves behind
    /// stays.
    pub(super) fn run_hook(
        &self,
        hook: &Path,
        (project, release): (&Project, &Path),
        limit: Duration,
        stop: &Stop,
        emit: OnProcessEvent<'_>,
    ) -> Result<(), Unhealthy> {
        let mut command = Command::new(hook);
        let environment = self.setting.environment.iter();
        command
            .arg(release)
            .current_dir("/")
            .env_clear()
            .envs(environment.map(|(key, value)| (key, value)))
            .env(child::PROJECT, project.as_str())
            .env(SHARED, shared::dir(&self.setting.store, project));
        let how = RunOptions {
            spares_family: true,
            ..RunOptions::within(limit, self.setting.account.as_deref())
        };
        let mut tail = Vec::new();
        let ended = child::run(command, how, stop, &mut |line| {
            if tail.len() == TAIL_LINES {
                tail.remove(0);
            }
            tail.push(OutputLine {
                kind: KIND.to_owned(),
                stream: line.stream.word(),
                line: line.text.clone(),
            });
            emit(ProcessEvent {
                kind: KIND.to_owned(),
                pid: None,
                status: "running".to_owned(),
                line: Some(line.text),
            })
        });
        let why = match ended {
            Ok(Ended::Exited(status)) if status.success() => return Ok(()),
            Ok(Ended::Exited(status)) => exit(status),
            Ok(Ended::TimedOut) => format!("timed out after {} s", limit.as_secs_f64()),
            Ok(Ended::Stopped) => "stopped".to_owned(),
            Err(error) => error.to_string(),
        };
        Err(Unhealthy {
            code: Code::Unhealthy,
            message: format!("restarting {project} with {}: {why}", hook.display()),
            output: tail,
        })
    }
}

/// So that an event that the disk does not take ends what it tells of.
impl From<Error> for Unhealthy {
    fn from(error: Error) -> Unhealthy {
        let refusal = Refusal::from(error);
        Unhealthy {
            code: match refusal.code {
                // An address in use, a file that cannot be read: they do not run, and nothing else is to blame.
                Code::Internal => Code::Unhealthy,
                code => code,
            },
            message: refusal.message,
            output: Vec::new(),
        }
    }
}
