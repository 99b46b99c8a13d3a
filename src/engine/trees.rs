//! The trees that are here, and how one is made: out of another one that is kept and of what a delta brings.
//!
//! All of it is looked for inside of one component: what another one has can neither be used nor learnt.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use crate::api::error::{Code, Doing, Error, Refusal};
use crate::api::event::Status;
use crate::api::name::{DeploymentId, Project};
use crate::api::record::Summary;
use crate::engine::checkpoint::checkpoint;
use crate::engine::registry::Registry;
use crate::engine::scratch::{Scratch, empty};
use crate::engine::spare::{SpareRequest, SpareUse};
use crate::formats::archive::{
    self, Assembled, BaseTree, IncomingPayload, Limits, Owner, Sources, Supply,
};
use crate::formats::delta::hash::ContentHash;
use crate::formats::delta::listing::ListingLimits;
use crate::formats::delta::records::{DeltaHead, MAGIC, RecordScanner, StoredObject};
use crate::store::Store;
use crate::system::files::if_there;
use crate::system::memory::Pages;

/// So many of the trees of a component are looked at, the newest first: what is older has less in common with a new one.
const TREES_MAX: usize = 3;
/// What is read of records at once, to find them.
const READ_AT_ONCE: usize = 256 << 10;
/// How many deltas may build on each other, before the one that is asked for is said to be lost.
const CHAIN_MAX: usize = 32;

/// The builds of a component, the newest first, and the tree of each.
fn known(registry: &Registry, project: &Project) -> Vec<(DeploymentId, Box<str>)> {
    let has_release = |one: &Summary| {
        matches!(
            one.status,
            Status::Success | Status::Staged | Status::RolledBack
        )
    };
    registry.index.look(|all| {
        let of = all.iter().rev().filter(|(id, one)| {
            one.project == *project && one.release_id == **id && has_release(one)
        });
        of.filter_map(|(id, one)| Some((*id, one.tree.clone()?)))
            .collect()
    })
}

/// A release and the list of its tree, if both are there.
pub fn kept(store: &Store, project: &Project, id: DeploymentId) -> Option<BaseTree> {
    let (dir, list) = (store.release(project, id), store.tree_list(id));
    (dir.is_dir() && list.is_file()).then_some(BaseTree { dir, list })
}

/// The newest release of a component with this tree.
pub fn base_of(registry: &Registry, project: &Project, tree: &str) -> Option<BaseTree> {
    let known = known(registry, project).into_iter();
    let mut with = known.filter(|(_, one)| **one == *tree);
    with.find_map(|(id, _)| kept(&registry.store, project, id))
}

/// The newest trees of a component whose releases are kept.
pub fn bases(registry: &Registry, project: &Project) -> Vec<(Box<str>, BaseTree)> {
    let mut found: Vec<(Box<str>, BaseTree)> = Vec::new();
    for (id, tree) in known(registry, project) {
        if found.len() == TREES_MAX {
            break;
        }
        if found.iter().any(|(known, _)| *known == tree) {
            continue;
        }
        found.extend(kept(&registry.store, project, id).map(|base| (tree, base)));
    }
    found
}

/// The refusal of a base that is not here.
pub fn stale(project: &Project, tree: &str) -> Refusal {
    let why = format!("deploying {project}: the tree {tree} is not here any longer");
    Refusal::new(Code::StaleBase, why)
}

/// Finds the objects in a file of records, and tells the supply of those that it lacks. Says how many these are.
///
/// # Errors
/// When it cannot be read. What is damaged ends it.
pub fn supply_from(objects: &File, number: usize, supply: &Supply) -> Result<u64, Error> {
    let mut used = 0;
    scan_records(objects, 0, &mut |object| {
        used += u64::from(supply.add_wanted(number, object));
    })?;
    Ok(used)
}

/// Finds the objects in a file whose records begin somewhere.
fn scan_records(
    mut objects: &File,
    from: u64,
    found: &mut dyn FnMut(StoredObject),
) -> Result<(), Error> {
    let what = || "reading what has come before".to_owned();
    objects.seek(SeekFrom::Start(from)).doing(what)?;
    let mut scanner = RecordScanner::at(from);
    let mut buffer = Pages::new(READ_AT_ONCE);
    loop {
        let read = objects.read(&mut buffer).doing(what)?;
        if read == 0 || scanner.push(&buffer[..read], found).is_err() {
            return Ok(());
        }
    }
}

