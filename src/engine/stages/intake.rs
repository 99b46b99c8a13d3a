//! Phase `extract`: a payload comes in, and becomes a tree.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::api::error::{Code, Refusal};
use crate::api::event::{Phase, Upload};
use crate::api::name::DeploymentId;
use crate::engine::attempt::{Attempt, Facts};
use crate::engine::checkpoint::checkpoint;
use crate::engine::outcome::Failed;
use crate::engine::stages::{ReleaseTree, Staged, facts};
use crate::formats::archive::{self, Limits};
use crate::store::Store;
use crate::system::account::Account;
use crate::system::log;
use crate::system::stop::Stop;

/// Watchers are told of an upload at most so often: ten times a second.
const UPLOAD_EVERY: Duration = Duration::from_millis(100);

/// A payload's file; dropping it removes it unless it is kept. It is kept as soon as it arrived whole, since a deployment
/// whose installation failed may be looked at or tried again.
struct PayloadFile {
    store: Arc<Store>,
    id: DeploymentId,
    kept: bool,
}

impl Drop for PayloadFile {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if let Err(error) = self.store.remove_payload(self.id) {
            // It stays as the payload of a failed deployment, which retention counts and removes.
            log::warn(&format!("deployment {}: {error}", self.id));
        }
    }
}

/// A payload that is there, as long as nobody stops its deployment.
struct StoredPayload {
    file: File,
    stop: Stop,
}

impl Read for StoredPayload {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.stopped() {
            let why = "unpacking the payload: stopped";
            return Err(io::Error::other(Refusal::new(Code::Cancelled, why)));
        }
        self.file.read(buffer)
    }
}

/// Writes a payload into its file, and says what the phase says of it.
type WritePayload<'a> = &'a mut dyn FnMut(&mut Attempt, &File) -> Result<Facts, Box<Failed>>;

/// How a payload is received.
pub struct Intake<'a> {
    /// The root.
    pub store: &'a Arc<Store>,
    /// What it may cost.
    pub limits: &'a Limits,
    /// Whose the tree is, if not the server's own user's.
    pub owner: Option<&'a Account>,
    /// How large the payload is, about, if whoever sends it said so.
    pub total: Option<u64>,
}

impl Intake<'_> {
    /// Runs phase `extract`: stores, hashes and unpacks the payload while it arrives. If there is an expected SHA-256, the
    /// payload must have it. `arrived` says at the end whether it is still wanted.
    ///
    /// # Errors
    /// What is wrong with the payload, or with the disk; nothing of it stays then.
    pub fn receive(
        &self,
        attempt: &mut Attempt,
        source: &mut dyn Read,
        expected: Option<&str>,
        arrived: &dyn Fn(DeploymentId) -> bool,
    ) -> Result<Staged, Box<Failed>> {
        let id = attempt.record().deployment_id;
        attempt.phase(Phase::Extract, |attempt| {
            let mut payload = PayloadFile {
                store: Arc::clone(self.store),
                id,
                kept: false,
            };
            let file = self.store.create_payload(id)?;
            let (tree, facts) = self.unpack(attempt, source, Some(&file), expected)?;
            if !arrived(id) {
                let why = "receiving the payload: stopped";
                return Err(Refusal::new(Code::Cancelled, why).into());
            }
            payload.kept = true;
            Ok((Staged(tree), facts))
        })
    }

    /// Runs phase `fetch`, which writes the payload into its file, and then phase `extract`.
    ///
    /// # Errors
    /// Those of the fetch, or what is wrong with the payload; nothing of it stays then.
    pub fn fetch(
        &self,
        attempt: &mut Attempt,
        expected: Option<&str>,
        fetch: WritePayload<'_>,
    ) -> Result<Staged, Box<Failed>> {
        let id = attempt.record().deployment_id;
        let mut payload = PayloadFile {
            store: Arc::clone(self.store),
            id,
            kept: false,
        };
        attempt.phase(Phase::Fetch, |attempt| {
            let file = self.store.create_payload(id)?;
            let facts = fetch(attempt, &file)?;
            checkpoint("fetched");
            Ok(((), facts))
        })?;
        attempt.phase(Phase::Extract, |attempt| {
            let (file, _) = self.store.open_payload(id)?.ok_or_else(|| {
                let why = "unpacking the payload: it was removed";
                Refusal::new(Code::Internal, why)
            })?;
            let stop = attempt.stop().clone();
            let mut source = StoredPayload { file, stop };
            let (tree, facts) = self.unpack(attempt, &mut source, None, expected)?;
            payload.kept = true;
            Ok((Staged(tree), facts))
        })
    }

    /// Runs phase `extract` again for a release that was removed, from its stored payload.
    ///
    /// # Errors
    /// When the payload is not what it was, or the disk does not take the tree, of which nothing stays then.
    pub fn rebuild(
        &self,
        attempt: &mut Attempt,
        payload: &mut File,
        expected: Option<&str>,
    ) -> Result<Staged, Box<Failed>> {
        attempt.phase(Phase::Extract, |attempt| {
            let (tree, facts) = self.unpack(attempt, payload, None, expected)?;
            Ok((Staged(tree), facts))
        })
    }

    fn unpack(
        &self,
        attempt: &mut Attempt,
        source: &mut dyn Read,
        payload: Option<&File>,
        expected: Option<&str>,
    ) -> Result<(ReleaseTree, Facts), Box<Failed>> {
        let (project, id) = (
            attempt.record().project.clone(),
            attempt.record().release_id,
        );
        let tree = ReleaseTree {
            store: Arc::clone(self.store),
            project: project.clone(),
            id,
            kept: false,
        };
        let release = self.store.create_release(&project, id)?;
        let owner = self.owner.map(|account| (account.uid, account.gid));
        let mut told = Instant::now();
        let unpacked = archive::unpack(
            source,
            payload,
            &release,
            self.limits,
            owner,
            &mut |bytes| {
                checkpoint("received");
                if told.elapsed() >= UPLOAD_EVERY {
                    told = Instant::now();
                    let total = self.total.map(|total| total.max(bytes));
                    attempt.upload(Upload { bytes, total });
                }
            },
        )?;
        checkpoint("stored");
        if let Some(expected) = expected.filter(|expected| *expected != unpacked.payload_hash) {
            let why = format!(
                "checking the payload of {project}: its SHA-256 is {} and not {expected} as it should be",
                unpacked.payload_hash
            );
            return Err(Refusal::new(Code::BadRequest, why).into());
        }
        let facts = json!({
            "payload_hash": unpacked.payload_hash,
            "payload_size": unpacked.payload_size,
            "unpacked_size": unpacked.unpacked_size,
            "files": unpacked.files,
        });
        Ok((tree, self::facts(facts)))
    }
}
