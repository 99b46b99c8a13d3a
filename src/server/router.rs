//! Where every request arrives: which path and operation it is, and the line of log.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::api::error::{Code, Error, Refusal};
use crate::api::operation::{
    self, DropComponent, EnvChange, FleetChange, FleetQuery, Logs, Operation, Rollback, RunCommand,
};
use crate::engine::deployer::stopping_refusal;
use crate::server::answers::{Outcome, WriteParts, json, json_text, refused};
use crate::server::auth::{Caller, browser};
use crate::server::everywhere::Everywhere;
use crate::server::form::{self, BodyLimits, RequestBody};
use crate::server::http::{BYTES, Exchange};
use crate::server::options::RequestOptions;
use crate::server::request_log::RequestLog;
use crate::server::state::ServerState;
use crate::server::sync::Sync;
use crate::server::{
    cancel, deploy, drop, env, fleet, list, login, logs, metrics, openapi, page, payload, prepare,
    restart, rollback, run, show, start, status, stop, system, tree, ui, watch,
};
use crate::system::log;

impl ServerState {
    /// Answers one request, and says so in the log.
    pub(super) fn answer(self: &Arc<ServerState>, mut exchange: Exchange) {
        let mut log = RequestLog::begin(&exchange);
        self.requests.fetch_add(1, Ordering::Relaxed);
        let mut operation = String::new();
        let outcome = self
            .decide(&mut exchange, &mut operation)
            .unwrap_or_else(|refusal| {
                self.answers.refusal(refusal.code);
                if refusal.code == Code::Internal {
                    log::error(&format!("{}: {}", log.asked(), refusal.message));
                }
                Outcome::Answer(refused(&refusal, browser::is_browser(&exchange)))
            });
        log.names(&operation);
        let known = outcome.status();
        // Before it is sent: whoever has seen an answer finds it counted.
        if let Some(status) = known {
            self.answers.answer(status);
        }
        let (status, sent) = match outcome {
            Outcome::Answer(answer) => (answer.status, exchange.answer(answer)),
            Outcome::Stream(stream) => {
                let access = self.auth.access(&exchange);
                return stream.send(exchange, access, log);
            }
            Outcome::Pieces(pieces) => send_pieces(exchange, pieces),
            Outcome::Parts(write) => send_parts(exchange, write),
            Outcome::File(file) => (file.status(), exchange.send_file(*file)),
        };
        if known.is_none() {
            self.answers.answer(status);
        }
        log.end(status, sent.is_ok());
    }

    fn decide(
        self: &Arc<ServerState>,
        exchange: &mut Exchange,
        operation: &mut String,
    ) -> Result<Outcome, Refusal> {
        let is_look = matches!(exchange.method().as_str(), "GET" | "HEAD");
        // Before the judgement of browsers: a link to what anyone gets may stand anywhere.
        if is_look {
            let path = plain_path(exchange.path());
            let public = page::page(exchange, &path).or_else(|| openapi::openapi(exchange, &path));
            if let Some(public) = public {
                return Ok(Outcome::Answer(public));
            }
        }
        browser::refuse_other_sites(exchange, self.tls)?;
        if self.deployer.is_stopping() {
            return Err(stopping_refusal());
        }
        let (method, path) = (exchange.method(), plain_path(exchange.path()));
        let events = path
            .strip_prefix("/deployments/")
            .and_then(|rest| rest.strip_suffix("/events"));
        let payload = path.strip_prefix("/fleet/payload/");
        match (path.as_str(), method.as_str(), events) {
            ("/health", "GET" | "HEAD", _) => Ok(Outcome::Answer(system::health())),
            ("/health", ..) => Ok(self.bad_method(&path, "GET, HEAD")),
            ("/metrics", "GET" | "HEAD", _) => {
                let caller = self.auth.caller(exchange)?;
                Ok(Outcome::Answer(metrics::metrics(self, exchange, &caller)?))
            }
            ("/metrics", ..) => Ok(self.bad_method(&path, "GET, HEAD")),
            ("", "POST", _) => {
                let caller = match self.auth.caller(exchange) {
                    Ok(caller) => caller,
                    Err(refusal) => {
                        let login = login::login(self, exchange, operation);
                        return login.unwrap_or(Err(refusal));
                    }
                };
                let wanted = RequestOptions::of(exchange)?;
                let limits = BodyLimits {
                    deployer: &self.deployer,
                    max_json_body: self.max_json_body,
                    max_payload: self.max_payload,
                };
                let request = form::read(exchange, &limits, &caller, operation)?;
                perform(self, request, wanted, &caller)
            }
            ("", ..) => Ok(self.bad_method("/", "GET, HEAD, POST")),
            ("/page.css" | "/page.js" | openapi::PATH, ..) => {
                Ok(self.bad_method(&path, "GET, HEAD"))
            }
            (_, "GET", Some(which)) => {
                let caller = self.auth.caller(exchange)?;
                caller.may_look("watching a deployment")?;
                watch::watch(self, exchange, which, &caller)
            }
            (_, _, Some(_)) => Ok(self.bad_method(&path, "GET")),
            (_, "GET" | "HEAD", _) if payload.is_some() => {
                let caller = self.auth.caller(exchange)?;
                let sha256 = payload.unwrap_or_default();
                fleet::payload::payload(self, exchange, sha256, &caller)
            }
            _ if payload.is_some() => Ok(self.bad_method(&path, "GET, HEAD")),
            _ => Err(Refusal::new(
                Code::NotFound,
                format!("There is nothing at {path}"),
            )),
        }
    }

