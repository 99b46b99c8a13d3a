//! `gangplank serve`: puts the house together, serves, and takes it apart again.
//!
//! | file | what for |
//! | --- | --- |
//! | `router` | which path and operation a request is |
//! | `request_log` | the one line of log for each request |
//! | `state` | what all requests share |
//! | `auth` | who asks, and what they may do |
//! | `options` | what a request's head says |
//! | `form` | a request's body: its fields, and the payload behind them |
//! | `members` | the members of an object of JSON, unread |
//! | `answers` | what becomes of a request, and the JSON of every answer |
//! | `openapi` | the description of the API |
//! | `pump` | every live stream: its opening, its bursts, its silences, its end |
//! | `broadcast` | the events of a deployment, to all who watch it |
//! | `deploy`, `rollback`, `cancel`, `restart`, `stop`, `start`, `drop`, `sync` | the operations that change what is live or runs |
//! | `run` | one command in a release |
//! | `fleet` | payloads for the other hosts of a fleet, and parts of them (`range`); `uploads`: their places |
//! | `list`, `show`, `watch`, `payload`, `tree`, `status`, `logs`, `system` | the operations that look |
//! | `upgrade` | the listening sockets: made, passed on by the server before, or kept by a supervisor |
//! | `metrics`, `counters` | what happens here in numbers |
//! | `end` | what ends the server |
//! | `joining` | the fleet that the server belongs to |
//! | `inner` | the HTTP server behind the gate, and its next life if it dies |
//! | `sockets` | the unix sockets |
//!
//! An operation has the file that the command of the CLI is named after.

mod answers;
mod auth;
mod broadcast;
mod cancel;
mod counters;
mod deploy;
mod drop;
mod end;
mod env;
mod everywhere;
mod fleet;
mod form;
pub mod gate;
pub mod http;
mod inner;
mod joining;
mod list;
mod login;
mod logs;
mod members;
mod metrics;
mod openapi;
mod options;
mod page;
mod payload;
mod prepare;
mod pump;
mod range;
mod request_log;
mod restart;
mod rollback;
mod router;
mod run;
mod run_as;
mod show;
mod sockets;
mod start;
mod state;
mod status;
mod stop;
mod sync;
mod system;
mod tree;
mod ui;
mod upgrade;
mod uploads;
mod watch;

use std::convert::Infallible;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::api::error::{Doing, Error};
use crate::api::name::Project;
use crate::engine::deployer::{Deployer, TakenOver};
use crate::engine::env::EnvFiles;
use crate::engine::install;
use crate::engine::notify::{self, Notifier};
use crate::engine::peers::Peer;
use crate::engine::processes::{ProcessSettings, Processes};
use crate::engine::recover::{self, UnjudgedDeployment, recover};
use crate::engine::registry::Registry;
use crate::engine::retain::RetentionLimits;
use crate::engine::reuse::InstalledByDeployment;
use crate::engine::settings::ServeOptions;
use crate::engine::stages::Builder;
use crate::formats::archive::Limits;
use crate::server::auth::Authenticator;
use crate::server::broadcast::Broadcasts;
use crate::server::end::{ServerEnd, wait_for_end};
use crate::server::gate::{Certificate, Gate, Listener, PendingConnections};
use crate::server::http::Exchange;
use crate::server::inner::InnerServer;
use crate::server::joining::FleetDuty;
use crate::server::state::ServerState;
use crate::server::upgrade::{Passed, Predecessor, Successor};
use crate::store::Store;
use crate::store::tokens::Tokens;
use crate::system::child::{self, SurvivorScope};
use crate::system::log;
use crate::system::notify as supervisor;
use crate::system::passing::{ListeningSocket, PassedSocket};
use crate::system::paths;
use crate::system::signals;
use crate::system::threads;

/// What the system gives a thread that says nothing: this one starts processes and asks peers.
const LOOK_BACK_STACK_BYTES: usize = 2 << 20;

/// How long a client that has just come may take for its head before a server that ends lets it go.
const REST_HEAD: Duration = Duration::from_secs(1);
/// A server that was told to stop serves for this part of `--grace` still, a quarter of a second by default: as long as it may
/// take to start the next one.
const LEAVING_PART: u32 = 40;
/// The lock of the root is free when the server before has ended; the system takes a moment for that.
const AFTER_PREDECESSOR: Duration = Duration::from_secs(5);

