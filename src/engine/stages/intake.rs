//! Phase `extract`: a payload comes in, and becomes a tree.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::api::error::{Code, Refusal};
use crate::api::event::{Phase, Upload};
use crate::api::name::{DeploymentId, Project};
use crate::engine::attempt::{Attempt, Facts};
use crate::engine::checkpoint::checkpoint;
use crate::engine::outcome::Failed;
use crate::engine::registry::Registry;
use crate::engine::stages::{ReleaseTree, Staged, facts};
use crate::engine::trees::{self, TreeMaker};
use crate::formats::archive::{self, Limits};
use crate::formats::delta::records::MAGIC;
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
    /// Where deployments are kept and known.
    pub known: &'a Registry,
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
                store: Arc::clone(&self.known.store),
                id,
                kept: false,
            };
            let file = self.known.store.create_payload(id)?;
            let (start, is_delta) = peek(source)?;
            let mut source = start.chain(source);
            let received = match is_delta {
                true => self.receive_delta(attempt, &mut source, &file, expected),
                false => self.unpack(attempt, &mut source, Some(&file), expected),
            };
            if let Err(failed) = &received {
                self.keep_partial(attempt, failed.refusal.code, is_delta);
            }
            let (tree, facts) = received?;
            if !arrived(id) {
                let why = "receiving the payload: stopped";
                return Err(Refusal::new(Code::Cancelled, why).into());
            }
            payload.kept = true;
            if !is_delta {
                // Whoever was cut has sent all of it now.
                self.known.store.drop_partial(&attempt.record().project)?;
            }
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
            store: Arc::clone(&self.known.store),
            id,
            kept: false,
        };
        attempt.phase(Phase::Fetch, |attempt| {
            let file = self.known.store.create_payload(id)?;
            let facts = fetch(attempt, &file)?;
            checkpoint("fetched");
            Ok(((), facts))
        })?;
        attempt.phase(Phase::Extract, |attempt| {
            let (file, _) = self.known.store.open_payload(id)?.ok_or_else(|| {
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
        (expected, came_as_delta): (Option<&str>, bool),
    ) -> Result<Staged, Box<Failed>> {
        attempt.phase(Phase::Extract, |attempt| {
            let id = attempt.record().release_id;
            if trees::delta_head(&self.known.store.payload(id))?.is_none() {
                // One that came as a delta, and was packed since, is another payload than the one that came.
                let expected = expected.filter(|_| !came_as_delta);
                let (tree, facts) = self.unpack(attempt, payload, None, expected)?;
                return Ok((Staged(tree), facts));
            }
            let tree = self.release_tree(attempt);
            let release = self.known.store.create_release(&tree.project, id)?;
            self.maker(&tree.project, id).again(&release)?;
            Ok((Staged(tree), Facts::new()))
        })
    }

    fn maker<'m>(&'m self, project: &'m Project, id: DeploymentId) -> TreeMaker<'m> {
        TreeMaker {
            known: self.known,
            limits: self.limits,
            owner: self.owner.map(|account| (account.uid, account.gid)),
            project,
            id,
        }
    }

    fn release_tree(&self, attempt: &Attempt) -> ReleaseTree {
        ReleaseTree {
            store: Arc::clone(&self.known.store),
            project: attempt.record().project.clone(),
            id: attempt.record().release_id,
            kept: false,
            synced: false,
        }
    }

    /// Tells watchers how far an upload is.
    fn watched<'w>(&self, attempt: &'w Attempt) -> impl FnMut(u64) + use<'w> {
        let (total, mut told) = (self.total, Instant::now());
        move |bytes| {
            checkpoint("received");
            if told.elapsed() >= UPLOAD_EVERY {
                told = Instant::now();
                let total = total.map(|total| total.max(bytes));
                attempt.upload(Upload { bytes, total });
            }
        }
    }

    /// Makes the tree of a delta while it arrives.
    fn receive_delta(
        &self,
        attempt: &mut Attempt,
        source: &mut dyn Read,
        payload: &File,
        expected: Option<&str>,
    ) -> Result<(ReleaseTree, Facts), Box<Failed>> {
        let mut tree = self.release_tree(attempt);
        let release = self.known.store.create_release(&tree.project, tree.id)?;
        let maker = self.maker(&tree.project, tree.id);
        let built = maker.receive(source, payload, &release, &mut self.watched(attempt))?;
        tree.synced = built.synced;
        checkpoint("stored");
        right_hash(&tree.project, &built.payload_hash, expected)?;
        let facts = json!({
            "payload_hash": built.payload_hash,
            "payload_size": built.payload_size,
            "payload_kind": "delta",
            "unpacked_size": built.made.bytes,
            "files": built.made.files,
            "tree": built.tree,
            "reused_files": built.made.reused_files,
            "reused_bytes": built.made.reused_bytes,
        });
        Ok((tree, self::facts(facts)))
    }

    /// Keeps what a cut upload has brought, unless something of it was not what it was to be.
    fn keep_partial(&self, attempt: &Attempt, why: Code, is_delta: bool) {
        let (project, id) = (&attempt.record().project, attempt.record().deployment_id);
        let is_cut = matches!(why, Code::UploadBroken | Code::Cancelled | Code::StaleBase);
        let store = &self.known.store;
        let kept = match (is_cut, is_delta) {
            (true, true) => store.keep_partial(project, id).map(drop),
            (true, false) => store.keep_archive(project, id),
            (false, _) => store.drop_objects(id),
        };
        if let Err(error) = kept {
            log::warn(&format!("deployment {id}: {error}"));
        }
    }

    fn unpack(
        &self,
        attempt: &mut Attempt,
        source: &mut dyn Read,
        payload: Option<&File>,
        expected: Option<&str>,
    ) -> Result<(ReleaseTree, Facts), Box<Failed>> {
        let tree = self.release_tree(attempt);
        let release = self.known.store.create_release(&tree.project, tree.id)?;
        let owner = self.owner.map(|account| (account.uid, account.gid));
        let mut progress = self.watched(attempt);
        let unpacked =
            archive::unpack(source, payload, &release, self.limits, owner, &mut progress)?;
        checkpoint("stored");
        right_hash(&tree.project, &unpacked.payload_hash, expected)?;
        let facts = json!({
            "payload_hash": unpacked.payload_hash,
            "payload_size": unpacked.payload_size,
            "payload_kind": "tar",
            "unpacked_size": unpacked.unpacked_size,
            "files": unpacked.files,
        });
        Ok((tree, self::facts(facts)))
    }
}

/// The first bytes of a payload, and whether they are those of a delta.
fn peek(source: &mut dyn Read) -> Result<(io::Cursor<Vec<u8>>, bool), Refusal> {
    let mut start = [0; MAGIC.len()];
    let mut len = 0;
    // No more than it takes: what is not a delta is not waited for.
    while len < MAGIC.len() && MAGIC.starts_with(&start[..len]) {
        match source.read(&mut start[len..]) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Refusal::of_reading("receiving the payload", &error)),
        }
    }
    Ok((
        io::Cursor::new(start[..len].to_vec()),
        start[..len] == MAGIC,
    ))
}

/// Refuses a payload that has not the SHA-256 that it must have.
fn right_hash(project: &Project, found: &str, expected: Option<&str>) -> Result<(), Refusal> {
    match expected.filter(|expected| *expected != found) {
        None => Ok(()),
        Some(expected) => {
            let why = format!(
                "checking the payload of {project}: its SHA-256 is {found} and not {expected} as it should be"
            );
            Err(Refusal::new(Code::BadRequest, why))
        }
    }
}
