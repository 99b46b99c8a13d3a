//! What of a tree is missing, for whoever is about to send it.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::api::error::{Code, Doing, Refusal};
use crate::api::name::Project;
use crate::api::operation::Prepare;
use crate::engine::deployer::Deployer;
use crate::engine::trees::{self, base_of, bases, stale};
use crate::formats::archive::{self, BaseTree};
use crate::system::memory::Pages;

/// How many are prepared at once: each takes memory for what is missing.
const AT_ONCE: u64 = 2;
/// How long an earlier upload with the same key is waited for; it is told to end at once.
const SETTLE_MAX: Duration = Duration::from_secs(60);
/// The longest answer; whoever lacks more sends all.
const MISSING_MAX: usize = 1 << 20;
/// What of a list comes at once.
const READ_AT_ONCE: usize = 64 << 10;
/// An entry of a list has no more bytes than that on the average, or it is not a list of ours.
const ENTRY_MAX: u64 = 1200;

/// What is missing.
pub struct Prepared {
    /// The tree that the delta is to begin from.
    pub base: Option<Box<str>>,
    /// The numbers of the objects, as ranges.
    pub missing: String,
    pub missing_bytes: u64,
}

/// What there is of a component.
pub struct Found {
    /// Its newest tree.
    pub base: Option<Box<str>>,
    /// Whether something came of an upload that was cut.
    pub partial: bool,
}

/// One of those that are being prepared; dropping it makes room for another one.
struct Turn<'a>(&'a AtomicU64);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Deployer {
    /// Refuses a base that is not here, before what builds on it is sent.
    ///
    /// # Errors
    /// `stale_base`.
    pub fn has_base(&self, project: &Project, tree: &str) -> Result<(), Refusal> {
        match base_of(&self.known, project, tree) {
            Some(_) => Ok(()),
            None => Err(stale(project, tree)),
        }
    }

    /// Takes the list of a tree, keeps it for the delta that is to come, and says what of the tree is missing. An upload
    /// with the same key is ended first, so that what it has brought counts.
    ///
    /// # Errors
    /// What is wrong with the list, or with the disk.
    pub fn prepare(
        &self,
        request: &Prepare,
        key: Option<&str>,
        list: &mut dyn Read,
    ) -> Result<Prepared, Refusal> {
        let project = &request.project;
        let turn = Turn(&self.preparing);
        if turn.0.fetch_add(1, Ordering::AcqRel) >= AT_ONCE {
            let why = format!("preparing a deployment of {project}: others are being prepared");
            return Err(Refusal::new(Code::Full, why));
        }
        let store = &self.known.store;
        store.check_component(project)?;
        if let Some(key) = key {
            self.settled(project, key, Instant::now() + SETTLE_MAX)?;
        }
        let path = store.component_store(project)?.join(unique("prepared"));
        let prepared = self
            .store_list(project, list, &path)
            .and_then(|()| self.missing(request, &path))
            .and_then(|prepared| {
                let to = store.prepared(project);
                fs::rename(&path, &to).doing(|| format!("writing {}", to.display()))?;
                Ok(prepared)
            });
        if prepared.is_err() {
            // What stays is removed by the next start.
            let _ = fs::remove_file(&path);
        }
        prepared
    }

    /// What there is of a component that a delta could count on, so that whoever is about to send a tree knows whether its
    /// list is worth the reading of all of it. An upload with the same key is ended first, as by [`Deployer::prepare`].
    ///
    /// # Errors
    /// When that upload does not end.
    pub fn anything(&self, project: &Project, key: Option<&str>) -> Result<Found, Refusal> {
        let store = &self.known.store;
        store.check_component(project)?;
        if let Some(key) = key {
            self.settled(project, key, Instant::now() + SETTLE_MAX)?;
        }
        let base = bases(&self.known, project).into_iter().next();
        Ok(Found {
            base: base.map(|(tree, _)| tree),
            partial: store.partial(project).exists(),
        })
    }

