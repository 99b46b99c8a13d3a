//! The processes of live components: started, kept running, written down, and replaced by those of another release.
//!
//! A process is started from a release and stays with it: when it exits it comes back from its own release, whatever is live
//! by then. Which processes run from which release is on disk (`ROOT/run/X.processes`), so that the next start of the server
//! runs what ran. [`Processes::restart`] replaces them, and puts back what ran before if the new ones are not healthy.
//!
//! | file | what for |
//! | --- | --- |
//! | `process` | one process, kept running by its thread |
//! | `restart` | from the processes of one release to those of another |
//! | `health` | when a new process is healthy |
//! | `held` | their listening sockets, which outlive them and the server |
//! | `hook` | the operator's own way to restart |
//! | `line` | from a line of a `Procfile` to a command |
//! | `output` | what they print, rotated, and read again |
//! | `resume` | what ran is started again by the next server |
//! | `state` | what is to run after the server's next start |
//! | `status` | what is known of what runs |
//! | `stopped` | what somebody has stopped |
//! | `totals` | how many there are |

mod health;
mod held;
mod hook;
mod line;
mod output;
mod process;
mod restart;
mod resume;
mod state;
mod status;
mod stopped;
mod totals;

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::api::error::{Doing, Error, Refusal};
use crate::api::name::{DeploymentId, Project};
use crate::engine::child_env;
use crate::engine::manifest::{self, Manifest, ProcessType};
use crate::engine::processes::held::{HeldSocket, PassedSockets};
use crate::engine::processes::output::OutputLog;
use crate::engine::processes::process::{Launch, Process, stop_all};
use crate::engine::processes::state::Types;
use crate::engine::shared;
use crate::store::Store;
use crate::system::account::Account;
use crate::system::child::{self, SurvivorScope};
use crate::system::latch::Latch;
use crate::system::log;
use crate::system::passing::PassedSocket;

pub use crate::engine::processes::held::HELD;
pub use crate::engine::processes::output::{LogFilter, LogFollower, Logged};
pub use crate::engine::processes::restart::{RestartRequest, Unhealthy};
pub use crate::engine::processes::status::{ProcessStatus, by_release};
pub use crate::engine::processes::totals::ProcessTotals;

/// Descriptors of a process: two pipes of its output, one to wait for its end, its log, and a held socket.
const DESCRIPTORS_EACH: usize = 5;

/// What all processes have in common.
pub struct ProcessSettings {
    /// The root.
    pub store: Arc<Store>,
    /// The server's environment without what is its own.
    pub environment: Vec<(OsString, OsString)>,
    /// Who they run as, if not as the server's own user.
    pub account: Option<Arc<Account>>,
    /// Whether their sockets may have ports below 1024.
    pub privileged_sockets: bool,
}

/// All processes of all components.
pub struct Processes {
    setting: ProcessSettings,
    components: Mutex<HashMap<Project, Arc<ComponentProcesses>>>,
    stopping: AtomicBool,
    /// How often any of them was started again after it had exited.
    restarts: Arc<AtomicU64>,
    /// The sockets that the server before held, until a process has them.
    passed: PassedSockets,
    /// What a supervisor keeps.
    kept: Mutex<BTreeMap<String, Arc<TcpListener>>>,
    /// Set when what ran before is started: who changes that earlier would have it undone.
    resumed: Latch,
}

/// The processes of one component, and what is kept for them. Only whoever holds the component changes it.
struct ComponentProcesses {
    processes: Mutex<BTreeMap<String, Arc<Process>>>,
    sockets: Mutex<HashMap<String, HeldSocket>>,
    /// The releases that a restart on its way may need, whatever runs at the moment.
    needed: Mutex<Vec<DeploymentId>>,
    output: Arc<OutputLog>,
}

/// Releases that a restart needs; dropping it ends the need.
struct Needed<'a>(&'a ComponentProcesses);

impl Drop for Needed<'_> {
    fn drop(&mut self) {
        self.0.needed().clear();
    }
}