/// What came of a delta.
pub struct BuiltDelta {
    pub made: Assembled,
    pub tree: String,
    pub payload_hash: String,
    pub payload_size: u64,
    /// All of it is on disk.
    pub synced: bool,
}

/// How the trees of payloads are made.
pub struct TreeMaker<'a> {
    pub known: &'a Registry,
    pub limits: &'a Limits,
    pub owner: Option<Owner>,
    pub project: &'a Project,
    /// Whose payload it is.
    pub id: DeploymentId,
}

impl TreeMaker<'_> {
    fn store(&self) -> &Store {
        &self.known.store
    }

    /// Makes the tree of a delta in `release`, an empty directory, while the delta arrives and is stored.
    ///
    /// # Errors
    /// What is wrong with it, or `stale_base` if something that it counts on is not here.
    pub fn receive(
        &self,
        source: &mut dyn Read,
        payload: &File,
        release: &Path,
        progress: &mut dyn FnMut(u64),
    ) -> Result<BuiltDelta, Refusal> {
        let mut incoming = IncomingPayload::new(source, Some(payload), self.limits, progress)?;
        let head = read_head(&mut incoming)?;
        let list = self.store().tree_list(self.id);
        let limits = list_limits(self.known, self.project, self.limits)?;
        let base = match &head.base {
            Some(tree) => {
                let base = base_of(self.known, self.project, tree);
                Some(base.ok_or_else(|| stale(self.project, tree))?)
            }
            None => None,
        };
        let mut listed = None;
        match &base {
            Some(base) if head.difference => {
                let difference = (&mut incoming).take(head.list);
                listed = Some(archive::relist(base, difference, limits, &list)?);
            }
            None if head.difference => {
                let why = "the delta has a difference, and no base that it is to";
                return Err(Refusal::new(Code::BadArchive, why));
            }
            _ if head.list > 0 => store_list(&mut incoming, head.list, &list)?,
            _ => {
                let prepared = self.store().prepared(self.project);
                fs::copy(&prepared, &list).map_err(|_| stale(self.project, &head.tree))?;
            }
        }
        checkpoint("listed");
        let objects = self.store().take_partial(self.project, self.id)?;
        let lists = (&head, limits, listed);
        let by_spare = self.by_spare(lists, base.as_ref(), objects.as_ref(), &mut incoming)?;
        let (made, synced) = match by_spare {
            SpareUse::Release(made) => (made, true),
            SpareUse::Unused => {
                let receive = &mut |supply: &Supply| incoming.receive(supply);
                let made =
                    self.assemble((&head, limits), base.as_ref(), objects, release, receive)?;
                (made, false)
            }
            SpareUse::Spent => {
                let receive = &mut |supply: &Supply| self.received(supply);
                let made =
                    self.assemble((&head, limits), base.as_ref(), objects, release, receive)?;
                (made, false)
            }
        };
        let (payload_hash, payload_size) = incoming.end();
        Ok(BuiltDelta {
            made,
            tree: head.tree,
            payload_hash,
            payload_size,
            synced,
        })
    }

    /// Makes the tree of the spare, if there is one.
    fn by_spare(
        &self,
        (head, list_limits, listed): (&DeltaHead, ListingLimits, Option<ContentHash>),
        base: Option<&BaseTree>,
        objects: Option<&File>,
        incoming: &mut IncomingPayload<'_>,
    ) -> Result<SpareUse, Refusal> {
        let Some(base) = head.base.as_deref().zip(base) else {
            return Ok(SpareUse::Unused);
        };
        let request = SpareRequest {
            store: self.store(),
            project: self.project,
            id: self.id,
            base,
            tree: &head.tree,
            listed,
            list_limits,
            limits: self.limits,
            owner: self.owner,
        };
        let payload = self.payload()?;
        let records: Vec<&File> = [&payload].into_iter().chain(objects).collect();
        request.run(&records, &mut |supply| {
            if let Some(objects) = objects {
                supply_from(objects, 1, supply)?;
            }
            incoming.receive(supply)
        })
    }

    fn payload(&self) -> Result<File, Error> {
        let path = self.store().payload(self.id);
        File::open(&path).doing(|| format!("reading {}", path.display()))
    }

    /// Tells the supply what has been received.
    fn received(&self, supply: &Supply) -> Result<(), Refusal> {
        let mut payload = self.payload()?;
        payload
            .read_exact(&mut [0; MAGIC.len()])
            .doing(|| "reading what has come".into())?;
        let head = DeltaHead::read(&mut payload);
        let head = head.map_err(|error| Refusal::of_reading("reading what has come", &error))?;
        let at = payload
            .stream_position()
            .doing(|| "reading what has come".into())?;
        scan_records(&payload, at + head.list, &mut |object| {
            supply.add(0, object)
        })?;
        Ok(())
    }

    /// Makes a tree by its list, out of the base, of what an earlier upload brought, and of what comes now.
    fn assemble(
        &self,
        (head, limits): (&DeltaHead, ListingLimits),
        base: Option<&BaseTree>,
        objects: Option<File>,
        release: &Path,
        receive: &mut dyn FnMut(&Supply) -> Result<(), Refusal>,
    ) -> Result<Assembled, Refusal> {
        let list = self.store().tree_list(self.id);
        let demand = archive::demand(&list, limits, base, &|_| false)?;
        if demand.tree.to_string() != head.tree {
            let why = format!(
                "deploying {}: the list that came is of the tree {} and not of {}",
                self.project, demand.tree, head.tree
            );
            // Somebody else may have prepared another one since.
            let code = if head.list == 0 {
                Code::StaleBase
            } else {
                Code::BadArchive
            };
            return Err(Refusal::new(code, why));
        }
        if demand.bytes > disk_limits(self.store(), self.limits)?.max_bytes {
            // It takes the room that its bytes were given.
            self.store().drop_spare(self.project)?;
        }
        let payload = self.payload()?;
        let mut records = vec![&payload];
        if let Some(objects) = &objects {
            if supply_from(objects, 1, &demand.supply)? == 0 {
                let path = self.store().objects(self.id);
                fs::remove_file(&path).doing(|| format!("removing {}", path.display()))?;
            }
        }
        records.extend(objects.as_ref());
        let sources = Sources {
            list: &list,
            base,
            supply: &demand.supply,
            records: &records,
        };
        let receive = || receive(&demand.supply);
        let (made, ()) = archive::assemble(&sources, release, self.limits, self.owner, receive)?;
        Ok(made)
    }

    /// Makes the tree of a stored payload once more in `release`, an empty directory.
    ///
    /// # Errors
    /// What is wrong with it, or what it counts on and is not here.
    pub fn again(&self, release: &Path) -> Result<(), Refusal> {
        self.again_at(release, 0)
    }

    fn again_at(&self, release: &Path, depth: usize) -> Result<(), Refusal> {
        let gone = || {
            let why = format!("the payload of deployment {} is no longer stored", self.id);
            Refusal::new(Code::NotFound, why)
        };
        let (mut payload, _) = self.store().open_payload(self.id)?.ok_or_else(gone)?;
        let Some(head) = delta_head(&self.store().payload(self.id))? else {
            let progress = &mut |_| ();
            archive::unpack(
                &mut payload,
                None,
                release,
                self.limits,
                self.owner,
                progress,
            )?;
            return Ok(());
        };
        let Some(tree) = &head.base else {
            return self.apply(&head, None, release);
        };
        if let Some(base) = base_of(self.known, self.project, tree) {
            match self.apply(&head, Some(&base), release) {
                Err(refusal) if refusal.code == Code::StaleBase => empty(release)?,
                done => return done,
            }
        }
        let older = known(self.known, self.project)
            .into_iter()
            .find(|(id, one)| {
                **one == **tree && *id < self.id && self.store().payload(*id).exists()
            });
        let Some((id, _)) = older.filter(|_| depth < CHAIN_MAX) else {
            // Its own release has all of it, unless others have written to that.
            let own = kept(self.store(), self.project, self.id);
            let own = own.ok_or_else(|| stale(self.project, tree))?;
            return self.apply(&head, Some(&own), release);
        };
        let scratch = Scratch::new(self.store(), self.project)?;
        let below = TreeMaker {
            owner: None,
            id,
            ..*self
        };
        below.again_at(&scratch.0, depth + 1)?;
        let base = BaseTree {
            dir: scratch.0.clone(),
            list: self.store().tree_list(id),
        };
        self.apply(&head, Some(&base), release)
    }

    /// Makes the tree of a stored delta.
    fn apply(
        &self,
        head: &DeltaHead,
        base: Option<&BaseTree>,
        release: &Path,
    ) -> Result<(), Refusal> {
        let limits = Limits {
            max_payload: None,
            ..self.limits.clone()
        };
        let what = || format!("reading the payload of deployment {}", self.id);
        let mut payload = File::open(self.store().payload(self.id)).doing(what)?;
        let progress = &mut |_| ();
        let mut incoming = IncomingPayload::new(&mut payload, None, &limits, progress)?;
        read_head(&mut incoming)?;
        io::copy(&mut (&mut incoming).take(head.list), &mut io::sink()).doing(what)?;
        let objects = if_there(File::open(self.store().objects(self.id))).doing(what)?;
        let receive = &mut |supply: &Supply| incoming.receive(supply);
        let limits = disk_limits(self.store(), self.limits)?;
        self.assemble((head, limits), base, objects, release, receive)?;
        Ok(())
    }
}

