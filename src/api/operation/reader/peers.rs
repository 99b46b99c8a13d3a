//! The fields of what is for the peers, too.

use crate::api::name::Project;
use crate::api::operation::reader::FieldReader;
use crate::api::operation::{ForPeers, Operation};

impl FieldReader<'_> {
    pub(in crate::api::operation) fn stop_or_start(
        &mut self,
        operation: fn(Project, ForPeers) -> Operation,
    ) -> Option<Operation> {
        let (project, peers) = (self.project(), self.for_peers());
        Some(operation(project?, peers))
    }

    pub(in crate::api::operation) fn get_components(&mut self) -> Operation {
        Operation::GetComponents(self.boolean("peers").unwrap_or(false))
    }

    pub(super) fn for_peers(&mut self) -> ForPeers {
        ForPeers {
            replicated: self.boolean("replicated").unwrap_or(false),
            ignores: self.boolean("ignore_replication_errors").unwrap_or(false),
        }
    }
}
