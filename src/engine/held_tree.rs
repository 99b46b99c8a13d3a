//! Who has a tree, its list and its objects: another server, or this one for others that lack some of it.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use crate::api::error::{Doing, Error, Refusal};
use crate::api::name::{DeploymentId, Project};
use crate::formats::archive::KeptTree;
use crate::formats::delta::ranges::Ranges;
use crate::formats::delta::records::DeltaHead;
use crate::store::Store;
use crate::system::files::if_there;
use crate::system::stop::Stop;

/// How hard an object is compressed for another server: as a client does it.
const LEVEL: u32 = 1;
/// As much is written at once.
const WRITE_AT_ONCE: usize = 128 << 10;

/// Who has a tree.
pub trait TreeHolder {
    /// The list of the tree, as gzip.
    ///
    /// # Errors
    /// Why it cannot be asked for.
    fn list(&self, stop: &Stop) -> Result<Box<dyn Read>, String>;

    /// The objects with these numbers, as records.
    ///
    /// # Errors
    /// Why they cannot be asked for.
    fn objects(&self, numbers: String, stop: &Stop) -> Result<Box<dyn Read>, String>;
}

/// The tree of a deployment's payload, which is kept here.
pub struct HeldTree {
    list: PathBuf,
    dir: PathBuf,
    records: Vec<File>,
}

impl HeldTree {
    /// None if its list is not here.
    ///
    /// # Errors
    /// When something of it cannot be opened.
    pub fn open(
        store: &Store,
        project: &Project,
        id: DeploymentId,
    ) -> Result<Option<HeldTree>, Error> {
        let list = store.tree_list(id);
        if !list.is_file() {
            return Ok(None);
        }
        let mut records = Vec::new();
        for path in [store.payload(id), store.objects(id)] {
            let file = if_there(File::open(&path));
            records.extend(file.doing(|| format!("reading {}", path.display()))?);
        }
        let dir = store.release(project, id);
        Ok(Some(HeldTree { list, dir, records }))
    }

    /// The file of its list.
    pub fn list(&self) -> &Path {
        &self.list
    }

    fn kept(&self) -> KeptTree<'_> {
        KeptTree {
            list: &self.list,
            dir: &self.dir,
            records: &self.records,
        }
    }

    /// Whether its payload came as a delta that brings all of these objects.
    ///
    /// # Errors
    /// When something cannot be read.
    pub fn brought(&self, wanted: &Ranges) -> Result<bool, Refusal> {
        self.kept().brought(wanted)
    }

    /// Writes these objects as records.
    ///
    /// # Errors
    /// `stale_base` if one of them is not here any longer, or what cannot be read or written.
    pub fn write_objects(&self, wanted: &Ranges, out: impl Write) -> Result<(), Refusal> {
        let out = BufWriter::with_capacity(WRITE_AT_ONCE, out);
        let mut out = self.kept().write_objects(wanted, (out, LEVEL))?;
        let flushed = out.flush();
        Ok(flushed.doing(|| "sending a part of a tree".into())?)
    }

    /// Writes a delta that brings these objects to a server that has the list.
    ///
    /// # Errors
    /// As [`HeldTree::write_objects`].
    pub fn write_delta(
        &self,
        head: &DeltaHead,
        wanted: &Ranges,
        mut out: impl Write,
    ) -> Result<(), Refusal> {
        head.write(&mut out)
            .doing(|| "sending a part of a tree".into())?;
        self.write_objects(wanted, out)
    }
}
