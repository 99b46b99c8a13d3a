//! The archive of a payload that came as a delta: for whoever asks for it, and before what it builds on is removed.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Seek};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::PoisonError;

use crate::api::error::{Doing, Error, Refusal};
use crate::api::name::{DeploymentId, Project};
use crate::api::record::{Record, Summary, key_of};
use crate::engine::deployer::{Deployer, not_found};
use crate::engine::peers::WholePayload;
use crate::engine::scratch::Scratch;
use crate::engine::trees::{TreeMaker, delta_head};
use crate::formats::archive::{Effort, IncomingPayload, Limits, PackPlan, as_gzip, extension};
use crate::system::files::if_there;
use crate::system::log;

/// So many deltas may build on each other.
const CHAIN_MAX: usize = 8;
/// How hard it is compressed: as a client does it.
const LEVEL: u32 = 1;

/// Who is told of payloads before they are removed.
pub trait PayloadKeeper: Send + Sync {
    /// Whether one is kept, however many there are.
    fn keeps(&self, sha256: &str) -> bool;

    /// One is about to be removed, and was the last of its kind here.
    fn goes(&self, sha256: &str);
}

impl Deployer {
    /// Tells this one of payloads before they are removed. Only the first one is told.
    pub fn tell_of_payloads(&self, keeper: impl PayloadKeeper + 'static) {
        let _ = self.payload_keeper.set(Box::new(keeper));
    }

    /// A stored payload as an archive that other programs read, its length, and what its name ends with.
    ///
    /// # Errors
    /// `not_found` if it is no longer stored, or why the archive of a delta cannot be made.
    pub fn archive(&self, id: DeploymentId) -> Result<(File, u64, &'static str), Refusal> {
        let store = &self.known.store;
        let (mut payload, mut length) = self.payload(id)?;
        if delta_head(&store.payload(id))?.is_some() {
            let of = store.read_summary(id)?.ok_or_else(|| not_found(id))?;
            self.pack(&of.project, id)?;
            (payload, length) = self.payload(id)?;
        }
        let extension = extension(&payload);
        match extension.doing(|| format!("reading the payload of deployment {id}"))? {
            Some(extension) => Ok((payload, length, extension)),
            None => self.in_one_format(id, &payload),
        }
    }

    /// What came half as lz4, half as gzip, as the latter. The stored one stays: it has the hash that it came with.
    fn in_one_format(
        &self,
        id: DeploymentId,
        payload: &File,
    ) -> Result<(File, u64, &'static str), Refusal> {
        let _turn = self.packing.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.known.store.fresh_beside(id);
        let what = || format!("writing {}", path.display());
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        let file = options.mode(0o600).open(&path).doing(what)?;
        let written = as_gzip(payload, BufWriter::new(&file), LEVEL);
        // It is there until it has been read.
        let removed = fs::remove_file(&path);
        written.and(removed).doing(what)?;
        (&file).rewind().doing(what)?;
        let length = file.metadata().doing(what)?.len();
        Ok((file, length, "tar.gz"))
    }