/// What the list of a release may ask for: no more than the disk has room for, beside the bytes of the spare, which becomes
/// the release or goes.
///
/// # Errors
/// When the disk cannot be asked.
pub fn list_limits(
    known: &Registry,
    project: &Project,
    limits: &Limits,
) -> Result<ListingLimits, Refusal> {
    let mut found = disk_limits(&known.store, limits)?;
    found.max_bytes = found.max_bytes.saturating_add(spare_bytes(known, project));
    Ok(found)
}

/// What a list may ask for.
fn disk_limits(store: &Store, limits: &Limits) -> Result<ListingLimits, Error> {
    Ok(ListingLimits {
        max_entries: limits.max_entries,
        max_bytes: store.disk_free()?.saturating_sub(limits.min_free_disk),
    })
}

/// The bytes of the files of a component's spare, if there is one.
fn spare_bytes(registry: &Registry, project: &Project) -> u64 {
    let tree = archive::stamped_tree(&registry.store.spare(project).index);
    let of = known(registry, project).into_iter();
    let of = tree.and_then(|tree| of.into_iter().find(|(_, known)| **known == *tree));
    let record = of.and_then(|(id, _)| registry.store.read_record(id).ok()?);
    record.and_then(|record| record.unpacked_size).unwrap_or(0)
}

