//! A request that comes twice: by its idempotency key it joins the deployment that the first one began.

use std::time::{Duration, Instant};

use crate::api::error::{Code, Refusal};
use crate::api::name::{DeploymentId, Project};
use crate::api::record::{Summary, key_of};
use crate::engine::attempt::Attempt;
use crate::engine::deployer::Deployer;
use crate::engine::deployer::keyed::KeyedRequest;
use crate::engine::deployer::running::DeploymentsState;
use crate::engine::spec::DeploySpec;
use crate::store::journal::Follower;
use crate::system::time::now_ms;

/// How long an idempotency key holds: a day, in milliseconds.
const KEY_LASTS_MS: u64 = 24 * 60 * 60 * 1000;
/// How long a request waits for the uploads of others with its key to end; each is told to at once.
const JOIN_MAX: Duration = Duration::from_secs(60);

/// What a request has begun, or joins.
pub(super) enum Started {
    /// A deployment of its own.
    New(Box<Attempt>),
    /// What an earlier request with the same key began.
    Earlier(Follower),
}

impl Deployer {
    /// The deployment that a request with this key is the second one of, within a day, and not one whose upload did not
    /// arrive. One that is still uploading is stopped, as its client is here instead.
    ///
    /// # Errors
    /// When one cannot be stopped, or the earlier request asked for something else.
    pub(super) fn earlier(&self, request: &KeyedRequest<'_>) -> Result<Option<Follower>, Refusal> {
        let Some(key) = request.key else {
            return Ok(None);
        };
        let earlier = self.settled(request.project, key, Instant::now() + JOIN_MAX)?;
        earlier.map(|id| self.join(id, request)).transpose()
    }

    /// The events of the deployment that an earlier request with the same key has begun.
    fn join(&self, id: DeploymentId, request: &KeyedRequest<'_>) -> Result<Follower, Refusal> {
        self.same_as(id, request)?;
        self.follow(id, 0)
    }

    /// Begins a deployment, or joins the one that a request with the same key has begun.
    ///
    /// # Errors
    /// As [`Deployer::begin`] and [`Deployer::earlier`].
    pub(super) fn begin_once(
        &self,
        spec: &DeploySpec,
        request: &KeyedRequest<'_>,
    ) -> Result<Started, Refusal> {
        let new = |attempt| Started::New(Box::new(attempt));
        let Some(key) = spec.caller.key.clone() else {
            return self.begin(spec).map(new);
        };
        let deadline = Instant::now() + JOIN_MAX;
        loop {
            if let Some(id) = self.settled(&spec.project, &key, deadline)? {
                return self.join(id, request).map(Started::Earlier);
            }
            let mut state = self.running.lock_settled(&spec.project);
            if state.of_key(&spec.project, &key).is_some() {
                // It began just now; that it ends is waited for, up to the deadline.
                continue;
            }
            let claimed = self.claim(&mut state, spec)?;
            drop(state);
            // Whoever had this component before is known by now, so nobody deploys twice with one key.
            return match self.known_of_key(&spec.project, &key) {
                Some(id) => self.join(id, request).map(Started::Earlier),
                None => self.open_claimed(spec, claimed).map(new),
            };
        }
    }

    /// Ends the uploads with this key that are under way, and says which deployment of it then counts.
    pub(super) fn settled(
        &self,
        project: &Project,
        key: &str,
        deadline: Instant,
    ) -> Result<Option<DeploymentId>, Refusal> {
        loop {
            let state = self.running.lock();
            let Some(id) = state.of_key(project, key) else {
                drop(state);
                return Ok(self.known_of_key(project, key));
            };
            let uploads = state.running.get(&id).map(|one| one.uploads);
            drop(state);
            let gone = |state: &DeploymentsState| state.of_key(project, key) != Some(id);
            let went_on = match uploads {
                Some(false) => return Ok(Some(id)),
                // Between the claim and this lies the making of its directory.
                None => {
                    let opened =
                        |state: &DeploymentsState| gone(state) || state.running.contains_key(&id);
                    self.running.wait(deadline, opened)
                }
                Some(true) => {
                    match self.stop_one(id, Code::UploadBroken) {
                        // It has ended, or its upload has.
                        Err(refusal) if matches!(refusal.code, Code::Conflict | Code::NotFound) => {
                        }
                        stopped => stopped?,
                    }
                    let arrived = |state: &DeploymentsState| {
                        let one = state.running.get(&id);
                        gone(state) || one.is_some_and(|one| !one.uploads)
                    };
                    self.running.wait(deadline, arrived)
                }
            };
            if !went_on {
                let why = format!(
                    "deploying {project}: deployment {id} has the same idempotency key and does not end"
                );
                return Err(Refusal::new(Code::Busy, why).about(id));
            }
        }
    }

    /// The newest deployment of a key whose payload has arrived, by what is written of it.
    fn known_of_key(&self, project: &Project, key: &str) -> Option<DeploymentId> {
        let wanted = key_of(key);
        let since = now_ms().saturating_sub(KEY_LASTS_MS);
        self.known.index.look(|all| {
            let mut all = all.iter().rev();
            let of_key = |one: &Summary| {
                one.key == wanted && one.project == *project && one.started_at >= since
            };
            // What makes an existing release live, or restarts it, has no upload that could break.
            let arrived = |id, one: &Summary| one.payload.is_some() || one.release_id != id;
            all.find(|(id, one)| of_key(one) && arrived(**id, one))
                .map(|(id, _)| *id)
        })
    }
}