    /// A stored payload that has this SHA-256, in hex, and its length; none if there is none, of the components that `may` lets
    /// be looked at. It may be that of a deployment that runs: a payload has its hash when all of it has arrived.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn payload_by_hash(
        &self,
        sha256: &str,
        may: &dyn Fn(&Project) -> bool,
    ) -> Result<Option<(File, u64)>, Refusal> {
        let Some(begins) = key_of(sha256) else {
            return Ok(None);
        };
        let store = &self.known.store;
        let found: Vec<DeploymentId> = self.known.index.look(|all| {
            let all = all.iter().rev();
            let has = all.filter(|(_, one)| one.payload == Some(begins) && may(&one.project));
            has.map(|(id, _)| *id).collect()
        });
        for id in found {
            // A delta that came with this hash is another file once it has been packed.
            let Some(payload) = store.open_payload(id)? else {
                continue;
            };
            let record = store.read_record(id)?;
            let is_it = |record: Record| {
                record.payload_hash.as_deref() == Some(sha256)
                    && record.payload_kind.as_deref() != Some("delta")
            };
            if record.is_some_and(is_it) {
                return Ok(Some(payload));
            }
        }
        Ok(None)
    }

    /// A payload that was fetched from another host, is whole, and is not deployed yet.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn fetched_payload(&self, sha256: &str) -> Result<Option<(File, u64)>, Refusal> {
        let path = self.known.store.fetched_payload(sha256);
        let what = || format!("reading {}", path.display());
        let Some(file) = if_there(File::open(&path)).doing(what)? else {
            return Ok(None);
        };
        let length = file.metadata().doing(what)?.len();
        Ok(Some((file, length)))
    }

    /// A stored payload as an archive, and its SHA-256, for a peer.
    pub(super) fn whole(
        &self,
        project: &Project,
        id: DeploymentId,
    ) -> Result<WholePayload, Refusal> {
        if delta_head(&self.known.store.payload(id))?.is_some() {
            self.pack(project, id)?;
        }
        let (file, _) = self.payload(id)?;
        let limits = Limits {
            max_payload: None,
            ..self.limits.clone()
        };
        let (mut source, progress) = (&file, &mut |_| ());
        let mut bytes = IncomingPayload::new(&mut source, None, &limits, progress)?;
        let what = || format!("reading the payload of deployment {id}");
        io::copy(&mut bytes, &mut io::sink()).doing(what)?;
        let (hash, _) = bytes.end();
        Ok((file, Some(hash)))
    }

    /// Puts an archive in the place of a stored delta.
    fn pack(&self, project: &Project, id: DeploymentId) -> Result<(), Refusal> {
        // One after the other: each takes the room of a tree.
        let _turn = self.packing.lock().unwrap_or_else(PoisonError::into_inner);
        let store = &self.known.store;
        let payload = store.payload(id);
        if delta_head(&payload)?.is_none() {
            return Ok(());
        }
        let scratch = Scratch::new(store, project)?;
        let maker = TreeMaker {
            known: &self.known,
            limits: &self.limits,
            owner: None,
            project,
            id,
        };
        maker.again(&scratch.0)?;
        let plan = PackPlan::of_list(&scratch.0, &store.tree_list(id))?;
        let path = store.fresh_beside(id);
        let what = || format!("writing {}", path.display());
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let file = options.open(&path).doing(what)?;
        let written = plan.write(BufWriter::new(&file), Effort::Level(LEVEL), &mut |_| ());
        let placed = written.and_then(|()| {
            file.sync_all().doing(what)?;
            fs::rename(&path, &payload).doing(what)
        });
        if let Err(error) = placed {
            // What is left of it takes the room that it lacked.
            let _ = fs::remove_file(&path);
            return Err(error.into());
        }
        store.drop_objects(id)?;
        Ok(())
    }

    /// Puts an archive in the place of a stored delta at the end of a long chain: each of a chain has to be applied before
    /// what a payload holds can be given.
    pub(super) fn limit_chain(&self, project: &Project, id: DeploymentId) {
        let limited = self.chain(project, id).and_then(|length| {
            if length > CHAIN_MAX {
                self.pack(project, id)?;
            }
            Ok(())
        });
        if let Err(refusal) = limited {
            log::warn(&format!(
                "packing the payload of deployment {id}: {refusal}"
            ));
        }
    }

    /// How many stored deltas build on each other up to this one, or one more than may.
    fn chain(&self, project: &Project, mut id: DeploymentId) -> Result<usize, Refusal> {
        let payload = |id| self.known.store.payload(id);
        for length in 0..=CHAIN_MAX {
            let head = match payload(id).exists() {
                true => delta_head(&payload(id))?,
                false => None,
            };
            let Some(base) = head.and_then(|head| head.base) else {
                return Ok(length);
            };
            let before = self.known.index.look(|all| {
                let mut older = all.range(..id).rev();
                let is_base =
                    |one: &Summary| one.project == *project && one.tree.as_deref() == Some(&*base);
                let found = older.find(|(id, one)| is_base(one) && payload(**id).exists());
                found.map(|(id, _)| *id)
            });
            match before {
                Some(before) => id = before,
                None => return Ok(length + 1),
            }
        }
        Ok(CHAIN_MAX + 1)
    }

    /// Makes all that stays of a component independent of the payloads that are to go. Gives those that must stay, since
    /// that failed.
    pub(super) fn let_go(
        &self,
        project: &Project,
        going: &BTreeSet<DeploymentId>,
    ) -> BTreeSet<DeploymentId> {
        let mut needed = BTreeSet::new();
        let of = |id: DeploymentId| self.known.store.payload(id);
        let staying: Vec<DeploymentId> = self.known.index.ended(project);
        let staying = staying
            .into_iter()
            .filter(|id| !going.contains(id) && of(*id).exists());
        let staying: Vec<DeploymentId> = staying.collect();
        for id in &staying {
            let Ok(Some(head)) = delta_head(&of(*id)) else {
                continue;
            };
            let Some(base) = head.base else { continue };
            let has = |one: &DeploymentId| {
                self.known.index.look(|all| {
                    let tree = all.get(one).and_then(|one| one.tree.as_deref());
                    tree == Some(&*base)
                })
            };
            if staying.iter().any(|one| one < id && has(one)) {
                continue;
            }
            if let Err(refusal) = self.pack(project, *id) {
                log::warn(&format!(
                    "packing the payload of deployment {id}: {refusal}"
                ));
                needed.extend(going.iter().copied().filter(|one| one < id));
            }
        }
        needed
    }

    /// Those of these payloads that somebody wants to be kept.
    pub(super) fn kept_for_others(&self, going: &BTreeSet<DeploymentId>) -> BTreeSet<DeploymentId> {
        let Some(keeper) = self.payload_keeper.get() else {
            return BTreeSet::new();
        };
        let keeps = |id: &&DeploymentId| {
            let sha256 = self.payload_sha256(**id);
            sha256.is_some_and(|sha256| keeper.keeps(&sha256))
        };
        going.iter().filter(keeps).copied().collect()
    }

    /// Tells whoever wants to know that these payloads are about to be removed, if no other deployment has them.
    pub(super) fn tell_going(&self, going: &BTreeSet<DeploymentId>) {
        let Some(keeper) = self.payload_keeper.get() else {
            return;
        };
        let store = &self.known.store;
        for sha256 in going.iter().filter_map(|id| self.payload_sha256(*id)) {
            let key = key_of(&sha256);
            let others: Vec<DeploymentId> = self.known.index.look(|all| {
                let has = all.iter().filter(|(_, one)| one.payload == key);
                has.map(|(id, _)| *id)
                    .filter(|id| !going.contains(id))
                    .collect()
            });
            if !others.iter().any(|id| store.payload(*id).exists()) {
                keeper.goes(&sha256);
            }
        }
    }

    fn payload_sha256(&self, id: DeploymentId) -> Option<String> {
        self.known.store.read_record(id).ok()??.payload_hash
    }

    /// Removes the payload of a deployment; what builds on it stands alone then. Gives how many bytes that frees.
    ///
    /// # Errors
    /// When it stays.
    pub fn remove_payload(&self, id: DeploymentId) -> Result<u64, Error> {
        let store = &self.known.store;
        if let Some(of) = store.read_summary(id)? {
            let _retaining = self.retaining.lock();
            if !self.let_go(&of.project, &BTreeSet::from([id])).is_empty() {
                let what = format!("removing the payload of deployment {id}");
                return Err(Error::new(
                    what,
                    "a later one builds on it, and cannot be packed",
                ));
            }
        }
        let size = fs::metadata(store.payload(id)).map_or(0, |meta| meta.len());
        self.tell_going(&BTreeSet::from([id]));
        store.remove_payload(id)?;
        Ok(size)
    }
}
