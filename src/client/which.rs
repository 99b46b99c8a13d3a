//! Which deployment's events are asked for.

use crate::api::name::{DeploymentId, Project};

/// Whose events are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DeploymentRef {
    /// One deployment's.
    Deployment(DeploymentId),
    /// Those of a component's newest deployment.
    Latest(Project),
    /// Those of the first deployment of a component that begins after this one; of the first at all if there is none.
    Next(Project, Option<DeploymentId>),
}

impl DeploymentRef {
    /// The path of the events after the one with the number `from`.
    pub(super) fn events_path(&self, from: u64) -> String {
        match self {
            DeploymentRef::Deployment(id) => format!("/deployments/{id}/events?from={from}"),
            DeploymentRef::Latest(project) => {
                format!("/deployments/latest/events?project={project}")
            }
            DeploymentRef::Next(project, after) => {
                let after = after.map_or_else(|| "0".to_owned(), |id| id.to_string());
                format!("/deployments/next/events?project={project}&after={after}")
            }
        }
    }
}