/// How long before the end of `--grace` what still runs is killed.
const KILL_BEFORE_END: Duration = Duration::from_secs(1);

/// Runs the server until a signal ends it.
///
/// # Errors
/// When it cannot start, saying which part and why.
pub fn serve(options: &ServeOptions) -> Result<(), Error> {
    // While there is one thread.
    let mut passed = Passed::by_supervisor();
    // As early as can be, so that a signal during the start is not lost.
    let signals = signals::of_server()?;
    child::reap_orphans().doing(|| "making a thread that collects orphans".into())?;
    let certificate = match &options.tls {
        Some((cert, key)) => Some(Arc::new(Certificate::load(cert, key)?)),
        None => None,
    };
    let root = match &options.root {
        Some(root) => root.clone(),
        None => paths::default_root()?,
    };
    let wait = match Predecessor::ask(&root, options, &mut passed)? {
        Some(predecessor) => {
            // What can be known to be wrong is found while the other one still serves.
            options
                .run_as
                .as_deref()
                .map(run_as::find_account)
                .transpose()?;
            predecessor.replace();
            AFTER_PREDECESSOR
        }
        None => Duration::ZERO,
    };
    let store = Arc::new(Store::open(&root, wait)?);
    let tokens = Tokens::of(store.root());
    if let Some(file) = tokens.ensure_admin()? {
        log::info(&format!(
            "made the token of 'admin'; it is in {}",
            file.display()
        ));
    }
    // Before the ends that the start makes: these are told, too.
    let secret = options.notify_secret_file.as_deref();
    let notifiers = notify::prepare(&store, &options.notify, secret)?;
    if let Some(fleet) = &options.fleet {
        joining::let_hosts_in(fleet, &tokens)?;
    }
    let unjudged = recover(&store)?;
    let known = Registry::new(store);
    let is_kept = passed.is_kept();
    let parts = (known, unjudged, tokens);
    let (house, taken_over) = RunningServer::build(options, parts, certificate.as_ref(), passed)?;
    let fleet = options.fleet.as_ref();
    let duty = fleet.map(|fleet| joining::member(fleet, &house.state));
    let duty = duty.transpose()?;
    house.announce();
    notifiers.into_iter().try_for_each(Notifier::start)?;
    house.look_back(taken_over, (options.sync_from.clone(), duty))?;
    supervisor::tell("READY=1");
    let end = wait_for_end(&signals, house.successor.channel(), certificate.as_ref());
    supervisor::tell("STOPPING=1");
    match end {
        ServerEnd::Signal if is_kept => house.rest_and_take_apart(options.grace),
        // Whoever starts the next one at once means it to take over.
        ServerEnd::Signal if house.successor.comes_within(options.grace / LEAVING_PART) => {
            house.hand_over(options.grace);
        }
        ServerEnd::Signal => {
            log::info("stopping");
            house.take_apart(options.grace);
        }
        ServerEnd::Replaced => house.hand_over(options.grace),
    }
    log::info("stopped");
    Ok(())
}

/// What all requests share: what is known, what runs, and who deploys.
fn state(
    options: &ServeOptions,
    known: Registry,
    tokens: Tokens,
    held: Vec<PassedSocket>,
) -> Result<ServerState, Error> {
    let store = &known.store;
    let account = match &options.run_as {
        Some(name) => Some(Arc::new(run_as::account(name, store)?)),
        None => None,
    };
    let environment = install::environment(std::env::vars_os(), account.as_deref());
    let install_timeout = options.install_timeout;
    let env = EnvFiles::new(Arc::clone(store));
    let settings = ProcessSettings {
        store: Arc::clone(store),
        environment: environment.clone(),
        account: account.clone(),
        privileged_sockets: options.privileged_sockets,
    };
    let processes = Arc::new(Processes::new(settings, held));
    let builder = Builder {
        store: Arc::clone(store),
        install_timeout,
        environment,
        account,
        processes: Arc::clone(&processes),
        peers: options
            .peers
            .iter()
            .map(Peer::new)
            .collect::<Result<_, _>>()?,
        replicate_timeout: options.replicate_timeout,
        reuses: options.spare,
        installed: InstalledByDeployment::default(),
    };
    let keep = RetentionLimits {
        releases: options.keep_releases,
        payloads: options.keep_payloads,
        deployments: options.keep_deployments,
        spare: options.spare,
    };
    let limits = Limits {
        max_payload: options.max_payload,
        max_entries: options.max_entries,
        min_free_disk: options.min_free_disk,
    };
    let deployer = Deployer::new(options.max_deploys, builder, (limits, keep), known.clone())?;
    let deployer = Arc::new(deployer);
    Ok(ServerState {
        known,
        max_payload: options.max_payload,
        broadcasts: Arc::new(Broadcasts::new(&deployer)),
        deployer,
        processes,
        env,
        max_json_body: options.max_json_body,
        tls: options.tls.is_some(),
        started: Instant::now(),
        requests: AtomicU64::new(0),
        answers: Arc::default(),
        occupancy: OnceLock::new(),
        uploads: Arc::default(),
        auth: Authenticator::new(Arc::new(tokens)),
        addresses: OnceLock::new(),
        fleet: OnceLock::new(),
        pins: OnceLock::new(),
    })
}

