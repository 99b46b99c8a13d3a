//! A tree that another server has, out of what is here and of what only that one has.

use std::fs::File;
use std::io::{Cursor, Read};

use crate::api::error::{Code, Doing, Refusal};
use crate::api::name::Project;
use crate::api::operation::Prepare;
use crate::engine::deployer::Deployer;
use crate::engine::held_tree::TreeHolder;
use crate::formats::delta::records::{DeltaHead, RecordWriter};
use crate::system::stop::Stop;

/// What is missing here of a tree that somebody has.
pub struct Lacking<H> {
    holder: H,
    head: DeltaHead,
    list: File,
    missing: String,
}

impl Deployer {
    /// Asks for the list of a tree, and finds out what of it is missing here. None if nothing of it is here: all of it comes
    /// as quickly as an archive.
    ///
    /// # Errors
    /// What is wrong with the list, or with the disk.
    pub fn lacking<H: TreeHolder>(
        &self,
        project: &Project,
        tree: &str,
        holder: H,
    ) -> Result<Option<Lacking<H>>, Refusal> {
        let broken = |why| Refusal::new(Code::UploadBroken, why);
        let mut list = holder.list(self.stop_signal()).map_err(broken)?;
        let request = Prepare {
            project: project.clone(),
            tree: Some(tree.to_owned()),
            verify: true,
        };
        let (prepared, list) = self.lacks_of(&request, &mut list)?;
        let Some(base) = prepared.base else {
            return Ok(None);
        };
        let len = list.metadata().doing(|| "reading a list".into())?.len();
        let head = DeltaHead {
            base: Some(base.into()),
            tree: tree.to_owned(),
            list: len,
            difference: false,
        };
        Ok(Some(Lacking {
            holder,
            head,
            list,
            missing: prepared.missing,
        }))
    }
}

impl<H: TreeHolder> Lacking<H> {
    /// What is missing, as a delta that comes.
    ///
    /// # Errors
    /// Why it cannot be asked for.
    pub fn open(self, stop: &Stop) -> Result<Box<dyn Read>, Refusal> {
        let mut head = Vec::new();
        self.head
            .write(&mut head)
            .doing(|| "writing the head of a delta".into())?;
        let objects: Box<dyn Read> = match self.missing.is_empty() {
            // Nobody is asked for nothing.
            true => {
                let nothing = RecordWriter::new(Vec::new(), 0).end();
                Box::new(Cursor::new(nothing.doing(|| "writing a delta".into())?))
            }
            false => {
                let objects = self.holder.objects(self.missing, stop);
                objects.map_err(|why| Refusal::new(Code::UploadBroken, why))?
            }
        };
        let list = self.list.take(self.head.list);
        Ok(Box::new(Cursor::new(head).chain(list).chain(objects)))
    }
}