    /// The answer to a method that the path does not know; it says which ones it does.
    fn bad_method(&self, path: &str, allowed: &str) -> Outcome {
        self.answers.refusal(Code::BadMethod);
        let why = format!("{path} takes {allowed}");
        let mut answer = refused(&Refusal::new(Code::BadMethod, why), false);
        answer.headers.push(("Allow", allowed.to_owned()));
        Outcome::Answer(answer)
    }
}

/// A path without the slashes that a proxy with a prefix makes too many.
fn plain_path(path: &str) -> String {
    let parts = path.split('/').filter(|part| !part.is_empty());
    parts.fold(String::new(), |path, part| path + "/" + part)
}

/// Performs the operation of a `POST /`.
fn perform(
    state: &Arc<ServerState>,
    request: RequestBody<'_>,
    options: RequestOptions,
    caller: &Caller,
) -> Result<Outcome, Refusal> {
    let operation = request.parse()?;
    let name = operation::name_in(&request.fields);
    let name = name.unwrap_or_default().to_owned();
    caller.may_ask(&name)?;
    may_perform(state, caller, &operation, &name)?;
    let value = match operation {
        Operation::Deploy(deploy) => {
            return deploy::deploy(state, &deploy, request, &options, caller);
        }
        Operation::Prepare(prepare) => prepare::prepare(state, &prepare, request, &options)?,
        Operation::Rollback(rollback) => {
            return rollback::rollback(state, &rollback, &options, caller);
        }
        Operation::GetDeployment(id) if options.events => {
            return watch::replay(state, id, options.resume.unwrap_or(0));
        }
        Operation::Restart(project, restart, message, peers) => {
            let how = (restart, message, peers);
            return restart::restart(state, &project, how, &options, caller.name());
        }
        Operation::Sync(from, project) => {
            let (user, events) = (caller.name(), options.events);
            let sync = Sync {
                from,
                project,
                user,
                events,
            };
            return sync.begin(state);
        }
        Operation::Run(run) => return run::run(state, &run, caller),
        Operation::GetLogs(request) => return logs::get_logs(state, &request, &options),
        Operation::GetPayload(id) => return payload::get(state, id),
        Operation::GetTree(id) => return tree::get_tree(state, id),
        Operation::GetObjects(id, objects) => return tree::get_objects(state, id, &objects),
        Operation::GetDeployment(id) => show::get_deployment(state, id)?,
        Operation::DeletePayload(id) => payload::delete(state, id)?,
        Operation::Cancel(id) => cancel::cancel(state, id)?,
        Operation::Stop(project, peers) if peers.replicated => {
            return Everywhere::stop(project, peers).begin(state, options.events);
        }
        Operation::Start(project, peers) if peers.replicated => {
            return Everywhere::start(project, peers).begin(state, options.events);
        }
        Operation::Stop(project, _) => stop::stop_component(state, &project)?,
        Operation::Start(project, _) => start::start_component(state, &project)?,
        Operation::Drop(drop) => drop::drop_component(state, &drop)?,
        Operation::GetEnv(project, values) => env::get_env(state, &project, values)?,
        Operation::SetEnv(change) => env::set_env(state, &change, caller)?,
        Operation::ListDeployments(list) => {
            return Ok(list::list_deployments(state, &list, caller));
        }
        Operation::GetComponents(true) => status::with_peers(state, caller)?,
        Operation::GetComponents(false) => status::get_components(state, caller)?,
        Operation::GetFleet(query) => return fleet::get_fleet(state, query, &options, caller),
        Operation::ChangeFleet(change) => fleet::change_fleet(state, change, caller)?,
        Operation::RegistrationInfo => system::registration_info(state),
        Operation::SystemInformation => system::system_information(state, caller)?,
        Operation::CreatePageCode => ui::create_page_code(state, caller)?,
        Operation::EndPageSessions => ui::end_page_sessions(state, caller)?,
    };
    Ok(Outcome::Answer(json(200, &value)))
}

