//! Requests that can be made again.

use std::sync::Arc;

use crate::archive::Plan;
use crate::client::{Client, Running, Which};
use crate::error::Error;
use crate::name::DeploymentId;
use crate::operation::Fields;
use crate::user::pack::{self, Packing};

/// What is asked.
#[derive(Clone)]
pub(crate) enum Ask<'a> {
    /// An operation.
    Call { fields: &'a Fields, stream: bool },
    /// An operation with a payload, which is packed for each try anew.
    Upload {
        fields: &'a Fields,
        plan: Arc<Plan>,
        level: u32,
        key: &'a str,
    },
    /// The events of a component's newest deployment, or all of one's.
    Watch(Which),
    /// A deployment's events after this one.
    Resume(DeploymentId, u64),
    /// A deployment's terminal event, when nothing else comes after this one.
    End(DeploymentId, u64),
}

impl Ask<'_> {
    /// Begins the request, and the packing if there is something to be packed.
    pub(crate) fn begin(&self, client: &Client) -> Result<(Running, Option<Packing>), Error> {
        let running = match self {
            Ask::Call { fields, stream } => client.call(fields, *stream)?,
            Ask::Upload {
                fields,
                plan,
                level,
                key,
            } => {
                let (packing, payload) = pack::start(Arc::clone(plan), *level)?;
                return Ok((client.upload(fields, payload, key)?, Some(packing)));
            }
            Ask::Watch(which) => client.events(which, 0)?,
            Ask::Resume(id, last) => client.events(&Which::Deployment(*id), *last)?,
            Ask::End(id, last) => client.end(id, *last)?,
        };
        Ok((running, None))
    }

    pub(crate) fn uploads(&self) -> bool {
        matches!(self, Ask::Upload { .. })
    }

    /// Whether it goes on with what was begun before.
    pub(crate) fn resumes(&self) -> bool {
        matches!(self, Ask::Resume(..) | Ask::End(..))
    }
}