impl ComponentProcesses {
    fn processes(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Process>>> {
        // Each change is one insertion or removal.
        self.processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn needed(&self) -> MutexGuard<'_, Vec<DeploymentId>> {
        self.needed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until it is decided which of them run, no release of theirs may go.
    fn need(&self, releases: impl Iterator<Item = DeploymentId>) -> Needed<'_> {
        *self.needed() = releases.collect();
        Needed(self)
    }

    fn all(&self) -> Vec<Arc<Process>> {
        self.processes().values().cloned().collect()
    }

    fn sockets(&self) -> MutexGuard<'_, HashMap<String, HeldSocket>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a release says of its processes.
struct ProcessPlan {
    release: DeploymentId,
    dir: PathBuf,
    types: Vec<ProcessType>,
    manifest: Manifest,
    environment: Vec<(OsString, OsString)>,
}

impl Processes {
    /// No processes yet.
    pub fn new(setting: ProcessSettings, passed: Vec<PassedSocket>) -> Processes {
        Processes {
            passed: PassedSockets::new(passed),
            kept: Mutex::default(),
            setting,
            components: Mutex::default(),
            stopping: AtomicBool::new(false),
            restarts: Arc::default(),
            resumed: Latch::default(),
        }
    }

    fn components(&self) -> MutexGuard<'_, HashMap<Project, Arc<ComponentProcesses>>> {
        // Each change is one insertion or removal.
        self.components
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn component(&self, project: &Project) -> Arc<ComponentProcesses> {
        let mut components = self.components();
        let fresh = || {
            let dir = self.logs(project);
            Arc::new(ComponentProcesses {
                processes: Mutex::default(),
                sockets: Mutex::default(),
                needed: Mutex::default(),
                output: Arc::new(OutputLog::new(dir)),
            })
        };
        Arc::clone(components.entry(project.clone()).or_insert_with(fresh))
    }

    fn logs(&self, project: &Project) -> PathBuf {
        let root = self.setting.store.root();
        root.join("logs").join(project.as_str())
    }

    /// Whether the server is ending, so that nothing is started any longer.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    fn plan(&self, project: &Project, release: DeploymentId) -> Result<ProcessPlan, Error> {
        let what = || format!("reading the processes of release {release}");
        let dir = self.setting.store.release(project, release);
        // A release that somebody removed by hand says nothing of its processes, not that it has none.
        std::fs::metadata(&dir).doing(what)?;
        let types = manifest::processes(&dir).doing(what)?;
        let manifest = manifest::manifest(&dir).doing(what)?;
        self.check_sockets(&manifest).doing(what)?;
        let account = self.setting.account.as_deref();
        let (store, servers) = (&self.setting.store, &self.setting.environment);
        let around = child_env::of(store, project, servers, account).doing(what)?;
        shared::make(store, project, account)?;
        let environment = child_env::in_release(store, (project, release), around.variables);
        Ok(ProcessPlan {
            release,
            dir,
            types,
            manifest,
            environment,
        })
    }

    /// Refuses sockets that a component may not have here.
    ///
    /// # Errors
    /// `load_failed`, which names the first of them.
    pub fn check_sockets(&self, manifest: &Manifest) -> Result<(), Refusal> {
        match self.setting.privileged_sockets {
            true => Ok(()),
            false => manifest.needs_no_privilege(),
        }
    }

    fn launch(
        &self,
        project: &Project,
        plan: &ProcessPlan,
        of: &ProcessType,
        held: Option<HeldSocket>,
        notify: Option<String>,
    ) -> Launch {
        Launch {
            project: project.clone(),
            kind: of.name.clone(),
            line: of.line.clone(),
            release: plan.release,
            dir: plan.dir.clone(),
            mark: self.setting.store.server_mark().clone(),
            environment: plan.environment.clone(),
            notify,
            account: self.setting.account.clone(),
            socket: held.map(|held| held.listener),
            all_restarts: Arc::clone(&self.restarts),
        }
    }

    /// Whether a release is needed by a process that runs from it, or may be.
    pub fn use_release(&self, project: &Project, release: DeploymentId) -> bool {
        if !self.resumed.is_open() {
            return true;
        }
        let component = self.components().get(project).cloned();
        component.is_some_and(|component| {
            let runs = |one: &Arc<Process>| one.launch.release == release;
            component.needed().contains(&release) || component.processes().values().any(runs)
        })
    }

    /// Stops a component's processes for good.
    ///
    /// # Errors
    /// When it cannot be written down that they are not to run any longer; they are stopped all the same.
    pub fn drop_component(&self, project: &Project) -> Result<(), Error> {
        self.resumed.wait();
        self.end_processes(project);
        let root = self.setting.store.root();
        state::write(root, project, &Types::new())?;
        state::write_stopped(root, project, false)?;
        state::write_before(root, project, None)
    }

    fn end_processes(&self, project: &Project) {
        // It stays known: who follows its output goes on with that of its next processes.
        let component = self.components().get(project).cloned();
        if let Some(component) = component {
            stop_all(&component.all());
            component.processes().clear();
            component.sockets().clear();
            component.output.close();
        }
        self.passed.drop_component(project);
        self.keep_sockets();
        // What a build or a process left behind under another parent goes too.
        let mark = self.setting.store.server_mark();
        if let Err(error) = child::end_survivors(mark, SurvivorScope::Project(project)) {
            log::warn(&error.to_string());
        }
    }

    /// Stops all processes, each within its grace, and starts no more. They run again after the server's next start. Says
    /// whether all have ended by the deadline.
    pub fn stop(&self, deadline: Instant) -> bool {
        self.stopping.store(true, Ordering::Release);
        let components: Vec<Arc<ComponentProcesses>> =
            self.components().values().cloned().collect();
        let all: Vec<Arc<Process>> = components.iter().flat_map(|one| one.all()).collect();
        all.iter().for_each(|process| process.tell_to_stop());
        let ended = all.iter().all(|process| process.stop_until(deadline));
        components.iter().for_each(|one| one.output.end());
        ended
    }

    /// How many descriptors they hold, about.
    pub fn descriptors(&self) -> usize {
        let components = self.components();
        let processes: usize = components.values().map(|one| one.processes().len()).sum();
        DESCRIPTORS_EACH * processes
    }

    /// The newest lines of a component's output, oldest first.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn tail(
        &self,
        project: &Project,
        lines: usize,
        filter: &LogFilter,
    ) -> Result<Vec<Logged>, Error> {
        output::tail(&self.logs(project), lines, filter)
    }

    /// Writes something about the whole component between the lines of its output.
    pub fn note(&self, project: &Project, kind: &str, text: &str) {
        self.component(project).output.note(kind, text);
    }

    /// The newest lines of a component's output, and the way to those that come.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn follow(
        &self,
        project: &Project,
        lines: usize,
        filter: &LogFilter,
    ) -> Result<(Vec<Logged>, LogFollower), Error> {
        LogFollower::new(&self.component(project).output, lines, filter)
    }
}

/// Whether a file can be run.
fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path)
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
