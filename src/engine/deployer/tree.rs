//! Which tree the payload of a deployment holds, for those that came without its list.

use crate::api::error::Error;
use crate::api::event::Status;
use crate::api::name::DeploymentId;
use crate::engine::deployer::Deployer;
use crate::formats::archive;
use crate::system::log;

impl Deployer {
    /// Lists the tree of a payload that came as an archive. Nobody waits for it, and it gives way to the next deployment of
    /// the component: what is not known then, a later client finds out by sending everything.
    pub(super) fn list_tree(&self, id: DeploymentId) {
        if let Err(error) = self.try_to_list(id) {
            log::warn(&format!("listing the tree of deployment {id}: {error}"));
        }
    }

    fn try_to_list(&self, id: DeploymentId) -> Result<(), Error> {
        let store = &self.known.store;
        let Some(mut record) = store.read_record(id)? else {
            return Ok(());
        };
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
        if let Some((tree, list)) = archive::list_archive(&payload, &goes_on)? {
            record.tree = Some(tree.to_string());
            store.put_tree(&record, &list)?;
            self.known.index.put_tree(id, &tree.to_string());
        }
        Ok(())
    }
}
