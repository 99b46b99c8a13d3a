//! Asking a server what it lacks of a directory. It is asked before each try, so that what an upload brought that was cut
//! is not sent again; unless what was kept from the last deployment says what has changed since. Whatever goes wrong with that, everything is sent, as to a server that does not know how.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde_json::Value;

use crate::api::error::{Doing, Error};
use crate::api::name::Project;
use crate::api::operation::{Operation, OperationCall, Prepare};
use crate::cli::session::Session;
use crate::cli::session::follow::FollowedRequest;
use crate::cli::session::missing::{DeltaUpload, Missing, changed, missing};
use crate::client::kind::ServerKind;
use crate::formats::archive::ScannedTree;

impl Session<'_> {
    /// What the directory holds; it is read once. None if a signal came.
    fn tree(&mut self, delta: &DeltaUpload) -> Result<Option<Arc<ScannedTree>>, Error> {
        if let Some(tree) = delta.tree() {
            return Ok(Some(tree));
        }
        let read = if let Some(reading) = delta.reading() {
            let stop = reading.stop();
            self.meanwhile(&stop, || reading.end())
        } else {
            let (plan, stop) = (delta.plan(), AtomicBool::new(false));
            let (kept, trusts) = (delta.kept(), delta.trusts());
            self.meanwhile(&stop, || ScannedTree::read(plan, kept, trusts, &stop))
        };
        read.map(|read| Ok(delta.keep(read?))).transpose()
    }

    /// What of the directory the server lacks. None if everything is to be sent as an archive.
    ///
    /// # Errors
    /// When the directory cannot be read, or has changed since it was planned.
    pub(crate) fn missing(
        &mut self,
        call: &OperationCall,
        key: &str,
        delta: &DeltaUpload,
    ) -> Result<Option<Missing>, Error> {
        let project = call.fields().get("project").and_then(Value::as_str);
        let project = project.and_then(|project| project.parse().ok());
        let (Some(project), Some(verify)) = (project, delta.verify()) else {
            return Ok(None);
        };
        if !matches!(self.client.kind(), None | Some(ServerKind::Gangplank)) {
            return Ok(None);
        }
        let known = delta.tree().is_some() || delta.has_kept();
        if !known && !self.may_lack_less(&project, key, delta) {
            if delta.is_to_be_kept() {
                delta.read_beside();
            }
            return Ok(None);
        }
        let Some(tree) = self.tree(delta)? else {
            return Ok(None);
        };
        let changed = changed(&tree);
        if delta.tries_kept(changed.is_some()) {
            delta.begins(changed.as_ref().map_or(0, |changed| changed.bytes));
            return Ok(changed);
        }
        let list = tree
            .list()
            .doing(|| "writing the list of the directory".into())?;
        let (list, sent) = (Arc::new(list), delta.listed());
        sent.set(sent.get() + list.len());
        let asked = OperationCall::from(Operation::Prepare(Prepare {
            project,
            tree: Some(tree.tree().to_string()),
            verify,
        }));
        let request = FollowedRequest::Prepare {
            call: &asked,
            list: Some(&list),
            key,
        };
        // Why there is no answer shows as soon as everything is sent.
        let answer = self.follow(request).ok();
        match answer {
            Some(answer) => {
                delta.answered(&answer);
                missing(tree, &answer, sent.get())
            }
            None => Ok(None),
        }
    }

    /// It was deployed. `tree` is what the server says that it holds, if it says it.
    pub(crate) fn deployed(&mut self, delta: &DeltaUpload, tree: Option<&str>) {
        if delta.tree().is_none() && delta.is_to_be_kept() && !self.client.is_harper() {
            // What went as an archive was not read for it; without that the next command takes the longer way.
            let _ = self.tree(delta);
        }
        delta.deployed(tree);
    }

    /// Whether the server may have something of the component, for which the directory is worth reading. A server that
    /// does not understand the question is asked by the list.
    fn may_lack_less(&mut self, project: &Project, key: &str, delta: &DeltaUpload) -> bool {
        let asked = OperationCall::from(Operation::Prepare(Prepare {
            project: project.clone(),
            tree: None,
            verify: false,
        }));
        let answer = self.follow(FollowedRequest::Prepare {
            call: &asked,
            list: None,
            key,
        });
        match answer {
            Ok(answer) => {
                delta.answered(&answer);
                answer["missing"] != "all"
            }
            // If nobody answers, the upload shows why.
            Err(_) => self.status.is_some(),
        }
    }
}
