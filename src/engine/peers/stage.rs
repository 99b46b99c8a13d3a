//! A payload on its way to a peer: what came as a delta as it came, if the peer has what that begins from; else what the
//! peer lacks, if it says what that is; else all of it.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::api::error::{Code, Doing, Error, Refusal};
use crate::api::name::{DeploymentId, Project};
use crate::api::operation::{Deploy, Operation, OperationCall, Options, Prepare};
use crate::api::source::Provenance;
use crate::client::follow::Subject;
use crate::engine::held_tree::HeldTree;
use crate::engine::peers::talk::Talk;
use crate::engine::peers::{Build, OnPeerEvent, Peer};
use crate::formats::delta::ranges::Ranges;
use crate::formats::delta::records::DeltaHead;
use crate::store::Store;
use crate::system::stop::Stop;

/// What a payload is staged with.
pub struct StageRequest<'a> {
    /// The component.
    pub project: &'a Project,
    /// The deployment on the origin, of which a peer's second try is known.
    pub origin: DeploymentId,
    pub payload: StagePayload<'a>,
    /// How it is built.
    pub options: &'a Options,
    /// What is said of it.
    pub provenance: &'a Provenance,
    /// How long the peer may take.
    pub timeout: Duration,
}

/// An archive, and the SHA-256 that it has if that is known.
pub type WholePayload = (File, Option<String>);

/// What is to be at a peer.
pub struct StagePayload<'a> {
    pub store: &'a Store,
    /// The stored payload.
    pub path: PathBuf,
    /// Its SHA-256, if it is what came.
    pub sha256: Option<&'a str>,
    /// What it begins with if it is a delta.
    pub head: Option<DeltaHead>,
    /// The tree that it holds, if that is known, and what is here of it.
    pub tree: Option<(&'a str, HeldTree)>,
    /// Opens all of it as an archive.
    pub whole: &'a (dyn Fn() -> Result<WholePayload, Refusal> + Sync),
}

/// A file that is read from its beginning, each time that it is sent.
struct FromStart(Arc<File>, u64);

impl Read for FromStart {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read_at(buffer, self.1)?;
        self.1 += read as u64;
        Ok(read)
    }
}

/// What goes to a peer.
struct Parcel {
    file: File,
    sha256: Option<String>,
    /// What the peer must have, if it is asked for that before the file is sent.
    base: Option<String>,
}

/// Why a peer has no build.
struct NotStaged {
    why: String,
    /// It lacks what it was to have, or cannot read it.
    stale: bool,
}

/// One payload on its way to one peer.
struct Staging<'a> {
    peer: &'a Peer,
    request: &'a StageRequest<'a>,
    deadline: Instant,
    stop: &'a Stop,
    tell: OnPeerEvent<'a>,
    /// How often something was sent: each try has a key of its own.
    tries: u32,
}

impl Peer {
    /// Lets the peer build the payload, and keep it.
    ///
    /// # Errors
    /// Why it has not.
    pub fn stage(
        &self,
        request: &StageRequest<'_>,
        stop: &Stop,
        tell: OnPeerEvent<'_>,
    ) -> Result<Build, String> {
        let mut staging = Staging {
            peer: self,
            request,
            deadline: Instant::now() + request.timeout,
            stop,
            tell,
            tries: 0,
        };
        staging.run()
    }
}