/// Takes over what an earlier server left without its end, and ends what cannot be taken over.
fn take_over(state: &ServerState, unjudged: Vec<UnjudgedDeployment>) -> Vec<TakenOver> {
    let take = |one| match state.deployer().take_over(one) {
        Ok(taken) => Some(taken),
        Err(failed) => {
            let (refusal, one) = *failed;
            let id = one.record.deployment_id;
            log::error(&format!("going on with deployment {id}: {refusal}"));
            recover::end_live(&state.known.store, one);
            None
        }
    };
    unjudged.into_iter().filter_map(take).collect()
}

/// All that runs.
struct RunningServer {
    state: Arc<ServerState>,
    gate: Gate,
    inner: Arc<InnerServer>,
    /// Ends when the last request is answered: each holds the other side.
    answering: Receiver<Infallible>,
    sockets: Vec<PathBuf>,
    successor: Successor,
    /// A supervisor keeps the sockets for the next server.
    is_kept: bool,
}

impl RunningServer {
    fn build(
        options: &ServeOptions,
        (known, unjudged, tokens): (Registry, Vec<UnjudgedDeployment>, Tokens),
        certificate: Option<&Arc<Certificate>>,
        mut passed: Passed,
    ) -> Result<(RunningServer, Vec<TakenOver>), Error> {
        let (local, door, next) = (
            known.store.socket(),
            known.store.door(),
            known.store.next_socket(),
        );
        let is_kept = passed.is_kept();
        let state = Arc::new(state(options, known, tokens, passed.take_held())?);
        // Before there are clients: they find these running.
        let taken_over = take_over(&state, unjudged);
        let (listeners, sockets) = upgrade::listen(options, local, certificate, passed)?;
        let own = listeners.iter().map(Listener::socket);
        let own: Vec<_> = own
            .collect::<io::Result<_>>()
            .doing(|| "keeping the sockets for the next server".into())?;
        upgrade::keep(&own);
        let answerer = Arc::clone(&state);
        let answer = move |exchange: Exchange| answerer.answer(exchange);
        let pending = Arc::<PendingConnections>::default();
        let (inner, answering) = InnerServer::start(&door, Arc::new(answer), Arc::clone(&pending))?;
        let inner = Arc::new(inner);
        let processes = Arc::clone(&state.processes);
        // It knows how to end an upload at the gate, and is not to be held by it.
        let deployer = Arc::downgrade(&state.deployer);
        let descriptors = move || {
            let commands = deployer.upgrade().map(|one| one.command_descriptors());
            processes.descriptors() + commands.unwrap_or(0)
        };
        // Last of all: from here on there are clients.
        let gate = Gate::open(
            listeners,
            options.max_connections,
            inner.clone(),
            pending,
            (Box::new(descriptors), Arc::clone(&state.answers)),
        )?;
        let _ = state.occupancy.set(Box::new(gate.occupancy()));
        state.deployer().cut_by(Box::new(gate.cutter()));
        state.listens_on(gate.addresses().iter().map(ToString::to_string));
        let held = Arc::clone(&state.processes);
        let to_pass = move || {
            let mut all = upgrade::of_gate(&own)?;
            for (name, listener) in held.held_sockets() {
                all.push((name, ListeningSocket::Tcp(listener.try_clone()?)));
            }
            Ok(all)
        };
        let accepting = gate.accepting().clone();
        let successor = Successor::await_one(&next, Box::new(to_pass), accepting)?;
        let server = RunningServer {
            state,
            gate,
            inner,
            answering,
            sockets,
            successor,
            is_kept,
        };
        Ok((server, taken_over))
    }

