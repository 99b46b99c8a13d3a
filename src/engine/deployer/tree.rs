//! Which tree the payload of a deployment holds, for those that came without its list.

use crate::api::error::Error;
use crate::api::event::Status;
use crate::api::name::DeploymentId;
use crate::engine::deployer::Deployer;
use crate::formats::archive::{self, ArchiveList};
use crate::system::log;

impl Deployer {
    /// Lists the tree of a payload that came as an archive. Nobody waits for it, and it gives way to the next deployment of
    /// the component. At the end of that it is looked at again, if that made the same release live: so a peer comes to it, where
    /// what was staged goes live at once.
    pub(super) fn list_tree(&self, id: DeploymentId) {
        if let Err(error) = self.try_to_list(id) {
            log::warn(&format!("listing the tree of deployment {id}: {error}"));
        }
    }

    fn try_to_list(&self, id: DeploymentId) -> Result<(), Error> {
        let store = &self.known.store;
        let ended = store.read_record(id)?;
        let built = match ended {
            Some(ended) if ended.release_id != id => store.read_record(ended.release_id)?,
            ended => ended,
        };
        let Some(mut record) = built else {
            return Ok(());
        };
        let id = record.deployment_id;
        let well = matches!(record.status, Status::Success | Status::Staged);
        let wanted = well && record.release_id == id && record.tree.is_none();
        let payload = match wanted {
            true => store.open_payload(id)?,
            false => None,
        };
        let Some((payload, _)) = payload else {
            return Ok(());
        };
        let goes_on = || self.is_idle(&record.project);
        match archive::list_archive(&payload, &goes_on)? {
            ArchiveList::Listed(tree, list) => {
                record.tree = Some(tree.to_string());
                store.put_list(id, &list)?;
                // Whoever is told of it by the record may count on it.
                self.known.index.put_tree(id, &tree.to_string());
                store.put_tree(&record)?;
            }
            ArchiveList::TooMany => log::info(&format!(
                "deployment {id} has too many entries for a list, so that the next one of {} is sent whole",
                record.project
            )),
            ArchiveList::Stopped => {}
        }
        Ok(())
    }
}