impl Staging<'_> {
    fn run(&mut self) -> Result<Build, String> {
        let payload = &self.request.payload;
        if let Some(parcel) = payload.as_it_came().map_err(|error| error.to_string())? {
            match self.send(parcel) {
                Err(NotStaged { stale: true, .. }) => {}
                done => return done.map_err(|error| error.why),
            }
        }
        // The second time the peer reads what it has before it counts on it.
        for verify in [false, true] {
            let Some(parcel) = self.what_it_lacks(verify) else {
                break;
            };
            match self.send(parcel) {
                Err(NotStaged { stale: true, .. }) => {}
                done => return done.map_err(|error| error.why),
            }
        }
        let (file, sha256) = (payload.whole)().map_err(|refusal| refusal.message)?;
        let parcel = Parcel {
            file,
            sha256,
            base: None,
        };
        self.send(parcel).map_err(|error| error.why)
    }

    fn talk(&self) -> Talk<'_> {
        Talk::new(self.peer, self.deadline, self.stop, self.tell)
    }

    fn key(&self) -> String {
        match self.tries {
            0 => format!("stage-{}", self.request.origin),
            tries => format!("stage-{}-{tries}", self.request.origin),
        }
    }

    /// What the peer lacks of the tree. None if it cannot say that, or if all of it goes as quickly.
    fn what_it_lacks(&self, verify: bool) -> Option<Parcel> {
        let payload = &self.request.payload;
        let (tree, held) = payload.tree.as_ref()?;
        let list = std::fs::read(held.list()).ok()?;
        let call = OperationCall::from(Operation::Prepare(Prepare {
            project: self.request.project.clone(),
            tree: Some((*tree).to_owned()),
            verify,
        }));
        let key = self.key();
        let mut talk = self.talk();
        let asked = talk.run(Subject::Reading, call.shape(), &mut || {
            let list = std::io::Cursor::new(list.clone());
            self.peer.client.prepare(&call, Some(list), &key)
        });
        // A peer that knows nothing of trees gets all, and why another one does not answer shows then.
        payload.lacking(tree, held, &asked.ok()?)
    }

    fn send(&mut self, parcel: Parcel) -> Result<Build, NotStaged> {
        let request = self.request;
        let unasked = parcel.base.is_some();
        let call = OperationCall::from(Operation::Deploy(Box::new(Deploy {
            activate: false,
            options: request.options.clone(),
            payload_sha256: parcel.sha256,
            base: parcel.base,
            provenance: request.provenance.clone(),
            ..Deploy::of(request.project.clone())
        })));
        let (key, file) = (self.key(), Arc::new(parcel.file));
        self.tries += 1;
        let mut talk = self.talk();
        let ended = talk.run(Subject::Deployment, call.shape(), &mut || {
            let payload = FromStart(Arc::clone(&file), 0);
            self.peer.client.upload(&call, payload, &key)
        });
        let mut codes = vec![Code::StaleBase];
        if unasked {
            // One that does not know how to read it was not asked whether it does.
            codes.extend([Code::BadArchive, Code::BadRequest]);
        }
        let code = talk.code.as_deref();
        let stale = codes.iter().any(|one| code == Some(one.word()));
        let not_staged = |why| NotStaged { why, stale };
        let built = ended.and_then(|result| {
            self.right_tree(&result)?;
            talk.build()
        });
        if built.is_err() && !stale {
            self.peer.give_up(&talk, request.project, &key);
        }
        built.map_err(not_staged)
    }

    /// Refuses a build of another tree, where the peer knows of which it is.
    fn right_tree(&self, result: &Value) -> Result<(), String> {
        let wanted = self.request.payload.tree.as_ref();
        match (result["tree"].as_str(), wanted) {
            (Some(found), Some((wanted, _))) if found != *wanted => Err(format!(
                "what it has built is of the tree {found}, and not of {wanted}"
            )),
            _ => Ok(()),
        }
    }
}

impl StagePayload<'_> {
    fn stored(&self) -> Result<File, Error> {
        File::open(&self.path).doing(|| format!("reading {}", self.path.display()))
    }

    /// The stored payload, if it is a delta with all that a server needs which has what it begins from.
    fn as_it_came(&self) -> Result<Option<Parcel>, Error> {
        match &self.head {
            Some(head) if head.list > 0 && head.base.is_some() => Ok(Some(Parcel {
                file: self.stored()?,
                sha256: self.sha256.map(str::to_owned),
                base: head.base.clone(),
            })),
            _ => Ok(None),
        }
    }

    /// What a peer's answer says that it lacks.
    fn lacking(&self, tree: &str, held: &HeldTree, answer: &Value) -> Option<Parcel> {
        let base = answer["base"].as_str();
        let wanted = Ranges::parse(answer["missing"].as_str()?)?;
        if base.is_none() && self.head.is_none() {
            return None;
        }
        let came = self
            .head
            .as_ref()
            .filter(|came| came.base.as_deref() == base);
        if came.is_some() && held.brought(&wanted).ok()? {
            return Some(Parcel {
                file: self.stored().ok()?,
                sha256: self.sha256.map(str::to_owned),
                base: None,
            });
        }
        let head = DeltaHead {
            base: base.map(str::to_owned),
            tree: tree.to_owned(),
            list: 0,
            difference: false,
        };
        let file = self.store.nameless_file().ok()?;
        held.write_delta(&head, &wanted, &file).ok()?;
        Some(Parcel {
            file,
            sha256: None,
            base: None,
        })
    }
}
