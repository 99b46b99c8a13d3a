//! The peers: other gangplank servers that this one deploys to, and catches up from.
//!
//! A peer is asked as any client would ask it: what it lacks of the payload goes up with `activate: false`, and its deployment is
//! followed to its end, over broken connections too. What happens there is passed on as it happens. When a release is to be
//! live, restarted or undone is decided by the deployment on the origin ([`crate::engine::stages`]); this room only carries it out.

pub mod all;
mod catch_up;
mod stage;
mod talk;

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::api::error::{Code, Doing, Error};
use crate::api::event::PeerEvent;
use crate::api::name::{DeploymentId, Project, Secret};
use crate::api::operation::{
    Deploy, DropComponent, ForPeers, List, Operation, OperationCall, Restart, Rollback,
};
use crate::api::record;
use crate::api::source::Provenance;
use crate::client::follow::Subject;
use crate::client::{Client, InFlight, Target, TargetCredentials};
use crate::engine::peers::talk::Talk;
use crate::system::stop::Stop;

pub use crate::engine::peers::catch_up::{PeerRelease, PeerTree};
pub use crate::engine::peers::stage::{StagePayload, StageRequest, WholePayload};

/// How long what is quick may take at a peer: a switch, a rollback.
const QUICK: Duration = Duration::from_secs(120);

/// How long a peer that is to take something back may be out of reach or lack something: it was well a moment ago. And the wait
/// before it is asked again.
const TAKES_BACK: Duration = Duration::from_secs(10);
const TAKES_BACK_AGAIN: Duration = Duration::from_millis(500);

/// How long a request that was sent may take to become a deployment, how often it is looked for, and among how many.
const BEGINS: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
const LOOKED_AT: u64 = 10;

/// How a peer is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerOptions {
    /// What it is called here.
    pub name: String,
    /// Its URL.
    pub url: String,
    /// A file with a token of it.
    pub token_file: Option<PathBuf>,
    /// The certificates to trust, if not the public ones.
    pub ca: Option<PathBuf>,
}

/// Another server.
pub struct Peer {
    name: String,
    client: Client,
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Peer({})", self.name)
    }
}

/// A build that a peer has ready, or has made live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    /// The peer's own deployment.
    pub id: DeploymentId,
    /// What was live there before.
    pub previous: Option<DeploymentId>,
}

/// Where what happens at a peer is told.
pub type OnPeerEvent<'a> = &'a (dyn Fn(PeerEvent) + Sync);

impl Peer {
    /// A peer as its options say.
    ///
    /// # Errors
    /// When the URL is none, or a file cannot be read.
    pub fn new(options: &PeerOptions) -> Result<Peer, Error> {
        let what = || format!("setting up the peer {}", options.name);
        let mut client = Client::new(Target::parse(&options.url).doing(what)?).doing(what)?;
        if let Some(file) = &options.token_file {
            let token = std::fs::read_to_string(file)
                .doing(|| format!("reading the token in {}", file.display()))?;
            let credentials = TargetCredentials::Bearer(Secret::new(token.trim()));
            client = client.with_credentials(&credentials).doing(what)?;
        }
        if let Some(file) = &options.ca {
            client = client.with_roots(file).doing(what)?;
        }
        Ok(Peer {
            name: options.name.clone(),
            client,
        })
    }

    /// What it is called here.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Lets the peer run what a build wants to be run before it goes live.
    ///
    /// # Errors
    /// Why that failed.
    pub fn release(
        &self,
        (project, build, origin): (&Project, &Build, &str),
        timeout: Duration,
        stop: &Stop,
        tell: OnPeerEvent<'_>,
    ) -> Result<(), String> {
        let operation = Operation::Deploy(Box::new(Deploy {
            release: Some(build.id),
            activate: false,
            origin: Some(origin.to_owned()),
            ..Deploy::of(project.clone())
        }));
        let key = format!("release-{}", build.id);
        let mut talk = self.talk(timeout, stop, tell);
        let ended = self.once(&mut talk, operation, &key);
        if ended.is_err() {
            self.give_up(&talk, project, &key);
        }
        ended.map(drop)
    }

    /// Makes a build live. What it wants to be run before has been run.
    ///
    /// # Errors
    /// Why it is not.
    pub fn activate(
        &self,
        (project, build, origin, said): (&Project, &Build, &str, &Provenance),
        stop: &Stop,
        tell: OnPeerEvent<'_>,
    ) -> Result<Build, String> {
        let operation = Operation::Deploy(Box::new(Deploy {
            release: Some(build.id),
            origin: Some(origin.to_owned()),
            provenance: said.clone(),
            ..Deploy::of(project.clone())
        }));
        let mut talk = self.talk(QUICK, stop, tell);
        // A first try whose answer was lost may have made it live already, which a second one must hear.
        let key = format!("activate-{}", build.id);
        self.once(&mut talk, operation, &key)?;
        talk.build()
    }