    /// Starts the processes that ran, goes on with what was cut off, reads what there is of the past, and ends what could not
    /// be ended before, while the first clients come already.
    fn look_back(
        &self,
        taken_over: Vec<TakenOver>,
        (sync_from, duty): (Option<String>, Option<FleetDuty>),
    ) -> Result<(), Error> {
        let state = Arc::clone(&self.state);
        let work = move || {
            let judged: Vec<Project> = taken_over.iter().map(|one| one.project().clone()).collect();
            state.processes.resume(&judged);
            taken_over
                .into_iter()
                .for_each(|one| state.deployer.go_on(one));
            recover::fill(&state.known, &|id| state.deployer().is_running(id));
            if let Some(duty) = duty {
                joining::belong(duty, state.deployer());
            }
            if let Some(from) = sync_from {
                sync::at_start(&state, &from);
            }
            recover::catch_up(&state.known, &|id| state.deployer().is_running(id))
        };
        threads::spawn("look-back", LOOK_BACK_STACK_BYTES, work)
            .map(drop)
            .doing(|| "making a thread that reads the records".into())
    }

    /// One write, so that a reader who takes the first line and goes away does not end the server; nor does any other trouble
    /// with an output that nobody may be reading.
    fn announce(&self) {
        let lines: String = self
            .gate
            .addresses()
            .iter()
            .map(|address| format!("listening on {address}\n"))
            .collect();
        let mut out = std::io::stdout().lock();
        if let Err(error) = out.write_all(lines.as_bytes()).and_then(|()| out.flush()) {
            log::warn(&format!("saying where it listens: {error}"));
        }
    }

    /// Serves until nothing is being deployed, and then ends in favour of the next server. Who comes from then on waits for
    /// that one, and gets no refusal from this one.
    fn hand_over(self, grace: Duration) {
        log::info("a new server takes over");
        if !self.state.deployer().wait_idle(Instant::now() + grace) {
            log::warn("the new server waits no longer for the deployments that run");
        }
        self.rest_and_take_apart(grace);
    }

    /// Ends while its sockets go on to listen for the next server.
    fn rest_and_take_apart(mut self, grace: Duration) {
        log::info("stopping; who comes now waits for the next server");
        self.gate.rest(REST_HEAD.min(grace / 4), grace / 2);
        self.take_apart(grace);
    }

    /// No new deployment begins, what runs is stopped or goes on to its end if it is live already, and requests are
    /// answered, all within `grace`.
    fn take_apart(self, grace: Duration) {
        self.successor.stopping();
        let end = Instant::now() + grace;
        let kill = end
            .checked_sub(KILL_BEFORE_END)
            .unwrap_or_else(Instant::now);
        let deployer = self.state.deployer();
        deployer.stop();
        // A client that stalls must not hold up the end of its deployment.
        self.gate.cut_uploads();
        // A restart on its way may take half of the time; the processes have the rest.
        deployer.wait_idle(Instant::now() + grace / 2);
        let processes = self.state.processes.stop(kill);
        let idle = deployer.wait_idle(kill) && processes;
        // Whatever left its group has no server any longer, either.
        match child::end_survivors(self.state.server_mark(), SurvivorScope::All) {
            Ok(0) => {}
            Ok(ended) => log::warn(&format!("ended {ended} processes that did not stop")),
            Err(error) => log::warn(&error.to_string()),
        }
        if !idle && !deployer.wait_idle(end) {
            log::warn("a deployment is still running; the next start ends it");
        }
        // Up to here everybody was told that the server is stopping.
        let through = self.gate.close(end);
        self.inner.stop();
        if !through || self.answering.recv_deadline(end) == Err(RecvTimeoutError::Timeout) {
            log::warn("some requests were not answered to their end");
        }
        if self.is_kept || self.successor.is_handed_over() {
            // Somebody listens there, or will.
            return;
        }
        for path in self.sockets {
            // The next start removes it too.
            let _ = std::fs::remove_file(path);
        }
    }
}