/// The head of a stored delta; none of an archive.
///
/// # Errors
/// When it cannot be read.
pub fn delta_head(payload: &Path) -> Result<Option<DeltaHead>, Refusal> {
    let what = || format!("reading {}", payload.display());
    let mut payload = File::open(payload).doing(what)?;
    let mut magic = [0; MAGIC.len()];
    match payload.read_exact(&mut magic) {
        Ok(()) if magic == MAGIC => {}
        Ok(()) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(Error::new(what(), error).into()),
    }
    let head = DeltaHead::read(&mut payload);
    head.map(Some)
        .map_err(|error| Refusal::of_reading("reading a delta", &error))
}

fn read_head(incoming: &mut IncomingPayload<'_>) -> Result<DeltaHead, Refusal> {
    let mut magic = [0; MAGIC.len()];
    let head = incoming
        .read_exact(&mut magic)
        .and_then(|()| DeltaHead::read(incoming));
    head.map_err(|error| Refusal::of_reading("receiving the payload", &error))
}

/// Writes the list that a delta brings.
fn store_list(incoming: &mut IncomingPayload<'_>, len: u64, path: &Path) -> Result<(), Refusal> {
    let mut file = File::create(path).doing(|| format!("making {}", path.display()))?;
    let mut list = incoming.take(len);
    let mut buffer = Pages::new(64 << 10);
    let mut left = len;
    while left > 0 {
        let read = list.read(&mut buffer);
        let read = read.map_err(|error| Refusal::of_reading("receiving the payload", &error))?;
        if read == 0 {
            return Err(Refusal::new(
                Code::UploadBroken,
                "the payload is not complete",
            ));
        }
        let written = io::Write::write_all(&mut file, &buffer[..read]);
        written.doing(|| format!("writing {}", path.display()))?;
        left -= read as u64;
    }
    Ok(())
}