    /// Restarts what is live. A second try is known by the id: of its build, or of the deployment here that restarts all.
    ///
    /// # Errors
    /// Why the new processes do not run.
    pub fn restart(
        &self,
        project: &Project,
        (id, rolling): (DeploymentId, bool),
        timeout: Duration,
        stop: &Stop,
        tell: OnPeerEvent<'_>,
    ) -> Result<(), String> {
        let restart = match rolling {
            true => Restart::Rolling,
            false => Restart::Immediate,
        };
        let operation = Operation::Restart(project.clone(), restart, None, ForPeers::default());
        let key = format!("restart-{id}");
        let mut talk = self.talk(timeout, stop, tell);
        self.once(&mut talk, operation, &key).map(drop)
    }

    /// Takes back what a build of ours made live: what was live before is so again. If nothing was, nothing is, and the
    /// build alone is removed.
    ///
    /// # Errors
    /// Why it is not.
    pub fn undo(
        &self,
        project: &Project,
        build: &Build,
        restart: bool,
        stop: &Stop,
        tell: OnPeerEvent<'_>,
    ) -> Result<(), String> {
        let restart = match restart {
            true => Restart::Immediate,
            false => Restart::No,
        };
        let project = project.clone();
        let stream = build.previous.is_some();
        let (subject, operation) = match build.previous {
            None => {
                let drop = DropComponent {
                    project,
                    first: Some(build.id),
                    purge: false,
                };
                (Subject::Operation, Operation::Drop(drop))
            }
            to => {
                let rollback = Rollback {
                    project,
                    to,
                    restart,
                    message: None,
                    replicated: false,
                    ignore_replication_errors: false,
                };
                (Subject::Deployment, Operation::Rollback(rollback))
            }
        };
        let (begun, mut first) = (Instant::now(), true);
        loop {
            let mut talk = self.talk(QUICK, stop, tell);
            talk.retry_for = Some(TAKES_BACK);
            // Either ends in the same state if it is done twice.
            let undone = self.run(&mut talk, subject, operation.clone(), |client, call| {
                client.call(call, stream)
            });
            let again = match talk.code.as_deref().and_then(Code::parse) {
                // None says that it was not even asked, for want of a thread here.
                None | Some(Code::NoSpace | Code::Internal | Code::Busy) => {
                    begun.elapsed() < TAKES_BACK
                }
                // What ran before may have lacked something, too, but it is not stopped and started for long.
                Some(Code::Unhealthy) => first,
                _ => false,
            };
            if undone.is_ok() || !again {
                return undone.map(drop);
            }
            first = false;
            std::thread::sleep(TAKES_BACK_AGAIN);
        }
    }

    /// Tells a peer that nobody wants a deployment any longer. Whether it hears is its affair. Who stopped to listen before the
    /// peer had said which deployment it is looks for it by the key with which it was begun.
    fn give_up(&self, talk: &Talk<'_>, project: &Project, key: &str) {
        let found = || talk.was_left.then(|| self.begun(project, key)).flatten();
        let Some(id) = talk.id.or_else(found) else {
            return;
        };
        let stop = Stop::never();
        let mut talk = self.talk(Duration::from_secs(5), &stop, &|_| ());
        let operation = Operation::Cancel(id);
        let _ = self.run(&mut talk, Subject::Operation, operation, |client, call| {
            client.call(call, false)
        });
    }

    /// The deployment that was begun with a key, which a peer that has only just heard of it may not know yet.
    fn begun(&self, project: &Project, key: &str) -> Option<DeploymentId> {
        let list = Operation::ListDeployments(List {
            project: Some(project.to_string()),
            limit: Some(LOOKED_AT),
            ..List::default()
        });
        let (hash, until) = (record::hash_key(key), Instant::now() + BEGINS);
        loop {
            let answer = self.ask(list.clone(), &Stop::never()).ok()?;
            let mut newest = answer["deployments"].as_array()?.iter();
            if let Some(one) = newest.find(|one| one["idempotency_key"] == hash) {
                return one["deployment_id"].as_str()?.parse().ok();
            }
            if Instant::now() >= until {
                return None;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// The answer to an operation that only asks.
    ///
    /// # Errors
    /// Why there is none.
    pub fn ask(&self, operation: Operation, stop: &Stop) -> Result<Value, String> {
        let mut talk = self.talk(QUICK, stop, &|_| ());
        self.run(&mut talk, Subject::Reading, operation, |client, call| {
            client.call(call, false)
        })
    }

    fn run(
        &self,
        talk: &mut Talk<'_>,
        subject: Subject,
        operation: Operation,
        begin: impl Fn(&Client, &OperationCall) -> Result<InFlight, Error>,
    ) -> Result<Value, String> {
        let call = OperationCall::from(operation);
        talk.run(subject, call.shape(), &mut || begin(&self.client, &call))
    }

    /// Begins a deployment with a key, so that a second try joins the first one's.
    fn once(&self, talk: &mut Talk<'_>, operation: Operation, key: &str) -> Result<Value, String> {
        self.run(talk, Subject::Deployment, operation, |client, call| {
            client.call_once(call, key)
        })
    }

    fn talk<'a>(&'a self, timeout: Duration, stop: &'a Stop, tell: OnPeerEvent<'a>) -> Talk<'a> {
        Talk::new(self, Instant::now() + timeout, stop, tell)
    }
}
