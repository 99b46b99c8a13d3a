//! Making what is live here equal to what is wanted.
//!
//! It is called at the start and whenever somebody asks, looks at what is wanted and at what is here, and deploys what
//! differs. It never trusts that it heard of everything before.

use std::sync::Arc;

use crate::api::error::{Code, Refusal};
use crate::api::event::Event;
use crate::api::name::Project;
use crate::api::operation::{Operation, Restart};
use crate::engine::deployer::{Deployer, Incoming, stopping_refusal};
use crate::engine::lacking::Lacking;
use crate::engine::peers::{Peer, PeerRelease, PeerTree};
use crate::engine::spec::{DeployCaller, DeploySpec, Plan, Then};
use crate::system::log;

/// What came of one component.
#[derive(Debug)]
pub struct Converged {
    /// Its name.
    pub project: Project,
    /// The deployment that was to make it equal; none if it could not begin.
    pub deployment_id: Option<String>,
    /// Why it is not.
    pub error: Option<String>,
}

impl Deployer {
    /// Deploys here what is live at a peer and not here, one component after the other, or one alone. `tell` hears of each.
    ///
    /// # Errors
    /// When it is not known what is live there, or the server stops. What came of one component does not end it.
    pub fn converge(
        self: &Arc<Self>,
        from: &Peer,
        only: Option<&Project>,
        user: Option<&str>,
        tell: &mut dyn FnMut(&Converged),
    ) -> Result<Vec<Converged>, Refusal> {
        let stop = self.stop_signal();
        let wanted = from.live(only, stop).map_err(|why| {
            let why = format!("catching up from {}: {why}", from.name());
            Refusal::new(Code::ReplicateFailed, why)
        })?;
        let mut all = Vec::new();
        for one in wanted {
            if stop.stopped() {
                return Err(stopping_refusal());
            }
            if self.is_here(&one)? {
                continue;
            }
            let project = one.project.clone();
            let done = self
                .fetch(from, one, user)
                .unwrap_or_else(|refusal| Converged {
                    project,
                    deployment_id: refusal.deployment_id.map(|id| id.to_string()),
                    error: Some(refusal.message),
                });
            tell(&done);
            all.push(done);
        }
        Ok(all)
    }

    /// Deploys what is live at a peer from the payload that the peer has stored.
    fn fetch(
        self: &Arc<Self>,
        from: &Peer,
        one: PeerRelease,
        user: Option<&str>,
    ) -> Result<Converged, Refusal> {
        let restart = if one.runs {
            Restart::Immediate
        } else {
            Restart::No
        };
        let spec = DeploySpec {
            fleet: None,
            project: one.project.clone(),
            plan: Plan::Build(Then::Activate),
            package: None,
            restart,
            options: one.options.clone(),
            origin: Some(from.name().to_owned()),
            provenance: one.provenance.clone(),
            caller: DeployCaller {
                user: user.map(str::to_owned),
                ..DeployCaller::default()
            },
        };
        if let Some(lacking) = self.lacking_of(from, &one) {
            let incoming = Incoming {
                open: Box::new(move |stop| lacking.open(&stop)),
                sha256: None,
                least: 0,
            };
            let (done, code) = self.caught_up(spec.clone(), incoming)?;
            // What cannot be had in parts is had whole.
            let in_parts = [Code::StaleBase, Code::UploadBroken, Code::BadArchive];
            if !in_parts.iter().any(|one| one.word() == code) {
                return Ok(done);
            }
        }
        let release = one.release;
        let incoming = Incoming {
            open: Box::new(move |stop| {
                match from.download(Operation::GetPayload(release), &stop) {
                    Ok(payload) => Ok(Box::new(payload)),
                    Err(why) => Err(Refusal::new(Code::UploadBroken, why)),
                }
            }),
            sha256: one.payload_hash.as_deref(),
            least: 0,
        };
        Ok(self.caught_up(spec, incoming)?.0)
    }

    /// What of a tree at a peer is missing here. None if that is not known there, or if nothing of it is here.
    fn lacking_of<'p>(&self, from: &'p Peer, one: &PeerRelease) -> Option<Lacking<PeerTree<'p>>> {
        let (peer, id) = (from, one.release);
        let tree = one.tree.as_deref()?;
        let lacking = self.lacking(&one.project, tree, PeerTree { peer, id });
        lacking.unwrap_or_else(|refusal| {
            let (project, from) = (&one.project, from.name());
            log::warn(&format!("catching up {project} from {from}: {refusal}"));
            None
        })
    }

    /// Deploys what comes, and gives the word for why it failed if it did.
    fn caught_up(
        self: &Arc<Self>,
        spec: DeploySpec,
        incoming: Incoming<'_>,
    ) -> Result<(Converged, String), Refusal> {
        let project = spec.project.clone();
        let follower = self.build(spec, incoming)?;
        let (deployment_id, error) = match self.wait(follower)? {
            Event::Error(failure) => (failure.deployment_id.clone(), Some(failure)),
            Event::Done(result) => (result["deployment_id"].as_str().map(str::to_owned), None),
            _ => (None, None),
        };
        let code = error.as_ref().map(|failure| failure.code.clone());
        let done = Converged {
            project,
            deployment_id,
            error: error.map(|failure| failure.message),
        };
        Ok((done, code.unwrap_or_default()))
    }

    /// Whether what is live at a peer is live here: built from the same payload.
    fn is_here(&self, one: &PeerRelease) -> Result<bool, Refusal> {
        let store = &self.registry().store;
        let Some(live) = store.live(&one.project) else {
            return Ok(false);
        };
        let Some(ours) = store.read_record(live)? else {
            return Ok(false);
        };
        if ours.tree.is_some() && ours.tree == one.tree {
            return Ok(true);
        }
        let ours = ours.payload_hash;
        Ok(ours.is_some() && ours == one.payload_hash)
    }
}