    /// Takes the list of a tree from whoever has that tree, and says what of it is missing here. What is here is read before
    /// it is counted on, since nobody asks twice. Gives the list, too.
    ///
    /// # Errors
    /// What is wrong with the list, or with the disk.
    pub(in crate::engine) fn lacks_of(
        &self,
        request: &Prepare,
        list: &mut dyn Read,
    ) -> Result<(Prepared, File), Refusal> {
        let store = &self.known.store;
        store.check_component(&request.project)?;
        let project = &request.project;
        let path = store.component_store(project)?.join(unique("lacking"));
        let what = || format!("reading {}", path.display());
        let prepared = self
            .store_list(project, list, &path)
            .and_then(|()| self.missing(request, &path))
            .and_then(|prepared| Ok((prepared, File::open(&path).doing(what)?)));
        // What stays is removed by the next start.
        let _ = fs::remove_file(&path);
        prepared
    }

    fn store_list(
        &self,
        project: &Project,
        list: &mut dyn Read,
        path: &Path,
    ) -> Result<(), Refusal> {
        let most = self.limits.max_entries.saturating_mul(ENTRY_MAX);
        let most = most.min(self.limits.max_payload.unwrap_or(u64::MAX));
        let mut file = File::create(path).doing(|| format!("making {}", path.display()))?;
        let (mut buffer, mut total) = (Pages::new(READ_AT_ONCE), 0);
        loop {
            let read = match list.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Refusal::of_reading("receiving the list", &error)),
                Ok(read) => read,
            };
            if read == 0 {
                return Ok(());
            }
            total += read as u64;
            archive::fits(Some(most), total)?;
            self.has_room(project.as_str(), read as u64)?;
            let written = file.write_all(&buffer[..read]);
            written.doing(|| format!("writing {}", path.display()))?;
        }
    }

    /// What is missing, by the tree of those that are here that has the most of it.
    fn missing(&self, request: &Prepare, list: &Path) -> Result<Prepared, Refusal> {
        let project = &request.project;
        let mut candidates: Vec<_> = bases(&self.known, project)
            .into_iter()
            .map(|(tree, base)| (Some(tree), Some(base)))
            .collect();
        if candidates.is_empty() {
            candidates.push((None, None));
        }
        let mut best: Option<Prepared> = None;
        for (tree, base) in candidates {
            let (missing, missing_bytes) = self.lacks(request, list, base.as_ref())?;
            if best
                .as_ref()
                .is_some_and(|best| best.missing_bytes <= missing_bytes)
            {
                continue;
            }
            best = Some(Prepared {
                base: tree,
                missing,
                missing_bytes,
            });
            if missing_bytes == 0 {
                break;
            }
        }
        best.ok_or_else(|| {
            Refusal::new(Code::Internal, "preparing a deployment: nothing was asked")
        })
    }

    fn lacks(
        &self,
        request: &Prepare,
        list: &Path,
        base: Option<&BaseTree>,
    ) -> Result<(String, u64), Refusal> {
        let project = &request.project;
        let limits = trees::list_limits(&self.known, project, &self.limits)?;
        let changed = match base {
            Some(base) if request.verify => archive::changed(base)?,
            _ => HashSet::new(),
        };
        let demand = archive::demand(list, limits, base, &|path| changed.contains(path))?;
        let tree = request.tree.as_deref().unwrap_or_default();
        if demand.tree.to_string() != tree {
            let why = format!(
                "preparing a deployment of {project}: the list is of the tree {}, and not of {tree}",
                demand.tree
            );
            return Err(Refusal::new(Code::BadArchive, why));
        }
        if !request.verify {
            if let Some(partial) = self.partial(project, limits.max_bytes)? {
                trees::supply_from(&partial, 1, &demand.supply)?;
            }
        }
        let (missing, bytes) = demand.supply.missing(list)?;
        let missing = missing.to_string();
        Ok(match missing.len() > MISSING_MAX {
            true => ("all".into(), demand.bytes),
            false => (missing, bytes),
        })
    }
}

impl Deployer {
    /// What came of an upload that was cut, as records of at most so many bytes.
    fn partial(&self, project: &Project, most: u64) -> Result<Option<File>, Refusal> {
        let store = &self.known.store;
        let fresh = store.component_store(project)?.join(unique("partial"));
        let records = store.partial_records(project, &fresh, &mut |cut, to| {
            archive::salvage(cut, to, most)
        });
        Ok(records?)
    }
}

/// A name that nobody else uses in this process, and that a start removes.
fn unique(name: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    format!(".{name}-{n}")
}
