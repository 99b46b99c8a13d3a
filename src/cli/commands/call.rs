//! Requests that can be made again.

use std::sync::Arc;

use crate::api::error::Error;
use crate::api::name::DeploymentId;
use crate::api::operation::Fields;
use crate::cli::commands::pack::{self, PackingThread};
use crate::client::{Client, DeploymentRef, InFlight};
use crate::formats::archive::PackPlan;

/// What is asked.
#[derive(Clone)]
pub(crate) enum Call<'a> {
    /// An operation.
    Operation { fields: &'a Fields, stream: bool },
    /// An operation with a payload, which is packed for each try anew.
    Upload {
        fields: &'a Fields,
        plan: Arc<PackPlan>,
        level: u32,
        key: &'a str,
    },
    /// The events of a component's newest deployment, or all of one's.
    Watch(DeploymentRef),
    /// A deployment's events after this one.
    Resume(DeploymentId, u64),
    /// A deployment's terminal event, when nothing else comes after this one.
    End(DeploymentId, u64),
}

impl Call<'_> {
    /// Begins the request, and the packing if there is something to be packed.
    pub(crate) fn begin(
        &self,
        client: &Client,
    ) -> Result<(InFlight, Option<PackingThread>), Error> {
        let running = match self {
            Call::Operation { fields, stream } => client.call(fields, *stream)?,
            Call::Upload {
                fields,
                plan,
                level,
                key,
            } => {
                let (packing, payload) = pack::start(Arc::clone(plan), *level)?;
                return Ok((client.upload(fields, payload, key)?, Some(packing)));
            }
            Call::Watch(which) => client.events(which, 0)?,
            Call::Resume(id, last) => client.events(&DeploymentRef::Deployment(*id), *last)?,
            Call::End(id, last) => client.end(id, *last)?,
        };
        Ok((running, None))
    }

    pub(crate) fn uploads(&self) -> bool {
        matches!(self, Call::Upload { .. })
    }

    /// Whether it goes on with what was begun before.
    pub(crate) fn resumes(&self) -> bool {
        matches!(self, Call::Resume(..) | Call::End(..))
    }
}