/// Whether this caller may perform this operation on what it names.
fn may_perform(
    state: &Arc<ServerState>,
    caller: &Caller,
    operation: &Operation,
    name: &str,
) -> Result<(), Refusal> {
    match operation {
        Operation::Deploy(deploy) => caller.may_touch(&deploy.project, name),
        Operation::Prepare(prepare) => caller.may_touch(&prepare.project, name),
        Operation::Rollback(Rollback { project, .. })
        | Operation::Drop(DropComponent { project, .. })
        | Operation::Sync(_, Some(project))
        | Operation::Restart(project, ..)
        | Operation::Stop(project, _)
        | Operation::Start(project, _)
        | Operation::GetEnv(project, _)
        | Operation::SetEnv(EnvChange { project, .. })
        | Operation::GetLogs(Logs { project, .. }) => caller.may_touch(project, name),
        Operation::Run(RunCommand {
            project, release, ..
        }) => {
            caller.may_touch(project, name)?;
            release.map_or(Ok(()), |id| caller.may_see(&state.known.store, id))
        }
        Operation::GetDeployment(id)
        | Operation::GetPayload(id)
        | Operation::GetTree(id)
        | Operation::GetObjects(id, _)
        | Operation::DeletePayload(id)
        | Operation::Cancel(id) => caller.may_see(&state.known.store, *id),
        Operation::GetFleet(FleetQuery {
            project: Some(project),
            ..
        })
        | Operation::ChangeFleet(
            FleetChange::RollBack(project, _)
            | FleetChange::PublishCurrent(project, _)
            | FleetChange::Pin(project, _),
        ) => caller.may_touch(project, name),
        // All components are somebody else's business, too.
        Operation::Sync(_, None) => caller.is_unlimited(name),
        _ => Ok(()),
    }
}

/// Sends an answer that is made while it is sent. One that is short goes with its length.
fn send_pieces(
    exchange: Exchange,
    mut pieces: impl Iterator<Item = Result<Vec<u8>, Error>>,
) -> (u16, io::Result<()>) {
    let first = match pieces.next().unwrap_or_else(|| Ok(Vec::new())) {
        Ok(first) => first,
        Err(error) => {
            log::error(&error.to_string());
            let refusal = refused(&error.into(), false);
            return (refusal.status, exchange.answer(refusal));
        }
    };
    let Some(second) = pieces.next() else {
        let answer = json_text(200, first);
        return (answer.status, exchange.answer(answer));
    };
    let send = || {
        let mut stream = exchange.stream("application/json", false)?;
        stream.send(&first)?;
        for piece in std::iter::once(second).chain(pieces) {
            // Without its end, so that nobody takes it for whole.
            let piece = piece.inspect_err(|error| log::error(&error.to_string()));
            stream.send(&piece.map_err(io::Error::other)?)?;
        }
        stream.end()
    };
    (200, send())
}

/// Sends bytes whose number is not known before. An answer that breaks off has no end.
fn send_parts(exchange: Exchange, write: WriteParts) -> (u16, io::Result<()>) {
    let send = || {
        let mut stream = exchange.stream(BYTES, false)?;
        let written = write(&mut |bytes| stream.send(bytes));
        written
            .inspect_err(|error| log::error(&error.to_string()))
            .map_err(io::Error::other)?;
        stream.end()
    };
    (200, send())
}
